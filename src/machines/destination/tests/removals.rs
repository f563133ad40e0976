//! What an operator takes out, and what the store may still say of it.

use super::*;
use crate::machines::delivery::{OPERATOR, Removal};

fn remove(request: u32, lsns: &[u64]) -> DestinationInput {
    let removal = |lsn: &u64| Removal {
        lsn: Lsn(*lsn),
        times: Times::of(&body(*lsn)),
        records: Vec::new(),
    };
    commands(vec![DestinationCommand::Remove {
        request: RequestNumber(request),
        removals: lsns.iter().map(removal).collect(),
        definitions: Vec::new(),
    }])
}

fn taken(request: u32, lsns: &[u64]) -> String {
    let lsns: Vec<Lsn> = lsns.iter().copied().map(Lsn).collect();
    format!("removed {request} {:?}", Ok::<_, String>(lsns))
}

/// What the steps deliver.
fn delivered(effects: &[String]) -> Vec<&str> {
    let lines = effects.iter().map(String::as_str);
    lines.filter(|line| line.starts_with("deliver")).collect()
}

#[test]
fn what_is_in_memory_and_not_held_is_taken_and_what_is_held_is_not() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    step(&mut machine, committed(10..=13));
    let effects = step(&mut machine, remove(1, &[10, 11, 13]));
    let submitted = format!("submit {}.1:ack(11,13)", OPERATOR.0);
    assert!(effects.contains(&submitted), "{effects:?}");
    assert!(effects.contains(&taken(1, &[11, 13])), "{effects:?}");
    step(&mut machine, settled(2));
    assert_eq!(machine.figures().depth, 2);
    let effects = step(
        &mut machine,
        commands(vec![settle(ALICE, &[10], Outcome::Accepted, 0)]),
    );
    assert_eq!(delivered(&effects), ["deliver 1 12"]);
}

#[test]
fn an_answer_that_is_older_than_the_removal_does_not_bring_it_back() {
    let mut machine = machine();
    step(&mut machine, committed(1..=20));
    let effects = step(&mut machine, commands(vec![attach(ALICE, 1)]));
    assert_eq!(delivered(&effects), ["deliver 1 1"]);
    assert!(
        effects.contains(&"fetch 1 4 1000".to_owned()),
        "{effects:?}"
    );
    let effects = step(&mut machine, remove(1, &[2, 4]));
    assert!(effects.contains(&taken(1, &[2, 4])), "{effects:?}");
    // The unit is in the index, but the question is older.
    step(&mut machine, settled(2));
    step(&mut machine, answer(0, entries(2..=5), 5));
    for (held, next) in [(1, "deliver 1 3"), (3, "deliver 1 5")] {
        let settle = settle(ALICE, &[held], Outcome::Accepted, 0);
        let effects = step(&mut machine, commands(vec![settle]));
        assert_eq!(delivered(&effects), [next]);
    }
}

fn look(asks: bool) -> DestinationInput {
    commands(vec![DestinationCommand::Look { asks }])
}

#[test]
fn what_expired_while_an_operator_reads_is_not_moved_once_more() {
    let expiring = |lsn: u64| {
        let envelope = Envelope {
            expiry_ms: Some(100),
            ..Envelope::default()
        };
        with_envelope(lsn, envelope)
    };
    for asked in [true, false] {
        let mut machine = machine();
        // More than is kept in memory: the first are in the store alone.
        let all: Vec<Entry> = (1..=20).map(expiring).collect();
        step(&mut machine, arrived(all.clone()));
        // The operator asks; the store answers with all of them.
        if asked {
            step(&mut machine, look(true));
        }
        // They expire, and that is committed before the answer is used.
        let late = Now {
            moment: Moment(900_000_000),
            wall_ms: 900,
        };
        let mut effects = Vec::new();
        machine.step(late, DestinationInput::Deadline, &mut effects);
        let Some(DestinationEffect::Fetch { tag, .. }) = effects.last() else {
            panic!("{effects:?}");
        };
        let found = answer(*tag, all[4..5].to_vec(), 20);
        let mut effects = Vec::new();
        machine.step(late, found, &mut effects);
        assert!(
            matches!(&effects[..], [DestinationEffect::Submit(_)]),
            "{effects:?}"
        );
        step(&mut machine, settled(1));
        let effects = step(&mut machine, remove_entries(1, &all[4..6]));
        // Without the question it cannot know better: this is what the question is for.
        let expected = if asked {
            taken(1, &[6])
        } else {
            taken(1, &[5, 6])
        };
        assert!(effects.contains(&expected), "{effects:?}");
        step(&mut machine, look(false));
        assert_eq!(machine.fetching(), 0);
    }
}

