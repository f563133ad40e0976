//! The log lines of a resync.

use crate::proto::peer::{Body, SyncPlan};

/// The operator's lines about a resync, from both sides.
pub(super) fn tell_resync(body: &Body) {
    match body {
        Body::SyncPlan(SyncPlan::Incremental { common, .. }) => {
            tracing::info!(target: "twinmq::repl", common = common.0,
                "resync of the returning server: incremental, the log after {common}");
        }
        Body::SyncPlan(SyncPlan::Full { bytes, reason }) => {
            tracing::info!(target: "twinmq::repl", bytes, reason,
                "resync of the returning server: full, because {reason}");
        }
        Body::SyncDone { position, .. } => {
            tracing::info!(target: "twinmq::repl", %position, "resync done: a whole copy is here");
        }
        Body::Ping { .. }
        | Body::Pong { .. }
        | Body::RoleChanged { .. }
        | Body::Goodbye { .. }
        | Body::SyncRequest { .. }
        | Body::SyncReady { .. }
        | Body::SnapshotPiece(_)
        | Body::SnapshotEnd { .. }
        | Body::SnapshotAck { .. }
        | Body::Batch { .. }
        | Body::CommitIndex { .. }
        | Body::SyncEnd { .. }
        | Body::Durable { .. }
        | Body::InSync { .. } => {}
    }
}
