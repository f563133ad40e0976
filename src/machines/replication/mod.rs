//! How do two logs become one, and stay one? The leader sends its peer what it lacks and then every
//! batch as it is cut; the follower writes it in the same order and says what it has on disk.
//!
//! | role | phases |
//! |---|---|
//! | none | batches are only counted |
//! | leader | waits for a request, compares, pins and sends a snapshot (full) or not (incremental), catches up from the log, is live |
//! | follower | describes its log, marks the resync (R4), truncates or fills a new store, streams |
//!
//! It decides nothing about roles: it reports facts to HAManager, which decides. It knows no socket
//! and no file; frames and jobs are effects. Everything that is sent and not acknowledged is bounded
//! in bytes: beyond that a live leader falls back to reading from its log.

mod follower;
mod leader;
mod pace;
mod resync;

#[cfg(test)]
mod tests;

pub use crate::proto::log::common_point;

use std::time::Duration;

use bytes::Bytes;

use crate::proto::ids::{Epoch, Lsn, Position, SessionId, StoreId};
use crate::proto::log::Batch;
use crate::proto::peer::Body;
use crate::storage::api::{GatePolicy, Job, JobOutcome, JobRefusal, LogFacts};
use crate::time::Moment;

use follower::Follower;
use leader::Leader;

/// Bounds, validated.
#[derive(Clone, Copy, Debug)]
pub struct ReplicationConfig {
    /// Bytes of batches that may be sent and not yet acknowledged.
    pub window_bytes: usize,
    /// Bytes of one read of the log or of one piece of a snapshot, about.
    pub piece_bytes: usize,
    /// How long the oldest batch may be unacknowledged while the peer is demanded (A6).
    pub ack_timeout: Duration,
    /// Bytes of a resync that may be sent in a second; 0 is no limit. Batches of a peer that has
    /// caught up are not held back by it.
    pub resync_bytes_per_s: u64,
    /// The longest pause that the limit may cause: a resync in which nothing moves is given up.
    pub resync_pause_max: Duration,
}

/// What happens to the machine.
#[derive(Debug)]
pub enum ReplicationInput {
    /// HAManager: bring this session's peer into step.
    Lead {
        /// The channel.
        session: SessionId,
        /// The epoch served.
        epoch: Epoch,
    },
    /// HAManager: follow this session's peer.
    Follow {
        /// The channel.
        session: SessionId,
        /// The peer's epoch.
        epoch: Epoch,
    },
    /// HAManager: neither.
    Rest,
    /// The store's gate was set; its commit index at that moment.
    GateSet {
        /// To this.
        policy: GatePolicy,
        /// The commit index then.
        committed: Lsn,
    },
    /// A frame of the channel.
    Frame {
        /// Its session.
        session: SessionId,
        /// What it carries.
        body: Body,
    },
    /// Answer to `DescribeLog`.
    Log(LogFacts),
    /// Answer to `MeasureLog`.
    LogBytes(u64),
    /// The store cut a batch.
    Cut(Batch),
    /// The store has everything up to here on disk.
    Durable(Position),
    /// The store's commit index moved.
    Committed(Lsn),
    /// Answer to `ReadLog`.
    LogRead {
        /// Echoed.
        request: u64,
        /// Contiguous, or empty.
        batches: Vec<Batch>,
    },
    /// Answer to `Run`.
    JobDone {
        /// Echoed.
        request: u64,
        /// What came of it.
        outcome: Result<JobOutcome, JobRefusal>,
    },
    /// The store refused a batch of the peer's: it does not follow this log.
    ReplicaRefused(String),
    /// Time has passed.
    Deadline,
}

