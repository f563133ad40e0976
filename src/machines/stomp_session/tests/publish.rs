use super::super::*;
use super::support::*;
use crate::proto::message::{Envelope, Message, Properties};

/// The only effect, taken apart.
fn published(effects: &[SessionEffect]) -> (&DestinationName, u32, Message<'_>) {
    let [
        SessionEffect::Publish {
            destination,
            request,
            message,
        },
    ] = effects
    else {
        panic!("expected one Publish: {effects:?}");
    };
    (destination, request.0, Message::read(message).unwrap())
}

#[test]
fn a_plain_send_becomes_a_message_with_its_user() {
    let mut rig = Rig::connected("1.2");
    let (text, effects) = rig.say("SEND\ndestination:/queue/a\n\nhello\0");
    assert_eq!(text, "");
    let (destination, request, message) = published(&effects);
    assert_eq!(*destination, name("/queue/a"));
    assert_eq!(request, 1);
    assert_eq!(
        *message.envelope(),
        Envelope {
            user: Some("ann"),
            ..Envelope::default()
        }
    );
    assert_eq!(
        message.properties(),
        Properties {
            to: Some("/queue/a"),
            ..Properties::default()
        }
    );
    assert_eq!(message.headers().count(), 0);
    assert_eq!(message.body(), b"hello");
}

#[test]
fn every_header_of_a_send_finds_its_place() {
    let mut rig = Rig::connected("1.2");
    let (_, effects) = rig.say(
        "SEND\ndestination:/queue/a\\cb\npersistent:false\npriority:9\nexpires:1700\n\
         JMSXGroupID:g\n_AMQ_DUPL_ID:d\ncontent-type:text/plain\nreply-to:/queue/r\n\
         correlation-id:c\nreceipt:1\ncontent-length:3\n\
         zebra:z\\nz\napple:1\n\nb\0y\0",
    );
    let (destination, _, message) = published(&effects);
    assert_eq!(*destination, name("/queue/a:b"));
    assert_eq!(
        *message.envelope(),
        Envelope {
            persistent: false,
            priority: 9,
            expiry_ms: Some(1700),
            due_ms: None,
            group: Some("g"),
            duplicate_id: Some("d"),
            user: Some("ann"),
        }
    );
    assert_eq!(
        message.properties(),
        Properties {
            to: Some("/queue/a:b"),
            reply_to: Some("/queue/r"),
            correlation_id: Some("c"),
            content_type: Some("text/plain"),
        }
    );
    let headers: Vec<_> = message.headers().collect();
    assert_eq!(headers, [("zebra", "z\nz"), ("apple", "1")]);
    assert_eq!(message.body(), b"b\0y");
}

#[test]
fn a_delay_and_a_time_make_a_due_time_and_nonsense_is_refused() {
    for (header, due) in [
        ("AMQ_SCHEDULED_DELAY:500", Some(10_500)),
        ("AMQ_SCHEDULED_DELAY:0", None),
        ("_AMQ_SCHED_DELIVERY:70000", Some(70_000)),
        ("_AMQ_SCHED_DELIVERY:0", None),
        ("other:1", None),
    ] {
        let mut rig = Rig::connected("1.2");
        rig.session.tell_time(10_000);
        let (_, effects) = rig.say(&format!("SEND\ndestination:/queue/a\n{header}\n\n\0"));
        assert_eq!(published(&effects).2.envelope().due_ms, due, "{header}");
    }
    for header in ["AMQ_SCHEDULED_DELAY:soon", "_AMQ_SCHED_DELIVERY:-1"] {
        let mut rig = Rig::connected("1.2");
        let (text, _) = rig.say(&format!("SEND\ndestination:/queue/a\n{header}\n\n\0"));
        assert!(
            text.starts_with("ERROR\n") && text.contains("milliseconds"),
            "{text}"
        );
    }
}

#[test]
fn of_repeated_headers_the_first_counts() {
    let mut rig = Rig::connected("1.2");
    let (_, effects) = rig.say(
        "SEND\ndestination:/queue/a\nk:1\ndestination:/queue/b\nk:2\npriority:1\npriority:x\n\n\0",
    );
    let (destination, _, message) = published(&effects);
    assert_eq!(*destination, name("/queue/a"));
    assert_eq!(message.envelope().priority, 1);
    assert_eq!(message.headers().collect::<Vec<_>>(), [("k", "1")]);
}

#[test]
fn an_application_cannot_write_the_brokers_headers() {
    let mut rig = Rig::connected("1.2");
    let (_, effects) = rig.say(
        "SEND\ndestination:/queue/a\nmessage-id:m\nsubscription:s\nack:a\nredelivered:true\n\n\0",
    );
    assert_eq!(published(&effects).2.headers().count(), 0);
}

