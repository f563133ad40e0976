use std::sync::Mutex;

use super::*;
use crate::actors::testkit::{FakeStore, TestClock, local};
use crate::machines::delivery::{ConsumerKey, ConsumerTraits, Outcome};
use crate::machines::policy::DestinationPolicy;
use crate::proto::pattern::NamePattern;
use crate::storage::api::{LogStore, StoreEvent, StoreSink, Ticket};

mod bounds;
mod load;
mod takeover;
mod topics;
mod volatile;

/// Keeps what the store tells until the test passes it on.
#[derive(Default)]
struct Told(Mutex<Vec<StoreEvent>>);

impl StoreSink for Told {
    fn event(&self, event: StoreEvent) {
        self.0.lock().unwrap().push(event);
    }
}

pub(super) struct World {
    told: Arc<Told>,
    pub(super) store: Arc<FakeStore>,
    pub(super) directory: Rc<Directory>,
}

impl World {
    pub(super) fn new(config: DirectoryConfig) -> Self {
        let told = Arc::new(Told::default());
        let store = FakeStore::new(Arc::clone(&told) as Arc<dyn StoreSink>);
        let shared = Arc::clone(&store) as SharedStore;
        let directory = Directory::new(config, shared, Arc::new(TestClock::new()));
        Self {
            told,
            store,
            directory,
        }
    }

    /// Serves, with default limits.
    pub(super) fn serving() -> Self {
        let world = Self::new(DirectoryConfig::default());
        world.directory.activate();
        world
    }

    /// The same without memory for messages that are not stored.
    fn storing() -> Self {
        let world = Self::new(DirectoryConfig {
            volatile_bytes: 0,
            ..DirectoryConfig::default()
        });
        world.directory.activate();
        world
    }

    pub(super) fn port(&self, name: &str) -> Port<DestinationInput> {
        self.directory.resolve(&queue(name)).unwrap()
    }

    /// Passes on what the store told, and lets the destinations work, until nothing is left.
    pub(super) async fn settle_down(&self) {
        loop {
            while self.directory.backlog() > 0 {
                tokio::task::yield_now().await;
            }
            let events = std::mem::take(&mut *self.told.0.lock().unwrap());
            if events.is_empty() {
                return;
            }
            for event in events {
                self.pass_on(event);
            }
        }
    }

