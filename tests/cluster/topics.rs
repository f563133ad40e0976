//! Topics, subscriptions of every kind, temporary queues and browsers, with unmodified stomp.py clients.

use serde_json::{Value, json};

use crate::stomp_session::StompSession;
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::Server;
use crate::{client, printed, standalone, test_name};

fn client_named(server: &Server, id: &str) -> StompSession {
    StompSession::connect(&server.client_address(), &[("client-id", id)])
}

/// What `status` says of a destination.
#[track_caller]
fn listed(server: &Server, name: &str) -> Value {
    let text = printed(server, &["status", "--json"]);
    let status: Value = serde_json::from_str(&text).expect("it is JSON");
    let all = status["clients"]["destinations"].as_array().cloned();
    let mut found = all.into_iter().flatten().filter(|one| one["name"] == name);
    found
        .next()
        .unwrap_or_else(|| panic!("{name} is not in {text}"))
}

fn numbers(prefix: &str, range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("{prefix}{number}")).collect()
}

#[track_caller]
fn publish(producer: &mut StompSession, topic: &str, bodies: &[String]) {
    for body in bodies {
        producer.send(topic, body, &[]);
    }
}

#[test]
fn every_subscriber_gets_what_is_published_while_it_is_subscribed() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let (mut one, mut other) = (client(&server), client(&server));
    let mut producer = client(&server);
    producer.send("/topic/news", "to nobody", &[]);
    one.subscribe("a", "/topic/news", &[]);
    other.subscribe("b", "/topic/news", &[]);
    let sent = numbers("m", 0..20);
    publish(&mut producer, "/topic/news", &sent);
    assert_eq!(one.await_bodies("a", 20), sent);
    assert_eq!(other.await_bodies("b", 20), sent);
    let first = &one.messages("a")[0]["headers"];
    assert_eq!(first["destination"], "/topic/news");
    one.unsubscribe("a", &[]);
    producer.send("/topic/news", "last", &[]);
    assert_eq!(other.await_bodies("b", 21)[20], "last");
    assert_eq!(one.bodies("a").len(), 20);
}

#[test]
fn wildcards_and_selectors_choose() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let mut consumer = client(&server);
    consumer.subscribe("level", "/topic/price.*.usd", &[]);
    consumer.subscribe("rest", "/topic/price.>", &[]);
    consumer.subscribe("dear", "/topic/price.>", &[("selector", "amount > 10")]);
    let mut producer = client(&server);
    for (topic, amount) in [
        ("/topic/price.tea.usd", "5"),
        ("/topic/price.tea.eur", "15"),
        ("/topic/price.tea.usd.old", "25"),
        ("/topic/prices", "35"),
    ] {
        producer.send(topic, amount, &[("amount", amount)]);
    }
    assert_eq!(consumer.await_bodies("rest", 3), ["5", "15", "25"]);
    assert_eq!(consumer.await_bodies("dear", 2), ["15", "25"]);
    assert_eq!(consumer.await_bodies("level", 1), ["5"]);
    let destination = &consumer.messages("rest")[1]["headers"]["destination"];
    assert_eq!(destination, "/topic/price.tea.eur");
    for (headers, topic, wanted) in [
        (&[("selector", "amount >")][..], "/topic/a", "selector"),
        (&[], "/topic/a.>.b", "last level"),
    ] {
        let mut wrong = client(&server);
        wrong.say(&json!({"do": "subscribe", "id": "x", "destination": topic,
            "headers": headers.iter().copied().collect::<std::collections::BTreeMap<_, _>>()}));
        let error = wrong.await_error();
        assert!(error.contains(wanted), "{error}");
    }
    producer.say(&json!({"do": "send", "destination": "/topic/a.*", "body": ""}));
    let error = producer.await_error();
    assert!(error.contains("wildcard"), "{error}");
}

