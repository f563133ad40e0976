//! The follower, effect by effect.

use super::*;
use crate::proto::peer::SyncPlan;

fn at(lsn: u64) -> Position {
    Position {
        epoch: EPOCH,
        lsn: Lsn(lsn),
    }
}

fn log(store: u8, durable: u64) -> ReplicationInput {
    ReplicationInput::Log(LogFacts {
        store: StoreId([store; 16]),
        durable: at(durable),
        chain: u32::try_from(durable).unwrap(),
        epochs: Vec::new(),
        floor: Lsn::ZERO,
        checkpoint: Lsn(2),
        sync_in_progress: false,
    })
}

fn plan(common: u64) -> ReplicationInput {
    frame(Body::SyncPlan(SyncPlan::Incremental {
        common: Lsn(common),
        bytes: 40,
    }))
}

fn full_plan() -> ReplicationInput {
    frame(Body::SyncPlan(SyncPlan::Full {
        bytes: 6,
        reason: "because".to_owned(),
    }))
}

fn batch(first: u64) -> Batch {
    Batch {
        epoch: EPOCH,
        first: Lsn(first),
        last: Lsn(first),
        prev_chain: 0,
        chunks: vec![Bytes::from_static(b"0123456789")],
    }
}

fn comes(first: u64) -> ReplicationInput {
    frame(Body::Batch {
        committed: Lsn(first - 1),
        batch: batch(first),
    })
}

fn ends(at: u64) -> ReplicationInput {
    frame(Body::SyncEnd { at: Lsn(at) })
}

fn durable(lsn: u64) -> ReplicationInput {
    ReplicationInput::Durable(at(lsn))
}

fn done(request: u64) -> ReplicationInput {
    ReplicationInput::JobDone {
        request,
        outcome: Ok(JobOutcome::Durable),
    }
}

fn send(body: Body) -> ReplicationEffect {
    let session = SESSION;
    ReplicationEffect::Send { session, body }
}

fn ready(lsn: u64) -> ReplicationEffect {
    send(Body::SyncReady {
        at: Lsn(lsn),
        chain: u32::try_from(lsn).unwrap(),
    })
}

fn holds(store: u8, lsn: u64) -> ReplicationEffect {
    send(Body::Durable {
        store: StoreId([store; 16]),
        position: at(lsn),
    })
}

fn run(request: u64, job: ReplicationJob) -> ReplicationEffect {
    ReplicationEffect::Run { request, job }
}

fn progress() -> ReplicationEffect {
    ReplicationEffect::Report(ReplicationReport::Progress { session: SESSION })
}

fn failed(reason: &str) -> ReplicationEffect {
    ReplicationEffect::Report(ReplicationReport::SyncFailed {
        session: SESSION,
        reason: reason.to_owned(),
    })
}

/// A follower of store 1 that ends at 9 and has asked.
fn asked() -> ReplicationMachine {
    let mut machine = machine();
    let follow = ReplicationInput::Follow {
        session: SESSION,
        epoch: EPOCH,
    };
    assert_eq!(step(&mut machine, follow), [ReplicationEffect::DescribeLog]);
    assert_eq!(step(&mut machine, log(1, 9)).len(), 1);
    machine
}

/// Its log is the beginning of the leader's, and it has said so. Jobs 1 and 2 are done.
fn streaming() -> ReplicationMachine {
    let mut machine = asked();
    let mark = run(1, ReplicationJob::BeginSync);
    assert_eq!(step(&mut machine, plan(9)), [mark]);
    // Its log may have grown since it was described.
    let truncate = run(2, ReplicationJob::Truncate(Lsn(9)));
    assert_eq!(step(&mut machine, done(1)), [truncate]);
    assert_eq!(
        step(&mut machine, done(2)),
        [ReplicationEffect::DescribeLog]
    );
    assert_eq!(step(&mut machine, log(1, 9)), [ready(9)]);
    machine
}