    /// What the store told and nobody passed on.
    pub(super) fn take_told(&self) -> Vec<StoreEvent> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }

    pub(super) fn pass_on(&self, event: StoreEvent) {
        match event {
            StoreEvent::Committed(committed) => self.directory.committed(committed),
            StoreEvent::Fetched(fetched) => self.directory.fetched(fetched),
            StoreEvent::PartsRead { whose, parts } => self.directory.parts_read(whose, parts),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(super) fn publish(
        &self,
        port: &Port<DestinationInput>,
        session: SessionKey,
        requests: &[u32],
    ) {
        let messages = requests
            .iter()
            .map(|request| (RequestNumber(*request), Bytes::from_static(b"body")))
            .collect();
        let publish = DestinationCommand::Publish { session, messages };
        self.directory.command(port, vec![publish]);
    }

    pub(super) fn attach(&self, port: &Port<DestinationInput>, session: SessionKey) {
        let consumer = ConsumerKey { session, number: 1 };
        let prefetch = 100;
        self.directory.command(
            port,
            vec![DestinationCommand::Attach {
                consumer,
                prefetch,
                traits: ConsumerTraits::default(),
            }],
        );
    }
}

pub(super) fn queue(name: &str) -> DestinationName {
    DestinationName::new(DestinationKind::Queue, name).unwrap()
}

pub(super) fn deliveries(inbox: &Inbox) -> Vec<(u64, bool)> {
    let mut all = Vec::new();
    while let Some(SessionEvent::Delivered { deliveries, .. }) = inbox.take_delivery(usize::MAX) {
        all.extend(deliveries.iter().map(|d| (d.lsn.0, d.redelivered)));
    }
    all
}

#[test]
fn a_new_queue_gets_the_next_id_and_is_found_again_by_the_next_term() {
    local(async {
        let world = World::serving();
        let (session, _inbox) = world.directory.open_session();
        // Used first, but nothing is stored in it: its id is free again in the next term.
        world.port("unused");
        world.publish(&world.port("orders"), session, &[1]);
        world.settle_down().await;
        let known = world.store.destinations();
        assert_eq!(known.len(), 1);
        assert_eq!(&known[0].definition[..], b"qorders");
        world.directory.activate();
        let (session, inbox) = world.directory.open_session();
        world.attach(&world.port("orders"), session);
        world.publish(&world.port("more"), session, &[1]);
        world.settle_down().await;
        assert_eq!(deliveries(&inbox).len(), 1);
        let ids: Vec<u32> = world.store.destinations().iter().map(|d| d.id.0).collect();
        assert_eq!(ids, [2, 3]);
    });
}

#[test]
fn one_commit_is_one_post_for_each_destination_and_one_event_for_each_session() {
    local(async {
        let world = World::serving();
        let (orders, more) = (world.port("orders"), world.port("more"));
        let (one, one_inbox) = world.directory.open_session();
        let (two, two_inbox) = world.directory.open_session();
        world.store.hold(true);
        world.publish(&orders, one, &[1, 2]);
        world.publish(&orders, two, &[1]);
        world.publish(&more, one, &[3]);
        world.settle_down().await;
        world.store.hold(false);
        let events = std::mem::take(&mut *world.told.0.lock().unwrap());
        assert_eq!(events.len(), 1);
        events.into_iter().for_each(|event| world.pass_on(event));
        assert_eq!((orders.depth(), more.depth()), (1, 1));
        for (inbox, expected) in [(one_inbox, vec![1, 2, 3]), (two_inbox, vec![1])] {
            let Some(SessionEvent::Committed { requests }) = inbox.take_answer() else {
                panic!("no answer");
            };
            let requests: Vec<u32> = requests.iter().map(|request| request.0).collect();
            assert_eq!(requests, expected);
            assert!(!inbox.has_answer());
        }
    });
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    local(async {
        let world = World::new(DirectoryConfig {
            destinations_max: 1,
            ..DirectoryConfig::default()
        });
        let refused = |name: &DestinationName| world.directory.resolve(name).err().unwrap();
        assert_eq!(refused(&queue("a")), Unavailable::NotServing);
        world.directory.activate();
        let topic = DestinationName::new(DestinationKind::Topic, "news").unwrap();
        assert_eq!(refused(&topic), Unavailable::Gone);
        world.port("a");
        assert_eq!(refused(&queue("b")), Unavailable::TooMany(1));
        assert!(world.directory.resolve(&queue("a")).is_ok());
    });
}

#[test]
fn nothing_is_submitted_after_the_term_even_if_it_was_posted_before() {
    local(async {
        let world = World::serving();
        let port = world.port("orders");
        let (session, inbox) = world.directory.open_session();
        world.publish(&port, session, &[1]);
        world.directory.deactivate("role changed");
        world.publish(&port, session, &[2]);
        while port.depth() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.store.submits(), 0);
        assert_eq!(inbox.ordered(), Order::Close("role changed".to_owned()));
        let (_, late) = world.directory.open_session();
        assert!(matches!(late.ordered(), Order::Close(_)));
    });
}

#[test]
fn what_a_session_has_for_a_destination_that_has_gone_is_answered() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let of_another = DestinationName::new(DestinationKind::TemporaryQueue, "x").unwrap();
        world
            .directory
            .make_temporary(session, &of_another)
            .unwrap();
        let consumer = ConsumerKey { session, number: 1 };
        let commands = || {
            vec![
                DestinationCommand::Publish {
                    session,
                    messages: vec![(RequestNumber(1), Bytes::from_static(b"body"))],
                },
                DestinationCommand::Attach {
                    consumer,
                    prefetch: 1,
                    traits: ConsumerTraits::default(),
                },
                DestinationCommand::Settle {
                    consumer,
                    lsns: vec![Lsn(1)],
                    outcome: Outcome::Accepted,
                    request: RequestNumber(2),
                },
            ]
        };
        for (name, is_refused) in [(queue("orders"), true), (of_another, false)] {
            let port = world.directory.resolve(&name).unwrap();
            {
                let mut term = world.directory.term.borrow_mut();
                let term = term.as_mut().unwrap();
                let id = term.by_name[&name];
                world
                    .directory
                    .drop_destination(term, id, Ticket::default());
            }
            world.directory.command_or_answer(&name, &port, commands());
            let refused =
                |it: Option<SessionEvent>| matches!(it, Some(SessionEvent::Refused { .. }));
            assert_eq!(refused(inbox.take_answer()), is_refused);
            let event = inbox.take_answer();
            assert!(matches!(
                event,
                Some(SessionEvent::NotAttached { consumer: 1, .. })
            ));
            let event = inbox.take_answer();
            assert!(
                matches!(event, Some(SessionEvent::Committed { requests }) if requests == [RequestNumber(2)])
            );
        }
    });
}

