//! From the validated configuration to what each part of a server is set up with.

use std::sync::Arc;
use std::time::Duration;

use crate::actors::admission::AdmissionBounds;
use crate::actors::data_plane::DataPlaneConfig;
use crate::actors::directory::DirectoryConfig;
use crate::actors::ha_timing::HaIntervals;
use crate::actors::overload::MemoryBounds;
use crate::actors::permits::PermitLimit;
use crate::actors::session::SessionConfig;
use crate::config::{
    Config, HaConfig as PairConfig, Mode, OnFull as WhenFull, StoreSync, Takeover as PairTakeover,
};
use crate::machines::destination::DestinationConfig;
use crate::machines::ha::{HaConfig, HaMode, Takeover};
use crate::machines::policy::{DestinationPolicy, OnFull, Policies};
use crate::machines::replication::ReplicationConfig;
use crate::machines::stomp_session::{HeartBeatOffer, StompSessionConfig, TransactionLimits};
use crate::proto::duplicate::DuplicateBounds;
use crate::proto::ids::{ArbiterId, NodeId};
use crate::proto::stomp::Limits;
use crate::storage::{RoomLevels, SLACK_BYTES, StoreConfig, SyncMode};

/// How long an orderly stop waits for the answers that clients are owed.
pub(super) const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of one read of the log for a peer that catches up.
const PIECE_BYTES: usize = 1024 * 1024;

pub(super) fn title(config: &Config) -> &'static str {
    match &config.ha {
        None => "Standalone",
        Some(pair) if pair.primary => "Primary",
        Some(_) => "Secondary",
    }
}

/// The role machine's settings in a configuration; also for `explain`.
///
/// # Panics
/// When the kernel has no random bytes, which no supported Linux lacks.
#[must_use]
pub fn role_config(config: &Config, node: NodeId) -> HaConfig {
    let mut arbiter = [0; 16];
    getrandom::fill(&mut arbiter).expect("the kernel has random bytes on every supported Linux");
    HaConfig {
        mode: match config.mode {
            Mode::Standalone => HaMode::Single,
            Mode::Replicated => HaMode::Replicated,
            Mode::Shared => HaMode::Shared,
        },
        primary: config.ha.as_ref().is_none_or(|pair| pair.primary),
        node,
        cluster: cluster(config),
        new_arbiter: ArbiterId(arbiter),
        takeover: match config.ha.as_ref().map(|pair| pair.takeover) {
            // One store cannot be fenced by the record: its lock is what keeps late writes out.
            _ if config.mode == Mode::Shared => Takeover::Lock,
            Some(PairTakeover::Lock) => Takeover::Lock,
            Some(PairTakeover::Fence) | None => Takeover::Fence,
        },
    }
}

pub(super) fn cluster(config: &Config) -> String {
    config
        .ha
        .as_ref()
        .map_or_else(|| "standalone".to_owned(), |pair| pair.cluster.clone())
}

pub(super) fn intervals(pair: Option<&PairConfig>) -> HaIntervals {
    let ms = Duration::from_millis;
    match pair {
        Some(pair) => HaIntervals {
            ping: pair.ping_interval,
            active: pair.active_interval,
            drift: pair.clock_drift,
            passive: pair.passive_interval,
            max_wait: pair.max_wait,
            ack_timeout: pair.replication.ack_timeout,
            drain: DRAIN,
        },
        // Alone, the clockwork only keeps the board fresh.
        None => HaIntervals {
            ping: ms(500),
            active: ms(1000),
            drift: ms(250),
            passive: ms(2500),
            max_wait: ms(30_000),
            ack_timeout: ms(5000),
            drain: DRAIN,
        },
    }
}

pub(super) fn replication(pair: Option<&PairConfig>) -> ReplicationConfig {
    let bound = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    ReplicationConfig {
        window_bytes: pair.map_or(PIECE_BYTES, |pair| bound(pair.replication.window_bytes)),
        piece_bytes: PIECE_BYTES,
        ack_timeout: intervals(pair).ack_timeout,
        resync_bytes_per_s: pair.map_or(0, |pair| pair.replication.resync_bytes_per_s),
        // A resync in which nothing moves for max_wait is given up.
        resync_pause_max: intervals(pair).max_wait / 3,
    }
}

