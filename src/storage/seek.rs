//! Finding owed messages: the index says which LSNs, in small rounds under its lock; the chunks are
//! read outside of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::{self, ChunkHeader, Messages};

use super::api::{Entry, Fetched, Lane, MessageFilter, Seek, Times};
use super::backend::{Table, View, log_key};
use super::error::StoreError;
use super::owed::{Known, Pick};
use super::recover::{bad, header};
use super::runs::{RUN_LSNS, run_of};
use super::shared::Shared;

/// LSNs that are taken from the index at once.
const ROUND: usize = 1024;
/// Log that is read for one question which may find nothing: about a millisecond of work, so that
/// others wait no longer.
const SCAN_BYTES: usize = 1 << 20;
/// The same for delayed messages, each of which may lie in a chunk of its own.
const DUE_BYTES: usize = 8 << 20;

/// How much is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// At most so many messages.
    pub(super) count: usize,
    /// About so many bytes of them.
    pub(super) bytes: usize,
}

/// What the index says of one owed message.
#[derive(Clone, Copy)]
struct Place {
    lsn: Lsn,
    chunk: Lsn,
    known: Known,
}

/// Answers one question, but for its tag.
///
/// # Errors
/// When the store cannot be read or is damaged.
pub(super) fn fetch<V: View>(
    shared: &Shared<V>,
    dest: DestId,
    seek: &Seek,
    room: Room,
) -> Result<Fetched, StoreError> {
    let search = Search {
        shared,
        dest,
        room,
        found: Fetched {
            dest,
            tag: 0,
            entries: Vec::new(),
            scanned: Lsn::ZERO,
            next_ms: None,
        },
        bytes: 0,
        read: 0,
        chunk: None,
    };
    match seek {
        Seek::All { after } => search.in_order(Pick::All, *after, None),
        Seek::Lane { lane, after } => search.in_order(Pick::Lane(*lane), *after, None),
        Seek::Matching {
            lane,
            after,
            filter,
        } => search.in_order(Pick::Lane(*lane), *after, Some(&**filter)),
        Seek::Due { after, until_ms } => search.due(*after, *until_ms),
        Seek::Expired { now_ms, after } => search.expired(*now_ms, *after),
    }
}

/// One question as it is being answered.
struct Search<'a, V> {
    shared: &'a Shared<V>,
    dest: DestId,
    room: Room,
    found: Fetched,
    /// Bytes of what was found.
    bytes: usize,
    /// Bytes of log that were read.
    read: usize,
    /// The chunk that was read last.
    chunk: Option<Loaded>,
}

struct Loaded {
    first: Lsn,
    header: ChunkHeader,
    bytes: Bytes,
    /// Where to go on in it.
    walked: Lsn,
    at: usize,
}

/// A round of places.
struct Round<V> {
    places: Vec<Place>,
    /// What the index shows.
    applied: Lsn,
    /// Nothing was left out up to here; none when nothing was left out at all.
    upto: Option<Lsn>,
    /// Of the same store as the places.
    view: V,
}

