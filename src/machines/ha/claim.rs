//! From WAITING or PASSIVE to service: look, lock, compare-and-set, persist, fence, open. Where the
//! lock is not to be had, `fence.rs` goes on.

use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockHeartbeat};
use crate::proto::ids::{Epoch, RecordSeq, SessionId};
use crate::storage::api::GatePolicy;

use super::arbitration::{self, STRANGE_LOOKS_MAX, SetOutcome};
use super::eligibility::{ArbiterView, Eligible, Refusal};
use super::explain::Truth;
use super::guards::Guard;
use super::handover::Handover;
use super::overrule::NOT_OVERRULED;
use super::{
    CallPurpose, Claim, HaEffect, HaMachine, HaMode, HaState, HaTimer, HeldLock, Peer, Takeover,
};

impl HaMachine {
    /// Begins a claim when the state and the peer allow it.
    pub(super) fn consider_claim(&mut self, effects: &mut Vec<HaEffect>) {
        match self.state {
            HaState::Waiting(Claim::Idle) => {
                let looking = !self.holds(Guard::ArbiterSeen);
                if !looking
                    && self.claims.reason.is_none()
                    && let Err(refusal) = self.judge()
                {
                    self.reason = Some(refusal.to_string());
                    self.claims.reason.clone_from(&self.reason);
                }
                if looking || !self.holds(Guard::Rested) || !self.my_turn() {
                    return;
                }
                self.claims.tried = self.claims.tried.saturating_add(1);
                self.state = HaState::Waiting(Claim::Reading);
                self.call(CallPurpose::LookToClaim, ArbiterCall::Read, effects);
            }
            HaState::Passive { session: None } => {
                if self.hold(&[Guard::MayTakeOver, Guard::LockNotSought]) {
                    self.claims.tried = self.claims.tried.saturating_add(1);
                    self.seek_lock(effects);
                }
            }
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    /// Alone for long enough, or the better of two that wait, or the better one does not move.
    pub(super) fn my_turn(&self) -> bool {
        self.hold(self.turn())
    }

    /// H2, H12, H13: the epoch and position decide, then the configured primary; never a clock.
    pub(super) fn better_than(&self, peer: &Peer) -> bool {
        let mine = (
            self.eligible(),
            self.own.position,
            self.config.primary,
            self.config.node,
        );
        let facts = &peer.facts;
        mine > (facts.eligible, facts.position, peer.primary, peer.node)
    }

    pub(super) fn on_retry(&mut self, effects: &mut Vec<HaEffect>) {
        if matches!(self.state, HaState::Passive { session: Some(_) }) {
            self.read_record(effects);
        } else if let Some(record) = self.unresolved.take() {
            self.call(CallPurpose::Resolve(record), ArbiterCall::Read, effects);
        } else if self.state == HaState::Waiting(Claim::Idle) && !self.my_turn() {
            self.read_record(effects);
        }
    }

    /// An answer that was awaited.
    pub(super) fn on_awaited(
        &mut self,
        purpose: CallPurpose,
        answer: ArbiterAnswer,
        effects: &mut Vec<HaEffect>,
    ) {
        self.saw(&answer);
        match purpose {
            CallPurpose::Look => self.on_looked(&answer, effects),
            CallPurpose::LookToClaim => {
                if self.state == HaState::Waiting(Claim::Reading) {
                    self.decide_claim(effects);
                }
            }
            CallPurpose::LookToFence => self.on_looked_to_fence(&answer, effects),
            CallPurpose::Create => self.on_created(answer, effects),
            CallPurpose::Set(next) => {
                self.on_set_outcome(SetOutcome::answered(&answer), next, &answer, effects);
            }
            CallPurpose::Resolve(next) => {
                let outcome = SetOutcome::looked_for(&next, &answer);
                self.on_set_outcome(outcome, next, &answer, effects);
            }
        }
    }

    fn on_set_outcome(
        &mut self,
        outcome: SetOutcome,
        next: ArbiterRecord,
        answer: &ArbiterAnswer,
        effects: &mut Vec<HaEffect>,
    ) {
        match outcome {
            SetOutcome::Applied => self.on_set_known(&next, true, effects),
            SetOutcome::Beaten => self.on_set_known(&next, false, effects),
            SetOutcome::Missing => self.compare_and_set(next, effects),
            SetOutcome::Unknown => self.resolve_later(next, answer, effects),
        }
    }

    pub(super) fn on_looked(&mut self, answer: &ArbiterAnswer, effects: &mut Vec<HaEffect>) {
        if matches!(answer, ArbiterAnswer::Failed(_))
            && matches!(self.state, HaState::Passive { .. })
        {
            // Nothing was seen, so nothing is strange: look again.
            effects.push(HaEffect::Arm(HaTimer::Retry));
            return;
        }
        if let ArbiterAnswer::Failed(why) = answer
            && matches!(self.state, HaState::Waiting(_))
        {
            self.reason = Some(Refusal::Unreadable(why.clone()).to_string());
            self.resting = true;
            effects.push(HaEffect::Arm(HaTimer::Retry));
            return;
        }
        match self.state {
            HaState::Passive { session } => self.on_looked_passive(session, effects),
            HaState::Waiting(Claim::Idle) if !self.my_turn() => {
                // While the peer's turn lasts, keep the view of the arbiter fresh.
                effects.push(HaEffect::Arm(HaTimer::Retry));
            }
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    fn on_looked_passive(&mut self, session: Option<SessionId>, effects: &mut Vec<HaEffect>) {
        if self.holds(Guard::RecordNamesCopy) && !self.record_is_behind_the_peer() {
            self.strange_looks = 0;
            // Alone, nobody says that an older record than the one remembered is the newest one (Z17).
            if session.is_some() || !self.record_is_behind_memory() {
                self.remember(effects);
            }
        } else if session.is_some() && self.record().is_none() && self.found_record {
            // Gone is not another one: the active serves on by this server's word. (Where there never was
            // one, the lock file is another.)
            if self.strange_looks == 0 {
                effects.push(HaEffect::Alarmed {
                    reason:
                        "the record beside the lock file is gone: restore the folder; nobody can \
                             take over without it"
                            .to_owned(),
                });
            }
            self.strange_looks = 1;
            effects.push(HaEffect::Arm(HaTimer::Retry));
        } else if session.is_some() {
            // The active says that it serves with this store, and the record found here does not: a
            // share may be slow to show it, but not for ever (S173).
            self.strange_looks = self.strange_looks.saturating_add(1);
            self.remember_what_the_peer_knows(effects);
            if self.strange_looks < STRANGE_LOOKS_MAX {
                effects.push(HaEffect::Arm(HaTimer::Retry));
            } else {
                let why = arbitration::not_the_active_s(self.record());
                self.on_mismatch(why, effects);
            }
        } else if self.holds(Guard::RecordDropsCopy) {
            // The active went on alone: this copy may lack what it has confirmed since.
            let why = Refusal::NotInSync {
                epoch: self.epoch(),
            }
            .to_string();
            self.drop_lock(effects);
            effects.push(HaEffect::Gate(GatePolicy::Closed));
            self.claims.refuse(why.clone());
            effects.push(HaEffect::ClaimRefused {
                reason: why.clone(),
            });
            self.wait(&why, effects);
        }
    }

    /// That there is a newer record is remembered although it was not read: alone, this server must
    /// not serve by the older one (Z17), nor re-form the record in an epoch that the peer has served.
    /// What is not known of it, its set and its owner, stays as it was: both count for nothing but the
    /// words of a refusal, because a record is re-formed with the store and owner that do so.
    fn remember_what_the_peer_knows(&mut self, effects: &mut Vec<HaEffect>) {
        if let (Some(peer), Some(last)) = (&self.peer, &mut self.last_record)
            && peer.facts.last_record > last.seq
        {
            last.seq = peer.facts.last_record;
            last.epoch = last.epoch.max(peer.facts.epoch);
            effects.push(HaEffect::Persist(last.clone()));
        }
    }

    /// This server remembers a newer record of this arbiter than the one found here.
    fn record_is_behind_memory(&self) -> bool {
        let remembered = self.last_record.as_ref();
        self.record().is_some_and(|found| {
            remembered.is_some_and(|last| last.arbiter == found.arbiter && last.seq > found.seq)
        })
    }

    /// The linked peer remembers a newer record of this arbiter than the one found here.
    pub(super) fn record_is_behind_the_peer(&self) -> bool {
        arbitration::is_behind_the_peer(self.record(), self.peer.as_ref())
    }

    fn decide_claim(&mut self, effects: &mut Vec<HaEffect>) {
        match self.judge() {
            Err(Refusal::Unreadable(_)) if self.truth(Guard::NotCutOff) == Truth::Fails => {
                self.refuse(&Refusal::GatewayUnreachable, effects);
            }
            Err(refusal) => self.refuse(&refusal, effects),
            // A store may have a history without an arbiter: its epochs go on from there.
            Ok(Eligible::FirstBoot) => {
                self.create(RecordSeq(1), self.own.position.epoch, None, effects);
            }
            Ok(Eligible::ReForm(last)) => {
                self.create(last.seq.next(), last.epoch, Some(&last), effects);
            }
            Ok(Eligible::Claim(_)) => {
                self.state = HaState::Waiting(Claim::Locking);
                self.seek_lock(effects);
            }
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
        self.state = HaState::Waiting(Claim::Creating);
        self.call(CallPurpose::Create, ArbiterCall::Create(record), effects);
    }

    fn on_created(&mut self, answer: ArbiterAnswer, effects: &mut Vec<HaEffect>) {
        if self.state != HaState::Waiting(Claim::Creating) {
            return;
        }
        match arbitration::created(answer) {
            Ok(()) => {
                self.state = HaState::Waiting(Claim::Locking);
                self.seek_lock(effects);
            }
            Err(refusal) => self.refuse(&refusal, effects),
        }
    }

    pub(super) fn on_lock_acquired(&mut self, held: HeldLock, effects: &mut Vec<HaEffect>) {
        self.take_over_words(&held);
        match self.state {
            HaState::Waiting(Claim::Locking) | HaState::Passive { session: None } => {
                self.seeking = false;
                self.lock_refused = None;
                self.arbiter = ArbiterView::Read {
                    record: held.record.clone(),
                    lock: Some(held.lock.clone()),
                };
                self.lock = Some(held);
                self.claim(effects);
            }
            HaState::Active { .. } => {
                self.seeking = false;
                let record = held.record.clone();
                self.lock = Some(held);
                self.on_lock_confirmed(record, effects);
            }
            HaState::Waiting(Claim::FenceLocking) => self.on_fence_locked(held, effects),
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => effects.push(HaEffect::ReleaseLock),
        }
    }

    /// Under the lock: judged once more, then the epoch is raised by compare-and-set.
    fn claim(&mut self, effects: &mut Vec<HaEffect>) {
        match self.judge() {
            Ok(Eligible::Claim(record)) => {
                if matches!(self.state, HaState::Passive { .. }) {
                    effects.push(HaEffect::StopReplication);
                    effects.push(HaEffect::Gate(GatePolicy::Closed));
                }
                let epoch = record.epoch.next();
                self.raise(record, epoch, effects);
            }
            Ok(Eligible::FirstBoot | Eligible::ReForm(_)) => {
                self.refuse(&Refusal::Conflict, effects);
            }
            Err(refusal) => match self.overruled() {
                Some((record, epoch)) => self.raise(record, epoch, effects),
                None => self.refuse(&refusal, effects),
            },
        }
    }

    fn raise(&mut self, record: ArbiterRecord, epoch: Epoch, effects: &mut Vec<HaEffect>) {
        self.state = HaState::Waiting(Claim::Claiming);
        let next = ArbiterRecord {
            seq: record.seq.next(),
            epoch,
            owner: self.config.node,
            isr: vec![self.own.store],
            ..record.clone()
        };
        self.claimed_from = Some(record);
        self.compare_and_set(next, effects);
    }

    pub(super) fn on_lock_refused(
        &mut self,
        holder: Option<LockHeartbeat>,
        effects: &mut Vec<HaEffect>,
    ) {
        let passive = matches!(self.state, HaState::Passive { session: None });
        let locking = matches!(
            self.state,
            HaState::Waiting(Claim::Locking | Claim::FenceLocking)
        );
        if !passive && !locking {
            return;
        }
        self.lock_denied = true;
        let holder = holder_text(holder.as_ref());
        self.lock_refused = Some(holder.clone());
        let refusal = if self.silent && self.config.takeover == Takeover::Lock {
            Refusal::LockHeldInSilence { holder }
        } else {
            Refusal::LockHeld { holder }
        };
        if self.overrule.is_some() {
            // An override is for now: it does not wait for its chance.
            self.refuse(&refusal, effects);
            return;
        }
        let reason = refusal.to_string();
        self.reason = Some(reason.clone());
        self.claims.refuse(reason);
        if passive && self.call.is_none() && !self.fence_due() {
            self.read_record(effects);
        }
    }

    pub(super) fn on_lock_unreachable(&mut self, reason: String, effects: &mut Vec<HaEffect>) {
        if self.overrule.is_some() && self.state == HaState::Waiting(Claim::Locking) {
            self.refuse(&Refusal::Unreadable(reason), effects);
        } else if matches!(self.state, HaState::Waiting(_) | HaState::Passive { .. }) {
            self.lock_denied = true;
            let reason = Refusal::Unreadable(reason).to_string();
            self.claims.refuse(reason.clone());
            self.reason = Some(reason);
        }
    }

    /// The outcome of a compare-and-set is certain.
    fn on_set_known(&mut self, next: &ArbiterRecord, applied: bool, effects: &mut Vec<HaEffect>) {
        if self.state != HaState::Waiting(Claim::Claiming) {
            self.on_serving_set_known(next, applied, effects);
        } else if let (true, Some(further)) = (applied, self.overrule_further()) {
            self.compare_and_set(further, effects);
        } else if applied {
            self.state = HaState::Waiting(Claim::Persisting);
            if !self.remember(effects) {
                self.on_persisted(effects);
            }
        } else {
            self.refuse(&Refusal::Conflict, effects);
        }
    }

    pub(super) fn on_epoch_begun(&mut self, epoch: Epoch, effects: &mut Vec<HaEffect>) {
        if self.state != HaState::Waiting(Claim::Opening) {
            return;
        }
        // Of a claim that was given up while the log was slow: the log has yet to open this one's. (A
        // server without a peer claims once, and its epoch is the log's, which may have moved already.)
        // A late refusal needs no such care: it costs one claim.
        if self.config.mode != HaMode::Single && epoch != self.epoch() {
            return;
        }
        self.claims.reason = None;
        self.peer_wait_over = false;
        self.handover = Handover::None;
        self.overrule = None;
        self.silent = false;
        self.state = HaState::Standalone;
        effects.push(HaEffect::OpenClients { epoch });
        self.consider_peer(effects);
    }

    pub(super) fn on_epoch_refused(&mut self, why: String, effects: &mut Vec<HaEffect>) {
        if self.state == HaState::Waiting(Claim::Opening) {
            effects.push(HaEffect::Gate(GatePolicy::Closed));
            self.refuse(&Refusal::EpochRefused(why), effects);
        }
    }

    /// Back to WAITING(idle), to try again after a rest. L1: no camping on the lock.
    pub(super) fn refuse(&mut self, refusal: &Refusal, effects: &mut Vec<HaEffect>) {
        let reason = match self.overrule.take() {
            Some(_) => format!("{NOT_OVERRULED}: {refusal}"),
            None => refusal.to_string(),
        };
        self.claims.refuse(reason.clone());
        self.reason = Some(reason.clone());
        self.drop_lock(effects);
        self.resting = true;
        effects.push(HaEffect::ClaimRefused { reason });
        effects.push(HaEffect::Arm(HaTimer::Retry));
        if matches!(self.state, HaState::Passive { .. }) {
            effects.push(HaEffect::StopReplication);
            effects.push(HaEffect::Gate(GatePolicy::Closed));
        }
        self.state = HaState::Waiting(Claim::Idle);
        self.consider_peer(effects);
    }

    pub(super) fn compare_and_set(&mut self, next: ArbiterRecord, effects: &mut Vec<HaEffect>) {
        self.call(
            CallPurpose::Set(next.clone()),
            ArbiterCall::CompareAndSet(next),
            effects,
        );
    }

    fn resolve_later(
        &mut self,
        next: ArbiterRecord,
        answer: &ArbiterAnswer,
        effects: &mut Vec<HaEffect>,
    ) {
        if let ArbiterAnswer::Failed(why) = answer
            && self.state.shown().serves()
        {
            let reason = format!(
                "nothing is confirmed until the arbiter record can be changed to go on alone: {why}"
            );
            effects.push(HaEffect::Alarmed {
                reason: reason.clone(),
            });
            self.reason = Some(reason);
        }
        self.unresolved = Some(next);
        effects.push(HaEffect::Arm(HaTimer::Retry));
    }

    pub(super) fn seek_lock(&mut self, effects: &mut Vec<HaEffect>) {
        self.seeking = true;
        self.lock_denied = false;
        effects.push(HaEffect::AcquireLock);
    }

    pub(super) fn drop_lock(&mut self, effects: &mut Vec<HaEffect>) {
        let held = self.lock.take().is_some();
        if held || self.seeking {
            self.seeking = false;
            self.lock_refused = None;
            self.written.clear();
            effects.push(HaEffect::ReleaseLock);
        }
    }
}

/// Who holds the lock, as far as its file tells.
#[must_use]
pub fn holder_text(holder: Option<&LockHeartbeat>) -> String {
    holder.map_or_else(
        || "another process".to_owned(),
        |beat| format!("server {} in epoch {}", beat.owner, beat.epoch),
    )
}
