use super::super::*;
use super::support::*;
use crate::machines::selector::Dialect;
use crate::machines::topics::TopicPattern;
use crate::proto::destination::DestinationKind;
use crate::proto::message::{Envelope, Message, MessageWriter, Properties};

fn rig(connect: &str) -> Rig {
    let mut rig = Rig::fresh();
    rig.session.set_temporary_scope("1f-7".to_owned());
    rig.say(&format!("CONNECT\naccept-version:1.2\n{connect}\n\0"));
    rig
}

fn spec(effects: &[SessionEffect]) -> &SubscriptionSpec {
    match effects {
        [SessionEffect::Subscribe { subscription, .. }] => subscription,
        other => panic!("{other:?}"),
    }
}

fn subscribed(connect: &str, headers: &str) -> SubscriptionSpec {
    let mut rig = rig(connect);
    let frame = format!("SUBSCRIBE\nid:s\ndestination:/topic/a.*\n{headers}\n\0");
    let (text, effects) = rig.say(&frame);
    assert_eq!(text, "", "{headers:?}");
    spec(&effects).clone()
}

fn named(durable: bool, client_id: Option<&str>, name: &str) -> Identity {
    Identity::Named {
        durable,
        client_id: client_id.map(Box::from),
        name: name.into(),
    }
}

#[test]
fn each_clients_spelling_of_a_subscription_means_what_it_says() {
    let ann = "client-id:ann\n";
    let mail = || named(true, Some("ann"), "mail");
    for (connect, headers, identity, shared) in [
        ("", "", Identity::Anonymous, false),
        (ann, "durable:false\n", Identity::Anonymous, false),
        (ann, "durable:true\nsubscription-name:mail\n", mail(), false),
        (
            ann,
            "durable:true\ndurable-subscription-name:mail\n",
            mail(),
            false,
        ),
        (ann, "activemq.subscriptionName:mail\n", mail(), false),
        (ann, "activemq.subcriptionName:mail\n", mail(), false),
        (ann, "durable:true\n", named(true, Some("ann"), "s"), false),
        (
            "",
            "durable:true\nauto-delete:false\n",
            named(true, None, "s"),
            true,
        ),
        (
            ann,
            "shared:true\ndurable:true\nsubscription-name:mail\n",
            mail(),
            true,
        ),
        (
            "",
            "shared:true\nsubscription-name:mail\n",
            named(false, None, "mail"),
            true,
        ),
    ] {
        let spec = subscribed(connect, headers);
        assert_eq!(spec.identity, identity, "{headers:?}");
        assert_eq!(spec.shared, shared, "{headers:?}");
        assert_eq!(spec.pattern, TopicPattern::parse("a.*").unwrap());
        assert!(!spec.no_local && spec.selector.is_none());
    }
    assert!(subscribed("", "no-local:true\n").no_local);
    assert!(subscribed("", "activemq.noLocal:true\n").no_local);
    let selector = subscribed("", "selector:a > 1\n").selector.unwrap();
    assert_eq!(
        (selector.text(), selector.dialect()),
        ("a > 1", Dialect::TextIsNumeric)
    );
}

#[test]
fn a_blank_selector_is_none_for_a_subscription_and_a_browser() {
    for header in ["selector:\n", "selector: \n", "selector: \\r \n"] {
        assert_eq!(subscribed("", header), subscribed("", ""), "{header:?}");
        let mut rig = rig("");
        let frame = format!("SUBSCRIBE\nid:s\ndestination:/queue/a\nbrowser:true\n{header}\n\0");
        let (_, effects) = rig.say(&frame);
        assert!(
            matches!(effects[..], [SessionEffect::Browse { selector: None, .. }]),
            "{effects:?}"
        );
    }
}

#[test]
fn what_cannot_be_subscribed_says_why() {
    let long = format!("shared:true\nsubscription-name:{}\n", "x".repeat(201));
    for (headers, message) in [
        (
            "durable:true\nsubscription-name:m\n",
            "a durable subscription needs a client-id",
        ),
        ("shared:true\n", "a header is missing"),
        ("selector:a >\n", "the selector is not valid"),
        (
            "shared:true\nsubscription-name:m\nexclusive:true\n",
            "a shared subscription cannot be exclusive",
        ),
        ("browser:true\n", "a topic cannot be browsed"),
        (long.as_str(), "the subscription's name is not valid"),
    ] {
        let mut rig = rig("");
        let frame = format!("SUBSCRIBE\nid:s\ndestination:/topic/a\n{headers}\n\0");
        assert_refused(&mut rig, &frame, message);
    }
    let mut rig = rig("");
    let frame = "SUBSCRIBE\nid:s\ndestination:/queue/a\nbrowser:true\nack:client\n\n\0";
    assert_refused(&mut rig, frame, "the ack header is wrong");
}

#[test]
fn a_refused_subscription_is_an_error_with_its_receipt() {
    let mut rig = rig("");
    rig.say("SUBSCRIBE\nid:s\ndestination:/topic/a\nreceipt:r\n\n\0");
    let (text, effects) = rig.event(SessionEvent::NotAttached {
        consumer: 1,
        reason: "because".to_owned(),
    });
    assert_eq!(
        error_of(&text).as_deref(),
        Some("the subscription was refused")
    );
    assert!(
        text.contains("receipt-id:r\n") && text.contains("because"),
        "{text}"
    );
    assert_eq!(effects, [SessionEffect::Close]);
}

