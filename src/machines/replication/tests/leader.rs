//! The leader, effect by effect.

mod snapshots;

use super::*;
use crate::proto::log::EpochStart;
use crate::proto::peer::SyncPlan;

const STORE: StoreId = StoreId([2; 16]);
/// What the log's last chunk has for a checksum.
const CHAIN: u32 = 7;

fn at(lsn: u64) -> Position {
    Position {
        epoch: EPOCH,
        lsn: Lsn(lsn),
    }
}

fn epochs(starts: &[(u64, u64)]) -> Vec<EpochStart> {
    let start = |&(epoch, start): &(u64, u64)| EpochStart {
        epoch: Epoch(epoch),
        start: Lsn(start),
    };
    starts.iter().map(start).collect()
}

fn facts(durable: u64, floor: u64) -> LogFacts {
    LogFacts {
        store: StoreId([1; 16]),
        durable: at(durable),
        chain: CHAIN,
        epochs: epochs(&[(1, 1)]),
        floor: Lsn(floor),
        checkpoint: Lsn(floor),
        sync_in_progress: false,
    }
}

fn log(durable: u64, floor: u64) -> ReplicationInput {
    ReplicationInput::Log(facts(durable, floor))
}

/// Bytes of one chunk; what it chains to is the number before its first LSN.
fn batch(first: u64, last: u64, bytes: usize) -> Batch {
    Batch {
        epoch: EPOCH,
        first: Lsn(first),
        last: Lsn(last),
        prev_chain: u32::try_from(first).unwrap() - 1,
        chunks: vec![Bytes::from(vec![0; bytes])],
    }
}

fn asks(starts: &[(u64, u64)], end: u64, checkpoint: u64) -> ReplicationInput {
    frame(Body::SyncRequest {
        epochs: epochs(starts),
        position: at(end),
        chain: u32::try_from(end).unwrap(),
        checkpoint: Lsn(checkpoint),
    })
}

fn ready(lsn: u64) -> ReplicationInput {
    frame(Body::SyncReady {
        at: Lsn(lsn),
        chain: u32::try_from(lsn).unwrap(),
    })
}

fn lead() -> ReplicationInput {
    ReplicationInput::Lead {
        session: SESSION,
        epoch: EPOCH,
    }
}

fn holds(lsn: u64) -> ReplicationInput {
    frame(Body::Durable {
        store: STORE,
        position: at(lsn),
    })
}

fn done(lsn: u64) -> ReplicationInput {
    frame(Body::SyncDone {
        store: STORE,
        position: at(lsn),
    })
}

fn gate(policy: GatePolicy, committed: u64) -> ReplicationInput {
    ReplicationInput::GateSet {
        policy,
        committed: Lsn(committed),
    }
}

fn job(request: u64, outcome: JobOutcome) -> ReplicationInput {
    ReplicationInput::JobDone {
        request,
        outcome: Ok(outcome),
    }
}

fn read(request: u64, batches: Vec<Batch>) -> ReplicationInput {
    ReplicationInput::LogRead { request, batches }
}

fn send(body: Body) -> ReplicationEffect {
    let session = SESSION;
    ReplicationEffect::Send { session, body }
}

fn send_batch(batch: Batch) -> ReplicationEffect {
    let session = SESSION;
    ReplicationEffect::SendBatch { session, batch }
}

fn read_log(request: u64, after: u64) -> ReplicationEffect {
    let after = Lsn(after);
    ReplicationEffect::ReadLog { request, after }
}

fn run(request: u64, job: ReplicationJob) -> ReplicationEffect {
    ReplicationEffect::Run { request, job }
}

fn progress() -> ReplicationEffect {
    ReplicationEffect::Report(ReplicationReport::Progress { session: SESSION })
}

fn holds_all() -> ReplicationEffect {
    ReplicationEffect::Report(ReplicationReport::PeerHoldsAll { session: SESSION })
}

