//! Consumers with a selector: each finds the messages that it takes by itself.
//!
//! In each lane it has a cursor of its own. What is in memory after it is looked at at once; what is in
//! the store alone is read there by the store's own thread, a bounded amount for each question; after
//! that a message is looked at as it arrives, and no old one is read again. What was found and is not
//! wanted yet waits as a copy, for anybody to take: these copies are bounded, and the cursor waits with
//! them. A message that comes back is shown to each whose cursor has passed it.
//!
//! What is taken out of its lane's order is claimed, and marked on its own (engine 6.6, 9) unless the
//! lane's mark covers it; it leaves when that is committed, after what was taken before it. Consumers
//! with a selector are served before those that take everything, which have the rest; among themselves
//! they take turns.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::claims::Claims;
use super::lanes::Lanes;
use super::timers::{Place, place};
use crate::machines::delivery::ConsumerKey;
use crate::machines::selector::Selector;
use crate::proto::ids::Lsn;
use crate::proto::message;
use crate::storage::api::{Entry, Lane, MessageFilter};

/// Copies that one consumer may have of one lane.
pub(super) const FOUND_MESSAGES: usize = 32;
/// The same in bytes; one message is always possible.
pub(super) const FOUND_BYTES: usize = 128 << 10;

/// A selector as the store is given it; counts what it was shown there.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) selector: Arc<Selector>,
    reads: AtomicU64,
}

impl MessageFilter for Judge {
    fn takes(&self, message: &[u8]) -> bool {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.selector.matches_bytes(message)
    }
}

/// What one consumer has seen of one lane.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) lane: Lane,
    /// Every stored message owed up to here was looked at.
    pub(super) upto: Lsn,
    /// Every volatile one up to here.
    pub(super) volatile_upto: Lsn,
    /// Copies of what it takes. Others may have taken one meanwhile.
    pub(super) found: BTreeMap<Lsn, Entry>,
    bytes: usize,
    /// Some volatile ones are not looked at, and go before what is stored.
    volatile_unseen: bool,
    /// The last one that was taken was stored.
    volatile_turn: bool,
    /// The first that was passed over because its group has another owner: stored, volatile.
    missed: Option<Lsn>,
    missed_volatile: Option<Lsn>,
    /// Copies that others may have taken are searched for at so many.
    clean_at: usize,
}

impl Look {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            upto: Lsn::ZERO,
            volatile_upto: Lsn::ZERO,
            found: BTreeMap::new(),
            bytes: 0,
            volatile_unseen: false,
            volatile_turn: false,
            missed: None,
            missed_volatile: None,
            clean_at: 4 * FOUND_MESSAGES,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= FOUND_MESSAGES || self.bytes >= FOUND_BYTES
    }

    /// There is room for a copy of this one. Where memory goes first, one volatile copy is always
    /// possible: the stored ones may have to wait for it.
    pub(super) fn has_room(&self, entry: &Entry, memory_first: bool) -> bool {
        let goes_first = memory_first && entry.lsn.is_volatile();
        !self.is_full() || (goes_first && self.first_volatile().is_none())
    }

    /// This far it has seen; volatile ones beyond that go first, if there are any.
    pub(super) fn has_seen(&mut self, upto: Lsn, volatile_upto: Lsn, volatile_unseen: bool) {
        (self.upto, self.volatile_upto) = (upto, volatile_upto);
        self.volatile_unseen = volatile_unseen;
    }

    fn first_volatile(&self) -> Option<Lsn> {
        let volatile = self.found.range(Lsn::volatile(0)..).next();
        volatile.map(|(lsn, _)| *lsn)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.drop(entry.lsn);
        self.bytes = self.bytes.saturating_add(entry.message.len());
        self.found.insert(entry.lsn, entry);
    }

    pub(super) fn drop(&mut self, lsn: Lsn) -> Option<Entry> {
        let entry = self.found.remove(&lsn)?;
        self.bytes = self.bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    /// The copy whose turn it is: stored and volatile ones take turns, unless what is in memory goes
    /// first. None when that was not looked at yet.
    pub(super) fn next(&mut self, memory_first: bool) -> Option<Entry> {
        let first = *self.found.first_key_value()?.0;
        let is_turn = memory_first || self.volatile_turn;
        let lsn = match self.first_volatile().filter(|_| is_turn) {
            Some(volatile) => volatile,
            None if self.volatile_unseen => return None,
            None => first,
        };
        self.volatile_turn = !lsn.is_volatile();
        self.drop(lsn)
    }

    pub(super) fn miss(&mut self, lsn: Lsn) {
        let missed = if lsn.is_volatile() {
            &mut self.missed_volatile
        } else {
            &mut self.missed
        };
        *missed = missed.iter().copied().chain([lsn]).min();
    }

    /// Goes back to the first one that was passed over.
    fn step_back(&mut self) {
        if let Some(missed) = self.missed.take() {
            self.upto = self.upto.min(missed.prev());
        }
        if let Some(missed) = self.missed_volatile.take() {
            self.volatile_upto = self.volatile_upto.min(missed.prev());
        }
    }

    /// Forgets the copies of what others have taken, now and then.
    pub(super) fn clean(&mut self, lanes: &Lanes, claims: &Claims) {
        if self.found.len() < self.clean_at {
            return;
        }
        let lane = self.lane;
        self.found
            .retain(|lsn, _| lanes.is_free(lane, *lsn, claims));
        let bytes = self.found.values().map(|entry| entry.message.len());
        self.bytes = bytes.sum();
        self.clean_at = self.found.len().saturating_mul(2).max(4 * FOUND_MESSAGES);
    }
}

