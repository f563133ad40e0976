//! A store's medium in memory, for the simulator and for tests. Committed and flushed states are
//! kept apart, so that a crash can lose exactly what a real one can: the last commit, where the
//! medium defers durability.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
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
    present: Option<MemoryEnv>,
    tails: Vec<(Lsn, Lsn, Vec<u8>)>,
    overrides: Vec<String>,
    fail_commit_after: Option<u32>,
    lies: bool,
    space: Option<Space>,
}

/// One environment. Clones are the same one.
#[derive(Clone)]
pub struct MemoryEnv {
    cell: Arc<Mutex<Cell>>,
    defers: bool,
    disk: MemoryDisk,
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
        if let Some(env) = &self.lock().present {
            env.lose_unflushed();
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
        let present = from.present.as_ref().map(|env| MemoryEnv {
            cell: Arc::new(Mutex::new(Cell {
                committed: env.lock().committed.clone(),
                unflushed: Vec::new(),
            })),
            defers: env.defers,
            disk: copy.clone(),
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
        let present = earlier.present().map(|env| MemoryEnv {
            disk: self.clone(),
            ..env
        });
        let mut from = earlier.lock();
        let mut to = self.lock();
        to.last_record = from.last_record.take();
        to.tails = std::mem::take(&mut from.tails);
        to.present = present;
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

    /// The divergent tails that were kept: first and last LSN and their chunks.
    #[must_use]
    pub fn tails(&self) -> Vec<(Lsn, Lsn, Vec<u8>)> {
        self.lock().tails.clone()
    }

    /// Damages one byte of a chunk that is on it. False if there is no such chunk.
    #[must_use]
    pub fn damage(&self, chunk: Lsn, byte: usize) -> bool {
        let present = self.lock().present.clone();
        let Some(env) = present else {
            return false;
        };
        let mut cell = env.lock();
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
        self.lock().present.clone()
    }

    pub(crate) fn set_present(&self, env: &MemoryEnv) {
        self.lock().present = Some(env.clone());
    }

    pub(crate) fn new_env(&self, defers: bool) -> MemoryEnv {
        MemoryEnv {
            cell: Arc::new(Mutex::new(Cell::default())),
            defers,
            disk: self.clone(),
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

impl MemoryEnv {
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
        self.disk.may_commit()?;
        let (lies, mut cell) = (self.disk.lock().lies, self.lock());
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
                    (Table::Log, key, Some(value.clone()))
                }
                Write::Put(table, key, value) => (*table, key.clone(), Some(value.clone())),
                Write::Delete(table, key) => (*table, key.clone(), None),
            };
            let before = cell.set(table, key.clone(), value);
            if self.defers {
                cell.unflushed.push((table, key, before));
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.disk.may_commit()?;
        if !self.disk.lock().lies {
            self.lock().unflushed.clear();
        }
        Ok(())
    }

    fn defers(&self) -> bool {
        self.defers
    }

    fn view(&self) -> Self {
        self.clone()
    }
}

impl View for MemoryEnv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lock().table(table).get(key).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let cell = self.lock();
        for (key, value) in cell.table(table).range(from.to_vec()..) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn used_bytes(&self) -> Result<u64, StoreError> {
        let cell = self.lock();
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
    defers: bool,
}

impl MemoryHome {
    pub(crate) fn new(disk: MemoryDisk, defers: bool) -> Self {
        Self { disk, defers }
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
        self.disk.lock().last_record = Some(Bytes::copy_from_slice(record));
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
        self.disk.lock().tails.push((first, last, tail));
        Ok(())
    }

    fn set_aside(&mut self, _: &MemoryEnv, _: &str, note: &str) -> Result<(), StoreError> {
        self.disk.lock().overrides.push(note.to_owned());
        Ok(())
    }

    fn new_store_id(&mut self) -> Result<StoreId, StoreError> {
        let mut disk = self.disk.lock();
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
