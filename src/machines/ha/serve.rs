//! While this server serves: its follower, the in-sync set, the lock, the lease, and the end of it.

use crate::proto::arbiter::ArbiterRecord;
use crate::proto::ids::{SessionId, StoreId};
use crate::proto::peer::ServerState;
use crate::storage::api::GatePolicy;

use super::arbitration::RecordCheck;
use super::guards::Guard;
use super::handover::Handover;
use super::{CallPurpose, Claim, HaEffect, HaMachine, HaState, HaTimer, LinkEnd, SyncStep};

impl HaMachine {
    /// The linked peer says that it is WAITING while this server serves.
    pub(super) fn peer_waits(&mut self, session: SessionId, effects: &mut Vec<HaEffect>) {
        match self.state {
            HaState::Standalone if self.holds(Guard::ReEntryOpen) => {
                self.state = HaState::ActiveSync {
                    session,
                    step: SyncStep::Streaming,
                };
                effects.push(HaEffect::Lead {
                    session,
                    epoch: self.epoch(),
                });
                effects.push(HaEffect::Arm(HaTimer::MaxWait));
            }
            // It has given up its place: so that it can have it anew, the channel is made anew.
            HaState::Active { .. }
            | HaState::ActiveSync {
                step: SyncStep::Requiring(_) | SyncStep::Extending,
                ..
            } => {
                let reason = "the passive went back to WAITING".to_owned();
                effects.push(HaEffect::DropLink { session, reason });
                self.on_link_down(session, LinkEnd::Ended, effects);
            }
            // It has not heard yet that this server is ready for it, or asks once more by itself.
            HaState::ActiveSync { .. }
            | HaState::Standalone
            | HaState::Shrinking { .. }
            | HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    pub(super) fn on_sync_done(
        &mut self,
        session: SessionId,
        store: StoreId,
        effects: &mut Vec<HaEffect>,
    ) {
        if self.state
            == (HaState::ActiveSync {
                session,
                step: SyncStep::Streaming,
            })
        {
            // R5: demanded from before the set is extended until the outcome is known.
            self.state = HaState::ActiveSync {
                session,
                step: SyncStep::Requiring(store),
            };
            effects.push(HaEffect::Gate(GatePolicy::WithPeer));
        }
    }

    pub(super) fn on_peer_holds_all(&mut self, session: SessionId, effects: &mut Vec<HaEffect>) {
        let HaState::ActiveSync {
            session: mine,
            step: SyncStep::Requiring(store),
        } = self.state
        else {
            return;
        };
        if mine == session {
            self.state = HaState::ActiveSync {
                session,
                step: SyncStep::Extending,
            };
            let isr = vec![self.own.store, store];
            self.change_isr(isr, effects);
        }
    }

    /// The outcome of a change of the in-sync set is certain.
    pub(super) fn on_serving_set_known(
        &mut self,
        next: &ArbiterRecord,
        applied: bool,
        effects: &mut Vec<HaEffect>,
    ) {
        match self.state {
            HaState::ActiveSync {
                session,
                step: SyncStep::Extending,
            } => {
                if applied {
                    self.state = HaState::Active { session };
                    effects.push(HaEffect::Disarm(HaTimer::MaxWait));
                    self.remember(effects);
                    effects.push(HaEffect::SendInSync {
                        session,
                        epoch: self.epoch(),
                    });
                } else {
                    self.step_down("another server changed the arbiter record", effects);
                }
            }
            HaState::Shrinking { .. } => {
                let alone = next.isr == [self.own.store];
                if applied && alone {
                    self.state = HaState::Standalone;
                    // Not awaited: the record alone says who may serve (R1, R2), and it is changed. A
                    // server that ends before `node/` has it reads it at the next start. Its memory
                    // is for a record that is lost or goes back at that very moment (Z17); then it
                    // agrees with the peer on the older one, and as the copy that is further on it is
                    // the first to claim. To wait would put one more flush into each loss of a peer.
                    self.remember(effects);
                    effects.push(HaEffect::Gate(GatePolicy::Alone));
                    self.consider_peer(effects);
                } else if applied || self.record_is_mine() {
                    self.shrink(effects);
                } else {
                    // What was held back must never be confirmed.
                    let why = if self.record().is_none() {
                        "the arbiter record is gone, so that nobody can say any more who may serve \
                         alone: what was sent since the other server was lost is not confirmed"
                    } else {
                        "the peer was promoted"
                    };
                    self.step_down(why, effects);
                }
            }
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Standalone
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    /// The follower is gone: alone at once if the set was never extended to it, otherwise only after
    /// the record says so (R2).
    pub(super) fn lose_follower(&mut self, effects: &mut Vec<HaEffect>) {
        match self.state {
            HaState::ActiveSync {
                step: SyncStep::Streaming | SyncStep::Requiring(_),
                ..
            } => {
                self.state = HaState::Standalone;
                effects.push(HaEffect::StopReplication);
                effects.push(HaEffect::Disarm(HaTimer::MaxWait));
                effects.push(HaEffect::Gate(GatePolicy::Alone));
            }
            HaState::ActiveSync {
                step: SyncStep::Extending,
                ..
            } => {
                self.state = HaState::Shrinking {
                    was: ServerState::ActiveSync,
                };
                effects.push(HaEffect::StopReplication);
                effects.push(HaEffect::Disarm(HaTimer::MaxWait));
                // The extension is still under way (or being looked for): its outcome comes first.
            }
            HaState::Active { .. } => {
                self.state = HaState::Shrinking {
                    was: ServerState::Active,
                };
                effects.push(HaEffect::StopReplication);
                if self.holds(Guard::LockHeld) {
                    self.shrink(effects);
                } else {
                    self.step_down("the channel and the lock are both lost", effects);
                }
            }
            HaState::Draining(_) => effects.push(HaEffect::StopReplication),
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    fn shrink(&mut self, effects: &mut Vec<HaEffect>) {
        let isr = vec![self.own.store];
        self.change_isr(isr, effects);
    }

    fn change_isr(&mut self, isr: Vec<StoreId>, effects: &mut Vec<HaEffect>) {
        match self.record().cloned() {
            Some(record) => {
                let next = ArbiterRecord {
                    seq: record.seq.next(),
                    isr,
                    ..record
                };
                self.compare_and_set(next, effects);
            }
            None => self.step_down("the arbiter record is not known", effects),
        }
    }

    fn record_is_mine(&self) -> bool {
        let served = self.last_record.as_ref().map(|record| record.epoch);
        self.record()
            .is_some_and(|record| record.owner == self.config.node && Some(record.epoch) == served)
    }

    pub(super) fn on_ack_overdue(&mut self, session: SessionId, effects: &mut Vec<HaEffect>) {
        if self.session() == Some(session)
            && matches!(
                self.state,
                HaState::Active { .. } | HaState::ActiveSync { .. }
            )
        {
            self.reentry_barred = true;
            effects.push(HaEffect::Arm(HaTimer::ReEntry));
            let reason = "the passive did not acknowledge in time".to_owned();
            effects.push(HaEffect::DropLink { session, reason });
            self.on_link_down(session, LinkEnd::Ended, effects);
        }
    }

    /// L4: each check of the lock reads the record as well.
    pub(super) fn on_lock_confirmed(
        &mut self,
        record: Option<ArbiterRecord>,
        effects: &mut Vec<HaEffect>,
    ) {
        let serving = self.state.shown().serves() || self.state.claimed();
        if !serving {
            return;
        }
        let known = self.arbiter.record();
        match RecordCheck::of(record, known, &mut self.record_missed, effects) {
            RecordCheck::WentBack(why, found) => {
                self.see_record(Some(found));
                self.give_way(&why, effects);
            }
            RecordCheck::Newer(found) if self.moved_on(&found) => {
                self.see_record(Some(found));
                self.give_way("another server claimed the arbiter record", effects);
            }
            RecordCheck::Newer(_) | RecordCheck::Same => {}
        }
    }

    /// The record is not this server's any more: whoever serves steps down, whoever ends goes on to
    /// its end.
    fn give_way(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        match self.state {
            HaState::Draining(_) => {
                effects.push(HaEffect::CloseClients {
                    reason: why.to_owned(),
                });
                effects.push(HaEffect::SteppedDown {
                    reason: why.to_owned(),
                });
                self.on_drained(effects);
            }
            HaState::Releasing(_) | HaState::Stopped => {}
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone => self.step_down(why, effects),
        }
    }

    pub(super) fn on_lock_lost(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        if self.lock.take().is_none() {
            return;
        }
        match self.state {
            // H11: every confirm needs the peer, which is the witness; try to get the lock back.
            HaState::Active { .. } => {
                self.seeking = true;
                effects.push(HaEffect::RecoverLock);
            }
            HaState::ActiveSync { .. } | HaState::Shrinking { .. } | HaState::Standalone => {
                self.step_down(&format!("the lock was lost: {why}"), effects);
            }
            HaState::Waiting(_) => {
                self.unresolved = None;
                effects.push(HaEffect::Disarm(HaTimer::FenceWait));
                effects.push(HaEffect::Gate(GatePolicy::Closed));
                effects.push(HaEffect::ReleaseLock);
                self.wait(&format!("the lock was lost: {why}"), effects);
                // It may have said already that it serves, and says nothing twice.
                self.consider_peer(effects);
            }
            HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    pub(super) fn on_lease_expired(&mut self, effects: &mut Vec<HaEffect>) {
        match self.state {
            HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone => {
                self.step_down(
                    "neither the lock nor the peer answered within the lease",
                    effects,
                );
            }
            HaState::Draining(_) => self.give_way("the lease is over", effects),
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    /// Ends service at once: clients are dropped, nothing that was held back is ever confirmed.
    pub(super) fn step_down(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        effects.push(HaEffect::CloseClients {
            reason: format!("this server steps down: {why}"),
        });
        effects.push(HaEffect::Gate(GatePolicy::Closed));
        effects.push(HaEffect::StopReplication);
        for timer in [HaTimer::MaxWait, HaTimer::FenceWait, HaTimer::Retry] {
            effects.push(HaEffect::Disarm(timer));
        }
        effects.push(HaEffect::SteppedDown {
            reason: why.to_owned(),
        });
        self.seeking = true; // whatever the shell still tries or holds is let go
        self.drop_lock(effects);
        self.unresolved = None;
        self.handover = Handover::None;
        self.peer_wait_over = false;
        self.silent = false;
        self.wait(why, effects);
        self.consider_peer(effects);
    }
}

impl HaState {
    /// The record names this server as the owner already.
    fn claimed(&self) -> bool {
        matches!(
            self,
            Self::Waiting(
                Claim::Persisting | Claim::FenceLocking | Claim::Fencing | Claim::Opening
            )
        )
    }
}

/// What a call in flight would write, for tests and `explain`.
impl CallPurpose {
    /// The record that is being set or looked for.
    #[must_use]
    pub fn record(&self) -> Option<&ArbiterRecord> {
        match self {
            Self::Set(record) | Self::Resolve(record) => Some(record),
            Self::Look | Self::LookToClaim | Self::LookToFence | Self::Create => None,
        }
    }
}