/// Taken for a consumer.
#[derive(Debug)]
pub(super) struct Going {
    pub(super) entry: Entry,
    /// Its mark is not committed.
    pub(super) waits: bool,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Picker {
    pub(super) key: ConsumerKey,
    pub(super) judge: Arc<Judge>,
    pub(super) looks: Vec<Look>,
    /// The lane that the store is asked about, and where it was to go on.
    pub(super) asked: Option<(Lane, Lsn)>,
    /// Due messages that it takes, with their priorities. Others may have taken one meanwhile.
    pub(super) due: BTreeMap<Place, Lane>,
    /// One of these was passed over because its group has another owner.
    pub(super) missed_due: bool,
    pub(super) going: VecDeque<Going>,
}

impl Picker {
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        self.judge.selector.matches_bytes(&entry.message)
    }

    pub(super) fn look(&mut self, lane: Lane) -> &mut Look {
        let at = match self.looks.iter().position(|look| look.lane == lane) {
            Some(at) => at,
            None => {
                self.looks.push(Look::new(lane));
                self.looks.len() - 1
            }
        };
        &mut self.looks[at]
    }

    /// The first that was taken and may leave.
    pub(super) fn next_ready(&mut self) -> Option<Entry> {
        self.going
            .pop_front_if(|first| !first.waits)
            .map(|going| going.entry)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pickers {
    /// In the order of their turns.
    pub(super) all: Vec<Picker>,
    /// To be marked with the next unit of this step.
    pub(super) unmarked: Vec<Lsn>,
    /// What the selectors of those that are gone were shown.
    reads: u64,
}

impl Pickers {
    /// None yet; `reads` by those that have been there.
    pub(super) fn new(reads: u64) -> Self {
        Self {
            reads,
            ..Self::default()
        }
    }

    pub(super) fn attach(&mut self, key: ConsumerKey, selector: Arc<Selector>) {
        self.all.push(Picker {
            key,
            judge: Arc::new(Judge {
                selector,
                reads: AtomicU64::new(0),
            }),
            looks: Vec::new(),
            asked: None,
            due: BTreeMap::new(),
            missed_due: false,
            going: VecDeque::new(),
        });
    }

    /// Ends one; gives what had not left, in order.
    pub(super) fn detach(&mut self, key: ConsumerKey) -> VecDeque<Going> {
        let Some(at) = self.all.iter().position(|picker| picker.key == key) else {
            return VecDeque::new();
        };
        let picker = self.all.remove(at);
        self.reads = self.reads.saturating_add(reads(&picker));
        picker.going
    }

    /// A message that is not delayed comes back to its lane.
    pub(super) fn offer(&mut self, entry: &Entry) {
        if self.all.is_empty() {
            return;
        }
        let lane = entry.lane();
        for picker in &mut self.all {
            let look = picker.look(lane);
            let upto = if entry.lsn.is_volatile() {
                look.volatile_upto
            } else {
                look.upto
            };
            if entry.lsn <= upto && picker.takes(entry) {
                picker.look(lane).insert(entry.clone());
            }
        }
    }

    /// The same for one that is due.
    pub(super) fn offer_due(&mut self, entry: &Entry) {
        let priority = Lane(message::priority(&entry.message));
        for picker in &mut self.all {
            if picker.takes(entry) {
                picker.due.insert(place(entry), priority);
            }
        }
    }

    /// These are marked: they may leave.
    pub(super) fn marked(&mut self, lsns: &[Lsn]) {
        let waiting = self.all.iter_mut().flat_map(|picker| &mut picker.going);
        let waiting = waiting.filter(|going| going.waits);
        let marked: HashSet<Lsn> = lsns.iter().copied().collect();
        for going in waiting.filter(|going| marked.contains(&going.entry.lsn)) {
            going.waits = false;
        }
    }

    /// What is to be marked in this step.
    pub(super) fn take_unmarked(&mut self) -> Vec<Lsn> {
        std::mem::take(&mut self.unmarked)
    }

    /// What was passed over for a group's sake is looked at again. Whether due ones are to be, too.
    pub(super) fn look_again(&mut self) -> bool {
        let mut due = false;
        for picker in &mut self.all {
            due |= std::mem::take(&mut picker.missed_due);
            for look in &mut picker.looks {
                look.step_back();
            }
        }
        due
    }

    /// One of them takes it: the one that is alone, if there is one.
    pub(super) fn is_wanted(&self, entry: &Entry, alone: Option<ConsumerKey>) -> bool {
        let mut all = self.served(alone);
        all.any(|picker| picker.takes(entry))
    }

    /// Due messages that wait for one of them, or for the one that is alone; or somewhat more.
    pub(super) fn due(&self, alone: Option<ConsumerKey>) -> usize {
        let all = self.served(alone).map(|picker| picker.due.len());
        all.fold(0, usize::saturating_add)
    }

    fn served(&self, alone: Option<ConsumerKey>) -> impl Iterator<Item = &Picker> {
        let all = self.all.iter();
        all.filter(move |picker| alone.is_none_or(|alone| alone == picker.key))
    }

    /// Bytes of the copies.
    pub(super) fn kept_bytes(&self) -> usize {
        let looks = self.all.iter().flat_map(|picker| &picker.looks);
        looks.fold(0, |sum, look| sum.saturating_add(look.bytes))
    }

    /// How many messages the store has shown to their selectors.
    pub(super) fn reads(&self) -> u64 {
        let all = self.all.iter().map(reads);
        all.fold(self.reads, u64::saturating_add)
    }
}

fn reads(picker: &Picker) -> u64 {
    picker.judge.reads.load(Ordering::Relaxed)
}
