//! LockKeeper: takes, checks and lets go the lock file; carries the calls on the record.
//! Owns: LockMachine, the arbiter's handle. Sends: LockReport to HAManager, "reached" to GatewayPinger.
//! Does not: know roles; judge a record; touch the share itself (the `lock-io` thread does).

use std::sync::Arc;

use actix::prelude::{Actor, Context, Handler};

use crate::actors::gateway_pinger::GatewayMessage;
use crate::actors::ha_manager::HaMessage;
use crate::actors::post::{Port, Posted, post};
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::lock::{LockCommand, LockEffect, LockInput, LockMachine, LockReport};
use crate::proto::arbiter::{Arbiter, ArbiterAnswer};
use crate::time::{Clock, Moment};

/// The arbiter's answer to a call.
pub struct ArbiterAnswered {
    /// The call's id.
    pub id: u64,
    /// The answer.
    pub answer: ArbiterAnswer,
}

/// LockKeeper's neighbours.
pub struct LockPorts {
    /// HAManager.
    pub manager: Port<HaMessage>,
    /// GatewayPinger (A5: the arbiter's answer shows that the network is there).
    pub gateway: Port<GatewayMessage>,
}

/// The actor.
pub struct LockKeeper {
    shell: Shell<LockEffect>,
    machine: LockMachine,
    arbiter: Arc<dyn Arbiter>,
    ports: LockPorts,
}

impl LockKeeper {
    /// An actor that holds nothing.
    #[must_use]
    pub fn new(
        machine: LockMachine,
        arbiter: Arc<dyn Arbiter>,
        ports: LockPorts,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shell: Shell::new("lock_keeper", clock),
            machine,
            arbiter,
            ports,
        }
    }
}

impl Actor for LockKeeper {
    type Context = Context<Self>;
}

impl Handler<Posted<LockCommand>> for LockKeeper {
    type Result = ();

    fn handle(&mut self, posted: Posted<LockCommand>, ctx: &mut Self::Context) {
        drive(self, ctx, LockInput::Command(posted.open()));
    }
}

impl Handler<Posted<ArbiterAnswered>> for LockKeeper {
    type Result = ();

    fn handle(&mut self, posted: Posted<ArbiterAnswered>, ctx: &mut Self::Context) {
        let ArbiterAnswered { id, answer } = posted.open();
        drive(self, ctx, LockInput::Answered { id, answer });
    }
}

impl Shelled for LockKeeper {
    type Input = LockInput;
    type Effect = LockEffect;

    fn shell(&mut self) -> &mut Shell<LockEffect> {
        &mut self.shell
    }

    fn step(&mut self, now: Moment, input: LockInput, effects: &mut Vec<LockEffect>) {
        self.machine.step(now, input, effects);
    }

    fn run(&mut self, _: &mut Context<Self>, effect: LockEffect) {
        match effect {
            LockEffect::Call { id, call } => self.arbiter.call(id, call),
            LockEffect::Report(report) => {
                if shows_the_network(&report) {
                    post(&self.ports.gateway, GatewayMessage::ArbiterReached);
                }
                post(&self.ports.manager, HaMessage::Lock(report));
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.machine.next_deadline()
    }

    fn deadline() -> Option<LockInput> {
        Some(LockInput::Tick)
    }
}

/// A good read or write of the share.
fn shows_the_network(report: &LockReport) -> bool {
    match report {
        LockReport::Acquired { .. }
        | LockReport::Refused { .. }
        | LockReport::Confirmed { .. }
        | LockReport::Released => true,
        LockReport::Answered { answer, .. } => !matches!(answer, ArbiterAnswer::Failed(_)),
        LockReport::Lost { .. } | LockReport::Unreachable { .. } => false,
    }
}
