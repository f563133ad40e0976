//! What can go wrong in the store.

use std::path::PathBuf;

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
}
