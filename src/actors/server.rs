//! A real server: opens what the configuration names (ports, store, arbiter, network) and wires the
//! actors to it. `cli::run` calls it; the simulator has parts of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::actors::data_plane::{DataHandle, DataPlane, DataPlaneConfig};
use crate::actors::directory::DirectoryConfig;
use crate::actors::gateway_pinger::{GatewayMessage, Prober};
use crate::actors::ha_manager::{ClientSide, HaIdentity, HaMessage};
use crate::actors::ha_timing::HaIntervals;
use crate::actors::lease::{Lease, ServingLease};
use crate::actors::permits::PermitLimit;
use crate::actors::places::{Place, Places};
use crate::actors::post::{Port, post};
use crate::actors::session::SessionConfig;
use crate::actors::store_sink::{CommittedSink, ServerSink};
use crate::actors::wiring::{PairParts, Parts, Wired, wire};
use crate::config::{Config, HaConfig as PairConfig, Mode, StoreSync};
use crate::io::arbiter_file::{ArbiterFileConfig, spawn_file_arbiter};
use crate::io::client_tcp::PortError;
use crate::io::file_lock::{LockFileError, validate_lock_file};
use crate::io::peer_tcp::{ListenError, Net, PeerListener, TcpNet};
use crate::io::ping::{ProbeRequest, spawn_prober};
use crate::io::tls::{TlsError, TlsPaths};
use crate::machines::destination::DestinationConfig;
use crate::machines::gateway::{GatewayConfig, ProbeOutcome};
use crate::machines::ha::{ExitCause, HaConfig, HaMode};
use crate::machines::link::LinkConfig;
use crate::machines::lock::LockConfig;
use crate::machines::replication::ReplicationConfig;
use crate::machines::stomp_session::{HeartBeatOffer, StompSessionConfig};
use crate::proto::arbiter::ArbiterRecord;
use crate::proto::arbiter_codec::{ArbiterFileError, decode_record};
use crate::proto::auth::PairSecret;
use crate::proto::ids::{ArbiterId, DestId, Epoch, Lsn, NodeId};
use crate::proto::stomp::Limits;
use crate::storage::api::{Committed, Entry, SharedStore};
use crate::storage::error::StoreError;
use crate::storage::{StoreConfig, SyncMode, open};
use crate::time::{Clock, SystemClock};

/// How long an orderly stop waits for the answers that clients are owed.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of one read of the log for a peer that catches up.
const PIECE_BYTES: usize = 1024 * 1024;

/// Why a server did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Shared mode parses and is not there yet.
    #[error(
        "mode \"shared\" is not in this version yet; run a replicated pair, or a standalone server"
    )]
    SharedMode,
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
    /// Messages found at start.
    pub found_messages: u64,
    /// Why it ends, when it does.
    pub ends: UnboundedReceiver<End>,
    /// The threads of its actors: they live as long as this.
    _threads: [Arbiter; 3],
}

impl Server {
    /// Takes the limits of a configuration for whatever comes after it.
    pub fn reconfigure(&self, config: &Config) {
        self.data.configure(data_config(config));
    }
}

/// Opens and starts everything; returns once HAManager has been told to begin.
///
/// # Errors
/// When a port, the store, the lock file, a certificate or a secret cannot be had. Everything is
/// asked for before anything is started, so that a mistake shows at once.
pub async fn start(config: &Config) -> Result<Server, StartError> {
    if config.mode == Mode::Shared {
        return Err(StartError::SharedMode);
    }
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
    let sink = store_sink(&data, &ends);
    let opened = open(store_config(config), Arc::clone(&sink) as Arc<_>)?;
    let last_record = opened
        .last_record
        .as_deref()
        .map(read_last_record)
        .transpose()?;
    let lease = Arc::new(Lease::new(Arc::clone(&clock)));
    {
        let store = Arc::clone(&opened.store);
        let (lease, clock) = (
            Arc::clone(&lease) as Arc<dyn ServingLease>,
            Arc::clone(&clock),
        );
        places.enter(Place::Data, move || {
            drop(tokio::task::spawn_local(plane.run(store, lease, clock)));
        });
    }
    let pair = match (&config.ha, outside) {
        (Some(pair), Some(outside)) => Some(pair_parts(config, pair, outside, opened.node, &clock)),
        (Some(_) | None, _) => None,
    };
    let parts = Parts {
        identity: identity(config, opened.node, clock),
        ha: role_config(config, opened.node),
        intervals: intervals(config.ha.as_ref()),
        store: Arc::clone(&opened.store),
        sink,
        last_record,
        lease,
        clients: clients(data.clone(), ends),
        replication: replication(config.ha.as_ref()),
        pair,
    };
    let wired = wire(&places, parts);
    Ok(Server {
        wired,
        store: opened.store,
        data,
        node: opened.node,
        store_dir: opened.dir,
        found_messages: opened.found_messages,
        ends: ended,
        _threads: threads,
    })
}

