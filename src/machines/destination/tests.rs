use std::time::Duration;

use super::*;
use crate::machines::delivery::{ConsumerTraits, Delivery};
use crate::machines::policy::OnFull;
use crate::proto::message::{Envelope, Message, MessageWriter, Properties};
use crate::storage::api::{LaneFacts, Seek};

mod bounds;
mod picky;
mod property;
mod removals;
mod subjects;
mod transactions;
mod volatile;
mod window;

const QUEUE: DestId = DestId(7);
const DEAD: DestId = DestId(99);
const ALICE: ConsumerKey = ConsumerKey {
    session: SessionKey(1),
    number: 1,
};
const BOB: ConsumerKey = ConsumerKey {
    session: SessionKey(2),
    number: 1,
};

fn small() -> DestinationConfig {
    DestinationConfig {
        window: Room {
            messages: 4,
            bytes: 1000,
        },
        idle: Room {
            messages: 1,
            bytes: 500,
        },
        consumer_bytes_max: 600,
    }
}

/// A queue of small windows; volatile messages have room.
fn begin(activation: Activation) -> DestinationMachine {
    DestinationMachine::new(small(), QUEUE, activation, VolatilePool::new(1 << 20, 1))
}

/// The default lane.
fn lane(depth: u64, tail: u64, mark: u64) -> LaneFacts {
    LaneFacts {
        lane: Lane::DEFAULT,
        depth,
        tail: Lsn(tail),
        mark: Lsn(mark),
    }
}

fn machine() -> DestinationMachine {
    begin(Activation {
        lanes: vec![lane(0, 0, 5000)],
        ..Activation::default()
    })
}

/// Commits so many acks that are on their way.
fn settled(count: u32) -> DestinationInput {
    DestinationInput::Committed {
        change: Change {
            settled: count,
            ..Change::default()
        },
        upto: Lsn(1),
    }
}

fn raised(lsns: impl IntoIterator<Item = u64>, mark: u64) -> DestinationInput {
    DestinationInput::Committed {
        change: Change {
            entries: entries(lsns),
            marks: vec![(Lane::DEFAULT, Lsn(mark))],
            ..Change::default()
        },
        upto: Lsn(1),
    }
}

/// The answer to the question of this tag.
fn answer(tag: u32, entries: Vec<Entry>, scanned: u64) -> DestinationInput {
    DestinationInput::Fetched(Fetched {
        dest: QUEUE,
        tag,
        entries,
        scanned: Lsn(scanned),
        next_ms: None,
    })
}

fn body(lsn: u64) -> Bytes {
    Bytes::from(format!("message {lsn}"))
}

fn entries(lsns: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    lsns.into_iter()
        .map(|lsn| Entry::new(Lsn(lsn), body(lsn)))
        .collect()
}

fn step(machine: &mut DestinationMachine, input: DestinationInput) -> Vec<String> {
    let mut effects = Vec::new();
    machine.step(Now::default(), input, &mut effects);
    effects.iter().map(show).collect()
}

/// A moment, by both clocks.
fn at(ms: u64) -> Now {
    Now {
        moment: Moment(ms * 1_000_000),
        wall_ms: ms,
    }
}

fn step_at(machine: &mut DestinationMachine, ms: u64, input: DestinationInput) -> Vec<String> {
    let mut effects = Vec::new();
    machine.step(at(ms), input, &mut effects);
    effects.iter().map(show).collect()
}

