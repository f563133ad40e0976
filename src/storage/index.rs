//! The index: what each destination owes, in LSN order, and every definition. [`Index::apply`] is the
//! only way it changes: on the active when a batch is committed on both servers, on the passive the
//! same way, and in recovery. Same records, same index.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::LogRecord;

use super::api::{
    Change, Committed, DestinationFacts, Entry, Lane, LaneFacts, SPACE_DESTINATION, Times,
};
use super::ledger::{ChunkFacts, Ledger};

/// Where a message stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its position.
    pub lsn: Lsn,
    /// The first LSN of its chunk.
    pub chunk: Lsn,
    /// Where its bytes begin in the chunk; 0, where no message can be, once it is acknowledged.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
    /// Where and how long it waits.
    pub times: Times,
}

impl Slot {
    /// No message begins here: the header of the chunk does.
    const GONE: u32 = 0;

    /// Still owed.
    #[must_use]
    pub fn live(&self) -> bool {
        self.offset != Self::GONE
    }
}

/// What one destination owes.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// Kind byte and name.
    pub definition: Bytes,
    /// In LSN order, the first one live; acknowledged ones in between are marked.
    slots: VecDeque<Slot>,
    live: usize,
    /// The delivery mark of each lane.
    pub marks: [Lsn; Lane::COUNT],
    /// See [`DestinationFacts::tail`].
    pub tail: Lsn,
    /// What is known of single owed messages.
    pub known: BTreeMap<Lsn, Known>,
}

/// What is known of an owed message besides its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// See [`Entry::marked`].
    pub marked: bool,
    /// See [`Entry::failures`].
    pub failures: u32,
}

impl Destination {
    /// As it was at a checkpoint.
    #[must_use]
    pub fn restored(
        definition: Bytes,
        marks: [Lsn; Lane::COUNT],
        tail: Lsn,
        slots: VecDeque<Slot>,
        known: BTreeMap<Lsn, Known>,
    ) -> Self {
        Self {
            definition,
            live: slots.len(),
            slots,
            marks,
            tail,
            known,
        }
    }