/// Where the store's events go.
fn store_sink(data: &DataHandle, ends: &UnboundedSender<End>) -> Arc<ServerSink> {
    let ends = ends.clone();
    let fatal = Box::new(move |error| tell(&ends, End::Store(error)));
    let clients = Clients { data: data.clone() };
    Arc::new(ServerSink::new(Arc::new(clients), fatal))
}

/// Makes the client side, once HAManager is there.
fn clients(
    data: DataHandle,
    ends: UnboundedSender<End>,
) -> Box<dyn FnOnce(Port<HaMessage>) -> Arc<dyn ClientSide>> {
    Box::new(move |manager| {
        Arc::new(ServerClients {
            data,
            manager,
            ends,
        })
    })
}

fn identity(config: &Config, node: NodeId, clock: Arc<dyn Clock>) -> HaIdentity {
    HaIdentity {
        node,
        title: title(config),
        lock_path: config
            .ha
            .as_ref()
            .map(|pair| absolute(&pair.lock_file).display().to_string())
            .unwrap_or_default(),
        clock,
    }
}

/// What a pair needs of the outside, all of it at hand.
struct Outside {
    net: Arc<dyn Net>,
    listener: Box<dyn PeerListener>,
    secret: Option<PairSecret>,
}

async fn open_outside(pair: &PairConfig, peer: &Arbiter) -> Result<Outside, StartError> {
    validate_lock_file(&pair.lock_file)?;
    let secret = match &pair.pair_secret_file {
        None => None,
        Some(path) => Some(PairSecret::new(
            crate::config::read_secret(path)?.as_bytes(),
        )),
    };
    let tls = match &pair.tls {
        None => None,
        Some(tls) => Some(crate::io::tls::load(&TlsPaths {
            ca: tls.ca_file.clone(),
            cert: tls.cert_file.clone(),
            key: tls.key_file.clone(),
        })?),
    };
    let net: Arc<dyn Net> = Arc::new(TcpNet {
        tls,
        nagle: pair.nagle,
        user_timeout: pair.passive_interval,
        handshake_timeout: pair.hello_timeout,
    });
    // On the thread that will use it: a socket belongs to one thread's reactor.
    let (found, listener) = tokio::sync::oneshot::channel();
    let (there, address) = (Arc::clone(&net), pair.listen.to_string());
    peer.spawn(async move {
        let listener = there.listen(&address).await;
        if found.send(listener).is_err() {
            tracing::debug!(target: "twinmq::net", "the server gave up while its HA port was opened");
        }
    });
    let listener = listener.await.map_err(|_| StartError::PeerThread)??;
    Ok(Outside {
        net,
        listener,
        secret,
    })
}

fn read_last_record(bytes: &[u8]) -> Result<ArbiterRecord, StartError> {
    let file = decode_record(bytes, None).map_err(StartError::LastRecord)?;
    Ok(file.record)
}

