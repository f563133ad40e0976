//! What a destination does when it is full.

use std::rc::Rc;

use super::*;
use crate::machines::delivery::{Settlement, TransactionKey};
use crate::machines::destination::account::Bounds;

fn policy(on_full: OnFull) -> DestinationPolicy {
    DestinationPolicy {
        max_messages: Some(3),
        on_full,
        ..DestinationPolicy::default()
    }
}

/// A queue with room for three, and its account.
fn bounded(policy: DestinationPolicy) -> (DestinationMachine, Rc<Account>) {
    let account = Rc::new(Account::default());
    account.set_bounds(Bounds::of(&policy));
    let machine = begin(Activation {
        lanes: vec![lane(0, 0, 5000)],
        account: Some(Rc::clone(&account)),
        policy: Some(Arc::new(policy)),
        ..Activation::default()
    });
    (machine, account)
}

/// Messages arrive that were counted as they were sent.
fn arrive(machine: &mut DestinationMachine, account: &Account, lsns: &[u64]) -> Vec<String> {
    for lsn in lsns {
        account.sent(Load::one(body(*lsn).len()));
    }
    step(machine, committed(lsns.iter().copied()))
}

fn bounded_publish(requests: &[u32]) -> DestinationInput {
    let messages = requests
        .iter()
        .map(|request| (RequestNumber(*request), body(u64::from(*request))));
    commands(vec![DestinationCommand::Publish {
        session: SessionKey(3),
        messages: messages.collect(),
    }])
}

fn refused(effects: &[String]) -> usize {
    let refused = |line: &&String| line.contains("Refused") && line.contains("is full");
    effects.iter().filter(refused).count()
}

#[test]
fn what_is_too_much_for_one_that_rejects_is_refused_and_the_first_are_taken() {
    let (mut machine, account) = bounded(policy(OnFull::Reject));
    arrive(&mut machine, &account, &[1]);
    let effects = step(&mut machine, bounded_publish(&[1, 2, 3, 4]));
    assert_eq!(refused(&effects), 2, "{effects:?}");
    assert!(
        effects.contains(&"submit 3.1:put(message 1) 3.2:put(message 2)".to_owned()),
        "{effects:?}"
    );
    assert_eq!(machine.figures().refused, 2);
    // They are on their way: there is no room before one is acknowledged and that is committed.
    account.sent(Load::one(9));
    account.sent(Load::one(9));
    let effects = step(&mut machine, bounded_publish(&[5]));
    assert_eq!(refused(&effects), 1, "{effects:?}");
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    step(
        &mut machine,
        commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]),
    );
    let effects = step(&mut machine, bounded_publish(&[6]));
    assert_eq!(refused(&effects), 1, "{effects:?}");
    step(&mut machine, settled(1));
    let effects = step(&mut machine, bounded_publish(&[7]));
    assert_eq!(refused(&effects), 0, "{effects:?}");
}

#[test]
fn the_oldest_that_nobody_holds_go() {
    let (mut machine, account) = bounded(policy(OnFull::DropOldest));
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    arrive(&mut machine, &account, &[1, 2, 3]);
    let effects = arrive(&mut machine, &account, &[4, 5]);
    assert!(
        effects.contains(&"fetch all 0 19".to_owned()),
        "{effects:?}"
    );
    let effects = step(&mut machine, answer(0, entries(1..=5), 5));
    // The first is held.
    assert!(
        effects.contains(&"submit ack(2,3)".to_owned()),
        "{effects:?}"
    );
    assert_eq!(machine.figures().dropped, 2);
    // Known to go: not met again.
    let effects = step(&mut machine, commands(Vec::new()));
    assert!(effects.is_empty(), "{effects:?}");
    step(&mut machine, settled(2));
    assert_eq!(machine.figures().depth, 3);
    let effects = step(
        &mut machine,
        commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]),
    );
    assert!(effects.contains(&"deliver 1 4".to_owned()), "{effects:?}");
}

#[test]
fn while_everything_is_held_nothing_goes_and_nobody_asks() {
    let (mut machine, account) = bounded(policy(OnFull::DropOldest));
    step(&mut machine, commands(vec![attach(ALICE, 10)]));
    let effects = arrive(&mut machine, &account, &[1, 2, 3, 4, 5]);
    assert_eq!(effects, ["deliver 1 1,2,3,4", "deliver 1 5"]);
    let released = commands(vec![DestinationCommand::Detach { consumer: ALICE }]);
    let effects = step(&mut machine, released);
    assert!(
        effects.contains(&"fetch all 0 18".to_owned()),
        "{effects:?}"
    );
    let effects = step(&mut machine, answer(0, entries(1..=5), 5));
    assert!(
        effects.contains(&"submit ack(1,2)".to_owned()),
        "{effects:?}"
    );
}

