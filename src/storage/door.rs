//! The store of shared mode, as one server has it: closed from the start of the process, opened at most
//! once, when this server has become the one that may. The `store-door` thread makes every call, since
//! each may hang with the share.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn, NodeId, Position, StoreId};

use super::api::{
    Batch, DestinationFacts, DuplicateId, GatePolicy, Job, JobOutcome, JobRefusal, LogFacts,
    LogStore, Seek, SharedStore, StoreAnswer, StoreAnswerTo, StoreCall, StoreDoor, StoreEvent,
    StoreFacts, StoreSink, Unit,
};
use super::common_dir::{self, Had};
use super::data_dir::DataDir;
use super::data_lock::DataLock;
use super::error::StoreError;
use super::node_dir::NodeDir;
use super::open::{StoreConfig, build};
use super::shared::lock;
use super::threaded::ThreadedStore;

/// A server of shared mode before anything is open.
pub struct ClosedStore {
    /// This server.
    pub node: NodeId,
    /// The arbiter record that it saw last.
    pub last_record: Option<Bytes>,
    /// The store, and the way to open it.
    pub store: Arc<DoorStore>,
    /// The directory of the store, absolute.
    pub dir: PathBuf,
}

/// See the module. As a `LogStore` it is an empty one until it is open.
pub struct DoorStore {
    /// The label as it was read last.
    seen: Arc<Mutex<StoreId>>,
    open: Arc<OnceLock<SharedStore>>,
    asks: Mutex<Sender<Ask>>,
}

enum Ask {
    Call(StoreCall, StoreAnswerTo),
    Job { request: u64, job: Job },
}

/// Locks this server's own folder, `node_dir`, and makes it where it is missing; the store stays closed.
/// `local`: its directory is on a file system of this kernel alone.
///
/// # Errors
/// When another server has the folder, or it cannot be read or written.
pub fn open_door(
    config: StoreConfig,
    node_dir: &Path,
    local: bool,
    sink: Arc<dyn StoreSink>,
) -> Result<ClosedStore, StoreError> {
    let node = own_folder(node_dir)?;
    let (asks, inbox) = channel();
    let store = DoorStore {
        seen: Arc::default(),
        open: Arc::default(),
        asks: Mutex::new(asks),
    };
    let dir = std::path::absolute(&config.dir).unwrap_or_else(|_| config.dir.clone());
    let (id, last_record) = (node.node(), node.last_record()?);
    let keeper = Keeper {
        config,
        sink,
        seen: Arc::clone(&store.seen),
        open: Arc::clone(&store.open),
        node: Some(node),
        local,
        taken: None,
    };
    std::thread::Builder::new()
        .name("store-door".to_owned())
        .spawn(move || keeper.run(&inbox))
        .map_err(|cause| StoreError::Thread {
            name: "store-door",
            cause,
        })?;
    Ok(ClosedStore {
        node: id,
        last_record,
        store: Arc::new(store),
        dir,
    })
}

/// A server's own folder in shared mode, locked.
pub(super) fn own_folder(path: &Path) -> Result<NodeDir, StoreError> {
    std::fs::create_dir_all(path).map_err(StoreError::file("make the folder", path))?;
    let dir = std::fs::canonicalize(path).map_err(StoreError::file("find", path))?;
    NodeDir::lock(dir.clone(), &dir)
}

impl DoorStore {
    fn ask(&self, ask: Ask) {
        if lock(&self.asks).send(ask).is_err() {
            tracing::error!(target: "twinmq::store", "the store-door thread has ended");
        }
    }

    fn opened(&self) -> Option<&SharedStore> {
        self.open.get()
    }
}

impl StoreDoor for DoorStore {
    fn call(&self, call: StoreCall, answer_to: StoreAnswerTo) {
        self.ask(Ask::Call(call, answer_to));
    }
}

impl LogStore for DoorStore {
    fn submit(&self, units: Vec<Unit>) {
        if let Some(store) = self.opened() {
            store.submit(units);
        }
    }

    fn append(&self, batch: Batch) {
        if let Some(store) = self.opened() {
            store.append(batch);
        }
    }

    fn set_gate(&self, policy: GatePolicy) -> Lsn {
        // A store is opened with its gate closed, as it is before.
        self.opened()
            .map_or(Lsn::ZERO, |store| store.set_gate(policy))
    }

    fn gate(&self) -> GatePolicy {
        self.opened()
            .map_or(GatePolicy::Closed, |store| store.gate())
    }

    fn peer_holds(&self, upto: Lsn) {
        if let Some(store) = self.opened() {
            store.peer_holds(upto);
        }
    }

    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize) {
        if let Some(store) = self.opened() {
            store.fetch(dest, tag, seek, count, bytes);
        }
    }

    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>) {
        if let Some(store) = self.opened() {
            store.read_parts(whose, lsns);
        }
    }

    fn read_log(&self, request: u64, after: Lsn, bytes: usize) {
        if let Some(store) = self.opened() {
            store.read_log(request, after, bytes);
        }
    }

    fn run(&self, request: u64, job: Job) {
        match self.opened() {
            Some(store) => store.run(request, job),
            None => self.ask(Ask::Job { request, job }),
        }
    }

    fn log_bytes(&self, after: Lsn) -> u64 {
        self.opened().map_or(0, |store| store.log_bytes(after))
    }

    fn log_facts(&self) -> LogFacts {
        match self.opened() {
            Some(store) => store.log_facts(),
            None => LogFacts {
                store: *lock(&self.seen),
                durable: Position::default(),
                chain: 0,
                epochs: Vec::new(),
                floor: Lsn::ZERO,
                checkpoint: Lsn::ZERO,
                sync_in_progress: false,
            },
        }
    }

    fn committed(&self) -> Lsn {
        self.opened().map_or(Lsn::ZERO, |store| store.committed())
    }

    fn destinations(&self) -> Vec<DestinationFacts> {
        self.opened()
            .map_or_else(Vec::new, |store| store.destinations())
    }

    fn seen(&self, ids: &[DuplicateId], now_ms: u64) -> Vec<bool> {
        match self.opened() {
            Some(store) => store.seen(ids, now_ms),
            None => vec![false; ids.len()],
        }
    }

    fn facts(&self) -> StoreFacts {
        self.opened()
            .map_or_else(StoreFacts::default, |store| store.facts())
    }

    fn close(&self) {
        if let Some(store) = self.opened() {
            store.close();
        }
    }
}

