//! HAManager: which role does this server have?
//! Owns: HaMachine, its clockwork. Sends: LockCommand to LockKeeper, LinkCommand to
//! ConnectionManager, ReplicatorCommand to Replicator, serve/stop/drain to the client side.
//! Does not: touch a socket, a file, a client's message or the store's data.

use std::sync::{Arc, OnceLock};

use actix::prelude::{Actor, Context, Handler};

use crate::actors::board::Board;
use crate::actors::connection_manager::LinkCommand;
use crate::actors::ha_timing::HaTiming;
use crate::actors::post::{Port, Posted, post};
use crate::actors::replicator::ReplicatorCommand;
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::gateway::GatewayVerdict;
use crate::machines::ha::{
    Announcement, ExitCause, HaEffect, HaInput, HaMachine, HeldLock, LinkEnd, OwnStore,
};
use crate::machines::lock::{LockCommand, LockPace, LockReport, RecordCall};
use crate::machines::replication::ReplicationReport;
use crate::proto::arbiter::{ArbiterCall, ArbiterRecord};
use crate::proto::ids::{Epoch, NodeId, SessionId, StoreId};
use crate::proto::peer::{Hello, PeerFacts, ServerState};
use crate::storage::api::SharedStore;
use crate::time::{Clock, Moment, rfc3339};

/// Facts for HAManager, from its leaves.
#[derive(Debug)]
pub enum HaMessage {
    /// Wiring is done.
    Start,
    /// From ConnectionManager.
    Link(LinkEvent),
    /// From LockKeeper.
    Lock(LockReport),
    /// From GatewayPinger.
    Gateway(GatewayVerdict),
    /// From Replicator.
    Replication(ReplicationReport),
    /// The record is in `node/`.
    RecordPersisted,
    /// The epoch is in the log, durably.
    EpochBegun(Epoch),
    /// Clients are answered and gone.
    ClientsDrained,
    /// End in order.
    Stop,
}

/// What happens on the HA channel, as far as roles go.
#[derive(Debug)]
pub enum LinkEvent {
    /// The channel is up.
    Up {
        /// Its session.
        session: SessionId,
        /// What the peer said.
        hello: Box<Hello>,
    },
    /// The channel is down.
    Down {
        /// Its session.
        session: SessionId,
        /// How it ended.
        end: LinkEnd,
        /// When the peer was heard last.
        last_heard: Moment,
    },
    /// The peer's facts.
    Facts {
        /// In which session.
        session: SessionId,
        /// The facts.
        facts: PeerFacts,
    },
    /// The peer ends in order.
    Goodbye {
        /// In which session.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// A ping was answered.
    Answered {
        /// When it had been sent.
        ping_sent_at: Moment,
    },
    /// The peer's ping was answered.
    ReplySent {
        /// When.
        at: Moment,
    },
    /// The peer does not fit.
    Mismatch {
        /// The differences.
        reason: String,
    },
}

/// The client side, as HAManager commands it.
pub trait ClientSide: Send + Sync {
    /// Listen and serve, in this epoch.
    fn serve(&self, epoch: Epoch);
    /// Close the port and every connection now.
    fn stop_serving(&self, reason: &str);
    /// Answer what was sent, then close; `ClientsDrained` comes back.
    fn drain(&self);
    /// End the process, in order.
    fn end_process(&self, cause: &ExitCause);
}

/// HAManager's neighbours.
pub struct HaPorts {
    /// Replicator.
    pub replicator: Port<ReplicatorCommand>,
    /// The client side and the process.
    pub clients: Arc<dyn ClientSide>,
    /// What only a server of a pair has.
    pub pair: Option<PairPorts>,
}

/// The neighbours that deal with the peer and the arbiter.
pub struct PairPorts {
    /// LockKeeper.
    pub lock: Port<LockCommand>,
    /// ConnectionManager.
    pub link: Port<LinkCommand>,
}

impl HaPorts {
    fn to_lock(&self, command: LockCommand) {
        if let Some(pair) = &self.pair {
            post(&pair.lock, command);
        }
    }

