//! The store of shared mode as one simulated server has it: closed until HAManager has it opened, on the
//! mount that both servers reach. What the `store-door` thread and the store's own do in a server, tasks
//! do here; each call waits for the share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinmq::proto::ids::{DestId, Lsn, Position, StoreId};
use twinmq::storage::StoreConfig;
use twinmq::storage::api::{
    Batch, DestinationFacts, DuplicateId, GatePolicy, Job, JobOutcome, JobRefusal, LogFacts,
    LogStore, Seek, StoreAnswer, StoreAnswerTo, StoreCall, StoreDoor, StoreEvent, StoreFacts,
    StoreSink, Unit,
};
use twinmq::storage::common_memory::CommonMemory;
use twinmq::storage::error::StoreError;
use twinmq::storage::inline::InlineStore;
use twinmq::storage::memory::{MemoryHome, MemoryLock};

use crate::arbiter::{Life, Share};
use crate::clock::{Chance, Trace, open};

/// What a door is made of.
pub(crate) struct Setting {
    pub(crate) life: Life,
    pub(crate) share: Arc<Share>,
    /// The mount, and the server's own disk.
    pub(crate) files: CommonMemory,
    pub(crate) config: StoreConfig,
    pub(crate) sink: Arc<dyn StoreSink>,
    /// The longest that one commit or flush takes, in milliseconds.
    pub(crate) disk_ms: Arc<AtomicU64>,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
}

/// See the module.
pub(crate) struct SimDoor {
    setting: Setting,
    /// The store as it was looked at last.
    seen: Mutex<StoreId>,
    taken: Mutex<Option<MemoryLock>>,
    opened: OnceLock<Arc<InlineStore<MemoryHome>>>,
    asks: UnboundedSender<Ask>,
    wake: Arc<Notify>,
}

enum Ask {
    Call(StoreCall, StoreAnswerTo),
    Job { request: u64, job: Job },
}

impl SimDoor {
    /// Closed. Needs the server's `LocalSet`: all that it does ends with it.
    pub(crate) fn new(setting: Setting) -> Arc<Self> {
        let (asks, inbox) = unbounded_channel();
        let door = Arc::new(Self {
            setting,
            seen: Mutex::default(),
            taken: Mutex::default(),
            opened: OnceLock::new(),
            asks,
            wake: Arc::default(),
        });
        drop(tokio::task::spawn_local(Arc::clone(&door).keep(inbox)));
        drop(tokio::task::spawn_local(Arc::clone(&door).work()));
        door
    }

    /// One more thing reaches the mount.
    pub(crate) fn pump_one(&self) {
        if self.setting.share.reaches(self.setting.life.at)
            && let Some(store) = self.opened.get()
        {
            store.pump_one();
        }
    }

    fn ask(&self, ask: Ask) {
        // Nobody takes it only once the server is dead.
        drop(self.asks.send(ask));
    }

    /// One call after the other.
    async fn keep(self: Arc<Self>, mut inbox: UnboundedReceiver<Ask>) {
        let Setting { life, trace, .. } = &self.setting;
        while let Some(ask) = inbox.recv().await {
            match ask {
                Ask::Call(call, answer_to) => {
                    let answer = if self.setting.share.travel(life.at).await {
                        self.answer(call).await
                    } else {
                        Ok(StoreAnswer::Failed("the mount does not answer".to_owned()))
                    };
                    let answer = answer.unwrap_or_else(|e| StoreAnswer::Failed(e.to_string()));
                    trace.tell(format_args!("{life} {call:?} -> {answer:?}"));
                    answer_to(answer);
                }
                Ask::Job { request, job } => self.job(request, job),
            }
        }
    }