fn pair_parts(
    config: &Config,
    pair: &PairConfig,
    outside: Outside,
    node: NodeId,
    clock: &Arc<dyn Clock>,
) -> PairParts {
    let files = ArbiterFileConfig {
        lock_file: pair.lock_file.clone(),
        secret: outside.secret.clone(),
        create_parent: pair.lock_file.is_relative(),
    };
    let clock = Arc::clone(clock);
    let listener = outside.listener;
    PairParts {
        arbiter: Box::new(move |answers| {
            Arc::new(spawn_file_arbiter(files, answers).expect("a starting process gets threads"))
                as Arc<dyn crate::proto::arbiter::Arbiter>
        }),
        prober: Box::new(move |port| thread_prober(clock, port)),
        net: outside.net,
        listener: Box::new(move || listener),
        link: LinkConfig {
            node,
            cluster: pair.cluster.clone(),
            primary: pair.primary,
            name: config.name.clone(),
            peer_address: pair.peer.to_string(),
            versions: (1, 1),
            must_agree: config.must_agree(),
            secret: outside.secret,
            ping_interval: pair.ping_interval,
            creation_timeout: pair.connect_timeout,
            initialization_timeout: pair.hello_timeout,
        },
        lock: LockConfig::new(node, pair.ping_interval, pair.active_interval),
        gateway: GatewayConfig {
            targets: pair
                .gateway
                .targets
                .iter()
                .map(ToString::to_string)
                .collect(),
            interval: pair.gateway.probe_interval,
            timeout: pair.gateway.probe_timeout,
            misses_max: pair.gateway.probe_misses,
        },
    }
}

/// Probes run on the `ping-io` thread.
struct ThreadProber(crate::io::ping::Prober);

fn thread_prober(clock: Arc<dyn Clock>, port: Port<GatewayMessage>) -> Box<dyn Prober> {
    let sink = Arc::new(move |probe_id, result| {
        let outcome = match result {
            Ok(target) => ProbeOutcome::Reached { target },
            Err(reason) => ProbeOutcome::NothingReached { reason },
        };
        post(&port, GatewayMessage::ProbeFinished { probe_id, outcome });
    });
    Box::new(ThreadProber(
        spawn_prober(clock, sink).expect("a starting process gets threads"),
    ))
}

impl Prober for ThreadProber {
    fn probe(&self, probe_id: u64, targets: Vec<String>, timeout: Duration) {
        self.0.request(ProbeRequest {
            probe_id,
            targets,
            timeout,
        });
    }
}

/// The store's events for the client side.
struct Clients {
    data: DataHandle,
}

impl CommittedSink for Clients {
    fn committed(&self, committed: Committed) {
        self.data.committed(committed);
    }

    fn fetched(&self, dest: DestId, entries: Vec<Entry>, scanned: Lsn) {
        self.data.fetched(dest, entries, scanned);
    }
}

/// The client side of a real server, as HAManager commands it.
struct ServerClients {
    data: DataHandle,
    manager: Port<HaMessage>,
    ends: UnboundedSender<End>,
}

impl ClientSide for ServerClients {
    fn serve(&self, epoch: Epoch) {
        let ends = self.ends.clone();
        self.data.serve(
            epoch,
            Box::new(move |listening| {
                if let Err(error) = listening {
                    tell(&ends, End::ClientPort(error));
                }
            }),
        );
    }

    fn stop_serving(&self, reason: &str) {
        self.data.stop_serving(reason.to_owned(), Box::new(|()| {}));
    }

    fn drain(&self) {
        let manager = self.manager.clone();
        let reason = "the server is stopping; the other server takes over".to_owned();
        self.data.drain(
            DRAIN,
            reason,
            Box::new(move |()| post(&manager, HaMessage::ClientsDrained)),
        );
    }

    fn end_process(&self, cause: &ExitCause) {
        tell(&self.ends, End::Role(cause.clone()));
    }
}

fn tell(ends: &UnboundedSender<End>, end: End) {
    if ends.send(end).is_err() {
        tracing::debug!(target: "twinmq::ha", "the process ends already");
    }
}

fn title(config: &Config) -> &'static str {
    match &config.ha {
        None => "Standalone",
        Some(pair) if pair.primary => "Primary",
        Some(_) => "Secondary",
    }
}

