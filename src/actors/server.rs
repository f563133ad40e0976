//! A real server: opens what the configuration names (ports, store, arbiter, network) and wires the
//! actors to it. `cli::run` calls it; the simulator has parts of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_rt::Arbiter;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::actors::data_plane::{DataHandle, DataPlane};
use crate::actors::ha_chronicle::{Chronicle, NoChronicle};
use crate::actors::ha_manager::{ClientSide, HaIdentity};
use crate::actors::lease::{Lease, ServingLease};
use crate::actors::places::{Place, Places};
use crate::actors::server_clients::{Clients, ServerClients};
use crate::actors::server_pair::{open_outside, pair_parts};
use crate::actors::server_settings::{data_config, intervals, replication, title};
pub use crate::actors::server_settings::{role_config, store_config};
use crate::actors::store_sink::ServerSink;
use crate::actors::wiring::{Parts, Wired, wire};
use crate::config::{Config, Mode};
use crate::io::client_tcp::PortError;
use crate::io::file_lock::LockFileError;
use crate::io::history::History;
use crate::io::peer_tcp::ListenError;
use crate::io::store_mount::{RECOVER_LOST_LOCKS, StoreMountError, check_store_mount};
use crate::io::tls::TlsError;
use crate::machines::ha::ExitCause;
use crate::proto::arbiter::ArbiterRecord;
use crate::proto::arbiter_codec::{ArbiterFileError, decode_record};
use crate::proto::ids::NodeId;
use crate::storage::api::{SharedStore, StoreDoor};
use crate::storage::error::StoreError;
use crate::storage::{StoreConfig, open, open_door};
use crate::time::{Clock, SystemClock};