    /// The store's writer and reader: each thing that is queued takes a while.
    async fn work(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            while self.turn().await {}
        }
    }

    /// Does one thing that is queued. False when nothing is left.
    async fn turn(&self) -> bool {
        let Some(store) = self.opened.get() else {
            return false;
        };
        let Setting {
            share,
            life,
            disk_ms,
            chance,
            ..
        } = &self.setting;
        chance.delay(disk_ms.load(Ordering::Relaxed)).await;
        if !share.travel(life.at).await
            && let Some(lock) = &*open(&self.taken)
        {
            // The mount gives an error, and the store goes no further after the first one.
            lock.lose();
        }
        store.pump_one()
    }

    async fn answer(&self, call: StoreCall) -> Result<StoreAnswer, StoreError> {
        let Setting {
            life,
            share,
            files,
            config,
            ..
        } = &self.setting;
        Ok(match call {
            StoreCall::Look => {
                let there = files.look()?.map(|(store, _)| store);
                *open(&self.seen) = there.unwrap_or(StoreId::NONE);
                StoreAnswer::Seen(there)
            }
            StoreCall::Found => match share.mount.take(*life) {
                Ok(_) => {
                    let found = files.found(config);
                    share.mount.leave(*life);
                    let (store, epoch) = found?;
                    *open(&self.seen) = store;
                    StoreAnswer::Founded(store, epoch)
                }
                Err(by) => StoreAnswer::InUse(by),
            },
            StoreCall::Take => match share.mount.take(*life) {
                Ok(lock) => {
                    *open(&self.taken) = Some(lock);
                    let local = share.is_local();
                    StoreAnswer::Taken { local }
                }
                Err(by) => StoreAnswer::InUse(by),
            },
            StoreCall::Leave => {
                if self.opened.get().is_none() {
                    *open(&self.taken) = None;
                    share.mount.leave(*life);
                }
                StoreAnswer::Left
            }
            StoreCall::Open => self.open()?,
            StoreCall::Close => {
                while self.turn().await {}
                if let Some(store) = self.opened.get() {
                    store.close();
                }
                share.mount.leave(*life);
                StoreAnswer::Closed
            }
        })
    }

    fn open(&self) -> Result<StoreAnswer, StoreError> {
        let Setting {
            files,
            config,
            sink,
            ..
        } = &self.setting;
        let lock = open(&self.taken).clone();
        let lock = lock.expect("HAManager has the data file taken before it is opened");
        let wake = Arc::clone(&self.wake);
        let wake = Box::new(move || wake.notify_one());
        let store = files.open(config.clone(), &lock, Arc::clone(sink), wake)?;
        assert!(self.opened.set(store).is_ok(), "a process opens it once");
        Ok(StoreAnswer::Opened)
    }

    fn job(&self, request: u64, job: Job) {
        // It may have been opened since the job was queued.
        if let Some(store) = self.opened.get() {
            store.run(request, job);
            return;
        }
        let outcome = if let Job::PersistRecord(record) = job {
            self.setting.files.own.keep_record(&record);
            Ok(JobOutcome::Durable)
        } else {
            Err(JobRefusal::NotNow("the store is closed"))
        };
        let sink = &self.setting.sink;
        sink.event(StoreEvent::Done { request, outcome });
    }
}

impl StoreDoor for SimDoor {
    fn call(&self, call: StoreCall, answer_to: StoreAnswerTo) {
        self.ask(Ask::Call(call, answer_to));
    }
}

/// An empty store until it is open.
impl LogStore for SimDoor {
    fn submit(&self, units: Vec<Unit>) {
        if let Some(store) = self.opened.get() {
            store.submit(units);
        }
    }

    fn append(&self, batch: Batch) {
        if let Some(store) = self.opened.get() {
            store.append(batch);
        }
    }

    fn set_gate(&self, policy: GatePolicy) -> Lsn {
        let store = self.opened.get();
        store.map_or(Lsn::ZERO, |store| store.set_gate(policy))
    }

    fn gate(&self) -> GatePolicy {
        let store = self.opened.get();
        store.map_or(GatePolicy::Closed, |store| store.gate())
    }

    fn peer_holds(&self, upto: Lsn) {
        if let Some(store) = self.opened.get() {
            store.peer_holds(upto);
        }
    }

    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize) {
        if let Some(store) = self.opened.get() {
            store.fetch(dest, tag, seek, count, bytes);
        }
    }

    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>) {
        if let Some(store) = self.opened.get() {
            store.read_parts(whose, lsns);
        }
    }

    fn read_log(&self, request: u64, after: Lsn, bytes: usize) {
        if let Some(store) = self.opened.get() {
            store.read_log(request, after, bytes);
        }
    }

    fn run(&self, request: u64, job: Job) {
        match self.opened.get() {
            Some(store) => store.run(request, job),
            None => self.ask(Ask::Job { request, job }),
        }
    }

    fn log_facts(&self) -> LogFacts {
        match self.opened.get() {
            Some(store) => store.log_facts(),
            None => LogFacts {
                store: *open(&self.seen),
                durable: Position::default(),
                chain: 0,
                epochs: Vec::new(),
                floor: Lsn::ZERO,
                checkpoint: Lsn::ZERO,
                sync_in_progress: false,
            },
        }
    }

    fn log_bytes(&self, after: Lsn) -> u64 {
        self.opened.get().map_or(0, |store| store.log_bytes(after))
    }

    fn committed(&self) -> Lsn {
        let store = self.opened.get();
        store.map_or(Lsn::ZERO, |store| store.committed())
    }

    fn destinations(&self) -> Vec<DestinationFacts> {
        let store = self.opened.get();
        store.map_or_else(Vec::new, |store| store.destinations())
    }

    fn seen(&self, ids: &[DuplicateId], now_ms: u64) -> Vec<bool> {
        match self.opened.get() {
            Some(store) => store.seen(ids, now_ms),
            None => vec![false; ids.len()],
        }
    }

    fn facts(&self) -> StoreFacts {
        let store = self.opened.get();
        store.map_or_else(StoreFacts::default, |store| store.facts())
    }

    fn close(&self) {
        if let Some(store) = self.opened.get() {
            store.close();
        }
    }
}
