//! What can happen next, and what it does. Each thing that is under way is an action of its own; only
//! what one channel, one lock thread or one store does in order is in order here.

use std::collections::VecDeque;

use twinmq::machines::ha::{HaInput, HaMachine, HaState, HaTimer, HeldLock, LinkEnd};
use twinmq::proto::arbiter::{ArbiterAnswer, ArbiterCall};
use twinmq::proto::ids::{SessionId, StoreId};

use super::effects::hello;
use super::world::{Ablation, Entry, FromLink, Job, World, config};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Start(usize),
    /// The next of what came over the channel is taken in.
    Receive(usize),
    /// The next word of the lock thread is taken in.
    HearOfLock(usize),
    /// The arbiter does what the server asked first.
    CarryOut(usize),
    /// Its answer arrives.
    Answer(usize),
    /// The store (or the client side) does what it was asked first.
    Work(usize),
    TryLock(usize),
    /// A check finds that the lock is lost, or that the record moved on (L4).
    CheckLock(usize),
    LeaseExpires(usize),
    Fire(usize, HaTimer),
    Connect,
    /// A ping tells the other what a lost announcement did not.
    Ping(usize),
    /// Leader and follower have found each other: the follower cuts off what the leader lacks.
    BeginSync(usize),
    /// The follower has all that the leader has.
    EndSync(usize),
    /// The leader finds that the follower holds what was confirmed.
    PeerHoldsAll(usize),
    // What costs budget.
    Write(usize),
    Crash(usize),
    Stop(usize),
    Cut,
    Wipe(usize),
    LoseQuestion(usize),
    LoseAnswer(usize),
    /// Told "failed" now, carried out later.
    AnswerLate(usize),
    LoseLock,
    TransitionTooLong(usize),
    AckOverdue(usize),
}

impl World {
    pub(crate) fn actions(&self, actions: &mut Vec<Action>) {
        if self.link.is_none() && self.may_connect() {
            actions.push(Action::Connect);
        }
        for at in [0, 1] {
            self.steps_of(at, actions);
            self.faults_of(at, actions);
        }
        if self.budget.cuts > 0 && self.link.is_some() {
            actions.push(Action::Cut);
        }
        if self.budget.lost_locks > 0 && self.holder.is_some() {
            actions.push(Action::LoseLock);
        }
    }

    /// Both run, and have heard of the channel before this one.
    fn may_connect(&self) -> bool {
        self.servers.iter().all(|server| {
            let one_waits = server
                .from_link
                .iter()
                .any(|message| matches!(message, FromLink::Up(..)));
            server.machine.is_some() && !one_waits
        })
    }

    /// Without faults.
    pub(crate) fn steps_of(&self, at: usize, actions: &mut Vec<Action>) {
        let server = &self.servers[at];
        let Some(machine) = &server.machine else {
            actions.push(Action::Start(at));
            return;
        };
        let mut offer = |possible: bool, action: Action| {
            if possible {
                actions.push(action);
            }
        };
        offer(!server.jobs.is_empty(), Action::Work(at));
        offer(!server.from_lock.is_empty(), Action::HearOfLock(at));
        offer(!server.answers.is_empty(), Action::Answer(at));
        offer(!server.calls.is_empty(), Action::CarryOut(at));
        offer(!server.from_link.is_empty(), Action::Receive(at));
        let refusal_helps = self.holder.is_some() && server.from_lock.is_empty();
        offer(
            server.wants_lock
                && self.holder != Some(at)
                && (self.holder.is_none() || refusal_helps),
            Action::TryLock(at),
        );
        offer(self.check_tells(at, machine), Action::CheckLock(at));
        offer(self.lease_ends(at, machine), Action::LeaseExpires(at));
        offer(self.ping_tells(at), Action::Ping(at));
        if let (Some(session), true) = (server.leads, self.link == server.leads) {
            let other = &self.servers[1 - at];
            let meets = other.follows == Some(session) && !server.streams;
            offer(
                meets && !other.own.sync_in_progress,
                Action::BeginSync(1 - at),
            );
            offer(meets && other.own.sync_in_progress, Action::EndSync(1 - at));
        }
        offer(
            server.must_hold.is_some_and(|upto| server.acked >= upto),
            Action::PeerHoldsAll(at),
        );
        for timer in &server.timers {
            let may = match timer {
                // The arithmetic of time is not searched: the wait is as long as it must be.
                HaTimer::FenceWait => !self.servers[1 - at].serving,
                HaTimer::MaxWait | HaTimer::Drain => false,
                HaTimer::PeerWait | HaTimer::Patience | HaTimer::Retry | HaTimer::ReEntry => true,
            };
            offer(may, Action::Fire(at, *timer));
        }
    }

