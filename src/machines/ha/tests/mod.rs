//! The machine by scenario: what a pair does when its parts start, die, lose each other and return.

mod explain;
mod fence;
mod handover;
mod late;
mod overrule;
mod pair;
mod random;
mod searched;

use super::*;
use crate::proto::ids::StoreId;
use crate::proto::peer::ServerState;
use pair::{PRIMARY, Pair, SECONDARY, position};

use ServerState::{Active, Dead, Passive, PassiveSync, Standalone, Waiting};

#[test]
fn whichever_starts_first_the_primary_becomes_active() {
    for order in [[PRIMARY, SECONDARY], [SECONDARY, PRIMARY]] {
        let mut pair = Pair::new();
        pair.start(order[0]);
        pair.start(order[1]);
        pair.connect();
        assert_eq!(pair.states(), (Active, Passive), "{order:?}");
        assert_eq!(pair.isr(), [PRIMARY, SECONDARY]);
    }
}

#[test]
fn a_hello_from_before_the_first_look_decides_no_tie() {
    let mut pair = Pair::new();
    pair.start(PRIMARY);
    pair.start(SECONDARY);
    pair.connect_with(|facts| (facts.looked, facts.eligible) = (false, false));
    assert_eq!(pair.states(), (Active, Passive));
}

#[test]
fn at_first_boot_the_primary_serves_alone_and_the_secondary_does_not() {
    let mut pair = Pair::new();
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Dead, Waiting));
    assert!(pair.record.is_none());
    pair.kill(SECONDARY);
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Dead));
}

#[test]
fn the_passive_takes_over_at_once_when_the_active_is_killed() {
    let mut pair = Pair::formed();
    pair.write();
    pair.kill(PRIMARY);
    // On this kernel's own file system a free lock is certain death: no fence wait (A3).
    assert_eq!(pair.states(), (Dead, Standalone));
    assert_eq!(pair.isr(), [SECONDARY]);
    pair.start(PRIMARY);
    pair.connect();
    assert_eq!(pair.states(), (Passive, Active));
    assert_eq!(pair.isr(), [PRIMARY, SECONDARY]);
}

#[test]
fn on_a_share_the_taker_over_waits_until_the_old_lease_must_be_over() {
    let mut pair = Pair::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.kill(PRIMARY);
    assert_eq!(
        *pair.machine(SECONDARY).state(),
        HaState::Waiting(Claim::Fencing)
    );
    assert!(!pair.servers[SECONDARY].serving);
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.states(), (Dead, Standalone));
}

#[test]
fn a_goodbye_needs_no_fence_wait_on_any_share() {
    let mut pair = Pair::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.give(PRIMARY, HaInput::StopRequested);
    assert_eq!(pair.servers[PRIMARY].exited, Some(ExitCause::Stopped));
    assert_eq!(pair.machine(SECONDARY).shown(), Standalone);
}

#[test]
fn the_active_alone_again_when_the_passive_is_killed() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    assert_eq!(pair.states(), (Standalone, Dead));
    assert_eq!(pair.isr(), [PRIMARY]);
    assert_eq!(pair.servers[PRIMARY].gate, GatePolicy::Alone);
}

#[test]
fn nothing_is_confirmed_alone_before_the_record_says_so() {
    let mut pair = Pair::formed();
    pair.held_answers = Some(Vec::new());
    pair.kill(SECONDARY);
    assert_eq!(
        *pair.machine(PRIMARY).state(),
        HaState::Shrinking { was: Active }
    );
    assert_eq!(pair.servers[PRIMARY].gate, GatePolicy::WithPeer);
    let held = pair.held_answers.take().unwrap();
    for (at, input) in held {
        pair.give(at, input);
    }
    assert_eq!(pair.servers[PRIMARY].gate, GatePolicy::Alone);
}

