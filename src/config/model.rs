//! The validated configuration: what the rest of the server reads. Whoever holds a [`Config`] need
//! check nothing again: ranges and cross-field rules held when it was made (`rules`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::proto::pattern::NamePattern;

/// One server's configuration, complete and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The profile as it was asked for, with `/`: `replicated/primary`, or a path.
    pub profile: String,
    /// The profile's file; none for one that is built in.
    pub file: Option<PathBuf>,
    /// `primary`, `secondary` or `standalone`, or the name given in the profile: for people.
    pub name: String,
    /// A pair on one machine for trying out: not highly available, and the banner says so.
    pub demo: bool,
    /// How this server works.
    pub mode: Mode,
    /// The other server and what decides between the two. None exactly in standalone mode.
    pub ha: Option<HaConfig>,
    /// The client port.
    pub client: ClientConfig,
    /// The admin HTTP port.
    pub admin: AdminConfig,
    /// The store.
    pub store: StoreConfig,
    /// Bounds on what clients may ask for.
    pub limits: Limits,
    /// How destinations behave, by pattern; each pattern once.
    pub destinations: Vec<DestinationTable>,
    /// Where the log goes.
    pub log: LogConfig,
}

/// How a server works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server, no peer.
    Standalone,
    /// Two servers, each with its own copy.
    Replicated,
    /// Two servers, one store that both can reach.
    Shared,
}

impl Mode {
    /// As profiles and `status` spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Replicated => "replicated",
            Self::Shared => "shared",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A host name or address and a port to connect to. Names are resolved at each attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, an IPv6 address without brackets. Never empty.
    pub host: String,
    /// Never zero.
    pub port: u16,
}

impl HostPort {
    /// Surely this machine: a loopback address, or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        host_is_loopback(&self.host)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Surely this machine: a loopback address, or `localhost`.
#[must_use]
pub(crate) fn host_is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaConfig {
    /// Configured as the primary: decides ties, nothing else.
    pub primary: bool,
    /// The pair's name; equal on both servers; 1 to 64 bytes.
    pub cluster: String,
    /// This server's end of the HA channel.
    pub listen: SocketAddr,
    /// The peer's end of the HA channel.
    pub peer: HostPort,
    /// The peer's client port, for clients that are told where the other server is.
    pub peer_client: HostPort,
    /// The peer's admin port.
    pub peer_admin: HostPort,
    /// How often the peer is pinged.
    pub ping_interval: Duration,
    /// The channel counts as broken when no ping was answered for so many ping intervals. At least
    /// 2; the product is at most `passive_interval`.
    pub ping_misses: u32,
    /// A process beside the server kills it when it hangs, and tells the peer (A8).
    pub watchdog: bool,
    /// How long a connect to the peer may take.
    pub connect_timeout: Duration,
    /// How long a new channel may take to its welcome, hello and proof included.
    pub hello_timeout: Duration,
    /// Nagle's algorithm on the HA channel.
    pub nagle: bool,
    /// The lock file, as configured. Relative (to the working directory) only in a demo.
    pub lock_file: PathBuf,
    /// How often the holder checks its lock and the record. A multiple of half a ping interval.
    pub active_interval: Duration,
    /// Silence of the peer after which a passive server tries the lock. At least twice
    /// `active_interval`.
    pub passive_interval: Duration,
    /// A change of state that takes longer than this is given up.
    pub max_wait: Duration,
    /// How a passive server takes over.
    pub takeover: Takeover,
    /// By how much the clocks of both servers may drift apart within a lease.
    pub clock_drift: Duration,
    /// What is probed to learn whether this server is still on the network.
    pub gateway: GatewayConfig,
    /// The stream to the peer.
    pub replication: ReplicationConfig,
    /// Certificates of the HA channel. None only where both its ends are loopback addresses.
    pub tls: Option<TlsConfig>,
    /// The file with the pair secret. None only where both ends are loopback addresses: the proof
    /// is then made with an empty secret.
    pub pair_secret_file: Option<PathBuf>,
}

impl HaConfig {
    /// `primary` or `secondary`.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        if self.primary { "primary" } else { "secondary" }
    }