fn failed(reason: &str) -> ReplicationEffect {
    ReplicationEffect::Report(ReplicationReport::SyncFailed {
        session: SESSION,
        reason: reason.to_owned(),
    })
}

/// The log after `common` is measured and has these bytes.
fn measured(machine: &mut ReplicationMachine, common: u64, bytes: u64) {
    let after = Lsn(common);
    let measure = ReplicationEffect::MeasureLog { after };
    assert_eq!(step(machine, log(9, 3)), [measure]);
    let common = after;
    let plan = SyncPlan::Incremental { common, bytes };
    assert_eq!(
        step(machine, ReplicationInput::LogBytes(bytes)),
        [send(Body::SyncPlan(plan))]
    );
}

/// A leader whose follower is at 4 and has been told to go on from there; its log ends at 9, and
/// read 1 is under way.
fn catching_up() -> ReplicationMachine {
    let mut machine = machine();
    assert_eq!(step(&mut machine, lead()), []);
    let asked = step(&mut machine, asks(&[(1, 1)], 4, 2));
    assert_eq!(asked, [ReplicationEffect::DescribeLog]);
    measured(&mut machine, 4, 60);
    let described = step(&mut machine, ready(4));
    assert_eq!(described, [ReplicationEffect::DescribeLog]);
    assert_eq!(step(&mut machine, log(9, 3)), [read_log(1, 4)]);
    machine
}

/// Its follower has all of it up to 9 and has said so.
fn live() -> ReplicationMachine {
    let mut machine = catching_up();
    let (one, other) = (batch(5, 6, 30), batch(7, 9, 30));
    assert_eq!(
        step(&mut machine, read(1, vec![one.clone(), other.clone()])),
        [
            send_batch(one),
            send_batch(other),
            progress(),
            send(Body::SyncEnd { at: Lsn(9) })
        ]
    );
    let sync = SyncProgress {
        kind: SyncKind::Incremental,
        done_bytes: 60,
        total_bytes: 60,
    };
    assert_eq!(machine.progress(), Some(sync));
    assert_eq!(step(&mut machine, holds(9)), [progress()]);
    let report = ReplicationReport::SyncDone {
        session: SESSION,
        store: STORE,
    };
    assert_eq!(
        step(&mut machine, done(9)),
        [progress(), ReplicationEffect::Report(report)]
    );
    assert_eq!(machine.progress(), None);
    assert_eq!(machine.follower_position(), Some((STORE, at(9))));
    machine
}

#[test]
fn a_limit_holds_back_the_log_of_a_resync_and_no_batch_of_a_peer_in_step() {
    let mut machine = catching_up();
    machine.config.resync_bytes_per_s = 10;
    let (one, other) = (batch(5, 6, 30), batch(7, 9, 30));
    let sent = step(&mut machine, read(1, vec![one.clone()]));
    assert_eq!(sent, [send_batch(one), progress()], "no further read");
    let paid = Moment(3_000_000_000);
    assert_eq!(machine.next_deadline(), Some(paid));
    assert_eq!(step(&mut machine, ReplicationInput::Deadline), []);
    let mut effects = Vec::new();
    machine.step(paid, ReplicationInput::Deadline, &mut effects);
    assert_eq!(effects, [read_log(2, 6)]);
    assert_eq!(machine.next_deadline(), None);
    let end = send(Body::SyncEnd { at: Lsn(9) });
    assert_eq!(
        step(&mut machine, read(2, vec![other.clone()])),
        [send_batch(other), progress(), end]
    );
    let live = batch(10, 10, 30);
    let cut = ReplicationInput::Cut(live.clone());
    assert_eq!(step(&mut machine, cut), [send_batch(live)]);
}

#[test]
fn what_is_to_be_sent_is_known_in_bytes_however_large_the_messages() {
    let mut machine = catching_up();
    let sync = |done_bytes, total_bytes| {
        let kind = SyncKind::Incremental;
        Some(SyncProgress {
            kind,
            done_bytes,
            total_bytes,
        })
    };
    assert_eq!(machine.progress(), sync(0, 60));
    // Many small messages first, few large ones to come.
    step(&mut machine, read(1, vec![batch(5, 8, 4)]));
    assert_eq!(machine.progress(), sync(4, 60));
    step(&mut machine, ReplicationInput::Cut(batch(10, 10, 40)));
    assert_eq!(machine.progress(), sync(4, 100));
}

