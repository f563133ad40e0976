//! How a machine's effects are carried out: what is quick happens at once, what others answer is under
//! way until an action of its own.

use twinmq::machines::ha::{Claim, HaEffect, HaInput, HaMachine, HaState, HaTimer, LinkEnd};
use twinmq::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat};
use twinmq::proto::ids::{Nonce, Position, RecordSeq, SessionId, StoreId};
use twinmq::proto::peer::{Hello, PeerFacts, ServerState};
use twinmq::storage::api::GatePolicy;

use super::rules::{Rule, Rules, Words};
use super::world::{Call, Entry, FromLink, Job, World, node};

impl World {
    /// Gives a machine one input and carries out what it wants.
    pub(crate) fn give(&mut self, at: usize, input: HaInput, rules: Rules) {
        let server = self.server_mut(at);
        let Some(machine) = &mut server.machine else {
            return;
        };
        let mut own = server.disk.own;
        own.sync_in_progress &= !rules.lacks(Rule::R4);
        let mut effects = Vec::new();
        machine.step(own, input, &mut effects);
        machine.forget_history();
        let serves = machine.shown().serves();
        for effect in effects {
            self.act(at, effect, rules);
        }
        if serves && self.server(at).armed(HaTimer::PeerWait) {
            // Nobody who serves asks whether it has fired.
            self.server_mut(at).arm(HaTimer::PeerWait, false);
        }
    }

    /// What a server's own parts have ready is given to its machine, unless such things may be late.
    pub(crate) fn settle(&mut self, rules: Rules) {
        loop {
            if self.budget.delays == 0
                && let Some(at) = self.with_inbox()
            {
                self.deliver(at, rules);
            } else if ![0, 1]
                .into_iter()
                .any(|at| self.takes_in_silently(at, rules))
            {
                return;
            }
        }
    }

    /// An input that changes nothing but what this server remembers is taken in at once:
    ///
    /// * what the other said of itself. It commutes with whatever the other and the arbiter do, since
    ///   they cannot see it, and with a crash or a cut, which make it forgotten; and every input to the
    ///   same server looks at what is remembered again.
    /// * a timer that is left from before, in a state that does not look at it. That is one of the
    ///   orders in which it may come.
    fn takes_in_silently(&mut self, at: usize, rules: Rules) -> bool {
        let server = self.server(at);
        if !server.runs() || !server.inbox.is_empty() {
            return false;
        }
        if let Some(FromLink::Facts(session, facts)) = server.from_link.front() {
            let (session, facts) = (*session, facts.clone());
            let after = self.silently(at, HaInput::PeerFacts { session, facts }, rules);
            if after.is_some() {
                let server = self.server_mut(at);
                server.from_link.pop_front();
                server.machine = after;
                return true;
            }
        }
        let looks = matches!(
            self.server(at).state(),
            Some(HaState::Waiting(
                Claim::Idle | Claim::Reading | Claim::Locking
            ))
        );
        for timer in [HaTimer::Patience, HaTimer::Retry, HaTimer::ReEntry] {
            if looks || !self.server(at).armed(timer) {
                continue;
            }
            let after = self.silently(at, HaInput::Timer(timer), rules);
            if after.is_some() {
                let server = self.server_mut(at);
                server.arm(timer, false);
                server.machine = after;
                return true;
            }
        }
        false
    }

    /// The machine after an input, if that has no effect.
    pub(crate) fn silently(&self, at: usize, input: HaInput, rules: Rules) -> Option<HaMachine> {
        let server = self.server(at);
        let mut machine = server.machine.clone()?;
        let mut own = server.disk.own;
        own.sync_in_progress &= !rules.lacks(Rule::R4);
        let mut effects = Vec::new();
        machine.step(own, input, &mut effects);
        let silent = |effect: &HaEffect| matches!(effect, HaEffect::PeerChanged { .. });
        machine.forget_history();
        effects.iter().all(silent).then_some(machine)
    }

    pub(crate) fn with_inbox(&self) -> Option<usize> {
        let ready = |at: &usize| self.server(*at).runs() && !self.server(*at).inbox.is_empty();
        [0, 1].into_iter().find(ready)
    }

    pub(crate) fn deliver(&mut self, at: usize, rules: Rules) {
        if let Some(input) = self.server_mut(at).inbox.pop_front() {
            self.give(at, input, rules);
        }
    }

