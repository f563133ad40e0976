//! Destination: one queue. Owns a `DestinationMachine`. Sends fetches to the store, units
//! to it through the directory, and deliveries and answers to sessions the same way.
//! Does not: know names, sockets or permits, or see what other queues do.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::{Actor, Addr, Context, Handler};

use crate::actors::directory::Directory;
use crate::actors::post::Posted;
use crate::actors::shell::{Shell, Shelled, drive};
use crate::machines::delivery::SessionEvent;
use crate::machines::destination::{
    Activation, DestinationConfig, DestinationEffect, DestinationFigures, DestinationInput,
    DestinationMachine,
};
use crate::proto::ids::DestId;
use crate::storage::api::{Seek, SharedStore};
use crate::time::{Clock, Moment};

/// What a destination lets others see of itself after each step.
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationReport {
    /// For `status`.
    pub figures: DestinationFigures,
    /// An answer of the store is still to come.
    pub fetching: bool,
}

/// Where a destination sends.
pub struct DestinationPorts {
    /// Fetches.
    pub store: SharedStore,
    /// Units, deliveries and answers.
    pub directory: Rc<Directory>,
    /// False once the term is over: nothing is submitted any more.
    pub serving: Rc<Cell<bool>>,
    /// Written after each step.
    pub report: Rc<Cell<DestinationReport>>,
}

/// The actor.
pub struct Destination {
    id: DestId,
    machine: DestinationMachine,
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
            machine: DestinationMachine::new(config, id, activation),
            ports,
            shell: Shell::new("destination", clock),
        }
        .start()
    }
}

impl Actor for Destination {
    type Context = Context<Self>;
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

    fn step(&mut self, _: Moment, input: DestinationInput, effects: &mut Vec<DestinationEffect>) {
        self.machine.step(input, effects);
        self.ports.report.set(DestinationReport {
            figures: self.machine.figures(),
            fetching: self.machine.is_fetching(),
        });
    }

    fn run(&mut self, _: &mut Self::Context, effect: DestinationEffect) {
        match effect {
            DestinationEffect::Submit(units) => self.ports.directory.submit(units),
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
                after,
                count,
                bytes,
            } => {
                let seek = Seek::All { after };
                self.ports.store.fetch(self.id, 0, seek, count, bytes);
            }
            DestinationEffect::Prepared {
                transaction,
                answer,
            } => self.ports.directory.prepared(transaction, self.id, answer),
            DestinationEffect::Removed { request, taken } => {
                self.ports.directory.removed(request, taken);
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        None
    }

    fn deadline() -> Option<DestinationInput> {
        None
    }
}
