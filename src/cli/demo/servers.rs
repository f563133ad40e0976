//! The demo's two server processes: the stock profiles on free ports in a scratch folder, each
//! process ended on every path.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::interrupt::Interrupt;
use super::{DemoError, LOOK};
use crate::cli::admin_client::{AdminClient, AdminError, Status};
use crate::config::{ENVIRONMENT_PREFIX, stock};
use crate::time::{Clock, SystemClock};

/// Ports are looked for here: below the range from which the system gives clients theirs, so that a
/// client's own connection never takes the port of a server that is about to be restarted.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How long an orderly stop may take before the process is killed.
const STOP_MAX: Duration = Duration::from_secs(5);

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

    fn profile(self) -> String {
        format!("replicated/{}", self.name())
    }
}

/// The folder with everything that the demo makes; removed on drop unless it is kept.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    kept: Cell<bool>,
}

impl Scratch {
    /// Makes a new folder, or takes an empty one that was named, which is kept.
    pub(super) fn make(named: Option<PathBuf>, keep: bool) -> Result<Self, DemoError> {
        let scratch = match named {
            Some(path) => Self {
                path,
                kept: Cell::new(true),
            },
            None => Self {
                path: std::env::temp_dir().join(format!(
                    "twinmq-demo-{:x}-{}",
                    SystemClock.wall_ms(),
                    std::process::id()
                )),
                kept: Cell::new(keep),
            },
        };
        scratch.prepare()?;
        Ok(scratch)
    }

    fn prepare(&self) -> Result<(), DemoError> {
        let shown = || self.path.display().to_string();
        let failed = |error| DemoError::Folder {
            path: shown(),
            error,
        };
        fs::create_dir_all(&self.path).map_err(failed)?;
        if fs::read_dir(&self.path).map_err(failed)?.next().is_some() {
            self.keep();
            return Err(DemoError::NotEmpty { path: shown() });
        }
        // The stock profiles themselves, where the server looks first: a profile of the same name
        // that this machine may have is not ours to run.
        for role in [Role::Primary, Role::Secondary] {
            let profile = stock(&role.profile()).expect("the stock profiles are built in");
            let file = self
                .path
                .join("conf/profiles")
                .join(format!("{}.toml", role.profile()));
            fs::create_dir_all(file.parent().unwrap_or(&self.path)).map_err(failed)?;
            fs::write(file, profile.render()).map_err(failed)?;
        }
        Ok(())
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
    ports: [Ports; 2],
    running: [Option<Process>; 2],
}

impl Pair {
    /// Finds free ports; starts nothing.
    pub(super) fn prepare(folder: &Scratch) -> Result<Self, DemoError> {
        let mut free = free_ports();
        let mut next = || free.next().ok_or(DemoError::NoPorts);
        let mut ports = || {
            Ok::<_, DemoError>(Ports {
                client: next()?,
                ha: next()?,
                admin: next()?,
            })
        };
        Ok(Self {
            folder: folder.path().to_owned(),
            ports: [ports()?, ports()?],
            running: [None, None],
        })
    }

    /// Starts a server that does not run.
    pub(super) fn start(&mut self, role: Role) -> Result<(), DemoError> {
        let (own, peer) = (self.ports(role), self.ports(role.other()));
        let mut command = Command::new(std::env::current_exe().map_err(DemoError::Spawn)?);
        command.args(["run", "-p", &role.profile()]);
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
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", role.name())))
            .map_err(DemoError::Spawn)?;
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(DemoError::Spawn)?)
            .stderr(log);
        self.running[index(role)] = Some(Process::start(command).map_err(DemoError::Spawn)?);
        Ok(())
    }

    /// `kill -9`; the process is gone when this returns.
    pub(super) fn kill(&mut self, role: Role) {
        self.running[index(role)] = None;
    }

    /// Stops both in order, the passive first, so that no take-over is begun; kills what does not
    /// end.
    pub(super) fn stop(&mut self) {
        let mut order = [Role::Primary, Role::Secondary];
        order.sort_by_key(|role| self.status(*role).is_ok_and(|status| status.serving));
        for role in order {
            if let Some(process) = self.running[index(role)].take() {
                process.stop();
            }
        }
    }

    /// Notices a server that ended by itself.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        for role in [Role::Primary, Role::Secondary] {
            if let Some(process) = &mut self.running[index(role)]
                && let Ok(Some(status)) = process.server.try_wait()
            {
                return Err(DemoError::ServerEnded {
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
        // A process group of its own: Ctrl-C is for the demo, which ends the servers itself.
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

    /// SIGTERM; drop kills what has not ended in time.
    fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap_or(i32::MAX));
        if kill(pid, Signal::SIGTERM).is_err() {
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
        // What the system does with the pipe of a demo that was killed.
        drop(process.reaper.stdin.take());
        let status = process.server.wait().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn servers_start_with_the_signals_of_an_end_let_through() {
        let folder = Scratch::make(None, false).unwrap();
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
        let scratch = Scratch::make(None, false).unwrap();
        let path = scratch.path().to_owned();
        assert!(path.join("conf/profiles/replicated/primary.toml").is_file());
        let full = Scratch::make(Some(path.clone()), false).unwrap_err();
        assert!(full.to_string().contains("is not empty"), "{full}");
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn the_six_ports_differ_and_are_free() {
        let scratch = Scratch::make(None, false).unwrap();
        let pair = Pair::prepare(&scratch).unwrap();
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
