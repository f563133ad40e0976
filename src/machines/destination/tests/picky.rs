//! Consumers with selectors: what each finds, when it is marked, and who else may have it.

use super::*;
use crate::machines::selector::{Dialect, Selector};

const NOTHING: [&str; 0] = [];

fn message(n: u64, envelope: Envelope<'_>) -> Bytes {
    let mut writer = MessageWriter::new(&envelope, &Properties::default(), 16);
    writer.header("n", &n.to_string());
    writer.finish(b"x").unwrap()
}

/// Messages with these positions and these values of the property `n`.
fn numbered(all: &[(u64, u64)]) -> Vec<Entry> {
    all.iter()
        .map(|(lsn, n)| Entry::new(Lsn(*lsn), message(*n, Envelope::default())))
        .collect()
}

fn attach_with(
    consumer: ConsumerKey,
    prefetch: u32,
    text: &str,
    exclusive: bool,
) -> DestinationCommand {
    let selector = Selector::parse(text, Dialect::TextIsNumeric).unwrap();
    DestinationCommand::Attach {
        consumer,
        prefetch,
        traits: ConsumerTraits {
            exclusive,
            selector: Some(selector),
        },
    }
}

fn picky(consumer: ConsumerKey, prefetch: u32, text: &str) -> DestinationCommand {
    attach_with(consumer, prefetch, text, false)
}

/// A queue with a backlog in the store; nothing was ever delivered from it.
fn deep(depth: u64) -> DestinationMachine {
    begin(Activation {
        lanes: vec![lane(depth, depth, 0)],
        horizon: Lsn(depth),
        ..Activation::default()
    })
}

fn marked(lsns: &[u64]) -> DestinationInput {
    DestinationInput::Committed {
        change: Change {
            marked: lsns.iter().copied().map(Lsn).collect(),
            ..Change::default()
        },
        upto: Lsn(1),
    }
}

fn accept(machine: &mut DestinationMachine, consumer: ConsumerKey, lsns: &[u64]) -> Vec<String> {
    step(
        machine,
        commands(vec![settle(consumer, lsns, Outcome::Accepted, 0)]),
    )
}

#[test]
fn a_backlog_is_read_once_and_each_match_leaves_when_it_is_marked() {
    let mut machine = deep(100);
    assert_eq!(
        step(&mut machine, commands(vec![picky(ALICE, 2, "n = 1")])),
        ["answer 1 Attached { consumer: 1 }", "seek 0"]
    );
    let found = numbered(&[(3, 1), (7, 1)]);
    assert_eq!(
        step(&mut machine, answer(0, found, 50)),
        ["seek 50", "submit each(3,7)"]
    );
    assert_eq!(step(&mut machine, marked(&[3, 7])), ["deliver 1 3,7"]);
    // There is no credit: what is found waits, and nobody has it yet.
    let found = numbered(&[(60, 1)]);
    assert_eq!(step(&mut machine, answer(1, found, 120)), NOTHING);
    assert_eq!(
        accept(&mut machine, ALICE, &[3]),
        ["submit ack(3)+each(60)"]
    );
    assert_eq!(step(&mut machine, marked(&[60])), ["deliver 1 60"]);
    // From now on a message is looked at as it comes.
    let new = arrived(numbered(&[(121, 2), (122, 1), (123, 3)]));
    assert_eq!(step(&mut machine, new), NOTHING);
    assert_eq!(
        accept(&mut machine, ALICE, &[7, 60]),
        ["submit ack(7,60)+each(122)"]
    );
    assert_eq!(step(&mut machine, marked(&[122])), ["deliver 1 122"]);
    assert_eq!(machine.figures().depth, 103, "nothing is settled yet");
}

#[test]
fn one_that_covers_by_the_lanes_mark_leaves_at_once() {
    let mut machine = machine();
    step(&mut machine, commands(vec![picky(ALICE, 5, "n = 1")]));
    let new = arrived(numbered(&[(10, 1), (11, 2), (5001, 1)]));
    assert_eq!(
        step(&mut machine, new),
        ["deliver 1 10", "submit each(5001)"]
    );
    assert_eq!(step(&mut machine, marked(&[5001])), ["deliver 1 5001"]);
}

