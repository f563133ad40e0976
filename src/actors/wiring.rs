//! Joins the actors: the only place that knows who is whose neighbour. It is given the traits of the
//! outside world (store, arbiter, network, probes, clock, client side), real ones in a server and
//! in-memory ones in the simulator, and starts the same actors on either.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use actix::prelude::{AsyncContext, Context};

use tokio::sync::oneshot;

use crate::actors::board::Board;
use crate::actors::client_roll::{ClientRoll, RollTransport};
use crate::actors::connection_manager::{ConnectionManager, LinkCommand, LinkPorts};
use crate::actors::gateway_pinger::{GatewayMessage, GatewayPinger, Prober};
use crate::actors::ha_chronicle::Chronicle;
use crate::actors::ha_manager::{ClientSide, HaIdentity, HaManager, HaMessage, HaPorts, PairPorts};
use crate::actors::ha_timing::{HaIntervals, HaTiming};
use crate::actors::lease::Lease;
use crate::actors::lock_keeper::{ArbiterAnswered, LockKeeper, LockPorts};
use crate::actors::peer_transport::{Nonces, StreamTransport};
use crate::actors::places::{Place, Places};
use crate::actors::post::{Port, post};
use crate::actors::replicator::{Replicator, ReplicatorCommand};
use crate::actors::store_sink::ServerSink;
use crate::io::peer_tcp::{Net, PeerListener};
use crate::io::watchdog::Watchdog;
use crate::machines::gateway::{GatewayConfig, GatewayMachine};
use crate::machines::ha::{HaConfig, HaMode, OwnStore, RoleMachine};
use crate::machines::link::{LinkConfig, LinkMachine};
use crate::machines::lock::{LockCommand, LockConfig, LockMachine};
use crate::machines::replication::{ReplicationConfig, ReplicationMachine};
use crate::proto::arbiter::{Arbiter, ArbiterAnswer, ArbiterRecord};
use crate::proto::ids::Epoch;
use crate::proto::peer::{PeerFacts, ServerState};
use crate::storage::api::{LogFacts, SharedStore, StoreDoor};
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
    /// Its event history.
    pub history: Arc<dyn Chronicle>,
    /// The roll of clients; the client side keeps it.
    pub roll: Arc<ClientRoll>,
    /// What only a server of a pair has.
    pub pair: Option<PairParts>,
    /// Shared mode: how the store, closed at the start, is opened.
    pub door: Option<Arc<dyn StoreDoor>>,
}

/// The peer's and the arbiter's side of a server.
pub struct PairParts {
    /// Makes the arbiter, given where its answers go.
    pub arbiter: Box<dyn FnOnce(AnswerSink) -> Arc<dyn Arbiter> + Send>,
    /// Makes the prober, given where its answers go.
    pub prober: Box<dyn FnOnce(Port<GatewayMessage>) -> Box<dyn Prober> + Send>,
    /// The network.
    pub net: Arc<dyn Net>,
    /// Gives the listener of the HA port, on the thread where it will be used.
    pub listener: Box<dyn FnOnce() -> Box<dyn PeerListener> + Send>,
    /// Random bytes for the channel's handshakes.
    pub nonces: Nonces,
    /// The channel.
    pub link: LinkConfig,
    /// The lock's pace.
    pub lock: LockConfig,
    /// The gateway's.
    pub gateway: GatewayConfig,
    /// Who ends this process when it hangs, and tells the peer (A8).
    pub watchdog: Option<Arc<dyn Watchdog>>,
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
    let common = Common {
        places,
        board: Arc::new(Board::new()),
        store: Arc::clone(&parts.store),
        clock: Arc::clone(&parts.identity.clock),
        roll: parts.roll,
    };
    let log = parts.store.log_facts();
    let facts = initial_facts(parts.ha.mode, &log, parts.last_record.as_ref());
    let ports = Arc::new(OnceLock::new());
    let role = Role {
        machine: RoleMachine::new(parts.ha.clone(), OwnStore::from(&log), parts.last_record),
        timing: HaTiming::new(
            parts.intervals,
            parts.lease,
            parts.ha.mode == HaMode::Single,
            common.clock.now(),
        ),
        identity: parts.identity,
        ports: Arc::clone(&ports),
    };
    let manager = start_manager(&common, role);
    let replicator = start_replicator(&common, parts.replication, parts.sink.listens(), &manager);
    parts.sink.join(replicator.clone());
    let pair = parts
        .pair
        .map(|pair| start_pair(&common, pair, facts, &manager, &replicator));
    let clients = (parts.clients)(manager.clone());
    let (pair, begin) = pair.unzip();
    let filled = ports.set(HaPorts {
        replicator,
        clients,
        history: parts.history,
        pair,
        door: parts.door,
    });
    assert!(filled.is_ok(), "a server is wired once");
    // Nobody may post to HAManager before it has its ports: whatever could do so begins only now.
    post(&manager, HaMessage::Start);
    if let Some(begin) = begin {
        post(&begin.gateway, GatewayMessage::Start);
        post(&begin.link, LinkCommand::Start);
        assert!(
            begin.accept.send(()).is_ok(),
            "the acceptor waits for its start"
        );
    }
    Wired {
        manager,
        board: common.board,
    }
}

/// What every actor is started with.
struct Common<'a> {
    places: &'a Places,
    board: Arc<Board>,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    roll: Arc<ClientRoll>,
}

/// What HAManager is made of.
struct Role {
    machine: RoleMachine,
    timing: HaTiming,
    identity: HaIdentity,
    ports: Arc<OnceLock<HaPorts>>,
}

