//! The ledger: for each chunk of the log how many (message, destination) pairs in it are still owed.
//! Changed only as records are applied; says which chunks may go.
//!
//! Beside the counts it keeps how many bytes of a chunk are owed at least ([`Content`]): exactly known
//! when the chunk is written and whenever it is read to find out, and from then on less by the largest
//! message for each pair that is settled. Where that bound is low, the chunk is worth a look.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::ids::Lsn;
use crate::proto::record::varint_len;

use super::moved::{Moved, Range};

/// What is known of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkFacts {
    /// The LSN of its first record, its key.
    pub first: Lsn,
    /// The LSN of its last record.
    pub last: Lsn,
    /// Its size.
    pub bytes: u64,
}

/// The messages that were owed of a chunk when that was known exactly. All zero: it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// (message, destination) pairs.
    pub pairs: u32,
    /// Bytes of the messages, with their records.
    pub bytes: u32,
    /// Bytes of the largest.
    pub largest: u32,
}

impl Content {
    /// One more message, which so many destinations owe, whose ids take `targets` bytes in a record.
    pub fn add(&mut self, pairs: usize, targets: usize, message: usize) {
        // The distance of its LSN takes a byte at least.
        let head = 1 + varint_len(pairs as u64) + varint_len(message as u64);
        let bytes = small((head + targets + message) as u64);
        let pairs = small(pairs as u64);
        self.pairs = self.pairs.saturating_add(pairs);
        self.bytes = self.bytes.saturating_add(bytes);
        self.largest = self.largest.max(bytes);
    }

    /// Whether so many bytes for what is owed are worth to be freed: a share of over 7/16, and not
    /// what the headers of any chunk take.
    #[must_use]
    pub fn wastes(owed: u64, bytes: u64) -> bool {
        owed * 16 < bytes * 9 && bytes - owed >= WASTE_MIN
    }
}

/// Less than this is not worth to be freed of a chunk.
const WASTE_MIN: u64 = 256;
/// A value up to about this size shares a page with others...
const SHARES_PAGE: u64 = 2000;
/// ...and a larger one has pages of its own.
const PAGE: u64 = 4096;
/// A page with less than a quarter left is filled up with what its neighbours hold.
const PAGE_LEFT: u64 = 4;

fn small(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    last: Lsn,
    bytes: u32,
    live: u32,
    content: Content,
}

