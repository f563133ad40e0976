//! Where the store's events go: what became committed to the client side, everything about the log to
//! Replicator, a failure to the end of the process. Called on the store's threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::actors::post::{Port, post};
use crate::actors::replicator::ReplicatorCommand;
use crate::storage::api::{Committed, Fetched, StoreEvent, StoreSink};
use crate::storage::error::StoreError;

/// The client side, as the store's events see it.
pub trait CommittedSink: Send + Sync {
    /// More became committed.
    fn committed(&self, committed: Committed);
    /// Answer to a fetch.
    fn fetched(&self, fetched: Fetched);
    /// Answer to a question for parts of a body.
    fn parts_read(&self, whose: u32, parts: Vec<Bytes>);
}

/// Takes the error that ends the process.
pub type Fatal = Box<dyn Fn(StoreError) + Send + Sync>;

/// The sink of a server's store.
pub struct ServerSink {
    clients: Arc<dyn CommittedSink>,
    /// Filled by the wiring before the store is given anything to do.
    replicator: OnceLock<Port<ReplicatorCommand>>,
    /// Replicator has a role: it wants batches and positions.
    listens: Arc<AtomicBool>,
    fatal: Fatal,
}

impl ServerSink {
    /// A sink without a Replicator yet.
    #[must_use]
    pub fn new(clients: Arc<dyn CommittedSink>, fatal: Fatal) -> Self {
        Self {
            clients,
            replicator: OnceLock::new(),
            listens: Arc::default(),
            fatal,
        }
    }

    /// The switch that Replicator sets while it has a role.
    #[must_use]
    pub fn listens(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.listens)
    }

    /// Joins the Replicator. A second one is a mistake of the wiring.
    pub fn join(&self, replicator: Port<ReplicatorCommand>) {
        assert!(
            self.replicator.set(replicator).is_ok(),
            "a store has one Replicator"
        );
    }

    fn replicate(&self, command: ReplicatorCommand) {
        if let Some(replicator) = self.replicator.get() {
            post(replicator, command);
        }
    }
}

impl StoreSink for ServerSink {
    fn event(&self, event: StoreEvent) {
        match event {
            StoreEvent::Committed(committed) => {
                let upto = committed.upto;
                self.clients.committed(committed);
                if self.listens.load(Ordering::Acquire) {
                    self.replicate(ReplicatorCommand::Committed(upto));
                }
            }
            StoreEvent::Fetched(fetched) => self.clients.fetched(fetched),
            StoreEvent::PartsRead { whose, parts } => self.clients.parts_read(whose, parts),
            StoreEvent::Cut(_) | StoreEvent::Durable(_) => {
                if self.listens.load(Ordering::Acquire) {
                    self.replicate(ReplicatorCommand::Store(event));
                }
            }
            StoreEvent::LogRead { .. }
            | StoreEvent::Done { .. }
            | StoreEvent::Failed(StoreError::ReplicaMismatch(_)) => {
                self.replicate(ReplicatorCommand::Store(event));
            }
            StoreEvent::Failed(error) => (self.fatal)(error),
        }
    }
}
