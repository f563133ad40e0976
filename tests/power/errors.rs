//! The disk answers with an error, or takes less than it was given: a server ends with its own code,
//! and whatever it had confirmed until then was on the disk without the flush that failed.

use std::fs;
use std::process::ExitStatus;

use twinmq::exit::ExitCode;

use crate::images::judge_liar;
use crate::load::{Load, Mix};
use crate::recording::{Recorder, Recording};
use crate::support::chance::{Chance, number_from};
use crate::support::pair::Scene;
use crate::support::server::Server;
use crate::test_name;

/// Cases of each kind in a plain `cargo test`.
const CASES: u64 = 3;
/// Calls of the store under load, and how each can fail: for once, or from then on.
const KINDS: [(&str, &str); 5] = [
    ("fdatasync", "error=EIO"),
    ("fdatasync", "error=ENOSPC"),
    ("pwrite64", "error=EIO"),
    ("pwrite64", "error=ENOSPC"),
    // A short write.
    ("pwrite64", "retval=16"),
];
const MIX: Mix = Mix {
    kept_each: 3,
    body: 1500,
    large: 70_000,
};

struct Spoiled {
    recording: Recording,
    ended: ExitStatus,
    log: String,
}

/// A standalone server under load until a call of it fails.
fn spoil(test: &str, inject: &str) -> Spoiled {
    let scene = Scene::new(test);
    let mut server = Server::standalone(scene.address, scene.path());
    server.set("store.checkpoint_mib", "1");
    server.set("store.retain_mib", "16");
    fs::create_dir(scene.path().join("data")).expect("the scene is empty");
    let mut recorder = Recorder::default();
    let wrapper = recorder.spoiling_wrapper(scene.path(), Some(inject));
    server.start_under(wrapper);
    let load = Load::start(&server.client_address(), MIX);
    let ended = server.await_exit();
    let receipts = load.finish();
    let log = server.log();
    let recording = recorder.finish(scene, &[], &[server.data_dir()], None);
    recording.assert_has(&receipts);
    Spoiled {
        recording,
        ended,
        log,
    }
}

#[test]
fn after_an_error_of_the_disk_nothing_is_confirmed_that_is_not_on_it() {
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    let cases = number_from("TWINMQ_DISK_ERRORS").unwrap_or(CASES);
    let mut chance = Chance(seed);
    for case in 0..cases {
        for (call, error) in KINDS {
            // The first few are the start's.
            let nth = 12 + chance.below(150);
            let on = if chance.percent(50) { "+" } else { "" };
            let inject = format!("inject={call}:{error}:when={nth}{on}");
            let spoiled = spoil(test_name!(), &inject);
            eprintln!("seed {seed}, {case}: {inject}: {}", spoiled.ended);
            let code = i32::from(ExitCode::StoreFailed.code());
            assert_eq!(
                spoiled.ended.code(),
                Some(code),
                "{inject}: {}",
                spoiled.log
            );
            assert!(
                spoiled.log.contains("nothing more is confirmed"),
                "{}",
                spoiled.log
            );
            let last = spoiled.recording.steps.len() - 1;
            let judged = judge_liar(&spoiled.recording, last, |_, _| false);
            assert_eq!(judged, Ok(()), "seed {seed}: {inject}");
        }
    }
}

#[test]
fn a_first_boot_that_meets_an_error_of_the_disk_ends_and_the_next_one_serves() {
    for call in [
        "fsync",
        "fdatasync",
        "pwrite64",
        "rename",
        "linkat",
        "mkdir",
    ] {
        for nth in 1..4 {
            let scene = Scene::new(test_name!());
            let mut server = Server::standalone(scene.address, scene.path());
            let mut recorder = Recorder::default();
            let inject = format!("inject={call}:error=EIO:when={nth}");
            server.start_under(recorder.spoiling_wrapper(scene.path(), Some(&inject)));
            let ended = crate::support::eventually::eventually(
                crate::support::eventually::SOON,
                "it ends or serves",
                || match server.has_ended() {
                    Some(status) => Ok(Some(status)),
                    None if server.status().is_ok_and(|status| status.serving) => Ok(None),
                    None => Err("it starts".to_owned()),
                },
            );
            eprintln!(
                "{inject}: {ended:?} {}",
                server.log().lines().last().unwrap_or_default()
            );
            match ended {
                Some(status) => assert!(status.code().is_some_and(|code| code > 0), "{status}"),
                // So often was it not called.
                None => server.kill(),
            }
            server.start();
            server.await_state("STANDALONE");
            server.terminate();
            server.assert_store_is_sound();
        }
    }
}
