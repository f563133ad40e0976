//! HAManager's neighbours, and what it knows of its own server.

use std::sync::Arc;

use crate::actors::connection_manager::LinkCommand;
use crate::actors::post::{Port, post};
use crate::actors::replicator::ReplicatorCommand;
use crate::io::watchdog::Watchdog;
use crate::machines::ha::ExitCause;
use crate::machines::lock::LockCommand;
use crate::proto::ids::{Epoch, NodeId};
use crate::storage::api::StoreDoor;
use crate::time::Clock;

/// The client side, as HAManager commands it.
pub trait ClientSide: Send + Sync {
    /// Listen and serve, in this epoch.
    fn serve(&self, epoch: Epoch);
    /// Close the port and every connection now.
    fn stop_serving(&self, reason: &str);
    /// Answer what was sent, then close; `ClientsDrained` comes back.
    fn drain(&self);
    /// End the process, in order.
    fn end_process(&self, cause: &ExitCause);
}

/// HAManager's neighbours.
pub struct HaPorts {
    /// Replicator.
    pub replicator: Port<ReplicatorCommand>,
    /// The client side and the process.
    pub clients: Arc<dyn ClientSide>,
    /// What only a server of a pair has.
    pub pair: Option<PairPorts>,
    /// Shared mode: the way to the store.
    pub door: Option<Arc<dyn StoreDoor>>,
}

/// The neighbours that deal with the peer and the arbiter.
pub struct PairPorts {
    /// LockKeeper.
    pub lock: Port<LockCommand>,
    /// ConnectionManager.
    pub link: Port<LinkCommand>,
    /// Who ends this process when it hangs, and tells the peer (A8); none where that is switched off.
    pub watchdog: Option<Arc<dyn Watchdog>>,
}

impl HaPorts {
    pub(super) fn watchdog(&self) -> Option<&dyn Watchdog> {
        self.pair.as_ref()?.watchdog.as_deref()
    }

    pub(super) fn to_lock(&self, command: LockCommand) {
        if let Some(pair) = &self.pair {
            post(&pair.lock, command);
        }
    }

    pub(super) fn to_link(&self, command: LinkCommand) {
        if let Some(pair) = &self.pair {
            post(&pair.link, command);
        }
    }
}

/// What HAManager knows of its server and never changes.
pub struct HaIdentity {
    /// This server.
    pub node: NodeId,
    /// `Primary`, `Secondary` or `Standalone`, for the console lines.
    pub title: &'static str,
    /// The lock file as configured, for the console lines; empty in standalone mode.
    pub lock_path: String,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
}
