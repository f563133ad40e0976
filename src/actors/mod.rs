//! Thin shells round the machines, and the loops that carry bytes between sockets and them. Each
//! actor is: an inbox, ports to its neighbours, and one function that carries out effects.
//!
//! Everything here runs on any tokio `LocalSet`; no actix `System` or `Arbiter` is asked for.

pub mod acceptor;
pub mod data_plane;
pub mod destination;
pub mod directory;
pub mod inbox;
pub mod lease;
pub mod permits;
pub mod post;
pub mod session;
pub mod shell;
#[cfg(test)]
pub(crate) mod testkit;