#[test]
fn a_stale_replica_waits_with_its_reason_and_serves_once_the_other_is_back() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.write();
    pair.kill(PRIMARY);
    let before = pair.servers[SECONDARY].own;
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    for _ in 0..2 {
        pair.fire(SECONDARY, HaTimer::Retry);
    }
    assert_eq!(pair.states(), (Dead, Waiting));
    let claims = pair.machine(SECONDARY).claims();
    assert_eq!((claims.tried, claims.refused), (3, 3));
    assert!(
        claims
            .reason
            .as_ref()
            .unwrap()
            .contains("not in sync since epoch 1")
    );
    assert_eq!(pair.servers[SECONDARY].own, before);
    assert_eq!(
        pair.lock_holder, None,
        "a server that may not serve does not camp on the lock"
    );
    pair.start(PRIMARY);
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
}

#[test]
fn a_wiped_or_reverted_store_does_not_serve_alone() {
    let text = "older than what it has confirmed (restored backup, reverted snapshot, new disk?)";
    let mut pair = Pair::formed();
    pair.write();
    pair.write();
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    let mut wiped = pair;
    wiped.servers[PRIMARY].own.store = StoreId([42; 16]);
    wiped.servers[PRIMARY].own.position = position(0, 0);
    wiped.servers[PRIMARY].last_record = None;
    wiped.start(PRIMARY);
    wiped.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(wiped.states(), (Waiting, Dead));
    assert!(wiped.machine(PRIMARY).reason().unwrap().contains(text));

    let mut reverted = Pair::formed();
    reverted.write();
    let copy = (
        reverted.servers[PRIMARY].own,
        reverted.servers[PRIMARY].last_record.clone(),
    );
    reverted.write();
    reverted.kill(SECONDARY);
    reverted.write();
    reverted.kill(PRIMARY);
    (
        reverted.servers[PRIMARY].own,
        reverted.servers[PRIMARY].last_record,
    ) = copy;
    reverted.start(PRIMARY);
    reverted.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(reverted.states(), (Waiting, Dead));
    assert!(reverted.machine(PRIMARY).reason().unwrap().contains(text));
}

#[test]
fn both_killed_in_sync_either_serves_alone() {
    for survivor in [PRIMARY, SECONDARY] {
        let mut pair = Pair::formed();
        pair.write();
        // Both at once: neither sees the other's end before its own.
        pair.link = None;
        pair.kill(PRIMARY);
        pair.kill(SECONDARY);
        pair.start(survivor);
        pair.fire(survivor, HaTimer::PeerWait);
        if survivor == SECONDARY {
            // The old owner may be paused rather than dead as far as anybody knows.
            pair.fire(SECONDARY, HaTimer::FenceWait);
        }
        assert_eq!(pair.machine(survivor).shown(), Standalone);
    }
}

#[test]
fn on_a_link_cut_the_active_goes_on_alone_and_the_passive_waits() {
    let mut pair = Pair::formed();
    pair.cut();
    assert_eq!(pair.states(), (Standalone, Passive));
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Waiting));
    assert!(
        pair.machine(SECONDARY)
            .reason()
            .unwrap()
            .contains("not in sync")
    );
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
}

#[test]
fn a_lock_lost_with_the_link_up_changes_nothing_and_with_the_link_down_ends_service() {
    let mut pair = Pair::formed();
    pair.lock_holder = Some(SECONDARY + 1); // a stranger
    pair.give(
        PRIMARY,
        HaInput::LockLost {
            reason: "stolen".into(),
        },
    );
    assert_eq!(pair.states(), (Active, Passive));
    pair.cut();
    assert_eq!(pair.machine(PRIMARY).shown(), Waiting);
    assert_eq!(pair.servers[PRIMARY].gate, GatePolicy::Closed);
    assert!(!pair.servers[PRIMARY].serving);
}

#[test]
fn a_passive_whose_resync_is_cut_is_not_promoted() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.write();
    pair.servers[SECONDARY].own.sync_in_progress = true;
    pair.kill(PRIMARY);
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Dead, Waiting));
    assert!(
        pair.machine(SECONDARY)
            .reason()
            .unwrap()
            .contains("interrupted")
    );
}

