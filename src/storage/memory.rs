//! A store's medium in memory, for the simulator and for tests. Committed and flushed states are
//! kept apart, so that a crash can lose exactly what a real one can: the last commit, where the
//! medium defers durability.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::proto::ids::{Lsn, NodeId, StoreId};

use super::backend::{Backend, Fill, Home, Space, Table, View, Visit, Write, log_key};
use super::divergent::TailNote;
use super::error::StoreError;

type Tables = [BTreeMap<Vec<u8>, Bytes>; 3];

/// The disk of one simulated server: outlives the store that is opened on it. Clones are the same
/// disk.
#[derive(Clone)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    node: NodeId,
    /// Store ids given so far: they are the node's id and this number.
    stores: u64,
    last_record: Option<Bytes>,
    present: Option<Pages>,
    tails: Vec<(Lsn, Lsn, Vec<u8>)>,
    overrides: Vec<String>,
    fail_commit_after: Option<u32>,
    lies: bool,
    space: Option<Space>,
}

/// What an environment consists of on the disk. Clones are the same. It does not know its disk: a disk
/// that held itself would never go.
#[derive(Clone)]
struct Pages {
    cell: Arc<Mutex<Cell>>,
    defers: bool,
}

/// One environment of a disk. Clones are the same one.
#[derive(Clone)]
pub struct MemoryEnv {
    pages: Pages,
    disk: MemoryDisk,
    /// A shared store's: without it nothing is written.
    lock: Option<MemoryLock>,
}

/// The lock on a shared store's data file, as the server has it that took it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryLock(Arc<AtomicBool>);

impl MemoryLock {
    /// It is held.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a lock is taken, and none is had by default"
    )]
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// The file server has taken it away, or the mount fails: nothing is written by its holder any more.
    pub fn lose(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Its holder may write.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Default)]
struct Cell {
    committed: Tables,
    /// How to undo what is not flushed yet, newest last.
    unflushed: Vec<(Table, Vec<u8>, Option<Bytes>)>,
}

