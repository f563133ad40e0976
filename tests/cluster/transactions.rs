//! Transactions of an unmodified stomp.py client.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::told::Told;
use crate::{connect, drain, standalone, test_name};

/// Messages that each transaction of the load sends, to two queues.
const SENDS: usize = 6;
/// Messages that the transactions take and put back, each with one hop more.
const TOKENS: usize = 30;

/// The client.
struct Client(Told);

impl Client {
    fn start(hosts: &str) -> Self {
        Self(Told::connected("transaction_driver.py", &[hosts]))
    }

    fn say(&mut self, commands: &[&str]) {
        for command in commands {
            self.0.say(command);
        }
    }

    #[track_caller]
    fn received(&self, body: &str, redelivered: bool) {
        self.0.until(&format!("the message {body}"), |fact| {
            fact["event"] == "received"
                && fact["body"] == body
                && fact["redelivered"] == redelivered
        });
    }

    #[track_caller]
    fn error(&self) -> (String, String) {
        let fact = self.0.until("an ERROR", |fact| fact["event"] == "error");
        let text = |name: &str| fact[name].as_str().unwrap_or_default().to_owned();
        (text("message"), text("detail"))
    }
}

#[test]
fn a_commit_shows_everything_at_once_and_an_abort_nothing() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let hosts = server.client_address();
    let mut client = Client::start(&hosts);
    client.say(&[
        "send /queue/in one",
        "send /queue/in two",
        "subscribe /queue/in",
    ]);
    client.received("one", false);
    client.received("two", false);
    client.say(&[
        "begin t",
        "begin u",
        "send /queue/a a1 t",
        "send /queue/b b1 t",
        "send /queue/a never u",
        "ack one t",
        "ack two u",
        "send /queue/b between",
    ]);
    client.0.receipt("between");
    assert_eq!(
        drain(&hosts, "/queue/b"),
        ["between"],
        "nothing is seen yet"
    );
    client.say(&["commit t", "abort u"]);
    client.0.receipt("commit t");
    client.0.receipt("abort u");
    assert_eq!(drain(&hosts, "/queue/a"), ["a1"]);
    assert_eq!(drain(&hosts, "/queue/b"), ["b1"]);
    // What the aborted one had acknowledged still waits for it.
    client.say(&["begin v", "nack two v", "commit v"]);
    client.0.receipt("commit v");
    client.received("two", true);
    client.say(&["begin w", "ack two w", "unsubscribe /queue/in", "commit w"]);
    client.0.receipt("commit w");
    assert_eq!(drain(&hosts, "/queue/in"), Vec::<String>::new());
    assert_eq!(client.0.count("error"), 0);
}

#[test]
fn a_client_that_dies_before_its_commit_leaves_nothing_behind() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let hosts = server.client_address();
    let mut client = Client::start(&hosts);
    client.say(&["send /queue/in one", "subscribe /queue/in"]);
    client.received("one", false);
    client.say(&[
        "begin t",
        "send /queue/a never t",
        "ack one t",
        "send /queue/b done",
    ]);
    client.0.receipt("done");
    client.say(&["die"]);
    let mut other = Client::start(&hosts);
    other.say(&["subscribe /queue/in"]);
    other.received("one", true);
    assert_eq!(drain(&hosts, "/queue/a"), Vec::<String>::new());
}

#[test]
fn a_transaction_over_its_limits_or_without_a_begin_gets_an_error_that_says_so() {
    let settings = [
        ("limits.transaction_messages", "2"),
        ("limits.transactions", "1"),
    ];
    let (_scene, server) = standalone(test_name!(), &settings);
    let hosts = server.client_address();
    for (commands, message, detail) in [
        (
            &[
                "begin t",
                "send /queue/a 1 t",
                "send /queue/a 2 t",
                "send /queue/a 3 t",
            ][..],
            "the transaction is too large",
            "limits.transaction_messages",
        ),
        (
            &["begin t", "begin u"],
            "too many transactions",
            "limits.transactions",
        ),
        (&["commit t"], "unknown transaction", "BEGIN"),
        (
            &["begin t", "begin t"],
            "the transaction exists",
            "another id",
        ),
    ] {
        let mut client = Client::start(&hosts);
        client.say(commands);
        let (found, why) = client.error();
        assert_eq!(found, message);
        assert!(why.contains(detail), "{why}");
    }
    assert_eq!(drain(&hosts, "/queue/a"), Vec::<String>::new());
}

fn hop_of(body: &str) -> (&str, u64) {
    let (token, hop) = body.split_once('.').expect("a token has a hop");
    (token, hop.parse().expect("a number"))
}

