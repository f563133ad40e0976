//! The consumers of a destination: what each holds, and whose turn it is.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::machines::delivery::{ConsumerKey, ConsumerTraits};
use crate::proto::ids::Lsn;
use crate::storage::api::Entry;

/// One of them.
#[derive(Debug)]
pub(super) struct Consumer {
    prefetch: usize,
    /// Bodies are kept: they are wanted again if the consumer goes.
    unsettled: BTreeMap<Lsn, Entry>,
    unsettled_bytes: usize,
    /// Taken out of `unsettled` by transactions that are being committed; their bytes still count.
    held: usize,
    /// On their way to it, waiting for their mark; their bytes count, too.
    coming: usize,
    /// It has a selector, and finds its messages by itself.
    is_picky: bool,
    /// It stands in the ring: exactly while it has credit and takes everything.
    in_ring: bool,
}

impl Consumer {
    pub(super) fn has_credit(&self, bytes_max: usize) -> bool {
        let has_none = self.unsettled.is_empty() && self.coming == 0;
        self.credit() > 0 && (has_none || self.unsettled_bytes < bytes_max)
    }

    /// How many more its count allows.
    pub(super) fn credit(&self) -> usize {
        let has = self.unsettled.len().saturating_add(self.held);
        self.prefetch
            .saturating_sub(has.saturating_add(self.coming))
    }

    fn wants_turn(&self, bytes_max: usize) -> bool {
        !self.in_ring && !self.is_picky && self.has_credit(bytes_max)
    }

    pub(super) fn hold(&mut self, entry: Entry) {
        self.unsettled_bytes = self.unsettled_bytes.saturating_add(entry.message.len());
        self.unsettled.insert(entry.lsn, entry);
    }

    fn take(&mut self, lsn: Lsn) -> Option<Entry> {
        let entry = self.unsettled.remove(&lsn)?;
        self.unsettled_bytes = self.unsettled_bytes.saturating_sub(entry.message.len());
        Some(entry)
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
    /// Those that want to be alone, in the order of their coming: the first one gets everything.
    exclusive: VecDeque<ConsumerKey>,
    unsettled: usize,
    /// Bytes of what they hold, and of what transactions hold of theirs.
    unsettled_bytes: usize,
}

impl Consumers {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            all: HashMap::new(),
            ring: VecDeque::new(),
            exclusive: VecDeque::new(),
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

    /// What one may hold, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Somebody could take a message.
    pub(super) fn has_credit(&self) -> bool {
        self.first_in_turn().is_some()
    }

    /// How many share what is ready.
    pub(super) fn sharers(&self) -> usize {
        if self.exclusive.is_empty() {
            self.ring.len().max(1)
        } else {
            1
        }
    }

    /// Some consumer has this one.
    pub(super) fn holds(&self, lsn: Lsn) -> bool {
        let mut all = self.all.values();
        all.any(|consumer| consumer.unsettled.contains_key(&lsn))
    }

    /// What they have and have not settled, but for what transactions hold.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.all.values().flat_map(|it| it.unsettled.values())
    }

    /// This one has credit.
    pub(super) fn can_take(&self, key: ConsumerKey) -> bool {
        let consumer = self.all.get(&key);
        consumer.is_some_and(|consumer| consumer.has_credit(self.bytes_max))
    }

    /// Somebody takes everything: one of all, or the one that is alone.
    pub(super) fn takes_all(&self) -> bool {
        if let Some(alone) = self.alone().and_then(|key| self.all.get(&key)) {
            return !alone.is_picky;
        }
        let mut all = self.all.values();
        all.any(|consumer| !consumer.is_picky && consumer.prefetch > 0)
    }

    /// The one that gets everything that it takes, if there is one.
    pub(super) fn alone(&self) -> Option<ConsumerKey> {
        self.exclusive.front().copied()
    }

