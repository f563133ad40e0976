//! What the destination's decisions cost: the life of a message (publish, commit, deliver, ack) in
//! batches, without actors, store or sockets.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use twinmq::machines::delivery::{
    ConsumerKey, ConsumerTraits, DestinationCommand, Outcome, RequestNumber, SessionKey,
};
use twinmq::machines::destination::{
    Activation, DestinationConfig, DestinationEffect, DestinationInput, DestinationMachine, Now,
    VolatilePool,
};
use twinmq::proto::ids::{DestId, Lsn};
use twinmq::storage::api::{Change, Entry, Lane, LaneFacts};

const PRODUCER: SessionKey = SessionKey(1);
const CONSUMER: ConsumerKey = ConsumerKey {
    session: SessionKey(2),
    number: 1,
};

fn commands(commands: Vec<DestinationCommand>) -> DestinationInput {
    DestinationInput::Commands {
        commands,
        upto: Lsn::ZERO,
    }
}

/// One queue with a consumer of large credit, whose mark is out of the way.
struct Queue {
    machine: DestinationMachine,
    effects: Vec<DestinationEffect>,
    lsn: u64,
    /// Acks that are not committed.
    unsettled: u64,
    body: Bytes,
}

impl Queue {
    fn new() -> Self {
        let activation = Activation {
            lanes: vec![LaneFacts {
                lane: Lane::DEFAULT,
                depth: 0,
                tail: Lsn::ZERO,
                mark: Lsn(u64::MAX / 2),
            }],
            ..Activation::default()
        };
        let config = DestinationConfig::default();
        let mut queue = Self {
            machine: DestinationMachine::new(
                config,
                DestId(1),
                activation,
                VolatilePool::new(1 << 20, 1),
            ),
            effects: Vec::new(),
            lsn: 0,
            unsettled: 0,
            body: Bytes::from(vec![7; 1024]),
        };
        queue.step(commands(vec![DestinationCommand::Attach {
            consumer: CONSUMER,
            prefetch: 10_000,
            traits: ConsumerTraits::default(),
        }]));
        queue
    }

    fn step(&mut self, input: DestinationInput) {
        self.effects.clear();
        self.machine.step(Now::default(), input, &mut self.effects);
    }

    fn life(&mut self, count: u64) {
        let messages = (1..=count)
            .map(|request| {
                let request = RequestNumber(u32::try_from(request).unwrap_or(u32::MAX));
                (request, self.body.clone())
            })
            .collect();
        self.step(commands(vec![DestinationCommand::Publish {
            session: PRODUCER,
            messages,
        }]));
        let first = self.lsn + 1;
        self.lsn += count;
        let entries = (first..=self.lsn)
            .map(|lsn| Entry::new(Lsn(lsn), self.body.clone()))
            .collect();
        // The acks of the round before are committed with these.
        let settled = u32::try_from(self.unsettled).unwrap_or(u32::MAX);
        self.step(DestinationInput::Committed {
            change: Change {
                entries,
                settled,
                ..Change::default()
            },
            upto: Lsn(self.lsn),
        });
        self.unsettled = count;
        let lsns = (first..=self.lsn).map(Lsn).collect();
        self.step(commands(vec![DestinationCommand::Settle {
            consumer: CONSUMER,
            lsns,
            outcome: Outcome::Accepted,
            request: RequestNumber(0),
        }]));
    }
}

fn machine_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("destination_machine");
    for count in [1u64, 16, 256] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("publish_commit_ack", count), |bencher| {
            let mut queue = Queue::new();
            bencher.iter(|| queue.life(count));
        });
    }
    group.finish();
}

criterion_group!(benches, machine_step);
criterion_main!(benches);
