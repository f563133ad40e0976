//! What an operator does to the queues of a running server.

use std::process::{Output, Stdio};

use serde_json::Value;
use twinmq::cli::admin_client::AdminClient;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::server::Server;
use crate::{connect, drain, test_name};

fn operate(server: &Server, words: &[&str]) -> Output {
    let mut command = server.operator(words);
    command.stdin(Stdio::null());
    command.output().expect("the binary under test starts")
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn done(server: &Server, words: &[&str]) -> String {
    let output = operate(server, words);
    assert!(output.status.success(), "{words:?}: {}", text_of(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn json(server: &Server, words: &[&str]) -> Value {
    let text = done(server, words);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[track_caller]
fn refused(server: &Server, words: &[&str]) -> String {
    let output = operate(server, words);
    assert!(!output.status.success(), "{words:?}: {}", text_of(&output));
    text_of(&output)
}

/// Sends bodies that are numbers, in order, confirmed.
fn fill(hosts: &str, queue: &str, numbers: std::ops::Range<u32>, headers: &[(&str, &str)]) {
    let mut connection = connect(hosts);
    let last = numbers.end - 1;
    for number in numbers {
        let body = format!("{number:06}");
        let text = number.to_string();
        let mut all = vec![("destination", queue), ("n", &text)];
        all.extend_from_slice(headers);
        if number == last {
            connection
                .request("SEND", &all, body.as_bytes(), SOON)
                .expect("a server that serves confirms");
            break;
        }
        connection.queue("SEND", &all, body.as_bytes());
        if connection.queued_bytes() > 100_000 {
            connection.flush().expect("the server serves");
        }
    }
    connection.close(SOON).expect("the server answers");
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("{number:06}")).collect()
}

fn depth(server: &Server, queue: &str) -> u64 {
    let client = AdminClient::new(&server.admin_url(), None);
    let shown = client.get(&format!("destination?name={queue}"));
    shown.ok().and_then(|it| it["depth"].as_u64()).unwrap_or(0)
}

#[test]
fn queues_are_looked_at_purged_moved_retried_and_deleted() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start();
    server.await_status("it serves", |status| status.serving);
    let hosts = server.client_address();
    fill(&hosts, "/queue/orders", 0..10, &[]);
    fill(
        &hosts,
        "/queue/dead",
        0..3,
        &[("TMQ_ORIGINAL_DESTINATION", "/queue/back")],
    );
    fill(&hosts, "/queue/dead", 3..4, &[]);

    let listed = json(&server, &["queue", "list", "o*", "--json"]);
    assert_eq!(listed["total"], 1, "{listed}");
    assert_eq!(listed["destinations"][0]["name"], "/queue/orders");
    assert_eq!(listed["destinations"][0]["depth"], 10);
    let table = done(&server, &["queue", "list"]);
    assert!(table.starts_with("QUEUE"), "{table}");
    assert!(table.contains("orders"), "{table}");
    assert!(done(&server, &["queue", "show", "orders"]).contains("10"));
    assert_eq!(depth(&server, "/queue/orders"), 10);
    assert_eq!(depth(&server, "orders"), 10, "a bare name is a queue's");

    // A look takes nothing.
    let words = ["queue", "browse", "orders", "-n", "3", "--json"];
    let seen = json(&server, &words);
    let bodies: Vec<_> = seen["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|message| message["body"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(bodies, numbers(0..3));
    let next = seen["next"].to_string();
    let words = [
        "queue", "browse", "orders", "--after", &next, "-n", "1", "--json",
    ];
    assert_eq!(json(&server, &words)["messages"][0]["body"], "000003");

    let said = refused(&server, &["queue", "purge", "orders"]);
    assert!(said.contains("--yes"), "{said}");
    let said = refused(&server, &["queue", "move", "none", "--to", "x"]);
    assert!(said.contains("/queue/none"), "{said}");
    let words = ["queue", "purge", "orders", "--yes", "--selector", "n >"];
    let said = refused(&server, &words);
    assert!(said.contains("at character 4"), "{said}");
    assert_eq!(depth(&server, "/queue/orders"), 10);

    let words = [
        "queue",
        "purge",
        "orders",
        "--yes",
        "--selector",
        "n < 2",
        "--json",
    ];
    assert_eq!(json(&server, &words)["done"], 2);
    let words = ["queue", "move", "orders", "--to", "other", "-n", "3"];
    assert!(done(&server, &words).contains("3 messages moved to /queue/other"));
    let retried = json(&server, &["queue", "retry", "dead", "--json"]);
    assert_eq!(
        (&retried["done"], &retried["homeless"]),
        (&3.into(), &1.into())
    );
    assert_eq!(drain(&hosts, "/queue/other"), numbers(2..5));
    assert_eq!(drain(&hosts, "/queue/back"), numbers(0..3));

    let said = refused(&server, &["queue", "delete", "dead"]);
    assert!(said.contains("--yes"), "{said}");
    done(&server, &["queue", "delete", "dead", "--yes"]);
    let said = refused(&server, &["queue", "show", "dead"]);
    assert!(said.contains("no destination"), "{said}");

    // It is all in the log.
    server.kill();
    server.start();
    server.await_status("it serves", |status| status.serving);
    assert_eq!(depth(&server, "/queue/dead"), 0);
    assert_eq!(drain(&hosts, "/queue/orders"), numbers(5..10));
}

#[test]
fn kill_9_in_the_middle_of_a_move_loses_nothing_and_doubles_nothing() {
    const MESSAGES: u32 = 60_000;
    let mut pair = Pair::in_sync(test_name!());
    fill(&pair.hosts(), "/queue/from", 0..MESSAGES, &[]);
    let words = ["queue", "move", "from", "--to", "to"];
    let active = pair.active();
    let moving = pair
        .server(active)
        .operator(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test starts");
    eventually(SOON, "some messages are moved", || {
        let moved = depth(pair.server(active), "/queue/to");
        (moved > 0).then_some(()).ok_or("none".to_owned())
    });
    pair.server(active).kill();
    let cut = moving.wait_with_output().expect("it can be waited for");
    assert!(
        !cut.status.success(),
        "the move was done too early to be cut"
    );
    let survivor = active.other();
    pair.server(survivor).await_state("STANDALONE");
    let (from, to) = (
        depth(pair.server(survivor), "/queue/from"),
        depth(pair.server(survivor), "/queue/to"),
    );
    assert_eq!(from + to, u64::from(MESSAGES), "{from} and {to}");
    assert!(from > 0, "nothing was left to do");
    done(pair.server(survivor), &words);
    let hosts = pair.hosts();
    let moved = drain(&hosts, "/queue/to");
    assert!(moved == numbers(0..MESSAGES), "not each once and in order");
    assert_eq!(drain(&hosts, "/queue/from"), Vec::<String>::new());
}

#[test]
fn a_durable_subscription_is_listed_and_deleted() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start();
    server.await_status("it serves", |status| status.serving);
    let options = twinmq::cli::stomp_client::StompOptions::default();
    let mut connection =
        twinmq::cli::stomp_client::Connection::open(&server.client_address(), &options)
            .expect("the server serves");
    connection
        .request(
            "SUBSCRIBE",
            &[
                ("id", "1"),
                ("destination", "/topic/news.*"),
                ("ack", "client"),
                ("durable", "true"),
                ("shared", "true"),
                ("subscription-name", "audit"),
            ],
            b"",
            SOON,
        )
        .expect("it is subscribed");
    let listed = json(&server, &["subscription", "list", "--json"]);
    assert_eq!(
        listed["destinations"][0]["subscription"]["pattern"],
        "news.*"
    );
    let name = listed["destinations"][0]["name"].as_str().expect("a name");
    let said = refused(&server, &["subscription", "delete", name, "--yes"]);
    assert!(said.contains("consumers"), "{said}");
    connection.close(SOON).expect("the server answers");
    fill(&server.client_address(), "/topic/news.eu", 0..2, &[]);
    let topics = json(&server, &["topic", "list", "--json"]);
    assert_eq!(topics["topics"][0]["topic"], "news.*");
    assert_eq!(topics["topics"][0]["owed"], 2);
    let said = refused(&server, &["subscription", "delete", name]);
    assert!(said.contains("--yes"), "{said}");
    done(&server, &["subscription", "delete", name, "--yes"]);
    assert_eq!(
        json(&server, &["subscription", "list", "--json"])["total"],
        0
    );
}