    fn check_tells(&self, at: usize, machine: &HaMachine) -> bool {
        if !machine.holds_lock() || !self.servers[at].from_lock.is_empty() {
            return false;
        }
        let moved_on = match (&self.record, machine.record()) {
            (Some(now), Some(known)) => now.seq > known.seq && now.epoch > known.epoch,
            _ => false,
        };
        self.holder != Some(at) || moved_on
    }

    /// Neither the lock nor the peer has extended it.
    fn lease_ends(&self, at: usize, machine: &HaMachine) -> bool {
        let witness = self.link.is_some() && machine.pings_extend_lease();
        self.servers[at].serving && self.holder != Some(at) && !witness
    }

    fn ping_tells(&self, at: usize) -> bool {
        let other = &self.servers[1 - at];
        if self.link.is_none() || !other.from_link.is_empty() {
            return false;
        }
        let mut facts = self.facts(at);
        let known = other.machine.as_ref().and_then(HaMachine::peer);
        known.is_some_and(|known| {
            // How far a server got matters to nobody while one of them serves.
            if !self.nobody_serves() {
                facts.position = known.facts.position;
            }
            known.facts != facts
        })
    }

    fn nobody_serves(&self) -> bool {
        self.servers.iter().all(|server| !server.serving)
    }

    fn faults_of(&self, at: usize, actions: &mut Vec<Action>) {
        let (server, budget) = (&self.servers[at], &self.budget);
        let Some(machine) = &server.machine else {
            let named = self
                .record
                .as_ref()
                .is_some_and(|record| record.holds(self.servers[1 - at].own.store));
            if budget.wipes > 0 && named {
                actions.push(Action::Wipe(at));
            }
            return;
        };
        let mut offer = |possible: bool, action: Action| {
            if possible {
                actions.push(action);
            }
        };
        offer(budget.writes > 0 && server.serving, Action::Write(at));
        offer(budget.crashes > 0, Action::Crash(at));
        let stopping = matches!(
            machine.state(),
            HaState::Draining(_) | HaState::Releasing(_) | HaState::Stopped
        );
        offer(budget.stops > 0 && !stopping, Action::Stop(at));
        if let (true, Some(call)) = (budget.lost_answers > 0, server.calls.front()) {
            offer(!call.told, Action::LoseQuestion(at));
            let reads = matches!(call.call, ArbiterCall::Read);
            offer(!call.told && !reads, Action::LoseAnswer(at));
            offer(!call.told && !reads, Action::AnswerLate(at));
        }
        offer(
            budget.delays > 0 && server.timers.contains(&HaTimer::MaxWait),
            Action::TransitionTooLong(at),
        );
        offer(
            budget.delays > 0 && server.streams && self.link == server.leads,
            Action::AckOverdue(at),
        );
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    pub(crate) fn apply(&mut self, action: Action, ablation: Ablation) {
        match action {
            Action::Start(at) => {
                let server = &mut self.servers[at];
                let machine = HaMachine::new(config(at), server.own, server.last_record.clone());
                server.machine = Some(machine);
                self.give(at, HaInput::Started, ablation);
            }
            Action::Receive(at) => {
                if let Some(message) = self.servers[at].from_link.pop_front() {
                    self.receive(at, message, ablation);
                }
            }
            Action::HearOfLock(at) => {
                if let Some(input) = self.servers[at].from_lock.pop_front() {
                    self.give(at, input, ablation);
                }
            }
            Action::CarryOut(at) => {
                if let Some(call) = self.servers[at].calls.pop_front() {
                    let answer = self.carry_out(call.call);
                    // Nobody waits for the answer of a call that was given up.
                    if !call.told && call.id != 0 {
                        let answer = self.shown(at, answer, ablation);
                        self.servers[at].answers.push_back((call.id, answer));
                    }
                }
            }
            Action::Answer(at) => {
                if let Some((id, answer)) = self.servers[at].answers.pop_front() {
                    self.give(at, HaInput::ArbiterAnswered { id, answer }, ablation);
                }
            }
            Action::Work(at) => self.work(at, ablation),
            Action::TryLock(at) => self.try_lock(at, ablation),
            Action::CheckLock(at) => {
                let input = if self.holder == Some(at) {
                    HaInput::LockConfirmed {
                        record: self.seen(at, self.record.clone(), ablation),
                    }
                } else {
                    HaInput::LockLost {
                        reason: String::new(),
                    }
                };
                self.give(at, input, ablation);
            }
            Action::LeaseExpires(at) => self.give(at, HaInput::LeaseExpired, ablation),
            Action::Fire(at, timer) => {
                self.servers[at].timers.remove(&timer);
                self.give(at, HaInput::Timer(timer), ablation);
            }
            Action::Connect => {
                // The search ends only if the numbers come round; at most two sessions are known.
                self.last_session = SessionId(self.last_session.0 % 4 + 1);
                self.link = Some(self.last_session);
                for at in [0, 1] {
                    let up = FromLink::Up(self.last_session, self.facts(at));
                    self.send(at, self.last_session, up);
                }
            }
            Action::Ping(at) => {
                if let Some(session) = self.link {
                    self.send(at, session, FromLink::Facts(session, self.facts(at)));
                }
            }
            Action::BeginSync(at) => {
                let [one, other] = &mut self.servers;
                let (leader, follower) = if at == 0 { (other, one) } else { (one, other) };
                let same = |(mine, theirs): &(&Entry, &Entry)| mine == theirs;
                let common = follower
                    .log
                    .iter()
                    .zip(&leader.log)
                    .take_while(same)
                    .count();
                follower.log.truncate(common);
                follower.own.sync_in_progress = true;
                follower.place();
            }
            Action::EndSync(at) => {
                let log = self.servers[1 - at].log.clone();
                self.servers[1 - at].streams = true;
                let follower = &mut self.servers[at];
                let (store, upto) = (follower.own.store, log.len());
                follower.log = log;
                follower.own.sync_in_progress = false;
                follower.place();
                if let Some(session) = self.link {
                    self.send(at, session, FromLink::SyncDone(session, store, upto));
                }
            }
            Action::PeerHoldsAll(at) => {
                self.servers[at].must_hold = None;
                if let Some(session) = self.servers[at].leads {
                    self.give(at, HaInput::PeerHoldsAll { session }, ablation);
                }
            }
            Action::Write(at) => {
                self.budget.writes -= 1;
                self.append(at, Entry::Write(self.budget.writes));
            }
            Action::Crash(at) => {
                self.budget.crashes -= 1;
                self.end(at);
            }
            Action::Stop(at) => {
                self.budget.stops -= 1;
                self.give(at, HaInput::StopRequested, ablation);
            }
            Action::Cut => {
                self.budget.cuts -= 1;
                self.cut();
            }
            Action::Wipe(at) => {
                self.budget.wipes -= 1;
                let server = &mut self.servers[at];
                server.own.store = StoreId([100 + self.budget.wipes; 16]);
                server.own.sync_in_progress = false;
                server.last_record = None;
                server.log.clear();
                server.place();
            }
            Action::LoseQuestion(at) => {
                self.budget.lost_answers -= 1;
                if let Some(call) = self.servers[at].calls.pop_front() {
                    self.fail(at, call.id);
                }
            }
            Action::LoseAnswer(at) => {
                self.budget.lost_answers -= 1;
                if let Some(call) = self.servers[at].calls.pop_front() {
                    self.carry_out(call.call);
                    self.fail(at, call.id);
                }
            }
            Action::AnswerLate(at) => {
                self.budget.lost_answers -= 1;
                if let Some(call) = self.servers[at].calls.front_mut() {
                    call.told = true;
                    let id = call.id;
                    self.fail(at, id);
                }
            }
            Action::LoseLock => {
                self.budget.lost_locks -= 1;
                self.holder = None;
            }
            Action::TransitionTooLong(at) => {
                self.budget.delays -= 1;
                self.apply(Action::Fire(at, HaTimer::MaxWait), ablation);
            }
            Action::AckOverdue(at) => {
                self.budget.delays -= 1;
                if let Some(session) = self.servers[at].leads {
                    self.give(at, HaInput::AckOverdue { session }, ablation);
                }
            }
        }
    }

    fn receive(&mut self, at: usize, message: FromLink, ablation: Ablation) {
        let server = &mut self.servers[at];
        match message {
            FromLink::Up(session, facts) => {
                let hello = hello(1 - at, facts);
                self.give(at, HaInput::LinkUp { session, hello }, ablation);
            }
            FromLink::Facts(session, facts) => {
                self.give(at, HaInput::PeerFacts { session, facts }, ablation);
            }
            FromLink::Goodbye(session, epoch) => {
                self.give(at, HaInput::PeerGoodbye { session, epoch }, ablation);
            }
            FromLink::InSync(session, epoch) => {
                self.give(at, HaInput::InSync { session, epoch }, ablation);
            }
            FromLink::Down(session, cause) => {
                self.give(at, HaInput::LinkDown { session, cause }, ablation);
            }
            FromLink::Batch(session, entry) => {
                if server.follows == Some(session) {
                    server.log.push(entry);
                    server.place();
                    let upto = server.log.len();
                    self.send(at, session, FromLink::Durable(session, upto));
                }
            }
            FromLink::Durable(session, upto) => {
                if server.leads == Some(session) {
                    server.acked = upto;
                    self.confirm(at);
                }
            }
            FromLink::SyncDone(session, store, upto) => {
                if server.leads == Some(session) {
                    server.acked = upto;
                    self.give(at, HaInput::SyncDone { session, store }, ablation);
                }
            }
        }
    }

    fn append(&mut self, at: usize, entry: Entry) {
        let server = &mut self.servers[at];
        server.log.push(entry);
        server.place();
        if let (true, Some(session)) = (server.streams, server.leads) {
            self.send(at, session, FromLink::Batch(session, entry));
        }
        self.confirm(at);
    }

    fn work(&mut self, at: usize, ablation: Ablation) {
        match self.servers[at].jobs.pop_front() {
            Some(Job::Persist(record)) => {
                self.servers[at].last_record = Some(record);
                self.give(at, HaInput::Persisted, ablation);
            }
            Some(Job::BeginEpoch(epoch)) => {
                self.append(at, Entry::Epoch(epoch));
                self.give(at, HaInput::EpochBegun(epoch), ablation);
            }
            Some(Job::Drain) => {
                self.servers[at].serving = false;
                self.give(at, HaInput::ClientsDrained, ablation);
            }
            None => {}
        }
    }

    fn try_lock(&mut self, at: usize, ablation: Ablation) {
        if self.holder.is_some() || self.lock_file.is_none() {
            self.give(at, HaInput::LockRefused { holder: None }, ablation);
        } else if let Some(lock) = self.lock_file.clone() {
            self.holder = Some(at);
            let record = self.seen(at, self.record.clone(), ablation);
            let server = &mut self.servers[at];
            server.wants_lock = false;
            let held = HeldLock { lock, record };
            server.from_lock.push_back(HaInput::LockAcquired(held));
        }
    }

    /// What is under way is lost, and each side hears nothing more.
    fn cut(&mut self) {
        if let Some(session) = self.link.take() {
            for server in &mut self.servers {
                let mut kept: VecDeque<FromLink> = VecDeque::new();
                let heard_of = server.machine.as_ref().and_then(HaMachine::peer);
                let up = heard_of.is_some_and(|peer| peer.session == session);
                for message in server.from_link.drain(..) {
                    // What the channel's own end says is not in the channel.
                    let local = matches!(message, FromLink::Up(..) | FromLink::Down(..));
                    if local {
                        kept.push_back(message);
                    }
                }
                let said = kept
                    .iter()
                    .any(|message| matches!(message, FromLink::Up(up, _) if *up == session));
                if up || said {
                    kept.push_back(FromLink::Down(session, LinkEnd::Silent));
                }
                server.from_link = kept;
            }
        }
    }

    fn fail(&mut self, at: usize, id: u64) {
        if id != 0 {
            let answer = ArbiterAnswer::Failed(String::new());
            self.servers[at].answers.push_back((id, answer));
        }
    }

    fn shown(&self, at: usize, answer: ArbiterAnswer, ablation: Ablation) -> ArbiterAnswer {
        match answer {
            ArbiterAnswer::Read { record, lock } => ArbiterAnswer::Read {
                record: self.seen(at, record, ablation),
                lock,
            },
            other => other,
        }
    }
}
