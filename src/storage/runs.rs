//! The messages of one lane as runs: for each 4,096 LSNs in which something is owed, which of them.
//! Nothing is kept for a single message but its bit, or two bytes where a run has few; where its bytes
//! are is found in its chunk when it is read. Their sizes are known by the run: one that is settled counts
//! as the average of what its run owes, so a run's bytes are exact when it is full, when it is empty, and
//! while its messages are of one size.

use std::collections::VecDeque;

use crate::proto::ids::Lsn;
use crate::proto::record::{DecodeError, Reader, put_varint};

/// LSNs of one run: a power of two.
pub const RUN_LSNS: u64 = 1 << RUN_BITS;
const RUN_BITS: u32 = 12;
const WORDS: usize = 64;
/// A run with more becomes a bitmap...
const FEW_MAX: usize = 192;
/// ...and one with fewer a list again.
const MANY_MIN: u16 = 64;
/// Nothing in a run expires.
const NEVER: u64 = u64::MAX;

/// Forms without bytes are read, and not written any more.
const FORM_FEW: u8 = 0;
const FORM_MANY: u8 = 1;
const FORM_FEW_SIZED: u8 = 2;
const FORM_MANY_SIZED: u8 = 3;

/// The bits of a run.
pub type Bits = [u64; WORDS];

/// The run that an LSN belongs to.
#[must_use]
pub fn run_of(lsn: Lsn) -> u64 {
    lsn.0 >> RUN_BITS
}

fn offset_of(lsn: Lsn) -> u16 {
    u16::try_from(lsn.0 & (RUN_LSNS - 1)).expect("twelve bits fit")
}

/// What of 4,096 LSNs is owed; never nothing.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its first LSN divided by 4,096.
    pub number: u64,
    /// Nothing in it expires before; a lower bound that is not raised by acknowledgements.
    expiry: u64,
    owed: Owed,
    live: u16,
    /// Of the messages owed, about; see the module.
    bytes: u64,
    /// Changed since the last checkpoint.
    dirty: bool,
    /// There is a page of it in the checkpoint.
    stored: bool,
}

#[derive(Clone, Debug)]
enum Owed {
    /// Offsets, ascending.
    Few(Vec<u16>),
    Many(Box<Bits>),
}

impl Run {
    fn new(number: u64) -> Self {
        Self {
            number,
            expiry: NEVER,
            owed: Owed::Few(Vec::new()),
            live: 0,
            bytes: 0,
            dirty: true,
            stored: false,
        }
    }

    /// Nothing in it expires before.
    #[must_use]
    pub fn expiry(&self) -> Option<u64> {
        (self.expiry != NEVER).then_some(self.expiry)
    }

    /// How many are owed.
    #[must_use]
    pub fn live(&self) -> u16 {
        self.live
    }

    /// Adds the bits of what is owed.
    pub fn add_to(&self, bits: &mut Bits) {
        match &self.owed {
            Owed::Few(offsets) => {
                for offset in offsets {
                    bits[usize::from(offset / 64)] |= 1 << (offset % 64);
                }
            }
            Owed::Many(own) => {
                for (word, own) in bits.iter_mut().zip(own.iter()) {
                    *word |= own;
                }
            }
        }
    }

    /// `offset` is above all that were ever in it.
    fn push(&mut self, offset: u16) {
        if let Owed::Few(offsets) = &mut self.owed {
            if offsets.len() < FEW_MAX {
                offsets.push(offset);
            } else {
                self.widen();
            }
        }
        if let Owed::Many(bits) = &mut self.owed {
            bits[usize::from(offset / 64)] |= 1 << (offset % 64);
        }
        self.live += 1;
        self.dirty = true;
    }

    fn widen(&mut self) {
        let mut bits = Box::new([0; WORDS]);
        self.add_to(&mut bits);
        self.owed = Owed::Many(bits);
    }

    fn contains(&self, offset: u16) -> bool {
        match &self.owed {
            Owed::Few(offsets) => offsets.binary_search(&offset).is_ok(),
            Owed::Many(bits) => bits[usize::from(offset / 64)] & (1 << (offset % 64)) != 0,
        }
    }

