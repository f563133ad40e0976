//! What is recorded.

use std::fs;

use nix::sys::signal::Signal;

use crate::load::{Load, Mix};
use crate::recording::{Recorder, Recording};
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::server::{Role, Server};
use crate::support::strace::await_written;
use crate::trace::read;

const SMALL: Mix = Mix {
    kept_each: 3,
    body: 1500,
    large: 70_000,
};

/// A standalone server from nothing: first creation, load with checkpoints, kill, start, orderly stop,
/// `clear-db`.
pub(crate) fn alone(test: &str) -> Recording {
    let scene = Scene::new(test);
    let mut server = Server::standalone(scene.address, scene.path());
    server.set("store.checkpoint_mib", "1");
    server.set("store.retain_mib", "16");
    fs::create_dir(scene.path().join("data")).expect("the scene is empty");
    let mut recorder = Recorder::default();
    recorder.start(&mut server, scene.path());
    let load = Load::start(&server.client_address(), SMALL);
    load.await_confirmed(350);
    kill(&mut server);
    recorder.start(&mut server, scene.path());
    load.await_confirmed(100);
    let receipts = load.finish();
    server.terminate();
    let wrapper = recorder.wrapper(scene.path());
    clear(&server, &wrapper);
    let dir = server.data_dir();
    let last = scene.path().join("trace.2");
    await_written(&last);
    let cleared = read(&last, scene.path(), &scene.path().join("data"));
    let begins = cleared.first().expect("it writes").begun;
    let mut recording = recorder.finish(scene, &[], &[dir], None);
    recording.assert_has(&receipts);
    recording.forgiven_from = begins;
    recording
}

/// `kill -9` between two calls: of one that was under way, nobody could say whether it was carried out.
fn kill(server: &mut Server) {
    let pid = server.pid().expect("it runs");
    server.signal(Signal::SIGSTOP);
    eventually(SOON, "every thread has stopped", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it was not waited for");
        for thread in threads.flatten() {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let stopped =
                |line: &str| line.starts_with("State:\tT") || line.starts_with("State:\tt");
            if !status.is_empty() && !status.lines().any(stopped) {
                return Err(status);
            }
        }
        Ok(())
    });
    server.kill();
}

fn clear(server: &Server, wrapper: &[String]) {
    let output = server
        .subcommand(wrapper, &["clear-db"])
        .output()
        .expect("the binary under test starts");
    assert!(output.status.success(), "{output:?}");
}

/// So much log that its oldest chunks go.
pub(crate) fn collected(test: &str) -> Recording {
    let scene = Scene::new(test);
    let mut server = Server::standalone(scene.address, scene.path());
    server.set("store.checkpoint_mib", "1");
    server.set("store.retain_mib", "16");
    fs::create_dir(scene.path().join("data")).expect("the scene is empty");
    let mut recorder = Recorder::default();
    recorder.start(&mut server, scene.path());
    let mix = Mix {
        kept_each: 5,
        body: 60_000,
        large: 60_000,
    };
    let load = Load::start(&server.client_address(), mix);
    load.await_confirmed(700);
    let receipts = load.finish();
    server.terminate();
    let dir = server.data_dir();
    let recording = recorder.finish(scene, &[], &[dir], None);
    recording.assert_has(&receipts);
    recording
}

/// A pair from nothing, through every transition.
pub(crate) fn pair(test: &str) -> Recording {
    let mut pair = Pair::new(test);
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).set("store.checkpoint_mib", "1");
        pair.server(role).set("store.retain_mib", "16");
    }
    let folder = pair.scene.path().to_path_buf();
    fs::create_dir_all(folder.join("data/replicated")).expect("the scene is empty");
    let mut recorder = Recorder::default();
    let hosts = pair.hosts();
    recorder.start(&mut pair.primary, &folder);
    pair.primary.await_state("STANDALONE");
    let load = Load::start(&hosts, SMALL);
    load.await_confirmed(40);
    recorder.start(&mut pair.secondary, &folder);
    pair.await_in_sync();
    load.await_confirmed(80);

    // The passive goes and comes back: shrink, incremental resync, extend.
    kill(&mut pair.secondary);
    pair.primary.await_state("STANDALONE");
    load.await_confirmed(30);
    recorder.start(&mut pair.secondary, &folder);
    pair.await_in_sync();
    load.await_confirmed(40);

    // The active goes with a tail that nobody else has: take-over, truncation.
    pair.secondary.signal(Signal::SIGSTOP);
    load.await_standstill();
    kill(&mut pair.primary);
    pair.secondary.signal(Signal::SIGCONT);
    pair.secondary.await_state("STANDALONE");
    load.await_confirmed(40);
    recorder.start(&mut pair.primary, &folder);
    assert_eq!(pair.await_in_sync(), Role::Secondary);
    load.await_confirmed(40);

    // The passive is emptied: full resync, switch of the store.
    pair.primary.terminate();
    let wrapper = recorder.wrapper(&folder);
    clear(&pair.primary, &wrapper);
    recorder.start(&mut pair.primary, &folder);
    pair.await_in_sync();
    load.await_confirmed(40);

    let receipts = load.finish();
    pair.primary.terminate();
    pair.secondary.terminate();
    let dirs = [pair.primary.data_dir(), pair.secondary.data_dir()];
    let lock_file = pair.lock_file();
    let Pair { scene, .. } = pair;
    let recording = recorder.finish(scene, &["replicated"], &dirs, Some(lock_file));
    recording.assert_has(&receipts);
    recording
}
