//! The commands as people and scripts use them, against real servers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::server::{Server, TWINMQ};
use crate::{standalone, test_name};

/// Runs a command in a folder with some standard input.
fn twinmq(scene: &Scene, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(TWINMQ)
        .current_dir(scene.path())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    // A command that reads no input may have closed it.
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    child.wait_with_output().expect("it can be waited for")
}

/// What a command printed that must succeed.
#[track_caller]
fn succeeds(scene: &Scene, args: &[&str], input: &str) -> String {
    let output = twinmq(scene, args, input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {text}{errors}");
    text
}

/// What a command said that must fail.
#[track_caller]
fn fails(scene: &Scene, args: &[&str]) -> String {
    let output = twinmq(scene, args, "");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} succeeded");
    errors
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn the_demo_shows_a_kill_without_loss_and_leaves_nothing_behind() {
    let shown = demonstrate(test_name!(), "replicated");
    assert!(shown["resync_ms"].is_u64(), "{shown}");
}

#[test]
fn the_demo_shows_it_with_one_store_too() {
    let shown = demonstrate(test_name!(), "shared");
    assert!(shown["resync_ms"].is_null(), "{shown}");
}

fn demonstrate(test: &str, mode: &str) -> Value {
    let scene = Scene::new(test);
    let folder = scene.path().join("show");
    let dir = folder.to_string_lossy().into_owned();
    let shown = json(&succeeds(
        &scene,
        &[
            "demo",
            "--mode",
            mode,
            "--json",
            "--seconds",
            "6",
            "--dir",
            &dir,
        ],
        "",
    ));
    assert_eq!(shown["mode"], mode, "{shown}");
    assert_eq!(shown["ledger"]["lost"], 0, "{shown}");
    assert_eq!(shown["ledger"]["duplicated"], 0, "{shown}");
    assert!(shown["ledger"]["confirmed"].as_u64() > Some(0), "{shown}");
    assert!(shown["failover_ms"].as_u64() > Some(0), "{shown}");
    assert!(folder.join("primary.log").is_file(), "--dir is kept");
    assert_eq!(working_in(&folder), 0, "no process is left behind");
    shown
}

#[test]
fn a_drill_strikes_a_pair_made_from_a_profile_and_accounts_for_every_message() {
    let scene = Scene::new(test_name!());
    let faults = ["kill-active", "hang-active", "lock-deleted"];
    let share = scene.path().join("share");
    fs::create_dir(&share).expect("the test's folder can be written");
    let arguments = [
        "drill",
        "-p",
        "replicated/secondary",
        "--json",
        "--seed",
        "7",
    ];
    let named = ["--faults", &faults.join(","), "--share", "share"];
    let shown = json(&succeeds(&scene, &[&arguments[..], &named].concat(), ""));
    let rows = shown["faults"].as_array().expect("a row for each fault");
    for fault in faults {
        let row = rows.iter().find(|row| row["fault"] == fault);
        let row = row.unwrap_or_else(|| panic!("{fault} is missing: {shown}"));
        assert_eq!(row["verdict"], "held", "{shown}");
        assert!(row["confirmed"].as_u64() > Some(0), "{shown}");
    }
    assert_eq!(shown["total"]["lost"], 0, "{shown}");
    assert_eq!(shown["serving"], serde_json::Value::Null, "{shown}");
    let left = fs::read_dir(&share).expect("it is there").count();
    assert_eq!(left, 0, "nothing is left on the share");
}

/// How many processes work in a folder: the demo's servers do.
fn working_in(folder: &Path) -> usize {
    fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok())
        .filter(|place| place.starts_with(folder))
        .count()
}

/// Starts a demo, sends it a signal while its servers run, and waits until they are gone.
fn demo_ended_by(test: &str, signal: Signal) {
    let scene = Scene::new(test);
    let folder = scene.path().join("show");
    let mut demo = Command::new(TWINMQ)
        .arg("demo")
        .arg("--dir")
        .arg(&folder)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary under test starts");
    eventually(SOON, "both servers run", || match working_in(&folder) {
        2.. => Ok(()),
        fewer => Err(format!("{fewer} run")),
    });
    let pid = i32::try_from(demo.id()).expect("process ids are small");
    kill(Pid::from_raw(pid), signal).expect("a child that was not waited for exists");
    let status = demo.wait().expect("a child can be waited for");
    assert!(!status.success());
    eventually(SOON, "both servers are gone", || {
        match working_in(&folder) {
            0 => Ok(()),
            some => Err(format!("{some} run")),
        }
    });
}

