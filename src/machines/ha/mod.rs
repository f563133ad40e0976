//! Which role does this server have, and what may it do? The state machine of the pair
//! (ha-protocol, "The state machines", replicated mode, with the amendments).
//!
//! | state | clients | what happens in it |
//! |---|---|---|
//! | `WAITING` | no | looks for the peer; claims the record when it may |
//! | `PASSIVE_SYNC` | no | receives what it lacks |
//! | `PASSIVE` | no | in the in-sync set; takes over when the active is gone |
//! | `ACTIVE_SYNC` | yes | brings the peer into step; confirms alone until the set is extended |
//! | `ACTIVE` | yes | every confirm is on both disks |
//! | `STANDALONE` | yes | the record says that this store alone is in sync |
//!
//! The machine knows no time (A11): named timers are armed by an effect and their expiry is an input.
//! It knows no socket, file or message either. Write safety rests on the record alone: only
//! compare-and-set changes it (R8), only a store that it names is promoted (R1), the set is shrunk
//! before the first lone confirm (R2) and extended only while the peer's copy is already demanded
//! (R5). The lock and the timers detect failures and keep deliveries from overlapping.

mod advice;
mod arbitration;
mod cause;
mod claim;
mod eligibility;
mod explain;
mod fence;
mod forecast;
mod guards;
mod handover;
mod herald;
mod history;
mod link;
mod overrule;
mod role;
mod serve;
mod shared;
mod table;
mod types;
mod views;
mod ways;
mod words;

#[cfg(test)]
mod tests;

pub use claim::holder_text;
pub use eligibility::{ArbiterView, OwnStore, Refusal};
pub use explain::{Checked, Event, Explanation, Fact, FactValue, Source, Truth, Way};
pub use forecast::{Forecast, LockProbe, Outcome, forecast};
pub use guards::Guard;
pub use handover::Condition;
pub use history::Counted;
pub use overrule::{KnownPosition, NOT_OVERRULED, Promotion};
pub use role::RoleMachine;
pub use shared::{Attempt, SharedMachine, SharedState, Step, render_shared_table};
pub use table::render_table;
pub use types::*;

use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockIdentity};
use crate::proto::ids::{Epoch, NodeId, Position, SessionId, StoreId};
use crate::proto::peer::PeerFacts;
use crate::storage::api::GatePolicy;

use cause::Told;
use eligibility::{Eligible, Evidence};
use herald::Herald;

/// The machine. One for each server, for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HaMachine {
    config: HaConfig,
    state: HaState,
    /// What others were told last.
    herald: Herald,
    own: OwnStore,
    /// The last record that named this store, as persisted in `node/`.
    last_record: Option<ArbiterRecord>,
    arbiter: ArbiterView,
    /// The linked peer.
    peer: Option<Peer>,
    /// The lock file as some peer of this process's life saw it (A3: certain death).
    peer_lock: Option<(NodeId, LockIdentity)>,
    /// The last goodbye: who ended in order, and in which epoch.
    goodbye: Option<(NodeId, Epoch)>,
    gateway_unreachable: bool,
    /// This process holds the lock, as far as it knows.
    lock: Option<HeldLock>,
    /// How far the stores were, as the lock file tells by now.
    written: Vec<(StoreId, Position)>,
    /// The one call on the arbiter whose answer is awaited.
    call: Option<(u64, CallPurpose)>,
    next_call: u64,
    /// The peer has been out of reach for long enough, or the channel has ended: claims may begin.
    peer_wait_over: bool,
    /// PassiveInterval has passed since the peer was heard last, however the channel ended.
    silent: bool,
    /// The lock could not be had since it is being sought: it is refused, or does not answer.
    lock_denied: bool,
    /// A process of the peer's that is known to have ended, and the epoch that it knew last.
    peer_died: Option<(NodeId, Epoch)>,
    /// A claim was refused: rest until `HaTimer::Retry`.
    resting: bool,
    /// The linked peer had its time to claim first and did not.
    patience_over: bool,
    /// A peer that was too slow is not taken back before `HaTimer::ReEntry` (A6).
    reentry_barred: bool,
    /// An attempt to get the lock is under way.
    seeking: bool,
    /// A compare-and-set whose outcome was not told, to be looked for at `HaTimer::Retry`.
    unresolved: Option<ArbiterRecord>,
    /// The record as it was before this server's claim: whom to fence.
    claimed_from: Option<ArbiterRecord>,
    /// The last check of the lock found no record, and that was said.
    record_missed: bool,
    /// Looks in a row at a record that cannot be the active's.
    strange_looks: u32,
    /// A record was found beside the lock file since the start.
    found_record: bool,
    claims: Claims,
    handover: handover::Handover,
    /// The epoch that an operator ends by an override which is under way.
    overrule: Option<Epoch>,
    /// In words, why this server waits; none while it does not.
    reason: Option<String>,
    /// In words, what led to the present state; none right after the start.
    cause: Option<String>,
    /// The last attempt at the lock was refused: who holds it, in words.
    lock_refused: Option<String>,
}

