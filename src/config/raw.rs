//! The merged values as serde reads them, before any rule that spans keys: the shape of a profile.

use serde::Deserialize;

use super::model::{LogFormat, Mode, StoreSync, Takeover};

macro_rules! raw {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }
    };
}

raw!(RawConfig {
    mode: Mode,
    name: String,
    demo: bool,
    client: RawClient,
    admin: RawAdmin,
    store: RawStore,
    ha: RawHa,
    limits: RawLimits,
    log: RawLog,
});

raw!(RawClient {
    listen: Vec<String>,
    allow_anonymous: bool,
    connect_timeout_ms: u64,
    heart_beat_send_ms: u64,
    heart_beat_receive_ms: u64,
});

raw!(RawAdmin {
    ip_address: String,
    rmi_server_port: u16,
    token_file: String,
});

raw!(RawStore {
    path: String,
    sync: StoreSync,
    quota_mib: u64,
    warn_percent: u8,
    block_percent: u8,
    refuse_percent: u8,
    retain_mib: u64,
    checkpoint_mib: u64,
    node_path: String,
});

raw!(RawHa {
    primary: bool,
    cluster: String,
    ip_address: String,
    port: u16,
    backup_ha_ip_address: String,
    backup_ha_port: u16,
    backup_server_ip: String,
    backup_server_port: u16,
    backup_rmi_server_port: u16,
    ping_interval_ms: u64,
    ping_misses: u32,
    watchdog: bool,
    connection: RawConnection,
    lock: RawLock,
    gateway: RawGateway,
    replication: RawReplication,
    tls: RawTls,
});

raw!(RawConnection {
    nagle_algo: bool,
    socket_creation_timeout_ms: u64,
    socket_initialization_timeout_ms: u64,
});

raw!(RawLock {
    lock_file: String,
    active_lock_re_acquisition_interval_ms: u64,
    passive_lock_acquisition_interval_ms: u64,
    max_wait_timeout_ms: u64,
    takeover: Takeover,
    clock_drift_ms: u64,
});

raw!(RawGateway {
    gateway_server_ip_address: String,
    gateway_server_port: u16,
    probe_targets: Vec<String>,
    probe_interval_ms: u64,
    probe_timeout_ms: u64,
    probe_misses: u32,
});

raw!(RawReplication {
    replication_ack_timeout_ms: u64,
    window_mib: u64,
    resync_bandwidth_mib_s: u64,
});

raw!(RawTls {
    ca_file: String,
    cert_file: String,
    key_file: String,
    pair_secret_file: String,
});

raw!(RawLimits {
    max_connections: usize,
    max_connections_per_address: usize,
    accept_rate: u32,
    idle_timeout_s: u64,
    slow_consumer_s: u64,
    memory_high_mib: u64,
    memory_critical_mib: u64,
    connection_memory_mib: u64,
    max_subscriptions: usize,
    max_destinations: usize,
    max_headers: usize,
    max_header_bytes: usize,
    max_body_bytes: usize,
    prefetch: u32,
    connection_in_flight_messages: usize,
    connection_in_flight_bytes: u64,
    global_in_flight_bytes: u64,
    block_timeout_ms: u64,
    transactions: usize,
    transaction_messages: usize,
    transaction_mib: u64,
    volatile_mib: u64,
    duplicate_ids: u64,
    duplicate_ids_total: u64,
    duplicate_window_ms: u64,
});

raw!(RawLog {
    level: String,
    format: LogFormat,
    file: String,
});
