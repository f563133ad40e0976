//! The disk of a shared store fails, is full, or takes no more writes: the active stops confirming and
//! ends with its code, the other one serves as soon as the disk lets it, and nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use twinmq::exit::ExitCode;

use crate::disk::SmallDisk;
use crate::disk_errors::{KINDS, spoil, store_file};
use crate::support::chance::{Chance, number_from};
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::{Role, Server};
use crate::support::stomp_py::StompPy;
use crate::{load, test_name};

/// A file system of its own, which can be made to take no more writes while it is in use.
struct FailingDisk {
    image: PathBuf,
    place: PathBuf,
}

impl FailingDisk {
    fn mount(image: PathBuf, place: PathBuf) -> Self {
        let file = fs::File::create(&image).expect("the test's folder can be written");
        file.set_len(256 << 20).expect("a file may have holes");
        fs::create_dir_all(&place).expect("the test's folder can be written");
        run("mkfs.ext4", &["-q", "-F"], &[&image]);
        let disk = Self { image, place };
        run("mount", &["-o", "loop"], &[&disk.image, &disk.place]);
        disk
    }

    /// What ext4 does by itself after an error: from now on it is read-only, open files too.
    fn abort(&self) {
        run("mount", &["-o", "remount,abort"], &[&self.place]);
    }

    /// As an operator repairs it.
    fn mount_again(&self) {
        // A server may just be asking whether it has come back.
        eventually(SOON, "nobody uses the disk", || {
            let ended = Command::new("umount").arg(&self.place).output();
            let output = ended.expect("there is umount");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success().then_some(()).ok_or(said)
        });
        run("mount", &["-o", "loop"], &[&self.image, &self.place]);
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Lazily: a server that this test leaves behind when it fails still has files there.
        let unmounted = Command::new("umount").arg("-l").arg(&self.place).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.place.display());
        }
    }
}

#[track_caller]
fn run(program: &str, words: &[&str], paths: &[&Path]) {
    let output = Command::new(program)
        .args(words)
        .args(paths)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "this test mounts a disk of its own, as root: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// It ended by its store's failure, with a text.
#[track_caller]
fn assert_failed(ended: std::process::ExitStatus, server: &Server) {
    let code = i32::from(ExitCode::StoreFailed.code());
    let log = server.log();
    assert_eq!(ended.code(), Some(code), "{log}");
    assert!(log.contains("nothing more is confirmed"), "{log}");
}

/// As a supervisor does.
fn start_what_ended(pair: &mut Pair) {
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).has_ended();
        if !pair.server(role).is_started() {
            pair.server(role).start();
        }
    }
}

fn nothing_is_lost(mut pair: Pair, client: StompPy) {
    pair.await_in_sync();
    client.await_confirmed(50);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).terminate();
    }
    pair.primary.assert_store_is_sound();
}

#[test]
fn an_active_whose_store_fails_ends_and_the_other_serves_from_the_same_store() {
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    let mut chance = Chance(seed);
    let mut pair = Pair::shared_in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(20);
    for (call, error) in KINDS {
        let active = pair.await_in_sync();
        let nth = 1 + chance.below(40);
        eprintln!("seed {seed}: {call}:{error}:when={nth} of {active:?}");
        let file = store_file(pair.server(active));
        let attached = spoil(pair.server(active), &file, call, error, nth);
        let ended = pair.server(active).await_exit();
        drop(attached);
        assert_failed(ended, pair.server(active));
        client.await_confirmed(20);
        assert_eq!(pair.active(), active.other());
        pair.server(active).start();
    }
    nothing_is_lost(pair, client);
}

#[test]
fn a_shared_store_on_a_full_disk_refuses_or_ends_and_nothing_is_lost() {
    let mut pair = Pair::shared(test_name!());
    let disk = SmallDisk::mount(pair.primary.data_dir(), 256);
    pair.start_shared();
    let client = load(&pair);
    client.await_confirmed(100);
    let other = disk.fill(0);
    // Which comes first is a race between the watermark and the load.
    eventually(SOON, "it refuses sends, or ends", || {
        if let Some(ended) = pair.primary.has_ended() {
            assert_failed(ended, &pair.primary);
            return Ok(());
        }
        let admin = twinmq::cli::admin_client::AdminClient::new(&pair.primary.admin_url(), None);
        let status = admin.status_json().map_err(|error| error.to_string())?;
        if status["store"]["refuses_sends"] == true {
            return Ok(());
        }
        Err(status.to_string())
    });
    fs::remove_file(other).expect("it is there");
    eventually(SOON, "one serves", || {
        start_what_ended(&mut pair);
        let serves = |server: &Server| server.status().is_ok_and(|status| status.serving);
        if serves(&pair.primary) || serves(&pair.secondary) {
            Ok(())
        } else {
            Err("none".to_owned())
        }
    });
    client.await_confirmed(100);
    start_what_ended(&mut pair);
    nothing_is_lost(pair, client);
}

#[test]
fn a_shared_store_that_takes_no_more_writes_ends_the_active_and_is_whole_afterwards() {
    let mut pair = Pair::shared(test_name!());
    let image = pair.scene.path().join("disk");
    let disk = FailingDisk::mount(image, pair.primary.data_dir());
    pair.start_shared();
    let client = load(&pair);
    client.await_confirmed(100);
    disk.abort();
    let ended = pair.primary.await_exit();
    assert_failed(ended, &pair.primary);
    // The other one may not have it either, as long as it takes no writes, and goes on asking.
    pair.secondary.await_log("Read-only file system");
    let status = pair.secondary.status().expect("it runs");
    assert!(!status.serving, "{status:?}");
    disk.mount_again();
    client.await_confirmed(100);
    assert_eq!(pair.active(), Role::Secondary);
    start_what_ended(&mut pair);
    nothing_is_lost(pair, client);
}
