//! A store under test on either medium, whose events are collected.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::proto::ids::{DestId, Epoch, Lsn, NodeId};
use crate::storage::api::*;
use crate::storage::data_dir::DataDir;
use crate::storage::inline::InlineStore;
use crate::storage::memory::{MemoryDisk, MemoryHome};
use crate::storage::open::{StoreConfig, build, new_store, open, open_memory};
use crate::storage::shared::lock;

/// Collects events.
#[derive(Default)]
pub(crate) struct Probe {
    events: Mutex<Vec<StoreEvent>>,
    arrived: Condvar,
}

impl StoreSink for Probe {
    fn event(&self, event: StoreEvent) {
        lock(&self.events).push(event);
        self.arrived.notify_all();
    }
}

impl Probe {
    /// All that came since the last call.
    pub(crate) fn take(&self) -> Vec<StoreEvent> {
        std::mem::take(&mut *lock(&self.events))
    }

    /// Waits for an event and takes it out.
    pub(crate) fn wait<T>(&self, mut pick: impl FnMut(&StoreEvent) -> Option<T>) -> T {
        let mut events = lock(&self.events);
        loop {
            if let Some(at) = events.iter().position(|event| pick(event).is_some()) {
                return pick(&events.remove(at)).unwrap();
            }
            let (next, timeout) = self
                .arrived
                .wait_timeout(events, Duration::from_secs(30))
                .unwrap();
            assert!(!timeout.timed_out(), "no such event among {next:?}");
            events = next;
        }
    }
}

/// What a store stands on.
#[derive(Clone)]
pub(crate) enum Medium {
    Memory(MemoryDisk),
    /// LMDB, pumped by the test: dropped without a pump it is what kill -9 leaves.
    Inline(PathBuf),
    /// LMDB with its threads.
    Threads(PathBuf),
}

enum Pump {
    Memory(Arc<InlineStore<MemoryHome>>),
    Lmdb(Arc<InlineStore<DataDir>>),
    Threads,
}

pub(crate) struct Rig {
    pub(crate) store: SharedStore,
    pub(crate) probe: Arc<Probe>,
    pump: Pump,
    next_request: std::cell::Cell<u64>,
}

pub(crate) fn memory(node: u8) -> Medium {
    Medium::Memory(MemoryDisk::new(NodeId([node; 16])))
}

pub(crate) fn config(dir: &Path) -> StoreConfig {
    StoreConfig::new(dir, "test")
}

impl Rig {
    pub(crate) fn open(medium: &Medium) -> Self {
        Self::open_with(medium, |_| ())
    }

    pub(crate) fn open_with(medium: &Medium, change: impl Fn(&mut StoreConfig)) -> Self {
        let probe = Arc::new(Probe::default());
        let sink = || Arc::clone(&probe) as Arc<dyn StoreSink>;
        let dir = match medium {
            Medium::Memory(_) => PathBuf::from("memory"),
            Medium::Inline(dir) | Medium::Threads(dir) => dir.clone(),
        };
        let mut config = config(&dir);
        change(&mut config);
        let (store, pump): (SharedStore, Pump) = match medium {
            Medium::Memory(disk) => {
                let (opened, inline) = open_memory(disk, config, sink(), Box::new(|| ())).unwrap();
                (opened.store, Pump::Memory(inline))
            }
            Medium::Inline(dir) => {
                let (mut home, present) = DataDir::open(dir, config.sync).unwrap();
                let env = match present {
                    Some(env) => env,
                    None => new_store(&mut home, &config.cluster).unwrap(),
                };
                let core = build(home, env, config, sink()).unwrap();
                let inline = Arc::new(InlineStore::new(core, Box::new(|| ())));
                (Arc::clone(&inline) as SharedStore, Pump::Lmdb(inline))
            }
            Medium::Threads(_) => (open(config, sink()).unwrap().store, Pump::Threads),
        };
        Self {
            store,
            probe,
            pump,
            next_request: std::cell::Cell::new(1),
        }
    }

    /// A store that is driven by its own threads, whoever opened it.
    pub(crate) fn of(store: SharedStore, probe: Arc<Probe>) -> Self {
        Self {
            store,
            probe,
            pump: Pump::Threads,
            next_request: std::cell::Cell::new(1),
        }
    }

    /// Serving alone, in an epoch of its own.
    pub(crate) fn serve(&self, epoch: u64) {
        assert_eq!(
            self.job(Job::BeginEpoch(Epoch(epoch))),
            Ok(JobOutcome::Durable)
        );
        self.store.set_gate(GatePolicy::Alone);
        self.flush();
    }

    pub(crate) fn pump_one(&self) -> bool {
        match &self.pump {
            Pump::Memory(inline) => inline.pump_one(),
            Pump::Lmdb(inline) => inline.pump_one(),
            Pump::Threads => false,
        }
    }