    /// How long a good check of the lock, or an answered ping, lets this server serve: twice the
    /// active interval.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        self.active_interval.saturating_mul(2)
    }
}

/// How a passive server takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Takeover {
    /// When it has obtained the lock of the old holder.
    Lock,
    /// The same; and where a silent peer keeps the lock, by changing the record first.
    Fence,
}

impl Takeover {
    /// As profiles spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Fence => "fence",
        }
    }
}

/// The gateway probe. A refused connection counts as reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The gateway first, then further targets; one that answers is enough. Never empty.
    pub targets: Vec<HostPort>,
    /// Between two probes.
    pub probe_interval: Duration,
    /// How long one probe may take.
    pub probe_timeout: Duration,
    /// So many rounds without any answer in a row mean unreachable.
    pub probe_misses: u32,
}

/// The stream to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// The peer leaves the in-sync set when the oldest batch is unacknowledged for this long (A6).
    pub ack_timeout: Duration,
    /// Bytes of batches that may be under way to the peer.
    pub window_bytes: u64,
    /// Bytes of a resync in a second; 0 is no limit.
    pub resync_bytes_per_s: u64,
}

/// Certificates of the HA channel, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The pair's own authority: the only one trusted.
    pub ca_file: PathBuf,
    /// This server's certificate.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// The client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Every address that clients are served at; all protocols at each. Never empty. Loopback
    /// addresses only, unless `client.allow_anonymous` says that anyone may come.
    pub listen: Vec<SocketAddr>,
    /// How long a new connection may take to its first complete frame.
    pub connect_timeout: Duration,
    /// Heart-beats that this server offers to send; none: never.
    pub heart_beat_send: Option<Duration>,
    /// Heart-beats that this server wants to receive; none: never.
    pub heart_beat_receive: Option<Duration>,
}

/// The admin HTTP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The file with the admin token; made with mode 0600 where it is missing.
    pub token_file: PathBuf,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The data directory, as configured; relative to the working directory.
    pub path: PathBuf,
    /// How commits become durable.
    pub sync: StoreSync,
    /// The store's room at most, in bytes of pages in use.
    pub quota_bytes: u64,
    /// The shares of the room at which there is a warning, senders wait, sends are refused, in
    /// percent: ascending.
    pub room_percent: [u8; 3],
    /// Bytes of dead log kept for a returning peer.
    pub retain_bytes: u64,
    /// Bytes of log between two checkpoints. At most `retain_bytes`.
    pub checkpoint_bytes: u64,
    /// Shared mode, and only there: this server's own folder.
    pub node_path: Option<PathBuf>,
}

impl StoreConfig {
    /// Where this server keeps what is its own: its identity, its last record, its history.
    #[must_use]
    pub fn own_folder(&self) -> PathBuf {
        match &self.node_path {
            Some(own) => own.clone(),
            None => self.path.join("node"),
        }
    }
}

/// How commits become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreSync {
    /// A commit is durable when the next one's data is flushed, or at once when idle: one flush per
    /// commit under load.
    Deferred,
    /// Each commit flushes data and meta page.
    Meta,
}

impl StoreSync {
    /// As profiles spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Meta => "meta",
        }
    }
}

