//! Answers that come late, or from a share that is slow to show what is there.

use super::*;
use pair::node;

/// The call of which the answer is awaited, among these effects.
fn asked(effects: &mut Vec<HaEffect>) -> u64 {
    let mut calls = effects.drain(..).filter_map(|effect| match effect {
        HaEffect::Arbiter { id, .. } => Some(id),
        _ => None,
    });
    calls.next_back().expect("it asks the arbiter")
}

/// The passive of a formed pair, told by its active of a record one newer and an epoch higher than the
/// one that its share shows.
fn behind(pair: &mut Pair) -> (HaMachine, OwnStore, ArbiterRecord) {
    let shown = pair.record.clone().unwrap();
    let own = pair.servers[SECONDARY].own;
    let mut machine = pair.machine(SECONDARY).clone();
    let mut facts = machine.peer().unwrap().facts.clone();
    facts.last_record = facts.last_record.next();
    facts.epoch = facts.epoch.next();
    let (session, mut effects) = (pair.link.unwrap(), Vec::new());
    machine.step(own, HaInput::PeerFacts { session, facts }, &mut effects);
    let id = asked(&mut effects);
    let answer = ArbiterAnswer::Read {
        record: Some(shown.clone()),
        lock: None,
    };
    machine.step(own, HaInput::ArbiterAnswered { id, answer }, &mut effects);
    (machine, own, shown)
}

#[test]
fn that_there_is_a_newer_record_is_not_forgotten_for_an_older_one() {
    let mut pair = Pair::formed();
    let (mut machine, own, shown) = behind(&mut pair);
    let newest = shown.seq.next();
    assert_eq!(machine.last_record().unwrap().seq, newest);
    // Alone: the share goes on to show the older one, which names this copy.
    let (session, mut effects) = (pair.link.unwrap(), Vec::new());
    let cause = LinkEnd::Ended;
    machine.step(own, HaInput::LinkDown { session, cause }, &mut effects);
    machine.step(own, HaInput::LockRefused { holder: None }, &mut effects);
    let id = asked(&mut effects);
    let lock = pair.lock_file.clone().unwrap();
    let answer = ArbiterAnswer::Read {
        record: Some(shown.clone()),
        lock: Some(lock.clone()),
    };
    machine.step(own, HaInput::ArbiterAnswered { id, answer }, &mut effects);
    assert_eq!(machine.last_record().unwrap().seq, newest);
    let held = HeldLock {
        lock,
        record: Some(shown),
    };
    machine.step(own, HaInput::LockAcquired(held), &mut effects);
    let reason = machine.reason().unwrap();
    assert!(reason.contains("went back"), "{reason}");
}

#[test]
fn the_epoch_is_remembered_with_the_number_of_a_record_that_was_not_read() {
    let mut pair = Pair::formed();
    let (machine, _, shown) = behind(&mut pair);
    // A pair that re-forms its record by this one must not begin an epoch twice.
    assert_eq!(machine.last_record().unwrap().epoch, shown.epoch.next());
}

#[test]
fn an_epoch_of_an_earlier_claim_that_is_open_late_does_not_begin_service() {
    let mut pair = Pair::formed();
    pair.kill(PRIMARY);
    assert_eq!(pair.states(), (Dead, Standalone));
    let (mut own, epoch) = (pair.servers[SECONDARY].own, pair.machine(SECONDARY).epoch());
    own.position.epoch = epoch.prev();
    // As it was, with the log's answer still to come.
    let mut machine = pair.machine(SECONDARY).clone();
    machine.state = HaState::Waiting(Claim::Opening);
    let mut effects = Vec::new();
    machine.step(own, HaInput::EpochBegun(epoch.prev()), &mut effects);
    assert_eq!(*machine.state(), HaState::Waiting(Claim::Opening));
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, HaEffect::OpenClients { .. }))
    );
    machine.step(own, HaInput::EpochBegun(epoch), &mut effects);
    assert_eq!(machine.shown(), Standalone);
    assert!(effects.contains(&HaEffect::OpenClients { epoch }));
    assert_eq!(machine.record().unwrap().owner, node(SECONDARY));
}
