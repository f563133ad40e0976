//! Two clients with transactions and plain operations against the machines of sessions, destinations and
//! the coordinator, whose mailboxes are emptied in any order; and a reference that knows only what the
//! clients asked for. Every unit that reaches the store is compared with it.

mod clients;
mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::machines::delivery::{
    ConsumerKey, DestinationCommand, RequestNumber, SessionEvent, SessionKey, Settlement,
    TransactionKey,
};
use crate::machines::destination::{
    Activation, DestinationConfig, DestinationEffect, DestinationInput, DestinationMachine, Now,
    Room, VolatilePool, request_of,
};
use crate::machines::stomp_session::{
    HeartBeatOffer, Operations, SessionEffect, SessionInput, StompSession, StompSessionConfig,
    TransactionLimits,
};
use crate::machines::transaction::{
    TransactionEffect, TransactionInput, TransactionMachine, TransactionPut,
};
use crate::proto::destination::DestinationName;
use crate::proto::ids::{DestId, Lsn};
use crate::proto::message::Message;
use crate::proto::stomp::{Decoder, Limits, ServerCommand};
use crate::storage::api::{Change, Draft, Entry, Fetched, Scope, Seek, Unit};
use crate::time::Moment;

const QUEUES: usize = 2;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// What a transaction is to do, as its client means it.
#[derive(Clone, Debug, Default)]
struct Meant {
    /// Queue and body.
    sends: Vec<(usize, String)>,
    acks: BTreeSet<String>,
}

/// A delivery that its client has not settled.
#[derive(Clone, Debug)]
struct Held {
    order: u64,
    ack: String,
    body: String,
}

/// A client with its connection. A new one takes its place when it dies.
struct Client {
    machine: StompSession,
    key: SessionKey,
    /// Of `client` mode; the other is `client-individual`.
    cumulative: bool,
    mailbox: VecDeque<SessionEvent>,
    consumers: BTreeMap<u32, usize>,
    subscribed: [bool; QUEUES],
    held: [Vec<Held>; QUEUES],
    /// What it means, and the deliveries that an ABORT gives back.
    open: BTreeMap<usize, (Meant, Vec<(usize, Held)>)>,
    receipts: BTreeSet<String>,
    decoder: Decoder<ServerCommand>,
}

impl Client {
    fn new(key: SessionKey, cumulative: bool) -> Self {
        let config = Arc::new(StompSessionConfig {
            limits: Limits::default(),
            heart_beat_ms: HeartBeatOffer::default(),
            default_prefetch: 4,
            max_prefetch: 4,
            max_subscriptions: 100,
            max_unsettled_requests: 1000,
            transactions: TransactionLimits {
                open: 2,
                messages: 1000,
                bytes: 1 << 20,
                connection_bytes: 1 << 20,
            },
            server_name: String::new(),
            connect_timeout_ms: 1,
        });
        let mut client = Self {
            machine: StompSession::new(config, key, Moment(0)),
            key,
            cumulative,
            mailbox: VecDeque::new(),
            consumers: BTreeMap::new(),
            subscribed: [false; QUEUES],
            held: Default::default(),
            open: BTreeMap::new(),
            receipts: BTreeSet::new(),
            decoder: Decoder::new(Limits::default()),
        };
        let mut bytes = BytesMut::from(&b"CONNECT\naccept-version:1.2\n\n\0"[..]);
        let mut decoder = Decoder::new(Limits::default());
        let connect = decoder.decode(&mut bytes).unwrap().unwrap();
        let (mut out, effects) = client.step(SessionInput::Frame(connect));
        assert!(effects.is_empty());
        assert!(client.decoder.decode(&mut out).unwrap().is_some());
        client
    }

    fn step(&mut self, input: SessionInput) -> (BytesMut, Vec<SessionEffect>) {
        let (mut out, mut effects) = (BytesMut::new(), Vec::new());
        self.machine.step(Moment(0), input, &mut out, &mut effects);
        (out, effects)
    }
}

/// What the runs did, so that they cannot do nothing.
#[derive(Debug, Default)]
struct Counts {
    committed: usize,
    refused: usize,
    aborted: usize,
    died: usize,
    retired: usize,
}

