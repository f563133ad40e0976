//! The table itself.

pub(super) use destination::DESTINATION;
use pair::{HA, HA_CONNECTION, HA_GATEWAY, HA_LOCK, HA_REPLICATION, HA_TLS};

use super::{Applies, Key, Kind, Section};
use crate::config::model::Limits;

mod destination;
mod pair;

const fn ms(min: i64, max: i64) -> Kind {
    Kind::Integer {
        unit: "ms",
        min,
        max,
    }
}

const fn seconds(min: i64, max: i64) -> Kind {
    Kind::Integer {
        unit: "s",
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

const PERCENT: Kind = Kind::Integer {
    unit: "%",
    min: 1,
    max: 99,
};

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
        ),
        key(
            "client.allow_anonymous",
            Kind::Bool,
            "false",
            "Whoever reaches the client port may send and receive everything. This version has no \
             users yet, so a server that listens to other machines needs it: open the port to \
             trusted networks only. A server that listens on loopback addresses only does not.",
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
            "The data directory, on a local disk; in shared mode the directory of the store that both \
             servers can reach, on a share (NFSv4). Relative: to the working directory.",
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
            mib(128, 524_288),
            "102400",
            "The store's room, at most; its disk may leave it less: what it holds and what is free \
             there. So does a system that gives the store less than its 1 TiB of address space.",
            "",
        ),
        key(
            "store.warn_percent",
            PERCENT,
            "80",
            "Share of the room at which the log and status warn.",
            "below block_percent",
        ),
        key(
            "store.block_percent",
            PERCENT,
            "90",
            "Share of the room at which senders wait, up to limits.block_timeout_ms, while messages are \
             received and acknowledged.",
            "below refuse_percent",
        ),
        key(
            "store.refuse_percent",
            PERCENT,
            "95",
            "Share of the room at which sends are refused, and say so. Acknowledgements always go \
             through: the last 64 MiB of the room, or 2 % of the disk, are theirs, and where that is \
             more, all three levels are lower in proportion.",
            "",
        ),
        key(
            "store.retain_mib",
            mib(16, 131_072),
            "192",
            "Log that is kept although its messages are done with, so that a returning server need \
             not be copied in full.",
            "at most a quarter of quota_mib",
        ),
        key(
            "store.checkpoint_mib",
            mib(1, 4096),
            "128",
            "Log between two checkpoints: what is read again at a start. 256 MiB take under a second.",
            "at most retain_mib",
        ),
        key(
            "store.node_path",
            Kind::Path,
            "",
            "Shared mode: this server's own folder (its identity, the arbiter record that it saw last, \
             admin.token), on a local disk. Relative: to the working directory.",
            "mandatory in shared mode, unused in others; for one server only; not in store.path",
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
        .on_reload(),
        key(
            "limits.max_connections_per_address",
            count(0, 1_000_000),
            "0",
            "Of them from one address. 0: no bound but max_connections. Clients behind one NAT or proxy \
             have one address.",
            "",
        )
        .on_reload(),
        key(
            "limits.accept_rate",
            count(0, 1_000_000),
            "0",
            "New connections in a second, with as many at once after a quiet second. Others wait in the \
             system's queue, and are not refused. 0: no bound. After a failover every client comes at once.",
            "",
        )
        .on_reload(),
        key(
            "limits.idle_timeout_s",
            seconds(0, 604_800),
            "0",
            "A connection that has no heart-beats from its client, no subscription and no answer to wait \
             for is closed after this long without a sign. 0: never; a client whose host is gone is \
             noticed by the system within three minutes.",
            "",
        )
        .on_reload(),
        key(
            "limits.slow_consumer_s",
            seconds(0, 86_400),
            "60",
            "A client that is sent something and reads nothing of it for this long is closed; what it \
             had not acknowledged goes to others. 0: never.",
            "",
        )
        .on_reload(),
        key(
            "limits.memory_high_mib",
            mib(8, 1_048_576),
            "768",
            "Memory for messages at which nothing more is read from senders until an eighth of it is \
             free; what is received, acknowledged and subscribed goes on. Counted: messages that are not \
             stored yet, those kept for delivery, those on the way to clients, and buffers.",
            "at most memory_critical_mib",
        )
        .on_reload(),
        key(
            "limits.memory_critical_mib",
            mib(16, 1_048_576),
            "1024",
            "Memory for messages at which the connection that holds most of it is closed with an ERROR, \
             one after the other until it is less.",
            "",
        )
        .on_reload(),
        key(
            "limits.connection_memory_mib",
            mib(8, 1_048_576),
            "256",
            "The same for one connection: it is closed with an ERROR when it holds more.",
            "at least connection_in_flight_bytes",
        )
        .on_reload(),
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
            "limits.max_headers",
            count(8, 10_000),
            "128",
            "Header lines of one frame.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_header_bytes",
            bytes(1024, Limits::HEADER_BYTES_MAX as i64),
            "65536",
            "Command and headers of one frame together.",
            "",
        )
        .on_reload(),
        key(
            "limits.max_body_bytes",
            bytes(1024, Limits::BODY_BYTES_MAX as i64),
            "104857600",
            "Body of one message. One over 64 KiB is stored and delivered in parts and never in memory \
             as a whole.",
            "",
        )
        .on_reload(),
        key(
            "limits.prefetch",
            count(1, 1_000_000),
            "1000",
            "Messages that one subscription may hold unacknowledged, unless it asks for another \
             number: up to 10000, or this where it is more.",
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
        key(
            "limits.transactions",
            count(1, 10_000),
            "64",
            "Open transactions of one connection.",
            "",
        )
        .on_reload(),
        key(
            "limits.transaction_messages",
            count(1, 100_000),
            "10000",
            "Messages of one transaction, sent and acknowledged together. A larger one gets an ERROR.",
            "",
        )
        .on_reload(),
        key(
            "limits.transaction_mib",
            mib(1, 8),
            "8",
            "Bytes of one transaction. All that are open have at most connection_in_flight_bytes per \
             connection and global_in_flight_bytes in all, besides what is in flight.",
            "",
        )
        .on_reload(),
        key(
            "limits.volatile_mib",
            mib(0, 65_536),
            "256",
            "Memory for messages that need not be stored (persistent:false, subscriptions that are not \
             durable, temporary queues), all destinations together. What does not fit is stored. 0: \
             everything is stored.",
            "",
        )
        .on_reload(),
        key(
            "limits.duplicate_ids",
            count(0, 1_000_000),
            "20000",
            "Ids of sent messages (_AMQ_DUPL_ID) that are known for one destination: a message that is \
             sent again with an id that is known is not stored again. 0: ids are not looked at.",
            "",
        )
        .on_reload(),
        key(
            "limits.duplicate_ids_total",
            count(1, 10_000_000),
            "1000000",
            "The same for all destinations together; beyond it the oldest is forgotten. Each takes about \
             85 bytes of memory.",
            "",
        )
        .on_reload(),
        key(
            "limits.duplicate_window_ms",
            ms(1, 604_800_000),
            "3600000",
            "How long an id is known, by the clock of the server that stored the message.",
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