    fn to_link(&self, command: LinkCommand) {
        if let Some(pair) = &self.pair {
            post(&pair.link, command);
        }
    }
}

/// What HAManager knows of its server and never changes.
pub struct HaIdentity {
    /// This server.
    pub node: NodeId,
    /// `Primary`, `Secondary` or `Standalone`, for the console lines.
    pub title: &'static str,
    /// The lock file as configured, for the console lines; empty in standalone mode.
    pub lock_path: String,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
}

/// The actor.
pub struct HaManager {
    shell: Shell<HaEffect>,
    machine: HaMachine,
    timing: HaTiming,
    identity: HaIdentity,
    store: SharedStore,
    board: Arc<Board>,
    /// Filled by the wiring before the first message.
    ports: Arc<OnceLock<HaPorts>>,
    last_refusal: String,
}

impl HaManager {
    /// An actor that waits for `HaMessage::Start`.
    #[must_use]
    pub fn new(
        identity: HaIdentity,
        machine: HaMachine,
        timing: HaTiming,
        store: SharedStore,
        board: Arc<Board>,
        ports: Arc<OnceLock<HaPorts>>,
    ) -> Self {
        let shell = Shell::new("ha_manager", Arc::clone(&identity.clock));
        Self {
            shell,
            machine,
            timing,
            identity,
            store,
            board,
            ports,
            last_refusal: String::new(),
        }
    }

    fn ports(&self) -> &HaPorts {
        self.ports
            .get()
            .expect("wiring fills the ports before it posts Start")
    }

    fn own(&self) -> OwnStore {
        let facts = self.store.log_facts();
        OwnStore {
            store: facts.store,
            position: facts.durable,
            sync_in_progress: facts.sync_in_progress,
        }
    }

    /// Every half ping interval: the peer and the lock file learn where this server is.
    fn beat(&self) {
        self.ports().to_link(LinkCommand::OwnFacts(self.facts()));
        if self.machine.holds_lock() {
            let epoch = self.machine.epoch();
            self.ports().to_lock(LockCommand::Heartbeat {
                epoch,
                positions: self.positions(),
            });
        }
    }

    /// A1: how far each store of the in-sync set is durable, at least.
    fn positions(&self) -> Vec<(StoreId, crate::proto::ids::Position)> {
        let in_sync = |store: &StoreId| {
            self.machine
                .record()
                .is_some_and(|record| record.holds(*store))
        };
        let own = self.own();
        let follower = self.board.replication().follower;
        [Some((own.store, own.position)), follower]
            .into_iter()
            .flatten()
            .filter(|(store, _)| in_sync(store))
            .collect()
    }

    fn facts(&self) -> PeerFacts {
        let own = self.own();
        PeerFacts {
            state: self.machine.shown(),
            previous: self.machine.previous(),
            claiming: self.machine.state().claiming(),
            epoch: self.machine.epoch(),
            store: own.store,
            position: own.position,
            sync_in_progress: own.sync_in_progress,
            arbiter: self.machine.last_record().map(|record| record.arbiter),
            last_record: self
                .machine
                .last_record()
                .map(|record| record.seq)
                .unwrap_or_default(),
            eligible: self.machine.eligible(),
            lock: self.machine.lock_identity(),
        }
    }

    fn publish(&self) {
        let mut role = self.board.role();
        role.epoch = self.machine.epoch();
        role.in_sync = self
            .machine
            .record()
            .map(|record| record.isr.clone())
            .unwrap_or_default();
        role.owner = self.machine.record().map(|record| record.owner);
        role.lock_held = self.machine.holds_lock();
        role.claims = self.machine.claims().clone();
        role.reason = self.machine.reason().map(str::to_owned);
    }

    fn announce(&self, said: &Announcement) {
        let mut role = self.board.role();
        let changed = role.since_ms == 0 || role.state != said.state;
        if changed {
            role.since_ms = self.identity.clock.wall_ms();
            role.previous = said.previous;
            role.state = said.state;
        }
        let since = rfc3339(role.since_ms);
        drop(role);
        self.ports().to_link(LinkCommand::OwnFacts(self.facts()));
        if changed {
            tracing::info!(target: "twinmq::ha", from = %said.previous, to = %said.state,
                epoch = said.epoch.0, since, "{} Server switched to {}", self.identity.title, said.state);
            if said.state == ServerState::Waiting && self.machine.peer().is_none() {
                tracing::info!(target: "twinmq::ha",
                    "Backup Server not Connected. Check configuration or Start backup Server ...");
            }
        }
    }

    fn call_arbiter(&self, id: u64, call: ArbiterCall) {
        let call = match call {
            ArbiterCall::Read => RecordCall::Read,
            ArbiterCall::Create(record) => RecordCall::Create(record),
            ArbiterCall::CompareAndSet(record) => RecordCall::CompareAndSet(record),
            ArbiterCall::TryLock | ArbiterCall::Unlock | ArbiterCall::Check(_) => {
                unreachable!("the machine leaves the lock to LockKeeper")
            }
        };
        self.ports().to_lock(LockCommand::Ask { ticket: id, call });
    }