/// One line for each effect, so that a test reads as a list.
fn show(effect: &DestinationEffect) -> String {
    match effect {
        DestinationEffect::Rest(left) => format!("rest {}", left.depth()),
        DestinationEffect::Shown { tag, entries } => {
            let lsns = entries.iter().map(|entry| entry.lsn.to_string());
            format!("looked {tag} {}", lsns.collect::<Vec<_>>().join(","))
        }
        DestinationEffect::Submit(units) => {
            let units: Vec<String> = units
                .iter()
                .map(|unit| {
                    let records: Vec<String> = unit.records.iter().map(show_record).collect();
                    let whose = request_of(unit.ticket)
                        .map_or(String::new(), |(s, r)| format!("{}.{}:", s.0, r.0));
                    format!("{whose}{}", records.join("+"))
                })
                .collect();
            format!("submit {}", units.join(" "))
        }
        DestinationEffect::Deliver {
            consumer,
            deliveries,
        } => {
            let lsns: Vec<String> = deliveries
                .iter()
                .map(|d| format!("{}{}", d.lsn, if d.redelivered { "r" } else { "" }))
                .collect();
            format!("deliver {} {}", consumer.session.0, lsns.join(","))
        }
        DestinationEffect::Answer { session, event } => format!("answer {} {event:?}", session.0),
        DestinationEffect::Fetch {
            seek, count, bytes, ..
        } => match seek {
            Seek::Lane { lane, after } if *lane == Lane::DEFAULT => {
                format!("fetch {after} {count} {bytes}")
            }
            Seek::Lane { lane, after } => format!("fetch {lane} {after} {count} {bytes}"),
            Seek::Due { after, until_ms } => {
                format!("fetch due {}/{}..{until_ms}", after.0, after.1)
            }
            Seek::Expired { now_ms, after } => format!("fetch expired {after}..{now_ms}"),
            Seek::Matching { lane, after, .. } if *lane == Lane::DEFAULT => format!("seek {after}"),
            Seek::Matching { lane, after, .. } => format!("seek {lane} {after}"),
            Seek::All { after } => format!("fetch all {after} {count}"),
        },
        DestinationEffect::FindDeadLetter(name) => format!("find {name}"),
        DestinationEffect::Prepared { answer, .. } => match answer {
            Ok(share) => {
                let records = share.definition.iter().chain(&share.acks);
                let records: Vec<String> = records.map(show_record).collect();
                format!("prepared {}", records.join("+"))
            }
            Err(reason) => format!("refused {reason}"),
        },
        DestinationEffect::Removed { request, taken } => format!("removed {} {taken:?}", request.0),
    }
}

fn show_record(record: &Draft) -> String {
    match record {
        Draft::Put { targets, message } => {
            let text = match Message::read(message) {
                Ok(message) => String::from_utf8_lossy(message.body()).into_owned(),
                Err(_) => String::from_utf8_lossy(message).into_owned(),
            };
            match targets[..] {
                [QUEUE] => format!("put({text})"),
                [DEAD] => format!("dead({text})"),
                _ => panic!("another queue: {targets:?}"),
            }
        }
        Draft::Ack { dest, lsns } => {
            assert_eq!(*dest, QUEUE);
            let lsns: Vec<String> = lsns.iter().map(ToString::to_string).collect();
            format!("ack({})", lsns.join(","))
        }
        Draft::Delivered { dest, lane, ahead } => {
            assert_eq!(*dest, QUEUE);
            match *lane {
                Lane::DEFAULT => format!("mark({ahead})"),
                lane => format!("mark({lane}, {ahead})"),
            }
        }
        Draft::DeliveredEach { dest, lsns } => {
            assert_eq!(*dest, QUEUE);
            let lsns: Vec<String> = lsns.iter().map(ToString::to_string).collect();
            format!("each({})", lsns.join(","))
        }
        Draft::Failed { dest, counts } => {
            assert_eq!(*dest, QUEUE);
            let counts = counts.iter().map(|(lsn, count)| format!("{lsn}:{count}"));
            format!("failed({})", counts.collect::<Vec<_>>().join(","))
        }
        Draft::Seen { .. } => "seen".to_owned(),
        Draft::Part { .. } | Draft::UploadEnded(_) => panic!("{record:?}"),
        Draft::Kv { space, key, value } => {
            assert_eq!(*space, SPACE_DESTINATION);
            assert!(key[..] == [0, 0, 0, 7] || key[..] == [0, 0, 0, 99]);
            format!("define({})", String::from_utf8_lossy(value))
        }
    }
}

fn commands(commands: Vec<DestinationCommand>) -> DestinationInput {
    DestinationInput::Commands {
        commands,
        upto: Lsn::ZERO,
    }
}

