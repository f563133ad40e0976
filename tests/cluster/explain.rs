//! `twinmq explain` and `twinmq history`, of servers in each state and of dead ones: whoever reads them at
//! night learns why, and what to type next.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::server::{Server, TWINMQ};
use crate::test_name;

/// `twinmq COMMAND` with the profile and the settings that the server is run with.
fn said(server: &Server, command: &str, more: &[&str]) -> String {
    let run = server.command();
    let mut asked = Command::new(TWINMQ);
    if let Some(folder) = run.get_current_dir() {
        asked.current_dir(folder);
    }
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => asked.env(name, value),
            None => asked.env_remove(name),
        };
    }
    let words = run.get_args().skip_while(|word| *word == "run");
    let output = asked
        .arg(command)
        .args(words)
        .args(more)
        .output()
        .expect("the binary under test starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}{errors}");
    text
}

#[track_caller]
fn shows(server: &Server, wanted: &[&str]) -> String {
    let text = eventually(SOON, "the explanation", || {
        let text = said(server, "explain", &[]);
        match wanted.iter().find(|part| !text.contains(**part)) {
            None => Ok(text),
            Some(part) => Err(format!("no {part:?} in\n{text}")),
        }
    });
    eprintln!("{text}\n");
    text
}

#[track_caller]
fn explained(server: &Server) -> Value {
    let text = said(server, "explain", &["--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn each_state_of_a_pair_explains_itself_and_so_do_its_dead_servers() {
    let mut pair = Pair::in_sync(test_name!());
    shows(
        &pair.primary,
        &[
            "is ACTIVE: it serves clients, and every confirmed message is on both servers' disks.",
            "yes      this server holds the lock",
            "to stopped when it is stopped in order: twinmq stop -p ",
            "-> ACTIVE: ",
        ],
    );
    shows(
        &pair.secondary,
        &[
            "is PASSIVE: it serves no clients: the other server does",
            "to PASSIVE (no channel) if the channel to the other server ends",
        ],
    );
    let document = explained(&pair.primary);
    assert_eq!(
        (&document["running"], &document["state"]),
        (&true.into(), &"ACTIVE".into())
    );
    let ways = document["ways"].as_array().expect("a list");
    assert!(ways.iter().any(|way| {
        way["guards"][0]["facts"][0]["age_ms"].is_u64() && way["guards"][0]["holds"] == "yes"
    }));

    // The passive dies; the active goes on alone; the passive's copy becomes stale.
    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    shows(
        &pair.primary,
        &[
            "is STANDALONE: it serves clients alone",
            "no       the other server waits to be brought into step",
        ],
    );
    shows(
        &pair.secondary,
        &[
            "secondary is not running: its last run did not end in order",
            "If it were started now: the other server runs and serves (STANDALONE); it would bring this one into step",
            "start it: twinmq run -p ",
        ],
    );
    pair.primary.kill();
    let stale = shows(
        &pair.secondary,
        &[
            "If it were started now: the other server does not answer; this one would wait (WAITING) and serve nobody.",
            "not in sync since epoch 1: the other server went on without this store",
            "no       this server's copy holds every confirmed message",
            "names only a copy that is not this server's",
            "twinmq run -p ",
        ],
    );
    assert!(
        stale.find("What you can do") < stale.find("Ways out"),
        "{stale}"
    );
    shows(
        &pair.primary,
        &[
            "this one would take the lock, enter itself in the record, and serve alone (STANDALONE).",
        ],
    );
    a_start_gives_what_the_files_said(&mut pair);
}

fn a_start_gives_what_the_files_said(pair: &mut Pair) {
    pair.secondary.start();
    pair.secondary.await_status("it was refused", |status| {
        status
            .claims
            .as_ref()
            .is_some_and(|claims| claims.refused > 0)
    });
    shows(
        &pair.secondary,
        &[
            "is WAITING: it serves no clients",
            "Why it does not serve, or not as it should: not in sync since epoch 1",
            "no       this server's copy holds every confirmed message",
        ],
    );
    let history = said(&pair.secondary, "history", &[]);
    for part in [
        "refused",
        "WAITING -> PASSIVE_SYNC",
        "PASSIVE_SYNC -> PASSIVE",
        "link up",
        "peer",
    ] {
        assert!(history.contains(part), "{part} in {history}");
    }
    let starts = history.matches("  start  ").count();
    assert_eq!(starts, 2, "{history}");
    assert_eq!(pair.secondary.terminate().code(), Some(0));
    let ended = said(&pair.secondary, "history", &["--limit", "1"]);
    assert!(
        ended.contains("ended with exit code 0 (done): stopped in order"),
        "{ended}"
    );
    pair.primary.start();
    pair.primary.await_state("STANDALONE");
}

#[test]
fn a_server_that_waits_for_a_stopped_one_names_the_lock() {
    let mut pair = Pair::in_sync_with(
        test_name!(),
        &[("ha.lock.takeover", "lock"), ("ha.watchdog", "false")],
    );
    pair.primary.signal(Signal::SIGSTOP);
    shows(
        &pair.secondary,
        &[
            "is PASSIVE (no channel): it serves no clients: it has lost the other server",
            "no       nobody else holds the lock",
            "the lock is held by ",
            "If it hangs, end its process",
        ],
    );
    // Its port does not answer, but its store is in use.
    let text = said(&pair.primary, "explain", &[]);
    assert!(
        text.contains("has its files open, but does not answer"),
        "{text}"
    );
    pair.secondary.kill();
    shows(
        &pair.secondary,
        &["this one may serve, but would wait (WAITING) until the lock is free."],
    );
    pair.primary.signal(Signal::SIGCONT);
    pair.primary.kill();
}

#[test]
fn a_missing_arbiter_a_cleared_store_and_garbage_are_explained() {
    let mut pair = Pair::in_sync(test_name!());
    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    pair.primary.kill();
    let lock_file = pair.lock_file();
    // As the stock profile names it.
    let shown = lock_file
        .strip_prefix(pair.scene.path())
        .expect("it is in the test's folder");
    let folder = lock_file.parent().expect("it has one");
    let aside = folder.with_extension("aside");
    fs::rename(folder, &aside).expect("it can be moved");
    shows(
        &pair.primary,
        &[
            "the arbiter record is gone (this store has seen number ",
            &format!(
                "put the folder {}.d and the lock file back",
                shown.display()
            ),
        ],
    );
    pair.primary.start();
    shows(
        &pair.primary,
        &[
            "primary is WAITING",
            "the arbiter record is gone (this store has seen number ",
        ],
    );
    pair.primary.kill();
    fs::rename(&aside, folder).expect("it can be moved back");

    // A cleared store: its server has never held what the record speaks of.
    said(&pair.secondary, "clear-db", &[]);
    shows(
        &pair.secondary,
        &[
            "this store is older than what it has confirmed",
            "twinmq run -p ",
        ],
    );

    // Garbage wherever explain reads.
    let node = pair.secondary.data_dir().join("node");
    fs::write(
        node.join("history.jsonl"),
        [0xff, b'{', b'\n', 0, 0x1b, b'['],
    )
    .expect("written");
    fs::write(node.join("last_record"), b"no record").expect("written");
    shows(&pair.secondary, &["its node/last_record is not readable"]);
    fs::remove_file(node.join("last_record")).expect("it is there");
    let store = pair.secondary.stores().pop().expect("it has a store");
    let data = pair.secondary.data_dir().join(store).join("data.mdb");
    fs::write(data, vec![0x5a; 70_000]).expect("written");
    shows(
        &pair.secondary,
        &["its store cannot be read: ", "twinmq store check -p "],
    );
    fs::remove_dir_all(pair.secondary.data_dir()).expect("it is there");
    shows(
        &pair.secondary,
        &["secondary is not running: it has never run here"],
    );
    assert!(!pair.secondary.data_dir().exists(), "nothing was made");
    assert!(said(&pair.secondary, "history", &[]).contains("no events are known"));
}

#[test]
fn a_damaged_identity_is_named_and_its_removal_is_enough() {
    for (mut pair, own) in [
        (Pair::new(test_name!()), "data/replicated/primary/node"),
        (Pair::shared(test_name!()), "data/shared/primary"),
    ] {
        pair.primary.start();
        pair.primary
            .await_status("it serves", |status| status.serving);
        assert_eq!(pair.primary.terminate().code(), Some(0));
        let file = pair.scene.path().join(own).join("identity.json");
        fs::write(&file, b"\0no identity").expect("written");
        let text = shows(
            &pair.primary,
            &[
                "primary is not running: its last run ended with exit code 0",
                "If it were started now: it would end at once (exit code 6).",
                "identity.json, which says who this server is, is damaged: expected value",
                "take the damaged file away (mv ",
            ],
        );
        assert!(!text.contains("would take the lock"), "{text}");
        let ended = pair.primary.command().output().expect("it starts");
        assert_eq!(ended.status.code(), Some(6), "as it was said");
        fs::rename(&file, file.with_extension("damaged")).expect("it is there");
        pair.primary.start();
        pair.primary
            .await_status("it serves", |status| status.serving);
        pair.primary.terminate();
    }
}

#[test]
fn a_standalone_server_needs_nobody() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    shows(
        &server,
        &["If it were started now: it would serve clients: it needs no other server."],
    );
    server.start_and_await();
    let text = shows(
        &server,
        &[
            "standalone is STANDALONE: it serves clients alone",
            "to stopped when it is stopped",
        ],
    );
    assert!(!text.contains("the other server waits"), "{text}");
    assert_eq!(server.terminate().code(), Some(0));
    shows(
        &server,
        &["its last run ended with exit code 0 (done): stopped in order"],
    );
}
