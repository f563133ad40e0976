//! What the server is right now, for whoever asks: written by the actors as they go, read by the
//! admin API. Nothing here decides anything.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::machines::gateway::GatewayVerdict;
use crate::machines::ha::Claims;
use crate::machines::replication::SyncProgress;
use crate::proto::ids::{Epoch, NodeId, Position, StoreId};
use crate::proto::peer::{PeerFacts, ServerState};
use crate::time::Moment;

/// Shared by the actors and the admin API.
#[derive(Debug)]
pub struct Board {
    role: Mutex<RoleView>,
    link: Mutex<LinkView>,
    replication: Mutex<ReplicationView>,
    gateway: Mutex<GatewayView>,
}

/// By HAManager.
#[derive(Clone, Debug)]
pub struct RoleView {
    /// The state.
    pub state: ServerState,
    /// The one before.
    pub previous: ServerState,
    /// Since when, by the wall clock, for people.
    pub since_ms: u64,
    /// The epoch served, followed or last seen.
    pub epoch: Epoch,
    /// The stores that hold every confirmed message, as the record was last seen.
    pub in_sync: Vec<StoreId>,
    /// Who serves by that record.
    pub owner: Option<NodeId>,
    /// This process holds the lock.
    pub lock_held: bool,
    /// Which generation of the lock file counts.
    pub lock_generation: Epoch,
    /// Claims so far.
    pub claims: Claims,
    /// Why this server waits.
    pub reason: Option<String>,
}

/// By ConnectionManager.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    /// The peer's configured name and node, once it has said hello; kept when the link is lost.
    pub peer: Option<(NodeId, String)>,
    /// The channel is up.
    pub connected: bool,
    /// What the peer said last.
    pub facts: Option<PeerFacts>,
    /// When it was heard last.
    pub last_heard: Option<Moment>,
    /// Why there is no link, in words.
    pub trouble: Option<String>,
}

/// By Replicator.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicationView {
    /// The follower's copy and how far it is durable.
    pub follower: Option<(StoreId, Position)>,
    /// A resync under way.
    pub sync: Option<SyncView>,
}

/// A resync under way.
#[derive(Clone, Copy, Debug)]
pub struct SyncView {
    /// How far it is.
    pub progress: SyncProgress,
    /// How far it was some seconds ago, and when: the rate of late.
    pub before: (u64, Moment),
}

/// By GatewayPinger.
#[derive(Clone, Debug, Default)]
pub struct GatewayView {
    /// The verdict.
    pub verdict: GatewayVerdict,
    /// Why, in words.
    pub reason: String,
}

impl Board {
    /// A server that has not started.
    #[must_use]
    pub fn new() -> Self {
        Self {
            role: Mutex::new(RoleView {
                state: ServerState::Waiting,
                previous: ServerState::Dead,
                since_ms: 0,
                epoch: Epoch::ZERO,
                in_sync: Vec::new(),
                owner: None,
                lock_held: false,
                lock_generation: Epoch::ZERO,
                claims: Claims::default(),
                reason: None,
            }),
            link: Mutex::default(),
            replication: Mutex::default(),
            gateway: Mutex::default(),
        }
    }

    /// The role.
    pub fn role(&self) -> MutexGuard<'_, RoleView> {
        open(&self.role)
    }

    /// The link.
    pub fn link(&self) -> MutexGuard<'_, LinkView> {
        open(&self.link)
    }

    /// The replication.
    pub fn replication(&self) -> MutexGuard<'_, ReplicationView> {
        open(&self.replication)
    }

    /// The gateway.
    pub fn gateway(&self) -> MutexGuard<'_, GatewayView> {
        open(&self.gateway)
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

/// A view is only ever replaced field by field: one that a panic left half written still tells more
/// than none.
fn open<T>(view: &Mutex<T>) -> MutexGuard<'_, T> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}
