//! The dead message queue, by a profile's policies, as unmodified stomp.py clients see it.

use serde_json::{Value, json};

use crate::stomp_session::StompSession;
use crate::support::pair::Pair;
use crate::test_name;

const QUEUE: &str = "/queue/orders.new";

const POLICY: [(&str, &str); 4] = [
    ("destination.orders.>.redelivery_limit", "1"),
    ("destination.orders.>.redelivery_delay_ms", "50"),
    ("destination.orders.>.dead_letter", "dead.orders"),
    ("destination.orders.>.expired_to_dead_letter", "true"),
];

fn client(pair: &Pair) -> StompSession {
    StompSession::connect(&pair.hosts(), &[])
}

/// Refuses the delivery that is the last of so many.
#[track_caller]
fn refuse(consumer: &mut StompSession, deliveries: usize) -> Value {
    consumer.await_bodies("s", deliveries);
    let last = consumer.messages("s").pop().expect("it has come");
    consumer.confirmed(json!({"do": "nack", "id": last["headers"]["ack"]}), &[]);
    last
}

fn dead(pair: &Pair, count: usize) -> Vec<Value> {
    let mut reader = client(pair);
    reader.subscribe("d", "/queue/dead.orders", &[]);
    reader.await_bodies("d", count);
    reader.messages("d")
}

#[test]
fn a_message_that_is_refused_too_often_goes_there_once_whatever_is_killed() {
    let mut pair = Pair::in_sync_with(test_name!(), &POLICY);
    client(&pair).send(QUEUE, "poison", &[("kind", "x")]);
    let mut consumer = client(&pair);
    consumer.subscribe_individually("s", QUEUE, &[]);
    let first = refuse(&mut consumer, 1);
    assert_eq!(first["headers"]["redelivered"], Value::Null, "{first}");
    let second = refuse(&mut consumer, 2);
    assert_eq!(second["headers"]["redelivered"], "true", "{second}");
    let dead_messages = dead(&pair, 1);
    let headers = &dead_messages[0]["headers"];
    assert_eq!(dead_messages[0]["body"], "poison");
    for (name, value) in [
        ("TMQ_DEAD_REASON", "redelivery-limit"),
        ("TMQ_ORIGINAL_DESTINATION", QUEUE),
        ("TMQ_DELIVERY_COUNT", "2"),
        ("kind", "x"),
        ("destination", "/queue/dead.orders"),
    ] {
        assert_eq!(headers[name], value, "{name}: {headers}");
    }
    // It was acknowledged there; a new one goes there by way of another server, with its count.
    let mut producer = client(&pair);
    producer.send(QUEUE, "second", &[]);
    refuse(&mut consumer, 3);
    // Its count is in the log before this one.
    producer.send("/queue/mark", "x", &[]);
    let active = pair.active();
    pair.server(active).kill();
    assert_eq!(pair.active(), active.other());
    let mut consumer = client(&pair);
    consumer.subscribe_individually("s", QUEUE, &[]);
    let again = refuse(&mut consumer, 1);
    assert_eq!(again["body"], "second");
    let dead_messages = dead(&pair, 1);
    assert_eq!(dead_messages.len(), 1, "{dead_messages:?}");
    assert_eq!(dead_messages[0]["body"], "second");
}

#[test]
fn an_expired_message_goes_there_with_its_reason_and_does_not_expire_again() {
    let mut pair = Pair::in_sync_with(test_name!(), &POLICY);
    let mut producer = client(&pair);
    let headers = [("expires", "1")];
    producer.send(QUEUE, "old", &headers);
    producer.send("/queue/elsewhere", "gone", &headers);
    let active = pair.active();
    pair.server(active).kill();
    assert_eq!(pair.active(), active.other());
    let dead_messages = dead(&pair, 1);
    let headers = &dead_messages[0]["headers"];
    assert_eq!(dead_messages[0]["body"], "old");
    assert_eq!(headers["TMQ_DEAD_REASON"], "expired");
    assert_eq!(headers["TMQ_ORIGINAL_DESTINATION"], QUEUE);
    assert_eq!(headers["expires"], Value::Null, "{headers}");
}

#[test]
fn it_is_full_and_still_takes_what_is_dead_and_is_not_deleted_while_it_is_used() {
    let mut settings = POLICY.to_vec();
    settings.extend([
        ("destination.orders.>.max_messages", "2"),
        ("destination.orders.>.on_full", "dead_letter"),
        ("destination.dead.orders.max_messages", "1"),
        ("destination.dead.orders.on_full", "reject"),
    ]);
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let mut producer = client(&pair);
    for body in ["1", "2", "3", "4", "5"] {
        producer.send(QUEUE, body, &[]);
    }
    let active = pair.active();
    let url = pair.server(active).admin_url();
    let status = || {
        let text = ureq::get(format!("{url}/api/v1/destination?name=/queue/dead.orders"))
            .call()
            .and_then(|mut answer| answer.body_mut().read_to_string());
        text.unwrap_or_default()
    };
    crate::support::eventually::eventually(
        crate::support::eventually::SOON,
        "three are dead",
        || {
            let listed: Value = serde_json::from_str(&status()).unwrap_or_default();
            (listed["depth"] == 3).then_some(()).ok_or_else(status)
        },
    );
    let deleted = pair
        .server(active)
        .operator(&["queue", "delete", "dead.orders", "--yes"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&deleted.stderr);
    assert!(
        said.contains("dead messages of /queue/orders.new"),
        "{said}"
    );
    // A client's own send meets the bound; nothing of the dead is lost on the other server.
    pair.server(active).kill();
    assert_eq!(pair.active(), active.other());
    let mut refused = client(&pair);
    let headers = json!({"receipt": "r"});
    let destination = "/queue/dead.orders";
    refused.say(&json!({
        "do": "send", "destination": destination, "body": "mine", "headers": headers
    }));
    assert!(refused.await_error().contains("is full"));
    let bodies: Vec<Value> = dead(&pair, 3)
        .into_iter()
        .map(|message| message["body"].clone())
        .collect();
    assert_eq!(bodies, ["1", "2", "3"]);
}