/// What the shell is to do, in order.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum ReplicationEffect {
    /// Tell the machine `Log` at once.
    DescribeLog,
    /// Tell the machine `LogBytes` at once: how much log there is after an LSN.
    MeasureLog {
        /// After this.
        after: Lsn,
    },
    /// Send a frame.
    Send {
        /// In this session.
        session: SessionId,
        /// What.
        body: Body,
    },
    /// Send a batch, with the commit index as it is then.
    SendBatch {
        /// In this session.
        session: SessionId,
        /// What.
        batch: Batch,
    },
    /// Send the commit index as it is then.
    SendCommitIndex {
        /// In this session.
        session: SessionId,
    },
    /// Read the log after an LSN.
    ReadLog {
        /// For the answer.
        request: u64,
        /// After this.
        after: Lsn,
    },
    /// Have the store do a job.
    Run {
        /// For the answer.
        request: u64,
        /// The job.
        job: ReplicationJob,
    },
    /// Give the store a batch of the peer's.
    Append(Batch),
    /// Tell the store what the other side holds (leader), or has committed (follower).
    PeerHolds(Lsn),
    /// Tell HAManager.
    Report(ReplicationReport),
}

impl ReplicationEffect {
    /// A question about the log that is answered before anything else is done.
    #[must_use]
    pub fn asks_of_the_log(&self) -> bool {
        matches!(self, Self::DescribeLog | Self::MeasureLog { .. })
    }
}

/// The jobs that replication gives the store: [`Job`] without what others use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationJob {
    /// See [`Job::BeginSync`].
    BeginSync,
    /// See [`Job::Truncate`].
    Truncate(Lsn),
    /// See [`Job::EndSync`].
    EndSync,
    /// See [`Job::PinSnapshot`].
    PinSnapshot,
    /// See [`Job::ReadSnapshot`].
    ReadSnapshot,
    /// See [`Job::UnpinSnapshot`].
    UnpinSnapshot,
    /// See [`Job::BeginSnapshot`].
    BeginSnapshot,
    /// See [`Job::WriteSnapshot`].
    WriteSnapshot(Bytes),
    /// See [`Job::EndSnapshot`].
    EndSnapshot,
}

impl From<ReplicationJob> for Job {
    fn from(job: ReplicationJob) -> Self {
        match job {
            ReplicationJob::BeginSync => Self::BeginSync,
            ReplicationJob::Truncate(to) => Self::Truncate(to),
            ReplicationJob::EndSync => Self::EndSync,
            ReplicationJob::PinSnapshot => Self::PinSnapshot,
            ReplicationJob::ReadSnapshot => Self::ReadSnapshot,
            ReplicationJob::UnpinSnapshot => Self::UnpinSnapshot,
            ReplicationJob::BeginSnapshot => Self::BeginSnapshot,
            ReplicationJob::WriteSnapshot(piece) => Self::WriteSnapshot(piece),
            ReplicationJob::EndSnapshot => Self::EndSnapshot,
        }
    }
}

/// Facts for HAManager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationReport {
    /// Leader: the follower holds a whole copy.
    SyncDone {
        /// The channel.
        session: SessionId,
        /// The follower's copy.
        store: StoreId,
    },
    /// Leader: everything confirmed before the gate demanded the peer is on its disk.
    PeerHoldsAll {
        /// The channel.
        session: SessionId,
    },
    /// Follower: the active's record names this store.
    InSync {
        /// The channel.
        session: SessionId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Bytes of a resync moved.
    Progress {
        /// The channel.
        session: SessionId,
    },
    /// The resync cannot go on in this session.
    SyncFailed {
        /// The channel.
        session: SessionId,
        /// In words.
        reason: String,
    },
    /// Leader: the oldest batch is overdue.
    AckOverdue {
        /// The channel.
        session: SessionId,
    },
}

/// A resync under way, for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SyncProgress {
    /// `full` or `incremental`.
    pub kind: SyncKind,
    /// Moved so far.
    pub done_bytes: u64,
    /// To move in all, as far as known.
    pub total_bytes: u64,
}

/// The two ways of a resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncKind {
    /// The log from a common point.
    Incremental,
    /// A snapshot into a new store, then the log.
    Full,
}

/// The machine. One for each server.
#[derive(Debug)]
pub struct ReplicationMachine {
    config: ReplicationConfig,
    role: Role,
    /// The last LSN that the store has cut (active) as far as known.
    last_cut: Lsn,
    /// The commit index while the gate demands the peer: what it must hold before the set may be
    /// extended; none while the gate does not.
    required: Option<Lsn>,
    /// An incremental resync led to a log that does not chain: the next one must be full.
    full_next: bool,
    next_request: u64,
    /// A request that came before HAManager said to lead.
    early: Option<(SessionId, Body)>,
}

