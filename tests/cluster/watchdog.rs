//! The process beside each server (A8): it ends a server that hangs, and tells the peer of its end.

use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::TWINMQ;
use crate::{load, test_name};

/// The watchdogs of a server: its children that run `twinmq watchdog`.
fn watchdogs(server: u32) -> Vec<u32> {
    let children = format!("/proc/{server}/task/{server}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|word| word == b"watchdog")
        })
        .collect()
}

#[test]
fn a_stopped_server_is_ended_by_its_watchdog_and_the_peer_serves() {
    let mut pair = Pair::in_sync_with(test_name!(), &[("ha.lock.takeover", "lock")]);
    let client = load(&pair);
    client.await_confirmed(100);
    let hung = pair.active();
    // The lock stays with a stopped process: without a watchdog nobody else could ever serve.
    pair.server(hung).signal(Signal::SIGSTOP);
    let status = pair.server(hung).await_exit();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(Signal::SIGKILL as i32),
        "{status}"
    );
    assert!(
        pair.server(hung)
            .log()
            .contains("watchdog: the server has not turned"),
        "{}",
        pair.server(hung).log()
    );
    client.await_confirmed(100);
    let other = pair.server(hung.other());
    other.await_log("the peer's watchdog says that its process has ended");
    pair.server(hung).start();
    assert_eq!(pair.await_in_sync(), hung.other());
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn the_watchdog_goes_with_its_server_and_says_nothing_after_an_orderly_end() {
    let mut pair = Pair::in_sync(test_name!());
    let active = pair.active();
    let server = pair.server(active).pid().expect("it runs");
    let [watchdog] = watchdogs(server)[..] else {
        panic!("{:?}", watchdogs(server));
    };
    assert!(pair.server(active).terminate().success());
    eventually(SOON, "the watchdog has ended", || {
        match std::fs::read_to_string(format!("/proc/{watchdog}/stat")) {
            // A zombie, whose parent is this process's init by now.
            Ok(stat) if !stat.contains(") Z") => Err(stat),
            Ok(_) | Err(_) => Ok(()),
        }
    });
    let other = pair.server(active.other());
    other.await_status("it serves", |status| status.serving);
    assert!(
        !other.log().contains("the peer's watchdog"),
        "{}",
        other.log()
    );
}

#[test]
fn a_server_without_a_watchdog_has_none() {
    let mut pair = Pair::in_sync_with(test_name!(), &[("ha.watchdog", "false")]);
    let active = pair.active();
    let server = pair.server(active).pid().expect("it runs");
    assert!(watchdogs(server).is_empty());
}

/// Under load a server may be gone before its watchdog has begun. The process that has adopted the
/// watchdog by then must not be taken for the server: it would be killed.
#[test]
fn a_watchdog_whose_server_has_ended_already_ends_and_harms_nobody() {
    let mut short = Command::new("true").spawn().expect("true is there");
    let gone = short.id();
    short.wait().expect("it ends");
    let mut watchdog = Command::new(TWINMQ)
        .arg("watchdog")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary under test starts");
    let setup = serde_json::json!({
        "pid": gone,
        "ttl_ms": 200,
        "peer": "127.0.0.1:9",
        "cluster": "twinmq",
        "node": "01".repeat(16),
        "secret_file": null,
        "tls": null,
    });
    let mut pipe = watchdog.stdin.take().expect("it was asked for");
    writeln!(pipe, "{setup}").expect("it reads");
    // One beat without a role, then silence: with the pipe open, only the end of the server ends it.
    pipe.write_all(&[0; 8]).expect("it reads");
    drop(pipe);
    eventually(SOON, "the watchdog has ended", || {
        match watchdog.try_wait().expect("a child can be waited for") {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("{status}"),
            None => Err("it still runs".to_owned()),
        }
    });
    // Whoever reads this was not killed.
}
