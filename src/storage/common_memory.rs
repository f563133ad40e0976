//! The store of shared mode on a disk in memory, for the simulator: what `common_dir` and
//! [`super::door`] are for a directory. Who may have the data file is for the caller to say; a
//! [`MemoryLock`] is how its holder knows.

use std::path::PathBuf;
use std::sync::Arc;

use crate::proto::ids::{Epoch, StoreId};

use super::api::StoreSink;
use super::backend::{Backend, Home};
use super::env::SyncMode;
use super::error::StoreError;
use super::inline::InlineStore;
use super::memory::{MemoryDisk, MemoryHome, MemoryLock};
use super::meta;
use super::open::{StoreConfig, build, empty};

/// A disk that both servers reach, as the one sees it that has `own` for its own folder.
#[derive(Clone)]
pub struct CommonMemory {
    /// The disk with the store.
    pub common: MemoryDisk,
    /// The server's own disk.
    pub own: MemoryDisk,
}

impl CommonMemory {
    /// Which store is there, and the last epoch of its log; none before the first one was made.
    ///
    /// # Errors
    /// When what is there is no store.
    pub fn look(&self) -> Result<Option<(StoreId, Epoch)>, StoreError> {
        let Some(env) = self.common.present() else {
            return Ok(None);
        };
        let meta = meta::load(&env.view())?.ok_or_else(no_store)?;
        let epoch = meta.epochs.last().map_or(Epoch::ZERO, |start| start.epoch);
        Ok(Some((meta.store, epoch)))
    }

    /// First boot: makes a store where there is none. Gives what is there then, as [`Self::look`] does.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn found(&self, config: &StoreConfig) -> Result<(StoreId, Epoch), StoreError> {
        if let Some(there) = self.look()? {
            return Ok(there);
        }
        let mut home = self.home(config);
        let mut env = home.create_next()?;
        let meta = empty(&config.cluster, home.new_store_id()?);
        env.commit(&meta::whole(&meta))?;
        env.sync()?;
        self.common.set_present(&env);
        Ok((meta.store, Epoch::ZERO))
    }

    /// Opens the store, which works when it is pumped, as [`super::open_memory`]'s does. Once `lock` is
    /// lost, it fails at the next thing that it writes.
    ///
    /// # Errors
    /// When there is none, it is another pair's, damaged, or cannot be flushed.
    pub fn open(
        &self,
        config: StoreConfig,
        lock: &MemoryLock,
        sink: Arc<dyn StoreSink>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Arc<InlineStore<MemoryHome>>, StoreError> {
        let env = self.common.present().ok_or_else(no_store)?.under(lock);
        let core = build(self.home(&config), env, config, sink)?;
        Ok(Arc::new(InlineStore::new(core, wake)))
    }

    fn home(&self, config: &StoreConfig) -> MemoryHome {
        let defers = config.sync == SyncMode::Deferred;
        MemoryHome::new(self.common.clone(), self.own.clone(), defers)
    }
}

fn no_store() -> StoreError {
    StoreError::Layout {
        dir: PathBuf::from("memory"),
        what: "it holds no store; is the share mounted?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::NodeId;
    use crate::storage::api::{GatePolicy, Job, LogStore, StoreEvent};

    struct Deaf;

    impl StoreSink for Deaf {
        fn event(&self, _: StoreEvent) {}
    }

    fn servers() -> [CommonMemory; 2] {
        let common = MemoryDisk::new(NodeId([9; 16]));
        [1, 2].map(|node| CommonMemory {
            common: common.clone(),
            own: MemoryDisk::new(NodeId([node; 16])),
        })
    }

    fn config() -> StoreConfig {
        StoreConfig::new(PathBuf::from("memory"), "test")
    }

    fn open(server: &CommonMemory, lock: &MemoryLock) -> Arc<InlineStore<MemoryHome>> {
        let store = server.open(config(), lock, Arc::new(Deaf), Box::new(|| {}));
        store.unwrap()
    }

    /// Opens an epoch, and says up to where the log reaches then.
    fn begin(store: &InlineStore<MemoryHome>, epoch: u64) -> u64 {
        store.set_gate(GatePolicy::Alone);
        store.run(1, Job::BeginEpoch(Epoch(epoch)));
        store.pump();
        store.log_facts().durable.lsn.0
    }

    #[test]
    fn what_one_wrote_the_other_finds_and_each_keeps_its_own_folder() {
        let [one, other] = servers();
        assert_eq!(one.look().unwrap(), None);
        let (id, _) = one.found(&config()).unwrap();
        assert_eq!(other.found(&config()).unwrap().0, id);
        let store = open(&one, &MemoryLock::new());
        let end = begin(&store, 3);
        store.run(2, Job::PersistRecord(b"of one".as_slice().into()));
        store.close();
        assert_eq!(other.look().unwrap(), Some((id, Epoch(3))));
        let store = open(&other, &MemoryLock::new());
        assert_eq!(store.log_facts().durable.lsn.0, end);
        assert_eq!(one.own.last_record().unwrap(), b"of one".as_slice());
        assert_eq!(other.own.last_record(), None);
    }

    #[test]
    fn whoever_has_lost_the_lock_writes_nothing_more() {
        let [one, other] = servers();
        one.found(&config()).unwrap();
        let lock = MemoryLock::new();
        let store = open(&one, &lock);
        let end = begin(&store, 1);
        lock.lose();
        begin(&store, 2);
        let found = open(&other, &MemoryLock::new());
        assert_eq!(found.log_facts().durable.lsn.0, end);
        let refused = one.open(config(), &lock, Arc::new(Deaf), Box::new(|| {}));
        assert!(matches!(refused.err(), Some(StoreError::Commit { .. })));
    }
}
