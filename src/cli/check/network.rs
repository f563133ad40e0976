//! Ports, gateway, peer and disk, as this machine finds them now.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::report::Report;
use crate::cli::admin_client::{AdminClient, AdminError, Status};
use crate::config::{Config, HaConfig, HostPort};
use crate::io::ping::{ProbeRequest, spawn_prober};
use crate::io::port_owner;
use crate::time::SystemClock;

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(3);

/// The ports that this server listens on, or would; and the disk under its store.
pub(super) fn own(report: &mut Report, config: &Config) {
    report.topic("this server");
    let running = AdminClient::new(&format!("http://{}", config.admin.listen), None).status();
    if let Ok(status) = &running {
        running_here(report, config, status);
    } else {
        let mut ports: Vec<(&str, SocketAddr)> = vec![("admin", config.admin.listen)];
        ports.extend(config.client.listen.iter().map(|it| ("client", *it)));
        ports.extend(config.ha.iter().map(|ha| ("HA", ha.listen)));
        for (name, address) in ports {
            port(report, name, address);
        }
    }
    disk(report, config);
}

/// Something of ours has the admin port: this server, or another one that it could not run beside.
fn running_here(report: &mut Report, config: &Config, status: &Status) {
    let Status {
        pid, server, state, ..
    } = status;
    let found = format!("runs as process {pid}: {server} is {state}");
    if status.mode != config.mode.name() || *server != config.name {
        return report.bad(
            format!(
                "its ports belong to another server: at {} {found} ({} mode, profile {}); this profile \
                 is {} ({} mode)",
                config.admin.listen, status.mode, status.profile, config.name, config.mode
            ),
            format!(
                "stop that one (twinmq stop -p {}), or give this one other ports, here and at the peer",
                status.profile
            ),
        );
    }
    if status.profile == config.profile {
        report.good(found);
    } else {
        report.warn(
            format!(
                "{found}, with the profile {}: what is checked here is {}",
                status.profile, config.profile
            ),
            "check the profile that it runs with, or start it anew with this one",
        );
    }
}

fn port(report: &mut Report, name: &str, address: SocketAddr) {
    match TcpListener::bind(address) {
        Ok(_) => report.good(format!("{name} port {address} is free")),
        Err(cause) => {
            let owner = port_owner::listener(address)
                .map_or_else(String::new, |owner| format!(" by {owner}"));
            report.bad(
                format!("{name} port {address} cannot be listened on{owner}: {cause}"),
                "stop its owner, or change the port here and at the peer",
            );
        }
    }
}

fn disk(report: &mut Report, config: &Config) {
    let path = &config.store.path;
    let Some(existing) = existing(path) else {
        return report.note(format!("{}: no folder above it exists", path.display()));
    };
    match statvfs(existing) {
        Ok(found) => {
            let free = found
                .blocks_available()
                .saturating_mul(found.fragment_size());
            let (free_mib, quota_mib) = (free >> 20, config.store.quota_bytes >> 20);
            let text = format!(
                "{}: {free_mib} MiB free, store.quota_mib is {quota_mib}",
                path.display()
            );
            if free < config.store.quota_bytes {
                report.warn(
                    text,
                    "the disk may fill before sends are refused: lower store.quota_mib or give it \
                     more room",
                );
            } else {
                report.good(text);
            }
        }
        Err(cause) => report.note(format!("{}: {cause}", path.display())),
    }
}

fn existing(path: &Path) -> Option<&Path> {
    path.ancestors()
        .map(|it| {
            if it.as_os_str().is_empty() {
                Path::new(".")
            } else {
                it
            }
        })
        .find(|it| it.exists())
}

/// The gateway, by the probe that the server uses.
pub(super) fn gateway(report: &mut Report, ha: &HaConfig) {
    report.topic("gateway");
    let targets: Vec<String> = ha.gateway.targets.iter().map(ToString::to_string).collect();
    let (sender, answers) = channel();
    let sink = Arc::new(move |_, result| {
        if sender.send(result).is_err() {
            tracing::debug!(target: "twinmq::check", "the probe answered too late");
        }
    });
    let prober = match spawn_prober(Arc::new(SystemClock), sink) {
        Ok(prober) => prober,
        Err(cause) => return report.note(format!("no thread for the probe: {cause}")),
    };
    prober.request(ProbeRequest {
        probe_id: 0,
        targets: targets.clone(),
        timeout: ha.gateway.probe_timeout,
    });
    // Names are resolved before the probe's own time begins.
    match answers.recv_timeout(ha.gateway.probe_timeout.saturating_add(CONNECT)) {
        Ok(Ok(target)) => report.good(format!("{target} answers")),
        Ok(Err(reason)) => report.bad(
            format!("nothing answers: {reason}"),
            "a passive server that does not reach it never takes over: name a machine that is \
             always up (a refused connection counts as an answer)",
        ),
        Err(_) => report.bad(
            format!(
                "{}: no answer, perhaps not even of the name service",
                targets.join(", ")
            ),
            "give addresses instead of names, so that a take-over does not depend on a name server",
        ),
    }
}

