//! Memory for messages that no record holds: those that are not persistent, and those of volatile
//! destinations. One bound for all destinations of a server; what does not fit is stored as any other
//! message is.
//!
//! A destination that has *spilled* keeps nothing more in memory until everything that is stored of it
//! is gone: so what is in memory is older than what was spilled, and leaves first, and the messages of
//! one sender stay in order. Who sends asks the destination's share before the message is on its way, so
//! the share is told of what goes to the store (`spill`), and of what has come from there (`arrived`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::account::Load;
use crate::proto::ids::Lsn;
use crate::storage::api::{Entry, Times};

/// The memory, shared by the destinations of a term.
#[derive(Debug)]
pub struct VolatilePool {
    bytes_max: Cell<usize>,
    used: Cell<usize>,
    next: Cell<u64>,
}

impl VolatilePool {
    /// Room for so many bytes; zero: every message is stored. Positions count up from `first`, which
    /// is to be higher than any that was given out before a restart: clients see them in message ids.
    #[must_use]
    pub fn new(bytes_max: usize, first: u64) -> Rc<Self> {
        Rc::new(Self {
            bytes_max: Cell::new(bytes_max),
            used: Cell::new(0),
            // Looks begin beyond the position zero.
            next: Cell::new(first.max(1)),
        })
    }

    /// Another bound, for what comes from now on.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.bytes_max.set(bytes_max);
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// The position of the newest message that was ever kept, in any destination: what is kept from now
    /// on lies beyond it.
    #[must_use]
    pub fn newest(&self) -> Lsn {
        Lsn::volatile(self.next.get().wrapping_sub(1))
    }

    fn take(&self, bytes: usize) -> Option<Lsn> {
        let used = self.used.get().saturating_add(bytes);
        if used > self.bytes_max.get() {
            return None;
        }
        self.used.set(used);
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        Some(Lsn::volatile(number))
    }

    fn give(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }
}

/// What one destination has of the pool, and whether it may take more; given back when it ends. Shared
/// by its machine and by whoever sends to it.
#[derive(Debug)]
pub struct VolatileShare {
    pool: Rc<VolatilePool>,
    messages: Cell<u64>,
    bytes: Cell<usize>,
    /// Nothing more is kept until nothing is stored.
    spilled: Cell<bool>,
    /// Spilled messages whose commit has not come.
    in_flight: Cell<u64>,
}

impl VolatileShare {
    /// Of a destination that begins.
    #[must_use]
    pub fn new(pool: Rc<VolatilePool>) -> Rc<Self> {
        Rc::new(Self {
            pool,
            messages: Cell::new(0),
            bytes: Cell::new(0),
            spilled: Cell::new(false),
            in_flight: Cell::new(0),
        })
    }

    /// Messages that are kept, here or on their way to the destination.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.get()
    }

    /// What is kept, without what it costs besides.
    #[must_use]
    pub fn load(&self) -> Load {
        let messages = self.messages.get();
        let overhead = messages.saturating_mul(OVERHEAD as u64);
        let bytes = u64::try_from(self.bytes.get()).unwrap_or(u64::MAX);
        Load {
            messages,
            bytes: bytes.saturating_sub(overhead),
        }
    }

    /// The newest position that was given out, to any destination.
    #[must_use]
    pub fn newest(&self) -> Lsn {
        self.pool.newest()
    }

    /// Whether what is kept is older than all that was spilled, and goes first.
    #[must_use]
    pub fn has_spilled(&self) -> bool {
        self.spilled.get()
    }

    /// Room and a position for a message of `bytes`; `None`: it is to be stored.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Lsn> {
        if self.spilled.get() {
            return None;
        }
        let bytes = bytes.saturating_add(OVERHEAD);
        let lsn = self.pool.take(bytes)?;
        self.messages.set(self.messages.get().saturating_add(1));
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        Some(lsn)
    }

    /// A message of `bytes` is gone.
    pub fn give(&self, bytes: usize) {
        let bytes = bytes.saturating_add(OVERHEAD);
        self.messages.set(self.messages.get().saturating_sub(1));
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.pool.give(bytes);
    }

    /// A message that could have been kept goes to the store: all later ones follow it.
    pub fn spill(&self) {
        self.spilled.set(true);
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    /// So many spilled messages are committed, or never will be.
    pub fn arrived(&self, count: u64) {
        self.in_flight
            .set(self.in_flight.get().saturating_sub(count));
    }

    /// Nothing is kept, and a new share would keep no more than this one.
    #[must_use]
    pub(super) fn is_at_rest(&self) -> bool {
        self.messages.get() == 0 && !self.spilled.get() && self.in_flight.get() == 0
    }

    /// Some spilled messages are on their way to the store.
    pub(super) fn is_waiting(&self) -> bool {
        self.in_flight.get() > 0
    }

    /// So many stored messages are owed; `all`: each of them could have been kept.
    pub(super) fn settle(&self, stored: u64, all: bool) {
        if stored == 0 && self.in_flight.get() == 0 {
            self.spilled.set(false);
        } else if all && stored > 0 {
            self.spilled.set(true);
        }
    }
}

/// Takes those of the volatile messages in `waiting` out that expire at or before `now_ms`, and tells when
/// the next one does. Stored ones are for the store to find.
pub(super) fn expire<K: Ord>(
    waiting: &mut BTreeMap<K, Entry>,
    now_ms: u64,
    expired: &mut Vec<Entry>,
) -> Option<u64> {
    let mut next: Option<u64> = None;
    let gone = waiting.extract_if(.., |_, entry| {
        let in_memory = entry.lsn.is_volatile();
        let at = Times::of(&entry.message).expiry_ms.filter(|_| in_memory);
        let over = at.is_some_and(|at| at <= now_ms);
        if !over {
            next = next.into_iter().chain(at).min();
        }
        over
    });
    expired.extend(gone.map(|(_, entry)| entry));
    next
}

/// What a message costs besides its bytes.
const OVERHEAD: usize = 128;

impl Drop for VolatileShare {
    fn drop(&mut self) {
        self.pool.give(self.bytes.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_shared_bounded_and_refilled_by_those_that_end() {
        let pool = VolatilePool::new(1000, 7);
        let one = VolatileShare::new(Rc::clone(&pool));
        let other = VolatileShare::new(Rc::clone(&pool));
        assert_eq!(one.take(500), Some(Lsn::volatile(7)));
        let first = VolatileShare::new(VolatilePool::new(1000, 0)).take(1);
        assert_eq!(first, Some(Lsn::volatile(1)), "beyond where looks begin");
        assert_eq!(other.take(500), None);
        assert_eq!(other.take(100), Some(Lsn::volatile(8)));
        assert_eq!(pool.newest(), Lsn::volatile(8));
        one.give(500);
        assert_eq!((one.messages(), other.messages()), (0, 1));
        assert!(other.take(500).is_some());
        drop(other);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn one_that_has_spilled_keeps_nothing_until_what_was_spilled_is_gone() {
        let share = VolatileShare::new(VolatilePool::new(1 << 20, 1));
        assert!(share.take(1).is_some());
        share.spill();
        share.settle(0, false);
        assert_eq!(share.take(1), None, "it is on its way to the store");
        share.arrived(1);
        share.settle(1, false);
        assert_eq!(share.take(1), None, "it is stored");
        share.settle(0, false);
        assert!(share.take(1).is_some());
        share.settle(1, false);
        assert!(
            share.take(1).is_some(),
            "another stored message is none of its"
        );
        share.settle(1, true);
        assert_eq!(share.take(1), None, "where all are, each stored one is");
    }
}
