//! The texts of a pair: profiles, unit, next steps.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::Role;
use crate::cli::args::{PairInitArgs, PairMode, Platform};
use crate::config::Ports;
use crate::config::render::Profile;

/// Where the folders are copied to.
const HOME: &str = "/etc/twinmq";
/// Where the unit looks for the binary.
const BINARY: &str = "/usr/local/bin/twinmq";
/// The data directory; in shared mode what is each server's own.
pub(super) const STORE: &str = "/var/lib/twinmq";

/// Ping, active and passive interval, in milliseconds.
fn intervals(on: Platform) -> (i64, i64, i64) {
    match on {
        Platform::Metal => (500, 1000, 2500),
        // A snapshot pauses a machine for seconds: shorter intervals would fail over each time.
        Platform::Vm => (1000, 4000, 10_000),
    }
}

/// A server's profile.
pub(super) fn profile(args: &PairInitArgs, role: Role, gateway: &str) -> Profile {
    let (own_host, peer_host, own, peer) = match role {
        Role::Primary => (
            &args.primary,
            &args.secondary,
            Ports::PRIMARY,
            Ports::SECONDARY,
        ),
        Role::Secondary => (
            &args.secondary,
            &args.primary,
            Ports::SECONDARY,
            Ports::PRIMARY,
        ),
    };
    let (ping, active, passive) = intervals(args.on);
    // A name can be resolved to anything: the server then listens on all its addresses.
    let address = own_host
        .parse()
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let client_address = if args.allow_anonymous {
        address
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    let client_port = u16::try_from(own.client).expect("the stock ports are below 65536");
    let listen = SocketAddr::new(client_address, client_port).to_string();
    let outside = SocketAddr::new(address, client_port);
    let profile = Profile {
        preamble: vec![
            format!(
                "TwinMQ, the {} of the pair {:?}, made by twinmq pair init. The peer's profile has \
                 the same times, gateway, lock file and cluster: change them in both, or not at \
                 all. Paths in [ha.tls] and admin.token_file are relative to this folder.",
                role.name(),
                args.cluster
            ),
            "A line that begins with # gives a default. twinmq config show -p FILE prints what is \
             in effect."
                .to_owned(),
        ],
        ..Profile::default()
    };
    let profile = if args.allow_anonymous {
        profile.flag("client.allow_anonymous", true)
    } else {
        profile.note(
            "client.listen",
            &format!(
                "FOR CLIENTS ON OTHER MACHINES: this version has no users yet, so the pair serves \
                 this machine only until you say allow_anonymous = true below and listen = \
                 [\"{outside}\"] here, on both servers. Without the first the second is refused."
            ),
        )
    };
    stored(profile, args)
        .list("client.listen", &[&listen])
        .number("admin.rmi_server_port", own.admin)
        .text("admin.token_file", "admin.token")
        .flag("ha.primary", role == Role::Primary)
        .text("ha.cluster", &args.cluster)
        .text("ha.ip_address", &address.to_string())
        .number("ha.port", own.ha)
        .text("ha.backup_ha_ip_address", peer_host)
        .number("ha.backup_ha_port", peer.ha)
        .number("ha.backup_server_port", peer.client)
        .number("ha.backup_rmi_server_port", peer.admin)
        .number("ha.ping_interval_ms", ping)
        .text("ha.lock.lock_file", &args.lock_file)
        .number("ha.lock.active_lock_re_acquisition_interval_ms", active)
        .number("ha.lock.passive_lock_acquisition_interval_ms", passive)
        .text("ha.gateway.gateway_server_ip_address", gateway)
        .text("ha.tls.ca_file", "ca.pem")
        .text("ha.tls.cert_file", "cert.pem")
        .text("ha.tls.key_file", "key.pem")
        .text("ha.tls.pair_secret_file", "pair.secret")
}

/// Mode and folders.
fn stored(profile: Profile, args: &PairInitArgs) -> Profile {
    let profile = profile.text("mode", args.mode.name());
    match &args.db_path {
        // Shared mode: anything else was refused.
        Some(common) => profile
            .text("store.path", common)
            .text("store.node_path", STORE),
        None => profile.text("store.path", STORE),
    }
}

/// The folder of the lock file.
fn lock_folder(lock_file: &str) -> String {
    let folder = Path::new(lock_file).parent().unwrap_or(Path::new("/"));
    folder.display().to_string()
}

/// The folders that other machines see, too, with a space between them.
fn shares(args: &PairInitArgs) -> String {
    let lock = lock_folder(&args.lock_file);
    match &args.db_path {
        Some(common) if *common != lock => format!("{lock} {common}"),
        Some(_) | None => lock,
    }
}

/// The systemd unit, the same on both servers.
pub(super) fn unit(args: &PairInitArgs) -> String {
    let shares = shares(args);
    format!(
        "\
[Unit]
Description=TwinMQ message broker
Documentation=file:{HOME}/profile.toml
Wants=network-online.target
After=network-online.target remote-fs.target
RequiresMountsFor={shares}
# Never give up: a server that cannot serve waits, and says why.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={BINARY} run -p {HOME}/profile.toml
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1s
# The command line or the profile is wrong: starting again does not help.
RestartPreventExitStatus=2 3
TimeoutStopSec=60s
# The watchdog process outlives the server for a moment, to tell the other one; it ends by itself.
KillMode=process
LimitNOFILE=65536
OOMScoreAdjust=-500

User=twinmq
Group=twinmq
StateDirectory=twinmq
StateDirectoryMode=0700
WorkingDirectory={STORE}
UMask=0077

NoNewPrivileges=true
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths={shares}
ProtectHome=read-only
PrivateTmp=true
PrivateDevices=true
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectKernelLogs=true
ProtectControlGroups=true
ProtectClock=true
ProtectHostname=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"
    )
}

/// What to do with the folders: printed, and kept as README.txt.
pub(super) fn next_steps(args: &PairInitArgs) -> String {
    let dir = args.dir.display();
    let (primary, secondary) = (&args.primary, &args.secondary);
    let at = |host: &str, port: i64| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let root = |host: &str| match host.contains(':') {
        true => format!("root@[{host}]"),
        false => format!("root@{host}"),
    };
    let lock_folder = lock_folder(&args.lock_file);
    let may_write = match &args.db_path {
        None => lock_folder,
        Some(common) => format!(
            "{lock_folder} and {common},\n   which must be there: mkdir -p {common} && chown twinmq: \
             {common} (on one of the two)"
        ),
    };
    let kind = match args.mode {
        PairMode::Replicated => String::new(),
        PairMode::Shared => {
            "\nOne store for both, on the share; experimental on NFS: see Shared mode in \
                             docs/operations.md.\n"
                .to_owned()
        }
    };
    let clients = if args.allow_anonymous {
        format!(
            "Clients connect to {} and {}, both in their list. They need not \
             say\nwho they are: let only trusted networks reach these ports.",
            at(primary, Ports::PRIMARY.client),
            at(secondary, Ports::SECONDARY.client)
        )
    } else {
        "Clients on other machines are not served yet: this version has no users, so that must be \
         your\ndecision. Say allow_anonymous = true and the address to listen on in both profiles \
         (see the comments\nat client.listen there), or make the pair anew with --allow-anonymous."
            .to_owned()
    };
    format!(
        "\
The pair {cluster:?} is in {dir}: primary on {primary}, secondary on {secondary}.
{kind}
1. On both machines, once: install the binary as {BINARY}, mount the share, and
     useradd --system --no-create-home --shell /usr/sbin/nologin twinmq
   The user twinmq must have the same number on both, and may write in {may_write}.

2. Copy each folder to its machine, where {HOME} must not exist yet:
     scp -r {dir}/primary {root_primary}:{HOME}
     scp -r {dir}/secondary {root_secondary}:{HOME}
   and on each machine:
     chown -R twinmq: {HOME}
     mv {HOME}/twinmq.service /etc/systemd/system/
     systemctl daemon-reload
     systemctl enable --now twinmq

3. The HA channel uses {primary_ha} and {secondary_ha}: let each reach the \
other's.

4. See whether they found each other, on either machine, as root:
     twinmq wait -p {HOME}/profile.toml --in-sync
     twinmq status -p {HOME}/profile.toml

{clients}

Keep {dir}/ca to replace a server later, away from both servers; remove the rest when it is copied.
key.pem, pair.secret and admin.token are secrets, and the same admin.token stops either server.",
        cluster = args.cluster,
        root_primary = root(primary),
        root_secondary = root(secondary),
        primary_ha = at(primary, Ports::PRIMARY.ha),
        secondary_ha = at(secondary, Ports::SECONDARY.ha),
    )
}
