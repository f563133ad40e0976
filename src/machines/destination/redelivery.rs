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
use crate::proto::ids::Lsn;
use crate::proto::message;
use crate::storage::api::Entry;
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
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TooOften => "redelivery-limit",
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
        let asks = !self.dead.is_empty() && self.queue.is_none() && !self.asked && due;
        self.asked |= asks;
        asks
    }

    /// The dead message queue, or none could be had.
    pub(super) fn found(&mut self, queue: Option<DeadLetterQueue>, now: Now) {
        self.asked = false;
        self.ask_at = queue.is_none().then(|| now.moment.after(ASK_AGAIN));
        self.queue = queue;
    }

    /// When to come back.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let rested = self.waiting.keys().next().map(|(at, _)| *at);
        let ask = self.ask_at.filter(|_| !self.dead.is_empty() && !self.asked);
        rested.into_iter().chain(ask).min()
    }
}

/// A dead message as the dead message queue gets it: persistent, without expiry and due time, with
/// headers that say where it comes from and why.
pub(super) fn obituary(entry: &Entry, reason: Reason, origin: &str, now: Now) -> Bytes {
    let deliveries = match reason {
        Reason::Expired => entry.failures,
        Reason::TooOften => entry.failures.max(1),
    };
    let cause = match reason {
        Reason::Expired => "it expired before a consumer took it".to_owned(),
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