fn publish(session: u32, messages: &[(u32, &'static str)]) -> DestinationCommand {
    DestinationCommand::Publish {
        session: SessionKey(session),
        messages: messages
            .iter()
            .map(|(request, text)| (RequestNumber(*request), Bytes::from_static(text.as_bytes())))
            .collect(),
    }
}

fn attach(consumer: ConsumerKey, prefetch: u32) -> DestinationCommand {
    DestinationCommand::Attach {
        consumer,
        prefetch,
        traits: ConsumerTraits::default(),
    }
}

fn settle(
    consumer: ConsumerKey,
    lsns: &[u64],
    outcome: Outcome,
    request: u32,
) -> DestinationCommand {
    DestinationCommand::Settle {
        consumer,
        lsns: lsns.iter().copied().map(Lsn).collect(),
        outcome,
        request: RequestNumber(request),
    }
}

fn committed(lsns: impl IntoIterator<Item = u64>) -> DestinationInput {
    arrived(entries(lsns))
}

fn arrived(entries: Vec<Entry>) -> DestinationInput {
    DestinationInput::Committed {
        change: Change {
            entries,
            ..Change::default()
        },
        upto: Lsn(1),
    }
}

#[test]
fn tickets_read_back_and_zero_is_nobody() {
    let all = (SessionKey(u32::MAX), RequestNumber(u32::MAX));
    assert_eq!(request_of(ticket(all.0, all.1)), Some(all));
    assert_eq!(ticket(SessionKey(9), RequestNumber(0)), Ticket(0));
    assert_eq!(request_of(Ticket(0)), None);
}

#[test]
fn each_message_is_a_unit_and_the_first_carries_the_definition() {
    let mut machine = begin(Activation {
        definition: Some(Bytes::from_static(b"qorders")),
        ..Activation::default()
    });
    let publish = publish(3, &[(1, "a"), (2, "b")]);
    assert_eq!(
        step(&mut machine, commands(vec![publish.clone()])),
        ["submit 3.1:define(qorders)+put(a) 3.2:put(b)"]
    );
    assert_eq!(
        step(&mut machine, commands(vec![publish])),
        ["submit 3.1:put(a) 3.2:put(b)"]
    );
}

#[test]
fn a_committed_message_goes_to_the_consumers_in_turn_and_credit_bounds_it() {
    let mut machine = machine();
    assert_eq!(
        step(
            &mut machine,
            commands(vec![attach(ALICE, 2), attach(BOB, 1)])
        ),
        [
            "answer 1 Attached { consumer: 1 }",
            "answer 2 Attached { consumer: 1 }"
        ]
    );
    assert_eq!(step(&mut machine, committed([10])), ["deliver 1 10"]);
    assert_eq!(
        step(&mut machine, committed([11, 12, 13])),
        ["deliver 2 11", "deliver 1 12"]
    );
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(BOB, &[11], Outcome::Accepted, 0)])
        ),
        ["deliver 2 13", "submit ack(11)"]
    );
}

#[test]
fn acks_of_one_step_are_one_record_but_for_those_that_want_an_answer() {
    let mut machine = machine();
    step(
        &mut machine,
        commands(vec![attach(ALICE, 9), attach(BOB, 9)]),
    );
    step(&mut machine, committed([10, 11, 12, 13]));
    assert_eq!(
        step(
            &mut machine,
            commands(vec![
                settle(ALICE, &[10], Outcome::Accepted, 0),
                settle(BOB, &[12], Outcome::Accepted, 5),
                settle(ALICE, &[11, 12, 99], Outcome::Accepted, 0),
                settle(BOB, &[12], Outcome::Accepted, 6),
            ])
        ),
        [
            "answer 2 Committed { requests: [RequestNumber(6)] }",
            "submit 2.5:ack(12) ack(10,11)"
        ]
    );
    step(&mut machine, settled(3));
    assert_eq!(
        machine.figures(),
        DestinationFigures {
            depth: 1,
            consumers: 2,
            unsettled: 1,
            arrived: 4,
            accepted: 3,
            ..DestinationFigures::default()
        }
    );
}

#[test]
fn what_is_released_or_left_behind_comes_again_first_and_flagged() {
    let mut machine = machine();
    step(
        &mut machine,
        commands(vec![attach(ALICE, 3), attach(BOB, 0)]),
    );
    assert_eq!(
        step(&mut machine, committed([10, 11, 12, 13, 14])),
        ["deliver 1 10,11", "deliver 2 12", "deliver 1 13"]
    );
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(ALICE, &[11], Outcome::Released, 4)])
        ),
        [
            "answer 1 Committed { requests: [RequestNumber(4)] }",
            "deliver 1 11r",
            "submit failed(11:1)"
        ]
    );
    assert_eq!(
        step(
            &mut machine,
            commands(vec![DestinationCommand::Detach { consumer: ALICE }])
        ),
        ["submit failed(10:1,11:2,13:1)"]
    );
    assert_eq!(
        step(
            &mut machine,
            commands(vec![settle(BOB, &[12], Outcome::Accepted, 0)])
        ),
        ["deliver 2 10r", "submit ack(12)"]
    );
}

