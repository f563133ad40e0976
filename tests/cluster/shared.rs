//! Shared mode: one store, which the server that holds the lock has open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use twinmq::exit::ExitCode;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::{Role, Server, TWINMQ};
use crate::support::stomp_py::StompPy;
use crate::{load, test_name};

fn stepped_down() -> Option<i32> {
    Some(i32::from(ExitCode::SteppedDown.code()))
}

/// Nothing that was confirmed is lost.
#[track_caller]
fn settle(client: StompPy) {
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

/// The server that ended is started again, and the ledger is settled.
#[track_caller]
fn comes_back(pair: &mut Pair, ended: Role, client: StompPy) {
    pair.server(ended).start();
    pair.await_in_sync();
    settle(client);
}

fn data_file(pair: &Pair) -> PathBuf {
    pair.primary.data_dir().join("store.1/data.mdb")
}

/// What a process has open or mapped of a file.
fn touches(server: &Server, file: &Path) -> bool {
    let pid = server.pid().expect("it runs");
    let file = fs::canonicalize(file).expect("the store is there");
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .any(|entry| {
            entry.is_ok_and(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == file))
        });
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    open || maps.contains(&*file.to_string_lossy())
}

#[test]
fn the_stock_pair_serves_at_once_and_the_standby_never_touches_the_store() {
    let mut pair = Pair::shared(test_name!());
    pair.primary.start();
    let status = pair.primary.await_state("ACTIVE");
    assert_eq!(status.mode, "shared");
    pair.secondary.start();
    pair.await_in_sync();
    let client = load(&pair);
    client.await_confirmed(200);
    assert!(touches(&pair.primary, &data_file(&pair)));
    assert!(!touches(&pair.secondary, &data_file(&pair)));
    let log = pair.primary.log();
    for (first, then) in [("PASSIVE", "ACTIVATING"), ("ACTIVATING", "ACTIVE")] {
        let at = |state: &str| log.find(&format!("Primary Server switched to {state}"));
        assert!(at(first).is_some() && at(first) < at(then), "{log}");
    }
    settle(client);
}

#[test]
fn at_first_boot_the_secondary_waits_for_the_primary() {
    let mut pair = Pair::shared(test_name!());
    pair.secondary.start();
    let status = pair.secondary.await_status("it says why", |status| {
        let claims = status.claims.as_ref();
        claims.is_some_and(|claims| {
            claims
                .reason
                .as_ref()
                .is_some_and(|why| why.contains("first boot"))
        })
    });
    assert_eq!(status.state, "PASSIVE");
    pair.primary.start();
    pair.await_in_sync();
}

#[test]
fn kill_9_of_the_active_under_load_loses_nothing_that_was_confirmed() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    for _ in 0..3 {
        client.await_confirmed(200);
        let dead = pair.active();
        pair.server(dead).kill();
        client.await_confirmed(200);
        assert_eq!(pair.active(), dead.other());
        pair.server(dead).start();
        assert_eq!(pair.await_in_sync(), dead.other());
    }
    settle(client);
    for role in [Role::Primary, Role::Secondary] {
        assert!(pair.server(role).terminate().success());
    }
    pair.primary.assert_store_is_sound();
}

#[test]
fn the_standby_may_come_and_go() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    let standby = pair.active().other();
    pair.server(standby).kill();
    client.await_confirmed(100);
    assert_eq!(pair.active(), standby.other());
    pair.server(standby).start();
    assert_eq!(pair.await_in_sync(), standby.other());
    settle(client);
}

#[test]
fn an_orderly_stop_hands_over() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(200);
    let first = pair.active();
    assert!(pair.server(first).terminate().success());
    client.await_confirmed(200);
    assert_eq!(pair.active(), first.other());
    comes_back(&mut pair, first, client);
}

