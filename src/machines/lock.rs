//! LockMachine: when is the lock file tried, checked and let go?
//!
//! | State     | Means                                                              |
//! |-----------|--------------------------------------------------------------------|
//! | Idle      | the lock is not wanted and not held                                |
//! | Trying    | wanted: attempts at their pace                                     |
//! | Held      | this process has it: checks at their pace, each of which may end it |
//! | Lost      | a check has ended it; what is left of it goes at `Release`         |
//! | Releasing | let go, not yet answered                                           |
//!
//! At most one attempt or check is under way. An answer that does not come is not an answer: the
//! machine waits, says so once, and whoever serves counts its lease from the last check that
//! succeeded. It does not know roles, leases or what the record means.

use std::time::Duration;

use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat};
use crate::proto::ids::{Epoch, NodeId, Position, RecordSeq, StoreId};
use crate::time::Moment;

/// How the lock is paced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockConfig {
    /// This server: it signs the heartbeats.
    pub node: NodeId,
    /// `PingInterval`; attempts fall on multiples of half of it (S73, S184).
    pub ping_interval: Duration,
    /// `ActiveLockReAcquisitionInterval`: between checks of a held lock.
    pub active_interval: Duration,
    /// Between attempts just after a channel has ended: the kernel frees a killed holder's lock a
    /// moment after its sockets.
    pub fast_interval: Duration,
    /// How long attempts go on at that pace.
    pub fast_for: Duration,
}

impl LockConfig {
    /// With the usual fast pace: every 15 ms for two ping intervals.
    #[must_use]
    pub fn new(node: NodeId, ping_interval: Duration, active_interval: Duration) -> Self {
        Self {
            node,
            ping_interval,
            active_interval,
            fast_interval: Duration::from_millis(15),
            fast_for: ping_interval.saturating_mul(2),
        }
    }
}

/// How urgently the lock is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockPace {
    /// The channel has just ended: fast at first, then as `Waiting`.
    AfterEnd,
    /// Every half ping interval.
    Waiting,
    /// A lost lock while the channel is up: every active interval.
    Reacquire,
}

/// From HAManager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockCommand {
    /// Take the lock, trying until it is had or `Release` comes. The first attempt is made at once.
    /// While trying: only the pace changes. While held: nothing.
    Acquire(LockPace),
    /// Let the lock go, or stop trying. Answered with `Released`.
    Release,
    /// What the next checks write into the lock file.
    Heartbeat {
        /// The epoch held.
        epoch: Epoch,
        /// The newest record known.
        seq: RecordSeq,
        /// Where both stores are (A1).
        positions: Vec<(StoreId, Position)>,
    },
    /// A call about the record; answered with `Answered` of the same ticket, if ever.
    Ask {
        /// The asker's own number.
        ticket: u64,
        /// What.
        call: RecordCall,
    },
}

/// A call that is about the record and leaves the lock alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordCall {
    /// See [`ArbiterCall::Read`].
    Read,
    /// See [`ArbiterCall::Create`].
    Create(ArbiterRecord),
    /// See [`ArbiterCall::CompareAndSet`].
    CompareAndSet(ArbiterRecord),
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockInput {
    /// From HAManager.
    Command(LockCommand),
    /// The arbiter has answered the call of this id.
    Answered {
        /// As in [`LockEffect::Call`].
        id: u64,
        /// The answer.
        answer: ArbiterAnswer,
    },
    /// Time has passed.
    Tick,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum LockEffect {
    /// Hand this to the arbiter; the answer comes back with the id.
    Call {
        /// Never used twice by one machine.
        id: u64,
        /// What.
        call: ArbiterCall,
    },
    /// Tell HAManager.
    Report(LockReport),
}

/// To HAManager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockReport {
    /// This process holds the lock now.
    Acquired {
        /// The file; `local` and the identity decide about the fence wait (A3).
        lock: LockFacts,
        /// The record, read under the lock.
        record: Option<ArbiterRecord>,
        /// When the successful attempt was sent: a lease may count from here.
        sent_at: Moment,
    },
    /// Somebody else holds it; attempts go on. At each attempt.
    Refused {
        /// Who, if the file says so.
        holder: Option<LockHeartbeat>,
    },
    /// A check succeeded.
    Confirmed {
        /// When the check was sent: the lease counts from here.
        sent_at: Moment,
        /// The record now; whether it is still ours is for HAManager to see (L4).
        record: Option<ArbiterRecord>,
    },
    /// It was held and is no more. Nothing is tried until the next `Acquire`. The arbiter keeps what is
    /// left of it from others until `Release`: so that one that finds it free finds nobody serving.
    Lost {
        /// In words.
        reason: String,
    },
    /// An attempt or check failed or is overdue: nothing is known. It goes on.
    Unreachable {
        /// In words, with the path.
        reason: String,
    },
    /// Answer to `Release`: not held, not tried.
    Released,
    /// Answer to `Ask`.
    Answered {
        /// Of the `Ask`.
        ticket: u64,
        /// The arbiter's answer.
        answer: ArbiterAnswer,
    },
}

