//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

/// A store that cannot go on. Every kind but `ReplicaMismatch` ends the process.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A commit or flush failed: what it held may or may not be on disk (Z27).
    #[error("commit to {path} failed: {cause}")]
    Commit {
        /// The environment.
        path: PathBuf,
        /// What LMDB or the system said.
        cause: String,
    },
    /// A batch of the peer's does not follow this log.
    #[error("the peer's batch does not follow this log: {0}")]
    ReplicaMismatch(String),
    /// The environment cannot be opened or made.
    #[error("cannot open the store {path}: {cause}; check its owner, its rights and the disk")]
    Open {
        /// The environment.
        path: PathBuf,
        /// What LMDB or the system said.
        cause: String,
    },
    /// Reading from the environment failed.
    #[error("reading the store {path} failed: {cause}")]
    Read {
        /// The environment.
        path: PathBuf,
        /// What LMDB said.
        cause: String,
    },
    /// A file or folder of the data directory.
    #[error("cannot {action} {path}: {cause}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has the data directory.
    #[error(
        "the data directory {dir} is in use by another server; stop that one first, or give this one a data directory of its own"
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// A process has the shared store open, or has not let it go yet.
    #[error("the shared store {dir} is open in {by}; stop that server first")]
    HeldBy {
        /// The directory of the store.
        dir: PathBuf,
        /// Who, as far as the system tells.
        by: String,
    },
    /// The store is another pair's.
    #[error(
        "the store {path} belongs to the pair \"{found}\", this server to \"{expected}\"; correct `cluster` or the data directory in the profile"
    )]
    WrongCluster {
        /// The environment.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// A store of another pair is not cleared.
    #[error(
        "the store {path} belongs to the pair \"{found}\", not to \"{expected}\": name its profile with -p"
    )]
    NotOurs {
        /// The environment.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose profile was named.
        expected: String,
    },
    /// A folder that no server has ever used.
    #[error(
        "no data directory there: {dir} is missing, or holds neither CURRENT nor node/; name the right folder"
    )]
    NoDataDir {
        /// The folder.
        dir: PathBuf,
    },
    /// Written by another release in a format that this one does not know.
    #[error("{path} has format {found}, this release knows {known}; run the release that wrote it")]
    WrongFormat {
        /// The environment or file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this release writes.
        known: u32,
    },
    /// The folders are not as a server leaves them.
    #[error("the data directory {dir} is not as a server leaves it: {what}")]
    Layout {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// What is on disk is not what was written.
    #[error(
        "the store {path} is damaged: {table} {key}: {what}; take it from service, `twinmq store check` shows the extent, the peer has a copy"
    )]
    Damaged {
        /// The environment.
        path: PathBuf,
        /// Which table.
        table: &'static str,
        /// Which key of it.
        key: String,
        /// What is wrong there.
        what: String,
    },
    /// The system gave no random bytes for a new identity.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
    /// A thread could not be started.
    #[error("cannot start the thread {name}: {cause}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

impl StoreError {
    /// The process has to end: all but a batch that does not follow.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::ReplicaMismatch(_))
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::File {
            action,
            path: path.to_path_buf(),
            cause,
        }
    }
}