#[test]
fn those_that_take_everything_get_the_rest_and_nothing_twice() {
    let mut machine = machine();
    step(
        &mut machine,
        commands(vec![attach(BOB, 10), picky(ALICE, 1, "n = 1")]),
    );
    let new = arrived(numbered(&[(10, 1), (11, 2), (12, 1)]));
    // She has credit for one.
    assert_eq!(step(&mut machine, new), ["deliver 1 10", "deliver 2 11,12"]);
    assert_eq!(accept(&mut machine, ALICE, &[10]), ["submit ack(10)"]);
    assert_eq!(
        step(&mut machine, arrived(numbered(&[(13, 1)]))),
        ["deliver 1 13"]
    );
}

#[test]
fn a_match_in_the_store_is_claimed_before_the_window_gets_there() {
    let mut machine = deep(100);
    step(&mut machine, commands(vec![picky(ALICE, 9, "n = 1")]));
    let found = numbered(&[(2, 1), (50, 1)]);
    step(&mut machine, answer(0, found, 100));
    assert_eq!(
        step(&mut machine, commands(vec![attach(BOB, 2)])),
        ["answer 2 Attached { consumer: 1 }", "fetch 0 4 1000"]
    );
    let page = numbered(&[(1, 0), (2, 1), (50, 1), (51, 0)]);
    assert_eq!(
        step(&mut machine, answer(1, page, 51)),
        ["submit mark(1024)", "fetch 51 2 946"]
    );
    assert_eq!(step(&mut machine, marked(&[2, 50])), ["deliver 1 2,50"]);
    // Acknowledged and forgotten, they are not met again.
    accept(&mut machine, ALICE, &[2, 50]);
    step(&mut machine, settled(2));
    assert_eq!(step(&mut machine, raised([], 2000)), ["deliver 2 1,51"]);
}

#[test]
fn what_comes_back_is_for_each_who_takes_it() {
    let mut machine = machine();
    step(
        &mut machine,
        commands(vec![picky(ALICE, 1, "n = 1"), picky(BOB, 1, "n > 0")]),
    );
    let new = arrived(numbered(&[(10, 1), (11, 2)]));
    assert_eq!(step(&mut machine, new), ["deliver 1 10", "deliver 2 11"]);
    // Bob has none left when Alice goes; it waits for him.
    assert_eq!(
        step(
            &mut machine,
            commands(vec![DestinationCommand::Detach { consumer: ALICE }])
        ),
        ["submit failed(10:1)"]
    );
    assert_eq!(
        accept(&mut machine, BOB, &[11]),
        ["deliver 2 10r", "submit ack(11)"]
    );
    // One for everything gets it, too.
    let plain = ConsumerKey { number: 2, ..ALICE };
    step(&mut machine, commands(vec![attach(plain, 1)]));
    assert_eq!(
        step(
            &mut machine,
            commands(vec![DestinationCommand::Detach { consumer: BOB }])
        ),
        ["deliver 1 10r", "submit failed(10:2)"]
    );
}

#[test]
fn a_consumer_that_goes_in_the_middle_leaves_nothing_behind() {
    let mut machine = deep(100);
    step(&mut machine, commands(vec![picky(ALICE, 5, "n = 1")]));
    assert_eq!(
        step(&mut machine, answer(0, numbered(&[(3, 1)]), 50)),
        ["seek 50", "submit each(3)"]
    );
    let gone = DestinationCommand::Detach { consumer: ALICE };
    assert_eq!(step(&mut machine, commands(vec![gone])), NOTHING);
    assert_eq!(
        step(&mut machine, answer(1, numbered(&[(60, 1)]), 100)),
        NOTHING
    );
    assert_eq!(step(&mut machine, marked(&[3])), NOTHING);
    assert_eq!((machine.fetching(), machine.figures().unsettled), (0, 0));
    // It was never delivered: no failure, no flag.
    step(&mut machine, commands(vec![picky(BOB, 5, "n = 1")]));
    assert_eq!(
        step(&mut machine, answer(2, numbered(&[(3, 1), (60, 1)]), 100)),
        ["submit each(3,60)"]
    );
    assert_eq!(step(&mut machine, marked(&[3, 60])), ["deliver 2 3,60"]);
}

#[test]
fn what_an_operator_took_out_is_not_delivered() {
    let mut machine = deep(100);
    step(&mut machine, commands(vec![picky(ALICE, 1, "n = 1")]));
    step(&mut machine, answer(0, numbered(&[(3, 1), (7, 1)]), 100));
    step(&mut machine, marked(&[3]));
    let purge = DestinationCommand::Remove {
        request: RequestNumber(1),
        removals: vec![crate::machines::delivery::Removal {
            lsn: Lsn(7),
            times: Times::of(&message(1, Envelope::default())),
            records: Vec::new(),
        }],
        definitions: Vec::new(),
    };
    let effects = step(&mut machine, commands(vec![purge]));
    assert!(
        effects[1].starts_with("removed 1 Ok([Lsn(7)])"),
        "{effects:?}"
    );
    step(&mut machine, settled(1));
    assert_eq!(accept(&mut machine, ALICE, &[3]), ["submit ack(3)"]);
}

