//! Truncation, and bringing another store into step by the log or by a snapshot.

use bytes::Bytes;

use crate::proto::ids::{DestId, Epoch, Lsn};
use crate::storage::api::*;
use crate::storage::check::{check, check_view};

use super::rig::*;
use super::{assert_same, catch_up, media};

fn send(rig: &Rig, dest: u32, count: usize, size: usize) {
    for number in 0..count {
        let body = vec![u8::try_from(number % 256).unwrap(); size];
        rig.store.submit(vec![unit(0, vec![put(&[dest], body)])]);
        rig.flush();
    }
}

fn assert_sound(medium: &Medium) {
    let report = match medium {
        Medium::Memory(disk) => check_view(&disk.present().unwrap()).unwrap(),
        Medium::Inline(dir) | Medium::Threads(dir) => check(dir).unwrap(),
    };
    assert_eq!(report.findings, []);
}

#[test]
fn a_divergent_tail_is_kept_aside_and_dropped() {
    let (_a, _b, media) = media();
    for medium in media {
        let (active, old) = (Rig::open(&memory(8)), Rig::open(&medium));
        active.serve(1);
        active.store.submit(vec![unit(0, vec![define(1)])]);
        send(&active, 1, 3, 100);
        old.store.set_gate(GatePolicy::Following);
        catch_up(&active, &old);
        let common = active.end();
        // The old active went on alone for a moment; the other took over meanwhile.
        old.serve(2);
        send(&old, 1, 2, 50);
        active.serve(3);
        send(&active, 1, 4, 70);
        old.store.set_gate(GatePolicy::Closed);
        assert_eq!(old.job(Job::BeginSync), Ok(JobOutcome::Durable));
        let inside = old.job(Job::Truncate(Lsn(99)));
        assert!(matches!(inside, Err(JobRefusal::CannotTruncate { .. })));
        assert_eq!(old.job(Job::Truncate(common)), Ok(JobOutcome::Durable));
        let facts = old.store.log_facts();
        assert!(facts.sync_in_progress);
        assert_eq!((facts.durable.lsn, facts.durable.epoch), (common, Epoch(1)));
        assert_eq!(facts.epochs.len(), 1);
        assert_eq!(old.store.facts().messages, 3);
        old.store.set_gate(GatePolicy::Following);
        catch_up(&active, &old);
        assert_eq!(old.job(Job::EndSync), Ok(JobOutcome::Durable));
        assert!(!old.store.log_facts().sync_in_progress);
        assert_same(&active, &old);
        old.store.close();
        drop(old);
        assert_sound(&medium);
        let tail = match &medium {
            Medium::Memory(disk) => {
                let (first, last, bytes) = disk.tails().remove(0);
                assert_eq!((first, last), (common.next(), Lsn(common.0 + 3)));
                bytes
            }
            Medium::Inline(dir) | Medium::Threads(dir) => {
                let name = format!("1-{}-{}.log", common.0 + 1, common.0 + 3);
                std::fs::read(dir.join("node/divergent").join(name)).unwrap()
            }
        };
        assert!(tail.windows(50).any(|window| window == [1; 50]));
    }
}

#[test]
fn what_a_new_active_calls_committed_is_not_taken_for_this_servers_own_tail() {
    let (active, old) = (Rig::open(&memory(8)), Rig::open(&memory(9)));
    old.serve(1);
    old.store.submit(vec![unit(0, vec![define(1)])]);
    old.flush();
    active.store.set_gate(GatePolicy::Following);
    catch_up(&old, &active);
    // A tail that the peer never had, while the gate needs the peer.
    old.store.set_gate(GatePolicy::WithPeer);
    send(&old, 1, 3, 10);
    assert_eq!(old.store.facts().messages, 0);
    active.serve(2);
    send(&active, 1, 5, 20);
    old.store.set_gate(GatePolicy::Following);
    old.store.peer_holds(active.end());
    assert_eq!(old.store.facts().messages, 0);
    assert_eq!(old.store.committed(), Lsn(2));
    assert_eq!(old.job(Job::Truncate(Lsn(2))), Ok(JobOutcome::Durable));
    catch_up(&active, &old);
    assert_same(&active, &old);
}

