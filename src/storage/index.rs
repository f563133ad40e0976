//! The index: what each destination owes, in LSN order, and every definition. [`Index::apply`] is the
//! only way it changes: on the active when a batch is committed on both servers, on the passive the
//! same way, and in recovery. Same records, same index.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::LogRecord;

use super::api::{Committed, DestinationFacts, Entry, SPACE_DESTINATION};
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
    /// See [`DestinationFacts::mark`].
    pub mark: Lsn,
    /// See [`DestinationFacts::tail`].
    pub tail: Lsn,
}

impl Destination {
    /// As it was at a checkpoint.
    #[must_use]
    pub fn restored(definition: Bytes, mark: Lsn, tail: Lsn, slots: VecDeque<Slot>) -> Self {
        Self {
            definition,
            live: slots.len(),
            slots,
            mark,
            tail,
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
        while self.slots.front().is_some_and(|slot| !slot.live()) {
            self.slots.pop_front();
        }
        if self.slots.len() > 64 && self.slots.len() > self.live * 2 {
            self.slots.retain(Slot::live);
        }
        Some(chunk)
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
    /// New messages are wanted: somebody delivers.
    serving: bool,
    ready: Vec<(DestId, Vec<Entry>)>,
    places: HashMap<DestId, usize>,
    marks: Vec<(DestId, Lsn)>,
}

impl Notes {
    /// With new messages only while `serving`.
    #[must_use]
    pub fn new(serving: bool) -> Self {
        Self {
            serving,
            ..Self::default()
        }
    }

    /// Into the event.
    pub fn into_event(self, event: &mut Committed) {
        event.ready = self.ready;
        event.marks = self.marks;
    }

    fn ready(&mut self, dest: DestId, lsn: Lsn, message: &Bytes) {
        if !self.serving {
            return;
        }
        let place = *self.places.entry(dest).or_insert_with(|| {
            self.ready.push((dest, Vec::new()));
            self.ready.len() - 1
        });
        self.ready[place].1.push(Entry {
            lsn,
            message: message.clone(),
        });
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
                    notes.ready(*target, lsn, message);
                }
                self.messages += pairs;
                let known = self.ledger.owe(chunk, pairs);
                assert!(known, "a chunk begins before its records");
            }
            LogRecord::Ack { dest, lsns } => {
                let Some(destination) = self.destinations.get_mut(dest) else {
                    return;
                };
                for lsn in lsns {
                    if let Some(chunk) = destination.settle(*lsn) {
                        self.ledger.settle(chunk);
                        self.messages -= 1;
                    }
                }
                self.changed.destinations.insert(*dest);
            }
            LogRecord::Delivered { dest, ahead } => {
                let mark = Lsn(lsn.0.saturating_add(u64::from(*ahead)));
                if let Some(destination) = self.destinations.get_mut(dest)
                    && mark > destination.mark
                {
                    destination.mark = mark;
                    notes.marks.push((*dest, mark));
                    self.changed.destinations.insert(*dest);
                }
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
            .map(|(id, dest)| DestinationFacts {
                id: *id,
                definition: dest.definition.clone(),
                depth: dest.live as u64,
                mark: dest.mark,
                tail: dest.tail,
            })
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
