//! Two machines, one arbiter and one link in memory: answers come at once, timers fire when a test
//! says so. A server that is paused takes nothing in and keeps its lock; that time has passed meanwhile
//! shows when the other's fence wait ends.

mod arbiter;
mod effects;

use std::collections::{BTreeSet, VecDeque};

use crate::machines::ha::*;
use crate::proto::arbiter::{ArbiterRecord, LockFacts};
use crate::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, Position, RecordSeq, SessionId, StoreId};
use crate::proto::peer::{Hello, PeerFacts, ServerState};
use crate::storage::api::GatePolicy;

pub(super) const PRIMARY: usize = 0;
pub(super) const SECONDARY: usize = 1;
/// Holds the lock of a host that lost its power, until that host is back.
const GHOST: usize = 10;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) machine: Option<HaMachine>,
    pub(super) own: OwnStore,
    pub(super) last_record: Option<ArbiterRecord>,
    pub(super) timers: BTreeSet<HaTimer>,
    pub(super) gate: GatePolicy,
    pub(super) serving: bool,
    pub(super) exited: Option<ExitCause>,
    /// The writes in its log, in order.
    pub(super) log: Vec<u64>,
    backup: Option<(OwnStore, Option<ArbiterRecord>, Vec<u64>)>,
    pub(super) wants_lock: bool,
    /// `SIGSTOP`: what it would hear is kept.
    pub(super) paused: bool,
    stalled: Vec<HaInput>,
    /// It has been paused for longer than its lease.
    lease_over: bool,
    leads: Option<SessionId>,
    follows: Option<SessionId>,
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) servers: [Server; 2],
    pub(super) record: Option<ArbiterRecord>,
    pub(super) lock_file: Option<LockFacts>,
    pub(super) lock_holder: Option<usize>,
    /// Who holds the lock of an older generation.
    older_holders: BTreeSet<usize>,
    pub(super) takeover: Takeover,
    /// The share is this kernel's own file system: locks end only with their holders.
    pub(super) local: bool,
    pub(super) arbiter_fails: bool,
    pub(super) link: Option<SessionId>,
    /// Answers of compare-and-set are kept here while a test holds them back.
    pub(super) held_answers: Option<Vec<(usize, HaInput)>>,
    /// Writes that a client was told are durable.
    pub(super) confirmed: Vec<u64>,
    writes: u64,
    wipes: u8,
    /// Sees each step: the machine before, its store, the input, the machine after.
    pub(super) watch: Option<fn(&HaMachine, OwnStore, &HaInput, &HaMachine)>,
    sessions: u64,
    queue: VecDeque<(usize, HaInput)>,
}

pub(super) fn node(server: usize) -> NodeId {
    NodeId([if server == PRIMARY { 1 } else { 2 }; 16])
}

impl Pair {
    /// Two new stores, an empty share, nothing started.
    pub(super) fn new() -> Self {
        let server = |at: usize| Server {
            machine: None,
            own: OwnStore {
                store: StoreId([if at == PRIMARY { 1 } else { 2 }; 16]),
                position: Position::default(),
                sync_in_progress: false,
            },
            last_record: None,
            timers: BTreeSet::new(),
            gate: GatePolicy::Closed,
            serving: false,
            exited: None,
            log: Vec::new(),
            backup: None,
            wants_lock: false,
            paused: false,
            stalled: Vec::new(),
            lease_over: false,
            leads: None,
            follows: None,
        };
        Self {
            servers: [server(PRIMARY), server(SECONDARY)],
            record: None,
            lock_file: None,
            lock_holder: None,
            older_holders: BTreeSet::new(),
            takeover: Takeover::Fence,
            local: true,
            arbiter_fails: false,
            link: None,
            held_answers: None,
            confirmed: Vec::new(),
            writes: 0,
            wipes: 0,
            watch: None,
            sessions: 0,
            queue: VecDeque::new(),
        }
    }

    /// A pair that is ACTIVE and PASSIVE, the primary active.
    pub(super) fn formed() -> Self {
        let mut pair = Self::new();
        pair.start(PRIMARY);
        pair.start(SECONDARY);
        pair.connect();
        assert_eq!(pair.states(), (ServerState::Active, ServerState::Passive));
        pair
    }

    pub(super) fn start(&mut self, at: usize) {
        let server = &mut self.servers[at];
        let config = HaConfig {
            mode: HaMode::Replicated,
            primary: at == PRIMARY,
            node: node(at),
            cluster: "test".into(),
            new_arbiter: ArbiterId([9; 16]),
            takeover: self.takeover,
        };
        server.machine = Some(HaMachine::new(
            config,
            server.own,
            server.last_record.clone(),
        ));
        server.exited = None;
        if self.lock_holder == Some(GHOST + at) {
            self.lock_holder = None;
        }
        self.give(at, HaInput::Started);
    }