/// What the thread owns.
struct Keeper {
    config: StoreConfig,
    sink: Arc<dyn StoreSink>,
    seen: Arc<Mutex<StoreId>>,
    open: Arc<OnceLock<SharedStore>>,
    /// The open store has it then.
    node: Option<NodeDir>,
    /// See `StoreAnswer::Taken`.
    local: bool,
    /// Kept when the store is open, until the process ends.
    taken: Option<Arc<DataLock>>,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Ask>) {
        while let Ok(ask) = inbox.recv() {
            match ask {
                Ask::Call(call, answer_to) => {
                    tracing::debug!(target: "twinmq::store", ?call, "the shared store is asked");
                    answer_to(self.answer(call));
                }
                Ask::Job { request, job } => self.job(request, job),
            }
        }
        // The last handle is gone, and with it whoever could write. Closing the file any earlier would
        // unlock it.
    }

    fn answer(&mut self, call: StoreCall) -> StoreAnswer {
        let answer = match call {
            StoreCall::Look => self.look(),
            StoreCall::Found => self.found(),
            StoreCall::Take => self.take(),
            StoreCall::Leave => self.leave(),
            StoreCall::Open => self.open(),
            StoreCall::Close => self.close(),
        };
        answer.unwrap_or_else(|error| StoreAnswer::Failed(error.to_string()))
    }

    fn look(&self) -> Result<StoreAnswer, StoreError> {
        let there = common_dir::look(&self.config.dir, &self.config.cluster)?;
        *lock(&self.seen) = there.unwrap_or(StoreId::NONE);
        Ok(StoreAnswer::Seen(there))
    }

    fn found(&self) -> Result<StoreAnswer, StoreError> {
        let config = &self.config;
        match common_dir::found(&config.dir, &config.cluster, config.sync)? {
            Had::Done((store, epoch)) => {
                *lock(&self.seen) = store;
                tracing::info!(target: "twinmq::store", dir = %config.dir.display(), %store,
                    "the shared store is there");
                Ok(StoreAnswer::Founded(store, epoch))
            }
            Had::InUse(by) => Ok(StoreAnswer::InUse(by)),
        }
    }

    fn take(&mut self) -> Result<StoreAnswer, StoreError> {
        if self.taken.is_none() {
            match common_dir::take(&self.config.dir)? {
                Had::Done(taken) => self.taken = Some(taken),
                Had::InUse(by) => return Ok(StoreAnswer::InUse(by)),
            }
        }
        Ok(StoreAnswer::Taken { local: self.local })
    }

    fn leave(&mut self) -> Result<StoreAnswer, StoreError> {
        if self.open.get().is_none() {
            self.taken = None;
        }
        Ok(StoreAnswer::Left)
    }

    fn open(&mut self) -> Result<StoreAnswer, StoreError> {
        let config = &self.config;
        let layout = |what: &str| StoreError::Layout {
            dir: config.dir.clone(),
            what: what.to_owned(),
        };
        let taken = self
            .taken
            .as_ref()
            .ok_or_else(|| layout("its data file is not locked"))?;
        let node = self
            .node
            .take()
            .ok_or_else(|| layout("it was opened before by this process"))?;
        let env = common_dir::open(&config.dir, config.sync, taken)?;
        common_dir::verify(&config.dir, &config.cluster, &env)?;
        let home = DataDir::of(config.dir.clone(), node, config.sync)?;
        let core = build(home, env, config.clone(), Arc::clone(&self.sink))?;
        let facts = core.shared.facts();
        tracing::info!(target: "twinmq::store", dir = %config.dir.display(),
            messages = facts.messages, destinations = facts.destinations, end = %core.end.position,
            "found {} messages in {}", facts.messages, config.dir.display());
        let store: SharedStore = Arc::new(ThreadedStore::start(core)?);
        if self.open.set(store).is_err() {
            return Err(layout("it is open already"));
        }
        Ok(StoreAnswer::Opened)
    }

    fn close(&self) -> Result<StoreAnswer, StoreError> {
        if let Some(store) = self.open.get() {
            store.close();
        }
        // Nothing of this process writes any more. What still maps the file ends with the process.
        if let Some(taken) = &self.taken {
            taken
                .unlock()
                .map_err(StoreError::file("unlock", &self.config.dir))?;
        }
        Ok(StoreAnswer::Closed)
    }

    fn job(&self, request: u64, job: Job) {
        // It may have been opened since the job was queued.
        if let Some(store) = self.open.get() {
            store.run(request, job);
            return;
        }
        let outcome = match (job, &self.node) {
            (Job::PersistRecord(record), Some(node)) => match node.write_last_record(&record) {
                Ok(()) => Ok(JobOutcome::Durable),
                Err(error) => {
                    self.sink.event(StoreEvent::Failed(error));
                    return;
                }
            },
            (_, _) => Err(JobRefusal::NotNow("the store is closed")),
        };
        self.sink.event(StoreEvent::Done { request, outcome });
    }
}