/// A resync that yields to clients: nothing more is read before the follower has what was sent, and
/// then only after a rest, but a deadline is always set that reads on at the latest.
#[test]
fn a_resync_yields_to_clients_and_goes_on_whatever_the_follower_does() {
    let mut machine = catching_up();
    machine.config.window_bytes = 1 << 20;
    step(&mut machine, ReplicationInput::Cut(batch(10, 99, 10)));
    let piece = machine.config.piece_bytes;
    let sent = step(&mut machine, read(1, vec![batch(5, 5, piece)]));
    assert_eq!(sent.len(), 3, "it yields from the next piece on: {sent:?}");
    let sent = step(&mut machine, read(2, vec![batch(6, 6, piece)]));
    assert_eq!(sent, [send_batch(batch(6, 6, piece)), progress()]);
    let least = machine.next_deadline().expect("it goes on by itself");
    let mut effects = Vec::new();
    machine.step(least, ReplicationInput::Deadline, &mut effects);
    assert_eq!(effects, [read_log(3, 6)]);
    // The end is near: the rest is not held back.
    let sent = step(&mut machine, read(3, vec![batch(7, 7, 10)]));
    let one = batch(7, 7, 10);
    assert_eq!(sent, [send_batch(one), progress(), read_log(4, 7)]);
}

#[test]
fn batches_go_out_as_they_are_cut_and_the_commit_index_when_none_is_on_its_way() {
    let mut machine = live();
    let committed = |lsn| ReplicationInput::Committed(Lsn(lsn));
    let told = || ReplicationEffect::SendCommitIndex { session: SESSION };
    assert_eq!(step(&mut machine, committed(9)), [told()]);
    assert_eq!(step(&mut machine, committed(9)), []);
    let cut = ReplicationInput::Cut(batch(10, 11, 10));
    assert_eq!(step(&mut machine, cut), [send_batch(batch(10, 11, 10))]);
    assert_eq!(step(&mut machine, committed(10)), []);
    assert_eq!(step(&mut machine, holds(11)), []);
    assert_eq!(step(&mut machine, committed(11)), [told()]);
}

#[test]
fn where_the_log_will_not_do_the_reason_is_said() {
    let cases = [
        (&[(1, 2)][..], 4, 2, "the two logs have no epoch in common"),
        (
            &[(1, 1)][..],
            2,
            2,
            "the log before 3 is no longer kept, and the peer needs it from 2",
        ),
        (
            &[(1, 1)][..],
            12,
            10,
            "the peer would have to go back to 9, which is before its checkpoint 10",
        ),
        (&[][..], 4, u64::MAX, "the two logs have no epoch in common"),
    ];
    for (starts, end, checkpoint, reason) in cases {
        let mut machine = machine();
        assert_eq!(step(&mut machine, lead()), []);
        step(&mut machine, asks(starts, end, checkpoint));
        let pin = run(1, ReplicationJob::PinSnapshot);
        assert_eq!(step(&mut machine, log(9, 3)), [pin]);
        let bytes = 50;
        let pinned = JobOutcome::Snapshot { at: at(8), bytes };
        let plan = SyncPlan::Full {
            bytes,
            reason: reason.to_owned(),
        };
        assert_eq!(
            step(&mut machine, job(1, pinned)),
            [
                send(Body::SyncPlan(plan)),
                run(2, ReplicationJob::ReadSnapshot)
            ]
        );
        // Whatever ends it, the snapshot is let go, once.
        let unpin = run(3, ReplicationJob::UnpinSnapshot);
        assert_eq!(step(&mut machine, ReplicationInput::Rest), [unpin]);
        assert_eq!(step(&mut machine, ReplicationInput::Rest), []);
    }
}

