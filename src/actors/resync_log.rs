//! What people see of a resync: its log lines and how fast it goes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::actors::board::SyncView;
use crate::machines::replication::SyncProgress;
use crate::proto::peer::{Body, SyncPlan};
use crate::time::Moment;

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
        | Body::Clients(_)
        | Body::InSync { .. } => {}
    }
}

/// How long a rate looks back.
const LOOK_BACK: Duration = Duration::from_secs(10);
/// How far apart two places of a resync are kept.
const APART: Duration = Duration::from_secs(1);

/// How far a resync was in the last seconds.
#[derive(Debug, Default)]
pub(super) struct ResyncPlaces {
    places: VecDeque<(u64, Moment)>,
    last_bytes: u64,
}

impl ResyncPlaces {
    /// How far a resync is now, or that there is none.
    pub(super) fn see(&mut self, now: Moment, progress: Option<SyncProgress>) -> Option<SyncView> {
        let Some(progress) = progress else {
            self.places.clear();
            return None;
        };
        self.last_bytes = progress.done_bytes;
        let place = (progress.done_bytes, now);
        if self.places.back().is_some_and(|(done, _)| *done > place.0) {
            // Another one, from its beginning.
            self.places.clear();
        }
        if self
            .places
            .back()
            .is_none_or(|(_, at)| now.since(*at) >= APART)
        {
            self.places.push_back(place);
        }
        while self.places.len() > 1 && now.since(self.places[0].1) > LOOK_BACK {
            self.places.pop_front();
        }
        let before = self.places.front().copied().unwrap_or(place);
        Some(SyncView { progress, before })
    }

    /// How many bytes the present resync has moved, or the last one had.
    pub(super) fn last_bytes(&self) -> u64 {
        self.last_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::replication::SyncKind;

    fn at(places: &mut ResyncPlaces, ms: u64, done_bytes: u64) -> (u64, u64) {
        let progress = SyncProgress {
            kind: SyncKind::Full,
            done_bytes,
            total_bytes: 1000,
        };
        let now = Moment(0).after(Duration::from_millis(ms));
        let (done, at) = places.see(now, Some(progress)).unwrap().before;
        (done, at.0 / 1_000_000)
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut places = ResyncPlaces::default();
        assert_eq!(at(&mut places, 0, 0), (0, 0));
        assert_eq!(at(&mut places, 500, 10), (0, 0));
        for second in 1..=10 {
            assert_eq!(at(&mut places, second * 1000, second * 20), (0, 0));
        }
        assert_eq!(at(&mut places, 10_001, 201), (20, 1000));
        assert_eq!(at(&mut places, 15_500, 201), (120, 6000));
        // It stands still: the last place stays, and the rate falls.
        assert_eq!(at(&mut places, 90_000, 201), (201, 90_000));
    }

    #[test]
    fn another_resync_begins_anew() {
        let mut places = ResyncPlaces::default();
        at(&mut places, 0, 50);
        assert_eq!(at(&mut places, 100, 10), (10, 100));
        assert!(places.see(Moment(0), None).is_none());
        assert_eq!(at(&mut places, 200, 70), (70, 200));
    }
}
