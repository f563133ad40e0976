//! A backlog that is far deeper than memory: how fast it is written, how much memory it takes, how long
//! a start after `kill -9` lasts, and whether its end is read as fast as its beginning.
//!
//! ```text
//! cargo bench --bench deep_backlog -- FOLDER [MESSAGES [BYTES]]    # 10,000,000 of 128 bytes
//! ```
//!
//! The store is filled by a process of its own, which is killed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use twinmq::proto::ids::{DestId, Epoch, Lsn};
use twinmq::storage::api::{
    Draft, Fetched, GatePolicy, Job, LogStore, SPACE_DESTINATION, Seek, StoreEvent, StoreSink,
    Ticket, Unit,
};
use twinmq::storage::{StoreConfig, open};
use twinmq::time::{Clock, SystemClock};

const QUEUE: DestId = DestId(1);
/// Messages of one call of `submit`.
const BURST: u64 = 2048;
/// Messages that are read from either end.
const ENDS: u64 = 100_000;
/// As a destination with consumers asks.
const WINDOW: (usize, usize) = (4096, 8 << 20);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let number = |at: usize, default: u64| match arguments.get(at) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    if arguments.first().is_some_and(|first| first == "fill") {
        let folder = arguments.get(1).ok_or("fill needs a folder")?;
        return fill(Path::new(folder), number(2, 0)?, number(3, 0)?);
    }
    let folder = arguments
        .first()
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(folder)?;
    let (messages, bytes) = (number(1, 10_000_000)?, number(2, 128)?);
    let mut child = Command::new(std::env::current_exe()?)
        .arg("fill")
        .arg(folder.path())
        .args([messages.to_string(), bytes.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let told = BufReader::new(output).lines().next();
    child.kill()?;
    child.wait()?;
    print(&format!("filled: {}", told.ok_or("it was not filled")??));

    let before = anonymous_kib()?;
    let clock = SystemClock;
    let (begun, cpu) = (clock.now(), cpu_ms()?);
    let rig = Rig::open(folder.path())?;
    let opened = clock.now().since(begun);
    print(&format!(
        "opened after the kill in {opened:?} ({} ms of processor), {} messages, {} KiB more anonymous memory",
        cpu_ms()?.saturating_sub(cpu),
        rig.store.facts().messages,
        anonymous_kib()?.saturating_sub(before)
    ));
    let end = rig.store.log_facts().durable.lsn.0;
    for round in 1..=3 {
        let first = rig.drain(&clock, Lsn::ZERO, ENDS.min(messages));
        let last = rig.drain(&clock, Lsn(end - ENDS.min(messages)), ENDS.min(messages));
        print(&format!(
            "round {round}: first {first:.0}/s, last {last:.0}/s, ratio {:.2}",
            last / first
        ));
    }
    rig.store.close();
    Ok(())
}

/// Fills a store and waits to be killed.
fn fill(folder: &Path, messages: u64, bytes: u64) -> Result<(), Failure> {
    let before = anonymous_kib()?;
    let clock = SystemClock;
    let begun = clock.now();
    let rig = Rig::open(folder)?;
    rig.store.run(1, Job::BeginEpoch(Epoch(1)));
    rig.wait(|events| events.done)?;
    rig.store.set_gate(GatePolicy::Alone);
    let body = Bytes::from(vec![b'x'; usize::try_from(bytes)?]);
    let define = Draft::Kv {
        space: SPACE_DESTINATION,
        key: Bytes::copy_from_slice(&QUEUE.0.to_be_bytes()),
        value: Bytes::from_static(b"qdeep"),
    };
    rig.store.submit(vec![unit(0, define)]);
    let mut sent = 0;
    while sent < messages {
        let count = BURST.min(messages - sent);
        let units = (1..=count).map(|number| {
            let put = Draft::Put {
                targets: vec![QUEUE],
                message: body.clone(),
            };
            unit(sent + number, put)
        });
        rig.store.submit(units.collect());
        sent += count;
        // Two bursts are on their way.
        rig.wait(|events| events.tickets + 2 * BURST >= sent)?;
    }
    rig.wait(|events| events.tickets == messages)?;
    let seconds = clock.now().since(begun).as_secs_f64();
    print(&format!(
        "{messages} messages in {seconds:.1} s, {} KiB more anonymous memory, {} bytes of store",
        anonymous_kib()?.saturating_sub(before),
        rig.store.facts().bytes
    ));
    loop {
        std::thread::park();
    }
}

fn unit(ticket: u64, record: Draft) -> Unit {
    Unit {
        ticket: Ticket(ticket),
        records: vec![record],
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn print(line: &str) {
    println!("{line}");
}

/// Memory of this process that no file stands behind.
fn anonymous_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("the kernel does not say")?.parse()?)
}

/// Processor time of this process, in steps of 10 ms.
fn cpu_ms() -> Result<u64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("the kernel does not say")?;
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: Result<Vec<u64>, _> = ticks.map(str::parse).collect();
    Ok(ticks?.iter().sum::<u64>() * 10)
}

#[derive(Default)]
struct Events {
    done: bool,
    tickets: u64,
    fetched: Option<Fetched>,
    failed: Option<String>,
}

#[derive(Default)]
struct Sink {
    events: Mutex<Events>,
    arrived: Condvar,
}

impl StoreSink for Sink {
    fn event(&self, event: StoreEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            StoreEvent::Committed(committed) => events.tickets += committed.tickets.len() as u64,
            StoreEvent::Fetched(fetched) => events.fetched = Some(fetched),
            StoreEvent::Done { .. } => events.done = true,
            StoreEvent::Failed(error) => events.failed = Some(error.to_string()),
            StoreEvent::Cut(_)
            | StoreEvent::Durable(_)
            | StoreEvent::PartsRead { .. }
            | StoreEvent::LogRead { .. } => return,
        }
        drop(events);
        self.arrived.notify_all();
    }
}

struct Rig {
    store: Arc<dyn LogStore>,
    sink: Arc<Sink>,
}

impl Rig {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let sink = Arc::new(Sink::default());
        let config = StoreConfig::new(folder, "deep");
        let store = open(config, Arc::clone(&sink) as Arc<dyn StoreSink>)?.store;
        Ok(Self { store, sink })
    }

    fn wait(&self, until: impl Fn(&Events) -> bool) -> Result<(), Failure> {
        let mut events = self
            .sink
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while !until(&events) {
            if let Some(failed) = events.failed.take() {
                return Err(failed.into());
            }
            let waited = self
                .sink
                .arrived
                .wait_timeout(events, Duration::from_secs(60));
            events = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Messages a second from a place on.
    fn drain(&self, clock: &SystemClock, mut after: Lsn, count: u64) -> f64 {
        let begun = clock.now();
        let mut found = 0;
        while found < count {
            let seek = Seek::All { after };
            self.store.fetch(QUEUE, 0, seek, WINDOW.0, WINDOW.1);
            if self.wait(|events| events.fetched.is_some()).is_err() {
                return 0.0;
            }
            let mut events = self
                .sink
                .events
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let Some(fetched) = events.fetched.take() else {
                return 0.0;
            };
            if fetched.entries.is_empty() {
                break;
            }
            found += fetched.entries.len() as u64;
            after = fetched.scanned;
        }
        found as f64 / clock.now().since(begun).as_secs_f64()
    }
}
