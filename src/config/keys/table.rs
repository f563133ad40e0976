//! The table itself.

use super::{Applies, Key, Kind, Section};

const fn ms(min: i64, max: i64) -> Kind {
    Kind::Integer {
        unit: "ms",
        min,
        max,
    }
}

const fn bytes(min: i64, max: i64) -> Kind {
    Kind::Integer {
        unit: "bytes",
        min,
        max,
    }
}

const fn mib(min: i64, max: i64) -> Kind {
    Kind::Integer {
        unit: "MiB",
        min,
        max,
    }
}

const fn count(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: "", min, max }
}

const PORT: Kind = Kind::Integer {
    unit: "",
    min: 1,
    max: 65_535,
};

/// A key that a restart applies.
const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
    rule: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        meaning,
        rule,
        applies: Applies::OnRestart,
        reference: &[],
    }
}

impl Key {
    const fn on_reload(mut self) -> Self {
        self.applies = Applies::OnReload;
        self
    }

    const fn known_as(mut self, names: &'static [&'static str]) -> Self {
        self.reference = names;
        self
    }
}

/// The sections in the order of the profiles.
pub(super) const SECTIONS: &[Section] = &[
    SERVER,
    CLIENT,
    ADMIN,
    STORE,
    HA,
    HA_CONNECTION,
    HA_LOCK,
    HA_GATEWAY,
    HA_REPLICATION,
    HA_TLS,
    LIMITS,
    LOG,
];

const SERVER: Section = Section {
    path: "",
    meaning: "The server.",
    keys: &[
        key(
            "mode",
            Kind::Choice(&["standalone", "replicated", "shared"]),
            "standalone",
            "How the server works: alone; as one of two servers that each keep a full copy; or as \
             one of two servers that share one store.",
            "the same on both servers of a pair",
        ),
        key(
            "name",
            Kind::Name,
            "",
            "The server's name in status and logs. Empty: primary, secondary or standalone.",
            "",
        ),
        key(
            "demo",
            Kind::Bool,
            "false",
            "A pair on one machine, to try things out. It is NOT highly available: one power cord, \
             one disk. It lets lock file and gateway be on this machine.",
            "with true, every address must be a loopback address",
        ),
    ],
};

const CLIENT: Section = Section {
    path: "client",
    meaning: "The client port: every client protocol, told apart by its first bytes.",
    keys: &[
        key(
            "client.listen",
            Kind::Addresses,
            "127.0.0.1:1856",
            "Where clients are served. More addresses may be added, for example with port 61613.",
            "at least one; another than a loopback address only with allow_anonymous",
        )
        .known_as(&["ClientPort"]),
        key(
            "client.allow_anonymous",
            Kind::Bool,
            "false",
            "Clients need not say who they are: whoever reaches the port may send and receive \
             everything. This version has no users yet, so a server that listens to other machines \
             needs it; open the port to trusted networks only.",
            "",
        ),
        key(
            "client.connect_timeout_ms",
            ms(100, 300_000),
            "10000",
            "How long a new connection may take to its first complete frame before it is closed.",
            "",
        )
        .on_reload(),
        key(
            "client.heart_beat_send_ms",
            ms(0, 600_000),
            "10000",
            "Heart-beats that the server offers to send, so that clients notice a dead server. 0: \
             none.",
            "",
        )
        .on_reload(),
        key(
            "client.heart_beat_receive_ms",
            ms(0, 600_000),
            "10000",
            "Heart-beats that the server would like from clients that offer them. 0: none.",
            "",
        )
        .on_reload(),
    ],
};

const ADMIN: Section = Section {
    path: "admin",
    meaning: "The admin HTTP port: status, health, stop. Up in every state.",
    keys: &[
        key(
            "admin.ip_address",
            Kind::Ip,
            "127.0.0.1",
            "The address that the admin port listens on.",
            "",
        ),
        key(
            "admin.rmi_server_port",
            PORT,
            "1858",
            "The admin port. (The reference's management port, hence its name.)",
            "a port of its own",
        )
        .known_as(&["RMIServerPort"]),
        key(
            "admin.token_file",
            Kind::Path,
            "",
            "The file with the token that calls which change something must show. Made with mode \
             0600 if it is missing. Empty: admin.token in the data directory. Relative: to the \
             folder of this file.",
            "",
        ),
    ],
};

