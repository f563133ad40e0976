//! Virtual time, seeded chance, and the trace of what happened when.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use twinmq::time::{Clock, Moment};

/// Milliseconds since 1970 at the start of each simulation.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// Follows tokio's paused clock; counts from its making.
pub(crate) struct VirtualClock {
    start: Instant,
}

impl VirtualClock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Moment {
        // Not zero at the start: a machine has been up for a while.
        Moment(1_000_000_000).after(self.start.elapsed())
    }

    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.now().0 / 1_000_000
    }
}

/// A stream of chance that its seed determines (splitmix64). Clones share the stream.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<u64>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    /// A stream of its own, determined by this one.
    pub(crate) fn split(&self) -> Self {
        Self::new(self.next())
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = open(&self.0);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times`.
    pub(crate) fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Which of the two servers.
    pub(crate) fn server(&self) -> usize {
        usize::from(self.once_in(2))
    }

    pub(crate) fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (low, high) = bytes.split_at_mut(8);
        low.copy_from_slice(&self.next().to_le_bytes());
        high.copy_from_slice(&self.next().to_le_bytes());
        bytes
    }

    /// Up to `max` milliseconds, often none at all.
    pub(crate) async fn delay(&self, max: u64) {
        match self.below(max + 1) {
            0 => tokio::task::yield_now().await,
            ms => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
}

/// What happened, line by line with its millisecond. Clones are the same.
#[derive(Clone)]
pub(crate) struct Trace {
    lines: Arc<Mutex<Vec<String>>>,
    clock: Arc<dyn Clock>,
}

impl Trace {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            lines: Arc::default(),
            clock,
        }
    }

    pub(crate) fn tell(&self, what: impl Display) {
        let ms = self.clock.now().0 / 1_000_000;
        open(&self.lines).push(format!("{ms:>7} {what}"));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        open(&self.lines).clone()
    }

    /// The last lines, for a failure's text.
    pub(crate) fn tail(&self, count: usize) -> String {
        let lines = open(&self.lines);
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

/// A panic elsewhere fails the test by itself; what it left is still shown.
pub(crate) fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
