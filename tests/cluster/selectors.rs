//! Selectors on consumers of queues, with unmodified stomp.py clients.
//!
//! By command, printed: `TWINMQ_SELECTOR_DEPTH=1000000 TWINMQ_BINARY=$PWD/target/release/twinmq
//! cargo test --test cluster -- --nocapture selectors::a_deep`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use twinmq::cli::stomp_client::{Connection, Frame};

use crate::stomp_session::StompSession;
use crate::support::chance::number_from;
use crate::support::eventually::{SOON, eventually, now};
use crate::support::pair::Pair;
use crate::support::server::Server;
use crate::{client, connect, drain, standalone, test_name};

/// Sends these; the colours take turns.
fn send_coloured(producer: &mut StompSession, range: std::ops::Range<usize>) {
    for number in range {
        let colour = ["red", "green", "blue"][number % 3];
        let body = format!("{colour} {number}");
        producer.send("/queue/q", &body, &[("colour", colour)]);
    }
}

fn coloured(colour: &str, range: std::ops::Range<usize>) -> Vec<String> {
    let of_it = range.filter(|number| ["red", "green", "blue"][number % 3] == colour);
    of_it.map(|number| format!("{colour} {number}")).collect()
}

#[track_caller]
fn ack(consumer: &mut StompSession, id: &str, range: std::ops::Range<usize>) {
    for message in &consumer.messages(id)[range] {
        let ack = &message["headers"]["ack"];
        consumer.confirmed(json!({"do": "ack", "id": ack}), &[]);
    }
}

fn is_flagged(message: &Value) -> bool {
    message["headers"]["redelivered"] == "true"
}

#[test]
fn each_consumer_gets_what_its_selector_takes_and_the_rest_stays() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let mut producer = client(&server);
    send_coloured(&mut producer, 0..60);
    let (mut red, mut urgent) = (client(&server), client(&server));
    red.subscribe("r", "/queue/q", &[("selector", "colour = 'red'")]);
    assert_eq!(red.await_bodies("r", 20), coloured("red", 0..60));
    urgent.subscribe("u", "/queue/q", &[("selector", "JMSPriority > 6")]);
    // What comes now is looked at as it comes.
    send_coloured(&mut producer, 60..90);
    let high = [("priority", "9"), ("colour", "green")];
    producer.send("/queue/q", "urgent", &high);
    assert_eq!(red.await_bodies("r", 30), coloured("red", 0..90));
    assert_eq!(urgent.await_bodies("u", 1), ["urgent"]);
    let mut browser = client(&server);
    let looks = [("browser", "true"), ("selector", "colour = 'blue'")];
    browser.subscribe("b", "/queue/q", &looks);
    browser.until("its end", |frame| frame["headers"]["browser"] == "end");
    assert_eq!(browser.bodies("b")[..30], coloured("blue", 0..90));
    let rest = drain(&server.client_address(), "/queue/q");
    let others = [coloured("green", 0..90), coloured("blue", 0..90)].concat();
    let others: BTreeSet<String> = others.into_iter().collect();
    assert_eq!(rest.len(), 60);
    assert_eq!(rest.into_iter().collect::<BTreeSet<_>>(), others);
    let mut wrong = client(&server);
    wrong.say(
        &json!({"do": "subscribe", "id": "w", "destination": "/queue/q",
        "headers": {"selector": "colour == 'red'"}}),
    );
    let error = wrong.await_error();
    assert!(error.contains("the selector is not valid"), "{error}");
    assert!(error.contains("colour == 'red'\\n        ^"), "{error}");
}

#[test]
fn one_for_everything_beside_it_gets_the_rest_and_nobody_gets_one_twice() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let (mut red, mut all) = (client(&server), client(&server));
    red.subscribe_individually(
        "r",
        "/queue/q",
        &[("selector", "colour = 'red'"), ("prefetch-count", "5")],
    );
    all.subscribe("a", "/queue/q", &[]);
    let mut producer = client(&server);
    send_coloured(&mut producer, 0..60);
    // She has five and acknowledges none: the others are anybody's.
    assert_eq!(red.await_bodies("r", 5), coloured("red", 0..15));
    all.await_bodies("a", 55);
    drop(red);
    let bodies = all.await_bodies("a", 60);
    assert_eq!(bodies.iter().collect::<BTreeSet<_>>().len(), 60);
    let flagged = all.messages("a").into_iter().filter(is_flagged);
    let flagged: Vec<Value> = flagged.map(|message| message["body"].clone()).collect();
    assert_eq!(flagged, coloured("red", 0..15));
}