#[test]
fn a_durable_subscription_is_owed_what_comes_while_its_consumer_is_away() {
    let (_scene, mut server) = standalone(test_name!(), &[]);
    let durable = [("durable", "true"), ("subscription-name", "mail")];
    let mut first = client_named(&server, "ann");
    first.subscribe("s", "/topic/news", &durable);
    // Somebody else with her name, perhaps herself again: the newest has it.
    let mut consumer = client_named(&server, "ann");
    consumer.subscribe("s", "/topic/news", &durable);
    let error = first.await_error();
    assert!(error.contains("the newest has it"), "{error}");
    let log = server.log();
    assert_eq!(
        log.matches("two clients share a client-id").count(),
        1,
        "{log}"
    );
    consumer.unsubscribe("s", &[]);
    let mut producer = client(&server);
    let sent = numbers("m", 0..10);
    publish(&mut producer, "/topic/news", &sent[..5]);
    server.kill();
    server.start();
    server.await_state("STANDALONE");
    let mut producer = client(&server);
    publish(&mut producer, "/topic/news", &sent[5..]);
    // ActiveMQ's spelling means the same.
    let mut consumer = client_named(&server, "ann");
    consumer.subscribe("t", "/topic/news", &[("activemq.subscriptionName", "mail")]);
    assert_eq!(consumer.await_bodies("t", 10), sent);
    // Deleted: what comes now is not kept for it.
    consumer.unsubscribe("t", &durable);
    producer.send("/topic/news", "lost", &[]);
    consumer.subscribe("u", "/topic/news", &durable);
    producer.send("/topic/news", "kept", &[]);
    assert_eq!(consumer.await_bodies("u", 1), ["kept"]);
    consumer.disconnect();
    let listed = listed(&server, "/subscription/ann/mail");
    let expected = json!({"topic": "/topic/news", "name": "mail", "client_id": "ann", "durable": true,
        "shared": false, "selector": null, "no_local": false, "active": false});
    assert_eq!(listed["subscription"], expected);
}

#[test]
fn another_topic_or_selector_makes_a_durable_subscription_anew() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let durable = [("durable", "true"), ("subscription-name", "mail")];
    let mut consumer = client_named(&server, "ann");
    let mut producer = client(&server);
    consumer.subscribe("s", "/topic/a", &durable);
    consumer.unsubscribe("s", &[]);
    producer.send("/topic/a", "old", &[]);
    let choosy = [durable[0], durable[1], ("selector", "colour = 'red'")];
    consumer.subscribe("s", "/topic/a", &choosy);
    consumer.unsubscribe("s", &[]);
    producer.send("/topic/a", "red", &[("colour", "red")]);
    producer.send("/topic/a", "blue", &[("colour", "blue")]);
    consumer.subscribe("s", "/topic/a", &choosy);
    producer.send("/topic/a", "end", &[("colour", "red")]);
    assert_eq!(consumer.await_bodies("s", 2), ["red", "end"]);
}

#[test]
fn a_shared_subscription_divides_its_messages() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let shared = [("shared", "true"), ("subscription-name", "work")];
    let (mut one, mut other) = (client(&server), client(&server));
    one.subscribe("a", "/topic/jobs", &shared);
    other.subscribe("b", "/topic/jobs", &shared);
    let mut producer = client(&server);
    let sent = numbers("m", 0..40);
    publish(&mut producer, "/topic/jobs", &sent);
    eventually(SOON, "every message once", || {
        let mut all = [one.bodies("a"), other.bodies("b")].concat();
        all.sort_by_key(|body| body[1..].parse::<u32>().unwrap_or_default());
        if all == sent {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
    assert!(!one.bodies("a").is_empty() && !other.bodies("b").is_empty());
}

#[test]
fn what_is_ones_own_can_be_left_out() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let (mut own, mut other) = (client(&server), client(&server));
    own.subscribe("s", "/topic/chat", &[("no-local", "true")]);
    own.send("/topic/chat", "mine", &[]);
    other.send("/topic/chat", "yours", &[]);
    assert_eq!(own.await_bodies("s", 1), ["yours"]);
}

#[test]
fn a_request_is_answered_to_a_temporary_queue() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let (mut asking, mut answering) = (client(&server), client(&server));
    answering.subscribe("work", "/queue/work", &[]);
    asking.subscribe("answers", "/temp-queue/answers", &[]);
    asking.send(
        "/queue/work",
        "2 + 2",
        &[("reply-to", "/temp-queue/answers"), ("correlation-id", "7")],
    );
    answering.await_bodies("work", 1);
    let request = answering.messages("work").remove(0);
    let reply_to = request["headers"]["reply-to"].as_str().expect("a text");
    assert!(reply_to.starts_with("/remote-temp-queue/"), "{reply_to}");
    let reply_to = reply_to.to_owned();
    answering.send(&reply_to, "4", &[("correlation-id", "7")]);
    assert_eq!(asking.await_bodies("answers", 1), ["4"]);
    let answer = asking.messages("answers").remove(0);
    assert_eq!(answer["headers"]["correlation-id"], "7");
    // Nobody else's.
    let mut thief = client(&server);
    thief.say(&json!({"do": "subscribe", "id": "t", "destination": reply_to}));
    let error = thief.await_error();
    assert!(error.contains("another connection's"), "{error}");
    // Gone with its connection, which harms nobody who still answers.
    asking.disconnect();
    answering.send(&reply_to, "late", &[]);
    answering.send("/queue/work", "goes on", &[]);
    assert_eq!(answering.await_bodies("work", 2)[1], "goes on");
}

