use std::sync::{Arc, Mutex};

use super::*;
use crate::actors::directory::tests::World;
use crate::machines::delivery::{ConsumerKey, ConsumerTraits, SessionKey};
use crate::machines::policy::{DestinationPolicy, Policies};
use crate::machines::selector::{Dialect, Selector};
use crate::proto::message::{Envelope, MessageWriter, Properties};
use crate::proto::pattern::NamePattern;
use crate::storage::api::{Entry, LogStore};

fn message(n: u32, headers: &[(&str, &str)]) -> Bytes {
    let mut writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 64);
    writer.header("n", &n.to_string());
    for (name, value) in headers {
        writer.header(name, value);
    }
    writer.finish(b"body").unwrap()
}

/// What was answered.
struct Answer<T>(Arc<Mutex<Option<Result<T, AdministrationError>>>>);

impl<T: Send + 'static> Answer<T> {
    fn new() -> (Reply<T>, Self) {
        let slot = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&slot);
        (
            Box::new(move |answer| *slot.lock().unwrap() = Some(answer)),
            Self(kept),
        )
    }

    #[track_caller]
    fn get(&self) -> Result<T, AdministrationError> {
        self.0.lock().unwrap().take().expect("an answer")
    }
}

impl World {
    fn fill(&self, queue: &str, from: u32, messages: Vec<Bytes>) {
        let port = self.port(queue);
        let number = |at: usize| RequestNumber(from + u32::try_from(at).unwrap());
        let messages = messages.into_iter().enumerate();
        let messages = messages
            .map(|(at, message)| (number(at), message))
            .collect();
        let session = SessionKey(77);
        let publish = DestinationCommand::Publish { session, messages };
        self.directory.command(&port, vec![publish]);
    }

    async fn filled(queue: &str, count: u32) -> Self {
        let world = Self::serving();
        world.fill(queue, 1, (0..count).map(|n| message(n, &[])).collect());
        world.settle_down().await;
        world
    }

    /// A queue with three messages in the store and three in memory alone, in turns.
    async fn half_in_memory(queue: &str) -> Self {
        let world = Self::serving();
        let passing = |n: u32| {
            let envelope = Envelope {
                persistent: n.is_multiple_of(2),
                ..Envelope::default()
            };
            let mut writer = MessageWriter::new(&envelope, &Properties::default(), 64);
            writer.header("n", &n.to_string());
            writer.finish(b"body").unwrap()
        };
        world.fill(queue, 1, (0..6).map(passing).collect());
        world.settle_down().await;
        assert_eq!(world.store.owed(), 3);
        world
    }

    async fn sweep(&self, order: SweepOrder) -> Result<SweepProgress, AdministrationError> {
        let (reply, answer) = Answer::new();
        self.directory
            .administer(Administration::Sweep(order, reply));
        self.settle_down().await;
        answer.get()
    }

    fn depth(&self, name: &str) -> u64 {
        let all = self.directory.describe();
        let found = all.iter().find(|it| it.name == name);
        found.map_or(0, |it| it.report.figures.depth)
    }

    /// What is owed here.
    async fn entries(&self, name: &str) -> Vec<Entry> {
        let (reply, answer) = Answer::new();
        let query = BrowseQuery {
            name: name.to_owned(),
            after: Lsn::ZERO,
            limit: 256,
        };
        self.directory
            .administer(Administration::Browse(query, reply));
        self.settle_down().await;
        answer.get().unwrap().entries
    }

    /// The same, by the header `n`.
    async fn contents(&self, name: &str) -> Vec<String> {
        let number = |entry: &Entry| {
            let read = crate::proto::message::Message::read(&entry.message).unwrap();
            let (_, number) = read.headers().next().unwrap();
            number.to_owned()
        };
        self.entries(name).await.iter().map(number).collect()
    }

