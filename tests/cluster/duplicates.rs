//! Messages that are sent again with their ids: stored once, whatever happened to the server in between,
//! for as long as the window lasts.

use serde_json::Value;
use twinmq::cli::stomp_client::Connection;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::Server;
use crate::support::told::Told;
use crate::{connect, drain, standalone, test_name};

const QUEUE: &str = "/queue/orders";

/// The producer.
struct Producer(Told);

impl Producer {
    fn start(hosts: &str) -> Self {
        Self(Told::start("duplicate_driver.py", &[hosts, QUEUE]))
    }

    /// Sends numbers again that were confirmed, and waits for as many more receipts.
    #[track_caller]
    fn again(&mut self, first: usize, end: usize) {
        let before = self.0.count("receipt");
        self.0.say(&format!("again {first} {end}"));
        self.0.await_count("receipt", before + end - first);
    }
}

/// Messages that the server says it has not stored again: of the queue, and in all.
fn duplicates(server: &Server) -> (u64, u64) {
    let url = format!("{}/api/v1/status", server.admin_url());
    let text = ureq::get(&url)
        .call()
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .expect("the admin port answers");
    let status: Value = serde_json::from_str(&text).expect("status is JSON");
    let listed = status["clients"]["destinations"].as_array();
    let queue = listed
        .into_iter()
        .flatten()
        .find(|destination| destination["name"] == QUEUE)
        .expect("the queue is listed");
    let count = |value: &Value| value.as_u64().expect("a count");
    (
        count(&queue["duplicates"]),
        count(&status["clients"]["duplicates"]),
    )
}

fn send(connection: &mut Connection, id: &str) {
    let headers = [("destination", QUEUE), ("_AMQ_DUPL_ID", id)];
    connection
        .request("SEND", &headers, id.as_bytes(), SOON)
        .expect("a server that serves confirms");
}

#[test]
fn a_producer_that_sends_again_after_kill_9_is_stored_exactly_once() {
    const COUNT: usize = 3000;
    let mut pair = Pair::in_sync_with(test_name!(), &[("store.checkpoint_mib", "1")]);
    let mut producer = Producer::start(&pair.hosts());
    producer.0.say(&format!("send {COUNT}"));
    // Killed while it sends.
    for kill in 1..=2 {
        producer.0.await_count("receipt", COUNT / 4 * kill);
        let dead = pair.active();
        pair.server(dead).kill();
        assert_eq!(pair.active(), dead.other());
        pair.server(dead).start();
        pair.await_in_sync();
    }
    producer.0.await_count("receipt", COUNT);
    producer.0.await_count("connected", 3);
    producer.again(0, COUNT);

    // A store that is filled by a snapshot knows the ids too.
    let active = pair.active();
    let passive = active.other();
    pair.server(passive).kill();
    std::fs::remove_dir_all(pair.server(passive).data_dir()).expect("it is there");
    pair.server(passive).start();
    pair.await_in_sync();
    pair.server(active).kill();
    assert_eq!(pair.active(), passive);
    producer.again(0, COUNT);
    let (of_queue, of_all) = duplicates(pair.server(passive));
    assert!(of_queue >= COUNT as u64, "{of_queue} were told apart");
    assert_eq!(of_queue, of_all);

    // Nobody serves, then the same store again.
    pair.server(passive).kill();
    pair.server(passive).start();
    assert_eq!(pair.active(), passive);
    producer.again(0, COUNT);
    assert_eq!(producer.0.count("error"), 0, "{:?}", producer.0.facts());

    let mut numbers: Vec<usize> = drain(&pair.hosts(), QUEUE)
        .iter()
        .map(|body| body.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    let expected: Vec<usize> = (0..COUNT).collect();
    assert_eq!(numbers.len(), COUNT, "stored more or less than once");
    assert_eq!(numbers, expected);
}

#[test]
fn beyond_the_window_an_id_is_new_again() {
    let (_scene, mut server) = standalone(test_name!(), &[("limits.duplicate_ids", "3")]);
    let hosts = server.client_address();
    let mut connection = connect(&hosts);
    for id in ["a", "b", "c", "d"] {
        send(&mut connection, id);
    }
    // The last three are known, the first is not, and takes the place of the oldest of them.
    for id in ["b", "c", "d", "a", "b"] {
        send(&mut connection, id);
    }
    connection.close(SOON).expect("the server answers");
    assert_eq!(duplicates(&server), (3, 3));
    assert_eq!(drain(&hosts, QUEUE), ["a", "b", "c", "d", "a", "b"]);

    // The bound is in the log: with another one, what is over it goes.
    server.kill();
    server.set("limits.duplicate_ids", "1");
    server.start_and_await();
    let mut connection = connect(&hosts);
    for id in ["b", "e", "b", "e", "b"] {
        send(&mut connection, id);
    }
    assert_eq!(drain(&hosts, QUEUE), ["e", "b", "e", "b"]);
}

#[test]
fn an_id_is_known_for_its_time_only() {
    let window = ("limits.duplicate_window_ms", "1");
    let (_scene, server) = standalone(test_name!(), &[window]);
    let mut connection = connect(&server.client_address());
    eventually(SOON, "it is stored again", || {
        send(&mut connection, "a");
        let stored = server.status()?.store.messages;
        if stored >= 2 {
            Ok(())
        } else {
            Err(format!("{stored}"))
        }
    });
}

#[test]
fn of_a_transaction_only_what_was_stored_before_is_left_out() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let hosts = server.client_address();
    let mut connection = connect(&hosts);
    send(&mut connection, "a");
    let transaction = ("transaction", "t");
    connection.queue("BEGIN", &[transaction], b"");
    for id in ["b", "a", "c", "c"] {
        let headers = [("destination", QUEUE), ("_AMQ_DUPL_ID", id), transaction];
        connection.queue("SEND", &headers, id.as_bytes());
    }
    connection
        .request("COMMIT", &[transaction], b"", SOON)
        .expect("a server that serves confirms");
    // One that is rolled back is not known.
    connection.queue("BEGIN", &[transaction], b"");
    let headers = [("destination", QUEUE), ("_AMQ_DUPL_ID", "d"), transaction];
    connection.queue("SEND", &headers, b"never");
    connection
        .request("ABORT", &[transaction], b"", SOON)
        .expect("a server that serves confirms");
    for id in ["b", "d"] {
        send(&mut connection, id);
    }
    // Another destination has ids of its own.
    let headers = [("destination", "/queue/other"), ("_AMQ_DUPL_ID", "a")];
    connection
        .request("SEND", &headers, b"a", SOON)
        .expect("a server that serves confirms");
    connection.close(SOON).expect("the server answers");
    assert_eq!(duplicates(&server), (3, 3));
    assert_eq!(drain(&hosts, QUEUE), ["a", "b", "c", "d"]);
    let left = server
        .status()
        .expect("the admin port answers")
        .store
        .messages;
    assert_eq!(left, 1, "the other queue has its own");
}
