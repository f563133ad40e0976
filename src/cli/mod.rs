//! One file per subcommand: each prints and returns, and decides nothing.

pub mod admin_client;
pub mod ledger;
pub mod load;
pub mod stomp_client;
#[cfg(test)]
mod toy_server;
