//! One life of a simulated server: the real actors on a `LocalSet` of their own, wired to parts in
//! memory. Dropping the `LocalSet` is `kill -9`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::LocalSet;
use twinmq::actors::gateway_pinger::{GatewayMessage, Prober};
use twinmq::actors::ha_manager::{ClientSide, HaIdentity};
use twinmq::actors::ha_timing::HaIntervals;
use twinmq::actors::lease::Lease;
use twinmq::actors::places::Places;
use twinmq::actors::post::{Port, post};
use twinmq::actors::store_sink::{CommittedSink, ServerSink};
use twinmq::actors::wiring::{PairParts, Parts, Wired, wire};
use twinmq::io::peer_tcp::{MemoryNet, Net, PeerListener};
use twinmq::machines::gateway::{GatewayConfig, ProbeOutcome};
use twinmq::machines::ha::{HaConfig, HaMode, Takeover};
use twinmq::machines::link::LinkConfig;
use twinmq::machines::lock::LockConfig;
use twinmq::machines::replication::ReplicationConfig;
use twinmq::proto::arbiter_codec::decode_record;
use twinmq::proto::auth::PairSecret;
use twinmq::proto::ids::{ArbiterId, NodeId};
use twinmq::proto::peer::ServerState;
use twinmq::storage::api::{LogStore, SharedStore, StoreEvent, StoreSink};
use twinmq::storage::inline::InlineStore;
use twinmq::storage::memory::{MemoryDisk, MemoryHome};
use twinmq::storage::{StoreConfig, open_memory};
use twinmq::time::Clock;

use crate::arbiter::{Life, Share};
use crate::clients::{Clients, Setting};
use crate::clock::{Chance, Trace, VirtualClock};
use crate::ledger::Ledger;

const CLUSTER: &str = "simulated";
/// The longest that one commit or flush takes, in milliseconds.
const DISK_MS: u64 = 2;

/// What all servers of a simulation share.
pub(crate) struct World {
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) net: MemoryNet,
    pub(crate) share: Arc<Share>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) flow: Arc<AtomicBool>,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) life: Life,
    pub(crate) local: LocalSet,
    pub(crate) wired: Wired,
    pub(crate) store: SharedStore,
    pub(crate) clients: Arc<Clients>,
}

impl Server {
    /// Starts the server on its disk.
    pub(crate) async fn start(world: &World, disk: &MemoryDisk, life: Life) -> Self {
        let listener = world.net.listen(&address(life.at)).await;
        let listener = listener.expect("the last life's port is free");
        let local = LocalSet::new();
        let entered = local.enter();
        let lease = Arc::new(Lease::new(Arc::clone(&world.clock) as Arc<dyn Clock>));
        let clients = Clients::new(Setting {
            life,
            lease: Arc::clone(&lease),
            ledger: Arc::clone(&world.ledger),
            flow: Arc::clone(&world.flow),
            chance: world.chance.split(),
            trace: world.trace.clone(),
        });
        let sink = Arc::new(ServerSink::new(
            Arc::clone(&clients) as Arc<dyn CommittedSink>,
            Box::new(|error| panic!("the store failed: {error}")),
        ));
        let traced = TracedSink {
            life,
            trace: world.trace.clone(),
            inner: Arc::clone(&sink),
        };
        let wake = Arc::new(Notify::new());
        let woken = Arc::clone(&wake);
        let config = StoreConfig::new(PathBuf::from("memory"), CLUSTER);
        let wake = Box::new(move || wake.notify_one());
        let (opened, inline) =
            open_memory(disk, config, Arc::new(traced), wake).expect("the disk can be read");
        drop(tokio::task::spawn_local(pump(
            Arc::clone(&inline),
            woken,
            world.chance.split(),
        )));
        let store = inline as Arc<dyn LogStore>;
        clients.join_store(Arc::downgrade(&store));
        let last_record = opened.last_record.as_deref().map(|bytes| {
            let file = decode_record(bytes, None).expect("as HAManager wrote it");
            file.record
        });
        let parts = Parts {
            identity: identity(world, life, opened.node),
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
            replication: ReplicationConfig {
                window_bytes: 1 << 20,
                piece_bytes: 1 << 20,
                ack_timeout: intervals().ack_timeout,
            },
            pair: Some(pair_parts(world, life, opened.node, listener)),
            door: None,
        };
        let wired = wire(&Places::Here, parts);
        drop(tokio::task::spawn_local(Arc::clone(&clients).run()));
        drop(entered);
        Self {
            life,
            local,
            wired,
            store,
            clients,
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

fn identity(world: &World, life: Life, node: NodeId) -> HaIdentity {
    HaIdentity {
        node,
        title: ["Primary", "Secondary"][life.at],
        lock_path: String::new(),
        clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
    }
}

fn role(world: &World, life: Life, node: NodeId) -> HaConfig {
    HaConfig {
        mode: HaMode::Replicated,
        primary: life.at == 0,
        node,
        cluster: CLUSTER.to_owned(),
        new_arbiter: ArbiterId(world.chance.bytes()),
        takeover: Takeover::Fence,
    }
}

fn address(at: usize) -> String {
    format!("server{at}:7000")
}

fn pair_parts(
    world: &World,
    life: Life,
    node: NodeId,
    listener: Box<dyn PeerListener>,
) -> PairParts {
    let HaIntervals { ping, active, .. } = intervals();
    let share = Arc::clone(&world.share);
    let nonces = world.chance.split();
    let trace = world.trace.clone();
    PairParts {
        arbiter: Box::new(move |answers| share.arbiter(life, answers)),
        prober: Box::new(|port| Box::new(AlwaysReached(port))),
        net: Arc::new(world.net.clone()),
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

/// The store's writer and reader: each thing that is queued takes a while.
async fn pump(store: Arc<InlineStore<MemoryHome>>, wake: Arc<Notify>, chance: Chance) {
    loop {
        wake.notified().await;
        loop {
            chance.delay(DISK_MS).await;
            if !store.pump_one() {
                break;
            }
        }
    }
}

/// A gateway that is always there.
struct AlwaysReached(Port<GatewayMessage>);

impl Prober for AlwaysReached {
    fn probe(&self, probe_id: u64, targets: Vec<String>, _timeout: Duration) {
        let port = self.0.clone();
        drop(tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let target = targets.into_iter().next().unwrap_or_default();
            let outcome = ProbeOutcome::Reached { target };
            post(&port, GatewayMessage::ProbeFinished { probe_id, outcome });
        }));
    }
}

/// The server's sink, with a line for each event about the log.
struct TracedSink {
    life: Life,
    trace: Trace,
    inner: Arc<ServerSink>,
}

impl StoreSink for TracedSink {
    fn event(&self, event: StoreEvent) {
        let life = self.life;
        let tell = |what: String| self.trace.tell(format_args!("{life} {what}"));
        match &event {
            StoreEvent::Cut(batch) => tell(format!(
                "cut {}..{} after {:08x}",
                batch.first, batch.last, batch.prev_chain
            )),
            StoreEvent::Durable(position) => tell(format!("durable: {position}")),
            StoreEvent::Done { request, outcome } => tell(format!("job {request:x}: {outcome:?}")),
            StoreEvent::LogRead { request, batches } => {
                tell(format!("read {request:x}: {} batches", batches.len()));
            }
            StoreEvent::Failed(error) => tell(format!("failed: {error}")),
            // Told by the clients.
            StoreEvent::Committed(_) | StoreEvent::Fetched { .. } => {}
        }
        self.inner.event(event);
    }
}
