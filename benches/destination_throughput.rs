//! What the data thread does for a message besides protocol and sockets: directory, destination
//! actors, mailboxes and permits, with a store that keeps nothing and commits at once.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twinmq::actors::directory::{Directory, DirectoryConfig};
use twinmq::actors::inbox::Inbox;
use twinmq::actors::post::Port;
use twinmq::machines::delivery::{
    ConsumerKey, ConsumerTraits, DestinationCommand, Outcome, RequestNumber, SessionEvent,
    SessionKey,
};
use twinmq::machines::destination::DestinationInput;
use twinmq::proto::destination::{DestinationKind, DestinationName};
use twinmq::proto::ids::{DestId, Lsn, Position, StoreId};
use twinmq::storage::api::{
    Batch, Change, Committed, DestinationFacts, Draft, DuplicateId, Entry, GatePolicy, Job,
    LogFacts, LogStore, Seek, SharedStore, StoreFacts, Ticket, Unit,
};
use twinmq::time::SystemClock;

/// Gives LSNs and remembers what to tell.
#[derive(Default)]
struct NullStore {
    state: Mutex<(Lsn, Vec<Unit>)>,
}

impl NullStore {
    fn commit(&self) -> Committed {
        let mut state = self.state.lock().expect("nobody panics with it");
        let units = std::mem::take(&mut state.1);
        let mut committed = Committed::default();
        for unit in units {
            if unit.ticket != Ticket::default() {
                committed.tickets.push(unit.ticket);
            }
            for record in unit.records {
                state.0 = state.0.next();
                let lsn = state.0;
                match record {
                    Draft::Put { targets, message } => {
                        let change = change_of(&mut committed, targets[0]);
                        change.entries.push(Entry::new(lsn, message));
                    }
                    Draft::Delivered { dest, lane, ahead } => {
                        let mark = Lsn(lsn.0 + u64::from(ahead));
                        change_of(&mut committed, dest).marks.push((lane, mark));
                    }
                    Draft::Ack { dest, lsns } => {
                        let settled = u32::try_from(lsns.len()).unwrap_or(u32::MAX);
                        change_of(&mut committed, dest).settled += settled;
                    }
                    Draft::DeliveredEach { .. }
                    | Draft::Failed { .. }
                    | Draft::Seen { .. }
                    | Draft::Part { .. }
                    | Draft::UploadEnded(_)
                    | Draft::Kv { .. } => {}
                }
            }
        }
        committed.upto = state.0;
        committed
    }
}

/// The change of a destination; a queue's records come in rows.
fn change_of(committed: &mut Committed, dest: DestId) -> &mut Change {
    let changes = &mut committed.changes;
    let at = match changes.last() {
        Some((last, _)) if *last == dest => changes.len() - 1,
        _ => match changes.iter().position(|(id, _)| *id == dest) {
            Some(at) => at,
            None => {
                changes.push((dest, Change::default()));
                changes.len() - 1
            }
        },
    };
    &mut changes[at].1
}

impl LogStore for NullStore {
    fn close(&self) {}

    fn submit(&self, units: Vec<Unit>) {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.1.extend(units);
    }

    fn append(&self, _: Batch) {}

    fn set_gate(&self, _: GatePolicy) -> Lsn {
        Lsn::ZERO
    }

    fn gate(&self) -> GatePolicy {
        GatePolicy::Alone
    }

    fn peer_holds(&self, _: Lsn) {}

    fn fetch(&self, dest: DestId, _: u32, seek: Seek, _: usize, _: usize) {
        panic!(
            "queue {dest:?} has a backlog after {seek:?}: the benchmark's windows are too small"
        );
    }

    fn read_parts(&self, _: u32, _: Vec<Lsn>) {}

    fn read_log(&self, _: u64, _: Lsn, _: usize) {}

    fn run(&self, _: u64, _: Job) {}

    fn log_bytes(&self, _: Lsn) -> u64 {
        0
    }

    fn log_facts(&self) -> LogFacts {
        LogFacts {
            store: StoreId::default(),
            durable: Position::default(),
            chain: 0,
            epochs: Vec::new(),
            floor: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            sync_in_progress: false,
        }
    }

    fn committed(&self) -> Lsn {
        Lsn::ZERO
    }