    /// Messages owed.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.live
    }

    /// Those owed after an LSN, in order.
    pub fn owed_after(&self, after: Lsn) -> impl Iterator<Item = &Slot> + '_ {
        let start = self.slots.partition_point(|slot| slot.lsn <= after);
        self.slots.range(start..).filter(|slot| slot.live())
    }

    /// Still owes this message.
    #[must_use]
    pub fn owes(&self, lsn: Lsn) -> bool {
        self.slots
            .binary_search_by_key(&lsn, |slot| slot.lsn)
            .is_ok_and(|at| self.slots[at].live())
    }

    /// Marks a message as done with; gives the chunk that it was in, if it was owed.
    fn settle(&mut self, lsn: Lsn) -> Option<Lsn> {
        let at = if self.slots.front()?.lsn == lsn {
            0
        } else {
            self.slots
                .binary_search_by_key(&lsn, |slot| slot.lsn)
                .ok()?
        };
        let slot = &mut self.slots[at];
        if !slot.live() {
            return None;
        }
        slot.offset = Slot::GONE;
        let chunk = slot.chunk;
        self.live -= 1;
        if !self.known.is_empty() {
            self.known.remove(&lsn);
        }
        while self.slots.front().is_some_and(|slot| !slot.live()) {
            self.slots.pop_front();
        }
        if self.slots.len() > 64 && self.slots.len() > self.live * 2 {
            self.slots.retain(Slot::live);
        }
        Some(chunk)
    }

    /// A message that is about to be told of.
    #[must_use]
    pub fn entry(&self, lsn: Lsn, message: Bytes) -> Entry {
        let known = self.known.get(&lsn).copied().unwrap_or_default();
        Entry {
            lsn,
            message,
            marked: known.marked,
            failures: known.failures,
        }
    }

    fn facts(&self, id: DestId) -> DestinationFacts {
        let mut lanes: Vec<LaneFacts> = (0..=Lane::DELAYED.0)
            .map(|lane| LaneFacts {
                lane: Lane(lane),
                depth: 0,
                tail: Lsn::ZERO,
                mark: self.marks[Lane(lane).place()],
            })
            .collect();
        let (mut next_due_ms, mut next_expiry_ms) = (None, None);
        let sooner = |next: &mut Option<u64>, at: Option<u64>| {
            if let Some(at) = at {
                *next = Some(next.map_or(at, |next| next.min(at)));
            }
        };
        for slot in self.owed_after(Lsn::ZERO) {
            let lane = &mut lanes[slot.times.lane.place()];
            lane.depth += 1;
            lane.tail = slot.lsn;
            sooner(&mut next_due_ms, slot.times.due_ms);
            sooner(&mut next_expiry_ms, slot.times.expiry_ms);
        }
        lanes.retain(|lane| lane.depth > 0 || lane.mark > Lsn::ZERO);
        DestinationFacts {
            id,
            definition: self.definition.clone(),
            lanes,
            tail: self.tail,
            next_due_ms,
            next_expiry_ms,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Index {
    destinations: HashMap<DestId, Destination>,
    /// Definitions of other spaces than destinations.
    definitions: BTreeMap<(u8, Bytes), Bytes>,
    /// The ledger, which is kept beside it.
    pub ledger: Ledger,
    messages: u64,
    /// Destinations and definitions that changed since [`Index::take_changed`].
    changed: Changed,
}

/// What a checkpoint has to write again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Destinations: changed, new or gone.
    pub destinations: BTreeSet<DestId>,
    /// Definitions: changed, new or gone.
    pub definitions: BTreeSet<(u8, Bytes)>,
}

/// Takes note of what the data threads are to be told.
#[derive(Debug, Default)]
pub struct Notes {
    /// Changes are wanted: somebody delivers.
    serving: bool,
    changes: Vec<(DestId, Change)>,
    places: HashMap<DestId, usize>,
}

impl Notes {
    /// Of changes only while `serving`.
    #[must_use]
    pub fn new(serving: bool) -> Self {
        Self {
            serving,
            ..Self::default()
        }
    }

    /// Into the event.
    pub fn into_event(self, event: &mut Committed) {
        event.changes = self.changes;
    }

    /// Where to note something of a destination, if it is wanted.
    fn of(&mut self, dest: DestId) -> Option<&mut Change> {
        if !self.serving {
            return None;
        }
        // Records of one destination come in rows.
        let place = match self.changes.last() {
            Some((last, _)) if *last == dest => self.changes.len() - 1,
            _ => *self.places.entry(dest).or_insert_with(|| {
                self.changes.push((dest, Change::default()));
                self.changes.len() - 1
            }),
        };
        Some(&mut self.changes[place].1)
    }
}

impl Index {
    /// An empty one. `retain` as in [`Ledger::new`].
    #[must_use]
    pub fn new(retain: u64) -> Self {
        Self {
            ledger: Ledger::new(retain),
            ..Self::default()
        }
    }

    /// The records that follow are of this chunk.
    pub fn begin_chunk(&mut self, chunk: ChunkFacts) {
        self.ledger.add(chunk);
    }

    /// The one way by which state changes. Records for destinations that are not defined, and
    /// acknowledgements of what is not owed, change nothing.
    pub fn apply(&mut self, lsn: Lsn, chunk: Lsn, record: &LogRecord, notes: &mut Notes) {
        match record {
            LogRecord::Put {
                targets,
                message,
                offset,
            } => {
                let len = u32::try_from(message.len()).expect("chunks are smaller than 4 GiB");
                let slot = Slot {
                    lsn,
                    chunk,
                    offset: *offset,
                    len,
                    times: Times::of(message),
                };
                let mut pairs = 0;
                for target in targets {
                    let Some(dest) = self.destinations.get_mut(target) else {
                        continue;
                    };
                    if dest.tail >= lsn {
                        continue;
                    }
                    dest.slots.push_back(slot);
                    dest.live += 1;
                    dest.tail = lsn;
                    pairs += 1;
                    self.changed.destinations.insert(*target);
                    if let Some(change) = notes.of(*target) {
                        change.entries.push(Entry::new(lsn, message.clone()));
                    }
                }
                self.messages += pairs;
                let known = self.ledger.owe(chunk, pairs);
                assert!(known, "a chunk begins before its records");
            }
            LogRecord::Ack { dest, lsns } => {
                let Some(destination) = self.destinations.get_mut(dest) else {
                    return;
                };
                let mut settled = 0;
                for lsn in lsns {
                    if let Some(chunk) = destination.settle(*lsn) {
                        self.ledger.settle(chunk);
                        settled += 1;
                    }
                }
                self.messages -= u64::from(settled);
                self.changed.destinations.insert(*dest);
                if settled > 0
                    && let Some(change) = notes.of(*dest)
                {
                    change.settled += settled;
                }
            }
            LogRecord::Delivered { dest, lane, ahead } => {
                let mark = Lsn(lsn.0.saturating_add(u64::from(*ahead)));
                if let Some(destination) = self.destinations.get_mut(dest)
                    && mark > destination.marks[lane.place()]
                {
                    destination.marks[lane.place()] = mark;
                    self.changed.destinations.insert(*dest);
                    if let Some(change) = notes.of(*dest) {
                        change.marks.push((*lane, mark));
                    }
                }
            }
            LogRecord::DeliveredEach { dest, lsns } => {
                let Some(destination) = self.destinations.get_mut(dest) else {
                    return;
                };
                for lsn in lsns {
                    if !destination.owes(*lsn) {
                        continue;
                    }
                    destination.known.entry(*lsn).or_default().marked = true;
                    if let Some(change) = notes.of(*dest) {
                        change.marked.push(*lsn);
                    }
                }
                self.changed.destinations.insert(*dest);
            }
            LogRecord::Failed { dest, counts } => {
                let Some(destination) = self.destinations.get_mut(dest) else {
                    return;
                };
                for (lsn, count) in counts {
                    if !destination.owes(*lsn) {
                        continue;
                    }
                    destination.known.entry(*lsn).or_default().failures = *count;
                    if let Some(change) = notes.of(*dest) {
                        change.failed.push((*lsn, *count));
                    }
                }
                self.changed.destinations.insert(*dest);
            }
            LogRecord::Kv { space, key, value } => self.define(*space, key, value),
            // The epoch table is kept by the writer.
            LogRecord::Epoch(_) => {}
        }
    }

    fn define(&mut self, space: u8, key: &Bytes, value: &Bytes) {
        if space != SPACE_DESTINATION {
            // Copies: a slice would keep its whole chunk in memory.
            let name = (space, Bytes::copy_from_slice(key));
            self.changed.definitions.insert(name.clone());
            if value.is_empty() {
                self.definitions.remove(&name);
            } else {
                self.definitions.insert(name, Bytes::copy_from_slice(value));
            }
            return;
        }
        let Ok(id) = <[u8; 4]>::try_from(&key[..]) else {
            return;
        };
        let id = DestId(u32::from_be_bytes(id));
        self.changed.destinations.insert(id);
        if value.is_empty() {
            if let Some(gone) = self.destinations.remove(&id) {
                for slot in gone.slots.iter().filter(|slot| slot.live()) {
                    self.ledger.settle(slot.chunk);
                    self.messages -= 1;
                }
            }
        } else {
            self.destinations.entry(id).or_default().definition = Bytes::copy_from_slice(value);
        }
    }

    /// A destination as it was at a checkpoint. False when one of its messages is in no chunk.
    pub fn restore(&mut self, id: DestId, destination: Destination) -> bool {
        let found = destination
            .slots
            .iter()
            .all(|slot| self.ledger.owe(slot.chunk, 1));
        self.messages += destination.live as u64;
        self.destinations.insert(id, destination);
        found
    }

    /// A definition as it was at a checkpoint.
    pub fn restore_definition(&mut self, space: u8, key: Bytes, value: Bytes) {
        self.definitions.insert((space, key), value);
    }

    /// One destination.
    #[must_use]
    pub fn destination(&self, id: DestId) -> Option<&Destination> {
        self.destinations.get(&id)
    }

    /// A definition of another space than destinations.
    #[must_use]
    pub fn definition(&self, name: &(u8, Bytes)) -> Option<&Bytes> {
        self.definitions.get(name)
    }

    /// Every destination, by id.
    #[must_use]
    pub fn facts(&self) -> Vec<DestinationFacts> {
        let mut all: Vec<_> = self
            .destinations
            .iter()
            .map(|(id, dest)| dest.facts(*id))
            .collect();
        all.sort_unstable_by_key(|facts| facts.id);
        all
    }

    /// (message, destination) pairs owed.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Destinations defined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// No destination is defined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    /// What changed since this was asked last.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }
}
