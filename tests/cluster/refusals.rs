//! What must be refused is refused with a text that says what to do, and leaves everything else
//! alone.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use twinmq::cli::stomp_client::{Connection, Hosts, StompError, StompOptions};

use crate::support::pair::{Pair, Scene};
use crate::support::server::{Server, TWINMQ};
use crate::test_name;

/// Runs to its end what must fail; returns all that it printed.
#[track_caller]
fn refusal(command: &mut Command) -> String {
    let output = command.output().expect("the binary under test starts");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!output.status.success(), "it succeeded: {text}");
    text
}

#[test]
fn a_second_server_on_the_same_store_is_refused_and_the_first_goes_on() {
    let scene = Scene::new(test_name!());
    let mut first = Server::standalone(scene.address, scene.path());
    first.start_and_await();
    let second = Server::standalone(scene.address, scene.path());
    let text = refusal(second.command().args([
        "--set",
        &format!("client.listen={}:1857", scene.address),
        "--set",
        "admin.rmi_server_port=1868",
    ]));
    assert!(text.contains("data"), "it names the store: {text}");
    assert!(text.contains("use"), "it says that it is in use: {text}");
    assert!(first.status().expect("the first still runs").serving);
}

#[test]
fn a_second_server_on_the_same_port_is_refused_and_the_address_is_named() {
    let scene = Scene::new(test_name!());
    let mut first = Server::standalone(scene.address, scene.path());
    first.start_and_await();
    let second = Server::standalone(scene.address, scene.path());
    let text = refusal(second.command().args([
        "--db-path",
        "data/other",
        "--set",
        "admin.rmi_server_port=1868",
    ]));
    assert!(text.contains(&first.client_address()), "{text}");
    assert!(text.contains("client.listen"), "it names the key: {text}");
    assert!(first.status().expect("the first still runs").serving);
}

#[test]
fn taken_admin_and_ha_ports_are_refused_and_their_keys_are_named() {
    let mut pair = Pair::new(test_name!());
    let address = pair.scene.address;
    for (port, key) in [(1858, "admin.rmi_server_port"), (2000, "ha.port")] {
        let taken = TcpListener::bind((address, port)).expect("this test's address is its own");
        let text = refusal(&mut pair.primary.command());
        assert!(text.contains(&format!("{address}:{port}")), "{text}");
        assert!(text.contains(key), "{text}");
        let owner = format!("(pid {})", std::process::id());
        assert!(text.contains(&owner), "it names the owner: {text}");
        drop(taken);
    }
    // What was refused left nothing behind that is in the way.
    pair.primary.start_and_await();
}

#[test]
fn bad_profiles_are_refused_with_file_line_and_the_nearest_key() {
    let scene = Scene::new(test_name!());
    let profile = scene.path().join("bad.toml");
    let run = |text: &str| {
        fs::write(&profile, text).expect("the test's folder can be written");
        refusal(
            Command::new(TWINMQ)
                .current_dir(scene.path())
                .args(["run", "-p", "bad.toml"]),
        )
    };
    let text = run("mode = \"standalone\"\n\n[store]\nquota_mb = 7\n");
    assert!(text.contains("bad.toml:4"), "{text}");
    assert!(text.contains("quota_mib"), "{text}");
    let text = run("mode = \"alone\"\n");
    assert!(text.contains("bad.toml:1"), "{text}");
    assert!(
        text.contains("standalone"),
        "it names what is allowed: {text}"
    );
    let text = run("mode = \n");
    assert!(text.contains("bad.toml:1"), "{text}");
    assert!(!scene.path().join("data").exists(), "nothing was made");
}

#[test]
fn a_profile_that_does_not_exist_is_refused_and_the_places_looked_at_are_named() {
    let scene = Scene::new(test_name!());
    let text = refusal(Command::new(TWINMQ).current_dir(scene.path()).args([
        "run",
        "-p",
        "replicated/tertiary",
    ]));
    assert!(text.contains("replicated/tertiary"), "{text}");
    assert!(
        text.contains("replicated/primary"),
        "it names those there are: {text}"
    );
}