#[test]
fn a_message_is_taken_once() {
    let mut machine = machine();
    step(&mut machine, committed(1..=20));
    step(&mut machine, remove(1, &[5]));
    let effects = step(&mut machine, remove(2, &[5, 6]));
    assert!(effects.contains(&taken(2, &[6])), "{effects:?}");
    // Not known here yet: its commit may still be on the way.
    let effects = step(&mut machine, remove(3, &[21]));
    assert_eq!(effects, [taken(3, &[])]);
    step(&mut machine, settled(1));
    step(&mut machine, settled(1));
    assert_eq!(machine.figures().depth, 18);
}

fn remove_entries(request: u32, entries: &[Entry]) -> DestinationInput {
    let removal = |entry: &Entry| Removal {
        lsn: entry.lsn,
        times: Times::of(&entry.message),
        records: Vec::new(),
    };
    commands(vec![DestinationCommand::Remove {
        request: RequestNumber(request),
        removals: entries.iter().map(removal).collect(),
        definitions: Vec::new(),
    }])
}

fn with_envelope(lsn: u64, envelope: Envelope<'_>) -> Entry {
    let writer = MessageWriter::new(&envelope, &Properties::default(), 1);
    Entry::new(Lsn(lsn), writer.finish(b"x").unwrap())
}

#[test]
fn a_message_of_another_lane_or_a_delayed_one_is_taken_and_does_not_come_later() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    let urgent = with_envelope(
        2,
        Envelope {
            priority: 9,
            ..Envelope::default()
        },
    );
    let delayed = with_envelope(
        3,
        Envelope {
            due_ms: Some(700),
            ..Envelope::default()
        },
    );
    step(
        &mut machine,
        arrived(vec![
            Entry::new(Lsn(1), body(1)),
            urgent.clone(),
            delayed.clone(),
        ]),
    );
    let late = Now {
        moment: Moment(900_000_000),
        wall_ms: 900,
    };
    let mut effects = Vec::new();
    machine.step(late, DestinationInput::Deadline, &mut effects);
    let effects: Vec<String> = effects.iter().map(show).collect();
    assert_eq!(effects, ["fetch due 0/0..900"]);
    // The answer is on its way; what it brings is not to be had any more.
    let effects = step(&mut machine, remove_entries(1, &[urgent, delayed.clone()]));
    assert!(effects.contains(&taken(1, &[2, 3])), "{effects:?}");
    step(&mut machine, settled(2));
    let mut effects = Vec::new();
    machine.step(late, answer(0, vec![delayed], 0), &mut effects);
    let effects: Vec<String> = effects.iter().map(show).collect();
    assert!(
        !effects.iter().any(|line| line.contains("each(3)")),
        "{effects:?}"
    );
    let done = commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]);
    assert_eq!(delivered(&step(&mut machine, done)), Vec::<&str>::new());
    assert_eq!(machine.stored, 1, "the last acknowledgement is on its way");
}

#[test]
fn what_waits_aside_is_taken_and_is_not_delivered_when_its_turn_comes() {
    let mut machine = begin(Activation {
        lanes: vec![lane(0, 0, 5000)],
        policy: Some(Arc::new(DestinationPolicy {
            redelivery_delay: Duration::from_secs(1),
            ..DestinationPolicy::default()
        })),
        ..Activation::default()
    });
    let grouped = |lsn| {
        let group = Some("g");
        with_envelope(
            lsn,
            Envelope {
                group,
                ..Envelope::default()
            },
        )
    };
    step(
        &mut machine,
        commands(vec![attach(ALICE, 1), attach(BOB, 5)]),
    );
    step(&mut machine, arrived(vec![grouped(1)]));
    step(
        &mut machine,
        arrived(vec![grouped(2), grouped(3), Entry::new(Lsn(4), body(4))]),
    );
    // 2 and 3 wait for ALICE, 4 for its redelivery.
    step(
        &mut machine,
        commands(vec![settle(BOB, &[4], Outcome::Released, 0)]),
    );
    let last = Entry::new(Lsn(4), body(4));
    let effects = step(
        &mut machine,
        remove_entries(1, &[grouped(1), grouped(2), last.clone()]),
    );
    assert!(effects.contains(&taken(1, &[2, 4])), "{effects:?}");
    assert_eq!(
        step(&mut machine, remove_entries(2, &[grouped(2), last])),
        [taken(2, &[])]
    );
    step(&mut machine, settled(2));
    let done = commands(vec![settle(ALICE, &[1], Outcome::Accepted, 0)]);
    assert_eq!(delivered(&step(&mut machine, done)), ["deliver 1 3"]);
    let later = Now {
        moment: Moment(5_000_000_000),
        wall_ms: 5000,
    };
    let mut effects = Vec::new();
    machine.step(later, DestinationInput::Deadline, &mut effects);
    assert!(effects.is_empty(), "{effects:?}");
}
