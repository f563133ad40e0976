//! What costs budget: clients' writes, and faults.

use std::collections::VecDeque;

use twinmq::machines::ha::{HaInput, HaMachine, HaState, HaTimer, LinkEnd};
use twinmq::proto::ids::SessionId;

use super::rules::{Rule, Rules};
use super::world::{Entry, FromLink, World, store_id};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    Write(usize),
    Crash(usize),
    /// A crash before the last write, which nobody was promised, is on the disk. The peer may have it.
    CrashTorn(usize),
    /// A crash that the process's parent tells the other of.
    CrashWatched(usize),
    Stop(usize),
    Cut,
    LoseLock,
    Pause(usize),
    CutArbiter(usize),
    /// The change that was asked for first is made, and the answer is lost.
    LoseAnswer(usize),
    /// It is not made, and is told to have failed.
    LoseQuestion(usize),
    /// It is told to have failed, and is made at some time later.
    AnswerLate(usize),
    Wipe(usize),
    /// The disk as it is now is kept, for a later revert.
    TakeImage(usize),
    Revert(usize),
    /// The log that the follower lacks is no longer kept: a new store instead.
    Collect(usize),
    /// What is ready for the server is held back.
    Hold(usize),
    FireEarly(usize, HaTimer),
    TransitionTooLong(usize),
    AckOverdue(usize),
    /// The operator types the epoch that ends, and the copy that was asked for first is made.
    Override(usize),
    LoseRecord,
    /// The operator wants the other server to serve.
    Switchover(usize),
}

impl World {
    pub(crate) fn faults(&self, rules: Rules, faults: &mut Vec<Fault>) {
        let budget = &self.budget;
        let mut offer = |possible: bool, fault: Fault| {
            if possible {
                faults.push(fault);
            }
        };
        offer(budget.cuts > 0 && self.link.is_some(), Fault::Cut);
        offer(
            budget.lost_locks > 0 && self.arbiter.holder.is_some(),
            Fault::LoseLock,
        );
        offer(
            budget.lost_records > 0 && self.record().is_some() && self.arbiter.holder.is_none(),
            Fault::LoseRecord,
        );
        for at in [0, 1] {
            if self.server(at).machine.is_none() {
                self.faults_of_disk(at, faults);
            } else if !self.server(at).paused {
                self.faults_of_process(at, faults);
                self.delays_of(at, rules, faults);
            } else if budget.watched > 0 {
                // Its parent ends a process that stands still (A8).
                faults.push(Fault::CrashWatched(at));
            }
        }
    }

    fn faults_of_disk(&self, at: usize, faults: &mut Vec<Fault>) {
        // Of two disks one must be left that has everything.
        let other = self.server(1 - at);
        let asked = !self.server(at).calls.is_empty();
        let whole = self.named(1 - at) && !other.disk.own.sync_in_progress && !asked;
        let mut offer = |possible: bool, fault: Fault| {
            if possible {
                faults.push(fault);
            }
        };
        offer(self.budget.wipes > 0 && whole, Fault::Wipe(at));
        let image = self.server(at).image.as_deref();
        let older = image.is_some_and(|image| *image != self.server(at).disk);
        offer(self.budget.reverts > 0 && whole && older, Fault::Revert(at));
    }

    fn faults_of_process(&self, at: usize, faults: &mut Vec<Fault>) {
        let (server, budget) = (self.server(at), &self.budget);
        let mut offer = |possible: bool, fault: Fault| {
            if possible {
                faults.push(fault);
            }
        };
        offer(budget.writes > 0 && server.serving, Fault::Write(at));
        offer(budget.crashes > 0, Fault::Crash(at));
        offer(budget.watched > 0, Fault::CrashWatched(at));
        let last = server.disk.log.last();
        let torn = server.disk.log.len() > self.confirmed.len()
            && matches!(last, Some(Entry::Write(_)))
            && server.leads.is_some();
        offer(budget.crashes > 0 && torn, Fault::CrashTorn(at));
        let stopping = matches!(
            server.state(),
            Some(HaState::Draining(_) | HaState::Releasing(_) | HaState::Stopped)
        );
        offer(budget.stops > 0 && !stopping, Fault::Stop(at));
        offer(budget.pauses > 0, Fault::Pause(at));
        offer(
            budget.arbiter_cuts > 0 && !server.cut_off,
            Fault::CutArbiter(at),
        );
        offer(
            budget.switchovers > 0 && self.would_hand_over(at),
            Fault::Switchover(at),
        );
        offer(
            budget.overrides > 0 && self.would_overrule(at),
            Fault::Override(at),
        );
        let asked = server.calls.front().is_some_and(|call| !call.told);
        offer(server.cut_off && asked, Fault::LoseAnswer(at));
        offer(server.cut_off && asked, Fault::LoseQuestion(at));
        offer(server.cut_off && asked, Fault::AnswerLate(at));
        offer(
            budget.reverts > 0 && server.image.is_none(),
            Fault::TakeImage(at),
        );
        let other = self.server(1 - at);
        let meets = server.follows.is_some()
            && self.link == server.follows
            && other.leads == server.follows
            && !other.streams;
        offer(budget.collections > 0 && meets, Fault::Collect(at));
    }