#[test]
fn an_exclusive_consumer_is_alone_with_its_selector_too() {
    let mut machine = machine();
    let exclusive = attach_with(ALICE, 1, "n = 1", true);
    step(&mut machine, commands(vec![attach(BOB, 9), exclusive]));
    let new = arrived(numbered(&[(10, 1), (11, 2), (12, 1)]));
    assert_eq!(step(&mut machine, new), ["deliver 1 10"]);
    let gone = DestinationCommand::Detach { consumer: ALICE };
    assert_eq!(
        step(&mut machine, commands(vec![gone])),
        ["deliver 2 10r,11,12", "submit failed(10:1)"]
    );
}

fn grouped(all: &[(u64, u64)]) -> DestinationInput {
    let envelope = Envelope {
        group: Some("g"),
        ..Envelope::default()
    };
    let entry = |(lsn, n): &(u64, u64)| Entry::new(Lsn(*lsn), message(*n, envelope));
    arrived(all.iter().map(entry).collect())
}

#[test]
fn a_group_is_its_owners_as_far_as_that_takes_it() {
    let mut machine = machine();
    step(
        &mut machine,
        commands(vec![picky(ALICE, 1, "n = 1"), attach(BOB, 9)]),
    );
    assert_eq!(
        step(&mut machine, grouped(&[(10, 1), (11, 1), (12, 2)])),
        ["deliver 1 10", "deliver 2 12"],
        "11 waits for its owner"
    );
    assert_eq!(
        accept(&mut machine, ALICE, &[10]),
        ["deliver 1 11", "submit ack(10)"]
    );
}

#[test]
fn what_was_passed_over_for_a_groups_sake_is_looked_at_when_its_owner_goes() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(BOB, 1)]));
    assert_eq!(step(&mut machine, grouped(&[(10, 1)])), ["deliver 2 10"]);
    step(&mut machine, commands(vec![picky(ALICE, 5, "n = 1")]));
    assert_eq!(step(&mut machine, grouped(&[(11, 1)])), NOTHING);
    let gone = DestinationCommand::Detach { consumer: BOB };
    assert_eq!(
        step(&mut machine, commands(vec![gone])),
        ["deliver 1 10r,11", "submit failed(10:1)"]
    );
}

#[test]
fn a_higher_lane_is_looked_through_before_a_lower_one_delivers() {
    let facts = |priority: u8, depth: u64, tail: u64| LaneFacts {
        lane: Lane(priority),
        depth,
        tail: Lsn(tail),
        mark: Lsn(1000),
    };
    let mut machine = begin(Activation {
        lanes: vec![facts(9, 50, 100), facts(4, 0, 0)],
        horizon: Lsn(100),
        ..Activation::default()
    });
    assert_eq!(
        step(&mut machine, commands(vec![picky(ALICE, 5, "n = 1")])),
        ["answer 1 Attached { consumer: 1 }", "seek priority 9 0"]
    );
    assert_eq!(step(&mut machine, arrived(numbered(&[(101, 1)]))), NOTHING);
    let high = Envelope {
        priority: 9,
        ..Envelope::default()
    };
    let found = vec![Entry::new(Lsn(50), message(1, high))];
    assert_eq!(
        step(&mut machine, answer(0, found, 100)),
        ["deliver 1 50r,101"]
    );
}

#[test]
fn copies_are_bounded_and_the_cursor_waits_with_them() {
    let mut machine = deep(1000);
    step(&mut machine, commands(vec![picky(ALICE, 1, "n = 1")]));
    let all = |from: u64| (from..from + 32).map(|lsn| (lsn, 1)).collect::<Vec<_>>();
    assert_eq!(
        step(&mut machine, answer(0, numbered(&all(1)), 32)),
        ["submit each(1)"]
    );
    // Memory holds none of them twice, and no more is asked for until half of them are gone.
    assert_eq!(step(&mut machine, marked(&[1])), ["deliver 1 1"]);
    for lsn in 1..15 {
        let effects = accept(&mut machine, ALICE, &[lsn]);
        assert_eq!(effects, [format!("submit ack({lsn})+each({})", lsn + 1)]);
        step(&mut machine, marked(&[lsn + 1]));
    }
    assert_eq!(
        accept(&mut machine, ALICE, &[15]),
        ["seek 32", "submit ack(15)+each(16)"]
    );
}

