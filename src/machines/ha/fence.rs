//! Take-over by fence, and what ends the wait that every take-over owes to the old holder (A2, A3).
//!
//! *By lock*, the lock comes first and shows that the old holder has ended or lost it. *By fence*, the
//! record comes first: it names this server, a new epoch and the lock file of a new generation.
//! Whoever held the old one can confirm nothing from then on, because each confirm needs either this
//! store or a compare-and-set that fails; and its lease, which no check of the lock extends once the
//! record has moved on, ends its deliveries before this server begins.

use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord};
use crate::proto::ids::{Epoch, NodeId};
use crate::storage::api::GatePolicy;

use super::eligibility::{Eligible, Refusal};
use super::guards::Guard;
use super::{
    ArbiterView, CallPurpose, Claim, HaEffect, HaMachine, HaState, HaTimer, HeldLock, LinkEnd,
    Takeover,
};

impl HaMachine {
    /// The lock has been tried first, in vain, and there is reason enough not to wait for it: looks at
    /// the record once more. One look for each attempt that failed.
    pub(super) fn consider_fence(&mut self, effects: &mut Vec<HaEffect>) {
        if self.seeks_to_claim() && self.lock_denied && self.call.is_none() && self.fence_due() {
            self.lock_denied = false;
            self.call(CallPurpose::LookToFence, ArbiterCall::Read, effects);
        }
    }

    fn seeks_to_claim(&self) -> bool {
        self.seeking
            && matches!(
                self.state,
                HaState::Waiting(Claim::Locking) | HaState::Passive { session: None }
            )
    }

    /// The configuration, the network and the peer's silence allow a claim without the old lock.
    pub(super) fn fence_due(&self) -> bool {
        let silence = match &self.peer {
            None => self.silent,
            // Both wait, and neither has the lock: somebody else has it, and has had time enough.
            Some(_) => self.patience_over && self.my_turn(),
        };
        self.config.takeover == Takeover::Fence
            && !self.gateway_unreachable
            && (silence || self.record().is_some_and(|record| self.has_ended(record)))
    }

    pub(super) fn on_looked_to_fence(
        &mut self,
        answer: &ArbiterAnswer,
        effects: &mut Vec<HaEffect>,
    ) {
        if !self.seeks_to_claim() || !self.fence_due() {
            return;
        }
        let passive = matches!(self.state, HaState::Passive { .. });
        match self.judge() {
            Ok(Eligible::Claim(record)) => self.claim_by_fence(record, effects),
            Ok(Eligible::FirstBoot | Eligible::ReForm(_)) => {
                self.refuse(&Refusal::Conflict, effects);
            }
            // Attempts at the lock go on, and after each there is another look.
            Err(Refusal::Unreadable(_)) if passive => {}
            Err(Refusal::NotInSync { .. }) if passive => self.on_looked(answer, effects),
            Err(refusal) => self.refuse(&refusal, effects),
        }
    }

    fn claim_by_fence(&mut self, record: ArbiterRecord, effects: &mut Vec<HaEffect>) {
        if matches!(self.state, HaState::Passive { .. }) {
            effects.push(HaEffect::StopReplication);
            effects.push(HaEffect::Gate(GatePolicy::Closed));
        }
        // No attempt at the old generation's lock may be under way when the new one is wanted.
        self.drop_lock(effects);
        self.state = HaState::Waiting(Claim::Claiming);
        let epoch = record.epoch.next();
        let next = ArbiterRecord {
            seq: record.seq.next(),
            epoch,
            owner: self.config.node,
            isr: vec![self.own.store],
            generation: epoch,
            ..record.clone()
        };
        self.claimed_from = Some(record);
        self.compare_and_set(next, effects);
    }