    /// `kill -9`: the kernel closes the channel and frees the lock.
    pub(super) fn kill(&mut self, at: usize) {
        self.forget(at);
        if self.lock_holder == Some(at) {
            self.lock_holder = None;
        }
        if let Some(session) = self.link.take() {
            self.give(
                1 - at,
                HaInput::LinkDown {
                    session,
                    cause: LinkEnd::Ended,
                },
            );
        }
        self.offer_lock();
    }

    /// The host is gone: nothing is closed, and the share keeps its lock.
    pub(super) fn power_off(&mut self, at: usize) {
        self.forget(at);
        if self.lock_holder == Some(at) {
            self.lock_holder = Some(GHOST + at);
        }
        self.silence();
    }

    /// As `kill`, and the watchdog tells the other server about it.
    pub(super) fn kill_with_word(&mut self, at: usize) {
        let epoch = self.machine(at).epoch();
        self.kill(at);
        let node = node(at);
        self.give(1 - at, HaInput::PeerDied { node, epoch });
    }

    fn forget(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.machine = None;
        server.timers.clear();
        server.gate = GatePolicy::Closed;
        server.serving = false;
        server.wants_lock = false;
        (server.paused, server.lease_over) = (false, false);
        server.stalled.clear();
        (server.leads, server.follows) = (None, None);
        self.queue.retain(|(to, _)| *to != at);
        if let Some(held) = &mut self.held_answers {
            held.retain(|(to, _)| *to != at);
        }
        self.older_holders.remove(&at);
    }

    /// `SIGSTOP`: the process does nothing and keeps what it has.
    pub(super) fn pause(&mut self, at: usize) {
        self.servers[at].paused = true;
        self.silence();
    }

    /// `SIGCONT`: the lease is judged before anything else.
    pub(super) fn resume(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.paused = false;
        let stalled = std::mem::take(&mut server.stalled);
        if std::mem::take(&mut server.lease_over) {
            self.queue.push_back((at, HaInput::LeaseExpired));
        }
        let stalled = stalled.into_iter().map(|input| (at, input));
        self.queue.extend(stalled);
        self.run();
    }

    pub(super) fn connect(&mut self) {
        self.connect_with(|_| {});
    }