impl Kept {
    /// Bytes that are owed at least.
    fn owed(&self) -> u64 {
        let Content {
            pairs,
            bytes,
            largest,
        } = self.content;
        let settled = pairs.saturating_sub(self.live);
        match self.live {
            0 => 0,
            _ => u64::from(bytes.saturating_sub(settled.saturating_mul(largest))),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    chunks: BTreeMap<Lsn, Kept>,
    /// Those of `chunks` with nothing owed, since the last checkpoint.
    dead: BTreeSet<Lsn>,
    /// Those with nothing owed at the last checkpoint: only these may go, since what a checkpoint
    /// says is owed must be there until the next one.
    free: BTreeSet<Lsn>,
    /// Chunks that begin after this are the retained log; they have `young` bytes.
    boundary: Lsn,
    young: u64,
    retain: u64,
    bytes: u64,
    /// Bytes that are owed at least, of all chunks.
    owed: u64,
    moved: Moved,
    /// Pages of the checkpoint that show other chunks than there are.
    changed: BTreeSet<u64>,
}

/// First LSNs of the chunks that are in one page of the checkpoint: a power of two.
const PAGE_LSNS_BITS: u32 = 12;
/// Chunks that are looked at under one lock, at most.
const SCAN: usize = 4096;
/// So many chunks are worth a checkpoint, however small they are.
const MANY: usize = 512;

/// The page of the checkpoint that a chunk is in, by its first LSN.
#[must_use]
pub fn page_of(first: Lsn) -> u64 {
    first.0 >> PAGE_LSNS_BITS
}

impl Ledger {
    /// An empty log, of which the newest `retain` bytes are kept whether owed or not.
    #[must_use]
    pub fn new(retain: u64) -> Self {
        Self {
            retain,
            ..Self::default()
        }
    }

    /// A chunk after all others.
    pub fn add(&mut self, chunk: ChunkFacts) {
        let kept = Kept {
            last: chunk.last,
            bytes: small(chunk.bytes),
            live: 0,
            content: Content::default(),
        };
        self.changed.insert(page_of(chunk.first));
        self.chunks.insert(chunk.first, kept);
        self.dead.insert(chunk.first);
        self.bytes += chunk.bytes;
        self.young += chunk.bytes;
        while let Some((&first, oldest)) = self.chunks.range(self.boundary.next()..).next() {
            let bytes = u64::from(oldest.bytes);
            if self.young - bytes < self.retain {
                break;
            }
            self.young -= bytes;
            self.boundary = first;
        }
    }

    /// Messages of a chunk are owed, by as many pairs as `more` says. False when the chunk is not in
    /// the log.
    pub fn owe(&mut self, chunk: Lsn, more: Content) -> bool {
        if more.pairs > 0 {
            self.dead.remove(&chunk);
        }
        self.change(chunk, |kept| {
            kept.live += more.pairs;
            let content = &mut kept.content;
            content.pairs = content.pairs.saturating_add(more.pairs);
            content.bytes = content.bytes.saturating_add(more.bytes);
            content.largest = content.largest.max(more.largest);
        })
    }

    fn change(&mut self, chunk: Lsn, change: impl FnOnce(&mut Kept)) -> bool {
        let Some(kept) = self.chunks.get_mut(&chunk) else {
            return false;
        };
        let before = kept.owed();
        change(kept);
        self.owed = self.owed - before + kept.owed();
        true
    }

    /// The chunk that an LSN belongs to.
    #[must_use]
    pub fn chunk_of(&self, lsn: Lsn) -> Option<ChunkFacts> {
        let (first, kept) = self.chunks.range(..=lsn).next_back()?;
        (lsn <= kept.last).then(|| facts(*first, kept))
    }

    /// The chunk in which the message with an LSN lies as long as it is owed, and the LSNs around it
    /// for which this is so.
    #[must_use]
    pub fn place_of(&self, lsn: Lsn) -> Option<Range> {
        self.moved.of(lsn).or_else(|| {
            let chunk = self.chunk_of(lsn)?;
            Some(Range {
                first: chunk.first,
                last: chunk.last,
                chunk: chunk.first,
            })
        })
    }

    /// A pair more is owed of each of these, which are in order. False when one is in no chunk.
    pub fn owe_each(&mut self, lsns: impl Iterator<Item = Lsn>) -> bool {
        let mut lsns = lsns.peekable();
        while let Some(lsn) = lsns.next() {
            let Some(place) = self.place_of(lsn) else {
                return false;
            };
            let mut pairs = 1;
            while lsns.next_if(|lsn| *lsn <= place.last).is_some() {
                pairs += 1;
            }
            self.dead.remove(&place.chunk);
            if !self.change(place.chunk, |kept| kept.live += pairs) {
                return false;
            }
        }
        true
    }

    /// One pair of a message is done with.
    ///
    /// # Panics
    /// When none was owed: the index and the ledger would contradict each other.
    pub fn settle(&mut self, lsn: Lsn) {
        let chunk = self.place_of(lsn).map(|place| place.chunk);
        let chunk = chunk.expect("a chunk stays while a message in it is owed");
        let mut left = 0;
        let known = self.change(chunk, |kept| {
            assert!(kept.live > 0, "a pair is settled once");
            kept.live -= 1;
            left = kept.live;
        });
        assert!(known, "a chunk stays while a message in it is owed");
        if left == 0 {
            self.dead.insert(chunk);
        }
    }

    /// What is owed of a chunk was read and found to be this.
    pub fn judge(&mut self, chunk: Lsn, content: Content) {
        self.change(chunk, |kept| kept.content = content);
    }

    /// All that is owed of a chunk lies in a later one now, whose record brought it. Nothing happens
    /// unless it brought everything.
    pub fn relog(&mut self, from: Lsn, to: Lsn, brought: Content) {
        let Some(source) = self.chunks.get(&from).copied() else {
            return;
        };
        if source.live == 0 || source.live != brought.pairs || source.last >= to {
            return;
        }
        if !self.owe(to, brought) {
            return;
        }
        self.change(from, |kept| kept.live = 0);
        self.dead.insert(from);
        self.changed.extend([page_of(from), page_of(to)]);
        let chunks = &self.chunks;
        self.moved.bring(from, source.last, to, |after, before| {
            let mut between = chunks.range(after..before);
            between.any(|(_, kept)| kept.live > 0)
        });
    }

    /// A checkpoint shows the ledger as it is now.
    pub fn checkpointed(&mut self) {
        self.free.append(&mut self.dead);
    }

    /// Pages of the checkpoint that have to be written again since this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }

    /// The chunks of one page, in order.
    pub fn page(&self, page: u64) -> impl Iterator<Item = (ChunkFacts, Content)> + '_ {
        let (first, last) = lsns_of(page);
        let chunks = self.chunks.range(first..=last);
        chunks.map(|(&first, kept)| (facts(first, kept), kept.content))
    }

    /// What was brought into the chunks of one page, by chunk.
    pub fn moved_page(&self, page: u64) -> impl Iterator<Item = Range> + '_ {
        let (first, last) = lsns_of(page);
        self.moved.within(first, last)
    }

