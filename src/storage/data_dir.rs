//! The data directory: `node/` (this server's, never wiped or replicated), one `store.<n>/`, and
//! `CURRENT`, which names it. Every change is made under a temporary name, flushed, renamed, and the
//! folder flushed, so that a crash leaves the old or the new and never half of one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::proto::ids::{Lsn, NodeId, StoreId};

use super::backend::{Backend as _, Fill, Home, Space, View as _};
use super::divergent::TailNote;
use super::env::{LmdbEnv, SyncMode};
use super::error::StoreError;
use super::node_dir::NodeDir;
use super::shape;

pub(super) const CURRENT: &str = "CURRENT";
/// Free bytes in a store's file that are not worth a copy.
const FREE_BYTES: u64 = 256 << 20;

/// A locked data directory.
pub struct DataDir {
    dir: PathBuf,
    mode: SyncMode,
    node: NodeDir,
    /// The number of the present store; 0 before the first.
    present: u64,
}

impl DataDir {
    /// Locks the directory, makes what is missing of it, removes what a crash left over, and opens its
    /// store if it has one.
    ///
    /// # Errors
    /// When it is in use, not as a server leaves it, or cannot be read or written.
    pub fn open(dir: &Path, mode: SyncMode) -> Result<(Self, Option<LmdbEnv>), StoreError> {
        fs::create_dir_all(dir.join("node")).map_err(StoreError::file("make the folder", dir))?;
        let mut home = Self::lock(dir, mode)?;
        home.remove_others()?;
        if home.present == 0 {
            return Ok((home, None));
        }
        shape::check(&home.store_dir(home.present))?;
        let env = LmdbEnv::open(&home.store_dir(home.present), mode)?;
        let env = home.compact(env, FREE_BYTES)?;
        Ok((home, Some(env)))
    }

    /// Copies a store whose file is more than twice what is in use and `slack`: a file of LMDB's never
    /// shrinks by itself. Gives the store that is to be used.
    ///
    /// # Errors
    /// When it cannot be copied; after a crash at any step the directory opens.
    pub(super) fn compact(&mut self, env: LmdbEnv, slack: u64) -> Result<LmdbEnv, StoreError> {
        let (file, used) = (env.file_bytes()?, env.view().used_bytes()?);
        let bound = used.saturating_mul(2).saturating_add(slack);
        if file <= bound || self.space()?.free < bound {
            return Ok(env);
        }
        let path = self.make_next_dir()?;
        if let Err(error) = env.copy_compact(&path) {
            // What is there is whole; it only takes more room than it has to.
            tracing::warn!(target: "twinmq::store", %error, "the store could not be compacted");
            fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
            return Ok(env);
        }
        let next = LmdbEnv::open(&path, self.mode)?;
        let env = self.promote_next(next, env)?;
        tracing::info!(
            target: "twinmq::store", path = %self.store_dir(self.present).display(),
            before = file, now = env.file_bytes()?, "store compacted"
        );
        Ok(env)
    }

    fn make_next_dir(&self) -> Result<PathBuf, StoreError> {
        let path = self.next_dir();
        if path.exists() {
            fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
        }
        fs::create_dir(&path).map_err(StoreError::file("make the folder", &path))?;
        crash_point("make the environment")?;
        Ok(path)
    }

    /// Locks a directory that is there and opens its store; nothing is made or removed.
    ///
    /// # Errors
    /// When it is in use, has no store, or cannot be read.
    pub fn inspect(dir: &Path) -> Result<(Self, LmdbEnv), StoreError> {
        if !Self::is_at(dir) {
            return Err(StoreError::NoDataDir {
                dir: dir.to_path_buf(),
            });
        }
        let home = Self::lock(dir, SyncMode::Meta)?;
        if home.present == 0 {
            return Err(StoreError::Layout {
                dir: home.dir,
                what: "it holds no store yet".to_owned(),
            });
        }
        shape::check(&home.store_dir(home.present))?;
        let env = LmdbEnv::open(&home.store_dir(home.present), SyncMode::Meta)?;
        Ok((home, env))
    }

