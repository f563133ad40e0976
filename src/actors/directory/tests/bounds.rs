//! Senders wait for destinations that there are and that are full, and for no others.

use super::topics::{anonymous, durable};
use super::*;
use crate::machines::policy::OnFull;
use crate::machines::subscriptions::Publisher;
use crate::proto::message::{Envelope, MessageWriter, Properties};

/// Subscriptions that hold their senders back at so many messages.
fn blocking(most: u64) -> World {
    let world = World::serving();
    let policy = DestinationPolicy {
        max_messages: Some(most),
        on_full: OnFull::Block,
        ..DestinationPolicy::default()
    };
    let tables = vec![(NamePattern::parse("/topic/>").unwrap(), policy)];
    world
        .directory
        .set_policies(Arc::new(Policies::new(tables)));
    world
}

fn send(world: &World, session: SessionKey, messages: Vec<Bytes>) {
    let publisher = Publisher {
        session,
        client_id: None,
    };
    let sends = (1..).zip(messages).map(|(request, message)| TopicSend {
        request: RequestNumber(request),
        topic: DestinationName::new(DestinationKind::Topic, "a").unwrap(),
        message,
    });
    world
        .directory
        .publish_to_topics(publisher, sends.collect());
}

fn message(duplicate_id: Option<&str>) -> Bytes {
    let envelope = Envelope {
        duplicate_id,
        ..Envelope::default()
    };
    let writer = MessageWriter::new(&envelope, &Properties::default(), 4);
    writer.finish(b"body").unwrap()
}

#[test]
fn nobody_waits_for_a_destination_that_is_gone() {
    local(async {
        let world = blocking(1);
        let (session, _inbox) = world.directory.open_session();
        let name = world.subscribe(session, anonymous("a"));
        world.settle_down().await;
        send(&world, session, vec![message(None)]);
        world.settle_down().await;
        assert!(world.directory.holds_any_back());
        let account = {
            let term = world.directory.term.borrow();
            let term = term.as_ref().unwrap();
            let id = term.by_name[&name];
            (id, term.known[&id].account.clone().unwrap())
        };
        let consumer = ConsumerKey { session, number: 1 };
        world.directory.leave_subscription(consumer, &name);
        assert!(!world.directory.holds_any_back());
        // As its actor does with what it was posted before.
        world.directory.mind_bounds(account.0, &account.1);
        assert!(!world.directory.holds_any_back());
    });
}

#[test]
fn what_was_sent_again_and_is_not_kept_makes_room() {
    local(async {
        let world = blocking(2);
        let (durably, _saved) = world.directory.open_session();
        let (passing, _seen) = world.directory.open_session();
        let saved = world.subscribe(durably, durable("a"));
        world.subscribe(passing, anonymous("a"));
        world.settle_down().await;
        let (producer, _inbox) = world.directory.open_session();
        send(&world, producer, vec![message(Some("one"))]);
        world.settle_down().await;
        assert!(!world.directory.holds_any_back());
        send(&world, producer, vec![message(Some("one"))]);
        assert!(!world.directory.holds_any_back(), "{saved}: there is room");
    });
}

#[test]
fn a_full_destination_for_which_nobody_waits_is_not_said_to_hold_senders_back() {
    local(async {
        let world = blocking(1);
        let (session, _inbox) = world.directory.open_session();
        world.subscribe(session, anonymous("a"));
        world.settle_down().await;
        send(&world, session, vec![message(None)]);
        world.settle_down().await;
        let topic = DestinationName::new(DestinationKind::Topic, "a").unwrap();
        let said = || world.directory.limited_now().concat();
        assert!(said().contains("is full: max_messages = 1"), "{}", said());
        assert!(!said().contains("senders wait"), "{}", said());
        let waiting = world.directory.held_back_by(&topic);
        assert!(said().contains("senders wait"), "{}", said());
        drop(waiting);
    });
}
