//! Bodies that are too large for one record: they lie in PART records of the log, and the message says
//! in which. All that a store, a queue or a selector has of such a message is its head.

use crate::proto::ids::Lsn;
use crate::proto::record::{CHUNK_BYTES, CHUNK_HEADER, DecodeError, Reader, put_varint};

/// A larger body is in parts.
pub const BODY_IN_ONE_MAX: usize = 64 << 10;
/// Bytes of the body in each part but the last: a little less than 64 KiB, so that a part with all that
/// stands before it is a chunk of ordinary size.
pub const PART_BYTES: usize = CHUNK_BYTES - CHUNK_HEADER - 32;
/// No message has more parts: 8 GiB of body.
const PARTS_MAX: u64 = 1 << 17;

/// Where the parts of a body are. Their LSNs ascend; those that follow each other are kept as one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    bytes: u64,
    count: u64,
    /// The first of each row, and how many they are.
    rows: Vec<(Lsn, u64)>,
}

impl Parts {
    /// One part more, of so many bytes. False, and nothing changes: it does not come after the others,
    /// or they are too many.
    pub fn push(&mut self, lsn: Lsn, bytes: usize) -> bool {
        if lsn <= self.last() || self.count >= PARTS_MAX {
            return false;
        }
        match self.rows.last_mut() {
            Some((first, count)) if first.0.saturating_add(*count) == lsn.0 => *count += 1,
            _ => self.rows.push((lsn, 1)),
        }
        self.count += 1;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// Bytes of the whole body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first one, by which the body is known; zero when there is none.
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.rows.first().map_or(Lsn::ZERO, |(first, _)| *first)
    }

    fn last(&self) -> Lsn {
        self.rows
            .last()
            .map_or(Lsn::ZERO, |(first, count)| Lsn(first.0 + count - 1))
    }

    /// All of them, in order.
    pub fn lsns(&self) -> impl Iterator<Item = Lsn> + '_ {
        let rows = self.rows.iter();
        rows.flat_map(|(first, count)| (first.0..first.0 + count).map(Lsn))
    }

    /// The next ones after an LSN, at most `count`.
    #[must_use]
    pub fn after(&self, lsn: Lsn, count: usize) -> Vec<Lsn> {
        let from = self.rows.partition_point(|(first, _)| *first <= lsn);
        let rows = self.rows[from.saturating_sub(1)..].iter();
        rows.flat_map(|(first, count)| (first.0..first.0 + count).map(Lsn))
            .filter(|next| *next > lsn)
            .take(count)
            .collect()
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        let at = self.rows.partition_point(|(first, _)| *first <= lsn);
        let row = self.rows[..at].last();
        row.is_some_and(|(first, count)| lsn.0 - first.0 < *count)
    }

    /// The first of each row, in order.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = Lsn> + '_ {
        self.rows.iter().map(|(first, _)| *first)
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.rows.capacity() * size_of::<(Lsn, u64)>()
    }

    /// Appends it: bytes, rows, and for each the distance from the end of the one before and its length.
    pub fn encode(&self, to: &mut Vec<u8>) {
        put_varint(to, self.bytes);
        put_varint(to, self.rows.len() as u64);
        let mut last = Lsn::ZERO;
        for (first, count) in &self.rows {
            put_varint(to, first.0 - last.0);
            put_varint(to, *count);
            last = Lsn(first.0 + count - 1);
        }
    }

    /// Reads what [`Parts::encode`] wrote.
    pub(crate) fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = from.varint()?;
        let rows = from.length()?;
        // Each takes two bytes at least.
        if rows > from.bytes.len().saturating_sub(from.at) / 2 {
            return Err(DecodeError::Short);
        }
        let mut parts = Self {
            bytes,
            count: 0,
            rows: Vec::with_capacity(rows),
        };
        for _ in 0..rows {
            let first = from.lsn_after(parts.last())?;
            let count = from.varint()?;
            let follows = first > parts.last() && count > 0;
            let total = parts.count.checked_add(count);
            let fits = total.filter(|total| *total <= PARTS_MAX && first.0 < u64::MAX - *total);
            parts.count = fits.filter(|_| follows).ok_or(DecodeError::Number)?;
            parts.rows.push((first, count));
        }
        Ok(parts)
    }

    /// Reads it where nothing may follow; none when it is not sound.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader { bytes, at: 0 };
        let parts = Self::decode(&mut from).ok()?;
        (from.at == bytes.len() && !parts.is_empty()).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(lsns: &[u64]) -> Parts {
        let mut parts = Parts::default();
        for lsn in lsns {
            assert!(parts.push(Lsn(*lsn), 10));
        }
        parts
    }

    #[test]
    fn parts_that_follow_each_other_are_one_row() {
        let parts = parts(&[5, 6, 7, 20, 21]);
        assert_eq!(parts.rows, [(Lsn(5), 3), (Lsn(20), 2)]);
        assert_eq!((parts.bytes(), parts.len()), (50, 5));
        let after = |lsn: u64| parts.after(Lsn(lsn), 2);
        assert_eq!(after(0), [Lsn(5), Lsn(6)]);
        assert_eq!(after(6), [Lsn(7), Lsn(20)]);
        assert_eq!(after(7), [Lsn(20), Lsn(21)]);
        assert_eq!(after(20), [Lsn(21)]);
        assert_eq!(after(21), []);
        assert_eq!(Parts::default().after(Lsn(3), 2), []);
        let contained: Vec<u64> = (0..30).filter(|lsn| parts.contains(Lsn(*lsn))).collect();
        assert_eq!(contained, [5, 6, 7, 20, 21]);
        assert!(parts.rows().eq([Lsn(5), Lsn(20)]));
    }

    #[test]
    fn parts_out_of_order_are_not_taken() {
        let mut parts = parts(&[5, 9]);
        assert!(!parts.push(Lsn(9), 1) && !parts.push(Lsn(3), 1));
        assert_eq!((parts.bytes(), parts.len()), (20, 2));
    }

    #[test]
    fn what_cannot_be_is_not_read() {
        for bytes in [
            &[][..],
            &[0],
            &[0, 0],
            // A row of none; a row at zero; more than there may be; something behind.
            &[9, 1, 5, 0],
            &[9, 1, 0, 1],
            &[9, 1, 5, 0xff, 0xff, 0xff, 0x7f],
            &[9, 1, 5, 1, 1],
            &[9, 0xff, 0xff, 0xff, 0xff, 0x0f],
        ] {
            assert_eq!(Parts::read(bytes), None, "{bytes:?}");
        }
        assert_eq!(Parts::read(&[10, 1, 5, 1]), Some(parts(&[5])));
    }

    #[test]
    fn rows_that_cannot_all_be_there_are_not_reserved_for() {
        for (rows, error) in [(3, DecodeError::Short), (2, DecodeError::Number)] {
            let bytes = [&[9, rows], &[0; 5][..]].concat();
            let mut from = Reader {
                bytes: &bytes,
                at: 0,
            };
            assert_eq!(Parts::decode(&mut from), Err(error), "{rows} rows");
        }
    }

    proptest! {
        #[test]
        fn parts_are_read_as_they_were_written(gaps in prop::collection::vec(1u64..4, 1..60)) {
            let mut lsn = 0;
            let lsns: Vec<u64> = gaps.iter().map(|gap| { lsn += gap; lsn }).collect();
            let parts = parts(&lsns);
            prop_assert!(parts.lsns().map(|lsn| lsn.0).eq(lsns));
            let mut bytes = Vec::new();
            parts.encode(&mut bytes);
            prop_assert_eq!(Parts::read(&bytes), Some(parts));
        }
    }
}