#[test]
fn an_interrupted_demo_ends_its_servers() {
    demo_ended_by(test_name!(), Signal::SIGINT);
}

#[test]
fn a_demo_that_is_killed_ends_its_servers_too() {
    demo_ended_by(test_name!(), Signal::SIGKILL);
}

#[test]
fn messages_that_were_sent_are_received_also_after_a_restart() {
    let (scene, mut server) = standalone(test_name!(), &[]);
    let address = server.client_address();
    let sent = succeeds(
        &scene,
        &["send", "--connect", &address, "-q", "q", "--json"],
        "one\ntwo\nthree\n",
    );
    assert_eq!(json(&sent)["confirmed"], 3);
    server.kill();
    server.start();
    server.await_status("it serves", |status| status.serving);
    let receive = ["receive", "--connect", &address, "-q", "q", "-n", "3"];
    assert_eq!(succeeds(&scene, &receive, ""), "one\ntwo\nthree\n");
    let empty = fails(
        &scene,
        &[
            "receive",
            "--connect",
            &address,
            "-q",
            "q",
            "-n",
            "1",
            "--timeout",
            "1",
        ],
    );
    assert!(empty.contains("0 of 1 messages"), "{empty}");
}

#[test]
fn bench_accounts_for_every_message() {
    let (scene, server) = standalone(test_name!(), &[]);
    let address = server.client_address();
    let outcome = json(&succeeds(
        &scene,
        &["bench", "--connect", &address, "--count", "5000", "--json"],
        "",
    ));
    let ledger = &outcome["outcome"]["ledger"];
    assert_eq!(ledger["confirmed"], 5000, "{outcome}");
    assert_eq!(ledger["delivered_once"], 5000, "{outcome}");
    assert_eq!(
        outcome["outcome"]["destinations"].as_array().map(Vec::len),
        Some(4)
    );
}

#[test]
fn status_and_wait_show_the_pair_and_say_what_is_not_so() {
    let mut pair = Pair::in_sync(test_name!());
    let url = pair.primary.admin_url();
    let table = succeeds(&pair.scene, &["status", "--url", &url], "");
    assert!(
        table.contains("ACTIVE") && table.contains("PASSIVE"),
        "{table}"
    );
    assert!(table.contains("primary and secondary"), "{table}");
    let status = json(&succeeds(
        &pair.scene,
        &["status", "--url", &url, "--json"],
        "",
    ));
    for field in [
        "server",
        "profile",
        "mode",
        "version",
        "pid",
        "state",
        "previous_state",
        "since",
        "serving",
        "epoch",
        "position",
        "in_sync",
        "peer",
        "committed",
        "lock",
        "claims",
        "gateway",
        "sync",
        "store",
    ] {
        assert!(
            status.get(field).is_some(),
            "{field} is missing in {status}"
        );
    }
    succeeds(&pair.scene, &["wait", "--url", &url, "--in-sync"], "");
    succeeds(&pair.scene, &["wait", "--url", &url, "--serving"], "");
    let not_so = fails(
        &pair.scene,
        &[
            "wait",
            "--url",
            &url,
            "--state",
            "PASSIVE",
            "--timeout",
            "0",
        ],
    );
    assert!(not_so.contains("last seen: ACTIVE"), "{not_so}");
    pair.kill_both();
    let gone = fails(&pair.scene, &["status", "--url", &url]);
    assert!(gone.contains("no server is running"), "{gone}");
}

#[test]
fn stop_ends_a_server_in_order_and_only_with_its_token() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start_and_await();
    let refused = fails(&scene, &["stop", "--url", &server.admin_url()]);
    assert!(refused.contains("token"), "{refused}");
    assert!(server.status().is_ok(), "it still runs");
    let listen = format!("admin.ip_address={}", scene.address);
    succeeds(&scene, &["stop", "-p", "standalone", "--set", &listen], "");
    assert!(server.await_exit().success());
}

#[test]
fn a_sender_without_a_server_says_that_it_waits_for_one() {
    let scene = Scene::new(test_name!());
    let server = Server::standalone(scene.address, scene.path());
    let mut send = Command::new(TWINMQ)
        .args(["send", "--connect", &server.client_address(), "-q", "q"])
        .args(["--body", "x"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test starts");
    let mut said = BufReader::new(send.stderr.take().expect("it was asked for"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a pipe can be read");
    send.kill().expect("it still waits");
    send.wait().expect("a child can be waited for");
    assert!(line.contains("waiting for a server"), "{line}");
}
