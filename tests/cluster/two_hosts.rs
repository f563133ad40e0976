//! What `pair init` writes for two machines, run as it is: both in one network namespace that has
//! the addresses of both and of their gateway, and no other network.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinmq::config::ENVIRONMENT_PREFIX;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Scene;
use crate::support::python;
use crate::support::server::{Role, TWINMQ};
use crate::test_name;

/// What mends a machine on which this test cannot be run.
const REMEDY: &str = "this test makes a network namespace: run it as root, with \
                      apt-get install -y iproute2 util-linux";
const GATEWAY: &str = "10.99.0.3";
/// What both sides of a refused handshake say.
const REFUSAL: &str = "do both servers have certificates of one `pair init`?";

fn address(role: Role) -> &'static str {
    match role {
        Role::Primary => "10.99.0.1",
        Role::Secondary => "10.99.0.2",
    }
}

/// A network namespace; it goes when its last process has ended.
struct Network {
    keeper: Child,
    /// The keeper ends when this is closed.
    stdin: Option<ChildStdin>,
}

impl Network {
    fn new() -> Self {
        let addresses = [address(Role::Primary), address(Role::Secondary), GATEWAY];
        let mut script = "set -e; ip link set lo up; ".to_owned();
        for address in addresses {
            script += &format!("ip addr add {address}/32 dev lo; ");
        }
        script += "echo ready; exec cat";
        let mut keeper = Command::new("unshare")
            .args(["-n", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{REMEDY} ({error})"));
        let stdin = keeper.stdin.take();
        let mut said = [0; 6];
        let stdout = keeper.stdout.as_mut().expect("it was asked for");
        let ready = stdout.read_exact(&mut said).is_ok() && said == *b"ready\n";
        let network = Self { keeper, stdin };
        assert!(ready, "{REMEDY}");
        network
    }

    /// A command in this network, without settings that whoever runs the tests has for servers.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.keeper.id()))
            .arg(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX) {
                command.env_remove(name);
            }
        }
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.keeper.wait().ok();
    }
}

/// A server; killed when this is dropped.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn await_log(&self, text: &str) {
        eventually(SOON, text, || {
            let log = self.log();
            log.contains(text).then_some(()).ok_or(log)
        });
    }

    /// SIGTERM, and the orderly end.
    #[track_caller]
    fn terminate(mut self) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a child that was not waited for exists");
        let status = eventually(SOON, "the server ends", || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            ended.ok_or_else(|| self.log())
        });
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone and reaped after this.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Both machines.
struct TwoHosts {
    // Dropped in this order: the namespace goes before the folder.
    network: Network,
    scene: Scene,
}

impl TwoHosts {
    /// `pair init` into the folder `name`. The lock file is the same for all names.
    fn pair_init(&self, name: &str) -> PathBuf {
        self.pair_init_with(name, &[])
    }