impl HaMachine {
    /// A server that has just started, with what its store and `node/` tell.
    #[must_use]
    pub fn new(config: HaConfig, own: OwnStore, last_record: Option<ArbiterRecord>) -> Self {
        Self {
            config,
            state: HaState::Waiting(Claim::Idle),
            herald: Herald::new(),
            own,
            last_record,
            arbiter: ArbiterView::Unread,
            peer: None,
            peer_lock: None,
            goodbye: None,
            gateway_unreachable: false,
            lock: None,
            written: Vec::new(),
            call: None,
            next_call: 1,
            peer_wait_over: false,
            silent: false,
            lock_denied: false,
            peer_died: None,
            resting: false,
            patience_over: false,
            reentry_barred: false,
            seeking: false,
            unresolved: None,
            claimed_from: None,
            record_missed: false,
            strange_looks: 0,
            found_record: false,
            claims: Claims::default(),
            handover: handover::Handover::None,
            overrule: None,
            reason: None,
            cause: None,
            lock_refused: None,
        }
    }

    /// Takes one input; `own` is the store as it is now.
    pub fn step(&mut self, own: OwnStore, input: HaInput, effects: &mut Vec<HaEffect>) {
        self.own = own;
        let (before, told) = (self.state.clone(), Told::of(&input));
        match input {
            HaInput::Started => self.on_started(effects),
            HaInput::LinkUp { session, hello } => self.on_link_up(session, &hello, effects),
            HaInput::LinkDown { session, cause } => self.on_link_down(session, cause, effects),
            HaInput::PeerFacts { session, facts } => self.on_peer_facts(session, facts, effects),
            HaInput::PeerGoodbye { session, epoch } => self.on_goodbye(session, epoch, effects),
            HaInput::PeerMismatch { reason } => self.on_mismatch(reason, effects),
            HaInput::LockAcquired(held) => self.on_lock_acquired(held, effects),
            HaInput::LockRefused { holder } => self.on_lock_refused(holder, effects),
            HaInput::LockConfirmed { record } => self.on_lock_confirmed(record, effects),
            HaInput::LockLost { reason } => self.on_lock_lost(&reason, effects),
            HaInput::LockUnreachable { reason } => self.on_lock_unreachable(reason, effects),
            HaInput::PeerDied { node, epoch } => self.on_peer_died(node, epoch, effects),
            HaInput::ArbiterAnswered { id, answer } => self.on_answer(id, answer, effects),
            HaInput::GatewayUnreachable(unreachable) => self.gateway_unreachable = unreachable,
            HaInput::Persisted => self.on_persisted(effects),
            HaInput::EpochBegun(epoch) => self.on_epoch_begun(epoch, effects),
            HaInput::EpochRefused(why) => self.on_epoch_refused(why, effects),
            HaInput::SyncDone { session, store } => self.on_sync_done(session, store, effects),
            HaInput::PeerHoldsAll { session } => self.on_peer_holds_all(session, effects),
            HaInput::InSync { session, epoch } => self.on_in_sync(session, epoch, effects),
            HaInput::SyncProgress { session } => self.on_sync_progress(session, effects),
            HaInput::SyncFailed { session, reason } => {
                self.on_sync_failed(session, &reason, effects);
            }
            HaInput::AckOverdue { session } => self.on_ack_overdue(session, effects),
            HaInput::LeaseExpired => self.on_lease_expired(effects),
            HaInput::Timer(timer) => self.on_timer(timer, effects),
            HaInput::StopRequested => self.on_stop(effects),
            HaInput::ClientsDrained => self.on_drained(effects),
            HaInput::LockReleased => self.on_lock_released(effects),
            HaInput::SwitchoverRequested => self.on_switchover(effects),
            HaInput::PromoteRequested { epoch } => self.on_promote(epoch, effects),
            HaInput::PromotionRefused { reason } => self.not_promoted(reason),
            // The store is open from the start in this mode.
            HaInput::StoreAnswered { .. } => {}
        }
        self.maintain(&before, told, effects);
        self.assert_invariants();
    }

