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
    /// It stands in the ring: exactly while it has credit.
    in_ring: bool,
}

impl Consumer {
    fn has_credit(&self, bytes_max: usize) -> bool {
        self.unsettled.len() < self.prefetch
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
    /// Of all of them.
    unsettled_bytes: usize,
}

impl Consumers {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            all: HashMap::new(),
            ring: VecDeque::new(),
            unsettled: 0,
            unsettled_bytes: 0,
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

    /// Bytes of them.
    pub(super) fn unsettled_bytes(&self) -> usize {
        self.unsettled_bytes
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
        self.unsettled_bytes = self
            .unsettled_bytes
            .saturating_sub(consumer.unsettled_bytes);
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
        let held = (consumer.unsettled.len(), consumer.unsettled_bytes);
        lsns.retain(|lsn| match (consumer.take(*lsn), outcome) {
            (Some(_), Outcome::Accepted) => true,
            (Some(message), Outcome::Released) => {
                backlog.put_back(*lsn, message);
                false
            }
            (None, Outcome::Accepted | Outcome::Released) => false,
        });
        let settled = held.0.saturating_sub(consumer.unsettled.len());
        self.unsettled = self.unsettled.saturating_sub(settled);
        let freed = held.1.saturating_sub(consumer.unsettled_bytes);
        self.unsettled_bytes = self.unsettled_bytes.saturating_sub(freed);
        if !consumer.in_ring && consumer.has_credit(self.bytes_max) {
            consumer.in_ring = true;
            self.ring.push_back(key);
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
            self.unsettled_bytes = self.unsettled_bytes.saturating_add(delivery.message.len());
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
