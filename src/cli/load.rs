//! The load that `bench` and `demo` put on a pair: producers with a window of unconfirmed messages,
//! consumers that acknowledge each message, all of them following the host list when a server dies,
//! and the ledger of what was promised and what arrived.
//!
//! One thread per producer and consumer. A connection that dies makes its unanswered attempts
//! unknown; they are never sent again, so that the ledger can tell loss from repetition.

mod consumer;
mod producer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::ledger::{Ledger, LedgerReport};
use crate::cli::stomp_client::{Hosts, StompError, StompOptions};
use crate::time::{Clock, Moment, SystemClock};

/// How often waiting loops look up.
const LOOK: Duration = Duration::from_millis(20);
/// So many refusals in a row without one receipt or message end a thread: it would only go on.
const REFUSALS_MAX: u32 = 20;

/// What load to make.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// `host:port[,host:port...]`.
    pub hosts: String,
    /// Login and timeouts.
    pub options: StompOptions,
    /// STOMP destinations. Fewer than producers (or consumers): shared; more: dealt out.
    pub destinations: Vec<String>,
    /// How many connections send.
    pub producers: usize,
    /// How many connections receive.
    pub consumers: usize,
    /// Unconfirmed messages that each producer may have under way.
    pub window: usize,
    /// Bytes of each body; never less than the mark that identifies it.
    pub body_bytes: usize,
    /// Messages in all; without it, until [`Load::stop_sending`].
    pub count: Option<u64>,
    /// Messages per second in all; without it, as many as the window lets through.
    pub rate: Option<u64>,
    /// How long a client goes round the host list before it gives up.
    pub patience: Duration,
    /// A connection that owes an answer, or a message that was confirmed, and says nothing for so
    /// long is given up: the server hangs. None: only what the system reports ends a connection.
    pub silence: Option<Duration>,
}

/// Why load could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A number of the plan is zero.
    #[error("{what} must be at least 1")]
    Nothing {
        /// Which one.
        what: &'static str,
    },
    /// The servers could not be reached.
    #[error(transparent)]
    Stomp(#[from] StompError),
}

/// How far the load is, for a progress display and for waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadProgress {
    /// Receipts.
    pub confirmed: u64,
    /// Arrivals, repeated ones included.
    pub received: u64,
    /// Confirmed messages that have not arrived yet.
    pub awaited: u64,
}

/// Figures of one destination, or of all together.
#[derive(Clone, Debug, Serialize)]
pub struct DestinationFigures {
    /// The destination, `all` for the sum.
    pub destination: String,
    /// Receipts.
    pub confirmed: u64,
    /// Arrivals, repeated ones included.
    pub received: u64,
    /// Receipts per second of sending.
    pub confirmed_per_s: f64,
    /// Arrivals per second, from the first send to the last arrival.
    pub received_per_s: f64,
    /// Microseconds from SEND to its RECEIPT: half are faster.
    pub confirm_p50_us: u64,
    /// 99 of 100 are faster.
    pub confirm_p99_us: u64,
    /// Microseconds from SEND to the arrival at a consumer: half are faster.
    pub end_to_end_p50_us: u64,
    /// 99 of 100 are faster.
    pub end_to_end_p99_us: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct LoadOutcome {
    /// Promised and arrived.
    pub ledger: LedgerReport,
    /// Seconds from the first send to the last receipt.
    pub seconds: f64,
    /// All destinations together.
    pub all: DestinationFigures,
    /// Each destination.
    pub destinations: Vec<DestinationFigures>,
    /// Connections that died under a client.
    pub reconnects: u64,
    /// The longest time between two receipts of one producer: what a failover costs.
    pub longest_gap_ms: u64,
    /// What kept a client from doing its part, if anything did.
    pub failure: Option<String>,
}

impl LoadOutcome {
    /// Whether every message was accounted for and every client did its part.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.failure.is_none() && self.ledger.holds()
    }
}

/// Load that is running.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<Vec<Tally>>>,
    consumers: Vec<JoinHandle<Vec<Tally>>>,
}

/// What the threads of one load share.
#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    /// Set apart from messages that an earlier run left behind.
    run: u64,
    books: Vec<Mutex<Book>>,
    started: Moment,
    confirmed: AtomicU64,
    received: AtomicU64,
    reconnects: AtomicU64,
    last_receipt: AtomicU64,
    last_arrival: AtomicU64,
    sending_over: AtomicBool,
    receiving_over: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// One producer's ledger, and its view of outages.
