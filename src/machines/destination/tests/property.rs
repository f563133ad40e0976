//! Random commands against the plainest destination: a store that keeps every owed message, and for
//! each message what the rules promise of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use super::*;
use crate::machines::delivery::{Settlement, Share, TransactionKey};
use crate::machines::destination::account::Bounds;
use crate::machines::selector::{Dialect, Selector};
use crate::storage::api::MessageFilter;

mod rest;
mod store;

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

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

struct Owed {
    message: Bytes,
    marked: bool,
    failures: u32,
}

/// A transaction between its prepare and its finish.
struct Transaction {
    key: TransactionKey,
    consumer: ConsumerKey,
    lsns: Vec<Lsn>,
    outcome: Outcome,
    acks: Vec<Draft>,
}

/// The store and the sessions round one machine.
struct World {
    dice: Dice,
    /// Messages have priorities, times and groups.
    is_rich: bool,
    /// All messages may be kept in memory.
    is_volatile: bool,
    /// The last message of each lane that could have been kept in memory, by its number.
    newest_passing: BTreeMap<Lane, u64>,
    policy: Arc<DestinationPolicy>,
    account: Rc<Account>,
    machine: DestinationMachine,
    pool: Rc<VolatilePool>,
    now: Now,
    /// Units that are not committed.
    queue: VecDeque<Unit>,
    /// Committed, owed.
    owed: BTreeMap<Lsn, Owed>,
    /// Committed LSN.
    upto: Lsn,
    marks: BTreeMap<Lane, Lsn>,
    horizon: Lsn,
    /// Questions, and answers that were found and not told.
    questions: VecDeque<(u32, Seek, usize, usize)>,
    answers: VecDeque<Fetched>,
    /// Commits that the machine has not been told.
    told_later: VecDeque<(Change, Lsn)>,
    consumers: BTreeMap<ConsumerKey, (usize, BTreeSet<Lsn>)>,
    /// Some consumers have selectors in this world, and what those of them take that are there.
    is_picky: bool,
    selectors: BTreeMap<ConsumerKey, Arc<Selector>>,
    /// Those of them that want to be alone.
    exclusive: Vec<ConsumerKey>,
    picked: u64,
    /// What each filter was shown of what the machine knew, and where that ended.
    shown: Vec<(Arc<dyn MessageFilter>, BTreeSet<Lsn>)>,
    told: Lsn,
    /// Who has messages of a group, for as long as it is attached.
    owners: HashMap<String, ConsumerKey>,
    asked_for_dead: bool,
    /// Prepared; submitted and not told, with the number of own acks then; and of these those that
    /// are committed.
    prepared: Vec<Transaction>,
    finishing: VecDeque<(Transaction, u64)>,
    in_the_log: BTreeSet<TransactionKey>,
    transactions: u32,
    own_acks: u64,
    share: Option<Result<Share, String>>,
    /// LSNs that were delivered at least once, in any term; and the newest in this term by lane.
    delivered: BTreeSet<Lsn>,
    newest: BTreeMap<Lane, Lsn>,
    newest_of_group: BTreeMap<(Lane, String), Lsn>,
    accepted: BTreeSet<Lsn>,
    /// Numbers that messages carry in their bodies: all, and those that came to a good end.
    published: u64,
    kept_in_memory: u64,
    ended: BTreeSet<u64>,
    dead: u64,
    expired: u64,
    refused: u64,
    dropped: u64,
    next_consumer: u32,
    /// What the machine left when it said that it was not needed, and how often one went on with that.
    left: Option<Box<Activation>>,
    slept: u64,
}