const STORE: Section = Section {
    path: "store",
    meaning: "The store.",
    keys: &[
        key(
            "store.path",
            Kind::Path,
            "data/standalone",
            "The data directory, on a local disk. Relative: to the working directory.",
            "for one server only; in shared mode the same directory for both servers",
        )
        .known_as(&["dbPath"]),
        key(
            "store.sync",
            Kind::Choice(&["deferred", "meta"]),
            "deferred",
            "How a commit becomes durable before it is confirmed. deferred: with the next commit's \
             flush, or a flush of its own when idle (half the flushes under load). meta: two \
             flushes for every commit, the plain way.",
            "",
        ),
        key(
            "store.quota_mib",
            mib(64, 67_108_864),
            "102400",
            "Sends are refused, and say so, when the store holds this much. Acknowledgements always \
             go through.",
            "at most half of map_gib; a small disk refuses sends earlier",
        ),
        key(
            "store.map_gib",
            Kind::Integer {
                unit: "GiB",
                min: 1,
                max: 131_072,
            },
            "1024",
            "Address space reserved for the store. It costs neither memory nor disk.",
            "",
        ),
        key(
            "store.retain_mib",
            mib(16, 1_048_576),
            "256",
            "Log that is kept although its messages are done with, so that a returning server need \
             not be copied in full.",
            "at most quota_mib",
        ),
        key(
            "store.checkpoint_mib",
            mib(1, 4096),
            "128",
            "Log between two checkpoints: what is read again at a start. 256 MiB take under a second.",
            "at most retain_mib",
        ),
        key(
            "store.cache_mib",
            mib(8, 1_048_576),
            "256",
            "Memory for message bodies that wait for delivery; older ones are read from the disk.",
            "",
        ),
    ],
};

const HA: Section = Section {
    path: "ha",
    meaning: "The pair. Used in replicated and shared mode.",
    keys: &[
        key(
            "ha.primary",
            Kind::Bool,
            "true",
            "This is the primary server. It decides ties, nothing else: after a failover the \
             secondary stays active.",
            "true on one server, false on the other",
        )
        .known_as(&["isPrimary", "Primary"]),
        key(
            "ha.cluster",
            Kind::Name,
            "twinmq",
            "The pair's name. Servers of another pair are refused.",
            "the same on both servers; not empty",
        ),
        key(
            "ha.ip_address",
            Kind::Ip,
            "127.0.0.1",
            "The address that the HA channel listens on, best in a network of its own.",
            "another than a loopback address only with ha.tls",
        ),
        key(
            "ha.port",
            PORT,
            "2000",
            "The port of the HA channel.",
            "a port of its own; the peer's backup_ha_port",
        )
        .known_as(&["Port"]),
        key(
            "ha.backup_ha_ip_address",
            Kind::Host,
            "",
            "The peer's address on the HA channel.",
            "mandatory in replicated and shared mode",
        )
        .known_as(&["BackupHAIPAddress", "BackupHAIP"]),
        key(
            "ha.backup_ha_port",
            PORT,
            "3000",
            "The peer's port of the HA channel.",
            "the peer's ha.port",
        )
        .known_as(&["BackupHAPort", "BackupHAIPort"]),
        key(
            "ha.backup_server_ip",
            Kind::Host,
            "",
            "The address at which clients reach the peer. Empty: backup_ha_ip_address.",
            "",
        )
        .known_as(&["BackupServerIp"]),
        key(
            "ha.backup_server_port",
            PORT,
            "1956",
            "The peer's client port.",
            "a port of the peer's client.listen",
        )
        .known_as(&["BackupServerPort"]),
        key(
            "ha.backup_rmi_server_port",
            PORT,
            "1859",
            "The peer's admin port.",
            "the peer's admin.rmi_server_port",
        )
        .known_as(&["BackupRMIServerPort"]),
        key(
            "ha.ping_interval_ms",
            ms(50, 600_000),
            "500",
            "How often the peer is pinged.",
            "the same on both servers; at most active_lock_re_acquisition_interval_ms",
        )
        .known_as(&["PingInterval"]),
        key(
            "ha.ping_misses",
            count(2, 100),
            "4",
            "So many pings in a row without an answer mean that the channel is broken. A channel \
             that is closed by the other end is broken at once.",
            "ping_interval_ms times this should not exceed \
             passive_lock_acquisition_interval_ms",
        ),
    ],
};