/// Why a server did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Shared mode: the share of the store is mounted so that two servers are not kept apart.
    #[error(transparent)]
    StoreMount(#[from] StoreMountError),
    /// The client port.
    #[error(transparent)]
    ClientPort(#[from] PortError),
    /// The HA port.
    #[error(transparent)]
    HaPort(#[from] ListenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lock file (S190-S193).
    #[error(transparent)]
    LockFile(#[from] LockFileError),
    /// Certificates of the HA channel.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The pair secret.
    #[error(transparent)]
    Secret(#[from] crate::config::SecretError),
    /// `node/last_record`.
    #[error("the data directory's node/last_record is not readable: {0}")]
    LastRecord(ArbiterFileError),
    /// The system gives no thread.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// The peer's thread ended while it was being set up.
    #[error("the thread of the HA channel ended while it was set up")]
    PeerThread,
}

/// Why a running server ends.
#[derive(Debug)]
pub enum End {
    /// By the role machine.
    Role(ExitCause),
    /// The store cannot go on (Z27).
    Store(StoreError),
    /// The client port could not be listened on when it was to be served.
    ClientPort(PortError),
}

/// A server that runs.
pub struct Server {
    /// Its actors.
    pub wired: Wired,
    /// Its store.
    pub store: SharedStore,
    /// Its client side.
    pub data: DataHandle,
    /// This server's identity.
    pub node: NodeId,
    /// The data directory, absolute.
    pub store_dir: PathBuf,
    /// Messages found at start; none in shared mode, where the store is closed then.
    pub found_messages: Option<u64>,
    /// Its event history; none where it cannot be written.
    pub history: Option<Arc<History>>,
    /// Why it ends, when it does.
    pub ends: UnboundedReceiver<End>,
    /// The threads of its actors: they live as long as this.
    _threads: [Arbiter; 3],
}

impl Server {
    /// Takes the limits of a configuration for whatever comes after it; they hold when it returns.
    pub async fn reconfigure(&self, config: &Config) {
        let (tell, told) = tokio::sync::oneshot::channel();
        let done = Box::new(move |()| {
            if tell.send(()).is_err() {
                tracing::debug!(target: "twinmq::config", "nobody waits for the new limits");
            }
        });
        self.data.configure(data_config(config), done);
        if told.await.is_err() {
            tracing::debug!(target: "twinmq::config", "the data thread has ended");
        }
    }
}

/// Runs what a server's main thread does: the system that its actors' threads belong to lives as long.
pub fn block_on<T>(main: impl Future<Output = T>) -> T {
    actix_rt::System::new().block_on(main)
}

/// Opens and starts everything; returns once HAManager has been told to begin.
///
/// # Errors
/// When a port, the store, the lock file, a certificate or a secret cannot be had. Everything is
/// asked for before anything is started, so that a mistake shows at once.
pub async fn start(config: &Config) -> Result<Server, StartError> {
    let local_store = match config.mode {
        Mode::Standalone | Mode::Replicated => true,
        Mode::Shared => check_store_mount(&config.store.path, Path::new(RECOVER_LOST_LOCKS))?,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (ends, ended) = unbounded_channel();
    let (data, plane) = DataPlane::bind(data_config(config))?;
    let threads = [Arbiter::new(), Arbiter::new(), Arbiter::new()];
    let places = Places::Threads {
        ha: threads[0].handle(),
        peer: threads[1].handle(),
        data: threads[2].handle(),
    };
    let outside = match &config.ha {
        Some(pair) => Some(open_outside(pair, &threads[1]).await?),
        None => None,
    };
    let sink = {
        let ends = ends.clone();
        let fatal = Box::new(move |error| tell(&ends, End::Store(error)));
        Arc::new(ServerSink::new(
            Arc::new(Clients { data: data.clone() }),
            fatal,
        ))
    };
    let opened = open_store(store_config(config), local_store, Arc::clone(&sink))?;
    let last_record = opened
        .last_record
        .as_deref()
        .map(read_last_record)
        .transpose()?;
    let history = open_history(&config.store.own_folder(), &clock);
    let lease = Arc::new(Lease::new(Arc::clone(&clock)));
    run_data_plane(&places, plane, &opened.store, &lease, &clock);
    let pair = match (&config.ha, outside) {
        (Some(pair), Some(outside)) => Some(pair_parts(config, pair, outside, opened.node, &clock)),
        (Some(_) | None, _) => None,
    };
    let clients = {
        let (data, ends) = (data.clone(), ends.clone());
        Box::new(move |manager| {
            Arc::new(ServerClients {
                data,
                manager,
                ends,
            }) as Arc<dyn ClientSide>
        })
    };
    let parts = Parts {
        identity: identity(config, opened.node, &clock),
        ha: role_config(config, opened.node),
        intervals: intervals(config.ha.as_ref()),
        store: Arc::clone(&opened.store),
        sink,
        last_record,
        lease,
        clients,
        replication: replication(config.ha.as_ref()),
        history: match &history {
            Some(history) => Arc::clone(history) as Arc<dyn Chronicle>,
            None => Arc::new(NoChronicle),
        },
        roll: Arc::clone(data.roll()),
        pair,
        door: opened.door,
    };
    let wired = wire(&places, parts);
    Ok(Server {
        wired,
        store: opened.store,
        data,
        node: opened.node,
        store_dir: opened.dir,
        found_messages: opened.found_messages,
        history,
        ends: ended,
        _threads: threads,
    })
}

/// A store that is open, or in shared mode one that is closed and its door.
struct Opened {
    node: NodeId,
    last_record: Option<bytes::Bytes>,
    store: SharedStore,
    door: Option<Arc<dyn StoreDoor>>,
    found_messages: Option<u64>,
    dir: PathBuf,
}

fn open_store(
    config: StoreConfig,
    local: bool,
    sink: Arc<ServerSink>,
) -> Result<Opened, StoreError> {
    if let Some(node_dir) = config.node_dir.clone() {
        let closed = open_door(config, &node_dir, local, sink)?;
        return Ok(Opened {
            node: closed.node,
            last_record: closed.last_record,
            door: Some(Arc::clone(&closed.store) as Arc<dyn StoreDoor>),
            store: closed.store,
            found_messages: None,
            dir: closed.dir,
        });
    }
    let opened = open(config, sink)?;
    Ok(Opened {
        node: opened.node,
        last_record: opened.last_record,
        store: opened.store,
        door: None,
        found_messages: Some(opened.found_messages),
        dir: opened.dir,
    })
}

fn run_data_plane(
    places: &Places,
    plane: DataPlane,
    store: &SharedStore,
    lease: &Arc<Lease>,
    clock: &Arc<dyn Clock>,
) {
    let (store, clock) = (Arc::clone(store), Arc::clone(clock));
    let lease = Arc::clone(lease) as Arc<dyn ServingLease>;
    places.enter(Place::Data, move || {
        drop(tokio::task::spawn_local(plane.run(store, lease, clock)));
    });
}

fn identity(config: &Config, node: NodeId, clock: &Arc<dyn Clock>) -> HaIdentity {
    let lock_path = config
        .ha
        .as_ref()
        .map(|pair| absolute(&pair.lock_file).display().to_string());
    HaIdentity {
        node,
        title: title(config),
        lock_path: lock_path.unwrap_or_default(),
        clock: Arc::clone(clock),
    }
}

/// A server runs without a history if it must.
fn open_history(dir: &Path, clock: &Arc<dyn Clock>) -> Option<Arc<History>> {
    match History::open(dir, Arc::clone(clock)) {
        Ok(history) => Some(Arc::new(history)),
        Err(error) => {
            tracing::warn!(target: "twinmq::ha", %error, "there is no event history in this run");
            None
        }
    }
}

fn read_last_record(bytes: &[u8]) -> Result<ArbiterRecord, StartError> {
    let file = decode_record(bytes, None).map_err(StartError::LastRecord)?;
    Ok(file.record)
}

pub(super) fn tell(ends: &UnboundedSender<End>, end: End) {
    if ends.send(end).is_err() {
        tracing::debug!(target: "twinmq::ha", "the process ends already");
    }
}

/// As the operator would find it, for messages.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
