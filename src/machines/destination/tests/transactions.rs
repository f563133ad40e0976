//! What a destination holds for transactions.

use super::*;
use crate::machines::delivery::{Settlement, TransactionKey};

fn key(request: u32) -> TransactionKey {
    TransactionKey {
        session: ALICE.session,
        request: RequestNumber(request),
    }
}

fn prepare(
    request: u32,
    parts: &[(ConsumerKey, &[u64], Outcome)],
    puts: usize,
) -> DestinationInput {
    let settlements = parts
        .iter()
        .map(|(consumer, lsns, outcome)| Settlement {
            consumer: *consumer,
            lsns: lsns.iter().copied().map(Lsn).collect(),
            outcome: *outcome,
        })
        .collect();
    commands(vec![DestinationCommand::Prepare {
        transaction: key(request),
        settlements,
        puts,
    }])
}

/// None of these queues acknowledged anything before.
fn finish(request: u32, submitted: bool) -> DestinationInput {
    commands(vec![DestinationCommand::Finish {
        transaction: key(request),
        submitted: submitted.then_some(0),
    }])
}

fn detach(consumer: ConsumerKey) -> DestinationInput {
    commands(vec![DestinationCommand::Detach { consumer }])
}

/// Alice holds 10, 11 and 12 and has no more credit; 13 waits.
fn holding() -> DestinationMachine {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 3)]));
    let delivered = step(&mut machine, committed(10..=13));
    assert_eq!(delivered, ["deliver 1 10,11,12"]);
    machine
}

#[test]
fn a_submitted_transaction_settles_and_gives_the_credit_back_only_then() {
    let mut machine = holding();
    let parts: [(_, &[u64], _); 2] = [
        (ALICE, &[11], Outcome::Accepted),
        (ALICE, &[12], Outcome::Released),
    ];
    assert_eq!(
        step(&mut machine, prepare(1, &parts, 0)),
        ["prepared ack(11)"]
    );
    // Neither deliverable nor acknowledgeable meanwhile.
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[11, 12], Outcome::Accepted, 0)])
        ),
        Vec::<String>::new()
    );
    assert_eq!(machine.figures().unsettled, 3);
    assert_eq!(
        step(&mut machine, finish(1, true)),
        ["deliver 1 12r,13", "submit failed(12:1)"],
        "the one that was refused has failed once"
    );
    step(&mut machine, settled(1));
    let figures = machine.figures();
    assert_eq!((figures.depth, figures.accepted), (3, 1));
    assert_eq!(figures.unsettled, 3);
}

#[test]
fn a_transaction_that_came_to_nothing_leaves_everything_as_it_was() {
    let mut machine = holding();
    let parts: [(_, &[u64], _); 1] = [(ALICE, &[10, 11], Outcome::Accepted)];
    step(&mut machine, prepare(1, &parts, 0));
    assert!(step(&mut machine, finish(1, false)).is_empty());
    assert_eq!(machine.figures().unsettled, 3);
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[10, 11], Outcome::Accepted, 0)])
        ),
        ["deliver 1 13", "submit ack(10,11)"]
    );
}

#[test]
fn it_refuses_what_the_consumer_does_not_hold_and_takes_nothing_then() {
    let mut machine = holding();
    let parts: [(_, &[u64], _); 2] = [
        (ALICE, &[10], Outcome::Accepted),
        (ALICE, &[11, 13], Outcome::Accepted),
    ];
    let refused = step(&mut machine, prepare(1, &parts, 0));
    assert!(refused[0].starts_with("refused a message"), "{refused:?}");
    let twice: [(_, &[u64], _); 1] = [(ALICE, &[10, 10], Outcome::Accepted)];
    let refused = step(&mut machine, prepare(2, &twice, 0));
    assert!(refused[0].starts_with("refused a message"), "{refused:?}");
    assert_eq!(
        step(&mut machine, detach(ALICE)),
        ["submit failed(10:1,11:1,12:1)"]
    );
    let gone: [(_, &[u64], _); 1] = [(ALICE, &[10], Outcome::Accepted)];
    let refused = step(&mut machine, prepare(3, &gone, 0));
    assert!(refused[0].starts_with("refused a message"), "{refused:?}");
    let again = step(&mut machine, commands(vec![attach(BOB, 9)]));
    assert_eq!(again[1], "deliver 2 10r,11r,12r,13", "all came back");
}

