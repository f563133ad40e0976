//! An operator's override, and what becomes of the messages that were given up.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::pair::{Pair, copy};
use crate::support::server::{Role, Server, TWINMQ};
use crate::test_name;

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn operate(server: &Server, words: &[&str]) -> Output {
    server
        .operator(words)
        .stdin(Stdio::null())
        .output()
        .expect("the binary under test starts")
}

#[track_caller]
fn refused(server: &Server, words: &[&str], word: &str) {
    let refused = operate(server, words);
    let text = text_of(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains(word), "{text}");
}

/// Each body is confirmed when this returns.
fn send(server: &Server, bodies: &[&str]) {
    for body in bodies {
        let sent = Command::new(TWINMQ)
            .args([
                "send",
                "--connect",
                &server.client_address(),
                "-q",
                "orders",
            ])
            .args(["--body", body])
            .output()
            .expect("the binary under test starts");
        assert!(sent.status.success(), "{}", text_of(&sent));
    }
}

fn receive(server: &Server, count: usize) -> Vec<String> {
    let received = Command::new(TWINMQ)
        .args([
            "receive",
            "--connect",
            &server.client_address(),
            "-q",
            "orders",
        ])
        .args(["-n", &count.to_string(), "--timeout", "20"])
        .output()
        .expect("the binary under test starts");
    assert!(received.status.success(), "{}", text_of(&received));
    let text = String::from_utf8(received.stdout).expect("bodies are text");
    text.lines().map(ToOwned::to_owned).collect()
}

/// The primary has confirmed what the secondary lacks, and is gone.
fn stale(test: &str) -> Pair {
    let mut pair = Pair::in_sync(test);
    send(&pair.primary, &["both 1", "both 2"]);
    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    send(&pair.primary, &["alone 1", "alone 2", "alone 3"]);
    assert_eq!(receive(&pair.primary, 1), ["both 1"]);
    pair.primary.kill();
    let reason = pair.secondary.start_and_await_refusal();
    assert!(reason.contains("not in sync since epoch 1"), "{reason}");
    pair
}

#[test]
fn a_stale_replica_is_promoted_and_what_is_given_up_is_kept_for_export() {
    let mut pair = stale(test_name!());
    let shown = operate(&pair.secondary, &["promote"]);
    assert!(shown.status.success(), "{}", text_of(&shown));
    assert!(text_of(&shown).contains("GIVEN UP:"), "{}", text_of(&shown));
    refused(&pair.secondary, &["promote", "--accept-loss"], "--epoch");
    refused(
        &pair.secondary,
        &["promote", "--accept-loss", "--epoch", "7"],
        "is 1, not 7",
    );
    assert_eq!(pair.secondary.status().expect("it runs").state, "WAITING");
    let done = operate(
        &pair.secondary,
        &["promote", "--accept-loss", "--epoch", "1", "--json"],
    );
    assert!(done.status.success(), "{}", text_of(&done));
    let told: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert!(told["serves_in_epoch"].as_u64() >= Some(2), "{told}");
    pair.secondary.await_state("STANDALONE");

    // The store as it was, and a word about it that lasts.
    let kept = told["copy"].as_str().expect("a path").to_owned();
    let kept = pair.secondary.data_dir().join(kept);
    let checked = Command::new(TWINMQ)
        .args(["store", "check"])
        .arg(&kept)
        .output()
        .expect("the binary under test starts");
    assert!(checked.status.success(), "{}", text_of(&checked));
    let noted = fs::read_to_string(pair.secondary.data_dir().join("node/overrides"))
        .expect("the override is noted");
    assert!(noted.contains("accepted the loss"), "{noted}");

    // The other one follows. What it alone had is not in the pair any more, and not gone either.
    pair.primary.start();
    assert_eq!(pair.await_in_sync(), Role::Secondary);
    assert_eq!(receive(&pair.secondary, 2), ["both 1", "both 2"]);
    let listed = operate(&pair.primary, &["divergence", "list", "--json"]);
    assert!(listed.status.success(), "{}", text_of(&listed));
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    let shown = operate(&pair.primary, &["divergence", "show", "1"]);
    assert!(text_of(&shown).contains("orders"), "{}", text_of(&shown));
    let exported = operate(&pair.primary, &["divergence", "export", "1"]);
    assert!(exported.status.success(), "{}", text_of(&exported));
    let lines: Vec<Value> = String::from_utf8_lossy(&exported.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let puts: Vec<(&str, &str, bool)> = lines
        .iter()
        .filter(|line| line["type"] == "put")
        .map(|line| {
            (
                line["destination"].as_str().expect("a name"),
                line["text"].as_str().expect("a text"),
                line["acknowledged"].as_bool().expect("yes or no"),
            )
        })
        .collect();
    let alone = ["alone 1", "alone 2", "alone 3"].map(|text| ("orders", text, false));
    assert_eq!(puts, alone, "{lines:?}");
    assert!(
        lines.iter().any(|line| line["type"] == "ack"),
        "that \"both 1\" was received is told as well: {lines:?}"
    );
    refused(&pair.primary, &["divergence", "show", "9"], "no kept");
    // `| head`: a reader that goes away early is no failure.
    let mut unread = pair
        .primary
        .operator(&["divergence", "export", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test starts");
    drop(unread.stdout.take());
    let unread = unread.wait_with_output().expect("it ends");
    assert!(unread.status.success(), "{}", text_of(&unread));
    assert_eq!(text_of(&unread), "");
}

#[test]
fn a_server_is_not_promoted_while_the_other_serves_or_may() {
    let mut pair = Pair::in_sync(test_name!());
    let epoch = pair.primary.status().expect("it runs").epoch.to_string();
    let words = ["promote", "--accept-loss", "--epoch", &epoch];
    for server in [&pair.primary, &pair.secondary] {
        refused(server, &words, "cannot be promoted");
    }
    pair.secondary.kill();
    refused(&pair.secondary, &words, "it will wait, and can be promoted");
    pair.secondary.start();
    pair.await_in_sync();
}

#[test]
fn a_record_that_went_back_is_mended_by_a_promotion() {
    let mut pair = Pair::in_sync(test_name!());
    send(&pair.primary, &["before"]);
    let records = PathBuf::from(format!("{}.d", pair.lock_file().display()));
    let backup = pair.scene.path().join("backup");
    copy(&records, &backup);
    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    pair.secondary.start();
    pair.await_in_sync();
    send(&pair.primary, &["after"]);
    pair.kill_both();
    fs::remove_dir_all(&records).expect("the folder is there");
    copy(&backup, &records);
    let reason = pair.primary.start_and_await_refusal();
    assert!(reason.contains("went back"), "{reason}");
    let reason = pair.secondary.start_and_await_refusal();
    assert!(reason.contains("went back"), "{reason}");
    let found = operate(&pair.primary, &["promote", "--json"]);
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    let epoch = found["epoch"].to_string();
    let done = operate(
        &pair.primary,
        &["promote", "--accept-loss", "--epoch", &epoch],
    );
    assert!(done.status.success(), "{}", text_of(&done));
    assert_eq!(pair.await_in_sync(), Role::Primary);
    assert_eq!(receive(&pair.primary, 2), ["before", "after"]);
    // It is the newest record for good: either server comes up by it.
    pair.kill_both();
    pair.secondary.start();
    pair.secondary
        .await_status("it serves alone", |s| s.serving);
}
