//! Each rule by itself: priorities, times, memory, redelivery, groups, exclusive consumers.

use super::*;
use crate::machines::destination::redelivery::{Reason, obituary};

fn message(envelope: Envelope<'_>, body: &str) -> Bytes {
    let writer = MessageWriter::new(&envelope, &Properties::default(), body.len());
    writer.finish(body.as_bytes()).unwrap()
}

fn entry(lsn: u64, envelope: Envelope<'_>) -> Entry {
    Entry::new(Lsn(lsn), message(envelope, "x"))
}

fn priority(lsn: u64, priority: u8) -> Entry {
    let envelope = Envelope {
        priority,
        ..Envelope::default()
    };
    entry(lsn, envelope)
}

fn with(policy: DestinationPolicy) -> DestinationMachine {
    begin(Activation {
        lanes: vec![lane(0, 0, 5000)],
        name: "/queue/q".to_owned(),
        policy: Some(Arc::new(policy)),
        ..Activation::default()
    })
}

fn change(change: Change) -> DestinationInput {
    let upto = Lsn(1);
    DestinationInput::Committed { change, upto }
}

const NOTHING: [&str; 0] = [];

#[test]
fn each_lane_waits_for_its_own_mark_and_a_lower_one_does_not_pass() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 2)]));
    step(&mut machine, committed([1, 2, 3, 4]));
    let urgent = arrived(vec![priority(5, 9), priority(6, 0)]);
    assert_eq!(step(&mut machine, urgent), NOTHING);
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[1, 2], Outcome::Accepted, 0)])
        ),
        ["submit ack(1,2)+mark(priority 9, 2048)+mark(priority 0, 2304)"]
    );
    let marks = vec![(Lane(0), Lsn(2000)), (Lane(9), Lsn(2000))];
    let raised = change(Change {
        marks,
        ..Change::default()
    });
    assert_eq!(
        step(&mut machine, raised),
        ["deliver 1 5,3", "fetch 3 1 333"]
    );
}

#[test]
fn an_expired_message_is_acknowledged_and_found_without_a_consumer() {
    let mut machine = machine();
    let expiring = |lsn, ms| {
        let expiry_ms = Some(ms);
        entry(
            lsn,
            Envelope {
                expiry_ms,
                ..Envelope::default()
            },
        )
    };
    let all = vec![expiring(1, 500), expiring(2, 9000), expiring(3, 500)];
    assert_eq!(step_at(&mut machine, 0, arrived(all)), NOTHING);
    assert_eq!(machine.next_deadline(), Some(at(500).moment));
    assert_eq!(
        step_at(&mut machine, 500, DestinationInput::Deadline),
        ["fetch expired 0..500"]
    );
    let mut found = vec![expiring(1, 500), expiring(3, 500)];
    let fetched = |entries| {
        DestinationInput::Fetched(Fetched {
            dest: QUEUE,
            tag: 0,
            entries,
            scanned: Lsn(3),
            next_ms: Some(9000),
        })
    };
    assert_eq!(
        step_at(&mut machine, 501, fetched(found.split_off(0))),
        ["submit ack(1,3)"]
    );
    assert_eq!(machine.next_deadline(), Some(at(9000).moment));
    // Its time is over before anybody has looked: it is not delivered.
    assert_eq!(
        step_at(&mut machine, 9000, commands(vec![attach(ALICE, 9)])),
        [
            "answer 1 Attached { consumer: 1 }",
            "fetch expired 0..9000",
            "fetch 1 4 1000"
        ]
    );
}

#[test]
fn a_delayed_message_is_fetched_marked_and_delivered_when_it_is_due() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 9)]));
    let delayed = |lsn, ms| {
        let due_ms = Some(ms);
        entry(
            lsn,
            Envelope {
                due_ms,
                ..Envelope::default()
            },
        )
    };
    let all = vec![delayed(1, 900), delayed(2, 700)];
    assert_eq!(step_at(&mut machine, 100, arrived(all)), NOTHING);
    assert_eq!(machine.next_deadline(), Some(at(700).moment));
    assert_eq!(
        step_at(&mut machine, 950, DestinationInput::Deadline),
        ["fetch due 0/0..950"]
    );
    assert_eq!(
        step_at(
            &mut machine,
            951,
            answer(0, vec![delayed(2, 700), delayed(1, 900)], 0)
        ),
        ["submit each(2,1)"]
    );
    let marked = change(Change {
        marked: vec![Lsn(1), Lsn(2)],
        ..Change::default()
    });
    assert_eq!(step_at(&mut machine, 960, marked), ["deliver 1 2,1"]);
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn a_refused_message_waits_and_goes_to_the_dead_ones_beyond_the_limit() {
    let mut machine = with(DestinationPolicy {
        redelivery_limit: Some(1),
        redelivery_delay: Duration::from_millis(100),
        ..DestinationPolicy::default()
    });
    step_at(&mut machine, 0, commands(vec![attach(ALICE, 9)]));
    assert_eq!(
        step_at(&mut machine, 0, arrived(vec![priority(1, 4)])),
        ["deliver 1 1"]
    );
    let refuse = || commands(vec![settle(ALICE, &[1], Outcome::Released, 0)]);
    assert_eq!(step_at(&mut machine, 10, refuse()), ["submit failed(1:1)"]);
    assert_eq!(machine.next_deadline(), Some(at(110).moment));
    assert_eq!(
        step_at(&mut machine, 110, DestinationInput::Deadline),
        ["deliver 1 1r"]
    );
    assert_eq!(step_at(&mut machine, 120, refuse()), ["find DMQ"]);
    let found = |queue| DestinationInput::DeadLetterFound(queue);
    assert_eq!(step_at(&mut machine, 121, found(None)), NOTHING);
    assert_eq!(
        machine.next_deadline(),
        Some(at(1121).moment),
        "it asks again"
    );
    assert_eq!(
        step_at(&mut machine, 1121, DestinationInput::Deadline),
        ["find DMQ"]
    );
    let queue = DeadLetterQueue {
        id: DEAD,
        definition: Bytes::from_static(b"qDMQ"),
    };
    assert_eq!(
        step_at(&mut machine, 1122, found(Some(queue))),
        ["submit define(qDMQ)+dead(x)+ack(1)"]
    );
    assert_eq!(machine.figures().dead, 1);
}

