//! One LMDB environment. The only file that names heed, and the only `unsafe` of the crate.

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
#[cfg(target_env = "gnu")]
use std::sync::Once;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use heed::types::Bytes as Raw;
use heed::{CommitOrAbort, CompactionOption, EnvFlags, EnvOpenOptions, PutFlags, WithoutTls};

use super::backend::{Backend, Table, View, Visit, Write, log_key};
use super::data_lock::{DATA_FILE, DataLock};
use super::error::StoreError;

/// When a commit counts as being on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// One flush for each commit: a commit is durable when the next one's flush returns, and is
    /// flushed at once when no next one waits.
    #[default]
    Deferred,
    /// LMDB's own: two flushes for each commit, durable when it returns.
    Meta,
}

/// Address space for the map. Sparse: it costs nothing, and it can never be too small.
const MAP_BYTES: usize = 1 << 40;
/// Below this the map is not halved any further.
const MAP_BYTES_MIN: usize = 1 << 30;

/// Freed memory at the end of a heap is given back to the kernel when it is more than this.
#[cfg(target_env = "gnu")]
const FREED_BYTES_KEPT: i32 = 64 << 20;
/// Larger pieces of memory are taken from the kernel one by one: the most that glibc allows.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: i32 = 32 << 20;

type Db = heed::Database<'static, Raw, Raw>;

/// An open environment, for its one writer.
pub struct LmdbEnv {
    view: LmdbView,
    mode: SyncMode,
    /// A shared store's: without it nothing is written.
    lock: Option<Arc<DataLock>>,
}

/// A reader of it.
#[derive(Clone)]
pub struct LmdbView {
    env: heed::Env<WithoutTls>,
    tables: [Db; 3],
    path: PathBuf,
    /// A shared store's: LMDB knows nothing of its readers there, so that they and the commits, after
    /// which pages are used anew, take turns here.
    turns: Option<Arc<RwLock<()>>>,
}

impl LmdbEnv {
    /// Opens the environment in the folder `path`, and makes it if the folder is empty.
    ///
    /// # Errors
    /// When LMDB refuses.
    pub fn open(path: &Path, mode: SyncMode) -> Result<Self, StoreError> {
        Self::open_as(path, mode, None)
    }

    /// Opens the environment of a shared store: without LMDB's own lock file, whose mutexes mean
    /// nothing to another machine. `lock` is this process's, and stays so.
    ///
    /// # Errors
    /// When LMDB refuses, or the lock was lost on the way.
    pub(super) fn open_shared(
        path: &Path,
        mode: SyncMode,
        lock: Arc<DataLock>,
    ) -> Result<Self, StoreError> {
        Self::open_as(path, mode, Some(lock))
    }

    fn open_as(
        path: &Path,
        mode: SyncMode,
        lock: Option<Arc<DataLock>>,
    ) -> Result<Self, StoreError> {
        let failed = |cause: heed::Error| {
            damage(path, &cause).unwrap_or_else(|| StoreError::Open {
                path: path.to_path_buf(),
                cause: cause.to_string(),
            })
        };
        keep_freed_memory();
        let mut map_bytes = MAP_BYTES;
        let env = loop {
            match open_env(path, mode, map_bytes, lock.is_some()) {
                Ok(env) => break env,
                Err(heed::Error::Io(cause))
                    if cause.raw_os_error() == Some(nix::libc::ENOMEM)
                        && map_bytes > MAP_BYTES_MIN =>
                {
                    map_bytes /= 2;
                    // The attempt has closed the file, and so dropped the lock.
                    if let Some(lock) = &lock
                        && !lock.lock().map_err(StoreError::file("lock", path))?
                    {
                        return Err(lock_lost(path));
                    }
                }
                Err(cause) => return Err(failed(cause)),
            }
        };
        if map_bytes < MAP_BYTES {
            tracing::info!(
                target: "twinmq::store",
                path = %path.display(),
                map_gib = map_bytes >> 30,
                "the system refused a larger map; the store can grow to this size"
            );
        }
        let txn = env.write_txn().map_err(failed)?;
        let tables = env
            .create_databases_and_commit(txn, |opener, txn| {
                let mut open = |table: Table| opener.create_database(txn, Some(table.name()));
                let tables = [
                    open(Table::Log)?,
                    open(Table::Meta)?,
                    open(Table::Checkpoint)?,
                ];
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
            })
            .map_err(failed)?
            .unwrap_commit();
        Ok(Self {
            view: LmdbView {
                env,
                tables,
                path: path.to_path_buf(),
                turns: lock.is_some().then(Arc::default),
            },
            mode,
            lock,
        })
    }

