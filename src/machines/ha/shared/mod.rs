//! Which role does this server have in shared mode, and what may it do? There is one store, on a share
//! that both servers mount, and only the one that holds the lock opens it (ha-protocol, "Shared mode",
//! A12).
//!
//! | state | clients | what happens in it |
//! |---|---|---|
//! | `PASSIVE` | no | the store is closed; tries the lock when no peer serves, claims the record |
//! | `ACTIVATING` | no | the record is claimed: fences the old holder, opens the store afresh |
//! | `ACTIVE` | yes | every confirm is on the shared disk |
//!
//! Inputs, effects, timers and the arbiter are those of the replicated mode; nothing is replicated, and
//! the record's set has the one store. From ACTIVATING on there is one way back: the end of the process,
//! because only that makes certain that nothing of an old epoch is written any more. Before it, the lock
//! on the store's data file is taken, so that a server whose old peer still writes never gets that far.

mod claim;
mod explain;
mod guard;
mod link;
mod serve;
mod table;

#[cfg(test)]
mod tests;

pub use table::render_shared_table;

use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord};
use crate::proto::ids::{Epoch, NodeId};
use crate::proto::peer::ServerState;
use crate::storage::api::{GatePolicy, StoreCall};

use super::herald::Herald;
use super::{
    Announcement, ArbiterView, CallPurpose, Claims, ExitCause, HaConfig, HaEffect, HaInput,
    HaTimer, HeldLock, OwnStore, Peer, arbitration,
};

/// The state, with the phase inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SharedState {
    /// The store is closed here.
    Passive(Attempt),
    /// The record names this server; the store is being opened.
    Activating(Step),
    /// Serves.
    Active,
    /// Ends in order: answers what clients have sent.
    Draining,
    /// Ends in order: closes the store. Shown as it was before.
    Closing(ServerState),
    /// Ends in order: lets the lock go. Shown as it was before.
    Releasing(ServerState),
    /// Nothing more is done.
    Stopped,
}

/// How far an attempt to become active has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// None.
    Idle,
    /// Reads the record and the store's label.
    Looking,
    /// First boot: makes the store.
    Founding,
    /// First boot: creates the record.
    Creating,
    /// Tries to get the lock.
    Locking,
    /// Has the lock; locks the store's data file.
    Taking,
    /// The compare-and-set is under way, or its outcome is being found out.
    Claiming,
}

/// How far the activation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Writes the record to `node/`.
    Persisting,
    /// Waits until the old holder's lease must be over.
    Fencing,
    /// Opens the store.
    Opening,
    /// Opens the epoch in the log.
    Beginning,
}

/// What the shared store showed when it was looked at last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum StoreView {
    /// Not yet.
    Unlooked,
    /// In words.
    Unreachable(String),
    /// `OwnStore::store` tells which.
    Seen,
}

/// The machine. One for each server, for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedMachine {
    config: HaConfig,
    state: SharedState,
    /// What others were told last.
    herald: Herald,
    own: OwnStore,
    /// The newest record seen that names the store, as persisted in `node/`.
    last_record: Option<ArbiterRecord>,
    arbiter: ArbiterView,
    store: StoreView,
    /// The `StoreCall::Look` that is under way.
    looking: Option<u64>,
    /// The other call on the store whose answer is awaited.
    asked: Option<u64>,
    /// The data file is taken, or being taken or opened.
    taken: bool,
    /// The data file was taken on a file system of this kernel: nobody else can have it open.
    sole: bool,
    /// The linked peer.
    peer: Option<Peer>,
    /// The last goodbye: who ended in order, and in which epoch.
    goodbye: Option<(NodeId, Epoch)>,
    /// A process of the peer's that is known to have ended, and the epoch that it knew last.
    peer_died: Option<(NodeId, Epoch)>,
    gateway_unreachable: bool,
    /// The last check of the lock found no record, and that was said.
    record_missed: bool,
    /// This process holds the lock, as far as it knows.
    lock: Option<HeldLock>,
    /// The one call on the arbiter whose answer is awaited.
    call: Option<(u64, CallPurpose)>,
    next_call: u64,
    /// The peer fell silent: it has `HaTimer::PeerWait` to be heard again.
    peer_silent: bool,
    /// An attempt was refused: rest until `HaTimer::Retry`.
    resting: bool,
    /// An attempt to get the lock is under way.
    seeking: bool,
    /// A compare-and-set whose outcome was not told, to be looked for at `HaTimer::Retry`.
    unresolved: Option<ArbiterRecord>,
    /// The record as it was before this server's claim: whom to fence.
    claimed_from: Option<ArbiterRecord>,
    /// Records on their way to `node/`.
    persisting: u32,
    /// Looks in a row at a record that cannot be the active's.
    strange_looks: u32,
    claims: Claims,
    /// In words, why this server does not serve although nobody else does, or does not fit.
    reason: Option<String>,
}

