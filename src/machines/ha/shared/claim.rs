//! From PASSIVE to service: look, lock, take the data file, compare-and-set, persist, fence, open.

use super::super::arbitration::{self, SetOutcome};
use super::super::eligibility::Eligible;
use super::super::{ArbiterView, CallPurpose, HaEffect, HaTimer, HeldLock, Refusal, holder_text};
use super::{Attempt, SharedMachine, SharedState, Step, StoreView};
use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockHeartbeat};
use crate::proto::ids::{Epoch, RecordSeq};
use crate::storage::api::{GatePolicy, StoreAnswer, StoreCall};

impl SharedMachine {
    /// Begins an attempt when nobody else serves.
    pub(super) fn consider_attempt(&mut self, effects: &mut Vec<HaEffect>) {
        if !self.is_idle() || self.call.is_some() || self.looking.is_some() {
            return;
        }
        if !self.resting && self.my_turn() {
            self.claims.tried = self.claims.tried.saturating_add(1);
            self.state = SharedState::Passive(Attempt::Looking);
            self.look(CallPurpose::LookToClaim, effects);
        } else if !self.looked() {
            self.look(CallPurpose::Look, effects);
        }
    }

    pub(super) fn on_retry(&mut self, effects: &mut Vec<HaEffect>) {
        if let Some(record) = self.unresolved.take() {
            self.call(CallPurpose::Resolve(record), ArbiterCall::Read, effects);
        } else if self.is_idle() && !self.my_turn() && self.call.is_none() {
            self.look(CallPurpose::Look, effects);
        }
    }

    /// An answer of the arbiter that was awaited.
    pub(super) fn on_awaited(
        &mut self,
        purpose: CallPurpose,
        answer: ArbiterAnswer,
        effects: &mut Vec<HaEffect>,
    ) {
        self.saw(&answer);
        match purpose {
            CallPurpose::Look | CallPurpose::LookToClaim | CallPurpose::LookToFence => {
                self.on_looked(effects);
            }
            CallPurpose::Create => self.on_created(answer, effects),
            CallPurpose::Set(next) => {
                self.on_set_outcome(SetOutcome::answered(&answer), next, effects);
            }
            CallPurpose::Resolve(next) => {
                let outcome = SetOutcome::looked_for(&next, &answer);
                self.on_set_outcome(outcome, next, effects);
            }
        }
    }

    fn on_set_outcome(
        &mut self,
        outcome: SetOutcome,
        next: ArbiterRecord,
        effects: &mut Vec<HaEffect>,
    ) {
        match outcome {
            SetOutcome::Applied => self.on_set_known(true, effects),
            SetOutcome::Beaten => self.on_set_known(false, effects),
            SetOutcome::Missing => self.compare_and_set(next, effects),
            SetOutcome::Unknown => self.resolve_later(next, effects),
        }
    }

    fn resolve_later(&mut self, next: ArbiterRecord, effects: &mut Vec<HaEffect>) {
        if self.state == SharedState::Passive(Attempt::Claiming) {
            self.unresolved = Some(next);
            effects.push(HaEffect::Arm(HaTimer::Retry));
        }
    }

