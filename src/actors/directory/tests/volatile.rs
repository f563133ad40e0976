//! Messages that are kept in memory alone: to topics and temporary queues, spilled and not, and shown.

use super::topics::{anonymous, answers, durable, key};
use super::*;
use crate::machines::delivery::Removal;
use crate::machines::policy::Policies;
use crate::machines::subscriptions::Publisher;
use crate::proto::message::{Envelope, MessageWriter, Parts, Properties};
use crate::storage::api::{Draft, GatePolicy, Times};

fn message(n: u32, persistent: bool) -> Bytes {
    let envelope = Envelope {
        persistent,
        ..Envelope::default()
    };
    let mut writer = MessageWriter::new(&envelope, &Properties::default(), 4);
    writer.header("n", &n.to_string());
    writer.finish(b"body").unwrap()
}

/// With its body in parts.
fn large(n: u32) -> Bytes {
    let mut writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 4);
    writer.header("n", &n.to_string());
    let mut parts = Parts::default();
    assert!(parts.push(Lsn(1), 4));
    writer.finish_in_parts(&parts).unwrap()
}

/// With room in memory for so many messages.
fn with_room(messages: usize) -> World {
    let world = World::new(DirectoryConfig {
        volatile_bytes: messages * (message(1, true).len() + 128),
        ..DirectoryConfig::default()
    });
    world.directory.activate();
    world
}

impl World {
    fn sends(&self, session: SessionKey, topic: &str, messages: Vec<(u32, Bytes)>) {
        let publisher = Publisher {
            session,
            client_id: None,
        };
        let sends = messages.into_iter().map(|(request, message)| TopicSend {
            request: RequestNumber(request),
            topic: DestinationName::new(DestinationKind::Topic, topic).unwrap(),
            message,
        });
        self.directory.publish_to_topics(publisher, sends.collect());
    }

    fn settle(&self, session: SessionKey, name: &DestinationName, lsns: &[u64]) {
        let port = self.directory.resolve(name).unwrap();
        let settle = DestinationCommand::Settle {
            consumer: key(session),
            lsns: lsns.iter().copied().map(Lsn).collect(),
            outcome: Outcome::Accepted,
            request: RequestNumber(0),
        };
        self.directory.command(&port, vec![settle]);
    }
}

/// The header `n` of what was delivered, with `+` if it was in memory.
fn numbers(inbox: &Inbox) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(event) = inbox.take_delivery(usize::MAX) {
        let SessionEvent::Delivered { deliveries, .. } = event else {
            continue;
        };
        all.extend(deliveries.iter().map(|it| {
            let read = crate::proto::message::Message::read(&it.message).unwrap();
            let n = read.headers().next().map_or("", |(_, value)| value);
            format!("{n}{}", if it.lsn.is_volatile() { "+" } else { "" })
        }));
    }
    all
}

#[test]
fn a_topics_message_is_stored_for_durable_ones_and_in_memory_for_others() {
    local(async {
        let world = World::serving();
        let (durably, saved) = world.directory.open_session();
        let (passing, seen) = world.directory.open_session();
        world.subscribe(passing, anonymous("a"));
        world.settle_down().await;
        let (producer, inbox) = world.directory.open_session();
        let submits = world.store.submits();
        world.sends(producer, "a", vec![(1, message(1, true))]);
        assert_eq!(answers(&inbox), ["committed 1"], "nobody waits for a disk");
        world.settle_down().await;
        assert_eq!(numbers(&seen), ["1+"]);
        assert_eq!(world.store.submits(), submits);
        world.subscribe(durably, durable("a"));
        world.settle_down().await;
        world.store.hold(true);
        world.sends(producer, "a", vec![(2, message(2, true))]);
        world.settle_down().await;
        assert!(!inbox.has_answer());
        assert_eq!(numbers(&seen), ["2+"]);
        world.store.hold(false);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["committed 2"]);
        assert_eq!(numbers(&saved), ["2"]);
        assert_eq!(world.store.owed(), 1);
        world.store.refuse_sends(true);
        world.directory.look_at_store();
        world.sends(producer, "a", vec![(3, message(3, true))]);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["refused 3"]);
        assert!(numbers(&seen).is_empty(), "it is for all or for nobody");
    });
}