    fn refused(&mut self, reason: String) {
        if self.last_refusal != reason {
            tracing::warn!(target: "twinmq::ha", reason, "this server may not serve");
            self.last_refusal = reason;
        }
    }

    fn input_of_link(&mut self, event: LinkEvent) -> Option<HaInput> {
        match event {
            LinkEvent::Up { session, hello } => Some(HaInput::LinkUp { session, hello }),
            LinkEvent::Down {
                session,
                end,
                last_heard,
            } => {
                self.timing.peer_heard(last_heard);
                Some(HaInput::LinkDown {
                    session,
                    cause: end,
                })
            }
            LinkEvent::Facts { session, facts } => Some(HaInput::PeerFacts { session, facts }),
            LinkEvent::Goodbye { session, epoch } => Some(HaInput::PeerGoodbye { session, epoch }),
            LinkEvent::Answered { ping_sent_at } => {
                if self.machine.pings_extend_lease() {
                    self.timing.proven(ping_sent_at);
                }
                None
            }
            LinkEvent::ReplySent { at } => {
                self.timing.reply_sent(at);
                None
            }
            LinkEvent::Mismatch { reason } => {
                tracing::error!(target: "twinmq::ha", "{reason}");
                Some(HaInput::PeerMismatch { reason })
            }
        }
    }

    fn input_of_lock(&mut self, now: Moment, report: LockReport) -> HaInput {
        match report {
            LockReport::Acquired {
                lock,
                record,
                sent_at,
            } => {
                self.timing.lock_obtained(sent_at, now);
                tracing::info!(target: "twinmq::lock", "Successfully acquired lock on: {}",
                    self.identity.lock_path);
                HaInput::LockAcquired(HeldLock { lock, record })
            }
            LockReport::Refused { holder } => HaInput::LockRefused { holder },
            LockReport::Confirmed { sent_at, record } => {
                self.timing.proven(sent_at);
                HaInput::LockConfirmed { record }
            }
            LockReport::Lost { reason } => {
                tracing::error!(target: "twinmq::lock", reason, "the lock was lost");
                HaInput::LockLost { reason }
            }
            LockReport::Unreachable { reason } => {
                tracing::warn!(target: "twinmq::lock", reason, "the lock file does not answer");
                HaInput::LockUnreachable { reason }
            }
            LockReport::Released => HaInput::LockReleased,
            LockReport::Answered { ticket, answer } => {
                HaInput::ArbiterAnswered { id: ticket, answer }
            }
        }
    }
}

/// Whether the machine, or only the clockwork, is concerned.
fn input_of_report(report: ReplicationReport) -> HaInput {
    match report {
        ReplicationReport::SyncDone { session, store } => HaInput::SyncDone { session, store },
        ReplicationReport::PeerHoldsAll { session } => HaInput::PeerHoldsAll { session },
        ReplicationReport::InSync { session, epoch } => HaInput::InSync { session, epoch },
        ReplicationReport::Progress { session } => HaInput::SyncProgress { session },
        ReplicationReport::SyncFailed { session, reason } => {
            tracing::warn!(target: "twinmq::repl", reason, "the resync failed, it will start over");
            HaInput::SyncFailed { session, reason }
        }
        ReplicationReport::AckOverdue { session } => {
            tracing::warn!(target: "twinmq::repl", "the passive does not acknowledge in time");
            HaInput::AckOverdue { session }
        }
    }
}

impl Actor for HaManager {
    type Context = Context<Self>;
}

impl Handler<Posted<HaMessage>> for HaManager {
    type Result = ();

    fn handle(&mut self, posted: Posted<HaMessage>, ctx: &mut Self::Context) {
        drive(self, ctx, Some(posted.open()));
    }
}

impl Shelled for HaManager {
    /// None: time has passed.
    type Input = Option<HaMessage>;
    type Effect = HaEffect;

    fn shell(&mut self) -> &mut Shell<HaEffect> {
        &mut self.shell
    }