impl SharedMachine {
    /// A server that has just started, with what `node/` tells. The store is closed.
    #[must_use]
    pub fn new(config: HaConfig, own: OwnStore, last_record: Option<ArbiterRecord>) -> Self {
        Self {
            config,
            state: SharedState::Passive(Attempt::Idle),
            herald: Herald::new(),
            own,
            last_record,
            arbiter: ArbiterView::Unread,
            store: StoreView::Unlooked,
            looking: None,
            asked: None,
            taken: false,
            peer: None,
            goodbye: None,
            peer_died: None,
            sole: false,
            gateway_unreachable: false,
            record_missed: false,
            lock: None,
            call: None,
            next_call: 1,
            peer_silent: false,
            resting: false,
            seeking: false,
            unresolved: None,
            claimed_from: None,
            persisting: 0,
            strange_looks: 0,
            claims: Claims::default(),
            reason: None,
        }
    }

    /// Takes one input; `own` is the store as far as it is known: its identity while it is closed.
    pub fn step(&mut self, own: OwnStore, input: HaInput, effects: &mut Vec<HaEffect>) {
        self.own = own;
        match input {
            HaInput::Started => effects.push(HaEffect::Gate(GatePolicy::Closed)),
            HaInput::LinkUp { session, hello } => self.on_link_up(session, &hello, effects),
            HaInput::LinkDown { session, cause } => self.on_link_down(session, cause, effects),
            HaInput::PeerFacts { session, facts } => self.on_peer_facts(session, facts, effects),
            HaInput::PeerGoodbye { session, epoch } => self.on_goodbye(session, epoch, effects),
            HaInput::PeerMismatch { reason } => self.on_mismatch(reason, effects),
            HaInput::LockAcquired(held) => self.on_lock_acquired(held, effects),
            HaInput::LockRefused { holder } => self.on_lock_refused(holder),
            HaInput::LockConfirmed { record } => self.on_lock_confirmed(record, effects),
            HaInput::LockLost { reason } => self.on_lock_lost(&reason, effects),
            HaInput::LockUnreachable { reason } => self.on_lock_unreachable(reason),
            HaInput::PeerDied { node, epoch } => self.on_peer_died(node, epoch, effects),
            HaInput::ArbiterAnswered { id, answer } => self.on_answer(id, answer, effects),
            HaInput::GatewayUnreachable(unreachable) => self.gateway_unreachable = unreachable,
            HaInput::Persisted => self.on_persisted(effects),
            HaInput::EpochBegun(epoch) => self.on_epoch_begun(epoch, effects),
            HaInput::EpochRefused(why) => self.on_epoch_refused(&why, effects),
            HaInput::LeaseExpired => self.on_lease_expired(effects),
            HaInput::Timer(timer) => self.on_timer(timer, effects),
            HaInput::StopRequested => self.on_stop(effects),
            HaInput::ClientsDrained => self.on_drained(effects),
            HaInput::LockReleased => self.on_lock_released(effects),
            HaInput::StoreAnswered { id, answer } => self.on_store(id, answer, effects),
            HaInput::SwitchoverRequested => self.on_switchover(effects),
            // Nothing is replicated in this mode.
            HaInput::SyncDone { .. }
            | HaInput::PeerHoldsAll { .. }
            | HaInput::InSync { .. }
            | HaInput::SyncProgress { .. }
            | HaInput::SyncFailed { .. }
            | HaInput::AckOverdue { .. }
            | HaInput::PromoteRequested { .. }
            | HaInput::PromotionRefused { .. } => {}
        }
        self.maintain(effects);
        self.assert_invariants();
    }

    /// The state as the reference names it.
    #[must_use]
    pub fn shown(&self) -> ServerState {
        self.state.shown()
    }

    /// The state shown before the present one.
    #[must_use]
    pub fn previous(&self) -> ServerState {
        self.herald.previous
    }

    /// The state with its inner phase, for logs and tests.
    #[must_use]
    pub fn state(&self) -> SharedState {
        self.state
    }