#[derive(Debug, Default)]
struct Book {
    ledger: Ledger,
    last_receipt: Option<Moment>,
    longest_gap: Duration,
    /// When the connection of the last receipt was made.
    served_by: Option<Moment>,
}

/// One thread's figures for one destination.
#[derive(Debug)]
struct Tally {
    destination: usize,
    count: u64,
    latency_us: Histogram<u32>,
}

impl Load {
    /// Connects and subscribes all consumers, then starts the producers.
    ///
    /// # Errors
    /// If the plan makes no sense or no server accepts the first consumer.
    pub fn start(plan: LoadPlan) -> Result<Self, LoadError> {
        for (count, what) in [
            (plan.destinations.len(), "the number of destinations"),
            (plan.producers, "the number of producers"),
            (plan.consumers, "the number of consumers"),
            (plan.window, "the window"),
        ] {
            if count == 0 {
                return Err(LoadError::Nothing { what });
            }
        }
        let clock = SystemClock;
        let shared = Arc::new(Shared {
            run: clock.wall_ms() ^ (u64::from(std::process::id()) << 44),
            books: (0..plan.producers).map(|_| Mutex::default()).collect(),
            started: clock.now(),
            confirmed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            last_receipt: AtomicU64::new(0),
            last_arrival: AtomicU64::new(0),
            sending_over: AtomicBool::new(false),
            receiving_over: AtomicBool::new(false),
            failure: Mutex::new(None),
            plan,
        });
        let hosts = Hosts::parse(&shared.plan.hosts, shared.plan.options.clone())?;
        let mut load = Self {
            shared: Arc::clone(&shared),
            producers: Vec::new(),
            consumers: Vec::new(),
        };
        for index in 0..shared.plan.consumers {
            let consumer = consumer::Consumer::subscribe(&shared, hosts.clone(), index)?;
            load.consumers.push(thread::spawn(move || consumer.run()));
        }
        for index in 0..shared.plan.producers {
            let producer = producer::Producer::new(&shared, hosts.clone(), index);
            load.producers.push(thread::spawn(move || producer.run()));
        }
        Ok(load)
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> LoadProgress {
        LoadProgress {
            confirmed: self.shared.confirmed.load(Ordering::Relaxed),
            received: self.shared.received.load(Ordering::Relaxed),
            awaited: self.shared.awaited(),
        }
    }

    /// What kept a client from going on, if anything has.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        lock(&self.shared.failure).clone()
    }

    /// Forgets the gaps seen so far: the next [`Load::longest_gap`] counts from now on.
    pub fn watch_gaps(&self) {
        for book in &self.shared.books {
            lock(book).longest_gap = Duration::ZERO;
        }
    }

    /// The longest time that any one producer had to wait between two receipts.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.shared.longest_gap()
    }

    /// True once each producer has a receipt on a connection that was made after `moment`. Receipts
    /// that a dead server left in a socket do not count: service is back for all.
    #[must_use]
    pub fn all_served_anew_since(&self, moment: Moment) -> bool {
        self.shared
            .books
            .iter()
            .all(|book| lock(book).served_by.is_some_and(|made| made > moment))
    }

    /// Lets the producers end: what is under way is still waited for.
    pub fn stop_sending(&self) {
        self.shared.sending_over.store(true, Ordering::Relaxed);
    }

    /// True when no producer will send any more.
    #[must_use]
    pub fn sending_is_over(&self) -> bool {
        self.producers.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the last receipts, then until every confirmed message has arrived or nothing has
    /// arrived for `quiet`; then adds everything up. `give_up` is asked meanwhile.
    #[must_use]
    pub fn finish(self, quiet: Duration, give_up: &dyn Fn() -> bool) -> LoadOutcome {
        let Self {
            shared,
            producers,
            consumers,
        } = self;
        let clock = SystemClock;
        while !producers.iter().all(JoinHandle::is_finished) && !give_up() {
            thread::sleep(LOOK);
        }
        shared.sending_over.store(true, Ordering::Relaxed);
        let mut seen = shared.received.load(Ordering::Relaxed);
        let mut since = clock.now();
        while shared.awaited() > 0 && clock.now().since(since) < quiet && !give_up() {
            thread::sleep(LOOK);
            let received = shared.received.load(Ordering::Relaxed);
            if received != seen {
                (seen, since) = (received, clock.now());
            }
        }
        shared.receiving_over.store(true, Ordering::Relaxed);
        let sent = join(producers, &shared);
        let received = join(consumers, &shared);
        shared.outcome(&sent, &received)
    }
}