    fn lock(dir: &Path, mode: SyncMode) -> Result<Self, StoreError> {
        let dir = fs::canonicalize(dir).map_err(StoreError::file("find", dir))?;
        let node = NodeDir::lock(dir.join("node"), &dir)?;
        flush_dir(&dir)?;
        flush_above(&dir)?;
        Self::of(dir, node, mode)
    }

    /// See [`NodeDir::forget_damaged_record`].
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn forget_damaged_record(&self) -> Result<(), StoreError> {
        self.node.forget_damaged_record()
    }

    /// The directory of a shared store, whose server has its own folder elsewhere.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(dir: PathBuf, node: NodeDir, mode: SyncMode) -> Result<Self, StoreError> {
        let mut home = Self {
            node,
            mode,
            present: 0,
            dir,
        };
        home.present = find_present(&home.dir)?;
        Ok(home)
    }

    /// Whether a server has ever used this folder.
    #[must_use]
    pub fn is_at(dir: &Path) -> bool {
        dir.join(CURRENT).exists() || dir.join("node").is_dir()
    }

    /// Absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// This server.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node.node()
    }

    /// What `write_last_record` wrote last.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn last_record(&self) -> Result<Option<Bytes>, StoreError> {
        self.node.last_record()
    }

    /// As `promote_next`, for the first store of a directory.
    ///
    /// # Errors
    /// When any step fails; after a crash at any step the directory opens.
    pub fn promote_first(&mut self, mut next: LmdbEnv) -> Result<LmdbEnv, StoreError> {
        next.sync()?;
        let number = self.present + 1;
        let (from, to) = (self.next_dir(), self.store_dir(number));
        flush_dir(&from)?;
        crash_point("rename the store")?;
        fs::rename(&from, &to).map_err(StoreError::file("rename", &from))?;
        flush_dir(&self.dir)?;
        crash_point("switch to the store")?;
        write_current(&self.dir, number)?;
        self.present = number;
        Ok(next.renamed(&to))
    }

    fn store_dir(&self, number: u64) -> PathBuf {
        store_dir(&self.dir, number)
    }

    fn next_dir(&self) -> PathBuf {
        self.dir.join(format!("store.{}.tmp", self.present + 1))
    }

    /// Removes what a crash left over: half-made stores, and those that were switched away from.
    fn remove_others(&self) -> Result<(), StoreError> {
        for name in names(&self.dir)? {
            let half_made = name.starts_with("store.") && name.ends_with(".tmp");
            let other = store_number(&name).is_some_and(|number| number != self.present);
            if half_made || other {
                let path = self.dir.join(name);
                tracing::info!(target: "twinmq::store", path = %path.display(), "left over from an interrupted resync, removed");
                fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl Home for DataDir {
    type Backend = LmdbEnv;

    fn create_next(&mut self) -> Result<LmdbEnv, StoreError> {
        LmdbEnv::open(&self.make_next_dir()?, self.mode)
    }

    fn promote_next(&mut self, next: LmdbEnv, present: LmdbEnv) -> Result<LmdbEnv, StoreError> {
        let old = self.store_dir(self.present);
        let env = self.promote_first(next)?;
        drop(present);
        crash_point("remove the old store")?;
        fs::remove_dir_all(&old).map_err(StoreError::file("remove", &old))?;
        flush_dir(&self.dir)?;
        Ok(env)
    }

    fn drop_next(&mut self, next: LmdbEnv) -> Result<(), StoreError> {
        next.close();
        let path = self.next_dir();
        fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))
    }

    fn write_last_record(&mut self, record: &[u8]) -> Result<(), StoreError> {
        self.node.write_last_record(record)
    }

    fn keep_tail(
        &mut self,
        range: (Lsn, Lsn),
        note: &TailNote,
        fill: &mut Fill<'_>,
    ) -> Result<(), StoreError> {
        super::divergent::keep(self.node.dir(), range, note, fill)
    }

    fn set_aside(&mut self, present: &LmdbEnv, name: &str, note: &str) -> Result<(), StoreError> {
        super::kept::set_aside(&self.dir, present, name)?;
        super::kept::note_override(&self.dir, note)
    }

    fn new_store_id(&mut self) -> Result<StoreId, StoreError> {
        random().map(StoreId)
    }

    fn space(&self) -> Result<Space, StoreError> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|errno| StoreError::file("measure", &self.dir)(errno.into()))?;
        let block = stat.fragment_size();
        Ok(Space {
            free: stat.blocks_available().saturating_mul(block),
            total: stat.blocks().saturating_mul(block),
        })
    }
}

