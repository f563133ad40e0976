//! TwinMQ: a highly available message broker of two servers that look like one.
//!
//! Decisions are pure machines (`machines`), actors are thin shells round them (`actors`); storage,
//! codecs and I/O know nothing of either. `ARCHITECTURE.md` is the map.

pub mod actors;
pub mod admin;
pub mod cli;
pub mod config;
pub mod exit;
pub mod io;
pub mod machines;
pub mod proto;
pub mod storage;
pub mod telemetry;
pub mod time;