    /// The epoch of the record as last seen: the one that is served.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.record().map_or(Epoch::ZERO, |record| record.epoch)
    }

    /// The record as last seen.
    #[must_use]
    pub fn record(&self) -> Option<&ArbiterRecord> {
        self.arbiter.record()
    }

    /// The newest record seen that names the store.
    #[must_use]
    pub fn last_record(&self) -> Option<&ArbiterRecord> {
        self.last_record.as_ref()
    }

    /// The lock is held, as far as this server knows.
    #[must_use]
    pub fn holds_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Attempts so far, and why the last was refused.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Why this server does not serve although nobody else does, or what is wrong with it.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The linked peer's facts.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// By record and store, this server may become active, or is.
    #[must_use]
    pub fn eligible(&self) -> bool {
        match self.state {
            SharedState::Passive(_) => self.judge().is_ok(),
            SharedState::Activating(_)
            | SharedState::Active
            | SharedState::Draining
            | SharedState::Closing(_)
            | SharedState::Releasing(_) => true,
            SharedState::Stopped => false,
        }
    }

    /// Arbiter and store have been looked at since the start, whatever they showed.
    #[must_use]
    pub fn looked(&self) -> bool {
        self.arbiter != ArbiterView::Unread && self.store != StoreView::Unlooked
    }

    // ---- timers and shared helpers ----

    fn on_timer(&mut self, timer: HaTimer, effects: &mut Vec<HaEffect>) {
        match timer {
            HaTimer::PeerWait => self.peer_silent = false,
            HaTimer::Retry => {
                self.resting = false;
                self.on_retry(effects);
            }
            HaTimer::FenceWait => self.on_fence_over(effects),
            HaTimer::MaxWait => {
                if matches!(self.state, SharedState::Activating(_)) {
                    self.step_down("the activation took longer than MaxWaitTimeout", effects);
                }
            }
            HaTimer::Drain => self.on_drain_over(effects),
            // Of the replicated mode.
            HaTimer::Patience | HaTimer::ReEntry => {}
        }
    }

    /// Looks at the arbiter and at the store's label.
    fn look(&mut self, purpose: CallPurpose, effects: &mut Vec<HaEffect>) {
        self.call(purpose, ArbiterCall::Read, effects);
        if self.looking.is_none() {
            self.looking = Some(self.ask_store(StoreCall::Look, effects));
        }
    }

    fn ask_store(&mut self, call: StoreCall, effects: &mut Vec<HaEffect>) -> u64 {
        let id = self.next_call;
        self.next_call = self.next_call.saturating_add(1);
        effects.push(HaEffect::Store { id, call });
        id
    }

    /// A call on the store whose answer is awaited, instead of any other.
    fn await_store(&mut self, call: StoreCall, effects: &mut Vec<HaEffect>) {
        self.asked = Some(self.ask_store(call, effects));
    }

    fn call(&mut self, purpose: CallPurpose, call: ArbiterCall, effects: &mut Vec<HaEffect>) {
        let id = self.next_call;
        self.next_call = self.next_call.saturating_add(1);
        self.call = Some((id, purpose));
        effects.push(HaEffect::Arbiter { id, call });
    }

    fn on_answer(&mut self, id: u64, answer: ArbiterAnswer, effects: &mut Vec<HaEffect>) {
        if let Some(purpose) = arbitration::awaited(&mut self.call, id) {
            self.on_awaited(purpose, answer, effects);
        }
    }

    fn saw(&mut self, answer: &ArbiterAnswer) {
        match answer {
            ArbiterAnswer::Failed(why)
                if matches!(self.state, SharedState::Passive(_)) && self.lock.is_none() =>
            {
                self.arbiter = ArbiterView::Unreadable(why.clone());
            }
            shown => self.arbiter.take_in(shown),
        }
    }

    /// A record that names this store is remembered for the next start (Z17).
    fn remember(&mut self, effects: &mut Vec<HaEffect>) {
        let Some(record) = self
            .record()
            .filter(|record| record.holds(self.own.store))
            .cloned()
        else {
            return;
        };
        let newer = self.last_record.as_ref().is_none_or(|last| {
            last.arbiter == record.arbiter && last.seq <= record.seq && *last != record
        });
        if newer {
            self.last_record = Some(record.clone());
            self.persisting = self.persisting.saturating_add(1);
            effects.push(HaEffect::Persist(record));
        }
    }

    fn on_mismatch(&mut self, reason: String, effects: &mut Vec<HaEffect>) {
        if matches!(self.state, SharedState::Passive(_)) {
            self.state = SharedState::Stopped;
            effects.push(HaEffect::Exit(ExitCause::PeerMismatch(reason)));
        } else {
            // H8: a misconfigured joiner must not stop a serving active.
            self.reason = Some(reason);
        }
    }

    /// What follows from the state alone, whatever the input was.
    fn maintain(&mut self, effects: &mut Vec<HaEffect>) {
        self.consider_attempt(effects);
        self.give_reason();
        if self.state != SharedState::Stopped {
            let now = Announcement {
                state: self.state.shown(),
                previous: self.herald.previous,
                claiming: self.state.claiming(),
                epoch: self.epoch(),
                looked: self.looked(),
                eligible: self.eligible(),
                cause: None,
            };
            if let Some(news) = self.herald.news(now) {
                let cause = self.cause();
                effects.push(HaEffect::Announce(Announcement { cause, ..news }));
            }
        }
        self.herald.show_peer(self.peer.as_ref(), effects);
    }

    fn assert_invariants(&self) {
        match self.state {
            SharedState::Active | SharedState::Activating(_) => {
                assert!(self.taken, "only whoever has the data file activates");
                assert!(self.record().is_some(), "serving needs a record");
            }
            SharedState::Passive(_)
            | SharedState::Draining
            | SharedState::Closing(_)
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }
}

impl SharedState {
    /// As the reference names it.
    #[must_use]
    pub fn shown(self) -> ServerState {
        match self {
            Self::Passive(_) | Self::Stopped => ServerState::Passive,
            Self::Activating(_) => ServerState::Activating,
            Self::Active | Self::Draining => ServerState::Active,
            Self::Closing(was) | Self::Releasing(was) => was,
        }
    }

    /// It will serve unless something fails.
    #[must_use]
    pub fn claiming(self) -> bool {
        matches!(
            self,
            Self::Passive(Attempt::Taking | Attempt::Claiming) | Self::Activating(_)
        )
    }
}
