//! The following side: describe, mark, truncate or refill, stream.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::proto::ids::{Epoch, Lsn, Position, SessionId, StoreId};
use crate::proto::peer::{Body, SyncPlan};
use crate::storage::api::{JobOutcome, JobRefusal, LogFacts};

use super::{ReplicationEffect, ReplicationJob, ReplicationReport, Shared, SyncKind, SyncProgress};

/// One session's following.
#[derive(Debug)]
pub(super) struct Follower {
    session: SessionId,
    epoch: Epoch,
    phase: Phase,
    /// Ask for a full resync whatever the log says.
    full: bool,
    store: StoreId,
    durable: Position,
    /// The one job under way, and what waits for it.
    running: Option<u64>,
    waiting: VecDeque<Step>,
    /// The leader said that this is the end of the resync.
    end: Option<Lsn>,
    sync: Option<SyncProgress>,
    written: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Asks the store what it has.
    Describing,
    /// Has asked the leader.
    Requested,
    /// Truncates, or fills a new store.
    Preparing,
    /// Takes batches.
    Streaming,
}

/// What is done one after the other.
#[derive(Debug)]
enum Step {
    Mark,
    Truncate(Lsn),
    BeginSnapshot,
    Write(Bytes),
    EndSnapshot,
    /// Tell the leader that the log may follow.
    Ready,
    EndSync,
}

