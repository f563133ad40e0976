//! The store alone against a raw log on the same disk: 1 KiB messages in batches, each engine in
//! turn so that both see the same noise; what counts is the ratio of the medians.
//!
//! ```text
//! cargo bench --bench store_commit [-- FOLDER]      # a folder on the disk to be measured
//! ```
//!
//! A store's commit is timed under load (the next batch is submitted as soon as the one before is
//! cut; the time from one `Durable` to the next is taken), and alone (one batch, until it is
//! durable). The raw log is one `pwrite` and `fdatasync` into a file that was written before; the
//! stores too are in their steady state, in which pages of collected chunks are written again.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use twinmq::proto::ids::{DestId, Epoch, Lsn};
use twinmq::storage::api::{
    Draft, GatePolicy, Job, SPACE_DESTINATION, SharedStore, StoreEvent, StoreSink, Ticket, Unit,
};
use twinmq::storage::{StoreConfig, SyncMode, open};
use twinmq::time::{Clock, Moment, SystemClock};

const MESSAGE: usize = 1024;
const ROUNDS: usize = 150;
const DESTINATIONS: u32 = 8;
/// Commits of one sample under load.
const COMMITS: usize = 8;
/// Bytes written before anything is timed.
const WARM_UP: usize = 64 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(folder)?;
    let mut rows = vec![format!(
        "{:>6} {:>12} {:>12} {:>8} {:>12} {:>8} {:>12} {:>10}",
        "batch", "raw p50 us", "deferred", "x raw", "meta", "x raw", "alone", "msg/s"
    )];
    for batch in [1usize, 64, 256, 1024] {
        rows.push(row(folder.path(), batch)?);
    }
    print(&rows);
    Ok(())
}