    /// The headers of each message that is owed here.
    async fn headers(&self, name: &str) -> Vec<Vec<(String, String)>> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let headers = |entry: &Entry| {
            let read = crate::proto::message::Message::read(&entry.message).unwrap();
            read.headers().map(owned).collect()
        };
        self.entries(name).await.iter().map(headers).collect()
    }

    async fn delete(&self, name: &str, messages: u64) -> Result<u64, AdministrationError> {
        let answer = self.begin_to_delete(name, messages);
        self.settle_down().await;
        answer.get().map(|gone| gone.messages)
    }

    fn begin_to_delete(&self, name: &str, messages: u64) -> Answer<Deletion> {
        let (reply, answer) = Answer::new();
        let asked = Administration::Delete(name.to_owned(), messages, reply);
        self.directory.administer(asked);
        answer
    }
}

fn order(name: &str, wish: SweepWish) -> SweepOrder {
    SweepOrder {
        name: name.to_owned(),
        wish,
        selector: None,
        count: u64::MAX,
        after: Lsn::ZERO,
        until: None,
    }
}

fn test(run: impl Future<Output = ()>) {
    crate::actors::testkit::local(run);
}

#[test]
fn a_move_keeps_order_and_makes_the_queue_that_it_moves_to() {
    test(async {
        let world = World::filled("a", 5).await;
        let moved = world
            .sweep(order("/queue/a", SweepWish::Move("/queue/b".to_owned())))
            .await
            .unwrap();
        assert_eq!((moved.report.done, moved.report.complete), (5, true));
        assert_eq!(world.contents("/queue/b").await, ["0", "1", "2", "3", "4"]);
        assert_eq!((world.depth("/queue/a"), world.depth("/queue/b")), (0, 5));
        assert_eq!(world.store.owed(), 5);
        // The next term knows it too.
        assert_eq!(world.store.destinations().len(), 2);
    });
}

#[test]
fn nothing_is_moved_to_what_nobody_can_name() {
    test(async {
        let world = World::filled("a", 1).await;
        for to in ["/quue/parked", "/temp-queue/x", "/queue/", "/topic/x", "/"] {
            let moved = world.sweep(order("/queue/a", SweepWish::Move(to.to_owned())));
            let refused = moved.await.unwrap_err().to_string();
            assert!(
                refused.contains("messages can be moved to a queue, /queue/NAME"),
                "{to}: {refused}"
            );
        }
        assert_eq!(world.depth("/queue/a"), 1);
    });
}

#[test]
fn what_a_consumer_holds_stays_and_what_it_does_not_hold_never_reaches_it() {
    test(async {
        let world = World::filled("a", 5).await;
        let (session, inbox) = world.directory.open_session();
        let consumer = ConsumerKey { session, number: 1 };
        let attach = DestinationCommand::Attach {
            consumer,
            prefetch: 2,
            traits: ConsumerTraits::default(),
        };
        world.directory.command(&world.port("a"), vec![attach]);
        world.settle_down().await;
        let purged = world.sweep(order("/queue/a", SweepWish::Purge)).await;
        let report = purged.unwrap().report;
        assert_eq!((report.done, report.held), (3, 2));
        assert_eq!(world.depth("/queue/a"), 2);
        let lsns = super::super::tests::deliveries(&inbox);
        assert_eq!(lsns.len(), 2);
        let settle = DestinationCommand::Settle {
            consumer,
            lsns: lsns.iter().map(|(lsn, _)| Lsn(*lsn)).collect(),
            outcome: crate::machines::delivery::Outcome::Accepted,
            request: RequestNumber(0),
        };
        world.directory.command(&world.port("a"), vec![settle]);
        world.settle_down().await;
        assert!(super::super::tests::deliveries(&inbox).is_empty());
        assert_eq!((world.depth("/queue/a"), world.store.owed()), (0, 0));
    });
}

