//! The state that is searched: two servers with what is under way to each, the arbiter, the channel,
//! and what clients have been told.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use twinmq::machines::ha::{
    HaConfig, HaInput, HaMachine, HaMode, HaState, HaTimer, OwnStore, Takeover,
};
use twinmq::proto::arbiter::{ArbiterCall, ArbiterRecord, LockFacts};
use twinmq::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, Position, SessionId, StoreId};
use twinmq::proto::log::EpochStart;
use twinmq::proto::peer::PeerFacts;
use twinmq::storage::api::GatePolicy;

use super::budget::Budget;
use super::digest::Digest;
use super::rebase::Lowest;

/// One record of a log; its place in the log is its LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Epoch(Epoch),
    Write(u8),
}

/// What comes to a server over the channel, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FromLink {
    Up(SessionId, PeerFacts),
    Facts(SessionId, PeerFacts),
    Goodbye(SessionId, Epoch),
    InSync(SessionId, Epoch),
    Down(SessionId, twinmq::machines::ha::LinkEnd),
    Batch(SessionId, Entry),
    /// The follower has this many records of the session's leader on disk.
    Durable(SessionId, usize),
    SyncDone(SessionId, StoreId, usize),
}

/// A change of the record that has been asked for and not been carried out yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    pub(crate) call: ArbiterCall,
    /// Nobody waits for the answer: the asker gave it up, or was told "failed" already.
    pub(crate) told: bool,
    /// An operator has said that what this server lacks may be given up.
    pub(crate) overrules: bool,
}

/// What is asked of the store or the client side, and takes its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    Persist(ArbiterRecord),
    Drain,
}

/// What a crash leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) own: OwnStore,
    pub(crate) last_record: Option<ArbiterRecord>,
    pub(crate) log: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// None while the process is down.
    pub(crate) machine: Option<HaMachine>,
    pub(crate) disk: Disk,
    /// An older image of the disk, for a revert.
    pub(crate) image: Option<Box<Disk>>,
    pub(crate) gate: GatePolicy,
    /// Clients are connected.
    pub(crate) serving: bool,
    /// Stopped by a signal: nothing is taken in.
    pub(crate) paused: bool,
    /// While it was paused, time has passed: it will find its lease over when it goes on.
    pub(crate) lease_over: bool,
    /// The share does not answer this server.
    pub(crate) cut_off: bool,
    /// The other's parent process has something to tell: it has ended, and in which epoch (A8).
    pub(crate) death: Option<Epoch>,
    /// Down for good.
    pub(crate) gone: bool,
    /// One bit for each timer that is armed.
    pub(crate) timers: u8,
    pub(crate) wants_lock: bool,
    pub(crate) leads: Option<SessionId>,
    pub(crate) follows: Option<SessionId>,
    /// As leader: the follower has had a whole copy and gets each batch.
    pub(crate) streams: bool,
    /// As follower: the resync has begun.
    pub(crate) preparing: bool,
    /// As leader: how many records the follower has on disk.
    pub(crate) acked: usize,
    /// As leader: how many the follower must hold before that is reported.
    pub(crate) must_hold: Option<usize>,
    pub(crate) from_link: VecDeque<FromLink>,
    /// Answers and reports of the server's own parts: they come at once, unless one is held back.
    pub(crate) inbox: VecDeque<HaInput>,
    /// Held back: comes at any time later.
    pub(crate) held: Option<HaInput>,
    pub(crate) calls: VecDeque<Call>,
    pub(crate) jobs: VecDeque<Job>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Arbiter {
    pub(crate) record: Option<ArbiterRecord>,
    pub(crate) lock_file: Option<LockFacts>,
    /// Of the lock of the generation that the record names.
    pub(crate) holder: Option<usize>,
    /// Holds the lock of an older generation still.
    pub(crate) holds_older: [bool; 2],
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    servers: [Arc<Server>; 2],
    /// Of each server, so that a step hashes only what it changed.
    digests: [u64; 2],
    lowest: [Lowest; 2],
    changed: [bool; 2],
    pub(crate) arbiter: Arc<Arbiter>,
    /// The channel, while both ends may speak through it.
    pub(crate) link: Option<SessionId>,
    /// What has been confirmed (or delivered), by its LSN.
    pub(crate) confirmed: Vec<Entry>,
    /// Two things were confirmed at one LSN.
    pub(crate) forked: bool,
    /// Stores made so far, for the next one's identity.
    pub(crate) stores: u8,
    pub(crate) budget: Budget,
    /// See `rebase`.
    pub(crate) counts_anew: bool,
    /// Whoever follows tells whether it may be promoted: a switchover asks for it.
    pub(crate) hands_over: bool,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.servers == other.servers
            && self.arbiter == other.arbiter
            && self.link == other.link
            && self.confirmed == other.confirmed
            && self.forked == other.forked
            && self.budget == other.budget
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash_present(state);
        self.forked.hash(state);
        self.budget.hash(state);
    }
}

