use proptest::prelude::*;

use super::*;
use crate::machines::selector::Dialect;
use crate::proto::message::{Envelope, MessageWriter, Properties};

fn consumer(session: u32) -> ConsumerKey {
    ConsumerKey {
        session: SessionKey(session),
        number: 1,
    }
}

fn anonymous(pattern: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        pattern: TopicPattern::parse(pattern).unwrap(),
        selector: None,
        no_local: false,
        shared: false,
        identity: Identity::Anonymous,
    }
}

fn named(pattern: &str, durable: bool, client_id: Option<&str>, name: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        identity: Identity::Named {
            durable,
            client_id: client_id.map(Box::from),
            name: name.into(),
        },
        ..anonymous(pattern)
    }
}

fn durable(pattern: &str) -> SubscriptionSpec {
    named(pattern, true, Some("ann"), "mail")
}

fn shared(spec: SubscriptionSpec) -> SubscriptionSpec {
    SubscriptionSpec {
        shared: true,
        ..spec
    }
}

fn choosy(spec: SubscriptionSpec, selector: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        selector: Some(Selector::parse(selector, Dialect::TextIsNumeric).unwrap()),
        ..spec
    }
}

fn join(
    table: &mut SubscriptionTable,
    session: u32,
    spec: SubscriptionSpec,
    fresh: u32,
) -> Result<Joined, SubscribeError> {
    table.subscribe(consumer(session), spec, DestId(fresh))
}

fn message(colour: &str) -> Bytes {
    let mut writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 64);
    writer.header("colour", colour);
    writer.finish(b"body").unwrap()
}

/// Who owes a red message of session 9.
fn routed(table: &SubscriptionTable, topic: &str) -> Vec<u32> {
    routed_from(table, topic, 9, None)
}

fn routed_from(
    table: &SubscriptionTable,
    topic: &str,
    session: u32,
    client_id: Option<&str>,
) -> Vec<u32> {
    let mut targets = vec![DestId(77)];
    let publisher = Publisher {
        session: SessionKey(session),
        client_id,
    };
    let topic = TopicName::parse(topic).unwrap();
    table.route(topic, publisher, &message("red"), &mut targets);
    targets.into_iter().map(|dest| dest.0).collect()
}