    pub(crate) fn pump(&self) {
        while self.pump_one() {}
    }

    /// Does all that is queued, and then what a store does that nothing is asked of, until it gets no
    /// further. One with threads does it by itself: it is given a little time.
    pub(crate) fn idle(&self) {
        if let Pump::Threads = self.pump {
            std::thread::park_timeout(Duration::from_millis(10));
            return;
        }
        let place = || (self.end(), self.store.facts().bytes);
        loop {
            let before = place();
            if !self.idle_once() || place() == before {
                break;
            }
        }
    }

    /// The same, once. False when it would not do so again soon.
    pub(crate) fn idle_once(&self) -> bool {
        self.pump();
        let more = match &self.pump {
            Pump::Memory(inline) => inline.idle(),
            Pump::Lmdb(inline) => inline.idle(),
            Pump::Threads => false,
        };
        self.pump();
        more
    }

    pub(crate) fn request(&self) -> u64 {
        let request = self.next_request.get();
        self.next_request.set(request + 1);
        request
    }

    pub(crate) fn job(&self, job: Job) -> Result<JobOutcome, JobRefusal> {
        let asked = self.request();
        self.store.run(asked, job);
        self.pump();
        self.probe.wait(|event| match event {
            StoreEvent::Done { request, outcome } if *request == asked => Some(match outcome {
                Ok(JobOutcome::Durable) => Ok(JobOutcome::Durable),
                Ok(JobOutcome::Snapshot { at, bytes }) => Ok(JobOutcome::Snapshot {
                    at: *at,
                    bytes: *bytes,
                }),
                Ok(JobOutcome::Piece(piece)) => Ok(JobOutcome::Piece(piece.clone())),
                Err(refusal) => Err(refusal.clone()),
            }),
            _ => None,
        })
    }

    /// Until all that was submitted is durable.
    pub(crate) fn flush(&self) {
        assert_eq!(self.job(Job::Flush), Ok(JobOutcome::Durable));
    }

    pub(crate) fn ask(&self, dest: DestId, seek: Seek, count: usize, bytes: usize) -> Fetched {
        let asked = u32::try_from(self.request()).unwrap();
        self.store.fetch(dest, asked, seek, count, bytes);
        self.pump();
        self.probe.wait(|event| match event {
            StoreEvent::Fetched(found) if found.tag == asked => {
                assert_eq!(found.dest, dest);
                Some(found.clone())
            }
            _ => None,
        })
    }

    pub(crate) fn owed(&self, dest: u32) -> Vec<(u64, Bytes)> {
        let mut owed = Vec::new();
        let mut after = Lsn::ZERO;
        loop {
            // Small answers, so that their seams are tested too.
            let found = self.ask(DestId(dest), Seek::All { after }, 7, 3000);
            let (entries, scanned) = (found.entries, found.scanned);
            assert!(entries.last().is_none_or(|last| last.lsn <= scanned));
            let more = !entries.is_empty();
            owed.extend(
                entries
                    .into_iter()
                    .map(|entry| (entry.lsn.0, entry.message)),
            );
            after = scanned;
            if !more {
                return owed;
            }
        }
    }

    /// Up to the first that is not there.
    pub(crate) fn read_parts(&self, lsns: &[Lsn]) -> Vec<Bytes> {
        let asked = u32::try_from(self.request()).unwrap();
        self.store.read_parts(asked, lsns.to_vec());
        self.pump();
        self.probe.wait(|event| match event {
            StoreEvent::PartsRead { whose, parts } if *whose == asked => Some(parts.clone()),
            _ => None,
        })
    }

    pub(crate) fn read_log(&self, after: Lsn, bytes: usize) -> Vec<Batch> {
        let asked = self.request();
        self.store.read_log(asked, after, bytes);
        self.pump();
        self.probe.wait(|event| match event {
            StoreEvent::LogRead { request, batches } if *request == asked => Some(batches.clone()),
            _ => None,
        })
    }

    pub(crate) fn end(&self) -> Lsn {
        self.store.log_facts().durable.lsn
    }
}

pub(crate) fn define(dest: u32) -> Draft {
    Draft::Kv {
        space: SPACE_DESTINATION,
        key: Bytes::copy_from_slice(&dest.to_be_bytes()),
        value: Bytes::from(format!("qqueue{dest}")),
    }
}

pub(crate) fn put(targets: &[u32], text: impl Into<Bytes>) -> Draft {
    Draft::Put {
        targets: targets.iter().copied().map(DestId).collect(),
        message: text.into(),
    }
}

pub(crate) fn ack(dest: u32, lsns: &[u64]) -> Draft {
    Draft::Ack {
        dest: DestId(dest),
        lsns: lsns.iter().copied().map(Lsn).collect(),
    }
}

pub(crate) fn unit(ticket: u64, records: Vec<Draft>) -> Unit {
    Unit {
        ticket: Ticket(ticket),
        records,
    }
}
