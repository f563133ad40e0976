//! Replicator: makes two logs one, and keeps them so.
//! Owns: ReplicationMachine, the way to the peer of the present session. Sends: batches to the peer,
//! jobs to the store, reports to HAManager.
//! Does not: decide roles; own a socket (ConnectionManager does); look into a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::{Actor, Context, Handler};

use crate::actors::board::Board;
use crate::actors::ha_manager::HaMessage;
use crate::actors::post::{Port, Posted, post};
pub use crate::actors::replicator_inbox::{PeerSender, ReplicatorCommand};
use crate::actors::resync_log::{ResyncPlaces, tell_resync};
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::replication::{
    ReplicationEffect, ReplicationInput, ReplicationMachine, ReplicationReport,
};
use crate::proto::arbiter_codec::encode_last_record;
use crate::proto::ids::{Epoch, SessionId};
use crate::proto::log::Batch;
use crate::proto::peer::{Body, Frame};
use crate::storage::api::{Job, SharedStore, StoreEvent};
use crate::storage::error::StoreError;
use crate::time::{Clock, Moment};

/// Requests to the store that the machine does not know of have this bit.
const OUR_REQUEST: u64 = 1 << 63;
/// Of those, the one that copies the store aside.
const SET_ASIDE: u64 = OUR_REQUEST | 1 << 62;

/// The actor.
pub struct Replicator {
    shell: Shell<ReplicationEffect>,
    machine: ReplicationMachine,
    store: SharedStore,
    board: Arc<Board>,
    manager: Port<HaMessage>,
    channel: Option<(SessionId, PeerSender)>,
    places: ResyncPlaces,
    /// Set while there is a role: the store's sink posts batches only then.
    listens: Arc<AtomicBool>,
}

impl Replicator {
    /// An actor without a role. `listens` tells the store's sink whether batches are wanted.
    #[must_use]
    pub fn new(
        machine: ReplicationMachine,
        store: SharedStore,
        board: Arc<Board>,
        manager: Port<HaMessage>,
        listens: Arc<AtomicBool>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shell = Shell::new("replicator", clock);
        Self {
            shell,
            machine,
            store,
            board,
            manager,
            channel: None,
            places: ResyncPlaces::default(),
            listens,
        }
    }

    fn input_of(&mut self, command: ReplicatorCommand) -> Option<ReplicationInput> {
        match command {
            ReplicatorCommand::Lead { session, epoch } => {
                self.listens.store(true, Ordering::Release);
                Some(ReplicationInput::Lead { session, epoch })
            }
            ReplicatorCommand::Follow { session, epoch } => {
                self.listens.store(true, Ordering::Release);
                Some(ReplicationInput::Follow { session, epoch })
            }
            ReplicatorCommand::Rest => {
                self.listens.store(false, Ordering::Release);
                Some(ReplicationInput::Rest)
            }
            ReplicatorCommand::Gate(policy) => {
                let committed = self.store.set_gate(policy);
                Some(ReplicationInput::GateSet { policy, committed })
            }
            ReplicatorCommand::BeginEpoch(epoch) => {
                self.store
                    .run(OUR_REQUEST | epoch.0, Job::BeginEpoch(epoch));
                None
            }
            ReplicatorCommand::Persist(record) => {
                self.store
                    .run(OUR_REQUEST, Job::PersistRecord(encode_last_record(&record)));
                None
            }
            ReplicatorCommand::SetAside { epoch, name, note } => {
                self.store
                    .run(SET_ASIDE | epoch.0, Job::SetAside { name, note });
                None
            }
            ReplicatorCommand::InSync { session, epoch } => {
                self.send(session, Body::InSync { epoch });
                None
            }
            ReplicatorCommand::Channel { session, peer } => {
                self.channel = Some((session, peer));
                None
            }
            ReplicatorCommand::Frame { session, body } => {
                Some(ReplicationInput::Frame { session, body })
            }
            ReplicatorCommand::Store(event) => self.input_of_store(event),
            ReplicatorCommand::Committed(upto) => Some(ReplicationInput::Committed(upto)),
        }
    }

