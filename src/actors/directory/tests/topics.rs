use super::*;
use crate::machines::subscriptions::{Identity, Publisher, SubscriptionSpec};
use crate::machines::topics::TopicPattern;

pub(super) fn key(session: SessionKey) -> ConsumerKey {
    ConsumerKey { session, number: 1 }
}

pub(super) fn anonymous(pattern: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        pattern: TopicPattern::parse(pattern).unwrap(),
        selector: None,
        no_local: false,
        shared: false,
        identity: Identity::Anonymous,
    }
}

pub(super) fn durable(pattern: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        identity: Identity::Named {
            durable: true,
            client_id: Some("ann".into()),
            name: "mail".into(),
        },
        ..anonymous(pattern)
    }
}

impl World {
    pub(super) fn subscribe(&self, session: SessionKey, spec: SubscriptionSpec) -> DestinationName {
        self.directory.subscribe(key(session), 100, spec).unwrap()
    }

    pub(super) fn send(&self, session: SessionKey, topic: &str, requests: &[u32]) {
        let publisher = Publisher {
            session,
            client_id: None,
        };
        let sends = requests.iter().map(|request| TopicSend {
            request: RequestNumber(*request),
            topic: DestinationName::new(DestinationKind::Topic, topic).unwrap(),
            message: Bytes::from_static(b"body"),
        });
        self.directory.publish_to_topics(publisher, sends.collect());
    }
}

/// `attached`, `committed 1 2`, `refused 1` and so on.
pub(super) fn answers(inbox: &Inbox) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(event) = inbox.take_answer() {
        all.push(match event {
            SessionEvent::Attached { .. } => "attached".to_owned(),
            SessionEvent::Committed { requests } => {
                let numbers = requests.iter().map(|request| request.0.to_string());
                format!("committed {}", numbers.collect::<Vec<_>>().join(" "))
            }
            SessionEvent::Refused { request, .. } => format!("refused {}", request.0),
            other => format!("{other:?}"),
        });
    }
    all
}

#[test]
fn a_message_is_one_record_for_all_subscriptions_and_stays_in_order() {
    local(async {
        let world = World::storing();
        let subscribe = |_| {
            let (session, inbox) = world.directory.open_session();
            world.subscribe(session, anonymous("news.*"));
            inbox
        };
        let inboxes: Vec<_> = (0..3).map(subscribe).collect();
        world.settle_down().await;
        let (producer, inbox) = world.directory.open_session();
        let submits = world.store.submits();
        world.send(producer, "news.today", &[1, 2]);
        world.publish(&world.port("q"), producer, &[3]);
        world.send(producer, "news.today", &[4]);
        assert_eq!(world.store.submits() - submits, 2);
        world.settle_down().await;
        let seen: Vec<_> = inboxes.iter().map(|inbox| deliveries(inbox)).collect();
        assert_eq!(seen[0].len(), 3);
        assert!(seen[0].is_sorted() && seen[0] == seen[1] && seen[1] == seen[2]);
        let confirmed = answers(&inbox).join(" ");
        assert_eq!(
            confirmed.matches(char::is_numeric).count(),
            4,
            "{confirmed}"
        );
    });
}

#[test]
fn nobody_is_attached_before_the_subscription_is_committed() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let (second, second_inbox) = world.directory.open_session();
        let (gone, gone_inbox) = world.directory.open_session();
        let shared = || SubscriptionSpec {
            shared: true,
            ..durable("a")
        };
        world.store.hold(true);
        let name = world.subscribe(session, shared());
        world.subscribe(second, shared());
        let other = world.subscribe(gone, anonymous("a"));
        world.directory.leave_subscription(key(gone), &other);
        world.settle_down().await;
        for inbox in [&inbox, &second_inbox, &gone_inbox] {
            assert!(!inbox.has_answer());
        }
        world.store.hold(false);
        world.settle_down().await;
        for inbox in [&inbox, &second_inbox, &gone_inbox] {
            assert_eq!(answers(inbox), ["attached"]);
        }
        assert_eq!(name.spelling(), "/subscription/ann/mail");
        let listed = world.directory.describe();
        assert_eq!(listed.len(), 1, "the one that was given up is gone");
        assert_eq!(listed[0].report.figures.consumers, 2);
        let view = listed[0].subscription.as_ref().unwrap();
        assert!(view.active && view.spec == shared());
    });
}

#[test]
fn a_topic_without_subscriptions_confirms_at_once_and_with_some_a_full_store_refuses() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        world.send(session, "a", &[1, 2]);
        assert_eq!(answers(&inbox), ["committed 1 2"]);
        world.store.refuse_sends(true);
        world.directory.look_at_store();
        world.send(session, "a", &[3]);
        assert_eq!(answers(&inbox), ["committed 3"]);
        world.subscribe(session, durable("a"));
        world.settle_down().await;
        let submits = world.store.submits();
        world.send(session, "a", &[4]);
        assert_eq!(answers(&inbox), ["attached", "refused 4"]);
        world.directory.deactivate("over");
        let error = world.directory.subscribe(key(session), 1, anonymous("a"));
        assert_eq!(error, Err(Unavailable::NotServing.to_string()));
        assert_eq!(world.store.submits(), submits);
    });
}