#[test]
fn a_bad_setting_on_the_command_line_is_refused_by_name() {
    let scene = Scene::new(test_name!());
    let server = Server::standalone(scene.address, scene.path());
    let text = refusal(server.command().args(["--set", "store.pth=elsewhere"]));
    assert!(
        text.contains("store.pth") && text.contains("store.path"),
        "{text}"
    );
}

/// Sends raw bytes and returns all that the server says before it closes.
fn answer_to(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the server serves");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a duration above zero");
    // The server may close while we still write: that is an answer too.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn connect(server: &Server) -> Connection {
    Hosts::parse(&server.client_address(), StompOptions::default())
        .expect("an address")
        .connect(Duration::from_secs(30), &|| false)
        .expect("the server serves")
}

#[test]
fn bad_frames_are_answered_with_what_was_wrong_and_the_server_serves_on() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start();
    server.await_status("it serves", |status| status.serving);
    let address = server.client_address();
    let soon = Duration::from_secs(30);
    let mut client = connect(&server);

    let connected = "CONNECT\naccept-version:1.2\nhost:x\n\n\0";
    for (bad, expected) in [
        ("SEND\ndestination:/queue/q\n\nhello\0".to_owned(), "ERROR"),
        (
            "CONNECT\naccept-version:9.9\nhost:x\n\n\0".to_owned(),
            "version",
        ),
        (format!("{connected}NONSENSE\n\n\0"), "NONSENSE"),
        (format!("{connected}SEND\n\nhello\0"), "destination"),
        (
            format!("{connected}SEND\ndestination:nowhere\n\nhello\0"),
            "nowhere",
        ),
        (
            format!("{connected}SEND\ndestination:/queue/q\ncontent-length:x\n\nhello\0"),
            "content-length",
        ),
        (
            format!("{connected}SEND\ndestination:/queue/q\ncontent-length:2\n\nhello\0"),
            "ERROR",
        ),
        (
            format!("{connected}SEND\ndestination:/queue/q\ncontent-length:99999999999\n\n"),
            "content-length",
        ),
        (
            format!("{connected}ACK\nid:never-given\n\n\0"),
            "never-given",
        ),
        (
            format!("{connected}SEND\ndestination:/queue/q\nno-colon\n\nhello\0"),
            "ERROR",
        ),
        (
            format!("{connected}SEND\nlong:{}\n\n\0", "x".repeat(1 << 20)),
            "ERROR",
        ),
    ] {
        let answer = answer_to(&address, bad.as_bytes());
        let shown = &bad[..bad.len().min(120)];
        assert!(answer.contains("ERROR"), "{shown:?} got {answer:?}");
        assert!(answer.contains(expected), "{shown:?} got {answer:?}");
    }

    // Bytes that are no protocol at all: closed, whatever is said.
    answer_to(&address, &[0xff; 64]);
    answer_to(&address, b"\x16\x03\x01\x02\x00");
    answer_to(&address, b"GET / HTTP/1.1\r\n\r\n");

    // Another client's connection has been open all the time.
    let headers = [("destination", "/queue/q")];
    client
        .request("SEND", &headers, b"good", soon)
        .expect("a good frame is taken");
    let early = client
        .subscribe("0", "/queue/q", "auto", 10, soon)
        .expect("a good frame is taken");
    let message = match early.into_iter().next() {
        Some(message) => message,
        None => client
            .next(soon)
            .expect("it serves")
            .expect("a message is there"),
    };
    assert_eq!(
        &message.body[..],
        b"good",
        "nothing of the bad frames was stored"
    );
}

#[test]
fn a_server_that_waits_refuses_connections_at_once() {
    let mut pair = Pair::in_sync(test_name!());
    let passive = pair.active().other();
    let address = pair.server(passive).client_address();
    let error = Connection::open(&address, &StompOptions::default())
        .expect_err("a passive server serves nobody");
    match error {
        StompError::Socket(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        other => panic!("{other}"),
    }
}
