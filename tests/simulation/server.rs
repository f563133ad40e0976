//! One life of a simulated server: the real actors on a `LocalSet` of their own, wired to parts in
//! memory. Dropping the `LocalSet` is `kill -9`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;
use twinmq::actors::client_roll::ClientRoll;
use twinmq::actors::gateway_pinger::{GatewayMessage, Prober};
use twinmq::actors::ha_chronicle::NoChronicle;
use twinmq::actors::ha_manager::{ClientSide, HaIdentity};
use twinmq::actors::ha_timing::HaIntervals;
use twinmq::actors::lease::Lease;
use twinmq::actors::places::Places;
use twinmq::actors::post::{Port, post};
use twinmq::actors::store_sink::{CommittedSink, ServerSink};
use twinmq::actors::wiring::{PairParts, Parts, Wired, wire};
use twinmq::io::peer_tcp::{Net, PeerListener};
use twinmq::machines::gateway::{GatewayConfig, ProbeOutcome};
use twinmq::machines::ha::{HaConfig, HaMode, Takeover};
use twinmq::machines::link::LinkConfig;
use twinmq::machines::lock::LockConfig;
use twinmq::machines::replication::ReplicationConfig;
use twinmq::proto::arbiter_codec::decode_record;
use twinmq::proto::auth::PairSecret;
use twinmq::proto::ids::{ArbiterId, Epoch, NodeId};
use twinmq::proto::peer::ServerState;
use twinmq::storage::api::{SharedStore, StoreDoor};
use twinmq::storage::common_memory::CommonMemory;
use twinmq::storage::error::StoreError;
use twinmq::storage::inline::InlineStore;
use twinmq::storage::memory::{MemoryDisk, MemoryHome};
use twinmq::storage::{StoreConfig, open_memory};
use twinmq::time::Clock;

use crate::arbiter::{Life, Share};
use crate::clients::{Clients, Setting};
use crate::clock::{Chance, ServerClock, Trace, VirtualClock};
use crate::door::{Setting as DoorSetting, SimDoor};
use crate::homes::Homes;
use crate::ledger::Ledger;
use crate::net::SimNet;
use crate::sink::TracedSink;

const CLUSTER: &str = "simulated";
/// The longest that one commit or flush takes, in milliseconds.
const DISK_MS: u64 = 2;
/// Nothing is asked of a store for so long before it is idle...
const IDLE_PAUSE: Duration = Duration::from_millis(20);
/// ...and while it has something to do then.
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// What all servers of a simulation share.
pub(crate) struct World {
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) net: SimNet,
    pub(crate) share: Arc<Share>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) homes: Arc<Homes>,
    pub(crate) flow: Arc<AtomicBool>,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) takeover: Takeover,
    pub(crate) mode: HaMode,
    /// Logs are kept so short that a peer may come too late for what it missed.
    pub(crate) short_logs: bool,
    /// See [`crate::course::Course::strewn`].
    pub(crate) strewn: bool,
}

/// A machine that a server runs on, whether it does or not.
pub(crate) struct Host {
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) disk: MemoryDisk,
    /// The longest that one commit or flush takes, in milliseconds.
    disk_ms: Arc<AtomicU64>,
    /// The gateway is seen from here.
    gateway: Arc<AtomicBool>,
}