/// The largest record under any configuration: a reload may raise the limits of a store that is open,
/// and what was taken under larger ones, here or by the peer, must still be read.
const LARGEST_RECORD: usize = crate::config::Limits::RECORD_BODY_BYTES_MAX as usize
    + crate::config::Limits::HEADER_BYTES_MAX as usize
    + 4096;

/// The store's settings in a configuration; also for `clear-db` and `store check`.
#[must_use]
pub fn store_config(config: &Config) -> StoreConfig {
    StoreConfig {
        dir: config.store.path.clone(),
        cluster: cluster(config),
        sync: match config.store.sync {
            StoreSync::Deferred => SyncMode::Deferred,
            StoreSync::Meta => SyncMode::Meta,
        },
        retain_bytes: config.store.retain_bytes,
        checkpoint_bytes: config.store.checkpoint_bytes,
        quota_bytes: config.store.quota_bytes,
        slack_bytes: SLACK_BYTES,
        room: room_levels(config.store.room_percent),
        max_record_bytes: LARGEST_RECORD,
        node_dir: config.store.node_path.clone(),
    }
}

fn room_levels([warn, block, refuse]: [u8; 3]) -> RoomLevels {
    RoomLevels {
        warn,
        block,
        refuse,
    }
}

pub(super) fn data_config(config: &Config) -> DataPlaneConfig {
    let limits = &config.limits;
    let bound = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let ms = |span: Option<Duration>| {
        span.map_or(0, |span| {
            u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
        })
    };
    let stomp = StompSessionConfig {
        limits: Limits {
            frame_bytes: limits.max_header_bytes + limits.max_body_bytes + 1,
            headers: limits.max_headers,
            header_bytes: limits.max_header_bytes,
            body_bytes: limits.max_body_bytes,
        },
        heart_beat_ms: HeartBeatOffer {
            send: ms(config.client.heart_beat_send),
            receive: ms(config.client.heart_beat_receive),
        },
        default_prefetch: limits.prefetch,
        max_prefetch: limits.prefetch.max(10_000),
        max_subscriptions: limits.max_subscriptions,
        max_unsettled_requests: limits.connection_in_flight_messages.saturating_mul(4),
        transactions: TransactionLimits {
            open: limits.transactions,
            messages: limits.transaction_messages,
            bytes: bound(limits.transaction_bytes),
            connection_bytes: bound(limits.connection_in_flight_bytes),
        },
        server_name: format!("TwinMQ/{}", env!("CARGO_PKG_VERSION")),
        connect_timeout_ms: u64::try_from(config.client.connect_timeout.as_millis())
            .unwrap_or(u64::MAX),
    };
    DataPlaneConfig {
        listen: config.client.listen.clone(),
        admission: AdmissionBounds {
            connections: limits.max_connections,
            per_address: limits.max_connections_per_address,
            per_second: limits.accept_rate,
        },
        directory: DirectoryConfig {
            destination: DestinationConfig::default(),
            destinations_max: limits.max_destinations,
            connection_permits: PermitLimit {
                messages: limits.connection_in_flight_messages,
                bytes: bound(limits.connection_in_flight_bytes),
            },
            permits: PermitLimit {
                messages: 131_072,
                bytes: bound(limits.global_in_flight_bytes),
            },
            volatile_bytes: bound(limits.volatile_mib << 20),
            memory: MemoryBounds {
                high: bound(limits.memory_high_bytes),
                critical: bound(limits.memory_critical_bytes),
                connection: bound(limits.connection_memory_bytes),
            },
            duplicates: DuplicateBounds {
                per_scope: limits.duplicate_ids,
                all: limits.duplicate_ids_total,
                window_ms: u64::try_from(limits.duplicate_window.as_millis()).unwrap_or(u64::MAX),
            },
        },
        policies: Arc::new(policies(config)),
        session: SessionConfig {
            stomp: Arc::new(stomp),
            output_bytes_max: 4 * 1024 * 1024,
            linger: Duration::from_secs(2),
            block_timeout: limits.block_timeout,
            idle_timeout: limits.idle_timeout,
            slow_consumer: limits.slow_consumer,
        },
    }
}