#[test]
fn what_was_picked_and_not_acknowledged_comes_again_from_the_other_server_and_says_so() {
    let mut pair = Pair::in_sync(test_name!());
    let hosts = pair.hosts();
    let mut producer = StompSession::connect(&hosts, &[]);
    send_coloured(&mut producer, 0..120);
    let choosy = [("selector", "colour = 'red'"), ("prefetch-count", "10")];
    let mut red = StompSession::connect(&hosts, &[]);
    red.subscribe_individually("r", "/queue/q", &choosy);
    red.await_bodies("r", 10);
    ack(&mut red, "r", 0..4);
    assert_eq!(red.await_bodies("r", 14), coloured("red", 0..42));
    let dead = pair.active();
    pair.server(dead).kill();
    let mut red = StompSession::connect(&hosts, &[]);
    red.subscribe_individually("r", "/queue/q", &[choosy[0]]);
    assert_eq!(red.await_bodies("r", 36), coloured("red", 12..120));
    // Ten were seen, and nothing else says that it was.
    let flags: Vec<bool> = red.messages("r").iter().map(is_flagged).collect();
    assert_eq!(flags, [vec![true; 10], vec![false; 26]].concat());
    ack(&mut red, "r", 0..36);
    let mut producer = StompSession::connect(&hosts, &[]);
    send_coloured(&mut producer, 120..150);
    assert_eq!(red.await_bodies("r", 46)[36..], coloured("red", 120..150));
    let mut rest = StompSession::connect(&hosts, &[]);
    rest.subscribe("a", "/queue/q", &[]);
    rest.await_bodies("a", 100);
    assert!(!rest.messages("a").iter().any(is_flagged));
}

/// What `status` says of a queue.
fn listed(server: &Server, name: &str) -> Result<Value, String> {
    let output = server.operator(&["status", "--json"]).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let all = status["clients"]["destinations"].as_array().cloned();
    let mut found = all.into_iter().flatten().filter(|one| one["name"] == name);
    found
        .next()
        .ok_or_else(|| format!("{name} is not in {text}"))
}

/// How many messages selectors were shown in the store, once nothing is being read.
#[track_caller]
fn reads(server: &Server) -> u64 {
    let mut reads = 0;
    eventually(SOON, "nothing is read", || {
        let queue = listed(server, "/queue/deep")?;
        if queue["fetching"] == true {
            return Err(format!("{queue}"));
        }
        reads = queue["selector_reads"].as_u64().expect("a number");
        Ok(())
    });
    reads
}

fn send_deep(connection: &mut Connection, wanted: &str, with_receipt: bool) {
    let headers = [("destination", "/queue/deep"), ("wanted", wanted)];
    if with_receipt {
        connection
            .request("SEND", &headers, &[b'm'; 128], SOON)
            .expect("a server that serves confirms");
    } else {
        connection.queue("SEND", &headers, &[b'm'; 128]);
    }
}

#[track_caller]
fn next(connection: &mut Connection, patience: Duration) -> Frame {
    let frame = connection.next(patience).expect("the server serves");
    frame.expect("a match comes in time")
}

fn acknowledge(connection: &mut Connection, frame: &Frame) {
    let id = frame.header("ack").expect("a delivery to be acknowledged");
    connection.queue("ACK", &[("id", &id)], b"");
    connection.flush().expect("the server serves");
}

#[test]
fn a_deep_backlog_is_read_once_and_a_new_match_needs_no_old_entry() {
    let deep = number_from("TWINMQ_SELECTOR_DEPTH");
    let (depth, each) = deep.map_or((20_000, 500), |depth| (depth, 10_000));
    let (_scene, mut server) = standalone(test_name!(), &[]);
    let mut producer = connect(&server.client_address());
    for number in 1..=depth {
        let wanted = if number % each == 0 { "yes" } else { "no" };
        send_deep(&mut producer, wanted, number % 500 == 0 || number == depth);
    }
    // The next term knows nothing of it: all of it is in the store alone.
    server.kill();
    server.start();
    server.await_state("STANDALONE");
    let mut consumer = connect(&server.client_address());
    let from = now();
    let subscribe = [
        ("id", "1"),
        ("destination", "/queue/deep"),
        ("selector", "wanted = 'yes'"),
        ("ack", "client-individual"),
        ("prefetch-count", "1000"),
    ];
    let patience = SOON * 10;
    let early = consumer.request("SUBSCRIBE", &subscribe, b"", patience);
    let mut found = early.expect("it is taken");
    let matches = usize::try_from(depth / each).expect("few");
    while found.len() < matches {
        found.push(next(&mut consumer, patience));
    }
    let first_scan = now().since(from);
    for frame in &found {
        acknowledge(&mut consumer, frame);
    }
    let read = reads(&server);
    assert_eq!(read, depth, "each entry is read once");
    let mut producer = connect(&server.client_address());
    let mut times = Vec::new();
    for _ in 0..50 {
        let from = now();
        send_deep(&mut producer, "yes", false);
        producer.flush().expect("the server serves");
        let frame = next(&mut consumer, SOON);
        times.push(now().since(from).as_micros());
        acknowledge(&mut consumer, &frame);
        send_deep(&mut producer, "no", true);
    }
    assert_eq!(reads(&server) - read, 0, "an old entry was read again");
    times.sort_unstable();
    eprintln!(
        "{depth} messages deep, {matches} of them wanted: all found in {} ms; a new one came after \
         p50 {} us, p90 {} us, at most {} us; {} old entries were read for them",
        first_scan.as_millis(),
        times[25],
        times[45],
        times[49],
        reads(&server) - read
    );
}
