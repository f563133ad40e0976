//! Rules that span keys.

use super::Scratch;
use crate::config::keys::{self, Kind};
use crate::config::{ConfigSource, load};

/// A pair on three machines, by line: what each test varies.
const PAIR: &str = r#"mode = "replicated"
[client]
allow_anonymous = true
listen = ["10.0.0.1:1856"]
[store]
path = "/var/lib/twinmq"
[ha]
ip_address = "10.0.0.1"
backup_ha_ip_address = "10.0.0.2"
[ha.lock]
lock_file = "/mnt/pair.lck"
[ha.gateway]
gateway_server_ip_address = "10.0.0.9"
[ha.tls]
ca_file = "ca.pem"
cert_file = "cert.pem"
key_file = "key.pem"
pair_secret_file = "pair.secret"
"#;

/// Loads the pair with lines replaced; gives the messages, or the warnings if it loads.
fn pair(changes: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let mut text = PAIR.to_owned();
    for (line, with) in changes {
        assert!(text.contains(line), "{line}");
        text = text.replace(line, with);
    }
    let scratch = Scratch::new(&text);
    scratch.load().map(|loaded| {
        let warnings = loaded.warnings.iter().map(ToString::to_string);
        warnings
            .map(|warning| warning.replace(&scratch.path(), "P"))
            .collect()
    })
}

fn refused(changes: &[(&str, &str)]) -> String {
    pair(changes).unwrap_err()
}

#[test]
fn a_complete_pair_is_taken_and_its_files_lie_beside_the_profile() {
    assert_eq!(pair(&[]), Ok(Vec::new()));
    let scratch = Scratch::new(PAIR);
    let config = scratch.load().unwrap().config;
    let ha = config.ha.unwrap();
    assert_eq!(
        ha.tls.unwrap().ca_file,
        scratch.folder.path().join("ca.pem")
    );
    assert_eq!(
        ha.pair_secret_file,
        Some(scratch.folder.path().join("pair.secret"))
    );
    assert_eq!(ha.peer_client.to_string(), "10.0.0.2:1956");
    assert_eq!(ha.gateway.targets[0].to_string(), "10.0.0.9:7");
    assert_eq!(
        config.admin.token_file.to_str(),
        Some("/var/lib/twinmq/admin.token")
    );
}

#[test]
fn what_a_pair_cannot_do_without_is_missed_by_name() {
    assert_eq!(
        refused(&[("lock_file = \"/mnt/pair.lck\"", "")]),
        "P: ha.lock.lock_file is not set: a server of a pair may serve only while it holds the \
         lock: name one file, on a share of a third machine, for both servers"
    );
    assert_eq!(
        refused(&[("lock_file = \"/mnt/pair.lck\"", "lock_file = \"\"")]),
        "P:11: ha.lock.lock_file = \"\": a server of a pair may serve only while it holds the \
         lock: name one file, on a share of a third machine, for both servers"
    );
    assert_eq!(
        refused(&[("gateway_server_ip_address = \"10.0.0.9\"", "")]),
        "P: ha.gateway.gateway_server_ip_address is not set: a server of a pair needs a third \
         machine to know whether it is on the network itself: name the machine that exports the \
         lock file"
    );
    assert_eq!(
        refused(&[("backup_ha_ip_address = \"10.0.0.2\"", "")]),
        "P: ha.backup_ha_ip_address is not set: a server of a pair must know its peer's address"
    );
    assert_eq!(
        refused(&[("[ha]", "[ha]\ncluster = \"\"")]),
        "P:8: ha.cluster = \"\": the pair needs a name"
    );
    assert_eq!(
        refused(&[("\"/var/lib/twinmq\"", "\"\"")]),
        "P:6: store.path = \"\": the store needs a directory"
    );
}

