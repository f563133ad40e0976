//! The exit codes of `twinmq`, for scripts and service managers. `docs/operations.md` lists the
//! same; a test keeps them equal.

/// What the process's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// What was asked for is done, or true.
    Done = 0,
    /// It is not true, was not reached in time, or failed in a way that has no code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// An address to listen on is in use.
    AddressInUse = 4,
    /// Another server uses the data directory.
    StoreInUse = 5,
    /// The store is damaged, or of another format.
    StoreDamaged = 6,
    /// The store failed while the server ran.
    StoreFailed = 7,
    /// The lock file cannot be used.
    LockFile = 8,
    /// The peer is not this server's pair, or is configured otherwise.
    PeerMismatch = 9,
    /// The server stepped down in order, to be started again.
    SteppedDown = 10,
}

impl ExitCode {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Configuration,
        Self::AddressInUse,
        Self::StoreInUse,
        Self::StoreDamaged,
        Self::StoreFailed,
        Self::LockFile,
        Self::PeerMismatch,
        Self::SteppedDown,
    ];

    /// The number that the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// A short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::AddressInUse => "address in use",
            Self::StoreInUse => "store in use",
            Self::StoreDamaged => "store damaged",
            Self::StoreFailed => "store failed",
            Self::LockFile => "lock file",
            Self::PeerMismatch => "peer mismatch",
            Self::SteppedDown => "stepped down",
        }
    }

    /// What it means and what to do, in a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Done => "what was asked for is done, or true",
            Self::Failed => {
                "it is not true, was not reached in time, or failed for the reason that was printed"
            }
            Self::Usage => "the command line is wrong: see --help",
            Self::Configuration => {
                "the configuration is wrong: put right the lines that were printed"
            }
            Self::AddressInUse => {
                "an address to listen on is in use: stop its owner or change the key that was \
                 printed"
            }
            Self::StoreInUse => "another server uses the data directory: stop it or use another",
            Self::StoreDamaged => {
                "the store is damaged or of another format: see twinmq store check, and the peer's \
                 copy"
            }
            Self::StoreFailed => {
                "the store failed while the server ran (disk full, I/O error): nothing that was \
                 confirmed is lost; see to the disk, then start again"
            }
            Self::LockFile => {
                "the lock file is missing, cannot be locked or written: see to the share"
            }
            Self::PeerMismatch => {
                "the peer belongs to another pair, or values that must agree differ: compare both \
                 profiles"
            }
            Self::SteppedDown => "the server stepped down in order: start it again",
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_number_once_in_order() {
        for (number, code) in ExitCode::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.code()), number);
        }
        let mut names: Vec<_> = ExitCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ExitCode::ALL.len());
    }
}
