//! What a data directory says of its server while no server has it. Nothing in it is made, changed,
//! locked or removed: a server may start at any moment, and then what was read here is old.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::proto::ids::{NodeId, Position, StoreId};
use crate::proto::record::Chunk;

use super::backend::{Table, View as _, log_key};
use super::data_dir::{CURRENT, DataDir, read_if_there, store_number};
use super::env::LmdbView;
use super::error::StoreError;
use super::node_dir::Identity;
use super::{meta, shape};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Glance {
    /// A process has the data directory: nothing more was read.
    pub in_use: bool,
    /// The server, once it has an identity.
    pub node: Option<NodeId>,
    /// Why its identity cannot be told, though there is a file of it. A server does not start so.
    #[serde(default)]
    pub identity_damage: Option<String>,
    /// `node/last_record`, as it stands there.
    pub last_record: Option<Vec<u8>>,
    /// Its store; none before the first.
    pub store: Option<StoreGlance>,
}

/// A store, from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreGlance {
    /// Whose it is.
    pub cluster: String,
    /// This copy.
    pub store: StoreId,
    /// Where the log ends; recovery may drop an unfinished batch at its end.
    pub end: Position,
    /// A resync into it has not ended.
    pub sync_in_progress: bool,
}

/// Looks at a data directory. On some damaged files LMDB ends the process: see `store check`.
///
/// # Errors
/// When it is no data directory, or what is there cannot be read.
pub fn glance(dir: &Path) -> Result<Glance, StoreError> {
    if !DataDir::is_at(dir) {
        return Err(StoreError::NoDataDir {
            dir: dir.to_path_buf(),
        });
    }
    if is_locked(&dir.join("node/lock"))? {
        return Ok(Glance {
            in_use: true,
            ..Glance::default()
        });
    }
    let (node, identity_damage) = glance_identity(&dir.join("node/identity.json"));
    Ok(Glance {
        in_use: false,
        node,
        identity_damage,
        last_record: read_if_there(&dir.join("node/last_record"))?,
        store: match present(dir)? {
            Some(name) => store(&dir.join(name))?,
            None => None,
        },
    })
}

/// Who the server is, by its identity's file, or why that cannot be told; neither where there is none.
#[must_use]
pub fn glance_identity(path: &Path) -> (Option<NodeId>, Option<String>) {
    let read = match read_if_there(path) {
        Ok(None) => return (None, None),
        Ok(Some(bytes)) => {
            serde_json::from_slice::<Identity>(&bytes).map_err(|cause| cause.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    match read {
        Ok(identity) => (Some(identity.node), None),
        Err(why) => (None, Some(why)),
    }
}

/// The folder that `CURRENT` names.
fn present(dir: &Path) -> Result<Option<String>, StoreError> {
    let Some(current) = read_if_there(&dir.join(CURRENT))? else {
        return Ok(None);
    };
    let named = std::str::from_utf8(&current)
        .ok()
        .map(str::trim_end)
        .filter(|name| store_number(name).is_some());
    match named {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(StoreError::Layout {
            dir: dir.to_path_buf(),
            what: "CURRENT names no store".to_owned(),
        }),
    }
}

fn store(path: &Path) -> Result<Option<StoreGlance>, StoreError> {
    shape::check(path)?;
    let Some(view) = LmdbView::open_read_only(path)? else {
        return Ok(None);
    };
    let Some(meta) = meta::load(&view)? else {
        return Ok(None);
    };
    let mut last = Vec::new();
    let from = log_key(meta.checkpoint.position.lsn);
    view.scan(Table::Log, &from, &mut |_, value| {
        last.clear();
        last.extend_from_slice(value);
        ControlFlow::Continue(())
    })?;
    let end =
        Chunk::decode(Bytes::from(last), usize::MAX).map_or(meta.checkpoint.position, |chunk| {
            Position {
                epoch: chunk.header.epoch,
                lsn: chunk.header.last(),
            }
        });
    Ok(Some(StoreGlance {
        cluster: meta.cluster,
        store: meta.store,
        end: end.max(meta.checkpoint.position),
        sync_in_progress: meta.sync_in_progress,
    }))
}

/// Whether somebody has a lock on the file. Asking takes none: a server that starts now is not refused.
fn is_locked(path: &Path) -> Result<bool, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(StoreError::file("open", path)(cause)),
    };
    let small = |constant: libc::c_int| {
        libc::c_short::try_from(constant).expect("the constants of fcntl are below 10")
    };
    let mut asked = libc::flock {
        l_type: small(libc::F_WRLCK),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked))
        .map_err(|errno| StoreError::file("ask for the lock of", path)(errno.into()))?;
    Ok(asked.l_type != small(libc::F_UNLCK))
}
