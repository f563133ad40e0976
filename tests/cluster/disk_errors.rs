//! A disk of one server of a pair answers with errors: that server ends, the other serves on, and
//! nothing confirmed is lost.

use std::path::{Path, PathBuf};

use twinmq::exit::ExitCode;

use crate::support::chance::{Chance, number_from};
use crate::support::pair::Pair;
use crate::support::server::{Role, Server};
use crate::support::strace::Attached;
use crate::{load, test_name};

/// Calls of a store, and how they fail once.
pub(crate) const KINDS: [(&str, &str); 4] = [
    ("fdatasync", "error=EIO"),
    ("pwrite64", "error=ENOSPC"),
    ("pwrite64", "retval=16"),
    ("fdatasync", "error=ENOSPC"),
];

/// Lets a call on one file fail in a running server.
pub(crate) fn spoil(server: &Server, file: &Path, call: &str, error: &str, nth: usize) -> Attached {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:{error}:when={nth}");
    let file = file.display().to_string();
    let output = Path::new("/dev/null");
    Attached::to(
        server.pid().expect("it runs"),
        output,
        &["-P", &file, "-e", &trace, "-e", &inject],
    )
}

pub(crate) fn store_file(server: &Server) -> PathBuf {
    let stores = server.stores();
    assert_eq!(stores.len(), 1, "{stores:?}");
    server.data_dir().join(&stores[0]).join("data.mdb")
}

#[test]
fn a_server_of_a_pair_whose_store_fails_ends_and_the_other_serves_on() {
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    let mut chance = Chance(seed);
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(20);
    for (call, error) in KINDS {
        for active_fails in [true, false] {
            let active = pair.await_in_sync();
            let victim = if active_fails { active } else { active.other() };
            let nth = 1 + chance.below(40);
            eprintln!("seed {seed}: {call}:{error}:when={nth} of {victim:?}, {active:?} serves");
            let file = store_file(pair.server(victim));
            let attached = spoil(pair.server(victim), &file, call, error, nth);
            let ended = pair.server(victim).await_exit();
            drop(attached);
            let log = pair.server(victim).log();
            let code = i32::from(ExitCode::StoreFailed.code());
            assert_eq!(ended.code(), Some(code), "{log}");
            assert!(log.contains("nothing more is confirmed"), "{log}");
            pair.server(victim.other()).await_state("STANDALONE");
            client.await_confirmed(20);
            pair.server(victim).start();
        }
    }
    pair.await_in_sync();
    let report = client.finish();
    assert!(report.holds(), "seed {seed}: {report:?}");
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).terminate();
        pair.server(role).assert_store_is_sound();
    }
}

#[test]
fn an_active_whose_lock_cannot_be_flushed_loses_it_and_nothing_else() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(20);
    let lock_file = pair.lock_file();
    for error in ["error=EIO", "error=ESTALE"] {
        let active = pair.await_in_sync();
        let attached = spoil(pair.server(active), &lock_file, "fdatasync", error, 2);
        pair.server(active).await_log("the lock was lost");
        drop(attached);
        // Nobody else has taken it, so that it may take it again; or the other one was faster.
        pair.active();
        client.await_confirmed(20);
        for role in [Role::Primary, Role::Secondary] {
            if pair.server(role).has_ended().is_some() {
                pair.server(role).start();
            }
        }
        pair.await_in_sync();
        pair.kill_both();
        pair.primary.start();
        pair.secondary.start();
    }
    pair.await_in_sync();
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}
