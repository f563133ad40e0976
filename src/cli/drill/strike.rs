//! How each fault is caused and healed.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Drill, Fault};
use crate::cli::load::Load;
use crate::cli::scratch::{Pair, Role, ScratchError};
use crate::cli::stage::StageError;
use crate::time::{Clock, Moment, SystemClock};

/// What the holder says when its lock file is not what it was.
const LOCK_LOST: &str = "the lock was lost";

impl Drill<'_> {
    /// Strikes and heals; the pair need not be in sync yet when this returns.
    pub(super) fn strike(
        &self,
        pair: &mut Pair,
        load: &Load,
        fault: Fault,
        active: Role,
    ) -> Result<(), StageError> {
        let passive = active.other();
        // Before the strike: clients may be with the other server before a stop or a switchover returns.
        let struck = SystemClock.now();
        match fault {
            Fault::KillActive => {
                pair.kill(active);
                self.until_served_anew(pair, load, struck)?;
                pair.start(active)?;
            }
            Fault::StopActive => {
                pair.terminate(active);
                self.until_served_anew(pair, load, struck)?;
                pair.start(active)?;
            }
            // In shared mode it ends, and is started again by the supervision of the next phase.
            Fault::Switchover => {
                pair.switch_over(active)?;
                self.until_served_anew(pair, load, struck)?;
            }
            Fault::KillPassive => {
                pair.kill(passive);
                self.until_alone(pair, load, active)?;
                pair.start(passive)?;
            }
            Fault::StopPassive => {
                pair.terminate(passive);
                self.until_alone(pair, load, active)?;
                pair.start(passive)?;
            }
            Fault::KillBoth => self.kill_both(pair, || Ok(()))?,
            Fault::RecordRemoved => self.kill_both(pair, || self.remove_record())?,
            Fault::HangActive => {
                let span = self.ha.passive_interval + self.ha.lease_ttl() + super::RUN;
                self.hang(pair, load, active, span)?;
            }
            Fault::HangPassive => {
                let span = self.ha.replication.ack_timeout + self.ha.passive_interval;
                self.hang(pair, load, passive, span)?;
            }
            Fault::PauseActive => self.hang(pair, load, active, self.ha.lease_ttl() / 4)?,
            Fault::LockDeleted => {
                self.spoil_lock(pair, load, active, |lock| fs::remove_file(lock))?
            }
            Fault::LockReplaced => self.spoil_lock(pair, load, active, |lock| {
                let copy = lock.with_extension("copy");
                fs::copy(lock, &copy).and_then(|_| fs::rename(&copy, lock))
            })?,
            Fault::LockEmptied => self.spoil_lock(pair, load, active, |lock| {
                File::options()
                    .write(true)
                    .open(lock)
                    .and_then(|file| file.set_len(0))
            })?,
        }
        Ok(())
    }

    fn until_served_anew(
        &self,
        pair: &mut Pair,
        load: &Load,
        struck: Moment,
    ) -> Result<(), StageError> {
        self.stage.until(pair, Some(load), "service is back", |_| {
            if load.all_served_anew_since(struck) {
                Ok(())
            } else {
                Err("a producer has no receipt of the other server yet".to_owned())
            }
        })
    }

    /// Waits until the active goes on without its peer.
    fn until_alone(&self, pair: &mut Pair, load: &Load, active: Role) -> Result<(), StageError> {
        let what = "the active goes on alone";
        self.stage.until(pair, Some(load), what, |pair| {
            let status = pair.status(active).map_err(|error| error.to_string())?;
            let linked = status.peer.is_some_and(|peer| peer.connected);
            if status.serving && !linked {
                Ok(())
            } else {
                Err(status.state)
            }
        })
    }

    /// Stops a process for this long, or until the other serves all clients, and lets it go on.
    fn hang(
        &self,
        pair: &mut Pair,
        load: &Load,
        role: Role,
        span: Duration,
    ) -> Result<(), StageError> {
        let begin = SystemClock.now();
        pair.signal(role, Signal::SIGSTOP);
        let what = "the server has hung for long enough";
        let waited = self.stage.until_within(pair, Some(load), None, what, |_| {
            if SystemClock.now().since(begin) >= span || load.all_served_anew_since(begin) {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        });
        pair.signal(role, Signal::SIGCONT);
        waited
    }

    fn kill_both(
        &self,
        pair: &mut Pair,
        then: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), StageError> {
        let both = [Role::Primary, Role::Secondary];
        for role in both {
            pair.signal(role, Signal::SIGKILL);
        }
        for role in both {
            pair.kill(role);
        }
        then().map_err(|error| self.share_failed(error))?;
        for role in both {
            pair.start(role)?;
        }
        Ok(())
    }

    fn remove_record(&self) -> io::Result<()> {
        let mut folder = self.lock_file.clone().into_os_string();
        folder.push(".d");
        fs::remove_dir_all(folder)
    }

    /// Spoils the lock file, and waits until its holder says so.
    fn spoil_lock(
        &self,
        pair: &mut Pair,
        load: &Load,
        holder: Role,
        spoil: impl FnOnce(&std::path::Path) -> io::Result<()>,
    ) -> Result<(), StageError> {
        let before = pair.log(holder).0.len();
        // A take-over by fence makes another file than the one that is configured.
        let status = pair.status(holder).ok().and_then(|status| status.lock);
        let lock = match status {
            Some(lock) => self.folder.join(lock.path),
            None => self.lock_file.clone(),
        };
        spoil(&lock).map_err(|error| self.share_failed(error))?;
        let what = "the loss of the lock is noticed";
        self.stage.until(pair, Some(load), what, |pair| {
            let (log, _) = pair.log(holder);
            if log
                .get(before..)
                .is_some_and(|said| said.contains(LOCK_LOST))
            {
                Ok(())
            } else {
                Err("nothing in its log".to_owned())
            }
        })
    }

    fn share_failed(&self, error: io::Error) -> StageError {
        StageError::Scratch(ScratchError::Folder {
            path: self.lock_file.display().to_string(),
            error,
        })
    }
}
