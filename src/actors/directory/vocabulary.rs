//! What the directory is told of its bounds, and what it says of destinations.

use crate::actors::destination::DestinationReport;
use crate::actors::overload::MemoryBounds;
use crate::actors::permits::PermitLimit;
use crate::machines::destination::DestinationConfig;
use crate::machines::destination::account::Bounds;
use crate::machines::subscriptions::SubscriptionView;
use crate::storage::api::DuplicateBounds;

/// Validated values.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryConfig {
    /// For each destination.
    pub destination: DestinationConfig,
    /// Destinations that clients may bring into being.
    pub destinations_max: usize,
    /// Messages on their way to the store, per connection.
    pub connection_permits: PermitLimit,
    /// The same of all connections.
    pub permits: PermitLimit,
    /// Bytes of messages that are kept in memory only; zero: every message is stored.
    pub volatile_bytes: usize,
    /// Memory for messages.
    pub memory: MemoryBounds,
    /// Ids of messages that are known.
    pub duplicates: DuplicateBounds,
}

impl Default for DirectoryConfig {
    fn default() -> Self {
        Self {
            destination: DestinationConfig::default(),
            destinations_max: 100_000,
            connection_permits: PermitLimit {
                messages: 8192,
                bytes: 16 << 20,
            },
            permits: PermitLimit {
                messages: 131_072,
                bytes: 256 << 20,
            },
            volatile_bytes: 256 << 20,
            memory: MemoryBounds::default(),
            duplicates: DuplicateBounds::default(),
        }
    }
}

/// Why a destination cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// This server is not the active one (any more).
    #[error("this server does not serve; connect to the other server of the pair")]
    NotServing,
    /// Nothing of this name can be consumed from or sent to any more.
    #[error("the destination is gone: its connection has ended, or it was deleted")]
    Gone,
    /// The bound on destinations.
    #[error(
        "there are {0} destinations, which is the most allowed; use one that exists or raise `limits.max_destinations`"
    )]
    TooMany(usize),
    /// It demands two copies, and this server is alone.
    #[error(
        "the destination demands two copies of each message (copies = 2), and this server is alone: the message was not stored; send it again when the pair is in sync"
    )]
    OneCopy,
}

/// A destination for `status`.
#[derive(Clone, Debug)]
pub struct DestinationDescription {
    /// `/queue/NAME`.
    pub name: String,
    /// What it does.
    pub report: DestinationReport,
    /// What was subscribed to, if it is a subscription.
    pub subscription: Option<SubscriptionView>,
    /// Messages that were sent again in this term and not stored again.
    pub duplicates: u64,
    /// Its bound, if it has one of its own.
    pub bound: Option<BoundDescription>,
}

/// A destination's bound for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundDescription {
    /// What it is.
    pub bounds: Bounds,
    /// There is no room for a message more.
    pub reached: bool,
    /// Connections whose next SEND waits for room here.
    pub waiting: u32,
}