    // ---- start and end ----

    fn on_started(&mut self, effects: &mut Vec<HaEffect>) {
        match self.config.mode {
            HaMode::Single => {
                self.state = HaState::Waiting(Claim::Opening);
                effects.push(HaEffect::Gate(GatePolicy::Alone));
                effects.push(HaEffect::BeginEpoch(self.own.position.epoch.next()));
            }
            // Shared mode has a machine of its own.
            HaMode::Replicated | HaMode::Shared => {
                effects.push(HaEffect::Gate(GatePolicy::Closed));
                effects.push(HaEffect::Arm(HaTimer::PeerWait));
                self.read_record(effects);
            }
        }
    }

    fn on_mismatch(&mut self, reason: String, effects: &mut Vec<HaEffect>) {
        if self.state.shown().serves() {
            // H8: a misconfigured joiner must not stop a serving active.
            self.reason = Some(reason);
        } else {
            effects.push(HaEffect::Exit(ExitCause::PeerMismatch(reason)));
            self.state = HaState::Stopped;
        }
    }

    fn on_stop(&mut self, effects: &mut Vec<HaEffect>) {
        // An end of the process hands over as well.
        self.handover = handover::Handover::None;
        match self.state {
            HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone => {
                let shown = self.state.shown();
                self.state = HaState::Draining(shown);
                effects.push(HaEffect::Arm(HaTimer::Drain));
                effects.push(HaEffect::DrainClients);
            }
            HaState::Waiting(_) | HaState::PassiveSync { .. } | HaState::Passive { .. } => {
                self.release_for_exit(effects);
            }
            HaState::Draining(_) | HaState::Releasing(_) | HaState::Stopped => {}
        }
    }

    fn on_drained(&mut self, effects: &mut Vec<HaEffect>) {
        if matches!(self.state, HaState::Draining(_)) {
            effects.push(HaEffect::Disarm(HaTimer::Drain));
            if self.hands_over() {
                self.release_for_peer(effects);
            } else {
                self.release_for_exit(effects);
            }
        }
    }

    /// Nothing is confirmed from here on; the lock goes before the goodbye, so that the peer finds it
    /// free (H59).
    fn release_for_exit(&mut self, effects: &mut Vec<HaEffect>) {
        effects.push(HaEffect::Gate(GatePolicy::Closed));
        let shown = self.state.shown();
        self.state = HaState::Releasing(shown);
        let held = self.lock.take().is_some();
        effects.push(HaEffect::ReleaseLock);
        if !held {
            self.on_lock_released(effects);
        }
    }

    fn on_lock_released(&mut self, effects: &mut Vec<HaEffect>) {
        if !matches!(self.state, HaState::Releasing(_)) {
            return;
        }
        if self.hands_over() {
            self.on_handed_over(effects);
        } else {
            effects.push(HaEffect::SayGoodbye {
                epoch: self.epoch(),
            });
            effects.push(HaEffect::Exit(ExitCause::Stopped));
            self.state = HaState::Stopped;
        }
    }

    // ---- timers ----

    fn on_timer(&mut self, timer: HaTimer, effects: &mut Vec<HaEffect>) {
        match timer {
            HaTimer::PeerWait => {
                self.peer_wait_over = true;
                self.silent = true;
            }
            HaTimer::Patience => self.patience_over = true,
            HaTimer::Retry => {
                self.resting = false;
                self.on_retry(effects);
            }
            HaTimer::ReEntry => {
                self.reentry_barred = false;
                self.consider_peer(effects);
            }
            HaTimer::FenceWait => self.on_fence_over(effects),
            HaTimer::MaxWait => self.on_max_wait(effects),
            HaTimer::Drain => self.on_drained(effects),
        }
    }

    fn on_max_wait(&mut self, effects: &mut Vec<HaEffect>) {
        if let HaState::PassiveSync { session, .. } | HaState::ActiveSync { session, .. } =
            self.state
        {
            self.on_sync_failed(
                session,
                "the transition took longer than MaxWaitTimeout",
                effects,
            );
        }
    }

