//! The machine of the shared mode by scenario.

mod random;
mod world;

use super::*;
use crate::machines::ha::Refusal;
use crate::proto::ids::{Lsn, StoreId};
use world::{PRIMARY, SECONDARY, World};

use ServerState::{Activating, Active, Dead, Passive};

#[test]
fn whoever_starts_first_serves_without_waiting_for_the_other() {
    let mut pair = World::new();
    pair.start(PRIMARY);
    assert_eq!(pair.states(), (Active, Dead));
    assert_eq!(pair.opened, 1);
    pair.start(SECONDARY);
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Active));
    pair.start(PRIMARY);
    pair.connect();
    assert_eq!(pair.states(), (Passive, Active), "nobody takes it back");
}

#[test]
fn at_first_boot_the_secondary_alone_makes_nothing() {
    let mut pair = World::new();
    pair.start(SECONDARY);
    assert_eq!(pair.states(), (Dead, Passive));
    assert!(pair.record.is_none() && pair.store == StoreId::NONE);
    assert!(
        pair.machine(SECONDARY)
            .reason()
            .unwrap()
            .contains("first boot")
    );
    pair.start(PRIMARY);
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
    assert_eq!(pair.machine(SECONDARY).reason(), None);
}

#[test]
fn the_standby_opens_the_store_once_and_after_the_record_names_it() {
    let mut pair = World::formed();
    pair.write();
    pair.held_answers = Some(Vec::new());
    pair.kill(PRIMARY);
    assert_eq!(
        pair.machine(SECONDARY).state(),
        SharedState::Passive(Attempt::Claiming)
    );
    assert_eq!((pair.opened, pair.taken_by), (1, Some(SECONDARY)));
    pair.release_answers();
    assert_eq!((pair.states(), pair.opened), ((Dead, Active), 2));
    assert_eq!(pair.record.as_ref().unwrap().epoch, Epoch(2));
}

#[test]
fn on_a_share_the_taker_over_opens_nothing_before_the_old_lease_must_be_over() {
    let mut pair = World::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Activating));
    assert_eq!(pair.opened, 1);
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!((pair.states(), pair.opened), ((Dead, Active), 2));
}

#[test]
fn a_death_that_was_seen_and_an_epoch_that_was_served_need_no_wait() {
    let mut pair = World::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Activating));
    let died = HaInput::PeerDied {
        node: world::node(PRIMARY),
        epoch: Epoch(1),
    };
    pair.give(SECONDARY, died);
    assert_eq!(pair.states(), (Dead, Active));
    // Killed before its first heartbeat, it may have served or not.
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    assert_eq!(pair.states(), (Dead, Activating));
    pair.fire(SECONDARY, HaTimer::FenceWait);
    pair.check_lock(SECONDARY);
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    assert_eq!(pair.states(), (Dead, Active));
}

#[test]
fn a_goodbye_comes_after_the_store_is_closed_and_needs_no_wait() {
    let mut pair = World::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.write();
    pair.give(PRIMARY, HaInput::StopRequested);
    assert_eq!(pair.servers[PRIMARY].exited, Some(ExitCause::Stopped));
    assert_eq!(pair.machine(SECONDARY).shown(), Active);
}

#[test]
fn a_store_that_does_not_close_is_let_go_by_the_end_of_the_process_only() {
    let mut pair = World::formed();
    pair.close_hangs = true;
    pair.give(PRIMARY, HaInput::StopRequested);
    assert_eq!(pair.machine(SECONDARY).shown(), Passive);
    pair.fire(PRIMARY, HaTimer::Drain);
    assert!(matches!(
        pair.servers[PRIMARY].exited,
        Some(ExitCause::SteppedDown(_))
    ));
    pair.end_exited();
    assert_eq!(pair.states(), (Dead, Active));
}

#[test]
fn whatever_ends_service_ends_the_process() {
    let lost = || HaInput::LockLost {
        reason: "the share was restarted".into(),
    };
    let newer = |pair: &World| {
        let mut record = pair.record.clone().unwrap();
        record.seq = record.seq.next();
        HaInput::LockConfirmed {
            record: Some(record),
        }
    };
    for which in 0..3 {
        let mut pair = World::formed();
        let input = match which {
            0 => lost(),
            1 => HaInput::LeaseExpired,
            _ => newer(&pair),
        };
        pair.give(PRIMARY, input);
        assert!(
            matches!(
                pair.servers[PRIMARY].exited,
                Some(ExitCause::SteppedDown(_))
            ),
            "{which}"
        );
        assert!(!pair.servers[PRIMARY].serving);
        // Nothing was let go before the process is gone.
        assert_eq!(pair.machine(SECONDARY).shown(), Passive, "{which}");
        pair.end_exited();
        pair.retry(SECONDARY);
        assert_eq!(pair.states(), (Dead, Active), "{which}");
    }
}

