//! A disk that is full, and a quota that is reached.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;

use twinmq::cli::admin_client::AdminClient;
use twinmq::cli::stomp_client::{Connection, Frame, StompError};
use twinmq::exit::ExitCode;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::{Pair, Scene};
use crate::support::server::{Role, Server};
use crate::{connect, load, test_name};

const QUEUE: &str = "/queue/q";
const BODY_BYTES: usize = 256 * 1024;

/// A small file system of its own, gone with this.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    pub(crate) fn mount(path: PathBuf, mib: u32) -> Self {
        fs::create_dir_all(&path).expect("the test's folder can be written");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path)
            .output()
            .expect("mount exists on every Linux");
        assert!(
            mounted.status.success(),
            "this test mounts a small disk of its own, as root: run `sudo -E cargo test --test \
             cluster disk`\n{}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Self { path }
    }

    /// Somebody else's file, which takes all room but `left` bytes.
    pub(crate) fn fill(&self, left: u64) -> PathBuf {
        let stat = nix::sys::statvfs::statvfs(&self.path).expect("it is mounted");
        let free = stat.blocks_available() * stat.fragment_size();
        let path = self.path.join("somebody-else");
        let mut file = File::create(&path).expect("there is room");
        let piece = vec![0; 64 * 1024];
        for _ in 0..free.saturating_sub(left) / piece.len() as u64 {
            match file.write_all(&piece) {
                Ok(()) => {}
                // A server was faster.
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that this test leaves behind when it fails still has files there.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}

fn send(server: &Server, number: u64) -> Result<(), StompError> {
    let mut body = number.to_string().into_bytes();
    body.resize(BODY_BYTES, b' ');
    connect(&server.client_address())
        .request("SEND", &[("destination", QUEUE)], &body, SOON)
        .map(|_| ())
}

/// Sends until the server refuses, which must be with a reason; gives how many it confirmed.
#[track_caller]
fn send_until_refused(server: &Server) -> u64 {
    for number in 0..2000 {
        if let Err(error) = send(server, number) {
            let text = error.to_string();
            assert!(text.contains("almost full"), "{text}");
            assert!(!error.is_connection_loss(), "{text}");
            return number;
        }
    }
    panic!("it took everything");
}

/// Takes and acknowledges messages, which must come in order from `first` on.
#[track_caller]
fn receive(connection: &mut Connection, first: u64, last: u64) {
    let mut arrived: VecDeque<Frame> = connection
        .subscribe("0", QUEUE, "client-individual", 10, SOON)
        .expect("a server that refuses sends takes subscriptions")
        .into();
    for number in first..last {
        let message = match arrived.pop_front() {
            Some(message) => message,
            None => connection
                .next(SOON)
                .expect("it serves")
                .expect("a confirmed message is there"),
        };
        let body = String::from_utf8_lossy(&message.body).into_owned();
        assert_eq!(body.trim(), number.to_string());
        let ack = message.header("ack").expect("it is to be acknowledged");
        let more = connection
            .request("ACK", &[("id", &ack)], b"", SOON)
            .expect("acknowledgements go through");
        arrived.extend(more);
    }
}

fn await_refusing(server: &mut Server, refuses: bool) {
    let what = if refuses {
        "sends are refused"
    } else {
        "sends are taken"
    };
    let admin = AdminClient::new(&server.admin_url(), None);
    eventually(SOON, what, || {
        server.assert_runs();
        let status = admin.status_json().map_err(|error| error.to_string())?;
        if status["store"]["refuses_sends"] == refuses {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

/// It serves; a send waits a short time before it is refused.
fn serving(scene: &Scene, settings: &[(&str, &str)]) -> Server {
    let impatient = ("limits.block_timeout_ms", "200");
    let all: Vec<_> = std::iter::once(impatient)
        .chain(settings.iter().copied())
        .collect();
    crate::serving(scene, &all)
}

#[test]
fn on_a_full_disk_sends_are_refused_acks_go_through_and_nothing_confirmed_is_lost() {
    let scene = Scene::new(test_name!());
    let disk = SmallDisk::mount(scene.path().join("data"), 160);
    let mut server = serving(&scene, &[]);
    let confirmed = send_until_refused(&server);
    assert!(confirmed > 10, "{confirmed}");
    // Less room still, by somebody else's doing: the reserve is for this.
    let other = disk.fill(16 << 20);
    let half = confirmed / 2;
    receive(&mut connect(&server.client_address()), 0, half);
    server.kill();
    server.start();
    server.await_status("it serves on the full disk", |status| status.serving);
    send(&server, 0).expect_err("the disk is still full");
    receive(&mut connect(&server.client_address()), half, confirmed);
    fs::remove_file(other).expect("it is there");
    server.terminate();
    server.assert_store_is_sound();
}

#[test]
fn a_disk_that_somebody_else_filled_and_emptied_is_noticed_without_traffic() {
    let scene = Scene::new(test_name!());
    let disk = SmallDisk::mount(scene.path().join("data"), 200);
    let mut server = serving(&scene, &[]);
    send(&server, 0).expect("there is room");
    let other = disk.fill(32 << 20);
    await_refusing(&mut server, true);
    let error = eventually(SOON, "a send is refused", || match send(&server, 1) {
        Err(error) => Ok(error.to_string()),
        Ok(()) => Err("it was taken".to_owned()),
    });
    assert!(error.contains("almost full"), "{error}");
    fs::remove_file(other).expect("it is there");
    await_refusing(&mut server, false);
    eventually(SOON, "a send is taken again", || {
        send(&server, 2).map_err(|error| error.to_string())
    });
}

#[test]
fn above_the_quota_sends_are_refused_and_acks_go_through() {
    let scene = Scene::new(test_name!());
    let mut server = serving(
        &scene,
        &[
            ("store.quota_mib", "128"),
            ("store.retain_mib", "16"),
            ("store.checkpoint_mib", "16"),
        ],
    );
    let confirmed = send_until_refused(&server);
    assert!(confirmed > 10, "{confirmed}");
    receive(&mut connect(&server.client_address()), 0, confirmed);
    server.kill();
    server.start();
    let status = server.await_status("it serves", |status| status.serving);
    assert_eq!(status.store.messages, 0, "acknowledgements were kept");
}

#[test]
fn a_passive_whose_disk_is_full_ends_and_the_active_goes_on() {
    let (mut pair, disk) = on_a_disk_of_its_own(Pair::new(test_name!()), Role::Secondary);
    pair.primary.start();
    pair.primary.await_state("STANDALONE");
    pair.secondary.start();
    pair.await_in_sync();
    let client = load(&pair);
    client.await_confirmed(100);
    let other = disk.fill(0);
    let ended = pair.secondary.await_exit();
    assert_eq!(ended.code(), Some(i32::from(ExitCode::StoreFailed.code())));
    let said = pair.secondary.log();
    assert!(said.contains("nothing more is confirmed"), "{said}");
    pair.primary.await_state("STANDALONE");
    client.await_confirmed(100);
    fs::remove_file(other).expect("it is there");
    pair.secondary.start();
    pair.await_in_sync();
    // The copy is whole again: it serves everything.
    pair.primary.kill();
    client.await_confirmed(100);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn an_active_whose_disk_is_full_refuses_or_ends_and_loses_nothing() {
    let (mut pair, disk) = on_a_disk_of_its_own(Pair::new(test_name!()), Role::Primary);
    pair.primary.start();
    pair.primary.await_state("STANDALONE");
    pair.secondary.start();
    pair.await_in_sync();
    let client = load(&pair);
    client.await_confirmed(100);
    let other = disk.fill(0);
    // Which comes first is a race between the watermark and the load.
    let admin = AdminClient::new(&pair.primary.admin_url(), None);
    let primary = &mut pair.primary;
    let ended = eventually(SOON, "it refuses sends, or ends", || {
        if let Some(ended) = primary.has_ended() {
            return Ok(Some(ended));
        }
        let status = admin.status_json().map_err(|error| error.to_string())?;
        if status["store"]["refuses_sends"] == true {
            return Ok(None);
        }
        Err(status.to_string())
    });
    if let Some(ended) = ended {
        assert_eq!(ended.code(), Some(i32::from(ExitCode::StoreFailed.code())));
        client.await_confirmed(100);
    }
    fs::remove_file(other).expect("it is there");
    // It may have ended since.
    pair.primary.has_ended();
    if !pair.primary.is_started() {
        pair.primary.start();
    }
    pair.await_in_sync();
    client.await_confirmed(100);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

/// One server's data directory on a small disk.
fn on_a_disk_of_its_own(mut pair: Pair, role: Role) -> (Pair, SmallDisk) {
    let disk = SmallDisk::mount(pair.server(role).data_dir(), 256);
    (pair, disk)
}

#[test]
fn a_damaged_file_is_a_finding_of_store_check_whatever_lmdb_does_on_it() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start();
    server.await_status("it serves", |status| status.serving);
    server.terminate();
    let check = |dir: &std::path::Path| -> (Option<i32>, String) {
        let output = Command::new(crate::support::server::TWINMQ)
            .args(["store", "check"])
            .arg(dir)
            .output()
            .expect("the binary under test starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let damaged = Some(i32::from(ExitCode::StoreDamaged.code()));
    let dir = server.data_dir();
    let (code, text) = check(&dir);
    assert_eq!(code, Some(0), "{text}");

    let file = dir.join("store.1/data.mdb");
    let mut bytes = fs::read(&file).expect("the store is there");
    let sound = bytes.clone();
    // All pages but the two meta pages say that they are something else.
    for page in bytes.chunks_mut(4096).skip(2) {
        page[8..].fill(0xff);
    }
    fs::write(&file, &bytes).expect("the store can be written");
    let (code, text) = check(&dir);
    assert_eq!(code, damaged, "{text}");
    assert!(text.contains("damaged"), "{text}");
    // A start looks before it lets LMDB read.
    server.start();
    let ended = server.await_exit();
    assert_eq!(ended.code(), damaged, "{ended}: {}", server.log());
    assert!(server.log().contains("is damaged"), "{}", server.log());
    fs::write(&file, &sound[..sound.len() / 2]).expect("the store can be written");
    let (code, text) = check(&dir);
    assert_eq!(code, damaged, "{text}");

    let (code, text) = check(&scene.path().join("nosuch"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no data directory there"), "{text}");
}
