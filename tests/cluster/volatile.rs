//! Messages that are in memory alone, with unmodified stomp.py clients: what is there is shown and can be
//! worked on, what does not fit is stored and stays in order, and a `kill -9` takes it all.

use serde_json::Value;

use crate::support::pair::Pair;
use crate::{client, printed, standalone, test_name};

const PASSING: (&str, &str) = ("persistent", "false");

#[test]
fn what_is_in_memory_is_seen_moved_and_lost_with_the_active() {
    let mut pair = Pair::in_sync(test_name!());
    let mut producer = client(&pair.primary);
    for body in ["one", "two", "three"] {
        producer.send("/queue/fast", body, &[PASSING]);
    }
    producer.send("/queue/fast", "kept", &[]);
    let mut subscriber = client(&pair.primary);
    subscriber.subscribe("s", "/topic/news", &[]);
    let before = pair.primary.status().expect("it runs").store.messages;
    producer.send("/topic/news", "now", &[]);
    assert_eq!(subscriber.await_bodies("s", 1), ["now"]);
    let status = pair.primary.status().expect("it runs");
    assert_eq!(
        (before, status.store.messages),
        (1, 1),
        "the rest is in memory"
    );

    let mut browser = client(&pair.primary);
    browser.subscribe("b", "/queue/fast", &[("browser", "true")]);
    let seen = browser.await_bodies("b", 5);
    assert_eq!(seen[..4], ["one", "two", "three", "kept"]);
    let listed = printed(&pair.primary, &["queue", "show", "fast", "--json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["depth"], 4, "{listed}");
    printed(
        &pair.primary,
        &["queue", "move", "fast", "--to", "slow", "--count", "3"],
    );

    pair.primary.kill();
    pair.secondary.await_state("STANDALONE");
    let mut consumer = client(&pair.secondary);
    consumer.subscribe("f", "/queue/fast", &[]);
    consumer.subscribe("s", "/queue/slow", &[]);
    // The stored one was moved first, and with it the first two of those in memory.
    assert_eq!(consumer.await_bodies("s", 3), ["kept", "one", "two"]);
    consumer.send("/queue/fast", "end", &[]);
    assert_eq!(consumer.await_bodies("f", 1), ["end"], "the third is lost");
}

#[test]
fn a_subscriber_gets_what_memory_has_no_room_for_and_in_order() {
    let (_scene, server) = standalone(test_name!(), &[("limits.volatile_mib", "1")]);
    let mut slow = client(&server);
    slow.subscribe_individually("s", "/topic/big", &[("prefetch-count", "1")]);
    let mut producer = client(&server);
    // Larger ones would be stored in parts.
    let filler = "x".repeat(50_000);
    let sent: Vec<String> = (0..40).map(|number| format!("{number} {filler}")).collect();
    for body in &sent {
        producer.send("/topic/big", body, &[]);
    }
    let stored = server.status().expect("it runs").store.messages;
    assert!((10..40).contains(&stored), "{stored} did not fit");
    for count in 1..=sent.len() {
        slow.await_bodies("s", count);
        let last = &slow.messages("s")[count - 1]["headers"]["ack"];
        let ack = serde_json::json!({"do": "ack", "id": last});
        slow.confirmed(ack, &[]);
    }
    assert_eq!(slow.bodies("s"), sent);
    assert_eq!(server.status().expect("it runs").store.messages, 0);
}
