//! What happens without a fault. Which step may come when:
//!
//! * What a server's own store, lock thread or replicator has ready for it is taken in at once
//!   (`World::settle`): between a server's asking its own parts and their answer nobody else can see a
//!   difference but by ending the process, which a pending `Job` lets happen. While a budget of delays
//!   is left, the answer waits as a step of its own, and can be held back for as long as one likes.
//! * What crosses between the servers and the arbiter comes in any order: each message of the channel,
//!   each change of the record, each attempt at the lock.
//! * A timer fires only when nothing else is under way: intervals are long beside messages. One that
//!   fires sooner is a fault with a budget.

use twinmq::machines::ha::{HaInput, HaMachine, HaTimer, HeldLock};
use twinmq::machines::replication::common_point;
use twinmq::proto::ids::SessionId;

use super::effects::hello;
use super::rules::{Rule, Rules, Words};
use super::world::{FromLink, Job, World, config, node, store_id};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Start(usize),
    /// What the server's own parts have ready is taken in.
    Deliver(usize),
    /// What was held back comes after all.
    DeliverHeld(usize),
    /// The store (or the client side) does what it was asked.
    Work(usize),
    /// The next of what came over the channel is taken in.
    Receive(usize),
    /// The arbiter makes the change that was asked for first.
    CarryOut(usize),
    /// The holder's words in the lock file are renewed.
    Beat(usize),
    TryLock(usize),
    /// A check finds that the lock is lost, or that the record moved on (L4).
    CheckLock(usize),
    LeaseExpires(usize),
    Fire(usize, HaTimer),
    Connect,
    /// A ping tells the other what a lost announcement did not: the link passes on what is new.
    Ping(usize),
    /// Leader and follower have found each other: the follower cuts off what the leader lacks, or
    /// begins a new store.
    BeginSync(usize),
    /// The follower has all that the leader has.
    EndSync(usize),
    /// The leader finds that the follower holds what was confirmed.
    PeerHoldsAll(usize),
    /// The other hears nothing of a server that is stopped, and closes the channel.
    FindSilent(usize),
    /// A server that was stopped goes on.
    Resume(usize),
    /// The lock of a server whose share does not answer is given up by the share.
    LockRunsOut(usize),
    /// The share answers again.
    HealArbiter(usize),
    /// The parent of the other server's process tells that it has ended.
    HearOfDeath(usize),
}

const TIMERS: [HaTimer; 5] = [
    HaTimer::PeerWait,
    HaTimer::Patience,
    HaTimer::Retry,
    HaTimer::FenceWait,
    HaTimer::ReEntry,
];

impl World {
    pub(crate) fn steps(&self, rules: Rules, steps: &mut Vec<Step>) {
        // What a server has of its own comes first: see above.
        for at in [0, 1] {
            let server = self.server(at);
            if server.runs() && !server.inbox.is_empty() {
                return steps.push(Step::Deliver(at));
            }
            if server.runs() && matches!(server.jobs.front(), Some(Job::Persist(_))) {
                return steps.push(Step::Work(at));
            }
        }
        if self.link.is_none() && self.may_connect() {
            steps.push(Step::Connect);
        }
        for at in [0, 1] {
            self.steps_of(at, rules, steps);
        }
        let under_way = |step: &Step| self.is_under_way(*step);
        if !steps.iter().any(under_way) {
            for at in [0, 1] {
                self.quiet_steps_of(at, rules, steps);
            }
        }
    }

    /// While one of these is possible, no timer fires.
    fn is_under_way(&self, step: Step) -> bool {
        match step {
            Step::Deliver(_)
            | Step::Work(_)
            | Step::Receive(_)
            | Step::TryLock(_)
            | Step::CheckLock(_)
            | Step::BeginSync(_)
            | Step::EndSync(_)
            | Step::PeerHoldsAll(_) => true,
            Step::CarryOut(at) => self.server(at).calls.iter().any(|call| !call.told),
            Step::Start(_)
            | Step::DeliverHeld(_)
            | Step::Beat(_)
            | Step::LeaseExpires(_)
            | Step::Fire(..)
            | Step::Connect
            | Step::Ping(_)
            | Step::FindSilent(_)
            | Step::Resume(_)
            | Step::LockRunsOut(_)
            | Step::HealArbiter(_)
            | Step::HearOfDeath(_) => false,
        }
    }

    /// Both run, and have heard of the end of the channel before this one.
    fn may_connect(&self) -> bool {
        [0, 1].into_iter().all(|at| {
            let server = self.server(at);
            let ends =
                |message: &FromLink| matches!(message, FromLink::Up(..) | FromLink::Down(..));
            server.runs() && !server.from_link.iter().any(ends)
        })
    }

