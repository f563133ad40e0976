//! A changed profile under a running server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use twinmq::cli::stomp_client::StompError;

use crate::support::eventually::SOON;
use crate::support::pair::Scene;
use crate::support::server::Server;
use crate::{connect, test_name};

/// A body that the smaller limit of these tests refuses.
const BODY: [u8; 4096] = [b'x'; 4096];

fn profile(level: &str, body_bytes: u32, more: &str) -> String {
    format!(
        "mode = \"standalone\"\n[log]\nlevel = \"{level}\"\n{more}\
         [limits]\nmax_body_bytes = {body_bytes}\n"
    )
}

/// As editors do it: a new file takes the old one's name.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("the test's folder can be written");
    fs::rename(&new, file).expect("the test's folder can be written");
}

fn serving(scene: &Scene, file: &Path) -> Server {
    let mut server = Server::standalone(scene.address, scene.path());
    server.use_profile(file);
    server.start();
    server.await_status("it serves", |status| status.serving);
    server
}

/// Sends [`BODY`] on a new connection.
fn send(server: &Server) -> Result<(), StompError> {
    let headers = [("destination", "/queue/q")];
    connect(&server.client_address())
        .request("SEND", &headers, &BODY, SOON)
        .map(|_| ())
}

#[track_caller]
fn is_refused(server: &Server) {
    let error = send(server).expect_err("the limit is smaller");
    assert!(error.to_string().contains("1024"), "{error}");
}

#[test]
fn a_changed_file_changes_levels_and_limits_at_once_and_says_so() {
    let scene = Scene::new(test_name!());
    let file = scene.path().join("own.toml");
    fs::write(&file, profile("info", 1 << 20, "")).expect("the test's folder can be written");
    let mut server = serving(&scene, &file);
    send(&server).expect("it fits");
    assert!(!server.log().contains("DEBUG"));

    replace(&file, &profile("debug", 1024, "format = \"json\"\n"));
    server.await_log("changed limits.max_body_bytes: 1048576 -> 1024");
    server.await_log("changed log.level: \"info\" -> \"debug\"");
    server.await_log("needs a restart: log.format");
    is_refused(&server);

    // One mistake, and nothing of the file is taken.
    replace(&file, &profile("info", 1 << 20, "levl = \"info\"\n"));
    server.await_log("was not taken, everything stays as it was");
    let said = server.log();
    let place = format!("{}:4", file.display());
    assert!(said.contains(&place), "{said}");
    assert!(
        said.contains("log.level"),
        "it names the nearest key: {said}"
    );
    is_refused(&server);
    assert!(server.status().expect("it runs").serving);

    // What an idle server has to say at the new level, it says at its end.
    server.terminate();
    assert!(server.log().contains("DEBUG"), "{}", server.log());
}

#[test]
fn sighup_reads_a_file_that_is_not_watched() {
    let scene = Scene::new(test_name!());
    let elsewhere: PathBuf = scene.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("the test's folder can be written");
    let real = elsewhere.join("real.toml");
    let file = scene.path().join("own.toml");
    fs::write(&real, profile("info", 1 << 20, "")).expect("the test's folder can be written");
    // A change behind a link into another folder is not seen by itself.
    symlink(&real, &file).expect("the test's folder can be written");
    let mut server = serving(&scene, &file);
    replace(&real, &profile("info", 1024, ""));
    server.signal(Signal::SIGHUP);
    server.await_log("changed limits.max_body_bytes: 1048576 -> 1024");
    is_refused(&server);
    server.signal(Signal::SIGHUP);
    server.await_log("nothing to change at once");
}
