//! The rules of the pair.

use super::*;

const ACTIVE: &str = "ha.lock.active_lock_re_acquisition_interval_ms";
const PASSIVE: &str = "ha.lock.passive_lock_acquisition_interval_ms";
const DRIFT: &str = "ha.lock.clock_drift_ms";
const GATEWAY: &str = "ha.gateway.gateway_server_ip_address";
const LOCK_FILE: &str = "ha.lock.lock_file";

impl Rules<'_> {
    pub(super) fn pair(&mut self, raw: &RawConfig) -> HaConfig {
        let ha = &raw.ha;
        let ms = Duration::from_millis;
        self.mandatory("ha.cluster", &ha.cluster, "the pair needs a name");
        let listen = SocketAddr::new(self.address("ha.ip_address", &ha.ip_address), ha.port);
        let peer = self.peer(ha);
        let peer_host = if ha.backup_server_ip.is_empty() {
            &ha.backup_ha_ip_address
        } else {
            &ha.backup_server_ip
        };
        self.lock_file(raw);
        let (active, passive) = self.intervals(ha);
        let gateway = self.gateway(raw, listen.ip(), &peer.host);
        self.at_most(
            "ha.replication.window_mib",
            ha.replication.window_mib,
            "store.quota_mib",
            raw.store.quota_mib,
            "must be at most store.quota_mib",
        );
        let (tls, pair_secret_file) = self.tls(ha, listen, &peer);
        HaConfig {
            primary: ha.primary,
            cluster: ha.cluster.clone(),
            listen,
            peer_client: HostPort {
                host: peer_host.clone(),
                port: ha.backup_server_port,
            },
            peer_admin: HostPort {
                host: peer_host.clone(),
                port: ha.backup_rmi_server_port,
            },
            peer,
            ping_interval: ms(ha.ping_interval_ms),
            ping_misses: ha.ping_misses,
            watchdog: ha.watchdog,
            connect_timeout: ms(ha.connection.socket_creation_timeout_ms),
            hello_timeout: ms(ha.connection.socket_initialization_timeout_ms),
            nagle: ha.connection.nagle_algo,
            lock_file: PathBuf::from(&ha.lock.lock_file),
            active_interval: ms(active),
            passive_interval: ms(passive),
            max_wait: ms(ha.lock.max_wait_timeout_ms),
            takeover: ha.lock.takeover,
            clock_drift: ms(ha.lock.clock_drift_ms),
            gateway,
            replication: ReplicationConfig {
                ack_timeout: ms(ha.replication.replication_ack_timeout_ms),
                window_bytes: ha.replication.window_mib.saturating_mul(MIB),
                resync_bytes_per_s: ha.replication.resync_bandwidth_mib_s.saturating_mul(MIB),
            },
            tls,
            pair_secret_file,
        }
    }

    fn peer(&mut self, ha: &RawHa) -> HostPort {
        let key = "ha.backup_ha_ip_address";
        self.mandatory(
            key,
            &ha.backup_ha_ip_address,
            "a server of a pair must know its peer's address",
        );
        if is_unspecified(&ha.backup_ha_ip_address) {
            self.broken(key, "must be an address of the peer, not of every machine");
        }
        HostPort {
            host: ha.backup_ha_ip_address.clone(),
            port: ha.backup_ha_port,
        }
    }

    fn lock_file(&mut self, raw: &RawConfig) {
        let text = &raw.ha.lock.lock_file;
        self.mandatory(
            LOCK_FILE,
            text,
            "a server of a pair may serve only while it holds the lock: name one file, on a share \
             of a third machine, for both servers",
        );
        let path = Path::new(text);
        if text.is_empty() {
            return;
        }
        if text.ends_with('/') || path.file_name().is_none() {
            self.broken(LOCK_FILE, "must name a file, not a folder");
        }
        if let Some(other) = lock_file_with_this_generation(path) {
            self.broken(
                LOCK_FILE,
                format!(
                    "must not end in a dot and a number: such are the generations of a lock file {}, \
                     whose pair would take this one or remove it",
                    other.display()
                ),
            );
        }
        if !path.is_absolute() && !raw.demo {
            self.broken(
                LOCK_FILE,
                "must be an absolute path (only a demo may use a relative one)",
            );
        }
        if !raw.store.path.is_empty() && path.starts_with(&raw.store.path) {
            self.broken(
                LOCK_FILE,
                "must not lie in store.path: it must outlive the store",
            );
        }
    }

    /// The effective active and passive intervals, in milliseconds.
    fn intervals(&mut self, ha: &RawHa) -> (u64, u64) {
        let ping = ha.ping_interval_ms;
        let given = ha.lock.active_lock_re_acquisition_interval_ms;
        let passive = ha.lock.passive_lock_acquisition_interval_ms;
        let drift = ha.lock.clock_drift_ms;
        // In doubled milliseconds, so that half of an odd ping interval is a whole number.
        let active = given
            .saturating_mul(2)
            .div_ceil(ping.max(1))
            .saturating_mul(ping)
            .div_ceil(2);
        if active != given {
            self.warn(
                ACTIVE,
                format!(
                    "is rounded up to {active} ms, a multiple of half of ha.ping_interval_ms = \
                     {ping}"
                ),
            );
        }
        self.at_most(
            "ha.ping_interval_ms",
            ping,
            ACTIVE,
            active,
            &format!("must be at most {ACTIVE}"),
        );
        let twice = active.saturating_mul(2);
        if passive < twice {
            self.broken(
                PASSIVE,
                format!(
                    "must be at least twice {ACTIVE}, that is {twice} ms: else this server takes \
                     over before the old holder has noticed that it lost the lock"
                ),
            );
        } else if passive == twice {
            self.warn(
                PASSIVE,
                format!("is exactly twice {ACTIVE}: a little more leaves room for clock drift"),
            );
        } else if passive < twice.saturating_add(drift) {
            self.warn(
                PASSIVE,
                format!(
                    "is less than twice {ACTIVE} and {DRIFT} = {drift} together: a silent peer's \
                     lease may not be over by then, and a take-over waits for that as well"
                ),
            );
        }
        // Equal is allowed: the reference's own defaults are so.
        let silence = ping.saturating_mul(u64::from(ha.ping_misses));
        self.at_most(
            "ha.ping_misses",
            silence,
            PASSIVE,
            passive,
            &format!(
                "lets {silence} ms pass before a silent channel counts as broken: must be at most \
                 {PASSIVE}"
            ),
        );
        (active, passive)
    }

    fn gateway(&mut self, raw: &RawConfig, own: IpAddr, peer: &str) -> GatewayConfig {
        let gateway = &raw.ha.gateway;
        let host = &gateway.gateway_server_ip_address;
        self.mandatory(
            GATEWAY,
            host,
            "a server of a pair needs a third machine to know whether it is on the network itself: \
             name the machine that exports the lock file",
        );
        if !raw.demo && !host.is_empty() {
            if host_is_loopback(host) || is_unspecified(host) {
                self.broken(
                    GATEWAY,
                    "must not be this machine, which always answers: name the machine that exports \
                     the lock file (only a demo may use localhost)",
                );
            } else if host == peer || host.parse() == Ok(own) {
                self.broken(GATEWAY, "must be neither of the two servers");
            }
        }
        let first = HostPort {
            host: host.clone(),
            port: gateway.gateway_server_port,
        };
        let further = gateway
            .probe_targets
            .iter()
            .filter_map(|text| parse_target(text));
        GatewayConfig {
            targets: std::iter::once(first).chain(further).collect(),
            probe_interval: Duration::from_millis(gateway.probe_interval_ms),
            probe_timeout: Duration::from_millis(gateway.probe_timeout_ms),
            probe_misses: gateway.probe_misses,
        }
    }

    fn tls(
        &mut self,
        ha: &RawHa,
        listen: SocketAddr,
        peer: &HostPort,
    ) -> (Option<TlsConfig>, Option<PathBuf>) {
        let files = [
            ("ha.tls.ca_file", &ha.tls.ca_file),
            ("ha.tls.cert_file", &ha.tls.cert_file),
            ("ha.tls.key_file", &ha.tls.key_file),
            ("ha.tls.pair_secret_file", &ha.tls.pair_secret_file),
        ];
        let given = files.iter().filter(|(_, text)| !text.is_empty()).count();
        // An empty peer has a message of its own.
        let local = listen.ip().is_loopback() && (peer.is_loopback() || peer.host.is_empty());
        if given == 0 {
            if !local {
                let key = if listen.ip().is_loopback() {
                    "ha.backup_ha_ip_address"
                } else {
                    "ha.ip_address"
                };
                self.broken(
                    key,
                    "the HA channel leaves this machine and needs ha.tls.ca_file, cert_file, \
                     key_file and pair_secret_file: `twinmq pair init` makes them",
                );
            }
            return (None, None);
        }
        for (key, text) in files {
            self.mandatory(
                key,
                text,
                "ha.tls needs all of ca_file, cert_file, key_file and pair_secret_file, or none",
            );
        }
        let beside = |text: &String| self.identity.beside(text);
        let tls = TlsConfig {
            ca_file: beside(&ha.tls.ca_file),
            cert_file: beside(&ha.tls.cert_file),
            key_file: beside(&ha.tls.key_file),
        };
        (Some(tls), Some(beside(&ha.tls.pair_secret_file)))
    }
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>()
        .is_ok_and(|address| address.is_unspecified())
}

/// The lock file of which this one would be a generation: `<lock file>.<number>`.
fn lock_file_with_this_generation(path: &Path) -> Option<PathBuf> {
    let (stem, number) = path.file_name()?.to_str()?.rsplit_once('.')?;
    let is_one =
        !stem.is_empty() && !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit());
    is_one.then(|| path.with_file_name(stem))
}