    /// Of where it is only a server that waits is asked, and of whether it may be promoted also one
    /// that a switchover would promote: what others would say of that is left out.
    pub(crate) fn facts(&self, at: usize, rules: Rules) -> PeerFacts {
        let server = self.server(at);
        let machine = server.machine.as_ref().expect("it runs");
        let last = machine.last_record();
        let waits = machine.shown() == ServerState::Waiting;
        let promotes = waits || self.hands_over && machine.shown() == ServerState::Passive;
        PeerFacts {
            state: machine.shown(),
            // For people only: the same for all, so that it does not tell states apart.
            previous: machine.shown(),
            claiming: machine.state().claiming(),
            epoch: machine.epoch(),
            store: server.disk.own.store,
            position: if waits {
                server.disk.own.position
            } else {
                Position::default()
            },
            sync_in_progress: server.disk.own.sync_in_progress && !rules.lacks(Rule::R4) && waits,
            arbiter: last.map(|record| record.arbiter),
            last_record: last.map_or(RecordSeq::ZERO, |record| record.seq),
            looked: machine.looked(),
            eligible: promotes && machine.eligible(),
            lock: machine.lock_identity(),
        }
    }

    fn act(&mut self, at: usize, effect: HaEffect, rules: Rules) {
        match effect {
            HaEffect::Arm(timer) => self.server_mut(at).arm(timer, true),
            HaEffect::Disarm(timer) => self.server_mut(at).arm(timer, false),
            HaEffect::Arbiter { call, .. } => self.ask(at, call, rules),
            HaEffect::AcquireLock | HaEffect::RecoverLock => self.server_mut(at).wants_lock = true,
            HaEffect::ReleaseLock => self.release_lock(at),
            HaEffect::Persist(record) => self.persist(at, record),
            HaEffect::BeginEpoch(epoch) => {
                self.append(at, Entry::Epoch(epoch));
                let begun = HaInput::EpochBegun(epoch);
                self.server_mut(at).inbox.push_back(begun);
            }
            HaEffect::Gate(gate) => {
                // Without R5 it is only demanded once the set has been extended.
                if !(rules.lacks(Rule::R5) && gate == GatePolicy::WithPeer) {
                    self.set_gate(at, gate);
                } else if let Some(session) = self.server(at).leads {
                    let holds = HaInput::PeerHoldsAll { session };
                    self.server_mut(at).inbox.push_back(holds);
                }
            }
            HaEffect::OpenClients { .. } => self.server_mut(at).serving = true,
            HaEffect::CloseClients { .. } => {
                let server = self.server_mut(at);
                server.serving = false;
                // Nobody is left to be answered.
                server.jobs.retain(|job| *job != Job::Drain);
            }
            HaEffect::DrainClients => self.server_mut(at).jobs.push_back(Job::Drain),
            HaEffect::Lead { session, .. } => {
                let server = self.server_mut(at);
                (server.leads, server.streams, server.acked) = (Some(session), false, 0);
                server.must_hold = None;
            }
            HaEffect::Follow { session, .. } => {
                let server = self.server_mut(at);
                (server.follows, server.preparing) = (Some(session), false);
            }
            HaEffect::StopReplication => {
                let server = self.server_mut(at);
                (server.leads, server.follows, server.streams) = (None, None, false);
                (server.acked, server.must_hold, server.preparing) = (0, None, false);
            }
            HaEffect::SendInSync { session, epoch } => {
                if rules.lacks(Rule::R5) {
                    self.set_gate(at, GatePolicy::WithPeer);
                }
                self.send(at, session, FromLink::InSync(session, epoch));
            }
            HaEffect::DropLink { session, .. } => {
                if self.link == Some(session) {
                    self.send(at, session, FromLink::Down(session, LinkEnd::Silent));
                    self.link = None;
                }
            }
            HaEffect::SayGoodbye { epoch } => {
                if let Some(session) = self.link {
                    self.send(at, session, FromLink::Goodbye(session, epoch));
                }
            }
            HaEffect::Announce(_) => {
                if let Some(session) = self.link {
                    let facts = self.facts(at, rules);
                    self.send(at, session, FromLink::Facts(session, facts));
                }
            }
            HaEffect::Exit(_) => self.end(at),
            HaEffect::PeerChanged { .. }
            | HaEffect::SteppedDown { .. }
            | HaEffect::Alarmed { .. }
            | HaEffect::ClaimRefused { .. }
            | HaEffect::Store { .. } => {}
        }
    }

    /// The process is gone: the kernel closes the channel after what was sent, and frees the lock.
    pub(crate) fn end(&mut self, at: usize) {
        self.server_mut(at).end();
        self.unlock(at);
        if let Some(session) = self.link {
            self.send(at, session, FromLink::Down(session, LinkEnd::Ended));
            self.link = None;
        }
    }

