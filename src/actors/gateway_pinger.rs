//! GatewayPinger: asks the gateway whether this server is still on the network.
//! Owns: GatewayMachine, the probe thread's handle. Sends: the verdict to HAManager and the board.
//! Does not: decide roles, retry on its own judgement, know that a peer exists.

use std::sync::Arc;

use actix::prelude::{Actor, Context, Handler};

use crate::actors::board::Board;
use crate::actors::ha_manager::HaMessage;
use crate::actors::post::{Port, Posted, post};
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::gateway::{
    GatewayEffect, GatewayInput, GatewayMachine, GatewayVerdict, ProbeOutcome,
};
use crate::time::{Clock, Moment};

/// What GatewayPinger is told.
pub enum GatewayMessage {
    /// Begin.
    Start,
    /// A round of probes has ended.
    ProbeFinished {
        /// The round.
        probe_id: u64,
        /// What it gave.
        outcome: ProbeOutcome,
    },
    /// The arbiter answered (A5).
    ArbiterReached,
}

/// Runs one round of probes; the answer is posted as `ProbeFinished`.
pub trait Prober: Send {
    /// Begins it and returns at once.
    fn probe(&self, probe_id: u64, targets: Vec<String>, timeout: std::time::Duration);
}

/// The actor.
pub struct GatewayPinger {
    shell: Shell<GatewayEffect>,
    machine: GatewayMachine,
    prober: Box<dyn Prober>,
    board: Arc<Board>,
    manager: Port<HaMessage>,
}

impl GatewayPinger {
    /// An actor that waits for `Start`.
    #[must_use]
    pub fn new(
        machine: GatewayMachine,
        prober: Box<dyn Prober>,
        board: Arc<Board>,
        manager: Port<HaMessage>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shell: Shell::new("gateway_pinger", clock),
            machine,
            prober,
            board,
            manager,
        }
    }
}

impl Actor for GatewayPinger {
    type Context = Context<Self>;
}

impl Handler<Posted<GatewayMessage>> for GatewayPinger {
    type Result = ();

    fn handle(&mut self, posted: Posted<GatewayMessage>, ctx: &mut Self::Context) {
        let input = match posted.open() {
            GatewayMessage::Start => GatewayInput::Started,
            GatewayMessage::ProbeFinished { probe_id, outcome } => {
                GatewayInput::ProbeFinished { probe_id, outcome }
            }
            GatewayMessage::ArbiterReached => GatewayInput::ArbiterReached,
        };
        drive(self, ctx, input);
    }
}

impl Shelled for GatewayPinger {
    type Input = GatewayInput;
    type Effect = GatewayEffect;

    fn shell(&mut self) -> &mut Shell<GatewayEffect> {
        &mut self.shell
    }

    fn step(&mut self, now: Moment, input: GatewayInput, effects: &mut Vec<GatewayEffect>) {
        self.machine.step(now, input, effects);
    }

    fn run(&mut self, _: &mut Context<Self>, effect: GatewayEffect) {
        match effect {
            GatewayEffect::Probe {
                probe_id,
                targets,
                timeout,
            } => {
                self.prober.probe(probe_id, targets, timeout);
            }
            GatewayEffect::Report { verdict, reason } => {
                if verdict == GatewayVerdict::Unreachable {
                    tracing::warn!(target: "twinmq::ha", reason, "the gateway cannot be reached");
                } else {
                    tracing::info!(target: "twinmq::ha", reason, "gateway: {}", verdict.name());
                }
                let mut view = self.board.gateway();
                view.verdict = verdict;
                view.reason = reason;
                drop(view);
                post(&self.manager, HaMessage::Gateway(verdict));
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.machine.next_deadline()
    }

    fn deadline() -> Option<GatewayInput> {
        Some(GatewayInput::Tick)
    }
}