#[test]
fn the_next_term_has_the_durable_ones_and_drops_the_others() {
    local(async {
        let world = World::storing();
        let (session, _inbox) = world.directory.open_session();
        let name = world.subscribe(session, durable("a"));
        world.subscribe(session, anonymous("a"));
        let temporary = DestinationName::new(DestinationKind::TemporaryQueue, "x/y").unwrap();
        world.directory.make_temporary(session, &temporary).unwrap();
        let port = world.directory.resolve(&temporary).unwrap();
        world.publish(&port, session, &[9]);
        world.settle_down().await;
        world.send(session, "a", &[1, 2]);
        world.settle_down().await;
        assert_eq!(world.store.owed(), 5);
        world.directory.activate();
        world.settle_down().await;
        assert_eq!(world.store.owed(), 2);
        assert_eq!(world.store.destinations().len(), 1);
        let (session, inbox) = world.directory.open_session();
        world.send(session, "a", &[3]);
        assert_eq!(world.subscribe(session, durable("a")), name);
        world.settle_down().await;
        assert_eq!(deliveries(&inbox).len(), 3);
    });
}

#[test]
fn deleting_is_confirmed_once_it_is_durable() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let identity = durable("a").identity;
        let directory = &world.directory;
        directory.forget_subscription(session, &identity, RequestNumber(1));
        assert_eq!(answers(&inbox), ["refused 1"]);
        let name = world.subscribe(session, durable("a"));
        world.settle_down().await;
        world.send(session, "a", &[2]);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["attached", "committed 2"]);
        world.store.hold(true);
        directory.forget_subscription(session, &identity, RequestNumber(3));
        world.settle_down().await;
        assert!(!inbox.has_answer());
        assert_eq!(directory.resolve(&name).err(), Some(Unavailable::Gone));
        world.store.hold(false);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["committed 3"]);
        assert_eq!(world.store.owed(), 0);
    });
}

#[test]
fn a_temporary_queue_goes_with_its_session() {
    local(async {
        let world = World::storing();
        let directory = &world.directory;
        let (owner, _inbox) = directory.open_session();
        let (other, _other_inbox) = directory.open_session();
        let scope = directory.temporary_scope(owner);
        assert_ne!(scope, directory.temporary_scope(other));
        let name = format!("{scope}/answers");
        let name = DestinationName::new(DestinationKind::TemporaryQueue, &name).unwrap();
        assert_eq!(directory.resolve(&name).err(), Some(Unavailable::Gone));
        directory.make_temporary(owner, &name).unwrap();
        world.publish(&directory.resolve(&name).unwrap(), other, &[1]);
        world.settle_down().await;
        assert_eq!(world.store.owed(), 1);
        directory.close_session(owner);
        world.settle_down().await;
        assert_eq!(world.store.owed(), 0);
        assert_eq!(directory.resolve(&name).err(), Some(Unavailable::Gone));
    });
}

#[test]
fn subscriptions_count_as_destinations() {
    local(async {
        let world = World::new(DirectoryConfig {
            destinations_max: 1,
            ..DirectoryConfig::default()
        });
        world.directory.activate();
        let (session, _inbox) = world.directory.open_session();
        world.subscribe(session, durable("a"));
        let refused = world.directory.subscribe(key(session), 1, anonymous("a"));
        assert_eq!(refused, Err(Unavailable::TooMany(1).to_string()));
    });
}

#[test]
fn a_browser_reads_past_the_queue() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let port = world.port("q");
        world.publish(&port, session, &[1, 2, 3]);
        world.attach(&port, session);
        world.settle_down().await;
        assert_eq!(deliveries(&inbox).len(), 3);
        let (looker, seen) = world.directory.open_session();
        world.directory.browse(key(looker), &queue("q"), 2, None);
        world.settle_down().await;
        assert_eq!(answers(&seen), ["attached"]);
        let count = |event: Option<SessionEvent>| match event {
            Some(SessionEvent::Delivered { deliveries, .. }) => deliveries.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(count(seen.take_delivery(100)), 2);
        assert!(!seen.has_delivery());
        world.directory.browser_settled(key(looker), 2);
        world.settle_down().await;
        assert_eq!(count(seen.take_delivery(100)), 1);
        let end = seen.take_delivery(100);
        assert!(matches!(end, Some(SessionEvent::Browsed { consumer: 1 })));
        world
            .directory
            .browse(key(session), &queue("none"), 2, None);
        assert!(inbox.has_delivery(), "the end of nothing");
        assert_eq!(
            world.directory.describe().len(),
            1,
            "looking makes no queue"
        );
        assert_eq!(world.store.owed(), 3);
    });
}

#[test]
fn what_begins_during_a_drain_counts_no_failures_either() {
    local(async {
        let world = World::storing();
        world.store.hold(true);
        let (session, inbox) = world.directory.open_session();
        let name = world.subscribe(session, durable("a"));
        world.send(session, "a", &[1]);
        let drain = Order::Drain("a hand-over".to_owned());
        world.directory.order_all(&drain);
        world.store.hold(false);
        world.settle_down().await;
        assert_eq!(deliveries(&inbox).len(), 1);
        let port = world.directory.resolve(&name).unwrap();
        let detach = DestinationCommand::Detach {
            consumer: key(session),
        };
        world.directory.command(&port, vec![detach]);
        world.directory.leave_subscription(key(session), &name);
        let (next, inbox) = world.directory.open_session();
        world.subscribe(next, durable("a"));
        world.settle_down().await;
        let again = inbox.take_delivery(usize::MAX);
        let Some(SessionEvent::Delivered { deliveries, .. }) = again else {
            panic!("{again:?}");
        };
        let seen: Vec<(bool, u32)> = deliveries
            .iter()
            .map(|it| (it.redelivered, it.failures))
            .collect();
        assert_eq!(seen, [(true, 0)]);
    });
}
