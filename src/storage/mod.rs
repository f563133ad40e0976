//! The store: a log of chunks keyed by LSN, an index in memory changed by `apply` alone, one writer
//! thread with group commit, checkpoints, and the data directory that holds them.

pub mod api;
pub mod error;
