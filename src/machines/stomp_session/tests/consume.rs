use super::super::*;
use super::support::*;
use crate::machines::delivery::Delivery;
use crate::proto::message::{Envelope, MessageWriter, Properties};

fn attach(destination: &str, consumer: u32, prefetch: u32) -> SessionEffect {
    SessionEffect::Attach {
        destination: name(destination),
        consumer,
        prefetch,
        traits: ConsumerTraits::default(),
    }
}

#[test]
fn a_subscription_is_confirmed_once_it_is_attached() {
    let mut rig = Rig::connected("1.2");
    let (text, effects) = rig.say("SUBSCRIBE\nid:0\ndestination:/queue/a\nreceipt:r\n\n\0");
    assert_eq!(
        (text.as_str(), effects),
        ("", vec![attach("/queue/a", 1, 100)])
    );
    assert_eq!(rig.session.subscriptions(), 1);
    let attached = SessionEvent::Attached { consumer: 1 };
    assert_eq!(rig.event(attached.clone()), (receipt("r"), vec![]));
    assert_eq!(rig.event(attached), (String::new(), vec![]));
}

#[test]
fn prefetch_comes_from_either_spelling_within_its_bounds() {
    for (header, prefetch) in [
        ("", 100),
        ("prefetch-count:7\n", 7),
        ("prefetch-count:0\n", 500),
        ("prefetch-count:99999999999\n", 500),
        ("activemq.prefetchSize:8\n", 8),
        ("activemq.prefetchSize:0\n", 1),
        ("activemq.prefetchSize:501\n", 500),
    ] {
        let mut rig = Rig::connected("1.2");
        let (_, effects) = rig.say(&format!(
            "SUBSCRIBE\nid:0\ndestination:/queue/a\n{header}\n\0"
        ));
        assert_eq!(effects, [attach("/queue/a", 1, prefetch)], "{header}");
    }
}

