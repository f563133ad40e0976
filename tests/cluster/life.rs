//! How a server's process begins and ends.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinmq::cli::admin_client::AdminClient;
use twinmq::exit::ExitCode;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::server::{Role, Server};
use crate::{connect, test_name};

#[test]
fn a_second_sigterm_ends_a_server_that_still_owes_answers() {
    // The pair may not give up its silent passive meanwhile: the answer stays owed.
    let settings = [
        ("ha.lock.passive_lock_acquisition_interval_ms", "60000"),
        ("ha.lock.max_wait_timeout_ms", "120000"),
        ("ha.ping_misses", "100"),
        ("ha.replication.replication_ack_timeout_ms", "60000"),
    ];
    let mut pair = Pair::new(test_name!());
    for (key, value) in settings {
        pair.primary.set(key, value);
        pair.secondary.set(key, value);
    }
    // Together: alone, each would wait for the other for as long as the first of these says.
    pair.primary.start();
    pair.secondary.start();
    let active = pair.await_in_sync();
    pair.server(active.other()).signal(Signal::SIGSTOP);
    let server = pair.server(active);
    let mut client = connect(&server.client_address());
    let taken = server.status().expect("it runs").position;
    let headers = [("destination", "/queue/q"), ("receipt", "owed")];
    client.queue("SEND", &headers, b"one");
    client.flush().expect("the server serves");
    server.await_status("it holds the message, unconfirmed", |status| {
        status.position > taken && status.committed <= taken
    });
    server.signal(Signal::SIGTERM);
    server.await_log("Container shutdown initiated");
    server.signal(Signal::SIGTERM);
    let ended = server.await_exit();
    assert_eq!(ended.code(), Some(i32::from(ExitCode::Failed.code())));
    assert!(
        client.next(SOON).is_err(),
        "what only one server held was not confirmed"
    );
    pair.server(active.other()).signal(Signal::SIGCONT);
}

#[test]
fn a_server_in_the_background_outlives_its_starter_and_a_second_one_says_why_not() {
    let scene = Scene::new(test_name!());
    let server = Server::standalone(scene.address, scene.path());
    let background = || -> Command {
        let mut command = server.command();
        command.arg("--background");
        command
    };
    let started = background().output().expect("the binary under test starts");
    let text = String::from_utf8_lossy(&started.stdout).into_owned();
    assert!(started.status.success(), "{text}");
    let status = server.status().expect("its admin port answers");
    assert_eq!(text.trim(), format!("running as process {}", status.pid));

    let second = background().output().expect("the binary under test starts");
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    assert!(text.contains("--background"), "{text}");
    assert_eq!(server.status().expect("the first runs on").pid, status.pid);

    let pid = i32::try_from(status.pid).expect("process ids are small");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    let admin = AdminClient::new(&server.admin_url(), None);
    eventually(SOON, "it has ended", || match admin.status() {
        Err(_) => Ok(()),
        Ok(status) => Err(format!("{status:?}")),
    });
}

#[test]
fn of_two_copies_in_sync_only_one_is_cleared() {
    let mut pair = Pair::in_sync(test_name!());
    let mut client = connect(&pair.primary.client_address());
    let headers = [("destination", "/queue/q")];
    client
        .request("SEND", &headers, b"kept", SOON)
        .expect("a pair that serves confirms");
    pair.kill_both();
    let clear = |pair: &Pair, words: &[&str]| -> (bool, String) {
        let output = Command::new(crate::support::server::TWINMQ)
            .current_dir(pair.scene.path())
            .arg("clear-db")
            .args(words)
            .output()
            .expect("the binary under test starts");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.success(), text)
    };
    // The pair's stores are guarded by the pair's profiles alone.
    let dir = pair.secondary.data_dir().display().to_string();
    let (cleared, text) = clear(&pair, &["--db-path", &dir, "--force"]);
    assert!(!cleared && text.contains("-p"), "{text}");
    let folder = pair.scene.path().join("empty");
    std::fs::create_dir(&folder).expect("the scene can be written");
    let stranger = folder.display().to_string();
    let (cleared, text) = clear(&pair, &["--db-path", &stranger]);
    assert!(!cleared && text.contains("no data directory"), "{text}");
    let found = std::fs::read_dir(&folder).expect("it is there").count();
    assert_eq!(found, 0, "nothing is made there");

    let (cleared, text) = clear(&pair, &["-p", "replicated/secondary"]);
    assert!(cleared && text.contains("1 messages are gone"), "{text}");
    let (cleared, text) = clear(&pair, &["-p", "replicated/primary"]);
    assert!(!cleared && text.contains("--force"), "{text}");
    pair.primary.start();
    pair.secondary.start();
    pair.await_in_sync();
    assert_eq!(pair.secondary.status().expect("it runs").store.messages, 1);
}

#[test]
fn a_cleared_copy_is_filled_by_its_peer_and_the_only_copy_is_kept() {
    let mut pair = Pair::in_sync(test_name!());
    let mut client = connect(&pair.primary.client_address());
    let headers = [("destination", "/queue/q")];
    client
        .request("SEND", &headers, b"kept", SOON)
        .expect("a pair that serves confirms");
    let clear = |pair: &Pair, role: Role, force: bool| -> (bool, String) {
        let profile = format!("replicated/{}", role.name());
        let mut command = Command::new(crate::support::server::TWINMQ);
        command
            .current_dir(pair.scene.path())
            .args(["clear-db", "-p", &profile]);
        if force {
            command.arg("--force");
        }
        let output = command.output().expect("the binary under test starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (cleared, text) = clear(&pair, Role::Secondary, true);
    assert!(!cleared && text.contains("use"), "it runs: {text}");

    pair.secondary.kill();
    let alone = pair.primary.await_state("STANDALONE");
    let (cleared, text) = clear(&pair, Role::Secondary, false);
    assert!(cleared, "{text}");
    assert!(text.contains("1 messages are gone"), "{text}");
    pair.secondary.start();
    pair.await_in_sync();
    assert_eq!(
        pair.secondary.status().expect("it runs").store.messages,
        alone.store.messages
    );

    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    pair.primary.kill();
    let (cleared, text) = clear(&pair, Role::Primary, false);
    assert!(!cleared && text.contains("--force"), "{text}");
    pair.primary.assert_store_is_sound();
    let (cleared, text) = clear(&pair, Role::Primary, true);
    assert!(cleared, "{text}");
    let reason = pair.primary.start_and_await_refusal();
    assert!(
        reason.contains("older than what it has confirmed"),
        "{reason}"
    );
}
