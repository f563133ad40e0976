//! Two machines, one arbiter and one link in memory: answers come at once, timers fire when a test
//! says so.

use std::collections::{BTreeSet, VecDeque};

use crate::machines::ha::*;
use crate::proto::arbiter::{
    ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat, LockIdentity,
};
use crate::proto::ids::{
    ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, SessionId, StoreId,
};
use crate::proto::peer::{Hello, PeerFacts, ServerState};
use crate::storage::api::GatePolicy;

pub(super) const PRIMARY: usize = 0;
pub(super) const SECONDARY: usize = 1;

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
    wants_lock: bool,
    leads: Option<SessionId>,
    follows: Option<SessionId>,
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) servers: [Server; 2],
    pub(super) record: Option<ArbiterRecord>,
    pub(super) lock_file: Option<LockFacts>,
    pub(super) lock_holder: Option<usize>,
    pub(super) arbiter_fails: bool,
    pub(super) link: Option<SessionId>,
    /// Answers of compare-and-set are kept here while a test holds them back.
    pub(super) held_answers: Option<Vec<(usize, HaInput)>>,
    /// Writes that a client was told are durable.
    pub(super) confirmed: Vec<u64>,
    writes: u64,
    wipes: u8,
    sessions: u64,
    queue: VecDeque<(usize, HaInput)>,
}

