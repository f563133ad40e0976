//! The leading side of a resync: incremental or full, and the pieces of a snapshot.

use crate::proto::ids::Lsn;
use crate::proto::peer::{Body, SyncPlan};
use crate::storage::api::{JobOutcome, JobRefusal, LogFacts};
use crate::time::Moment;

use super::leader::{Leader, Phase, Sync};
use super::{ReplicationEffect, ReplicationJob, Shared, SyncKind};

/// Bytes of a snapshot that may be sent and not yet written by the follower.
const SNAPSHOT_WINDOW: u64 = 4 * 1024 * 1024;

impl Leader {
    pub(super) fn on_log_bytes(&mut self, bytes: u64, effects: &mut Vec<ReplicationEffect>) {
        let Phase::Measuring { common } = self.phase else {
            return;
        };
        self.sync = Some(Sync {
            kind: SyncKind::Incremental,
            done: 0,
            total: bytes,
        });
        self.sent = common;
        self.phase = Phase::AwaitingReady;
        self.send(
            Body::SyncPlan(SyncPlan::Incremental { common, bytes }),
            effects,
        );
    }

    pub(super) fn plan_full(
        &mut self,
        reason: String,
        shared: &mut Shared,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        self.unpin(shared, effects);
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.pace.end_is_near(false);
        self.pinned = true;
        let request = shared.run(ReplicationJob::PinSnapshot, effects);
        self.phase = Phase::Pinning { request, reason };
    }

    pub(super) fn on_job(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        request: u64,
        outcome: Result<JobOutcome, JobRefusal>,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        match &mut self.phase {
            Phase::Pinning {
                request: awaited,
                reason,
            } if *awaited == request => match outcome {
                Ok(JobOutcome::Snapshot { at, bytes }) => {
                    let reason = std::mem::take(reason);
                    self.sync = Some(Sync {
                        kind: SyncKind::Full,
                        done: 0,
                        total: bytes,
                    });
                    self.sent = at.lsn;
                    self.phase = Phase::Snapshot {
                        at,
                        sent: 0,
                        acked: 0,
                        reading: None,
                    };
                    self.send(Body::SyncPlan(SyncPlan::Full { bytes, reason }), effects);
                    self.read_snapshot(now, shared, effects);
                }
                Ok(JobOutcome::Durable | JobOutcome::Piece(_)) | Err(_) => {
                    self.fail("no snapshot could be made", effects);
                }
            },
            Phase::Snapshot {
                at, sent, reading, ..
            } if *reading == Some(request) => {
                *reading = None;
                match outcome {
                    Ok(JobOutcome::Piece(piece)) if piece.is_empty() => {
                        let at = *at;
                        self.phase = Phase::AwaitingReady;
                        self.send(Body::SnapshotEnd { at }, effects);
                    }
                    Ok(JobOutcome::Piece(piece)) => {
                        let bytes = piece.len() as u64;
                        *sent = sent.saturating_add(bytes);
                        if let Some(sync) = &mut self.sync {
                            sync.done = sync.done.saturating_add(bytes);
                        }
                        self.charge(now, bytes, shared);
                        self.send(Body::SnapshotPiece(piece), effects);
                        self.read_snapshot(now, shared, effects);
                    }
                    Ok(JobOutcome::Durable | JobOutcome::Snapshot { .. }) | Err(_) => {
                        self.fail("the snapshot could not be read", effects);
                    }
                }
            }
            // The end of an unpinning, or of work that was given up.
            Phase::Awaiting
            | Phase::Comparing { .. }
            | Phase::Measuring { .. }
            | Phase::Pinning { .. }
            | Phase::Snapshot { .. }
            | Phase::AwaitingReady
            | Phase::Checking { .. }
            | Phase::CatchingUp { .. }
            | Phase::Live => {}
        }
    }

    /// Bytes of the resync went out: the limit has to pay for them.
    pub(super) fn charge(&mut self, now: Moment, bytes: u64, shared: &Shared) {
        let config = &shared.config;
        let (limit, pause_max) = (config.resync_bytes_per_s, config.resync_pause_max);
        self.pace.sent(now, bytes, limit, pause_max);
    }

    pub(super) fn read_snapshot(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        effects: &mut Vec<ReplicationEffect>,
    ) {
        if let Phase::Snapshot {
            sent,
            acked,
            reading,
            ..
        } = &mut self.phase
            && reading.is_none()
            && sent.saturating_sub(*acked) < SNAPSHOT_WINDOW
            && self.pace.allows(now)
        {
            *reading = Some(shared.run(ReplicationJob::ReadSnapshot, effects));
        }
    }
}

/// Why a full resync is needed, or none where the log from the common point will do.
pub(super) fn full_reason(
    facts: &LogFacts,
    common: Option<Lsn>,
    checkpoint: Lsn,
) -> Option<String> {
    let Some(common) = common else {
        return Some("the two logs have no epoch in common".into());
    };
    if common < facts.floor {
        return Some(no_longer_kept(facts.floor, common));
    }
    if common < checkpoint {
        return Some(format!(
            "the peer would have to go back to {common}, which is before its checkpoint {checkpoint}"
        ));
    }
    None
}

pub(super) fn no_longer_kept(floor: Lsn, needed: Lsn) -> String {
    format!("the log before {floor} is no longer kept, and the peer needs it from {needed}")
}
