use super::super::*;
use super::support::*;
use Outcome::{Accepted, Released};

#[test]
fn individual_acks_settle_one_each_in_any_order() {
    let mut rig = Rig::subscribed("1.2", "client-individual");
    rig.delivered(&[5, 6, 7]);
    let (text, effects) = rig.say("ACK\nid:1-6\n\n\0");
    assert_eq!(text, "");
    assert_eq!(effects, [settle(1, &[6], Accepted, 1)]);
    let (_, effects) = rig.say("ACK\nid:1-5\nreceipt:r\n\n\0");
    assert_eq!(effects, [settle(1, &[5], Accepted, 2)]);
    assert_eq!(rig.committed(&[1]), (String::new(), vec![]));
    assert_eq!(rig.committed(&[2]), (receipt("r"), vec![]));
}

#[test]
fn client_acks_settle_everything_before() {
    let mut rig = Rig::subscribed("1.2", "client");
    rig.delivered(&[5, 6, 7, 8]);
    let (_, effects) = rig.say("ACK\nid:1-7\n\n\0");
    assert_eq!(effects, [settle(1, &[5, 6, 7], Accepted, 1)]);
    let (_, effects) = rig.say("NACK\nid:1-8\nreceipt:n\n\n\0");
    assert_eq!(effects, [settle(1, &[8], Released, 2)]);
    assert_eq!(rig.committed(&[2]), (receipt("n"), vec![]));
}

#[test]
fn before_means_sent_before_not_a_smaller_number() {
    let mut rig = Rig::subscribed("1.2", "client");
    rig.delivered(&[9]);
    rig.delivered(&[4, 5]);
    let (_, effects) = rig.say("ACK\nid:1-4\n\n\0");
    assert_eq!(effects, [settle(1, &[9, 4], Accepted, 1)]);
}

#[test]
fn a_run_of_acks_becomes_one_settle() {
    let mut rig = Rig::subscribed("1.2", "client-individual");
    rig.say("SUBSCRIBE\nid:t\ndestination:/queue/b\nack:client\n\n\0");
    rig.event(SessionEvent::Attached { consumer: 2 });
    rig.delivered(&[5, 6, 7, 8]);
    rig.event(SessionEvent::Delivered {
        consumer: 2,
        deliveries: [11, 12, 13].map(|lsn| delivery(lsn, plain())).into(),
    });
    let (_, effects) = rig.say(
        "ACK\nid:1-5\n\n\0ACK\nid:2-11\n\n\0ACK\nid:1-6\n\n\0ACK\nid:2-13\n\n\0\
         NACK\nid:1-7\n\n\0ACK\nid:1-8\nreceipt:r\n\n\0",
    );
    assert_eq!(
        effects,
        [
            settle(1, &[5, 6], Accepted, 1),
            settle(2, &[11, 12, 13], Accepted, 2),
            settle(1, &[7], Released, 3),
            settle(1, &[8], Accepted, 4),
        ]
    );
    rig.committed(&[1, 2, 3, 4]);
    assert_eq!(rig.session.unanswered(), 0);
}

#[test]
fn an_ack_does_not_join_one_whose_receipt_is_awaited_by_the_client() {
    let mut rig = Rig::subscribed("1.2", "client-individual");
    rig.delivered(&[5, 6]);
    let (_, effects) = rig.say("ACK\nid:1-5\nreceipt:r\n\n\0ACK\nid:1-6\n\n\0");
    assert_eq!(
        effects,
        [settle(1, &[5], Accepted, 1), settle(1, &[6], Accepted, 2)]
    );
}

#[test]
fn version_1_1_names_subscription_and_message() {
    let mut rig = Rig::subscribed("1.1", "client-individual");
    assert_eq!(
        rig.delivered(&[5, 6]).0,
        message(5, false) + &message(6, false)
    );
    let (_, effects) = rig.say("ACK\nsubscription:s\nmessage-id:tm-6\n\n\0");
    assert_eq!(effects, [settle(1, &[6], Accepted, 1)]);
    let (_, effects) = rig.say("NACK\nsubscription:s\nmessage-id:tm-5\n\n\0");
    assert_eq!(effects, [settle(1, &[5], Released, 2)]);
}