/// The peer's HA port and what its admin port says.
pub(super) fn peer(report: &mut Report, config: &Config, ha: &HaConfig) {
    report.topic("peer");
    match connect(&ha.peer) {
        Ok(()) => report.good(format!("HA port {} takes connections", ha.peer)),
        Err(why) => report.warn(
            format!("HA port {}: {why}", ha.peer),
            "start the peer; if it runs, compare ha.backup_ha_ip_address and ha.backup_ha_port \
             with ha.ip_address and ha.port of its profile, and see the firewall between them",
        ),
    }
    let url = format!("http://{}", ha.peer_admin);
    match AdminClient::new(&url, None).status() {
        Ok(status) => described(report, config, ha, &status),
        Err(error @ (AdminError::NotRunning { .. } | AdminError::Silent { .. })) => {
            report.note(format!("its admin port: {error}"));
        }
        Err(error) => report.warn(
            format!("its admin port: {error}"),
            "compare ha.backup_rmi_server_port with admin.rmi_server_port of its profile",
        ),
    }
}

fn described(report: &mut Report, config: &Config, ha: &HaConfig, status: &Status) {
    if status.mode != config.mode.name() {
        return report.bad(
            format!(
                "the server at {} runs in {} mode, this profile is {}",
                ha.peer_admin, status.mode, config.mode
            ),
            "compare both profiles",
        );
    }
    if status.server == config.name {
        return report.bad(
            format!(
                "the server at {} is the {} too (profile {}, process {}): it is this one, or of \
                 another pair",
                ha.peer_admin, status.server, status.profile, status.pid
            ),
            "compare ha.backup_rmi_server_port and the addresses in both profiles; one says ha.primary \
             = true, the other false",
        );
    }
    report.good(format!(
        "{} is {}, version {}",
        status.server, status.state, status.version
    ));
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        report.note(format!(
            "it runs version {}, this is {own}: a pair may differ while it is upgraded, one server \
             after the other",
            status.version
        ));
    }
}

fn connect(target: &HostPort) -> Result<(), String> {
    let addresses = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|cause| cause.to_string())?;
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Ok(()),
            Err(cause) => last = cause.to_string(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::super::report::Grade;
    use super::*;
    use crate::config::{ConfigSource, load};

    fn judged(
        judge: impl Fn(&mut Report, &Config, &Status),
        profile: &str,
        status: &Status,
    ) -> String {
        let config = load(&ConfigSource::profile(profile)).unwrap().config;
        let mut report = Report::default();
        report.topic("judged");
        judge(&mut report, &config, status);
        format!("{} {}", report.count(Grade::Bad), report.as_text())
    }

    fn status(server: &str, mode: &str) -> Status {
        Status {
            server: server.to_owned(),
            profile: format!("{mode}/{server}"),
            mode: mode.to_owned(),
            state: "ACTIVE".to_owned(),
            pid: 4711,
            ..Status::default()
        }
    }

    #[test]
    fn another_server_on_this_ones_ports_is_not_taken_for_it() {
        let own = |status| judged(running_here, "shared/primary", &status);
        let itself = own(status("primary", "shared"));
        assert!(itself.starts_with("0 "), "{itself}");
        for (other, part) in [
            (
                status("primary", "replicated"),
                "twinmq stop -p replicated/primary",
            ),
            (status("secondary", "shared"), "secondary is ACTIVE"),
        ] {
            let text = own(other);
            assert!(text.starts_with("1 "), "{text}");
            assert!(
                text.contains("its ports belong to another server"),
                "{text}"
            );
            assert!(text.contains(part), "{part} in {text}");
        }
        let mut elsewhere = status("primary", "shared");
        "/etc/twinmq/profile.toml".clone_into(&mut elsewhere.profile);
        let text = own(elsewhere);
        assert!(text.starts_with("0 "), "{text}");
        assert!(
            text.contains("what is checked here is shared/primary"),
            "{text}"
        );
    }

    #[test]
    fn a_peer_of_the_same_name_is_none() {
        let peer = |status| {
            let judge = |report: &mut Report, config: &Config, status: &Status| {
                let ha = config.ha.as_ref().unwrap();
                described(report, config, ha, status);
            };
            judged(judge, "replicated/primary", &status)
        };
        let fits = peer(status("secondary", "replicated"));
        assert!(fits.starts_with("0 "), "{fits}");
        let same = peer(status("primary", "replicated"));
        assert!(same.contains("is the primary too"), "{same}");
    }
}