#[test]
fn the_passive_interval_is_at_least_twice_the_active() {
    let intervals = |active: u32, passive: u32| {
        let lines = format!(
            "[ha.lock]\nactive_lock_re_acquisition_interval_ms = {active}\n\
             passive_lock_acquisition_interval_ms = {passive}"
        );
        pair(&[("[ha.lock]", &lines)])
    };
    assert_eq!(intervals(1000, 2250), Ok(Vec::new()));
    assert_eq!(
        intervals(1000, 2249).unwrap(),
        [
            "P:12: ha.lock.passive_lock_acquisition_interval_ms = 2249: is less than twice \
          ha.lock.active_lock_re_acquisition_interval_ms and ha.lock.clock_drift_ms = 250 together: a \
          silent peer's lease may not be over by then, and a take-over waits for that as well"
        ]
    );
    assert_eq!(
        intervals(1000, 2000).unwrap(),
        [
            "P:12: ha.lock.passive_lock_acquisition_interval_ms = 2000: is exactly twice \
          ha.lock.active_lock_re_acquisition_interval_ms: a little more leaves room for clock drift"
        ]
    );
    assert_eq!(
        intervals(1000, 1999).unwrap_err(),
        "P:12: ha.lock.passive_lock_acquisition_interval_ms = 1999: must be at least twice \
         ha.lock.active_lock_re_acquisition_interval_ms, that is 2000 ms: else this server takes \
         over before the old holder has noticed that it lost the lock"
    );
    // 1001 counts as 1250: the rule is about what is in effect.
    assert_eq!(
        intervals(1001, 2499).unwrap_err().lines().count(),
        1,
        "{:?}",
        intervals(1001, 2499)
    );
    assert_eq!(
        intervals(1001, 2750).unwrap(),
        [
            "P:11: ha.lock.active_lock_re_acquisition_interval_ms = 1001: is rounded up to 1250 ms, a \
          multiple of half of ha.ping_interval_ms = 500"
        ]
    );
}

#[test]
fn the_reference_s_own_defaults_are_taken() {
    let text = PAIR
        .replace("[ha]\n", "[ha]\nping_interval_ms = 30000\n")
        .replace(
            "[ha.lock]\n",
            "[ha.lock]\nactive_lock_re_acquisition_interval_ms = 30000\n\
             passive_lock_acquisition_interval_ms = 60000\n",
        );
    let loaded = Scratch::new(&text).load().unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].message.starts_with("is exactly twice"));
}

#[test]
fn the_active_interval_is_rounded_up_to_half_pings() {
    for (ping, given, effective) in [
        (500, 1000, 1000),
        (500, 1001, 1250),
        (500, 501, 750),
        (75, 100, 113),
        (30_000, 35_000, 45_000),
    ] {
        let text = PAIR
            .replace("[ha]\n", &format!("[ha]\nping_interval_ms = {ping}\n"))
            .replace(
                "[ha.lock]\n",
                &format!(
                    "[ha.lock]\nactive_lock_re_acquisition_interval_ms = {given}\n\
                     passive_lock_acquisition_interval_ms = 1000000\n"
                ),
            );
        let ha = Scratch::new(&text).load().unwrap().config.ha.unwrap();
        assert_eq!(ha.active_interval.as_millis(), effective, "{ping} {given}");
    }
}

#[test]
fn pings_are_no_rarer_than_lock_checks_and_misses_not_too_many() {
    let ping = |lines: &str| pair(&[("[ha]\n", &format!("[ha]\n{lines}\n"))]);
    assert_eq!(
        ping("ping_interval_ms = 4000").unwrap_err().lines().next(),
        // Rounding half of 4000 up from 1000 gives 2000, which is still less.
        Some(
            "P:8: ha.ping_interval_ms = 4000: must be at most \
             ha.lock.active_lock_re_acquisition_interval_ms, which is 1000 (built-in default)"
        )
    );
    assert_eq!(ping("ping_misses = 5"), Ok(Vec::new()));
    assert_eq!(
        ping("ping_misses = 6").unwrap_err(),
        "P:8: ha.ping_misses = 6: lets 3000 ms pass before a silent channel counts as broken: must \
         be at most ha.lock.passive_lock_acquisition_interval_ms, which is 2500 (built-in default)"
    );
    assert_eq!(
        ping("ping_misses = 1").unwrap_err(),
        "P:8: ha.ping_misses = 1: must be a whole number from 2 to 100"
    );
}