#[test]
fn a_subscription_without_a_name_lives_with_its_consumer() {
    let mut table = SubscriptionTable::default();
    let joined = join(&mut table, 1, anonymous("a.*"), 5).unwrap();
    assert_eq!(joined.name.spelling(), "/subscription/~5");
    assert_eq!(joined.definition.unwrap()[0], KIND_PASSING);
    join(&mut table, 2, anonymous("a.>"), 6).unwrap();
    assert_eq!(routed(&table, "a.b"), [5, 6]);
    assert_eq!(routed(&table, "a.b.c"), [6]);
    assert!(table.leave(consumer(1), DestId(5)));
    assert!(!table.leave(consumer(1), DestId(5)));
    assert_eq!(routed(&table, "a.b"), [6]);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_durable_one_stays_and_has_one_consumer_at_a_time() {
    let mut table = SubscriptionTable::default();
    let joined = join(&mut table, 1, durable("a"), 5).unwrap();
    assert_eq!(joined.name.spelling(), "/subscription/ann/mail");
    assert_eq!(joined.definition.unwrap()[0], KIND_DURABLE);
    let identity = durable("a").identity;
    assert_eq!(
        join(&mut table, 2, durable("a"), 6),
        Err(SubscribeError::Active(identity.clone()))
    );
    assert!(!table.leave(consumer(1), DestId(5)));
    assert_eq!(routed(&table, "a"), [5]);
    assert!(!table.view(DestId(5)).unwrap().active);
    let again = join(&mut table, 2, durable("a"), 6).unwrap();
    assert_eq!(
        (again.dest, again.definition, again.dropped),
        (DestId(5), None, None)
    );
    assert_eq!(
        table.forget(SessionKey(3), &identity),
        Err(ForgetError::Active(identity.clone()))
    );
    assert_eq!(table.forget(SessionKey(2), &identity), Ok(DestId(5)));
    assert_eq!(
        table.forget(SessionKey(2), &identity),
        Err(ForgetError::Unknown(identity))
    );
    assert!(routed(&table, "a").is_empty());
}

#[test]
fn another_topic_selector_or_no_local_makes_it_anew() {
    let mut table = SubscriptionTable::default();
    join(&mut table, 1, durable("a"), 5).unwrap();
    table.leave(consumer(1), DestId(5));
    let mut before = 5;
    for spec in [
        durable("b"),
        choosy(durable("b"), "colour = 'blue'"),
        SubscriptionSpec {
            no_local: true,
            ..choosy(durable("b"), "colour = 'blue'")
        },
    ] {
        let joined = join(&mut table, 1, spec, before + 1).unwrap();
        assert_eq!(joined.dropped, Some(DestId(before)));
        before += 1;
        assert_eq!(joined.dest, DestId(before));
        table.leave(consumer(1), joined.dest);
    }
    assert!(routed(&table, "a").is_empty());
    assert!(routed(&table, "b").is_empty(), "it is not blue");
}

#[test]
fn white_space_around_a_selector_makes_nothing_anew() {
    let mut table = SubscriptionTable::default();
    let spec = choosy(durable("a"), "colour = 'red'");
    join(&mut table, 1, spec, 5).unwrap();
    table.leave(consumer(1), DestId(5));
    let same = choosy(durable("a"), " colour = 'red'\t");
    let again = join(&mut table, 1, same, 6).unwrap();
    assert_eq!((again.dest, again.dropped), (DestId(5), None));
    table.leave(consumer(1), DestId(5));
    // White space within a text is part of it.
    let other = choosy(durable("a"), "colour = ' red'");
    let joined = join(&mut table, 1, other, 6).unwrap();
    assert_eq!((joined.dest, joined.dropped), (DestId(6), Some(DestId(5))));
}

#[test]
fn a_stored_selector_that_is_blank_is_none() {
    for text in ["", " ", "\t  "] {
        let stored = choosy(durable("a"), text).definition();
        let stored = SubscriptionSpec::read(&stored).unwrap();
        assert_eq!(stored, durable("a"), "{text:?}");
        // Whoever comes back without one finds what waits for it.
        let mut table = SubscriptionTable::default();
        table.restore(DestId(5), stored);
        let again = join(&mut table, 1, durable("a"), 6).unwrap();
        assert_eq!((again.dest, again.dropped), (DestId(5), None), "{text:?}");
    }
}

#[test]
fn shared_ones_are_joined_by_whoever_wants_the_same() {
    let mut table = SubscriptionTable::default();
    let work = || shared(named("a", false, None, "work"));
    let first = join(&mut table, 1, work(), 5).unwrap();
    assert_eq!(first.name.spelling(), "/subscription/~shared//work");
    assert_eq!(join(&mut table, 2, work(), 6).unwrap().dest, DestId(5));
    let other = shared(named("b", false, None, "work"));
    assert!(matches!(
        join(&mut table, 3, other, 6),
        Err(SubscribeError::Differs(_))
    ));
    assert!(!table.leave(consumer(1), DestId(5)));
    assert!(table.leave(consumer(2), DestId(5)));
    // A durable one of the same name is another one, and stays as it is: shared or not.
    join(&mut table, 1, shared(durable("a")), 6).unwrap();
    table.leave(consumer(1), DestId(6));
    let refused = join(&mut table, 1, durable("a"), 7).unwrap_err();
    assert!(matches!(
        refused,
        SubscribeError::OtherKind { shared: true, .. }
    ));
    assert!(
        refused.to_string().contains("exists and is shared"),
        "{refused}"
    );
}

#[test]
fn selectors_and_no_local_are_judged_as_a_message_is_published() {
    let mut table = SubscriptionTable::default();
    join(&mut table, 1, choosy(anonymous("a"), "colour = 'red'"), 5).unwrap();
    join(&mut table, 2, choosy(anonymous("a"), "colour = 'blue'"), 6).unwrap();
    let no_local = |spec| SubscriptionSpec {
        no_local: true,
        ..spec
    };
    join(&mut table, 9, no_local(anonymous("a")), 7).unwrap();
    join(&mut table, 3, no_local(durable("a")), 8).unwrap();
    table.leave(consumer(3), DestId(8));
    assert_eq!(routed(&table, "a"), [5, 8], "session 9 is 7's own");
    assert_eq!(routed_from(&table, "a", 4, Some("ann")), [5, 7]);
    let mut targets = Vec::new();
    let publisher = Publisher {
        session: SessionKey(4),
        client_id: None,
    };
    let topic = TopicName::parse("a").unwrap();
    table.route(topic, publisher, b"no message", &mut targets);
    assert_eq!(
        targets,
        [DestId(7), DestId(8)],
        "what cannot be read is not selected"
    );
}

#[test]
fn names_of_destinations_are_told_apart() {
    let name = |client: Option<&str>, name: &str| {
        let identity = named("a", true, client, name).identity;
        identity.destination(DestId(1)).spelling().to_owned()
    };
    assert_eq!(name(Some("a/b"), "c"), "/subscription/a%2Fb/c");
    assert_eq!(name(Some("a"), "b/c"), "/subscription/a/b/c");
    assert_eq!(name(Some("~1%"), "c"), "/subscription/%7E1%25/c");
    assert_eq!(name(None, "c"), "/subscription//c");
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z/~% é]{1,20}"
}

proptest! {
    #[test]
    fn a_definition_reads_back(
        pattern in "[a-z]{1,5}(\\.[a-z*]){0,3}",
        name in any_name(),
        client in prop::option::of(any_name()),
        selector in prop::option::of("[a-z]{1,9} = '[a-z]{0,9}'"),
        numeric: bool,
        no_local: bool,
        is_shared: bool,
    ) {
        let dialect = if numeric { Dialect::TextIsNumeric } else { Dialect::Strict };
        let spec = SubscriptionSpec {
            selector: selector.and_then(|text| Selector::parse(&text, dialect).ok()),
            no_local,
            shared: is_shared,
            ..named(&pattern, true, client.as_deref(), &name)
        };
        let definition = spec.definition();
        prop_assert_eq!(SubscriptionSpec::read(&definition), Ok(spec));
        for end in 0..definition.len() {
            prop_assert!(SubscriptionSpec::read(&definition.slice(..end)).is_err());
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(spec) = SubscriptionSpec::read(&Bytes::from(bytes)) {
            prop_assert!(spec.identity.is_durable());
        }
    }
}
