//! The leading side: compare, snapshot or not, catch up, live.

use std::collections::VecDeque;

use crate::proto::ids::{Epoch, Lsn, Position, SessionId, StoreId};
use crate::proto::log::{Batch, EpochStart};
use crate::proto::peer::Body;
use crate::storage::api::LogFacts;
use crate::time::Moment;

use super::pace::Pace;
use super::resync::{full_reason, no_longer_kept};
use super::{
    ReplicationConfig, ReplicationEffect, ReplicationJob, ReplicationReport, Shared, SyncKind,
    SyncProgress, common_point,
};

/// One session's lead.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) session: SessionId,
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    /// The store holds a snapshot (and its log) for this session.
    pub(super) pinned: bool,
    /// The last LSN that was sent.
    pub(super) sent: Lsn,
    /// The follower's copy and how far it is durable, once it has said so in this session.
    pub(super) follower: Option<(StoreId, Position)>,
    /// Sent and not acknowledged: last LSN, bytes, when.
    pub(super) in_flight: VecDeque<(Lsn, usize, Moment)>,
    pub(super) in_flight_bytes: usize,
    /// The resync has been ended by a `SyncEnd`; its answer is awaited or was given.
    pub(super) ended: bool,
    /// Reported: the follower holds all that was confirmed before it was demanded.
    pub(super) holds_all: bool,
    pub(super) overdue: bool,
    pub(super) sync: Option<Sync>,
    /// The commit index that the follower was told of last.
    pub(super) told_commit: Lsn,
    /// How fast the resync may go.
    pub(super) pace: Pace,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// For a `SyncRequest`.
    Awaiting,
    /// A request was made; the store is asked what it has.
    Comparing {
        epochs: Vec<EpochStart>,
        position: Position,
        checkpoint: Lsn,
    },
    /// An incremental resync from there: the store is asked how much that is.
    Measuring { common: Lsn },
    /// The snapshot is being pinned.
    Pinning { request: u64, reason: String },
    /// Its pieces are sent.
    Snapshot {
        at: Position,
        sent: u64,
        acked: u64,
        reading: Option<u64>,
    },
    /// The follower truncates or switches.
    AwaitingReady,
    /// It is ready after `at`; the store is asked whether the chains agree there.
    Checking { at: Lsn, chain: u32 },
    /// The log is read from `sent` on.
    CatchingUp {
        reading: Option<u64>,
        chain: Option<u32>,
    },
    /// Batches go out as they are cut.
    Live,
}

#[derive(Debug)]
pub(super) struct Sync {
    pub(super) kind: SyncKind,
    pub(super) done: u64,
    /// What there was at the plan and what was cut since.
    pub(super) total: u64,
}

