use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::super::args::Platform;
use super::*;
use crate::config::{Config, ConfigSource, Mode, load};

fn args(dir: &Path) -> PairInitArgs {
    PairInitArgs {
        dir: dir.to_owned(),
        primary: "10.0.0.1".to_owned(),
        secondary: "mq-two.example".to_owned(),
        lock_file: "/mnt/share/pair.lck".to_owned(),
        gateway: Some("10.0.0.9".to_owned()),
        mode: PairMode::Replicated,
        db_path: None,
        on: Platform::Metal,
        cluster: "orders".to_owned(),
        allow_anonymous: false,
    }
}

/// A pair in a folder of its own.
fn made(change: impl FnOnce(&mut PairInitArgs)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pair");
    let mut args = args(&dir);
    change(&mut args);
    make(&args, None).unwrap();
    (folder, dir)
}

fn config(dir: &Path, role: &str) -> Config {
    let profile = dir.join(role).display().to_string();
    let loaded = load(&ConfigSource::profile(&profile)).unwrap();
    assert_eq!(loaded.warnings, []);
    loaded.config
}

#[test]
fn both_profiles_load_and_fit_each_other() {
    for on in [Platform::Metal, Platform::Vm] {
        for allow_anonymous in [false, true] {
            let (_folder, dir) = made(|args| {
                args.on = on;
                args.allow_anonymous = allow_anonymous;
            });
            let one = config(&dir, "primary");
            let other = config(&dir, "secondary");
            assert_eq!(one.must_agree(), other.must_agree());
            assert!(!one.demo && !other.demo);
            let (one_ha, other_ha) = (one.ha.unwrap(), other.ha.unwrap());
            assert!(one_ha.primary && !other_ha.primary);
            assert_eq!((&*one_ha.cluster, &*other_ha.cluster), ("orders", "orders"));
            assert_eq!(one_ha.lock_file, other_ha.lock_file);
            assert_eq!(one_ha.listen.to_string(), "10.0.0.1:2000");
            assert_eq!(other_ha.peer.to_string(), "10.0.0.1:2000");
            // A name may resolve to any of the machine's addresses.
            assert_eq!(other_ha.listen.to_string(), "0.0.0.0:3000");
            assert_eq!(one_ha.peer.to_string(), "mq-two.example:3000");
            assert_eq!(one_ha.peer_client.to_string(), "mq-two.example:1956");
            let listen = one.client.listen[0].to_string();
            let expected = if allow_anonymous {
                "10.0.0.1:1856"
            } else {
                "127.0.0.1:1856"
            };
            assert_eq!(listen, expected);
            assert_eq!(one.admin.token_file, dir.join("primary/admin.token"));
            assert_eq!(
                one_ha.pair_secret_file,
                Some(dir.join("primary/pair.secret"))
            );
        }
    }
}

