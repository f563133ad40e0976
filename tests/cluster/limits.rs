//! Each limit is reached by clients, tells them so, shows in `status`, and lets others go on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;
use twinmq::cli::admin_client::AdminClient;
use twinmq::cli::stomp_client::{Connection, Frame, StompError};

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::python;
use crate::support::server::Server;
use crate::{connect, serving, test_name};

const QUEUE: &str = "/queue/q";
const MIB: usize = 1 << 20;
/// A larger body is in parts, and not in memory.
const WHOLE: usize = 60 << 10;
/// So many of these are 40 MiB.
const FILLING: usize = 680;

fn send_to(server: &Server, queue: &str, bytes: usize) -> Result<(), StompError> {
    connect(&server.client_address())
        .request("SEND", &[("destination", queue)], &vec![b'x'; bytes], SOON)
        .map(|_| ())
}

#[track_caller]
fn refused(outcome: Result<(), StompError>, words: &[&str]) {
    let error = outcome.expect_err("it is beyond a limit").to_string();
    for word in words {
        assert!(error.contains(word), "wanted {word}: {error}");
    }
}

/// What `status` says of limits, once it is as wanted.
#[track_caller]
fn await_limits(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) {
    let admin = AdminClient::new(&server.admin_url(), None);
    eventually(SOON, what, || {
        let status = admin.status_json().map_err(|error| error.to_string())?;
        let limits = &status["clients"]["limits"];
        if wanted(limits) {
            Ok(())
        } else {
            Err(limits.to_string())
        }
    });
}

#[track_caller]
fn await_met(server: &Server, limit: &str, count: u64) {
    await_limits(server, limit, |limits| {
        limits["met"][limit].as_u64() >= Some(count)
    });
}

fn says(limits: &Value, words: &str) -> bool {
    let now = limits["now"].as_array();
    now.is_some_and(|now| now.iter().any(|said| said.to_string().contains(words)))
}

/// An unmodified stomp.py client that sends, one after the other; gives its receipts and its error.
fn stomp_py_sends(server: &Server, queue: &str, count: usize, bytes: usize) -> (usize, String) {
    let address = server.client_address();
    let (host, port) = address.split_once(':').expect("an address has a port");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/stomp_send.py");
    let output = Command::new(python::interpreter())
        .args([script, host, port, queue])
        .args([count.to_string(), bytes.to_string()])
        .output()
        .expect("the interpreter starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let receipts = text.matches("\"receipt\"").count();
    let error = text.lines().find(|line| line.contains("\"error\""));
    (receipts, error.unwrap_or_default().to_owned())
}

/// A connection that speaks STOMP by hand, to be silent or deaf as no client is.
struct Raw(TcpStream);