#[test]
fn the_lock_file_is_one_file_outside_the_store() {
    for (path, rule) in [
        (
            "pair.lck",
            "must be an absolute path (only a demo may use a relative one)",
        ),
        ("/mnt/", "must name a file, not a folder"),
        (
            "/mnt/pair.lck.2",
            "must not end in a dot and a number: such are the generations of a lock file \
             /mnt/pair.lck, whose pair would take this one or remove it",
        ),
        (
            "/var/lib/twinmq/pair.lck",
            "must not lie in store.path: it must outlive the store",
        ),
    ] {
        assert_eq!(
            refused(&[("/mnt/pair.lck", path)]),
            format!("P:11: ha.lock.lock_file = \"{path}\": {rule}")
        );
    }
}

#[test]
fn the_gateway_is_a_third_machine() {
    for host in ["localhost", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0"] {
        assert_eq!(
            refused(&[("10.0.0.9", host)]),
            format!(
                "P:13: ha.gateway.gateway_server_ip_address = \"{host}\": must not be this \
                 machine, which always answers: name the machine that exports the lock file (only \
                 a demo may use localhost)"
            )
        );
    }
    for host in ["10.0.0.1", "10.0.0.2"] {
        assert_eq!(
            refused(&[("\"10.0.0.9\"", &format!("\"{host}\""))]),
            format!(
                "P:13: ha.gateway.gateway_server_ip_address = \"{host}\": must be neither of the \
                 two servers"
            )
        );
    }
}

#[test]
fn a_demo_stays_on_one_machine() {
    let said = refused(&[("[client]", "demo = true\n[client]")]);
    let keys: Vec<&str> = said
        .lines()
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(
        keys,
        ["client.listen", "ha.ip_address", "ha.backup_ha_ip_address"]
    );
    assert!(said.contains("demo = true is for a pair on one machine"));
}

#[test]
fn listening_to_other_machines_must_be_said() {
    assert_eq!(
        refused(&[("allow_anonymous = true", "")]),
        "P:4: client.listen = [\"10.0.0.1:1856\"]: 10.0.0.1:1856 is reached from other machines, \
         and without users anyone there could read and write every message: say \
         client.allow_anonymous = true if that network is trusted, or listen on 127.0.0.1 only"
    );
    assert_eq!(
        refused(&[("listen = [\"10.0.0.1:1856\"]", "listen = []")]),
        "P:4: client.listen = []: must name at least one address"
    );
}

#[test]
fn ports_are_distinct() {
    let clash = |lines: &str| refused(&[("[ha]\n", &format!("{lines}\n[ha]\n"))]);
    assert_eq!(
        clash("[admin]\nip_address = \"10.0.0.1\"\nrmi_server_port = 1856"),
        "P:9: admin.rmi_server_port = 1856: 10.0.0.1:1856 is taken by client.listen already"
    );
    assert_eq!(
        clash("[admin]\nip_address = \"0.0.0.0\"\nrmi_server_port = 2000"),
        "built-in default: ha.port = 2000: 10.0.0.1:2000 is taken by admin.rmi_server_port already"
    );
    assert_eq!(
        refused(&[("[\"10.0.0.1:1856\"]", "[\"10.0.0.1:1\", \"10.0.0.1:1\"]")]),
        "P:4: client.listen = [\"10.0.0.1:1\", \"10.0.0.1:1\"]: 10.0.0.1:1 is taken by \
         client.listen already"
    );
    let mut source = ConfigSource::profile("replicated/primary");
    source.set = vec!["ha.backup_ha_port=2000".to_owned()];
    assert_eq!(
        load(&source).unwrap_err().to_string(),
        "--set ha.backup_ha_port=2000: ha.backup_ha_port = 2000: 127.0.0.1:2000 is this server's \
         own ha.port: it must be the peer's"
    );
}

