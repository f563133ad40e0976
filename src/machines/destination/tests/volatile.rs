//! What is kept in memory alone, what is not, and the order of both.

use super::*;
use crate::machines::delivery::{OPERATOR, Removal, Settlement, TransactionKey};

fn message(envelope: Envelope<'_>, body: &str) -> Bytes {
    let writer = MessageWriter::new(&envelope, &Properties::default(), body.len());
    writer.finish(body.as_bytes()).unwrap()
}

/// Not persistent.
fn passing(body: &str) -> Bytes {
    let envelope = Envelope {
        persistent: false,
        ..Envelope::default()
    };
    message(envelope, body)
}

fn publish(messages: &[Bytes]) -> DestinationInput {
    let messages = messages.iter().cloned().zip(1..);
    commands(vec![DestinationCommand::Publish {
        session: SessionKey(3),
        messages: messages
            .map(|(message, request)| (RequestNumber(request), message))
            .collect(),
    }])
}

/// A temporary queue with room for `messages` of [`passing`] with one letter.
fn temporary(messages: usize) -> DestinationMachine {
    let bytes = messages * (passing("x").len() + 128);
    let activation = Activation {
        volatile: true,
        lanes: vec![lane(0, 0, 5000)],
        ..Activation::default()
    };
    DestinationMachine::new(small(), QUEUE, activation, VolatilePool::new(bytes, 1))
}

/// What a step hands to the store and to consumers.
fn done(machine: &mut DestinationMachine, input: DestinationInput) -> Vec<String> {
    let memory = Lsn::volatile(0).0;
    let mut effects = Vec::new();
    machine.step(Now::default(), input, &mut effects);
    let mut lines = Vec::new();
    for effect in &effects {
        match effect {
            DestinationEffect::Submit(units) => {
                let records = units.iter().flat_map(|unit| &unit.records);
                lines.extend(records.map(show_record));
            }
            DestinationEffect::Deliver { deliveries, .. } => {
                lines.extend(deliveries.iter().map(|delivery| match delivery.lsn.0 {
                    lsn if lsn >= memory => format!("memory {}", lsn - memory),
                    lsn => format!("stored {lsn}"),
                }));
            }
            _ => {}
        }
    }
    lines
}

fn arrives(lsns: &[u64]) -> DestinationInput {
    let entry = |lsn: &u64| Entry::new(Lsn(*lsn), passing("x"));
    DestinationInput::Committed {
        change: Change {
            entries: lsns.iter().map(entry).collect(),
            ..Change::default()
        },
        upto: Lsn(*lsns.last().unwrap()),
    }
}

fn accept(lsn: u64) -> DestinationInput {
    commands(vec![settle(ALICE, &[lsn], Outcome::Accepted, 0)])
}

#[test]
fn after_a_spill_everything_is_stored_until_what_was_spilled_is_gone() {
    let x = passing("x");
    let at = |number| Lsn::volatile(number).0;
    let mut machine = temporary(2);
    let all = [x.clone(), x.clone(), x.clone()];
    assert_eq!(done(&mut machine, publish(&all)), ["put(x)"]);
    let attached = done(&mut machine, commands(vec![attach(ALICE, 1)]));
    assert_eq!(attached, ["memory 1"]);
    // There is room again, and the third one is not even committed.
    assert_eq!(done(&mut machine, accept(at(1))), ["memory 2"]);
    assert_eq!(done(&mut machine, publish(&all[..1])), ["put(x)"]);
    assert_eq!(done(&mut machine, arrives(&[10])), [""; 0]);
    assert_eq!(done(&mut machine, arrives(&[11])), [""; 0]);
    assert_eq!(done(&mut machine, accept(at(2))), ["stored 10"]);
    assert_eq!(done(&mut machine, accept(10)), ["stored 11", "ack(10)"]);
    assert_eq!(done(&mut machine, settled(1)), [""; 0]);
    assert_eq!(done(&mut machine, publish(&all[..1])), ["put(x)"]);
    done(&mut machine, arrives(&[12]));
    assert_eq!(done(&mut machine, accept(11)), ["stored 12", "ack(11)"]);
    done(&mut machine, accept(12));
    done(&mut machine, settled(2));
    assert_eq!(done(&mut machine, publish(&all[..1])), ["memory 3"]);
}

#[test]
fn what_is_in_memory_leaves_before_what_was_spilled_also_when_it_comes_back() {
    let x = passing("x");
    let at = |number| Lsn::volatile(number).0;
    let mut machine = temporary(3);
    done(
        &mut machine,
        publish(&[x.clone(), x.clone(), x.clone(), x.clone(), x]),
    );
    done(&mut machine, arrives(&[10, 11]));
    let attached = done(&mut machine, commands(vec![attach(ALICE, 2)]));
    assert_eq!(attached, ["memory 1", "memory 2"]);
    let back = commands(vec![settle(ALICE, &[at(1)], Outcome::Released, 0)]);
    assert_eq!(done(&mut machine, back), ["memory 1"]);
    assert_eq!(done(&mut machine, accept(at(1))), ["memory 3"]);
    assert_eq!(done(&mut machine, accept(at(2))), ["stored 10"]);
}

#[test]
fn stored_messages_of_a_queue_do_not_keep_passing_ones_out_of_memory() {
    let mut machine = machine();
    let body = message(Envelope::default(), "p");
    assert_eq!(
        done(&mut machine, publish(&[body, passing("x")])),
        ["put(p)"]
    );
    step(&mut machine, committed(1..=3));
    assert_eq!(done(&mut machine, publish(&[passing("y")])), [""; 0]);
    assert_eq!(machine.figures().depth, 5);
}

