//! Two machines, one arbiter, one link and one store in memory: answers come at once, timers fire when
//! a test says so.

use std::collections::{BTreeSet, VecDeque};

use crate::machines::ha::*;
use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat};
use crate::proto::ids::{
    ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, SessionId, StoreId,
};
use crate::proto::peer::{Hello, PeerFacts, ServerState};
use crate::storage::api::{GatePolicy, StoreAnswer, StoreCall};

pub(super) const PRIMARY: usize = 0;
pub(super) const SECONDARY: usize = 1;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) machine: Option<SharedMachine>,
    pub(super) last_record: Option<ArbiterRecord>,
    pub(super) timers: BTreeSet<HaTimer>,
    pub(super) serving: bool,
    pub(super) exited: Option<ExitCause>,
    pub(super) wants_lock: bool,
    /// The store at its db-path where that is another directory.
    pub(super) sees: Option<StoreId>,
    gate: GatePolicy,
    open: bool,
    was_opened: bool,
    /// What the machine was told of the store's identity.
    looked: StoreId,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) servers: [Server; 2],
    pub(super) record: Option<ArbiterRecord>,
    pub(super) lock_file: Option<LockFacts>,
    pub(super) lock_holder: Option<usize>,
    pub(super) arbiter_fails: bool,
    /// A compare-and-set is not answered; true: it is done all the same.
    pub(super) sets_fail_after: Option<bool>,
    pub(super) link: Option<SessionId>,
    /// Answers of compare-and-set are kept here while a test holds them back.
    pub(super) held_answers: Option<Vec<(usize, HaInput)>>,
    // The store.
    pub(super) store: StoreId,
    pub(super) position: Position,
    pub(super) log: Vec<u64>,
    pub(super) taken_by: Option<usize>,
    pub(super) opened: u32,
    pub(super) store_fails: bool,
    pub(super) close_hangs: bool,
    /// Writes that a client was told are durable.
    pub(super) confirmed: Vec<u64>,
    writes: u64,
    sessions: u64,
    queue: VecDeque<(usize, HaInput)>,
}

pub(super) fn node(server: usize) -> NodeId {
    NodeId([if server == PRIMARY { 1 } else { 2 }; 16])
}

impl World {
    /// An empty share, nothing started.
    pub(super) fn new() -> Self {
        let server = || Server {
            machine: None,
            last_record: None,
            timers: BTreeSet::new(),
            serving: false,
            exited: None,
            wants_lock: false,
            sees: None,
            gate: GatePolicy::Closed,
            open: false,
            was_opened: false,
            looked: StoreId::NONE,
        };
        Self {
            servers: [server(), server()],
            record: None,
            lock_file: None,
            lock_holder: None,
            arbiter_fails: false,
            sets_fail_after: None,
            link: None,
            held_answers: None,
            store: StoreId::NONE,
            position: Position::default(),
            log: Vec::new(),
            taken_by: None,
            opened: 0,
            store_fails: false,
            close_hangs: false,
            confirmed: Vec::new(),
            writes: 0,
            sessions: 0,
            queue: VecDeque::new(),
        }
    }

    /// The primary serves, the secondary stands by.
    pub(super) fn formed() -> Self {
        let mut world = Self::new();
        world.start(PRIMARY);
        world.start(SECONDARY);
        world.connect();
        let states = world.states();
        assert_eq!(states, (ServerState::Active, ServerState::Passive));
        world
    }

    pub(super) fn start(&mut self, at: usize) {
        let config = HaConfig {
            mode: HaMode::Shared,
            primary: at == PRIMARY,
            node: node(at),
            cluster: "test".into(),
            new_arbiter: ArbiterId([9; 16]),
            takeover: Takeover::Lock,
        };
        let server = &mut self.servers[at];
        (server.exited, server.looked) = (None, StoreId::NONE);
        (server.open, server.was_opened) = (false, false);
        let own = closed(StoreId::NONE);
        let machine = SharedMachine::new(config, own, server.last_record.clone());
        server.machine = Some(machine);
        self.give(at, HaInput::Started);
    }

    /// `kill -9`: the kernel closes the channel and frees both locks.
    pub(super) fn kill(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.machine = None;
        server.timers.clear();
        (server.serving, server.wants_lock, server.open) = (false, false, false);
        server.gate = GatePolicy::Closed;
        self.queue.retain(|(to, _)| *to != at);
        if let Some(held) = &mut self.held_answers {
            held.retain(|(to, _)| *to != at);
        }
        if self.lock_holder == Some(at) {
            self.lock_holder = None;
        }
        if self.taken_by == Some(at) {
            self.taken_by = None;
        }
        if let Some(session) = self.link.take() {
            let cause = LinkEnd::Ended;
            self.give(1 - at, HaInput::LinkDown { session, cause });
        }
        self.offer_lock();
        self.run();
    }

    /// Processes whose machine has ended them are gone.
    pub(super) fn end_exited(&mut self) {
        for at in [PRIMARY, SECONDARY] {
            if self.servers[at].exited.is_some() && self.servers[at].machine.is_some() {
                self.kill(at);
            }
        }
    }

