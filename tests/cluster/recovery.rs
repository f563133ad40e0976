//! Both servers are down, and one of them comes back alone: it serves if it holds everything that
//! was confirmed, and waits with its reason if it may not.

use std::fs;

use twinmq::cli::admin_client::Status;

use crate::support::pair::{Pair, copy};
use crate::support::server::{Role, Server};
use crate::support::stomp_py::StompPy;
use crate::{load, test_name};

/// What a server says whose store went back in time.
const OLDER: &str = "this store is older than what it has confirmed \
                     (restored backup, reverted snapshot, new disk?)";

/// Waits until the server has been refused three times, so that it is not just slow to claim.
#[track_caller]
fn await_refusals(server: &mut Server) -> (Status, String) {
    let status = server.await_status("its third claim is refused", |status| {
        status
            .claims
            .as_ref()
            .is_some_and(|claims| claims.refused >= 3)
    });
    assert_eq!(status.state, "WAITING");
    assert!(!status.serving);
    let reason = status
        .claims
        .as_ref()
        .and_then(|claims| claims.reason.clone());
    (status, reason.expect("a refused claim has its reason"))
}

/// A loaded pair in sync, killed at once.
fn killed_at_once(test: &str) -> (Pair, StompPy) {
    let mut pair = Pair::in_sync(test);
    let client = load(&pair);
    client.await_confirmed(200);
    pair.kill_both();
    (pair, client)
}

fn serves_alone(test: &str, alone: Role) {
    let (mut pair, client) = killed_at_once(test);
    pair.server(alone).start();
    pair.server(alone)
        .await_status("it serves alone", |status| status.serving);
    client.await_confirmed(50);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn after_both_were_killed_in_sync_the_primary_alone_serves_everything() {
    serves_alone(test_name!(), Role::Primary);
}

#[test]
fn after_both_were_killed_in_sync_the_secondary_alone_serves_everything() {
    serves_alone(test_name!(), Role::Secondary);
}

#[test]
fn a_passive_that_missed_confirmed_messages_waits_and_leaves_its_store_alone() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    let active = pair.active();
    let old = active.other();
    let before = pair.server(old).status().expect("it runs").epoch;
    pair.server(old).kill();
    pair.server(active).await_state("STANDALONE");
    client.await_confirmed(100);
    pair.server(active).kill();

    pair.server(old).start();
    let first = pair
        .server(old)
        .await_status("it runs", |status| status.position > 0);
    let stores = pair.server(old).stores();
    let (status, reason) = await_refusals(pair.server(old));
    assert!(!reason.is_empty());
    assert_eq!(status.position, first.position, "the store does not change");
    assert_eq!(status.epoch, before, "no epoch was made");
    assert_eq!(pair.server(old).stores(), stores);

    // The other one has it all, and the old one is brought up to date by it.
    pair.server(active).start();
    assert_eq!(pair.await_in_sync(), active);
    client.await_confirmed(50);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn an_in_sync_server_whose_disk_was_wiped_does_not_serve_alone() {
    let (mut pair, client) = killed_at_once(test_name!());
    let wiped = Role::Secondary;
    fs::remove_dir_all(pair.server(wiped).data_dir()).expect("nothing runs on it");
    pair.server(wiped).start();
    let (_, reason) = await_refusals(pair.server(wiped));
    assert!(reason.contains(OLDER), "{reason}");

    pair.server(wiped.other()).start();
    assert_eq!(pair.await_in_sync(), wiped.other());
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn an_in_sync_server_whose_disk_was_reverted_does_not_serve_alone() {
    let (mut pair, client) = killed_at_once(test_name!());
    let reverted = Role::Secondary;
    let data = pair.server(reverted).data_dir();
    let backup = pair.scene.path().join("backup");
    copy(&data, &backup);
    pair.primary.start();
    pair.secondary.start();
    pair.await_in_sync();
    // Far more than fits between two notes of the stores' positions beside the lock.
    client.await_confirmed(1000);
    pair.kill_both();
    fs::remove_dir_all(&data).expect("nothing runs on it");
    copy(&backup, &data);

    pair.server(reverted).start();
    let (_, reason) = await_refusals(pair.server(reverted));
    assert!(reason.contains(OLDER), "{reason}");

    pair.server(reverted.other()).start();
    assert_eq!(pair.await_in_sync(), reverted.other());
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}