#[test]
fn where_two_copies_are_demanded_nothing_is_in_memory_alone() {
    let both = Arc::new(DestinationPolicy {
        both_copies: true,
        ..DestinationPolicy::default()
    });
    let mut machine = temporary(9);
    step(&mut machine, DestinationInput::PolicyChanged(both));
    assert_eq!(done(&mut machine, publish(&[passing("x")])), ["put(x)"]);
}

#[test]
fn memory_is_shown_wherever_its_messages_are() {
    let x = passing("x");
    let at = |number| Lsn::volatile(number).0;
    let mut machine = temporary(9);
    let delayed = Envelope {
        due_ms: Some(900),
        ..Envelope::default()
    };
    let sent = [x.clone(), x.clone(), message(delayed, "d"), x.clone(), x];
    done(&mut machine, publish(&sent));
    step(&mut machine, commands(vec![attach(ALICE, 2)]));
    let key = TransactionKey {
        session: ALICE.session,
        request: RequestNumber(1),
    };
    step(
        &mut machine,
        commands(vec![DestinationCommand::Prepare {
            transaction: key,
            settlements: vec![Settlement {
                consumer: ALICE,
                lsns: vec![Lsn(at(1))],
                outcome: Outcome::Accepted,
            }],
            puts: 0,
        }]),
    );
    let look = |lane, after, count| {
        commands(vec![DestinationCommand::Show {
            tag: 7,
            lane,
            after: Lsn(after),
            count,
        }])
    };
    let shown = |numbers: &[u64]| {
        let lsns = numbers.iter().map(|number| Lsn(at(*number)).to_string());
        vec![format!("looked 7 {}", lsns.collect::<Vec<_>>().join(","))]
    };
    assert_eq!(
        step(&mut machine, look(None, at(0), 9)),
        shown(&[1, 2, 3, 4, 5])
    );
    assert_eq!(step(&mut machine, look(None, at(1), 2)), shown(&[2, 3]));
    let lane = Some(Lane::DELAYED);
    assert_eq!(step(&mut machine, look(lane, at(0), 9)), shown(&[3]));
    let lane = Some(Lane::DEFAULT);
    assert_eq!(step(&mut machine, look(lane, at(2), 9)), shown(&[4, 5]));
}

#[test]
fn an_operator_takes_out_of_memory_what_nobody_holds() {
    let x = passing("x");
    let at = |number| Lsn(Lsn::volatile(number).0);
    let mut machine = temporary(9);
    done(&mut machine, publish(&[x.clone(), x.clone(), x.clone()]));
    step(&mut machine, commands(vec![attach(ALICE, 1)]));
    let removal = |number| Removal {
        lsn: at(number),
        times: Times::of(&x),
        records: Vec::new(),
    };
    let remove = commands(vec![DestinationCommand::Remove {
        request: RequestNumber(4),
        removals: [1, 2].map(removal).into(),
        definitions: Vec::new(),
    }]);
    let taken = Ok::<_, String>(vec![at(2)]);
    assert_eq!(
        step(&mut machine, remove),
        [
            // Nothing is written, and it is answered as a commit.
            format!("submit {}.4:", OPERATOR.0),
            format!("removed 4 {taken:?}"),
        ]
    );
    assert_eq!(machine.figures().depth, 2);
    assert_eq!(done(&mut machine, accept(at(1).0)), ["memory 3"]);
}

#[test]
fn what_is_not_persistent_stays_in_memory_while_there_is_some() {
    let pool = VolatilePool::new(400, 7);
    let activation = Activation::default();
    let mut machine = DestinationMachine::new(small(), QUEUE, activation, Rc::clone(&pool));
    let volatile = Envelope {
        persistent: false,
        ..Envelope::default()
    };
    let messages = [1, 2, 3].map(|request| (RequestNumber(request), message(volatile, "v")));
    let publish = DestinationCommand::Publish {
        session: SessionKey(3),
        messages: messages.into(),
    };
    assert_eq!(
        step(&mut machine, commands(vec![publish])),
        [
            "answer 3 Committed { requests: [RequestNumber(1), RequestNumber(2)] }",
            "submit 3.3:put(v)"
        ]
    );
    assert_eq!(machine.figures().depth, 2);
    let first = Lsn::volatile(7).0;
    assert_eq!(
        step(&mut machine, commands(vec![attach(ALICE, 1)])),
        [
            "answer 1 Attached { consumer: 1 }".to_owned(),
            format!("deliver 1 {first}")
        ]
    );
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[first], Outcome::Accepted, 8)])
        ),
        [
            "answer 1 Committed { requests: [RequestNumber(8)] }".to_owned(),
            format!("deliver 1 {}", first + 1)
        ]
    );
    assert_eq!(machine.figures().depth, 1);
    drop(machine);
    assert_eq!(pool.used(), 0);
}

#[test]
fn what_expires_in_memory_goes_although_it_was_due_and_nobody_took_it() {
    let mut machine = temporary(9);
    let times = |due_ms, expiry_ms| {
        let envelope = Envelope {
            persistent: false,
            due_ms,
            expiry_ms: Some(expiry_ms),
            ..Envelope::default()
        };
        message(envelope, "t")
    };
    let sent = [
        times(None, 500),
        times(None, 900),
        times(Some(100), 500),
        times(Some(200), 900),
        times(Some(700), 900),
    ];
    step(&mut machine, publish(&sent));
    let at = |wall_ms| Now {
        moment: Moment(wall_ms * 1_000_000),
        wall_ms,
    };
    for (wall_ms, left) in [(300, 5), (500, 3), (2_000, 0)] {
        let mut effects = Vec::new();
        machine.step(at(wall_ms), DestinationInput::Deadline, &mut effects);
        assert_eq!(machine.figures().depth, left, "at {wall_ms}");
    }
    assert_eq!(machine.next_deadline(), None);
}
