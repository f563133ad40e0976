use super::super::*;
use super::support::*;
use Outcome::{Accepted, Released};

fn begun() -> Rig {
    let mut rig = Rig::subscribed("1.2", "client-individual");
    rig.delivered(&[5, 6, 7]);
    let answer = rig.say("BEGIN\ntransaction:t\nreceipt:b\n\n\0");
    assert_eq!(answer, (receipt("b"), vec![]));
    rig
}

fn say(rig: &mut Rig, frames: &str) -> (String, Vec<SessionEffect>) {
    rig.say(&frames.replace('|', "\n"))
}

/// The one COMMIT among the effects, as request and operations.
fn operations(effects: &[SessionEffect]) -> (RequestNumber, Operations) {
    let mut found = effects.iter().filter_map(|effect| match effect {
        SessionEffect::Commit {
            request,
            operations,
        } => Some((*request, operations.clone())),
        _ => None,
    });
    let one = found.next().expect("a COMMIT");
    assert!(found.next().is_none());
    one
}

#[test]
fn a_commit_hands_everything_over_at_once_and_its_receipt_waits_for_the_store() {
    let mut rig = begun();
    let (text, effects) = say(
        &mut rig,
        "SEND|destination:/queue/b|transaction:t|receipt:s||one\0\
         ACK|id:1-6|transaction:t|receipt:a||\0\
         SEND|destination:/queue/a|transaction:t||two\0\
         NACK|id:1-5|transaction:t||\0",
    );
    assert_eq!(text, receipt("s") + &receipt("a"));
    assert_eq!(effects, vec![], "nobody hears of it before the COMMIT");
    assert!(rig.session.uncommitted_bytes() > 0);

    let (text, effects) = say(&mut rig, "COMMIT|transaction:t|receipt:c||\0");
    assert_eq!(text, "");
    let (request, operations) = operations(&effects);
    let names: Vec<_> = operations
        .sends
        .iter()
        .map(|(name, _)| name.spelling())
        .collect();
    assert_eq!(names, ["/queue/b", "/queue/a"]);
    assert_eq!(
        operations.settles,
        [(1, vec![Lsn(6)], Accepted), (1, vec![Lsn(5)], Released)]
    );
    assert_eq!(rig.session.uncommitted_bytes(), 0);
    assert!(rig.session.is_full(), "what follows comes after it");
    assert_eq!(
        rig.event(SessionEvent::Submitted { request }),
        (String::new(), vec![])
    );
    assert!(!rig.session.is_full());
    assert_eq!(rig.committed(&[request.0]), (receipt("c"), vec![]));
}

#[test]
fn an_abort_leaves_its_deliveries_to_be_acknowledged_again_in_the_order_of_sending() {
    let mut rig = Rig::subscribed("1.2", "client");
    rig.delivered(&[9, 5, 6, 7]);
    say(&mut rig, "BEGIN|transaction:t||\0BEGIN|transaction:u||\0");
    say(
        &mut rig,
        "ACK|id:1-5|transaction:t||\0ACK|id:1-6|transaction:u||\0",
    );
    assert_eq!(
        say(&mut rig, "ABORT|transaction:u|receipt:x||\0"),
        (receipt("x"), vec![])
    );
    // Of `t` are 9 and 5, so that 7 covers 6 alone.
    say(&mut rig, "ABORT|transaction:t||\0");
    let (_, effects) = say(&mut rig, "ACK|id:1-6||\0");
    assert_eq!(effects, vec![settle(1, &[9, 5, 6], Accepted, 1)]);
    let (_, effects) = say(&mut rig, "ACK|id:1-7||\0");
    assert_eq!(effects, vec![settle(1, &[7], Accepted, 2)]);
}

#[test]
fn what_a_transaction_acknowledges_cannot_be_acknowledged_otherwise() {
    for frame in ["ACK|id:1-5||\0", "NACK|id:1-5|transaction:t||\0"] {
        let mut rig = begun();
        say(&mut rig, "ACK|id:1-5|transaction:t||\0");
        assert_refused(
            &mut rig,
            &frame.replace('|', "\n"),
            "unknown acknowledgement id",
        );
    }
}