#[test]
fn a_selector_and_a_count_pick_the_first_that_fit() {
    test(async {
        let world = World::filled("a", 6).await;
        let selector = Selector::parse("n >= 2", Dialect::TextIsNumeric).unwrap();
        let wanted = SweepOrder {
            selector: Some(selector),
            count: 3,
            ..order("/queue/a", SweepWish::Purge)
        };
        let purged = world.sweep(wanted).await.unwrap();
        assert_eq!(purged.report.done, 3);
        assert_eq!(world.contents("/queue/a").await, ["0", "1", "5"]);
    });
}

#[test]
fn a_batch_waits_for_its_commit_and_a_term_that_ends_answers_nobody() {
    test(async {
        let world = World::filled("a", 3).await;
        world.store.hold(true);
        let (reply, answer) = Answer::new();
        let wanted = order("/queue/a", SweepWish::Move("/queue/b".to_owned()));
        world
            .directory
            .administer(Administration::Sweep(wanted.clone(), reply));
        world.settle_down().await;
        assert!(answer.0.lock().unwrap().is_none(), "nothing is committed");
        let again = world.sweep(wanted).await.unwrap_err();
        assert!(again.to_string().contains("already"), "{again}");
        world.directory.deactivate("the test");
        assert!(answer.0.lock().unwrap().is_none());
        world.store.hold(false);
        world.directory.activate();
        world.settle_down().await;
        assert_eq!((world.depth("/queue/a"), world.depth("/queue/b")), (0, 3));
    });
}

#[test]
fn dead_messages_go_back_to_where_they_came_from() {
    test(async {
        let world = World::serving();
        let dead = |n, origin| message(n, &[("TMQ_ORIGINAL_DESTINATION", origin)]);
        let messages = vec![
            dead(0, "/queue/a"),
            dead(1, "/queue/b"),
            message(2, &[]),
            dead(3, "/subscription/app/gone"),
            dead(4, "/queue/a"),
        ];
        world.fill("dead", 1, messages);
        world.settle_down().await;
        let report = world.sweep(order("/queue/dead", SweepWish::Retry)).await;
        let report = report.unwrap().report;
        assert_eq!((report.done, report.homeless, report.held), (3, 2, 0));
        assert_eq!(world.contents("/queue/a").await, ["0", "4"]);
        assert_eq!(world.contents("/queue/b").await, ["1"]);
        assert_eq!(world.contents("/queue/dead").await, ["2", "3"]);
    });
}

#[test]
fn a_message_that_goes_back_says_no_more_that_it_was_dead() {
    test(async {
        let world = World::serving();
        let written = [
            ("own", "1"),
            ("TMQ_DEAD_REASON", "redelivery-limit"),
            (
                "TMQ_DEAD_CAUSE",
                "it was delivered 3 times and never accepted",
            ),
            ("TMQ_DEAD_TIME", "1234"),
            ("TMQ_DELIVERY_COUNT", "3"),
            ("TMQ_ORIGINAL_DESTINATION", "/queue/a"),
            ("TMQ_ORIGINAL_MESSAGE_ID", "tm-17"),
        ];
        world.fill("dead", 1, vec![message(0, &written), message(1, &written)]);
        world.settle_down().await;
        let wanted = SweepOrder {
            count: 1,
            ..order("/queue/dead", SweepWish::Retry)
        };
        assert_eq!(world.sweep(wanted).await.unwrap().report.done, 1);
        let back = world.headers("/queue/a").await;
        let expected = [("n", "0"), ("own", "1")];
        assert_eq!(
            back,
            [expected.map(|(name, value)| (name.to_owned(), value.to_owned()))]
        );
        // One that is moved stays what it is.
        let wish = SweepWish::Move("/queue/other".to_owned());
        world.sweep(order("/queue/dead", wish)).await.unwrap();
        assert_eq!(world.headers("/queue/other").await[0].len(), 8);
    });
}