#[test]
fn truncation_is_refused_inside_a_batch_and_below_the_checkpoint() {
    let rig = Rig::open_with(&memory(1), |config| config.checkpoint_bytes = 5000);
    rig.serve(1);
    rig.store.submit(vec![unit(
        0,
        vec![define(1), put(&[1], "a"), put(&[1], "b")],
    )]);
    rig.flush();
    let before = rig.store.log_facts();
    rig.store.set_gate(GatePolicy::Closed);
    assert_eq!(
        rig.job(Job::Truncate(Lsn(2))),
        Err(JobRefusal::CannotTruncate {
            to: Lsn(2),
            why: "it is inside a batch"
        })
    );
    assert_eq!(rig.store.log_facts(), before);
    assert_eq!(rig.owed(1).len(), 2);
    rig.store.set_gate(GatePolicy::Alone);
    send(&rig, 1, 5, 1000);
    let checkpoint = rig.store.log_facts().checkpoint;
    assert!(checkpoint > Lsn(4));
    assert!(matches!(
        rig.job(Job::Truncate(checkpoint)),
        Err(JobRefusal::CannotTruncate {
            why: "this server serves",
            ..
        })
    ));
    rig.store.set_gate(GatePolicy::Closed);
    assert!(matches!(
        rig.job(Job::Truncate(Lsn(4))),
        Err(JobRefusal::CannotTruncate { .. })
    ));
    assert_eq!(rig.job(Job::Truncate(checkpoint)), Ok(JobOutcome::Durable));
    assert_eq!(rig.end(), checkpoint);
    assert_eq!(rig.owed(1).len() as u64, checkpoint.0 - 2);
}

/// As the two Replicators do it. Gives the number of pieces.
/// A copy by pieces of what a store shows, and nothing after it.
pub(super) fn full_copy(from: &Rig, to: &Rig) {
    from.job(Job::PinSnapshot).unwrap();
    to.job(Job::BeginSync).unwrap();
    to.job(Job::BeginSnapshot).unwrap();
    loop {
        let Ok(JobOutcome::Piece(piece)) = from.job(Job::ReadSnapshot) else {
            panic!("no piece");
        };
        if piece.is_empty() {
            break;
        }
        to.job(Job::WriteSnapshot(piece)).unwrap();
    }
    to.job(Job::EndSnapshot).unwrap();
    from.job(Job::UnpinSnapshot).unwrap();
}

pub(super) fn full_resync(active: &Rig, to: &Rig) -> usize {
    let Ok(JobOutcome::Snapshot { at, .. }) = active.job(Job::PinSnapshot) else {
        panic!("no snapshot");
    };
    assert_eq!(to.job(Job::BeginSync), Ok(JobOutcome::Durable));
    assert_eq!(to.job(Job::BeginSnapshot), Ok(JobOutcome::Durable));
    let mut pieces = 0;
    loop {
        // The active goes on serving meanwhile.
        send(active, 2, 1, 500);
        let Ok(JobOutcome::Piece(piece)) = active.job(Job::ReadSnapshot) else {
            panic!("no piece");
        };
        if piece.is_empty() {
            break;
        }
        pieces += 1;
        let mut damaged = piece.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 4;
        let refused = to.job(Job::WriteSnapshot(Bytes::from(damaged)));
        assert!(matches!(refused, Err(JobRefusal::BadPiece(_))));
        assert_eq!(
            to.job(Job::WriteSnapshot(piece.clone())),
            Ok(JobOutcome::Durable)
        );
        let again = to.job(Job::WriteSnapshot(piece));
        assert!(matches!(again, Err(JobRefusal::BadPiece(_))));
    }
    let before = to.store.log_facts();
    assert_eq!(to.job(Job::EndSnapshot), Ok(JobOutcome::Durable));
    let facts = to.store.log_facts();
    assert_ne!(facts.store, before.store);
    assert!(facts.sync_in_progress);
    assert_eq!(
        (facts.durable, facts.floor, facts.checkpoint),
        (at, at.lsn, at.lsn)
    );
    to.store.set_gate(GatePolicy::Following);
    catch_up(active, to);
    assert_eq!(active.job(Job::UnpinSnapshot), Ok(JobOutcome::Durable));
    assert_eq!(to.job(Job::EndSync), Ok(JobOutcome::Durable));
    pieces
}

