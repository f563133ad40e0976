//! What the tests with real processes share: servers as child processes, a loopback address for each
//! test, waiting for conditions, unmodified foreign clients, and the ledger.

pub(crate) mod address;
pub(crate) mod chance;
pub(crate) mod eventually;
pub(crate) mod memory;
pub(crate) mod pair;
pub(crate) mod python;
pub(crate) mod script;
pub(crate) mod server;
pub(crate) mod stomp_py;
pub(crate) mod strace;
pub(crate) mod told;