#[test]
fn version_1_0_names_the_message() {
    let mut rig = Rig::connected("1.0");
    rig.say("SUBSCRIBE\ndestination:/queue/a\nack:client\n\n\0");
    rig.event(SessionEvent::Attached { consumer: 1 });
    let (text, _) = rig.delivered(&[5, 6]);
    assert!(!text.contains("subscription:"), "{text}");
    let (_, effects) = rig.say("ACK\nmessage-id:tm-6\n\n\0");
    assert_eq!(effects, [settle(1, &[5, 6], Accepted, 1)]);
    assert_refused(&mut rig, "NACK\nmessage-id:tm-6\n\n\0", "unknown command");
}

#[test]
fn every_bad_ack_says_what_is_wrong() {
    const UNKNOWN: &str = "unknown acknowledgement id";
    for (version, ack, frame, message) in [
        ("1.2", "client", "ACK\n\n\0", "a header is missing"),
        ("1.2", "client", "ACK\nid:1-6\n\n\0", UNKNOWN),
        ("1.2", "client", "ACK\nid:2-5\n\n\0", UNKNOWN),
        ("1.2", "client", "ACK\nid:tm-5\n\n\0", UNKNOWN),
        ("1.2", "client", "NACK\nid:1-\n\n\0", UNKNOWN),
        ("1.2", "client", "ACK\nid:-5\n\n\0", UNKNOWN),
        ("1.2", "client", "ACK\nid:1-+5\n\n\0", UNKNOWN),
        (
            "1.2",
            "client",
            "ACK\nid:1-99999999999999999999\n\n\0",
            UNKNOWN,
        ),
        ("1.2", "auto", "ACK\nid:1-5\n\n\0", "nothing to acknowledge"),
        (
            "1.2",
            "client",
            "ACK\nid:1-5\ntransaction:t\n\n\0",
            "unknown transaction",
        ),
        (
            "1.1",
            "client",
            "ACK\nmessage-id:tm-5\n\n\0",
            "a header is missing",
        ),
        (
            "1.1",
            "client",
            "ACK\nsubscription:s\n\n\0",
            "a header is missing",
        ),
        (
            "1.1",
            "client",
            "ACK\nsubscription:t\nmessage-id:tm-5\n\n\0",
            UNKNOWN,
        ),
        (
            "1.1",
            "client",
            "ACK\nsubscription:s\nmessage-id:5\n\n\0",
            UNKNOWN,
        ),
        ("1.0", "client", "ACK\n\n\0", "a header is missing"),
        ("1.0", "client", "ACK\nmessage-id:tm-6\n\n\0", UNKNOWN),
        (
            "1.0",
            "client",
            "ACK\nsubscription:t\nmessage-id:tm-5\n\n\0",
            UNKNOWN,
        ),
    ] {
        let mut rig = Rig::subscribed(version, ack);
        rig.delivered(&[5]);
        assert_refused(&mut rig, frame, message);
    }
}

#[test]
fn a_second_ack_of_the_same_delivery_is_unknown() {
    for ack in ["client", "client-individual"] {
        let mut rig = Rig::subscribed("1.2", ack);
        rig.delivered(&[5]);
        rig.say("ACK\nid:1-5\n\n\0");
        assert_refused(&mut rig, "ACK\nid:1-5\n\n\0", "unknown acknowledgement id");
    }
}

#[test]
fn auto_settles_only_what_has_reached_the_socket() {
    let mut rig = Rig::subscribed("1.2", "auto");
    assert_eq!(
        rig.delivered(&[5, 6]),
        (message(5, false) + &message(6, false), vec![])
    );
    assert_eq!(
        rig.flushed(),
        (String::new(), vec![settle(1, &[5, 6], Accepted, 0)])
    );
    assert_eq!(rig.flushed(), (String::new(), vec![]));
}
