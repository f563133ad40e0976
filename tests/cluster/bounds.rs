//! Destinations with bounds of their own: each policy as an unmodified stomp.py client meets it, on one
//! server and on a pair of which the active is killed.

use serde_json::{Value, json};

use crate::stomp_session::StompSession;
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::Server;
use crate::{drain, standalone, test_name};

const QUEUE: &str = "/queue/q";

fn client(hosts: &str) -> StompSession {
    StompSession::connect(hosts, &[])
}

/// Messages `first` to `last`, each with a receipt.
#[track_caller]
fn send(client: &mut StompSession, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        client.send(QUEUE, &number.to_string(), &[]);
    }
}

/// A SEND that gets an ERROR; gives what it says.
#[track_caller]
fn refused(hosts: &str, destination: &str) -> String {
    let mut client = client(hosts);
    let headers = json!({"receipt": "r"});
    client.say(&json!({
        "do": "send", "destination": destination, "body": "too many", "headers": headers
    }));
    client.await_error()
}

fn texts(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// What a server says of a destination, once it is as wanted.
#[track_caller]
pub(crate) fn await_listed(
    server: &Server,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut found = Value::Null;
    eventually(SOON, what, || {
        let output = server
            .operator(&["status", "--json"])
            .output()
            .map_err(|error| error.to_string())?;
        let status: Value =
            serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let all = status["clients"]["destinations"].as_array().cloned();
        let mut listed = all.into_iter().flatten();
        let listed = listed.find(|one| one["name"] == name).unwrap_or_default();
        if wanted(&listed) {
            found = listed;
            Ok(())
        } else {
            Err(listed.to_string())
        }
    });
    found
}

const REJECT: [(&str, &str); 1] = [("destination.q.max_messages", "3")];

#[test]
fn a_full_queue_refuses_and_takes_again_once_there_is_room() {
    let (_scene, server) = standalone(test_name!(), &REJECT);
    let hosts = server.client_address();
    send(&mut client(&hosts), 1..=3);
    let said = refused(&hosts, QUEUE);
    for word in ["/queue/q is full", "max_messages = 3"] {
        assert!(said.contains(word), "{said}");
    }
    let listed = await_listed(&server, QUEUE, "it is full", |it| it["refused"] == 1);
    assert_eq!(listed["bound"]["reached"], true);
    assert!(listed["bytes"].as_u64() > Some(3), "{listed}");
    let mut consumer = client(&hosts);
    consumer.subscribe("s", QUEUE, &[]);
    assert_eq!(consumer.await_bodies("s", 3), texts(1..=3));
    await_listed(&server, QUEUE, "it is empty", |it| {
        it["depth"] == 0 && it["bytes"] == 0
    });
    send(&mut client(&hosts), 4..=6);
    assert_eq!(consumer.await_bodies("s", 6), texts(1..=6));
    for said in ["a destination is full", "a destination has room again"] {
        let log = server.log();
        assert!(log.contains(said), "{log}");
    }
}

#[test]
fn a_full_queue_is_full_on_the_server_that_takes_over_and_after_a_restart() {
    let settings = [
        ("destination.q.max_messages", "3"),
        ("destination.big.max_mib", "1"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    let mut producer = client(&hosts);
    send(&mut producer, 1..=3);
    let half = "x".repeat(600 << 10);
    producer.send("/queue/big", &half, &[]);
    producer.send("/queue/big", &half, &[]);
    let bytes = |pair: &mut Pair| {
        let active = pair.active();
        let listed = await_listed(pair.server(active), "/queue/big", "two are there", |it| {
            it["depth"] == 2
        });
        listed["bytes"].clone()
    };
    let before = bytes(&mut pair);
    assert!(before.as_u64() > Some(1200 << 10), "{before}");
    // Another server, and then the first one again, from its disk.
    for _ in 0..2 {
        let dead = pair.active();
        pair.server(dead).kill();
        assert_eq!(pair.active(), dead.other());
        assert!(refused(&hosts, QUEUE).contains("/queue/q is full"));
        assert!(refused(&hosts, "/queue/big").contains("max_mib = 1"));
        assert_eq!(bytes(&mut pair), before);
        pair.server(dead).start();
        pair.await_in_sync();
    }
    let mut consumer = client(&hosts);
    consumer.subscribe("s", QUEUE, &[]);
    assert_eq!(consumer.await_bodies("s", 3), texts(1..=3));
}

#[test]
fn a_sender_to_a_full_queue_waits_until_a_consumer_makes_room() {
    let settings = [
        ("destination.q.max_messages", "3"),
        ("destination.q.on_full", "block"),
    ];
    let (_scene, server) = standalone(test_name!(), &settings);
    let hosts = server.client_address();
    let mut producer = client(&hosts);
    send(&mut producer, 1..=3);
    for number in 4..=8 {
        let receipt = json!({"receipt": format!("w{number}")});
        producer.say(&json!({
            "do": "send", "destination": QUEUE, "body": number.to_string(), "headers": receipt
        }));
    }
    await_listed(&server, QUEUE, "a sender waits", |it| {
        it["bound"]["senders_waiting"] == 1 && it["depth"] == 3
    });
    let mut consumer = client(&hosts);
    consumer.subscribe_individually("s", QUEUE, &[("prefetch-count", "1")]);
    for number in 1..=8 {
        let bodies = consumer.await_bodies("s", number);
        assert_eq!(bodies.last(), Some(&number.to_string()));
        let last = consumer.messages("s").pop().expect("it has come");
        consumer.say(&json!({"do": "ack", "id": last["headers"]["ack"]}));
    }
    producer.until("the last receipt", |frame| {
        frame["headers"]["receipt-id"] == "w8"
    });
    await_listed(&server, QUEUE, "nobody waits", |it| {
        it["bound"]["senders_waiting"] == 0 && it["depth"] == 0
    });
}

#[test]
fn a_sender_that_waits_loses_nothing_when_the_active_is_killed_and_is_told_when_it_waits_too_long()
{
    let settings = [
        ("destination.q.max_messages", "2"),
        ("destination.q.on_full", "block"),
        ("limits.block_timeout_ms", "500"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    let mut producer = client(&hosts);
    send(&mut producer, 1..=2);
    let dead = pair.active();
    pair.server(dead).kill();
    assert_eq!(pair.active(), dead.other());
    let said = refused(&hosts, QUEUE);
    for word in [
        "could not take a SEND in time",
        "/queue/q is full",
        "max_messages = 2",
    ] {
        assert!(said.contains(word), "{said}");
    }
    let mut consumer = client(&hosts);
    consumer.subscribe("s", QUEUE, &[]);
    assert_eq!(consumer.await_bodies("s", 2), texts(1..=2));
    send(&mut client(&hosts), 3..=4);
    assert_eq!(consumer.await_bodies("s", 4), texts(1..=4));
}

#[test]
fn the_oldest_go_for_the_newest_and_stay_gone_on_the_other_server() {
    let settings = [
        ("destination.q.max_messages", "5"),
        ("destination.q.on_full", "drop_oldest"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    let mut holder = client(&hosts);
    let mut producer = client(&hosts);
    send(&mut producer, 1..=1);
    holder.subscribe_individually("s", QUEUE, &[("prefetch-count", "1")]);
    holder.await_bodies("s", 1);
    send(&mut producer, 2..=40);
    let active = pair.active();
    let listed = await_listed(pair.server(active), QUEUE, "the oldest are gone", |it| {
        it["depth"] == 5
    });
    assert_eq!(listed["dropped"], 35, "{listed}");
    pair.server(active).kill();
    assert_eq!(pair.active(), active.other());
    // The first was held: it is dropped nowhere.
    let mut expected = texts(1..=1);
    expected.extend(texts(37..=40));
    let mut consumer = client(&hosts);
    consumer.subscribe("s", QUEUE, &[]);
    assert_eq!(consumer.await_bodies("s", 5), expected);
}

#[test]
fn the_oldest_go_to_the_dead_message_queue_and_every_message_is_in_one_place() {
    let settings = [
        ("destination.q.max_messages", "5"),
        ("destination.q.on_full", "dead_letter"),
        ("destination.q.dead_letter", "overflow"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    let mut producer = client(&hosts);
    send(&mut producer, 1..=30);
    let dead = pair.active();
    // Perhaps before the last are moved.
    pair.server(dead).kill();
    let active = pair.active();
    assert_eq!(active, dead.other());
    send(&mut client(&hosts), 31..=40);
    await_listed(pair.server(active), QUEUE, "the oldest are moved", |it| {
        it["depth"] == 5
    });
    let mut consumer = client(&hosts);
    consumer.subscribe("o", "/queue/overflow", &[]);
    assert_eq!(consumer.await_bodies("o", 35), texts(1..=35));
    let headers = &consumer.messages("o")[0]["headers"];
    assert_eq!(headers["TMQ_DEAD_REASON"], "full");
    assert_eq!(headers["TMQ_ORIGINAL_DESTINATION"], QUEUE);
    consumer.subscribe("s", QUEUE, &[]);
    assert_eq!(consumer.await_bodies("s", 5), texts(36..=40));
}

#[test]
fn a_transaction_is_refused_whole_where_it_does_not_fit() {
    let (_scene, server) = standalone(test_name!(), &REJECT);
    let hosts = server.client_address();
    let mut client = client(&hosts);
    client.say(&json!({"do": "begin", "transaction": "t"}));
    for destination in ["/queue/other", QUEUE, QUEUE, QUEUE, QUEUE] {
        let headers = json!({"transaction": "t"});
        client.say(&json!({
            "do": "send", "destination": destination, "body": "x", "headers": headers
        }));
    }
    let headers = json!({"receipt": "c"});
    client.say(&json!({"do": "commit", "transaction": "t", "headers": headers}));
    let said = client.await_error();
    assert!(said.contains("/queue/q is full"), "{said}");
    assert_eq!(drain(&hosts, "/queue/other"), Vec::<String>::new());
    assert_eq!(drain(&hosts, QUEUE), Vec::<String>::new());
}

#[test]
fn a_durable_subscription_that_is_full_refuses_by_name_and_one_that_drops_does_not() {
    let settings = [
        ("destination./topic/news.max_messages", "2"),
        ("destination./topic/ticks.max_messages", "2"),
        ("destination./topic/ticks.on_full", "drop_oldest"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    let mut reader = StompSession::connect(&hosts, &[("client-id", "ann")]);
    for topic in ["news", "ticks"] {
        let headers = [("activemq.subscriptionName", topic)];
        reader.subscribe(topic, &format!("/topic/{topic}"), &headers);
    }
    reader.disconnect();
    let mut producer = client(&hosts);
    for number in texts(1..=2) {
        producer.send("/topic/news", &number, &[]);
    }
    for number in texts(1..=9) {
        producer.send("/topic/ticks", &number, &[]);
    }
    let dead = pair.active();
    let name = "/subscription/ann/ticks";
    await_listed(pair.server(dead), name, "the oldest are gone", |it| {
        it["depth"] == 2 && it["dropped"] == 7
    });
    pair.server(dead).kill();
    assert_eq!(pair.active(), dead.other());
    let said = refused(&hosts, "/topic/news");
    assert!(said.contains("/subscription/ann/news is full"), "{said}");
    let mut reader = StompSession::connect(&hosts, &[("client-id", "ann")]);
    for topic in ["news", "ticks"] {
        let headers = [("activemq.subscriptionName", topic)];
        reader.subscribe(topic, &format!("/topic/{topic}"), &headers);
    }
    assert_eq!(reader.await_bodies("news", 2), texts(1..=2));
    assert_eq!(reader.await_bodies("ticks", 2), texts(8..=9));
}

#[test]
fn subscriptions_and_temporary_queues_count_as_destinations() {
    let (_scene, server) = standalone(test_name!(), &[("limits.max_destinations", "1")]);
    let hosts = server.client_address();
    let mut first = client(&hosts);
    first.subscribe("s", "/topic/a", &[]);
    for destination in ["/topic/b", "/temp-queue/answers", QUEUE] {
        let mut next = client(&hosts);
        next.say(&json!({"do": "subscribe", "id": "s", "destination": destination}));
        let said = next.await_error();
        assert!(
            said.contains("limits.max_destinations"),
            "{destination}: {said}"
        );
    }
    first.unsubscribe("s", &[]);
    client(&hosts).subscribe("s", "/topic/b", &[]);
}
