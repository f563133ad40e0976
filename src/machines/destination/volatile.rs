//! Memory for messages that no record holds: those that are not persistent, and those of volatile
//! destinations. One bound for all destinations of a server; what does not fit is stored as any other
//! message is.

use std::cell::Cell;
use std::rc::Rc;

use super::account::Load;
use crate::proto::ids::Lsn;

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
            next: Cell::new(first),
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

/// What one destination has of the pool; given back when it ends.
#[derive(Debug)]
pub(super) struct VolatileShare {
    pool: Rc<VolatilePool>,
    messages: u64,
    bytes: usize,
}

impl VolatileShare {
    pub(super) fn new(pool: Rc<VolatilePool>) -> Self {
        Self {
            pool,
            messages: 0,
            bytes: 0,
        }
    }

    /// Messages that are kept.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// What is kept, without what it costs besides.
    pub(super) fn load(&self) -> Load {
        let overhead = self.messages.saturating_mul(OVERHEAD as u64);
        let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
        Load {
            messages: self.messages,
            bytes: bytes.saturating_sub(overhead),
        }
    }

    /// Room and a position for a message of `bytes`, if there is any.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Lsn> {
        let bytes = bytes.saturating_add(OVERHEAD);
        let lsn = self.pool.take(bytes)?;
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        Some(lsn)
    }

    /// A message of `bytes` is gone.
    pub(super) fn give(&mut self, bytes: usize) {
        let bytes = bytes.saturating_add(OVERHEAD);
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.pool.give(bytes);
    }
}

/// What a message costs besides its bytes.
const OVERHEAD: usize = 128;

impl Drop for VolatileShare {
    fn drop(&mut self) {
        self.pool.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_shared_bounded_and_refilled_by_those_that_end() {
        let pool = VolatilePool::new(1000, 7);
        let mut one = VolatileShare::new(Rc::clone(&pool));
        let mut other = VolatileShare::new(Rc::clone(&pool));
        assert_eq!(one.take(500), Some(Lsn::volatile(7)));
        assert_eq!(other.take(500), None);
        assert_eq!(other.take(100), Some(Lsn::volatile(8)));
        one.give(500);
        assert_eq!((one.messages(), other.messages()), (0, 1));
        assert!(other.take(500).is_some());
        drop(other);
        assert_eq!(pool.used(), 0);
    }
}
