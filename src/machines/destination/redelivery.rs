//! Messages that came back, and those that are not delivered any more: the wait before a redelivery,
//! and the way to the dead message queue.
//!
//! A message goes to the dead message queue in one unit with its acknowledgement here: it is in one of
//! the two queues at any time. Until that queue's id is known the message waits in memory; it is still
//! owed here, so a restart finds it again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::vocabulary::{DeadLetterQueue, Now, Room};
use super::{DestinationMachine, define};
use crate::machines::policy::OnFull;
use crate::proto::ids::Lsn;
use crate::proto::message;
use crate::storage::api::{Draft, Entry, Ticket};
use crate::time::Moment;

/// The dead message queue is asked for again after this, when it could not be had.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why a message is not delivered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It expired.
    Expired,
    /// It was delivered in vain too often.
    TooOften,
    /// It was the oldest of too many.
    Full,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TooOften => "redelivery-limit",
            Self::Full => "full",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Redelivery {
    /// Refused, waiting for their delay to pass.
    waiting: BTreeMap<(Moment, Lsn), Entry>,
    bytes: usize,

    /// Where dead messages go, once it is known.
    pub(super) queue: Option<DeadLetterQueue>,
    /// Dead, waiting for that.
    pub(super) dead: Vec<(Entry, Reason)>,
    asked: bool,
    /// That was by rules that hold no more.
    is_stale: bool,
    /// It is to be found, though nothing is dead yet.
    wanted: bool,
    ask_at: Option<Moment>,
}

impl Redelivery {
    /// Lets a message wait for its redelivery.
    pub(super) fn wait(&mut self, until: Moment, entry: Entry) {
        self.bytes = self.bytes.saturating_add(entry.message.len());
        self.waiting.insert((until, entry.lsn), entry);
    }

    /// The next message that has waited long enough.
    pub(super) fn take_rested(&mut self, now: Now) -> Option<Entry> {
        let first = self.waiting.first_entry()?;
        if first.key().0 > now.moment {
            return None;
        }
        let entry = first.remove();
        self.bytes = self.bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    /// Takes a message out, if it waits here, also if it is dead.
    pub(super) fn remove(&mut self, lsn: Lsn) -> Option<Entry> {
        if let Some(at) = self.dead.iter().position(|(entry, _)| entry.lsn == lsn) {
            return Some(self.dead.remove(at).0);
        }
        let place = *self.waiting.keys().find(|(_, waits)| *waits == lsn)?;
        let entry = self.waiting.remove(&place)?;
        self.bytes = self.bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    /// Everything that waits here.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        let dead = self.dead.iter().map(|(entry, _)| entry);
        self.waiting.values().chain(dead)
    }

    /// Bytes of what waits for its redelivery.
    pub(super) fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// Other rules: the dead message queue may be another one.
    pub(super) fn forget_queue(&mut self) {
        self.queue = None;
        self.ask_at = None;
        self.is_stale = self.asked;
    }

    /// As much waits aside as may, together with `others` (messages and bytes).
    pub(super) fn is_full(&self, others: (usize, usize), room: Room) -> bool {
        let messages = self.waiting.len().saturating_add(self.dead.len());
        messages.saturating_add(others.0) >= room.messages
            || self.bytes.saturating_add(others.1) >= room.bytes.max(1)
    }

    /// Whether to ask for the dead message queue now.
    pub(super) fn asks(&mut self, now: Now) -> bool {
        let due = self.ask_at.is_none_or(|at| at <= now.moment);
        let asks = self.needs_queue() && self.queue.is_none() && !self.asked && due;
        self.asked |= asks;
        asks
    }

    /// Nothing waits here, and nothing was asked.
    pub(super) fn is_at_rest(&self) -> bool {
        self.waiting.is_empty() && !self.needs_queue() && !self.asked
    }

    fn needs_queue(&self) -> bool {
        self.wanted || !self.dead.is_empty()
    }

    /// Messages will be dead before long.
    pub(super) fn want_queue(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// The dead message queue, or none could be had.
    pub(super) fn found(&mut self, queue: Option<DeadLetterQueue>, now: Now) {
        self.asked = false;
        if std::mem::take(&mut self.is_stale) {
            return;
        }
        self.ask_at = queue.is_none().then(|| now.moment.after(ASK_AGAIN));
        self.queue = queue;
    }

    /// When to come back.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let rested = self.waiting.keys().next().map(|(at, _)| *at);
        let ask = self.ask_at.filter(|_| self.needs_queue() && !self.asked);
        rested.into_iter().chain(ask).min()
    }
}

impl DestinationMachine {
    /// A delivery failed: the consumer refused it or is gone.
    pub(super) fn came_back(&mut self, now: Now, mut entry: Entry) {
        entry.marked = true;
        if self.draining {
            self.put_back(entry);
            return;
        }
        entry.failures = entry.failures.saturating_add(1);
        if self.is_given_up(&entry) {
            self.leave(now, entry, Reason::TooOften);
            return;
        }
        if !entry.lsn.is_volatile() {
            self.failed.push((entry.lsn, entry.failures));
        }
        let delay = self.policy.as_ref().map(|policy| policy.redelivery_delay);
        match delay.filter(|delay| !delay.is_zero()) {
            Some(delay) => {
                self.claims.take(entry.lsn);
                self.redelivery.wait(now.moment.after(delay), entry);
            }
            None => self.put_back(entry),
        }
    }

