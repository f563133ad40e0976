//! The lock on the data file of a store that several machines can reach: a POSIX lock, held by the
//! process that writes the file, for as long as it may write it (ha-protocol A12).
//!
//! Not an OFD lock as elsewhere: on NFS a write counts as locked or not by the process, so that this
//! lock covers LMDB's own descriptors as well, and the file server refuses what comes after the lock was
//! lost. The price is Z13: the kernel drops the lock when this process closes *any* descriptor of the
//! file, also a duplicate. So nobody but LMDB and this opens the file, and [`DataLock::is_held`] is
//! asked before each commit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::error::StoreError;

/// The file with the pages, in the folder of an environment.
pub(super) const DATA_FILE: &str = "data.mdb";

/// A data file that is locked. Dropping it, as any close, unlocks.
#[derive(Debug)]
pub(super) struct DataLock {
    file: File,
    path: PathBuf,
}

/// What an attempt gave.
#[derive(Debug)]
pub(super) enum Attempted {
    /// The lock.
    Locked(DataLock),
    /// Another process has it; in words, who.
    InUse(String),
}

impl DataLock {
    /// Tries once to lock the data file of the environment in the folder `env`. An empty file is made
    /// where there is none and `create` is set.
    ///
    /// # Errors
    /// When the file cannot be opened, or its file system has no locks.
    pub(super) fn take(env: &Path, create: bool) -> Result<Attempted, StoreError> {
        let path = env.join(DATA_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::file("open", &path))?;
        let lock = Self { file, path };
        if lock.lock().map_err(StoreError::file("lock", &lock.path))? {
            return Ok(Attempted::Locked(lock));
        }
        Ok(Attempted::InUse(lock.holder()))
    }

    /// Takes it again where the kernel may have dropped it; false: another process was faster.
    pub(super) fn lock(&self) -> io::Result<bool> {
        match fcntl(self.file.as_fd(), FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Lets it go although the process goes on.
    pub(super) fn unlock(&self) -> io::Result<()> {
        fcntl(self.file.as_fd(), FcntlArg::F_SETLK(&whole(libc::F_UNLCK)))?;
        Ok(())
    }

    /// This kernel has the lock down for this process. What a file server makes of it shows only when
    /// something is flushed.
    pub(super) fn is_held(&self) -> bool {
        // Asked as an open file description, so that the own process's lock is one of another owner.
        let mut asked = whole(libc::F_WRLCK);
        let told = fcntl(self.file.as_fd(), FcntlArg::F_OFD_GETLK(&mut asked));
        let own = libc::pid_t::try_from(std::process::id()).is_ok_and(|id| id == asked.l_pid);
        told.is_ok() && asked.l_type == small(libc::F_WRLCK) && own
    }

    /// The file, to be read through this descriptor: another one would have to be closed.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn holder(&self) -> String {
        let mut asked = whole(libc::F_WRLCK);
        match fcntl(self.file.as_fd(), FcntlArg::F_GETLK(&mut asked)) {
            Ok(_) if asked.l_pid > 0 => format!("process {}", asked.l_pid),
            Ok(_) | Err(_) => "a process, perhaps on another machine".to_owned(),
        }
    }
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: small(kind),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn small(constant: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(constant).expect("the constants of fcntl are below 10")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_close_of_the_file_in_the_process_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let Attempted::Locked(lock) = DataLock::take(dir.path(), true).unwrap() else {
            panic!("nobody else has it");
        };
        assert!(lock.is_held());
        // A duplicate is enough.
        drop(lock.file.try_clone().unwrap());
        assert!(!lock.is_held());
        assert!(lock.lock().unwrap());
        drop(File::open(dir.path().join(DATA_FILE)).unwrap());
        assert!(!lock.is_held());
        assert!(lock.lock().unwrap());
        std::fs::metadata(dir.path().join(DATA_FILE)).unwrap();
        assert!(lock.is_held());
        lock.unlock().unwrap();
        assert!(!lock.is_held());
    }

    #[test]
    fn a_missing_file_is_made_only_where_that_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let missing = DataLock::take(dir.path(), false).unwrap_err();
        assert!(matches!(missing, StoreError::File { action: "open", .. }));
    }
}