    pub(super) fn attach(&mut self, key: ConsumerKey, prefetch: u32, traits: &ConsumerTraits) {
        let is_picky = traits.selector.is_some();
        let consumer = Consumer {
            prefetch: usize::try_from(prefetch.max(1)).unwrap_or(usize::MAX),
            unsettled: BTreeMap::new(),
            unsettled_bytes: 0,
            held: 0,
            coming: 0,
            is_picky,
            in_ring: !is_picky,
        };
        assert!(
            self.all.insert(key, consumer).is_none(),
            "a session gives each consumer a number of its own"
        );
        if !is_picky {
            self.ring.push_back(key);
        }
        if traits.exclusive {
            self.exclusive.push_back(key);
        }
    }

    /// Ends a consumer, to which nothing is on its way; gives what it held, in order.
    pub(super) fn detach(&mut self, key: ConsumerKey) -> impl Iterator<Item = Entry> + use<> {
        let mut held = BTreeMap::new();
        if let Some(consumer) = self.all.remove(&key) {
            self.free(consumer.unsettled_bytes);
            held = consumer.unsettled;
        }
        self.ring.retain(|other| *other != key);
        self.exclusive.retain(|other| *other != key);
        self.unsettled = self.unsettled.saturating_sub(held.len());
        held.into_values()
    }

    /// Takes what the consumer holds of `lsns`; those that `keep` says remain in the list.
    pub(super) fn settle(
        &mut self,
        key: ConsumerKey,
        lsns: &mut Vec<Lsn>,
        mut keep: impl FnMut(Entry) -> bool,
    ) {
        let Some(consumer) = self.all.get_mut(&key) else {
            lsns.clear();
            return;
        };
        let (held, bytes) = (consumer.unsettled.len(), consumer.unsettled_bytes);
        lsns.retain(|lsn| consumer.take(*lsn).is_some_and(&mut keep));
        let settled = held.saturating_sub(consumer.unsettled.len());
        self.unsettled = self.unsettled.saturating_sub(settled);
        let freed = bytes.saturating_sub(consumer.unsettled_bytes);
        self.unsettled_bytes = self.unsettled_bytes.saturating_sub(freed);
        if consumer.wants_turn(self.bytes_max) {
            consumer.in_ring = true;
            self.ring.push_back(key);
        }
    }

    /// No more for this consumer; gives what it held but for `keep`, in order.
    pub(super) fn retire(
        &mut self,
        key: ConsumerKey,
        keep: &[Lsn],
    ) -> impl Iterator<Item = Entry> + use<> {
        let mut back = BTreeMap::new();
        if let Some(consumer) = self.all.get_mut(&key) {
            consumer.prefetch = 0;
            consumer.in_ring = false;
            let kept = keep
                .iter()
                .filter_map(|lsn| Some((*lsn, consumer.unsettled.remove(lsn)?)))
                .collect();
            back = std::mem::replace(&mut consumer.unsettled, kept);
            let bytes: usize = back.values().map(|entry| entry.message.len()).sum();
            consumer.unsettled_bytes = consumer.unsettled_bytes.saturating_sub(bytes);
            self.free(bytes);
        }
        self.ring.retain(|other| *other != key);
        self.exclusive.retain(|other| *other != key);
        self.unsettled = self.unsettled.saturating_sub(back.len());
        back.into_values()
    }

    /// Takes these from the consumer for a transaction; `None`, and nothing is taken, when it does
    /// not hold all of them. They count as its own until [`Consumers::let_go`] or
    /// [`Consumers::take_back`].
    pub(super) fn hold(&mut self, key: ConsumerKey, lsns: &[Lsn]) -> Option<Vec<Entry>> {
        let consumer = self.all.get_mut(&key)?;
        let mut held = Vec::with_capacity(lsns.len().min(consumer.unsettled.len()));
        for lsn in lsns {
            let Some(entry) = consumer.unsettled.remove(lsn) else {
                let back = held.into_iter().map(|entry: Entry| (entry.lsn, entry));
                consumer.unsettled.extend(back);
                return None;
            };
            held.push(entry);
        }
        consumer.held = consumer.held.saturating_add(held.len());
        Some(held)
    }

