//! The ledger: for each chunk of the log how many (message, destination) pairs in it are still owed.
//! Changed only as records are applied; says which chunks may go.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::ids::Lsn;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    last: Lsn,
    bytes: u64,
    live: u64,
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
    /// Pages of the checkpoint that show other chunks than there are.
    changed: BTreeSet<u64>,
}

/// First LSNs of the chunks that are in one page of the checkpoint: a power of two.
const PAGE_LSNS_BITS: u32 = 12;

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
            bytes: chunk.bytes,
            live: 0,
        };
        self.changed.insert(page_of(chunk.first));
        self.chunks.insert(chunk.first, kept);
        self.dead.insert(chunk.first);
        self.bytes += chunk.bytes;
        self.young += chunk.bytes;
        while let Some((&first, oldest)) = self.chunks.range(self.boundary.next()..).next() {
            if self.young - oldest.bytes < self.retain {
                break;
            }
            self.young -= oldest.bytes;
            self.boundary = first;
        }
    }

    /// `pairs` more are owed from a chunk. False when the chunk is not in the log.
    pub fn owe(&mut self, chunk: Lsn, pairs: u64) -> bool {
        let Some(kept) = self.chunks.get_mut(&chunk) else {
            return false;
        };
        if kept.live == 0 && pairs > 0 {
            self.dead.remove(&chunk);
        }
        kept.live += pairs;
        true
    }

    /// The chunk that an LSN lies in.
    #[must_use]
    pub fn chunk_of(&self, lsn: Lsn) -> Option<ChunkFacts> {
        let (first, kept) = self.chunks.range(..=lsn).next_back()?;
        (lsn <= kept.last).then_some(ChunkFacts {
            first: *first,
            last: kept.last,
            bytes: kept.bytes,
        })
    }

    /// A pair more is owed of each of these, which are in order. False when one is in no chunk.
    pub fn owe_each(&mut self, lsns: impl Iterator<Item = Lsn>) -> bool {
        let mut lsns = lsns.peekable();
        while let Some(lsn) = lsns.next() {
            let Some((&first, kept)) = self.chunks.range_mut(..=lsn).next_back() else {
                return false;
            };
            if lsn > kept.last {
                return false;
            }
            if kept.live == 0 {
                self.dead.remove(&first);
            }
            kept.live += 1;
            while lsns.next_if(|lsn| *lsn <= kept.last).is_some() {
                kept.live += 1;
            }
        }
        true
    }

    /// One pair of a message is done with.
    ///
    /// # Panics
    /// When none was owed: the index and the ledger would contradict each other.
    pub fn settle(&mut self, lsn: Lsn) {
        let (first, kept) = self
            .chunks
            .range_mut(..=lsn)
            .next_back()
            .expect("a chunk stays while a message in it is owed");
        assert!(kept.live > 0 && lsn <= kept.last, "a pair is settled once");
        kept.live -= 1;
        if kept.live == 0 {
            let first = *first;
            self.dead.insert(first);
        }
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
    pub fn page(&self, page: u64) -> impl Iterator<Item = ChunkFacts> + '_ {
        let first = Lsn(page << PAGE_LSNS_BITS);
        let last = Lsn(first.0 | ((1 << PAGE_LSNS_BITS) - 1));
        self.chunks
            .range(first..=last)
            .map(|(&first, kept)| ChunkFacts {
                first,
                last: kept.last,
                bytes: kept.bytes,
            })
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
                self.bytes -= kept.bytes;
                self.changed.insert(page_of(first));
                gone.push((first, kept.last));
            }
        }
        gone
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.chunks.len() * (size_of::<Lsn>() + size_of::<Kept>()) * 3 / 2
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
            .map(|kept| kept.bytes)
            .sum()
    }

    /// First LSN, last LSN, bytes and pairs owed of each chunk, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkFacts, u64)> + '_ {
        self.chunks.iter().map(|(&first, kept)| {
            let facts = ChunkFacts {
                first,
                last: kept.last,
                bytes: kept.bytes,
            };
            (facts, kept.live)
        })
    }
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

    #[test]
    fn only_what_was_settled_at_the_checkpoint_and_is_below_retention_goes() {
        let mut ledger = Ledger::new(200);
        for first in [1, 11, 21, 31, 41] {
            ledger.add(chunk(first));
            assert!(ledger.owe(Lsn(first), 1));
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
    fn an_old_backlog_does_not_push_the_recent_log_out() {
        let mut ledger = Ledger::new(200);
        for first in [1, 11, 21, 31, 41, 51] {
            ledger.add(chunk(first));
        }
        for first in [1, 11, 21] {
            assert!(ledger.owe(Lsn(first), 3));
        }
        ledger.checkpointed();
        assert_eq!(ledger.collect(64), [(Lsn(31), Lsn(40))]);
    }
}
