//! The rules that span keys, and the step from merged values to the one valid [`Config`].

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{ConfigError, ConfigErrors, ConfigWarning, Origin};
use super::keys;
use super::layers::Merged;
use super::load::EffectiveTable;
use super::model::*;
use super::raw::{RawConfig, RawHa};
use super::value::{parse_address, parse_target};

const MIB: u64 = 1 << 20;

/// What a profile is called and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// As asked for.
    pub(super) profile: String,
    /// What messages call its text.
    pub(super) shown: String,
    /// Its file; none if built in.
    pub(super) file: Option<PathBuf>,
}

/// Checks the rules and makes the configuration.
///
/// # Errors
/// Every rule that is broken.
pub(super) fn validate(
    raw: &RawConfig,
    merged: &Merged,
    tables: &[EffectiveTable],
    identity: &Identity,
) -> Result<(Config, Vec<ConfigWarning>), ConfigErrors> {
    let mut rules = Rules {
        merged,
        identity,
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    let mode = raw.mode;
    let client = rules.client(raw);
    let admin = SocketAddr::new(
        rules.address("admin.ip_address", &raw.admin.ip_address),
        raw.admin.rmi_server_port,
    );
    let store = rules.store(raw);
    let limits = rules.limits(raw);
    let destinations = tables
        .iter()
        .map(|table| rules.destination(mode, table))
        .collect();
    let ha = (mode != Mode::Standalone).then(|| rules.pair(raw));
    if mode == Mode::Standalone {
        rules.unused_in_standalone();
    }
    rules.listeners_distinct(&client.listen, admin, ha.as_ref());
    if raw.demo {
        rules.demo_is_one_machine(&client, admin, ha.as_ref());
    }
    let token_file = match raw.admin.token_file.as_str() {
        // Not in a directory that is the peer's as well.
        "" => store
            .node_path
            .as_ref()
            .unwrap_or(&store.path)
            .join("admin.token"),
        text => identity.beside(text),
    };
    let name = match (raw.name.as_str(), &ha) {
        ("", Some(ha)) => ha.role_name(),
        ("", None) => "standalone",
        (name, _) => name,
    };
    let config = Config {
        profile: identity.profile.clone(),
        file: identity.file.clone(),
        name: name.to_owned(),
        demo: raw.demo,
        mode,
        ha,
        client,
        admin: AdminConfig {
            listen: admin,
            token_file,
        },
        store,
        limits,
        destinations,
        log: log(raw),
    };
    if rules.errors.is_empty() {
        Ok((config, rules.warnings))
    } else {
        Err(ConfigErrors(rules.errors))
    }
}

impl Identity {
    /// A path that belongs to the profile: relative to its folder.
    fn beside(&self, text: &str) -> PathBuf {
        let folder = self.file.as_deref().and_then(Path::parent);
        folder.unwrap_or_else(|| Path::new("")).join(text)
    }
}

struct Rules<'a> {
    merged: &'a Merged,
    identity: &'a Identity,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigWarning>,
}