impl Shared {
    fn awaited(&self) -> u64 {
        self.books
            .iter()
            .map(|book| lock(book).ledger.awaited())
            .sum()
    }

    fn fail(&self, who: &str, index: usize, error: &StompError) {
        let mut failure = lock(&self.failure);
        failure.get_or_insert_with(|| format!("{who} {index}: {error}"));
        self.sending_over.store(true, Ordering::Relaxed);
    }

    /// The destinations of client `index` of `clients`.
    fn share(&self, index: usize, clients: usize) -> Vec<usize> {
        let all = self.plan.destinations.len();
        if clients >= all {
            vec![index % all]
        } else {
            (index..all).step_by(clients).collect()
        }
    }

    fn outcome(&self, sent: &[Tally], received: &[Tally]) -> LoadOutcome {
        let span = |last: &AtomicU64| {
            Moment(last.load(Ordering::Relaxed))
                .since(self.started)
                .as_secs_f64()
        };
        let (sending, receiving) = (span(&self.last_receipt), span(&self.last_arrival));
        let figures = |name: &str, wanted: Option<usize>| {
            let (confirmed, confirm) = merge(sent, wanted);
            let (arrived, end_to_end) = merge(received, wanted);
            DestinationFigures {
                destination: name.to_owned(),
                confirmed,
                received: arrived,
                confirmed_per_s: per_second(confirmed, sending),
                received_per_s: per_second(arrived, receiving),
                confirm_p50_us: confirm.value_at_quantile(0.5),
                confirm_p99_us: confirm.value_at_quantile(0.99),
                end_to_end_p50_us: end_to_end.value_at_quantile(0.5),
                end_to_end_p99_us: end_to_end.value_at_quantile(0.99),
            }
        };
        let mut ledger = LedgerReport::default();
        for book in &self.books {
            ledger += &lock(book).ledger.report();
        }
        LoadOutcome {
            ledger,
            seconds: sending,
            all: figures("all", None),
            destinations: self
                .plan
                .destinations
                .iter()
                .enumerate()
                .map(|(index, name)| figures(name, Some(index)))
                .collect(),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            longest_gap_ms: u64::try_from(self.longest_gap().as_millis()).unwrap_or(u64::MAX),
            failure: lock(&self.failure).clone(),
        }
    }

    fn longest_gap(&self) -> Duration {
        let gaps = self.books.iter().map(|book| lock(book).longest_gap);
        gaps.max().unwrap_or_default()
    }
}

impl Tally {
    fn new(destination: usize) -> Self {
        Self {
            destination,
            count: 0,
            latency_us: histogram(),
        }
    }

    fn count(&mut self, latency: Duration) {
        self.count += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(micros);
    }
}

/// Microseconds up to ten minutes, to two digits.
fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("the bounds are constants in order")
}

fn merge(tallies: &[Tally], wanted: Option<usize>) -> (u64, Histogram<u32>) {
    let mut count = 0;
    let mut all = histogram();
    for tally in tallies {
        if wanted.is_none_or(|wanted| wanted == tally.destination) {
            count += tally.count;
            all.add(&tally.latency_us)
                .expect("all histograms are made by one function");
        }
    }
    (count, all)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; counts stay far below 2^52"
)]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        (count as f64 / seconds * 10.0).round() / 10.0
    } else {
        0.0
    }
}

fn join(threads: Vec<JoinHandle<Vec<Tally>>>, shared: &Shared) -> Vec<Tally> {
    let mut tallies = Vec::new();
    for handle in threads {
        match handle.join() {
            Ok(more) => tallies.extend(more),
            Err(_panic) => {
                lock(&shared.failure)
                    .get_or_insert_with(|| "a client thread panicked; this is a bug".to_owned());
            }
        }
    }
    tallies
}

/// A thread that panicked is reported by `join`; its numbers are still read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