impl Host {
    pub(crate) fn new(clock: ServerClock, node: NodeId) -> Self {
        Self {
            clock: Arc::new(clock),
            disk: MemoryDisk::new(node),
            disk_ms: Arc::new(AtomicU64::new(DISK_MS)),
            gateway: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Commits and flushes take up to so many milliseconds from now on.
    pub(crate) fn set_disk_ms(&self, ms: u64) {
        self.disk_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether the gateway is seen from here.
    pub(crate) fn see_gateway(&self, seen: bool) {
        self.gateway.store(seen, Ordering::Relaxed);
    }

    /// Its disk and gateway are well.
    pub(crate) fn heal(&self) {
        self.disk.fail_commits_after(u32::MAX);
        self.disk_ms.store(DISK_MS, Ordering::Relaxed);
        self.gateway.store(true, Ordering::Relaxed);
    }
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) life: Life,
    pub(crate) local: LocalSet,
    pub(crate) wired: Wired,
    pub(crate) store: SharedStore,
    pub(crate) clients: Arc<Clients>,
    node: NodeId,
    works: Works,
    silent: Arc<AtomicBool>,
}

/// What of a server works when it is pumped.
enum Works {
    /// Its own store.
    Own(Arc<InlineStore<MemoryHome>>),
    /// In shared mode.
    Common(Arc<SimDoor>),
}

/// The store that a server has, or is to have.
struct Opened {
    node: NodeId,
    last_record: Option<Bytes>,
    store: SharedStore,
    works: Works,
}

impl Server {
    /// Starts the server on its host. None: its disk fails at once.
    pub(crate) async fn start(world: &World, host: &Host, life: Life) -> Option<Self> {
        let listener = world.net.of(life.at).listen(&address(life.at)).await;
        let listener = listener.expect("the last life's port is free");
        let local = LocalSet::new();
        let entered = local.enter();
        let clock = Arc::clone(&host.clock) as Arc<dyn Clock>;
        let lease = Arc::new(Lease::new(Arc::clone(&clock)));
        let (clients, commands) = Clients::new(Setting {
            life,
            lease: Arc::clone(&lease),
            ledger: Arc::clone(&world.ledger),
            homes: Arc::clone(&world.homes),
            flow: Arc::clone(&world.flow),
            strewn: world.strewn,
            chance: world.chance.split(),
            trace: world.trace.clone(),
            clock,
        });
        let sink = Arc::new(ServerSink::new(
            Arc::clone(&clients) as Arc<dyn CommittedSink>,
            {
                let clients = Arc::clone(&clients);
                Box::new(move |error| clients.end(format!("the store failed: {error}")))
            },
        ));
        let silent = Arc::new(AtomicBool::new(false));
        let traced = TracedSink {
            life,
            trace: world.trace.clone(),
            inner: Arc::clone(&sink),
            silent: Arc::clone(&silent),
        };
        let opened = match world.mode {
            HaMode::Shared => closed_store(world, host, traced),
            HaMode::Single | HaMode::Replicated => open_store(world, host, traced)?,
        };
        let store = Arc::clone(&opened.store);
        let last_record = opened.last_record.as_deref().map(|bytes| {
            let file = decode_record(bytes, None).expect("as HAManager wrote it");
            file.record
        });
        let parts = Parts {
            identity: identity(host, life, opened.node),
            ha: role(world, life, opened.node),
            intervals: intervals(),
            store: Arc::clone(&store),
            sink,
            last_record,
            lease,
            clients: {
                let clients = Arc::clone(&clients);
                Box::new(move |manager| {
                    clients.join_manager(manager);
                    clients as Arc<dyn ClientSide>
                })
            },
            replication: replication(),
            history: Arc::new(NoChronicle),
            roll: ClientRoll::new(),
            pair: Some(pair_parts(world, host, life, opened.node, listener)),
            door: match &opened.works {
                Works::Own(_) => None,
                Works::Common(door) => Some(Arc::clone(door) as Arc<dyn StoreDoor>),
            },
        };
        let wired = wire(&Places::Here, parts);
        let data = Arc::clone(&clients).run(commands, Arc::downgrade(&store));
        drop(tokio::task::spawn_local(data));
        drop(entered);
        Some(Self {
            life,
            local,
            wired,
            store,
            clients,
            node: opened.node,
            works: opened.works,
            silent,
        })
    }

    /// Who it is to its watchdog, and in which epoch.
    pub(crate) fn serves_as(&self) -> (NodeId, Epoch) {
        (self.node, self.wired.board.role().epoch)
    }

    /// One more thing reaches the disk, and nobody is told.
    pub(crate) fn write_unheard(&self) {
        self.silent.store(true, Ordering::Relaxed);
        match &self.works {
            Works::Own(store) => {
                store.pump_one();
            }
            Works::Common(door) => door.pump_one(),
        }
    }

    /// As `status` would show it.
    pub(crate) fn state(&self) -> ServerState {
        self.wired.board.role().state
    }
}

/// The interval settings of the stock profile.
pub(crate) fn intervals() -> HaIntervals {
    let ms = Duration::from_millis;
    HaIntervals {
        ping: ms(500),
        active: ms(1000),
        drift: ms(250),
        passive: ms(2500),
        max_wait: ms(30_000),
        ack_timeout: ms(5000),
        drain: ms(5000),
    }
}

fn replication() -> ReplicationConfig {
    ReplicationConfig {
        window_bytes: 1 << 20,
        piece_bytes: 1 << 20,
        ack_timeout: intervals().ack_timeout,
        resync_bytes_per_s: 0,
        resync_pause_max: Duration::from_secs(10),
    }
}

fn store_config(world: &World) -> StoreConfig {
    let mut config = StoreConfig::new(PathBuf::from("memory"), CLUSTER);
    if world.short_logs || world.strewn {
        let retained = if world.short_logs { 16 } else { 64 };
        (config.retain_bytes, config.checkpoint_bytes) = (retained << 10, 8 << 10);
    }
    if world.strewn {
        config.slack_bytes = 0;
    }
    config
}

/// The store of shared mode: closed, and how it is opened.
fn closed_store(world: &World, host: &Host, sink: TracedSink) -> Opened {
    let door = SimDoor::new(DoorSetting {
        life: sink.life,
        share: Arc::clone(&world.share),
        files: CommonMemory {
            common: world.share.mount.disk.clone(),
            own: host.disk.clone(),
        },
        config: store_config(world),
        sink: Arc::new(sink),
        disk_ms: Arc::clone(&host.disk_ms),
        chance: world.chance.split(),
        trace: world.trace.clone(),
    });
    Opened {
        node: host.disk.node(),
        last_record: host.disk.last_record(),
        store: Arc::clone(&door) as SharedStore,
        works: Works::Common(door),
    }
}

/// Opens the store and lets it work. None: its disk fails at once.
fn open_store(world: &World, host: &Host, sink: TracedSink) -> Option<Opened> {
    let wake = Arc::new(Notify::new());
    let woken = Arc::clone(&wake);
    let config = store_config(world);
    let wake = Box::new(move || wake.notify_one());
    let (opened, inline) = match open_memory(&host.disk, config, Arc::new(sink), wake) {
        Ok(opened) => opened,
        Err(StoreError::Commit { .. }) => return None,
        Err(error) => panic!("the disk cannot be read: {error}"),
    };
    drop(tokio::task::spawn_local(pump(
        Arc::clone(&inline),
        woken,
        Arc::clone(&host.disk_ms),
        world.chance.split(),
        world.strewn,
    )));
    Some(Opened {
        node: opened.node,
        last_record: opened.last_record,
        store: opened.store,
        works: Works::Own(inline),
    })
}

fn identity(host: &Host, life: Life, node: NodeId) -> HaIdentity {
    HaIdentity {
        node,
        title: ["Primary", "Secondary"][life.at],
        lock_path: String::new(),
        clock: Arc::clone(&host.clock) as Arc<dyn Clock>,
    }
}

fn role(world: &World, life: Life, node: NodeId) -> HaConfig {
    HaConfig {
        mode: world.mode,
        primary: life.at == 0,
        node,
        cluster: CLUSTER.to_owned(),
        new_arbiter: ArbiterId(world.chance.bytes()),
        takeover: world.takeover,
    }
}

fn address(at: usize) -> String {
    format!("server{at}:7000")
}

fn pair_parts(
    world: &World,
    host: &Host,
    life: Life,
    node: NodeId,
    listener: Box<dyn PeerListener>,
) -> PairParts {
    let HaIntervals { ping, active, .. } = intervals();
    let share = Arc::clone(&world.share);
    let nonces = world.chance.split();
    let trace = world.trace.clone();
    let seen = Arc::clone(&host.gateway);
    PairParts {
        arbiter: Box::new(move |answers| share.arbiter(life, answers)),
        prober: Box::new(move |port| Box::new(Gateway { port, seen })),
        net: Arc::new(world.net.of(life.at)),
        listener: Box::new(move || listener),
        nonces: Box::new(move || {
            let nonce = nonces.bytes();
            trace.tell(format_args!("{life} hello {:02x?}", &nonce[..4]));
            nonce
        }),
        link: LinkConfig {
            node,
            cluster: CLUSTER.to_owned(),
            primary: life.at == 0,
            name: format!("server{}", life.at),
            peer_address: address(1 - life.at),
            versions: (1, 1),
            must_agree: Vec::new(),
            secret: Some(PairSecret::new(b"the pair's")),
            ping_interval: ping,
            ping_misses: 2,
            creation_timeout: Duration::from_secs(1),
            initialization_timeout: Duration::from_secs(1),
        },
        lock: LockConfig::new(node, ping, active),
        watchdog: None,
        gateway: GatewayConfig {
            targets: vec!["gateway:80".to_owned()],
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            misses_max: 3,
        },
    }
}

/// The store's writer and reader: each thing that is queued takes a while. `idles`: when nothing was
/// asked of them for a moment, they see what else is to be done.
async fn pump(
    store: Arc<InlineStore<MemoryHome>>,
    wake: Arc<Notify>,
    disk_ms: Arc<AtomicU64>,
    chance: Chance,
    idles: bool,
) {
    let mut pause = IDLE_PAUSE;
    loop {
        if !idles {
            wake.notified().await;
        } else if timeout(pause, wake.notified()).await.is_err() {
            pause = if store.idle() { BUSY_PAUSE } else { IDLE_PAUSE };
        }
        loop {
            chance.delay(disk_ms.load(Ordering::Relaxed)).await;
            if !store.pump_one() {
                break;
            }
        }
    }
}

/// A gateway that is there, or not.
struct Gateway {
    port: Port<GatewayMessage>,
    seen: Arc<AtomicBool>,
}

impl Prober for Gateway {
    fn probe(&self, probe_id: u64, targets: Vec<String>, timeout: Duration) {
        let (port, seen) = (self.port.clone(), Arc::clone(&self.seen));
        drop(tokio::task::spawn_local(async move {
            let outcome = if seen.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let target = targets.into_iter().next().unwrap_or_default();
                ProbeOutcome::Reached { target }
            } else {
                tokio::time::sleep(timeout).await;
                let reason = "no answer".to_owned();
                ProbeOutcome::NothingReached { reason }
            };
            post(&port, GatewayMessage::ProbeFinished { probe_id, outcome });
        }));
    }
}
