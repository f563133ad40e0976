//! What of this server's limits is reached: counted, and told to `status`; and the brake that holds
//! senders back while memory or the store is short. Local to the data thread.
//!
//! The brake stops SENDs only. A connection whose next frame is anything else is read on, so what is
//! received and acknowledged makes the room that senders wait for.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use crate::storage::api::{RoomLevel, StoreFacts};

/// Bounds on memory for messages, in bytes. Validated: the first is at most the second.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBounds {
    /// Senders are held back from here on, until an eighth of it is free.
    pub high: usize,
    /// The connection that holds most is closed.
    pub critical: usize,
    /// A connection that holds more is closed.
    pub connection: usize,
}

impl Default for MemoryBounds {
    fn default() -> Self {
        Self {
            high: 768 << 20,
            critical: 1 << 30,
            connection: 256 << 20,
        }
    }
}

/// A limit that something has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections refused: too many in all.
    Connections,
    /// Connections refused: too many from one address.
    ConnectionsPerAddress,
    /// Times that new connections had to wait their turn.
    AcceptRate,
    /// Connections closed: silent for too long.
    Idle,
    /// Connections closed: they do not read.
    SlowConsumer,
    /// Connections closed: too much memory for one.
    ConnectionMemory,
    /// Connections closed: most of the memory, when all of it became too much.
    MemoryCritical,
    /// Times that senders were held back for memory.
    MemoryHigh,
    /// Times that senders were held back for the store.
    StoreBlocks,
    /// Connections closed: a SEND waited for too long.
    BlockTimeout,
    /// Connections closed: a frame too large or with too many headers.
    Frame,
    /// Requests that destinations refused: the store or they are full.
    Refused,
    /// Sends refused or not confirmed: two copies are demanded, and there is one.
    Copies,
    /// Times that destinations reached a bound of their own.
    DestinationFull,
}

impl Limit {
    /// All of them, in the order of `status`.
    pub const ALL: [Self; 14] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::AcceptRate,
        Self::Idle,
        Self::SlowConsumer,
        Self::ConnectionMemory,
        Self::MemoryCritical,
        Self::MemoryHigh,
        Self::StoreBlocks,
        Self::BlockTimeout,
        Self::Frame,
        Self::Refused,
        Self::Copies,
        Self::DestinationFull,
    ];

    /// As `status` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections_refused",
            Self::ConnectionsPerAddress => "connections_refused_by_address",
            Self::AcceptRate => "accepts_delayed",
            Self::Idle => "closed_idle",
            Self::SlowConsumer => "closed_slow_consumer",
            Self::ConnectionMemory => "closed_connection_memory",
            Self::MemoryCritical => "closed_memory_critical",
            Self::MemoryHigh => "held_back_by_memory",
            Self::StoreBlocks => "held_back_by_store",
            Self::BlockTimeout => "closed_block_timeout",
            Self::Frame => "closed_frame_limit",
            Self::Refused => "requests_refused",
            Self::Copies => "copies_missing",
            Self::DestinationFull => "destinations_full",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Overload {
    bounds: Cell<MemoryBounds>,
    /// By [`Limit`], since this process began.
    counts: [Cell<u64>; Limit::ALL.len()],
    /// Bytes of messages in memory, when it was looked last.
    memory: Cell<usize>,
    memory_high: Cell<bool>,
    store: Cell<StoreFacts>,
    waiting: RefCell<Vec<Waker>>,
}

impl Overload {
    /// With nothing reached.
    #[must_use]
    pub fn new(bounds: MemoryBounds) -> Self {
        let overload = Self::default();
        overload.set_bounds(bounds);
        overload
    }

