//! The role machine of either mode, as the shell drives it.

use super::{
    Claims, Condition, Explanation, HaConfig, HaEffect, HaInput, HaMachine, HaMode, OwnStore, Peer,
    Promotion, SharedMachine,
};
use crate::proto::arbiter::{ArbiterRecord, LockIdentity};
use crate::proto::ids::{Epoch, Position, StoreId};
use crate::proto::peer::ServerState;

/// One of the two; the mode of the process never changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RoleMachine {
    /// Alone, or with a copy on each server.
    Replicated(HaMachine),
    /// With one store for both servers.
    Shared(SharedMachine),
}

macro_rules! either {
    ($self:expr, $machine:ident => $call:expr) => {
        match $self {
            RoleMachine::Replicated($machine) => $call,
            RoleMachine::Shared($machine) => $call,
        }
    };
}

impl RoleMachine {
    /// A server that has just started.
    #[must_use]
    pub fn new(config: HaConfig, own: OwnStore, last_record: Option<ArbiterRecord>) -> Self {
        match config.mode {
            HaMode::Single | HaMode::Replicated => {
                Self::Replicated(HaMachine::new(config, own, last_record))
            }
            HaMode::Shared => Self::Shared(SharedMachine::new(config, own, last_record)),
        }
    }

    /// Takes one input; `own` is the store as it is now.
    pub fn step(&mut self, own: OwnStore, input: HaInput, effects: &mut Vec<HaEffect>) {
        either!(self, machine => machine.step(own, input, effects));
    }

    /// The state as the reference names it.
    #[must_use]
    pub fn shown(&self) -> ServerState {
        either!(self, machine => machine.shown())
    }

    /// The state shown before the present one.
    #[must_use]
    pub fn previous(&self) -> ServerState {
        either!(self, machine => machine.previous())
    }

    /// The state with its inner phase, for the log.
    #[must_use]
    pub fn phase(&self) -> String {
        either!(self, machine => format!("{:?}", machine.state()))
    }

    /// It will serve unless something fails.
    #[must_use]
    pub fn claiming(&self) -> bool {
        either!(self, machine => machine.state().claiming())
    }

    /// The epoch that is served or followed; of the record as last seen otherwise.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        either!(self, machine => machine.epoch())
    }

    /// The record as last seen.
    #[must_use]
    pub fn record(&self) -> Option<&ArbiterRecord> {
        either!(self, machine => machine.record())
    }

    /// The last record that named this server's store.
    #[must_use]
    pub fn last_record(&self) -> Option<&ArbiterRecord> {
        either!(self, machine => machine.last_record())
    }

    /// The lock is held, as far as this server knows.
    #[must_use]
    pub fn holds_lock(&self) -> bool {
        either!(self, machine => machine.holds_lock())
    }

    /// Claims so far, and why the last was refused.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        either!(self, machine => machine.claims())
    }

    /// Why this server does not serve, in words.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        either!(self, machine => machine.reason())
    }

    /// The linked peer.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        either!(self, machine => machine.peer())
    }

    /// By record and store, this server may be promoted now.
    #[must_use]
    pub fn eligible(&self) -> bool {
        either!(self, machine => machine.eligible())
    }

    /// The arbiter has been looked at since the start.
    #[must_use]
    pub fn looked(&self) -> bool {
        either!(self, machine => machine.looked())
    }

    /// What is to be written into the lock file of how far each store of the set is durable (A1).
    pub fn positions(
        &mut self,
        own: (StoreId, Position),
        follower: Option<(StoreId, Position)>,
    ) -> Vec<(StoreId, Position)> {
        match self {
            Self::Replicated(machine) => machine.positions(own, follower),
            // One store, which nobody follows.
            Self::Shared(machine) => machine.positions(own),
        }
    }

    /// Why this server is in its state, and every way out of it.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        either!(self, machine => machine.explain())
    }

    /// What must hold for a switchover, each with what is so now.
    #[must_use]
    pub fn switchover_conditions(&self) -> Vec<Condition> {
        either!(self, machine => machine.switchover_conditions())
    }

    /// What a promotion of this server would need and give up, as it is now.
    #[must_use]
    pub fn promotion(&self) -> Promotion {
        either!(self, machine => machine.promotion())
    }

    /// A hand-over is under way, after which this process goes on: the drain is a short one.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        match self {
            Self::Replicated(machine) => machine.hands_over(),
            Self::Shared(_) => false,
        }
    }

    /// The lock file as this server sees it.
    #[must_use]
    pub fn lock_identity(&self) -> Option<LockIdentity> {
        match self {
            Self::Replicated(machine) => machine.lock_identity(),
            // Not told in shared mode: a lock file that is made anew while its old holder still stands
            // would look like another pair's, and it is the data file that keeps two from serving.
            Self::Shared(_) => None,
        }
    }

    /// Answered pings extend the lease. In shared mode nobody's word does: the store is where the lock
    /// is.
    #[must_use]
    pub fn pings_extend_lease(&self) -> bool {
        match self {
            Self::Replicated(machine) => machine.pings_extend_lease(),
            Self::Shared(_) => false,
        }
    }
}