fn start_manager(common: &Common<'_>, role: Role) -> Port<HaMessage> {
    let (store, board) = (Arc::clone(&common.store), Arc::clone(&common.board));
    let address = common.places.start(Place::Ha, move |_| {
        HaManager::new(
            role.identity,
            role.machine,
            role.timing,
            store,
            board,
            role.ports,
        )
    });
    Port::new("ha_manager", address.recipient())
}

fn start_replicator(
    common: &Common<'_>,
    config: ReplicationConfig,
    listens: Arc<AtomicBool>,
    manager: &Port<HaMessage>,
) -> Port<ReplicatorCommand> {
    let machine = ReplicationMachine::new(config);
    let (store, board) = (Arc::clone(&common.store), Arc::clone(&common.board));
    let (manager, clock) = (manager.clone(), Arc::clone(&common.clock));
    let address = common.places.start(Place::Peer, move |_| {
        Replicator::new(machine, store, board, manager, listens, clock)
    });
    Port::new("replicator", address.recipient())
}

/// Those that begin by themselves, and wait for it.
struct Begin {
    gateway: Port<GatewayMessage>,
    link: Port<LinkCommand>,
    accept: oneshot::Sender<()>,
}

fn start_pair(
    common: &Common<'_>,
    pair: PairParts,
    facts: PeerFacts,
    manager: &Port<HaMessage>,
    replicator: &Port<ReplicatorCommand>,
) -> (PairPorts, Begin) {
    let gateway = start_gateway(common, pair.gateway, pair.prober, manager);
    let ports = LockPorts {
        manager: manager.clone(),
        gateway: gateway.clone(),
    };
    let lock = start_lock(common, pair.lock, pair.arbiter, ports);
    let machine = LinkMachine::new(pair.link, facts, common.clock.now());
    let ports = LinkPorts {
        manager: manager.clone(),
        replicator: replicator.clone(),
        roll: Arc::clone(&common.roll),
    };
    let (accept, begun) = oneshot::channel();
    let way = Way {
        net: pair.net,
        listener: pair.listener,
        nonces: pair.nonces,
        begun,
    };
    let link = start_link(common, machine, way, ports);
    let begin = Begin {
        gateway,
        link: link.clone(),
        accept,
    };
    let watchdog = pair.watchdog;
    (
        PairPorts {
            lock,
            link,
            watchdog,
        },
        begin,
    )
}

fn start_gateway(
    common: &Common<'_>,
    config: GatewayConfig,
    prober: Box<dyn FnOnce(Port<GatewayMessage>) -> Box<dyn Prober> + Send>,
    manager: &Port<HaMessage>,
) -> Port<GatewayMessage> {
    let machine = GatewayMachine::new(config);
    let (manager, board) = (manager.clone(), Arc::clone(&common.board));
    let clock = Arc::clone(&common.clock);
    let address = common.places.start(Place::Ha, move |ctx| {
        let own = Port::new("gateway_pinger", ctx.address().recipient());
        GatewayPinger::new(machine, prober(own), board, manager, clock)
    });
    Port::new("gateway_pinger", address.recipient())
}

fn start_lock(
    common: &Common<'_>,
    config: LockConfig,
    arbiter: Box<dyn FnOnce(AnswerSink) -> Arc<dyn Arbiter> + Send>,
    ports: LockPorts,
) -> Port<LockCommand> {
    let machine = LockMachine::new(config);
    let clock = Arc::clone(&common.clock);
    let address = common
        .places
        .start(Place::Ha, move |ctx: &mut Context<LockKeeper>| {
            let own = Port::new("lock_keeper", ctx.address().recipient());
            let answers: AnswerSink =
                Arc::new(move |id, answer| post(&own, ArbiterAnswered { id, answer }));
            LockKeeper::new(machine, arbiter(answers), ports, clock)
        });
    Port::new("lock_keeper", address.recipient())
}

/// What connections to the peer are made of.
struct Way {
    net: Arc<dyn Net>,
    listener: Box<dyn FnOnce() -> Box<dyn PeerListener> + Send>,
    nonces: Nonces,
    begun: oneshot::Receiver<()>,
}

fn start_link(
    common: &Common<'_>,
    machine: LinkMachine,
    way: Way,
    ports: LinkPorts,
) -> Port<LinkCommand> {
    let peer = machine.peer_address().to_owned();
    let (board, clock) = (Arc::clone(&common.board), Arc::clone(&common.clock));
    let address = common
        .places
        .start(Place::Peer, move |ctx: &mut Context<ConnectionManager>| {
            let own = Port::new("connection_manager", ctx.address().recipient());
            let clock_of_frames = Arc::clone(&clock);
            let transport =
                StreamTransport::new(way.net, peer.clone(), way.nonces, own, clock_of_frames);
            transport.accept_from((way.listener)(), way.begun);
            let transport = RollTransport::new(Box::new(transport), Arc::clone(&ports.roll));
            ConnectionManager::new(machine, Box::new(transport), board, ports, peer, clock)
        });
    Port::new("connection_manager", address.recipient())
}

fn initial_facts(mode: HaMode, log: &LogFacts, last_record: Option<&ArbiterRecord>) -> PeerFacts {
    PeerFacts {
        state: match mode {
            HaMode::Single | HaMode::Replicated => ServerState::Waiting,
            HaMode::Shared => ServerState::Passive,
        },
        previous: ServerState::Dead,
        claiming: false,
        epoch: Epoch::ZERO,
        store: log.store,
        position: log.durable,
        sync_in_progress: log.sync_in_progress,
        arbiter: last_record.map(|record| record.arbiter),
        last_record: last_record.map(|record| record.seq).unwrap_or_default(),
        looked: false,
        eligible: false,
        lock: None,
    }
}
