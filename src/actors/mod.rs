//! Thin shells round the machines, and the loops that carry bytes between sockets and them. Each
//! actor is: an inbox, ports to its neighbours, and one function that carries out effects.
//!
//! Everything here runs on any tokio `LocalSet`; no actix `System` or `Arbiter` is asked for.

pub mod acceptor;
pub mod admission;
pub mod board;
pub mod client_roll;
pub mod connection_manager;
pub mod data_plane;
pub mod destination;
pub mod directory;
pub mod gateway_pinger;
pub mod ha_chronicle;
pub mod ha_inbox;
mod ha_inputs;
pub mod ha_manager;
pub mod ha_operator;
pub mod ha_ports;
mod ha_tell;
pub mod ha_timing;
pub mod inbox;
pub mod lease;
pub mod lock_keeper;
pub mod overload;
pub mod peer_transport;
pub mod permits;
pub mod places;
pub mod post;
pub mod replicator;
pub mod replicator_inbox;
mod resync_log;
pub mod server;
mod server_clients;
mod server_pair;
mod server_settings;
pub mod session;
pub mod shell;
pub mod store_sink;
#[cfg(test)]
pub(crate) mod testkit;
pub mod watchdog_setup;
pub mod wiring;