struct World {
    dice: Dice,
    clients: Vec<Client>,
    queues: Vec<DestinationMachine>,
    mailboxes: Vec<VecDeque<DestinationInput>>,
    fetches: Vec<Option<(u32, Lsn, usize)>>,
    /// Ack records of each queue's own that were submitted.
    acks: [u64; QUEUES],
    coordinator: TransactionMachine,
    /// Units that are not committed.
    units: VecDeque<Unit>,
    end: Lsn,
    /// Committed and owed.
    owed: Vec<BTreeMap<Lsn, Bytes>>,
    defined: [bool; QUEUES],
    /// Bodies by queue, if everything that was asked for is done.
    expected: Vec<BTreeSet<String>>,
    /// The transaction whose COMMIT a client sends.
    committing: Option<usize>,
    /// Transactions whose COMMIT was given to the coordinator.
    commits: BTreeMap<TransactionKey, Meant>,
    stored: BTreeSet<TransactionKey>,
    refused: BTreeSet<TransactionKey>,
    refuses: bool,
    next: u64,
    next_session: u32,
    counts: Counts,
}

fn destination(queue: usize) -> DestId {
    DestId(u32::try_from(queue).unwrap() + 1)
}

fn queue_of(id: DestId) -> usize {
    usize::try_from(id.0).unwrap() - 1
}

fn queue_named(name: &DestinationName) -> usize {
    name.name().parse().unwrap()
}