#[test]
fn the_oldest_go_to_the_dead_in_one_unit_once_it_is_known_where() {
    let (mut machine, account) = bounded(policy(OnFull::DeadLetter));
    let effects = arrive(&mut machine, &account, &[1, 2, 3, 4]);
    assert_eq!(effects, ["find DMQ"]);
    let queue = DeadLetterQueue {
        id: DEAD,
        definition: Bytes::from_static(b"qDMQ"),
    };
    let found = DestinationInput::DeadLetterFound(Some(queue));
    let effects = step(&mut machine, found);
    assert_eq!(effects, ["fetch all 0 17"]);
    let effects = step(&mut machine, answer(0, entries(1..=4), 4));
    assert_eq!(
        effects,
        ["submit define(qDMQ)+dead(message 1)+ack(1)"],
        "one unit"
    );
    let figures = machine.figures();
    assert_eq!((figures.dropped, figures.dead), (1, 1));
}

#[test]
fn with_other_rules_meanwhile_nothing_goes() {
    let (mut machine, account) = bounded(policy(OnFull::DropOldest));
    arrive(&mut machine, &account, &[1, 2, 3, 4]);
    let other = policy(OnFull::Reject);
    account.set_bounds(Bounds::of(&other));
    step(
        &mut machine,
        DestinationInput::PolicyChanged(Arc::new(other)),
    );
    let effects = step(&mut machine, answer(0, entries(1..=4), 4));
    assert_eq!(effects, Vec::<String>::new());
    assert_eq!(machine.figures().depth, 4);
}

#[test]
fn volatile_messages_go_too_the_oldest_first() {
    let (mut machine, _) = bounded(policy(OnFull::DropOldest));
    let envelope = Envelope {
        persistent: false,
        ..Envelope::default()
    };
    let message = |text: &[u8]| {
        let writer = MessageWriter::new(&envelope, &Properties::default(), text.len());
        writer.finish(text).unwrap()
    };
    let messages = (1u32..=5).map(|n| (RequestNumber(n), message(n.to_string().as_bytes())));
    step(
        &mut machine,
        commands(vec![DestinationCommand::Publish {
            session: SessionKey(3),
            messages: messages.collect(),
        }]),
    );
    let figures = machine.figures();
    assert_eq!((figures.depth, figures.dropped), (3, 2));
    let effects = step(&mut machine, commands(vec![attach(ALICE, 10)]));
    let next = Lsn::volatile(3);
    assert!(
        effects
            .iter()
            .any(|line| line.starts_with(&format!("deliver 1 {next},"))),
        "{effects:?}"
    );
}

#[test]
fn bytes_are_those_of_the_store_and_bound_it_too() {
    let (mut machine, account) = bounded(DestinationPolicy {
        max_messages: None,
        max_bytes: Some(100),
        on_full: OnFull::Reject,
        ..DestinationPolicy::default()
    });
    let change = Change {
        entries: entries([1]),
        bytes: Some(100),
        ..Change::default()
    };
    let upto = Lsn(1);
    step(&mut machine, DestinationInput::Committed { change, upto });
    assert_eq!(account.held().bytes, 100);
    assert_eq!(refused(&step(&mut machine, bounded_publish(&[1]))), 1);
    let change = Change {
        bytes: Some(99),
        ..Change::default()
    };
    step(&mut machine, DestinationInput::Committed { change, upto });
    assert_eq!(refused(&step(&mut machine, bounded_publish(&[2]))), 0);
}

fn prepare(request: u32, puts: usize, accepts: &[u64]) -> DestinationInput {
    let settlement = Settlement {
        consumer: ALICE,
        lsns: accepts.iter().copied().map(Lsn).collect(),
        outcome: Outcome::Accepted,
    };
    commands(vec![DestinationCommand::Prepare {
        transaction: TransactionKey {
            session: ALICE.session,
            request: RequestNumber(request),
        },
        settlements: (!accepts.is_empty())
            .then_some(settlement)
            .into_iter()
            .collect(),
        puts,
    }])
}

