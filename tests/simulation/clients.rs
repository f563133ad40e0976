//! The client side of a simulated server: the real destinations behind sessions of the simulation,
//! told by HAManager and by the store's sink as the data thread is.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use twinmq::actors::directory::{Directory, DirectoryConfig};
use twinmq::actors::ha_manager::{ClientSide, HaMessage};
use twinmq::actors::inbox::Order;
use twinmq::actors::lease::{Lease, ServingLease};
use twinmq::actors::post::{Port, post};
use twinmq::actors::store_sink::CommittedSink;
use twinmq::machines::ha::ExitCause;
use twinmq::proto::ids::{DestId, Epoch, Lsn};
use twinmq::storage::api::{
    Batch, Committed, DestinationFacts, DuplicateId, Entry, Fetched, GatePolicy, Job, LogFacts,
    LogStore, Seek, SharedStore, StoreFacts, Unit,
};
use twinmq::time::Clock;

use crate::arbiter::Life;
use crate::clock::{Chance, Trace, open};
use crate::homes::Homes;
use crate::ledger::{Ledger, PRODUCERS, QUEUES};
use crate::sessions::{Session, consume, produce};

/// How long an orderly stop waits for answers.
const DRAIN: Duration = Duration::from_secs(5);
/// Between two connections of a client.
const RECONNECT: Duration = Duration::from_millis(20);

/// The outside of one life's clients.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) life: Life,
    pub(crate) lease: Arc<Lease>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) homes: Arc<Homes>,
    /// Producers have something to send.
    pub(crate) flow: Arc<AtomicBool>,
    /// See [`crate::course::Course::strewn`].
    pub(crate) strewn: bool,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) clock: Arc<dyn Clock>,
}

/// All clients of one life of a server.
pub(crate) struct Clients {
    setting: Setting,
    commands: UnboundedSender<Command>,
    state: Mutex<State>,
    manager: OnceLock<Port<HaMessage>>,
}

#[derive(Default)]
struct State {
    serving: bool,
    /// The process is to end.
    ended: Option<String>,
    asked: VecDeque<Asker>,
    fetched: VecDeque<(Vec<Entry>, Lsn)>,
}

/// Who waits for an answer to a fetch; they come in order.
enum Asker {
    Directory,
    Checker,
}

enum Command {
    Serve(Epoch),
    Stop(String),
    Drain,
    Committed(Committed),
    Fetched(Fetched),
    PartsRead(u32, Vec<Bytes>),
}

/// What [`Clients::run`] works on.
pub(crate) struct Commands(UnboundedReceiver<Command>);

impl Clients {
    pub(crate) fn new(setting: Setting) -> (Arc<Self>, Commands) {
        let (commands, received) = unbounded_channel();
        let clients = Self {
            setting,
            commands,
            state: Mutex::default(),
            manager: OnceLock::new(),
        };
        (Arc::new(clients), Commands(received))
    }

    /// Joins HAManager.
    pub(crate) fn join_manager(&self, manager: Port<HaMessage>) {
        assert!(self.manager.set(manager).is_ok(), "joined once");
    }

    /// HAManager has opened the port.
    pub(crate) fn serving(&self) -> bool {
        open(&self.state).serving
    }

    /// What a session would find when it writes its confirms.
    pub(crate) fn speaks(&self) -> bool {
        self.setting.lease.may_speak()
    }

    /// Why the process wants to end.
    pub(crate) fn ended(&self) -> Option<String> {
        open(&self.state).ended.clone()
    }

    /// The process is to end.
    pub(crate) fn end(&self, why: String) {
        self.tell(&format!("ends: {why}"));
        open(&self.state).ended.get_or_insert(why);
    }

    /// The next answer to a fetch of the checker's.
    pub(crate) fn take_fetched(&self) -> Option<(Vec<Entry>, Lsn)> {
        open(&self.state).fetched.pop_front()
    }

    /// The checker asks the store.
    pub(crate) fn fetch(&self, store: &SharedStore, dest: DestId, after: Lsn) {
        open(&self.state).asked.push_back(Asker::Checker);
        store.fetch(dest, 0, Seek::All { after }, 50, 10_000);
    }

    /// The data thread. Needs the server's `LocalSet`.
    pub(crate) async fn run(self: Arc<Self>, commands: Commands, store: Weak<dyn LogStore>) {
        let Commands(mut commands) = commands;
        let asking = AskingStore {
            store,
            clients: Arc::clone(&self),
        };
        let clock = Arc::clone(&self.setting.clock);
        let directory = Directory::new(DirectoryConfig::default(), Arc::new(asking), clock);
        let term = Rc::new(Cell::new(Epoch::ZERO));
        while let Some(command) = commands.recv().await {
            match command {
                Command::Serve(epoch) => {
                    directory.activate();
                    term.set(epoch);
                    self.open_sessions(&directory, &term);
                }
                Command::Stop(reason) => {
                    term.set(Epoch::ZERO);
                    directory.deactivate(&reason);
                }
                Command::Drain => {
                    term.set(Epoch::ZERO);
                    directory.order_all(&Order::Drain("the server stops".to_owned()));
                    drop(tokio::task::spawn_local(
                        Arc::clone(&self).drained(Rc::clone(&directory)),
                    ));
                }
                Command::Committed(committed) => directory.committed(committed),
                Command::Fetched(fetched) => directory.fetched(fetched),
                Command::PartsRead(whose, parts) => directory.parts_read(whose, parts),
            }
        }
    }