    fn pair_init_with(&self, name: &str, more: &[&str]) -> PathBuf {
        let dir = self.scene.path().join(name);
        let lock = self.scene.path().join("lock");
        fs::create_dir_all(&lock).expect("the test's folder can be written");
        let output = Command::new(TWINMQ)
            .args(["pair", "init", "--allow-anonymous"])
            .args(["--primary", address(Role::Primary)])
            .args(["--secondary", address(Role::Secondary)])
            .args(["--gateway", GATEWAY])
            .arg("--lock-file")
            .arg(lock.join("pair.lck"))
            .args(more)
            .arg(&dir)
            .output()
            .expect("the binary under test starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        dir
    }

    /// `twinmq run` in a server's folder with its profile as it is, but for the place of what is its own.
    fn run(&self, folder: &Path, name: &str, settings: &[String]) -> Running {
        let log = self.scene.path().join(format!("{name}.log"));
        let out = File::create(&log).expect("the test's folder can be written");
        let store = self.scene.path().join(format!("{name}.store"));
        let profile = fs::read_to_string(folder.join("profile.toml")).expect("it was made");
        let key = match profile.contains("\nmode = \"shared\"\n") {
            true => "store.node_path",
            false => "store.path",
        };
        let mut command = self.network.command(Path::new(TWINMQ));
        command
            .current_dir(folder)
            .args(["run", "-p", "./profile.toml"])
            .arg("--set")
            .arg(format!("{key}={}", store.display()));
        for setting in settings {
            command.args(["--set", setting]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a file can be duplicated"))
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{REMEDY} ({error})"));
        Running { child, log }
    }

    /// A command in a server's folder, with `input` as its standard input.
    fn ask(&self, folder: &Path, args: &[&str], input: &str) -> Output {
        let mut child = self
            .network
            .command(Path::new(TWINMQ))
            .current_dir(folder)
            .args(args)
            .args(["-p", "./profile.toml"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{REMEDY} ({error})"));
        let mut stdin = child.stdin.take().expect("it was asked for");
        // A command that reads no input may have closed it.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        child.wait_with_output().expect("it can be waited for")
    }

    #[track_caller]
    fn succeeds(&self, folder: &Path, args: &[&str], input: &str) -> String {
        let output = self.ask(folder, args, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the HA port of the primary sends to somebody who does not speak TLS, until it closes.
    fn answer_to_plain_bytes(&self) -> Vec<u8> {
        const PROGRAM: &str = "\
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
peer.sendall(b'no TLS')
try:
    while chunk := peer.recv(4096):
        sys.stdout.buffer.write(chunk)
except ConnectionResetError:
    pass
";
        let output = self
            .network
            .command(&python::interpreter())
            .args(["-c", PROGRAM, address(Role::Primary)])
            .arg(Role::Primary.ports().ha.to_string())
            .output()
            .unwrap_or_else(|error| panic!("{REMEDY} ({error})"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        output.stdout
    }
}

#[test]
fn a_pair_made_for_two_machines_works_as_it_was_written() {
    let hosts = TwoHosts {
        network: Network::new(),
        scene: Scene::new(test_name!()),
    };
    let pair = hosts.pair_init("pair");
    let (one, other) = (pair.join("primary"), pair.join("secondary"));
    let primary = hosts.run(&one, "primary", &[]);
    hosts.succeeds(&one, &["wait", "--state", "STANDALONE"], "");

    // The channel is TLS, and only for certificates of this pair.
    let answer = hosts.answer_to_plain_bytes();
    assert!(
        answer.is_empty() || answer.starts_with(&[0x15, 3]),
        "nothing but an alert of TLS: {answer:x?}"
    );
    let foreign = hosts.pair_init("foreign").join("secondary");
    let certificates = [
        ("ca_file", "ca"),
        ("cert_file", "cert"),
        ("key_file", "key"),
    ]
    .map(|(key, file)| format!("ha.tls.{key}={}/{file}.pem", foreign.display()));
    let intruder = hosts.run(&other, "intruder", &certificates);
    intruder.await_log(REFUSAL);
    primary.await_log(REFUSAL);
    let status = hosts.succeeds(&one, &["status"], "");
    assert!(status.contains("primary alone"), "{status}");
    intruder.terminate();

    let secondary = hosts.run(&other, "secondary", &[]);
    for folder in [&one, &other] {
        hosts.succeeds(folder, &["wait", "--in-sync", "--timeout", "30"], "");
    }
    hosts.succeeds(&one, &["send", "-q", "q"], "one\ntwo\nthree\n");
    let receive = ["receive", "-q", "q", "-n", "2", "--timeout", "30"];
    assert_eq!(hosts.succeeds(&other, &receive, ""), "one\ntwo\n");

    // The other machine takes over. Its admin port is its own, so nobody can be asked from here.
    primary.terminate();
    hosts.succeeds(&other, &["wait", "--serving", "--timeout", "30"], "");
    let receive = ["receive", "-q", "q", "-n", "1", "--timeout", "30"];
    assert_eq!(hosts.succeeds(&one, &receive, ""), "three\n");
    let gone = hosts.ask(&one, &["status"], "");
    let said = String::from_utf8_lossy(&gone.stderr);
    assert!(!gone.status.success());
    for place in ["http://127.0.0.1:1858", "http://10.99.0.2:1859"] {
        assert!(said.contains(place), "{said}");
    }
    secondary.terminate();
}

#[test]
fn a_shared_pair_made_for_two_machines_works_as_it_was_written() {
    let hosts = TwoHosts {
        network: Network::new(),
        scene: Scene::new(test_name!()),
    };
    let common = hosts.scene.path().join("common");
    let shown = common.display().to_string();
    let pair = hosts.pair_init_with("pair", &["--mode", "shared", "--db-path", &shown]);
    let (one, other) = (pair.join("primary"), pair.join("secondary"));
    fs::create_dir(&common).expect("the test's folder can be written");
    let primary = hosts.run(&one, "primary", &[]);
    hosts.succeeds(&one, &["wait", "--state", "ACTIVE"], "");
    let secondary = hosts.run(&other, "secondary", &[]);
    for folder in [&one, &other] {
        hosts.succeeds(folder, &["wait", "--in-sync", "--timeout", "30"], "");
    }
    let status = hosts.succeeds(&other, &["status"], "");
    assert!(status.contains("secondary can take over"), "{status}");
    hosts.succeeds(&one, &["send", "-q", "q"], "one\ntwo\n");
    assert!(
        common.join("CURRENT").is_file(),
        "the store is in --db-path"
    );

    // SIGKILL: the other one opens the same store.
    drop(primary);
    hosts.succeeds(&other, &["wait", "--serving", "--timeout", "30"], "");
    let receive = ["receive", "-q", "q", "-n", "2", "--timeout", "30"];
    assert_eq!(hosts.succeeds(&other, &receive, ""), "one\ntwo\n");
    secondary.terminate();
}