#[test]
fn every_misuse_says_what_is_wrong() {
    const UNKNOWN: &str = "unknown transaction";
    const LARGE: &str = "the transaction is too large";
    let send = "SEND|destination:/queue/b|transaction:t||x\0";
    let six = send.repeat(5);
    for (before, frame, message) in [
        ("", "BEGIN||\0", "a header is missing"),
        ("", "COMMIT||\0", "a header is missing"),
        ("", "ABORT||\0", "a header is missing"),
        ("", "BEGIN|transaction:t||\0", "the transaction exists"),
        ("", "COMMIT|transaction:u||\0", UNKNOWN),
        ("", "ABORT|transaction:u||\0", UNKNOWN),
        ("", "SEND|destination:/queue/b|transaction:u||x\0", UNKNOWN),
        ("", "ACK|id:1-5|transaction:u||\0", UNKNOWN),
        (
            "ABORT|transaction:t||\0",
            "COMMIT|transaction:t||\0",
            UNKNOWN,
        ),
        (
            "BEGIN|transaction:2||\0BEGIN|transaction:3||\0",
            "BEGIN|transaction:4||\0",
            "too many transactions",
        ),
        (&six, send, LARGE),
        (&six, "ACK|id:1-5|transaction:t||\0", LARGE),
        (
            "",
            &format!(
                "SEND|destination:/queue/b|transaction:t||{}\0",
                "y".repeat(999)
            ),
            LARGE,
        ),
    ] {
        let mut rig = begun();
        let (text, _) = say(&mut rig, before);
        assert_eq!(text, "", "{before}");
        assert_refused(&mut rig, &frame.replace('|', "\n"), message);
    }
}

#[test]
fn the_open_transactions_of_a_connection_are_bounded_together() {
    let mut rig = begun();
    say(&mut rig, "BEGIN|transaction:u||\0");
    let half = "y".repeat(700);
    let send = |id: &str| format!("SEND|destination:/queue/b|transaction:{id}||{half}\0");
    assert_eq!(say(&mut rig, &send("t")).0, "");
    let (text, effects) = say(&mut rig, &send("u"));
    assert_eq!(
        error_of(&text).as_deref(),
        Some("the transaction is too large")
    );
    assert_eq!(effects.last(), Some(&SessionEffect::Close));
    assert_eq!(rig.session.uncommitted_bytes(), 0);
}

#[test]
fn a_consumer_that_is_unsubscribed_before_the_commit_keeps_what_was_acknowledged() {
    for (end, committed) in [("COMMIT", true), ("ABORT", false)] {
        let mut rig = begun();
        say(&mut rig, "ACK|id:1-6|transaction:t||\0");
        let (_, effects) = say(&mut rig, "UNSUBSCRIBE|id:s||\0");
        let retired = SessionEffect::Retire {
            consumer: 1,
            keep: vec![Lsn(6)],
        };
        assert_eq!(effects, vec![retired]);
        let (_, effects) = say(&mut rig, &format!("{end}|transaction:t||\0"));
        assert_eq!(
            effects.last(),
            Some(&SessionEffect::Detach { consumer: 1 }),
            "after the COMMIT, if there was one"
        );
        assert_eq!(effects.len(), 1 + usize::from(committed));
    }
}

#[test]
fn whoever_leaves_rolls_back() {
    let mut rig = begun();
    say(&mut rig, "ACK|id:1-6|transaction:t||\0UNSUBSCRIBE|id:s||\0");
    let (_, effects) = say(&mut rig, "DISCONNECT||\0");
    assert_eq!(
        effects,
        [SessionEffect::Detach { consumer: 1 }, SessionEffect::Close]
    );
    let mut rig = begun();
    say(&mut rig, "SEND|destination:/queue/b|transaction:t||x\0");
    let mut effects = Vec::new();
    rig.session.abandon(&mut effects);
    assert_eq!(effects, [SessionEffect::Detach { consumer: 1 }]);
    assert_eq!(rig.session.uncommitted_bytes(), 0);
}
