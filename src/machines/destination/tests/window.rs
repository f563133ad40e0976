//! What is in memory of a backlog, and what is fetched when.

use super::*;

#[test]
fn a_backlog_beyond_the_window_is_fetched_when_half_of_it_is_gone() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    // 1 goes out, 2..=5 fill the window, 6..=9 are the recent ones, 10 pushes 6 out.
    assert_eq!(step(&mut machine, committed(1..=10)), ["deliver 1 1"]);
    for lsn in 1..=2 {
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[lsn], Outcome::Accepted, 0)]),
        );
    }
    // 4 and 5 remain.
    let mut effects = Vec::new();
    machine.step(
        Now::default(),
        commands(vec![settle(ALICE, &[], Outcome::Accepted, 0)]),
        &mut effects,
    );
    assert_eq!(machine.fetching(), 1);
    assert!(effects.is_empty(), "asked once: {effects:?}");
    let fetched = answer(0, entries([6, 7]), 7);
    assert_eq!(step(&mut machine, fetched), Vec::<String>::new());
    for lsn in 3..=9 {
        let effects = step(
            &mut machine,
            commands(vec![settle(ALICE, &[lsn], Outcome::Accepted, 0)]),
        );
        assert_eq!(
            effects,
            [
                format!("deliver 1 {}", lsn + 1),
                format!("submit ack({lsn})")
            ],
            "the rest is in memory"
        );
    }
}

#[test]
fn a_fetch_from_before_the_window_shrank_is_passed_over() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    step(&mut machine, committed(1..=20));
    step(
        &mut machine,
        commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]),
    );
    // 2 is out, 3 to 5 are in the window.
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[2], Outcome::Accepted, 0)])
        ),
        ["deliver 1 3", "submit ack(2)", "fetch 5 2 982"]
    );
    step(
        &mut machine,
        commands(vec![DestinationCommand::Detach { consumer: ALICE }]),
    );
    let fetched = |tag: u32, lsns: std::ops::RangeInclusive<u64>| {
        let end = *lsns.end();
        answer(tag, entries(lsns), end)
    };
    assert_eq!(step(&mut machine, fetched(0, 6..=7)), Vec::<String>::new());
    assert_eq!(
        step(&mut machine, commands(vec![attach(BOB, 3)])),
        [
            "answer 2 Attached { consumer: 1 }",
            "deliver 2 3r,4",
            "fetch 4 4 1000"
        ]
    );
    assert_eq!(step(&mut machine, fetched(1, 5..=8)), ["deliver 2 5"]);
    assert_eq!(step(&mut machine, fetched(2, 9..=12)), Vec::<String>::new());
    assert_eq!(
        machine.lanes.of(Lane::DEFAULT).unwrap().backlog.cursor,
        Lsn(8),
        "nobody asked for that"
    );
}

#[test]
fn bytes_bound_the_window_and_a_consumer_but_one_message_is_always_possible() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 100)]));
    let big = |lsn: u64, len: usize| Entry::new(Lsn(lsn), Bytes::from(vec![0; len]));
    let input = arrived(vec![big(1, 5000), big(2, 400), big(3, 400), big(4, 400)]);
    assert_eq!(step(&mut machine, input), ["deliver 1 1"]);
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)])
        ),
        ["deliver 1 2,3", "submit ack(1)"]
    );
    assert!(
        machine
            .lanes
            .of(Lane::DEFAULT)
            .unwrap()
            .backlog
            .window
            .bytes
            <= 1000
    );
}

#[test]
fn without_consumers_only_a_few_messages_are_kept() {
    let mut machine = machine();
    step(&mut machine, committed(1..=50));
    assert_eq!(
        machine
            .lanes
            .of(Lane::DEFAULT)
            .unwrap()
            .backlog
            .window
            .entries
            .len(),
        1
    );
    assert_eq!(
        machine
            .lanes
            .of(Lane::DEFAULT)
            .unwrap()
            .backlog
            .recent
            .entries
            .len(),
        1
    );
    assert_eq!(machine.figures().depth, 50);
}