    /// Arbiter or store answered a look; the other may still be on its way.
    pub(super) fn on_looked(&mut self, effects: &mut Vec<HaEffect>) {
        if self.looking.is_some() || self.call.is_some() || !self.looked() {
            return;
        }
        match self.state {
            SharedState::Passive(Attempt::Looking) => {
                self.remember(effects);
                self.decide(effects);
            }
            SharedState::Passive(Attempt::Idle) => {
                self.remember(effects);
                self.compare_with_the_peer(effects);
                if self.judge().is_err() {
                    effects.push(HaEffect::Arm(HaTimer::Retry));
                }
            }
            SharedState::Passive(_)
            | SharedState::Activating(_)
            | SharedState::Active
            | SharedState::Draining
            | SharedState::Closing(_)
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }

    fn decide(&mut self, effects: &mut Vec<HaEffect>) {
        match self.judge() {
            Err(Refusal::Unreadable(_)) if self.gateway_unreachable => {
                self.refuse(&Refusal::GatewayUnreachable, effects);
            }
            Err(refusal) => self.refuse(&refusal, effects),
            Ok(Eligible::FirstBoot) => {
                self.state = SharedState::Passive(Attempt::Founding);
                self.await_store(StoreCall::Found, effects);
            }
            Ok(Eligible::ReForm(last)) => {
                self.create(last.seq.next(), last.epoch, Some(&last), effects);
            }
            Ok(Eligible::Claim(_)) => self.seek_lock(effects),
        }
    }

    fn create(
        &mut self,
        seq: RecordSeq,
        epoch: Epoch,
        last: Option<&ArbiterRecord>,
        effects: &mut Vec<HaEffect>,
    ) {
        let record = self.config.record(self.own.store, seq, epoch, last);
        self.state = SharedState::Passive(Attempt::Creating);
        self.call(CallPurpose::Create, ArbiterCall::Create(record), effects);
    }

    fn on_created(&mut self, answer: ArbiterAnswer, effects: &mut Vec<HaEffect>) {
        if self.state != SharedState::Passive(Attempt::Creating) {
            return;
        }
        match arbitration::created(answer) {
            Ok(()) => self.seek_lock(effects),
            Err(refusal) => self.refuse(&refusal, effects),
        }
    }

    fn seek_lock(&mut self, effects: &mut Vec<HaEffect>) {
        self.state = SharedState::Passive(Attempt::Locking);
        self.seeking = true;
        effects.push(HaEffect::AcquireLock);
    }

    pub(super) fn on_lock_acquired(&mut self, held: HeldLock, effects: &mut Vec<HaEffect>) {
        if self.state != SharedState::Passive(Attempt::Locking) {
            effects.push(HaEffect::ReleaseLock);
            return;
        }
        self.seeking = false;
        self.arbiter = ArbiterView::Read {
            record: held.record.clone(),
            lock: Some(held.lock.clone()),
        };
        self.lock = Some(held);
        // Judged once more, under the lock. The data file comes before the record: if its old holder
        // still writes, nothing has happened yet.
        match self.judge() {
            Ok(Eligible::Claim(_)) => {
                self.state = SharedState::Passive(Attempt::Taking);
                self.taken = true;
                self.await_store(StoreCall::Take, effects);
            }
            Ok(Eligible::FirstBoot | Eligible::ReForm(_)) => {
                self.refuse(&Refusal::Conflict, effects);
            }
            Err(refusal) => self.refuse(&refusal, effects),
        }
    }

    pub(super) fn on_lock_refused(&mut self, holder: Option<LockHeartbeat>) {
        if self.state != SharedState::Passive(Attempt::Locking) {
            return;
        }
        let holder = holder_text(holder.as_ref());
        self.note(Refusal::LockHeld { holder }.to_string());
    }

    pub(super) fn on_lock_unreachable(&mut self, why: String) {
        if matches!(self.state, SharedState::Passive(_)) {
            self.note(Refusal::Unreadable(why).to_string());
        }
    }

    fn note(&mut self, reason: String) {
        self.claims.refuse(reason.clone());
        self.reason = Some(reason);
    }

    /// What the store answered.
    pub(super) fn on_store(&mut self, id: u64, answer: StoreAnswer, effects: &mut Vec<HaEffect>) {
        if self.looking == Some(id) {
            self.looking = None;
            self.store = if let StoreAnswer::Failed(why) = answer {
                StoreView::Unreachable(why)
            } else {
                StoreView::Seen
            };
            self.on_looked(effects);
        } else if self.asked == Some(id) {
            self.asked = None;
            self.on_asked(answer, effects);
        }
    }

    fn on_asked(&mut self, answer: StoreAnswer, effects: &mut Vec<HaEffect>) {
        match answer {
            StoreAnswer::Founded(_, epoch) => {
                if self.state == SharedState::Passive(Attempt::Founding) {
                    // A store may have a history without an arbiter: its epochs go on from there.
                    self.create(RecordSeq(1), epoch, None, effects);
                }
            }
            StoreAnswer::Taken { local } => self.on_taken(local, effects),
            StoreAnswer::InUse(by) => {
                if let SharedState::Passive(Attempt::Taking | Attempt::Founding) = self.state {
                    self.refuse(&Refusal::StoreInUse(by), effects);
                }
            }
            StoreAnswer::Opened => self.on_opened(effects),
            StoreAnswer::Closed => self.on_closed(effects),
            StoreAnswer::Seen(_) | StoreAnswer::Left => {}
            StoreAnswer::Failed(why) => self.on_store_failed(why, effects),
        }
    }

    fn on_store_failed(&mut self, why: String, effects: &mut Vec<HaEffect>) {
        match self.state {
            SharedState::Activating(_) => self.step_down(&why, effects),
            SharedState::Passive(Attempt::Taking | Attempt::Founding) => {
                self.refuse(&Refusal::StoreUnreachable(why), effects);
            }
            SharedState::Closing(_) => self.on_drain_over(effects),
            SharedState::Passive(_)
            | SharedState::Active
            | SharedState::Draining
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }

    /// Lock and data file are this process's: the epoch is raised by compare-and-set.
    fn on_taken(&mut self, local: bool, effects: &mut Vec<HaEffect>) {
        if self.state != SharedState::Passive(Attempt::Taking) {
            return;
        }
        self.sole = local;
        let Some(record) = self.record().cloned() else {
            self.refuse(&Refusal::Conflict, effects);
            return;
        };
        self.state = SharedState::Passive(Attempt::Claiming);
        let next = ArbiterRecord {
            seq: record.seq.next(),
            epoch: record.epoch.next(),
            owner: self.config.node,
            ..record.clone()
        };
        self.claimed_from = Some(record);
        self.compare_and_set(next, effects);
    }

    fn compare_and_set(&mut self, next: ArbiterRecord, effects: &mut Vec<HaEffect>) {
        self.call(
            CallPurpose::Set(next.clone()),
            ArbiterCall::CompareAndSet(next),
            effects,
        );
    }

    /// The outcome of the compare-and-set is certain.
    fn on_set_known(&mut self, applied: bool, effects: &mut Vec<HaEffect>) {
        if self.state != SharedState::Passive(Attempt::Claiming) {
            return;
        }
        if !applied {
            self.refuse(&Refusal::Conflict, effects);
            return;
        }
        self.state = SharedState::Activating(Step::Persisting);
        self.reason = None;
        effects.push(HaEffect::Arm(HaTimer::MaxWait));
        self.remember(effects);
        self.go_on_when_persisted(effects);
    }

    pub(super) fn on_persisted(&mut self, effects: &mut Vec<HaEffect>) {
        self.persisting = self.persisting.saturating_sub(1);
        self.go_on_when_persisted(effects);
    }

    fn go_on_when_persisted(&mut self, effects: &mut Vec<HaEffect>) {
        if self.state != SharedState::Activating(Step::Persisting) || self.persisting > 0 {
            return;
        }
        self.state = SharedState::Activating(Step::Fencing);
        if self.old_holder_is_gone() {
            self.on_fence_over(effects);
        } else {
            effects.push(HaEffect::Arm(HaTimer::FenceWait));
        }
    }

    /// A3: nobody else can be serving, so that there is nothing to wait for. Whoever serves has the
    /// data file: where only this kernel gives it out, it is proof enough that this process has it.
    pub(super) fn old_holder_is_gone(&self) -> bool {
        let (Some(from), Some(held)) = (&self.claimed_from, &self.lock) else {
            return false;
        };
        let served = Some((from.owner, from.epoch));
        // An own claim shows that the holder before it was waited for only if its epoch was served.
        let was_served = held.lock.last.iter().any(|beat| {
            let mut positions = beat.positions.iter();
            positions.any(|(_, position)| position.epoch == from.epoch)
        });
        self.sole
            || (from.owner == self.config.node && was_served)
            || self.goodbye == served
            || self.peer_died == served
    }

    pub(super) fn on_fence_over(&mut self, effects: &mut Vec<HaEffect>) {
        if self.state == SharedState::Activating(Step::Fencing) {
            self.state = SharedState::Activating(Step::Opening);
            self.await_store(StoreCall::Open, effects);
        }
    }

    fn on_opened(&mut self, effects: &mut Vec<HaEffect>) {
        if self.state != SharedState::Activating(Step::Opening) {
            return;
        }
        match self.judge_opened() {
            Ok(()) => {
                self.state = SharedState::Activating(Step::Beginning);
                effects.push(HaEffect::Gate(GatePolicy::Alone));
                effects.push(HaEffect::BeginEpoch(self.epoch()));
            }
            Err(refusal) => self.step_down(&refusal.to_string(), effects),
        }
    }

    /// Of no earlier attempt: from ACTIVATING there is no way back but the end of the process.
    pub(super) fn on_epoch_begun(&mut self, epoch: Epoch, effects: &mut Vec<HaEffect>) {
        if self.state == SharedState::Activating(Step::Beginning) {
            self.state = SharedState::Active;
            self.claims.reason = None;
            self.reason = None;
            effects.push(HaEffect::Disarm(HaTimer::MaxWait));
            effects.push(HaEffect::OpenClients { epoch });
        }
    }

    pub(super) fn on_epoch_refused(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        if self.state == SharedState::Activating(Step::Beginning) {
            self.step_down(&Refusal::EpochRefused(why.to_owned()).to_string(), effects);
        }
    }

    /// Back to PASSIVE(idle), to try again after a rest. L1: no camping on the lock.
    pub(super) fn refuse(&mut self, refusal: &Refusal, effects: &mut Vec<HaEffect>) {
        let reason = refusal.to_string();
        self.note(reason.clone());
        effects.push(HaEffect::ClaimRefused { reason });
        self.fall_back(effects);
        self.resting = true;
        effects.push(HaEffect::Arm(HaTimer::Retry));
    }

    /// Gives an attempt up before anything was opened.
    pub(super) fn fall_back(&mut self, effects: &mut Vec<HaEffect>) {
        self.state = SharedState::Passive(Attempt::Idle);
        self.unresolved = None;
        self.call = None;
        self.asked = None;
        if std::mem::take(&mut self.taken) {
            self.ask_store(StoreCall::Leave, effects);
        }
        let held = self.lock.take().is_some();
        if std::mem::take(&mut self.seeking) || held {
            effects.push(HaEffect::ReleaseLock);
        }
    }
}