impl Follower {
    pub(super) fn new(session: SessionId, epoch: Epoch, full: bool) -> Self {
        Self {
            session,
            epoch,
            phase: Phase::Describing,
            full,
            store: StoreId::default(),
            durable: Position::default(),
            running: None,
            waiting: VecDeque::new(),
            end: None,
            sync: None,
            written: 0,
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn progress(&self) -> Option<SyncProgress> {
        self.sync
    }

    pub(super) fn on_log(
        &mut self,
        shared: &mut Shared,
        facts: &LogFacts,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        self.store = facts.store;
        self.durable = facts.durable;
        match self.phase {
            Phase::Describing => {
                self.phase = Phase::Requested;
                let request = if self.full {
                    Body::SyncRequest {
                        epochs: Vec::new(),
                        position: facts.durable,
                        chain: facts.chain,
                        checkpoint: Lsn(u64::MAX),
                    }
                } else {
                    Body::SyncRequest {
                        epochs: facts.epochs.clone(),
                        position: facts.durable,
                        chain: facts.chain,
                        checkpoint: facts.checkpoint,
                    }
                };
                self.send(request, effects);
            }
            Phase::Preparing => {
                self.phase = Phase::Streaming;
                self.send(
                    Body::SyncReady {
                        at: facts.durable.lsn,
                        chain: facts.chain,
                    },
                    effects,
                );
                self.next(shared, effects);
            }
            Phase::Requested | Phase::Streaming => {}
        }
    }

    pub(super) fn on_frame(
        &mut self,
        shared: &mut Shared,
        body: Body,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        match body {
            Body::SyncPlan(plan) => self.on_plan(shared, plan, effects),
            Body::SnapshotPiece(piece) => {
                self.waiting.push_back(Step::Write(piece));
                self.next(shared, effects);
            }
            Body::SnapshotEnd { at: _ } => {
                self.waiting.extend([Step::EndSnapshot, Step::Ready]);
                self.next(shared, effects);
            }
            Body::Batch { committed, batch } => {
                if self.phase == Phase::Streaming {
                    if let Some(sync) = &mut self.sync {
                        sync.done_bytes = sync.done_bytes.saturating_add(batch.bytes() as u64);
                        sync.total_bytes = sync.total_bytes.max(sync.done_bytes);
                        self.report_progress(effects);
                    }
                    effects.push(ReplicationEffect::Append(batch));
                    effects.push(ReplicationEffect::PeerHolds(committed));
                }
                // Before that, a batch of an earlier plan of this session: it will come again.
            }
            Body::CommitIndex { committed } => {
                if self.phase == Phase::Streaming {
                    effects.push(ReplicationEffect::PeerHolds(committed));
                }
            }
            Body::SyncEnd { at } => {
                self.end = Some(at);
                self.consider_end(shared, effects);
            }
            Body::InSync { epoch } => {
                if epoch == self.epoch {
                    effects.push(ReplicationEffect::Report(ReplicationReport::InSync {
                        session: self.session,
                        epoch,
                    }));
                }
            }
            // Only a follower sends these, or the link keeps them to itself.
            Body::Ping { .. }
            | Body::Pong { .. }
            | Body::RoleChanged { .. }
            | Body::Goodbye { .. }
            | Body::SyncRequest { .. }
            | Body::SyncReady { .. }
            | Body::SnapshotAck { .. }
            | Body::SyncDone { .. }
            | Body::Clients(_)
            | Body::Durable { .. } => {
                self.fail("the peer sent a frame that only a passive sends", effects);
            }
        }
    }

    fn on_plan(
        &mut self,
        shared: &mut Shared,
        plan: SyncPlan,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        self.phase = Phase::Preparing;
        self.end = None;
        self.waiting.clear();
        match plan {
            SyncPlan::Incremental { common, bytes } => {
                self.sync = Some(SyncProgress {
                    kind: SyncKind::Incremental,
                    done_bytes: 0,
                    total_bytes: bytes,
                });
                // Always: batches of an earlier session may have become durable since the log was
                // described.
                self.waiting
                    .extend([Step::Mark, Step::Truncate(common), Step::Ready]);
            }
            SyncPlan::Full { bytes, reason: _ } => {
                self.written = 0;
                self.sync = Some(SyncProgress {
                    kind: SyncKind::Full,
                    done_bytes: 0,
                    total_bytes: bytes,
                });
                self.waiting.extend([Step::Mark, Step::BeginSnapshot]);
            }
        }
        self.next(shared, effects);
    }

    /// One job at a time, in order.
    fn next(&mut self, shared: &mut Shared, effects: &mut Vec<ReplicationEffect>) {
        if self.running.is_some() {
            return;
        }
        let Some(step) = self.waiting.pop_front() else {
            return;
        };
        let job = match step {
            Step::Mark => ReplicationJob::BeginSync,
            Step::Truncate(to) => ReplicationJob::Truncate(to),
            Step::BeginSnapshot => ReplicationJob::BeginSnapshot,
            Step::Write(piece) => {
                self.written = self.written.saturating_add(piece.len() as u64);
                ReplicationJob::WriteSnapshot(piece)
            }
            Step::EndSnapshot => ReplicationJob::EndSnapshot,
            Step::EndSync => ReplicationJob::EndSync,
            Step::Ready => {
                effects.push(ReplicationEffect::DescribeLog);
                return;
            }
        };
        self.running = Some(shared.run(job, effects));
    }

    pub(super) fn on_job(
        &mut self,
        shared: &mut Shared,
        request: u64,
        outcome: Result<JobOutcome, JobRefusal>,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        if self.running != Some(request) {
            return;
        }
        self.running = None;
        match outcome {
            Ok(JobOutcome::Durable) => {}
            Ok(JobOutcome::Snapshot { .. } | JobOutcome::Piece(_)) => {
                self.fail("the store answered something else than was asked", effects);
                return;
            }
            Err(JobRefusal::CannotTruncate { .. }) if !self.full => {
                // The log cannot be cut there: a whole copy instead.
                *self = Self::new(self.session, self.epoch, true);
                effects.push(ReplicationEffect::DescribeLog);
                return;
            }
            Err(refusal) => {
                self.fail(&refusal.to_string(), effects);
                return;
            }
        }
        if self.phase == Phase::Streaming {
            // The only job while streaming is the end of the resync.
            self.sync = None;
            self.send(
                Body::SyncDone {
                    store: self.store,
                    position: self.durable,
                },
                effects,
            );
        } else if let Some(sync) = &mut self.sync
            && sync.kind == SyncKind::Full
            && sync.done_bytes < self.written
        {
            sync.done_bytes = self.written;
            self.send(
                Body::SnapshotAck {
                    bytes: self.written,
                },
                effects,
            );
            self.report_progress(effects);
        }
        self.next(shared, effects);
    }

    pub(super) fn on_durable(
        &mut self,
        shared: &mut Shared,
        position: Position,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        if self.phase == Phase::Streaming {
            self.durable = position;
            self.send(
                Body::Durable {
                    store: self.store,
                    position,
                },
                effects,
            );
            self.consider_end(shared, effects);
        }
    }

    fn consider_end(&mut self, shared: &mut Shared, effects: &mut Vec<ReplicationEffect>) {
        if self.phase == Phase::Streaming
            && let Some(end) = self.end
            && self.durable.lsn >= end
        {
            self.end = None;
            self.waiting.push_back(Step::EndSync);
            self.next(shared, effects);
        }
    }

    fn report_progress(&self, effects: &mut Vec<ReplicationEffect>) {
        effects.push(ReplicationEffect::Report(ReplicationReport::Progress {
            session: self.session,
        }));
    }

    fn fail(&mut self, reason: &str, effects: &mut Vec<ReplicationEffect>) {
        effects.push(ReplicationEffect::Report(ReplicationReport::SyncFailed {
            session: self.session,
            reason: reason.to_owned(),
        }));
    }

    fn send(&self, body: Body, effects: &mut Vec<ReplicationEffect>) {
        effects.push(ReplicationEffect::Send {
            session: self.session,
            body,
        });
    }
}
