//! The state that is searched: two servers with what is under way to each, the arbiter, the channel,
//! and what clients have been told.

use std::collections::{BTreeSet, VecDeque};

use twinmq::machines::ha::{
    HaConfig, HaInput, HaMachine, HaMode, HaTimer, LinkEnd, OwnStore, Takeover,
};
use twinmq::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts};
use twinmq::proto::ids::{ArbiterId, Epoch, NodeId, Position, SessionId, StoreId};
use twinmq::proto::peer::PeerFacts;
use twinmq::storage::api::GatePolicy;

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
    Down(SessionId, LinkEnd),
    Batch(SessionId, Entry),
    /// The follower has this many records of the session's leader on disk.
    Durable(SessionId, usize),
    SyncDone(SessionId, StoreId, usize),
}

/// A call on the arbiter that has not been carried out yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) call: ArbiterCall,
    /// The asker's deadline passed: it was told "failed" and hears no other answer.
    pub(crate) told: bool,
}

/// What the store (or the client side) is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    Persist(ArbiterRecord),
    BeginEpoch(Epoch),
    Drain,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// None while the process is down.
    pub(crate) machine: Option<HaMachine>,
    pub(crate) own: OwnStore,
    pub(crate) last_record: Option<ArbiterRecord>,
    pub(crate) log: Vec<Entry>,
    pub(crate) gate: GatePolicy,
    /// Clients are connected.
    pub(crate) serving: bool,
    pub(crate) timers: BTreeSet<HaTimer>,
    pub(crate) wants_lock: bool,
    pub(crate) leads: Option<SessionId>,
    pub(crate) follows: Option<SessionId>,
    /// As leader: the follower has had a whole copy and gets each batch.
    pub(crate) streams: bool,
    /// As leader: how many records the follower has on disk.
    pub(crate) acked: usize,
    /// As leader: how many the follower must hold before that is reported.
    pub(crate) must_hold: Option<usize>,
    pub(crate) from_link: VecDeque<FromLink>,
    pub(crate) from_lock: VecDeque<HaInput>,
    pub(crate) calls: VecDeque<Call>,
    pub(crate) answers: VecDeque<(u64, ArbiterAnswer)>,
    pub(crate) jobs: VecDeque<Job>,
}

/// How many faults and writes may still come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    /// `kill -9`.
    pub(crate) crashes: u8,
    /// Orderly stops.
    pub(crate) stops: u8,
    /// Both sides hear nothing more.
    pub(crate) cuts: u8,
    /// Disks replaced while the server is down.
    pub(crate) wipes: u8,
    /// The arbiter's answer is lost: before or after it did what was asked, or it does it later.
    pub(crate) lost_answers: u8,
    /// The arbiter forgets who holds the lock.
    pub(crate) lost_locks: u8,
    /// A transition takes longer than MaxWaitTimeout, or the passive acknowledges too late.
    pub(crate) delays: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) servers: [Server; 2],
    pub(crate) record: Option<ArbiterRecord>,
    pub(crate) lock_file: Option<LockFacts>,
    pub(crate) holder: Option<usize>,
    /// The channel, while both ends may speak through it.
    pub(crate) link: Option<SessionId>,
    pub(crate) last_session: SessionId,
    /// What has been confirmed (or delivered), by its LSN.
    pub(crate) confirmed: Vec<Entry>,
    /// Two things were confirmed at one LSN.
    pub(crate) forked: bool,
    pub(crate) budget: Budget,
}

/// What is left out on purpose, to see that the search finds what comes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ablation {
    /// Without R1: every record that a server reads names its store.
    pub(crate) record_names_all: bool,
    /// Without R2: a lost channel opens the gate at once.
    pub(crate) alone_at_once: bool,
}

pub(crate) fn node(at: usize) -> NodeId {
    NodeId([if at == 0 { 1 } else { 2 }; 16])
}

pub(crate) fn config(at: usize) -> HaConfig {
    HaConfig {
        mode: HaMode::Replicated,
        primary: at == 0,
        node: node(at),
        cluster: String::new(),
        new_arbiter: ArbiterId([9; 16]),
        takeover: Takeover::Lock,
    }
}

impl Server {
    fn new(at: usize) -> Self {
        Self {
            machine: None,
            own: OwnStore {
                store: StoreId([if at == 0 { 1 } else { 2 }; 16]),
                position: Position::default(),
                sync_in_progress: false,
            },
            last_record: None,
            log: Vec::new(),
            gate: GatePolicy::Closed,
            serving: false,
            timers: BTreeSet::new(),
            wants_lock: false,
            leads: None,
            follows: None,
            streams: false,
            acked: 0,
            must_hold: None,
            from_link: VecDeque::new(),
            from_lock: VecDeque::new(),
            calls: VecDeque::new(),
            answers: VecDeque::new(),
            jobs: VecDeque::new(),
        }
    }

    /// What the end of the process leaves: the disk.
    pub(crate) fn end(&mut self) {
        *self = Self {
            own: self.own,
            last_record: self.last_record.take(),
            log: std::mem::take(&mut self.log),
            ..Self::new(0)
        };
    }

    /// The store is what its log is.
    pub(crate) fn place(&mut self) {
        self.own.position.lsn.0 = self.log.len() as u64;
        self.own.position.epoch = self.log.iter().rev().find_map(epoch_of).unwrap_or_default();
    }
}

fn epoch_of(entry: &Entry) -> Option<Epoch> {
    match entry {
        Entry::Epoch(epoch) => Some(*epoch),
        Entry::Write(_) => None,
    }
}

impl World {
    /// Two new stores, an empty share, nothing started.
    pub(crate) fn new() -> Self {
        Self {
            servers: [Server::new(0), Server::new(1)],
            record: None,
            lock_file: None,
            holder: None,
            link: None,
            last_session: SessionId(0),
            confirmed: Vec::new(),
            forked: false,
            budget: Budget::default(),
        }
    }

    /// S1: every store that the record names, and whoever serves with an open gate, holds what was
    /// confirmed.
    pub(crate) fn nothing_is_lost(&self) -> bool {
        self.servers.iter().all(|server| {
            let named = self
                .record
                .as_ref()
                .is_some_and(|record| record.holds(server.own.store));
            let open = server.serving && server.gate != GatePolicy::Closed;
            !(named || open) || server.log.starts_with(&self.confirmed)
        })
    }

    /// S3.
    pub(crate) fn one_serves(&self) -> bool {
        !self.servers.iter().all(|server| server.serving)
    }

    /// S4.
    pub(crate) fn half_a_copy_waits(&self) -> bool {
        !self
            .servers
            .iter()
            .any(|server| server.serving && server.own.sync_in_progress)
    }

    /// What may be confirmed now, is.
    pub(crate) fn confirm(&mut self, at: usize) {
        let server = &self.servers[at];
        let upto = match server.gate {
            GatePolicy::Alone => server.log.len(),
            GatePolicy::WithPeer => server.acked.min(server.log.len()),
            GatePolicy::Closed | GatePolicy::Following => 0,
        };
        for (lsn, entry) in server.log[..upto].iter().enumerate() {
            match self.confirmed.get(lsn) {
                Some(before) => self.forked |= before != entry,
                None => self.confirmed.push(*entry),
            }
        }
    }
}
