//! A follower that needs a whole copy.

use super::*;

/// A leader that has sent its plan for a snapshot at 8 and reads it with request 2.
fn snapshot() -> ReplicationMachine {
    let mut machine = machine();
    assert_eq!(step(&mut machine, lead()), []);
    step(&mut machine, asks(&[], 4, u64::MAX));
    step(&mut machine, log(9, 3));
    let pinned = JobOutcome::Snapshot {
        at: at(8),
        bytes: 50,
    };
    assert_eq!(step(&mut machine, job(1, pinned)).len(), 2);
    machine
}

#[test]
fn pieces_are_read_while_less_than_four_mib_are_unwritten() {
    let mut machine = snapshot();
    let piece = Bytes::from(vec![0; 1 << 20]);
    let read_next = |request| run(request, ReplicationJob::ReadSnapshot);
    for request in 2..6 {
        let mut expected = vec![send(Body::SnapshotPiece(piece.clone()))];
        expected.extend((request < 5).then(|| read_next(request + 1)));
        let given = job(request, JobOutcome::Piece(piece.clone()));
        assert_eq!(step(&mut machine, given), expected);
    }
    let acked = |bytes| frame(Body::SnapshotAck { bytes });
    assert_eq!(step(&mut machine, acked(0)), [progress()]);
    assert_eq!(step(&mut machine, acked(1)), [progress(), read_next(6)]);
    // One read at a time.
    assert_eq!(step(&mut machine, acked(1 << 20)), [progress()]);
    let end = send(Body::SnapshotEnd { at: at(8) });
    let nothing = job(6, JobOutcome::Piece(Bytes::new()));
    assert_eq!(step(&mut machine, nothing), [end]);
    // The log goes on from the snapshot.
    assert_eq!(
        step(&mut machine, ready(8)),
        [ReplicationEffect::DescribeLog]
    );
    assert_eq!(step(&mut machine, log(9, 3)), [read_log(7, 8)]);
    assert_eq!(
        step(&mut machine, read(7, vec![batch(9, 9, 10)])),
        [
            send_batch(batch(9, 9, 10)),
            progress(),
            send(Body::SyncEnd { at: Lsn(9) })
        ]
    );
    let unpin = run(8, ReplicationJob::UnpinSnapshot);
    let effects = step(&mut machine, done(9));
    assert_eq!(effects[..2], [progress(), unpin]);
}

#[test]
fn a_store_that_cannot_make_or_read_a_snapshot_ends_the_resync() {
    let refused = |request| ReplicationInput::JobDone {
        request,
        outcome: Err(JobRefusal::NotNow("no")),
    };
    let mut reading = snapshot();
    let unread = failed("the snapshot could not be read");
    assert_eq!(step(&mut reading, refused(2)), [unread]);
    let mut pinning = machine();
    assert_eq!(step(&mut pinning, lead()), []);
    step(&mut pinning, asks(&[], 4, u64::MAX));
    step(&mut pinning, log(9, 3));
    let unmade = failed("no snapshot could be made");
    assert_eq!(step(&mut pinning, refused(1)), [unmade]);
}

#[test]
fn logs_that_do_not_chain_lead_to_a_snapshot() {
    // Where both end at the same place, that is seen at once.
    let mut machine = catching_up();
    step(&mut machine, asks(&[(1, 1)], 9, 2));
    measured(&mut machine, 9, 0);
    assert_eq!(
        step(&mut machine, ready(9)),
        [ReplicationEffect::DescribeLog]
    );
    let pin = |request| run(request, ReplicationJob::PinSnapshot);
    assert_eq!(step(&mut machine, log(9, 3)), [pin(2)]);
    // Otherwise at the first batch after it.
    let mut machine = catching_up();
    let other = Batch {
        prev_chain: 99,
        ..batch(5, 6, 30)
    };
    assert_eq!(step(&mut machine, read(1, vec![other])), [pin(2)]);
}

#[test]
fn a_log_that_is_collected_while_it_is_read_leads_to_a_snapshot() {
    let mut machine = catching_up();
    let empty = step(&mut machine, read(1, Vec::new()));
    assert_eq!(empty, [ReplicationEffect::DescribeLog]);
    // Still there: it is only not committed yet, and the next flush reads again.
    assert_eq!(step(&mut machine, log(9, 4)), []);
    let durable = || ReplicationInput::Durable(at(9));
    assert_eq!(step(&mut machine, durable()), [read_log(2, 4)]);
    step(&mut machine, read(2, Vec::new()));
    let pin = run(3, ReplicationJob::PinSnapshot);
    assert_eq!(step(&mut machine, log(9, 5)), [pin]);

    // Where the follower was called whole already, the next session has to do it.
    let mut machine = live();
    let beyond = ReplicationInput::Cut(batch(13, 14, 10));
    assert_eq!(step(&mut machine, beyond), []);
    assert_eq!(step(&mut machine, durable()), [read_log(2, 9)]);
    step(&mut machine, read(2, Vec::new()));
    let reason = "the log before 12 is no longer kept, and the peer needs it from 9";
    assert_eq!(step(&mut machine, log(14, 12)), [failed(reason)]);
}

#[test]
fn a_second_request_begins_anew_and_lets_the_snapshot_go() {
    let mut machine = snapshot();
    let unpin = run(3, ReplicationJob::UnpinSnapshot);
    assert_eq!(
        step(&mut machine, asks(&[(1, 1)], 4, 2)),
        [unpin, ReplicationEffect::DescribeLog]
    );
    // The answer to the read that was under way is nobody's.
    let late = job(2, JobOutcome::Piece(Bytes::from_static(b"late")));
    assert_eq!(step(&mut machine, late), []);
    measured(&mut machine, 4, 60);
}