/// See the table above.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LockState {
    Idle,
    Trying {
        pace: LockPace,
        /// When this pace began: attempts lie on a grid that starts here.
        since: Moment,
        /// The next attempt, unless one is under way.
        next_at: Moment,
    },
    Held {
        /// The next check, unless one is under way.
        next_at: Moment,
    },
    Lost,
    Releasing {
        /// When the lock is let go once more, should the arbiter not have been able to.
        next_at: Moment,
    },
}

/// The attempt, check or unlock under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    id: u64,
    sent_at: Moment,
    /// HAManager has been told that it takes long.
    overdue_said: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct LockMachine {
    config: LockConfig,
    state: LockState,
    pending: Option<Pending>,
    /// Calls about the record that are not answered: (id, ticket). As many as HAManager asks.
    asked: Vec<(u64, u64)>,
    last_id: u64,
    heartbeat: LockHeartbeat,
}

impl LockMachine {
    /// A machine that holds nothing and wants nothing.
    #[must_use]
    pub fn new(config: LockConfig) -> Self {
        let heartbeat = LockHeartbeat {
            owner: config.node,
            epoch: Epoch::ZERO,
            seq: RecordSeq::ZERO,
            counter: 0,
            positions: Vec::new(),
        };
        Self {
            config,
            state: LockState::Idle,
            pending: None,
            asked: Vec::new(),
            last_id: 0,
            heartbeat,
        }
    }

    /// Takes one input and appends what is to be done.
    pub fn step(&mut self, now: Moment, input: LockInput, effects: &mut Vec<LockEffect>) {
        match input {
            LockInput::Command(LockCommand::Acquire(pace)) => self.acquire(now, pace),
            LockInput::Command(LockCommand::Release) => self.release(now, effects),
            LockInput::Command(LockCommand::Heartbeat {
                epoch,
                seq,
                positions,
            }) => {
                self.heartbeat.epoch = epoch;
                self.heartbeat.seq = seq;
                self.heartbeat.positions = positions;
            }
            LockInput::Command(LockCommand::Ask { ticket, call }) => {
                let id = self.call(call.into(), effects);
                self.asked.push((id, ticket));
            }
            LockInput::Answered { id, answer } => self.answered(now, id, answer, effects),
            LockInput::Tick => {}
        }
        self.maintain(now, effects);
    }