    // ---- shared helpers ----

    fn see_peer_lock(&mut self, node: NodeId, facts: &PeerFacts) {
        if let Some(lock) = facts.lock {
            self.peer_lock = Some((node, lock));
        } else if facts.state.serves() {
            // It has lost the lock and lives.
            self.peer_lock = None;
        }
    }

    fn session(&self) -> Option<SessionId> {
        self.peer.as_ref().map(|peer| peer.session)
    }

    fn single_epoch(&self) -> Epoch {
        match self.state {
            HaState::Waiting(_) => self.own.position.epoch.next(),
            _ => self.own.position.epoch,
        }
    }

    fn judge(&self) -> Result<Eligible, Refusal> {
        eligibility::judge(Evidence::new(
            &self.config,
            self.own,
            self.peer.as_ref(),
            self.last_record.as_ref(),
            &self.arbiter,
        ))
    }

    fn read_record(&mut self, effects: &mut Vec<HaEffect>) {
        self.call(CallPurpose::Look, ArbiterCall::Read, effects);
    }

    fn call(&mut self, purpose: CallPurpose, call: ArbiterCall, effects: &mut Vec<HaEffect>) {
        let id = self.next_call;
        self.next_call = self.next_call.saturating_add(1);
        self.call = Some((id, purpose));
        effects.push(HaEffect::Arbiter { id, call });
    }

    fn on_answer(&mut self, id: u64, answer: ArbiterAnswer, effects: &mut Vec<HaEffect>) {
        if let Some(purpose) = arbitration::awaited(&mut self.call, id) {
            self.on_awaited(purpose, answer, effects);
        }
    }

    fn saw(&mut self, answer: &ArbiterAnswer) {
        self.found_record |= matches!(
            answer,
            ArbiterAnswer::Read {
                record: Some(_),
                ..
            }
        );
        match answer {
            ArbiterAnswer::Failed(why) if !self.state.shown().serves() => {
                self.arbiter = ArbiterView::Unreadable(why.clone());
            }
            shown => self.arbiter.take_in(shown),
        }
    }

    fn see_record(&mut self, record: Option<ArbiterRecord>) {
        self.arbiter.see(record);
    }

    /// A record that names this store is remembered for the next start (Z17).
    fn remember(&mut self, effects: &mut Vec<HaEffect>) -> bool {
        let Some(record) = self
            .record()
            .filter(|record| record.holds(self.own.store))
            .cloned()
        else {
            return false;
        };
        if self.last_record.as_ref() == Some(&record) {
            return false;
        }
        self.last_record = Some(record.clone());
        effects.push(HaEffect::Persist(record));
        true
    }

    /// What follows from the state alone, whatever the input was: a claim that may begin begins, and
    /// a change that others see is announced once.
    fn maintain(&mut self, before: &HaState, told: Told, effects: &mut Vec<HaEffect>) {
        self.consider_claim(effects);
        self.consider_fence(effects);
        self.note_cause(before, told);
        let says_why = matches!(self.state, HaState::Waiting(_) | HaState::Shrinking { .. });
        if !says_why {
            self.reason = None;
        }
        // A server that has ended has nothing more to say than its goodbye.
        if self.state != HaState::Stopped {
            let now = Announcement {
                state: self.state.shown(),
                previous: self.herald.previous,
                claiming: self.state.claiming(),
                epoch: self.epoch(),
                looked: self.looked(),
                eligible: self.eligible(),
                cause: None,
            };
            if let Some(news) = self.herald.news(now) {
                let cause = self.cause.clone();
                effects.push(HaEffect::Announce(Announcement { cause, ..news }));
            }
        }
        self.herald.show_peer(self.peer.as_ref(), effects);
    }

    fn assert_invariants(&self) {
        if self.config.mode == HaMode::Single {
            return;
        }
        if let HaState::Active { session } | HaState::ActiveSync { session, .. } = &self.state {
            assert!(
                self.session() == Some(*session) || self.call.is_some(),
                "serving with a follower needs its session"
            );
        }
        if self.state.shown().serves() && !matches!(self.state, HaState::Stopped) {
            assert!(self.record().is_some(), "serving needs a record");
        }
    }
}