#[test]
fn a_shared_pair_has_one_store_and_each_server_a_folder_of_its_own() {
    let (_folder, dir) = made(|args| {
        args.mode = PairMode::Shared;
        args.db_path = Some("/mnt/share/store".to_owned());
    });
    let one = config(&dir, "primary");
    let other = config(&dir, "secondary");
    assert_eq!(one.must_agree(), other.must_agree());
    for config in [&one, &other] {
        assert_eq!(config.mode, Mode::Shared);
        assert_eq!(config.store.path, Path::new("/mnt/share/store"));
        assert_eq!(config.store.own_folder(), Path::new("/var/lib/twinmq"));
    }
    assert_eq!(one.ha.unwrap().lock_file, other.ha.unwrap().lock_file);
    let unit = std::fs::read_to_string(dir.join("secondary/twinmq.service")).unwrap();
    for line in [
        "RequiresMountsFor=/mnt/share /mnt/share/store",
        "ReadWritePaths=/mnt/share /mnt/share/store",
        "StateDirectory=twinmq",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let steps = std::fs::read_to_string(dir.join("README.txt")).unwrap();
    assert!(steps.contains("mkdir -p /mnt/share/store"), "{steps}");
}

#[test]
fn virtual_machines_get_slower_intervals() {
    let (_metal, fast) = made(|_| {});
    let (_vm, slow) = made(|args| args.on = Platform::Vm);
    let passive = |dir: &Path| config(dir, "primary").ha.unwrap().passive_interval;
    assert!(passive(&slow) > passive(&fast));
}

fn tree(dir: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for folder in std::fs::read_dir(dir).unwrap() {
        let folder = folder.unwrap().path();
        let files: Vec<PathBuf> = if folder.is_dir() {
            let entries = std::fs::read_dir(&folder).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        } else {
            vec![folder]
        };
        for file in files {
            let name = file.strip_prefix(dir).unwrap().display().to_string();
            let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            found.insert(name, (mode, std::fs::read(&file).unwrap()));
        }
    }
    found
}

#[test]
fn secrets_are_for_their_owner_only() {
    let (_folder, dir) = made(|_| {});
    let files = tree(&dir);
    let private: Vec<&str> = files
        .iter()
        .filter(|(_, (mode, _))| *mode == 0o600)
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        private,
        [
            "ca/ca-key.pem",
            "primary/admin.token",
            "primary/key.pem",
            "primary/pair.secret",
            "secondary/admin.token",
            "secondary/key.pem",
            "secondary/pair.secret",
        ]
    );
    for (name, (mode, content)) in &files {
        let text = String::from_utf8(content.clone()).unwrap();
        assert!(*mode == 0o600 || !text.contains("PRIVATE KEY"), "{name}");
    }
    assert_eq!(files.len(), 17);
    assert_eq!(files["primary/pair.secret"], files["secondary/pair.secret"]);
    assert_ne!(files["primary/pair.secret"], files["primary/admin.token"]);
    assert_eq!(files["primary/pair.secret"].1.len(), 65);
    let mode = std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}

#[test]
fn nothing_is_written_over() {
    let (_folder, dir) = made(|_| {});
    let before = tree(&dir);
    let error = make(&args(&dir), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} is there and not empty: nothing was written; name another folder",
            dir.display()
        )
    );
    assert_eq!(tree(&dir), before);
}

#[test]
fn what_cannot_be_a_pair_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pair");
    let refused = |change: &dyn Fn(&mut PairInitArgs)| {
        let mut args = args(&dir);
        change(&mut args);
        let error = make(&args, None).unwrap_err();
        assert!(!dir.exists());
        assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
        error.to_string()
    };
    assert!(
        refused(&|args| args.primary = "127.0.0.1".to_owned()).starts_with(
            "--primary 127.0.0.1: other machines do not reach a loopback address; for a pair on one"
        )
    );
    assert_eq!(
        refused(&|args| args.secondary = "10.0.0.1".to_owned()),
        "--secondary 10.0.0.1: is the primary too: a pair is two machines"
    );
    assert_eq!(
        refused(&|args| args.primary = "a b".to_owned()),
        "--primary a b: expected a host name or an IP address"
    );
    assert_eq!(
        refused(&|args| args.lock_file = "pair.lck".to_owned()),
        "--lock-file pair.lck: expected an absolute path"
    );
    assert_eq!(
        refused(&|args| args.lock_file = "/mnt/a b".to_owned()),
        "--lock-file /mnt/a b: use a path without spaces, quotes, % and backslashes: it goes into \
         a systemd unit"
    );
    assert_eq!(
        refused(&|args| args.cluster = String::new()),
        "--cluster \"\": expected 1 to 64 letters, digits, dots, dashes and underscores"
    );
    assert_eq!(
        refused(&|args| args.gateway = None),
        "--gateway is needed: /mnt/share/pair.lck is not on a network share here; name the machine \
         that exports it"
    );
    assert_eq!(
        refused(&|args| args.gateway = Some("MQ-two.example".to_owned())),
        "--gateway MQ-two.example: is one of the two servers: a third machine must export the lock \
         file"
    );
    assert_eq!(
        refused(&|args| args.mode = PairMode::Shared),
        "--db-path : shared mode needs the folder of the one store"
    );
    let shared = |path: &'static str| {
        refused(&|args| {
            args.mode = PairMode::Shared;
            args.db_path = Some(path.to_owned());
        })
    };
    assert_eq!(
        shared("store"),
        "--db-path store: expected an absolute path"
    );
    let said = shared("/var/lib/twinmq/store");
    assert!(said.contains("each server's own disk"), "{said}");
    // The store's folder would hold the lock file.
    let said = shared("/mnt/share");
    assert!(said.contains("must not lie in store.path"), "{said}");
    let said = refused(&|args| args.db_path = Some("/mnt/share/store".to_owned()));
    assert!(said.contains("goes with --mode shared"), "{said}");
    let said = refused(&|args| args.lock_file = "/var/lib/twinmq/pair.lck".to_owned());
    assert!(said.contains("must not lie in store.path"), "{said}");
}