    /// Z13: a descriptor of the data file was closed somewhere in this process.
    fn has_lock(&self) -> Result<(), StoreError> {
        match &self.lock {
            Some(lock) if !lock.is_held() => Err(lock_lost(&self.view.path)),
            Some(_) | None => Ok(()),
        }
    }

    /// Bytes of its file, which never shrinks.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn file_bytes(&self) -> Result<u64, StoreError> {
        // By its name: heed's own way closes a descriptor of the file (Z13).
        let path = self.view.path.join(DATA_FILE);
        let found = std::fs::metadata(&path).map_err(StoreError::file("measure", &path))?;
        Ok(found.len())
    }

    /// Writes a copy without free pages into an empty folder.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy_compact(&self, to: &Path) -> Result<(), StoreError> {
        self.view
            .env
            .copy_to_path(to.join("data.mdb"), CompactionOption::Enabled)
            .map(drop)
            .map_err(self.view.read_failed())
    }

    /// The same environment after its folder was renamed: LMDB holds the files, not their names.
    #[must_use]
    pub fn renamed(mut self, path: &Path) -> Self {
        self.view.path = path.to_path_buf();
        self
    }

    /// Waits until no reader holds it and closes it.
    pub fn close(self) {
        let env = self.view.env.clone();
        drop(self);
        env.prepare_for_closing().wait();
    }
}

fn lock_lost(path: &Path) -> StoreError {
    StoreError::Commit {
        path: path.to_path_buf(),
        cause: "this process has lost its lock on the data file".to_owned(),
    }
}

/// What LMDB says where the file is not what it wrote.
fn damage(path: &Path, cause: &heed::Error) -> Option<StoreError> {
    use heed::MdbError::{Corrupted, Invalid, PageNotFound, VersionMismatch};
    let heed::Error::Mdb(Corrupted | Invalid | PageNotFound | VersionMismatch) = cause else {
        return None;
    };
    Some(StoreError::Damaged {
        path: path.to_path_buf(),
        table: "file",
        key: "data.mdb".to_owned(),
        what: cause.to_string(),
    })
}

#[expect(
    unsafe_code,
    reason = "LMDB maps the file: nobody else may change it. The data directory's lock keeps other servers out, each environment is opened once, and NO_META_SYNC keeps integrity"
)]
fn open_env(
    path: &Path,
    mode: SyncMode,
    map_bytes: usize,
    shared: bool,
) -> Result<heed::Env<WithoutTls>, heed::Error> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_dbs(8).max_readers(64);
    // SAFETY: NO_META_SYNC gives up the durability of the last commit only, which the writer
    // accounts for; the file is local to the data directory that this process has locked. NO_LOCK
    // leaves to the caller that there is one writer and that pages are not used anew under a reader:
    // the lock on the data file and `LmdbView::turns` see to that.
    unsafe {
        let mut flags = EnvFlags::empty();
        flags.set(EnvFlags::NO_META_SYNC, mode == SyncMode::Deferred);
        flags.set(EnvFlags::NO_LOCK, shared);
        options.flags(flags);
        options.open(path)
    }
}

