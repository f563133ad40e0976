//! Plain functions and small types round sockets; no decisions.

pub mod client_tcp;
//! Threads and plain async functions that touch the world: files, sockets, probes. They decide
//! nothing.

pub mod arbiter_file;
pub mod file_lock;
