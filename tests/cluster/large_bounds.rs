//! Large messages where queues have rules: they die, are too many, and are moved and sent back by an
//! operator, whole each time.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::bounds::await_listed;
use crate::stomp_session::StompSession;
use crate::support::pair::{Pair, Scene};
use crate::support::server::Server;
use crate::{drain, test_name};

/// Over 64 KiB: such a body is in parts.
const BYTES: usize = 300_000;

fn body(number: u32) -> String {
    format!("{number:04}").repeat(BYTES / 4)
}

fn bodies(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(body).collect()
}

fn client(hosts: &str) -> StompSession {
    StompSession::connect(hosts, &[])
}

#[track_caller]
fn send(hosts: &str, queue: &str, numbers: std::ops::RangeInclusive<u32>) {
    let mut client = client(hosts);
    for number in numbers {
        client.send(queue, &body(number), &[("own", &number.to_string())]);
    }
}

/// Everything in a queue, which is as it was sent.
#[track_caller]
fn assert_holds(hosts: &str, queue: &str, numbers: std::ops::RangeInclusive<u32>) {
    let expected: Vec<u32> = numbers.clone().collect();
    let found = drain(hosts, queue);
    let whole = found == bodies(numbers);
    let starts = found
        .iter()
        .map(|body| (&body[..body.len().min(4)], body.len()));
    assert!(
        whole,
        "{expected:?}, found {:?}",
        starts.collect::<Vec<_>>()
    );
}

