//! Two server processes of a command's own: profiles on free ports in a scratch folder, each
//! process ended on every path. `demo` and `drill` strike them.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::interrupt::Interrupt;
use crate::cli::admin_client::{AdminClient, AdminError, Status};
use crate::config::ENVIRONMENT_PREFIX;
use crate::config::render::Profile;
use crate::exit::ExitCode;
use crate::time::{Clock, Moment, SystemClock};

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);
/// Ports are looked for here: below the range from which the system gives clients theirs, so that a
/// client's own connection never takes the port of a server that is about to be restarted.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How long an orderly stop may take before the process is killed.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Why the two servers could not be made or started.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScratchError {
    #[error("failed to make the folder {path}: {error}; name another with --dir")]
    Folder { path: String, error: io::Error },
    #[error("{path} is not empty; name a new folder with --dir")]
    NotEmpty { path: String },
    #[error("failed to find six free ports on 127.0.0.1")]
    NoPorts,
    #[error("failed to start a server: {0}")]
    Spawn(io::Error),
    #[error("the {server} ended by itself ({status})")]
    ServerEnded {
        server: &'static str,
        status: ExitStatus,
    },
    #[error("the switchover was not done: {said}")]
    NotSwitched { said: String },
}

/// Which server of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Secondary,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }
}

/// The folder with everything that the command makes; removed on drop unless it is kept.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    kept: Cell<bool>,
}

impl Scratch {
    /// Makes a new folder, or takes an empty one that was named, which is kept. `command` is part
    /// of a new one's name.
    pub(super) fn make(
        command: &str,
        named: Option<PathBuf>,
        keep: bool,
    ) -> Result<Self, ScratchError> {
        let scratch = match named {
            Some(path) => Self {
                path,
                kept: Cell::new(true),
            },
            None => Self {
                path: std::env::temp_dir().join(format!(
                    "twinmq-{command}-{:x}-{}",
                    SystemClock.wall_ms(),
                    std::process::id()
                )),
                kept: Cell::new(keep),
            },
        };
        let shown = || scratch.path.display().to_string();
        let failed = |error| ScratchError::Folder {
            path: shown(),
            error,
        };
        fs::create_dir_all(&scratch.path).map_err(failed)?;
        let mut entries = fs::read_dir(&scratch.path).map_err(failed)?;
        if entries.next().is_some() {
            scratch.keep();
            return Err(ScratchError::NotEmpty { path: shown() });
        }
        Ok(scratch)
    }