#[test]
fn a_transaction_fits_whole_or_is_refused_whole_and_what_it_accepts_makes_room() {
    let (mut machine, account) = bounded(policy(OnFull::Reject));
    step(&mut machine, commands(vec![attach(ALICE, 5)]));
    arrive(&mut machine, &account, &[1, 2]);
    let effects = step(&mut machine, prepare(1, 2, &[]));
    assert!(effects[0].starts_with("refused"), "{effects:?}");
    let brings = "it brings 2 messages";
    assert!(effects[0].contains(brings), "{effects:?}");
    let effects = step(&mut machine, prepare(2, 2, &[1]));
    assert!(effects[0].starts_with("prepared ack(1)"), "{effects:?}");
    // Its room is taken until it is submitted or undone.
    assert_eq!(refused(&step(&mut machine, bounded_publish(&[9]))), 1);
    let transaction = TransactionKey {
        session: ALICE.session,
        request: RequestNumber(2),
    };
    account.redeem(transaction);
    step(
        &mut machine,
        commands(vec![DestinationCommand::Finish {
            transaction,
            submitted: None,
        }]),
    );
    assert_eq!(refused(&step(&mut machine, bounded_publish(&[10]))), 0);
}

#[test]
fn one_that_blocks_takes_what_comes_and_says_that_it_is_full() {
    let (mut machine, account) = bounded(policy(OnFull::Block));
    arrive(&mut machine, &account, &[1, 2, 3]);
    assert!(account.holds_back());
    assert_eq!(refused(&step(&mut machine, bounded_publish(&[1]))), 0);
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    step(
        &mut machine,
        commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]),
    );
    assert!(account.holds_back());
    step(&mut machine, settled(1));
    assert!(!account.holds_back());
}

/// A queue that drops the oldest beyond a hundred bytes.
fn bounded_in_bytes() -> (DestinationMachine, Rc<Account>) {
    bounded(DestinationPolicy {
        max_messages: None,
        max_bytes: Some(100),
        on_full: OnFull::DropOldest,
        ..DestinationPolicy::default()
    })
}

/// One message of this size is committed; the destination owes `bytes` with it.
fn arrive_large(
    machine: &mut DestinationMachine,
    lsn: u64,
    size: usize,
    bytes: u64,
) -> Vec<String> {
    let change = Change {
        entries: vec![large(lsn, size)],
        bytes: Some(bytes),
        ..Change::default()
    };
    let upto = Lsn(lsn);
    step(machine, DestinationInput::Committed { change, upto })
}

fn large(lsn: u64, size: usize) -> Entry {
    Entry::new(Lsn(lsn), Bytes::from(vec![b'x'; size]))
}

#[test]
fn a_message_that_alone_is_over_the_bound_stays_until_a_newer_one_comes() {
    let (mut machine, _) = bounded_in_bytes();
    let effects = arrive_large(&mut machine, 1, 300, 300);
    assert_eq!(effects, Vec::<String>::new(), "it is the newest");
    let effects = arrive_large(&mut machine, 2, 400, 700);
    assert!(
        effects.contains(&"fetch all 0 16".to_owned()),
        "{effects:?}"
    );
    let both = vec![large(1, 300), large(2, 400)];
    let effects = step(&mut machine, answer(0, both, 2));
    assert!(effects.contains(&"submit ack(1)".to_owned()), "{effects:?}");
    assert_eq!(machine.figures().dropped, 1);
}

#[test]
fn the_newest_stays_for_its_bytes_though_all_older_ones_are_held() {
    let (mut machine, _) = bounded_in_bytes();
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    arrive_large(&mut machine, 1, 300, 300);
    let effects = arrive_large(&mut machine, 2, 300, 600);
    assert_eq!(effects, Vec::<String>::new(), "the first is held");
    let effects = step(
        &mut machine,
        commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]),
    );
    assert!(effects.contains(&"deliver 1 2".to_owned()), "{effects:?}");
    assert_eq!(machine.figures().dropped, 0);
}

#[test]
fn the_last_in_memory_stays_for_its_bytes() {
    let (mut machine, _) = bounded_in_bytes();
    let envelope = Envelope {
        persistent: false,
        ..Envelope::default()
    };
    let text = [b'x'; 300];
    for n in 1..=2 {
        let writer = MessageWriter::new(&envelope, &Properties::default(), text.len());
        let messages = vec![(RequestNumber(n), writer.finish(&text).unwrap())];
        let session = SessionKey(3);
        step(
            &mut machine,
            commands(vec![DestinationCommand::Publish { session, messages }]),
        );
    }
    let figures = machine.figures();
    assert_eq!((figures.depth, figures.dropped), (1, 1));
}
