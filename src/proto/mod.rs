//! Bytes to typed values and back, nothing else: identifiers, records, the canonical message,
//! the frames of the peer channel and of the client protocols.

pub mod arbiter;
pub mod arbiter_codec;
pub mod auth;
pub mod destination;
pub mod duplicate;
pub(crate) mod fields;
pub mod history;
pub mod ids;
pub mod lane;
pub(crate) mod levels;
pub mod log;
pub mod message;
pub mod pattern;
pub mod peer;
pub mod peer_codec;
pub mod record;
pub mod stomp;