#[test]
fn a_lock_that_its_living_holder_lost_is_no_proof_of_its_death() {
    let mut pair = Pair::formed();
    // The check failed (an I/O error, a copy written over the file): the descriptor is closed, the
    // file is the same, and the active goes on, because its peer answers (H11).
    pair.lock_holder = Some(SECONDARY + 1);
    let reason = "cannot be written any more".into();
    pair.give(PRIMARY, HaInput::LockLost { reason });
    assert_eq!(pair.states(), (Active, Passive));
    let session = pair.machine(SECONDARY).session().unwrap();
    let facts = pair.facts(PRIMARY);
    pair.give(SECONDARY, HaInput::PeerFacts { session, facts });
    // The channel's end reaches the passive first. The lock is free before the active tries it again.
    pair.servers[PRIMARY].wants_lock = false;
    pair.lock_holder = None;
    pair.link = None;
    let cause = LinkEnd::Ended;
    pair.give(SECONDARY, HaInput::LinkDown { session, cause });
    assert!(pair.servers[PRIMARY].serving);
    assert!(!pair.servers[SECONDARY].serving, "two servers serve");
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.machine(SECONDARY).shown(), Standalone);
}

#[test]
fn a_lock_file_that_tells_of_epochs_is_no_first_boot() {
    let mut pair = Pair::formed();
    pair.check_lock(PRIMARY);
    pair.link = None;
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    pair.record = None;
    pair.wipe(PRIMARY);
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Waiting, Dead));
    assert!(pair.record.is_none());
}

#[test]
fn a_lost_record_is_refused_alone_and_re_formed_by_a_pair_that_agrees() {
    let mut pair = Pair::formed();
    pair.link = None;
    pair.kill(PRIMARY);
    pair.kill(SECONDARY);
    let seq = pair.record.take().unwrap().seq;
    pair.lock_file = None;
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert!(
        pair.machine(PRIMARY)
            .reason()
            .unwrap()
            .contains("the arbiter record is gone")
    );
    pair.start(SECONDARY);
    pair.connect();
    if pair.servers[PRIMARY].timers.contains(&HaTimer::Retry) {
        pair.fire(PRIMARY, HaTimer::Retry);
    }
    let (one, other) = pair.states();
    assert!([one, other].contains(&Active) && [one, other].contains(&Passive));
    assert!(pair.record.unwrap().seq > seq);
}

#[test]
fn an_unknown_outcome_is_looked_for_before_anything_is_confirmed_alone() {
    let mut pair = Pair::formed();
    pair.arbiter_fails = true;
    pair.kill(SECONDARY);
    assert_eq!(pair.servers[PRIMARY].gate, GatePolicy::WithPeer);
    pair.fire(PRIMARY, HaTimer::Retry);
    assert_eq!(pair.servers[PRIMARY].gate, GatePolicy::WithPeer);
    pair.arbiter_fails = false;
    pair.fire(PRIMARY, HaTimer::Retry);
    assert_eq!(pair.states(), (Standalone, Dead));
    assert_eq!(pair.isr(), [PRIMARY]);
}

#[test]
fn a_peer_that_is_too_slow_is_left_behind_and_taken_back_after_a_rest() {
    let mut pair = Pair::formed();
    let session = pair.link.unwrap();
    pair.give(PRIMARY, HaInput::AckOverdue { session });
    assert_eq!(pair.machine(PRIMARY).shown(), Standalone);
    assert_eq!(pair.isr(), [PRIMARY]);
    pair.connect();
    assert_eq!(
        pair.machine(PRIMARY).shown(),
        Standalone,
        "barred for a while"
    );
    pair.fire(PRIMARY, HaTimer::ReEntry);
    assert_eq!(pair.states(), (Active, Passive));
}