#[derive(Debug)]
enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

impl ReplicationMachine {
    /// A machine without a role.
    #[must_use]
    pub fn new(config: ReplicationConfig) -> Self {
        Self {
            config,
            role: Role::None,
            last_cut: Lsn::ZERO,
            required: None,
            full_next: false,
            next_request: 1,
            early: None,
        }
    }

    /// Takes one input.
    pub fn step(
        &mut self,
        now: Moment,
        input: ReplicationInput,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        match input {
            ReplicationInput::Lead { session, epoch } => self.lead(session, epoch, now, effects),
            ReplicationInput::Follow { session, epoch } => self.follow(session, epoch, effects),
            ReplicationInput::Rest => self.rest(effects),
            ReplicationInput::GateSet { policy, committed } => {
                self.required = (policy == GatePolicy::WithPeer).then_some(committed);
                self.with_leader(|leader, shared| leader.gate_set(shared, effects));
            }
            ReplicationInput::Frame { session, body } => {
                self.on_frame(now, session, body, effects);
            }
            ReplicationInput::Log(facts) => self.on_log(now, &facts, effects),
            ReplicationInput::LogBytes(bytes) => {
                self.with_leader(|leader, _| leader.on_log_bytes(bytes, effects));
            }
            ReplicationInput::Cut(batch) => {
                // One that was long under way may be told after the log was described beyond it.
                self.last_cut = self.last_cut.max(batch.last);
                self.with_leader(|leader, shared| leader.on_cut(now, shared, batch, effects));
            }
            ReplicationInput::Durable(position) => self.on_durable(now, position, effects),
            ReplicationInput::Committed(upto) => {
                self.with_leader(|leader, _| leader.on_committed(upto, effects));
            }
            ReplicationInput::LogRead { request, batches } => {
                self.with_leader(|leader, shared| {
                    leader.on_log_read(now, shared, request, batches, effects);
                });
            }
            ReplicationInput::JobDone { request, outcome } => {
                self.on_job_done(now, request, outcome, effects);
            }
            ReplicationInput::ReplicaRefused(reason) => self.on_refused(&reason, effects),
            ReplicationInput::Deadline => {
                self.with_leader(|leader, shared| leader.on_deadline(now, shared, effects));
            }
        }
    }