#[test]
fn dead_messages_are_judged_again_by_other_rules() {
    let policy = |limit, dead_letter: Option<&str>| DestinationPolicy {
        redelivery_limit: Some(limit),
        dead_letter: dead_letter.map(str::to_owned),
        ..DestinationPolicy::default()
    };
    let changed = |policy| DestinationInput::PolicyChanged(Arc::new(policy));
    let dead = || {
        let mut machine = with(policy(0, Some("DMQ")));
        step(&mut machine, commands(vec![attach(ALICE, 9)]));
        step(&mut machine, arrived(vec![priority(1, 4)]));
        let refuse = commands(vec![settle(ALICE, &[1], Outcome::Released, 0)]);
        assert_eq!(step(&mut machine, refuse), ["find DMQ"]);
        machine
    };
    let mut machine = dead();
    assert_eq!(
        step(&mut machine, changed(policy(0, None))),
        ["submit ack(1)"]
    );
    let mut machine = dead();
    assert_eq!(
        step(&mut machine, changed(policy(9, Some("DMQ")))),
        ["deliver 1 1r"]
    );
    let mut machine = dead();
    step(&mut machine, changed(policy(0, Some("other"))));
    let queue = DeadLetterQueue {
        id: DEAD,
        definition: Bytes::from_static(b"qDMQ"),
    };
    let found = DestinationInput::DeadLetterFound(Some(queue));
    assert_eq!(
        step(&mut machine, found),
        ["find other"],
        "an answer to what was asked by the rules before"
    );
}

#[test]
fn a_dead_message_says_where_it_comes_from_and_why() {
    let mut dead = priority(17, 4);
    dead.failures = 3;
    let message = obituary(&dead, Reason::TooOften, "/queue/orders", at(1234));
    let message = Message::read(&message).unwrap();
    let headers: Vec<_> = message.headers().collect();
    assert_eq!(
        headers,
        [
            ("TMQ_DEAD_REASON", "redelivery-limit"),
            (
                "TMQ_DEAD_CAUSE",
                "it was delivered 3 times and never accepted"
            ),
            ("TMQ_DEAD_TIME", "1234"),
            ("TMQ_DELIVERY_COUNT", "3"),
            ("TMQ_ORIGINAL_DESTINATION", "/queue/orders"),
            ("TMQ_ORIGINAL_MESSAGE_ID", "tm-17"),
        ]
    );
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        crate::machines::sweep::DEATH_HEADERS,
        "all of them go when it goes back"
    );
}

#[test]
fn what_comes_back_while_the_server_drains_is_nobodys_failure() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 9)]));
    step(&mut machine, committed([1]));
    step(&mut machine, DestinationInput::Draining);
    let detach = DestinationCommand::Detach { consumer: ALICE };
    assert_eq!(step(&mut machine, commands(vec![detach])), NOTHING);
}

#[test]
fn a_group_waits_for_its_owner_and_others_pass() {
    let mut machine = machine();
    step(
        &mut machine,
        commands(vec![attach(ALICE, 1), attach(BOB, 5)]),
    );
    let of = |lsn, group| {
        let envelope = Envelope {
            group: Some(group),
            ..Envelope::default()
        };
        entry(lsn, envelope)
    };
    assert_eq!(
        step(&mut machine, arrived(vec![of(1, "a")])),
        ["deliver 1 1"]
    );
    assert_eq!(
        step(&mut machine, arrived(vec![of(2, "a"), of(3, "b")])),
        ["deliver 2 3"],
        "2 waits for ALICE, who has no credit"
    );
    assert_eq!(
        step(
            &mut machine,
            commands(vec![DestinationCommand::Detach { consumer: ALICE }])
        ),
        ["deliver 2 1r,2", "submit failed(1:1)"],
        "in order, and only what was delivered is flagged"
    );
}

#[test]
fn the_first_exclusive_consumer_gets_everything_until_it_goes() {
    let mut machine = machine();
    let exclusive = |consumer| DestinationCommand::Attach {
        consumer,
        prefetch: 9,
        traits: ConsumerTraits {
            exclusive: true,
            ..ConsumerTraits::default()
        },
    };
    let carol = ConsumerKey { number: 5, ..BOB };
    step(
        &mut machine,
        commands(vec![attach(carol, 9), exclusive(BOB), exclusive(ALICE)]),
    );
    assert_eq!(step(&mut machine, committed([1, 2])), ["deliver 2 1,2"]);
    assert_eq!(
        step(
            &mut machine,
            commands(vec![DestinationCommand::Detach { consumer: BOB }])
        ),
        ["deliver 1 1r,2r", "submit failed(1:1,2:1)"]
    );
}