/// `twinmq COMMAND` on this server's profile: its exit code and what it said.
fn operate(server: &Server, words: &[&str]) -> (Option<i32>, String) {
    let output = server.operator(words).output();
    let output = output.expect("the binary under test starts");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn a_switchover_ends_the_active_in_order_and_the_standby_serves() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    for _ in 0..2 {
        client.await_confirmed(200);
        let first = pair.active();
        let (code, text) = operate(pair.server(first), &["switchover", "--dry-run"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("nothing was changed"), "{text}");
        assert_eq!(pair.active(), first);
        let (code, text) = operate(pair.server(first), &["switchover"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("has ended in order"), "{text}");
        assert!(pair.server(first).await_exit().success());
        assert_eq!(pair.active(), first.other());
        client.await_confirmed(200);
        pair.server(first).start();
        assert_eq!(pair.await_in_sync(), first.other());
    }
    let standby = pair.active().other();
    let (code, text) = operate(pair.server(standby), &["switchover"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("PASSIVE"), "{text}");
    settle(client);
}

#[test]
fn a_promotion_is_refused_with_its_reason() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let (code, text) = operate(&pair.secondary, &["promote", "--accept-loss"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("both share one store"), "{text}");
    assert_eq!(pair.active(), Role::Primary);
}

#[test]
fn servers_of_one_store_explain_themselves_alive_and_dead() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let explains = |server: &Server, wanted: &[&str]| {
        let (code, text) = operate(server, &["explain"]);
        assert_eq!(code, Some(0), "{text}");
        for words in wanted {
            assert!(text.contains(words), "no {words:?} in\n{text}");
        }
        for words in ["STANDALONE", "PASSIVE_SYNC", "WAITING"] {
            assert!(!text.contains(words), "{words:?} in\n{text}");
        }
    };
    explains(
        &pair.primary,
        &[
            "is ACTIVE: it serves clients, and every confirmed message is on the shared store's disk",
        ],
    );
    explains(
        &pair.secondary,
        &["is PASSIVE: it serves no clients and has the store closed"],
    );
    pair.secondary.terminate();
    explains(
        &pair.secondary,
        &[
            "its last run ended",
            "the other server runs and serves (ACTIVE); this one would be PASSIVE",
        ],
    );
    pair.primary.kill();
    explains(
        &pair.primary,
        &[
            "did not end in order",
            "the other server does not answer; this one would take the lock, open the store and serve \
             (ACTIVE)",
        ],
    );
}

#[test]
fn a_lock_file_that_goes_ends_the_active_with_its_own_code_and_the_standby_takes_over() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    fs::remove_file(pair.lock_file()).expect("it is there");
    let ended = pair.primary.await_exit();
    assert_eq!(ended.code(), stepped_down());
    assert!(pair.primary.log().contains("the lock was lost"));
    client.await_confirmed(100);
    comes_back(&mut pair, Role::Primary, client);
}

/// The old holder is stopped in the middle of its commits and its lock is taken from it: what no local
/// file system does by itself, and a file server may.
#[test]
fn a_stopped_active_whose_lock_was_taken_keeps_the_store_until_it_is_dead() {
    let mut pair = Pair::shared(test_name!());
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).set("ha.watchdog", "false");
    }
    pair.start_shared();
    let client = load(&pair);
    client.await_confirmed(100);
    settle(client);
    pair.primary.signal(Signal::SIGSTOP);
    fs::remove_file(pair.lock_file()).expect("it is there");
    let status = pair
        .secondary
        .await_status("it says who has the store", |status| {
            let claims = status.claims.as_ref();
            let reason = claims.and_then(|claims| claims.reason.as_ref());
            reason.is_some_and(|why| why.contains("still open in process"))
        });
    assert_eq!(status.state, "PASSIVE");
    assert!(!touches(&pair.secondary, &data_file(&pair)) || !status.serving);
    // It wakes up, finds that its lease is over and its lock gone, and ends.
    pair.primary.signal(Signal::SIGCONT);
    let ended = pair.primary.await_exit();
    assert_eq!(ended.code(), stepped_down());
    let client = load(&pair);
    client.await_confirmed(100);
    assert_eq!(pair.active(), Role::Secondary);
    comes_back(&mut pair, Role::Primary, client);
}

#[test]
fn a_stopped_active_is_ended_by_its_watchdog_and_the_standby_takes_over() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    pair.primary.signal(Signal::SIGSTOP);
    client.await_confirmed(200);
    assert_eq!(pair.active(), Role::Secondary);
    pair.primary.await_exit();
    comes_back(&mut pair, Role::Primary, client);
}

#[test]
fn another_db_path_is_refused_with_a_text() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let other = pair.scene.path().join("data/other");
    fs::create_dir_all(&other).expect("the test's folder can be written");
    pair.secondary.terminate();
    pair.secondary
        .set("store.path", &other.display().to_string());
    let reason = pair.secondary.start_and_await_refusal();
    assert!(
        reason.contains("same directory for both servers"),
        "{reason}"
    );
    pair.primary.kill();
    let status = pair
        .secondary
        .await_status("it is refused again", |status| {
            let claims = status.claims.as_ref();
            claims.is_some_and(|claims| claims.tried > 0 && claims.refused > 0)
        });
    assert!(!status.serving, "{status:?}");
    assert_eq!(
        fs::read_dir(&other).expect("it is there").count(),
        0,
        "nothing is made there"
    );
}

#[test]
fn a_failed_flush_of_the_store_ends_the_active_and_loses_nothing() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(200);
    let pid = pair.primary.pid().expect("it runs").to_string();
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"])
        .args(["-e", "inject=fdatasync:error=EIO:when=3+", "-p", &pid])
        .spawn()
        .expect("strace is there: this test makes flushes fail with it");
    let ended = pair.primary.await_exit();
    strace
        .wait()
        .expect("it ends with the process that it traces");
    assert_eq!(ended.code(), Some(i32::from(ExitCode::StoreFailed.code())));
    assert!(pair.primary.log().contains("nothing more is confirmed"));
    client.await_confirmed(200);
    assert_eq!(pair.active(), Role::Secondary);
    comes_back(&mut pair, Role::Primary, client);
}

#[test]
fn a_store_is_checked_and_cleared_only_while_nobody_has_it() {
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(50);
    settle(client);
    let folder = pair.scene.path().to_owned();
    let twinmq = |words: &[&str]| -> (Option<i32>, String) {
        let output = Command::new(TWINMQ)
            .current_dir(&folder)
            .args(words)
            .output()
            .expect("the binary under test starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let clear = ["clear-db", "-p", "shared/secondary"];
    let in_use = Some(i32::from(ExitCode::StoreInUse.code()));
    // The peer has it open, although this server is stopped.
    pair.secondary.terminate();
    for words in [&clear[..], &["store", "check", "-p", "shared/secondary"]] {
        let (code, text) = twinmq(words);
        assert_eq!(code, in_use, "{text}");
        assert!(text.contains("is open in process"), "{text}");
    }
    pair.primary.await_state("ACTIVE");
    pair.primary.terminate();
    pair.primary.assert_store_is_sound();
    let (code, text) = twinmq(&clear);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("only store of the pair"), "{text}");
    let (code, text) = twinmq(&[&clear[..], &["--force"]].concat());
    assert_eq!(code, Some(0), "{text}");
    pair.secondary.start();
    let status = pair.secondary.await_state("ACTIVE");
    assert_eq!(status.store.messages, 0);
    pair.primary.start();
    eventually(SOON, "both have the new store", || {
        let status = pair.primary.status()?;
        if status.pair_is_in_sync() {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
}