#[test]
fn a_selector_is_compiled_and_a_blank_one_takes_everything() {
    let mut rig = Rig::connected("1.2");
    let (_, effects) =
        rig.say("SUBSCRIBE\nid:0\ndestination:/queue/a\nselector:a > 1 AND b = 'x'\n\n\0");
    let [SessionEffect::Attach { traits, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    let selector = traits.selector.as_ref().unwrap();
    assert_eq!(selector.text(), "a > 1 AND b = 'x'");
    let (_, effects) = rig.say("SUBSCRIBE\nid:1\ndestination:/queue/a\nselector: \n\n\0");
    assert_eq!(effects, [attach("/queue/a", 2, 100)]);
}

#[test]
fn every_bad_subscribe_says_what_is_wrong() {
    for (headers, message) in [
        ("id:0\n", "a header is missing"),
        ("destination:/queue/b\n", "a header is missing"),
        ("id:0\ndestination:b\n", "the destination is not valid"),
        (
            "id:0\ndestination:/topic/b.>.c\n",
            "the destination is not valid",
        ),
        ("id:s\ndestination:/queue/b\n", "the subscription exists"),
        (
            "id:0\ndestination:/queue/b\nselector:a = \n",
            "the selector is not valid",
        ),
        (
            "id:0\ndestination:/queue/b\nack:never\n",
            "the ack header is wrong",
        ),
        (
            "id:0\ndestination:/queue/b\nprefetch-count:many\n",
            "the prefetch header is wrong",
        ),
    ] {
        let mut rig = Rig::subscribed("1.2", "auto");
        assert_refused(&mut rig, &format!("SUBSCRIBE\n{headers}\n\0"), message);
    }
    let mut rig = Rig::connected("1.0");
    rig.say("SUBSCRIBE\ndestination:/queue/a\n\n\0SUBSCRIBE\ndestination:/queue/b\n\n\0");
    assert_refused(
        &mut rig,
        "SUBSCRIBE\ndestination:/queue/a\n\n\0",
        "the subscription exists",
    );
}

#[test]
fn subscriptions_are_counted_and_their_numbers_never_used_twice() {
    let mut rig = Rig::connected("1.2");
    for id in 1..=3 {
        let (_, effects) = rig.say(&format!("SUBSCRIBE\nid:{id}\ndestination:/queue/a\n\n\0"));
        assert_eq!(effects, [attach("/queue/a", id, 100)]);
    }
    rig.say("UNSUBSCRIBE\nid:2\n\n\0");
    let (_, effects) = rig.say("SUBSCRIBE\nid:2\ndestination:/queue/b\n\n\0");
    assert_eq!(effects, [attach("/queue/b", 4, 100)]);
    assert_refused(
        &mut rig,
        "SUBSCRIBE\nid:5\ndestination:/queue/a\n\n\0",
        "too many subscriptions",
    );
}

#[test]
fn unsubscribe_detaches_and_is_confirmed() {
    let mut rig = Rig::subscribed("1.2", "client");
    rig.delivered(&[5]);
    let (text, effects) = rig.say("UNSUBSCRIBE\nid:s\nreceipt:u\n\n\0");
    assert_eq!(text, receipt("u"));
    assert_eq!(effects, [SessionEffect::Detach { consumer: 1 }]);
    // What was on its way to the consumer goes nowhere, and its old deliveries are unknown.
    assert_eq!(rig.delivered(&[6]), (String::new(), vec![]));
    assert_eq!(rig.session.subscriptions(), 0);
    assert_refused(&mut rig, "ACK\nid:1-5\n\n\0", "unknown acknowledgement id");
}

#[test]
fn what_auto_has_sent_is_settled_before_the_consumer_is_detached() {
    let mut rig = Rig::subscribed("1.2", "auto");
    rig.delivered(&[5, 6]);
    assert_eq!(
        rig.say("UNSUBSCRIBE\nid:s\nreceipt:u\n\n\0"),
        (receipt("u"), vec![])
    );
    let expected = vec![
        settle(1, &[5, 6], Outcome::Accepted, 0),
        SessionEffect::Detach { consumer: 1 },
    ];
    assert_eq!(rig.flushed(), (String::new(), expected));
}

#[test]
fn the_receipt_of_a_subscribe_is_not_lost_when_it_is_taken_back_at_once() {
    let mut rig = Rig::connected("1.2");
    rig.say("SUBSCRIBE\nid:s\ndestination:/queue/a\nreceipt:r\n\n\0");
    let (text, effects) = rig.say("UNSUBSCRIBE\nid:s\nreceipt:u\n\n\0");
    assert_eq!(text, receipt("u"));
    assert_eq!(effects, [SessionEffect::Detach { consumer: 1 }]);
    let attached = SessionEvent::Attached { consumer: 1 };
    assert_eq!(rig.event(attached), (receipt("r"), vec![]));
}

#[test]
fn unsubscribe_names_a_subscription() {
    let mut rig = Rig::subscribed("1.2", "auto");
    assert_refused(
        &mut rig,
        "UNSUBSCRIBE\ndestination:/queue/a\n\n\0",
        "a header is missing",
    );
    let mut rig = Rig::subscribed("1.2", "auto");
    assert_refused(&mut rig, "UNSUBSCRIBE\nid:t\n\n\0", "unknown subscription");
    let mut rig = Rig::connected("1.0");
    rig.say("SUBSCRIBE\ndestination:/queue/a\n\n\0");
    let (_, effects) = rig.say("UNSUBSCRIBE\ndestination:/queue/a\n\n\0");
    assert_eq!(effects, [SessionEffect::Detach { consumer: 1 }]);
}

fn rich() -> Bytes {
    let envelope = Envelope {
        priority: 7,
        expiry_ms: Some(99),
        group: Some("g"),
        duplicate_id: Some("d"),
        user: Some("bob"),
        ..Envelope::default()
    };
    let properties = Properties {
        to: Some("/queue/elsewhere"),
        reply_to: Some("/queue/r:1"),
        correlation_id: Some("c"),
        content_type: Some("text/plain"),
    };
    let mut writer = MessageWriter::new(&envelope, &properties, 0);
    writer.header("z:", "1\n2");
    writer.header("message-id", "a stranger's");
    writer.header("", "nameless");
    writer.header("a", "\\");
    writer.finish(b"b\ny").unwrap()
}

#[test]
fn a_message_says_everything_that_was_sent_with_it() {
    for (version, ack, redelivered, expected) in [
        (
            "1.2",
            "client",
            true,
            "MESSAGE\nsubscription:s\ndestination:/queue/a\nmessage-id:tm-5\nack:1-5\n\
             redelivered:true\npersistent:true\npriority:7\nexpires:99\nJMSXGroupID:g\n\
             _AMQ_DUPL_ID:d\nreply-to:/queue/r\\c1\ncorrelation-id:c\ncontent-type:text/plain\n\
             z\\c:1\\n2\na:\\\\\ncontent-length:3\n\nb\ny^@",
        ),
        (
            "1.0",
            "auto",
            false,
            "MESSAGE\nsubscription:s\ndestination:/queue/a\nmessage-id:tm-5\n\
             persistent:true\npriority:7\nexpires:99\nJMSXGroupID:g\n\
             _AMQ_DUPL_ID:d\nreply-to:/queue/r:1\ncorrelation-id:c\ncontent-type:text/plain\n\
             z_:1 2\na:\\\ncontent-length:3\n\nb\ny^@",
        ),
    ] {
        let mut rig = Rig::subscribed(version, ack);
        let deliveries = vec![Delivery {
            redelivered,
            ..delivery(5, rich())
        }];
        let (text, _) = rig.event(SessionEvent::Delivered {
            consumer: 1,
            deliveries,
        });
        assert_eq!(text, expected);
    }
}

#[test]
fn a_message_of_an_unknown_format_ends_the_connection_and_stays() {
    let mut rig = Rig::subscribed("1.2", "auto");
    let (text, effects) = rig.event(SessionEvent::Delivered {
        consumer: 1,
        deliveries: vec![delivery(5, Bytes::from_static(&[9, 9, 9]))],
    });
    assert_eq!(error_of(&text).as_deref(), Some("a message cannot be read"));
    assert_eq!(
        effects,
        [SessionEffect::Detach { consumer: 1 }, SessionEffect::Close]
    );
}

#[test]
fn what_a_client_sends_comes_back_to_it_unchanged() {
    for version in ["1.1", "1.2"] {
        let mut rig = Rig::subscribed(version, "auto");
        let headers = "correlation-id:c\\c\\\\\ncontent-type:a/b\nown\\c:x\\ny\n";
        let (_, effects) = rig.say(&format!("SEND\ndestination:/queue/a\n{headers}\nbody\0"));
        let [SessionEffect::Publish { message, .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        let (text, _) = rig.event(SessionEvent::Delivered {
            consumer: 1,
            deliveries: vec![delivery(5, message.clone())],
        });
        assert_eq!(
            text,
            format!(
                "MESSAGE\nsubscription:s\ndestination:/queue/a\nmessage-id:tm-5\n\
                 persistent:true\n{headers}content-length:4\n\nbody^@"
            )
        );
    }
}
