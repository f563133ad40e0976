//! While this server holds the lock, and the end of that.

use super::super::arbitration::RecordCheck;
use super::super::{ExitCause, HaEffect, HaTimer};
use super::{SharedMachine, SharedState};
use crate::proto::arbiter::ArbiterRecord;
use crate::proto::ids::{Position, StoreId};
use crate::storage::api::{GatePolicy, StoreCall};

impl SharedMachine {
    /// What to write into the lock file: how far the store is durable, at least (A1). What was found
    /// there with the lock stands until the store reaches further: while it is closed nobody here knows
    /// where it ends, and one that was put back must be found out by whoever comes after this server, too.
    #[must_use]
    pub fn positions(&self, own: (StoreId, Position)) -> Vec<(StoreId, Position)> {
        let found = self.lock.as_ref().and_then(|held| held.lock.last.as_ref());
        let mut positions = found.map_or_else(Vec::new, |last| last.positions.clone());
        let named = self.record().is_some_and(|record| record.holds(own.0));
        match positions.iter_mut().find(|(store, _)| *store == own.0) {
            Some((_, furthest)) => *furthest = own.1.max(*furthest),
            None if named => positions.push(own),
            None => {}
        }
        positions
    }

    /// L4: each check of the lock reads the record as well.
    pub(super) fn on_lock_confirmed(
        &mut self,
        record: Option<ArbiterRecord>,
        effects: &mut Vec<HaEffect>,
    ) {
        if !self.owns() {
            return;
        }
        let known = self.arbiter.record();
        match RecordCheck::of(record, known, &mut self.record_missed, effects) {
            RecordCheck::WentBack(why, _) => self.step_down(&why, effects),
            RecordCheck::Newer(_) => {
                self.step_down("another server changed the arbiter record", effects);
            }
            RecordCheck::Same => {}
        }
    }

    pub(super) fn on_lock_lost(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        if self.lock.take().is_none() {
            return;
        }
        let why = format!("the lock was lost: {why}");
        if self.owns() {
            self.step_down(&why, effects);
        } else if matches!(self.state, SharedState::Passive(_)) {
            // The shell may still hold on to something.
            self.seeking = true;
            self.reason = Some(why.clone());
            self.claims.reason = Some(why);
            self.fall_back(effects);
        }
    }

    pub(super) fn on_lease_expired(&mut self, effects: &mut Vec<HaEffect>) {
        match self.state {
            SharedState::Activating(_) | SharedState::Active => {
                self.step_down("the lock was not confirmed within the lease", effects);
            }
            SharedState::Draining => {
                effects.push(HaEffect::CloseClients {
                    reason: "the lease is over".to_owned(),
                });
                self.on_drained(effects);
            }
            SharedState::Passive(_)
            | SharedState::Closing(_)
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }

    /// The record names this server, and the store is open or about to be.
    fn owns(&self) -> bool {
        matches!(
            self.state,
            SharedState::Activating(_) | SharedState::Active | SharedState::Draining
        )
    }

    /// H19: by the end of the process. The lock and the data file go with it, and not before.
    pub(super) fn step_down(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        effects.push(HaEffect::CloseClients {
            reason: format!("this server steps down: {why}"),
        });
        effects.push(HaEffect::Gate(GatePolicy::Closed));
        effects.push(HaEffect::SteppedDown {
            reason: why.to_owned(),
        });
        effects.push(HaEffect::Exit(ExitCause::SteppedDown(why.to_owned())));
        self.reason = Some(why.to_owned());
        self.state = SharedState::Stopped;
    }

    // ---- orderly end: drain, close the store, let the lock go, say goodbye ----

    pub(super) fn on_stop(&mut self, effects: &mut Vec<HaEffect>) {
        match self.state {
            SharedState::Active => {
                self.state = SharedState::Draining;
                effects.push(HaEffect::Arm(HaTimer::Drain));
                effects.push(HaEffect::DrainClients);
            }
            SharedState::Passive(_) => {
                self.fall_back(effects);
                self.release(effects);
            }
            SharedState::Activating(_) => self.close(effects),
            SharedState::Draining
            | SharedState::Closing(_)
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }

    /// The store has one owner, and only the end of this process is certain to give it up (H19): the
    /// peer serves then, and whoever supervises this server starts it again, as the passive one.
    pub(super) fn on_switchover(&mut self, effects: &mut Vec<HaEffect>) {
        if self.switchover_conditions().iter().all(|it| it.holds) {
            self.on_stop(effects);
        }
    }

    pub(super) fn on_drained(&mut self, effects: &mut Vec<HaEffect>) {
        if self.state == SharedState::Draining {
            self.close(effects);
        }
    }

    pub(super) fn on_drain_over(&mut self, effects: &mut Vec<HaEffect>) {
        match self.state {
            SharedState::Draining => self.close(effects),
            // The store does not end: only the process's end lets the peer have it.
            SharedState::Closing(_) => {
                self.step_down("the store could not be closed in order", effects);
            }
            SharedState::Passive(_)
            | SharedState::Activating(_)
            | SharedState::Active
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }

    /// The peer opens the store as soon as it has the lock: it must be closed here before that.
    fn close(&mut self, effects: &mut Vec<HaEffect>) {
        self.state = SharedState::Closing(self.state.shown());
        effects.push(HaEffect::Gate(GatePolicy::Closed));
        effects.push(HaEffect::Disarm(HaTimer::FenceWait));
        effects.push(HaEffect::Disarm(HaTimer::MaxWait));
        effects.push(HaEffect::Arm(HaTimer::Drain));
        self.await_store(StoreCall::Close, effects);
    }

    pub(super) fn on_closed(&mut self, effects: &mut Vec<HaEffect>) {
        if matches!(self.state, SharedState::Closing(_)) {
            self.taken = false;
            effects.push(HaEffect::Disarm(HaTimer::Drain));
            self.release(effects);
        }
    }

    fn release(&mut self, effects: &mut Vec<HaEffect>) {
        self.state = SharedState::Releasing(self.state.shown());
        let held = self.lock.take().is_some();
        effects.push(HaEffect::ReleaseLock);
        if !held {
            self.on_lock_released(effects);
        }
    }

    pub(super) fn on_lock_released(&mut self, effects: &mut Vec<HaEffect>) {
        if matches!(self.state, SharedState::Releasing(_)) {
            effects.push(HaEffect::SayGoodbye {
                epoch: self.epoch(),
            });
            effects.push(HaEffect::Exit(ExitCause::Stopped));
            self.state = SharedState::Stopped;
        }
    }
}