    /// Delivered in vain more often than the policy has it.
    fn is_given_up(&self, entry: &Entry) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| {
            policy
                .redelivery_limit
                .is_some_and(|limit| entry.failures > limit)
        })
    }

    /// Other rules hold: what is dead and still here is judged by them.
    pub(super) fn judge_again(&mut self, now: Now) {
        for (entry, reason) in std::mem::take(&mut self.redelivery.dead) {
            let is_dead = match reason {
                Reason::Expired => true,
                Reason::TooOften => self.is_given_up(&entry),
                // It goes when there is still too much.
                Reason::Full => false,
            };
            if is_dead {
                self.leave(now, entry, reason);
            } else {
                self.put_back(entry);
            }
        }
    }

    /// A message is not delivered any more.
    pub(super) fn leave(&mut self, now: Now, entry: Entry, reason: Reason) {
        let policy = self.policy.as_ref();
        let wanted = policy.is_some_and(|policy| {
            policy.dead_letter.is_some()
                && match reason {
                    Reason::Expired => policy.expired_to_dead_letter,
                    Reason::TooOften => true,
                    Reason::Full => policy.on_full == OnFull::DeadLetter,
                }
        });
        if wanted && self.redelivery.queue.is_none() {
            self.claims.take(entry.lsn);
            self.redelivery.dead.push((entry, reason));
            return;
        }
        match reason {
            Reason::Expired => self.figures.expired = self.figures.expired.saturating_add(1),
            Reason::Full => self.figures.dropped = self.figures.dropped.saturating_add(1),
            Reason::TooOften => {}
        }
        let mut records = Vec::new();
        if let Some(queue) = self.redelivery.queue.as_ref().filter(|_| wanted) {
            self.figures.dead = self.figures.dead.saturating_add(1);
            records.push(define(queue.id, queue.definition.clone()));
            records.push(Draft::Put {
                targets: vec![queue.id],
                message: obituary(&entry, reason, &self.name, now),
            });
        }
        if entry.lsn.is_volatile() {
            self.volatile.give(entry.message.len());
            self.claims.drop_volatile(entry.lsn);
        } else if records.is_empty() {
            self.acks.push(entry.lsn);
        } else {
            let (dest, lsns) = (self.id, vec![entry.lsn]);
            records.push(Draft::Ack { dest, lsns });
        }
        if !records.is_empty() {
            self.submit(Ticket::default(), records);
        }
    }
}

/// A dead message as the dead message queue gets it: persistent, without expiry and due time, with
/// headers that say where it comes from and why ([`DEATH_HEADERS`](crate::machines::sweep::DEATH_HEADERS)).
pub(super) fn obituary(entry: &Entry, reason: Reason, origin: &str, now: Now) -> Bytes {
    let deliveries = match reason {
        Reason::Expired | Reason::Full => entry.failures,
        Reason::TooOften => entry.failures.max(1),
    };
    let cause = match reason {
        Reason::Full => "it was the oldest when its destination was full".to_owned(),
        Reason::Expired => "it expired before a consumer took it".to_owned(),
        Reason::TooOften if deliveries == 1 => "it was delivered once and not accepted".to_owned(),
        Reason::TooOften => format!("it was delivered {deliveries} times and never accepted"),
    };
    let headers = [
        ("TMQ_DEAD_REASON", reason.name().to_owned()),
        ("TMQ_DEAD_CAUSE", cause),
        ("TMQ_DEAD_TIME", now.wall_ms.to_string()),
        ("TMQ_DELIVERY_COUNT", deliveries.to_string()),
        ("TMQ_ORIGINAL_DESTINATION", origin.to_owned()),
        ("TMQ_ORIGINAL_MESSAGE_ID", format!("tm-{}", entry.lsn)),
    ];
    // What cannot be read cannot be given headers; it must not be lost for that.
    message::with_headers(&entry.message, &headers).unwrap_or_else(|_| entry.message.clone())
}
