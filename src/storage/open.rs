//! Opening a store: its configuration, the recovery of what is on the medium, and the driver on top.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::proto::ids::{Lsn, NodeId, StoreId};
use crate::proto::record::CHUNK_HEADER;

use super::api::{GatePolicy, SharedStore, StoreSink};
use super::backend::{Backend, Home, View};
use super::common_dir;
use super::core::Core;
use super::data_dir::DataDir;
use super::door::own_folder;
use super::env::SyncMode;
use super::error::StoreError;
use super::inline::InlineStore;
use super::memory::{MemoryDisk, MemoryHome};
use super::meta::{self, Mark, Meta};
use super::recover::{self, Limits};
use super::room::RoomLevels;
use super::shared::{Shared, State};
use super::threaded::ThreadedStore;

/// Room in a chunk for what stands beside the largest message: header, targets.
const RECORD_SLACK: usize = 1 << 20;

/// Of [`StoreConfig::slack_bytes`].
pub const SLACK_BYTES: u64 = 256 << 20;

/// What a store needs to know.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory.
    pub dir: PathBuf,
    /// The pair's name: a store of another pair is refused.
    pub cluster: String,
    /// When a commit counts as durable.
    pub sync: SyncMode,
    /// The newest bytes of log that are kept for a peer that returns, whether owed or not.
    pub retain_bytes: u64,
    /// A checkpoint after this many bytes of log: bounds the time to open, and how long a chunk that
    /// owes nothing any more is kept.
    pub checkpoint_bytes: u64,
    /// The store's room at most, in bytes in use.
    pub quota_bytes: u64,
    /// Bytes that may be in use beside twice what is owed, and at least a third more than the retained
    /// log: above, chunks of which little is owed are emptied.
    pub slack_bytes: u64,
    /// What happens as that room, or its disk, becomes full.
    pub room: RoomLevels,
    /// The largest message with its envelope.
    pub max_record_bytes: usize,
    /// Shared mode: this server's own folder, which is not in `dir` then.
    pub node_dir: Option<PathBuf>,
}

impl StoreConfig {
    /// The defaults: 192 MiB of log kept, a checkpoint every 64 MiB, messages up to 16 MiB, no quota.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, cluster: &str) -> Self {
        Self {
            dir: dir.into(),
            cluster: cluster.to_owned(),
            sync: SyncMode::Deferred,
            retain_bytes: 192 << 20,
            checkpoint_bytes: 64 << 20,
            quota_bytes: u64::MAX,
            slack_bytes: SLACK_BYTES,
            room: RoomLevels::default(),
            max_record_bytes: 16 << 20,
            node_dir: None,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            retain: self.retain_bytes,
            chunk: self.max_record_bytes + RECORD_SLACK + CHUNK_HEADER,
        }
    }
}

/// A store that is open, and what was found in it.
pub struct OpenedStore {
    /// This server.
    pub node: NodeId,
    /// The arbiter record that it saw last.
    pub last_record: Option<Bytes>,
    /// The store, its gate closed.
    pub store: SharedStore,
    /// (message, destination) pairs owed.
    pub found_messages: u64,
    /// Destinations defined.
    pub found_destinations: u64,
    /// The data directory, absolute.
    pub dir: PathBuf,
}

/// Opens the data directory and makes it where it is missing. Events go to `sink`.
///
/// # Errors
/// When it is in use, another pair's, of another format, damaged, or cannot be read.
pub fn open(config: StoreConfig, sink: Arc<dyn StoreSink>) -> Result<OpenedStore, StoreError> {
    let (mut home, present) = DataDir::open(&config.dir, config.sync)?;
    let dir = home.dir().to_path_buf();
    let (node, last_record) = (home.node(), home.last_record()?);
    let env = match present {
        Some(env) => env,
        None => new_store(&mut home, &config.cluster)?,
    };
    let core = build(home, env, config, sink)?;
    let facts = core.shared.facts();
    tracing::info!(
        target: "twinmq::store", dir = %dir.display(), messages = facts.messages,
        destinations = facts.destinations, end = %core.end.position, "store open"
    );
    Ok(OpenedStore {
        node,
        last_record,
        store: Arc::new(ThreadedStore::start(core)?),
        found_messages: facts.messages,
        found_destinations: facts.destinations,
        dir,
    })
}

/// The simulator's: a store on a disk in memory, which works when it is pumped. `wake` is called when
/// there is something to pump.
///
/// # Errors
/// As [`open`].
pub fn open_memory(
    disk: &MemoryDisk,
    config: StoreConfig,
    sink: Arc<dyn StoreSink>,
    wake: Box<dyn Fn() + Send + Sync>,
) -> Result<(OpenedStore, Arc<InlineStore<MemoryHome>>), StoreError> {
    let mut home = MemoryHome::new(
        disk.clone(),
        disk.clone(),
        config.sync == SyncMode::Deferred,
    );
    let env = match disk.present() {
        Some(env) => env,
        None => {
            let mut env = home.create_next()?;
            let meta = empty(&config.cluster, home.new_store_id()?);
            env.commit(&meta::whole(&meta))?;
            env.sync()?;
            disk.set_present(&env);
            env
        }
    };
    let dir = config.dir.clone();
    let core = build(home, env, config, sink)?;
    let facts = core.shared.facts();
    let store = Arc::new(InlineStore::new(core, wake));
    let opened = OpenedStore {
        node: disk.node(),
        last_record: disk.last_record(),
        store: Arc::clone(&store) as SharedStore,
        found_messages: facts.messages,
        found_destinations: facts.destinations,
        dir,
    };
    Ok((opened, store))
}