#[track_caller]
fn operate(server: &Server, words: &[&str]) -> Result<String, String> {
    let mut command = server.operator(words);
    command.stdin(Stdio::null());
    let output = command.output().expect("the binary under test starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

/// The headers of the one message in a queue, which is refused.
#[track_caller]
fn refuse_one(hosts: &str, queue: &str) -> Value {
    let mut consumer = client(hosts);
    consumer.subscribe_individually("s", queue, &[("prefetch-count", "1")]);
    assert!(consumer.await_bodies("s", 1) == [body(1)], "it is whole");
    let headers = consumer.messages("s")[0]["headers"].clone();
    consumer.confirmed(json!({"do": "nack", "id": headers["ack"]}), &[]);
    headers
}

/// What a dead message says of itself.
#[track_caller]
fn look_at_dead(server: &Server) -> Value {
    let shown = operate(server, &["queue", "browse", "dead", "--json"]).expect("it is there");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["messages"][0]["body_bytes"], BYTES, "{shown}");
    shown["messages"][0]["headers"].clone()
}

#[test]
fn a_large_message_dies_goes_back_and_dies_again_with_the_newest_reason() {
    let settings = [
        ("destination.q.redelivery_limit", "0"),
        ("destination.q.dead_letter", "dead"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    send(&hosts, "/queue/q", 1..=1);
    refuse_one(&hosts, "/queue/q");
    let dead = pair.active();
    let first = await_dead(pair.server(dead));
    pair.server(dead).kill();
    let active = pair.active();
    assert_eq!(active, dead.other());
    assert_eq!(look_at_dead(pair.server(active)), first);
    let retried = operate(pair.server(active), &["queue", "retry", "dead"]);
    assert!(
        retried
            .as_ref()
            .is_ok_and(|said| said.contains("1 messages")),
        "{retried:?}"
    );
    let headers = refuse_one(&hosts, "/queue/q");
    assert_eq!(headers["own"], "1");
    assert_eq!(headers["redelivered"], Value::Null, "{headers}");
    let left = headers.as_object().into_iter().flatten();
    let left: Vec<_> = left.filter(|(name, _)| name.starts_with("TMQ_")).collect();
    assert!(left.is_empty(), "{left:?}");
    let second = await_dead(pair.server(active));
    for (name, value) in [
        ("TMQ_DEAD_REASON", "redelivery-limit"),
        ("TMQ_DELIVERY_COUNT", "1"),
        ("TMQ_ORIGINAL_DESTINATION", "/queue/q"),
    ] {
        assert_eq!(second[name], value, "{second}");
    }
    // It was stored anew, so it is another message that died.
    assert_ne!(
        second["TMQ_ORIGINAL_MESSAGE_ID"],
        first["TMQ_ORIGINAL_MESSAGE_ID"]
    );
    assert_holds(&hosts, "/queue/dead", 1..=1);
    pair.server(dead).start();
    pair.await_in_sync();
    pair.kill_both();
    pair.primary.assert_store_is_sound();
    pair.secondary.assert_store_is_sound();
}

#[track_caller]
fn await_dead(server: &Server) -> Value {
    await_listed(server, "/queue/dead", "it is dead", |it| it["depth"] == 1);
    look_at_dead(server)
}

fn standalone(test: &str, on_full: &str) -> (Scene, Server) {
    let scene = Scene::new(test);
    let mut server = Server::standalone(scene.address, scene.path());
    server.set("destination.q.max_mib", "1");
    server.set("destination.q.on_full", on_full);
    server.set("destination.q.dead_letter", "overflow");
    server.start();
    server.await_state("STANDALONE");
    (scene, server)
}

#[test]
fn large_messages_count_whole_and_the_oldest_go_for_the_newest() {
    let (_scene, mut server) = standalone(test_name!(), "drop_oldest");
    let hosts = server.client_address();
    send(&hosts, "/queue/q", 1..=10);
    // Three are less than 1 MiB, four are more.
    let listed = await_listed(&server, "/queue/q", "the oldest are gone", |it| {
        it["depth"] == 3
    });
    assert_eq!(listed["dropped"], 7, "{listed}");
    assert!(
        listed["bytes"].as_u64() >= Some(3 * BYTES as u64),
        "{listed}"
    );
    server.kill();
    server.assert_store_is_sound();
    server.start();
    server.await_state("STANDALONE");
    send(&hosts, "/queue/q", 11..=11);
    await_listed(&server, "/queue/q", "one more is gone", |it| {
        it["depth"] == 3 && it["dropped"] == 1
    });
    assert_holds(&hosts, "/queue/q", 9..=11);
}

#[test]
fn the_oldest_large_messages_go_to_the_dead_message_queue_and_none_is_lost_by_a_kill() {
    let (_scene, mut server) = standalone(test_name!(), "dead_letter");
    let hosts = server.client_address();
    send(&hosts, "/queue/q", 1..=10);
    // Perhaps before the last are moved.
    server.kill();
    server.start();
    server.await_state("STANDALONE");
    send(&hosts, "/queue/q", 11..=12);
    await_listed(&server, "/queue/q", "the oldest are moved", |it| {
        it["depth"] == 3
    });
    assert_holds(&hosts, "/queue/overflow", 1..=9);
    assert_holds(&hosts, "/queue/q", 10..=12);
    server.kill();
    server.assert_store_is_sound();
}

#[test]
fn an_operator_moves_large_messages_as_far_as_there_is_room_and_they_survive_a_kill() {
    let settings = [
        ("destination.small.max_mib", "1"),
        ("destination.small.on_full", "reject"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let hosts = pair.hosts();
    send(&hosts, "/queue/from", 1..=6);
    let dead = pair.active();
    let to_small = ["queue", "move", "from", "--to", "small"];
    let refused = operate(pair.server(dead), &to_small).expect_err("they are too many");
    assert!(refused.contains("max_mib = 1"), "{refused}");
    let to_small = ["queue", "move", "from", "--to", "small", "-n", "4"];
    let moved = operate(pair.server(dead), &to_small);
    assert!(
        moved
            .as_ref()
            .is_ok_and(|said| said.contains("4 messages moved")),
        "{moved:?}"
    );
    let refused = operate(pair.server(dead), &to_small).expect_err("it is full");
    assert!(refused.contains("max_mib = 1"), "{refused}");
    let moved = operate(
        pair.server(dead),
        &["queue", "move", "from", "--to", "rest"],
    );
    assert!(
        moved
            .as_ref()
            .is_ok_and(|said| said.contains("2 messages moved")),
        "{moved:?}"
    );
    pair.server(dead).kill();
    assert_eq!(pair.active(), dead.other());
    let mut consumer = client(&hosts);
    consumer.subscribe("s", "/queue/small", &[]);
    assert!(
        consumer.await_bodies("s", 4) == bodies(1..=4),
        "they are whole"
    );
    assert_holds(&hosts, "/queue/rest", 5..=6);
    assert_eq!(drain(&hosts, "/queue/from"), Vec::<String>::new());
}