fn node(server: usize) -> NodeId {
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
            leads: None,
            follows: None,
        };
        Self {
            servers: [server(PRIMARY), server(SECONDARY)],
            record: None,
            lock_file: None,
            lock_holder: None,
            arbiter_fails: false,
            link: None,
            held_answers: None,
            confirmed: Vec::new(),
            writes: 0,
            wipes: 0,
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
        };
        server.machine = Some(HaMachine::new(
            config,
            server.own,
            server.last_record.clone(),
        ));
        server.exited = None;
        self.give(at, HaInput::Started);
    }

    /// `kill -9`: the kernel closes the channel and frees the lock.
    pub(super) fn kill(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.machine = None;
        server.timers.clear();
        server.gate = GatePolicy::Closed;
        server.serving = false;
        server.wants_lock = false;
        (server.leads, server.follows) = (None, None);
        self.queue.retain(|(to, _)| *to != at);
        if let Some(held) = &mut self.held_answers {
            held.retain(|(to, _)| *to != at);
        }
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
        self.give(at, HaInput::Timer(timer));
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
            .find(|at| self.servers[*at].serving);
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
            if (server.serving && server.gate != GatePolicy::Closed) || named {
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
        if self.link.is_none() && self.servers.iter().all(|server| server.machine.is_some()) {
            self.connect();
        }
    }

    /// Lets one of the armed timers of a server fire.
    pub(super) fn fire_any(&mut self, at: usize, choice: u64) {
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

    /// LockKeeper's periodic check, with its heartbeat.
    pub(super) fn check_lock(&mut self, at: usize) {
        if self.lock_holder != Some(at) {
            return;
        }
        let record = self.record.clone().expect("a holder has a record");
        let positions = self
            .servers
            .iter()
            .filter(|server| record.isr.contains(&server.own.store))
            .map(|server| (server.own.store, server.own.position))
            .collect();
        let beat = LockHeartbeat {
            owner: node(at),
            epoch: record.epoch,
            seq: record.seq,
            counter: 0,
            positions,
        };
        self.lock_file.as_mut().expect("a holder has a file").last = Some(beat);
        self.give(
            at,
            HaInput::LockConfirmed {
                record: Some(record),
            },
        );
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

    fn facts(&self, at: usize) -> PeerFacts {
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

    fn run(&mut self) {
        let mut steps = 0;
        while let Some((at, input)) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 2000, "no rest: {self:#?}");
            let own = self.servers[at].own;
            let Some(machine) = self.servers[at].machine.as_mut() else {
                continue;
            };
            let mut effects = Vec::new();
            machine.step(own, input, &mut effects);
            for effect in effects {
                self.act(at, effect);
            }
            assert!(
                !(self.servers[PRIMARY].serving && self.servers[SECONDARY].serving)
                    || self.machine(PRIMARY).epoch() != self.machine(SECONDARY).epoch(),
                "two servers serve in one epoch"
            );
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each effect")]
    fn act(&mut self, at: usize, effect: HaEffect) {
        let server = &mut self.servers[at];
        match effect {
            HaEffect::Arm(timer) => drop(server.timers.insert(timer)),
            HaEffect::Disarm(timer) => drop(server.timers.remove(&timer)),
            HaEffect::Arbiter { id, call } => {
                let holds = matches!(call, ArbiterCall::CompareAndSet(_));
                let answer = self.arbiter(call);
                let input = HaInput::ArbiterAnswered { id, answer };
                match &mut self.held_answers {
                    Some(held) if holds => held.push((at, input)),
                    Some(_) | None => self.queue.push_back((at, input)),
                }
            }
            HaEffect::AcquireLock | HaEffect::RecoverLock => {
                server.wants_lock = true;
                self.offer_lock();
            }
            HaEffect::ReleaseLock => {
                server.wants_lock = false;
                if self.lock_holder == Some(at) {
                    self.lock_holder = None;
                }
                self.queue.push_back((at, HaInput::LockReleased));
                self.offer_lock();
            }
            HaEffect::Persist(record) => {
                server.last_record = Some(record);
                self.queue.push_back((at, HaInput::Persisted));
            }
            HaEffect::Gate(gate) => {
                server.gate = gate;
                if let (GatePolicy::WithPeer, Some(session)) = (gate, server.leads) {
                    self.queue
                        .push_back((at, HaInput::PeerHoldsAll { session }));
                }
            }
            HaEffect::BeginEpoch(epoch) => {
                server.own.position = Position {
                    epoch,
                    lsn: server.own.position.lsn.next(),
                };
                self.queue.push_back((at, HaInput::EpochBegun(epoch)));
            }
            HaEffect::OpenClients { .. } => server.serving = true,
            HaEffect::CloseClients { .. } => server.serving = false,
            HaEffect::DrainClients => {
                server.serving = false;
                self.queue.push_back((at, HaInput::ClientsDrained));
            }
            HaEffect::Lead { session, .. } => {
                server.leads = Some(session);
                self.sync();
            }
            HaEffect::Follow { session, .. } => {
                server.follows = Some(session);
                self.sync();
            }
            HaEffect::StopReplication => (server.leads, server.follows) = (None, None),
            HaEffect::SendInSync { session, epoch } => {
                self.queue
                    .push_back((1 - at, HaInput::InSync { session, epoch }));
            }
            HaEffect::DropLink { session, .. } => {
                if self.link == Some(session) {
                    self.link = None;
                    let cause = LinkEnd::Silent;
                    self.queue
                        .push_back((1 - at, HaInput::LinkDown { session, cause }));
                }
            }
            HaEffect::SayGoodbye { epoch } => {
                if let Some(session) = self.link {
                    self.queue
                        .push_back((1 - at, HaInput::PeerGoodbye { session, epoch }));
                }
            }
            HaEffect::Announce(_) => {
                if let (Some(session), true) = (self.link, self.servers[1 - at].machine.is_some()) {
                    let facts = self.facts(at);
                    self.queue
                        .push_back((1 - at, HaInput::PeerFacts { session, facts }));
                }
            }
            HaEffect::Exit(cause) => server.exited = Some(cause),
            HaEffect::PeerChanged { .. }
            | HaEffect::SteppedDown { .. }
            | HaEffect::Alarmed { .. }
            | HaEffect::ClaimRefused { .. }
            | HaEffect::Store { .. } => {}
        }
    }

    /// Both sides of a resync are there: it happens.
    fn sync(&mut self) {
        for at in [PRIMARY, SECONDARY] {
            let (leads, follows) = (self.servers[at].leads, self.servers[1 - at].follows);
            if let (Some(session), true) = (leads, leads == follows) {
                self.servers[1 - at].own.position = self.servers[at].own.position;
                self.servers[1 - at].log = self.servers[at].log.clone();
                self.servers[1 - at].own.sync_in_progress = false;
                let store = self.servers[1 - at].own.store;
                self.queue
                    .push_back((at, HaInput::SyncDone { session, store }));
            }
        }
    }

    fn offer_lock(&mut self) {
        for at in [PRIMARY, SECONDARY] {
            if !self.servers[at].wants_lock || self.lock_holder == Some(at) {
                continue;
            }
            match (&self.lock_file, self.lock_holder) {
                (Some(lock), None) => {
                    self.lock_holder = Some(at);
                    self.servers[at].wants_lock = false;
                    let held = HeldLock {
                        lock: lock.clone(),
                        record: self.record.clone(),
                    };
                    self.queue.push_back((at, HaInput::LockAcquired(held)));
                }
                (Some(lock), Some(_)) => {
                    let holder = lock.last.clone();
                    self.queue.push_back((at, HaInput::LockRefused { holder }));
                }
                (None, _) => {
                    let reason = "no such file".to_owned();
                    self.queue
                        .push_back((at, HaInput::LockUnreachable { reason }));
                }
            }
        }
    }

    fn arbiter(&mut self, call: ArbiterCall) -> ArbiterAnswer {
        if self.arbiter_fails {
            return ArbiterAnswer::Failed("the share does not answer".into());
        }
        match call {
            ArbiterCall::Read => ArbiterAnswer::Read {
                record: self.record.clone(),
                lock: self.lock_file.clone(),
            },
            ArbiterCall::Create(record) => {
                if self.record.is_some() {
                    return ArbiterAnswer::Conflict(self.record.clone());
                }
                let identity = LockIdentity {
                    nonce: Nonce([7; 16]),
                    device: 1,
                    inode: 2,
                };
                self.lock_file = Some(LockFacts {
                    nonce: identity.nonce,
                    device: identity.device,
                    inode: identity.inode,
                    local: true,
                    last: None,
                });
                self.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::CompareAndSet(next) => {
                if self
                    .record
                    .as_ref()
                    .is_some_and(|now| now.seq.next() == next.seq)
                {
                    self.record = Some(next.clone());
                    ArbiterAnswer::Set(next)
                } else {
                    ArbiterAnswer::Conflict(self.record.clone())
                }
            }
            ArbiterCall::TryLock | ArbiterCall::Unlock | ArbiterCall::Check(_) => {
                unreachable!("LockKeeper's")
            }
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
