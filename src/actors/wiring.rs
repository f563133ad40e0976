//! Joins the actors: the only place that knows who is whose neighbour. It is given the traits of the
//! outside world (store, arbiter, network, probes, clock, client side), real ones in a server and
//! in-memory ones in the simulator, and starts the same actors on either.

use std::sync::{Arc, OnceLock};

use crate::actors::board::Board;
use crate::actors::connection_manager::{ConnectionManager, LinkCommand, LinkPorts};
use crate::actors::gateway_pinger::{GatewayMessage, GatewayPinger, Prober};
use crate::actors::ha_manager::{ClientSide, HaIdentity, HaManager, HaMessage, HaPorts, PairPorts};
use crate::actors::ha_timing::{HaIntervals, HaTiming};
use crate::actors::lease::Lease;
use crate::actors::lock_keeper::{ArbiterAnswered, LockKeeper, LockPorts};
use crate::actors::peer_transport::StreamTransport;
use crate::actors::places::{Place, Places};
use crate::actors::post::{Port, post};
use crate::actors::replicator::{Replicator, ReplicatorCommand};
use crate::actors::store_sink::ServerSink;
use crate::io::peer_tcp::{Net, PeerListener};
use crate::machines::gateway::{GatewayConfig, GatewayMachine};
use crate::machines::ha::{HaConfig, HaMachine, HaMode, OwnStore};
use crate::machines::link::{LinkConfig, LinkMachine};
use crate::machines::lock::{LockConfig, LockMachine};
use crate::machines::replication::{ReplicationConfig, ReplicationMachine};
use crate::proto::arbiter::{Arbiter, ArbiterAnswer, ArbiterRecord};
use crate::proto::ids::Epoch;
use crate::proto::peer::{PeerFacts, ServerState};
use crate::storage::api::SharedStore;
use crate::time::Clock;

/// One server's outside world and settings.
pub struct Parts {
    /// Who it is.
    pub identity: HaIdentity,
    /// Its role machine's settings.
    pub ha: HaConfig,
    /// Its clockwork.
    pub intervals: HaIntervals,
    /// Its store, gate closed.
    pub store: SharedStore,
    /// Where the store's events go.
    pub sink: Arc<ServerSink>,
    /// The record that it saw last.
    pub last_record: Option<ArbiterRecord>,
    /// The right to speak to clients; the client side reads it.
    pub lease: Arc<Lease>,
    /// Makes the client side, given the way back to HAManager.
    pub clients: Box<dyn FnOnce(Port<HaMessage>) -> Arc<dyn ClientSide>>,
    /// Bounds of the stream to the peer.
    pub replication: ReplicationConfig,
    /// What only a server of a pair has.
    pub pair: Option<PairParts>,
}

/// The peer's and the arbiter's side of a server.
pub struct PairParts {
    /// Makes the arbiter, given where its answers go.
    pub arbiter: Box<dyn FnOnce(AnswerSink) -> Arc<dyn Arbiter>>,
    /// Makes the prober, given where its answers go.
    pub prober: Box<dyn FnOnce(Port<GatewayMessage>) -> Box<dyn Prober>>,
    /// The network.
    pub net: Arc<dyn Net>,
    /// Gives the listener of the HA port, on the thread where it will be used.
    pub listener: Box<dyn FnOnce() -> Box<dyn PeerListener> + Send>,
    /// The channel.
    pub link: LinkConfig,
    /// The lock's pace.
    pub lock: LockConfig,
    /// The gateway's.
    pub gateway: GatewayConfig,
}

/// Takes the arbiter's answers, on any thread.
pub type AnswerSink = Arc<dyn Fn(u64, ArbiterAnswer) + Send + Sync>;

/// A server whose actors run.
pub struct Wired {
    /// HAManager.
    pub manager: Port<HaMessage>,
    /// What it is right now.
    pub board: Arc<Board>,
}

/// Starts the actors and tells HAManager to begin.
pub fn wire(places: &Places, parts: Parts) -> Wired {
    let board = Arc::new(Board::new());
    let ports = Arc::new(OnceLock::new());
    let clock = Arc::clone(&parts.identity.clock);
    let facts = initial_facts(&parts.store, parts.last_record.as_ref());
    let manager = {
        let own = OwnStore {
            store: facts.store,
            position: facts.position,
            sync_in_progress: facts.sync_in_progress,
        };
        let single = parts.ha.mode == HaMode::Single;
        let machine = HaMachine::new(parts.ha, own, parts.last_record);
        let timing = HaTiming::new(parts.intervals, parts.lease, single, clock.now());
        let (store, identity) = (Arc::clone(&parts.store), parts.identity);
        let (board, ports) = (Arc::clone(&board), Arc::clone(&ports));
        let address = places.start(Place::Ha, move |_| {
            HaManager::new(identity, machine, timing, store, board, ports)
        });
        Port::new("ha_manager", address.recipient())
    };
    let common = Common {
        manager: &manager,
        board: &board,
        clock: &clock,
    };
    let replicator = start_replicator(
        places,
        ReplicationMachine::new(parts.replication),
        parts.store,
        &parts.sink,
        &common,
    );
    let pair = parts
        .pair
        .map(|pair| start_pair(places, pair, facts, &replicator, &common));
    let clients = (parts.clients)(manager.clone());
    let link = pair.as_ref().map(|pair| pair.link.clone());
    assert!(
        ports
            .set(HaPorts {
                replicator,
                clients,
                pair
            })
            .is_ok(),
        "a server is wired once"
    );
    post(&manager, HaMessage::Start);
    if let Some(link) = link {
        post(&link, LinkCommand::Start);
    }
    Wired { manager, board }
}