impl<V: View> Search<'_, V> {
    fn is_full(&self) -> bool {
        self.found.entries.len() >= self.room.count || self.bytes >= self.room.bytes
    }

    fn round(&self, pick: Pick, after: Lsn, limit: usize) -> Round<V> {
        let state = self.shared.state();
        let mut lsns = Vec::new();
        let mut upto = None;
        let mut places = Vec::new();
        if let Some(owed) = state.index.destination(self.dest) {
            upto = owed.collect(pick, after, limit, &mut lsns);
            places = state
                .index
                .places(owed, &lsns)
                .map(|(lsn, chunk, known)| Place { lsn, chunk, known })
                .collect();
        }
        Round {
            places,
            applied: state.applied.position.lsn,
            upto,
            view: self.shared.view(),
        }
    }

    /// In LSN order, until there is enough; with a filter also until enough log was read.
    fn in_order(
        mut self,
        pick: Pick,
        after: Lsn,
        filter: Option<&dyn MessageFilter>,
    ) -> Result<Fetched, StoreError> {
        self.found.scanned = after;
        while !self.is_full() {
            let limit = match filter {
                Some(_) => ROUND,
                None => (self.room.count - self.found.entries.len()).min(ROUND),
            };
            let round = self.round(pick, self.found.scanned, limit);
            for place in &round.places {
                let spent = filter.is_some() && self.read >= SCAN_BYTES && !self.has(place.chunk);
                if self.is_full() || spent {
                    return Ok(self.found);
                }
                if let Some(message) = self.message(&round.view, place)?
                    && filter.is_none_or(|filter| filter.takes(&message))
                {
                    self.take(place, message);
                }
                self.found.scanned = place.lsn;
            }
            let Some(upto) = round.upto else {
                self.found.scanned = round.applied.max(after);
                break;
            };
            self.found.scanned = self.found.scanned.max(upto);
        }
        Ok(self.found)
    }

    /// Delayed messages, by (due, LSN).
    fn due(mut self, after: (u64, Lsn), until_ms: u64) -> Result<Fetched, StoreError> {
        let limit = self.room.count.clamp(1, ROUND);
        let (places, dues, later, view) = {
            let state = self.shared.state();
            let Some(owed) = state.index.destination(self.dest) else {
                return Ok(self.found);
            };
            let (lsns, later) = owed.due(after, until_ms, limit);
            let dues: Vec<Option<u64>> = lsns.iter().map(|lsn| owed.due_of(*lsn)).collect();
            let places: Vec<Place> = state
                .index
                .places(owed, &lsns)
                .map(|(lsn, chunk, known)| Place { lsn, chunk, known })
                .collect();
            (places, dues, later, self.shared.view())
        };
        self.found.next_ms = later;
        for (place, due) in places.iter().zip(dues) {
            if self.is_full() || self.read >= DUE_BYTES {
                self.found.next_ms = due;
                break;
            }
            if let Some(message) = self.message(&view, place)? {
                self.take(place, message);
            }
        }
        Ok(self.found)
    }

    /// What has expired, in LSN order, by whole runs: the bounds of what was read become exact.
    fn expired(mut self, now_ms: u64, after: Lsn) -> Result<Fetched, StoreError> {
        self.found.scanned = after;
        let mut later: Option<u64> = None;
        while !self.is_full() && self.read < SCAN_BYTES {
            let round = self.round(Pick::Expired(now_ms), self.found.scanned, ROUND);
            let mut bounds: BTreeMap<(Lane, u64), (Lsn, Option<u64>)> = BTreeMap::new();
            let whole = match round.places.first() {
                Some(_) if self.found.scanned == Lsn::ZERO => true,
                Some(first) => run_of(first.lsn) * RUN_LSNS > self.found.scanned.0,
                None => false,
            };
            for place in &round.places {
                if self.is_full() {
                    self.found.next_ms = Some(now_ms);
                    return Ok(self.found);
                }
                if let Some(message) = self.message(&round.view, place)? {
                    let times = Times::of(&message);
                    let bound = bounds
                        .entry((times.lane, run_of(place.lsn)))
                        .or_insert((place.lsn, None));
                    bound.0 = place.lsn;
                    sooner(&mut bound.1, times.expiry_ms);
                    if times.expiry_ms.is_some_and(|at| at <= now_ms) {
                        self.take(place, message);
                    } else {
                        sooner(&mut later, times.expiry_ms);
                    }
                }
                self.found.scanned = place.lsn;
            }
            if whole {
                self.tighten(&bounds);
            }
            let Some(upto) = round.upto else {
                self.found.scanned = round.applied.max(after);
                let state = self.shared.state();
                if let Some(owed) = state.index.destination(self.dest) {
                    sooner(&mut later, owed.expiry_above(now_ms, after));
                }
                self.found.next_ms = later;
                return Ok(self.found);
            };
            self.found.scanned = self.found.scanned.max(upto);
        }
        self.found.next_ms = Some(now_ms);
        Ok(self.found)
    }

    fn tighten(&self, bounds: &BTreeMap<(Lane, u64), (Lsn, Option<u64>)>) {
        let mut state = self.shared.state();
        let Some(owed) = state.index.destination_mut(self.dest) else {
            return;
        };
        for (&(lane, run), &(last, expiry_ms)) in bounds {
            owed.lane_mut(lane).runs.tighten(run, last, expiry_ms);
        }
    }

    fn take(&mut self, place: &Place, message: Bytes) {
        self.bytes += message.len();
        // A slice keeps its whole chunk in memory: worth it only for most of the chunk.
        let whole = self.chunk.as_ref().map_or(0, |chunk| chunk.bytes.len());
        let message = if message.len() * 2 > whole {
            message
        } else {
            Bytes::copy_from_slice(&message)
        };
        self.found.entries.push(Entry {
            lsn: place.lsn,
            message,
            marked: place.known.marked,
            failures: place.known.failures,
        });
    }

    fn has(&self, chunk: Lsn) -> bool {
        self.chunk
            .as_ref()
            .is_some_and(|loaded| loaded.first == chunk)
    }

    /// The message at a place, as a part of its chunk; none when it was acknowledged and collected
    /// since the index was asked. One that was re-logged since is read where it lies now.
    fn message(&mut self, view: &V, place: &Place) -> Result<Option<Bytes>, StoreError> {
        let (mut view, mut chunk) = (Cow::Borrowed(view), place.chunk);
        loop {
            let missing = match self.read_at(&view, chunk, place.lsn)? {
                Ok(message) => return Ok(Some(message)),
                Err(missing) => missing,
            };
            match self.whereabouts(place.lsn) {
                // Or another log has taken this one's place.
                None => return Ok(None),
                // It was re-logged.
                Some((now, at)) if at != chunk => (view, chunk) = (Cow::Owned(now), at),
                Some(_) => return Err(bad(&*view, chunk, &missing)),
            }
        }
    }

    /// A message where it should lie, or in words why it is not there.
    fn read_at(
        &mut self,
        view: &V,
        chunk: Lsn,
        lsn: Lsn,
    ) -> Result<Result<Bytes, &'static str>, StoreError> {
        if !self.has(chunk) {
            let Some(loaded) = load(view, chunk)? else {
                return Ok(Err("is missing"));
            };
            self.read += loaded.bytes.len();
            self.chunk = Some(loaded);
        }
        let loaded = self.chunk.as_mut().expect("it was loaded just now");
        let found = loaded.find(lsn).map_err(|error| bad(view, chunk, &error))?;
        Ok(match found {
            Some(range) => Ok(loaded.bytes.slice(range)),
            None => Err("lacks a message of the index"),
        })
    }

    /// The chunk in which a message lies now, if it is still owed.
    fn whereabouts(&self, lsn: Lsn) -> Option<(V, Lsn)> {
        let state = self.shared.state();
        let owed = state.index.destination(self.dest)?;
        let place = state.index.ledger.place_of(lsn)?;
        owed.owes(lsn).then(|| (self.shared.view(), place.chunk))
    }
}