    /// A range of a checkpoint. False when it cannot be one.
    pub fn restore_moved(&mut self, range: Range) -> bool {
        self.moved.restore(range)
    }

    /// Forgets what was brought into chunks that are not there: a full copy has only such as owe
    /// something.
    pub fn forget_strays(&mut self) {
        let chunks = &self.chunks;
        let gone = self.moved.keep(|chunk| chunks.contains_key(&chunk));
        self.changed.extend(gone.into_iter().map(page_of));
    }

    /// Takes out up to `count` chunks, oldest first, that owed nothing at the last checkpoint and are
    /// not in the retained log. Gives their first and last LSNs.
    pub fn collect(&mut self, count: usize) -> Vec<(Lsn, Lsn)> {
        let mut gone = Vec::new();
        while gone.len() < count {
            let Some(&first) = self.free.first() else {
                break;
            };
            if first > self.boundary {
                break;
            }
            self.free.remove(&first);
            if let Some(kept) = self.chunks.remove(&first) {
                self.bytes -= u64::from(kept.bytes);
                self.moved.forget(first);
                self.changed.insert(page_of(first));
                gone.push((first, kept.last));
            }
        }
        gone
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.chunks.len() * (size_of::<Lsn>() + size_of::<Kept>()) * 3 / 2 + self.moved.memory()
    }

    /// Bytes of messages that are owed, with their records, at least.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.owed
    }

    /// Pairs that are owed of a chunk.
    #[must_use]
    pub fn live(&self, chunk: Lsn) -> u32 {
        self.chunks.get(&chunk).map_or(0, |kept| kept.live)
    }

    /// Bytes of chunks below the retained log with nothing owed: those that may go now, and those
    /// that may after the next checkpoint. The highest number stands for many chunks.
    #[must_use]
    pub fn spare(&self) -> (u64, u64) {
        let bytes = |of: &BTreeSet<Lsn>| -> u64 {
            let (mut bytes, mut count) = (0, 0);
            for first in of.range(..=self.boundary).take(MANY) {
                let kept = self.chunks.get(first);
                bytes += kept.map_or(0, |kept| u64::from(kept.bytes));
                count += 1;
            }
            if count < MANY { bytes } else { u64::MAX }
        };
        (bytes(&self.free), bytes(&self.dead))
    }

    /// Looks at some chunks below the retained log that begin after an LSN, for such as may hold much
    /// more than is owed of them. Gives these, with the bytes that they take of the medium, and where
    /// to go on; none at the end.
    #[must_use]
    pub fn sparse(&self, after: Lsn) -> (Vec<(ChunkFacts, u64)>, Option<Lsn>) {
        let mut found = Vec::new();
        let before = self.chunks.range(..=after).next_back();
        let mut before = before.map(|(first, kept)| (*first, kept.last));
        let mut chunks = self.chunks.range(after.next()..).peekable();
        for _ in 0..SCAN {
            let Some((&first, kept)) = chunks.next() else {
                return (found, None);
            };
            if first > self.boundary {
                return (found, None);
            }
            let alone = before.is_some_and(|(_, last)| last.next() < first)
                || chunks
                    .peek()
                    .is_some_and(|(next, _)| kept.last.next() < **next);
            before = Some((first, kept.last));
            if kept.live > 0 {
                let takes = self.takes(first, kept, alone);
                if Content::wastes(kept.owed(), takes) {
                    found.push((facts(first, kept), takes));
                }
            }
        }
        (found, before.map(|(first, _)| first))
    }

    /// Bytes that a chunk takes of the medium, about. Small ones share pages, which may be left nearly
    /// empty when those beside them went (`alone`). One into which messages were brought is as small as
    /// it can be: it does not take more than its bytes.
    fn takes(&self, first: Lsn, kept: &Kept, alone: bool) -> u64 {
        let bytes = u64::from(kept.bytes);
        if self.moved.has_guests(first) {
            bytes
        } else if bytes > SHARES_PAGE {
            (bytes + 16).next_multiple_of(PAGE)
        } else if alone {
            (bytes * PAGE_LEFT).min(PAGE)
        } else {
            bytes
        }
    }

    /// Bytes of all chunks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the chunks that have records after an LSN.
    #[must_use]
    pub fn bytes_after(&self, after: Lsn) -> u64 {
        let newest = self.chunks.values().rev();
        newest
            .take_while(|kept| kept.last > after)
            .map(|kept| u64::from(kept.bytes))
            .sum()
    }

    /// Each chunk in order, and the pairs that are owed of what lies in it.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkFacts, u64)> + '_ {
        let chunks = self.chunks.iter();
        chunks.map(|(&first, kept)| (facts(first, kept), u64::from(kept.live)))
    }
}