    fn steps_of(&self, at: usize, rules: Rules, steps: &mut Vec<Step>) {
        let server = self.server(at);
        let mut offer = |possible: bool, step: Step| {
            if possible {
                steps.push(step);
            }
        };
        offer(
            !server.calls.is_empty() && !server.cut_off,
            Step::CarryOut(at),
        );
        offer(server.cut_off, Step::HealArbiter(at));
        offer(
            server.cut_off && self.arbiter.holder == Some(at),
            Step::LockRunsOut(at),
        );
        let Some(machine) = &server.machine else {
            return offer(!server.gone, Step::Start(at));
        };
        if server.paused {
            offer(!server.gone, Step::Resume(at));
            return offer(self.link.is_some(), Step::FindSilent(1 - at));
        }
        offer(server.held.is_some(), Step::DeliverHeld(at));
        offer(server.death.is_some(), Step::HearOfDeath(at));
        offer(!server.jobs.is_empty(), Step::Work(at));
        offer(!server.from_link.is_empty(), Step::Receive(at));
        let free = self.arbiter.holder.is_none() && !server.cut_off;
        offer(server.wants_lock && free, Step::TryLock(at));
        offer(self.check_tells(at, machine, rules), Step::CheckLock(at));
        offer(
            !rules.lacks(Rule::R6) && self.lease_ends(at, machine),
            Step::LeaseExpires(at),
        );
        let late = rules.words == Words::Late;
        offer(late && self.beat_tells(at), Step::Beat(at));
        self.offer_sync(at, steps);
    }

    fn offer_sync(&self, at: usize, steps: &mut Vec<Step>) {
        let (server, other) = (self.server(at), self.server(1 - at));
        if let (Some(session), true) = (server.leads, self.link == server.leads) {
            let meets = other.follows == Some(session) && other.runs() && !server.streams;
            match other.preparing {
                false if meets => steps.push(Step::BeginSync(1 - at)),
                true if meets => steps.push(Step::EndSync(1 - at)),
                false | true => {}
            }
        }
        if server.must_hold.is_some_and(|upto| server.acked >= upto) {
            steps.push(Step::PeerHoldsAll(at));
        }
    }

    fn quiet_steps_of(&self, at: usize, rules: Rules, steps: &mut Vec<Step>) {
        let server = self.server(at);
        if !server.runs() {
            return;
        }
        let denied = self.arbiter.holder == Some(1 - at) || server.cut_off;
        if server.wants_lock && denied {
            steps.push(Step::TryLock(at));
        }
        if self.ping_tells(at, rules) {
            steps.push(Step::Ping(at));
        }
        for timer in TIMERS {
            if server.armed(timer) && self.may_fire(at, timer, rules) {
                steps.push(Step::Fire(at, timer));
            }
        }
    }

    /// The fence wait is as long as it must be: it ends when the old holder does not speak to clients
    /// any more, or stands still and will find its lease over when it goes on.
    pub(crate) fn may_fire(&self, at: usize, timer: HaTimer, rules: Rules) -> bool {
        let other = self.server(1 - at);
        timer != HaTimer::FenceWait || !other.serving || other.paused || rules.lacks(Rule::R6)
    }

    /// A check that changes nothing is no step: a holder checks once in each interval, not instead of
    /// all else, and what else he waits for comes between two checks. A claimant whose compare-and-set
    /// has no outcome yet does not look at what a check finds, but at the record when `Retry` fires.
    fn check_tells(&self, at: usize, machine: &HaMachine, rules: Rules) -> bool {
        if !machine.holds_lock() || self.server(at).cut_off {
            return false;
        }
        let moved_on = match (self.record(), machine.record()) {
            (Some(now), Some(known)) => now.seq > known.seq && now.epoch > known.epoch,
            _ => false,
        };
        let after = |input| self.silently(at, input, rules);
        (self.arbiter.holder != Some(at) || moved_on)
            && after(self.lock_checked(at, rules)).as_ref() != Some(machine)
    }

    /// Neither the lock nor the peer extends it.
    fn lease_ends(&self, at: usize, machine: &HaMachine) -> bool {
        let server = self.server(at);
        let locked = self.arbiter.holder == Some(at) && !server.cut_off;
        let witness =
            self.link.is_some() && self.server(1 - at).runs() && machine.pings_extend_lease();
        server.serving && !locked && !witness
    }

    fn beat_tells(&self, at: usize) -> bool {
        let words = self.words(at);
        let file = self.arbiter.lock_file.as_ref();
        words.is_some()
            && self.arbiter.holder == Some(at)
            && !self.server(at).cut_off
            && file.is_some_and(|file| file.last != words)
    }

