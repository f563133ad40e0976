//! The watchdog process (A8): the server's end of its pipe, and what the child sees at its own. The
//! child's decisions are `machines::watchdog`.
//!
//! The first line is the child's setup. After it each beat is eight bytes: the epoch that is served,
//! big-endian, zero for none. All ones dismiss the child.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::proto::ids::Epoch;

const BEAT_BYTES: usize = 8;
const DISMISSAL: u64 = u64::MAX;
/// The setup line may not be longer, in bytes.
const SETUP_BYTES_MAX: usize = 64 * 1024;

/// Who must hear that the control plane turns.
pub trait Watchdog: Send + Sync {
    /// It turns, and serves in this epoch.
    fn beat(&self, serving: Option<Epoch>);
    /// This server ends in order, and has told its peer.
    fn dismiss(&self);
}

/// A child of this process that watches it.
#[derive(Debug)]
pub struct WatchdogChild {
    pipe: Mutex<Option<ChildStdin>>,
    /// Reaped by the system when this process ends: it outlives it.
    _child: Child,
}

impl WatchdogChild {
    /// Starts `twinmq watchdog`, which reads `setup` (one line) first.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(setup: &str) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("watchdog")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the child has no pipe"))?;
        writeln!(pipe, "{setup}")?;
        // A child that does not read must not hold the control plane up.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            pipe: Mutex::new(Some(pipe)),
            _child: child,
        })
    }

    fn send(&self, number: u64) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(end) = pipe.as_mut() else { return };
        match end.write_all(&number.to_be_bytes()) {
            Ok(()) => {}
            // Full: thousands of beats that nobody has read. Enough of them are there.
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
            Err(cause) => {
                *pipe = None;
                tracing::error!(target: "twinmq::ha", %cause,
                    "the watchdog process has gone: if this server hangs, the peer takes over only \
                     after the lease; restart this server to have one again");
            }
        }
    }
}

impl Watchdog for WatchdogChild {
    fn beat(&self, serving: Option<Epoch>) {
        self.send(serving.map_or(0, |epoch| epoch.0));
    }

    fn dismiss(&self) {
        self.send(DISMISSAL);
    }
}

/// systemd's own watchdog: it kills, and nobody tells the peer.
#[derive(Clone, Copy, Debug)]
pub struct SystemdWatchdog;

impl SystemdWatchdog {
    /// The unit says `WatchdogSec=`.
    #[must_use]
    pub fn is_asked_for() -> bool {
        sd_notify::watchdog_enabled().is_some()
    }
}

impl Watchdog for SystemdWatchdog {
    fn beat(&self, _: Option<Epoch>) {
        if let Err(cause) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            tracing::debug!(target: "twinmq::ha", %cause, "systemd was not told");
        }
    }

    fn dismiss(&self) {}
}

/// What the child sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The server's control plane turns.
    Beat(Option<Epoch>),
    /// The server ends in order.
    Dismissed,
    /// The server's end of the pipe is closed.
    PipeClosed,
    /// The process is gone.
    ProcessEnded,
}

/// The setup that the server wrote, as the first thing.
///
/// # Errors
/// When nothing was written.
pub fn read_setup() -> io::Result<String> {
    read_line(&io::stdin())
}

/// The child's view of the process that started it.
#[derive(Debug)]
pub struct Watched {
    /// None: it had ended before this process looked.
    process: Option<OwnedFd>,
    pipe: Option<OwnedFd>,
    /// Bytes of a beat that is not whole yet.
    begun: Vec<u8>,
}

impl Watched {
    /// The server, by its process id. It may have ended before this process came to look; whoever has
    /// adopted this process then, or has the number by now, is not it.
    ///
    /// # Errors
    /// When the system has no process descriptors (Linux before 5.3).
    pub fn server(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let opened = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(process)) => Some(process),
            None | Some(Err(rustix::io::Errno::SRCH)) => None,
            Some(Err(errno)) => return Err(errno.into()),
        };
        // Opened while the server was this process's parent: then it is the server.
        let process = opened.filter(|_| pid.is_some() && rustix::process::getppid() == pid);
        Ok(Self {
            process,
            pipe: Some(io::stdin().as_fd().try_clone_to_owned()?),
            begun: Vec::new(),
        })
    }

    /// Waits for at most `limit` and gives what happened, in order.
    ///
    /// # Errors
    /// As the system says.
    pub fn await_sightings(&mut self, limit: Option<Duration>) -> io::Result<Vec<Sighting>> {
        if self.process.is_none() {
            return self.after_its_end();
        }
        let timeout = limit.map_or(PollTimeout::NONE, |limit| {
            let millis = i32::try_from(limit.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let awaited = self.process.iter().chain(&self.pipe);
        let mut polled: Vec<_> = awaited
            .map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut polled, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|it| it.any().unwrap_or(false)).collect();
        let mut seen = Vec::new();
        if ready.get(1) == Some(&true) {
            self.read_pipe(&mut seen)?;
        }
        if ready.first() == Some(&true) {
            seen.extend(self.after_its_end()?);
        }
        Ok(seen)
    }

    /// What it wrote before it ended counts.
    fn after_its_end(&mut self) -> io::Result<Vec<Sighting>> {
        let mut seen = Vec::new();
        while self.pipe.is_some() {
            self.read_pipe(&mut seen)?;
        }
        seen.push(Sighting::ProcessEnded);
        Ok(seen)
    }

    /// SIGKILL to that very process, whatever has its number by now.
    ///
    /// # Errors
    /// As the system says; that it has ended already is none.
    pub fn kill(&self) -> io::Result<()> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        match pidfd_send_signal(process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_pipe(&mut self, seen: &mut Vec<Sighting>) -> io::Result<()> {
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        let mut bytes = [0; 512];
        let count = match nix::unistd::read(pipe, &mut bytes) {
            Ok(count) => count,
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        if count == 0 {
            self.pipe = None;
            seen.push(Sighting::PipeClosed);
            return Ok(());
        }
        self.begun.extend_from_slice(&bytes[..count]);
        let whole = self.begun.len() / BEAT_BYTES * BEAT_BYTES;
        for beat in self.begun[..whole].chunks_exact(BEAT_BYTES) {
            let mut number = [0; BEAT_BYTES];
            number.copy_from_slice(beat);
            seen.push(match u64::from_be_bytes(number) {
                DISMISSAL => Sighting::Dismissed,
                0 => Sighting::Beat(None),
                epoch => Sighting::Beat(Some(Epoch(epoch))),
            });
        }
        self.begun.drain(..whole);
        Ok(())
    }
}

/// One line, byte by byte: what follows it belongs to the poll loop.
fn read_line(from: &impl AsFd) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < SETUP_BYTES_MAX && nix::unistd::read(from, &mut byte)? == 1 {
        if byte[0] == b'\n' {
            return String::from_utf8(line)
                .map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause));
        }
        line.push(byte[0]);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "this command is started by a server, not by hand",
    ))
}