fn role_config(config: &Config, node: NodeId) -> HaConfig {
    let mut arbiter = [0; 16];
    getrandom::fill(&mut arbiter).expect("the kernel has random bytes on every supported Linux");
    HaConfig {
        mode: if config.ha.is_some() {
            HaMode::Replicated
        } else {
            HaMode::Single
        },
        primary: config.ha.as_ref().is_none_or(|pair| pair.primary),
        node,
        cluster: cluster(config),
        new_arbiter: ArbiterId(arbiter),
    }
}

fn cluster(config: &Config) -> String {
    config
        .ha
        .as_ref()
        .map_or_else(|| "standalone".to_owned(), |pair| pair.cluster.clone())
}

fn intervals(pair: Option<&PairConfig>) -> HaIntervals {
    let ms = Duration::from_millis;
    match pair {
        Some(pair) => HaIntervals {
            ping: pair.ping_interval,
            active: pair.active_interval,
            passive: pair.passive_interval,
            max_wait: pair.max_wait,
            ack_timeout: pair.replication.ack_timeout,
            drain: DRAIN,
        },
        // Alone, the clockwork only keeps the board fresh.
        None => HaIntervals {
            ping: ms(500),
            active: ms(1000),
            passive: ms(2500),
            max_wait: ms(30_000),
            ack_timeout: ms(5000),
            drain: DRAIN,
        },
    }
}

fn replication(pair: Option<&PairConfig>) -> ReplicationConfig {
    let bound = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    ReplicationConfig {
        window_bytes: pair.map_or(PIECE_BYTES, |pair| bound(pair.replication.window_bytes)),
        piece_bytes: PIECE_BYTES,
        ack_timeout: intervals(pair).ack_timeout,
    }
}

/// The store's settings in a configuration; also for `clear-db` and `store check`.
#[must_use]
pub fn store_config(config: &Config) -> StoreConfig {
    StoreConfig {
        dir: config.store.path.clone(),
        cluster: cluster(config),
        sync: match config.store.sync {
            StoreSync::Deferred => SyncMode::Deferred,
            StoreSync::Meta => SyncMode::Meta,
        },
        retain_bytes: config.store.retain_bytes,
        checkpoint_bytes: config.store.checkpoint_bytes,
        quota_bytes: config.store.quota_bytes,
        max_record_bytes: config.limits.max_body_bytes + config.limits.max_header_bytes + 4096,
    }
}

fn data_config(config: &Config) -> DataPlaneConfig {
    let limits = &config.limits;
    let bound = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let ms = |span: Option<Duration>| {
        span.map_or(0, |span| {
            u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
        })
    };
    let stomp = StompSessionConfig {
        limits: Limits {
            frame_bytes: limits.max_header_bytes + limits.max_body_bytes + 1,
            headers: limits.max_headers,
            header_bytes: limits.max_header_bytes,
            body_bytes: limits.max_body_bytes,
        },
        heart_beat_ms: HeartBeatOffer {
            send: ms(config.client.heart_beat_send),
            receive: ms(config.client.heart_beat_receive),
        },
        default_prefetch: limits.prefetch,
        max_prefetch: limits.prefetch.max(10_000),
        max_subscriptions: limits.max_subscriptions,
        max_unsettled_requests: limits.connection_in_flight_messages.saturating_mul(4),
        server_name: format!("TwinMQ/{}", env!("CARGO_PKG_VERSION")),
        connect_timeout_ms: u64::try_from(config.client.connect_timeout.as_millis())
            .unwrap_or(u64::MAX),
    };
    DataPlaneConfig {
        listen: config.client.listen.clone(),
        connections_max: limits.max_connections,
        directory: DirectoryConfig {
            destination: DestinationConfig::default(),
            destinations_max: limits.max_destinations,
            connection_permits: PermitLimit {
                messages: limits.connection_in_flight_messages,
                bytes: bound(limits.connection_in_flight_bytes),
            },
            permits: PermitLimit {
                messages: 131_072,
                bytes: bound(limits.global_in_flight_bytes),
            },
        },
        session: SessionConfig {
            stomp: Arc::new(stomp),
            output_bytes_max: 4 * 1024 * 1024,
            linger: Duration::from_secs(2),
            block_timeout: limits.block_timeout,
        },
    }
}

/// As the operator would find it, for messages.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