impl Loaded {
    fn find(&mut self, lsn: Lsn) -> Result<Option<Range<usize>>, record::DecodeError> {
        let mut messages = Messages::resumed(&self.bytes, &self.header, self.walked, self.at);
        let found = messages.find(lsn);
        (self.walked, self.at) = messages.place();
        found
    }
}

/// A chunk whose checksum is good.
fn load<V: View>(view: &V, lsn: Lsn) -> Result<Option<Loaded>, StoreError> {
    let Some(bytes) = view.get(Table::Log, &log_key(lsn))? else {
        return Ok(None);
    };
    let header = header(view, lsn, &bytes)?;
    record::verify(&bytes, &header).map_err(|error| bad(view, lsn, &error))?;
    let (walked, at) = Messages::new(&bytes, &header).place();
    Ok(Some(Loaded {
        first: lsn,
        header,
        bytes,
        walked,
        at,
    }))
}

/// Parts of a body, in the order of their LSNs, up to the first that is not there any more.
///
/// # Errors
/// When the store cannot be read or is damaged.
pub(super) fn read_parts<V: View>(
    shared: &Shared<V>,
    lsns: &[Lsn],
) -> Result<Vec<Bytes>, StoreError> {
    let mut parts = Vec::with_capacity(lsns.len());
    let mut loaded: Option<Loaded> = None;
    for lsn in lsns {
        match read_part(shared, &mut loaded, *lsn)? {
            Some(part) => parts.push(part),
            None => break,
        }
    }
    Ok(parts)
}

/// One of them, as a part of its chunk. One that was re-logged since it was looked for is read where it
/// lies now.
fn read_part<V: View>(
    shared: &Shared<V>,
    loaded: &mut Option<Loaded>,
    lsn: Lsn,
) -> Result<Option<Bytes>, StoreError> {
    let place = || {
        let state = shared.state();
        let place = state.index.ledger.place_of(lsn)?;
        Some((place.chunk, shared.view()))
    };
    let mut next = place();
    while let Some((chunk, view)) = next {
        if loaded.as_ref().is_none_or(|last| last.first != chunk) {
            *loaded = load(&view, chunk)?;
        }
        let found = match loaded {
            Some(loaded) => Messages::new(&loaded.bytes, &loaded.header)
                .find_part(lsn)
                .map_err(|error| bad(&view, chunk, &error))?
                .map(|range| loaded.bytes.slice(range)),
            None => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        if !shared.state().index.bodies().holds(lsn) {
            break;
        }
        next = place();
        if next.as_ref().is_some_and(|(now, _)| *now == chunk) {
            return Err(bad(&view, chunk, &"lacks a part of a body"));
        }
    }
    Ok(None)
}

fn sooner(next: &mut Option<u64>, at: Option<u64>) {
    *next = [*next, at].into_iter().flatten().min();
}