#[test]
fn what_memory_has_no_room_for_is_stored_once_for_all_and_comes_in_order() {
    local(async {
        let world = with_room(4);
        let subscribe = |_| {
            let (session, inbox) = world.directory.open_session();
            let name = world.subscribe(session, anonymous("a"));
            (session, inbox, name)
        };
        let all: Vec<_> = (0..2).map(subscribe).collect();
        world.settle_down().await;
        let (producer, inbox) = world.directory.open_session();
        world.store.hold(true);
        let sends = |from: u32, to: u32| (from..=to).map(|n| (n, message(n, true))).collect();
        world.sends(producer, "a", sends(1, 4));
        assert_eq!(answers(&inbox), ["committed 1 2"]);
        let (session, _, name) = &all[0];
        world.settle_down().await;
        // There is room again, but older ones are on their way to the store.
        world.settle(*session, name, &[Lsn::volatile(0).0]);
        world.sends(producer, "a", sends(5, 5));
        assert!(!inbox.has_answer());
        world.store.hold(false);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["committed 3 4 5"]);
        assert_eq!(world.store.owed(), 6);
        for (session, inbox, name) in &all {
            let mut lsns = Vec::new();
            let mut seen = Vec::new();
            while let Some(SessionEvent::Delivered { deliveries, .. }) =
                inbox.take_delivery(usize::MAX)
            {
                for it in deliveries {
                    lsns.push(it.lsn.0);
                    seen.push(it.lsn.is_volatile());
                }
            }
            assert_eq!(seen, [true, true, false, false, false]);
            world.settle(*session, name, &lsns);
        }
        world.settle_down().await;
        assert_eq!(world.store.owed(), 0);
        let submits = world.store.submits();
        world.sends(producer, "a", sends(6, 6));
        world.settle_down().await;
        assert_eq!(world.store.submits(), submits, "memory is used again");
    });
}

#[test]
fn a_large_message_comes_first_to_one_that_is_asleep_when_it_is_sent() {
    local(async {
        let world = World::serving();
        let (passing, seen) = world.directory.open_session();
        let (producer, _inbox) = world.directory.open_session();
        world.store.hold(true);
        world.subscribe(passing, anonymous("a"));
        let sends = vec![(1, large(1)), (2, message(2, true))];
        world.sends(producer, "a", sends);
        world.store.hold(false);
        world.settle_down().await;
        assert_eq!(numbers(&seen), ["1", "2"], "none is in memory");
    });
}

#[test]
fn what_an_operator_moves_comes_before_what_is_sent_after_it() {
    local(async {
        let world = World::serving();
        let (from, to) = (world.port("from"), world.port("to"));
        let (producer, _inbox) = world.directory.open_session();
        let send = |port, n, persistent| {
            let publish = DestinationCommand::Publish {
                session: producer,
                messages: vec![(RequestNumber(n), message(n, persistent))],
            };
            world.directory.command(port, vec![publish]);
        };
        send(&to, 1, true);
        send(&from, 2, false);
        world.settle_down().await;
        let id = |name| {
            let term = world.directory.term.borrow();
            term.as_ref().unwrap().by_name[&queue(name)]
        };
        let moved = message(2, false);
        let removal = Removal {
            lsn: world.directory.newest_volatile(id("from")).unwrap(),
            times: Times::of(&moved),
            records: vec![Draft::Put {
                targets: vec![id("to")],
                message: moved,
            }],
        };
        let remove = DestinationCommand::Remove {
            request: RequestNumber(1),
            removals: vec![removal],
            definitions: Vec::new(),
        };
        world.store.hold(true);
        world.directory.command(&from, vec![remove]);
        world.settle_down().await;
        send(&to, 3, false);
        world.settle_down().await;
        world.store.hold(false);
        let (consumer, seen) = world.directory.open_session();
        world.attach(&to, consumer);
        world.settle_down().await;
        assert_eq!(numbers(&seen), ["1", "2", "3"], "none is in memory");
    });
}

