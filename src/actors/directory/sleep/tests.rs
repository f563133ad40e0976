use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::actors::destination::DestinationReport;
use crate::actors::directory::tests::{World, deliveries, queue};
use crate::actors::inbox::Inbox;
use crate::actors::testkit::local;
use crate::machines::delivery::{
    ConsumerKey, ConsumerTraits, DestinationCommand, Outcome, SessionEvent,
};
use crate::machines::policy::{DestinationPolicy, Policies};
use crate::proto::destination::DestinationKind;
use crate::proto::ids::Lsn;
use crate::proto::message::{Envelope, MessageWriter, Properties};
use crate::proto::pattern::NamePattern;
use crate::storage::api::Draft;

impl World {
    fn id(&self, name: &str) -> DestId {
        self.directory.term.borrow().as_ref().unwrap().by_name[&queue(name)]
    }

    fn sleeps(&self, name: &str) -> bool {
        let id = self.id(name);
        let term = self.directory.term.borrow();
        matches!(term.as_ref().unwrap().known[&id].state, Presence::Asleep(_))
    }

    /// Nobody does anything for as long as it takes to fall asleep.
    async fn idle(&self) {
        for _ in 0..2 {
            tokio::time::sleep(IDLE).await;
            self.directory.look_at_idle();
            self.settle_down().await;
        }
    }

    fn accept(&self, name: &str, session: SessionKey, lsns: &[u64]) {
        let settle = DestinationCommand::Settle {
            consumer: ConsumerKey { session, number: 1 },
            lsns: lsns.iter().copied().map(Lsn).collect(),
            outcome: Outcome::Accepted,
            request: RequestNumber(0),
        };
        self.directory.command(&self.port(name), vec![settle]);
    }

    fn detach(&self, name: &str, session: SessionKey) {
        let consumer = ConsumerKey { session, number: 1 };
        let detach = DestinationCommand::Detach { consumer };
        self.directory.command(&self.port(name), vec![detach]);
    }

    fn report(&self, name: &str) -> DestinationReport {
        let all = self.directory.describe();
        let it = all.iter().find(|it| it.name == format!("/queue/{name}"));
        it.unwrap().report
    }

    /// One message, stored for the queue without its doing.
    fn put(&self, name: &str) {
        let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 4);
        let records = vec![Draft::Put {
            targets: vec![self.id(name)],
            message: writer.finish(b"body").unwrap(),
        }];
        let ticket = crate::storage::api::Ticket::default();
        self.directory.submit(vec![Unit { ticket, records }]);
    }

    fn drop_oldest(&self, most: u64) {
        let policy = DestinationPolicy {
            max_messages: Some(most),
            on_full: OnFull::DropOldest,
            ..DestinationPolicy::default()
        };
        let tables = vec![(NamePattern::parse("/queue/>").unwrap(), policy)];
        self.directory.set_policies(Arc::new(Policies::new(tables)));
    }
}

fn answers(inbox: &Inbox) -> usize {
    let mut count = 0;
    while let Some(event) = inbox.take_answer() {
        if let SessionEvent::Committed { requests } = event {
            count += requests.len();
        }
    }
    count
}

#[test]
fn one_that_nobody_uses_sleeps_and_goes_on_where_it_was() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        world.publish(&world.port("orders"), session, &[1, 2, 3]);
        world.attach(&world.port("orders"), session);
        world.settle_down().await;
        let seen = deliveries(&inbox);
        let lsns: Vec<u64> = seen.iter().map(|(lsn, _)| *lsn).collect();
        assert_eq!(lsns.len(), 3);
        world.accept("orders", session, &lsns[..1]);
        world.detach("orders", session);
        world.publish(&world.port("orders"), session, &[4]);
        world.settle_down().await;
        let before = world.report("orders").figures;
        assert_eq!((before.depth, before.arrived, before.accepted), (3, 4, 1));
        tokio::time::sleep(IDLE).await;
        world.directory.look_at_idle();
        world.settle_down().await;
        assert!(!world.sleeps("orders"), "it was used");
        world.idle().await;
        assert!(world.sleeps("orders"));
        assert_eq!(world.report("orders").figures, before);
        world.attach(&world.port("orders"), session);
        world.settle_down().await;
        let seen = deliveries(&inbox);
        let again: Vec<(u64, bool)> = lsns[1..].iter().map(|lsn| (*lsn, true)).collect();
        assert_eq!(seen[..2], again[..]);
        assert!(seen.len() == 3 && !seen[2].1, "the last one is new");
        world.idle().await;
        assert!(!world.sleeps("orders"), "it has a consumer");
        let all: Vec<u64> = seen.iter().map(|(lsn, _)| *lsn).collect();
        world.accept("orders", session, &all);
        world.settle_down().await;
        let figures = world.report("orders").figures;
        assert_eq!(
            (figures.depth, figures.arrived, figures.accepted),
            (0, 4, 4)
        );
        assert_eq!(world.store.owed(), 0);
    });
}

#[test]
fn one_whose_messages_are_in_memory_alone_or_not_committed_stays_awake() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let envelope = Envelope {
            persistent: false,
            ..Envelope::default()
        };
        let writer = MessageWriter::new(&envelope, &Properties::default(), 4);
        let publish = DestinationCommand::Publish {
            session,
            messages: vec![(RequestNumber(1), writer.finish(b"body").unwrap())],
        };
        world
            .directory
            .command(&world.port("fleeting"), vec![publish]);
        world.settle_down().await;
        world.store.hold(true);
        world.publish(&world.port("slow"), session, &[2]);
        world.settle_down().await;
        world.idle().await;
        world.idle().await;
        assert!(!world.sleeps("fleeting") && !world.sleeps("slow"));
        world.store.hold(false);
        world.settle_down().await;
        world.idle().await;
        world.idle().await;
        assert!(!world.sleeps("fleeting") && world.sleeps("slow"));
        assert_eq!(answers(&inbox), 2);
    });
}