#[test]
fn an_answer_to_a_fetch_of_an_earlier_term_is_passed_over() {
    local(async {
        let world = World::serving();
        let (session, _inbox) = world.directory.open_session();
        world.publish(&world.port("orders"), session, &[1, 2, 3]);
        world.settle_down().await;
        world.directory.activate();
        let (session, _inbox) = world.directory.open_session();
        world.attach(&world.port("orders"), session);
        while world.directory.backlog() > 0 {
            tokio::task::yield_now().await;
        }
        let mut stale = std::mem::take(&mut *world.told.0.lock().unwrap());
        assert_eq!(stale.len(), 1, "the fetch was answered");
        // As an answer that was asked from another place.
        if let StoreEvent::Fetched(fetched) = &mut stale[0] {
            fetched.entries.remove(0);
        }
        world.directory.activate();
        let (session, inbox) = world.directory.open_session();
        world.attach(&world.port("orders"), session);
        while world.directory.backlog() > 0 {
            tokio::task::yield_now().await;
        }
        stale.into_iter().for_each(|event| world.pass_on(event));
        world.settle_down().await;
        let lsns: Vec<u64> = deliveries(&inbox).iter().map(|(lsn, _)| *lsn).collect();
        assert_eq!(lsns, [2, 3, 4]);
    });
}

#[test]
fn a_change_of_the_watermark_reaches_destinations_that_are_awake_and_later_ones() {
    local(async {
        let world = World::serving();
        let awake = world.port("awake");
        let (session, inbox) = world.directory.open_session();
        world.store.refuse_sends(true);
        world.directory.look_at_store();
        world.publish(&awake, session, &[1]);
        world.publish(&world.port("later"), session, &[2]);
        world.settle_down().await;
        let mut refused = Vec::new();
        while let Some(SessionEvent::Refused { request, .. }) = inbox.take_answer() {
            refused.push(request.0);
        }
        assert_eq!(refused, [1, 2]);
        world.store.refuse_sends(false);
        world.directory.look_at_store();
        world.publish(&awake, session, &[3]);
        world.settle_down().await;
        assert_eq!(world.store.owed(), 1);
    });
}

#[test]
fn permits_of_a_session_that_ended_come_back_with_its_answers() {
    local(async {
        let world = World::serving();
        let port = world.port("orders");
        let (session, inbox) = world.directory.open_session();
        world.store.hold(true);
        inbox.ledger(|ledger| ledger.publish(RequestNumber(1), 4));
        world.publish(&port, session, &[1]);
        world.settle_down().await;
        world.directory.close_session(session);
        assert_eq!(world.directory.in_flight(), (1, 4));
        assert_eq!(world.directory.sessions(), 1);
        world.store.hold(false);
        world.settle_down().await;
        assert_eq!(world.directory.in_flight(), (0, 0));
        assert_eq!(world.directory.sessions(), 0);
    });
}

#[test]
fn a_message_refused_too_often_is_in_the_dead_message_queue() {
    local(async {
        let world = World::serving();
        let orders = world.port("orders");
        // It is awake already: other policies hold for it, too.
        let policy = DestinationPolicy {
            redelivery_limit: Some(0),
            ..DestinationPolicy::default()
        };
        let tables = vec![(NamePattern::parse("orders").unwrap(), policy)];
        world
            .directory
            .set_policies(Arc::new(Policies::new(tables)));
        let (session, inbox) = world.directory.open_session();
        world.attach(&orders, session);
        world.publish(&orders, session, &[1]);
        world.settle_down().await;
        let lsns = deliveries(&inbox)
            .iter()
            .map(|(lsn, _)| Lsn(*lsn))
            .collect();
        let refuse = DestinationCommand::Settle {
            consumer: ConsumerKey { session, number: 1 },
            lsns,
            outcome: Outcome::Released,
            request: RequestNumber(0),
        };
        world.directory.command(&orders, vec![refuse]);
        world.settle_down().await;
        let (other, other_inbox) = world.directory.open_session();
        world.attach(&world.port("DMQ"), other);
        world.settle_down().await;
        assert_eq!(deliveries(&other_inbox).len(), 1);
        assert_eq!(deliveries(&inbox), []);
        let depths: Vec<u64> = world
            .store
            .destinations()
            .iter()
            .map(|d| d.depth())
            .collect();
        assert_eq!(depths, [0, 1]);
    });
}