fn facts(first: Lsn, kept: &Kept) -> ChunkFacts {
    ChunkFacts {
        first,
        last: kept.last,
        bytes: u64::from(kept.bytes),
    }
}

/// The LSNs at which the chunks of a page begin.
fn lsns_of(page: u64) -> (Lsn, Lsn) {
    let first = page << PAGE_LSNS_BITS;
    (Lsn(first), Lsn(first | ((1 << PAGE_LSNS_BITS) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(first: u64) -> ChunkFacts {
        ChunkFacts {
            first: Lsn(first),
            last: Lsn(first + 9),
            bytes: 100,
        }
    }

    fn pairs(count: u32) -> Content {
        Content {
            pairs: count,
            ..Content::default()
        }
    }

    #[test]
    fn only_what_was_settled_at_the_checkpoint_and_is_below_retention_goes() {
        let mut ledger = Ledger::new(200);
        for first in [1, 11, 21, 31, 41] {
            ledger.add(chunk(first));
            assert!(ledger.owe(Lsn(first), pairs(1)));
        }
        ledger.settle(Lsn(1));
        ledger.checkpointed();
        for first in [21, 31, 41] {
            ledger.settle(Lsn(first));
        }
        assert_eq!(ledger.collect(64), [(Lsn(1), Lsn(10))]);
        ledger.checkpointed();
        // Chunk 11 is still owed, 31 and 41 are the retained 200 bytes.
        assert_eq!(ledger.collect(64), [(Lsn(21), Lsn(30))]);
        ledger.settle(Lsn(11));
        assert_eq!(ledger.collect(64), []);
        ledger.checkpointed();
        assert_eq!(ledger.collect(0), []);
        assert_eq!(ledger.collect(64), [(Lsn(11), Lsn(20))]);
        assert_eq!(ledger.bytes(), 200);
    }

    #[test]
    fn the_bytes_after_an_lsn_are_those_of_the_chunks_that_reach_beyond_it() {
        let mut ledger = Ledger::new(0);
        assert_eq!(ledger.bytes_after(Lsn::ZERO), 0);
        for (first, bytes) in [(1, 7), (11, 500), (31, 20)] {
            ledger.add(ChunkFacts {
                bytes,
                ..chunk(first)
            });
        }
        let after = [0, 1, 9, 10, 19, 20, 39, 40].map(|lsn| ledger.bytes_after(Lsn(lsn)));
        assert_eq!(after, [527, 527, 527, 520, 520, 20, 20, 0]);
    }

    #[test]
    fn what_lies_in_chunks_that_are_not_in_the_log_is_forgotten() {
        let mut ledger = Ledger::new(0);
        ledger.add(chunk(31));
        for (first, to) in [(1, 11), (21, 31)] {
            let last = Lsn(first + 9);
            let (first, chunk) = (Lsn(first), Lsn(to));
            assert!(ledger.restore_moved(Range { first, last, chunk }));
        }
        drop(ledger.take_changed());
        ledger.forget_strays();
        let left: Vec<Lsn> = ledger.moved_page(0).map(|range| range.chunk).collect();
        assert_eq!(left, [Lsn(31)]);
        // The next checkpoint does not have them either.
        assert!(ledger.take_changed().contains(&0));
    }

    #[test]
    fn an_old_backlog_does_not_push_the_recent_log_out() {
        let mut ledger = Ledger::new(200);
        for first in [1, 11, 21, 31, 41, 51] {
            ledger.add(chunk(first));
        }
        for first in [1, 11, 21] {
            assert!(ledger.owe(Lsn(first), pairs(3)));
        }
        ledger.checkpointed();
        assert_eq!(ledger.collect(64), [(Lsn(31), Lsn(40))]);
    }
}
