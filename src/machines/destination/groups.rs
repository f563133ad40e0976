//! Message groups: the messages of one group go to one consumer for as long as it is there.
//!
//! A group's name falls into one of 1,024 buckets; a bucket belongs to the consumer that got its first
//! message. A message whose owner has no credit waits aside, so that others pass; those that wait are
//! bounded by the machine. When a consumer goes its buckets are free again, and what waited for it
//! goes back to its place, before newer messages of the same group. A message that its owner's
//! selector does not take goes to others as if it had no group.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::machines::delivery::ConsumerKey;
use crate::machines::selector::Selector;
use crate::proto::ids::Lsn;
use crate::storage::api::Entry;

/// How many buckets there are.
const BUCKETS: usize = 1024;

/// A group's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket(usize);

impl Bucket {
    /// The bucket of a group. FNV-1a, so that a seed gives the same run everywhere.
    pub(super) fn of(group: &str) -> Self {
        let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let folded = hash ^ (hash >> 32);
        Self(usize::try_from(folded % 1024).unwrap_or(0))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Made with the first message of a group: most destinations have none.
    owners: Option<Box<[Option<ConsumerKey>]>>,
    /// What waits for each owner. In the order of keys: the same events give the same course.
    aside: BTreeMap<ConsumerKey, VecDeque<Entry>>,
    /// What consumers take that do not take everything.
    selectors: BTreeMap<ConsumerKey, Arc<Selector>>,
    messages: usize,
    bytes: usize,
}

impl Groups {
    /// A consumer with a selector.
    pub(super) fn introduce(&mut self, consumer: ConsumerKey, selector: Arc<Selector>) {
        self.selectors.insert(consumer, selector);
    }

    /// Who gets a message of this bucket: its owner, if that takes it, or `candidate`, who is the owner
    /// if there was none.
    pub(super) fn owner(
        &mut self,
        bucket: Bucket,
        candidate: ConsumerKey,
        message: &[u8],
    ) -> ConsumerKey {
        let owners = self
            .owners
            .get_or_insert_with(|| vec![None; BUCKETS].into_boxed_slice());
        let owner = *owners[bucket.0].get_or_insert(candidate);
        let selector = self.selectors.get(&owner);
        if selector.is_none_or(|selector| selector.matches_bytes(message)) {
            owner
        } else {
            candidate
        }
    }

    /// Something waits for this consumer.
    pub(super) fn waits_for(&self, owner: ConsumerKey) -> bool {
        !self.aside.is_empty() && self.aside.contains_key(&owner)
    }

    pub(super) fn set_aside(&mut self, owner: ConsumerKey, entry: Entry) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(entry.message.len());
        self.aside.entry(owner).or_default().push_back(entry);
    }

    /// The oldest message that waits for an owner which `can_take` it.
    pub(super) fn next(
        &mut self,
        can_take: impl Fn(ConsumerKey) -> bool,
    ) -> Option<(ConsumerKey, Entry)> {
        let owner = self.aside.keys().copied().find(|key| can_take(*key))?;
        let waiting = self.aside.get_mut(&owner)?;
        let entry = waiting.pop_front();
        if waiting.is_empty() {
            self.aside.remove(&owner);
        }
        let entry = entry?;
        self.take_off(&entry);
        Some((owner, entry))
    }

    /// Takes a message out, if it waits here.
    pub(super) fn remove(&mut self, lsn: Lsn) -> Option<Entry> {
        let (owner, at) = self.aside.iter().find_map(|(owner, waiting)| {
            let at = waiting.iter().position(|entry| entry.lsn == lsn)?;
            Some((*owner, at))
        })?;
        let waiting = self.aside.get_mut(&owner)?;
        let entry = waiting.remove(at)?;
        if waiting.is_empty() {
            self.aside.remove(&owner);
        }
        self.take_off(&entry);
        Some(entry)
    }

    /// Everything that waits.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.aside.values().flatten()
    }

    /// A consumer is gone: its buckets are free. Gives what waited for it.
    pub(super) fn release(&mut self, owner: ConsumerKey) -> VecDeque<Entry> {
        for slot in self.owners.iter_mut().flatten() {
            if *slot == Some(owner) {
                *slot = None;
            }
        }
        self.selectors.remove(&owner);
        let waiting = self.aside.remove(&owner).unwrap_or_default();
        for entry in &waiting {
            self.take_off(entry);
        }
        waiting
    }

    /// Nobody is there: nothing is owned by anybody.
    pub(super) fn forget_owners(&mut self) {
        self.owners = None;
    }

    /// Messages that wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.messages, self.bytes)
    }

    fn take_off(&mut self, entry: &Entry) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(entry.message.len());
    }
}