#[test]
fn a_store_that_is_almost_full_takes_no_moves_but_purges() {
    test(async {
        let world = World::filled("a", 3).await;
        world.store.refuse_sends(true);
        world.directory.look_at_store();
        let moved = world.sweep(order("/queue/a", SweepWish::Move("/queue/b".to_owned())));
        let refused = moved.await.unwrap_err();
        assert!(refused.to_string().contains("almost full"), "{refused}");
        assert_eq!(world.contents("/queue/a").await.len(), 3);
        let purged = world.sweep(order("/queue/a", SweepWish::Purge)).await;
        assert_eq!(purged.unwrap().report.done, 3);
    });
}

#[test]
fn a_queue_goes_only_empty_or_with_as_many_messages_as_were_named() {
    test(async {
        let world = World::filled("a", 3).await;
        let refused = world.delete("/queue/a", 2).await.unwrap_err();
        assert!(refused.to_string().contains("3 messages"), "{refused}");
        let (session, _inbox) = world.directory.open_session();
        world.attach(&world.port("a"), session);
        world.settle_down().await;
        let refused = world.delete("/queue/a", 3).await.unwrap_err();
        assert!(refused.to_string().contains("consumers"), "{refused}");
        let consumer = ConsumerKey { session, number: 1 };
        let detach = DestinationCommand::Detach { consumer };
        world.directory.command(&world.port("a"), vec![detach]);
        world.settle_down().await;
        assert_eq!(world.delete("/queue/a", 3).await.unwrap(), 3);
        assert_eq!(world.store.destinations().len(), 0);
        let unknown = world.delete("/queue/a", 3).await.unwrap_err();
        assert!(matches!(unknown, AdministrationError::Unknown(_)));
        world.fill("a", 9, vec![message(9, &[])]);
        world.settle_down().await;
        assert_eq!(world.contents("/queue/a").await, ["9"]);
    });
}

#[test]
fn a_queue_in_use_goes_with_what_is_on_its_way_to_it_while_its_senders_wait() {
    test(async {
        let world = World::filled("a", 1).await;
        // The queue holds one for all that is committed, and its sender will be told that it holds two.
        world.store.hold(true);
        world.fill("a", 5, vec![message(5, &[])]);
        world.settle_down().await;
        let answer = world.begin_to_delete("/queue/a", u64::MAX);
        let name = name_of("a").unwrap();
        assert!(world.directory.holds_back(&name));
        let again = world.delete("/queue/a", u64::MAX).await.unwrap_err();
        assert!(again.to_string().contains("already"), "{again}");
        let sender = world.directory.held_back_by(&name);
        let why = sender.as_ref().unwrap().why();
        assert!(why.contains("being deleted"), "{why}");
        let limited = world.directory.limited_now().concat();
        assert!(limited.contains("/queue/a is being deleted"), "{limited}");
        world.directory.look_at_deletions();
        world.settle_down().await;
        assert!(answer.0.lock().unwrap().is_none() && world.directory.holds_any_back());
        world.store.hold(false);
        world.settle_down().await;
        world.directory.look_at_deletions();
        world.settle_down().await;
        let (messages, senders) = (2, 1);
        assert_eq!(answer.get().unwrap(), Deletion { messages, senders });
        assert!(!world.directory.holds_any_back());
        assert_eq!(world.store.destinations().len(), 0);
        world.fill("a", 9, vec![message(9, &[])]);
        world.settle_down().await;
        assert_eq!(world.contents("/queue/a").await, ["9"]);
    });
}

#[test]
fn a_queue_that_is_in_use_for_too_long_stays_and_so_does_one_that_came_to_hold_more() {
    test(async {
        let world = World::filled("a", 1).await;
        for (allowed, patient, expected) in [
            (u64::MAX, false, "in use all the time"),
            (2, true, "3 messages"),
        ] {
            world.store.hold(true);
            world.fill("a", 5, vec![message(5, &[])]);
            world.settle_down().await;
            let answer = world.begin_to_delete("/queue/a", allowed);
            assert!(world.directory.holds_any_back());
            if patient {
                world.store.hold(false);
                world.settle_down().await;
            } else {
                tokio::time::advance(Duration::from_secs(2)).await;
            }
            world.directory.look_at_deletions();
            world.settle_down().await;
            let said = answer.get().unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
            assert!(!world.directory.holds_any_back());
            world.store.hold(false);
            world.settle_down().await;
        }
        assert_eq!(world.depth("/queue/a"), 3);
    });
}