#[test]
fn two_hundred_subscriptions_store_a_message_once() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let mut consumers = client_named(&server, "many");
    for number in 0..200 {
        let name = format!("s{number}");
        consumers.subscribe(
            &name,
            "/topic/big",
            &[("durable", "true"), ("subscription-name", &name)],
        );
        consumers.unsubscribe(&name, &[]);
    }
    let before = server.status().expect("it runs").store.bytes;
    let mut producer = client(&server);
    let body = "x".repeat(1 << 20);
    for _ in 0..4 {
        producer.send("/topic/big", &body, &[]);
    }
    let status = server.status().expect("it runs");
    assert_eq!(
        status.store.messages, 800,
        "each subscription is owed each message"
    );
    let grown = status.store.bytes - before;
    assert!(
        grown < 16 << 20,
        "4 MiB were published, the store grew by {grown}"
    );
}

#[test]
fn durable_subscriptions_and_what_they_are_owed_survive_the_active() {
    let mut pair = Pair::in_sync(test_name!());
    let hosts = pair.hosts();
    let connect = |id: &str| StompSession::connect(&hosts, &[("client-id", id)]);
    let durable = [("durable", "true"), ("subscription-name", "d")];
    let shared = [("shared", "true"), durable[0], durable[1]];
    let mut ann = connect("ann");
    ann.subscribe_individually("d", "/topic/news.>", &durable);
    let mut bob = connect("bob");
    bob.subscribe("d", "/topic/news.>", &shared);
    bob.unsubscribe("d", &[]);
    ann.subscribe("passing", "/topic/news.>", &[]);
    let mut producer = connect("producer");
    let sent = numbers("m", 0..30);
    publish(&mut producer, "/topic/news.today", &sent[..20]);
    // Seen and not acknowledged: it comes again, and says so.
    ann.await_bodies("d", 20);
    ann.await_bodies("passing", 20);
    let dead = pair.active();
    pair.server(dead).kill();
    let mut producer = connect("producer");
    publish(&mut producer, "/topic/news.today", &sent[20..]);
    let mut ann = connect("ann");
    ann.subscribe("d", "/topic/news.>", &durable);
    assert_eq!(ann.await_bodies("d", 30), sent);
    let seen = ann.messages("d");
    assert!(
        seen[..20]
            .iter()
            .all(|message| message["headers"]["redelivered"] == "true"),
        "{:?}",
        seen[0]
    );
    let mut bob = connect("bob");
    bob.subscribe("d", "/topic/news.>", &shared);
    assert_eq!(bob.await_bodies("d", 30), sent);
    // What went with its consumer is gone.
    let left = pair
        .server(dead.other())
        .await_status("nothing is owed", |s| s.store.messages == 0);
    assert_eq!(left.store.destinations, 2);
}