#[test]
fn a_tail_is_truncated_after_the_mark_and_before_the_log_is_asked_for() {
    let mut machine = asked();
    let mark = run(1, ReplicationJob::BeginSync);
    assert_eq!(step(&mut machine, plan(5)), [mark]);
    // The end of another job means nothing.
    assert_eq!(step(&mut machine, done(9)), []);
    let truncate = run(2, ReplicationJob::Truncate(Lsn(5)));
    assert_eq!(step(&mut machine, done(1)), [truncate]);
    assert_eq!(
        step(&mut machine, done(2)),
        [ReplicationEffect::DescribeLog]
    );
    assert_eq!(step(&mut machine, log(1, 5)), [ready(5)]);
}

#[test]
fn a_truncation_that_is_refused_leads_to_a_request_for_everything() {
    let mut machine = asked();
    step(&mut machine, plan(5));
    step(&mut machine, done(1));
    let refused = |request| ReplicationInput::JobDone {
        request,
        outcome: Err(JobRefusal::CannotTruncate {
            to: Lsn(5),
            why: "it is inside a batch",
        }),
    };
    assert_eq!(
        step(&mut machine, refused(2)),
        [ReplicationEffect::DescribeLog]
    );
    let request = Body::SyncRequest {
        epochs: Vec::new(),
        position: at(9),
        chain: 9,
        checkpoint: Lsn(u64::MAX),
    };
    assert_eq!(step(&mut machine, log(1, 9)), [send(request)]);
    // A leader that would have it truncate all the same ends the session.
    step(&mut machine, plan(5));
    step(&mut machine, done(3));
    let reason = "cannot truncate the log to 5: it is inside a batch";
    assert_eq!(step(&mut machine, refused(4)), [failed(reason)]);
}

#[test]
fn a_new_store_is_filled_one_step_after_the_other() {
    let mut machine = asked();
    let mark = run(1, ReplicationJob::BeginSync);
    assert_eq!(step(&mut machine, full_plan()), [mark]);
    // All of it comes before the first job ends.
    let pieces = [Bytes::from_static(b"1234"), Bytes::from_static(b"56")];
    for piece in &pieces {
        let piece = frame(Body::SnapshotPiece(piece.clone()));
        assert_eq!(step(&mut machine, piece), []);
    }
    let end = frame(Body::SnapshotEnd { at: at(20) });
    assert_eq!(step(&mut machine, end), []);
    let begin = run(2, ReplicationJob::BeginSnapshot);
    assert_eq!(step(&mut machine, done(1)), [begin]);
    let write = |request, piece: &Bytes| run(request, ReplicationJob::WriteSnapshot(piece.clone()));
    assert_eq!(step(&mut machine, done(2)), [write(3, &pieces[0])]);
    // A piece is acknowledged when it is written, not when it comes.
    let acked = |bytes| send(Body::SnapshotAck { bytes });
    assert_eq!(
        step(&mut machine, done(3)),
        [acked(4), progress(), write(4, &pieces[1])]
    );
    let switch = run(5, ReplicationJob::EndSnapshot);
    assert_eq!(step(&mut machine, done(4)), [acked(6), progress(), switch]);
    let sync = SyncProgress {
        kind: SyncKind::Full,
        done_bytes: 6,
        total_bytes: 6,
    };
    assert_eq!(machine.progress(), Some(sync));
    assert_eq!(
        step(&mut machine, done(5)),
        [ReplicationEffect::DescribeLog]
    );
    // The new store from here on.
    assert_eq!(step(&mut machine, log(2, 20)), [ready(20)]);
    assert_eq!(step(&mut machine, durable(21)), [holds(2, 21)]);
}

#[test]
fn a_piece_that_the_store_refuses_ends_the_session() {
    let mut machine = asked();
    step(&mut machine, full_plan());
    step(&mut machine, done(1));
    step(&mut machine, done(2));
    let piece = Bytes::from_static(b"piece");
    step(&mut machine, frame(Body::SnapshotPiece(piece)));
    let refused = ReplicationInput::JobDone {
        request: 3,
        outcome: Err(JobRefusal::BadPiece("checksum".to_owned())),
    };
    let reason = "snapshot piece refused: checksum";
    assert_eq!(step(&mut machine, refused), [failed(reason)]);
}