impl Rules<'_> {
    fn found(&self, key: &str) -> (String, Origin) {
        self.merged.get(key).map_or_else(
            || (String::new(), Origin::Default),
            |(value, origin)| (value.to_string(), origin.clone()),
        )
    }

    fn broken(&mut self, key: &str, rule: impl Into<String>) {
        let (value, at) = self.found(key);
        self.errors.push(ConfigError::BadValue {
            at,
            key: key.to_owned(),
            value,
            rule: rule.into(),
        });
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        let (value, at) = self.found(key);
        self.warnings.push(ConfigWarning {
            at,
            key: key.to_owned(),
            value,
            message: message.into(),
        });
    }

    /// A text that must not be empty.
    fn mandatory(&mut self, key: &str, text: &str, rule: &str) {
        if !text.is_empty() {
            return;
        }
        if self.found(key).1 == Origin::Default {
            self.errors.push(ConfigError::Missing {
                profile: self.identity.shown.clone(),
                key: key.to_owned(),
                rule: rule.to_owned(),
            });
        } else {
            self.broken(key, rule);
        }
    }

    fn at_most(&mut self, key: &str, value: u64, limit_key: &str, limit: u64, rule: &str) {
        if value > limit {
            let (shown, at) = self.found(limit_key);
            self.broken(key, format!("{rule}, which is {shown} ({at})"));
        }
    }

    fn address(&mut self, key: &str, text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| {
            self.broken(key, "must be an IP address");
            IpAddr::from([127, 0, 0, 1])
        })
    }

    fn client(&mut self, raw: &RawConfig) -> ClientConfig {
        let client = &raw.client;
        let listen: Vec<SocketAddr> = client
            .listen
            .iter()
            .filter_map(|text| parse_address(text))
            .collect();
        if listen.is_empty() {
            self.broken("client.listen", "must name at least one address");
        }
        if let Some(open) = listen.iter().find(|address| !address.ip().is_loopback())
            && !client.allow_anonymous
        {
            self.broken(
                "client.listen",
                format!(
                    "{open} is reached from other machines, and without users anyone there could \
                     read and write every message: say client.allow_anonymous = true if that \
                     network is trusted, or listen on 127.0.0.1 only"
                ),
            );
        }
        let beat = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        ClientConfig {
            listen,
            connect_timeout: Duration::from_millis(client.connect_timeout_ms),
            heart_beat_send: beat(client.heart_beat_send_ms),
            heart_beat_receive: beat(client.heart_beat_receive_ms),
        }
    }

    fn store(&mut self, raw: &RawConfig) -> StoreConfig {
        let store = &raw.store;
        self.mandatory("store.path", &store.path, "the store needs a directory");
        // The retained log, as much again until the next checkpoint, and the reserve: if they filled
        // the quota, sends would be refused for ever.
        self.at_most(
            "store.retain_mib",
            store.retain_mib.saturating_mul(4),
            "store.quota_mib",
            store.quota_mib,
            "must be at most a quarter of store.quota_mib",
        );
        self.at_most(
            "store.checkpoint_mib",
            store.checkpoint_mib,
            "store.retain_mib",
            store.retain_mib,
            "must be at most store.retain_mib",
        );
        for (key, value, limit_key, limit) in [
            (
                "store.warn_percent",
                store.warn_percent,
                "store.block_percent",
                store.block_percent,
            ),
            (
                "store.block_percent",
                store.block_percent,
                "store.refuse_percent",
                store.refuse_percent,
            ),
        ] {
            self.at_most(
                key,
                u64::from(value),
                limit_key,
                u64::from(limit).saturating_sub(1),
                &format!("must be below {limit_key}"),
            );
        }
        self.dead_log_leaves_room(raw);
        StoreConfig {
            path: PathBuf::from(&store.path),
            sync: store.sync,
            quota_bytes: store.quota_mib.saturating_mul(MIB),
            room_percent: [
                store.warn_percent,
                store.block_percent,
                store.refuse_percent,
            ],
            retain_bytes: store.retain_mib.saturating_mul(MIB),
            checkpoint_bytes: store.checkpoint_mib.saturating_mul(MIB),
            node_path: self.node_path(raw),
        }
    }

    /// Log that is kept although its messages are done with must not make senders wait for ever.
    fn dead_log_leaves_room(&mut self, raw: &RawConfig) {
        let store = &raw.store;
        let (block, refuse) = (
            u64::from(store.block_percent),
            u64::from(store.refuse_percent.max(1)),
        );
        // The reserve of 64 MiB is not for sends; `storage::room` has it the same way.
        let usable = store.quota_mib.saturating_sub(64);
        let blocks_at = (store.quota_mib * block / 100).min(usable * block / refuse);
        if store.retain_mib.saturating_add(store.checkpoint_mib) > blocks_at {
            self.broken(
                "store.block_percent",
                format!(
                    "senders would wait from {blocks_at} MiB on, and store.retain_mib and \
                     store.checkpoint_mib together keep more log than that"
                ),
            );
        }
    }

    fn node_path(&mut self, raw: &RawConfig) -> Option<PathBuf> {
        const KEY: &str = "store.node_path";
        let text = &raw.store.node_path;
        if raw.mode != Mode::Shared {
            if !text.is_empty() {
                self.warn(KEY, "has no effect but in shared mode");
            }
            return None;
        }
        self.mandatory(
            KEY,
            text,
            "in shared mode the store is both servers': this one needs a folder of its own, on a local \
             disk",
        );
        let path = PathBuf::from(text);
        if !raw.store.path.is_empty() && path.starts_with(&raw.store.path) {
            self.broken(KEY, "must not lie in store.path: that is both servers'");
        }
        Some(path)
    }

    fn limits(&mut self, raw: &RawConfig) -> Limits {
        let limits = &raw.limits;
        self.at_most(
            "limits.connection_in_flight_bytes",
            limits.connection_in_flight_bytes,
            "limits.global_in_flight_bytes",
            limits.global_in_flight_bytes,
            "must be at most limits.global_in_flight_bytes",
        );
        let memory = |mib: u64| mib.saturating_mul(MIB);
        self.at_most(
            "limits.connection_in_flight_bytes",
            limits.connection_in_flight_bytes,
            "limits.connection_memory_mib",
            memory(limits.connection_memory_mib),
            "must be at most limits.connection_memory_mib",
        );
        self.at_most(
            "limits.memory_high_mib",
            limits.memory_high_mib,
            "limits.memory_critical_mib",
            limits.memory_critical_mib,
            "must be at most limits.memory_critical_mib",
        );
        let seconds = |s: u64| (s > 0).then(|| Duration::from_secs(s));
        Limits {
            max_connections: limits.max_connections,
            max_connections_per_address: Some(limits.max_connections_per_address)
                .filter(|bound| *bound > 0),
            accept_rate: Some(limits.accept_rate).filter(|rate| *rate > 0),
            idle_timeout: seconds(limits.idle_timeout_s),
            slow_consumer: seconds(limits.slow_consumer_s),
            memory_high_bytes: memory(limits.memory_high_mib),
            memory_critical_bytes: memory(limits.memory_critical_mib),
            connection_memory_bytes: memory(limits.connection_memory_mib),
            max_subscriptions: limits.max_subscriptions,
            max_destinations: limits.max_destinations,
            max_headers: limits.max_headers,
            max_header_bytes: limits.max_header_bytes,
            max_body_bytes: limits.max_body_bytes,
            prefetch: limits.prefetch,
            connection_in_flight_messages: limits.connection_in_flight_messages,
            connection_in_flight_bytes: limits.connection_in_flight_bytes,
            global_in_flight_bytes: limits.global_in_flight_bytes,
            block_timeout: Duration::from_millis(limits.block_timeout_ms),
            transactions: limits.transactions,
            transaction_messages: limits.transaction_messages,
            transaction_bytes: limits.transaction_mib.saturating_mul(MIB),
            volatile_mib: limits.volatile_mib,
            duplicate_ids: limits.duplicate_ids,
            duplicate_ids_total: limits.duplicate_ids_total,
            duplicate_window: Duration::from_millis(limits.duplicate_window_ms),
        }
    }

    fn unused_in_standalone(&mut self) {
        let set: Vec<&str> = keys::sections()
            .iter()
            .filter(|section| section.only_in_ha())
            .flat_map(|section| section.keys)
            .map(|key| key.path)
            .filter(|path| self.found(path).1 != Origin::Default)
            .collect();
        for key in set {
            self.warn(key, "has no effect in standalone mode");
        }
    }

    /// No two listeners of this server on one port, nor, on one machine, the peer's.
    fn listeners_distinct(
        &mut self,
        client: &[SocketAddr],
        admin: SocketAddr,
        ha: Option<&HaConfig>,
    ) {
        let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
        let own = client
            .iter()
            .map(|address| ("client.listen", *address))
            .chain([("admin.rmi_server_port", admin)])
            .chain(ha.map(|ha| ("ha.port", ha.listen)));
        for (key, address) in own {
            match taken.iter().find(|(_, other)| overlap(*other, address)) {
                Some((other, _)) => {
                    self.broken(key, format!("{address} is taken by {other} already"));
                }
                None => taken.push((key, address)),
            }
        }
        let Some(ha) = ha else { return };
        for (key, peer) in [
            ("ha.backup_ha_port", &ha.peer),
            ("ha.backup_server_port", &ha.peer_client),
            ("ha.backup_rmi_server_port", &ha.peer_admin),
        ] {
            let same = taken.iter().find(|(_, own)| {
                own.port() == peer.port
                    && (own.ip().to_string() == peer.host
                        || (own.ip().is_loopback() && peer.host == "localhost"))
            });
            if let Some((own, _)) = same {
                self.broken(
                    key,
                    format!("{peer} is this server's own {own}: it must be the peer's"),
                );
            }
        }
    }

    /// `demo` switches off rules that protect a pair, so it must not reach other machines.
    fn demo_is_one_machine(
        &mut self,
        client: &ClientConfig,
        admin: SocketAddr,
        ha: Option<&HaConfig>,
    ) {
        let mut outside: Vec<&str> = Vec::new();
        if client
            .listen
            .iter()
            .any(|address| !address.ip().is_loopback())
        {
            outside.push("client.listen");
        }
        if !admin.ip().is_loopback() {
            outside.push("admin.ip_address");
        }
        if let Some(ha) = ha {
            if !ha.listen.ip().is_loopback() {
                outside.push("ha.ip_address");
            }
            if !ha.peer.is_loopback() {
                outside.push("ha.backup_ha_ip_address");
            }
        }
        for key in outside {
            self.broken(
                key,
                "demo = true is for a pair on one machine: use loopback addresses, or say demo = \
                 false and name a lock file and a gateway on a third machine",
            );
        }
    }
}

/// Two listeners cannot both have their address.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn log(raw: &RawConfig) -> LogConfig {
    LogConfig {
        level: raw.log.level.clone(),
        format: raw.log.format,
        file: (!raw.log.file.is_empty()).then(|| PathBuf::from(&raw.log.file)),
    }
}

mod destination;
mod pair;