#[test]
fn the_channel_between_machines_needs_all_four_files() {
    let tls = "ca_file = \"ca.pem\"\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n\
               pair_secret_file = \"pair.secret\"\n";
    let rule = "the HA channel leaves this machine and needs ha.tls.ca_file, cert_file, key_file \
                and pair_secret_file: `twinmq pair init` makes them";
    assert_eq!(
        refused(&[(tls, "")]),
        format!("P:8: ha.ip_address = \"10.0.0.1\": {rule}")
    );
    assert_eq!(
        refused(&[(tls, ""), ("ip_address = \"10.0.0.1\"\nb", "b")]),
        format!("P:8: ha.backup_ha_ip_address = \"10.0.0.2\": {rule}")
    );
    assert_eq!(
        refused(&[("key_file = \"key.pem\"\n", "")]),
        "P: ha.tls.key_file is not set: ha.tls needs all of ca_file, cert_file, key_file and \
         pair_secret_file, or none"
    );
}

#[test]
fn sizes_fit_into_each_other() {
    let with = |lines: &str| refused(&[("[store]\n", &format!("{lines}\n[store]\n"))]);
    let store = |lines: &str| refused(&[("[store]\n", &format!("[store]\n{lines}\n"))]);
    assert_eq!(
        store("quota_mib = 524289"),
        "P:6: store.quota_mib = 524289: must be a whole number from 128 to 524288 MiB"
    );
    assert_eq!(
        store("quota_mib = 767"),
        "built-in default: store.retain_mib = 192: must be at most a quarter of store.quota_mib, \
         which is 767 (P:6)"
    );
    assert_eq!(
        store("retain_mib = 100"),
        "built-in default: store.checkpoint_mib = 128: must be at most store.retain_mib, which is \
         100 (P:6)"
    );
    assert_eq!(
        refused(&[
            (
                "[store]\n",
                "[store]\nquota_mib = 128\nretain_mib = 16\ncheckpoint_mib = 8\n"
            ),
            (
                "[ha.tls]\n",
                "[ha.replication]\nwindow_mib = 129\n[ha.tls]\n"
            ),
        ]),
        "P:18: ha.replication.window_mib = 129: must be at most store.quota_mib, which is 128 (P:6)"
    );
    assert_eq!(
        with("[limits]\nglobal_in_flight_bytes = 9000000"),
        "built-in default: limits.connection_in_flight_bytes = 16777216: must be at most \
         limits.global_in_flight_bytes, which is 9000000 (P:6)"
    );
}

#[test]
fn pair_keys_in_a_standalone_profile_are_pointed_out() {
    let scratch = Scratch::new("[ha]\nport = 2001\n");
    let loaded = scratch.load().unwrap();
    assert_eq!(loaded.config.ha, None);
    let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [format!(
            "{}:2: ha.port = 2001: has no effect in standalone mode",
            scratch.path()
        )]
    );
}

#[test]
fn further_probe_targets_follow_the_gateway() {
    let scratch = Scratch::new(&PAIR.replace(
        "[ha.gateway]\n",
        "[ha.gateway]\nprobe_targets = [\"router:80\", \"[fe80::1]:22\"]\n",
    ));
    let ha = scratch.load().unwrap().config.ha.unwrap();
    let targets: Vec<String> = ha.gateway.targets.iter().map(ToString::to_string).collect();
    assert_eq!(targets, ["10.0.0.9:7", "router:80", "[fe80::1]:22"]);
}

#[test]
fn the_smallest_window_holds_the_largest_record() {
    let bounds = |path: &str| match keys::find(path).unwrap().kind {
        Kind::Integer { min, max, .. } => (min, max),
        other => panic!("{other:?}"),
    };
    let body = i64::from(crate::config::Limits::RECORD_BODY_BYTES_MAX);
    let largest = body + bounds("limits.max_header_bytes").1;
    assert!(largest <= bounds("ha.replication.window_mib").0 << 20);
}