const HA_CONNECTION: Section = Section {
    path: "ha.connection",
    meaning: "How the HA channel is made.",
    keys: &[
        key(
            "ha.connection.nagle_algo",
            Kind::Bool,
            "false",
            "Nagle's algorithm on the HA channel: fewer packets, later ones.",
            "",
        )
        .known_as(&["NagleAlgo"]),
        key(
            "ha.connection.socket_creation_timeout_ms",
            ms(100, 600_000),
            "10000",
            "How long a connect to the peer may take.",
            "",
        )
        .known_as(&["SocketCreationTimeout"]),
        key(
            "ha.connection.socket_initialization_timeout_ms",
            ms(100, 600_000),
            "10000",
            "How long a new channel may take until both servers have proved who they are.",
            "",
        )
        .known_as(&["SocketInitializationTimeout"]),
    ],
};

const HA_LOCK: Section = Section {
    path: "ha.lock",
    meaning: "The lock file and the times that decide a take-over.",
    keys: &[
        key(
            "ha.lock.lock_file",
            Kind::Path,
            "",
            "The lock file on the share that both servers mount (NFSv4), as this server sees it. \
             The two paths may differ, the file must be the same.",
            "mandatory in replicated and shared mode; absolute unless demo; not in store.path",
        )
        .known_as(&["LockFile"]),
        key(
            "ha.lock.active_lock_re_acquisition_interval_ms",
            ms(50, 600_000),
            "1000",
            "How often the holder checks its lock and the record beside it. What it last found \
             lets it serve for twice this long.",
            "the same on both servers; rounded up to a multiple of half of ping_interval_ms",
        )
        .known_as(&[
            "ActiveLockReAcquisitionInterval",
            "ActiveLockReAcquistionInterval",
        ]),
        key(
            "ha.lock.passive_lock_acquisition_interval_ms",
            ms(100, 1_200_000),
            "2500",
            "How long the peer must be silent before a passive server tries the lock. A channel \
             that was closed, or a goodbye, needs no wait.",
            "the same on both servers; at least, and better more than, twice \
             active_lock_re_acquisition_interval_ms",
        )
        .known_as(&[
            "PassiveLockAcquisitionInterval",
            "PassiveLockReAcquisitionInterval",
            "PassiveLockAcquistionInterval",
            "PassiveLockReAcquistionInterval",
        ]),
        key(
            "ha.lock.max_wait_timeout_ms",
            ms(1000, 3_600_000),
            "30000",
            "A change of state that takes longer is given up and begun anew. A resync may take \
             longer while bytes move.",
            "",
        )
        .known_as(&["MaxWaitTimeout"]),
        key(
            "ha.lock.takeover",
            Kind::Choice(&["lock"]),
            "lock",
            "How a passive server takes over. lock: when it has obtained the lock of the old holder.",
            "",
        ),
    ],
};

const HA_GATEWAY: Section = Section {
    path: "ha.gateway",
    meaning: "What is probed to learn whether this server is still on the network.",
    keys: &[
        key(
            "ha.gateway.gateway_server_ip_address",
            Kind::Host,
            "",
            "The machine that exports the lock file. It should always be up.",
            "mandatory in replicated and shared mode; neither of the two servers, nor this \
             machine, unless demo; the same on both servers",
        )
        .known_as(&["GatewayServerIPAddress"]),
        key(
            "ha.gateway.gateway_server_port",
            PORT,
            "7",
            "The TCP port that is probed. A refused connection counts as reachable, so nothing need \
             listen there.",
            "the same on both servers",
        )
        .known_as(&["GatewayServerPort"]),
        key(
            "ha.gateway.probe_targets",
            Kind::Targets,
            "",
            "Further machines to probe, such as a router: one that answers is enough.",
            "",
        ),
        key(
            "ha.gateway.probe_interval_ms",
            ms(100, 600_000),
            "1000",
            "Time between two probes.",
            "",
        ),
        key(
            "ha.gateway.probe_timeout_ms",
            ms(50, 60_000),
            "1000",
            "How long one probe may take.",
            "",
        ),
        key(
            "ha.gateway.probe_misses",
            count(1, 100),
            "2",
            "So many rounds in a row without any answer mean that the gateway is unreachable.",
            "",
        ),
    ],
};

