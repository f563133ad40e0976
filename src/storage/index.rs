//! The index: what each destination owes, and every definition. [`Index::apply`] is the
//! only way it changes: on the active when a batch is committed on both servers, on the passive the
//! same way, and in recovery. Same records, same index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::proto::duplicate::{DuplicateBounds, Scope};
use crate::proto::ids::{DestId, Lsn};
use crate::proto::message::{self, Parts};
use crate::proto::record::{DecodeError, LogRecord, Straggler, varint_len};

use super::api::{
    Change, Committed, DUPLICATE_BOUNDS, DestinationFacts, Entry, Lane, SPACE_DESTINATION,
    SPACE_DUPLICATES, Times,
};
use super::ledger::{ChunkFacts, Content, Ledger};
use super::moved::Range;
use super::owed::{Destination, Known};
use super::parts::Bodies;
use super::runs::run_of;
use super::seen::Seen;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Index {
    destinations: HashMap<DestId, Destination>,
    /// Definitions of other spaces than destinations.
    definitions: BTreeMap<(u8, Bytes), Bytes>,
    /// The ledger, which is kept beside it.
    pub ledger: Ledger,
    messages: u64,
    seen: Seen,
    bodies: Bodies,
    /// Destinations and definitions that changed since [`Index::take_changed`].
    changed: Changed,
}

/// What a checkpoint has to write again, besides the runs that are marked themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Destinations: changed, new or gone.
    pub destinations: BTreeSet<DestId>,
    /// Definitions: changed, new or gone.
    pub definitions: BTreeSet<(u8, Bytes)>,
    /// Runs that have pages and are gone.
    pub gone: BTreeSet<(DestId, Lane, u64)>,
    /// Runs with messages of which something else is known than before.
    pub known: BTreeSet<(DestId, u64)>,
    /// Runs with ids of messages that came or went.
    pub seen: BTreeSet<(Scope, u64)>,
    /// Bodies in parts that came or went, or are held by others.
    pub bodies: BTreeSet<Lsn>,
}

impl Changed {
    fn destination(&mut self, id: DestId, destination: &mut Destination) {
        if !std::mem::replace(&mut destination.dirty, true) {
            self.destinations.insert(id);
        }
    }
}