    /// Other bounds from now on.
    pub fn set_bounds(&self, bounds: MemoryBounds) {
        self.bounds.set(bounds);
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> MemoryBounds {
        self.bounds.get()
    }

    /// A limit was met.
    pub fn count(&self, limit: Limit) {
        let cell = &self.counts[limit as usize];
        cell.set(cell.get().saturating_add(1));
    }

    /// How often each limit was met.
    #[must_use]
    pub fn counts(&self) -> Vec<(Limit, u64)> {
        let all = Limit::ALL.iter();
        all.map(|limit| (*limit, self.counts[*limit as usize].get()))
            .collect()
    }

    /// So much is in memory, and so full is the store. Wakes whom that lets go on.
    pub fn look(&self, memory: usize, store: StoreFacts) {
        let high = self.bounds.get().high;
        let was = (self.memory_high.get(), self.store_blocks());
        let at = if was.0 { high - high / 8 } else { high };
        self.memory.set(memory);
        self.memory_high.set(memory > at);
        self.store.set(store);
        let is = (self.memory_high.get(), self.store_blocks());
        if is.0 && !was.0 {
            self.count(Limit::MemoryHigh);
            tracing::warn!(target: "twinmq::data", memory, high, "senders wait: memory for messages is short");
        } else if was.0 && !is.0 {
            tracing::info!(target: "twinmq::data", memory, "there is memory for senders again");
        }
        if is.1 && !was.1 {
            self.count(Limit::StoreBlocks);
        }
        if !self.holds_back() {
            let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Senders are to wait. Where sends are refused they go on, to be told so.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.memory_high.get() || self.store_blocks()
    }

    fn store_blocks(&self) -> bool {
        self.store.get().level == RoomLevel::Blocks
    }

    /// Wakes the task once senders may go on. Call only while they may not.
    pub fn wait(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Bytes of messages in memory, when it was looked last.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory.get()
    }

    /// Why senders wait, in words; none where they do not.
    #[must_use]
    pub fn why_held_back(&self) -> Option<String> {
        let store = self.store.get();
        if self.store_blocks() {
            return Some(format!(
                "the server's store is almost full, {} % of its room are in use: receive messages, or \
                 free disk space",
                store.filled_percent
            ));
        }
        self.memory_high.get().then(|| {
            format!(
                "messages take {} MiB of the server's memory, and `limits.memory_high_mib` is {}",
                self.memory.get() >> 20,
                self.bounds.get().high >> 20
            )
        })
    }

    /// What is limited now and why.
    #[must_use]
    pub fn now(&self) -> Vec<String> {
        let store = self.store.get();
        let percent = store.filled_percent;
        let room = match store.level {
            RoomLevel::Enough => None,
            RoomLevel::Low => Some(format!(
                "the store becomes full: {percent} % of its room are in use"
            )),
            RoomLevel::Blocks => Some(format!(
                "senders wait: {percent} % of the store's room are in use"
            )),
            RoomLevel::Refuses => Some(format!(
                "sends are refused: {percent} % of the store's room are in use, or its disk is almost \
                 full"
            )),
        };
        let memory = self.memory_high.get().then(|| {
            format!(
                "senders wait: messages take {} MiB of memory, of limits.memory_high_mib {}",
                self.memory.get() >> 20,
                self.bounds.get().high >> 20
            )
        });
        room.into_iter().chain(memory).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn store(level: RoomLevel) -> StoreFacts {
        StoreFacts {
            level,
            filled_percent: 91,
            ..StoreFacts::default()
        }
    }

    #[test]
    fn memory_holds_senders_back_until_an_eighth_is_free() {
        let overload = Overload::default();
        overload.set_bounds(MemoryBounds {
            high: 800,
            critical: 1000,
            connection: 500,
        });
        let enough = store(RoomLevel::Enough);
        overload.look(800, enough);
        assert!(!overload.holds_back());
        overload.look(801, enough);
        assert!(overload.holds_back() && overload.why_held_back().is_some());
        let bell = Arc::new(Bell::default());
        overload.wait(&Arc::clone(&bell).into());
        overload.look(701, enough);
        assert!(overload.holds_back());
        assert_eq!(bell.0.load(Ordering::Relaxed), 0);
        overload.look(700, enough);
        assert!(!overload.holds_back() && overload.why_held_back().is_none());
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        let counts = overload.counts();
        assert!(counts.contains(&(Limit::MemoryHigh, 1)), "{counts:?}");
    }

    #[test]
    fn a_store_that_is_nearly_full_holds_senders_back_and_a_full_one_lets_them_be_refused() {
        let overload = Overload::default();
        for (level, held, said) in [
            (RoomLevel::Low, false, 1),
            (RoomLevel::Blocks, true, 1),
            (RoomLevel::Refuses, false, 1),
            (RoomLevel::Enough, false, 0),
        ] {
            overload.look(0, store(level));
            assert_eq!(overload.holds_back(), held, "{level:?}");
            assert_eq!(overload.now().len(), said, "{level:?}");
        }
    }

    #[test]
    fn each_limit_has_its_place_and_its_name() {
        let overload = Overload::default();
        for limit in Limit::ALL {
            overload.count(limit);
        }
        let counts = overload.counts();
        assert!(counts.iter().all(|(_, count)| *count == 1), "{counts:?}");
        let mut names: Vec<&str> = Limit::ALL.iter().map(|limit| limit.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Limit::ALL.len());
    }
}