    /// Its bytes; none when it was not owed.
    fn remove(&mut self, offset: u16) -> Option<u64> {
        match &mut self.owed {
            Owed::Few(offsets) => {
                let at = offsets.binary_search(&offset).ok()?;
                offsets.remove(at);
            }
            Owed::Many(bits) => {
                let word = &mut bits[usize::from(offset / 64)];
                if *word & (1 << (offset % 64)) == 0 {
                    return None;
                }
                *word &= !(1 << (offset % 64));
            }
        }
        let bytes = self.bytes / u64::from(self.live);
        self.bytes -= bytes;
        self.live -= 1;
        self.dirty = true;
        if self.live < MANY_MIN
            && let Owed::Many(bits) = &self.owed
        {
            self.owed = Owed::Few(offsets(bits).collect());
        }
        Some(bytes)
    }

    /// Its LSNs, in order.
    pub fn lsns(&self) -> impl DoubleEndedIterator<Item = Lsn> + use<> {
        let mut bits = [0; WORDS];
        self.add_to(&mut bits);
        let first = self.number << RUN_BITS;
        let all: Vec<u16> = offsets(&bits).collect();
        all.into_iter()
            .map(move |offset| Lsn(first + u64::from(offset)))
    }

    /// As it stands in a page of the checkpoint, but for its number.
    pub fn encode(&self, to: &mut Vec<u8>) {
        put_varint(to, self.expiry().map_or(0, |at| at.saturating_add(1)));
        match &self.owed {
            Owed::Few(offsets) => {
                to.push(FORM_FEW_SIZED);
                put_varint(to, self.bytes);
                put_varint(to, offsets.len() as u64);
                let mut next = 0;
                for offset in offsets {
                    put_varint(to, u64::from(offset - next));
                    next = offset + 1;
                }
            }
            Owed::Many(bits) => {
                to.push(FORM_MANY_SIZED);
                put_varint(to, self.bytes);
                for word in bits.iter() {
                    to.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    /// Reads one that [`Run::encode`] wrote.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn decode(number: u64, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if number > u64::MAX >> RUN_BITS {
            return Err(DecodeError::Number);
        }
        let mut run = Self::new(number);
        run.expiry = from.varint()?.checked_sub(1).unwrap_or(NEVER);
        let form = from.u8()?;
        if matches!(form, FORM_FEW_SIZED | FORM_MANY_SIZED) {
            run.bytes = from.varint()?;
        }
        match form {
            FORM_FEW | FORM_FEW_SIZED => {
                let mut next = 0u64;
                for _ in 0..from.length()? {
                    let offset = next
                        .checked_add(from.varint()?)
                        .ok_or(DecodeError::Number)?;
                    if offset >= RUN_LSNS {
                        return Err(DecodeError::Number);
                    }
                    run.push(u16::try_from(offset).map_err(|_| DecodeError::Number)?);
                    next = offset + 1;
                }
            }
            FORM_MANY | FORM_MANY_SIZED => {
                let mut bits = Box::new([0; WORDS]);
                for word in bits.iter_mut() {
                    let bytes = from.take(8)?.try_into().map_err(|_| DecodeError::Short)?;
                    *word = u64::from_le_bytes(bytes);
                }
                let live: u32 = bits.iter().map(|word| word.count_ones()).sum();
                run.live = u16::try_from(live).map_err(|_| DecodeError::Number)?;
                run.owed = Owed::Many(bits);
            }
            other => return Err(DecodeError::Kind(other)),
        }
        if run.live == 0 {
            return Err(DecodeError::Number);
        }
        run.dirty = false;
        run.stored = true;
        Ok(run)
    }
}

/// The offsets whose bits are set, ascending.
fn offsets(bits: &Bits) -> impl Iterator<Item = u16> + '_ {
    (0u16..).zip(bits).flat_map(|(place, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            (left != 0).then(|| {
                left &= left - 1;
                place * 64 + u16::try_from(bit).expect("a word has 64 bits")
            })
        })
    })
}

/// Puts the LSNs of a run's bits that are above `after` to `out`, until it has `limit`. False when
/// there was no room for all.
pub fn put_lsns(number: u64, bits: &Bits, after: Lsn, limit: usize, out: &mut Vec<Lsn>) -> bool {
    let first = number << RUN_BITS;
    for offset in offsets(bits) {
        let lsn = Lsn(first + u64::from(offset));
        if lsn <= after {
            continue;
        }
        if out.len() >= limit {
            return false;
        }
        out.push(lsn);
    }
    true
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// In order.
    runs: VecDeque<Run>,
    live: u64,
    bytes: u64,
}