struct Common<'a> {
    manager: &'a Port<HaMessage>,
    board: &'a Arc<Board>,
    clock: &'a Arc<dyn Clock>,
}

fn start_replicator(
    places: &Places,
    machine: ReplicationMachine,
    store: SharedStore,
    sink: &ServerSink,
    common: &Common<'_>,
) -> Port<ReplicatorCommand> {
    let (manager, board, clock) = (
        common.manager.clone(),
        Arc::clone(common.board),
        Arc::clone(common.clock),
    );
    let listens = sink.listens();
    let address = places.start(Place::Peer, move |_| {
        Replicator::new(machine, store, board, manager, listens, clock)
    });
    let port = Port::new("replicator", address.recipient());
    sink.join(port.clone());
    port
}

/// The actors that only a server of a pair has.
fn start_pair(
    places: &Places,
    pair: PairParts,
    facts: PeerFacts,
    replicator: &Port<ReplicatorCommand>,
    common: &Common<'_>,
) -> PairPorts {
    let lock = start_arbiter_side(
        places,
        pair.arbiter,
        pair.prober,
        pair.lock,
        pair.gateway,
        common,
    );
    let machine = LinkMachine::new(pair.link, facts, common.clock.now());
    let ports = LinkPorts {
        manager: common.manager.clone(),
        replicator: replicator.clone(),
    };
    let link = start_link(
        places,
        machine,
        pair.net,
        pair.listener,
        ports,
        common.board,
        common.clock,
    );
    PairPorts { lock, link }
}

fn start_arbiter_side(
    places: &Places,
    arbiter: Box<dyn FnOnce(AnswerSink) -> Arc<dyn Arbiter>>,
    prober: Box<dyn FnOnce(Port<GatewayMessage>) -> Box<dyn Prober>>,
    lock: LockConfig,
    gateway: GatewayConfig,
    common: &Common<'_>,
) -> Port<crate::machines::lock::LockCommand> {
    // The answers go to an actor that needs the arbiter to be made: a cell breaks the circle.
    let keeper_cell: Arc<OnceLock<Port<ArbiterAnswered>>> = Arc::default();
    let answers: AnswerSink = {
        let keeper = Arc::clone(&keeper_cell);
        Arc::new(move |id, answer| {
            if let Some(keeper) = keeper.get() {
                post(keeper, ArbiterAnswered { id, answer });
            }
        })
    };
    let arbiter = arbiter(answers);
    let gateway_port = {
        let (manager, board, clock) = (
            common.manager.clone(),
            Arc::clone(common.board),
            Arc::clone(common.clock),
        );
        let machine = GatewayMachine::new(gateway);
        let relay = RelayProber {
            cell: Arc::new(std::sync::Mutex::new(None)),
        };
        let slot = Arc::clone(&relay.cell);
        let address = places.start(Place::Ha, move |_| {
            GatewayPinger::new(machine, Box::new(relay), board, manager, clock)
        });
        let port = Port::new("gateway_pinger", address.recipient());
        *slot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(prober(port.clone()));
        port
    };
    let ports = LockPorts {
        manager: common.manager.clone(),
        gateway: gateway_port.clone(),
    };
    let clock = Arc::clone(common.clock);
    let machine = LockMachine::new(lock);
    let keeper = places.start(Place::Ha, move |_| {
        LockKeeper::new(machine, arbiter, ports, clock)
    });
    let answered = Port::new("lock_keeper", keeper.clone().recipient());
    assert!(keeper_cell.set(answered).is_ok(), "set once");
    post(&gateway_port, GatewayMessage::Start);
    Port::new("lock_keeper", keeper.recipient())
}

fn start_link(
    places: &Places,
    machine: LinkMachine,
    net: Arc<dyn Net>,
    listener: Box<dyn FnOnce() -> Box<dyn PeerListener> + Send>,
    ports: LinkPorts,
    board: &Arc<Board>,
    clock: &Arc<dyn Clock>,
) -> Port<LinkCommand> {
    let peer = machine.peer_address().to_owned();
    let (board, clock) = (Arc::clone(board), Arc::clone(clock));
    let address = places.start(Place::Peer, move |ctx| {
        let own = Port::new(
            "connection_manager",
            actix::prelude::AsyncContext::address(ctx).recipient(),
        );
        let transport = StreamTransport::new(net, peer.clone(), own, Arc::clone(&clock));
        transport.accept_from(listener());
        ConnectionManager::new(machine, Box::new(transport), board, ports, peer, clock)
    });
    Port::new("connection_manager", address.recipient())
}

/// The prober needs the pinger's address, the pinger its prober.
struct RelayProber {
    cell: Arc<std::sync::Mutex<Option<Box<dyn Prober>>>>,
}

impl Prober for RelayProber {
    fn probe(&self, probe_id: u64, targets: Vec<String>, timeout: std::time::Duration) {
        let cell = self
            .cell
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(prober) = cell.as_ref() {
            prober.probe(probe_id, targets, timeout);
        }
    }
}

fn initial_facts(store: &SharedStore, last_record: Option<&ArbiterRecord>) -> PeerFacts {
    let log = store.log_facts();
    PeerFacts {
        state: ServerState::Waiting,
        previous: ServerState::Dead,
        claiming: false,
        epoch: Epoch::ZERO,
        store: log.store,
        position: log.durable,
        sync_in_progress: log.sync_in_progress,
        arbiter: last_record.map(|record| record.arbiter),
        last_record: last_record.map(|record| record.seq).unwrap_or_default(),
        eligible: false,
        lock: None,
    }
}
