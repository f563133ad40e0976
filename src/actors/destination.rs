//! Destination: one queue. Owns a `DestinationMachine`. Sends fetches to the store, units
//! to it through the directory, and deliveries and answers to sessions the same way.
//! It stops when nobody needs it; the directory begins it again.
//! Does not: know names, sockets or permits, or see what other queues do.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::{Actor, ActorContext, Addr, Context, Handler};

use crate::actors::directory::Directory;
use crate::actors::post::Posted;
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::delivery::SessionEvent;
use crate::machines::destination::account::Account;
use crate::machines::destination::{
    Activation, DestinationConfig, DestinationEffect, DestinationFigures, DestinationInput,
    DestinationMachine, Now, VolatileShare,
};
use crate::proto::ids::DestId;
use crate::storage::api::{Draft, SharedStore, Unit};
use crate::time::{Clock, Moment};

/// What a destination lets others see of itself after each step.
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationReport {
    /// For `status`.
    pub figures: DestinationFigures,
    /// Answers of the store that are still to come.
    pub fetching: usize,
    /// Ack records of its own that were handed to the store since it began.
    pub acks: u64,
    /// Bytes of messages in its memory.
    pub kept_bytes: usize,
    /// Steps since it began: as many as before say that nobody used it meanwhile.
    pub steps: u64,
}

/// Where a destination sends.
pub struct DestinationPorts {
    /// Fetches.
    pub store: SharedStore,
    /// Units, deliveries and answers.
    pub directory: Rc<Directory>,
    /// False once the term is over: nothing is submitted any more.
    pub serving: Rc<Cell<bool>>,
    /// Bytes of messages that all destinations keep in memory.
    pub kept: Rc<Cell<usize>>,
    /// Written after each step.
    pub report: Rc<Cell<DestinationReport>>,
    /// Its share of the memory for messages that are not stored.
    pub volatile: Rc<VolatileShare>,
    /// What is on its way to it, and its bounds.
    pub account: Rc<Account>,
}

/// The actor.
pub struct Destination {
    id: DestId,
    machine: DestinationMachine,
    /// As in the report.
    acks: u64,
    ports: DestinationPorts,
    shell: Shell<DestinationEffect>,
}

impl Destination {
    /// Starts it on the present `LocalSet`.
    #[must_use]
    pub fn begin(
        config: DestinationConfig,
        id: DestId,
        activation: Activation,
        ports: DestinationPorts,
        clock: Arc<dyn Clock>,
    ) -> Addr<Self> {
        Self {
            id,
            machine: DestinationMachine::with_share(
                config,
                id,
                activation,
                Rc::clone(&ports.volatile),
            ),
            acks: 0,
            ports,
            shell: Shell::new("destination", clock),
        }
        .start()
    }
}

impl Destination {
    /// A transaction's end is told by the number of acks before its unit.
    fn submit(&mut self, units: Vec<Unit>) {
        let records = units.iter().flat_map(|unit| &unit.records);
        let acks = records.filter(|record| matches!(record, Draft::Ack { .. }));
        let acks = u64::try_from(acks.count()).unwrap_or(u64::MAX);
        if acks > 0 {
            self.acks = self.acks.saturating_add(acks);
            let report = DestinationReport {
                acks: self.acks,
                ..self.ports.report.get()
            };
            self.ports.report.set(report);
        }
        self.ports.directory.spill_moved(self.id, &units);
        self.ports.directory.submit(units);
    }
}

impl Actor for Destination {
    type Context = Context<Self>;

    /// What it begins with may have a time that has come.
    fn started(&mut self, ctx: &mut Self::Context) {
        if self.ports.serving.get() && self.machine.has_times() {
            drive(self, ctx, DestinationInput::Deadline);
        }
    }

    /// What it kept is kept no more.
    fn stopped(&mut self, _: &mut Self::Context) {
        let mut report = self.ports.report.get();
        let kept = self.ports.kept.get();
        self.ports.kept.set(kept.saturating_sub(report.kept_bytes));
        report.kept_bytes = 0;
        self.ports.report.set(report);
    }
}

impl Handler<Posted<DestinationInput>> for Destination {
    type Result = ();

    fn handle(&mut self, posted: Posted<DestinationInput>, ctx: &mut Self::Context) {
        let input = posted.open();
        if self.ports.serving.get() {
            drive(self, ctx, input);
        }
    }
}

impl Shelled for Destination {
    type Input = DestinationInput;
    type Effect = DestinationEffect;

    fn shell(&mut self) -> &mut Shell<DestinationEffect> {
        &mut self.shell
    }

    fn step(
        &mut self,
        moment: Moment,
        input: DestinationInput,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let wall_ms = self.shell.wall_ms();
        self.machine.step(Now { moment, wall_ms }, input, effects);
        let (before, kept_bytes) = (self.ports.report.get(), self.machine.kept_bytes());
        let kept = self.ports.kept.get().saturating_add(kept_bytes);
        self.ports.kept.set(kept.saturating_sub(before.kept_bytes));
        self.ports.report.set(DestinationReport {
            figures: self.machine.figures(),
            fetching: self.machine.fetching(),
            acks: self.acks,
            kept_bytes,
            steps: before.steps.saturating_add(1),
        });
        let account = &self.ports.account;
        self.ports.directory.mind_bounds(self.id, account);
    }

    fn run(&mut self, ctx: &mut Self::Context, effect: DestinationEffect) {
        match effect {
            DestinationEffect::Submit(units) => self.submit(units),
            DestinationEffect::Deliver {
                consumer,
                deliveries,
            } => {
                let event = SessionEvent::Delivered {
                    consumer: consumer.number,
                    deliveries,
                };
                self.ports.directory.tell(consumer.session, event);
            }
            DestinationEffect::Answer { session, event } => {
                self.ports.directory.tell(session, event);
            }
            DestinationEffect::Fetch {
                tag,
                seek,
                count,
                bytes,
            } => self.ports.store.fetch(self.id, tag, seek, count, bytes),
            DestinationEffect::FindDeadLetter(name) => {
                self.ports.directory.find_dead_letter(self.id, &name);
            }
            DestinationEffect::Prepared {
                transaction,
                answer,
            } => self.ports.directory.prepared(transaction, self.id, answer),
            DestinationEffect::Removed { request, taken } => {
                self.ports.directory.removed(request, taken);
            }
            DestinationEffect::Shown { tag, entries } => {
                self.ports.directory.looked(self.id, tag, entries);
            }
            DestinationEffect::Rest(left) => {
                if self.ports.directory.falls_asleep(self.id, *left) {
                    ctx.stop();
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.machine
            .next_deadline()
            .filter(|_| self.ports.serving.get())
    }

    fn deadline() -> Option<DestinationInput> {
        Some(DestinationInput::Deadline)
    }
}