fn number_of(message: &[u8]) -> u64 {
    let body = Message::read(message).unwrap().body();
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

impl World {
    fn new(seed: u64) -> Self {
        let pool = VolatilePool::new(2000, 1);
        let policy = Arc::new(DestinationPolicy {
            redelivery_limit: seed.is_multiple_of(2).then_some(2),
            redelivery_delay: Duration::from_millis(seed % 3 * 20),
            expired_to_dead_letter: seed.is_multiple_of(5),
            dead_letter: (!seed.is_multiple_of(7)).then(|| "DMQ".to_owned()),
            max_messages: (seed % 6 < 3).then_some(8),
            max_bytes: (seed % 10 < 5).then_some(900),
            on_full: [
                OnFull::Reject,
                OnFull::DropOldest,
                OnFull::DeadLetter,
                OnFull::Block,
            ][usize::try_from(seed / 3 % 4).unwrap()],
            ..DestinationPolicy::default()
        });
        let account = Rc::new(Account::default());
        account.set_bounds(Bounds::of(&policy));
        let activation = Activation {
            account: Some(Rc::clone(&account)),
            policy: Some(Arc::clone(&policy)),
            volatile: seed.is_multiple_of(3),
            ..Activation::default()
        };
        Self {
            dice: Dice(seed),
            is_rich: !seed.is_multiple_of(4),
            is_volatile: seed.is_multiple_of(3),
            newest_passing: BTreeMap::new(),
            policy,
            account,
            machine: DestinationMachine::new(small(), QUEUE, activation, Rc::clone(&pool)),
            pool,
            now: Now {
                moment: Moment(1),
                wall_ms: 1_000_000,
            },
            queue: VecDeque::new(),
            owed: BTreeMap::new(),
            upto: Lsn::ZERO,
            marks: BTreeMap::new(),
            horizon: Lsn::ZERO,
            questions: VecDeque::new(),
            answers: VecDeque::new(),
            told_later: VecDeque::new(),
            consumers: BTreeMap::new(),
            is_picky: !seed.is_multiple_of(3),
            selectors: BTreeMap::new(),
            exclusive: Vec::new(),
            picked: 0,
            shown: Vec::new(),
            told: Lsn::ZERO,
            owners: HashMap::new(),
            asked_for_dead: false,
            prepared: Vec::new(),
            finishing: VecDeque::new(),
            in_the_log: BTreeSet::new(),
            transactions: 0,
            own_acks: 0,
            share: None,
            delivered: BTreeSet::new(),
            newest: BTreeMap::new(),
            newest_of_group: BTreeMap::new(),
            accepted: BTreeSet::new(),
            published: 0,
            kept_in_memory: 0,
            ended: BTreeSet::new(),
            dead: 0,
            expired: 0,
            refused: 0,
            dropped: 0,
            next_consumer: 1,
            left: None,
            slept: 0,
        }
    }

    fn act(&mut self) {
        self.pass(self.now.moment.0 % 3);
        match self.dice.below(32) {
            0..=4 => self.publish(),
            5 => {
                let number = self.next_consumer;
                self.next_consumer += 1;
                let consumer = ConsumerKey { number, ..ALICE };
                let prefetch = u32::try_from(self.dice.below(6)).unwrap();
                let credit = usize::try_from(prefetch.max(1)).unwrap();
                self.consumers.insert(consumer, (credit, BTreeSet::new()));
                if self.is_picky && !self.dice.one_in(3) {
                    self.attach_picky(consumer, prefetch);
                } else {
                    self.command(attach(consumer, prefetch));
                }
            }
            6 => {
                if let Some(consumer) = self.any_consumer() {
                    self.consumers.remove(&consumer);
                    self.selectors.remove(&consumer);
                    self.exclusive.retain(|other| *other != consumer);
                    self.owners.retain(|_, owner| *owner != consumer);
                    self.command(DestinationCommand::Detach { consumer });
                }
            }
            7..=10 => self.settle(Outcome::Accepted),
            11 => self.settle(Outcome::Released),
            12..=15 => self.commit(),
            16..=18 => self.tell(),
            19..=20 => self.find_answer(),
            21..=22 => self.tell_answer(),
            23 => {
                let more = self.dice.below(40);
                self.pass(more);
            }
            24 => self.tell_dead_letter(),
            25..=26 => self.prepare(),
            27 => self.submit_transaction(),
            28 => self.tell_submitted(),
            30 => {
                if self.dice.one_in(3) {
                    self.fall_asleep();
                }
            }
            29 => {
                if self.dice.one_in(4) {
                    self.undo_transaction();
                }
            }
            _ => {
                if self.dice.one_in(20) {
                    self.restart();
                } else {
                    self.upto = Lsn(self.upto.0 + self.dice.below(100));
                }
            }
        }
    }

    /// Time passes; the wall clock jumps now and then.
    fn pass(&mut self, ms: u64) {
        self.now.moment = self.now.moment.after(Duration::from_millis(ms));
        self.now.wall_ms += ms;
        if self.is_rich && self.dice.one_in(500) {
            self.now.wall_ms = self.now.wall_ms + self.dice.below(200) - 100;
        }
        if self
            .machine
            .next_deadline()
            .is_some_and(|at| at <= self.now.moment)
        {
            self.step(DestinationInput::Deadline);
            let next = self.machine.next_deadline();
            assert!(
                next.is_none_or(|at| at > self.now.moment),
                "a deadline that is never over"
            );
        }
    }

    fn publish(&mut self) {
        let messages = self.messages();
        let session = SessionKey(3);
        self.command(DestinationCommand::Publish { session, messages });
    }

    fn messages(&mut self) -> Vec<(RequestNumber, Bytes)> {
        let count = self.dice.below(5);
        let mut messages = Vec::new();
        for _ in 0..count {
            self.published += 1;
            let mut body = self.published.to_be_bytes().to_vec();
            body.resize(8 + usize::try_from(self.dice.below(250)).unwrap(), 0);
            let rich = self.is_rich;
            let group = ["a", "b", "c"][usize::try_from(self.dice.below(3)).unwrap()];
            let envelope = Envelope {
                persistent: !rich || !self.dice.one_in(6),
                priority: if rich && self.dice.one_in(3) {
                    [0, 5, 9][usize::try_from(self.dice.below(3)).unwrap()]
                } else {
                    4
                },
                expiry_ms: (rich && self.dice.one_in(5))
                    .then(|| self.now.wall_ms + self.dice.below(3000)),
                due_ms: (rich && self.dice.one_in(6))
                    .then(|| self.now.wall_ms + self.dice.below(300)),
                group: (rich && self.dice.one_in(4)).then_some(group),
                ..Envelope::default()
            };
            let mut writer = MessageWriter::new(&envelope, &Properties::default(), body.len());
            writer.header("n", &self.dice.below(4).to_string());
            messages.push((RequestNumber(1), writer.finish(&body).unwrap()));
        }
        messages
    }

    fn attach_picky(&mut self, consumer: ConsumerKey, prefetch: u32) {
        let text = [
            "n = 1",
            "n > 1",
            "JMSPriority >= 5",
            "JMSXGroupID = 'a' OR n = 0",
            "JMSDeliveryMode = 'NON_PERSISTENT'",
            "n = 9",
        ][usize::try_from(self.dice.below(6)).unwrap()];
        let selector = Selector::parse(text, Dialect::TextIsNumeric).unwrap();
        self.selectors.insert(consumer, Arc::clone(&selector));
        let exclusive = self.dice.one_in(8);
        if exclusive {
            self.exclusive.push(consumer);
        }
        self.command(DestinationCommand::Attach {
            consumer,
            prefetch,
            traits: ConsumerTraits {
                exclusive,
                selector: Some(selector),
            },
        });
    }

    /// A filter is shown a message, once; but where groups may make it look again.
    fn show(&mut self, filter: &Arc<dyn MessageFilter>, entry: &Entry) -> bool {
        if !self.is_rich && entry.lsn <= self.told {
            let known = self.shown.iter();
            let mut known = known.map(|(known, _)| Arc::ptr_eq(known, filter));
            let at = known.position(|is_it| is_it).unwrap_or_else(|| {
                self.shown.push((Arc::clone(filter), BTreeSet::new()));
                self.shown.len() - 1
            });
            let is_new = self.shown[at].1.insert(entry.lsn);
            assert!(is_new, "{} is read again", entry.lsn);
        }
        filter.takes(&entry.message)
    }

    fn detach_all(&mut self, goes: impl Fn(&Self, ConsumerKey) -> bool) {
        let all: Vec<ConsumerKey> = self.consumers.keys().copied().collect();
        for consumer in all {
            if goes(self, consumer) {
                self.consumers.remove(&consumer);
                self.selectors.remove(&consumer);
                self.command(DestinationCommand::Detach { consumer });
            }
        }
    }

    /// Everything that a consumer with a selector takes comes to one when nobody else is there; to the
    /// one that is alone, if there is one.
    fn pick_out(&mut self) {
        let alone = self.exclusive.first().copied();
        self.detach_all(|world, consumer| !world.selectors.contains_key(&consumer));
        let mut idle = 0;
        for _ in 0..20_000 {
            let before = self.accepted.len();
            self.commit();
            self.tell();
            self.find_answer();
            self.tell_answer();
            self.tell_dead_letter();
            self.settle(Outcome::Accepted);
            self.pass(7);
            let rests = self.queue.is_empty() && self.told_later.is_empty();
            let asks = !self.questions.is_empty() || !self.answers.is_empty();
            let held = self.consumers.values().any(|(_, held)| !held.is_empty());
            let is_idle = rests && !asks && !held && before == self.accepted.len();
            idle = if is_idle { idle + 1 } else { 0 };
            if idle > 300 {
                break;
            }
        }
        assert!(idle > 300, "it does not come to rest");
        for (lsn, owed) in &self.owed {
            let mut all = self.selectors.iter();
            let by = all.find(|(key, selector)| {
                alone.is_none_or(|alone| alone == **key) && selector.matches_bytes(&owed.message)
            });
            let times = Times::of(&owed.message);
            assert!(by.is_none(), "{lsn}, {times:?}, is not found by {by:?}");
        }
        let exclusive = std::mem::take(&mut self.exclusive);
        self.detach_all(|_, consumer| exclusive.contains(&consumer));
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
        let lsns: Vec<Lsn> = if self.dice.one_in(2) {
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

    fn prepare(&mut self) {
        let Some(consumer) = self.any_consumer() else {
            return;
        };
        let count = usize::try_from(self.dice.below(4)).unwrap();
        let held = &mut self.consumers.get_mut(&consumer).unwrap().1;
        let lsns: Vec<Lsn> = held.iter().rev().take(count).copied().collect();
        held.retain(|lsn| !lsns.contains(lsn));
        let outcome = if self.dice.one_in(4) {
            Outcome::Released
        } else {
            Outcome::Accepted
        };
        self.transactions += 1;
        let key = TransactionKey {
            session: ALICE.session,
            request: RequestNumber(self.transactions),
        };
        let settlement = Settlement {
            consumer,
            lsns: lsns.clone(),
            outcome,
        };
        // Held from before the answer on: nothing of it may be delivered in that step.
        self.prepared.push(Transaction {
            key,
            consumer,
            lsns,
            outcome,
            acks: Vec::new(),
        });
        self.command(DestinationCommand::Prepare {
            transaction: key,
            settlements: vec![settlement],
            puts: 1,
        });
        match self.share.take().expect("it answers at once") {
            Ok(share) => self.prepared.last_mut().unwrap().acks = share.acks,
            Err(reason) => {
                assert!(reason.contains("is full"), "{reason}");
                let transaction = self.prepared.pop().unwrap();
                let (_, held) = self.consumers.get_mut(&consumer).unwrap();
                held.extend(transaction.lsns);
            }
        }
    }

    /// The transaction reaches the store; the machine hears of it later.
    fn submit_transaction(&mut self) {
        if self.prepared.is_empty() {
            return;
        }
        let count = u64::try_from(self.prepared.len()).unwrap();
        let nth = usize::try_from(self.dice.below(count)).unwrap();
        let mut transaction = self.prepared.remove(nth);
        if transaction.outcome == Outcome::Accepted {
            self.accepted.extend(&transaction.lsns);
        }
        let records = std::mem::take(&mut transaction.acks);
        if !records.is_empty() {
            let ticket = ticket(transaction.key.session, transaction.key.request);
            self.queue.push_back(Unit { ticket, records });
        }
        self.finishing.push_back((transaction, self.own_acks));
    }

    fn tell_submitted(&mut self) {
        if let Some((transaction, own_acks)) = self.finishing.pop_front() {
            self.account.redeem(transaction.key);
            self.command(DestinationCommand::Finish {
                transaction: transaction.key,
                submitted: Some(own_acks),
            });
        }
    }

    fn undo_transaction(&mut self) {
        if let Some(transaction) = self.prepared.pop() {
            self.account.redeem(transaction.key);
            if let Some((_, held)) = self.consumers.get_mut(&transaction.consumer) {
                held.extend(&transaction.lsns);
            }
            self.command(DestinationCommand::Finish {
                transaction: transaction.key,
                submitted: None,
            });
        }
    }

    /// What transactions hold, and whose it was.
    fn in_transactions(&self) -> Vec<(ConsumerKey, Lsn)> {
        let finishing = self.finishing.iter().map(|(transaction, _)| transaction);
        let all = self.prepared.iter().chain(finishing);
        all.flat_map(|transaction| {
            let lsns = transaction.lsns.iter();
            lsns.map(|lsn| (transaction.consumer, *lsn))
        })
        .collect()
    }

    fn command(&mut self, command: DestinationCommand) {
        let upto = self.upto;
        let commands = vec![command];
        self.step(DestinationInput::Commands { commands, upto });
    }

    /// Another term begins with what is committed: on another server, or on this one, where commits
    /// of the old term may be told only now.
    fn restart(&mut self) {
        self.queue.clear();
        if self.dice.one_in(2) {
            self.told_later.clear();
        }
        self.consumers.clear();
        self.selectors.clear();
        self.exclusive.clear();
        self.told = self.upto;
        self.owners.clear();
        self.questions.clear();
        self.answers.clear();
        self.asked_for_dead = false;
        self.account = Rc::new(Account::default());
        self.account.set_bounds(Bounds::of(&self.policy));
        self.dropped += self.machine.figures().dropped;
        self.prepared.clear();
        self.finishing.clear();
        self.own_acks = 0;
        self.horizon = self.upto;
        self.newest.clear();
        self.newest_of_group.clear();
        self.accepted
            .retain(|lsn| !lsn.is_volatile() && !self.owed.contains_key(lsn));
        let activation = self.of_the_store();
        self.newest_passing.clear();
        let pool = Rc::clone(&self.pool);
        self.machine = DestinationMachine::new(small(), QUEUE, activation, pool);
        assert_eq!(self.pool.used(), 0, "memory stays behind a term");
        // What was in memory is lost, and nothing else is.
        let lost = self.published;
        let owed: BTreeSet<u64> = self
            .owed
            .values()
            .map(|owed| number_of(&owed.message))
            .collect();
        self.ended
            .extend((1..=lost).filter(|number| !owed.contains(number)));
        self.step(DestinationInput::Deadline);
    }

    /// What another server would begin with.
    fn of_the_store(&self) -> Activation {
        let mut lanes: BTreeMap<Lane, LaneFacts> = BTreeMap::new();
        let mut facts = |lane: Lane, mark: Option<&Lsn>, lsn: Option<Lsn>| {
            let of_lane = lanes.entry(lane).or_insert(LaneFacts {
                lane,
                depth: 0,
                tail: Lsn::ZERO,
                mark: Lsn::ZERO,
            });
            of_lane.mark = mark.copied().unwrap_or(of_lane.mark);
            if let Some(lsn) = lsn {
                of_lane.depth += 1;
                of_lane.tail = lsn;
            }
        };
        for (lane, mark) in &self.marks {
            facts(*lane, Some(mark), None);
        }
        for (lsn, owed) in &self.owed {
            facts(Lane::of(&owed.message), None, Some(*lsn));
        }
        let times = || self.owed.values().map(|owed| Times::of(&owed.message));
        Activation {
            lanes: lanes.into_values().collect(),
            horizon: self.horizon,
            next_due_ms: times().filter_map(|times| times.due_ms).min(),
            next_expiry_ms: times().filter_map(|times| times.expiry_ms).min(),
            policy: Some(Arc::clone(&self.policy)),
            bytes: self
                .owed
                .values()
                .map(|owed| owed.message.len() as u64)
                .sum(),
            account: Some(Rc::clone(&self.account)),
            volatile: self.is_volatile,
            ..Activation::default()
        }
    }

    fn step(&mut self, input: DestinationInput) {
        let mut effects = Vec::new();
        self.machine.step(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                DestinationEffect::Submit(units) => {
                    let records = units.iter().flat_map(|unit| &unit.records);
                    let acks = records.filter(|record| matches!(record, Draft::Ack { .. }));
                    self.own_acks += u64::try_from(acks.count()).unwrap();
                    self.submitted(&units);
                    self.queue.extend(units);
                }
                DestinationEffect::Deliver {
                    consumer,
                    deliveries,
                } => self.delivered(consumer, deliveries),
                DestinationEffect::Prepared { answer, .. } => self.share = Some(answer),
                DestinationEffect::Rest(left) => self.left = Some(left),
                DestinationEffect::Removed { .. } | DestinationEffect::Shown { .. } => {}
                DestinationEffect::Answer { event, .. } => {
                    match event {
                        SessionEvent::Committed { requests } => {
                            self.kept_in_memory += requests.len() as u64;
                        }
                        SessionEvent::Refused { reason, .. } => {
                            assert!(reason.contains("is full"), "{reason}");
                            // It is nowhere.
                            self.refused += 1;
                        }
                        _ => {}
                    }
                }
                DestinationEffect::Fetch {
                    tag,
                    seek,
                    count,
                    bytes,
                } => {
                    assert!(self.questions.len() < 40, "too many questions");
                    self.questions.push_back((tag, seek, count, bytes));
                }
                DestinationEffect::FindDeadLetter(name) => {
                    assert_eq!(name, "DMQ");
                    assert!(!std::mem::replace(&mut self.asked_for_dead, true), "twice");
                }
            }
        }
        let room = small().window;
        let kept: usize = self
            .machine
            .lanes
            .iter()
            .map(|state| state.backlog.window.entries.len())
            .sum();
        assert!(kept <= room.messages.max(5), "more than the window");
    }

    /// What goes to the store is counted, and nothing of it is an acknowledgement of what is held.
    fn submitted(&mut self, units: &[Unit]) {
        for record in units.iter().flat_map(|unit| &unit.records) {
            match record {
                Draft::Put { targets, message } if targets[..] == [QUEUE] => {
                    self.account.sent(Load::one(message.len()));
                }
                Draft::Ack { lsns, .. } => {
                    for (_, held) in self.consumers.values() {
                        let taken = lsns.iter().find(|lsn| held.contains(lsn));
                        assert_eq!(taken, None, "it is held");
                    }
                }
                _ => {}
            }
        }
        if let Some(bounds) = self.account.bounds().filter(|_| self.is_refusing()) {
            let load = self.account.load();
            // What a transaction accepts makes room for what it puts, before it is gone.
            let transactions = self.prepared.len() + self.finishing.len();
            let most = bounds.most.messages + u64::try_from(transactions).unwrap();
            assert!(load.messages <= most, "more than the bound");
        }
    }

    fn is_refusing(&self) -> bool {
        self.policy.on_full == OnFull::Reject
    }

    /// What is too much goes, as far as nobody holds it.
    fn settle_down(&mut self) {
        for _ in 0..5000 {
            self.commit();
            self.tell();
            self.find_answer();
            self.tell_answer();
            self.tell_dead_letter();
            self.pass(1);
        }
        let Some(bounds) = self.account.bounds() else {
            return;
        };
        let goes = match self.policy.on_full {
            OnFull::DropOldest => true,
            OnFull::DeadLetter => self.policy.dead_letter.is_some(),
            OnFull::Reject | OnFull::Block => false,
        };
        let held: usize = self.consumers.values().map(|(_, held)| held.len()).sum();
        if goes && held == 0 {
            let owed = self.machine.held();
            let excess = bounds.excess(owed, owed.messages);
            assert_eq!(excess, Load::default(), "too much stays");
        }
    }

    fn delivered(&mut self, consumer: ConsumerKey, deliveries: Vec<Delivery>) {
        let holders = self.consumers.values();
        let mut held: BTreeSet<Lsn> = holders.flat_map(|(_, held)| held).copied().collect();
        let in_transactions = self.in_transactions();
        held.extend(in_transactions.iter().map(|(_, lsn)| *lsn));
        let mine = in_transactions.iter().filter(|(key, _)| *key == consumer);
        let mine = mine.count();
        assert!(!deliveries.is_empty(), "an empty delivery");
        for delivery in deliveries {
            let lsn = delivery.lsn;
            assert!(!held.contains(&lsn), "{lsn} is with somebody");
            assert!(!self.accepted.contains(&lsn), "delivered after accepted");
            let message = Message::read(&delivery.message).unwrap();
            let envelope = *message.envelope();
            let now_ms = self.now.wall_ms;
            assert!(envelope.expiry_ms.is_none_or(|at| at > now_ms), "expired");
            // The clock may have been set back since it was found to be due.
            assert!(
                envelope.due_ms.is_none_or(|at| at <= now_ms + 1000),
                "{lsn} is not due"
            );
            let lane = Lane::of(&delivery.message);
            if !lsn.is_volatile() {
                let owed = self.owed.get(&lsn).expect("it is owed");
                assert_eq!(owed.message, delivery.message, "another message");
                assert!(delivery.failures >= owed.failures, "a count is forgotten");
                if lane == Lane::DELAYED {
                    assert!(owed.marked, "{lsn} leaves without its mark");
                } else {
                    let mark = self.marks.get(&lane).copied().unwrap_or_default();
                    let is_marked = lsn <= mark || owed.marked;
                    assert!(is_marked, "{lsn} is beyond the mark {mark}");
                }
            }
            if let Some(limit) = self.policy.redelivery_limit {
                assert!(delivery.failures <= limit, "delivered too often");
            }
            let is_first = self.delivered.insert(lsn);
            assert!(
                is_first || delivery.redelivered,
                "{lsn} came again without its flag"
            );
            if is_first {
                assert!(
                    !delivery.redelivered || lsn <= self.horizon || lane == Lane::DELAYED,
                    "{lsn} is new and flagged"
                );
            }
            if let Some(selector) = self.selectors.get(&consumer) {
                assert!(selector.matches_bytes(&delivery.message), "not wanted");
                self.picked += 1;
            }
            let is_plain =
                !self.is_picky && is_first && lane != Lane::DELAYED && !lsn.is_volatile();
            // Whether it was kept or spilled.
            let could_pass = self.is_volatile || !envelope.persistent;
            let is_new = is_first && lane != Lane::DELAYED && lsn > self.horizon;
            if !self.is_picky && could_pass && is_new && envelope.group.is_none() {
                let number = number_of(&delivery.message);
                let before = self.newest_passing.insert(lane, number);
                assert!(before.is_none_or(|before| before < number), "out of order");
            }
            match envelope.group {
                // With selectors a group's owner may not take all of it.
                Some(_) if self.is_picky => {}
                Some(group) => {
                    let owner = self.owners.entry(group.to_owned()).or_insert(consumer);
                    assert_eq!(*owner, consumer, "group {group} has two consumers");
                    if is_plain {
                        let key = (lane, group.to_owned());
                        let before = self.newest_of_group.insert(key, lsn);
                        assert!(before.is_none_or(|before| before < lsn), "out of order");
                    }
                }
                None if is_plain => {
                    let before = self.newest.insert(lane, lsn);
                    assert!(before.is_none_or(|before| before < lsn), "out of order");
                }
                None => {}
            }
            let (credit, held) = self.consumers.get_mut(&consumer).expect("it is attached");
            assert!(held.insert(lsn), "the consumer holds it already");
            assert!(held.len() + mine <= *credit, "more than its credit");
        }
    }

    /// Lets everything happen that is under way; then nothing may be left.
    fn finish(&mut self) {
        while !self.prepared.is_empty() {
            self.undo_transaction();
        }
        while !self.finishing.is_empty() {
            self.tell_submitted();
        }
        if self.is_picky {
            self.pick_out();
        }
        if self.dice.one_in(2) {
            for consumer in self.consumers.keys().copied().collect::<Vec<_>>() {
                self.consumers.remove(&consumer);
                self.owners.retain(|_, owner| *owner != consumer);
                self.command(DestinationCommand::Detach { consumer });
            }
        }
        self.settle_down();
        let consumer = ConsumerKey { number: 0, ..ALICE };
        self.consumers.insert(consumer, (3, BTreeSet::new()));
        self.command(attach(consumer, 3));
        for _ in 0..20_000 {
            self.commit();
            self.tell();
            self.find_answer();
            self.tell_answer();
            self.tell_dead_letter();
            self.settle(Outcome::Accepted);
            self.pass(7);
            let idle = self.queue.is_empty() && self.told_later.is_empty();
            let asks = !self.questions.is_empty() || !self.answers.is_empty();
            if idle && !asks && self.owed.is_empty() && self.machine.figures().depth == 0 {
                assert_eq!(self.pool.used(), 0, "memory is not given back");
                assert!(self.account.is_quiet(), "{:?}", self.account);
                assert_eq!(self.machine.held(), Load::default());
                self.dropped += self.machine.figures().dropped;
                return;
            }
        }
        panic!("{} messages were never delivered", self.owed.len());
    }
}

#[test]
fn no_random_run_loses_a_message_or_breaks_a_rule() {
    let mut totals = [0u64; 8];
    for seed in 0..250 {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..700 {
                world.act();
            }
            world.finish();
        }));
        assert!(result.is_ok(), "seed {seed} fails");
        let done = [
            world.published,
            world.kept_in_memory,
            world.dead,
            world.expired,
            world.picked,
            world.refused,
            world.dropped,
            world.slept,
        ];
        for (total, done) in totals.iter_mut().zip(done) {
            *total += done;
        }
    }
    let [
        published,
        in_memory,
        dead,
        expired,
        picked,
        refused,
        dropped,
        slept,
    ] = totals;
    assert!(
        published > 50_000
            && in_memory > 500
            && dead > 500
            && expired > 500
            && picked > 3000
            && refused > 500
            && dropped > 500
            && slept > 300,
        "the runs do little: {totals:?}"
    );
}
