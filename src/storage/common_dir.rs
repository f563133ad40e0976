//! The directory of a shared store: laid out as any data directory, but without `node/`, and with a
//! label that says which store it is. A server that stands by reads the label and nothing else; the data
//! file is touched by whoever has its lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::proto::ids::{Epoch, StoreId};

use super::backend::Backend;
use super::data_dir::{find_present, random, read_if_there, replace, store_dir, write_current};
use super::data_lock::{Attempted, DataLock};
use super::env::{LmdbEnv, SyncMode};
use super::error::StoreError;
use super::meta::{self, Meta};
use super::open::empty;
use super::shape;

const LABEL: &str = "shared.json";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Label {
    format: u32,
    cluster: String,
    store: StoreId,
}

/// What an attempt to have the data file gave.
pub(super) enum Had<T> {
    /// What was asked for.
    Done(T),
    /// Another process has it; in words, who.
    InUse(String),
}

/// Whether this is the directory of a shared store.
pub(super) fn is_at(dir: &Path) -> bool {
    dir.join(LABEL).exists()
}

/// The store in the directory, by its label; none where there is none, or no directory.
///
/// # Errors
/// When the label cannot be read, or is another pair's.
pub(super) fn look(dir: &Path, cluster: &str) -> Result<Option<StoreId>, StoreError> {
    let Some(label) = read_label(dir)? else {
        return Ok(None);
    };
    if label.cluster != cluster {
        return Err(StoreError::WrongCluster {
            path: dir.to_path_buf(),
            found: label.cluster,
            expected: cluster.to_owned(),
        });
    }
    Ok(Some(label.store))
}

fn read_label(dir: &Path) -> Result<Option<Label>, StoreError> {
    let path = dir.join(LABEL);
    let Some(bytes) = read_if_there(&path)? else {
        return Ok(None);
    };
    let label: Label = serde_json::from_slice(&bytes).map_err(|cause| StoreError::Damaged {
        path: dir.to_path_buf(),
        table: "file",
        key: LABEL.to_owned(),
        what: cause.to_string(),
    })?;
    if label.format != FORMAT {
        return Err(StoreError::WrongFormat {
            path,
            found: label.format.to_string(),
            known: FORMAT,
        });
    }
    Ok(Some(label))
}

/// Durably writes the label. Only by whoever has the data file.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_label(dir: &Path, cluster: &str, store: StoreId) -> Result<(), StoreError> {
    let label = Label {
        format: FORMAT,
        cluster: cluster.to_owned(),
        store,
    };
    let mut text = serde_json::to_vec_pretty(&label)
        .map_err(|cause| StoreError::file("write", &dir.join(LABEL))(cause.into()))?;
    text.push(b'\n');
    replace(dir, LABEL, &text)
}

/// Locks the data file of the directory's store, and opens nothing.
///
/// # Errors
/// When there is no store, or it cannot be reached.
pub(super) fn take(dir: &Path) -> Result<Had<Arc<DataLock>>, StoreError> {
    let env = present_env(dir)?;
    Ok(match DataLock::take(&env, false)? {
        Attempted::Locked(lock) => Had::Done(Arc::new(lock)),
        Attempted::InUse(by) => Had::InUse(by),
    })
}

/// Opens the store whose data file is locked.
///
/// # Errors
/// When it is damaged, not the one of the label, or cannot be opened.
pub(super) fn open(
    dir: &Path,
    sync: SyncMode,
    lock: &Arc<DataLock>,
) -> Result<LmdbEnv, StoreError> {
    let env = present_env(dir)?;
    shape::check_file(&env, lock.file())?;
    LmdbEnv::open_shared(&env, sync, Arc::clone(lock))
}

/// What a store says of itself.
///
/// # Errors
/// When it cannot be read, or is another one than the label says.
pub(super) fn verify(dir: &Path, cluster: &str, env: &LmdbEnv) -> Result<Meta, StoreError> {
    let layout = |what: String| StoreError::Layout {
        dir: dir.to_path_buf(),
        what,
    };
    let meta = meta::load(&env.view())?
        .ok_or_else(|| layout("its data file is empty; put the newest copy back".to_owned()))?;
    match look(dir, cluster)? {
        Some(label) if label == meta.store => Ok(meta),
        Some(label) => Err(layout(format!(
            "its label names the store {label}, and the data file is of the store {}; put both back from one copy",
            meta.store
        ))),
        None => Err(layout(format!("its label {LABEL} is missing"))),
    }
}

fn present_env(dir: &Path) -> Result<PathBuf, StoreError> {
    match find_present(dir)? {
        0 => Err(StoreError::Layout {
            dir: dir.to_path_buf(),
            what: "it holds no store; is the share mounted?".to_owned(),
        }),
        number => Ok(store_dir(dir, number)),
    }
}

/// Locks the data file of a store that no server has open, and opens it, whatever its label says.
///
/// # Errors
/// When a server has it, there is none, or it cannot be read.
pub(super) fn inspect(dir: &Path) -> Result<LmdbEnv, StoreError> {
    match take(dir)? {
        Had::Done(lock) => open(dir, SyncMode::Meta, &lock),
        Had::InUse(by) => Err(StoreError::HeldBy {
            dir: dir.to_path_buf(),
            by,
        }),
    }
}

/// First boot: makes a store where there is none, and the label. Gives the store that is there then and
/// the last epoch of its log. Both servers may try at once.
///
/// # Errors
/// When the directory is missing (only one of a relative path is made), or cannot be written.
pub(super) fn found(
    dir: &Path,
    cluster: &str,
    sync: SyncMode,
) -> Result<Had<(StoreId, Epoch)>, StoreError> {
    if dir.is_relative() {
        fs::create_dir_all(dir).map_err(StoreError::file("make the folder", dir))?;
    }
    let number = match find_present(dir)? {
        0 => {
            let first = store_dir(dir, 1);
            fs::create_dir_all(&first).map_err(StoreError::file("make the folder", &first))?;
            write_current(dir, 1)?;
            1
        }
        number => number,
    };
    let path = store_dir(dir, number);
    let lock = match DataLock::take(&path, true)? {
        Attempted::Locked(lock) => Arc::new(lock),
        Attempted::InUse(by) => return Ok(Had::InUse(by)),
    };
    let mut env = LmdbEnv::open_shared(&path, sync, lock)?;
    let meta = match meta::load(&env.view())? {
        Some(meta) if meta.cluster != cluster => {
            return Err(StoreError::WrongCluster {
                path,
                found: meta.cluster,
                expected: cluster.to_owned(),
            });
        }
        Some(meta) => meta,
        None => {
            let meta = empty(cluster, StoreId(random()?));
            env.commit(&meta::whole(&meta))?;
            env.sync()?;
            meta
        }
    };
    write_label(dir, cluster, meta.store)?;
    env.close();
    let epoch = meta.epochs.last().map_or(Epoch::ZERO, |start| start.epoch);
    Ok(Had::Done((meta.store, epoch)))
}
