//! What an operator takes out, and what the store may still say of it.

use super::*;
use crate::machines::delivery::{OPERATOR, Removal};

fn remove(request: u32, lsns: &[u64]) -> DestinationInput {
    let removal = |lsn: &u64| Removal {
        lsn: Lsn(*lsn),
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

fn fetched(lsns: impl IntoIterator<Item = u64>, scanned: u64) -> DestinationInput {
    DestinationInput::Fetched {
        entries: entries(lsns),
        scanned: Lsn(scanned),
    }
}

fn in_index(request: u32) -> DestinationInput {
    let request = RequestNumber(request);
    commands(vec![DestinationCommand::Removed { request }])
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
    step(&mut machine, in_index(1));
    step(&mut machine, fetched(2..=5, 5));
    for (held, next) in [(1, "deliver 1 3"), (3, "deliver 1 5")] {
        let settle = settle(ALICE, &[held], Outcome::Accepted, 0);
        let effects = step(&mut machine, commands(vec![settle]));
        assert_eq!(delivered(&effects), [next]);
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
    step(&mut machine, in_index(1));
    step(&mut machine, in_index(2));
    assert_eq!(machine.figures().depth, 18);
}
