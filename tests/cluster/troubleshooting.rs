//! The six troubleshooting cases of the reference's guide (S168 to S173), each caused and read as an
//! operator would.

use std::net::TcpListener;

use twinmq::exit::ExitCode;

use crate::support::pair::Pair;
use crate::support::server::{Role, Server};
use crate::{load, test_name};

fn await_exit_code(server: &mut Server, code: ExitCode) -> String {
    let status = server.await_exit();
    let log = server.log();
    assert_eq!(status.code(), Some(i32::from(code.code())), "{log}");
    log
}

/// Case 1. Each of the values that must be equal: the server that joins refuses to run and shows both
/// values, the one that serves goes on (H8, S220).
#[test]
fn case_1_a_server_whose_values_differ_refuses_to_run_and_shows_a_diff() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    assert!(pair.secondary.terminate().success());
    let cases = [
        ("ha.ping_interval_ms", "400", "500 ms"),
        (
            "ha.lock.active_lock_re_acquisition_interval_ms",
            "750",
            "1000 ms",
        ),
        (
            "ha.lock.passive_lock_acquisition_interval_ms",
            "3000",
            "2500 ms",
        ),
        ("ha.gateway.gateway_server_port", "9", "7"),
        (
            "ha.gateway.gateway_server_ip_address",
            "127.0.0.2",
            &pair.scene.address.to_string(),
        ),
    ];
    for (key, value, equal) in cases {
        pair.secondary.set(key, value);
        pair.secondary.start();
        let log = await_exit_code(&mut pair.secondary, ExitCode::PeerMismatch);
        assert!(
            log.contains("HA properties are not set properly in the backup server"),
            "{log}"
        );
        assert!(log.contains(&format!("{key} differs:\n- {value}")), "{log}");
        assert!(log.contains(&format!("\n+ {equal}")), "{log}");
        pair.primary.assert_runs();
        assert!(pair.primary.status().expect("it answers").serving);
        pair.secondary.set(key, equal.trim_end_matches(" ms"));
    }
    // Nothing was cleared for it (H23): with the values equal again the pair is one.
    pair.secondary.start();
    pair.await_in_sync();
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

/// Case 2. No lock file is named, or it cannot be there.
#[test]
fn case_2_without_a_usable_lock_file_the_boot_is_refused() {
    let mut pair = Pair::new(test_name!());
    pair.primary.set("ha.lock.lock_file", "");
    pair.primary.start();
    let log = await_exit_code(&mut pair.primary, ExitCode::Configuration);
    assert!(log.contains("ha.lock.lock_file"), "{log}");
    let missing = pair.scene.path().join("not-mounted/pair.lck");
    pair.primary
        .set("ha.lock.lock_file", &missing.display().to_string());
    pair.primary.start();
    let log = await_exit_code(&mut pair.primary, ExitCode::LockFile);
    assert!(log.contains(&missing.display().to_string()), "{log}");
    assert!(log.contains("mount the share there"), "{log}");
}

/// Case 3. A service that fails has nobody at its console: the log file says why.
#[test]
fn case_3_why_a_service_fails_is_in_its_log_file() {
    let mut pair = Pair::new(test_name!());
    let file = pair.scene.path().join("server.log");
    pair.primary.set("log.file", &file.display().to_string());
    let address = (pair.scene.address, 2000);
    let taken = TcpListener::bind(address).expect("this test's address is its own");
    pair.primary.start();
    await_exit_code(&mut pair.primary, ExitCode::AddressInUse);
    let log = std::fs::read_to_string(&file).expect("the log file was made");
    assert!(log.contains("is in use by"), "{log}");
    drop(taken);
}

/// Case 4. Somebody has the HA port.
#[test]
fn case_4_a_taken_ha_port_is_named_with_its_owner_and_both_keys() {
    let mut pair = Pair::new(test_name!());
    let address = (pair.scene.address, 2000);
    let taken = TcpListener::bind(address).expect("this test's address is its own");
    pair.primary.start();
    let log = await_exit_code(&mut pair.primary, ExitCode::AddressInUse);
    let owner = format!("(pid {})", std::process::id());
    for text in [&owner, "ha.port", "ha.backup_ha_port"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    drop(taken);
}

/// Case 5. Both have the other's address wrong: one serves alone, the other waits, and both show the
/// address that they try.
#[test]
fn case_5_wrong_peer_addresses_leave_one_waiting_and_show_what_is_tried() {
    let mut pair = Pair::in_sync(test_name!());
    pair.kill_both();
    for (server, port) in [(&mut pair.primary, "3001"), (&mut pair.secondary, "2001")] {
        server.set("ha.backup_ha_port", port);
        server.start();
    }
    let active = pair.active();
    pair.server(active).await_state("STANDALONE");
    let waits = pair.server(active.other());
    waits.await_status("it says why it does not serve", |status| {
        status.state == "WAITING" && status.claims.as_ref().is_some_and(|it| it.reason.is_some())
    });
    let address = pair.scene.address;
    for (role, wrong) in [(Role::Primary, 3001), (Role::Secondary, 2001)] {
        pair.server(role).await_log(&format!(
            "Trying to establish connection with {address}:{wrong} ..."
        ));
    }
}

/// Case 6. In the reference both serve after a cut when their lock files are not the same one. Here
/// the second server does not get that far (H7).
#[test]
fn case_6_servers_with_different_lock_files_never_become_a_pair() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    assert!(pair.secondary.terminate().success());
    let other = pair.scene.path().join("other.lck");
    pair.secondary
        .set("ha.lock.lock_file", &other.display().to_string());
    // It has seen a record: with another, or none, it may not serve, and says so.
    let reason = pair.secondary.start_and_await_refusal();
    assert!(
        reason.contains("record") || reason.contains("lock"),
        "{reason}"
    );
    assert!(pair.primary.status().expect("it answers").serving);
    client.await_confirmed(100);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

/// The lines by which an operator of the reference knows that a pair is up (S133 to S140, S237).
#[test]
fn the_console_says_what_an_operator_of_the_reference_looks_for() {
    let mut pair = Pair::in_sync(test_name!());
    let lock = pair.lock_file().display().to_string();
    for line in [
        "Primary Server switched to WAITING",
        "Backup Server not Connected. Check configuration or Start backup Server ...",
        "Primary Server switched to STANDALONE",
        "Primary Server switched to ACTIVE_SYNC",
        "Primary Server switched to ACTIVE",
        "Old status of remote server = DEAD",
        "New status of remote server = WAITING",
        "New status of remote server = PASSIVE",
        &format!("Successfully acquired lock on: {lock}"),
        &format!("accepting connections at {}:1856", pair.scene.address),
        &format!(
            "Trying to establish connection with {}:3000 ...",
            pair.scene.address
        ),
    ] {
        pair.primary.await_log(line);
    }
    for line in [
        "Secondary Server switched to PASSIVE_SYNC",
        "Secondary Server switched to PASSIVE",
    ] {
        pair.secondary.await_log(line);
    }
}
