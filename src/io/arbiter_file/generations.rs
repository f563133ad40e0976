//! The lock file's generations: their names, how the next one comes to be, and when an old one goes.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::io::arbiter_file::files::{Problem, open_for_lock, random, read_bounded, remove};
use crate::io::arbiter_file::{ArbiterFileConfig, FileKeeper, write_in_place};
use crate::io::file_lock::{folder_of, try_lock};
use crate::proto::arbiter::LockHeartbeat;
use crate::proto::arbiter_codec::{ArbiterFileError, LOCK_FILE_BYTES, decode_lock, encode_lock};
use crate::proto::auth::PairSecret;
use crate::proto::ids::{Epoch, Nonce};

/// Between two looks at the old files, in checks of the lock.
const CHECKS_BETWEEN: u32 = 16;
/// So many old files stay while their locks are held; those further below go all the same.
const KEPT_OLDER: usize = 8;

/// The lock file of a generation: the configured one for zero, else `<lock file>.<generation>`.
#[must_use]
pub fn lock_file_of(lock_file: &Path, generation: Epoch) -> PathBuf {
    if generation == Epoch::ZERO {
        return lock_file.to_owned();
    }
    let mut name = lock_file.as_os_str().to_owned();
    name.push(format!(".{generation}"));
    PathBuf::from(name)
}

/// By its content: what somebody else has put beside the lock file is not removed, whatever its name.
fn is_lock_file(path: &Path, secret: Option<&PairSecret>) -> bool {
    File::open(path)
        .and_then(|file| read_bounded(&file, LOCK_FILE_BYTES))
        .is_ok_and(|bytes| decode_lock(&bytes, secret).is_ok())
}

impl FileKeeper {
    /// Makes the next generation's lock file before the record names it, with what the present one
    /// tells of both stores: so that whoever finds the record finds that too (A1). Another claim may
    /// have prepared it and failed: then what it knew is kept, and ours added.
    pub(super) fn prepare(&self, present: Epoch, next: Epoch) -> Result<(), Problem> {
        let last = self.lock_facts(&self.path_of(present))?;
        let last = last.and_then(|facts| facts.last);
        let path = self.path_of(next);
        if self.make_lock_file(&path, last.as_ref())? {
            return Ok(());
        }
        self.add_to(&path, last)
    }

    /// Under its lock. If somebody has that, the record names the file already, and the
    /// compare-and-set that follows will tell.
    fn add_to(&self, path: &Path, last: Option<LockHeartbeat>) -> Result<(), Problem> {
        let file = open_for_lock(path).map_err(|it| Problem::io(path, "cannot be opened", it))?;
        if !try_lock(&file).map_err(|it| Problem::io(path, "cannot be locked", it))? {
            return Ok(());
        }
        let bytes = read_bounded(&file, LOCK_FILE_BYTES)
            .map_err(|it| Problem::io(path, "cannot be read", it))?;
        let (nonce, known) = match decode_lock(&bytes, self.config.secret.as_ref()) {
            Ok(content) => content,
            Err(ArbiterFileError::Torn) => (Nonce(random()), None),
            Err(cause) => return Err(Problem::content(path, cause)),
        };
        let merged = match (known, last) {
            (Some(known), Some(last)) => Some(known.merged(last)),
            (known, last) => known.or(last),
        };
        let bytes = encode_lock(nonce, merged.as_ref(), self.config.secret.as_ref());
        write_in_place(&file, &bytes).map_err(|it| Problem::io(path, "cannot be written", it))
    }
}

/// Files of generations below the one that is held. Their locks count for nothing any more: whoever
/// takes one reads the record after that and lets it go. They are kept while a process has them
/// locked, so that an operator sees that there is one. The configured file always stays.
pub(super) struct OlderFiles {
    /// The oldest last.
    files: Vec<PathBuf>,
    checks: u32,
}

impl OlderFiles {
    pub(super) fn than(config: &ArbiterFileConfig, held: Epoch) -> Self {
        let lock_file = &config.lock_file;
        let prefix = lock_file.file_name().map(|name| {
            let mut prefix = name.to_owned();
            prefix.push(".");
            prefix
        });
        let prefix = prefix.as_deref().and_then(std::ffi::OsStr::to_str);
        let mut older: Vec<(u64, PathBuf)> = std::fs::read_dir(folder_of(lock_file))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.to_str()?.strip_prefix(prefix?)?;
                let generation: u64 = number.parse().ok()?;
                let named = number == generation.to_string() && generation < held.0;
                let path = entry.path();
                (named && is_lock_file(&path, config.secret.as_ref())).then_some((generation, path))
            })
            .collect();
        older.sort_by(|one, other| other.cmp(one));
        Self {
            files: older.into_iter().map(|(_, path)| path).collect(),
            checks: 0,
        }
    }

    /// At each check of the lock: now and then, removes those that nobody has locked.
    pub(super) fn prune(&mut self) {
        self.checks = self.checks.wrapping_add(1);
        if self.files.is_empty() || !self.checks.is_multiple_of(CHECKS_BETWEEN) {
            return;
        }
        let mut index = 0_usize;
        self.files.retain(|path| {
            index = index.saturating_add(1);
            let locked = open_for_lock(path).is_ok_and(|file| !try_lock(&file).unwrap_or(false));
            let keep = locked && index <= KEPT_OLDER;
            if !keep {
                remove(path);
            }
            keep
        });
    }
}
