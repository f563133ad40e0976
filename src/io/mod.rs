//! Plain functions and small types round sockets; no decisions.

pub mod client_tcp;
