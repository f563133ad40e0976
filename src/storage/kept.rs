//! What a data directory keeps for people and never reads by itself: copies of the store from before
//! an override (`kept/`), and the list of overrides (`node/overrides`).

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use super::env::LmdbEnv;
use super::error::StoreError;

/// Copies the store to `kept/<name>/`, which is a data directory of its own then.
///
/// # Errors
/// When it cannot be written; what was written of it is removed.
pub(super) fn set_aside(dir: &Path, present: &LmdbEnv, name: &str) -> Result<(), StoreError> {
    let kept = dir.join("kept");
    let copy = kept.join(name);
    let made = copy_to(dir, present, &copy);
    if made.is_err() && copy.exists() {
        fs::remove_dir_all(&copy).map_err(StoreError::file("remove", &copy))?;
    }
    made?;
    flush(&kept)?;
    flush(dir)
}

fn copy_to(dir: &Path, present: &LmdbEnv, copy: &Path) -> Result<(), StoreError> {
    let (store, node) = (copy.join("store.1"), copy.join("node"));
    for folder in [&store, &node] {
        fs::create_dir_all(folder).map_err(StoreError::file("make the folder", folder))?;
    }
    present.copy_compact(&store)?;
    flush(&store.join("data.mdb"))?;
    for name in ["identity.json", "last_record"] {
        let (from, to) = (dir.join("node").join(name), node.join(name));
        if from.exists() {
            fs::copy(&from, &to).map_err(StoreError::file("copy", &from))?;
            flush(&to)?;
        }
    }
    let current = copy.join("CURRENT");
    fs::write(&current, "store.1\n").map_err(StoreError::file("write", &current))?;
    for path in [&current, &store, &node, copy] {
        flush(path)?;
    }
    Ok(())
}

/// Adds a line to `node/overrides`.
///
/// # Errors
/// When it cannot be written.
pub(super) fn note_override(dir: &Path, note: &str) -> Result<(), StoreError> {
    let path = dir.join("node/overrides");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(StoreError::file("open", &path))?;
    writeln!(file, "{note}")
        .and_then(|()| file.sync_all())
        .map_err(StoreError::file("write", &path))?;
    flush(&dir.join("node"))
}

/// Makes a file or a folder durable.
fn flush(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::file("flush", path))
}