    fn delays_of(&self, at: usize, rules: Rules, faults: &mut Vec<Fault>) {
        if self.budget.delays == 0 {
            return;
        }
        let server = self.server(at);
        let mut offer = |possible: bool, fault: Fault| {
            if possible {
                faults.push(fault);
            }
        };
        offer(
            !server.inbox.is_empty() && server.held.is_none(),
            Fault::Hold(at),
        );
        for timer in [
            HaTimer::PeerWait,
            HaTimer::Patience,
            HaTimer::Retry,
            HaTimer::FenceWait,
            HaTimer::ReEntry,
        ] {
            let early = server.armed(timer) && self.may_fire(at, timer, rules);
            offer(early, Fault::FireEarly(at, timer));
        }
        offer(server.armed(HaTimer::MaxWait), Fault::TransitionTooLong(at));
        offer(
            server.streams && self.link == server.leads,
            Fault::AckOverdue(at),
        );
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each fault")]
    pub(crate) fn suffer(&mut self, fault: Fault, rules: Rules) {
        let budget = &mut self.budget;
        match fault {
            Fault::Write(at) => {
                budget.writes -= 1;
                let entry = Entry::Write(budget.writes);
                self.append(at, entry);
            }
            Fault::Crash(at) => {
                budget.crashes -= 1;
                self.end(at);
            }
            Fault::CrashWatched(at) => {
                budget.watched -= 1;
                let machine = self.server(at).machine.as_ref();
                let epoch = machine.map(HaMachine::epoch);
                self.server_mut(1 - at).death = epoch;
                self.end(at);
            }
            Fault::CrashTorn(at) => {
                budget.crashes -= 1;
                self.tear(at);
                self.end(at);
            }
            Fault::Stop(at) => {
                budget.stops -= 1;
                self.give(at, HaInput::StopRequested, rules);
            }
            Fault::Cut => {
                budget.cuts -= 1;
                self.cut();
            }
            Fault::LoseLock => {
                budget.lost_locks -= 1;
                self.arbiter_mut().holder = None;
            }
            Fault::Pause(at) => {
                budget.pauses -= 1;
                self.server_mut(at).paused = true;
            }
            Fault::CutArbiter(at) => {
                budget.arbiter_cuts -= 1;
                self.server_mut(at).cut_off = true;
            }
            Fault::LoseQuestion(at) => {
                drop(self.server_mut(at).calls.pop_front());
                self.fail(at);
            }
            Fault::LoseAnswer(at) => {
                if let Some(call) = self.server_mut(at).calls.pop_front() {
                    let _lost = self.carry_out(at, call, rules);
                }
                self.fail(at);
            }
            Fault::AnswerLate(at) => {
                if let Some(call) = self.server_mut(at).calls.front_mut() {
                    call.told = true;
                }
                self.fail(at);
            }
            Fault::Wipe(at) => {
                budget.wipes -= 1;
                self.wipe(at, rules);
            }
            Fault::TakeImage(at) => {
                let server = self.server_mut(at);
                server.image = Some(Box::new(server.disk.clone()));
            }
            Fault::Revert(at) => {
                budget.reverts -= 1;
                let server = self.server_mut(at);
                if let Some(image) = server.image.take() {
                    server.disk = *image;
                }
            }
            Fault::Collect(at) => {
                budget.collections -= 1;
                self.begin_sync(at, true, rules);
            }
            Fault::Hold(at) => {
                budget.delays -= 1;
                let server = self.server_mut(at);
                server.held = server.inbox.pop_front();
            }
            Fault::FireEarly(at, timer) => {
                budget.delays -= 1;
                self.fire(at, timer, rules);
            }
            Fault::TransitionTooLong(at) => {
                budget.delays -= 1;
                self.fire(at, HaTimer::MaxWait, rules);
            }
            Fault::AckOverdue(at) => {
                budget.delays -= 1;
                if let Some(session) = self.server(at).leads {
                    self.give(at, HaInput::AckOverdue { session }, rules);
                }
            }
            Fault::Override(at) => {
                budget.overrides -= 1;
                let machine = self.server(at).machine.as_ref();
                if let Some(epoch) = machine.map(|machine| machine.promotion().epoch) {
                    self.give(at, HaInput::PromoteRequested { epoch }, rules);
                }
            }
            Fault::Switchover(at) => {
                budget.switchovers -= 1;
                self.give(at, HaInput::SwitchoverRequested, rules);
            }
            Fault::LoseRecord => {
                budget.lost_records -= 1;
                let arbiter = self.arbiter_mut();
                (arbiter.record, arbiter.lock_file) = (None, None);
            }
        }
    }

    /// The last write never came to the disk; nor did the holder's words that count it.
    fn tear(&mut self, at: usize) {
        let disk = &mut self.server_mut(at).disk;
        disk.log.pop();
        disk.place();
        let own = disk.own;
        if let Some(lock) = &mut self.arbiter_mut().lock_file
            && let Some(beat) = &mut lock.last
        {
            for (store, position) in &mut beat.positions {
                if *store == own.store {
                    *position = own.position.min(*position);
                }
            }
        }
    }

    /// What is under way is lost, and each side hears nothing more.
    fn cut(&mut self) {
        let Some(session) = self.link.take() else {
            return;
        };
        for at in [0, 1] {
            let up = self.heard_of(at, session);
            let server = self.server_mut(at);
            // What the channel's own end says is not in the channel.
            let local =
                |message: &FromLink| matches!(message, FromLink::Up(..) | FromLink::Down(..));
            let mut kept: VecDeque<FromLink> = server.from_link.drain(..).filter(local).collect();
            let said =
                |message: &FromLink| matches!(message, FromLink::Up(up, _) if *up == session);
            if up || kept.iter().any(said) {
                kept.push_back(FromLink::Down(session, LinkEnd::Silent));
            }
            server.from_link = kept;
        }
    }

    /// This server hears nothing of the other, which is stopped: it closes the channel. What it had
    /// sent before is there for the other.
    pub(crate) fn find_silent(&mut self, at: usize) {
        if let Some(session) = self.link {
            self.send(1 - at, session, FromLink::Down(session, LinkEnd::Silent));
            self.send(at, session, FromLink::Down(session, LinkEnd::Silent));
            self.link = None;
        }
    }

    fn wipe(&mut self, at: usize, rules: Rules) {
        let fresh = self.stores + 1;
        let without = rules.lacks(Rule::Stores);
        let server = self.server_mut(at);
        let disk = &mut server.disk;
        if !without {
            disk.own.store = store_id(fresh);
        }
        disk.own.sync_in_progress = false;
        disk.last_record = None;
        disk.log.clear();
        disk.place();
        server.image = None;
        if !without {
            self.stores = fresh;
        }
    }

    /// All that a switchover needs is so: the operator's request is carried out.
    fn would_hand_over(&self, at: usize) -> bool {
        let machine = self.server(at).machine.as_ref();
        let conditions = machine.map(HaMachine::switchover_conditions);
        conditions.is_some_and(|all| all.iter().all(|condition| condition.holds))
    }

    /// The same for an override.
    fn would_overrule(&self, at: usize) -> bool {
        let machine = self.server(at).machine.as_ref();
        let promotion = machine.map(HaMachine::promotion);
        promotion.is_some_and(|asked| asked.conditions.iter().all(|condition| condition.holds))
    }

    /// Something of the world still remembers this session.
    pub(crate) fn knows_session(&self, session: SessionId) -> bool {
        [0, 1].into_iter().any(|at| {
            let server = self.server(at);
            let in_state = match server.state() {
                Some(
                    HaState::PassiveSync { session, .. }
                    | HaState::ActiveSync { session, .. }
                    | HaState::Active { session }
                    | HaState::Passive {
                        session: Some(session),
                    },
                ) => Some(*session),
                _ => None,
            };
            let inputs = server.inbox.iter().chain(&server.held);
            self.heard_of(at, session)
                || [server.leads, server.follows, in_state].contains(&Some(session))
                || server
                    .from_link
                    .iter()
                    .any(|message| message.session() == session)
                || inputs
                    .into_iter()
                    .any(|input| session_of(input) == Some(session))
        })
    }
}

impl FromLink {
    fn session(&self) -> SessionId {
        match self {
            Self::Up(session, _)
            | Self::Facts(session, _)
            | Self::Goodbye(session, _)
            | Self::InSync(session, _)
            | Self::Down(session, _)
            | Self::Batch(session, _)
            | Self::Durable(session, _)
            | Self::SyncDone(session, ..) => *session,
        }
    }
}

fn session_of(input: &HaInput) -> Option<SessionId> {
    match input {
        HaInput::SyncDone { session, .. }
        | HaInput::PeerHoldsAll { session }
        | HaInput::InSync { session, .. } => Some(*session),
        _ => None,
    }
}