#[test]
fn refused_sends_are_answered_one_by_one_and_acks_go_through() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 9)]));
    step(&mut machine, committed([10]));
    step(&mut machine, DestinationInput::SendsRefused(true));
    let mut effects = Vec::new();
    machine.step(
        Now::default(),
        commands(vec![
            publish(3, &[(1, "a"), (2, "b")]),
            settle(ALICE, &[10], Outcome::Accepted, 0),
        ]),
        &mut effects,
    );
    let refused: Vec<u32> = effects
        .iter()
        .filter_map(|effect| match effect {
            DestinationEffect::Answer {
                session: SessionKey(3),
                event: SessionEvent::Refused { request, reason },
            } => {
                assert!(reason.contains("almost full"), "{reason}");
                Some(request.0)
            }
            _ => None,
        })
        .collect();
    assert_eq!(refused, [1, 2]);
    assert_eq!(show(effects.last().unwrap()), "submit ack(10)");
    step(&mut machine, DestinationInput::SendsRefused(false));
    assert_eq!(
        step(&mut machine, commands(vec![publish(3, &[(3, "c")])])),
        ["submit 3.3:put(c)"]
    );
}

#[test]
fn nothing_beyond_the_mark_is_delivered_before_the_raise_is_committed() {
    let mut machine = begin(Activation::default());
    assert_eq!(
        step(&mut machine, commands(vec![attach(ALICE, 9)])),
        ["answer 1 Attached { consumer: 1 }"]
    );
    assert_eq!(
        step(&mut machine, commands(vec![publish(3, &[(1, "a")])])),
        ["submit 3.1:put(a)+mark(1024)"],
        "the raise rides with the first unit"
    );
    assert_eq!(
        step(&mut machine, committed([10])),
        Vec::<String>::new(),
        "not delivered yet, and not asked for twice"
    );
    let raised = raised([], 1035);
    assert_eq!(step(&mut machine, raised), ["deliver 1 10"]);
}

#[test]
fn a_raise_that_a_delivery_waits_for_goes_alone() {
    let mut machine = begin(Activation::default());
    step(&mut machine, committed([1]));
    assert_eq!(
        step(&mut machine, commands(vec![attach(ALICE, 1)])),
        ["answer 1 Attached { consumer: 1 }", "submit mark(1024)"]
    );
}

#[test]
fn a_mark_lasts_for_as_many_own_messages_in_a_busy_server() {
    let mut machine = machine();
    step(&mut machine, commands(vec![attach(ALICE, 100)]));
    for at in 1..=20 {
        step(&mut machine, committed([at * 100]));
        let done = settle(ALICE, &[at * 100], Outcome::Accepted, 0);
        let effects = step(&mut machine, commands(vec![done]));
        if at == 20 {
            let mark = effects[0].split("mark(").nth(1).unwrap();
            let ahead: u64 = mark.trim_end_matches(')').parse().unwrap();
            assert!((90_000..=102_400).contains(&ahead), "{ahead}");
        }
        if effects[0].contains("mark(") {
            step(&mut machine, raised([], at * 100 + 5000));
        }
    }
}

#[test]
fn after_activation_the_old_ones_up_to_the_mark_are_flagged_and_new_ones_are_not() {
    let mut machine = begin(Activation {
        lanes: vec![lane(3, 12, 11)],
        horizon: Lsn(20),
        ..Activation::default()
    });
    assert_eq!(
        step(&mut machine, commands(vec![attach(ALICE, 9)])),
        ["answer 1 Attached { consumer: 1 }", "fetch 0 4 1000"]
    );
    let fetched = answer(0, entries([10, 11, 12]), 20);
    assert_eq!(
        step(&mut machine, fetched),
        ["deliver 1 10r,11r", "submit mark(1024)"]
    );
    let raised = raised([21], 1044);
    assert_eq!(step(&mut machine, raised), ["deliver 1 12,21"]);
}

#[test]
fn a_message_above_the_horizon_is_new_even_below_an_old_mark() {
    let mut machine = begin(Activation {
        lanes: vec![lane(0, 0, 1000)],
        horizon: Lsn(20),
        ..Activation::default()
    });
    step(&mut machine, commands(vec![attach(ALICE, 9)]));
    assert_eq!(step(&mut machine, committed([21])), ["deliver 1 21"]);
}