    fn input_of_store(&self, event: StoreEvent) -> Option<ReplicationInput> {
        match event {
            StoreEvent::Cut(batch) => Some(ReplicationInput::Cut(batch)),
            StoreEvent::Durable(position) => Some(ReplicationInput::Durable(position)),
            StoreEvent::LogRead { request, batches } => {
                Some(ReplicationInput::LogRead { request, batches })
            }
            StoreEvent::Done { request, outcome } if request & SET_ASIDE == SET_ASIDE => {
                let epoch = Epoch(request & !SET_ASIDE);
                let outcome = outcome.map(drop).map_err(|refusal| refusal.to_string());
                post(&self.manager, HaMessage::SetAside { epoch, outcome });
                None
            }
            StoreEvent::Done { request, outcome } if request & OUR_REQUEST != 0 => {
                let epoch = Epoch(request & !OUR_REQUEST);
                match outcome {
                    Ok(_) if epoch == Epoch::ZERO => {
                        post(&self.manager, HaMessage::RecordPersisted)
                    }
                    Ok(_) => post(&self.manager, HaMessage::EpochBegun(epoch)),
                    Err(refusal) => {
                        tracing::error!(target: "twinmq::store", %refusal, "a job was refused");
                        post(&self.manager, HaMessage::EpochRefused(refusal.to_string()));
                    }
                }
                None
            }
            StoreEvent::Done { request, outcome } => {
                Some(ReplicationInput::JobDone { request, outcome })
            }
            StoreEvent::Failed(StoreError::ReplicaMismatch(reason)) => {
                Some(ReplicationInput::ReplicaRefused(reason))
            }
            // For the client side, or the end of the process: the sink keeps them away from here.
            StoreEvent::Committed(_)
            | StoreEvent::Fetched(_)
            | StoreEvent::PartsRead { .. }
            | StoreEvent::Failed(_) => None,
        }
    }

    fn send(&self, session: SessionId, body: Body) {
        match &self.channel {
            Some((present, peer)) if *present == session => peer(Frame::Session(session, body)),
            // The channel was replaced or lost; HAManager hears of it in its own time.
            Some(_) | None => {}
        }
    }

    fn send_batch(&self, session: SessionId, batch: Batch) {
        self.send(
            session,
            Body::Batch {
                committed: self.store.committed(),
                batch,
            },
        );
    }
}

impl Actor for Replicator {
    type Context = Context<Self>;
}

impl Handler<Posted<ReplicatorCommand>> for Replicator {
    type Result = ();

    fn handle(&mut self, posted: Posted<ReplicatorCommand>, ctx: &mut Self::Context) {
        if let Some(input) = self.input_of(posted.open()) {
            drive(self, ctx, input);
        }
    }
}

impl Shelled for Replicator {
    type Input = ReplicationInput;
    type Effect = ReplicationEffect;

    fn shell(&mut self) -> &mut Shell<ReplicationEffect> {
        &mut self.shell
    }

    fn step(&mut self, now: Moment, input: ReplicationInput, effects: &mut Vec<ReplicationEffect>) {
        self.machine.step(now, input, effects);
        // What the machine wants to know of the log, it is told at once.
        while let Some(asked) = effects.iter().position(ReplicationEffect::asks_of_the_log) {
            let answer = match effects.remove(asked) {
                ReplicationEffect::MeasureLog { after } => {
                    ReplicationInput::LogBytes(self.store.log_bytes(after))
                }
                _ => ReplicationInput::Log(self.store.log_facts()),
            };
            self.machine.step(now, answer, effects);
        }
        let mut view = self.board.replication();
        view.follower = self.machine.follower_position();
        let progress = self.machine.progress();
        view.sync = self.places.see(now, progress);
    }

    fn run(&mut self, _: &mut Context<Self>, effect: ReplicationEffect) {
        match effect {
            ReplicationEffect::DescribeLog | ReplicationEffect::MeasureLog { .. } => {
                unreachable!("answered within the step")
            }
            ReplicationEffect::Send { session, body } => {
                tell_resync(&body);
                self.send(session, body);
            }
            ReplicationEffect::SendBatch { session, batch } => self.send_batch(session, batch),
            ReplicationEffect::SendCommitIndex { session } => {
                self.send(
                    session,
                    Body::CommitIndex {
                        committed: self.store.committed(),
                    },
                );
            }
            ReplicationEffect::ReadLog { request, after } => {
                self.store
                    .read_log(request, after, self.machine.piece_bytes());
            }
            ReplicationEffect::Run { request, job } => self.store.run(request, job.into()),
            ReplicationEffect::Append(batch) => self.store.append(batch),
            ReplicationEffect::PeerHolds(upto) => self.store.peer_holds(upto),
            ReplicationEffect::Report(report) => self.report(report),
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.machine.next_deadline()
    }

    fn deadline() -> Option<ReplicationInput> {
        Some(ReplicationInput::Deadline)
    }
}

impl Replicator {
    fn report(&self, report: ReplicationReport) {
        if let ReplicationReport::SyncDone { store, .. } = &report {
            let bytes = self.places.last_bytes();
            tracing::info!(target: "twinmq::repl", %store,
                "resync done: the other server has a whole copy, {bytes} bytes were sent");
        }
        post(&self.manager, HaMessage::Replication(report));
    }
}