fn delayed(lsn: u64, n: u64, due: u64) -> Entry {
    let envelope = Envelope {
        due_ms: Some(due),
        ..Envelope::default()
    };
    Entry::new(Lsn(lsn), message(n, envelope))
}

#[test]
fn a_due_message_that_nobody_takes_stays_in_the_store_until_somebody_does() {
    let mut machine = machine();
    step_at(&mut machine, 1, commands(vec![picky(ALICE, 5, "n = 1")]));
    let all = vec![delayed(10, 2, 50), delayed(11, 1, 50), delayed(12, 3, 50)];
    assert_eq!(step_at(&mut machine, 2, arrived(all.clone())), NOTHING);
    assert_eq!(
        step_at(&mut machine, 50, DestinationInput::Deadline),
        ["fetch due 0/0..50"]
    );
    assert_eq!(
        step_at(&mut machine, 51, answer(0, all.clone(), 0)),
        ["submit each(11)"]
    );
    assert_eq!(step_at(&mut machine, 52, marked(&[11])), ["deliver 1 11"]);
    assert_eq!(
        step_at(&mut machine, 53, commands(vec![picky(BOB, 5, "n = 2")])),
        ["answer 2 Attached { consumer: 1 }", "fetch due 50/9..53"]
    );
    assert_eq!(
        step_at(&mut machine, 54, answer(1, all, 0)),
        ["submit each(10)"]
    );
    assert_eq!(step_at(&mut machine, 55, marked(&[10])), ["deliver 2 10"]);
}

#[test]
fn what_is_due_for_others_does_not_hold_up_one_that_is_alone() {
    let mut machine = machine();
    let alone = attach_with(ALICE, 5, "n = 1", true);
    step_at(&mut machine, 1, commands(vec![alone, attach(BOB, 5)]));
    let others: Vec<Entry> = (10..15).map(|lsn| delayed(lsn, 2, 50)).collect();
    let last = delayed(15, 1, 51);
    let all = [others.clone(), vec![last.clone()]].concat();
    step_at(&mut machine, 2, arrived(all));
    assert_eq!(
        step_at(&mut machine, 60, DestinationInput::Deadline),
        ["fetch due 0/0..60"]
    );
    let first = DestinationInput::Fetched(Fetched {
        dest: QUEUE,
        tag: 0,
        entries: others.clone(),
        scanned: Lsn::ZERO,
        next_ms: Some(51),
    });
    assert_eq!(step_at(&mut machine, 61, first), ["fetch due 50/14..61"]);
    assert_eq!(
        step_at(&mut machine, 62, answer(1, vec![last], 0)),
        ["submit each(15)"]
    );
    let gone = DestinationCommand::Detach { consumer: ALICE };
    assert_eq!(
        step_at(&mut machine, 63, commands(vec![gone])),
        ["fetch due 50/9..63"]
    );
    let effects = step_at(&mut machine, 64, answer(2, others, 0));
    assert_eq!(effects, ["submit each(10,11,12,13,14)"]);
}

#[test]
fn messages_in_memory_are_matched_and_expire_as_others_do() {
    let mut machine = machine();
    let publish = |n: u64, expiry_ms: Option<u64>| DestinationCommand::Publish {
        session: SessionKey(3),
        messages: vec![(
            RequestNumber(1),
            message(
                n,
                Envelope {
                    persistent: false,
                    expiry_ms,
                    ..Envelope::default()
                },
            ),
        )],
    };
    let both = vec![publish(1, Some(20)), publish(1, None), publish(2, None)];
    step_at(&mut machine, 1, commands(both));
    let first = Lsn::volatile(1);
    let effects = step_at(&mut machine, 30, commands(vec![picky(ALICE, 5, "n = 1")]));
    let delivered = format!("deliver 1 {}", first.next());
    assert_eq!(
        effects,
        ["answer 1 Attached { consumer: 1 }", delivered.as_str()]
    );
    let effects = step_at(&mut machine, 31, commands(vec![publish(1, None)]));
    assert_eq!(effects[1], format!("deliver 1 {}", Lsn::volatile(4)));
    assert_eq!(machine.figures().depth, 3);
}

fn passing(n: u64) -> DestinationInput {
    let envelope = Envelope {
        persistent: false,
        ..Envelope::default()
    };
    commands(vec![DestinationCommand::Publish {
        session: SessionKey(3),
        messages: vec![(RequestNumber(1), message(n, envelope))],
    }])
}