#[test]
fn a_receipt_leaves_when_its_request_is_committed_and_not_before() {
    let mut rig = Rig::connected("1.2");
    let (text, effects) = rig.say(
        "SEND\ndestination:/queue/a\nreceipt:r\\c1\n\n1\0\
         SEND\ndestination:/queue/b\n\n2\0\
         SEND\ndestination:/queue/b\nreceipt:r2\n\n3\0",
    );
    assert_eq!(text, "");
    let numbers: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            SessionEffect::Publish { request, .. } => request.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    // Another destination may be faster; the receipt's escapes come back as they were.
    assert_eq!(rig.committed(&[3, 2]), (receipt("r2"), vec![]));
    assert_eq!(rig.flushed(), (String::new(), vec![]));
    assert_eq!(rig.committed(&[1]), (receipt("r\\c1"), vec![]));
    // A second answer, or one to nothing, confirms nothing.
    assert_eq!(rig.committed(&[1, 9, 0]), (String::new(), vec![]));
    assert_eq!(rig.session.unanswered(), 0);
}

#[test]
fn a_refused_request_ends_the_connection_with_its_reason_and_receipt() {
    let mut rig = Rig::connected("1.2");
    rig.say("SEND\ndestination:/queue/a\nreceipt:r1\n\n\0SEND\ndestination:/queue/a\n\n\0");
    let (text, effects) = rig.event(SessionEvent::Refused {
        request: RequestNumber(1),
        reason: "the disk is almost full".into(),
    });
    assert_eq!(
        text,
        "ERROR\nmessage:the request was refused\ncontent-type:text/plain\nreceipt-id:r1\n\
         content-length:23\n\nthe disk is almost full^@"
    );
    assert_eq!(effects, [SessionEffect::Close]);
    // Nothing follows an ERROR.
    assert_eq!(rig.committed(&[2]), (String::new(), vec![]));

    let mut rig = Rig::connected("1.2");
    rig.say("SEND\ndestination:/queue/a\n\n\0");
    let (text, _) = rig.event(SessionEvent::Refused {
        request: RequestNumber(1),
        reason: "no".into(),
    });
    assert!(!text.contains("receipt-id"), "{text}");
}

#[test]
fn the_window_of_unanswered_requests_is_bounded() {
    let mut rig = Rig::connected("1.2");
    let send = "SEND\ndestination:/queue/a\n\n\0";
    rig.say(&send.repeat(3));
    assert!(!rig.session.is_full());
    rig.say(send);
    assert!(rig.session.is_full());
    // The oldest holds the window open.
    rig.committed(&[2, 3, 4]);
    assert!(rig.session.is_full());
    rig.committed(&[1]);
    assert_eq!(rig.session.unanswered(), 0);
    assert!(!rig.session.is_full());
}

#[test]
fn every_bad_send_says_what_is_wrong() {
    for (headers, message) in [
        ("", "a header is missing"),
        ("destination:a\n", "the destination is not valid"),
        ("destination:/queue/\n", "the destination is not valid"),
        ("destination:/queue/\\n\n", "the destination is not valid"),
        ("destination:/topic/a.*\n", "the destination is not valid"),
        ("destination:/temp-queue/\n", "the destination is not valid"),
        (
            "destination:/queue/a\nreply-to:/temp-queue/\n",
            "the destination is not valid",
        ),
        (
            "destination:/queue/a\ntransaction:t\n",
            "unknown transaction",
        ),
        (
            "destination:/queue/a\npriority:10\n",
            "the priority header is wrong",
        ),
        (
            "destination:/queue/a\npriority:\n",
            "the priority header is wrong",
        ),
        (
            "destination:/queue/a\nexpires:-1\n",
            "the expires header is wrong",
        ),
    ] {
        let mut rig = Rig::connected("1.2");
        assert_refused(&mut rig, &format!("SEND\n{headers}\n\0"), message);
    }
}

#[test]
fn an_error_carries_the_receipt_of_the_frame_that_caused_it() {
    let mut rig = Rig::connected("1.1");
    let (text, _) = rig.say("SEND\nreceipt:77\n\n\0");
    assert_eq!(
        text,
        "ERROR\nmessage:a header is missing\ncontent-type:text/plain\nreceipt-id:77\n\
         content-length:33\n\nSEND needs the header destination^@"
    );
}

#[test]
fn many_destinations_are_all_told_apart() {
    let mut rig = Rig::connected("1.2");
    for round in 0..3 {
        for number in 0..20 {
            let (_, effects) = rig.say(&format!("SEND\ndestination:/queue/{number}\n\n\0"));
            let (destination, request, _) = published(&effects);
            assert_eq!(destination.name(), number.to_string());
            assert_eq!(request, round * 20 + number + 1);
        }
    }
}

#[test]
fn expires_zero_is_never() {
    let mut rig = Rig::connected("1.2");
    let (_, effects) = rig.say("SEND\ndestination:/queue/a\nexpires:0\n\n\0");
    assert_eq!(published(&effects).2.envelope().expiry_ms, None);
}
