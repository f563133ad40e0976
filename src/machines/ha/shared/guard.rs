//! The guards of an activation: record and store belong together, and the store ends where it must.

use super::super::eligibility::{Eligible, Evidence, judge};
use super::super::{ArbiterView, OwnStore, Refusal};
use super::{Attempt, SharedMachine, SharedState, StoreView};
use crate::proto::ids::{Lsn, Position, StoreId};
use crate::proto::peer::ServerState;

impl SharedMachine {
    /// What can be said while the store is closed. How far it reaches is looked at once it is open.
    pub(super) fn judge(&self) -> Result<Eligible, Refusal> {
        match &self.store {
            StoreView::Unlooked => {
                return Err(Refusal::StoreUnreachable("not looked at yet".into()));
            }
            StoreView::Unreachable(why) => return Err(Refusal::StoreUnreachable(why.clone())),
            StoreView::Seen => {}
        }
        let reaches_all = OwnStore {
            store: self.own.store,
            position: Position {
                epoch: self.epoch(),
                lsn: Lsn(u64::MAX),
            },
            sync_in_progress: false,
        };
        judge(self.evidence(reaches_all, &self.arbiter))
            .map_err(|refusal| self.of_one_store(refusal))
    }

    /// The open store, by the record and the lock file as they were found under the lock.
    pub(super) fn judge_opened(&self) -> Result<(), Refusal> {
        let (Some(from), Some(held)) = (&self.claimed_from, &self.lock) else {
            return Err(Refusal::Conflict);
        };
        let found = ArbiterView::Read {
            record: Some(from.clone()),
            lock: Some(held.lock.clone()),
        };
        // What this server's claim has made newer since is no sign of a record that went back.
        let mut evidence = self.evidence(self.own, &found);
        (evidence.last_record, evidence.peer_record) = (None, None);
        judge(evidence).map(drop).map_err(|refusal| {
            match (refusal, held.lock.confirmed(self.own.store)) {
                (Refusal::OlderThanConfirmed, Some(confirmed)) if from.holds(self.own.store) => {
                    Refusal::StoreBehind {
                        found: self.own.position,
                        confirmed,
                    }
                }
                (refusal, _) => self.of_one_store(refusal),
            }
        })
    }

    fn evidence<'a>(&'a self, own: OwnStore, arbiter: &'a ArbiterView) -> Evidence<'a> {
        let (peer, last) = (self.peer.as_ref(), self.last_record.as_ref());
        Evidence::new(&self.config, own, peer, last, arbiter)
    }

    /// With one store, one that the record does not name is not a copy that fell behind, but another.
    fn of_one_store(&self, refusal: Refusal) -> Refusal {
        if !matches!(
            refusal,
            Refusal::NotInSync { .. } | Refusal::OlderThanConfirmed
        ) {
            return refusal;
        }
        let named = self.record().and_then(|record| record.isr.first());
        Refusal::OtherStore {
            named: named.map_or_else(|| "unknown".into(), ToString::to_string),
            found: match self.own.store {
                StoreId::NONE => "none".into(),
                other => other.to_string(),
            },
        }
    }

    /// Why this server does not serve although nobody else does; and, beside an active peer, what
    /// would keep it from taking over.
    pub(super) fn give_reason(&mut self) {
        if !matches!(self.state, SharedState::Passive(_)) {
            return;
        }
        let refusal = self.looked().then(|| self.judge().err()).flatten();
        if let Some(refusal) = refusal {
            self.claims.reason = Some(refusal.to_string());
        } else if self.peer_will_serve() {
            self.claims.reason = None;
        }
        self.reason.clone_from(&self.claims.reason);
    }

    /// The linked peer serves, or is about to.
    pub(super) fn peer_will_serve(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| {
            let state = peer.facts.state;
            state.serves() || state == ServerState::Activating || peer.facts.claiming
        })
    }

    /// Nobody else serves as far as this server knows, and there is nothing to wait for (S174).
    pub(super) fn my_turn(&self) -> bool {
        !self.peer_silent && !self.peer_will_serve()
    }

    /// Nothing has begun that would have to be taken back.
    pub(super) fn is_idle(&self) -> bool {
        self.state == SharedState::Passive(Attempt::Idle)
    }
}