#[test]
fn an_active_keeps_serving_without_its_peer_and_a_standby_that_was_cut_off_waits() {
    let mut pair = World::formed();
    pair.cut();
    assert_eq!(pair.states(), (Active, Passive));
    assert!(!pair.servers[SECONDARY].wants_lock, "silence first");
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Active, Passive));
    assert!(
        pair.machine(SECONDARY)
            .reason()
            .unwrap()
            .contains("lock is held")
    );
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
    assert_eq!(pair.machine(SECONDARY).reason(), None);
    assert!(!pair.servers[SECONDARY].wants_lock);
}

/// A lock file that was deleted, or a share that forgot its locks: the old holder may be stopped and
/// wake up.
#[test]
fn a_store_that_somebody_still_writes_is_not_claimed() {
    let mut pair = World::formed();
    pair.cut();
    // The share drops the lock of the primary, which is paused and hears nothing.
    pair.lock_holder = None;
    let record = pair.record.clone();
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.machine(SECONDARY).shown(), Passive);
    assert_eq!(
        pair.record, record,
        "the old holder may go on when it wakes"
    );
    assert_eq!(pair.lock_holder, None, "no camping on the lock");
    let reason = pair.machine(SECONDARY).reason().unwrap().to_owned();
    assert!(reason.contains("still open in"), "{reason}");
    pair.kill(PRIMARY);
    pair.retry(SECONDARY);
    assert_eq!(pair.states(), (Dead, Active));
}

#[test]
fn another_db_path_is_told_and_never_served() {
    let mut pair = World::formed();
    pair.servers[SECONDARY].sees = Some(StoreId([42; 16]));
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    pair.connect();
    let reason = |pair: &World| pair.machine(SECONDARY).reason().unwrap().to_owned();
    assert!(
        reason(&pair).contains("same directory for both"),
        "{}",
        reason(&pair)
    );
    pair.kill(PRIMARY);
    pair.retry(SECONDARY);
    assert_eq!(pair.states(), (Dead, Passive));
    // A share that is not mounted looks like an empty folder.
    pair.servers[SECONDARY].sees = Some(StoreId::NONE);
    pair.retry(SECONDARY);
    assert!(reason(&pair).contains("is none"), "{}", reason(&pair));
    pair.servers[SECONDARY].sees = None;
    pair.retry(SECONDARY);
    assert_eq!(pair.states(), (Dead, Active));
}

#[test]
fn a_store_that_was_put_back_is_found_out_when_it_is_open_and_not_served() {
    let mut pair = World::formed();
    pair.write();
    pair.check_lock(PRIMARY);
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    pair.position.lsn = Lsn(1);
    pair.log.clear();
    pair.confirmed.clear();
    pair.start(PRIMARY);
    let Some(ExitCause::SteppedDown(why)) = &pair.servers[PRIMARY].exited else {
        panic!("{pair:#?}");
    };
    assert!(why.contains("put the newest copy back"), "{why}");
}

/// Seed 96 of the simulation: whoever waits for the old lease writes into the lock file, and its store is
/// closed.
#[test]
fn a_store_that_was_put_back_is_found_out_at_every_attempt() {
    let mut pair = World::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.write();
    pair.check_lock(PRIMARY);
    pair.kill(PRIMARY);
    pair.end_exited();
    pair.kill(SECONDARY);
    pair.position.lsn = Lsn(1);
    pair.log.clear();
    pair.confirmed.clear();
    for at in [SECONDARY, PRIMARY, SECONDARY] {
        pair.start(at);
        if pair.servers[at].exited.is_none() {
            pair.check_lock(at);
            pair.fire(at, HaTimer::FenceWait);
        }
        let Some(ExitCause::SteppedDown(why)) = &pair.servers[at].exited else {
            panic!("{at} serves: {pair:#?}");
        };
        assert!(why.contains("put the newest copy back"), "{why}");
        pair.end_exited();
    }
}