#[test]
fn a_consumer_that_goes_leaves_what_a_transaction_holds() {
    let goes_on: [(_, &[&str]); 2] = [
        (true, &[]),
        (false, &["deliver 2 11r", "submit failed(11:1)"]),
    ];
    for (submitted, after) in goes_on {
        let mut machine = holding();
        step(&mut machine, commands(vec![attach(BOB, 9)]));
        let parts: [(_, &[u64], _); 1] = [(ALICE, &[11], Outcome::Accepted)];
        step(&mut machine, prepare(1, &parts, 0));
        assert_eq!(
            step(&mut machine, detach(ALICE)),
            ["deliver 2 10r,12r", "submit failed(10:1,12:1)"]
        );
        assert_eq!(step(&mut machine, finish(1, submitted)), after);
    }
}

#[test]
fn sends_are_refused_with_the_rest_but_acks_go_through() {
    let mut machine = holding();
    step(&mut machine, DestinationInput::SendsRefused(true));
    let parts: [(_, &[u64], _); 1] = [(ALICE, &[10], Outcome::Accepted)];
    assert_eq!(
        step(&mut machine, prepare(1, &parts, 1)),
        [format!("refused {REFUSED}")]
    );
    assert_eq!(
        step(&mut machine, prepare(2, &parts, 0)),
        ["prepared ack(10)"]
    );
}

#[test]
fn what_came_before_is_submitted_before_and_the_definition_is_told_until_it_is_written() {
    let mut machine = begin(Activation {
        definition: Some(Bytes::from_static(b"qorders")),
        ..Activation::default()
    });
    for request in [1, 2] {
        assert_eq!(
            step(&mut machine, prepare(request, &[], 1)),
            ["prepared define(qorders)"]
        );
    }
    step(&mut machine, finish(1, false));
    step(&mut machine, finish(2, true));
    let before = publish(3, &[(1, "a")]);
    let then = DestinationCommand::Prepare {
        transaction: key(3),
        settlements: Vec::new(),
        puts: 1,
    };
    assert_eq!(
        step(&mut machine, commands(vec![before, then])),
        ["submit 3.1:put(a)", "prepared "]
    );
}

#[test]
fn a_retired_consumer_keeps_only_what_it_was_told_to_and_gets_nothing_more() {
    let mut machine = holding();
    let retire = DestinationCommand::Retire {
        consumer: ALICE,
        keep: vec![Lsn(11)],
    };
    assert_eq!(
        step(&mut machine, commands(vec![retire])),
        ["submit failed(10:1,12:1)"]
    );
    let others = step(&mut machine, commands(vec![attach(BOB, 9)]));
    assert_eq!(others[1], "deliver 2 10r,12r,13");
    let parts: [(_, &[u64], _); 1] = [(ALICE, &[11], Outcome::Accepted)];
    assert_eq!(
        step(&mut machine, prepare(1, &parts, 0)),
        ["prepared ack(11)"]
    );
    step(&mut machine, detach(ALICE));
    step(&mut machine, finish(1, true));
    step(&mut machine, settled(1));
    assert_eq!(machine.figures().depth, 3);
    assert_eq!(machine.figures().unsettled, 3);
}

#[test]
fn a_retired_consumer_owns_no_group_and_is_not_alone_any_more() {
    let mut machine = machine();
    let traits = ConsumerTraits {
        exclusive: true,
        ..ConsumerTraits::default()
    };
    let alone = DestinationCommand::Attach {
        consumer: ALICE,
        prefetch: 1,
        traits,
    };
    step(&mut machine, commands(vec![alone, attach(BOB, 9)]));
    assert_eq!(step(&mut machine, committed(10..=11)), ["deliver 1 10"]);
    let retire = DestinationCommand::Retire {
        consumer: ALICE,
        keep: vec![Lsn(10)],
    };
    assert_eq!(
        step(&mut machine, commands(vec![retire])),
        ["deliver 2 11"],
        "who will never take anything again holds nobody up"
    );
}

#[test]
fn a_volatile_message_in_a_transaction_is_acknowledged_without_a_record() {
    let mut machine = begin(Activation {
        lanes: vec![lane(0, 0, 5000)],
        volatile: true,
        ..Activation::default()
    });
    step(&mut machine, commands(vec![attach(ALICE, 9)]));
    let sent = step(&mut machine, commands(vec![publish(3, &[(1, "a")])]));
    assert!(sent[1].starts_with("deliver 1 "), "{sent:?}");
    let held = Lsn::volatile(1).0;
    let parts: [(_, &[u64], _); 1] = [(ALICE, &[held], Outcome::Accepted)];
    assert_eq!(step(&mut machine, prepare(1, &parts, 0)), ["prepared "]);
    assert_eq!(machine.figures().depth, 1, "until the transaction is done");
    assert!(step(&mut machine, finish(1, true)).is_empty());
    let figures = machine.figures();
    assert_eq!((figures.depth, figures.accepted), (0, 1));
}