    /// Writes a profile where the server looks first: one of the same name that this machine may
    /// have is not ours to run.
    fn write(&self, name: &str, profile: &Profile) -> Result<(), ScratchError> {
        let file = self.path.join("conf/profiles").join(format!("{name}.toml"));
        let folder = file.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, profile.render()))
            .map_err(|error| ScratchError::Folder {
                path: folder.display().to_string(),
                error,
            })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a server's output goes.
    pub(super) fn log(&self, role: Role) -> PathBuf {
        self.path.join(format!("{}.log", role.name()))
    }

    /// Leaves the folder behind.
    pub(super) fn keep(&self) {
        self.kept.set(true);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.get()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_kept() {
            // What cannot be removed is left to the system's own cleaning of its temporary folder.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    ha: u16,
    admin: u16,
}

/// The two servers.
#[derive(Debug)]
pub(super) struct Pair {
    folder: PathBuf,
    profiles: [String; 2],
    ports: [Ports; 2],
    running: [Option<Process>; 2],
    /// When each was killed, while it may have served.
    killed: [Vec<Moment>; 2],
}

impl Pair {
    /// Writes the two profiles, the primary's first, under their names, and finds free ports; starts
    /// nothing. What the profiles say of ports does not count.
    pub(super) fn prepare(
        folder: &Scratch,
        profiles: [(String, Profile); 2],
    ) -> Result<Self, ScratchError> {
        let mut free = free_ports();
        let mut next = || free.next().ok_or(ScratchError::NoPorts);
        let mut ports = || {
            Ok::<_, ScratchError>(Ports {
                client: next()?,
                ha: next()?,
                admin: next()?,
            })
        };
        for (name, profile) in &profiles {
            folder.write(name, profile)?;
        }
        Ok(Self {
            folder: folder.path().to_owned(),
            profiles: profiles.map(|(name, _)| name),
            ports: [ports()?, ports()?],
            running: [None, None],
            killed: [Vec::new(), Vec::new()],
        })
    }

    /// `twinmq COMMAND` about one of the two.
    pub(super) fn command(&self, role: Role, word: &str) -> Result<Command, ScratchError> {
        let (own, peer) = (self.ports(role), self.ports(role.other()));
        let mut command = Command::new(std::env::current_exe().map_err(ScratchError::Spawn)?);
        command.args([word, "-p", &self.profiles[index(role)]]);
        for setting in [
            format!("client.listen=127.0.0.1:{}", own.client),
            format!("admin.rmi_server_port={}", own.admin),
            format!("ha.port={}", own.ha),
            format!("ha.backup_ha_port={}", peer.ha),
            format!("ha.backup_server_port={}", peer.client),
            format!("ha.backup_rmi_server_port={}", peer.admin),
        ] {
            command.args(["--set", &setting]);
        }
        // Settings for this user's own servers are not for these two.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX) {
                command.env_remove(name);
            }
        }
        command.current_dir(&self.folder).stdin(Stdio::null());
        Ok(command)
    }

    /// Asks a server to hand over, and waits for the outcome.
    pub(super) fn switch_over(&self, role: Role) -> Result<(), ScratchError> {
        let output = self.command(role, "switchover")?.output();
        let output = output.map_err(ScratchError::Spawn)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ScratchError::NotSwitched { said })
    }

    /// Starts a server that does not run.
    pub(super) fn start(&mut self, role: Role) -> Result<(), ScratchError> {
        let mut command = self.command(role, "run")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", role.name())))
            .map_err(ScratchError::Spawn)?;
        command
            .stdout(log.try_clone().map_err(ScratchError::Spawn)?)
            .stderr(log);
        self.running[index(role)] = Some(Process::start(command).map_err(ScratchError::Spawn)?);
        Ok(())
    }

    /// `kill -9`; the process is gone when this returns.
    pub(super) fn kill(&mut self, role: Role) {
        self.signal(role, Signal::SIGKILL);
        self.killed[index(role)].push(SystemClock.now());
        self.running[index(role)] = None;
    }

    /// Sends a signal; nothing where no process runs.
    pub(super) fn signal(&self, role: Role, signal: Signal) {
        if let Some(process) = &self.running[index(role)] {
            // It may have ended by itself: whoever waits for what comes next notices.
            kill(process.pid(), signal).ok();
        }
    }

    /// Stops one in order, and kills it if it does not end.
    pub(super) fn terminate(&mut self, role: Role) {
        if let Some(process) = self.running[index(role)].take() {
            process.stop();
        }
    }

    /// Starts a server again that ended by itself, as a supervisor does. True if it did.
    pub(super) fn supervise(&mut self, role: Role) -> Result<bool, ScratchError> {
        let ended = match &mut self.running[index(role)] {
            Some(process) => process.server.try_wait().ok().flatten(),
            None => None,
        };
        match ended {
            None => Ok(false),
            // What it cannot read now it cannot read then.
            Some(status) if status.code() == Some(i32::from(ExitCode::Configuration.code())) => {
                let server = role.name();
                Err(ScratchError::ServerEnded { server, status })
            }
            Some(_) => {
                self.running[index(role)] = None;
                self.start(role)?;
                Ok(true)
            }
        }
    }

    /// What a server has printed in all its lives, and when it was killed.
    pub(super) fn log(&self, role: Role) -> (String, &[Moment]) {
        let path = self.folder.join(format!("{}.log", role.name()));
        (
            fs::read_to_string(path).unwrap_or_default(),
            &self.killed[index(role)],
        )
    }

    /// Stops both in order, the passive first, so that no take-over is begun; kills what does not
    /// end.
    pub(super) fn stop(&mut self) {
        let mut order = [Role::Primary, Role::Secondary];
        order.sort_by_key(|role| self.status(*role).is_ok_and(|status| status.serving));
        for role in order {
            self.terminate(role);
        }
    }

    /// Notices a server that ended by itself.
    pub(super) fn check(&mut self) -> Result<(), ScratchError> {
        for role in [Role::Primary, Role::Secondary] {
            if let Some(process) = &mut self.running[index(role)]
                && let Ok(Some(status)) = process.server.try_wait()
            {
                return Err(ScratchError::ServerEnded {
                    server: role.name(),
                    status,
                });
            }
        }
        Ok(())
    }

    pub(super) fn status(&self, role: Role) -> Result<Status, AdminError> {
        let url = format!("http://127.0.0.1:{}", self.ports(role).admin);
        AdminClient::new(&url, None).status()
    }

    /// The failover list.
    pub(super) fn hosts(&self) -> String {
        let [primary, secondary] = &self.ports;
        format!(
            "127.0.0.1:{},127.0.0.1:{}",
            primary.client, secondary.client
        )
    }

    fn ports(&self, role: Role) -> Ports {
        self.ports[index(role)]
    }
}