    fn ping_tells(&self, at: usize, rules: Rules) -> bool {
        let other = self.server(1 - at);
        if self.link.is_none() || !other.runs() || !other.from_link.is_empty() {
            return false;
        }
        let facts = self.facts(at, rules);
        let known = other.machine.as_ref().and_then(HaMachine::peer);
        known.is_some_and(|known| known.facts != facts)
    }

    pub(crate) fn take(&mut self, step: Step, rules: Rules) {
        match step {
            Step::Start(at) => {
                let server = self.server_mut(at);
                let disk = &server.disk;
                let mut own = disk.own;
                own.sync_in_progress &= !rules.lacks(Rule::R4);
                server.machine = Some(HaMachine::new(
                    config(at, rules.takeover),
                    own,
                    disk.last_record.clone(),
                ));
                self.give(at, HaInput::Started, rules);
            }
            Step::Deliver(at) => self.deliver(at, rules),
            Step::DeliverHeld(at) => {
                if let Some(input) = self.server_mut(at).held.take() {
                    self.give(at, input, rules);
                }
            }
            Step::Work(at) => self.work(at, rules),
            Step::Receive(at) => {
                if let Some(message) = self.server_mut(at).from_link.pop_front() {
                    self.receive(at, message, rules);
                }
            }
            Step::CarryOut(at) => {
                if let Some(call) = self.server_mut(at).calls.pop_front() {
                    let told = call.told;
                    let answer = self.carry_out(at, call, rules);
                    if !told {
                        self.answer(at, answer);
                    }
                }
            }
            Step::Beat(at) => self.beat(at),
            Step::TryLock(at) => self.try_lock(at, rules),
            Step::CheckLock(at) => self.give(at, self.lock_checked(at, rules), rules),
            Step::LeaseExpires(at) => self.give(at, HaInput::LeaseExpired, rules),
            Step::Fire(at, timer) => self.fire(at, timer, rules),
            Step::Connect => self.connect(rules),
            Step::Ping(at) => {
                if let Some(session) = self.link {
                    let facts = self.facts(at, rules);
                    self.send(at, session, FromLink::Facts(session, facts));
                }
            }
            Step::BeginSync(at) => self.begin_sync(at, false, rules),
            Step::EndSync(at) => self.end_sync(at),
            Step::PeerHoldsAll(at) => {
                let server = self.server_mut(at);
                server.must_hold = None;
                if let Some(session) = server.leads {
                    server.inbox.push_back(HaInput::PeerHoldsAll { session });
                }
            }
            Step::FindSilent(at) => self.find_silent(at),
            Step::Resume(at) => self.resume(at, rules),
            Step::LockRunsOut(_) => self.arbiter_mut().holder = None,
            Step::HealArbiter(at) => self.server_mut(at).cut_off = false,
            Step::HearOfDeath(at) => {
                if let Some(epoch) = self.server_mut(at).death.take() {
                    let node = node(1 - at);
                    self.give(at, HaInput::PeerDied { node, epoch }, rules);
                }
            }
        }
    }

    pub(crate) fn fire(&mut self, at: usize, timer: HaTimer, rules: Rules) {
        self.server_mut(at).arm(timer, false);
        // PassiveInterval and the fence wait are longer than a lease.
        let long = matches!(timer, HaTimer::PeerWait | HaTimer::FenceWait);
        if long && self.server(1 - at).paused && !rules.lacks(Rule::R6) {
            self.server_mut(1 - at).lease_over = true;
        }
        self.give(at, HaInput::Timer(timer), rules);
    }

    /// The lease is judged before anything else is taken in.
    fn resume(&mut self, at: usize, rules: Rules) {
        let server = self.server_mut(at);
        server.paused = false;
        if std::mem::take(&mut server.lease_over) {
            self.give(at, HaInput::LeaseExpired, rules);
        }
    }

    fn connect(&mut self, rules: Rules) {
        let used = |session: &SessionId| !self.knows_session(*session);
        let fresh = (1..8).map(SessionId).find(used);
        let session = match fresh {
            Some(_) if rules.lacks(Rule::Sessions) => SessionId(1),
            Some(fresh) => fresh,
            None => unreachable!("few sessions are remembered"),
        };
        self.link = Some(session);
        for at in [0, 1] {
            let up = FromLink::Up(session, self.facts(at, rules));
            self.send(at, session, up);
        }
    }

    /// What a check of the lock finds.
    fn lock_checked(&self, at: usize, rules: Rules) -> HaInput {
        if self.arbiter.holder == Some(at) || self.arbiter.holds_older[at] {
            HaInput::LockConfirmed {
                record: self.seen(at, rules),
            }
        } else {
            HaInput::LockLost {
                reason: String::new(),
            }
        }
    }