#[test]
fn what_was_sent_again_comes_to_nobody_again() {
    local(async {
        let world = World::serving();
        let (durably, saved) = world.directory.open_session();
        let (passing, seen) = world.directory.open_session();
        world.subscribe(durably, durable("a"));
        world.subscribe(passing, anonymous("a"));
        world.settle_down().await;
        let (producer, inbox) = world.directory.open_session();
        let envelope = Envelope {
            duplicate_id: Some("one"),
            ..Envelope::default()
        };
        let writer = MessageWriter::new(&envelope, &Properties::default(), 4);
        let sent = writer.finish(b"body").unwrap();
        world.sends(producer, "a", vec![(1, sent.clone()), (2, sent)]);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["committed 1 2"]);
        assert_eq!(numbers(&saved).len(), 1);
        assert_eq!(numbers(&seen).len(), 1);
        let term = world.directory.term.borrow();
        let pool = &term.as_ref().unwrap().volatile;
        assert!(pool.used() < 512, "one message: {}", pool.used());
    });
}

#[test]
fn two_copies_are_kept_also_of_what_is_not_persistent() {
    local(async {
        let world = World::serving();
        let policy = DestinationPolicy {
            both_copies: true,
            ..DestinationPolicy::default()
        };
        let patterns = ["pay.>", "/topic/pay.>"].map(|it| NamePattern::parse(it).unwrap());
        let policies = patterns.map(|pattern| (pattern, policy.clone()));
        let policies = Policies::new(policies.into());
        world.directory.set_policies(Arc::new(policies));
        world.store.under(GatePolicy::WithPeer);
        let (passing, _seen) = world.directory.open_session();
        world.subscribe(passing, anonymous("pay.>"));
        world.settle_down().await;
        let (producer, inbox) = world.directory.open_session();
        assert_eq!(world.directory.check_copies(&queue("pay.card")), Ok(true));
        world.directory.demand_both(producer, RequestNumber(1));
        let publish = DestinationCommand::Publish {
            session: producer,
            messages: vec![(RequestNumber(1), message(1, false))],
        };
        let port = world.port("pay.card");
        world.directory.command(&port, vec![publish]);
        world.sends(producer, "pay.card", vec![(2, message(2, false))]);
        world.settle_down().await;
        assert_eq!(world.store.owed(), 2);
        assert!(world.directory.both.borrow().is_empty());
        let confirmed = answers(&inbox).join(" ");
        assert!(confirmed.contains('1') && confirmed.contains('2'));
        world.store.under(GatePolicy::Alone);
        world.sends(producer, "pay.card", vec![(3, message(3, false))]);
        assert_eq!(answers(&inbox), ["refused 3"]);
    });
}

#[test]
fn a_browser_sees_what_is_in_memory() {
    local(async {
        let world = World::serving();
        let (producer, _inbox) = world.directory.open_session();
        let publish = DestinationCommand::Publish {
            session: producer,
            messages: (1..=4)
                .map(|n| (RequestNumber(n), message(n, n == 3)))
                .collect(),
        };
        let port = world.port("q");
        world.directory.command(&port, vec![publish]);
        world.settle_down().await;
        let (looker, seen) = world.directory.open_session();
        world.directory.browse(key(looker), &queue("q"), 10, None);
        world.settle_down().await;
        assert_eq!(numbers(&seen), ["1+", "2+", "4+", "3"]);
        assert_eq!(world.store.owed(), 1);
    });
}

#[test]
fn a_temporary_queue_is_in_memory_and_gives_it_back() {
    local(async {
        let world = World::serving();
        let directory = &world.directory;
        let (owner, inbox) = directory.open_session();
        let name = format!("{}/answers", directory.temporary_scope(owner));
        let name = DestinationName::new(DestinationKind::TemporaryQueue, &name).unwrap();
        directory.make_temporary(owner, &name).unwrap();
        let submits = world.store.submits();
        world.publish(&directory.resolve(&name).unwrap(), owner, &[1]);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["committed 1"]);
        assert_eq!(world.store.submits(), submits);
        let used = || directory.term.borrow().as_ref().unwrap().volatile.used();
        assert!(used() > 0);
        directory.close_session(owner);
        world.settle_down().await;
        tokio::task::yield_now().await;
        assert_eq!(used(), 0);
    });
}
