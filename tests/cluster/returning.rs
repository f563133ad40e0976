//! Who would not come back after a failover, and who has not: by unmodified stomp.py clients.

use serde_json::{Value, json};

use crate::stomp_session::{Headers, StompSession};
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::Server;
use crate::{printed, test_name};

fn client(server: &Server, headers: Headers<'_>) -> StompSession {
    StompSession::connect(&server.client_address(), headers)
}

/// `status` as text or as JSON.
#[track_caller]
fn status(server: &Server, words: &[&str]) -> String {
    let all: Vec<&str> = ["status"].iter().chain(words).copied().collect();
    printed(server, &all)
}

fn clients(server: &Server) -> Value {
    let mut status: Value = serde_json::from_str(&status(server, &["--json"])).expect("JSON");
    status["clients"].take()
}

/// Waits until `status` says this of the clients.
#[track_caller]
fn until(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut found = Value::Null;
    eventually(SOON, what, || {
        found = clients(server);
        if wanted(&found) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
    found
}

/// Why a client is at risk; nothing when it is not.
fn reasons(clients: &Value, id: &str) -> Vec<String> {
    let all = clients["at_risk"]["clients"].as_array().cloned();
    let found = all
        .into_iter()
        .flatten()
        .find(|one| one["client_id"] == id || one["login"] == id);
    let reasons = found.and_then(|one| one["reasons"].as_array().cloned());
    let reasons = reasons.into_iter().flatten();
    reasons
        .map(|reason| reason.as_str().unwrap_or_default().to_owned())
        .collect()
}

fn names(missing: &Value) -> Vec<String> {
    let missing = missing.as_array().cloned().into_iter().flatten();
    let name = |one: Value| {
        let id = one["client_id"].as_str().or(one["login"].as_str());
        id.unwrap_or_default().to_owned()
    };
    missing.map(name).collect()
}

#[test]
fn those_that_would_not_come_back_are_named_and_after_a_kill_those_that_did_not() {
    let mut pair = Pair::in_sync(test_name!());
    // It wants to hear them; stomp.py sends none of its own unless it is told otherwise.
    let beats = ("heart-beat", "0,5000");
    let sound = client(&pair.primary, &[("client-id", "sound"), beats]);
    let mut poor = client(&pair.primary, &[("client-id", "poor")]);
    poor.subscribe("a", "/topic/news", &[]);
    poor.subscribe("b", "/temp-queue/answers", &[]);
    poor.say(&json!({"do": "begin", "transaction": "t"}));
    let durable = [("durable", "true"), ("subscription-name", "mail")];
    let mut careful = client(&pair.primary, &[("client-id", "careful"), beats]);
    careful.subscribe("s", "/topic/news", &durable);
    let _unnamed = [(); 2].map(|()| client(&pair.primary, &[("login", "batch"), beats]));
    let shown = until(&pair.primary, "the transaction is open", |clients| {
        clients["at_risk"]["reasons"]["open-transactions"] == 1
    });
    let all = [
        "no-heart-beat",
        "temporary-queues",
        "non-durable-subscriptions",
        "open-transactions",
    ];
    assert_eq!(reasons(&shown, "poor"), all);
    assert_eq!(shown["at_risk"]["count"], 1, "{shown}");
    for fine in ["sound", "careful", "batch"] {
        assert!(reasons(&shown, fine).is_empty(), "{shown}");
    }
    let told = status(&pair.primary, &[]);
    assert!(told.contains("1 of 5 clients may not come back"), "{told}");
    assert!(told.contains("poor at 127."), "{told}");

    // One goes by itself: nobody expects it. The peer knows of the others.
    until(&pair.secondary, "the peer knows who is there", |clients| {
        clients["at_peer"] == 5
    });
    careful.disconnect();
    until(&pair.secondary, "the peer knows who has gone", |clients| {
        clients["at_peer"] == 4
    });
    pair.primary.kill();
    pair.secondary.await_state("STANDALONE");
    let new = client(&pair.secondary, &[("client-id", "new"), beats]);
    let back = client(&pair.secondary, &[("client-id", "poor"), beats]);
    let one = client(&pair.secondary, &[("login", "batch"), beats]);
    let shown = until(&pair.secondary, "two have come", |clients| {
        clients["returned"]["returned"] == 2
    });
    assert_eq!(shown["returned"]["expected"], 4, "{shown}");
    assert_eq!(names(&shown["returned"]["missing"]), ["batch", "sound"]);
    assert_eq!(reasons(&shown, "new"), ["never-at-peer"]);
    assert!(reasons(&shown, "poor").is_empty(), "{shown}");
    let told = status(&pair.secondary, &[]);
    let line = "2 of the 4 clients of the other server have not come";
    assert!(told.contains(line), "{told}");
    let _last = client(&pair.secondary, &[("client-id", "sound"), beats]);
    until(&pair.secondary, "three have come", |clients| {
        names(&clients["returned"]["missing"]) == ["batch"]
    });
    drop((sound, new, back, one));
}