#[test]
fn a_browser_sees_everything_and_takes_nothing() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let mut producer = client(&server);
    let sent = numbers("m", 0..30);
    publish(&mut producer, "/queue/q", &sent);
    let mut consumer = client(&server);
    // Ten are with somebody, and are owed all the same.
    consumer.subscribe_individually("c", "/queue/q", &[("prefetch-count", "10")]);
    consumer.await_bodies("c", 10);
    let mut browser = client(&server);
    browser.subscribe(
        "b",
        "/queue/q",
        &[("browser", "true"), ("prefetch-count", "7")],
    );
    browser.until("its end", |frame| frame["headers"]["browser"] == "end");
    let seen = browser.bodies("b");
    assert_eq!(seen[..30], sent);
    assert_eq!(seen.len(), 31, "and the end");
    assert_eq!(server.status().expect("it runs").store.messages, 30);
    for message in consumer.messages("c") {
        let id = message["headers"]["ack"]
            .as_str()
            .expect("a text")
            .to_owned();
        consumer.confirmed(json!({"do": "ack", "id": id}), &[]);
    }
    consumer.await_bodies("c", 20);
    assert!(
        consumer
            .messages("c")
            .iter()
            .all(|message| message["headers"]["redelivered"].is_null()),
        "the browser disturbed"
    );
}

#[test]
fn browse_prints_a_deep_queue_page_by_page_while_it_is_received_from() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let lines = numbers("line ", 0..5000).join("\n");
    let mut child = server
        .operator(&["send", "-q", "deep"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    std::io::Write::write_all(&mut stdin, lines.as_bytes()).expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
    let browse = ["browse", "-q", "deep"];
    let all: Vec<String> = lines.lines().map(ToOwned::to_owned).collect();
    assert_eq!(printed(&server, &browse).lines().collect::<Vec<_>>(), all);
    let mut consumer = client(&server);
    consumer.subscribe_individually("c", "/queue/deep", &[("prefetch-count", "100")]);
    consumer.await_bodies("c", 100);
    assert_eq!(printed(&server, &browse).lines().count(), 5000);
    let first = [&browse[..], &["-n", "3", "--json"]].concat();
    assert_eq!(printed(&server, &first).lines().count(), 3);
    let chosen = [&browse[..], &["--selector", "missing = 1"]].concat();
    assert_eq!(printed(&server, &chosen), "");
    assert_eq!(server.status().expect("it runs").store.messages, 5000);
    assert!(
        consumer
            .messages("c")
            .iter()
            .all(|message| message["headers"]["redelivered"].is_null())
    );
}

#[test]
fn a_transaction_sends_to_topics_and_acknowledges_from_subscriptions() {
    let (_scene, server) = standalone(test_name!(), &[]);
    let durable = [("durable", "true"), ("subscription-name", "mail")];
    let mut consumer = client_named(&server, "ann");
    consumer.subscribe_individually("d", "/topic/in", &durable);
    let mut watcher = client(&server);
    watcher.subscribe("w", "/topic/out", &[]);
    let mut producer = client(&server);
    producer.send("/topic/in", "work", &[]);
    consumer.await_bodies("d", 1);
    let ack = consumer.messages("d")[0]["headers"]["ack"].clone();
    for (transaction, end) in [("one", "abort"), ("two", "commit")] {
        consumer.say(&json!({"do": "begin", "transaction": transaction}));
        for topic in ["/topic/out", "/topic/nobody"] {
            consumer.say(&json!({"do": "send", "destination": topic, "body": end,
                "headers": {"transaction": transaction}}));
        }
        consumer.say(&json!({"do": "ack", "id": ack, "headers": {"transaction": transaction}}));
        if end == "commit" {
            consumer.confirmed(json!({"do": end, "transaction": transaction}), &[]);
        } else {
            consumer.say(&json!({"do": end, "transaction": transaction}));
        }
    }
    assert_eq!(watcher.await_bodies("w", 1), ["commit"]);
    assert_eq!(
        server.status().expect("it runs").store.messages,
        0,
        "all is acknowledged"
    );
}
