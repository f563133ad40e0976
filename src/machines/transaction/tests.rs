use super::*;
use crate::machines::delivery::{ConsumerKey, Outcome, RequestNumber};
use crate::proto::ids::Lsn;

mod random;

const TX: TransactionKey = TransactionKey {
    session: SessionKey(3),
    request: RequestNumber(9),
};
const A: DestId = DestId(1);
const B: DestId = DestId(2);

fn put(dest: DestId, body: &'static str) -> TransactionPut {
    TransactionPut {
        scope: Scope::queue(dest),
        targets: vec![dest],
        message: Bytes::from_static(body.as_bytes()),
    }
}

fn settlement(lsn: u64) -> Settlement {
    Settlement {
        consumer: ConsumerKey {
            session: TX.session,
            number: 1,
        },
        lsns: vec![Lsn(lsn)],
        outcome: Outcome::Accepted,
    }
}

fn ack(dest: DestId, lsn: u64) -> Draft {
    let lsns = vec![Lsn(lsn)];
    Draft::Ack { dest, lsns }
}

fn definition(dest: DestId) -> Draft {
    Draft::Kv {
        space: 1,
        key: Bytes::copy_from_slice(&dest.0.to_be_bytes()),
        value: Bytes::from_static(b"qx"),
    }
}

fn show_record(record: &Draft) -> String {
    match record {
        Draft::Put { targets, message } => {
            format!("put {} {}", targets[0].0, String::from_utf8_lossy(message))
        }
        Draft::Ack { dest, lsns } => format!("ack {} {}", dest.0, lsns[0]),
        Draft::Delivered { .. } => "mark".to_owned(),
        Draft::Kv { key, .. } => format!("define {}", key[3]),
        Draft::DeliveredEach { dest, lsns } => format!("mark {} in {}", lsns.len(), dest.0),
        Draft::Failed { dest, counts } => format!("{} failed in {}", counts.len(), dest.0),
        Draft::Seen { .. } => "seen".to_owned(),
        Draft::Part { .. } | Draft::UploadEnded(_) => panic!("{record:?}"),
    }
}

fn show(effect: &TransactionEffect) -> String {
    match effect {
        TransactionEffect::Command { dest, command } => match command {
            DestinationCommand::Prepare {
                settlements, puts, ..
            } => format!("{}: prepare {} acks {puts} puts", dest.0, settlements.len()),
            other => panic!("{other:?}"),
        },
        TransactionEffect::Finish {
            dest,
            transaction,
            submitted,
        } => {
            assert_eq!(*transaction, TX);
            format!("{}: finish {submitted}", dest.0)
        }
        TransactionEffect::Submit(unit) => {
            assert_eq!(unit.ticket, ticket(TX.session, TX.request));
            let records: Vec<_> = unit.records.iter().map(show_record).collect();
            format!("submit {}", records.join(", "))
        }
        TransactionEffect::Answer { session, event } => {
            assert_eq!(*session, TX.session);
            let event = format!("{event:?}");
            event
                .split([' ', '{'])
                .next()
                .unwrap_or_default()
                .to_owned()
        }
    }
}

fn step(machine: &mut TransactionMachine, input: TransactionInput) -> Vec<String> {
    let mut effects = Vec::new();
    machine.step(input, &mut effects);
    effects.iter().map(show).collect()
}

fn commit(
    machine: &mut TransactionMachine,
    puts: Vec<TransactionPut>,
    settlements: Vec<(DestId, Settlement)>,
) -> Vec<String> {
    let input = TransactionInput::Commit {
        transaction: TX,
        puts,
        settlements,
    };
    step(machine, input)
}

fn prepared(
    machine: &mut TransactionMachine,
    dest: DestId,
    answer: Result<Share, String>,
) -> Vec<String> {
    let input = TransactionInput::Prepared {
        transaction: TX,
        dest,
        answer,
    };
    step(machine, input)
}

#[test]
fn the_unit_has_definitions_then_the_sends_in_their_order_then_the_acks() {
    let mut machine = TransactionMachine::default();
    let puts = vec![put(B, "one"), put(A, "two"), put(B, "three")];
    let asked = commit(&mut machine, puts, vec![(A, settlement(5))]);
    assert_eq!(
        asked,
        ["1: prepare 1 acks 1 puts", "2: prepare 0 acks 2 puts"]
    );
    let share = Share {
        definition: Some(definition(B)),
        acks: vec![],
    };
    assert!(prepared(&mut machine, B, Ok(share)).is_empty());
    let share = Share {
        definition: None,
        acks: vec![ack(A, 5)],
    };
    assert_eq!(
        prepared(&mut machine, A, Ok(share)),
        [
            "submit define 2, put 2 one, put 1 two, put 2 three, ack 1 5",
            "2: finish true",
            "1: finish true",
            "Submitted",
        ]
    );
    assert_eq!(machine.waiting(), 0);
}

#[test]
fn one_refusal_undoes_what_the_others_prepared_before_and_after_it() {
    for order in [[A, B], [B, A]] {
        let mut machine = TransactionMachine::default();
        let third = DestId(3);
        commit(
            &mut machine,
            vec![put(B, "one"), put(third, "two")],
            vec![(A, settlement(5))],
        );
        let mut all = Vec::new();
        for dest in order {
            let answer = if dest == A {
                Err("not held".to_owned())
            } else {
                Ok(Share::default())
            };
            all.extend(prepared(&mut machine, dest, answer));
        }
        assert!(all.is_empty(), "one has not answered: {all:?}");
        all.extend(prepared(&mut machine, third, Ok(Share::default())));
        assert_eq!(all, ["2: finish false", "3: finish false", "Refused"]);
        assert_eq!(machine.waiting(), 0);
    }
}

#[test]
fn an_empty_transaction_and_one_of_nacks_store_nothing_and_are_committed() {
    let mut machine = TransactionMachine::default();
    let done = commit(&mut machine, vec![], vec![]);
    assert_eq!(done, ["Submitted", "Committed"]);
    let nack = Settlement {
        outcome: Outcome::Released,
        ..settlement(5)
    };
    commit(&mut machine, vec![], vec![(A, nack)]);
    assert_eq!(
        prepared(&mut machine, A, Ok(Share::default())),
        ["1: finish true", "Submitted", "Committed"]
    );
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let mut machine = TransactionMachine::default();
    assert!(prepared(&mut machine, A, Ok(Share::default())).is_empty());
    commit(&mut machine, vec![put(A, "x")], vec![]);
    assert!(prepared(&mut machine, B, Err("no".to_owned())).is_empty());
    assert_eq!(machine.waiting(), 1);
}