    pub(super) fn connect(&mut self) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.link = Some(session);
        for at in [SECONDARY, PRIMARY] {
            let hello = Box::new(self.hello(1 - at));
            self.queue
                .push_back((at, HaInput::LinkUp { session, hello }));
        }
        self.run();
        self.ping();
    }

    /// Each tells the other where it is.
    pub(super) fn ping(&mut self) {
        for at in [SECONDARY, PRIMARY] {
            if let (Some(session), Some(_)) = (self.link, &self.servers[1 - at].machine) {
                let facts = self.facts(1 - at);
                self.give(at, HaInput::PeerFacts { session, facts });
            }
        }
    }

    pub(super) fn connect_if_possible(&mut self) {
        let up = |server: &Server| server.machine.is_some() && server.exited.is_none();
        if self.link.is_none() && self.servers.iter().all(up) {
            self.connect();
        }
    }

    /// The channel is cut: each side hears nothing more.
    pub(super) fn cut(&mut self) {
        if let Some(session) = self.link.take() {
            for at in [PRIMARY, SECONDARY] {
                let cause = LinkEnd::Silent;
                self.give(at, HaInput::LinkDown { session, cause });
            }
        }
    }

    pub(super) fn fire(&mut self, at: usize, timer: HaTimer) {
        let armed = self.servers[at].timers.remove(&timer);
        assert!(armed, "{timer:?} is not armed: {self:#?}");
        self.give(at, HaInput::Timer(timer));
    }

    pub(super) fn retry(&mut self, at: usize) {
        if self.servers[at].timers.remove(&HaTimer::Retry) {
            self.give(at, HaInput::Timer(HaTimer::Retry));
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

    pub(super) fn give(&mut self, at: usize, input: HaInput) {
        self.queue.push_back((at, input));
        self.run();
    }

    pub(super) fn machine(&self, at: usize) -> &SharedMachine {
        self.servers[at].machine.as_ref().expect("the server runs")
    }

    pub(super) fn states(&self) -> (ServerState, ServerState) {
        let state = |at: usize| {
            let machine = self.servers[at].machine.as_ref();
            machine.map_or(ServerState::Dead, |machine| machine.shown())
        };
        (state(PRIMARY), state(SECONDARY))
    }

    /// A client writes to whoever serves; it is confirmed when it is on the shared disk.
    pub(super) fn write(&mut self) {
        for at in [PRIMARY, SECONDARY] {
            let server = &self.servers[at];
            if !server.serving || server.gate != GatePolicy::Alone {
                continue;
            }
            assert!(server.open && self.taken_by == Some(at), "{self:#?}");
            self.writes += 1;
            self.position.lsn = self.position.lsn.next();
            self.log.push(self.writes);
            self.confirmed.push(self.writes);
        }
    }

    /// Everything that was confirmed is in the store, which one process at most has open.
    pub(super) fn check(&self) {
        for write in &self.confirmed {
            assert!(self.log.contains(write), "write {write} is lost: {self:#?}");
        }
        let open = self.servers.iter().filter(|server| server.open).count();
        assert!(open <= 1, "two have the store open: {self:#?}");
        for at in [PRIMARY, SECONDARY] {
            if self.servers[at].open {
                assert_eq!(self.taken_by, Some(at), "{self:#?}");
            }
        }
    }

    /// LockKeeper's periodic check, with its heartbeat.
    pub(super) fn check_lock(&mut self, at: usize) {
        let (Some(holder), Some(record)) = (self.lock_holder, self.record.clone()) else {
            return;
        };
        if holder != at || self.servers[at].machine.is_none() {
            return;
        }
        let own = self.own(at);
        let positions = self.machine(at).positions((own.store, own.position));
        if let Some(lock) = self.lock_file.as_mut() {
            lock.last = Some(LockHeartbeat {
                owner: node(at),
                epoch: record.epoch,
                seq: record.seq,
                counter: 0,
                positions,
            });
        }
        let record = Some(record);
        self.give(at, HaInput::LockConfirmed { record });
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
        let machine = self.machine(at);
        let own = self.own(at);
        PeerFacts {
            state: machine.shown(),
            previous: machine.previous(),
            claiming: machine.state().claiming(),
            epoch: machine.epoch(),
            store: own.store,
            position: own.position,
            sync_in_progress: false,
            arbiter: machine.last_record().map(|record| record.arbiter),
            last_record: machine
                .last_record()
                .map_or(RecordSeq::ZERO, |record| record.seq),
            looked: machine.looked(),
            eligible: machine.eligible(),
            lock: None,
        }
    }

    fn own(&self, at: usize) -> OwnStore {
        let server = &self.servers[at];
        if server.open {
            OwnStore {
                store: self.store,
                position: self.position,
                sync_in_progress: false,
            }
        } else {
            closed(server.looked)
        }
    }

    fn run(&mut self) {
        let mut steps = 0;
        while let Some((at, input)) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 2000, "no rest: {self:#?}");
            let own = self.own(at);
            let Some(machine) = self.servers[at].machine.as_mut() else {
                continue;
            };
            let mut effects = Vec::new();
            machine.step(own, input, &mut effects);
            for effect in effects {
                self.act(at, effect);
            }
            let [one, other] = &self.servers;
            assert!(!(one.serving && other.serving), "two serve: {self:#?}");
        }
    }

    fn act(&mut self, at: usize, effect: HaEffect) {
        let server = &mut self.servers[at];
        match effect {
            HaEffect::Arm(timer) => drop(server.timers.insert(timer)),
            HaEffect::Disarm(timer) => drop(server.timers.remove(&timer)),
            HaEffect::Arbiter { id, call } => self.ask_arbiter(at, id, call),
            HaEffect::Store { id, call } => {
                if let Some(answer) = self.store(at, call) {
                    self.queue
                        .push_back((at, HaInput::StoreAnswered { id, answer }));
                }
            }
            HaEffect::AcquireLock => {
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
            HaEffect::Gate(gate) => server.gate = gate,
            HaEffect::BeginEpoch(epoch) => {
                assert!(self.taken_by == Some(at) && server.open, "{self:#?}");
                self.position.epoch = epoch;
                self.position.lsn = self.position.lsn.next();
                self.queue.push_back((at, HaInput::EpochBegun(epoch)));
            }
            HaEffect::OpenClients { .. } => server.serving = true,
            HaEffect::CloseClients { .. } => server.serving = false,
            HaEffect::DrainClients => {
                server.serving = false;
                self.queue.push_back((at, HaInput::ClientsDrained));
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
            | HaEffect::ClaimRefused { .. } => {}
            HaEffect::DropLink { session, .. } => {
                if self.link == Some(session) {
                    self.link = None;
                }
            }
            HaEffect::RecoverLock
            | HaEffect::Lead { .. }
            | HaEffect::Follow { .. }
            | HaEffect::StopReplication
            | HaEffect::SendInSync { .. } => panic!("not in shared mode: {effect:?}"),
        }
    }

    fn ask_arbiter(&mut self, at: usize, id: u64, call: ArbiterCall) {
        let sets = matches!(call, ArbiterCall::CompareAndSet(_));
        let answer = match self.sets_fail_after {
            Some(done) if sets => {
                if done {
                    self.arbiter(call);
                }
                ArbiterAnswer::Failed("no answer".into())
            }
            Some(_) | None => self.arbiter(call),
        };
        let input = HaInput::ArbiterAnswered { id, answer };
        match &mut self.held_answers {
            Some(held) if sets => held.push((at, input)),
            Some(_) | None => self.queue.push_back((at, input)),
        }
    }

    /// The store, as its door answers for a server.
    fn store(&mut self, at: usize, call: StoreCall) -> Option<StoreAnswer> {
        let closes = matches!(call, StoreCall::Leave | StoreCall::Close);
        if self.store_fails && !closes {
            return Some(StoreAnswer::Failed("the mount does not answer".into()));
        }
        Some(match call {
            StoreCall::Look => {
                let there = self.servers[at].sees.unwrap_or(self.store);
                self.servers[at].looked = there;
                StoreAnswer::Seen((there != StoreId::NONE).then_some(there))
            }
            StoreCall::Found | StoreCall::Take
                if self.taken_by.is_some_and(|other| other != at) =>
            {
                StoreAnswer::InUse("process 1".into())
            }
            StoreCall::Found => {
                if self.store == StoreId::NONE {
                    self.store = StoreId([5; 16]);
                }
                self.servers[at].looked = self.store;
                StoreAnswer::Founded(self.store, self.position.epoch)
            }
            StoreCall::Take => {
                self.taken_by = Some(at);
                let local = self.lock_file.as_ref().is_some_and(|lock| lock.local);
                StoreAnswer::Taken { local }
            }
            StoreCall::Open => {
                let server = &mut self.servers[at];
                assert!(self.taken_by == Some(at), "open without the data file");
                assert!(!server.was_opened, "opened twice by one process");
                (server.open, server.was_opened) = (true, true);
                self.opened += 1;
                StoreAnswer::Opened
            }
            StoreCall::Leave => {
                self.leave(at);
                StoreAnswer::Left
            }
            StoreCall::Close if self.close_hangs => return None,
            StoreCall::Close => {
                self.servers[at].open = false;
                self.leave(at);
                StoreAnswer::Closed
            }
        })
    }

    fn leave(&mut self, at: usize) {
        if self.taken_by == Some(at) {
            self.taken_by = None;
        }
    }

    pub(super) fn offer_lock(&mut self) {
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
                self.lock_file = Some(LockFacts {
                    nonce: Nonce([7; 16]),
                    device: 1,
                    inode: 2,
                    local: true,
                    last: None,
                });
                self.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::CompareAndSet(next) => {
                let now = self.record.as_ref();
                if now.is_some_and(|now| now.seq.next() == next.seq) {
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

/// As a server knows a store that it has not opened.
fn closed(store: StoreId) -> OwnStore {
    OwnStore {
        store,
        position: Position {
            epoch: Epoch::ZERO,
            lsn: Lsn::ZERO,
        },
        sync_in_progress: false,
    }
}