fn index(role: Role) -> usize {
    match role {
        Role::Primary => 0,
        Role::Secondary => 1,
    }
}

/// Ports that nobody listens on, beginning at a place that differs between processes.
fn free_ports() -> impl Iterator<Item = u16> {
    let count = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(61) % count;
    (0..count)
        .map(move |step| (first + step) % count)
        .filter_map(|offset| Some(PORTS.start + u16::try_from(offset).ok()?))
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

/// A server process, and a shell that kills it should this process end without doing so.
#[derive(Debug)]
struct Process {
    server: Child,
    reaper: Child,
}

impl Process {
    fn start(mut command: Command) -> io::Result<Self> {
        // A process group of its own: Ctrl-C is for the command, which ends the servers itself.
        let mut server = Interrupt::let_through(|| command.process_group(0).spawn())?;
        // The shell reads from a pipe that only this process holds open: its end, even by SIGKILL,
        // is the end of the input.
        let reaper = Command::new("sh")
            .args(["-c", "read _; kill -9 \"$1\"", "sh"])
            .arg(server.id().to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match reaper {
            Ok(reaper) => Ok(Self { server, reaper }),
            Err(error) => {
                end(&mut server);
                Err(error)
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.server.id()).unwrap_or(i32::MAX))
    }

    /// SIGTERM; drop kills what has not ended in time.
    fn stop(mut self) {
        if kill(self.pid(), Signal::SIGTERM).is_err() {
            return;
        }
        let clock = SystemClock;
        let until = clock.now().after(STOP_MAX);
        while clock.now() < until && matches!(self.server.try_wait(), Ok(None)) {
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.server);
        // After the server, and before its pipe is closed: it must never act on a reused number.
        end(&mut self.reaper);
    }
}

/// Kills and reaps. Failure means that it has ended already.
fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    }

    fn runs(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_dropped_process_is_gone_with_its_reaper() {
        let process = Process::start(sleeper()).unwrap();
        let pids = [process.server.id(), process.reaper.id()];
        assert!(pids.iter().all(|pid| runs(*pid)));
        drop(process);
        assert!(!pids.iter().any(|pid| runs(*pid)));
    }

    #[test]
    fn the_reaper_kills_the_server_when_its_pipe_ends() {
        let mut process = Process::start(sleeper()).unwrap();
        // What the system does with the pipe of a command that was killed.
        drop(process.reaper.stdin.take());
        let status = process.server.wait().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn servers_start_with_the_signals_of_an_end_let_through() {
        let folder = Scratch::make("signals", None, false).unwrap();
        let path = folder.path().join("mask");
        let output = File::create(&path).unwrap();
        let mut process = thread::spawn(|| {
            let _interrupt = Interrupt::watch();
            let mut command = Command::new("grep");
            command.args(["SigBlk", "/proc/self/status"]).stdout(output);
            Process::start(command).unwrap()
        })
        .join()
        .unwrap();
        process.server.wait().unwrap();
        let text = fs::read_to_string(path).unwrap();
        let mask = u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap();
        let ends = (1 << 0) | (1 << 1) | (1 << 14);
        assert_eq!(mask & ends, 0, "{text}");
    }

    #[test]
    fn a_scratch_folder_is_removed_unless_it_is_kept_and_a_full_one_is_refused() {
        let scratch = Scratch::make("test", None, false).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("something"), "").unwrap();
        let full = Scratch::make("test", Some(path.clone()), false).unwrap_err();
        assert!(full.to_string().contains("is not empty"), "{full}");
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn the_six_ports_differ_and_are_free() {
        // A name of its own for each test: two folders of one millisecond would be one.
        let scratch = Scratch::make("ports", None, false).unwrap();
        let named = |name: &str| (format!("pair/{name}"), Profile::default());
        let pair = Pair::prepare(&scratch, [named("a"), named("b")]).unwrap();
        assert!(scratch.path().join("conf/profiles/pair/a.toml").is_file());
        let mut ports: Vec<u16> = pair
            .ports
            .iter()
            .flat_map(|ports| [ports.client, ports.ha, ports.admin])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