/// Takes note of what the data threads are to be told.
#[derive(Debug, Default)]
pub struct Notes {
    /// Changes are wanted: somebody delivers.
    serving: bool,
    changes: Vec<(DestId, Change)>,
    places: HashMap<DestId, usize>,
    parts: Vec<(u64, Lsn)>,
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
        event.parts = self.parts;
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
                targets, message, ..
            } => self.put(lsn, chunk, (targets, message), notes),
            LogRecord::Ack { dest, lsns } => self.settle(*dest, lsns, notes),
            LogRecord::Delivered { dest, lane, ahead } => {
                let mark = Lsn(lsn.0.saturating_add(u64::from(*ahead)));
                if let Some(destination) = self.destinations.get_mut(dest)
                    && mark > destination.lane_mut(*lane).mark
                {
                    destination.lane_mut(*lane).mark = mark;
                    self.changed.destination(*dest, destination);
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
                    destination.know(*lsn, |known| known.marked = true);
                    self.changed.known.insert((*dest, run_of(*lsn)));
                    if let Some(change) = notes.of(*dest) {
                        change.marked.push(*lsn);
                    }
                }
            }
            LogRecord::Failed { dest, counts } => {
                let Some(destination) = self.destinations.get_mut(dest) else {
                    return;
                };
                for (lsn, count) in counts {
                    if !destination.owes(*lsn) {
                        continue;
                    }
                    destination.know(*lsn, |known| known.failures = *count);
                    self.changed.known.insert((*dest, run_of(*lsn)));
                    if let Some(change) = notes.of(*dest) {
                        change.failed.push((*lsn, *count));
                    }
                }
            }
            LogRecord::Kv { space, key, value } => self.define(*space, key, value),
            LogRecord::Seen { id, at_ms } => self.seen.note(lsn, *id, *at_ms),
            LogRecord::Part { upload, bytes } => {
                if self.bodies.add(*upload, lsn, bytes.len()) {
                    let mut content = Content::default();
                    content.add(1, 1, bytes.len());
                    let known = self.ledger.owe(chunk, content);
                    assert!(known, "a chunk begins before its records");
                }
                if notes.serving {
                    notes.parts.push((*upload, lsn));
                }
            }
            LogRecord::UploadEnded(upload) => {
                let gone = self.bodies.end(*upload);
                self.drop_parts(gone);
            }
            LogRecord::Relogged { from, messages } => {
                let brought = self.owed_of(messages, *from);
                self.ledger.relog(*from, chunk, brought);
            }
            // The epoch table is kept by the writer. Whoever had an upload open is gone.
            LogRecord::Epoch(_) => {
                let gone = self.bodies.end_all();
                self.drop_parts(gone);
            }
        }
    }

    fn put(
        &mut self,
        lsn: Lsn,
        chunk: Lsn,
        (targets, message): (&[DestId], &Bytes),
        notes: &mut Notes,
    ) {
        let body = match message::is_in_parts(message) {
            false => None,
            // Nobody can be given a message whose body is not there.
            true => match self.bodies.find(message) {
                Some(body) => Some(body),
                None => return,
            },
        };
        let times = Times::of(message);
        let bytes = message::whole_bytes(message);
        let (mut pairs, mut ids) = (0usize, 0);
        for target in targets {
            let Some(dest) = self.destinations.get_mut(target) else {
                continue;
            };
            if dest.tail >= lsn {
                continue;
            }
            dest.push(lsn, times, bytes);
            pairs += 1;
            ids += varint_len(u64::from(target.0));
            self.changed.destination(*target, dest);
            if let Some(change) = notes.of(*target) {
                change.entries.push(Entry::new(lsn, message.clone()));
                change.bytes = Some(dest.bytes());
            }
        }
        self.messages += pairs as u64;
        let mut content = Content::default();
        if pairs > 0 {
            content.add(pairs, ids, message.len());
        }
        let known = self.ledger.owe(chunk, content);
        assert!(known, "a chunk begins before its records");
        if let Some(body) = body {
            self.bodies.owe(body, lsn, pairs as u64);
        }
    }

    /// Parts that nobody needs any more.
    fn drop_parts(&mut self, gone: impl IntoIterator<Item = Parts>) {
        for parts in gone {
            parts.lsns().for_each(|lsn| self.ledger.settle(lsn));
        }
    }

    /// What of these messages and parts is owed and lies in this chunk.
    pub fn owed_of(&self, messages: &[Straggler], chunk: Lsn) -> Content {
        let mut content = Content::default();
        for straggler in messages {
            let place = self.ledger.place_of(straggler.lsn);
            if place.is_none_or(|place| place.chunk != chunk) {
                continue;
            }
            if straggler.is_part() {
                if self.bodies.holds(straggler.lsn) {
                    content.add(1, 0, straggler.message.len());
                }
                continue;
            }
            let owes = |target: &&DestId| {
                let owed = self.destinations.get(target);
                owed.is_some_and(|owed| owed.owes(straggler.lsn))
            };
            let owed = straggler.targets.iter().filter(owes);
            let ids = owed.map(|target| varint_len(u64::from(target.0)));
            let (pairs, ids) = ids.fold((0, 0), |(pairs, ids), len| (pairs + 1, ids + len));
            if pairs > 0 {
                content.add(pairs, ids, straggler.message.len());
            }
        }
        content
    }

    fn settle(&mut self, id: DestId, lsns: &[Lsn], notes: &mut Notes) {
        let Some(destination) = self.destinations.get_mut(&id) else {
            return;
        };
        let mut count = 0;
        for lsn in lsns {
            let Some(settled) = destination.settle(*lsn) else {
                continue;
            };
            self.ledger.settle(*lsn);
            count += 1;
            if let Some(parts) = self.bodies.settle(*lsn) {
                parts.lsns().for_each(|lsn| self.ledger.settle(lsn));
            }
            if let Some(run) = settled.run_gone {
                self.changed.gone.insert((id, settled.lane, run));
            }
            if settled.was_known {
                self.changed.known.insert((id, run_of(*lsn)));
            }
        }
        if count == 0 {
            return;
        }
        self.messages -= u64::from(count);
        self.changed.destination(id, destination);
        if let Some(change) = notes.of(id) {
            change.settled += count;
            change.bytes = Some(destination.bytes());
        }
    }

    fn define(&mut self, space: u8, key: &Bytes, value: &Bytes) {
        if space != SPACE_DESTINATION {
            // Copies: a slice would keep its whole chunk in memory.
            let name = (space, Bytes::copy_from_slice(key));
            self.changed.definitions.insert(name.clone());
            if let Some(bounds) = duplicate_bounds(space, key, value) {
                self.seen.set_bounds(bounds);
            }
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
                for lane in gone.lanes() {
                    for lsn in lane.runs.lsns() {
                        self.ledger.settle(lsn);
                        self.messages -= 1;
                        let gone = self.bodies.settle(lsn);
                        let parts = gone.iter().flat_map(Parts::lsns);
                        parts.for_each(|lsn| self.ledger.settle(lsn));
                    }
                    let stored = lane.runs.stored();
                    let stored = stored.map(|run| (id, lane.lane, run));
                    self.changed.gone.extend(stored);
                }
                let known = gone.all_known().map(|lsn| (id, run_of(lsn)));
                self.changed.known.extend(known);
            }
        } else {
            let destination = self.destinations.entry(id).or_default();
            destination.definition = Bytes::copy_from_slice(value);
            destination.dirty = true;
        }
    }

    /// A destination as it was at a checkpoint. False when one of its messages is in no chunk.
    pub fn restore(&mut self, id: DestId, destination: Destination) -> bool {
        let found = destination
            .lanes()
            .iter()
            .all(|lane| self.ledger.owe_each(lane.runs.lsns()));
        self.messages += destination.depth();
        self.destinations.insert(id, destination);
        found
    }

    /// A definition as it was at a checkpoint.
    pub fn restore_definition(&mut self, space: u8, key: Bytes, value: Bytes) {
        if let Some(bounds) = duplicate_bounds(space, &key, &value) {
            self.seen.restore_bounds(bounds);
        }
        self.definitions.insert((space, key), value);
    }

    /// The ids of messages that were stored.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The same, to take them from a checkpoint.
    pub(super) fn seen_mut(&mut self) -> &mut Seen {
        &mut self.seen
    }

    /// Bodies in parts.
    #[must_use]
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// A body as it was at a checkpoint. False when one of its parts is in no chunk.
    pub(super) fn restore_body(
        &mut self,
        first: Lsn,
        page: &[u8],
        upto: Lsn,
    ) -> Result<bool, DecodeError> {
        let parts = self.bodies.restore(first, page, upto)?;
        Ok(self.ledger.owe_each(parts.lsns()))
    }

    /// One destination.
    #[must_use]
    pub fn destination(&self, id: DestId) -> Option<&Destination> {
        self.destinations.get(&id)
    }

    /// The chunks of owed messages, and what is known of them; those of ascending LSNs are found
    /// quickly.
    pub(super) fn places<'a>(
        &'a self,
        owed: &'a Destination,
        lsns: &'a [Lsn],
    ) -> impl Iterator<Item = (Lsn, Lsn, Known)> + 'a {
        let mut place = Range {
            first: Lsn(1),
            last: Lsn::ZERO,
            chunk: Lsn::ZERO,
        };
        lsns.iter().map(move |lsn| {
            if *lsn < place.first || *lsn > place.last {
                place = self
                    .ledger
                    .place_of(*lsn)
                    .expect("a chunk stays while a message in it is owed");
            }
            (*lsn, place.chunk, owed.known(*lsn))
        })
    }

    /// The same, to take note that it was written or read.
    pub(super) fn destination_mut(&mut self, id: DestId) -> Option<&mut Destination> {
        self.destinations.get_mut(&id)
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

    /// Bytes of memory for what is owed and for the chunks that it lies in, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let owed: usize = self.destinations.values().map(Destination::memory).sum();
        owed + self.ledger.memory() + self.seen.memory() + self.bodies.memory()
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
        let seen = self.seen.take_changed();
        let bodies = self.bodies.take_changed();
        Changed {
            seen,
            bodies,
            ..std::mem::take(&mut self.changed)
        }
    }
}

/// The bounds that a definition sets; those that are removed or cannot be read stay as they are.
fn duplicate_bounds(space: u8, key: &[u8], value: &[u8]) -> Option<DuplicateBounds> {
    let is_theirs = space == SPACE_DUPLICATES && key == DUPLICATE_BOUNDS;
    DuplicateBounds::decode(value).filter(|_| is_theirs)
}