/// The number of the store that `CURRENT` names, or of the only one; 0 when there is none.
pub(super) fn find_present(dir: &Path) -> Result<u64, StoreError> {
    let layout = |what: String| StoreError::Layout {
        dir: dir.to_path_buf(),
        what,
    };
    let names = names(dir)?;
    let stores: Vec<u64> = names.iter().filter_map(|name| store_number(name)).collect();
    let Some(current) = read_if_there(&dir.join(CURRENT))? else {
        return match stores[..] {
            [] => Ok(0),
            // A crash came between the first store and CURRENT.
            [only] => {
                write_current(dir, only)?;
                Ok(only)
            }
            _ => Err(layout(
                "CURRENT is missing and there are several stores; write the name of the right one into it".to_owned(),
            )),
        };
    };
    let named = std::str::from_utf8(&current)
        .ok()
        .and_then(|text| store_number(text.trim_end()))
        .ok_or_else(|| layout("CURRENT names no store".to_owned()))?;
    if stores.contains(&named) {
        Ok(named)
    } else {
        Err(layout(format!(
            "CURRENT names store.{named}, which is not there; restore it, or empty the whole directory so that this server is filled by its peer"
        )))
    }
}

pub(super) fn write_current(dir: &Path, number: u64) -> Result<(), StoreError> {
    replace(dir, CURRENT, format!("store.{number}\n").as_bytes())
}

pub(super) fn store_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("store.{number}"))
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    read().map_err(StoreError::file("list", dir))
}

pub(super) fn random() -> Result<[u8; 16], StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|cause| StoreError::Random(cause.to_string()))?;
    Ok(bytes)
}

pub(super) fn store_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_prefix("store.")?.parse().ok()?;
    // Only the spelling that is written: not `store.01`.
    (number > 0 && name == format!("store.{number}")).then_some(number)
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(StoreError::file("read", path)(cause)),
    }
}

/// Durably replaces a file, or makes it.
pub(super) fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(StoreError::file("write", &temporary))?;
    crash_point("rename the file")?;
    fs::rename(&temporary, &path).map_err(StoreError::file("rename", &temporary))?;
    flush_dir(dir)
}

pub(super) fn flush_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::file("flush the folder", dir))
}

/// Flushes the folders above one, whose names in each other may be as new as it is: without that a
/// power cut may take all of it away. Those that this user may not read were not made by it.
fn flush_above(dir: &Path) -> Result<(), StoreError> {
    for above in dir.ancestors().skip(1) {
        match File::open(above) {
            Ok(folder) => folder
                .sync_all()
                .map_err(StoreError::file("flush the folder", above))?,
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => break,
            Err(cause) => return Err(StoreError::file("flush the folder", above)(cause)),
        }
    }
    Ok(())
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the tests' one fails")]
pub(super) fn crash_point(_step: &'static str) -> Result<(), StoreError> {
    Ok(())
}

#[cfg(test)]
pub(super) use crash::crash_point;

/// Tests let the process "crash" at the n-th step: it fails there and leaves all as it is.
#[cfg(test)]
pub(super) mod crash {
    use std::cell::Cell;
    use std::io;
    use std::path::Path;

    use super::StoreError;

    thread_local! {
        static STEPS: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Crash after this many more steps of this thread; none: never.
    pub(crate) fn after(steps: Option<u32>) {
        STEPS.set(steps);
    }

    pub(crate) fn crash_point(step: &'static str) -> Result<(), StoreError> {
        match STEPS.get() {
            Some(0) => Err(StoreError::file(step, Path::new("crash"))(
                io::Error::other("injected"),
            )),
            Some(left) => {
                STEPS.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