impl Leader {
    pub(super) fn new(session: SessionId, epoch: Epoch) -> Self {
        Self {
            session,
            epoch,
            phase: Phase::Awaiting,
            pinned: false,
            sent: Lsn::ZERO,
            follower: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            ended: false,
            holds_all: false,
            overdue: false,
            sync: None,
            told_commit: Lsn::ZERO,
            pace: Pace::default(),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    pub(super) fn follower_position(&self) -> Option<(StoreId, Position)> {
        self.follower
    }

    pub(super) fn progress(&self) -> Option<SyncProgress> {
        let sync = self.sync.as_ref()?;
        Some(SyncProgress {
            kind: sync.kind,
            done_bytes: sync.done,
            total_bytes: sync.total.max(sync.done),
        })
    }

    pub(super) fn deadline(&self, config: &ReplicationConfig) -> Option<Moment> {
        let (_, _, since) = self.in_flight.front()?;
        (!self.overdue).then(|| since.after(config.ack_timeout))
    }

    pub(super) fn piece_bytes(&self, config: &ReplicationConfig) -> usize {
        if self.ended {
            config.piece_bytes
        } else {
            self.pace.piece(config.piece_bytes)
        }
    }

    pub(super) fn unpin(&mut self, shared: &mut Shared, effects: &mut Vec<ReplicationEffect>) {
        if std::mem::take(&mut self.pinned) {
            shared.run(ReplicationJob::UnpinSnapshot, effects);
        }
    }

    pub(super) fn on_frame(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        body: Body,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        match body {
            Body::SyncRequest {
                epochs,
                position,
                chain: _,
                checkpoint,
            } => {
                self.unpin(shared, effects);
                *self = Self::new(self.session, self.epoch);
                self.phase = Phase::Comparing {
                    epochs,
                    position,
                    checkpoint,
                };
                effects.push(ReplicationEffect::DescribeLog);
            }
            Body::SyncReady { at, chain } => {
                if matches!(self.phase, Phase::AwaitingReady) {
                    self.phase = Phase::Checking { at, chain };
                    effects.push(ReplicationEffect::DescribeLog);
                }
            }
            Body::SnapshotAck { bytes } => {
                if let Phase::Snapshot { acked, sent, .. } = &mut self.phase {
                    *acked = bytes.max(*acked);
                    if *acked >= *sent {
                        self.pace.landed(now);
                    }
                    self.report_progress(effects);
                    self.read_snapshot(now, shared, effects);
                }
            }
            Body::Durable { store, position } => {
                self.on_follower_durable(store, position, shared, effects);
                if self.in_flight.is_empty() {
                    self.pace.landed(now);
                }
                self.pump(now, shared, effects);
            }
            Body::SyncDone { store, position } => {
                self.on_follower_durable(store, position, shared, effects);
                if self.ended {
                    self.sync = None;
                    self.unpin(shared, effects);
                    effects.push(ReplicationEffect::Report(ReplicationReport::SyncDone {
                        session: self.session,
                        store,
                    }));
                }
            }
            // Only a leader sends these, or the link keeps them to itself.
            Body::Ping { .. }
            | Body::Pong { .. }
            | Body::RoleChanged { .. }
            | Body::Goodbye { .. }
            | Body::SyncPlan(_)
            | Body::SnapshotPiece(_)
            | Body::SnapshotEnd { .. }
            | Body::Batch { .. }
            | Body::CommitIndex { .. }
            | Body::SyncEnd { .. }
            | Body::Clients(_)
            | Body::InSync { .. } => {
                self.fail("the peer sent a frame that only an active sends", effects)
            }
        }
    }

    pub(super) fn on_log(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        facts: &LogFacts,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        match std::mem::replace(&mut self.phase, Phase::Awaiting) {
            Phase::Comparing {
                epochs,
                position,
                checkpoint,
            } => {
                let common = common_point(&facts.epochs, facts.durable, &epochs, position);
                match full_reason(facts, common, checkpoint) {
                    None => {
                        let common = common.unwrap_or(Lsn::ZERO);
                        self.phase = Phase::Measuring { common };
                        effects.push(ReplicationEffect::MeasureLog { after: common });
                    }
                    Some(reason) => self.plan_full(reason, shared, effects),
                }
            }
            Phase::Checking { at, .. } if at != self.sent => {
                let reason = format!(
                    "the peer's log ends at {at}, and by the plan at {}",
                    self.sent
                );
                self.fail(&reason, effects);
            }
            Phase::Checking { at, chain } => {
                if at == facts.durable.lsn && chain != facts.chain {
                    self.plan_full("the logs' checksums differ".into(), shared, effects);
                } else {
                    self.phase = Phase::CatchingUp {
                        reading: None,
                        chain: Some(chain),
                    };
                    self.pump(now, shared, effects);
                }
            }
            Phase::CatchingUp { .. } if facts.floor > self.sent => {
                let reason = no_longer_kept(facts.floor, self.sent);
                if self.ended {
                    // It was called whole as it is: a new store needs a session of its own.
                    self.fail(&reason, effects);
                } else {
                    self.plan_full(reason, shared, effects);
                }
            }
            other @ (Phase::Awaiting
            | Phase::Measuring { .. }
            | Phase::Pinning { .. }
            | Phase::Snapshot { .. }
            | Phase::AwaitingReady
            | Phase::CatchingUp { .. }
            | Phase::Live) => self.phase = other,
        }
    }

    pub(super) fn on_cut(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        batch: Batch,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        let bytes = batch.bytes() as u64;
        if let Some(sync) = &mut self.sync {
            sync.total = sync.total.saturating_add(bytes);
        }
        self.pace.clients_wrote(now, bytes);
        if !matches!(self.phase, Phase::Live) {
            return;
        }
        if batch.first == self.sent.next() && self.has_window(shared) {
            self.send_batch(now, batch, shared, effects);
        } else {
            // Beyond the window: it is in the log, and is read from there when there is room.
            self.phase = Phase::CatchingUp {
                reading: None,
                chain: None,
            };
        }
    }

    pub(super) fn on_log_read(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        request: u64,
        batches: Vec<Batch>,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        let Phase::CatchingUp { reading, chain } = &mut self.phase else {
            return;
        };
        if *reading != Some(request) {
            return;
        }
        *reading = None;
        let bytes: usize = batches.iter().map(Batch::bytes).sum();
        self.pace
            .end_is_near(bytes < self.pace.piece(shared.config.piece_bytes));
        let Some(first) = batches.first() else {
            if self.sent >= shared.last_cut {
                self.go_live(effects);
            } else {
                // The rest is being committed, and the next `Durable` reads again; or it was deleted
                // meanwhile, which the store's facts show.
                effects.push(ReplicationEffect::DescribeLog);
            }
            return;
        };
        if chain.take().is_some_and(|chain| chain != first.prev_chain) {
            self.plan_full("the logs' checksums differ".into(), shared, effects);
            return;
        }
        for batch in batches {
            if batch.first != self.sent.next() {
                self.fail("the log has a gap where the peer needs it", effects);
                return;
            }
            self.send_batch(now, batch, shared, effects);
        }
        self.report_progress(effects);
        if self.sent >= shared.last_cut {
            self.go_live(effects);
        } else {
            self.pump(now, shared, effects);
        }
    }

    pub(super) fn on_local_durable(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        if matches!(self.phase, Phase::Live) && self.sent < shared.last_cut {
            // Cut before anybody listened, and on the disk only now: it is in the log.
            self.phase = Phase::CatchingUp {
                reading: None,
                chain: None,
            };
        }
        self.pump(now, shared, effects);
    }

    pub(super) fn on_committed(&mut self, upto: Lsn, effects: &mut Vec<ReplicationEffect>) {
        // A batch on its way will carry a newer index; when there is none, it goes by itself.
        if matches!(self.phase, Phase::Live) && self.in_flight.is_empty() && upto > self.told_commit
        {
            self.told_commit = upto;
            effects.push(ReplicationEffect::SendCommitIndex {
                session: self.session,
            });
        }
    }

    pub(super) fn gate_set(&mut self, shared: &Shared, effects: &mut Vec<ReplicationEffect>) {
        self.holds_all = false;
        if shared.required.is_some()
            && let Some((_, position)) = self.follower
        {
            effects.push(ReplicationEffect::PeerHolds(position.lsn));
        }
        self.check_holds_all(shared, effects);
    }

    pub(super) fn on_deadline(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        if self.pace.deadline().is_some_and(|paid| paid <= now) {
            self.pace.woken();
            self.read_snapshot(now, shared, effects);
            self.pump(now, shared, effects);
        }
        let due = self
            .deadline(&shared.config)
            .is_some_and(|deadline| deadline <= now);
        if due && shared.required.is_some() {
            self.overdue = true;
            effects.push(ReplicationEffect::Report(ReplicationReport::AckOverdue {
                session: self.session,
            }));
        }
    }

    /// Reads on while there is room and, in a resync, the limit allows.
    fn pump(&mut self, now: Moment, shared: &mut Shared, effects: &mut Vec<ReplicationEffect>) {
        let room = self.has_window(shared);
        if let Phase::CatchingUp {
            reading: reading @ None,
            ..
        } = &mut self.phase
            && room
            && (self.ended || self.pace.allows(now))
        {
            let request = shared.request();
            *reading = Some(request);
            effects.push(ReplicationEffect::ReadLog {
                request,
                after: self.sent,
            });
        }
    }

    fn go_live(&mut self, effects: &mut Vec<ReplicationEffect>) {
        self.phase = Phase::Live;
        if !self.ended {
            self.ended = true;
            self.send(Body::SyncEnd { at: self.sent }, effects);
        }
    }

    fn on_follower_durable(
        &mut self,
        store: StoreId,
        position: Position,
        shared: &Shared,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        self.follower = Some((store, position));
        while let Some((last, bytes, _)) = self.in_flight.front().copied()
            && last <= position.lsn
        {
            self.in_flight.pop_front();
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        }
        if shared.required.is_some() {
            effects.push(ReplicationEffect::PeerHolds(position.lsn));
        }
        if self.sync.is_some() {
            self.report_progress(effects);
        }
        self.check_holds_all(shared, effects);
    }

    fn check_holds_all(&mut self, shared: &Shared, effects: &mut Vec<ReplicationEffect>) {
        let (Some(required), Some((_, position))) = (shared.required, self.follower) else {
            return;
        };
        if !self.holds_all && self.ended && position.lsn >= required {
            self.holds_all = true;
            effects.push(ReplicationEffect::Report(ReplicationReport::PeerHoldsAll {
                session: self.session,
            }));
        }
    }

    fn send_batch(
        &mut self,
        now: Moment,
        batch: Batch,
        shared: &Shared,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        let bytes = batch.bytes();
        self.sent = batch.last;
        self.in_flight.push_back((batch.last, bytes, now));
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(bytes);
        if let Some(sync) = &mut self.sync {
            sync.done = sync.done.saturating_add(bytes as u64);
        }
        if !self.ended {
            self.charge(now, bytes as u64, shared);
        }
        effects.push(ReplicationEffect::SendBatch {
            session: self.session,
            batch,
        });
    }

    fn has_window(&self, shared: &Shared) -> bool {
        self.in_flight_bytes < shared.config.window_bytes
    }

    pub(super) fn report_progress(&self, effects: &mut Vec<ReplicationEffect>) {
        effects.push(ReplicationEffect::Report(ReplicationReport::Progress {
            session: self.session,
        }));
    }

    pub(super) fn fail(&mut self, reason: &str, effects: &mut Vec<ReplicationEffect>) {
        self.phase = Phase::Awaiting;
        effects.push(ReplicationEffect::Report(ReplicationReport::SyncFailed {
            session: self.session,
            reason: reason.to_owned(),
        }));
    }

    pub(super) fn send(&self, body: Body, effects: &mut Vec<ReplicationEffect>) {
        effects.push(ReplicationEffect::Send {
            session: self.session,
            body,
        });
    }
}