#[test]
fn a_lease_that_is_over_ends_service_and_the_record_is_claimed_anew() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.give(PRIMARY, HaInput::LeaseExpired);
    assert_eq!(pair.states(), (Waiting, Dead));
    assert!(!pair.servers[PRIMARY].serving);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Dead));
}

#[test]
fn a_server_whose_record_was_claimed_by_another_steps_down() {
    let mut pair = Pair::formed();
    let mut record = pair.record.clone().unwrap();
    record.seq = record.seq.next();
    record.epoch = record.epoch.next();
    record.owner = NodeId([77; 16]);
    pair.record = Some(record.clone());
    pair.give(
        PRIMARY,
        HaInput::LockConfirmed {
            record: Some(record),
        },
    );
    assert_eq!(pair.machine(PRIMARY).shown(), Waiting);
    assert!(!pair.servers[PRIMARY].serving);
}

#[test]
fn a_misconfigured_joiner_stops_and_a_serving_server_does_not() {
    let mut pair = Pair::formed();
    pair.give(PRIMARY, HaInput::PeerMismatch { reason: "x".into() });
    assert_eq!(pair.servers[PRIMARY].exited, None);
    pair.give(SECONDARY, HaInput::PeerMismatch { reason: "x".into() });
    assert_eq!(
        pair.servers[SECONDARY].exited,
        Some(ExitCause::PeerMismatch("x".into()))
    );
}

#[test]
fn frames_of_an_older_session_change_nothing() {
    let mut pair = Pair::formed();
    let old = pair.link.unwrap();
    pair.kill(SECONDARY);
    pair.start(SECONDARY);
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
    for input in [
        HaInput::LinkDown {
            session: old,
            cause: LinkEnd::Ended,
        },
        HaInput::SyncFailed {
            session: old,
            reason: "x".into(),
        },
        HaInput::AckOverdue { session: old },
        HaInput::PeerGoodbye {
            session: old,
            epoch: Epoch(1),
        },
        HaInput::SyncDone {
            session: old,
            store: StoreId([2; 16]),
        },
        HaInput::PeerHoldsAll { session: old },
        HaInput::InSync {
            session: old,
            epoch: Epoch(1),
        },
    ] {
        pair.give(PRIMARY, input.clone());
        pair.give(SECONDARY, input);
        assert_eq!(pair.states(), (Active, Passive));
    }
}

#[test]
fn a_passive_that_hears_nothing_any_more_asks_anew_when_the_channel_is_replaced() {
    let mut pair = Pair::formed();
    pair.write();
    pair.link = None;
    pair.connect();
    assert_eq!(pair.states(), (Active, Passive));
    assert!(!matches!(pair.states().1, PassiveSync));
}

#[test]
fn a_store_with_a_history_and_a_new_arbiter_goes_on_from_its_own_epochs() {
    let mut pair = Pair::new();
    pair.servers[PRIMARY].own.position = position(6, 900);
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Standalone, Dead));
    assert_eq!(pair.servers[PRIMARY].own.position.epoch, Epoch(7));
}

#[test]
fn an_epoch_that_the_log_refuses_ends_the_claim_and_frees_the_lock() {
    let mut pair = Pair::formed();
    pair.lock_file.as_mut().unwrap().local = false;
    pair.kill(PRIMARY);
    assert_eq!(
        *pair.machine(SECONDARY).state(),
        HaState::Waiting(Claim::Fencing)
    );
    let machine = pair.servers[SECONDARY].machine.as_mut().unwrap();
    let mut effects = Vec::new();
    machine.step(
        pair.servers[SECONDARY].own,
        HaInput::Timer(HaTimer::FenceWait),
        &mut effects,
    );
    let refused = HaInput::EpochRefused("the log knows a later one".into());
    machine.step(pair.servers[SECONDARY].own, refused, &mut effects);
    assert_eq!(*machine.state(), HaState::Waiting(Claim::Idle));
    assert!(
        machine
            .reason()
            .unwrap()
            .contains("did not take the new epoch")
    );
    assert!(effects.contains(&HaEffect::ReleaseLock));
}

