//! What HAManager tells others of this server: the peer, the lock file, the board, the log.

use crate::actors::connection_manager::LinkCommand;
use crate::actors::ha_manager::HaManager;
use crate::machines::ha::{Announcement, OwnStore};
use crate::machines::lock::LockCommand;
use crate::proto::history::EventKind;
use crate::proto::ids::{Epoch, Position, StoreId};
use crate::proto::peer::{PeerFacts, ServerState};
use crate::time::rfc3339;

impl HaManager {
    /// Every half ping interval: the peer and the lock file learn where this server is.
    pub(super) fn beat(&mut self) {
        if let Some(watchdog) = self.ports().watchdog() {
            let serves = self.machine.shown().serves();
            watchdog.beat(serves.then(|| self.machine.epoch()));
        }
        self.ports().to_link(LinkCommand::OwnFacts(self.facts()));
        if self.machine.holds_lock() {
            let heartbeat = LockCommand::Heartbeat {
                epoch: self.machine.epoch(),
                seq: self
                    .machine
                    .record()
                    .map(|record| record.seq)
                    .unwrap_or_default(),
                positions: self.positions(),
            };
            self.ports().to_lock(heartbeat);
        }
    }

    /// A1: how far each store of the in-sync set is durable, at least.
    pub(super) fn positions(&mut self) -> Vec<(StoreId, Position)> {
        let own = self.own();
        let follower = self.board.replication().follower;
        self.machine.positions((own.store, own.position), follower)
    }

    pub(super) fn facts(&self) -> PeerFacts {
        let own = self.own();
        PeerFacts {
            state: self.machine.shown(),
            previous: self.machine.previous(),
            claiming: self.machine.claiming(),
            epoch: self.machine.epoch(),
            store: own.store,
            position: own.position,
            sync_in_progress: own.sync_in_progress,
            arbiter: self.machine.last_record().map(|record| record.arbiter),
            last_record: self
                .machine
                .last_record()
                .map(|record| record.seq)
                .unwrap_or_default(),
            looked: self.machine.looked(),
            eligible: self.machine.eligible(),
            lock: self.machine.lock_identity(),
        }
    }

    pub(super) fn publish(&self) {
        let mut role = self.board.role();
        role.epoch = self.machine.epoch();
        role.in_sync = self
            .machine
            .record()
            .map(|record| record.isr.clone())
            .unwrap_or_default();
        role.owner = self.machine.record().map(|record| record.owner);
        let generation = self.machine.record().map(|record| record.generation);
        role.lock_generation = generation.unwrap_or_default();
        role.lock_held = self.machine.holds_lock();
        role.claims = self.machine.claims().clone();
        role.reason = self.machine.reason().map(str::to_owned);
    }

    pub(super) fn announce(&self, said: &Announcement) {
        let mut role = self.board.role();
        let changed = role.since_ms == 0 || role.state != said.state;
        if changed {
            role.since_ms = self.identity.clock.wall_ms();
            role.previous = said.previous;
            role.state = said.state;
        }
        let since = rfc3339(role.since_ms);
        drop(role);
        self.ports().to_link(LinkCommand::OwnFacts(self.facts()));
        if changed {
            self.note_state(said);
            tracing::info!(target: "twinmq::ha", from = %said.previous, to = %said.state,
                epoch = said.epoch.0, since, "{} Server switched to {}", self.identity.title, said.state);
            if said.state == ServerState::Waiting && self.machine.peer().is_none() {
                tracing::info!(target: "twinmq::ha",
                    "Backup Server not Connected. Check configuration or Start backup Server ...");
            }
        }
    }

    /// Clients are served from here on. The two lines of an interval bear the clock that both
    /// servers of a machine share, so that intervals can be compared.
    pub(super) fn serving_begins(&mut self, epoch: Epoch) {
        let now = self.identity.clock.now();
        self.timing.serve(true, now);
        tracing::info!(target: "twinmq::ha", epoch = epoch.0, boot_ns = now.0, "serving begins");
    }

    /// Nothing is said to clients any more: not from now on, and not after `until_ns`, if the lease
    /// ended before.
    pub(super) fn serving_ends(&mut self) {
        let now = self.identity.clock.now();
        if let Some(until) = self.timing.serve(false, now) {
            tracing::info!(target: "twinmq::ha", boot_ns = now.0, until_ns = until.0, "serving ends");
        }
    }

    pub(super) fn own(&self) -> OwnStore {
        OwnStore::from(&self.store.log_facts())
    }

    pub(super) fn refused(&mut self, reason: String) {
        self.note(EventKind::Refused, reason.clone());
        if self.last_refusal != reason {
            tracing::warn!(target: "twinmq::ha", reason, "this server may not serve");
            self.last_refusal = reason;
        }
    }
}