/// What a store that is to be cleared says of itself.
#[derive(Debug)]
pub struct ToClear {
    /// Which copy it is; none where nothing was stored yet.
    pub store: Result<Option<StoreId>, StoreError>,
    /// Its server has once seen an arbiter record.
    pub saw_record: bool,
}

/// What a store was and is after it was cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleared {
    /// Messages that went.
    pub messages: u64,
    /// The new store.
    pub store: StoreId,
}

/// Empties a data directory: a new store with a new id, while `node/` stays. `allow` may still refuse;
/// no server can start on the directory until this has returned.
///
/// # Errors
/// When it is no data directory, a server has it, it is another pair's, `allow` refused, or it cannot
/// be read or written.
pub fn clear<E: From<StoreError>>(
    config: &StoreConfig,
    allow: impl FnOnce(ToClear) -> Result<(), E>,
) -> Result<Cleared, E> {
    if !DataDir::is_at(&config.dir) {
        return Err(E::from(StoreError::NoDataDir {
            dir: config.dir.clone(),
        }));
    }
    let (mut home, present) = match &config.node_dir {
        None => DataDir::open(&config.dir, config.sync)?,
        Some(node_dir) => {
            let node = own_folder(node_dir)?;
            let env = common_dir::inspect(&config.dir)?;
            let home = DataDir::of(config.dir.clone(), node, config.sync)?;
            (home, Some(env))
        }
    };
    let saw_record = home.last_record()?.is_some();
    let Some(present) = present else {
        allow(ToClear {
            store: Ok(None),
            saw_record,
        })?;
        let env = new_store(&mut home, &config.cluster)?;
        let store = id_of(&env)?;
        return Ok(Cleared { messages: 0, store });
    };
    let view = present.view();
    let (store, messages) = match meta::load(&view) {
        Ok(Some(meta)) if meta.cluster != config.cluster => {
            return Err(E::from(StoreError::NotOurs {
                path: view.path(),
                found: meta.cluster,
                expected: config.cluster.clone(),
            }));
        }
        Ok(Some(meta)) => {
            let recovered = recover::recover(&view, &meta, config.limits(), Lsn(u64::MAX));
            let messages = recovered.map_or(0, |recovered| recovered.index.messages());
            (Ok(Some(meta.store)), messages)
        }
        Ok(None) => (Err(no_format(&view)), 0),
        Err(error) => (Err(error), 0),
    };
    drop(view);
    allow(ToClear { store, saw_record })?;
    home.forget_damaged_record()?;
    let mut next = home.create_next()?;
    let meta = empty(&config.cluster, home.new_store_id()?);
    next.commit(&meta::whole(&meta))?;
    home.promote_next(next, present)?;
    if config.node_dir.is_some() {
        common_dir::write_label(&config.dir, &config.cluster, meta.store)?;
    }
    Ok(Cleared {
        messages,
        store: meta.store,
    })
}

fn id_of(env: &impl Backend) -> Result<StoreId, StoreError> {
    let view = env.view();
    let meta = meta::load(&view)?.ok_or_else(|| no_format(&view))?;
    Ok(meta.store)
}

pub(super) fn new_store(
    home: &mut DataDir,
    cluster: &str,
) -> Result<<DataDir as Home>::Backend, StoreError> {
    let mut next = home.create_next()?;
    let meta = empty(cluster, home.new_store_id()?);
    next.commit(&meta::whole(&meta))?;
    home.promote_first(next)
}

pub(super) fn empty(cluster: &str, store: StoreId) -> Meta {
    Meta {
        cluster: cluster.to_owned(),
        store,
        epochs: Vec::new(),
        checkpoint: Mark::default(),
        floor: Lsn::ZERO,
        sync_in_progress: false,
    }
}

fn no_format(view: &impl View) -> StoreError {
    StoreError::WrongFormat {
        path: view.path(),
        found: "none".to_owned(),
        known: meta::FORMAT,
    }
}

pub(super) fn build<H: Home>(
    home: H,
    env: H::Backend,
    config: StoreConfig,
    sink: Arc<dyn StoreSink>,
) -> Result<Core<H>, StoreError> {
    let view = env.view();
    let path = view.path();
    let meta = meta::load(&view)?.ok_or_else(|| no_format(&view))?;
    if meta.cluster != config.cluster {
        return Err(StoreError::WrongCluster {
            path,
            found: meta.cluster,
            expected: config.cluster,
        });
    }
    let recovered = recover::recover(&view, &meta, config.limits(), Lsn(u64::MAX))?;
    let state = State {
        gate: GatePolicy::Closed,
        peer: Lsn::ZERO,
        durable: recovered.end,
        // What was committed beyond the checkpoint before the start, the gate will say.
        commit: meta.checkpoint.position.lsn,
        applied: recovered.end,
        pending: std::collections::VecDeque::new(),
        unproven: false,
        begun: false,
        index: recovered.index,
        store: meta.store,
        epochs: meta.epochs,
        floor: meta.floor,
        checkpoint: meta.checkpoint,
        sync_in_progress: meta.sync_in_progress,
        pinned: None,
    };
    let shared = Arc::new(Shared::new(state, view, sink));
    let since = recovered.since_checkpoint;
    let mut core = Core::new(home, env, shared, Arc::new(config), since);
    // After a crash the last commit may be found in the page cache and not on the disk.
    core.sync()?;
    core.measure()?;
    Ok(core)
}