#[test]
fn a_record_that_is_behind_the_log_is_refused() {
    let mut pair = Pair::formed();
    pair.kill(SECONDARY);
    pair.kill(PRIMARY);
    pair.servers[PRIMARY].own.position = position(4, 900);
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert!(
        pair.machine(PRIMARY)
            .reason()
            .unwrap()
            .contains("restored from a backup")
    );
}

#[test]
fn a_lost_lock_file_stops_only_a_server_that_cannot_know_that_it_has_everything() {
    let mut pair = Pair::formed();
    pair.link = None;
    pair.kill(PRIMARY);
    pair.kill(SECONDARY);
    let lock = pair.lock_file.take();
    pair.start(PRIMARY);
    pair.fire(PRIMARY, HaTimer::PeerWait);
    assert!(
        pair.machine(PRIMARY)
            .reason()
            .unwrap()
            .contains("the lock file is missing")
    );
    pair.start(SECONDARY);
    // The file is made anew with the first attempt to lock it, as the arbiter does.
    pair.lock_file = lock;
    pair.connect();
    // The one that came last saw the other at once and claims; the other was the last owner.
    pair.fire(SECONDARY, HaTimer::FenceWait);
    assert_eq!(pair.states(), (Passive, Active));
}

#[test]
fn a_record_that_went_back_promotes_nobody_that_the_peer_remembers_better() {
    // Z17: the good server knows record 6, the share shows 5, which names the stale one as well.
    let mut pair = Pair::formed();
    let before = (pair.record.clone(), pair.lock_file.clone());
    pair.kill(SECONDARY);
    pair.write();
    pair.kill(PRIMARY);
    (pair.record, pair.lock_file) = before;
    pair.start(PRIMARY);
    pair.start(SECONDARY);
    pair.connect();
    for at in [SECONDARY, PRIMARY] {
        if pair.servers[at].timers.contains(&HaTimer::Retry) {
            pair.fire(at, HaTimer::Retry);
        }
    }
    assert_eq!(pair.states(), (Waiting, Waiting));
    for at in [PRIMARY, SECONDARY] {
        assert!(
            pair.machine(at).reason().unwrap().contains("went back"),
            "{at}"
        );
    }
}

#[test]
fn a_record_older_than_the_lock_files_last_words_promotes_nobody() {
    let mut pair = Pair::formed();
    let before = pair.record.clone();
    pair.kill(SECONDARY);
    pair.write();
    pair.kill(PRIMARY);
    // The stale server alone: it remembers nothing newer, but the last holder wrote down what it knew.
    pair.record = before;
    pair.start(SECONDARY);
    pair.fire(SECONDARY, HaTimer::PeerWait);
    assert_eq!(pair.states(), (Dead, Waiting));
    assert!(
        pair.machine(SECONDARY)
            .reason()
            .unwrap()
            .contains("went back")
    );
}

#[test]
fn a_serving_server_whose_record_goes_back_steps_down() {
    let mut pair = Pair::formed();
    let before = pair.record.clone();
    pair.kill(SECONDARY);
    pair.give(PRIMARY, HaInput::LockConfirmed { record: before });
    assert_eq!(pair.states(), (Waiting, Dead));
    assert!(!pair.servers[PRIMARY].serving);
}