    /// When `Tick` is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        match (&self.pending, &self.state) {
            (Some(pending), _) => (!pending.overdue_said).then(|| self.overdue_at(pending)),
            (None, LockState::Idle | LockState::Lost) => None,
            (
                None,
                LockState::Trying { next_at, .. }
                | LockState::Held { next_at }
                | LockState::Releasing { next_at },
            ) => Some(*next_at),
        }
    }

    /// The lock is held, as far as this process knows.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.state, LockState::Held { .. })
    }

    fn acquire(&mut self, now: Moment, pace: LockPace) {
        match &mut self.state {
            LockState::Held { .. } => {}
            LockState::Trying {
                pace: present,
                since,
                next_at,
            } => {
                if *present != pace || pace == LockPace::AfterEnd {
                    (*present, *since, *next_at) = (pace, now, now);
                }
            }
            LockState::Idle | LockState::Lost | LockState::Releasing { .. } => {
                // An unlock under way comes first: the arbiter's calls are answered in order.
                self.pending = None;
                self.state = LockState::Trying {
                    pace,
                    since: now,
                    next_at: now,
                };
            }
        }
    }

    fn release(&mut self, now: Moment, effects: &mut Vec<LockEffect>) {
        match self.state {
            LockState::Idle => effects.push(LockEffect::Report(LockReport::Released)),
            LockState::Releasing { .. } => {}
            // Also while trying: an attempt under way may have succeeded already.
            LockState::Trying { .. } | LockState::Held { .. } | LockState::Lost => {
                self.unlock(now, effects);
            }
        }
    }

    fn unlock(&mut self, now: Moment, effects: &mut Vec<LockEffect>) {
        self.state = LockState::Releasing {
            next_at: now.after(self.half_ping()),
        };
        self.send(now, ArbiterCall::Unlock, effects);
    }

    fn answered(
        &mut self,
        now: Moment,
        id: u64,
        answer: ArbiterAnswer,
        effects: &mut Vec<LockEffect>,
    ) {
        if let Some(index) = self.asked.iter().position(|(asked, _)| *asked == id) {
            let (_, ticket) = self.asked.swap_remove(index);
            effects.push(LockEffect::Report(LockReport::Answered { ticket, answer }));
            return;
        }
        let Some(pending) = self.pending.take_if(|pending| pending.id == id) else {
            // The late answer of an attempt or check that was given up: a `Release` came after it,
            // and its unlock is behind it in the arbiter's queue.
            return;
        };
        let report = match self.state {
            LockState::Idle | LockState::Lost => return,
            LockState::Trying { .. } => self.attempt_answered(now, &pending, answer),
            LockState::Held { .. } => self.check_answered(now, &pending, answer),
            LockState::Releasing { .. } => match answer {
                ArbiterAnswer::Unlocked => {
                    self.state = LockState::Idle;
                    LockReport::Released
                }
                other @ (ArbiterAnswer::Read { .. }
                | ArbiterAnswer::Created(_)
                | ArbiterAnswer::Locked { .. }
                | ArbiterAnswer::Refused { .. }
                | ArbiterAnswer::Held { .. }
                | ArbiterAnswer::Lost(_)
                | ArbiterAnswer::Set(_)
                | ArbiterAnswer::Conflict(_)
                | ArbiterAnswer::Failed(_)) => unreachable_report(other),
            },
        };
        effects.push(LockEffect::Report(report));
    }

    /// The last holder's words stand until this one has its own: a check that comes before them must
    /// not write that less was confirmed, or an older record known (A1, Z17).
    fn adopt(&mut self, last: Option<&LockHeartbeat>) {
        if let Some(last) = last {
            let own = &mut self.heartbeat;
            own.counter = own.counter.max(last.counter);
            own.epoch = own.epoch.max(last.epoch);
            own.seq = own.seq.max(last.seq);
            own.positions.clone_from(&last.positions);
        }
    }

    fn attempt_answered(
        &mut self,
        now: Moment,
        pending: &Pending,
        answer: ArbiterAnswer,
    ) -> LockReport {
        match answer {
            ArbiterAnswer::Locked { lock, record } => {
                self.adopt(lock.last.as_ref());
                self.state = LockState::Held {
                    next_at: pending.sent_at.after(self.config.active_interval),
                };
                LockReport::Acquired {
                    lock,
                    record,
                    sent_at: pending.sent_at,
                }
            }
            ArbiterAnswer::Refused { holder } => {
                self.plan_attempt(now);
                LockReport::Refused { holder }
            }
            other @ (ArbiterAnswer::Read { .. }
            | ArbiterAnswer::Created(_)
            | ArbiterAnswer::Unlocked
            | ArbiterAnswer::Held { .. }
            | ArbiterAnswer::Lost(_)
            | ArbiterAnswer::Set(_)
            | ArbiterAnswer::Conflict(_)
            | ArbiterAnswer::Failed(_)) => {
                self.plan_attempt(now);
                unreachable_report(other)
            }
        }
    }

    fn check_answered(
        &mut self,
        now: Moment,
        pending: &Pending,
        answer: ArbiterAnswer,
    ) -> LockReport {
        match answer {
            ArbiterAnswer::Held { record } => {
                self.state = LockState::Held {
                    next_at: pending.sent_at.after(self.config.active_interval),
                };
                LockReport::Confirmed {
                    sent_at: pending.sent_at,
                    record,
                }
            }
            ArbiterAnswer::Lost(reason) => {
                self.state = LockState::Lost;
                LockReport::Lost { reason }
            }
            other @ (ArbiterAnswer::Read { .. }
            | ArbiterAnswer::Created(_)
            | ArbiterAnswer::Locked { .. }
            | ArbiterAnswer::Refused { .. }
            | ArbiterAnswer::Unlocked
            | ArbiterAnswer::Set(_)
            | ArbiterAnswer::Conflict(_)
            | ArbiterAnswer::Failed(_)) => {
                self.state = LockState::Held {
                    next_at: now.after(self.half_ping()),
                };
                unreachable_report(other)
            }
        }
    }

    /// The next attempt: soon after an ended channel, else on the grid of the pace (S73, S184).
    fn plan_attempt(&mut self, now: Moment) {
        let half = self.half_ping();
        let LockState::Trying {
            pace,
            since,
            ref mut next_at,
        } = self.state
        else {
            return;
        };
        let step = match pace {
            LockPace::AfterEnd if now < since.after(self.config.fast_for) => {
                *next_at = now.after(self.config.fast_interval.max(Duration::from_millis(1)));
                return;
            }
            LockPace::AfterEnd | LockPace::Waiting => half,
            LockPace::Reacquire => {
                let halves = self
                    .config
                    .active_interval
                    .as_nanos()
                    .div_ceil(half.as_nanos())
                    .clamp(1, u128::from(u32::MAX));
                half.saturating_mul(u32::try_from(halves).unwrap_or(u32::MAX))
            }
        };
        let steps = now
            .since(since)
            .as_nanos()
            .checked_div(step.as_nanos())
            .unwrap_or(0)
            .saturating_add(1);
        *next_at = since.after(step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX)));
    }

    fn maintain(&mut self, now: Moment, effects: &mut Vec<LockEffect>) {
        if let Some(pending) = &self.pending {
            if !pending.overdue_said && self.overdue_at(pending) <= now {
                let waited = now.since(pending.sent_at).as_millis();
                effects.push(LockEffect::Report(LockReport::Unreachable {
                    reason: format!("the lock file has not answered for {waited} ms"),
                }));
                if let Some(pending) = &mut self.pending {
                    pending.overdue_said = true;
                }
            }
            return;
        }
        match self.state {
            LockState::Trying { next_at, .. } if next_at <= now => {
                self.send(now, ArbiterCall::TryLock, effects);
            }
            LockState::Held { next_at } if next_at <= now => {
                self.heartbeat.counter = self.heartbeat.counter.saturating_add(1);
                let heartbeat = self.heartbeat.clone();
                self.send(now, ArbiterCall::Check(heartbeat), effects);
            }
            LockState::Releasing { next_at } if next_at <= now => self.unlock(now, effects),
            LockState::Idle
            | LockState::Trying { .. }
            | LockState::Held { .. }
            | LockState::Lost
            | LockState::Releasing { .. } => {}
        }
    }

    fn send(&mut self, now: Moment, call: ArbiterCall, effects: &mut Vec<LockEffect>) {
        let id = self.call(call, effects);
        self.pending = Some(Pending {
            id,
            sent_at: now,
            overdue_said: false,
        });
    }

    fn call(&mut self, call: ArbiterCall, effects: &mut Vec<LockEffect>) -> u64 {
        self.last_id = self.last_id.saturating_add(1);
        effects.push(LockEffect::Call {
            id: self.last_id,
            call,
        });
        self.last_id
    }

    fn overdue_at(&self, pending: &Pending) -> Moment {
        pending.sent_at.after(self.config.active_interval)
    }

    fn half_ping(&self) -> Duration {
        (self.config.ping_interval / 2).max(Duration::from_millis(1))
    }
}

impl From<RecordCall> for ArbiterCall {
    fn from(call: RecordCall) -> Self {
        match call {
            RecordCall::Read => Self::Read,
            RecordCall::Create(record) => Self::Create(record),
            RecordCall::CompareAndSet(record) => Self::CompareAndSet(record),
        }
    }
}

fn unreachable_report(answer: ArbiterAnswer) -> LockReport {
    let reason = match answer {
        ArbiterAnswer::Failed(reason) | ArbiterAnswer::Lost(reason) => reason,
        ArbiterAnswer::Read { .. }
        | ArbiterAnswer::Created(_)
        | ArbiterAnswer::Locked { .. }
        | ArbiterAnswer::Refused { .. }
        | ArbiterAnswer::Unlocked
        | ArbiterAnswer::Held { .. }
        | ArbiterAnswer::Set(_)
        | ArbiterAnswer::Conflict(_) => "the arbiter gave the answer of another call".to_owned(),
    };
    LockReport::Unreachable { reason }
}

#[cfg(test)]
mod tests;
