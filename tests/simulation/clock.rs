//! Virtual time, seeded chance, and the trace of what happened when.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::atomic::{AtomicI64, Ordering};
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

/// A server's own clocks: its boot time counts from another moment and a little too fast or too slow,
/// and its wall clock is whatever somebody set it to.
pub(crate) struct ServerClock {
    base: Arc<VirtualClock>,
    /// Ahead of the other server's, in seconds.
    ahead: u64,
    /// Gained in a million.
    drift_ppm: i64,
    wall_ahead_ms: AtomicI64,
}

impl ServerClock {
    pub(crate) fn new(base: Arc<VirtualClock>, ahead: u64, drift_ppm: i64) -> Self {
        Self {
            base,
            ahead,
            drift_ppm,
            wall_ahead_ms: AtomicI64::new(0),
        }
    }

    /// The wall clock jumps; nothing may come of it.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.wall_ahead_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Moment {
        let now = self.base.now().0;
        let gained = i128::from(now) * i128::from(self.drift_ppm) / 1_000_000;
        let own = i128::from(now) + gained + i128::from(self.ahead) * 1_000_000_000;
        Moment(u64::try_from(own).expect("a clock stands after its start"))
    }

    fn wall_ms(&self) -> u64 {
        let ahead = self.wall_ahead_ms.load(Ordering::Relaxed);
        self.base.wall_ms().saturating_add_signed(ahead)
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
    told: Arc<Mutex<Told>>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Told {
    /// The last ones.
    lines: VecDeque<String>,
    count: u64,
    /// Of all lines.
    hash: u64,
    /// How often things happened that a simulation is for.
    marks: BTreeMap<&'static str, u64>,
}

/// Lines that are kept.
const KEPT: usize = 400;

impl Trace {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            told: Arc::default(),
            clock,
        }
    }

    pub(crate) fn tell(&self, what: impl Display) {
        let ms = self.clock.now().0 / 1_000_000;
        let line = format!("{ms:>7} {what}");
        let told = &mut *open(&self.told);
        told.count += 1;
        for byte in line.bytes() {
            told.hash = (told.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if told.lines.len() == KEPT {
            told.lines.pop_front();
        }
        told.lines.push_back(line);
    }

    /// Something happened that a simulation is for.
    pub(crate) fn mark(&self, what: &'static str) {
        *open(&self.told).marks.entry(what).or_default() += 1;
    }

    /// How often each of these things happened.
    pub(crate) fn marks(&self) -> BTreeMap<&'static str, u64> {
        open(&self.told).marks.clone()
    }

    /// How many lines there were, and a hash of all of them.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let told = open(&self.told);
        (told.count, told.hash)
    }

    /// The last lines, for a failure's text.
    pub(crate) fn tail(&self, count: usize) -> String {
        let told = open(&self.told);
        let from = told.lines.len().saturating_sub(count);
        let lines: Vec<&str> = told.lines.range(from..).map(String::as_str).collect();
        lines.join("\n")
    }
}

/// A panic elsewhere fails the test by itself; what it left is still shown.
pub(crate) fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