    /// From this server to the other, in order.
    pub(crate) fn send(&mut self, at: usize, session: SessionId, message: FromLink) {
        if self.link == Some(session) {
            self.server_mut(1 - at).from_link.push_back(message);
        }
    }

    /// Only a claim waits for it.
    fn persist(&mut self, at: usize, record: ArbiterRecord) {
        let crashes = self.budget.crashes > 0;
        let server = self.server_mut(at);
        let claims = server.state() == Some(&HaState::Waiting(Claim::Persisting));
        if claims && crashes {
            server.jobs.push_back(Job::Persist(record));
        } else {
            server.disk.last_record = Some(record);
            if claims {
                server.inbox.push_back(HaInput::Persisted);
            }
        }
    }

    /// A read is answered at once: what it tells may be old by the time that it is used all the same,
    /// because the machine keeps it. A change is under way until it is carried out.
    fn ask(&mut self, at: usize, call: ArbiterCall, rules: Rules) {
        let shrinks = self.shrinks(at, &call);
        let server = self.server_mut(at);
        // At most one call is awaited: the answers of earlier ones mean nothing any more.
        for call in &mut server.calls {
            call.told = true;
        }
        let answers = |input: &HaInput| matches!(input, HaInput::ArbiterAnswered { .. });
        server.inbox.retain(|input| !answers(input));
        server.held.take_if(|input| answers(input));
        match call {
            ArbiterCall::Read if server.cut_off => self.fail(at),
            ArbiterCall::Read => {
                let answer = ArbiterAnswer::Read {
                    record: self.seen(at, rules),
                    lock: self.arbiter.lock_file.clone(),
                };
                self.answer(at, answer);
            }
            ArbiterCall::CompareAndSet(next) if shrinks && rules.lacks(Rule::R2) => {
                self.answer(at, ArbiterAnswer::Set(next));
            }
            call @ (ArbiterCall::Create(_) | ArbiterCall::CompareAndSet(_)) => {
                let server = self.server_mut(at);
                let overrules = server.machine.as_ref().is_some_and(HaMachine::overrules);
                server.calls.push_back(Call {
                    call,
                    told: false,
                    overrules,
                });
            }
            ArbiterCall::TryLock | ArbiterCall::Unlock | ArbiterCall::Check(_) => {
                unreachable!("the machine leaves the lock to LockKeeper")
            }
        }
    }

    fn shrinks(&self, at: usize, call: &ArbiterCall) -> bool {
        let shrinking = matches!(self.server(at).state(), Some(HaState::Shrinking { .. }));
        matches!(call, ArbiterCall::CompareAndSet(next) if shrinking && next.isr.len() == 1)
    }

    pub(crate) fn answer(&mut self, at: usize, answer: ArbiterAnswer) {
        let input = HaInput::ArbiterAnswered { id: 1, answer };
        self.server_mut(at).inbox.push_back(input);
    }

    pub(crate) fn fail(&mut self, at: usize) {
        self.answer(at, ArbiterAnswer::Failed(String::new()));
    }

    fn release_lock(&mut self, at: usize) {
        let server = self.server_mut(at);
        server.wants_lock = false;
        // Only an orderly stop and a hand-over look at this answer.
        if matches!(server.state(), Some(HaState::Releasing(_))) {
            server.inbox.push_back(HaInput::LockReleased);
        }
        self.unlock(at);
    }

    /// Of whichever generation.
    pub(crate) fn unlock(&mut self, at: usize) {
        let arbiter = self.arbiter_mut();
        arbiter.holds_older[at] = false;
        arbiter.holder.take_if(|holder| *holder == at);
    }

    fn set_gate(&mut self, at: usize, gate: GatePolicy) {
        let confirmed = self.confirmed.len();
        let server = self.server_mut(at);
        if gate == GatePolicy::WithPeer && server.gate != gate {
            server.must_hold = Some(confirmed);
        }
        server.gate = gate;
        self.confirm(at);
    }

    pub(crate) fn append(&mut self, at: usize, entry: Entry) {
        let server = self.server_mut(at);
        server.disk.log.push(entry);
        server.disk.place();
        if let (true, Some(session)) = (server.streams, server.leads) {
            self.send(at, session, FromLink::Batch(session, entry));
        }
        self.confirm(at);
    }

    /// One change of the record, carried out. The arbiter does one thing after the other.
    pub(crate) fn carry_out(&mut self, at: usize, call: Call, rules: Rules) -> ArbiterAnswer {
        let answer = self.change(call.call, rules);
        let changed = matches!(answer, ArbiterAnswer::Set(_) | ArbiterAnswer::Created(_));
        if call.overrules && changed {
            self.give_up_beyond(at);
        }
        answer
    }

