//! The system's limit on open files of this process, which bounds its connections.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files of a server that are no client connections: store, logs, lock files, back channel, listeners.
const OWN: u64 = 128;

/// What keeps a server from as many connections as its profile allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFilesError {
    /// Only the system's administrator may raise it further.
    #[error(
        "the system allows this process {allowed} open files, and limits.max_connections = \
         {connections} may need {}: set LimitNOFILE in the unit (or `ulimit -n`) to at least that, or \
         lower limits.max_connections",
        connections.saturating_add(OWN)
    )]
    TooFew {
        /// Open files that are allowed after this.
        allowed: u64,
        /// Client connections that the profile allows.
        connections: u64,
    },
    /// The limit can neither be read nor changed.
    #[error("the limit of open files cannot be changed: {0}")]
    System(#[from] Errno),
}

/// Raises this process's limit on open files as far as it may; a shell's usual 1,024 are fewer than the
/// clients of a server.
///
/// # Errors
/// When that is too few for so many client connections.
pub fn raise(connections: u64) -> Result<(), OpenFilesError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    if hard < connections.saturating_add(OWN) {
        return Err(OpenFilesError::TooFew {
            allowed: hard,
            connections,
        });
    }
    Ok(())
}