#[test]
fn a_snapshot_fills_a_new_store_while_the_active_serves() {
    let (_a, _b, media) = media();
    for medium in media {
        let active = Rig::open_with(&memory(8), |config| {
            config.checkpoint_bytes = 100_000;
            config.retain_bytes = 100_000;
        });
        active.serve(1);
        active
            .store
            .submit(vec![unit(0, vec![define(1), define(2)])]);
        send(&active, 1, 30, 60_000);
        // Most are done with, so their chunks go; the rest is owed from far back.
        let done: Vec<u64> = active
            .owed(1)
            .iter()
            .skip(1)
            .step_by(2)
            .map(|m| m.0)
            .collect();
        active.store.submit(vec![unit(0, vec![ack(1, &done)])]);
        active.flush();
        send(&active, 2, 10, 60_000);
        assert!(active.store.log_facts().floor > Lsn::ZERO);
        let old = Rig::open(&medium);
        old.serve(1);
        old.store.submit(vec![unit(0, vec![define(77)])]);
        old.flush();
        let id = old.store.log_facts().store;
        old.store.set_gate(GatePolicy::Closed);
        assert!(full_resync(&active, &old) > 1);
        assert_same(&active, &old);
        let facts = old.store.log_facts();
        assert_ne!(facts.store, id);
        old.store.close();
        drop(old);
        assert_sound(&medium);
        let old = Rig::open(&medium);
        assert_eq!(old.store.log_facts(), facts);
        old.store.set_gate(GatePolicy::Following);
        catch_up(&active, &old);
        assert_same(&active, &old);
    }
}

#[test]
fn an_unfinished_or_foreign_snapshot_leaves_the_store_as_it_was() {
    let active = Rig::open(&memory(1));
    active.serve(1);
    active.store.submit(vec![unit(0, vec![define(1)])]);
    send(&active, 1, 40, 60_000);
    let dir = tempfile::tempdir().unwrap();
    let medium = Medium::Threads(dir.path().to_path_buf());
    let to = Rig::open(&medium);
    assert!(matches!(
        to.job(Job::EndSnapshot),
        Err(JobRefusal::NotNow(_))
    ));
    let before = to.store.log_facts();
    active.job(Job::PinSnapshot).unwrap();
    to.job(Job::BeginSnapshot).unwrap();
    let Ok(JobOutcome::Piece(piece)) = active.job(Job::ReadSnapshot) else {
        panic!("no piece");
    };
    to.job(Job::WriteSnapshot(piece)).unwrap();
    assert!(matches!(
        to.job(Job::EndSnapshot),
        Err(JobRefusal::BadPiece(_))
    ));
    assert_eq!(to.store.log_facts(), before);
    // Killed in the middle: the half is removed at the next start.
    to.job(Job::BeginSnapshot).unwrap();
    assert!(dir.path().join("store.2.tmp").exists());
    drop(to);
    let to = Rig::open(&medium);
    assert!(!dir.path().join("store.2.tmp").exists());
    assert_eq!(to.store.log_facts(), before);
}

#[test]
fn what_is_owed_outlives_its_neighbours_and_what_is_done_stays_done() {
    let (_a, _b, media) = media();
    for medium in media {
        let small = |config: &mut crate::storage::StoreConfig| {
            config.checkpoint_bytes = 20_000;
            config.retain_bytes = 20_000;
        };
        let mut rig = Rig::open_with(&medium, small);
        rig.serve(1);
        rig.store.submit(vec![unit(0, vec![define(1), define(2)])]);
        send(&rig, 2, 1, 10);
        let kept = rig.owed(2);
        for round in 0..20 {
            send(&rig, 1, 3, 3000);
            let all: Vec<u64> = rig.owed(1).iter().map(|message| message.0).collect();
            rig.store.submit(vec![unit(0, vec![ack(1, &all)])]);
            rig.flush();
            if round == 10 {
                rig.store.close();
                drop(rig);
                rig = Rig::open_with(&medium, small);
                rig.serve(2);
            }
        }
        assert_eq!(rig.owed(2), kept);
        assert_eq!(rig.owed(1), []);
        let facts = rig.store.log_facts();
        assert!(facts.floor > Lsn(30), "floor {}", facts.floor);
        assert!(facts.floor < facts.checkpoint);
        // The log above the floor is whole, and nothing is read from below it.
        assert_eq!(
            rig.read_log(facts.floor, usize::MAX).last().unwrap().last,
            rig.end()
        );
        assert_eq!(rig.read_log(Lsn(3), usize::MAX), []);
        assert_eq!(rig.store.destinations()[1].id, DestId(2));
        rig.store.close();
        drop(rig);
        assert_sound(&medium);
    }
}