#[test]
fn what_comes_before_it_sleeps_is_carried_out_and_it_stays_awake() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let port = world.port("orders");
        world.publish(&port, session, &[1]);
        world.settle_down().await;
        for is_asked in [false, true] {
            tokio::time::sleep(IDLE).await;
            world.directory.look_at_idle();
            let told = world.take_told();
            if is_asked {
                told.into_iter().for_each(|event| world.pass_on(event));
                assert_eq!(port.depth(), 1, "it is asked whether it may sleep");
                // It is, and has not answered.
                world.publish(&port, session, &[2]);
            }
        }
        world.settle_down().await;
        assert!(!world.sleeps("orders") && !port.is_retired());
        assert_eq!((answers(&inbox), world.store.owed()), (2, 2));
        // Used after it was seen idle, and before the store has answered.
        tokio::time::sleep(IDLE).await;
        world.directory.look_at_idle();
        tokio::time::sleep(IDLE).await;
        world.directory.look_at_idle();
        world.publish(&port, session, &[3]);
        world.settle_down().await;
        assert!(!world.sleeps("orders"));
        assert_eq!((answers(&inbox), world.store.owed()), (1, 3));
    });
}

#[test]
fn commands_with_the_port_of_one_that_sleeps_find_it_again_once() {
    local(async {
        let world = World::serving();
        let (session, inbox) = world.directory.open_session();
        let port = world.port("orders");
        world.publish(&port, session, &[1]);
        world.settle_down().await;
        world.idle().await;
        assert!(world.sleeps("orders") && port.is_retired());
        let commands = vec![
            DestinationCommand::Attach {
                consumer: ConsumerKey { session, number: 1 },
                prefetch: 10,
                traits: ConsumerTraits::default(),
            },
            DestinationCommand::Publish {
                session,
                messages: vec![(RequestNumber(2), Bytes::from_static(b"body"))],
            },
        ];
        let name = queue("orders");
        world.directory.command_or_answer(&name, &port, commands);
        world.settle_down().await;
        let expected = world.report("orders").figures;
        assert_eq!(
            (expected.consumers, expected.arrived, expected.unsettled),
            (1, 2, 2)
        );
        assert_eq!(deliveries(&inbox).len(), 2);
        assert_eq!(answers(&inbox), 2);
        assert_eq!(world.store.owed(), 2);
    });
}

#[test]
fn one_that_sleeps_is_woken_when_its_oldest_messages_have_to_go() {
    local(async {
        let world = World::serving();
        world.drop_oldest(2);
        let (session, _inbox) = world.directory.open_session();
        world.publish(&world.port("news"), session, &[1, 2]);
        world.settle_down().await;
        world.idle().await;
        assert!(world.sleeps("news"));
        // As another destination does with dead messages.
        world.put("news");
        world.settle_down().await;
        assert_eq!(
            (world.store.owed(), world.report("news").figures.dropped),
            (2, 1)
        );
        world.idle().await;
        assert!(world.sleeps("news"));
        world.drop_oldest(1);
        world.settle_down().await;
        assert_eq!(
            (world.store.owed(), world.report("news").figures.dropped),
            (1, 2)
        );
    });
}

#[test]
fn many_are_looked_at_a_few_at_a_time() {
    local(async {
        let world = World::serving();
        let names: Vec<String> = (0..LOOKS_MAX + 10).map(|n| format!("q{n}")).collect();
        for name in &names {
            world.port(name);
        }
        tokio::time::sleep(IDLE).await;
        let mut asleep = Vec::new();
        for _ in 0..2 {
            world.directory.look_at_idle();
            world.settle_down().await;
            asleep.push(names.iter().filter(|name| world.sleeps(name)).count());
        }
        assert_eq!(asleep, [LOOKS_MAX, LOOKS_MAX + 10]);
        let looks = || {
            let term = world.directory.term.borrow();
            term.as_ref().unwrap().sleepers.looks.len()
        };
        assert_eq!(looks(), names.len(), "until they are looked at again");
        tokio::time::sleep(IDLE).await;
        for _ in 0..2 {
            world.directory.look_at_idle();
        }
        assert_eq!(looks(), 0);
    });
}

#[test]
fn what_arrives_while_it_sleeps_is_counted() {
    local(async {
        let world = World::serving();
        let (session, _inbox) = world.directory.open_session();
        world.publish(&world.port("orders"), session, &[1]);
        world.settle_down().await;
        world.idle().await;
        assert!(world.sleeps("orders"));
        // As another destination does with dead messages.
        world.put("orders");
        world.settle_down().await;
        assert!(world.sleeps("orders"));
        let figures = world.report("orders").figures;
        assert_eq!((figures.depth, figures.arrived), (2, 2));
        world.port("orders");
        world.settle_down().await;
        assert!(!world.sleeps("orders"));
        assert_eq!(world.report("orders").figures, figures);
    });
}

#[test]
fn those_that_are_gone_keep_no_others_awake() {
    local(async {
        let world = World::serving();
        let (session, _inbox) = world.directory.open_session();
        for n in 0..2 * LOOKS_MAX {
            let name =
                DestinationName::new(DestinationKind::TemporaryQueue, &format!("q{n}")).unwrap();
            world.directory.make_temporary(session, &name).unwrap();
            world.directory.resolve(&name).unwrap();
        }
        world.directory.close_session(session);
        world.port("orders");
        tokio::time::sleep(IDLE).await;
        world.directory.look_at_idle();
        world.settle_down().await;
        assert!(world.sleeps("orders"));
    });
}