#[test]
fn messages_of_a_topic_say_which() {
    let mut rig = rig("");
    rig.say("SUBSCRIBE\nid:s\ndestination:/topic/a.*\n\n\0");
    rig.event(SessionEvent::Attached { consumer: 1 });
    let properties = Properties {
        to: Some("/topic/a.b"),
        ..Properties::default()
    };
    let message = MessageWriter::new(&Envelope::default(), &properties, 0);
    let (text, _) = rig.event(SessionEvent::Delivered {
        consumer: 1,
        deliveries: vec![delivery(5, message.finish(b"x").unwrap())],
    });
    assert!(text.contains("\ndestination:/topic/a.b\n"), "{text}");
    assert!(!text.contains("a.*"), "{text}");
}

#[test]
fn unsubscribing_deletes_only_what_is_meant_to_be_deleted() {
    let subscribe =
        "SUBSCRIBE\nid:s\ndestination:/topic/a\ndurable:true\nsubscription-name:m\n\n\0";
    let detach = SessionEffect::Detach { consumer: 1 };
    let mut one = rig("client-id:ann\n");
    one.say(subscribe);
    let (text, effects) = one.say("UNSUBSCRIBE\nid:s\nreceipt:r\n\n\0");
    assert_eq!((text, effects), (receipt("r"), vec![detach]));
    let forget = |request| SessionEffect::Forget {
        identity: Box::new(named(true, Some("ann"), "m")),
        request: RequestNumber(request),
    };
    let mut other = rig("client-id:ann\n");
    other.say(subscribe);
    let (text, effects) = other.say("UNSUBSCRIBE\nid:s\ndurable:true\nreceipt:r\n\n\0");
    let detach = SessionEffect::Detach { consumer: 1 };
    assert_eq!((text, effects), (String::new(), vec![detach, forget(1)]));
    let (text, _) = other.committed(&[1]);
    assert_eq!(text, receipt("r"), "once it is durable");
    // Without a consumer of one's own.
    let (_, effects) = other.say("UNSUBSCRIBE\nid:t\nactivemq.subscriptionName:m\n\n\0");
    assert_eq!(effects, [forget(2)]);
    assert_refused(
        &mut other,
        "UNSUBSCRIBE\nid:t\n\n\0",
        "unknown subscription",
    );
}

#[test]
fn a_temporary_queue_is_known_to_others_by_a_name_of_its_own() {
    let mut rig = rig("");
    let known = DestinationName::new(DestinationKind::TemporaryQueue, "1f-7/answers").unwrap();
    let (_, effects) =
        rig.say("SEND\ndestination:/queue/work\nreply-to:/temp-queue/answers\n\nx\0");
    let [made, SessionEffect::Publish { message, .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    let destination = known.clone();
    assert_eq!(*made, SessionEffect::MakeTemporary { destination });
    let reply_to = Message::read(message).unwrap().properties().reply_to;
    assert_eq!(reply_to, Some("/remote-temp-queue/1f-7/answers"));
    // Made already; its own messages bear its own spelling.
    let (_, effects) = rig.say("SUBSCRIBE\nid:s\ndestination:/temp-queue/answers\n\n\0");
    let attach = SessionEffect::Attach {
        destination: known,
        consumer: 1,
        prefetch: 100,
        traits: ConsumerTraits::default(),
    };
    assert_eq!(effects, [attach]);
    rig.event(SessionEvent::Attached { consumer: 1 });
    let (text, _) = rig.delivered(&[3]);
    assert!(
        text.contains("\ndestination:/temp-queue/answers\n"),
        "{text}"
    );
    let (_, effects) = rig.say("SEND\ndestination:/remote-temp-queue/2-1/b\n\nx\0");
    assert_eq!(effects.len(), 1, "anybody may send");
    assert_refused(
        &mut rig,
        "SUBSCRIBE\nid:t\ndestination:/remote-temp-queue/1f-77/a\n\n\0",
        "the temporary queue is another connection's",
    );
}

#[test]
fn temporary_queues_of_a_connection_are_bounded() {
    let mut rig = rig("");
    for name in ["a", "b", "c"] {
        rig.say(&format!(
            "SEND\ndestination:/queue/q\nreply-to:/temp-queue/{name}\n\n\0"
        ));
    }
    let frame = "SEND\ndestination:/queue/q\nreply-to:/temp-queue/d\n\n\0";
    assert_refused(&mut rig, frame, "too many temporary queues");
}

#[test]
fn a_browser_gets_copies_and_then_the_end() {
    let mut rig = rig("");
    let (_, effects) =
        rig.say("SUBSCRIBE\nid:s\ndestination:/queue/a\nbrowser:true\nselector:a = 1\n\n\0");
    let [
        SessionEffect::Browse {
            consumer: 1,
            prefetch: 100,
            selector: Some(_),
            ..
        },
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    rig.event(SessionEvent::Attached { consumer: 1 });
    rig.delivered(&[3, 4]);
    let (_, effects) = rig.flushed();
    assert_eq!(effects, [settle(1, &[3, 4], Outcome::Accepted, 0)]);
    let (text, _) = rig.event(SessionEvent::Browsed { consumer: 1 });
    let expected = "MESSAGE\nsubscription:s\ndestination:/queue/a\nmessage-id:tm-end\n\
        browser:end\ncontent-length:0\n\n^@";
    assert_eq!(text, expected);
}