/// What the queues say after everything, against what the client was told.
fn judge(client: &Client, left: &[String], right: &[String], tokens: &[String]) {
    let facts = client.0.facts();
    let of = |event: &'static str| facts.iter().filter(move |fact| fact["event"] == event);
    let token_of: BTreeMap<u64, &str> = of("moved")
        .map(|fact| {
            let number = fact["number"].as_u64().expect("moves are numbered");
            (number, fact["body"].as_str().unwrap_or_default())
        })
        .collect();
    let confirmed: BTreeSet<u64> = of("receipt")
        .filter_map(|fact| fact["id"].as_str()?.parse().ok())
        .collect();

    let mut seen: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    for (parity, queue) in [left, right].into_iter().enumerate() {
        let mut last = BTreeMap::new();
        for body in queue {
            let words: Vec<&str> = body.split(' ').collect();
            let number: u64 = words[0].parse().expect("a number");
            let index: usize = words[1].parse().expect("an index");
            assert_eq!(Some(&words[2]), token_of.get(&number), "{body}");
            assert_eq!(index % 2, parity, "{body} is in the wrong queue");
            let before = last.insert(number, index);
            assert!(before < Some(index), "{body}: out of order");
            let indices = seen.entry(number).or_default();
            assert!(indices.insert(index), "{body} is there twice");
        }
    }
    for (number, indices) in &seen {
        assert_eq!(
            indices.len(),
            SENDS,
            "transaction {number} was torn: {indices:?}"
        );
    }
    for number in &confirmed {
        assert!(seen.contains_key(number), "transaction {number} is lost");
    }
    // Each hop of a token was made once, by a transaction that is there; the next one is in its queue.
    let mut hops: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for number in seen.keys() {
        let (token, hop) = hop_of(token_of[number]);
        let first = hops.entry(token).or_default().insert(hop);
        assert!(first, "{number}: an ack was undone");
    }
    assert_eq!(tokens.len(), TOKENS, "{tokens:?}");
    for (token, hop) in tokens.iter().map(|body| hop_of(body)) {
        let made = hops.remove(token).unwrap_or_default();
        let expected: BTreeSet<u64> = (0..hop).collect();
        assert_eq!(made, expected, "{token} is at {hop}");
    }
    assert!(hops.is_empty(), "tokens are lost: {hops:?}");

    let mut arrived = BTreeSet::new();
    for fact in of("received") {
        let body = fact["body"].as_str().unwrap_or_default();
        let again = !arrived.insert(body);
        assert!(
            !again || fact["redelivered"] == true,
            "{body} came again unflagged"
        );
    }
    assert!(
        confirmed.len() >= 100,
        "only {} were confirmed",
        confirmed.len()
    );
}

#[test]
fn kill_9_of_the_active_around_commits_leaves_each_transaction_whole_or_not_at_all() {
    let mut pair = Pair::in_sync(test_name!());
    let mut filler = connect(&pair.hosts());
    for token in 0..TOKENS {
        let headers = [("destination", "/queue/tokens")];
        filler
            .request("SEND", &headers, format!("t{token}.0").as_bytes(), SOON)
            .expect("a pair that serves confirms");
    }
    filler.close(SOON).expect("the server answers");

    let mut client = Client::start(&pair.hosts());
    client.say(&[&format!("moves {SENDS}"), "subscribe /queue/tokens"]);
    let confirmed = |client: &Client| {
        client.0.count_of(|fact| {
            fact["event"] == "receipt"
                && fact["id"]
                    .as_str()
                    .is_some_and(|id| id.parse::<u64>().is_ok())
        })
    };
    let await_more = |client: &Client| {
        let goal = confirmed(client) + 60;
        eventually(SOON * 2, "more commits are confirmed", || {
            let now = confirmed(client);
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        });
    };
    for _ in 0..3 {
        await_more(&client);
        let dead = pair.active();
        pair.server(dead).kill();
        assert_eq!(pair.active(), dead.other());
        pair.server(dead).start();
        pair.await_in_sync();
    }
    await_more(&client);
    client.say(&["rest"]);
    client.0.until("it rests", |fact| fact["event"] == "rests");
    client.say(&["unsubscribe /queue/tokens", "send /queue/farewell bye"]);
    client.0.receipt("bye");
    client.say(&["quit"]);
    client.0.until("it ends", |fact| fact["event"] == "end");
    let is_error = |fact: &&Value| fact["event"] == "error";
    let errors: Vec<Value> = client.0.facts().iter().filter(is_error).cloned().collect();
    assert!(errors.is_empty(), "{errors:?}");

    let hosts = pair.hosts();
    let left = drain(&hosts, "/queue/left");
    let right = drain(&hosts, "/queue/right");
    let tokens = drain(&hosts, "/queue/tokens");
    judge(&client, &left, &right, &tokens);
}

#[test]
fn a_transaction_as_large_as_may_be_is_whole_on_the_other_server() {
    const MESSAGES: usize = 10_000;
    let mut pair = Pair::in_sync(test_name!());
    let mut connection = connect(&pair.hosts());
    let name = ("transaction", "large");
    connection.queue("BEGIN", &[name], b"");
    for number in 0..MESSAGES {
        let queue = ["/queue/left", "/queue/right"][number % 2];
        let body = format!("{number:06}").repeat(100);
        connection.queue("SEND", &[("destination", queue), name], body.as_bytes());
        if connection.queued_bytes() > 100_000 {
            connection.flush().expect("the server serves");
        }
    }
    connection
        .request("COMMIT", &[name], b"", SOON)
        .expect("a pair that serves confirms");
    let dead = pair.active();
    pair.server(dead).kill();
    assert_eq!(pair.active(), dead.other());
    for (parity, queue) in ["/queue/left", "/queue/right"].into_iter().enumerate() {
        let numbers: Vec<usize> = drain(&pair.hosts(), queue)
            .iter()
            .map(|body| body[..6].parse().expect("a number"))
            .collect();
        let sent: Vec<usize> = (0..MESSAGES)
            .filter(|number| number % 2 == parity)
            .collect();
        assert_eq!(numbers, sent);
    }
}
