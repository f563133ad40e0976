//! A test's own network and share: a thread in namespaces of its own, so that packets can be dropped
//! and a share can hang without anybody else noticing. Needs root.

use std::fs;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::support::python;
use crate::support::server::Role;

/// What mends a machine on which these tests cannot be run.
const REMEDY: &str = "the nemesis makes namespaces, packet filters and a share of its own: run it \
                      as root, with apt-get install -y iproute2 iptables e2fsprogs util-linux faketime";
/// The port that the stock profiles probe at the gateway.
const GATEWAY_PORT: &str = "7";
/// Big enough for a journal; sparse.
const SHARE_BYTES: u64 = 16 * 1024 * 1024;

/// Runs a test in namespaces of its own. All that it starts is in them too.
pub(crate) fn in_a_lab(test: impl FnOnce() + Send + 'static) {
    // Made while the package index can still be reached.
    python::interpreter();
    let inside = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .unwrap_or_else(|error| panic!("{REMEDY} ({error})"));
        run("mount", &["--make-rprivate", "/"]);
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = inside.join() {
        resume_unwind(panic);
    }
}

/// Which packets are lost. All traffic of a lab is TCP on its loopback device, so the ports tell
/// who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// What this server sends to the other on the HA channel.
    LinkFrom(Role),
    /// The HA channel, both ways.
    Link,
    /// What this server sends to the gateway.
    Gateway(Role),
    /// This server's clients, both ways.
    Clients(Role),
}

/// The packet filter of the lab.
pub(crate) struct Network;

impl Network {
    /// Loses these packets from now on: no refusal and no reset, they are just gone.
    pub(crate) fn cut(&self, cut: Cut) {
        match cut {
            Cut::Link => {
                self.cut(Cut::LinkFrom(Role::Primary));
                self.cut(Cut::LinkFrom(Role::Secondary));
            }
            Cut::LinkFrom(role) => {
                lose("INPUT", &["--sport", &role.ports().ha.to_string()]);
                lose("INPUT", &["--dport", &role.other().ports().ha.to_string()]);
            }
            Cut::Gateway(role) => {
                let group = group_of(role).to_string();
                let owner = [
                    "--dport",
                    GATEWAY_PORT,
                    "-m",
                    "owner",
                    "--gid-owner",
                    &group,
                ];
                lose("OUTPUT", &owner);
            }
            Cut::Clients(role) => {
                let port = role.ports().client.to_string();
                lose("INPUT", &["--sport", &port]);
                lose("INPUT", &["--dport", &port]);
            }
        }
    }

    /// Everything passes again.
    pub(crate) fn heal(&self) {
        run("iptables", &["-w", "-F"]);
    }
}

/// The group that a server of a lab runs in, see [`Cut::Gateway`].
pub(crate) fn group_of(role: Role) -> u32 {
    match role {
        Role::Primary => 60_001,
        Role::Secondary => 60_002,
    }
}

fn lose(chain: &str, which: &[&str]) {
    let mut words = vec!["-w", "-A", chain, "-p", "tcp"];
    words.extend(which);
    words.extend(["-j", "DROP"]);
    run("iptables", &words);
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{REMEDY} ({program}: {error})"));
    assert!(
        output.status.success(),
        "{REMEDY} ({program} {words:?}: {})",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The share with the lock file: a small file system of its own, which can be made to hang. What
/// wants to write to it waits then; what was written can still be read.
pub(crate) struct Share {
    folder: PathBuf,
    /// Thaws when its input ends, also when this process is killed: a frozen file system outlives
    /// everybody who could thaw it.
    guard: Child,
    alive: Option<ChildStdin>,
}

impl Share {
    pub(crate) fn mount(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("the test's folder can be written");
        let image = folder.with_extension("img");
        fs::File::create(&image)
            .and_then(|file| file.set_len(SHARE_BYTES))
            .expect("the test's folder can be written");
        let (image, place) = (image.display().to_string(), folder.display().to_string());
        run("mkfs.ext4", &["-q", "-F", &image]);
        run("mount", &["-o", "loop", &image, &place]);
        let mut guard = Command::new("sh")
            .args(["-c", "read _; fsfreeze -u \"$1\"", "sh", &place])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let alive = guard.stdin.take();
        Self {
            folder: folder.to_owned(),
            guard,
            alive,
        }
    }

    pub(crate) fn freeze(&self) {
        run("fsfreeze", &["-f", &self.folder.display().to_string()]);
    }

    pub(crate) fn thaw(&self) {
        run("fsfreeze", &["-u", &self.folder.display().to_string()]);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(mut alive) = self.alive.take() {
            // Its end is what counts.
            alive.write_all(b"\n").ok();
        }
        self.guard.wait().ok();
    }
}