    fn step(&mut self, now: Moment, input: Option<HaMessage>, effects: &mut Vec<HaEffect>) {
        let own = self.own();
        // Judged before anything else: the process may have been paused since the last step.
        if self.timing.lease_is_over(now) {
            tracing::error!(target: "twinmq::ha", "the lease is over");
            self.timing.serve(false);
            self.machine.step(own, HaInput::LeaseExpired, effects);
        }
        let input = input.and_then(|message| match message {
            HaMessage::Start => Some(HaInput::Started),
            HaMessage::Link(event) => self.input_of_link(event),
            HaMessage::Lock(report) => Some(self.input_of_lock(now, report)),
            HaMessage::Gateway(verdict) => Some(HaInput::GatewayUnreachable(
                verdict == GatewayVerdict::Unreachable,
            )),
            HaMessage::Replication(report) => Some(input_of_report(report)),
            HaMessage::RecordPersisted => Some(HaInput::Persisted),
            HaMessage::EpochBegun(epoch) => Some(HaInput::EpochBegun(epoch)),
            HaMessage::ClientsDrained => Some(HaInput::ClientsDrained),
            HaMessage::Stop => Some(HaInput::StopRequested),
        });
        if let Some(input) = input {
            tracing::debug!(target: "twinmq::ha", ?input, state = ?self.machine.state());
            self.machine.step(own, input, effects);
        }
        while let Some(timer) = self.timing.take_due(now) {
            self.machine.step(own, HaInput::Timer(timer), effects);
        }
        if self.timing.take_beat(now) {
            self.beat();
        }
        self.publish();
    }

    fn run(&mut self, _: &mut Context<Self>, effect: HaEffect) {
        let ports = Arc::clone(&self.ports);
        let ports = ports
            .get()
            .expect("wiring fills the ports before it posts Start");
        match effect {
            HaEffect::Arm(timer) => self.timing.arm(timer, self.identity.clock.now()),
            HaEffect::Disarm(timer) => self.timing.disarm(timer),
            HaEffect::Arbiter { id, call } => self.call_arbiter(id, call),
            HaEffect::AcquireLock => {
                ports.to_lock(LockCommand::Acquire(LockPace::AfterEnd));
            }
            HaEffect::RecoverLock => {
                ports.to_lock(LockCommand::Acquire(LockPace::Reacquire));
            }
            HaEffect::ReleaseLock => ports.to_lock(LockCommand::Release),
            HaEffect::Persist(record) => {
                post(&ports.replicator, ReplicatorCommand::Persist(record));
            }
            HaEffect::Gate(policy) => post(&ports.replicator, ReplicatorCommand::Gate(policy)),
            HaEffect::BeginEpoch(epoch) => {
                post(&ports.replicator, ReplicatorCommand::BeginEpoch(epoch));
            }
            HaEffect::OpenClients { epoch } => {
                ports.clients.serve(epoch);
                self.timing.serve(true);
                self.beat();
            }
            HaEffect::CloseClients { reason } => {
                ports.clients.stop_serving(&reason);
                self.timing.serve(false);
            }
            HaEffect::DrainClients => ports.clients.drain(),
            HaEffect::Lead { session, epoch } => {
                post(
                    &ports.replicator,
                    ReplicatorCommand::Lead { session, epoch },
                );
            }
            HaEffect::Follow { session, epoch } => {
                post(
                    &ports.replicator,
                    ReplicatorCommand::Follow { session, epoch },
                );
            }
            HaEffect::StopReplication => post(&ports.replicator, ReplicatorCommand::Rest),
            HaEffect::SendInSync { session, epoch } => {
                post(
                    &ports.replicator,
                    ReplicatorCommand::InSync { session, epoch },
                );
                self.timing.in_sync();
                self.beat();
            }
            HaEffect::DropLink { session, reason } => {
                ports.to_link(LinkCommand::Drop { session, reason });
            }
            HaEffect::SayGoodbye { epoch } => ports.to_link(LinkCommand::Goodbye { epoch }),
            HaEffect::Announce(said) => self.announce(&said),
            HaEffect::PeerChanged { old, new } => {
                tracing::info!(target: "twinmq::ha", "Old status of remote server = {old}");
                tracing::info!(target: "twinmq::ha", "New status of remote server = {new}");
            }
            HaEffect::SteppedDown { reason } => {
                tracing::error!(target: "twinmq::ha", reason, "this server stepped down");
            }
            HaEffect::ClaimRefused { reason } => self.refused(reason),
            HaEffect::Exit(cause) => {
                self.timing.serve(false);
                ports.clients.end_process(&cause);
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.timing.next()
    }

    fn deadline() -> Option<Option<HaMessage>> {
        Some(None)
    }
}

/// For the record's way into `node/`: as in the arbiter, without a MAC.
#[must_use]
pub fn encode_last_record(record: &ArbiterRecord) -> bytes::Bytes {
    crate::proto::arbiter_codec::encode_record(record, 0, None).into()
}