    fn change(&mut self, call: ArbiterCall, rules: Rules) -> ArbiterAnswer {
        let found = self.arbiter.record.clone();
        let arbiter = self.arbiter_mut();
        match call {
            ArbiterCall::Create(record) => {
                if found.is_some() {
                    return ArbiterAnswer::Conflict(found);
                }
                arbiter.lock_file = Some(LockFacts {
                    nonce: Nonce([7; 16]),
                    device: 1,
                    inode: record.generation.0,
                    local: true,
                    last: None,
                });
                arbiter.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::CompareAndSet(next) => {
                let expected = found.as_ref().map(|now| now.seq.next());
                if expected == Some(next.seq) || rules.lacks(Rule::R8) {
                    let before = found.map(|now| now.generation);
                    if let (true, Some(lock)) =
                        (before != Some(next.generation), &mut arbiter.lock_file)
                    {
                        // A new file, with what the old one tells of both stores.
                        lock.inode = next.generation.0;
                        if let Some(holder) = arbiter.holder.take() {
                            arbiter.holds_older[holder] = true;
                        }
                    }
                    arbiter.record = Some(next.clone());
                    ArbiterAnswer::Set(next)
                } else {
                    ArbiterAnswer::Conflict(found)
                }
            }
            ArbiterCall::Read
            | ArbiterCall::TryLock
            | ArbiterCall::Unlock
            | ArbiterCall::Check(_) => {
                unreachable!("only changes are under way")
            }
        }
    }

    /// As this server is shown the record.
    pub(crate) fn seen(&self, at: usize, rules: Rules) -> Option<ArbiterRecord> {
        let own = self.server(at).disk.own.store;
        let mut record = self.record().cloned();
        if let (Some(record), true) = (&mut record, rules.lacks(Rule::R1))
            && !record.holds(own)
        {
            record.isr.push(own);
        }
        record
    }

    /// What the holder of the lock would write into the file (A1).
    pub(crate) fn words(&self, at: usize) -> Option<LockHeartbeat> {
        let server = self.server(at);
        let mut machine = server.machine.clone().filter(HaMachine::holds_lock)?;
        let seq = machine.record()?.seq;
        let own = server.disk.own;
        let follower = self.follower_position(at);
        Some(LockHeartbeat {
            owner: node(at),
            epoch: machine.epoch(),
            seq,
            counter: 0,
            positions: machine.positions((own.store, own.position), follower),
        })
    }

    /// The follower's copy as far as this leader knows it to be durable.
    fn follower_position(&self, at: usize) -> Option<(StoreId, Position)> {
        let server = self.server(at);
        let other = self.server(1 - at);
        if server.leads.is_none() || server.acked == 0 {
            return None;
        }
        let mut disk = server.disk.clone();
        disk.log.truncate(server.acked);
        disk.place();
        Some((other.disk.own.store, disk.own.position))
    }

    /// The words of a holder that serves are written.
    pub(crate) fn beat(&mut self, at: usize) {
        let words = self.words(at);
        if let (Some(words), true) = (words, self.arbiter.holder == Some(at))
            && let Some(lock) = &self.arbiter.lock_file
            && lock.last.as_ref() != Some(&words)
            && let Some(lock) = &mut self.arbiter_mut().lock_file
        {
            lock.last = Some(words);
        }
        let own = self.server(at).disk.own;
        let follower = self.follower_position(at);
        if let Some(machine) = &mut self.server_mut(at).machine {
            drop(machine.positions((own.store, own.position), follower));
        }
    }

    /// Where nobody can tell when they were written, they are written at once.
    pub(crate) fn keep_words(&mut self, rules: Rules) {
        if let (Some(at), Words::AtOnce) = (self.arbiter.holder, rules.words)
            && self.server(at).runs()
            && !self.server(at).cut_off
        {
            self.beat(at);
        }
    }

    pub(crate) fn heard_of(&self, at: usize, session: SessionId) -> bool {
        let machine = self.server(at).machine.as_ref();
        let known = machine.and_then(HaMachine::peer);
        known.is_some_and(|peer| peer.session == session)
    }
}

pub(crate) fn hello(from: usize, facts: PeerFacts) -> Box<Hello> {
    Box::new(Hello {
        versions: (1, 1),
        features: 0,
        cluster: String::new(),
        node: node(from),
        primary: from == 0,
        name: String::new(),
        nonce: [0; 16],
        must_agree: Vec::new(),
        facts,
    })
}