    /// It may be an earlier record that is written now. No harm: the store does its jobs in order, so
    /// that this claim's record is written before its epoch is open in the log, and service begins.
    pub(super) fn on_persisted(&mut self, effects: &mut Vec<HaEffect>) {
        if self.state != HaState::Waiting(Claim::Persisting) {
            return;
        }
        if self.lock.is_some() {
            self.begin_fence(effects);
        } else {
            self.state = HaState::Waiting(Claim::FenceLocking);
            self.seek_lock(effects);
        }
    }

    /// The lock of the generation that the record named when it was read under the lock: ours, unless
    /// another server has claimed since.
    pub(super) fn on_fence_locked(&mut self, held: HeldLock, effects: &mut Vec<HaEffect>) {
        self.seeking = false;
        let found = held.record.clone();
        let lock = held.lock.clone();
        self.lock = Some(held);
        if found.as_ref() == self.record() {
            self.arbiter = ArbiterView::Read {
                record: found,
                lock: Some(lock),
            };
            self.begin_fence(effects);
        } else {
            self.see_record(found);
            self.refuse(&Refusal::Conflict, effects);
        }
    }

    fn begin_fence(&mut self, effects: &mut Vec<HaEffect>) {
        self.state = HaState::Waiting(Claim::Fencing);
        if self.holds(Guard::OldHolderOver) {
            self.on_fence_over(effects);
        } else {
            effects.push(HaEffect::Arm(HaTimer::FenceWait));
        }
    }

    /// A3: nobody else can be serving, so that there is nothing to wait for.
    pub(super) fn old_holder_is_gone(&self) -> bool {
        let (Some(from), Some(held)) = (&self.claimed_from, &self.lock) else {
            return false;
        };
        // A free lock tells of a death only if it is the one that the old holder had.
        let same_generation = self
            .record()
            .is_some_and(|record| record.generation == from.generation);
        let certain_death = same_generation
            && held.lock.local
            && self.peer_lock == Some((from.owner, held.lock.identity()));
        // This server's own claim shows that the wait of the holder before it is over only once its
        // epoch is in the log: it may have ended while it waited, and started again.
        let waited_before = from.owner == self.config.node && self.own.position.epoch == from.epoch;
        waited_before || self.has_ended(from) || certain_death
    }

    /// The server that this record names said goodbye in its epoch, or its process was seen to end.
    /// An epoch is served by one process: one that starts again claims the next.
    pub(super) fn has_ended(&self, record: &ArbiterRecord) -> bool {
        let served = Some((record.owner, record.epoch));
        self.goodbye == served || self.peer_died == served
    }

    pub(super) fn on_peer_died(&mut self, node: NodeId, epoch: Epoch, effects: &mut Vec<HaEffect>) {
        if node == self.config.node {
            return;
        }
        self.peer_died = Some((node, epoch));
        // Its channel may stand for a while longer: a host that lost its network closes nothing.
        if let HaState::PassiveSync { session, .. }
        | HaState::Passive {
            session: Some(session),
        } = self.state
            && self.epoch() == epoch
            && self.peer.as_ref().is_some_and(|peer| peer.node == node)
        {
            let reason = "the peer's process has ended".to_owned();
            effects.push(HaEffect::DropLink { session, reason });
            self.on_link_down(session, LinkEnd::Ended, effects);
        }
        if self.state == HaState::Waiting(Claim::Fencing) && self.holds(Guard::OldHolderOver) {
            effects.push(HaEffect::Disarm(HaTimer::FenceWait));
            self.on_fence_over(effects);
        }
        let served = self.record().is_some_and(|record| self.has_ended(record));
        if self.peer.is_none() && served && !self.state.shown().serves() {
            self.peer_wait_over = true;
        }
    }

    pub(super) fn on_fence_over(&mut self, effects: &mut Vec<HaEffect>) {
        if self.state == HaState::Waiting(Claim::Fencing) {
            self.state = HaState::Waiting(Claim::Opening);
            effects.push(HaEffect::Gate(GatePolicy::Alone));
            effects.push(HaEffect::BeginEpoch(self.epoch()));
        }
    }
}