    /// With hellos that were said earlier; the secondary hears first. The next ping tells the rest.
    pub(super) fn connect_with(&mut self, earlier: impl Fn(&mut PeerFacts)) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.link = Some(session);
        for at in [SECONDARY, PRIMARY] {
            let mut hello = Box::new(self.hello(1 - at));
            earlier(&mut hello.facts);
            self.queue
                .push_back((at, HaInput::LinkUp { session, hello }));
        }
        self.run();
        for at in [SECONDARY, PRIMARY] {
            if self.link == Some(session) {
                let facts = self.facts(1 - at);
                self.queue
                    .push_back((at, HaInput::PeerFacts { session, facts }));
                self.run();
            }
        }
    }

    /// The channel is cut: each side hears nothing more.
    pub(super) fn cut(&mut self) {
        self.silence();
    }

    fn silence(&mut self) {
        if let Some(session) = self.link.take() {
            for at in [PRIMARY, SECONDARY] {
                self.give(
                    at,
                    HaInput::LinkDown {
                        session,
                        cause: LinkEnd::Silent,
                    },
                );
            }
        }
    }

    pub(super) fn fire(&mut self, at: usize, timer: HaTimer) {
        assert!(
            self.servers[at].timers.remove(&timer),
            "{timer:?} is not armed: {self:#?}"
        );
        if timer == HaTimer::FenceWait {
            self.end_lease(1 - at);
        }
        self.give(at, HaInput::Timer(timer));
    }

    /// So much time has passed that a check of the lock has found the record moved on, or that the
    /// lease is over.
    fn end_lease(&mut self, at: usize) {
        if !self.servers[at].serving {
            return;
        }
        if self.servers[at].paused {
            self.servers[at].lease_over = true;
            return;
        }
        let checks = self.lock_holder == Some(at) || self.older_holders.contains(&at);
        self.check_lock(at);
        if checks {
            assert!(!self.servers[at].serving, "a check finds it: {self:#?}");
        } else if self.servers[at].serving {
            self.give(at, HaInput::LeaseExpired);
        }
    }

    pub(super) fn give(&mut self, at: usize, input: HaInput) {
        self.queue.push_back((at, input));
        self.run();
    }

    pub(super) fn machine(&self, at: usize) -> &HaMachine {
        self.servers[at].machine.as_ref().expect("the server runs")
    }

    pub(super) fn states(&self) -> (ServerState, ServerState) {
        let state = |at: usize| {
            self.servers[at]
                .machine
                .as_ref()
                .map_or(ServerState::Dead, |m| m.shown())
        };
        (state(PRIMARY), state(SECONDARY))
    }

    pub(super) fn isr(&self) -> Vec<usize> {
        let record = self.record.as_ref().expect("there is a record");
        let named = |at: &usize| record.isr.contains(&self.servers[*at].own.store);
        [PRIMARY, SECONDARY].into_iter().filter(named).collect()
    }

    /// A client writes to whoever serves. It is confirmed when whoever must hold it does; otherwise it
    /// stays in the log without a confirm.
    pub(super) fn write(&mut self) {
        let at = [PRIMARY, SECONDARY]
            .into_iter()
            .find(|at| self.servers[*at].serving && !self.servers[*at].paused);
        let Some(at) = at else { return };
        self.writes += 1;
        self.servers[at].own.position.lsn = self.servers[at].own.position.lsn.next();
        let write = self.writes;
        self.servers[at].log.push(write);
        match self.servers[at].gate {
            GatePolicy::Alone => self.confirmed.push(write),
            GatePolicy::WithPeer => {
                let leads = self.servers[at].leads;
                if leads.is_some() && leads == self.servers[1 - at].follows && self.link == leads {
                    self.servers[1 - at].own.position = self.servers[at].own.position;
                    self.servers[1 - at].log.push(write);
                    self.confirmed.push(write);
                }
            }
            GatePolicy::Closed | GatePolicy::Following => {}
        }
        self.check_lock(at);
    }

    /// Whoever serves holds every confirmed write (S1), and what is confirmed is held by every store
    /// that the record names.
    pub(super) fn check_nothing_is_lost(&self) {
        for at in [PRIMARY, SECONDARY] {
            let server = &self.servers[at];
            // A disk that was put back is not what the record means: only A1 keeps it from serving.
            let named = server.backup.is_none()
                && self
                    .record
                    .as_ref()
                    .is_some_and(|record| record.holds(server.own.store));
            let speaks = server.serving && !server.lease_over;
            if (speaks && server.gate != GatePolicy::Closed) || named {
                for write in &self.confirmed {
                    assert!(
                        server.log.contains(write),
                        "write {write} is lost: {self:#?}"
                    );
                }
            }
        }
    }

    /// Copies a server's disk, as a snapshot of a virtual machine does.
    pub(super) fn back_up(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.backup = Some((server.own, server.last_record.clone(), server.log.clone()));
    }

    /// Puts the copy back while the server is down.
    pub(super) fn revert(&mut self, at: usize) {
        let server = &mut self.servers[at];
        if let Some((own, record, log)) = server.backup.clone() {
            (server.own, server.last_record, server.log) = (own, record, log);
        }
    }

    /// Not the last store that holds what was confirmed.
    pub(super) fn may_wipe(&self, at: usize) -> bool {
        let other = &self.servers[1 - at];
        let named = self
            .record
            .as_ref()
            .is_some_and(|record| record.holds(other.own.store));
        named && self.wipes < 100
    }

    pub(super) fn connect_if_possible(&mut self) {
        let answers = |server: &Server| server.machine.is_some() && !server.paused;
        if self.link.is_none() && self.servers.iter().all(answers) {
            self.connect();
        }
    }

    /// Lets one of the armed timers of a server fire.
    pub(super) fn fire_any(&mut self, at: usize, choice: u64) {
        if self.servers[at].paused {
            return;
        }
        let armed: Vec<HaTimer> = self.servers[at].timers.iter().copied().collect();
        let choice = usize::try_from(choice % 64).expect("small");
        if let Some(timer) = armed.get(choice % armed.len().max(1)) {
            self.fire(at, *timer);
        }
    }

    /// From now on the answers to compare-and-set come late.
    pub(super) fn hold_answers(&mut self) {
        self.held_answers.get_or_insert_default();
    }

    /// Those that were held back come now.
    pub(super) fn release_answers(&mut self) {
        for (at, input) in self.held_answers.take().unwrap_or_default() {
            self.give(at, input);
        }
    }

    /// The disk is replaced while the server is down.
    pub(super) fn wipe(&mut self, at: usize) {
        self.wipes += 1;
        let server = &mut self.servers[at];
        server.own.store = StoreId([100 + self.wipes; 16]);
        server.own.position = Position::default();
        server.own.sync_in_progress = false;
        server.last_record = None;
        server.log.clear();
    }

    fn hello(&self, at: usize) -> Hello {
        Hello {
            versions: (1, 1),
            features: 0,
            cluster: "test".into(),
            node: node(at),
            primary: at == PRIMARY,
            name: ["primary", "secondary"][at].into(),
            nonce: [0; 16],
            must_agree: Vec::new(),
            facts: self.facts(at),
        }
    }

    pub(super) fn facts(&self, at: usize) -> PeerFacts {
        let server = &self.servers[at];
        let machine = self.machine(at);
        PeerFacts {
            state: machine.shown(),
            previous: machine.previous(),
            claiming: machine.state().claiming(),
            epoch: machine.epoch(),
            store: server.own.store,
            position: server.own.position,
            sync_in_progress: server.own.sync_in_progress,
            arbiter: machine.last_record().map(|record| record.arbiter),
            last_record: machine
                .last_record()
                .map_or(RecordSeq::ZERO, |record| record.seq),
            looked: machine.looked(),
            eligible: machine.eligible(),
            lock: machine.lock_identity(),
        }
    }
}

/// A position of epoch 0, for stores that were filled by hand.
pub(super) fn position(epoch: u64, lsn: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        lsn: Lsn(lsn),
    }
}