/// LMDB takes memory for the pages of a commit and frees it afterwards, and batches on their way to
/// and from the peer are as large. The C library would hand each back to the kernel, which would then
/// have to clear and map it anew for the next commit: a page fault for every 4 KiB of messages.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        static ONCE: Once = Once::new();
        ONCE.call_once(malloc_keeps);
    }
}

#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "the C library's allocator can only be told so by a foreign function"
)]
fn malloc_keeps() {
    use nix::libc;
    for (parameter, bytes) in [
        (libc::M_TRIM_THRESHOLD, FREED_BYTES_KEPT),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN),
    ] {
        // SAFETY: it changes two numbers of the allocator, under the allocator's own lock.
        let taken = unsafe { libc::mallopt(parameter, bytes) };
        if taken == 0 {
            tracing::debug!(target: "twinmq::store", parameter, bytes, "malloc keeps its own way");
        }
    }
}

impl LmdbView {
    fn table(&self, table: Table) -> Db {
        match table {
            Table::Log => self.tables[0],
            Table::Meta => self.tables[1],
            Table::Checkpoint => self.tables[2],
        }
    }

    /// Held while a transaction reads.
    fn turn(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let turns = self.turns.as_deref();
        turns.map(|turns| turns.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_failed(&self) -> impl Fn(heed::Error) -> StoreError + '_ {
        |cause| {
            damage(&self.path, &cause).unwrap_or_else(|| StoreError::Read {
                path: self.path.clone(),
                cause: cause.to_string(),
            })
        }
    }
}

impl Backend for LmdbEnv {
    type View = LmdbView;

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        self.has_lock()?;
        let view = &self.view;
        let work = || -> Result<(), heed::Error> {
            let mut txn = view.env.write_txn()?;
            for write in writes {
                match write {
                    Write::Append(lsn, value) => view.tables[0].put_with_flags(
                        &mut txn,
                        PutFlags::APPEND,
                        &log_key(*lsn),
                        value,
                    )?,
                    Write::Put(table, key, value) => {
                        view.table(*table).put(&mut txn, key, value)?;
                    }
                    Write::Delete(table, key) => {
                        view.table(*table).delete(&mut txn, key)?;
                    }
                }
            }
            let turns = view.turns.as_deref();
            let _alone = turns.map(|turns| turns.write().unwrap_or_else(PoisonError::into_inner));
            txn.commit()
        };
        work().map_err(|cause| StoreError::Commit {
            path: view.path.clone(),
            cause: cause.to_string(),
        })
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.has_lock()?;
        self.view
            .env
            .force_sync()
            .map_err(|cause| StoreError::Commit {
                path: self.view.path.clone(),
                cause: cause.to_string(),
            })
    }

    fn defers(&self) -> bool {
        self.mode == SyncMode::Deferred
    }

    fn view(&self) -> LmdbView {
        self.view.clone()
    }
}

impl View for LmdbView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let failed = self.read_failed();
        let _turn = self.turn();
        let txn = self.env.read_txn().map_err(&failed)?;
        let value = self.table(table).get(&txn, key).map_err(&failed)?;
        Ok(value.map(Bytes::copy_from_slice))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let failed = self.read_failed();
        let _turn = self.turn();
        let txn = self.env.read_txn().map_err(&failed)?;
        // LMDB knows no empty key.
        let start = match from {
            [] => Bound::Unbounded,
            from => Bound::Included(from),
        };
        let range = (start, Bound::Unbounded);
        for item in self.table(table).range(&txn, &range).map_err(&failed)? {
            let (key, value) = item.map_err(&failed)?;
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn used_bytes(&self) -> Result<u64, StoreError> {
        let failed = self.read_failed();
        let _turn = self.turn();
        let txn = self.env.read_txn().map_err(&failed)?;
        let mut bytes = 0;
        for table in &self.tables {
            let stat = table.stat(&txn).map_err(&failed)?;
            let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
            bytes += pages as u64 * u64::from(stat.page_size);
        }
        Ok(bytes)
    }

    fn capacity(&self) -> u64 {
        self.env.info().map_size as u64
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}