/// Bounds on what clients may ask for. All are changed by a reload, for what comes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at once.
    pub max_connections: usize,
    /// Of them from one address; none: no bound.
    pub max_connections_per_address: Option<usize>,
    /// New connections in a second; none: no bound.
    pub accept_rate: Option<u32>,
    /// A connection that nobody needs is closed after this silence; none: never.
    pub idle_timeout: Option<Duration>,
    /// A client that does not read is closed after this; none: never.
    pub slow_consumer: Option<Duration>,
    /// Bytes of messages in memory at which senders are not read. At most `memory_critical_bytes`.
    pub memory_high_bytes: u64,
    /// Bytes of messages in memory at which connections are closed.
    pub memory_critical_bytes: u64,
    /// Bytes of messages in memory for one connection. At least `connection_in_flight_bytes`.
    pub connection_memory_bytes: u64,
    /// Subscriptions of one connection.
    pub max_subscriptions: usize,
    /// Destinations in all.
    pub max_destinations: usize,
    /// Header lines of one frame.
    pub max_headers: usize,
    /// Bytes of command and headers of one frame together.
    pub max_header_bytes: usize,
    /// Bytes of one body.
    pub max_body_bytes: usize,
    /// Unacknowledged messages that one subscription may hold.
    pub prefetch: u32,
    /// Messages of one connection that are read and not yet confirmed.
    pub connection_in_flight_messages: usize,
    /// Bytes of the same.
    pub connection_in_flight_bytes: u64,
    /// Bytes of the same over all connections.
    pub global_in_flight_bytes: u64,
    /// How long a send may wait for room before it gets an ERROR.
    pub block_timeout: Duration,
    /// Open transactions of one connection.
    pub transactions: usize,
    /// Messages of one transaction, sent and acknowledged together.
    pub transaction_messages: usize,
    /// Bytes of one transaction.
    pub transaction_bytes: u64,
    /// MiB of memory for messages that need not be stored; 0: all are.
    pub volatile_mib: u64,
    /// Ids of messages that are known for one destination; 0: duplicates are not looked for.
    pub duplicate_ids: u64,
    /// The same for all destinations.
    pub duplicate_ids_total: u64,
    /// For how long an id is known.
    pub duplicate_window: Duration,
}

impl Limits {
    /// No server takes a larger body, whatever its limit is today: 4 GiB.
    pub const BODY_BYTES_MAX: usize = 4 << 30;
    /// No record of a log has a larger body, not even those of releases that kept every body in one:
    /// what is read from a log or from the peer is held to this.
    pub const RECORD_BODY_BYTES_MAX: u32 = 8_000_000;
    /// The same of `max_header_bytes`.
    pub const HEADER_BYTES_MAX: u32 = 262_144;
}

/// How the destinations behave whose names a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationTable {
    /// Which.
    pub pattern: NamePattern,
    /// Deliveries again after the first one; none: for ever.
    pub redelivery_limit: Option<u32>,
    /// Before each of them.
    pub redelivery_delay: Duration,
    /// The queue for what was delivered too often; none: it is gone.
    pub dead_letter: Option<String>,
    /// Also for what has expired. Only with `dead_letter`.
    pub expired_to_dead_letter: bool,
    /// Messages owed at most.
    pub max_messages: Option<u64>,
    /// Their bytes.
    pub max_bytes: Option<u64>,
    /// What a send meets there.
    pub on_full: OnFull,
    /// A send is confirmed by both servers or not at all. Only in replicated mode.
    pub both_copies: bool,
}

/// What a send meets at a destination that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFull {
    /// It waits.
    Block,
    /// An ERROR.
    Reject,
    /// The oldest message goes.
    DropOldest,
    /// The oldest goes to the dead message queue, which there is.
    DeadLetter,
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Levels by target, in the syntax of `tracing-subscriber`'s `EnvFilter`.
    pub level: String,
    /// One line of text, or one JSON object, per event.
    pub format: LogFormat,
    /// Appended to as well as standard error; none: standard error only.
    pub file: Option<PathBuf>,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl LogFormat {
    /// As profiles spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl Config {
    /// What must be equal on both servers, in words (S101): the reference's values and the mode. The
    /// path of the lock file is not among them: the file's identity is compared instead (H7).
    /// Empty in standalone mode.
    #[must_use]
    pub fn must_agree(&self) -> Vec<(String, String)> {
        let Some(ha) = &self.ha else {
            return Vec::new();
        };
        let ms = |span: Duration| format!("{} ms", span.as_millis());
        let gateway = ha.gateway.targets.first();
        [
            ("mode", self.mode.name().to_owned()),
            ("ha.ping_interval_ms", ms(ha.ping_interval)),
            (
                "ha.lock.active_lock_re_acquisition_interval_ms",
                ms(ha.active_interval),
            ),
            (
                "ha.lock.passive_lock_acquisition_interval_ms",
                ms(ha.passive_interval),
            ),
            (
                "ha.gateway.gateway_server_ip_address",
                gateway.map_or_else(String::new, |target| target.host.clone()),
            ),
            (
                "ha.gateway.gateway_server_port",
                gateway.map_or_else(String::new, |target| target.port.to_string()),
            ),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}