    /// How much one read of the log should give, in bytes: less while a resync yields to clients.
    #[must_use]
    pub fn piece_bytes(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.piece_bytes(&self.config),
            Role::None | Role::Follower(_) => self.config.piece_bytes,
        }
    }

    /// When `Deadline` is wanted.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        match &self.role {
            Role::Leader(leader) => {
                let overdue = self.required.and_then(|_| leader.deadline(&self.config));
                overdue.into_iter().chain(leader.pace.deadline()).min()
            }
            Role::None | Role::Follower(_) => None,
        }
    }

    /// The resync under way.
    #[must_use]
    pub fn progress(&self) -> Option<SyncProgress> {
        match &self.role {
            Role::None => None,
            Role::Leader(leader) => leader.progress(),
            Role::Follower(follower) => follower.progress(),
        }
    }

    /// Leader: the follower's copy and how far it is known to be durable.
    #[must_use]
    pub fn follower_position(&self) -> Option<(StoreId, Position)> {
        match &self.role {
            Role::Leader(leader) => leader.follower_position(),
            Role::None | Role::Follower(_) => None,
        }
    }

    fn lead(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        now: Moment,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        self.rest_leader(effects);
        if !matches!(self.role, Role::Leader(_)) {
            // As a follower it may have been told of a tail that it truncated since.
            self.last_cut = Lsn::ZERO;
        }
        self.role = Role::Leader(Box::new(Leader::new(session, epoch)));
        match self.early.take() {
            Some((asked, body)) if asked == session => {
                self.on_frame(now, session, body, effects);
            }
            _ => {}
        }
    }

    fn follow(&mut self, session: SessionId, epoch: Epoch, effects: &mut Vec<ReplicationEffect>) {
        self.rest_leader(effects);
        self.last_cut = Lsn::ZERO;
        self.early = None;
        let full = std::mem::take(&mut self.full_next);
        self.role = Role::Follower(Box::new(Follower::new(session, epoch, full)));
        effects.push(ReplicationEffect::DescribeLog);
    }

    fn rest(&mut self, effects: &mut Vec<ReplicationEffect>) {
        self.rest_leader(effects);
        self.role = Role::None;
        self.early = None;
    }

    /// Whatever a leader holds of the store is let go.
    fn rest_leader(&mut self, effects: &mut Vec<ReplicationEffect>) {
        self.with_leader(|leader, shared| leader.unpin(shared, effects));
    }

    fn on_frame(
        &mut self,
        now: Moment,
        session: SessionId,
        body: Body,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        let mut shared = self.shared();
        match &mut self.role {
            Role::Leader(leader) if leader.session() == session => {
                leader.on_frame(now, &mut shared, body, effects);
            }
            Role::Follower(follower) if follower.session() == session => {
                follower.on_frame(&mut shared, body, effects);
            }
            // The peer was quicker to ask than HAManager to decide: kept until it does.
            Role::None | Role::Leader(_) | Role::Follower(_) => {
                if matches!(body, Body::SyncRequest { .. }) {
                    self.early = Some((session, body));
                }
                // Anything else belongs to a session that is over (R3).
            }
        }
        self.next_request = shared.next_request;
    }

    fn on_log(&mut self, now: Moment, facts: &LogFacts, effects: &mut Vec<ReplicationEffect>) {
        self.last_cut = self.last_cut.max(facts.durable.lsn);
        let mut shared = self.shared();
        match &mut self.role {
            Role::None => {}
            Role::Leader(leader) => leader.on_log(now, &mut shared, facts, effects),
            Role::Follower(follower) => follower.on_log(&mut shared, facts, effects),
        }
        self.next_request = shared.next_request;
    }

    fn on_durable(
        &mut self,
        now: Moment,
        position: Position,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        if matches!(self.role, Role::Leader(_)) {
            self.last_cut = self.last_cut.max(position.lsn);
        }
        let mut shared = self.shared();
        match &mut self.role {
            Role::None => {}
            Role::Leader(leader) => leader.on_local_durable(now, &mut shared, effects),
            Role::Follower(follower) => follower.on_durable(&mut shared, position, effects),
        }
        self.next_request = shared.next_request;
    }

    fn on_job_done(
        &mut self,
        now: Moment,
        request: u64,
        outcome: Result<JobOutcome, JobRefusal>,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        let mut shared = self.shared();
        match &mut self.role {
            Role::None => {}
            Role::Leader(leader) => leader.on_job(now, &mut shared, request, outcome, effects),
            Role::Follower(follower) => follower.on_job(&mut shared, request, outcome, effects),
        }
        self.next_request = shared.next_request;
    }

    fn on_refused(&mut self, reason: &str, effects: &mut Vec<ReplicationEffect>) {
        if let Role::Follower(follower) = &self.role {
            self.full_next = true;
            effects.push(ReplicationEffect::Report(ReplicationReport::SyncFailed {
                session: follower.session(),
                reason: reason.to_owned(),
            }));
            self.role = Role::None;
        }
    }

    fn with_leader(&mut self, act: impl FnOnce(&mut Leader, &mut Shared)) {
        let mut shared = self.shared();
        if let Role::Leader(leader) = &mut self.role {
            act(leader, &mut shared);
        }
        self.next_request = shared.next_request;
    }

    fn shared(&self) -> Shared {
        Shared {
            config: self.config,
            last_cut: self.last_cut,
            required: self.required,
            next_request: self.next_request,
        }
    }
}

/// What both roles see of the machine.
struct Shared {
    config: ReplicationConfig,
    last_cut: Lsn,
    required: Option<Lsn>,
    next_request: u64,
}

impl Shared {
    fn request(&mut self) -> u64 {
        let request = self.next_request;
        self.next_request = request.saturating_add(1);
        request
    }

    fn run(&mut self, job: ReplicationJob, effects: &mut Vec<ReplicationEffect>) -> u64 {
        let request = self.request();
        effects.push(ReplicationEffect::Run { request, job });
        request
    }
}