impl Runs {
    /// How many messages are owed.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Bytes of what is owed: exact to within what the messages of a run differ.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// A message after all that were ever in it.
    pub fn push(&mut self, lsn: Lsn, expiry_ms: Option<u64>, bytes: u64) {
        let number = run_of(lsn);
        if self.runs.back().is_none_or(|last| last.number != number) {
            self.runs.push_back(Run::new(number));
        }
        let last = self.runs.back_mut().expect("there is one now");
        last.push(offset_of(lsn));
        last.expiry = last.expiry.min(expiry_ms.unwrap_or(NEVER));
        last.bytes = last.bytes.saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        self.live += 1;
    }

    fn place(&self, number: u64) -> Option<usize> {
        // Acknowledgements come in the order of delivery, mostly.
        if self.runs.front()?.number == number {
            return Some(0);
        }
        self.runs
            .binary_search_by_key(&number, |run| run.number)
            .ok()
    }

    /// Whether it is owed.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.place(run_of(lsn))
            .is_some_and(|at| self.runs[at].contains(offset_of(lsn)))
    }

    /// It is not owed any more; false when it was not. When its run goes with it and has a page in the
    /// checkpoint, its number is given to `gone`.
    pub fn remove(&mut self, lsn: Lsn, gone: impl FnOnce(u64)) -> bool {
        let Some(at) = self.place(run_of(lsn)) else {
            return false;
        };
        let run = &mut self.runs[at];
        let Some(bytes) = run.remove(offset_of(lsn)) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(bytes);
        self.live -= 1;
        if run.live == 0 {
            if run.stored {
                gone(run.number);
            }
            self.runs.remove(at);
        }
        true
    }

    /// A run of a checkpoint, after all others. False when it is not after them.
    pub fn restore(&mut self, run: Run) -> bool {
        if self
            .runs
            .back()
            .is_some_and(|last| last.number >= run.number)
        {
            return false;
        }
        self.live += u64::from(run.live);
        self.bytes = self.bytes.saturating_add(run.bytes);
        self.runs.push_back(run);
        true
    }

    /// The runs whose number is `from` or higher.
    pub fn runs_from(&self, from: u64) -> impl Iterator<Item = &Run> + '_ {
        let start = self.runs.partition_point(|run| run.number < from);
        self.runs.range(start..)
    }

    /// All LSNs, in order.
    pub fn lsns(&self) -> impl Iterator<Item = Lsn> + '_ {
        self.runs.iter().flat_map(Run::lsns)
    }

    /// The newest, or zero.
    #[must_use]
    pub fn last(&self) -> Lsn {
        let last = self.runs.back().and_then(|run| run.lsns().next_back());
        last.unwrap_or(Lsn::ZERO)
    }

    /// Nothing expires before.
    #[must_use]
    pub fn expiry(&self) -> Option<u64> {
        self.runs.iter().filter_map(Run::expiry).min()
    }

    /// All that is owed in a run was read, and the first of it expires then: the bound may rise, if
    /// nothing came to it since.
    pub fn tighten(&mut self, number: u64, last: Lsn, expiry_ms: Option<u64>) {
        if let Some(at) = self.place(number)
            && self.runs[at]
                .lsns()
                .next_back()
                .is_some_and(|newest| newest <= last)
        {
            self.runs[at].expiry = expiry_ms.unwrap_or(NEVER);
        }
    }

    /// The runs that changed since this was asked last, which have pages from now on.
    pub fn take_dirty(&mut self) -> impl Iterator<Item = &Run> + '_ {
        self.runs.iter_mut().filter_map(|run| {
            std::mem::take(&mut run.dirty).then(|| {
                run.stored = true;
                &*run
            })
        })
    }

    /// The numbers of the runs that have pages.
    pub fn stored(&self) -> impl Iterator<Item = u64> + '_ {
        let stored = self.runs.iter().filter(|run| run.stored);
        stored.map(|run| run.number)
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let heap: usize = self
            .runs
            .iter()
            .map(|run| match &run.owed {
                Owed::Few(offsets) => offsets.capacity() * 2,
                Owed::Many(_) => size_of::<Bits>(),
            })
            .sum();
        heap + self.runs.capacity() * size_of::<Run>()
    }
}

#[cfg(test)]
mod tests;