    fn try_lock(&mut self, at: usize, rules: Rules) {
        if self.server(at).cut_off {
            let reason = String::new();
            return self.give(at, HaInput::LockUnreachable { reason }, rules);
        }
        match (&self.arbiter.lock_file, self.arbiter.holder) {
            (Some(lock), None) => {
                let held = HeldLock {
                    lock: lock.clone(),
                    record: self.seen(at, rules),
                };
                let arbiter = self.arbiter_mut();
                arbiter.holder = Some(at);
                arbiter.holds_older[at] = false;
                let server = self.server_mut(at);
                server.wants_lock = false;
                server.inbox.push_back(HaInput::LockAcquired(held));
            }
            (None, _) | (_, Some(_)) => {
                self.give(at, HaInput::LockRefused { holder: None }, rules);
            }
        }
    }

    fn work(&mut self, at: usize, rules: Rules) {
        let server = self.server_mut(at);
        match server.jobs.pop_front() {
            Some(Job::Persist(record)) => {
                server.disk.last_record = Some(record);
                server.inbox.push_back(HaInput::Persisted);
            }
            Some(Job::Drain) => {
                server.serving = false;
                self.give(at, HaInput::ClientsDrained, rules);
            }
            None => {}
        }
    }

    fn receive(&mut self, at: usize, message: FromLink, rules: Rules) {
        match message {
            FromLink::Up(session, facts) => {
                let hello = hello(1 - at, facts);
                self.give(at, HaInput::LinkUp { session, hello }, rules);
            }
            FromLink::Facts(session, facts) => {
                self.give(at, HaInput::PeerFacts { session, facts }, rules);
            }
            FromLink::Goodbye(session, epoch) => {
                self.give(at, HaInput::PeerGoodbye { session, epoch }, rules);
            }
            FromLink::InSync(session, epoch) => {
                let machine = self.server(at).machine.as_ref();
                let own = machine.filter(|_| rules.lacks(Rule::R3));
                let epoch = own.map_or(epoch, HaMachine::epoch);
                let input = HaInput::InSync { session, epoch };
                self.server_mut(at).inbox.push_back(input);
            }
            FromLink::Down(session, cause) => {
                self.give(at, HaInput::LinkDown { session, cause }, rules);
            }
            FromLink::Batch(session, entry) => {
                let server = self.server_mut(at);
                if server.follows == Some(session) {
                    server.disk.log.push(entry);
                    server.disk.place();
                    let upto = server.disk.log.len();
                    self.send(at, session, FromLink::Durable(session, upto));
                }
            }
            FromLink::Durable(session, upto) => {
                let server = self.server_mut(at);
                if server.leads == Some(session) {
                    server.acked = upto;
                    self.confirm(at);
                }
            }
            FromLink::SyncDone(session, store, upto) => {
                let server = self.server_mut(at);
                if server.leads == Some(session) {
                    server.acked = upto;
                    server.inbox.push_back(HaInput::SyncDone { session, store });
                }
            }
        }
    }

    /// As the replication machines do it: from the common point if the follower's log can be cut
    /// there, otherwise into a new store; marked as half a copy from before the first change (R4).
    pub(crate) fn begin_sync(&mut self, at: usize, collected: bool, rules: Rules) {
        let (leader, follower) = (&self.server(1 - at).disk, &self.server(at).disk);
        let common = common_point(
            &leader.epochs(),
            leader.own.position,
            &follower.epochs(),
            follower.own.position,
        );
        let common = common.and_then(|common| usize::try_from(common.0).ok());
        let fresh = self.stores + 1;
        let server = self.server_mut(at);
        server.disk.own.sync_in_progress = true;
        server.preparing = true;
        match common {
            Some(common) if !collected => server.disk.log.truncate(common),
            Some(_) | None => {
                server.disk.log.clear();
                if !rules.lacks(Rule::Stores) {
                    server.disk.own.store = store_id(fresh);
                    self.stores = fresh;
                }
            }
        }
        self.server_mut(at).disk.place();
    }

    fn end_sync(&mut self, at: usize) {
        let log = self.server(1 - at).disk.log.clone();
        self.server_mut(1 - at).streams = true;
        let server = self.server_mut(at);
        let (store, upto) = (server.disk.own.store, log.len());
        server.disk.log = log;
        server.disk.own.sync_in_progress = false;
        server.disk.place();
        if let Some(session) = self.link {
            self.send(at, session, FromLink::SyncDone(session, store, upto));
        }
    }
}