#[test]
fn a_record_that_went_back_is_not_claimed() {
    let mut pair = World::formed();
    let old = pair.record.clone();
    pair.kill(PRIMARY);
    pair.kill(SECONDARY);
    pair.record = old.map(|record| ArbiterRecord {
        seq: crate::proto::ids::RecordSeq(1),
        epoch: Epoch::ZERO,
        ..record
    });
    pair.lock_file.as_mut().unwrap().last = None;
    pair.start(SECONDARY);
    assert_eq!(pair.states(), (Dead, Passive));
    let reason = pair.machine(SECONDARY).reason().unwrap();
    assert!(reason.contains("went back"), "{reason}");
}

#[test]
fn a_lost_record_is_formed_anew_by_a_linked_pair_only() {
    let mut pair = World::formed();
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    (pair.record, pair.lock_file) = (None, None);
    pair.start(PRIMARY);
    assert_eq!(pair.states(), (Passive, Dead));
    assert!(pair.machine(PRIMARY).reason().unwrap().contains("is gone"));
    pair.start(SECONDARY);
    pair.connect();
    pair.retry(PRIMARY);
    pair.retry(SECONDARY);
    let (one, other) = pair.states();
    assert!(one == Active || other == Active, "{pair:#?}");
}

#[test]
fn a_store_that_does_not_answer_is_the_reason_to_wait() {
    let mut pair = World::formed();
    pair.store_fails = true;
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Passive));
    let reason = pair.machine(SECONDARY).reason().unwrap();
    assert!(
        reason.contains("shared store cannot be reached"),
        "{reason}"
    );
    pair.store_fails = false;
    pair.retry(SECONDARY);
    assert_eq!(pair.states(), (Dead, Active));
}

#[test]
fn an_activation_that_hangs_ends_the_process() {
    let mut pair = World::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.kill(PRIMARY);
    pair.fire(SECONDARY, HaTimer::MaxWait);
    assert!(matches!(
        pair.servers[SECONDARY].exited,
        Some(ExitCause::SteppedDown(_))
    ));
}

#[test]
fn an_unknown_outcome_of_the_claim_is_looked_for() {
    let mut pair = World::formed();
    pair.sets_fail_after = Some(true);
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Passive));
    pair.sets_fail_after = None;
    pair.retry(SECONDARY);
    assert_eq!(pair.states(), (Dead, Active));
}

#[test]
fn a_peer_that_does_not_fit_ends_a_standby_and_never_an_active() {
    let mut pair = World::formed();
    let reason = || HaInput::PeerMismatch {
        reason: "other intervals".into(),
    };
    pair.give(PRIMARY, reason());
    pair.give(SECONDARY, reason());
    assert_eq!(pair.servers[PRIMARY].exited, None);
    assert_eq!(
        pair.servers[SECONDARY].exited,
        Some(ExitCause::PeerMismatch("other intervals".into()))
    );
}

#[test]
fn every_input_is_taken_in_every_state() {
    let attempts = [
        Attempt::Idle,
        Attempt::Looking,
        Attempt::Founding,
        Attempt::Creating,
        Attempt::Locking,
        Attempt::Taking,
        Attempt::Claiming,
    ];
    let steps = [
        Step::Persisting,
        Step::Fencing,
        Step::Opening,
        Step::Beginning,
    ];
    let states = attempts
        .map(SharedState::Passive)
        .into_iter()
        .chain(steps.map(SharedState::Activating))
        .chain([
            SharedState::Active,
            SharedState::Draining,
            SharedState::Closing(Active),
            SharedState::Releasing(Active),
            SharedState::Stopped,
        ]);
    for state in states {
        for owner in [super::super::table::ME, super::super::table::PEER] {
            let mut before = super::table::machine(state, owner);
            before.taken = !matches!(state, SharedState::Passive(_));
            for (name, input) in super::table::inputs(&before) {
                let (mut machine, mut effects) = (before.clone(), Vec::new());
                machine.step(super::super::table::own(), input, &mut effects);
                let serves = effects
                    .iter()
                    .any(|effect| matches!(effect, HaEffect::OpenClients { .. }));
                assert!(
                    !serves || machine.state == SharedState::Active,
                    "{state:?}, {name}"
                );
                if state == SharedState::Stopped {
                    assert_eq!(machine.state, state, "{name}");
                }
            }
        }
    }
}

#[test]
fn refusals_say_what_to_do() {
    let text = Refusal::StoreInUse("process 4711".into()).to_string();
    assert_eq!(
        text,
        "the shared store is still open in process 4711: end that process"
    );
}