pub(crate) fn node(at: usize) -> NodeId {
    NodeId([if at == 0 { 1 } else { 2 }; 16])
}

pub(crate) fn store_id(number: u8) -> StoreId {
    StoreId([number; 16])
}

pub(crate) fn config(at: usize, takeover: Takeover) -> HaConfig {
    HaConfig {
        mode: HaMode::Replicated,
        primary: at == 0,
        node: node(at),
        cluster: String::new(),
        new_arbiter: ArbiterId([9; 16]),
        takeover,
    }
}

impl Entry {
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Epoch(epoch) => Some(*epoch),
            Self::Write(_) => None,
        }
    }
}

impl Disk {
    fn new(at: usize) -> Self {
        Self {
            own: OwnStore {
                store: store_id(if at == 0 { 1 } else { 2 }),
                position: Position::default(),
                sync_in_progress: false,
            },
            last_record: None,
            log: Vec::new(),
        }
    }

    /// The store is what its log is.
    pub(crate) fn place(&mut self) {
        self.own.position = Position {
            epoch: self
                .epochs()
                .last()
                .map_or(Epoch::ZERO, |start| start.epoch),
            lsn: Lsn(self.log.len() as u64),
        };
    }

    pub(crate) fn epochs(&self) -> Vec<EpochStart> {
        let start = |(at, entry): (usize, &Entry)| match entry {
            Entry::Epoch(epoch) => Some(EpochStart {
                epoch: *epoch,
                start: Lsn(at as u64 + 1),
            }),
            Entry::Write(_) => None,
        };
        self.log.iter().enumerate().filter_map(start).collect()
    }
}

impl Server {
    fn new(at: usize) -> Self {
        Self::on(Disk::new(at))
    }

    /// A process that is not started, on this disk.
    fn on(disk: Disk) -> Self {
        Self {
            machine: None,
            disk,
            image: None,
            gate: GatePolicy::Closed,
            serving: false,
            paused: false,
            lease_over: false,
            cut_off: false,
            death: None,
            gone: false,
            timers: 0,
            wants_lock: false,
            leads: None,
            follows: None,
            streams: false,
            preparing: false,
            acked: 0,
            must_hold: None,
            from_link: VecDeque::new(),
            inbox: VecDeque::new(),
            held: None,
            calls: VecDeque::new(),
            jobs: VecDeque::new(),
        }
    }

    /// What the end of the process leaves: the disk, and what the arbiter was asked to do.
    pub(crate) fn end(&mut self) {
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain_mut(|call| {
            call.told = true;
            true
        });
        *self = Self {
            image: self.image.take(),
            cut_off: self.cut_off,
            gone: self.gone,
            calls,
            ..Self::on(self.disk.clone())
        };
    }

    pub(crate) fn state(&self) -> Option<&HaState> {
        self.machine.as_ref().map(HaMachine::state)
    }

    /// The process takes inputs.
    pub(crate) fn runs(&self) -> bool {
        self.machine.is_some() && !self.paused
    }

    pub(crate) fn armed(&self, timer: HaTimer) -> bool {
        self.timers & (1 << timer as u8) != 0
    }

    pub(crate) fn arm(&mut self, timer: HaTimer, armed: bool) {
        self.timers &= !(1 << timer as u8);
        self.timers |= u8::from(armed) << timer as u8;
    }

    /// It could speak to clients now, or would if it went on.
    pub(crate) fn may_speak(&self) -> bool {
        self.serving && !self.lease_over
    }
}