#[test]
fn a_passive_that_reads_another_record_than_its_actives_ends() {
    let mut pair = Pair::formed();
    // Its share shows an old copy of the folder; the active's goes on.
    let mut old = pair.record.clone().unwrap();
    old.seq = old.seq.prev();
    old.isr.truncate(1);
    let machine = pair.servers[SECONDARY].machine.as_mut().unwrap();
    let own = pair.servers[SECONDARY].own;
    let mut effects = Vec::new();
    let mut facts = machine.peer().unwrap().facts.clone();
    facts.last_record = facts.last_record.next();
    let session = pair.link.unwrap();
    machine.step(own, HaInput::PeerFacts { session, facts }, &mut effects);
    for _ in 0..3 {
        let id = effects
            .drain(..)
            .find_map(|effect| match effect {
                HaEffect::Arbiter { id, .. } => Some(id),
                _ => None,
            })
            .expect("it looks");
        let answer = ArbiterAnswer::Read {
            record: Some(old.clone()),
            lock: None,
        };
        machine.step(own, HaInput::ArbiterAnswered { id, answer }, &mut effects);
        if effects.contains(&HaEffect::Arm(HaTimer::Retry)) {
            machine.step(own, HaInput::Timer(HaTimer::Retry), &mut effects);
        }
    }
    let ended = |effect: &HaEffect| matches!(effect, HaEffect::Exit(ExitCause::PeerMismatch(_)));
    assert!(effects.iter().any(ended), "{effects:?}");
    // Alone, it will not serve by the old one either.
    assert!(machine.last_record().unwrap().seq > old.seq);
    assert!(!machine.eligible());
}

#[test]
fn an_active_that_cannot_change_the_record_says_why_nothing_is_confirmed() {
    let mut pair = Pair::formed();
    pair.arbiter_fails = true;
    pair.kill(SECONDARY);
    assert!(
        pair.machine(PRIMARY)
            .reason()
            .unwrap()
            .contains("nothing is confirmed until")
    );
}

/// `docs/ha-states.md` is what the machine does. After an intended change: `TWINMQ_BLESS=1`.
#[test]
fn the_document_of_the_states_is_the_machine() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ha-states.md");
    let table = render_table();
    if std::env::var_os("TWINMQ_BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == table,
        "docs/ha-states.md is out of date: TWINMQ_BLESS=1 cargo test --lib ha"
    );
}

#[test]
fn a_server_that_ends_in_order_ends_although_its_record_is_claimed_meanwhile() {
    let mut machine = Pair::formed().machine(PRIMARY).clone();
    let own = OwnStore {
        store: StoreId([1; 16]),
        position: position(1, 1),
        sync_in_progress: false,
    };
    let record = machine.record().cloned().expect("it serves by a record");
    let claimed = ArbiterRecord {
        seq: record.seq.next(),
        epoch: record.epoch.next(),
        owner: NodeId([2; 16]),
        ..record
    };
    let mut effects = Vec::new();
    machine.step(own, HaInput::StopRequested, &mut effects);
    let record = Some(claimed);
    machine.step(
        own,
        HaInput::LockConfirmed {
            record: record.clone(),
        },
        &mut effects,
    );
    assert!(
        matches!(machine.state(), HaState::Releasing(_)),
        "{machine:#?}"
    );
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, HaEffect::CloseClients { .. }))
    );
    // The answer of a check that was on its way.
    machine.step(own, HaInput::LockConfirmed { record }, &mut effects);
    machine.step(own, HaInput::LockReleased, &mut effects);
    assert_eq!(effects.last(), Some(&HaEffect::Exit(ExitCause::Stopped)));
}

#[test]
fn a_record_that_is_gone_alarms_once_and_again_when_it_goes_again() {
    let mut machine = Pair::formed().machine(PRIMARY).clone();
    let own = OwnStore {
        store: StoreId([1; 16]),
        position: position(1, 1),
        sync_in_progress: false,
    };
    let record = machine.record().cloned();
    let alarms = |record: Option<ArbiterRecord>, machine: &mut HaMachine| {
        let mut effects = Vec::new();
        machine.step(own, HaInput::LockConfirmed { record }, &mut effects);
        let alarm = |effect: &&HaEffect| matches!(effect, HaEffect::Alarmed { .. });
        effects.iter().filter(alarm).count()
    };
    let found: Vec<usize> = [None, None, record, None]
        .into_iter()
        .map(|record| alarms(record, &mut machine))
        .collect();
    assert_eq!(found, [1, 0, 0, 1]);
    assert!(machine.state().shown().serves());
}