impl MemoryDisk {
    /// An empty disk of a server.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        let disk = Disk {
            node,
            ..Disk::default()
        };
        Self {
            inner: Arc::new(Mutex::new(disk)),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.lock().node
    }

    /// The power goes: what was committed but not flushed is lost. Close the store first.
    pub fn lose_unflushed(&self) {
        if let Some(pages) = &self.lock().present {
            pages.lose_unflushed();
        }
    }

    /// The disk is replaced by an empty one; nothing of it remains.
    pub fn wipe(&self) {
        let mut disk = self.lock();
        *disk = Disk {
            node: disk.node,
            stores: disk.stores,
            ..Disk::default()
        };
    }

    /// A copy of all that is on it, as a snapshot of a virtual machine would take.
    #[must_use]
    pub fn copy(&self) -> Self {
        let from = self.lock();
        let copy = Self::new(from.node);
        let present = from.present.as_ref().map(|pages| Pages {
            cell: Arc::new(Mutex::new(Cell {
                committed: pages.lock().committed.clone(),
                unflushed: Vec::new(),
            })),
            defers: pages.defers,
        });
        {
            let mut to = copy.lock();
            to.last_record.clone_from(&from.last_record);
            to.tails.clone_from(&from.tails);
            to.stores = from.stores;
            to.present = present;
        }
        drop(from);
        copy
    }

    /// The commit or flush after `good` more of them fails, and every later one.
    pub fn fail_commits_after(&self, good: u32) {
        self.lock().fail_commit_after = Some(good);
    }

    /// From now on it says that it has flushed, and has not: the power takes everything since then. For
    /// a checker that must notice.
    pub fn lie(&self) {
        self.lock().lies = true;
    }

    /// All that is on it becomes what an earlier copy of it was, as when a virtual machine's snapshot
    /// is put back. Store ids that were given since then are not given again. No store may be open.
    pub fn revert_to(&self, earlier: &Self) {
        let earlier = earlier.copy();
        let mut from = earlier.lock();
        let mut to = self.lock();
        to.last_record = from.last_record.take();
        to.tails = std::mem::take(&mut from.tails);
        to.present = from.present.take();
    }

    /// What the medium says of its room from now on.
    pub fn set_space(&self, space: Space) {
        self.lock().space = Some(space);
    }

    /// The arbiter record that was kept last.
    #[must_use]
    pub fn last_record(&self) -> Option<Bytes> {
        self.lock().last_record.clone()
    }

    /// Keeps an arbiter record, as a server does in its own folder.
    pub fn keep_record(&self, record: &[u8]) {
        self.lock().last_record = Some(Bytes::copy_from_slice(record));
    }

    /// The divergent tails that were kept: first and last LSN and their chunks.
    #[must_use]
    pub fn tails(&self) -> Vec<(Lsn, Lsn, Vec<u8>)> {
        self.lock().tails.clone()
    }

    /// Damages one byte of a chunk that is on it. False if there is no such chunk.
    #[must_use]
    pub fn damage(&self, chunk: Lsn, byte: usize) -> bool {
        let present = self.lock().present.clone();
        let Some(pages) = present else {
            return false;
        };
        let mut cell = pages.lock();
        let Some(value) = cell.committed[0].get_mut(log_key(chunk).as_slice()) else {
            return false;
        };
        let mut bytes = value.to_vec();
        let Some(byte) = bytes.get_mut(byte) else {
            return false;
        };
        *byte ^= 1;
        *value = Bytes::from(bytes);
        true
    }

    pub(crate) fn present(&self) -> Option<MemoryEnv> {
        let pages = self.lock().present.clone()?;
        Some(MemoryEnv {
            pages,
            disk: self.clone(),
            lock: None,
        })
    }

    pub(crate) fn set_present(&self, env: &MemoryEnv) {
        self.lock().present = Some(env.pages.clone());
    }

    pub(crate) fn new_env(&self, defers: bool) -> MemoryEnv {
        MemoryEnv {
            pages: Pages {
                cell: Arc::default(),
                defers,
            },
            disk: self.clone(),
            lock: None,
        }
    }

    fn may_commit(&self) -> Result<(), StoreError> {
        match &mut self.lock().fail_commit_after {
            Some(0) => Err(StoreError::Commit {
                path: PathBuf::from("memory"),
                cause: "injected".to_owned(),
            }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn lock(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose_unflushed(&self) {
        let mut cell = self.lock();
        while let Some((table, key, before)) = cell.unflushed.pop() {
            cell.set(table, key, before);
        }
    }
}

impl MemoryEnv {
    /// As a shared store: `lock` is its server's.
    pub(crate) fn under(mut self, lock: &MemoryLock) -> Self {
        self.lock = Some(lock.clone());
        self
    }

    fn may_write(&self) -> Result<(), StoreError> {
        match &self.lock {
            Some(lock) if !lock.is_held() => Err(StoreError::Commit {
                path: PathBuf::from("memory"),
                cause: "this process has lost its lock on the data file".to_owned(),
            }),
            Some(_) | None => self.disk.may_commit(),
        }
    }
}

impl Cell {
    fn table(&self, table: Table) -> &BTreeMap<Vec<u8>, Bytes> {
        &self.committed[place(table)]
    }

    fn set(&mut self, table: Table, key: Vec<u8>, value: Option<Bytes>) -> Option<Bytes> {
        let table = &mut self.committed[place(table)];
        match value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        }
    }
}

fn place(table: Table) -> usize {
    match table {
        Table::Log => 0,
        Table::Meta => 1,
        Table::Checkpoint => 2,
    }
}

impl Backend for MemoryEnv {
    type View = Self;

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        self.may_write()?;
        let (lies, mut cell) = (self.disk.lock().lies, self.pages.lock());
        if !lies {
            // The flush of this commit makes the one before it durable.
            cell.unflushed.clear();
        }
        for write in writes {
            let (table, key, value) = match write {
                Write::Append(lsn, value) => {
                    let key = log_key(*lsn).to_vec();
                    if cell.committed[0]
                        .last_key_value()
                        .is_some_and(|(last, _)| *last >= key)
                    {
                        return Err(StoreError::Commit {
                            path: PathBuf::from("memory"),
                            cause: format!("chunk {lsn} is not after the last one"),
                        });
                    }
                    (Table::Log, key, Some(on_disk(value)))
                }
                Write::Put(table, key, value) => (*table, key.clone(), Some(on_disk(value))),
                Write::Delete(table, key) => (*table, key.clone(), None),
            };
            let before = cell.set(table, key.clone(), value);
            if self.pages.defers {
                cell.unflushed.push((table, key, before));
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.may_write()?;
        if !self.disk.lock().lies {
            self.pages.lock().unflushed.clear();
        }
        Ok(())
    }

    fn defers(&self) -> bool {
        self.pages.defers
    }

    fn view(&self) -> Self {
        self.clone()
    }
}

/// The disk takes the bytes, not the larger buffer in which they may have come.
fn on_disk(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

impl View for MemoryEnv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.pages.lock().table(table).get(key).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let cell = self.pages.lock();
        for (key, value) in cell.table(table).range(from.to_vec()..) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn used_bytes(&self) -> Result<u64, StoreError> {
        let cell = self.pages.lock();
        let values = cell.committed.iter().flat_map(BTreeMap::iter);
        Ok(values
            .map(|(key, value)| key.len() as u64 + value.len() as u64)
            .sum())
    }

    fn capacity(&self) -> u64 {
        u64::MAX
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}

/// The home of a store on a [`MemoryDisk`].
pub struct MemoryHome {
    disk: MemoryDisk,
    /// Where the server's own folder is: the same disk, but not in shared mode.
    own: MemoryDisk,
    defers: bool,
}

impl MemoryHome {
    pub(crate) fn new(disk: MemoryDisk, own: MemoryDisk, defers: bool) -> Self {
        Self { disk, own, defers }
    }
}

impl Home for MemoryHome {
    type Backend = MemoryEnv;

    fn create_next(&mut self) -> Result<MemoryEnv, StoreError> {
        Ok(self.disk.new_env(self.defers))
    }

    fn promote_next(
        &mut self,
        mut next: MemoryEnv,
        _present: MemoryEnv,
    ) -> Result<MemoryEnv, StoreError> {
        next.sync()?;
        self.disk.set_present(&next);
        Ok(next)
    }

    fn drop_next(&mut self, _next: MemoryEnv) -> Result<(), StoreError> {
        Ok(())
    }

    fn write_last_record(&mut self, record: &[u8]) -> Result<(), StoreError> {
        self.own.keep_record(record);
        Ok(())
    }

    fn keep_tail(
        &mut self,
        (first, last): (Lsn, Lsn),
        _: &TailNote,
        fill: &mut Fill<'_>,
    ) -> Result<(), StoreError> {
        let mut tail = Vec::new();
        fill(&mut tail)?;
        self.own.lock().tails.push((first, last, tail));
        Ok(())
    }

    fn set_aside(&mut self, _: &MemoryEnv, _: &str, note: &str) -> Result<(), StoreError> {
        self.own.lock().overrides.push(note.to_owned());
        Ok(())
    }

    fn new_store_id(&mut self) -> Result<StoreId, StoreError> {
        let mut disk = self.own.lock();
        disk.stores += 1;
        let mut id = disk.node.0;
        for (byte, count) in id.iter_mut().skip(8).zip(disk.stores.to_be_bytes()) {
            *byte ^= count;
        }
        Ok(StoreId(id))
    }

    fn space(&self) -> Result<Space, StoreError> {
        Ok(self.disk.lock().space.unwrap_or(Space {
            free: 1 << 40,
            total: 1 << 40,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_goes_with_the_last_who_has_it() {
        let disk = MemoryDisk::new(NodeId::default());
        let inner = Arc::downgrade(&disk.inner);
        let env = disk.new_env(true);
        disk.set_present(&env);
        let copy = disk.copy();
        let inner_of_copy = Arc::downgrade(&copy.inner);
        disk.revert_to(&copy);
        drop((env, copy));
        assert_eq!(inner_of_copy.strong_count(), 0);
        assert!(disk.present().is_some(), "the disk keeps its environment");
        drop(disk);
        assert_eq!(inner.strong_count(), 0);
    }

    #[test]
    fn a_disk_holds_no_larger_buffers_than_its_bytes() {
        let disk = MemoryDisk::new(NodeId::default());
        let mut env = disk.new_env(false);
        let buffer = Bytes::from(vec![7; 1000]);
        let write = Write::Append(Lsn(1), buffer.slice(..10));
        env.commit(&[write]).unwrap();
        assert!(buffer.is_unique(), "something of it is still held");
        let kept = env.get(Table::Log, &log_key(Lsn(1))).unwrap().unwrap();
        assert_eq!(*kept, [7; 10]);
    }
}