    /// What a transaction held of the consumer's is settled: its credit comes back.
    pub(super) fn let_go(&mut self, key: ConsumerKey, held: &[Entry]) {
        self.unsettled = self.unsettled.saturating_sub(held.len());
        let Some(consumer) = self.all.get_mut(&key) else {
            return;
        };
        let bytes: usize = held.iter().map(|entry| entry.message.len()).sum();
        consumer.unsettled_bytes = consumer.unsettled_bytes.saturating_sub(bytes);
        self.unsettled_bytes = self.unsettled_bytes.saturating_sub(bytes);
        consumer.held = consumer.held.saturating_sub(held.len());
        if consumer.wants_turn(self.bytes_max) {
            consumer.in_ring = true;
            self.ring.push_back(key);
        }
    }

    /// The transaction came to nothing: the consumer has them again. If it is gone, they are given
    /// back.
    pub(super) fn take_back(&mut self, key: ConsumerKey, held: Vec<Entry>) -> Vec<Entry> {
        if let Some(consumer) = self.all.get_mut(&key) {
            consumer.held = consumer.held.saturating_sub(held.len());
            let back = held.into_iter().map(|entry| (entry.lsn, entry));
            consumer.unsettled.extend(back);
            return Vec::new();
        }
        self.unsettled = self.unsettled.saturating_sub(held.len());
        held
    }

    /// One consumer gets everything.
    pub(super) fn is_exclusive(&self) -> bool {
        !self.exclusive.is_empty()
    }

    /// The consumer whose turn it is, out of the ring until [`Consumers::served`].
    pub(super) fn turn(&mut self) -> Option<ConsumerKey> {
        if self.exclusive.is_empty() {
            return self.ring.pop_front();
        }
        let at = self.first_in_turn()?;
        self.ring.remove(at)
    }

    pub(super) fn get_mut(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.all.get_mut(&key)
    }

    /// The consumer was given so many, of so many bytes.
    pub(super) fn served(&mut self, key: ConsumerKey, count: usize, bytes: usize) {
        self.unsettled = self.unsettled.saturating_add(count);
        self.unsettled_bytes = self.unsettled_bytes.saturating_add(bytes);
        let bytes_max = self.bytes_max;
        let Some(consumer) = self.all.get_mut(&key) else {
            return;
        };
        consumer.in_ring = consumer.has_credit(bytes_max);
        if consumer.in_ring {
            self.ring.push_back(key);
        }
    }

    /// A message of so many bytes is on its way to a consumer.
    pub(super) fn reserve(&mut self, key: ConsumerKey, bytes: usize) {
        if let Some(consumer) = self.all.get_mut(&key) {
            consumer.coming = consumer.coming.saturating_add(1);
            consumer.unsettled_bytes = consumer.unsettled_bytes.saturating_add(bytes);
            self.unsettled_bytes = self.unsettled_bytes.saturating_add(bytes);
        }
    }

    /// It has come, or it does not come.
    pub(super) fn unreserve(&mut self, key: ConsumerKey, bytes: usize) {
        if let Some(consumer) = self.all.get_mut(&key) {
            consumer.coming = consumer.coming.saturating_sub(1);
            consumer.unsettled_bytes = consumer.unsettled_bytes.saturating_sub(bytes);
            self.free(bytes);
        }
    }

    /// Gives one message to a consumer out of its turn.
    pub(super) fn give(&mut self, key: ConsumerKey, entry: Entry) {
        let Some(consumer) = self.all.get_mut(&key) else {
            return;
        };
        self.unsettled_bytes = self.unsettled_bytes.saturating_add(entry.message.len());
        consumer.hold(entry);
        self.unsettled = self.unsettled.saturating_add(1);
        if consumer.in_ring && !consumer.has_credit(self.bytes_max) {
            consumer.in_ring = false;
            self.ring.retain(|other| *other != key);
        }
    }

    fn free(&mut self, bytes: usize) {
        self.unsettled_bytes = self.unsettled_bytes.saturating_sub(bytes);
    }

    /// Where in the ring the one stands whose turn it is.
    fn first_in_turn(&self) -> Option<usize> {
        match self.exclusive.front() {
            None => (!self.ring.is_empty()).then_some(0),
            Some(alone) => self.ring.iter().position(|key| key == alone),
        }
    }
}
