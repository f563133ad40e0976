//! What an operator does to a running pair: `switchover`.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::{Role, Server};
use crate::{load, test_name};

/// `twinmq COMMAND` on this server's profile.
fn operate(server: &Server, words: &[&str]) -> Output {
    server
        .operator(words)
        .output()
        .expect("the binary under test starts")
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("no JSON on standard output: {error}: {}", text_of(output));
    })
}

#[track_caller]
fn switch_over(pair: &mut Pair) {
    let active = pair.active();
    let done = operate(pair.server(active), &["switchover", "--json"]);
    assert!(done.status.success(), "{}", text_of(&done));
    let said = json_of(&done);
    assert_eq!(said["active"], active.other().name(), "{said}");
    assert_eq!(pair.active(), active.other());
    pair.server(active).await_state("PASSIVE");
}

#[test]
fn switchovers_forth_and_back_under_load_lose_nothing() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(200);
    for _ in 0..4 {
        switch_over(&mut pair);
        client.await_confirmed(200);
    }
    let lives = (pair.primary.pid(), pair.secondary.pid());
    pair.primary.assert_runs();
    pair.secondary.assert_runs();
    assert_eq!(
        lives,
        (pair.primary.pid(), pair.secondary.pid()),
        "the processes stay"
    );
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn the_history_says_why_the_channel_ended_at_a_switchover() {
    let mut pair = Pair::in_sync(test_name!());
    let active = pair.active();
    switch_over(&mut pair);
    let history = operate(pair.server(active.other()), &["history"]);
    let history = text_of(&history);
    // Either server may be the first to close it.
    let down = history.lines().find(|line| line.contains("link down"));
    assert!(
        down.is_some_and(|line| line.contains("closed by ")),
        "{history}"
    );
}

/// The outage as a client sees it: printed, not judged. `TWINMQ_OUTAGES` says how many.
#[test]
fn outage_of_switchovers_as_a_stomp_py_client_sees_it() {
    let times = crate::support::chance::number_from("TWINMQ_OUTAGES").unwrap_or(1);
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    let mut outages: Vec<Duration> = Vec::new();
    for _ in 0..times {
        client.watch_gaps();
        switch_over(&mut pair);
        client.await_confirmed(100);
        outages.push(client.longest_gap());
    }
    outages.sort();
    eprintln!(
        "longest gap between receipts, {times} switchovers: median {:?}, all {outages:?}",
        outages[outages.len() / 2]
    );
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

/// What a dry run finds missing, and that the command is refused for the same and changes nothing.
#[track_caller]
fn refused_for(server: &mut Server, word: &str) {
    let before = server.status().expect("it runs");
    let dry = operate(server, &["switchover", "--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(1), "{}", text_of(&dry));
    let said = json_of(&dry);
    assert_eq!(said["ready"], false, "{said}");
    let missing = said["conditions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|it| it["holds"] == false);
    let found: Vec<String> = missing.map(|it| it["found"].to_string()).collect();
    assert!(found.iter().any(|it| it.contains(word)), "{found:?}");
    let refused = operate(server, &["switchover"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text_of(&refused));
    assert!(text_of(&refused).contains(word), "{}", text_of(&refused));
    let after = server.status().expect("it runs");
    assert_eq!((before.state, before.epoch), (after.state, after.epoch));
}

#[test]
fn a_dry_run_tells_in_each_state_what_would_happen_and_changes_nothing() {
    let mut pair = Pair::new(test_name!());
    pair.secondary.start();
    pair.secondary.await_state("WAITING");
    refused_for(&mut pair.secondary, "WAITING");
    pair.primary.start();
    pair.await_in_sync();
    let active = pair.active();
    refused_for(pair.server(active.other()), "PASSIVE");
    let dry = operate(pair.server(active), &["switchover", "--dry-run"]);
    assert!(dry.status.success(), "{}", text_of(&dry));
    let text = text_of(&dry);
    assert!(text.contains("nothing was changed"), "{text}");
    assert_eq!(pair.active(), active);
    pair.server(active.other()).kill();
    pair.server(active).await_state("STANDALONE");
    refused_for(pair.server(active), "STANDALONE");
}

#[test]
fn a_switchover_needs_the_admin_token() {
    let mut pair = Pair::in_sync(test_name!());
    let active = pair.active();
    let url = pair.server(active).admin_url();
    let refused = Command::new(crate::support::server::TWINMQ)
        .args(["switchover", "--url", &url])
        .output()
        .expect("the binary under test starts");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text_of(&refused).contains("token"), "{}", text_of(&refused));
    assert_eq!(pair.active(), active);
}

#[test]
fn kill_9_of_the_old_active_in_the_middle_of_a_switchover_loses_nothing() {
    killed_in_the_middle(test_name!(), |active| active);
}

#[test]
fn kill_9_of_the_new_active_in_the_middle_of_a_switchover_loses_nothing() {
    killed_in_the_middle(test_name!(), Role::other);
}

#[test]
fn a_switchover_whose_active_dies_in_the_middle_ends_at_once_with_what_happened() {
    let mut pair = Pair::in_sync(test_name!());
    let active = pair.active();
    // It is dead before its peer could be in step with it again.
    let command = pair
        .server(active)
        .operator(&["switchover", "--timeout", "600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test starts");
    eventually(SOON, "the hand-over begins", || {
        let log = pair.server(active).log();
        if log.contains("this server hands over to") {
            Ok(())
        } else {
            Err(log)
        }
    });
    pair.server(active).kill();
    let ended = command
        .wait_with_output()
        .expect("a child can be waited for");
    let text = text_of(&ended);
    assert!(!ended.status.success(), "{text}");
    let (gone, other) = (active.name(), active.other().name());
    assert!(
        text.contains(&format!("{gone} ended in the middle of the hand-over")),
        "{text}"
    );
    assert!(text.contains(other), "{text}");
    pair.server(active.other()).await_state("STANDALONE");
}

/// Killed at once when the hand-over shows: wherever it is then.
fn killed_in_the_middle(test: &str, victim: fn(Role) -> Role) {
    let mut pair = Pair::in_sync(test);
    let client = load(&pair);
    for _ in 0..3 {
        client.await_confirmed(100);
        let active = pair.active();
        let begun = pair.server(active);
        let begins = |log: &str| log.matches("this server hands over to").count();
        let before = begins(&begun.log());
        let mut command = begun
            .operator(&["switchover", "--timeout", "5"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary under test starts");
        eventually(SOON, "the hand-over begins", || {
            let log = begun.log();
            if begins(&log) > before {
                Ok(())
            } else {
                Err(log)
            }
        });
        let dead = victim(active);
        pair.server(dead).kill();
        // If it had claimed already, its copy is the only one in sync: then it takes its return.
        pair.server(dead).start();
        pair.await_in_sync();
        client.await_confirmed(100);
        // It was told that its server is gone, or saw the other serve; both are fair.
        command.wait().expect("a child can be waited for");
    }
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}