#[test]
fn a_queue_for_the_dead_messages_of_another_stays_until_that_is_gone() {
    test(async {
        let world = World::serving();
        let pattern = NamePattern::parse("a").unwrap();
        let policy = DestinationPolicy {
            redelivery_limit: Some(0),
            ..DestinationPolicy::default()
        };
        let policies = Policies::new(vec![(pattern, policy)]);
        world.directory.set_policies(Arc::new(policies));
        world.fill("a", 1, vec![message(1, &[]), message(2, &[])]);
        let (session, _inbox) = world.directory.open_session();
        let port = world.port("a");
        for number in 1..=2 {
            world.attach(&port, session);
            world.settle_down().await;
            let consumer = ConsumerKey { session, number: 1 };
            let detach = DestinationCommand::Detach { consumer };
            world.directory.command(&port, vec![detach]);
            world.settle_down().await;
            if number == 1 {
                let dead = world.contents("/queue/DMQ").await;
                assert_eq!(dead, ["1", "2"]);
                let refused = world.delete("/queue/DMQ", 9).await.unwrap_err();
                let said = refused.to_string();
                assert!(said.contains("dead messages of /queue/a"), "{said}");
                world.fill("a", 3, vec![message(3, &[])]);
            }
        }
        // Where nobody would have looked for it before the next term.
        let dead = world.contents("/queue/DMQ").await;
        assert_eq!(dead, ["1", "2", "3"]);
        world.delete("/queue/a", 0).await.unwrap();
        world.delete("/queue/DMQ", 3).await.unwrap();
    });
}

#[test]
fn a_move_does_not_go_beyond_the_bound_of_the_queue_that_it_goes_to() {
    test(async {
        let world = World::filled("a", 5).await;
        let pattern = NamePattern::parse("b").unwrap();
        let policy = DestinationPolicy {
            max_messages: Some(3),
            ..DestinationPolicy::default()
        };
        let policies = Policies::new(vec![(pattern, policy)]);
        world.directory.set_policies(Arc::new(policies));
        let to_b = || SweepWish::Move("/queue/b".to_owned());
        let refused = world.sweep(order("/queue/a", to_b())).await.unwrap_err();
        assert!(
            refused.to_string().contains("max_messages = 3"),
            "{refused}"
        );
        assert_eq!(world.contents("/queue/a").await.len(), 5);
        let some = SweepOrder {
            count: 3,
            ..order("/queue/a", to_b())
        };
        assert_eq!(world.sweep(some).await.unwrap().report.done, 3);
        assert_eq!(world.contents("/queue/b").await, ["0", "1", "2"]);
    });
}

#[test]
fn a_move_goes_over_a_bound_of_bytes_by_one_message_at_most() {
    test(async {
        let world = World::filled("a", 5).await;
        let one = u64::try_from(message(1, &[]).len()).unwrap();
        let pattern = NamePattern::parse("b").unwrap();
        let policy = DestinationPolicy {
            max_bytes: Some(one * 2 + 1),
            ..DestinationPolicy::default()
        };
        let policies = Policies::new(vec![(pattern, policy)]);
        world.directory.set_policies(Arc::new(policies));
        let to_b = |count| SweepOrder {
            count,
            ..order("/queue/a", SweepWish::Move("/queue/b".to_owned()))
        };
        for count in [5, 4] {
            let refused = world.sweep(to_b(count)).await.unwrap_err().to_string();
            let said = format!("{count} more of {} bytes", one * count);
            assert!(refused.contains(&said), "{refused}");
        }
        assert_eq!(world.sweep(to_b(3)).await.unwrap().report.done, 3);
        assert_eq!(world.contents("/queue/b").await, ["0", "1", "2"]);
    });
}

