//! The consumers of a queue: what each holds, and whose turn it is.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::backlog::Backlog;
use crate::machines::delivery::{ConsumerKey, Delivery, Outcome};
use crate::proto::ids::Lsn;

#[derive(Debug)]
struct Consumer {
    prefetch: usize,
    /// Bodies are kept: they are wanted again if the consumer goes.
    unsettled: BTreeMap<Lsn, Bytes>,
    unsettled_bytes: usize,
    /// Taken out of `unsettled` by transactions that are being committed; their bytes still count.
    held: usize,
    /// It stands in the ring: exactly while it has credit.
    in_ring: bool,
}

impl Consumer {
    fn has_credit(&self, bytes_max: usize) -> bool {
        self.unsettled.len().saturating_add(self.held) < self.prefetch
            && (self.unsettled.is_empty() || self.unsettled_bytes < bytes_max)
    }

    fn hold(&mut self, delivery: &Delivery) {
        let message = delivery.message.clone();
        self.unsettled_bytes = self.unsettled_bytes.saturating_add(message.len());
        self.unsettled.insert(delivery.lsn, message);
    }

    fn take(&mut self, lsn: Lsn) -> Option<Bytes> {
        let message = self.unsettled.remove(&lsn)?;
        self.unsettled_bytes = self.unsettled_bytes.saturating_sub(message.len());
        Some(message)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Consumers {
    /// What one may hold, in bytes.
    bytes_max: usize,
    all: HashMap<ConsumerKey, Consumer>,
    /// Those with credit, whose turn it is first.
    ring: VecDeque<ConsumerKey>,
    unsettled: usize,
}

impl Consumers {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            all: HashMap::new(),
            ring: VecDeque::new(),
            unsettled: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Deliveries that are not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Somebody could take a message.
    pub(super) fn has_credit(&self) -> bool {
        !self.ring.is_empty()
    }

    pub(super) fn attach(&mut self, key: ConsumerKey, prefetch: u32) {
        let consumer = Consumer {
            prefetch: usize::try_from(prefetch.max(1)).unwrap_or(usize::MAX),
            unsettled: BTreeMap::new(),
            unsettled_bytes: 0,
            held: 0,
            in_ring: true,
        };
        assert!(
            self.all.insert(key, consumer).is_none(),
            "a session gives each consumer a number of its own"
        );
        self.ring.push_back(key);
    }

    /// What it held goes back.
    pub(super) fn detach(&mut self, key: ConsumerKey, backlog: &mut Backlog) {
        let Some(consumer) = self.all.remove(&key) else {
            return;
        };
        self.ring.retain(|other| *other != key);
        self.unsettled = self.unsettled.saturating_sub(consumer.unsettled.len());
        for (lsn, message) in consumer.unsettled {
            backlog.put_back(lsn, message);
        }
    }

    /// Settles what the consumer holds of `lsns`; those that it accepted now remain in the list.
    pub(super) fn settle(
        &mut self,
        key: ConsumerKey,
        lsns: &mut Vec<Lsn>,
        outcome: Outcome,
        backlog: &mut Backlog,
    ) {
        let Some(consumer) = self.all.get_mut(&key) else {
            lsns.clear();
            return;
        };
        let held = consumer.unsettled.len();
        lsns.retain(|lsn| match (consumer.take(*lsn), outcome) {
            (Some(_), Outcome::Accepted) => true,
            (Some(message), Outcome::Released) => {
                backlog.put_back(*lsn, message);
                false
            }
            (None, Outcome::Accepted | Outcome::Released) => false,
        });
        let settled = held.saturating_sub(consumer.unsettled.len());
        self.unsettled = self.unsettled.saturating_sub(settled);
        if !consumer.in_ring && consumer.has_credit(self.bytes_max) {
            consumer.in_ring = true;
            self.ring.push_back(key);
        }
    }

    /// No more for this consumer; what it holds goes back, but for `keep`.
    pub(super) fn retire(&mut self, key: ConsumerKey, keep: &[Lsn], backlog: &mut Backlog) {
        let Some(consumer) = self.all.get_mut(&key) else {
            return;
        };
        consumer.prefetch = 0;
        consumer.in_ring = false;
        self.ring.retain(|other| *other != key);
        let kept: BTreeMap<Lsn, Bytes> = keep
            .iter()
            .filter_map(|lsn| Some((*lsn, consumer.unsettled.remove(lsn)?)))
            .collect();
        let back = std::mem::replace(&mut consumer.unsettled, kept);
        self.unsettled = self.unsettled.saturating_sub(back.len());
        for (lsn, message) in back {
            consumer.unsettled_bytes = consumer.unsettled_bytes.saturating_sub(message.len());
            backlog.put_back(lsn, message);
        }
    }

    /// Takes these from the consumer for a transaction; `None`, and nothing is taken, when it does
    /// not hold all of them. They count as its own until [`Consumers::let_go`] or
    /// [`Consumers::take_back`].
    pub(super) fn hold(&mut self, key: ConsumerKey, lsns: &[Lsn]) -> Option<Vec<(Lsn, Bytes)>> {
        let consumer = self.all.get_mut(&key)?;
        let mut held = Vec::with_capacity(lsns.len().min(consumer.unsettled.len()));
        for lsn in lsns {
            let Some(message) = consumer.unsettled.remove(lsn) else {
                consumer.unsettled.extend(held);
                return None;
            };
            held.push((*lsn, message));
        }
        consumer.held = consumer.held.saturating_add(held.len());
        Some(held)
    }

    /// What a transaction held of the consumer's is settled: its credit comes back.
    pub(super) fn let_go(&mut self, key: ConsumerKey, held: &[(Lsn, Bytes)]) {
        self.unsettled = self.unsettled.saturating_sub(held.len());
        let Some(consumer) = self.all.get_mut(&key) else {
            return;
        };
        let bytes: usize = held.iter().map(|(_, message)| message.len()).sum();
        consumer.unsettled_bytes = consumer.unsettled_bytes.saturating_sub(bytes);
        consumer.held = consumer.held.saturating_sub(held.len());
        if !consumer.in_ring && consumer.has_credit(self.bytes_max) {
            consumer.in_ring = true;
            self.ring.push_back(key);
        }
    }

    /// The transaction came to nothing: the consumer has them again, or the queue, if it is gone.
    pub(super) fn take_back(
        &mut self,
        key: ConsumerKey,
        held: Vec<(Lsn, Bytes)>,
        backlog: &mut Backlog,
    ) {
        if let Some(consumer) = self.all.get_mut(&key) {
            consumer.held = consumer.held.saturating_sub(held.len());
            consumer.unsettled.extend(held);
            return;
        }
        self.unsettled = self.unsettled.saturating_sub(held.len());
        for (lsn, message) in held {
            backlog.put_back(lsn, message);
        }
    }

    /// Gives the consumer whose turn it is its share of what is ready and not beyond the mark.
    pub(super) fn serve_next(
        &mut self,
        backlog: &mut Backlog,
        mark: Lsn,
    ) -> Option<(ConsumerKey, Vec<Delivery>)> {
        let share = backlog.ready().div_ceil(self.ring.len().max(1));
        let key = self.ring.pop_front()?;
        let consumer = self
            .all
            .get_mut(&key)
            .expect("the ring holds only consumers that are attached: detach takes them out");
        let credit = consumer.prefetch.saturating_sub(consumer.unsettled.len());
        let mut deliveries = Vec::with_capacity(share.min(credit));
        while deliveries.len() < share
            && consumer.has_credit(self.bytes_max)
            && backlog.next().is_some_and(|lsn| lsn <= mark)
            && let Some(delivery) = backlog.pop()
        {
            consumer.hold(&delivery);
            deliveries.push(delivery);
        }
        self.unsettled = self.unsettled.saturating_add(deliveries.len());
        consumer.in_ring = consumer.has_credit(self.bytes_max);
        if consumer.in_ring {
            self.ring.push_back(key);
        }
        Some((key, deliveries))
    }
}
