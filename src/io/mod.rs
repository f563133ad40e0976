//! Threads and plain async functions that touch the world: files, sockets, probes. They decide
//! nothing.

pub mod arbiter_file;
pub mod client_tcp;
pub mod file_lock;
pub mod history;
pub mod mounts;
pub mod open_files;
pub mod peer_tcp;
pub mod ping;
pub mod port_owner;
pub mod signals;
pub mod store_mount;
pub mod tls;
pub mod watchdog;
