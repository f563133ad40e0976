//! An operator's override.

use super::pair::{PRIMARY, Pair, SECONDARY};
use crate::machines::ha::*;
use crate::proto::ids::{Epoch, RecordSeq};
use crate::proto::peer::ServerState::{Active, Dead, Passive, Standalone, Waiting};

/// The secondary missed a write that the primary confirmed alone; now the primary is gone.
fn stale() -> Pair {
    let mut pair = Pair::formed();
    pair.write();
    pair.kill(SECONDARY);
    pair.write();
    pair.kill(PRIMARY);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Dead, Waiting));
    pair
}

fn promote(pair: &mut Pair, at: usize, epoch: u64) {
    let epoch = Epoch(epoch);
    pair.give(at, HaInput::PromoteRequested { epoch });
    if *pair.machine(at).state() == HaState::Waiting(Claim::Fencing) {
        pair.fire(at, HaTimer::FenceWait);
    }
}

fn missing(pair: &Pair, at: usize) -> Vec<Condition> {
    let conditions = pair.machine(at).promotion().conditions;
    conditions.into_iter().filter(|it| !it.holds).collect()
}

#[test]
fn a_stale_server_serves_by_override_and_says_before_what_is_given_up() {
    let mut pair = stale();
    let told = pair.machine(SECONDARY).promotion();
    assert_eq!(missing(&pair, SECONDARY), []);
    assert_eq!(told.epoch, Epoch(1));
    assert_eq!(told.lost_at_least, 1, "{told:?}");
    assert_eq!(pair.confirmed.len(), 2);
    promote(&mut pair, SECONDARY, 1);
    assert_eq!(pair.states(), (Dead, Standalone));
    assert_eq!(pair.isr(), [SECONDARY]);
    assert_eq!(pair.record.as_ref().unwrap().epoch, Epoch(2));
    assert!(!pair.machine(SECONDARY).overrules());
    // Exactly the one write that it lacked is excused.
    assert_eq!(pair.confirmed.len(), 1);
    pair.check_nothing_is_lost();
    // The other has a longer log of an older epoch: it follows.
    pair.start(PRIMARY);
    pair.connect();
    assert_eq!(pair.states(), (Passive, Active));
}

#[test]
fn another_epoch_than_the_records_changes_nothing() {
    let mut pair = stale();
    for epoch in [0, 2, 7] {
        let before = pair.machine(SECONDARY).state().clone();
        promote(&mut pair, SECONDARY, epoch);
        assert_eq!(*pair.machine(SECONDARY).state(), before);
        assert!(!pair.machine(SECONDARY).overrules());
    }
}

#[test]
fn nothing_is_overruled_while_a_server_serves_or_may() {
    let mut pair = Pair::formed();
    for at in [PRIMARY, SECONDARY] {
        let before = pair.machine(at).state().clone();
        promote(&mut pair, at, 1);
        assert_eq!(*pair.machine(at).state(), before);
        assert!(!pair.machine(at).overrules());
        assert!(!missing(&pair, at).is_empty());
    }
    // Linked, and the other may serve: it does.
    let mut pair = stale();
    pair.start(PRIMARY);
    pair.connect();
    let epoch = pair.record.as_ref().unwrap().epoch.0;
    promote(&mut pair, SECONDARY, epoch);
    assert_eq!(pair.states(), (Active, Passive));
    // A server that may serve by itself needs no override, and gets none.
    let mut pair = Pair::formed();
    pair.arbiter_fails = true;
    pair.kill(PRIMARY);
    assert!(!missing(&pair, SECONDARY).is_empty());
}

#[test]
fn an_override_does_not_wait_for_a_lock_that_somebody_holds() {
    let mut pair = stale();
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Waiting));
    // Not linked: the secondary has not seen that the primary is back.
    let epoch = pair.machine(SECONDARY).promotion().epoch.0;
    promote(&mut pair, SECONDARY, epoch);
    assert_eq!(pair.states(), (Standalone, Waiting));
    assert!(!pair.machine(SECONDARY).overrules());
    let reason = pair.machine(SECONDARY).reason().unwrap();
    assert!(reason.contains("the lock is held by"), "{reason}");
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Waiting));
}

#[test]
fn a_record_that_went_back_is_raised_above_all_that_is_remembered() {
    let mut pair = Pair::formed();
    let old = pair.record.clone();
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    pair.connect();
    pair.write();
    let newest = pair.record.as_ref().unwrap().seq;
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    pair.record = old;
    pair.start(PRIMARY);
    pair.start(SECONDARY);
    pair.connect();
    assert_eq!(pair.states(), (Waiting, Waiting));
    let reason = pair.machine(PRIMARY).reason().unwrap();
    assert!(reason.contains("went back"), "{reason}");
    let epoch = pair.machine(PRIMARY).promotion().epoch.0;
    promote(&mut pair, PRIMARY, epoch);
    assert_eq!(pair.states(), (Active, Passive));
    assert!(pair.record.as_ref().unwrap().seq > newest);
    pair.check_nothing_is_lost();
    assert_eq!(pair.confirmed.len(), 1);
}

#[test]
fn a_record_that_is_gone_is_made_anew() {
    let mut pair = stale();
    pair.kill(SECONDARY);
    (pair.record, pair.lock_file) = (None, None);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    let told = pair.machine(SECONDARY).promotion();
    let remembered = pair.servers[SECONDARY].last_record.clone().unwrap();
    promote(&mut pair, SECONDARY, told.epoch.0);
    assert_eq!(pair.states(), (Dead, Standalone));
    let record = pair.record.clone().unwrap();
    assert_eq!(record.arbiter, remembered.arbiter);
    assert!(record.seq > remembered.seq && record.epoch > remembered.epoch);
    assert_ne!(record.seq, RecordSeq::ZERO);
}

#[test]
fn half_a_copy_is_never_promoted() {
    let mut pair = stale();
    pair.servers[SECONDARY].own.sync_in_progress = true;
    promote(&mut pair, SECONDARY, 1);
    assert_eq!(pair.states(), (Dead, Waiting));
    assert!(
        missing(&pair, SECONDARY)
            .iter()
            .any(|it| it.found.contains("interrupted"))
    );
}
