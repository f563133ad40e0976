//! The tools of the trials on a share: a folder of their own, a process that holds a lock, the arbiter
//! that servers use, and a race for its record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::io::arbiter_file::{ArbiterFileConfig, FileArbiter, spawn_file_arbiter};
use crate::io::file_lock::{folder_of, try_lock};
use crate::proto::arbiter::{Arbiter, ArbiterAnswer, ArbiterCall, ArbiterRecord, LockHeartbeat};
use crate::proto::ids::{ArbiterId, Epoch, NodeId, RecordSeq, StoreId};
use crate::time::{Clock, SystemClock};

/// How long the share may take for one step before the check gives it up.
pub(super) const STEP: Duration = Duration::from_secs(20);

/// A folder of the check's own on the share, gone with this value.
pub(super) struct Scratch {
    pub(super) folder: PathBuf,
    left: bool,
}

impl Scratch {
    /// # Errors
    /// As the system says.
    pub(super) fn beside(lock_file: &Path, name: &str) -> io::Result<Self> {
        let folder = folder_of(lock_file).join(name);
        match fs::create_dir(&folder) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
            _ => Ok(Self {
                folder,
                left: false,
            }),
        }
    }
}

impl Scratch {
    /// Leaves the folder to whoever else is to remove it.
    pub(super) fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if let Err(cause) = fs::remove_dir_all(&self.folder)
            && cause.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(target: "twinmq::check", folder = %self.folder.display(), %cause, "folder not removed");
        }
    }
}

/// A file to lock, made where it is missing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// A child that holds a lock until it is killed.
pub(super) struct Holder {
    child: Child,
}

impl Holder {
    /// # Errors
    /// In words: it could not be started, or could not take the lock.
    pub(super) fn start(path: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|it| it.to_string())?;
        let mut child = Command::new(program)
            .args(["check", "--hold"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|cause| format!("a process that holds a lock cannot be started: {cause}"))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out)
                .read_line(&mut line)
                .map_err(|it| it.to_string())?;
        }
        let holder = Self { child };
        if line.trim() == "held" {
            Ok(holder)
        } else {
            Err("a process of its own did not get the lock".to_owned())
        }
    }

    /// SIGKILL, as a crash.
    pub(super) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        for ended in [self.child.kill(), self.child.wait().map(|_| ())] {
            if let Err(cause) = ended {
                tracing::debug!(target: "twinmq::check", %cause, "holder not ended");
            }
        }
    }
}

/// The child's side: takes the lock, says so, and holds it until its input ends or it is killed.
///
/// # Errors
/// As the system says.
pub(super) fn hold(path: &Path) -> io::Result<bool> {
    let file = open(path)?;
    if !try_lock(&file)? {
        return Ok(false);
    }
    if super::super::print("held").is_err() {
        return Ok(false);
    }
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(true)
}

/// Tries until the lock is obtained. None: not in time.
pub(super) fn await_lock(file: &File, patience: Duration) -> io::Result<Option<Duration>> {
    let clock = SystemClock;
    let began = clock.now();
    loop {
        if try_lock(file)? {
            return Ok(Some(clock.now().since(began)));
        }
        if clock.now().since(began) > patience {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The arbiter that servers use, asked one call at a time.
pub(super) struct Asked {
    arbiter: FileArbiter,
    answers: Receiver<ArbiterAnswer>,
}

impl Asked {
    pub(super) fn on(lock_file: &Path) -> io::Result<Self> {
        let (sender, answers) = channel();
        let config = ArbiterFileConfig {
            lock_file: lock_file.to_owned(),
            secret: None,
            create_parent: false,
        };
        let arbiter = spawn_file_arbiter(
            config,
            Arc::new(move |_, answer| {
                if sender.send(answer).is_err() {
                    tracing::debug!(target: "twinmq::check", "an answer came too late");
                }
            }),
        )?;
        Ok(Self { arbiter, answers })
    }

    pub(super) fn ask(&self, call: ArbiterCall) -> Result<ArbiterAnswer, String> {
        self.arbiter.call(0, call);
        self.answers
            .recv_timeout(STEP)
            .map_err(|_| format!("the share did not answer for {} s", STEP.as_secs()))
    }
}

/// A record of the check's own arbiter.
pub(super) fn record(seq: u64, owner: NodeId) -> ArbiterRecord {
    ArbiterRecord {
        arbiter: ArbiterId([7; 16]),
        cluster: "twinmq-check".to_owned(),
        seq: RecordSeq(seq),
        epoch: Epoch(seq),
        owner,
        isr: vec![StoreId([7; 16])],
        generation: Epoch::ZERO,
    }
}

/// Sets records until `last` is there; gives the numbers that were won.
pub(super) fn race(asked: &Asked, own: NodeId, last: u64) -> Result<Vec<u64>, String> {
    let mut won = Vec::new();
    let mut present = match asked.ask(ArbiterCall::Read)? {
        ArbiterAnswer::Read { record, .. } => record.map_or(0, |it| it.seq.0),
        other => return Err(format!("the record cannot be read: {other:?}")),
    };
    while present < last {
        let next = record(present.saturating_add(1), own);
        match asked.ask(ArbiterCall::CompareAndSet(next))? {
            ArbiterAnswer::Set(set) => {
                won.push(set.seq.0);
                present = set.seq.0;
            }
            ArbiterAnswer::Conflict(Some(there)) => present = there.seq.0,
            other => return Err(format!("the record cannot be changed: {other:?}")),
        }
    }
    Ok(won)
}

/// No number may have been won by both. One may be without a winner: whoever finds a higher record
/// when it looks again counts its own as lost.
pub(super) fn judge_race(one: &[u64], other: &[u64]) -> Result<(), String> {
    match one.iter().find(|number| other.contains(number)) {
        Some(twice) => Err(format!("two changes both became record {twice}")),
        None => Ok(()),
    }
}

pub(super) fn heartbeat(counter: u64) -> LockHeartbeat {
    LockHeartbeat {
        owner: NodeId([1; 16]),
        epoch: Epoch(1),
        seq: RecordSeq(1),
        counter,
        positions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_has_at_most_one_winner_for_each_number() {
        assert_eq!(judge_race(&[2, 4], &[3]), Ok(()));
        assert_eq!(
            judge_race(&[2, 3], &[3, 4]),
            Err("two changes both became record 3".to_owned())
        );
    }
}
