//! The store: a log of chunks keyed by LSN, an index in memory changed by `apply` alone, one writer
//! thread with group commit, checkpoints, and the data directory that holds them.

pub mod api;
pub mod backend;
pub mod check;
pub mod checkpoint;
mod common_dir;
pub mod common_memory;
mod core;
pub mod data_dir;
mod data_lock;
pub mod divergent;
pub mod door;
pub mod env;
pub mod error;
mod follow;
mod glance;
pub mod index;
pub mod inline;
mod jobs;
mod kept;
pub mod ledger;
pub mod memory;
pub mod meta;
pub mod moved;
mod node_dir;
pub mod open;
pub mod owed;
pub mod parts;
mod reader;
pub mod recover;
mod relief;
mod relog;
mod room;
pub mod runs;
mod seek;
pub mod seen;
mod shape;
mod shared;
pub mod snapshot;
pub mod threaded;

pub use check::{CheckReport, Finding, check};
pub use door::{ClosedStore, DoorStore, open_door};
pub use env::SyncMode;
pub use glance::{Glance, StoreGlance, glance, glance_identity};
pub use open::{Cleared, OpenedStore, SLACK_BYTES, StoreConfig, ToClear, clear, open, open_memory};
pub use room::RoomLevels;

#[cfg(test)]
mod tests;
