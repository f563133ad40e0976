//! The lock file is missing, cannot be written, or belongs to somebody else.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

use crate::support::pair::Pair;
use crate::{load, test_name};

#[test]
fn a_store_that_knows_a_lock_refuses_to_serve_when_lock_and_record_are_gone() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    pair.kill_both();
    let folder = pair
        .lock_file()
        .parent()
        .map(Path::to_owned)
        .expect("it has a folder");
    fs::remove_dir_all(&folder).expect("nobody holds it");

    pair.primary.start();
    let status = pair.primary.await_status("it is refused", |status| {
        status
            .claims
            .as_ref()
            .is_some_and(|claims| claims.refused >= 3)
    });
    assert_eq!(status.state, "WAITING");
    let reason = status
        .claims
        .and_then(|claims| claims.reason)
        .unwrap_or_default();
    assert!(reason.contains("record"), "{reason}");

    // Both together know that nothing was lost, and make the record anew.
    pair.secondary.start();
    pair.await_in_sync();
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn a_lock_file_that_cannot_be_written_is_named_and_nothing_is_served() {
    let mut pair = Pair::new(test_name!());
    // Not even root can make files there.
    let path = "/proc/replicated.lck";
    pair.primary.set("ha.lock.lock_file", path);
    let text = pair.primary.start_and_await_refusal();
    assert!(text.contains(path), "{text}");
}

#[test]
fn by_lock_nobody_serves_while_a_stranger_has_it_and_then_one_does() {
    let mut pair = Pair::in_sync_with(test_name!(), &[("ha.lock.takeover", "lock")]);
    let client = load(&pair);
    client.await_confirmed(100);
    pair.kill_both();
    let stranger = File::options()
        .read(true)
        .write(true)
        .open(pair.lock_file())
        .expect("the lock file is left behind");
    let mut whole = libc_flock(nix::libc::F_WRLCK);
    whole.l_len = 0;
    fcntl(&stranger, FcntlArg::F_OFD_SETLK(&whole)).expect("its holders are dead");

    pair.primary.start();
    let status = pair
        .primary
        .await_status("it meets the stranger", |status| {
            status
                .claims
                .as_ref()
                .is_some_and(|claims| claims.reason.is_some())
        });
    assert_eq!(status.state, "WAITING");
    assert!(!status.serving);
    let reason = status
        .claims
        .and_then(|claims| claims.reason)
        .unwrap_or_default();
    assert!(reason.contains("lock"), "{reason}");

    drop(stranger);
    pair.primary
        .await_status("it serves", |status| status.serving);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

fn libc_flock(kind: i32) -> nix::libc::flock {
    nix::libc::flock {
        l_type: i16::try_from(kind).expect("lock kinds are small"),
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
