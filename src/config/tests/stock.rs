//! The stock profiles.

use crate::config::{ConfigSource, STOCK_PROFILES, keys, load, stock};

#[test]
fn the_stock_files_are_what_the_table_of_keys_writes() {
    for (name, text) in STOCK_PROFILES {
        let written = stock(name).unwrap().render();
        let path = format!("{}/conf/profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("TWINMQ_BLESS").is_some() {
            std::fs::write(&path, &written).unwrap();
        } else {
            assert!(
                text == written,
                "{path} differs from the table of keys; write it anew with TWINMQ_BLESS=1"
            );
        }
    }
}

fn stock_alone(name: &str) -> ConfigSource {
    ConfigSource {
        search: Vec::new(),
        ..ConfigSource::profile(name)
    }
}

#[test]
fn every_stock_profile_loads_without_a_warning() {
    for (name, _) in STOCK_PROFILES {
        let loaded = load(&stock_alone(name)).unwrap();
        assert_eq!(loaded.config.profile, name);
        assert_eq!(loaded.config.file, None);
        assert_eq!(loaded.warnings, [], "{name}");
    }
}

#[test]
fn the_stock_pairs_fit_each_other() {
    for mode in ["replicated", "shared"] {
        let one = load(&stock_alone(&format!("{mode}/primary")))
            .unwrap()
            .config;
        let other = load(&stock_alone(&format!("{mode}/secondary")))
            .unwrap()
            .config;
        assert_eq!(one.must_agree(), other.must_agree());
        assert_eq!(one.must_agree().len(), 6);
        let (one_ha, other_ha) = (one.ha.unwrap(), other.ha.unwrap());
        assert!(one_ha.primary && !other_ha.primary);
        assert_eq!(one_ha.cluster, other_ha.cluster);
        assert_eq!(one_ha.lock_file, other_ha.lock_file);
        assert_eq!(one_ha.peer.to_string(), other_ha.listen.to_string());
        assert_eq!(other_ha.peer.to_string(), one_ha.listen.to_string());
        assert_eq!(
            one_ha.peer_client.to_string(),
            other.client.listen[0].to_string()
        );
        assert_eq!(
            other_ha.peer_client.to_string(),
            one.client.listen[0].to_string()
        );
        assert_eq!(
            one_ha.peer_admin.to_string(),
            other.admin.listen.to_string()
        );
        assert_eq!(
            other_ha.peer_admin.to_string(),
            one.admin.listen.to_string()
        );
        assert!(one.demo && other.demo);
    }
}

#[test]
fn the_stock_values_are_those_of_the_interface() {
    let config = load(&stock_alone("replicated/secondary")).unwrap().config;
    assert_eq!(config.name, "secondary");
    assert_eq!(config.client.listen[0].to_string(), "127.0.0.1:1956");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:1859");
    assert_eq!(
        config.store.path.to_str(),
        Some("data/replicated/secondary")
    );
    assert_eq!(
        config.admin.token_file.to_str(),
        Some("data/replicated/secondary/admin.token")
    );
    let ha = config.ha.unwrap();
    assert_eq!(ha.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(ha.peer.to_string(), "127.0.0.1:2000");
    assert_eq!(ha.lock_file.to_str(), Some("data/lock/replicated.lck"));
    assert_eq!(ha.ping_interval.as_millis(), 500);
    assert_eq!(ha.active_interval.as_millis(), 1000);
    assert_eq!(ha.lease_ttl().as_millis(), 2000);
    assert_eq!(ha.passive_interval.as_millis(), 2500);
    assert_eq!(ha.max_wait.as_millis(), 30_000);
    assert_eq!(ha.connect_timeout.as_millis(), 10_000);
    assert_eq!(ha.hello_timeout.as_millis(), 10_000);
    assert_eq!(ha.replication.ack_timeout.as_millis(), 5000);
    assert_eq!((ha.tls, ha.pair_secret_file), (None, None));
    let alone = load(&stock_alone("standalone")).unwrap().config;
    assert_eq!(alone.name, "standalone");
    assert_eq!(alone.ha, None);
    assert_eq!(alone.must_agree(), []);
    assert_eq!(alone.limits.max_connections, 1024);
}

#[test]
fn every_key_stands_in_every_stock_profile_once() {
    for (name, text) in STOCK_PROFILES {
        let mut section = String::new();
        let mut seen = Vec::new();
        for line in text.lines() {
            if let Some(path) = line.trim_start_matches('#').strip_prefix('[') {
                let path = path.trim_start_matches('[').trim_end_matches(']');
                section = format!("{path}.");
            } else if let Some((leaf, _)) = line.trim_start_matches('#').split_once(" = ")
                && !line.starts_with("# ")
            {
                seen.push(format!("{section}{leaf}"));
            }
        }
        let of_tables = keys::destination().keys.iter();
        let known: Vec<&str> = keys::all().chain(of_tables).map(|key| key.path).collect();
        assert_eq!(seen, known, "{name}");
    }
}