#[test]
fn the_gateway_is_taken_from_the_lock_file_s_mount() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = args(&folder.path().join("pair"));
    args.gateway = None;
    let mount = Mount {
        point: "/mnt/share".into(),
        kind: "nfs4".to_owned(),
        source: "nas.example:/export".to_owned(),
        options: Vec::new(),
    };
    make(&args, Some(&mount)).unwrap();
    let ha = config(&args.dir, "secondary").ha.unwrap();
    assert_eq!(ha.gateway.targets[0].to_string(), "nas.example:7");
}

#[test]
fn the_unit_waits_for_the_share_and_starts_the_copied_profile() {
    let (_folder, dir) = made(|_| {});
    let unit = std::fs::read_to_string(dir.join("primary/twinmq.service")).unwrap();
    for line in [
        "Type=notify",
        "Restart=always",
        "LimitNOFILE=65536",
        "RequiresMountsFor=/mnt/share",
        "ReadWritePaths=/mnt/share",
        "ExecStart=/usr/local/bin/twinmq run -p /etc/twinmq/profile.toml",
        "RestartPreventExitStatus=2 3",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Both servers' TLS, as the HA channel uses it: 1.3, both certificates checked. The folder that
/// each trusts may be another pair's.
fn handshake(
    client: (&Path, &str),
    server: (&Path, &str),
    name: &str,
) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = |dir: &Path, role: &str| {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&dir.join(role).join("ca.pem")) {
            roots.add(certificate).unwrap();
        }
        Arc::new(roots)
    };
    let own = |(dir, role): (&Path, &str)| {
        let folder = dir.join(role);
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
        (certificates(&folder.join("cert.pem")), key)
    };
    let (chain, key) = own(client);
    let client_config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(client.0, client.1))
        .with_client_auth_cert(chain, key)
        .unwrap();
    let (chain, key) = own(server);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(server.0, server.1), provider.clone())
            .build()
            .unwrap();
    let server_config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config), name)?;
    let mut server = ServerConnection::new(Arc::new(server_config))?;
    client.writer().write_all(b"hello").unwrap();
    let mut received = Vec::new();
    while received.len() < 5 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut buffer = [0; 5];
        if let Ok(count) = server.reader().read(&mut buffer) {
            received.extend_from_slice(&buffer[..count]);
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert_eq!(received, b"hello");
    Ok(())
}

#[test]
fn the_certificates_let_the_pair_and_nobody_else_talk() {
    let (_one, dir) = made(|_| {});
    let (_two, stranger) = made(|_| {});
    let ours = |role| (dir.as_path(), role);
    handshake(ours("primary"), ours("secondary"), "mq-two.example").unwrap();
    handshake(ours("secondary"), ours("primary"), "10.0.0.1").unwrap();
    handshake(ours("secondary"), ours("primary"), "primary").unwrap();
    // The peer of another pair, in both directions, and the right pair under a wrong name.
    let theirs = (stranger.as_path(), "primary");
    assert!(handshake(ours("secondary"), theirs, "10.0.0.1").is_err());
    assert!(handshake(theirs, ours("secondary"), "mq-two.example").is_err());
    assert!(handshake(ours("primary"), ours("secondary"), "10.0.0.1").is_err());
}

#[test]
fn the_next_steps_name_both_machines_and_what_is_not_served() {
    let (_folder, dir) = made(|_| {});
    let text = std::fs::read_to_string(dir.join("README.txt")).unwrap();
    for part in [
        "10.0.0.1:2000",
        "mq-two.example:3000",
        "systemctl enable --now twinmq",
        "Clients on other machines are not served yet",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let profile = std::fs::read_to_string(dir.join("primary/profile.toml")).unwrap();
    assert!(profile.contains("# FOR CLIENTS ON OTHER MACHINES"));
}
