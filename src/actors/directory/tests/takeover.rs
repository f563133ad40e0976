//! A durable subscription goes to whoever subscribed to it last.

use super::topics::{anonymous, answers, durable, key};
use super::*;
use crate::machines::subscriptions::SubscriptionSpec;

/// What a session is told at its end, if it was ordered to close.
fn last_words(inbox: &Inbox) -> Option<String> {
    match inbox.ordered() {
        Order::Close(reason) => Some(reason),
        Order::Run | Order::Drain(_) => None,
    }
}

fn owe_one(world: &World) {
    let (producer, _inbox) = world.directory.open_session();
    world.send(producer, "a", &[1]);
}

#[test]
fn the_newest_consumer_takes_a_durable_subscription_with_what_the_older_one_holds() {
    local(async {
        let world = World::serving();
        let (ghost, ghost_inbox) = world.directory.open_session();
        let name = world.subscribe(ghost, durable("a"));
        world.settle_down().await;
        owe_one(&world);
        world.settle_down().await;
        let held = deliveries(&ghost_inbox);
        assert!(matches!(held[..], [(_, false)]), "{held:?}");
        let (newest, inbox) = world.directory.open_session();
        assert_eq!(world.subscribe(newest, durable("a")), name);
        world.settle_down().await;
        assert_eq!(answers(&inbox), ["attached"]);
        assert_eq!(deliveries(&inbox), [(held[0].0, true)]);
        let said = last_words(&ghost_inbox).expect("it is closed");
        assert!(said.contains("client-id \"ann\""), "{said}");
        // Its end comes later and takes nothing away.
        world.directory.leave_subscription(key(ghost), &name);
        world.directory.close_session(ghost);
        owe_one(&world);
        world.settle_down().await;
        assert_eq!(deliveries(&inbox).len(), 1);
        assert_eq!(last_words(&inbox), None);
    });
}

#[test]
fn one_that_waits_for_its_subscription_gives_way_too() {
    local(async {
        let world = World::serving();
        world.store.hold(true);
        let (first, first_inbox) = world.directory.open_session();
        let (second, second_inbox) = world.directory.open_session();
        world.subscribe(first, durable("a"));
        world.subscribe(second, durable("a"));
        world.store.hold(false);
        world.settle_down().await;
        assert!(last_words(&first_inbox).is_some());
        assert_eq!(answers(&second_inbox), ["attached"]);
        owe_one(&world);
        world.settle_down().await;
        assert_eq!(deliveries(&second_inbox).len(), 1);
        assert!(deliveries(&first_inbox).is_empty());
    });
}

#[test]
fn whoever_wants_something_else_takes_nothing_from_one_that_lives() {
    local(async {
        let world = World::serving();
        let shared = || SubscriptionSpec {
            shared: true,
            ..durable("a")
        };
        let (first, first_inbox) = world.directory.open_session();
        world.subscribe(first, durable("a"));
        world.settle_down().await;
        // The same connection again, and another kind: refused as ever.
        let again = world.directory.subscribe(key(first), 9, durable("a"));
        assert!(again.unwrap_err().contains("has a consumer already"));
        let (other, _inbox) = world.directory.open_session();
        let other_kind = world.directory.subscribe(key(other), 9, shared());
        assert!(other_kind.unwrap_err().contains("is not shared"));
        world
            .directory
            .subscribe(key(other), 9, anonymous("a"))
            .unwrap();
        assert_eq!(last_words(&first_inbox), None);
        let (newest, _inbox) = world.directory.open_session();
        let another = world.directory.subscribe(key(newest), 9, durable("b"));
        assert!(another.unwrap_err().contains("has a consumer already"));
        assert_eq!(last_words(&first_inbox), None);
    });
}
