//! Where messages lie that were re-logged: ranges of LSNs of which all that is owed lies in another
//! chunk than that of its PUT. A range for each chunk that was emptied so, and where nothing is owed
//! between two of them and they went to the same chunk, one for both.

use std::collections::BTreeMap;

use crate::proto::ids::Lsn;

/// LSNs whose owed messages lie in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first of them.
    pub first: Lsn,
    /// The last of them.
    pub last: Lsn,
    /// The first LSN of the chunk, its key.
    pub chunk: Lsn,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// By their first LSNs; none overlaps another.
    ranges: BTreeMap<Lsn, Range>,
    /// The first LSNs of the ranges that lie in a chunk, ascending.
    guests: BTreeMap<Lsn, Vec<Lsn>>,
}

impl Moved {
    /// The range that an LSN is in; none when its message lies where its PUT is.
    #[must_use]
    pub fn of(&self, lsn: Lsn) -> Option<Range> {
        let (_, range) = self.ranges.range(..=lsn).next_back()?;
        (lsn <= range.last).then_some(*range)
    }

    /// Whether messages of other chunks were brought into this one.
    #[must_use]
    pub fn has_guests(&self, chunk: Lsn) -> bool {
        self.guests.contains_key(&chunk)
    }

    /// The ranges that lie in chunks from `first` to `last`, by chunk.
    pub fn within(&self, first: Lsn, last: Lsn) -> impl Iterator<Item = Range> + '_ {
        let guests = self.guests.range(first..=last);
        guests.flat_map(|(_, firsts)| firsts.iter().filter_map(|at| self.ranges.get(at).copied()))
    }

    /// What lies in the chunk of the LSNs `first` to `last`, by PUT or brought before, lies in `to`
    /// now. `owed` says whether anything is owed between two LSNs.
    pub fn bring(&mut self, first: Lsn, last: Lsn, to: Lsn, owed: impl Fn(Lsn, Lsn) -> bool) {
        for at in self.guests.remove(&first).unwrap_or_default() {
            if let Some(range) = self.ranges.remove(&at) {
                self.put(Range { chunk: to, ..range }, &owed);
            }
        }
        let own = Range {
            first,
            last,
            chunk: to,
        };
        self.put(own, &owed);
    }

    fn put(&mut self, range: Range, owed: &impl Fn(Lsn, Lsn) -> bool) {
        if let Some((_, before)) = self.ranges.range_mut(..range.first).next_back()
            && before.chunk == range.chunk
            && !owed(before.last.next(), range.first)
        {
            before.last = range.last;
            return;
        }
        self.ranges.insert(range.first, range);
        let firsts = self.guests.entry(range.chunk).or_default();
        let place = firsts.partition_point(|first| *first < range.first);
        firsts.insert(place, range.first);
    }

    /// A range of a checkpoint. False when it cannot be one.
    pub fn restore(&mut self, range: Range) -> bool {
        let before = self.ranges.range(..=range.last).next_back();
        let free = before.is_none_or(|(_, before)| before.last < range.first);
        if !free || range.first > range.last || range.last >= range.chunk {
            return false;
        }
        self.put(range, &|_, _| true);
        true
    }

    /// A chunk is gone, and nothing in it was owed.
    pub fn forget(&mut self, chunk: Lsn) {
        for first in self.guests.remove(&chunk).unwrap_or_default() {
            self.ranges.remove(&first);
        }
    }

    /// Forgets what lies in other chunks than these, and gives those.
    pub fn keep(&mut self, known: impl Fn(Lsn) -> bool) -> Vec<Lsn> {
        let chunks = self.guests.keys().copied();
        let gone: Vec<Lsn> = chunks.filter(|chunk| !known(*chunk)).collect();
        gone.iter().for_each(|chunk| self.forget(*chunk));
        gone
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.ranges.len() * (size_of::<Range>() + 2 * size_of::<Lsn>()) * 3 / 2
            + self.guests.len() * (size_of::<Lsn>() + size_of::<Vec<Lsn>>()) * 3 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(moved: &Moved) -> Vec<(u64, u64, u64)> {
        let ranges = moved.ranges.values();
        ranges
            .map(|range| (range.first.0, range.last.0, range.chunk.0))
            .collect()
    }

    #[test]
    fn ranges_that_go_to_one_chunk_become_one_where_nothing_between_them_is_owed() {
        let mut moved = Moved::default();
        let owed = |from: Lsn, before: Lsn| (from..before).contains(&Lsn(25));
        moved.bring(Lsn(1), Lsn(9), Lsn(100), owed);
        moved.bring(Lsn(15), Lsn(19), Lsn(100), owed);
        moved.bring(Lsn(30), Lsn(39), Lsn(100), owed);
        assert_eq!(all(&moved), [(1, 19, 100), (30, 39, 100)]);
        assert_eq!(moved.of(Lsn(12)).unwrap().chunk, Lsn(100));
        assert_eq!(moved.of(Lsn(25)), None);
        assert!(moved.has_guests(Lsn(100)));
    }

    #[test]
    fn what_was_brought_goes_on_with_the_chunk_that_it_was_brought_to() {
        let mut moved = Moved::default();
        moved.bring(Lsn(10), Lsn(19), Lsn(100), |_, _| true);
        moved.bring(Lsn(30), Lsn(39), Lsn(100), |_, _| true);
        moved.bring(Lsn(50), Lsn(59), Lsn(101), |_, _| true);
        moved.bring(Lsn(100), Lsn(109), Lsn(200), |_, _| true);
        assert_eq!(
            all(&moved),
            [(10, 19, 200), (30, 39, 200), (50, 59, 101), (100, 109, 200)]
        );
        assert!(!moved.has_guests(Lsn(100)));
        let within = |first, last| moved.within(Lsn(first), Lsn(last)).count();
        assert_eq!((within(0, 101), within(102, 300)), (1, 3));
        moved.forget(Lsn(200));
        assert_eq!(all(&moved), [(50, 59, 101)]);
    }

    #[test]
    fn what_lies_in_chunks_that_are_not_there_is_forgotten() {
        let mut moved = Moved::default();
        moved.bring(Lsn(10), Lsn(19), Lsn(100), |_, _| true);
        moved.bring(Lsn(30), Lsn(39), Lsn(100), |_, _| true);
        moved.bring(Lsn(50), Lsn(59), Lsn(200), |_, _| true);
        assert_eq!(moved.keep(|chunk| chunk == Lsn(200)), [Lsn(100)]);
        assert_eq!(all(&moved), [(50, 59, 200)]);
        assert!(!moved.has_guests(Lsn(100)) && moved.has_guests(Lsn(200)));
    }

    #[test]
    fn a_range_that_cannot_be_is_refused() {
        let mut moved = Moved::default();
        let mut restore = |first, last, chunk| {
            moved.restore(Range {
                first: Lsn(first),
                last: Lsn(last),
                chunk: Lsn(chunk),
            })
        };
        assert!(restore(10, 19, 100));
        for (first, last, chunk) in [(19, 25, 100), (5, 10, 100), (5, 30, 100), (12, 13, 100)] {
            assert!(!restore(first, last, chunk), "{first} to {last} overlap");
        }
        assert!(!restore(40, 39, 100));
        assert!(!restore(40, 100, 100));
        assert!(restore(20, 20, 90));
    }
}