/// The policies of destinations in a configuration.
fn policies(config: &Config) -> Policies {
    let tables = config.destinations.iter().map(|table| {
        let policy = DestinationPolicy {
            redelivery_limit: table.redelivery_limit,
            redelivery_delay: table.redelivery_delay,
            dead_letter: table.dead_letter.clone(),
            expired_to_dead_letter: table.expired_to_dead_letter,
            max_messages: table.max_messages,
            max_bytes: table.max_bytes,
            on_full: match table.on_full {
                WhenFull::Block => OnFull::Block,
                WhenFull::Reject => OnFull::Reject,
                WhenFull::DropOldest => OnFull::DropOldest,
                WhenFull::DeadLetter => OnFull::DeadLetter,
            },
            both_copies: table.both_copies,
        };
        (table.pattern.clone(), policy)
    });
    Policies::new(tables.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{self, Applies, Kind};
    use crate::config::{ConfigSource, load};
    use crate::proto::destination::DestinationName;

    fn with(settings: Vec<String>) -> Config {
        let mut source = ConfigSource::profile("standalone");
        source.search.clear();
        source.set = settings;
        load(&source).unwrap().config
    }

    /// `Server::reconfigure` gives the clients' side these settings; the log takes its level itself.
    #[test]
    fn every_key_that_a_reload_applies_comes_to_the_clients_side_and_not_to_the_store() {
        for key in keys::all().filter(|key| key.applies == Applies::OnReload) {
            if key.path == "log.level" {
                continue;
            }
            let Kind::Integer { min, max, .. } = key.kind else {
                panic!("{}: {:?}", key.path, key.kind);
            };
            // Small enough for the largest message beside every other bound.
            let small = [
                "limits.max_body_bytes=1025",
                "limits.max_header_bytes=1025",
                "limits.connection_in_flight_bytes=65537",
                "limits.memory_high_mib=9",
                "limits.connection_memory_mib=9",
            ];
            let mut settings: Vec<String> = small.map(str::to_owned).into();
            let before = with(settings.clone());
            let other = if key.default == min.to_string() {
                max
            } else {
                min
            };
            settings.push(format!("{}={other}", key.path));
            let after = with(settings);
            let shown = |config: &Config| format!("{:?}", data_config(config));
            assert_ne!(shown(&after), shown(&before), "{}", key.path);
            let store = |config: &Config| format!("{:?}", store_config(config));
            assert_eq!(store(&after), store(&before), "{}", key.path);
        }
    }

    #[test]
    fn a_table_that_sets_nothing_is_as_no_table() {
        let config = with(vec!["destination.a.max_messages=0".to_owned()]);
        let name = DestinationName::parse("/queue/a").unwrap();
        assert_eq!(config.destinations.len(), 1);
        assert_eq!(**policies(&config).of(&name), DestinationPolicy::default());
    }

    #[test]
    fn every_key_of_a_table_comes_to_the_policy() {
        let name = DestinationName::parse("/queue/a").unwrap();
        let of = |setting: &str| {
            let mut source = ConfigSource::profile("replicated/primary");
            source.search.clear();
            source.set = vec![format!("destination.a.{setting}")];
            let policies = policies(&load(&source).unwrap().config);
            DestinationPolicy::clone(policies.of(&name))
        };
        for key in &keys::destination().keys[1..] {
            let other = match key.kind {
                Kind::Integer { max, .. } => max.to_string(),
                Kind::Bool => "true".to_owned(),
                Kind::Choice(words) => words[0].to_owned(),
                _ => "none".to_owned(),
            };
            let changed = of(&format!("{}={other}", key.leaf()));
            assert_ne!(changed, DestinationPolicy::default(), "{}", key.path);
        }
    }
}