#[test]
fn nothing_is_taken_and_nothing_is_promised_before_streaming() {
    let mut machine = asked();
    let nothing = |machine: &mut ReplicationMachine| {
        assert_eq!(step(machine, comes(10)), []);
        let index = frame(Body::CommitIndex { committed: Lsn(9) });
        assert_eq!(step(machine, index), []);
        assert_eq!(step(machine, durable(10)), []);
    };
    nothing(&mut machine);
    step(&mut machine, plan(9));
    nothing(&mut machine);
    step(&mut machine, done(1));
    nothing(&mut machine);
    step(&mut machine, done(2));
    nothing(&mut machine);
    assert_eq!(step(&mut machine, log(1, 9)), [ready(9)]);
    assert_eq!(
        step(&mut machine, comes(10)),
        [
            progress(),
            ReplicationEffect::Append(batch(10)),
            ReplicationEffect::PeerHolds(Lsn(9))
        ]
    );
    // Received is not written: only the store's word is passed on.
    assert_eq!(step(&mut machine, durable(10)), [holds(1, 10)]);
    // A new plan of the same session: all of it again.
    step(&mut machine, plan(9));
    nothing(&mut machine);
}

#[test]
fn the_resync_ends_when_its_end_is_durable_and_the_mark_is_gone() {
    let mut machine = streaming();
    step(&mut machine, comes(10));
    step(&mut machine, comes(11));
    let sync = SyncProgress {
        kind: SyncKind::Incremental,
        done_bytes: 20,
        total_bytes: 40,
    };
    assert_eq!(machine.progress(), Some(sync));
    assert_eq!(step(&mut machine, ends(11)), []);
    assert_eq!(step(&mut machine, durable(10)), [holds(1, 10)]);
    let unmark = run(3, ReplicationJob::EndSync);
    assert_eq!(step(&mut machine, durable(11)), [holds(1, 11), unmark]);
    // More may come meanwhile; the end is said once.
    assert_eq!(step(&mut machine, durable(12)), [holds(1, 12)]);
    let whole = send(Body::SyncDone {
        store: StoreId([1; 16]),
        position: at(12),
    });
    assert_eq!(step(&mut machine, done(3)), [whole]);
    assert_eq!(machine.progress(), None);
    assert_eq!(step(&mut machine, durable(13)), [holds(1, 13)]);
    // In step: no resync moves any more.
    assert_eq!(
        step(&mut machine, comes(14)),
        [
            ReplicationEffect::Append(batch(14)),
            ReplicationEffect::PeerHolds(Lsn(13))
        ]
    );
}

#[test]
fn a_follower_that_lacks_nothing_ends_at_once() {
    let mut machine = streaming();
    let unmark = run(3, ReplicationJob::EndSync);
    assert_eq!(step(&mut machine, ends(9)), [unmark]);
}

#[test]
fn in_sync_counts_in_the_epoch_that_is_followed() {
    let mut machine = streaming();
    let epoch = EPOCH.next();
    assert_eq!(step(&mut machine, frame(Body::InSync { epoch })), []);
    let report = ReplicationReport::InSync {
        session: SESSION,
        epoch: EPOCH,
    };
    assert_eq!(
        step(&mut machine, frame(Body::InSync { epoch: EPOCH })),
        [ReplicationEffect::Report(report)]
    );
}

#[test]
fn frames_that_only_a_passive_sends_end_the_session() {
    let store = StoreId([1; 16]);
    let frames = [
        request(),
        Body::SyncReady {
            at: Lsn(1),
            chain: 0,
        },
        Body::SnapshotAck { bytes: 1 },
        Body::SyncDone {
            store,
            position: at(1),
        },
        Body::Durable {
            store,
            position: at(1),
        },
    ];
    for body in frames {
        let reason = "the peer sent a frame that only a passive sends";
        assert_eq!(step(&mut streaming(), frame(body)), [failed(reason)]);
    }
}