fn row(folder: &Path, batch: usize) -> Result<String, Box<dyn std::error::Error>> {
    let mut raw = RawLog::new(&folder.join(format!("raw.{batch}")), batch * MESSAGE)?;
    let deferred = Store::new(
        &folder.join(format!("deferred.{batch}")),
        SyncMode::Deferred,
    )?;
    let meta = Store::new(&folder.join(format!("meta.{batch}")), SyncMode::Meta)?;
    let alone = Store::new(&folder.join(format!("alone.{batch}")), SyncMode::Deferred)?;
    let mut times: [Vec<u64>; 4] = Default::default();
    for round in 0..ROUNDS + 20 {
        let sample = [
            vec![raw.commit()?, raw.commit()?],
            deferred.load(batch),
            meta.load(batch),
            vec![alone.commit(batch)],
        ];
        // The first rounds fill caches and files.
        if round >= 20 {
            for (times, sample) in times.iter_mut().zip(sample) {
                times.extend(sample);
            }
        }
    }
    for store in [deferred, meta, alone] {
        store.store.close();
    }
    let [raw, deferred, meta, alone] = times.map(median);
    let ratio = |time: u64| raw as f64 / time as f64;
    Ok(format!(
        "{batch:>6} {:>12.0} {:>12.0} {:>8.2} {:>12.0} {:>8.2} {:>12.0} {:>10.0}",
        raw as f64 / 1e3,
        deferred as f64 / 1e3,
        ratio(deferred),
        meta as f64 / 1e3,
        ratio(meta),
        alone as f64 / 1e3,
        batch as f64 * 1e9 / deferred as f64,
    ))
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn print(rows: &[String]) {
    for row in rows {
        println!("{row}");
    }
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

fn nanos(from: Moment, to: Moment) -> u64 {
    u64::try_from(to.since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// A file that was written once and is written again in turn, so that no metadata has to be flushed.
struct RawLog {
    file: File,
    batch: Vec<u8>,
    at: u64,
}

impl RawLog {
    const BYTES: u64 = 64 << 20;

    fn new(path: &Path, batch: usize) -> std::io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        for at in 0..Self::BYTES >> 20 {
            file.write_all_at(&vec![1; 1 << 20], at << 20)?;
        }
        file.sync_all()?;
        Ok(Self {
            file,
            batch: vec![7; batch],
            at: 0,
        })
    }

    fn commit(&mut self) -> std::io::Result<u64> {
        let len = self.batch.len() as u64;
        if self.at + len > Self::BYTES {
            self.at = 0;
        }
        let start = SystemClock.now();
        self.file.write_all_at(&self.batch, self.at)?;
        self.file.sync_data()?;
        self.at += len;
        Ok(nanos(start, SystemClock.now()))
    }
}

#[derive(Default)]
struct Progress {
    store: OnceLock<SharedStore>,
    state: Mutex<Seen>,
    moved: Condvar,
}

#[derive(Default)]
struct Seen {
    durable: Lsn,
    times: Vec<Moment>,
    /// Submitted one by one, each when the one before is cut.
    next: VecDeque<Vec<Unit>>,
}

impl StoreSink for Progress {
    fn event(&self, event: StoreEvent) {
        let mut seen = self.state.lock().expect("no thread panics with it");
        match event {
            StoreEvent::Cut(_) => {
                let next = seen.next.pop_front();
                drop(seen);
                if let (Some(units), Some(store)) = (next, self.store.get()) {
                    store.submit(units);
                }
                return;
            }
            StoreEvent::Durable(at) => {
                seen.durable = at.lsn;
                seen.times.push(SystemClock.now());
            }
            StoreEvent::Failed(error) => panic!("{error}"),
            _ => return,
        }
        self.moved.notify_all();
    }
}

struct Store {
    store: SharedStore,
    progress: Arc<Progress>,
    /// The last LSN that was submitted.
    last: Cell<u64>,
    body: Bytes,
}

impl Store {
    fn new(dir: &Path, sync: SyncMode) -> Result<Self, Box<dyn std::error::Error>> {
        let progress = Arc::new(Progress::default());
        let mut config = StoreConfig::new(dir, "bench");
        config.sync = sync;
        config.retain_bytes = 16 << 20;
        config.checkpoint_bytes = 8 << 20;
        let opened = open(config, Arc::clone(&progress) as Arc<dyn StoreSink>)?;
        progress
            .store
            .get_or_init(|| SharedStore::clone(&opened.store));
        opened.store.run(1, Job::BeginEpoch(Epoch(1)));
        opened.store.set_gate(GatePolicy::Alone);
        let records = (0..DESTINATIONS)
            .map(|id| Draft::Kv {
                space: SPACE_DESTINATION,
                key: Bytes::copy_from_slice(&id.to_be_bytes()),
                value: Bytes::from_static(b"qbench"),
            })
            .collect();
        opened.store.submit(vec![Unit {
            ticket: Ticket(1),
            records,
        }]);
        let store = Self {
            store: opened.store,
            progress,
            last: Cell::new(1 + u64::from(DESTINATIONS)),
            body: Bytes::from(vec![7; MESSAGE]),
        };
        store.wait(|seen| seen.durable.0 >= store.last.get());
        for _ in 0..WARM_UP / (256 * MESSAGE) {
            store.commit(256);
        }
        Ok(store)
    }

    /// A batch of messages with the acknowledgements of the batch before: a queue in a steady state.
    fn units(&self, batch: usize) -> Vec<Unit> {
        let before = self.last.get();
        let acks = batch.min(DESTINATIONS as usize);
        let first = before.saturating_sub((batch + acks) as u64);
        let dests = (0..DESTINATIONS).map(DestId).cycle();
        let mut units: Vec<Unit> = dests
            .clone()
            .take(batch)
            .map(|dest| Unit {
                ticket: Ticket(1),
                records: vec![Draft::Put {
                    targets: vec![dest],
                    message: self.body.clone(),
                }],
            })
            .collect();
        units.extend(dests.take(acks).map(|dest| Unit {
            ticket: Ticket(0),
            records: vec![Draft::Ack {
                dest,
                lsns: (first + 1 + u64::from(dest.0)..=before)
                    .step_by(DESTINATIONS as usize)
                    .map(Lsn)
                    .collect(),
            }],
        }));
        self.last.set(before + units.len() as u64);
        units
    }

    /// Times of commits while the next batch always waits.
    fn load(&self, batch: usize) -> Vec<u64> {
        let first = self.units(batch);
        let next = (1..COMMITS).map(|_| self.units(batch)).collect();
        {
            let mut seen = self
                .progress
                .state
                .lock()
                .expect("no thread panics with it");
            seen.times.clear();
            seen.next = next;
        }
        self.store.submit(first);
        let last = self.last.get();
        self.wait(|seen| seen.durable.0 >= last);
        let seen = self
            .progress
            .state
            .lock()
            .expect("no thread panics with it");
        // The last one is flushed alone.
        let loaded = &seen.times[..seen.times.len() - 1];
        loaded
            .windows(2)
            .map(|pair| nanos(pair[0], pair[1]))
            .collect()
    }

    /// The time of one commit when nothing follows.
    fn commit(&self, batch: usize) -> u64 {
        let units = self.units(batch);
        let start = SystemClock.now();
        self.store.submit(units);
        let last = self.last.get();
        self.wait(|seen| seen.durable.0 >= last);
        nanos(start, SystemClock.now())
    }

    fn wait(&self, reached: impl Fn(&Seen) -> bool) {
        let state = self
            .progress
            .state
            .lock()
            .expect("no thread panics with it");
        let (_state, timeout) = self
            .progress
            .moved
            .wait_timeout_while(state, Duration::from_secs(60), |seen| !reached(seen))
            .expect("no thread panics with it");
        assert!(!timeout.timed_out(), "the store stands still");
    }
}