#[test]
fn destinations_are_listed_in_pages_by_name() {
    test(async {
        let world = World::serving();
        for name in ["c", "a", "b", "x.1", "x.2"] {
            world.port(name);
        }
        let page = |pattern: Option<&str>, after: Option<&str>| {
            let (reply, answer) = Answer::new();
            let query = DestinationQuery {
                pattern: pattern.map(str::to_owned),
                after: after.map(str::to_owned),
                limit: 2,
                kind: None,
            };
            world
                .directory
                .administer(Administration::List(query, reply));
            let page = answer.get().unwrap();
            let names: Vec<String> = page.destinations.into_iter().map(|it| it.name).collect();
            (names, page.total, page.more)
        };
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            page(None, None),
            (names(&["/queue/a", "/queue/b"]), 5, true)
        );
        let next = page(None, Some("/queue/b"));
        assert_eq!(next, (names(&["/queue/c", "/queue/x.1"]), 5, true));
        assert_eq!(
            page(Some("x.*"), None),
            (names(&["/queue/x.1", "/queue/x.2"]), 2, false)
        );
    });
}

#[test]
fn nothing_is_done_by_a_server_that_does_not_serve() {
    test(async {
        let world = World::new(super::super::DirectoryConfig::default());
        let refused = world.sweep(order("/queue/a", SweepWish::Purge)).await;
        assert_eq!(refused.unwrap_err(), AdministrationError::NotServing);
    });
}

#[test]
fn what_is_in_memory_alone_is_shown_page_by_page() {
    test(async {
        let world = World::half_in_memory("a").await;
        assert_eq!(
            world.contents("/queue/a").await,
            ["0", "2", "4", "1", "3", "5"]
        );
        for limit in [1, 2, 3, 4] {
            let (mut after, mut pages, mut seen) = (Lsn::ZERO, 0, Vec::new());
            loop {
                let (reply, answer) = Answer::new();
                let name = "/queue/a".to_owned();
                let query = BrowseQuery { name, after, limit };
                world
                    .directory
                    .administer(Administration::Browse(query, reply));
                world.settle_down().await;
                let page = answer.get().unwrap();
                assert!(page.entries.len() <= limit);
                seen.extend(page.entries.iter().map(|entry| entry.lsn));
                pages += 1;
                if !page.more {
                    break;
                }
                assert!(page.after > after && pages < 20);
                after = page.after;
            }
            assert_eq!(seen.len(), 6, "pages of {limit}");
            assert!(seen.is_sorted());
        }
    });
}

#[test]
fn what_is_in_memory_alone_is_moved_and_purged_too() {
    test(async {
        let world = World::half_in_memory("a").await;
        let wish = SweepWish::Move("/queue/b".to_owned());
        let moved = world.sweep(order("/queue/a", wish)).await.unwrap();
        assert_eq!((moved.report.done, moved.report.complete), (6, true));
        assert_eq!((world.depth("/queue/a"), world.depth("/queue/b")), (0, 6));
        assert_eq!(world.store.owed(), 6, "it is stored where it went");

        let world = World::half_in_memory("a").await;
        let count = 4;
        let first = SweepOrder {
            count,
            ..order("/queue/a", SweepWish::Purge)
        };
        let purged = world.sweep(first).await.unwrap();
        assert_eq!((purged.report.done, purged.report.complete), (4, true));
        assert_eq!(world.contents("/queue/a").await, ["3", "5"]);
        let rest = SweepOrder {
            after: purged.report.after,
            until: Some(purged.until),
            ..order("/queue/a", SweepWish::Purge)
        };
        let purged = world.sweep(rest).await.unwrap();
        assert_eq!((purged.report.done, purged.report.complete), (2, true));
        assert_eq!((world.depth("/queue/a"), world.store.owed()), (0, 0));
    });
}