fn body_of(message: &Bytes) -> String {
    let message = Message::read(message).unwrap();
    String::from_utf8(message.body().to_vec()).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let room = |messages| Room {
            messages,
            bytes: 100_000,
        };
        let config = DestinationConfig {
            window: room(8),
            idle: room(2),
            consumer_bytes_max: 100_000,
        };
        let queue = |queue| {
            let activation = Activation {
                definition: Some(Bytes::from_static(b"qx")),
                ..Activation::default()
            };
            let pool = VolatilePool::new(0, 1);
            DestinationMachine::new(config, destination(queue), activation, pool)
        };
        Self {
            dice: Dice(seed),
            clients: (1..=2)
                .map(|key| Client::new(SessionKey(key), key == 1))
                .collect(),
            queues: (0..QUEUES).map(queue).collect(),
            mailboxes: (0..QUEUES).map(|_| VecDeque::new()).collect(),
            fetches: vec![None; QUEUES],
            acks: [0; QUEUES],
            coordinator: TransactionMachine::default(),
            units: VecDeque::new(),
            end: Lsn::ZERO,
            owed: vec![BTreeMap::new(); QUEUES],
            defined: [false; QUEUES],
            expected: vec![BTreeSet::new(); QUEUES],
            committing: None,
            commits: BTreeMap::new(),
            stored: BTreeSet::new(),
            refused: BTreeSet::new(),
            refuses: false,
            next: 0,
            next_session: 3,
            counts: Counts::default(),
        }
    }

    fn step(&mut self, who: usize, input: SessionInput) {
        let (out, effects) = self.clients[who].step(input);
        self.run_session(who, effects);
        self.hear(who, out);
    }

    fn read_mail(&mut self, who: usize) {
        if let Some(event) = self.clients[who].mailbox.pop_front() {
            self.step(who, SessionInput::Event(event));
        }
    }

    /// What the client reads.
    fn hear(&mut self, who: usize, mut out: BytesMut) {
        let client = &mut self.clients[who];
        while let Some(frame) = client.decoder.decode(&mut out).unwrap() {
            let header = |name| frame.headers.get(name).unwrap().into_owned();
            match frame.command {
                ServerCommand::Message => {
                    let queue: usize = header("subscription").parse().unwrap();
                    self.next += 1;
                    client.held[queue].push(Held {
                        order: self.next,
                        ack: header("ack"),
                        body: String::from_utf8(frame.body.to_vec()).unwrap(),
                    });
                }
                ServerCommand::Receipt => {
                    let id = header("receipt-id");
                    assert!(client.receipts.remove(&id), "a receipt too many: {id}");
                }
                ServerCommand::Error => {
                    assert_eq!(header("message"), "the request was refused");
                    assert!(client.machine.is_closed());
                    self.counts.refused += 1;
                    self.replace(who);
                    return;
                }
                ServerCommand::Connected => panic!("connected twice"),
            }
        }
        assert!(out.is_empty(), "half a frame");
    }

    fn run_session(&mut self, who: usize, effects: Vec<SessionEffect>) {
        let session = self.clients[who].key;
        let key = |number| ConsumerKey { session, number };
        for effect in effects {
            match effect {
                SessionEffect::Publish {
                    destination,
                    request,
                    message,
                } => {
                    let messages = vec![(request, message)];
                    let command = DestinationCommand::Publish { session, messages };
                    self.command(queue_named(&destination), command);
                }
                SessionEffect::Attach {
                    destination,
                    consumer,
                    prefetch,
                    traits,
                } => {
                    let queue = queue_named(&destination);
                    self.clients[who].consumers.insert(consumer, queue);
                    let consumer = key(consumer);
                    let command = DestinationCommand::Attach {
                        consumer,
                        prefetch,
                        traits,
                    };
                    self.command(queue, command);
                }
                SessionEffect::Detach { consumer } => {
                    let queue = self.clients[who].consumers.remove(&consumer).unwrap();
                    let consumer = key(consumer);
                    self.command(queue, DestinationCommand::Detach { consumer });
                }
                SessionEffect::Settle {
                    consumer,
                    lsns,
                    outcome,
                    request,
                } => {
                    let queue = self.clients[who].consumers[&consumer];
                    let consumer = key(consumer);
                    let command = DestinationCommand::Settle {
                        consumer,
                        lsns,
                        outcome,
                        request,
                    };
                    self.command(queue, command);
                }
                SessionEffect::Retire { consumer, keep } => {
                    self.counts.retired += 1;
                    let queue = self.clients[who].consumers[&consumer];
                    let consumer = key(consumer);
                    self.command(queue, DestinationCommand::Retire { consumer, keep });
                }
                SessionEffect::Commit {
                    request,
                    operations,
                } => self.give_commit(who, request, operations),
                SessionEffect::Subscribe { .. }
                | SessionEffect::Forget { .. }
                | SessionEffect::MakeTemporary { .. }
                | SessionEffect::Upload { .. }
                | SessionEffect::EndUpload { .. }
                | SessionEffect::ReadParts { .. }
                | SessionEffect::Browse { .. } => panic!("nobody asked for it"),
                SessionEffect::Close => {}
            }
        }
    }

    // The directory.

    fn give_commit(&mut self, who: usize, request: RequestNumber, operations: Operations) {
        let client = &mut self.clients[who];
        let session = client.key;
        let transaction = TransactionKey { session, request };
        let id = self.committing.take().expect("the client asked for it");
        let (meant, _) = client.open.remove(&id).unwrap();
        self.commits.insert(transaction, meant);
        let mut settlements = Vec::new();
        for (number, lsns, outcome) in operations.settles {
            let settlement = Settlement {
                consumer: ConsumerKey { session, number },
                lsns,
                outcome,
            };
            settlements.push((destination(client.consumers[&number]), settlement));
        }
        let sends = operations.sends.into_iter();
        let puts = sends.map(|(name, message)| {
            let dest = destination(queue_named(&name));
            TransactionPut {
                scope: Scope::queue(dest),
                targets: vec![dest],
                message,
            }
        });
        let input = TransactionInput::Commit {
            transaction,
            puts: puts.collect(),
            settlements,
        };
        self.transact(input);
    }

    fn transact(&mut self, input: TransactionInput) {
        let mut effects = Vec::new();
        self.coordinator.step(input, &mut effects);
        for effect in effects {
            match effect {
                TransactionEffect::Command { dest, command } => {
                    self.command(queue_of(dest), command);
                }
                TransactionEffect::Finish {
                    dest,
                    transaction,
                    submitted,
                } => {
                    let submitted = submitted.then_some(self.acks[queue_of(dest)]);
                    let command = DestinationCommand::Finish {
                        transaction,
                        submitted,
                    };
                    self.command(queue_of(dest), command);
                }
                TransactionEffect::Submit(unit) => self.units.push_back(unit),
                TransactionEffect::Answer { session, event } => self.tell(session, event),
            }
        }
    }

    fn command(&mut self, queue: usize, command: DestinationCommand) {
        self.mailboxes[queue].push_back(DestinationInput::Commands {
            commands: vec![command],
            upto: self.end,
        });
    }

    fn tell(&mut self, session: SessionKey, event: SessionEvent) {
        if let SessionEvent::Refused { request, .. } = event {
            let transaction = TransactionKey { session, request };
            assert!(self.commits.contains_key(&transaction), "a plain request");
            self.refused.insert(transaction);
        }
        let mut clients = self.clients.iter_mut();
        if let Some(client) = clients.find(|client| client.key == session) {
            client.mailbox.push_back(event);
        }
    }

    // Destinations.

    fn run_queue(&mut self, queue: usize) {
        let Some(input) = self.mailboxes[queue].pop_front() else {
            return;
        };
        let mut effects = Vec::new();
        self.queues[queue].step(Now::default(), input, &mut effects);
        for effect in effects {
            match effect {
                DestinationEffect::Submit(units) => {
                    let records = units.iter().flat_map(|unit| &unit.records);
                    let acks = records.filter(|record| matches!(record, Draft::Ack { .. }));
                    self.acks[queue] += u64::try_from(acks.count()).unwrap();
                    self.units.extend(units);
                }
                DestinationEffect::Deliver {
                    consumer,
                    deliveries,
                } => {
                    let event = SessionEvent::Delivered {
                        consumer: consumer.number,
                        deliveries,
                    };
                    self.tell(consumer.session, event);
                }
                DestinationEffect::Answer { session, event } => self.tell(session, event),
                DestinationEffect::Fetch {
                    tag, seek, count, ..
                } => {
                    let Seek::Lane { after, .. } = seek else {
                        panic!("nothing has a time: {seek:?}");
                    };
                    self.fetches[queue] = Some((tag, after, count));
                }
                DestinationEffect::FindDeadLetter(name) => panic!("{name} without a policy"),
                DestinationEffect::Prepared {
                    transaction,
                    answer,
                } => self.transact(TransactionInput::Prepared {
                    transaction,
                    dest: destination(queue),
                    answer,
                }),
                DestinationEffect::Removed { .. }
                | DestinationEffect::Shown { .. }
                | DestinationEffect::Rest(_) => {
                    panic!("no operator works here")
                }
            }
        }
    }

    /// Everything that is under way happens; then the store holds what the reference holds, and a new
    /// client gets each of it once.
    fn finish(&mut self) {
        for who in 0..2 {
            self.die(who);
        }
        self.refuse_sends(false);
        self.come_to_rest();
        let bodies = |owed: &BTreeMap<Lsn, Bytes>| owed.values().map(body_of).collect();
        let stored: Vec<BTreeSet<String>> = self.owed.iter().map(bodies).collect();
        assert_eq!(stored, self.expected);
        assert_eq!(self.coordinator.waiting(), 0);
        for queue in 0..QUEUES {
            let head = format!("SUBSCRIBE\nid:{queue}\ndestination:/queue/{queue}\n");
            self.say(0, &format!("{head}ack:client-individual\n\n\0"));
        }
        while self.owed.iter().any(|owed| !owed.is_empty()) {
            self.come_to_rest();
            let held = std::mem::take(&mut self.clients[0].held);
            assert!(held.iter().any(|held| !held.is_empty()), "nobody gets them");
            for (queue, held) in held.into_iter().enumerate() {
                for held in held {
                    assert!(self.expected[queue].remove(&held.body), "{held:?} twice");
                    self.say(0, &format!("ACK\nid:{}\n\n\0", held.ack));
                }
            }
            self.come_to_rest();
        }
        for queue in &self.queues {
            assert_eq!((queue.figures().depth, queue.figures().unsettled), (0, 0));
        }
    }

    fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            for queue in 0..QUEUES {
                self.run_queue(queue);
            }
            self.store_commits();
            self.answer_fetch();
            for who in 0..2 {
                self.read_mail(who);
            }
            if self.mailboxes.iter().all(VecDeque::is_empty)
                && self.units.is_empty()
                && self.fetches.iter().all(Option::is_none)
                && self.clients.iter().all(|client| client.mailbox.is_empty())
            {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

#[test]
fn whatever_the_order_each_transaction_is_done_whole_or_not_at_all_and_nothing_twice() {
    let mut all = Counts::default();
    for seed in 0..150 {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..1500 {
                world.act();
            }
            world.finish();
        }));
        assert!(result.is_ok(), "seed {seed} fails");
        all.committed += world.counts.committed;
        all.refused += world.counts.refused;
        all.aborted += world.counts.aborted;
        all.died += world.counts.died;
        all.retired += world.counts.retired;
    }
    let least = [
        all.committed,
        all.refused,
        all.aborted,
        all.died,
        all.retired,
    ];
    assert!(
        least.iter().all(|count| *count > 100),
        "too little: {all:?}"
    );
}
