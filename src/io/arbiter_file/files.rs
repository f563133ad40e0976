//! Small steps on files, and what can go wrong with them, in words for the operator.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::proto::arbiter_codec::ArbiterFileError;

/// Why a call on the arbiter failed: nothing is known then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("{} {what}: {cause}{}", path.display(), advice(cause))]
    Io {
        path: PathBuf,
        what: String,
        cause: io::Error,
    },
    #[error("{}: {cause}", path.display())]
    Content {
        path: PathBuf,
        cause: ArbiterFileError,
    },
    #[error("lock file {} {what} and there is no record beside it: is lock_file right, and the share mounted?", path.display())]
    NoArbiter { path: PathBuf, what: String },
    #[error("{} holds the record {found}, not the one that its name says: it was copied or renamed: restore the folder, or remove this file", path.display())]
    Misnamed { path: PathBuf, found: u64 },
}

impl Problem {
    pub(super) fn io(path: &Path, what: &str, cause: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            what: what.to_owned(),
            cause,
        }
    }

    pub(super) fn content(path: &Path, cause: ArbiterFileError) -> Self {
        Self::Content {
            path: path.to_owned(),
            cause,
        }
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => ": is the share mounted?",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ": give this user read and write permission on the file and its folder"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free space on the file share"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            ": lock_file must name a file in a folder"
        }
        _ => "",
    }
}

/// From the start, at most one byte more than `max`: so much is never valid.
pub(super) fn read_bounded(file: &File, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; max.saturating_add(1)];
    let mut filled = 0;
    while filled < bytes.len() {
        let offset = u64::try_from(filled).unwrap_or(u64::MAX);
        match file.read_at(&mut bytes[filled..], offset) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The lock file, for reading and writing; never made by this.
pub(super) fn open_for_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// A file that was not there, flushed.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| {
        remove(path);
        Problem::io(path, "cannot be written", cause)
    })
}

/// Removes what nobody reads any more. Left behind it does no harm, so that a failure is only logged.
pub(super) fn remove(path: &Path) {
    if let Err(cause) = std::fs::remove_file(path)
        && cause.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(target: "twinmq::lock", file = %path.display(), %cause, "file not removed");
    }
}

/// Makes a folder of mode 0700, unless it is there.
pub(super) fn make_folder(path: &Path, with_parents: bool) -> Result<(), Problem> {
    let made = DirBuilder::new()
        .mode(0o700)
        .recursive(with_parents)
        .create(path);
    match made {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => {
            Err(Problem::io(path, "cannot be made", cause))
        }
        _ => Ok(()),
    }
}

pub(super) fn flush_folder(path: &Path) -> Result<(), Problem> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| Problem::io(path, "cannot be flushed", cause))
}

/// Flushes the folders above one that may just have been made with it: without that a power cut may
/// take all of it away, and a record that was acted upon with it. Those that this user may not read
/// were not made by it.
pub(super) fn flush_above(path: &Path) -> Result<(), Problem> {
    let path = path
        .canonicalize()
        .map_err(|cause| Problem::io(path, "cannot be found", cause))?;
    for above in path.ancestors().skip(1) {
        match flush_folder(above) {
            Err(Problem::Io { cause, .. }) if cause.kind() == io::ErrorKind::PermissionDenied => {
                break;
            }
            flushed => flushed?,
        }
    }
    Ok(())
}

pub(super) fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes once it has booted");
    bytes
}
