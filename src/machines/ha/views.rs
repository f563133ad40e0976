//! What others may see of the machine: nothing here changes it.

use crate::proto::arbiter::{ArbiterRecord, LockFacts, LockIdentity};
use crate::proto::ids::Epoch;
use crate::proto::peer::ServerState;

use super::{ArbiterView, Claims, HaMachine, HaMode, HaState, Peer};

impl HaMachine {
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
    pub fn state(&self) -> &HaState {
        &self.state
    }

    /// The epoch that this server serves or follows; of the record as last seen otherwise.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        if let (HaState::PassiveSync { .. } | HaState::Passive { .. }, Some(peer)) =
            (&self.state, &self.peer)
        {
            return peer.facts.epoch;
        }
        if self.config.mode == HaMode::Single {
            return self.single_epoch();
        }
        self.record().map_or(Epoch::ZERO, |record| record.epoch)
    }

    /// The record as last seen.
    #[must_use]
    pub fn record(&self) -> Option<&ArbiterRecord> {
        self.arbiter.record()
    }

    /// The last record that named this store.
    #[must_use]
    pub fn last_record(&self) -> Option<&ArbiterRecord> {
        self.last_record.as_ref()
    }

    /// The lock is held, as far as this server knows.
    #[must_use]
    pub fn holds_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Claims so far, and why the last was refused.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Why this server waits, in words.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// The linked peer's facts.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// By record and store, this server may be promoted now.
    #[must_use]
    pub fn eligible(&self) -> bool {
        self.judge().is_ok()
    }

    /// The arbiter has been looked at since the start, whatever it showed.
    #[must_use]
    pub fn looked(&self) -> bool {
        self.arbiter != ArbiterView::Unread
    }

    /// The lock file as this server holds it; while it does not serve, as it sees it. One that serves
    /// without the lock names none: whoever gets it learns nothing of this server's end (A3).
    #[must_use]
    pub fn lock_identity(&self) -> Option<LockIdentity> {
        if let Some(held) = &self.lock {
            return Some(held.lock.identity());
        }
        if self.state.shown().serves() {
            return None;
        }
        // One that is older than the newest record that this server knows of may be of a generation
        // that is over: named beside that record it would look like another pair's.
        let newest = self.last_record.as_ref().map(|last| last.seq);
        match &self.arbiter {
            ArbiterView::Read {
                record: Some(record),
                lock,
            } if newest.is_none_or(|newest| record.seq >= newest) => {
                lock.as_ref().map(LockFacts::identity)
            }
            ArbiterView::Read { .. } | ArbiterView::Unread | ArbiterView::Unreadable(_) => None,
        }
    }

    /// Answered pings extend the lease (Z9): only while the peer is in the in-sync set and says that
    /// it follows, because only then is its word that it has not claimed worth anything. A peer that
    /// comes back while this server drains may be one that has claimed by fence.
    #[must_use]
    pub fn pings_extend_lease(&self) -> bool {
        let follows = self.peer.as_ref().is_some_and(|peer| {
            matches!(
                peer.facts.state,
                ServerState::PassiveSync | ServerState::Passive
            )
        });
        follows && matches!(self.state, HaState::Active { .. } | HaState::Draining(_))
    }
}
