//! Decisions: pure state machines. Each takes an input (and the time, where it needs it) and appends
//! effects; none reads a clock, a file or a socket.

pub mod browser;
pub mod delivery;
pub mod destination;
pub mod duplicates;
pub mod gateway;
pub mod ha;
pub mod link;
pub mod lock;
pub mod policy;
pub mod replication;
pub mod returning;
pub mod roll;
pub mod selector;
pub mod stomp_session;
pub mod subscriptions;
pub mod sweep;
pub mod topics;
pub mod transaction;
pub mod watchdog;
