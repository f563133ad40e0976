//! Where actors run: each thread of a server is an actix arbiter of its own; in the simulator all of
//! them share one `LocalSet`.

use actix::prelude::{Actor, Addr, Context};
use actix_rt::ArbiterHandle;

/// The threads that actors live on (the table is in ARCHITECTURE.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// HAManager, LockKeeper, GatewayPinger, and nothing else.
    Ha,
    /// ConnectionManager, Replicator.
    Peer,
    /// Sessions and destinations.
    Data,
}

/// Starts actors in their places.
#[derive(Clone)]
pub enum Places {
    /// A server: one thread each.
    Threads {
        /// See [`Place::Ha`].
        ha: ArbiterHandle,
        /// See [`Place::Peer`].
        peer: ArbiterHandle,
        /// See [`Place::Data`].
        data: ArbiterHandle,
    },
    /// The simulator: everything on the present `LocalSet`.
    Here,
}

impl Places {
    /// Starts an actor that is built on its own thread.
    pub fn start<A, F>(&self, place: Place, build: F) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
        F: FnOnce(&mut Context<A>) -> A + Send + 'static,
    {
        match self.arbiter(place) {
            Some(arbiter) => A::start_in_arbiter(arbiter, build),
            None => A::create(build),
        }
    }

    /// Runs a closure on the thread of a place, which may spawn local tasks there.
    pub fn enter(&self, place: Place, enter: impl FnOnce() + Send + 'static) {
        match self.arbiter(place) {
            Some(arbiter) => {
                let entered = arbiter.spawn_fn(enter);
                assert!(entered, "the arbiters live as long as the process");
            }
            None => enter(),
        }
    }

    fn arbiter(&self, place: Place) -> Option<&ArbiterHandle> {
        match self {
            Self::Threads { ha, peer, data } => Some(match place {
                Place::Ha => ha,
                Place::Peer => peer,
                Place::Data => data,
            }),
            Self::Here => None,
        }
    }
}
