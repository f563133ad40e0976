//! What the store's logic needs of the medium below it: ordered tables with atomic commits, and a
//! home that holds one such environment and the files beside it. LMDB in a data directory is one
//! ([`super::env`], [`super::data_dir`]), memory the other ([`super::memory`]).

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;

use crate::proto::ids::{Lsn, StoreId};

use super::divergent::TailNote;
use super::error::StoreError;

/// The tables of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Chunks by their first LSN, big-endian.
    Log,
    /// What the store says of itself, by name.
    Meta,
    /// Pages of the index as of the checkpoint.
    Checkpoint,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Log, Self::Meta, Self::Checkpoint];

    /// As it is called on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Checkpoint => "ckpt",
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub enum Write {
    /// A chunk after the last one.
    Append(Lsn, Bytes),
    /// A value, replaced if it is there.
    Put(Table, Vec<u8>, Bytes),
    /// A key that goes, if it is there.
    Delete(Table, Vec<u8>),
}

/// The key of a chunk.
#[must_use]
pub fn log_key(lsn: Lsn) -> [u8; 8] {
    lsn.0.to_be_bytes()
}

/// The LSN of a chunk's key.
#[must_use]
pub fn lsn_of(key: &[u8]) -> Option<Lsn> {
    Some(Lsn(u64::from_be_bytes(key.try_into().ok()?)))
}

/// Called with each key and value of a scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads what is committed, from any thread.
pub trait View: Clone + Send + Sync + 'static {
    /// One value.
    ///
    /// # Errors
    /// When the medium fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Every key from `from` on, in order, in one read transaction: `visit` ends it early and must be
    /// quick (a read transaction keeps pages from reuse).
    ///
    /// # Errors
    /// When the medium fails.
    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;
    /// Bytes of pages in use.
    ///
    /// # Errors
    /// When the medium fails.
    fn used_bytes(&self) -> Result<u64, StoreError>;
    /// Bytes that it can ever hold.
    fn capacity(&self) -> u64;
    /// Where it is, for people.
    fn path(&self) -> PathBuf;
    /// An error that says that a value is not what was written.
    fn damaged(&self, table: Table, key: String, what: String) -> StoreError {
        StoreError::Damaged {
            path: self.path(),
            table: table.name(),
            key,
            what,
        }
    }
}

/// Writes; owned by one thread.
pub trait Backend: Send + 'static {
    /// Its readers.
    type View: View;
    /// All or nothing. Visible when it returns, and durable by the rule of `defers`.
    ///
    /// # Errors
    /// Then nothing may be confirmed any more.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;
    /// Makes every commit durable.
    ///
    /// # Errors
    /// Then nothing may be confirmed any more.
    fn sync(&mut self) -> Result<(), StoreError>;
    /// A commit is durable only when the next one or `sync` returns, not when it returns itself.
    fn defers(&self) -> bool;
    /// A reader of it.
    fn view(&self) -> Self::View;
}

/// Fills a file with the chunks that are kept as evidence.
pub type Fill<'a> = dyn FnMut(&mut dyn io::Write) -> Result<(), StoreError> + 'a;

/// Where environments live, and the files beside them.
pub trait Home: Send + 'static {
    /// Its environments.
    type Backend: Backend;
    /// A new, empty environment under a temporary name. An earlier unfinished one goes.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create_next(&mut self) -> Result<Self::Backend, StoreError>;
    /// Makes what `create_next` gave, filled and complete, the store: flushes it, renames it,
    /// switches to it, opens it again. `present` is closed, and removed when the switch is durable.
    ///
    /// # Errors
    /// When any step fails; after a crash at any step either store is found whole.
    fn promote_next(
        &mut self,
        next: Self::Backend,
        present: Self::Backend,
    ) -> Result<Self::Backend, StoreError>;
    /// Drops what `create_next` gave.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn drop_next(&mut self, next: Self::Backend) -> Result<(), StoreError>;
    /// Durably replaces `node/last_record`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write_last_record(&mut self, record: &[u8]) -> Result<(), StoreError>;
    /// Durably keeps a tail of the log that is about to be dropped.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep_tail(
        &mut self,
        range: (Lsn, Lsn),
        note: &TailNote,
        fill: &mut Fill<'_>,
    ) -> Result<(), StoreError>;
    /// Durably copies an environment into `kept/<name>/`, and adds a line to `node/overrides`.
    ///
    /// # Errors
    /// When it cannot be written; what there is of the copy may be removed.
    fn set_aside(
        &mut self,
        present: &Self::Backend,
        name: &str,
        note: &str,
    ) -> Result<(), StoreError>;
    /// A store id that was never used before.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    fn new_store_id(&mut self) -> Result<StoreId, StoreError>;
    /// Free and total bytes of the medium.
    ///
    /// # Errors
    /// When the system does not say.
    fn space(&self) -> Result<Space, StoreError>;
}

/// Room on a medium, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for this process.
    pub free: u64,
    /// In all.
    pub total: u64,
}