#[test]
fn a_follower_at_the_edges_needs_no_snapshot() {
    for (end, checkpoint, common) in [(3, 3, 3), (12, 9, 9), (9, 0, 9)] {
        let mut machine = machine();
        assert_eq!(step(&mut machine, lead()), []);
        step(&mut machine, asks(&[(1, 1)], end, checkpoint));
        measured(&mut machine, common, 5);
    }
}

#[test]
fn a_peer_that_ends_elsewhere_than_planned_is_not_led_on() {
    let mut machine = catching_up();
    step(&mut machine, asks(&[(1, 1)], 4, 2));
    measured(&mut machine, 4, 60);
    step(&mut machine, ready(11));
    let reason = "the peer's log ends at 11, and by the plan at 4";
    assert_eq!(step(&mut machine, log(9, 3)), [failed(reason)]);
}

#[test]
fn a_gap_in_the_log_ends_the_resync() {
    let mut machine = catching_up();
    let (one, other) = (batch(5, 6, 30), batch(8, 9, 30));
    assert_eq!(
        step(&mut machine, read(1, vec![one.clone(), other])),
        [
            send_batch(one),
            failed("the log has a gap where the peer needs it")
        ]
    );
}

#[test]
fn beyond_the_window_the_log_is_read_until_the_leader_is_live_again() {
    let mut machine = live();
    let cut = |first, bytes| ReplicationInput::Cut(batch(first, first, bytes));
    let sent = |first, bytes| [send_batch(batch(first, first, bytes))];
    assert_eq!(step(&mut machine, cut(10, 60)), sent(10, 60));
    assert_eq!(step(&mut machine, cut(11, 60)), sent(11, 60));
    assert_eq!(step(&mut machine, cut(12, 10)), []);
    assert_eq!(step(&mut machine, cut(13, 10)), []);
    let durable = ReplicationInput::Durable(at(13));
    assert_eq!(step(&mut machine, durable), []);
    assert_eq!(step(&mut machine, holds(10)), [read_log(2, 11)]);
    assert_eq!(step(&mut machine, holds(11)), []);
    // The peer was called whole before: no second end of the resync.
    let (one, other) = (batch(12, 12, 10), batch(13, 13, 10));
    assert_eq!(
        step(&mut machine, read(2, vec![one.clone(), other.clone()])),
        [send_batch(one), send_batch(other), progress()]
    );
    assert_eq!(step(&mut machine, cut(14, 10)), sent(14, 10));
}

#[test]
fn a_batch_that_was_cut_before_the_lead_is_sent_once_it_is_durable() {
    let mut machine = live();
    // 10 was cut while nobody listened; it was not on the disk when the log was described.
    let durable = ReplicationInput::Durable(at(10));
    assert_eq!(step(&mut machine, durable), [read_log(2, 9)]);
    assert_eq!(
        step(&mut machine, read(2, vec![batch(10, 10, 10)])),
        [send_batch(batch(10, 10, 10)), progress()]
    );
}

#[test]
fn a_batch_that_is_told_late_does_not_hide_the_end_of_the_log() {
    let mut machine = catching_up();
    let late = ReplicationInput::Cut(batch(5, 6, 10));
    assert_eq!(step(&mut machine, late), []);
    let one = batch(5, 6, 10);
    assert_eq!(
        step(&mut machine, read(1, vec![one.clone()])),
        [send_batch(one), progress(), read_log(2, 6)]
    );
}

#[test]
fn a_tail_that_was_truncated_is_not_waited_for_by_a_later_lead() {
    let mut machine = machine();
    let follow = ReplicationInput::Follow {
        session: SessionId(2),
        epoch: EPOCH,
    };
    step(&mut machine, follow);
    step(&mut machine, log(100, 3));
    // It has truncated and followed to 9; then it takes over.
    assert_eq!(step(&mut machine, lead()), []);
    step(&mut machine, asks(&[(1, 1)], 9, 2));
    measured(&mut machine, 9, 0);
    let chained = frame(Body::SyncReady {
        at: Lsn(9),
        chain: CHAIN,
    });
    step(&mut machine, chained);
    assert_eq!(step(&mut machine, log(9, 3)), [read_log(1, 9)]);
    let end = send(Body::SyncEnd { at: Lsn(9) });
    assert_eq!(step(&mut machine, read(1, Vec::new())), [end]);
}