/// A queue with memory for two messages that are not persistent.
fn cramped(activation: Activation) -> DestinationMachine {
    let bytes = 2 * (message(1, Envelope::default()).len() + 128);
    DestinationMachine::new(small(), QUEUE, activation, VolatilePool::new(bytes, 1))
}

#[test]
fn what_is_in_memory_goes_before_what_was_spilled() {
    let mut machine = cramped(Activation {
        volatile: true,
        lanes: vec![lane(0, 0, 5000)],
        ..Activation::default()
    });
    step(&mut machine, commands(vec![picky(ALICE, 1, "n = 1")]));
    for _ in 0..4 {
        step(&mut machine, passing(1));
    }
    step(&mut machine, arrived(numbered(&[(10, 1), (11, 1)])));
    let [one, two] = [Lsn::volatile(1), Lsn::volatile(2)];
    let next = accept(&mut machine, ALICE, &[one.0]);
    assert_eq!(next, [format!("deliver 1 {two}")]);
    // What comes back is older still.
    let back = commands(vec![settle(ALICE, &[two.0], Outcome::Released, 0)]);
    let next = step(&mut machine, back);
    assert_eq!(next, [format!("deliver 1 {two}r")]);
    assert_eq!(accept(&mut machine, ALICE, &[two.0]), ["deliver 1 10"]);
    let next = accept(&mut machine, ALICE, &[10]);
    assert_eq!(next, ["deliver 1 11", "submit ack(10)"]);
}

#[test]
fn after_a_spill_stored_copies_wait_for_all_that_is_in_memory() {
    let mut machine = cramped(Activation {
        lanes: vec![lane(100, 100, 0)],
        horizon: Lsn(100),
        ..Activation::default()
    });
    step(&mut machine, commands(vec![picky(ALICE, 1, "n > 0")]));
    // As many copies as she may have, and the one that she has.
    let found: Vec<(u64, u64)> = (1..=33).map(|lsn| (lsn, 3)).collect();
    step(&mut machine, answer(0, numbered(&found), 33));
    assert_eq!(step(&mut machine, marked(&[1])), ["deliver 1 1"]);
    step(&mut machine, passing(1));
    step(&mut machine, passing(2));
    // This one is spilled.
    step(&mut machine, passing(3));
    // Of those in memory the first is another's.
    let [one, two] = [Lsn::volatile(1), Lsn::volatile(2)];
    let effects = step(&mut machine, commands(vec![picky(BOB, 1, "n = 1")]));
    assert!(effects.contains(&format!("deliver 2 {one}")), "{effects:?}");
    let effects = accept(&mut machine, ALICE, &[1]);
    assert_eq!(
        effects,
        [format!("deliver 1 {two}"), "submit ack(1)".into()]
    );
    let effects = accept(&mut machine, ALICE, &[two.0]);
    assert_eq!(effects, ["submit each(2)"]);
}

#[test]
fn what_is_in_memory_does_not_wait_for_the_stores_answer() {
    let mut machine = deep(100);
    let effects = step(&mut machine, commands(vec![picky(ALICE, 5, "n = 1")]));
    assert_eq!(effects[1..], ["seek 0"]);
    let effects = step(&mut machine, passing(1));
    let delivered = format!("deliver 1 {}", Lsn::volatile(1));
    assert!(effects.contains(&delivered), "{effects:?}");
}

#[test]
fn sixty_four_consumers_share_a_queue_that_nobody_else_takes_from() {
    let mut machine = machine();
    let key = |number: u32| ConsumerKey { number, ..ALICE };
    let all = (0..64).map(|number| picky(key(number), 100, &format!("n = {}", number % 32)));
    step(&mut machine, commands(all.collect()));
    let new: Vec<(u64, u64)> = (0..330).map(|lsn| (lsn + 1, lsn % 33)).collect();
    let mut effects = Vec::new();
    machine.step(Now::default(), arrived(numbered(&new)), &mut effects);
    let mut shares = [0; 64];
    for effect in &effects {
        let DestinationEffect::Deliver {
            consumer,
            deliveries,
        } = effect
        else {
            panic!("{}", show(effect));
        };
        shares[usize::try_from(consumer.number).unwrap()] += deliveries.len();
    }
    // Two share each number; one number is nobody's and stays.
    assert_eq!(shares, [5; 64]);
    assert_eq!(machine.figures().depth, 330);
}