const HA_REPLICATION: Section = Section {
    path: "ha.replication",
    meaning: "The stream to the peer.",
    keys: &[
        key(
            "ha.replication.replication_ack_timeout_ms",
            ms(100, 600_000),
            "5000",
            "A peer that leaves a batch unacknowledged for longer is too slow: it leaves the in-sync \
             set, and this server goes on alone until the peer has caught up.",
            "",
        )
        .on_reload(),
        key(
            "ha.replication.window_mib",
            mib(8, 1024),
            "16",
            "Batches under way to the peer. Memory on both servers.",
            "at most store.quota_mib",
        ),
        key(
            "ha.replication.resync_limit_mib_per_s",
            Kind::Integer {
                unit: "MiB/s",
                min: 0,
                max: 1_048_576,
            },
            "0",
            "How fast a returning server is brought into step, so that clients keep their share. 0: \
             no limit.",
            "",
        )
        .on_reload(),
    ],
};

const HA_TLS: Section = Section {
    path: "ha.tls",
    meaning: "Certificates of the HA channel: TLS 1.3, both sides checked, and the pair secret. \
              `twinmq pair init` makes them.",
    keys: &[
        key(
            "ha.tls.ca_file",
            Kind::Path,
            "",
            "The certificate of the pair's own authority. Relative: to the folder of this file.",
            "all four or none; needed unless both ends of the channel are loopback addresses",
        ),
        key(
            "ha.tls.cert_file",
            Kind::Path,
            "",
            "This server's certificate.",
            "as ca_file",
        ),
        key(
            "ha.tls.key_file",
            Kind::Path,
            "",
            "Its private key.",
            "as ca_file; readable by the server's user only",
        ),
        key(
            "ha.tls.pair_secret_file",
            Kind::Path,
            "",
            "The secret that both servers share.",
            "as ca_file; the same on both servers; readable by the server's user only",
        ),
    ],
};

const LIMITS: Section = Section {
    path: "limits",
    meaning: "Bounds on what clients may ask for. A reload applies them to what comes after it.",
    keys: &[
        key(
            "limits.max_connections",
            count(1, 1_000_000),
            "1024",
            "Client connections at once. The system's limit on open files must allow them.",
            "",
        )
        .on_reload()
        .known_as(&["MaxClientConnections"]),
        key(
            "limits.max_subscriptions",
            count(1, 100_000),
            "1024",
            "Subscriptions of one connection.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_destinations",
            count(1, 10_000_000),
            "100000",
            "Destinations in all.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_destination_name_bytes",
            bytes(16, 390),
            "255",
            "Length of a destination's name.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_headers",
            count(8, 10_000),
            "128",
            "Header lines of one frame.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_header_line_bytes",
            bytes(256, 65_536),
            "8192",
            "Length of one header line.",
            "at most max_header_bytes",
        )
        .on_reload(),
        key(
            "limits.max_header_bytes",
            bytes(1024, 262_144),
            "65536",
            "Command and headers of one frame together.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_body_bytes",
            bytes(1024, 8_000_000),
            "4194304",
            "Body of one message.",
            "max_header_bytes and max_body_bytes together at most connection_in_flight_bytes",
        )
        .on_reload(),
        key(
            "limits.prefetch",
            count(1, 1_000_000),
            "1000",
            "Messages that one subscription may hold unacknowledged, unless it asks for fewer.",
            "",
        )
        .on_reload(),
        key(
            "limits.connection_in_flight_messages",
            count(1, 1_000_000),
            "4096",
            "Messages of one connection that are read and not yet confirmed. Beyond it the \
             connection is not read on.",
            "",
        )
        .on_reload(),
        key(
            "limits.connection_in_flight_bytes",
            bytes(65_536, 1_073_741_824),
            "16777216",
            "Bytes of the same.",
            "at most global_in_flight_bytes",
        )
        .on_reload(),
        key(
            "limits.global_in_flight_bytes",
            bytes(1_048_576, 68_719_476_736),
            "268435456",
            "Bytes of the same over all connections: the server's memory for it.",
            "",
        )
        .on_reload(),
        key(
            "limits.block_timeout_ms",
            ms(100, 600_000),
            "30000",
            "How long a send may wait for room before it gets an ERROR.",
            "",
        )
        .on_reload(),
    ],
};

const LOG: Section = Section {
    path: "log",
    meaning: "The log. It goes to standard error, and to a file if one is named.",
    keys: &[
        key(
            "log.level",
            Kind::Levels,
            "info",
            "What is logged, in all or by target: \"info,twinmq::ha=debug\".",
            "",
        )
        .on_reload(),
        key(
            "log.format",
            Kind::Choice(&["text", "json"]),
            "text",
            "Lines for people, or one JSON object per event.",
            "",
        ),
        key(
            "log.file",
            Kind::Path,
            "",
            "A file that the log is appended to as well. Relative: to the working directory.",
            "a file of its own for each server",
        ),
    ],
};