#[test]
fn what_the_peer_holds_counts_while_it_is_demanded_and_all_is_reported_once() {
    let mut machine = live();
    let cut = ReplicationInput::Cut(batch(10, 12, 10));
    assert_eq!(step(&mut machine, cut).len(), 1);
    let peer = |lsn| ReplicationEffect::PeerHolds(Lsn(lsn));
    let demanded = step(&mut machine, gate(GatePolicy::WithPeer, 12));
    assert_eq!(demanded, [peer(9)]);
    assert_eq!(step(&mut machine, holds(11)), [peer(11)]);
    assert_eq!(step(&mut machine, holds(12)), [peer(12), holds_all()]);
    assert_eq!(step(&mut machine, holds(12)), [peer(12)]);
    assert_eq!(step(&mut machine, gate(GatePolicy::Alone, 12)), []);
    assert_eq!(step(&mut machine, holds(12)), []);
    // A gate that is set again is proved again.
    let again = step(&mut machine, gate(GatePolicy::WithPeer, 12));
    assert_eq!(again, [peer(12), holds_all()]);
}

#[test]
fn a_peer_that_has_not_ended_its_resync_does_not_hold_all() {
    let mut machine = catching_up();
    assert_eq!(step(&mut machine, gate(GatePolicy::WithPeer, 4)), []);
    let peer = ReplicationEffect::PeerHolds(Lsn(4));
    assert_eq!(step(&mut machine, holds(4)), [peer, progress()]);
    // Nor does its word end a resync that the leader has not ended.
    let effects = step(&mut machine, done(4));
    assert_eq!(effects, [ReplicationEffect::PeerHolds(Lsn(4)), progress()]);
}

#[test]
fn the_oldest_batch_is_overdue_only_while_the_peer_is_demanded() {
    let mut machine = live();
    let cut = |first| ReplicationInput::Cut(batch(first, first, 10));
    let (early, late) = (Moment(0), Moment(0).after(Duration::from_secs(1)));
    assert_eq!(step(&mut machine, cut(10)).len(), 1);
    assert_eq!(machine.next_deadline(), None);
    let deadline = |now, machine: &mut ReplicationMachine| {
        let mut effects = Vec::new();
        machine.step(now, ReplicationInput::Deadline, &mut effects);
        effects
    };
    assert_eq!(deadline(late, &mut machine), []);
    step(&mut machine, gate(GatePolicy::WithPeer, 9));
    assert_eq!(machine.next_deadline(), Some(late));
    assert_eq!(deadline(early, &mut machine), []);
    let overdue = ReplicationReport::AckOverdue { session: SESSION };
    let overdue = [ReplicationEffect::Report(overdue)];
    assert_eq!(deadline(late, &mut machine), overdue);
    assert_eq!(deadline(late, &mut machine), []);
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn frames_that_only_an_active_sends_end_the_session() {
    let plan = SyncPlan::Incremental {
        common: Lsn(1),
        bytes: 0,
    };
    let frames = [
        Body::SyncPlan(plan),
        Body::SnapshotPiece(Bytes::new()),
        Body::SnapshotEnd { at: at(1) },
        Body::Batch {
            committed: Lsn(1),
            batch: batch(10, 10, 1),
        },
        Body::CommitIndex { committed: Lsn(1) },
        Body::SyncEnd { at: Lsn(1) },
        Body::InSync { epoch: EPOCH },
    ];
    for body in frames {
        let reason = "the peer sent a frame that only an active sends";
        assert_eq!(step(&mut live(), frame(body)), [failed(reason)]);
    }
}