impl World {
    /// Two new stores, an empty share, nothing started.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            servers: [Arc::new(Server::new(0)), Arc::new(Server::new(1))],
            digests: [0; 2],
            lowest: [Lowest::NONE; 2],
            changed: [true; 2],
            arbiter: Arc::new(Arbiter {
                record: None,
                lock_file: None,
                holder: None,
                holds_older: [false; 2],
            }),
            link: None,
            confirmed: Vec::new(),
            forked: false,
            stores: 2,
            budget: Budget::default(),
            counts_anew: false,
            hands_over: false,
        };
        world.seal();
        world
    }

    /// What the end of all faults makes something of: not how many might have come.
    pub(crate) fn hash_present<H: Hasher>(&self, state: &mut H) {
        assert!(self.changed == [false; 2], "a step seals what it changed");
        self.digests.hash(state);
        self.arbiter.hash(state);
        self.link.hash(state);
        self.confirmed.hash(state);
    }

    pub(crate) fn server(&self, at: usize) -> &Server {
        &self.servers[at]
    }

    pub(crate) fn server_mut(&mut self, at: usize) -> &mut Server {
        self.changed[at] = true;
        Arc::make_mut(&mut self.servers[at])
    }

    pub(crate) fn arbiter_mut(&mut self) -> &mut Arbiter {
        Arc::make_mut(&mut self.arbiter)
    }

    /// The lowest numbers that a server remembers.
    pub(crate) fn lowest(&self, at: usize) -> Lowest {
        self.lowest[at]
    }

    /// Ends a step.
    pub(crate) fn seal(&mut self) {
        self.find_lowest();
        if self.counts_anew && self.rebase() {
            self.find_lowest();
        }
        for at in [0, 1] {
            if std::mem::take(&mut self.changed[at]) {
                let mut hasher = Digest::default();
                self.servers[at].hash(&mut hasher);
                self.digests[at] = hasher.finish();
            }
        }
    }

    fn find_lowest(&mut self) {
        for at in [0, 1] {
            if self.changed[at] && self.counts_anew {
                self.lowest[at] = Lowest::of(self.server_mut(at));
            }
        }
    }

    pub(crate) fn record(&self) -> Option<&ArbiterRecord> {
        self.arbiter.record.as_ref()
    }

    /// The record names this server's store.
    pub(crate) fn named(&self, at: usize) -> bool {
        let store = self.server(at).disk.own.store;
        self.record().is_some_and(|record| record.holds(store))
    }

    /// S1, in its inductive form: every store that the record names, or would name if a change that is
    /// under way were carried out now, holds what was confirmed.
    pub(crate) fn in_sync_is_whole(&self) -> bool {
        [0, 1].into_iter().all(|at| {
            !self.may_be_named(at) || self.server(at).disk.log.starts_with(&self.confirmed)
        })
    }

    /// S1, as clients see it: whoever serves with an open gate holds what was confirmed.
    pub(crate) fn nothing_is_lost(&self) -> bool {
        [0, 1].into_iter().all(|at| {
            let server = self.server(at);
            let open = server.may_speak() && server.gate != GatePolicy::Closed;
            !open || server.disk.log.starts_with(&self.confirmed)
        })
    }

    fn may_be_named(&self, at: usize) -> bool {
        let store = self.server(at).disk.own.store;
        let seq = self.record().map(|record| record.seq.next());
        let pending = self.servers.iter().flat_map(|server| &server.calls);
        self.named(at)
            || pending.into_iter().any(|call| match &call.call {
                // What its store lacks is not owed any more once the record says so.
                ArbiterCall::CompareAndSet(_) if call.overrules => false,
                ArbiterCall::CompareAndSet(next) => Some(next.seq) == seq && next.holds(store),
                ArbiterCall::Read
                | ArbiterCall::Create(_)
                | ArbiterCall::TryLock
                | ArbiterCall::Unlock
                | ArbiterCall::Check(_) => false,
            })
    }

    /// S3.
    pub(crate) fn one_serves(&self) -> bool {
        !self.servers.iter().all(|server| server.may_speak())
    }

    /// S4.
    pub(crate) fn half_a_copy_waits(&self) -> bool {
        let half = |server: &Arc<Server>| server.serving && server.disk.own.sync_in_progress;
        !self.servers.iter().any(half)
    }

    /// By an operator's word this server's copy is the one that counts: what it lacks is given up.
    pub(crate) fn give_up_beyond(&mut self, at: usize) {
        let log = &self.servers[at].disk.log;
        let both = self.confirmed.iter().zip(log);
        let common = both.take_while(|(confirmed, own)| confirmed == own).count();
        self.confirmed.truncate(common);
    }

    /// What may be confirmed now, is.
    pub(crate) fn confirm(&mut self, at: usize) {
        let server = &self.servers[at];
        let upto = match server.gate {
            GatePolicy::Alone => server.disk.log.len(),
            GatePolicy::WithPeer => server.acked.min(server.disk.log.len()),
            GatePolicy::Closed | GatePolicy::Following => 0,
        };
        for (lsn, entry) in server.disk.log[..upto].iter().enumerate() {
            match self.confirmed.get(lsn) {
                Some(before) => self.forked |= before != entry,
                None => self.confirmed.push(*entry),
            }
        }
    }
}
