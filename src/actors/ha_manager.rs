//! HAManager: which role does this server have?
//! Owns: RoleMachine, its clockwork. Sends: LockCommand to LockKeeper, LinkCommand to
//! ConnectionManager, ReplicatorCommand to Replicator, serve/stop/drain to the client side.
//! Does not: touch a socket, a file, a client's message or the store's data.

use std::sync::{Arc, OnceLock};

use actix::prelude::{Actor, AsyncContext, Context, Handler};

use crate::actors::board::Board;
use crate::actors::connection_manager::LinkCommand;
pub use crate::actors::ha_inbox::{HaMessage, LinkEvent};
use crate::actors::ha_inputs::{input_of_report, proof_of};
use crate::actors::ha_operator::input_of_set_aside;
pub use crate::actors::ha_ports::{ClientSide, HaIdentity, HaPorts, PairPorts};
use crate::actors::ha_timing::HaTiming;
use crate::actors::post::{Port, Posted, post};
use crate::actors::replicator::ReplicatorCommand;
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::ha::{ExitCause, HaEffect, HaInput, RoleMachine};
use crate::machines::lock::{LockCommand, LockPace, RecordCall};
use crate::proto::arbiter::ArbiterCall;
use crate::proto::history::EventKind;
use crate::storage::api::{SharedStore, StoreCall};
use crate::time::Moment;

/// The actor.
pub struct HaManager {
    pub(super) shell: Shell<HaEffect>,
    pub(super) machine: RoleMachine,
    pub(super) timing: HaTiming,
    pub(super) identity: HaIdentity,
    pub(super) store: SharedStore,
    pub(super) board: Arc<Board>,
    /// Filled by the wiring before the first message.
    pub(super) ports: Arc<OnceLock<HaPorts>>,
    pub(super) last_refusal: String,
}

impl HaManager {
    /// An actor that waits for `HaMessage::Start`.
    #[must_use]
    pub fn new(
        identity: HaIdentity,
        machine: RoleMachine,
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

    pub(super) fn ports(&self) -> &HaPorts {
        self.ports
            .get()
            .expect("wiring fills the ports before it posts Start")
    }

    fn feed(&mut self, input: HaInput, effects: &mut Vec<HaEffect>) {
        let own = self.own();
        self.machine.step(own, input, effects);
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
}

impl HaManager {
    /// Shared mode: the answer comes back as a message.
    fn ask_store(&self, ctx: &Context<Self>, id: u64, call: StoreCall) {
        let own = Port::new("ha_manager", ctx.address().recipient());
        let door = self.ports().door.as_ref();
        door.expect("the wiring of shared mode has the store's door")
            .call(
                call,
                Box::new(move |answer| post(&own, HaMessage::Store { id, answer })),
            );
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
        // Judged before anything else: the process may have been paused since the last step.
        if self.timing.lease_is_over(now) {
            tracing::error!(target: "twinmq::ha", "the lease is over");
            self.serving_ends();
            self.feed(HaInput::LeaseExpired, effects);
        }
        let proof = proof_of(input.as_ref());
        let input = input.and_then(|message| match message {
            HaMessage::Start => Some(HaInput::Started),
            HaMessage::Link(event) => self.input_of_link(event),
            HaMessage::Lock(report) => Some(self.input_of_lock(now, report)),
            HaMessage::Gateway(verdict) => Some(self.input_of_gateway(verdict)),
            HaMessage::Replication(report) => Some(input_of_report(report)),
            HaMessage::RecordPersisted => Some(HaInput::Persisted),
            HaMessage::EpochBegun(epoch) => Some(HaInput::EpochBegun(epoch)),
            HaMessage::EpochRefused(why) => Some(HaInput::EpochRefused(why)),
            HaMessage::ClientsDrained => Some(HaInput::ClientsDrained),
            HaMessage::Stop => Some(self.input_of_stop()),
            HaMessage::Operator(order) => self.input_of_order(order),
            HaMessage::SetAside { epoch, outcome } => Some(input_of_set_aside(epoch, outcome)),
            HaMessage::Store { id, answer } => Some(HaInput::StoreAnswered { id, answer }),
            HaMessage::PeerDied { node, epoch } => Some(HaInput::PeerDied { node, epoch }),
            HaMessage::Explain(asked) => {
                asked.0(self.explained(now));
                None
            }
        });
        if let Some(input) = input {
            tracing::debug!(target: "twinmq::ha", ?input, state = self.machine.phase());
            self.feed(input, effects);
        }
        if let Some(sent_at) = proof
            && self.machine.holds_lock()
        {
            self.timing.proven(sent_at);
        }
        while let Some(timer) = self.timing.take_due(now) {
            self.feed(HaInput::Timer(timer), effects);
        }
        if self.timing.take_beat(now) {
            self.beat();
        }
        self.publish();
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each effect")]
    fn run(&mut self, ctx: &mut Context<Self>, effect: HaEffect) {
        let ports = Arc::clone(&self.ports);
        let ports = ports
            .get()
            .expect("wiring fills the ports before it posts Start");
        match effect {
            HaEffect::Arm(timer) => self.arm(timer),
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
                // The right to speak comes before the port: whoever connects at once would else be
                // closed again without a word.
                self.serving_begins(epoch);
                ports.clients.serve(epoch);
                self.beat();
            }
            HaEffect::CloseClients { reason } => {
                ports.clients.stop_serving(&reason);
                self.serving_ends();
            }
            HaEffect::DrainClients => self.drain_clients(),
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
            HaEffect::SayGoodbye { epoch } => {
                // The peer has been there until now; PassiveInterval counts from here.
                self.timing.peer_heard(self.identity.clock.now());
                ports.to_link(LinkCommand::Goodbye { epoch });
            }
            HaEffect::Announce(said) => self.announce(&said),
            HaEffect::PeerChanged { old, new } => {
                tracing::info!(target: "twinmq::ha", "Old status of remote server = {old}");
                tracing::info!(target: "twinmq::ha", "New status of remote server = {new}");
                self.note_peer(old, new);
            }
            HaEffect::SteppedDown { reason } => {
                tracing::error!(target: "twinmq::ha", reason, "this server stepped down");
                self.note(EventKind::SteppedDown, reason);
            }
            HaEffect::Alarmed { reason } => {
                tracing::error!(target: "twinmq::ha", reason, "this server cannot go on as it should");
                self.note(EventKind::Alarm, reason);
            }
            HaEffect::ClaimRefused { reason } => self.refused(reason),
            HaEffect::Store { id, call } => self.ask_store(ctx, id, call),
            HaEffect::Exit(cause) => {
                self.serving_ends();
                // A server that steps down is watched to its end: only that frees a shared store.
                let in_order = !matches!(cause, ExitCause::SteppedDown(_));
                if let Some(watchdog) = ports.watchdog().filter(|_| in_order) {
                    watchdog.dismiss();
                }
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
