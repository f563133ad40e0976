//! Random commands against the plainest queue: a store that keeps every owed message, and for each
//! message what the rules promise of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// Splitmix: a seed gives the same run everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The store and the sessions round one machine.
struct World {
    dice: Dice,
    machine: DestinationMachine,
    /// Units that are not committed.
    queue: VecDeque<Unit>,
    /// Committed, owed.
    owed: BTreeMap<Lsn, Bytes>,
    /// Committed LSN.
    upto: Lsn,
    mark: Lsn,
    horizon: Lsn,
    fetch: Option<(Lsn, usize, usize)>,
    /// Commits that the machine has not been told.
    told_later: VecDeque<(Vec<Entry>, Option<Lsn>)>,
    consumers: BTreeMap<ConsumerKey, (usize, BTreeSet<Lsn>)>,
    /// LSNs that were delivered at least once, in any term; and in this term for the first time.
    delivered: BTreeSet<Lsn>,
    first_delivered: Lsn,
    accepted: BTreeSet<Lsn>,
    published: u64,
    next_consumer: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            machine: DestinationMachine::new(small(), QUEUE, Activation::default()),
            queue: VecDeque::new(),
            owed: BTreeMap::new(),
            upto: Lsn::ZERO,
            mark: Lsn::ZERO,
            horizon: Lsn::ZERO,
            fetch: None,
            told_later: VecDeque::new(),
            consumers: BTreeMap::new(),
            delivered: BTreeSet::new(),
            first_delivered: Lsn::ZERO,
            accepted: BTreeSet::new(),
            published: 0,
            next_consumer: 1,
        }
    }

    fn act(&mut self) {
        match self.dice.below(20) {
            0..=4 => {
                let count = self.dice.below(5);
                let messages = (0..count)
                    .map(|_| {
                        self.published += 1;
                        let len = usize::try_from(self.dice.below(300)).unwrap();
                        (RequestNumber(1), Bytes::from(vec![0; len]))
                    })
                    .collect();
                let session = SessionKey(3);
                self.command(DestinationCommand::Publish { session, messages });
            }
            5 => {
                let number = self.next_consumer;
                self.next_consumer += 1;
                let consumer = ConsumerKey { number, ..ALICE };
                let prefetch = u32::try_from(self.dice.below(6)).unwrap();
                let credit = usize::try_from(prefetch.max(1)).unwrap();
                self.consumers.insert(consumer, (credit, BTreeSet::new()));
                self.command(attach(consumer, prefetch));
            }
            6 => {
                if let Some(consumer) = self.any_consumer() {
                    self.consumers.remove(&consumer);
                    self.command(DestinationCommand::Detach { consumer });
                }
            }
            7..=10 => self.settle(Outcome::Accepted),
            11 => self.settle(Outcome::Released),
            12..=15 => self.commit(),
            16..=17 => self.tell(),
            18 => self.answer_fetch(),
            _ => {
                if self.dice.below(20) == 0 {
                    self.restart();
                } else {
                    self.upto = Lsn(self.upto.0 + self.dice.below(100));
                }
            }
        }
    }

    fn any_consumer(&mut self) -> Option<ConsumerKey> {
        let count = u64::try_from(self.consumers.len()).unwrap();
        let nth = self.dice.below(count.max(1));
        self.consumers
            .keys()
            .nth(usize::try_from(nth).unwrap())
            .copied()
    }

    fn settle(&mut self, outcome: Outcome) {
        let Some(consumer) = self.any_consumer() else {
            return;
        };
        let held = &mut self.consumers.get_mut(&consumer).unwrap().1;
        let count = usize::try_from(self.dice.below(4)).unwrap();
        let lsns: Vec<Lsn> = if self.dice.below(2) == 0 {
            held.iter().take(count).copied().collect()
        } else {
            held.iter().rev().take(count).copied().collect()
        };
        for lsn in &lsns {
            held.remove(lsn);
            if outcome == Outcome::Accepted {
                self.accepted.insert(*lsn);
            }
        }
        let mut lsns: Vec<u64> = lsns.iter().map(|lsn| lsn.0).collect();
        lsns.push(u64::MAX);
        self.command(settle(consumer, &lsns, outcome, 0));
    }

    fn command(&mut self, command: DestinationCommand) {
        let upto = self.upto;
        let commands = vec![command];
        self.step(DestinationInput::Commands { commands, upto });
    }

    /// Commits a part of what is queued; other destinations' records lie between.
    fn commit(&mut self) {
        let count = usize::try_from(self.dice.below(6)).unwrap();
        let count = count.min(self.queue.len());
        let mut entries = Vec::new();
        let before = self.mark;
        for unit in self.queue.drain(..count).collect::<Vec<_>>() {
            self.upto = Lsn(self.upto.0 + self.dice.below(4));
            for record in unit.records {
                self.upto = self.upto.next();
                match record {
                    Draft::Put { message, .. } => {
                        self.owed.insert(self.upto, message.clone());
                        let lsn = self.upto;
                        entries.push(Entry::new(lsn, message));
                    }
                    Draft::Ack { lsns, .. } => lsns.iter().for_each(|lsn| {
                        assert!(self.owed.remove(lsn).is_some(), "acked twice: {lsn}");
                    }),
                    Draft::Delivered { ahead, .. } => {
                        self.mark = self.mark.max(Lsn(self.upto.0 + u64::from(ahead)));
                    }
                    Draft::Kv { .. }
                    | Draft::DeliveredEach { .. }
                    | Draft::Failed { .. }
                    | Draft::Seen { .. } => {}
                }
            }
        }
        let mark = (self.mark > before).then_some(self.mark);
        if !entries.is_empty() || mark.is_some() {
            self.told_later.push_back((entries, mark));
        }
    }

    fn tell(&mut self) {
        if let Some((entries, mark)) = self.told_later.pop_front() {
            self.step(DestinationInput::Committed { entries, mark });
        }
    }

    /// The answer may be older or newer than what the machine was told.
    fn answer_fetch(&mut self) {
        let Some((after, count, bytes)) = self.fetch.take() else {
            return;
        };
        let mut taken = 0;
        let mut scanned = self.upto;
        let mut entries = Vec::new();
        for (lsn, message) in self.owed.range(after.next()..) {
            if entries.len() == count || taken > bytes {
                scanned = entries.last().map_or(after, |e: &Entry| e.lsn);
                break;
            }
            taken += message.len();
            let message = message.clone();
            entries.push(Entry::new(*lsn, message));
        }
        self.step(DestinationInput::Fetched { entries, scanned });
    }

    /// Another term begins with what is committed: on another server, or on this one, where commits
    /// of the old term may be told only now.
    fn restart(&mut self) {
        self.queue.clear();
        if self.dice.below(2) == 0 {
            self.told_later.clear();
        }
        self.consumers.clear();
        self.fetch = None;
        self.horizon = self.upto;
        self.first_delivered = Lsn::ZERO;
        self.accepted.retain(|lsn| !self.owed.contains_key(lsn));
        let activation = Activation {
            definition: None,
            depth: u64::try_from(self.owed.len()).unwrap(),
            tail: self.owed.keys().next_back().copied().unwrap_or_default(),
            mark: self.mark,
            horizon: self.horizon,
        };
        self.machine = DestinationMachine::new(small(), QUEUE, activation);
    }

    fn step(&mut self, input: DestinationInput) {
        let mut effects = Vec::new();
        self.machine.step(input, &mut effects);
        for effect in effects {
            match effect {
                DestinationEffect::Submit(units) => self.queue.extend(units),
                DestinationEffect::Deliver {
                    consumer,
                    deliveries,
                } => self.delivered(consumer, deliveries),
                DestinationEffect::Answer { .. }
                | DestinationEffect::Prepared { .. }
                | DestinationEffect::Removed { .. } => {}
                DestinationEffect::Fetch {
                    after,
                    count,
                    bytes,
                } => {
                    assert_eq!(self.fetch, None, "one fetch at a time");
                    self.fetch = Some((after, count, bytes));
                }
            }
        }
        let room = small().window;
        for kept in [&self.machine.backlog.window, &self.machine.backlog.recent] {
            assert!(kept.entries.len() <= room.messages);
            assert!(kept.bytes <= room.bytes || kept.entries.len() == 1 || self.fetched_over(kept));
        }
    }

    /// A fetch may bring one message more than the bytes that were asked for.
    fn fetched_over(&self, kept: &super::super::backlog::Kept) -> bool {
        kept.bytes <= small().window.bytes + 600
    }

    fn delivered(&mut self, consumer: ConsumerKey, deliveries: Vec<Delivery>) {
        let (credit, held) = self.consumers.get_mut(&consumer).expect("it is attached");
        assert!(!deliveries.is_empty(), "an empty delivery");
        for delivery in deliveries {
            let lsn = delivery.lsn;
            assert_eq!(self.owed.get(&lsn), Some(&delivery.message), "not owed");
            assert!(lsn <= self.mark, "{lsn} is beyond the mark {}", self.mark);
            assert!(
                !self.accepted.contains(&lsn),
                "delivered after it was accepted"
            );
            if self.delivered.contains(&lsn) {
                assert!(delivery.redelivered, "{lsn} came again without its flag");
            } else {
                assert!(
                    !delivery.redelivered || lsn <= self.horizon,
                    "{lsn} is new and flagged"
                );
            }
            if !self.delivered.contains(&lsn) {
                assert!(lsn > self.first_delivered, "first deliveries out of order");
                self.first_delivered = lsn;
            }
            self.delivered.insert(lsn);
            assert!(held.insert(lsn), "the consumer holds it already");
            assert!(held.len() <= *credit, "more than its credit");
        }
    }

    /// Lets everything happen that is under way; then nothing may be left.
    fn finish(&mut self) {
        let consumer = ConsumerKey { number: 0, ..ALICE };
        self.consumers.insert(consumer, (3, BTreeSet::new()));
        self.command(attach(consumer, 3));
        for _ in 0..20_000 {
            self.commit();
            self.tell();
            self.answer_fetch();
            self.settle(Outcome::Accepted);
            let idle = self.queue.is_empty() && self.told_later.is_empty();
            if idle && self.fetch.is_none() && self.owed.is_empty() {
                assert_eq!(self.machine.figures().depth, 0);
                return;
            }
        }
        panic!("{} messages were never delivered", self.owed.len());
    }
}

#[test]
fn no_random_run_loses_a_message_or_breaks_a_rule() {
    let mut published = 0;
    for seed in 0..300 {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..600 {
                world.act();
            }
            world.finish();
        }));
        assert!(result.is_ok(), "seed {seed} fails");
        published += world.published;
    }
    assert!(published > 50_000, "the runs do little: {published}");
}