    fn destinations(&self) -> Vec<DestinationFacts> {
        Vec::new()
    }

    fn seen(&self, ids: &[DuplicateId], _: u64) -> Vec<bool> {
        vec![false; ids.len()]
    }

    fn facts(&self) -> StoreFacts {
        StoreFacts::default()
    }
}

/// A producer and a consumer of one queue.
struct Pair {
    port: Port<DestinationInput>,
    producer: (SessionKey, Rc<Inbox>),
    consumer: (ConsumerKey, Rc<Inbox>),
    next_request: u32,
}

struct World {
    store: Arc<NullStore>,
    directory: Rc<Directory>,
    pairs: Vec<Pair>,
    body: Bytes,
}

impl World {
    async fn new(queues: usize) -> Self {
        let store = Arc::new(NullStore::default());
        let shared = Arc::clone(&store) as SharedStore;
        let directory = Directory::new(DirectoryConfig::default(), shared, Arc::new(SystemClock));
        directory.activate();
        let pairs = (0..queues).map(|n| Pair::new(&directory, n)).collect();
        let world = Self {
            store,
            directory,
            pairs,
            body: Bytes::from(vec![7; 1024]),
        };
        world.settle_down().await;
        world
    }

    /// Lets the actors handle everything that was posted.
    async fn settle_down(&self) {
        while self.directory.backlog() > 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn round(&mut self, count: u32) {
        for pair in &mut self.pairs {
            pair.publish(&self.directory, &self.body, count);
        }
        self.settle_down().await;
        self.directory.committed(self.store.commit());
        self.settle_down().await;
        for pair in &self.pairs {
            pair.consume(&self.directory);
        }
        self.settle_down().await;
        self.directory.committed(self.store.commit());
        self.settle_down().await;
    }
}

impl Pair {
    fn new(directory: &Rc<Directory>, n: usize) -> Self {
        let name = DestinationName::new(DestinationKind::Queue, &format!("q{n}"))
            .expect("the name is valid");
        let port = directory.resolve(&name).expect("it serves");
        let producer = directory.open_session();
        let (session, inbox) = directory.open_session();
        let consumer = ConsumerKey { session, number: 1 };
        let prefetch = 10_000;
        directory.command(
            &port,
            vec![DestinationCommand::Attach {
                consumer,
                prefetch,
                traits: ConsumerTraits::default(),
            }],
        );
        Self {
            port,
            producer,
            consumer: (consumer, inbox),
            next_request: 1,
        }
    }

    fn publish(&mut self, directory: &Directory, body: &Bytes, count: u32) {
        let (session, inbox) = &self.producer;
        let mut messages = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let request = RequestNumber(self.next_request);
            self.next_request += 1;
            inbox.ledger(|ledger| ledger.publish(request, body.len()));
            messages.push((request, body.clone()));
        }
        let session = *session;
        directory.command(
            &self.port,
            vec![DestinationCommand::Publish { session, messages }],
        );
    }

    fn consume(&self, directory: &Directory) {
        while self.producer.1.take_answer().is_some() {}
        let (consumer, inbox) = &self.consumer;
        while let Some(SessionEvent::Delivered { deliveries, .. }) = inbox.take_delivery(usize::MAX)
        {
            let lsns = deliveries.iter().map(|delivery| delivery.lsn).collect();
            let settle = DestinationCommand::Settle {
                consumer: *consumer,
                lsns,
                outcome: Outcome::Accepted,
                request: RequestNumber(0),
            };
            directory.command(&self.port, vec![settle]);
        }
    }
}

fn destination_throughput(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("data_thread");
    for (queues, count) in [(1usize, 1u32), (4, 64), (1000, 4)] {
        let messages = queues as u64 * u64::from(count);
        group.throughput(Throughput::Elements(messages));
        let id = BenchmarkId::from_parameter(format!("{queues}_queues_{count}_each"));
        group.bench_function(id, |bencher| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime without I/O needs nothing");
            let local = tokio::task::LocalSet::new();
            let mut world = local.block_on(&runtime, World::new(queues));
            bencher.iter(|| local.block_on(&runtime, world.round(count)));
        });
    }
    group.finish();
}

criterion_group!(benches, destination_throughput);
criterion_main!(benches);
