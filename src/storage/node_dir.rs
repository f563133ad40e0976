//! A server's own folder, which is never wiped or replicated: its identity, the arbiter record that it
//! saw last, what it dropped. `node/` in the data directory; in shared mode a folder apart, because the
//! data directory is not one server's.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::proto::arbiter_codec::decode_record;
use crate::proto::ids::NodeId;

use super::data_dir::{crash_point, random, read_if_there, replace};
use super::error::StoreError;

const FORMAT: u32 = 1;

/// Locked for this server.
#[derive(Debug)]
pub(super) struct NodeDir {
    dir: PathBuf,
    node: NodeId,
    /// Held as long as this lives.
    lock: File,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Identity {
    format: u32,
    pub(super) node: NodeId,
}

impl Drop for NodeDir {
    /// By name rather than with the descriptor: a child between its fork and its exec has that, too.
    fn drop(&mut self) {
        if let Err(errno) = set_lock(&self.lock, libc::F_UNLCK) {
            tracing::debug!(target: "twinmq::store", %errno, "the lock goes with its descriptor");
        }
    }
}

impl NodeDir {
    /// Locks a folder that is there, and gives the server an identity where it has none. `owner` is the
    /// directory that messages name.
    ///
    /// # Errors
    /// When another server has it, or it cannot be read or written.
    pub(super) fn lock(dir: PathBuf, owner: &Path) -> Result<Self, StoreError> {
        let lock = take_lock(&dir, owner)?;
        let node = identity(&dir, owner)?;
        Ok(Self { dir, node, lock })
    }

    /// This server.
    #[must_use]
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// Where it is.
    #[must_use]
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `write_last_record` wrote last.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) fn last_record(&self) -> Result<Option<Bytes>, StoreError> {
        read_if_there(&self.dir.join("last_record")).map(|found| found.map(Bytes::from))
    }

    /// Removes a record that cannot be read: without it the server learns of the arbiter as a new one
    /// does. For a store that is emptied.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn forget_damaged_record(&self) -> Result<(), StoreError> {
        let damaged = self
            .last_record()?
            .is_some_and(|bytes| decode_record(&bytes, None).is_err());
        if damaged {
            let path = self.dir.join("last_record");
            std::fs::remove_file(&path).map_err(StoreError::file("remove", &path))?;
        }
        Ok(())
    }

    /// Durably replaces the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_last_record(&self, record: &[u8]) -> Result<(), StoreError> {
        replace(&self.dir, "last_record", record)
    }
}

/// An open file description lock: it goes with the process, whatever ends it.
fn take_lock(dir: &Path, owner: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::file("open", &path))?;
    match set_lock(&file, libc::F_WRLCK) {
        Ok(()) => Ok(file),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(StoreError::InUse {
            dir: owner.to_path_buf(),
        }),
        Err(errno) => Err(StoreError::file("lock", &path)(errno.into())),
    }
}

fn set_lock(file: &File, kind: libc::c_int) -> nix::Result<()> {
    let small = |constant: libc::c_int| {
        libc::c_short::try_from(constant).expect("the constants of fcntl are below 10")
    };
    let whole = libc::flock {
        l_type: small(kind),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

fn identity(dir: &Path, owner: &Path) -> Result<NodeId, StoreError> {
    let path = dir.join("identity.json");
    let Some(found) = read_if_there(&path)? else {
        let identity = Identity {
            format: FORMAT,
            node: NodeId(random()?),
        };
        let mut text = serde_json::to_vec_pretty(&identity)
            .map_err(|cause| StoreError::file("write", &path)(cause.into()))?;
        text.push(b'\n');
        crash_point("write the identity")?;
        replace(dir, "identity.json", &text)?;
        return Ok(identity.node);
    };
    let identity: Identity =
        serde_json::from_slice(&found).map_err(|cause| StoreError::Damaged {
            path: owner.to_path_buf(),
            table: "file",
            key: "node/identity.json".to_owned(),
            what: cause.to_string(),
        })?;
    if identity.format == FORMAT {
        Ok(identity.node)
    } else {
        Err(StoreError::WrongFormat {
            path,
            found: identity.format.to_string(),
            known: FORMAT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = || NodeDir::lock(dir.path().to_path_buf(), dir.path());
        let first = lock().unwrap();
        // As a child has it between its fork and its exec.
        let copy = first.lock.try_clone().unwrap();
        assert!(matches!(lock(), Err(StoreError::InUse { .. })));
        drop(first);
        lock().expect("it was let go");
        drop(copy);
    }
}