impl Raw {
    fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.client_address()).expect("it listens");
        stream
            .set_read_timeout(Some(SOON))
            .expect("it is longer than nothing");
        Self(stream)
    }

    fn connected(server: &Server) -> Self {
        let mut raw = Self::open(server);
        raw.send("CONNECT\naccept-version:1.2\nhost:x\n\n");
        raw
    }

    fn send(&mut self, frame: &str) {
        let bytes = format!("{frame}\0");
        self.0.write_all(bytes.as_bytes()).expect("it is open");
    }

    /// Everything until the server closes.
    fn read_to_the_end(mut self) -> String {
        let mut bytes = Vec::new();
        // The end of a connection that was given up may be a reset.
        self.0.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Takes and acknowledges `count` messages, those in `arrived` first.
#[track_caller]
fn take(connection: &mut Connection, mut arrived: Vec<Frame>, count: usize) {
    for _ in 0..count {
        let message = if arrived.is_empty() {
            let next = connection.next(SOON).expect("it serves");
            next.expect("there is a message")
        } else {
            arrived.remove(0)
        };
        let ack = message.header("ack").expect("it is to be acknowledged");
        let more = connection.request("ACK", &[("id", &ack)], b"", SOON);
        arrived.extend(more.expect("acknowledgements go through"));
    }
}

#[test]
fn a_store_that_fills_warns_then_holds_senders_back_while_messages_drain() {
    let scene = Scene::new(test_name!());
    let server = serving(
        &scene,
        &[
            ("store.quota_mib", "512"),
            ("store.retain_mib", "16"),
            ("store.checkpoint_mib", "16"),
            ("store.warn_percent", "10"),
            ("store.block_percent", "20"),
            ("limits.block_timeout_ms", "500"),
        ],
    );
    let (sent, error) = stomp_py_sends(&server, QUEUE, 1000, MIB);
    assert!(sent > 50, "{sent}: {error}");
    assert!(error.contains("almost full"), "{error}");
    await_limits(&server, "senders wait", |limits| {
        says(limits, "senders wait")
    });
    await_met(&server, "held_back_by_store", 1);
    await_met(&server, "closed_block_timeout", 1);
    assert!(server.log().contains("the store's room becomes little"));
    let mut consumer = connect(&server.client_address());
    let arrived = consumer.subscribe("0", QUEUE, "client-individual", 10, SOON);
    take(&mut consumer, arrived.expect("it is open"), sent);
    await_limits(&server, "nothing is limited", |limits| {
        limits["now"].as_array().is_some_and(Vec::is_empty)
    });
    send_to(&server, QUEUE, MIB).expect("there is room again");
}

#[test]
fn short_memory_holds_senders_back_until_messages_are_acknowledged() {
    let scene = Scene::new(test_name!());
    let server = serving(&scene, &[("limits.memory_high_mib", "8")]);
    let mut consumer = connect(&server.client_address());
    let mut held = consumer
        .subscribe("0", QUEUE, "client-individual", 1000, SOON)
        .expect("it is open");
    let mut producer = connect(&server.client_address());
    // Held by the consumer, and kept by the server until it acknowledges.
    for _ in 0..200 {
        producer.queue("SEND", &[("destination", QUEUE)], &vec![b'x'; WHOLE]);
    }
    producer.flush().expect("it is open");
    await_limits(&server, "senders wait", |limits| {
        says(limits, "memory_high_mib")
    });
    while held.len() < 130 {
        let next = consumer.next(SOON).expect("it serves");
        held.push(next.expect("7.6 MiB were taken before senders waited"));
    }
    take(&mut consumer, held, 200);
    await_limits(&server, "nothing is limited", |limits| {
        limits["now"].as_array().is_some_and(Vec::is_empty)
    });
    await_met(&server, "held_back_by_memory", 1);
}

/// 40 MiB in a queue.
fn filled(scene: &Scene, settings: &[(&str, &str)]) -> Server {
    let server = serving(scene, settings);
    let mut producer = connect(&server.client_address());
    let (headers, body) = ([("destination", QUEUE)], vec![b'x'; WHOLE]);
    for number in 1..=FILLING {
        if number % 40 == 0 {
            // Few are on their way at any time: it is not the producer that holds much.
            let taken = producer.request("SEND", &headers, &body, SOON);
            taken.expect("there is room");
        } else {
            producer.queue("SEND", &headers, &body);
        }
    }
    server
}

/// A subscriber that never reads.
fn deaf(server: &Server) -> Raw {
    let mut deaf = Raw::connected(server);
    deaf.send(&format!(
        "SUBSCRIBE\nid:0\ndestination:{QUEUE}\nack:client\n\n"
    ));
    deaf
}

/// A consumer gets all messages.
#[track_caller]
fn drains(server: &Server) {
    let mut consumer = connect(&server.client_address());
    let early = consumer.subscribe("0", QUEUE, "auto", 50, SOON);
    for _ in early.expect("it is open").len()..FILLING {
        let next = consumer.next(SOON).expect("it serves");
        assert!(next.is_some(), "a message is missing");
    }
}

#[test]
fn critical_memory_closes_the_connection_that_holds_most() {
    let scene = Scene::new(test_name!());
    let settings = [
        ("limits.memory_high_mib", "16"),
        ("limits.memory_critical_mib", "16"),
        ("limits.slow_consumer_s", "0"),
    ];
    let server = filled(&scene, &settings);
    let bystander = connect(&server.client_address());
    let deaf = deaf(&server);
    await_met(&server, "closed_memory_critical", 1);
    let said = deaf.read_to_the_end();
    assert!(said.contains("CONNECTED"), "{} bytes", said.len());
    drains(&server);
    let gone = bystander.close(SOON);
    assert!(gone.is_ok(), "only the largest was closed: {gone:?}");
}

#[test]
fn one_connection_may_not_hold_more_than_its_share() {
    let scene = Scene::new(test_name!());
    let settings = [
        ("limits.connection_memory_mib", "16"),
        ("limits.slow_consumer_s", "0"),
    ];
    let server = filled(&scene, &settings);
    let _deaf = deaf(&server);
    await_met(&server, "closed_connection_memory", 1);
    assert!(server.log().contains("limits.connection_memory_mib"));
    drains(&server);
}

#[test]
fn a_client_that_does_not_read_is_closed_and_its_messages_go_to_others() {
    let scene = Scene::new(test_name!());
    let server = filled(&scene, &[("limits.slow_consumer_s", "1")]);
    let _deaf = deaf(&server);
    await_met(&server, "closed_slow_consumer", 1);
    assert!(server.log().contains("read nothing for"));
    drains(&server);
}

#[test]
fn connections_are_bounded_in_all_by_address_and_in_their_rate() {
    let scene = Scene::new(test_name!());
    let settings = [
        ("limits.max_connections", "3"),
        ("limits.max_connections_per_address", "2"),
        ("limits.accept_rate", "3"),
    ];
    let server = serving(&scene, &settings);
    let one = connect(&server.client_address());
    let two = connect(&server.client_address());
    let said = Raw::open(&server).read_to_the_end();
    assert!(
        said.contains("`limits.max_connections_per_address`"),
        "{said}"
    );
    await_met(&server, "connections_refused_by_address", 1);
    for connection in [one, two] {
        connection.close(SOON).expect("it serves");
    }
    // Never refused for their pace.
    for _ in 0..6 {
        send_to(&server, QUEUE, 10).expect("it waits its turn");
    }
    await_met(&server, "accepts_delayed", 1);
}

#[test]
fn the_number_of_connections_is_bounded() {
    let scene = Scene::new(test_name!());
    let server = serving(&scene, &[("limits.max_connections", "1")]);
    let _one = connect(&server.client_address());
    let said = Raw::open(&server).read_to_the_end();
    assert!(said.contains("`limits.max_connections`"), "{said}");
    await_limits(&server, "it says so", |limits| {
        says(limits, "limits.max_connections") && limits["met"]["connections_refused"] == 1
    });
}

#[test]
fn silent_connections_are_closed() {
    let scene = Scene::new(test_name!());
    let settings = [
        ("client.connect_timeout_ms", "300"),
        ("limits.idle_timeout_s", "1"),
    ];
    let server = serving(&scene, &settings);
    let said = Raw::open(&server).read_to_the_end();
    assert!(said.contains("connect timeout"), "{said}");
    let said = Raw::connected(&server).read_to_the_end();
    assert!(said.contains("`limits.idle_timeout_s`"), "{said}");
    await_met(&server, "closed_idle", 1);
}

#[test]
fn frames_subscriptions_and_destinations_are_bounded() {
    let scene = Scene::new(test_name!());
    let settings = [
        ("limits.max_body_bytes", "2048"),
        ("limits.max_headers", "8"),
        ("limits.max_header_bytes", "1024"),
        ("limits.max_subscriptions", "1"),
        ("limits.max_destinations", "2"),
    ];
    let server = serving(&scene, &settings);
    send_to(&server, QUEUE, 2048).expect("it is no larger than the limit");
    let (sent, error) = stomp_py_sends(&server, QUEUE, 1, 2049);
    assert!(sent == 0 && error.contains("2048 bytes"), "{error}");
    let send = |headers: &[(&str, &str)]| {
        let mut all = vec![("destination", QUEUE)];
        all.extend(headers);
        let outcome = connect(&server.client_address()).request("SEND", &all, b"", SOON);
        outcome.map(|_| ())
    };
    refused(send(&[("a", "b"); 8]), &["more than 8 headers"]);
    refused(send(&[("a", &"b".repeat(1024))]), &["1024 bytes"]);
    await_met(&server, "closed_frame_limit", 3);
    let mut client = connect(&server.client_address());
    let mut subscribe = |id: &str| client.subscribe(id, QUEUE, "auto", 1, SOON).map(|_| ());
    subscribe("0").expect("the first one");
    refused(subscribe("1"), &["subscriptions"]);
    send_to(&server, "/queue/second", 1).expect("there may be two");
    refused(send_to(&server, "/queue/third", 1), &["destinations"]);
}

#[test]
fn a_destination_with_two_copies_takes_nothing_while_one_server_is_alone() {
    const PAY: &str = "/queue/pay.card";
    let settings = [("destination.pay.>.copies", "2")];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let (sent, error) = stomp_py_sends(&pair.primary, PAY, 10, 100);
    assert_eq!((sent, error.as_str()), (10, ""));
    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    let (sent, error) = stomp_py_sends(&pair.primary, PAY, 1, 100);
    assert!(sent == 0 && error.contains("copies = 2"), "{error}");
    send_to(&pair.primary, QUEUE, 100).expect("one copy is enough for this one");
    await_limits(&pair.primary, "it says so", |limits| {
        says(limits, "copies = 2")
    });
    pair.secondary.start();
    pair.await_in_sync();
    let (sent, error) = stomp_py_sends(&pair.primary, PAY, 1, 100);
    assert_eq!((sent, error.as_str()), (1, ""));
    // Whatever was confirmed is on the other server.
    pair.primary.kill();
    pair.secondary.await_state("STANDALONE");
    let mut consumer = connect(&pair.secondary.client_address());
    let arrived = consumer.subscribe("0", PAY, "client-individual", 100, SOON);
    take(&mut consumer, arrived.expect("it serves"), 11);
}

#[test]
fn the_limit_of_open_files_is_raised_and_one_too_low_for_the_connections_is_named() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start_under(vec!["prlimit".to_owned(), "--nofile=64:512".to_owned()]);
    server.await_status("it serves", |status| status.serving);
    let pid = server.pid().expect("it runs");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<&str> = files
        .expect("the system says it")
        .split_whitespace()
        .collect();
    assert_eq!(files[3..5], ["512", "512"], "{limits}");
    // The stock profile allows 1,024 clients.
    server.await_log("allows this process 512 open files, and limits.max_connections = 1024");
}
