//! A record that is lost, new, older than it was or another's, and one that cannot be changed.

use super::pair::{PRIMARY, Pair, SECONDARY, position};
use super::*;

use ServerState::{Active, Dead, Passive, Standalone, Waiting};

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
