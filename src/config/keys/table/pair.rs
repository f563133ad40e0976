//! The keys of the pair.

use super::{PORT, count, key, mib, ms};
use crate::config::keys::{Kind, Section};

pub(super) const HA: Section = Section {
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
        .known_as(&["BackupHAIPAddress"]),
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
            "The peer's admin port: `twinmq status` asks there when this server does not run.",
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
            "2",
            "The channel counts as broken when no ping was answered for so many ping intervals. A \
             channel that is closed by the other end is broken at once.",
            "ping_interval_ms times this is at most passive_lock_acquisition_interval_ms",
        ),
        key(
            "ha.watchdog",
            Kind::Bool,
            "true",
            "A small process beside the server kills it when it hangs for twice \
             active_lock_re_acquisition_interval_ms, and tells the peer when it has ended, which then \
             need not wait. Not used under systemd's own watchdog (WatchdogSec=).",
            "",
        ),
    ],
};

pub(super) const HA_CONNECTION: Section = Section {
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

pub(super) const HA_LOCK: Section = Section {
    path: "ha.lock",
    meaning: "The lock file and the times that decide a take-over.",
    keys: &[
        key(
            "ha.lock.lock_file",
            Kind::Path,
            "",
            "The lock file on the share that both servers mount (NFSv4), as this server sees it. \
             The two paths may differ, the file must be the same.",
            "mandatory in replicated and shared mode; absolute unless demo; not in store.path; not named as another one with a dot and a number",
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
            Kind::Choice(&["fence", "lock"]),
            "fence",
            "How a passive server takes over. lock: only when it has obtained the lock of the old \
             holder. fence: the same where that lock is free; but where a peer that has been silent \
             for passive_lock_acquisition_interval_ms still has it, as after a power loss, the record \
             is changed first, and the old holder's lease ends its service.",
            "best the same on both servers",
        ),
        key(
            "ha.lock.clock_drift_ms",
            ms(0, 60_000),
            "250",
            "A take-over waits so much longer than the old holder's lease, which is twice \
             active_lock_re_acquisition_interval_ms: the two servers' clocks do not run equally fast.",
            "best with room for it in passive_lock_acquisition_interval_ms",
        ),
    ],
};

pub(super) const HA_GATEWAY: Section = Section {
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

pub(super) const HA_REPLICATION: Section = Section {
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
        ),
        key(
            "ha.replication.window_mib",
            mib(8, 1024),
            "16",
            "Batches under way to the peer. Memory on both servers.",
            "at most store.quota_mib",
        ),
        key(
            "ha.replication.resync_bandwidth_mib_s",
            Kind::Integer {
                unit: "MiB/s",
                min: 0,
                max: 100_000,
            },
            "0",
            "A returning server is brought into step no faster than this by the server that serves. \
             0: as fast as both can, and while clients send no faster than they bear. Messages of a \
             pair in step are never held back by it. A limit below what clients send lets the other \
             server never catch up.",
            "",
        ),
    ],
};

pub(super) const HA_TLS: Section = Section {
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