    /// Clients come, and come again, for as long as this term lasts.
    fn open_sessions(&self, directory: &Rc<Directory>, term: &Rc<Cell<Epoch>>) {
        for client in 0..PRODUCERS + QUEUES {
            let (setting, directory) = (self.setting.clone(), Rc::clone(directory));
            let (term, epoch) = (Rc::clone(term), term.get());
            drop(tokio::task::spawn_local(async move {
                while term.get() == epoch {
                    let session = Session::open(setting.clone(), Rc::clone(&directory), epoch);
                    if client < PRODUCERS {
                        produce(session, client).await;
                    } else {
                        consume(session, client - PRODUCERS).await;
                    }
                    tokio::time::sleep(RECONNECT).await;
                }
            }));
        }
    }

    async fn drained(self: Arc<Self>, directory: Rc<Directory>) {
        let quiet = async {
            while directory.sessions() > 0 || directory.backlog() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let in_time = tokio::time::timeout(DRAIN, quiet).await.is_ok();
        self.tell(&format!("is drained: {in_time}"));
        directory.deactivate("the server stops");
        if let Some(manager) = self.manager.get() {
            post(manager, HaMessage::ClientsDrained);
        }
    }

    fn tell(&self, what: &str) {
        let Setting { life, trace, .. } = &self.setting;
        trace.tell(format_args!("{life} {what}"));
    }

    fn command(&self, command: Command) {
        // Nobody takes it only once the server is dead.
        drop(self.commands.send(command));
    }
}

impl CommittedSink for Clients {
    fn committed(&self, committed: Committed) {
        self.command(Command::Committed(committed));
    }

    fn fetched(&self, fetched: Fetched) {
        let state = &mut *open(&self.state);
        match state.asked.pop_front() {
            Some(Asker::Checker) => state.fetched.push_back((fetched.entries, fetched.scanned)),
            Some(Asker::Directory) | None => {
                self.command(Command::Fetched(fetched));
            }
        }
    }

    fn parts_read(&self, whose: u32, parts: Vec<Bytes>) {
        self.command(Command::PartsRead(whose, parts));
    }
}

impl ClientSide for Clients {
    fn serve(&self, epoch: Epoch) {
        self.setting.trace.mark("terms of service");
        self.tell(&format!("serves in epoch {epoch}"));
        open(&self.state).serving = true;
        self.command(Command::Serve(epoch));
    }

    fn stop_serving(&self, reason: &str) {
        self.tell(&format!("serves no more: {reason}"));
        open(&self.state).serving = false;
        self.command(Command::Stop(reason.to_owned()));
    }

    fn drain(&self, _: Duration, _: &str) {
        self.tell("drains");
        self.command(Command::Drain);
    }

    fn end_process(&self, cause: &ExitCause) {
        self.end(format!("{cause:?}"));
    }
}

/// The store as the destinations see it: their fetches are told from the checker's.
struct AskingStore {
    /// Its owner holds it; its sink leads back here.
    store: Weak<dyn LogStore>,
    clients: Arc<Clients>,
}

impl AskingStore {
    fn store(&self) -> SharedStore {
        let store = self.store.upgrade();
        store.expect("the store lives as long as its server")
    }
}

impl LogStore for AskingStore {
    fn submit(&self, units: Vec<Unit>) {
        self.store().submit(units);
    }

    fn append(&self, batch: Batch) {
        self.store().append(batch);
    }

    fn set_gate(&self, policy: GatePolicy) -> Lsn {
        self.store().set_gate(policy)
    }

    fn gate(&self) -> GatePolicy {
        self.store().gate()
    }

    fn peer_holds(&self, upto: Lsn) {
        self.store().peer_holds(upto);
    }

    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize) {
        let asked = &mut open(&self.clients.state).asked;
        asked.push_back(Asker::Directory);
        self.store().fetch(dest, tag, seek, count, bytes);
    }

    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>) {
        self.store().read_parts(whose, lsns);
    }

    fn read_log(&self, request: u64, after: Lsn, bytes: usize) {
        self.store().read_log(request, after, bytes);
    }

    fn run(&self, request: u64, job: Job) {
        self.store().run(request, job);
    }

    fn log_facts(&self) -> LogFacts {
        self.store().log_facts()
    }

    fn log_bytes(&self, after: Lsn) -> u64 {
        self.store().log_bytes(after)
    }

    fn committed(&self) -> Lsn {
        self.store().committed()
    }

    fn destinations(&self) -> Vec<DestinationFacts> {
        self.store().destinations()
    }

    fn seen(&self, ids: &[DuplicateId], now_ms: u64) -> Vec<bool> {
        self.store().seen(ids, now_ms)
    }

    fn facts(&self) -> StoreFacts {
        self.store().facts()
    }

    fn close(&self) {
        self.store().close();
    }
}
