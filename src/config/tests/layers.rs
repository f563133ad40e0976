//! Precedence, types, ranges, unknown keys, profiles.

use proptest::prelude::*;

use super::{Scratch, refused};
use crate::config::keys::{self, Kind};
use crate::config::{ConfigSource, Origin, STOCK_PROFILES, Value, load, load_text};

#[test]
fn each_layer_wins_over_the_one_below() {
    let scratch = Scratch::new("[limits]\nprefetch = 2\n");
    let mut source = scratch.source();
    let prefetch = |source: &ConfigSource| {
        let loaded = load(source).unwrap();
        let effective = loaded
            .values
            .iter()
            .find(|one| one.key.path == "limits.prefetch")
            .unwrap();
        assert_eq!(
            effective.value,
            Value::Integer(loaded.config.limits.prefetch.into())
        );
        (loaded.config.limits.prefetch, effective.origin.clone())
    };
    let file = Origin::Profile {
        name: scratch.path(),
        line: 2,
    };
    assert_eq!(
        prefetch(&ConfigSource::profile("standalone")),
        (1000, Origin::Default)
    );
    assert_eq!(prefetch(&source), (2, file));
    let variable = "TWINMQ__LIMITS__PREFETCH".to_owned();
    source.environment = vec![(variable.clone(), "3".to_owned())];
    assert_eq!(prefetch(&source), (3, Origin::Environment(variable)));
    source.set = vec![
        "limits.prefetch=4".to_owned(),
        "limits.prefetch=5".to_owned(),
    ];
    assert_eq!(
        prefetch(&source),
        (5, Origin::CommandLine("--set limits.prefetch=5".to_owned()))
    );
}

#[test]
fn db_path_sets_the_data_directory() {
    let mut source = ConfigSource::profile("standalone");
    source.set = vec!["store.path=/one".to_owned()];
    source.db_path = Some("/two".into());
    assert_eq!(
        load(&source).unwrap().config.store.path.to_str(),
        Some("/two")
    );
}

#[test]
fn lists_are_given_with_commas() {
    let mut source = ConfigSource::profile("standalone");
    for text in [
        "client.listen=127.0.0.1:1,[::1]:2",
        "client.listen=[\"127.0.0.1:1\", \"[::1]:2\"]",
    ] {
        source.set = vec![text.to_owned()];
        let listen = load(&source).unwrap().config.client.listen;
        let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["127.0.0.1:1", "[::1]:2"], "{text}");
    }
}

#[test]
fn every_error_of_every_layer_is_told_with_its_place() {
    let scratch = Scratch::new("mode = 3\n\n[client]\nlisten = []\nfoo = 1\n");
    let mut source = scratch.source();
    source.environment = vec![
        ("TWINMQ__LOG__FORMAT".to_owned(), "xml".to_owned()),
        ("TWINMQ__LOG__FROMAT".to_owned(), "json".to_owned()),
        ("TWINMQ_SEED".to_owned(), "ignored".to_owned()),
    ];
    source.set = vec!["limits.prefetch=many".to_owned(), "nothing".to_owned()];
    assert_eq!(
        scratch.explain(load(&source)).unwrap_err(),
        "P:1: mode = 3: must be one of \"standalone\", \"replicated\", \"shared\"\n\
         P:5: unknown key client.foo\n\
         environment variable TWINMQ__LOG__FORMAT: log.format = xml: must be one of \"text\", \
         \"json\"\n\
         environment variable TWINMQ__LOG__FROMAT: unknown key log.fromat, did you mean \
         log.format?\n\
         --set limits.prefetch=many: limits.prefetch = \"many\": must be a whole number from 1 to \
         1000000\n\
         --set nothing: expected --set KEY=VALUE, such as --set log.level=debug"
    );
}

#[test]
fn a_section_alone_is_told_to_be_one() {
    let mut source = ConfigSource::profile("standalone");
    source.environment = vec![
        ("TWINMQ__LOG".to_owned(), "info".to_owned()),
        ("TWINMQ__LO".to_owned(), "info".to_owned()),
    ];
    source.set = vec!["store={}".to_owned(), "ha.lock=x".to_owned()];
    let said = load(&source).unwrap_err().to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0],
        "environment variable TWINMQ__LOG: log is a section; name a key in it, such as log.level"
    );
    assert!(lines[1].contains("unknown key lo"), "{said}");
    for (line, section) in [(lines[2], "store"), (lines[3], "ha.lock")] {
        let (_, example) = line
            .split_once(&format!(
                ": {section} is a section; name a key in it, such as "
            ))
            .unwrap_or_else(|| panic!("{said}"));
        assert!(keys::find(example).is_some(), "{said}");
    }
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (text, message) in [
        (
            "[ha]\npings_interval_ms = 1",
            "P:2: unknown key ha.pings_interval_ms, did you mean ha.ping_interval_ms?",
        ),
        (
            "[ha]\nPingInterval = 1",
            "P:2: unknown key ha.PingInterval, did you mean ha.ping_interval_ms?",
        ),
        (
            "PassiveLockAcquistionInterval = 1",
            "P:1: unknown key PassiveLockAcquistionInterval, did you mean ha.lock.passive_lock_acquisition_interval_ms?",
        ),
        (
            "lock_file = 'x'",
            "P:1: unknown key lock_file, did you mean ha.lock.lock_file?",
        ),
        (
            "[limit]\nprefetch = 1",
            "P:1: unknown key limit, did you mean limits?",
        ),
        (
            "[ha.replicaton]\n",
            "P:1: unknown key ha.replicaton, did you mean ha.replication?",
        ),
        (
            "\"log.level\" = 'debug'",
            "P:1: unknown key \"log.level\", did you mean log.level?",
        ),
        ("zzz = 1", "P:1: unknown key zzz"),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn duplicates_and_bad_syntax_name_the_line() {
    for (text, start) in [
        ("[log]\nlevel = 'info'\nlevel = 'debug'\n", "P:3: "),
        ("mode = 'standalone'\n[log]\nlevel =\n", "P:3: "),
        ("[log]\n\n[log]\n", "P:3: "),
    ] {
        let said = refused(text);
        assert!(said.starts_with(start), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(refused("[log]\nlevel = 'info'\nlevel = 'debug'\n").contains("duplicate key"));
}

#[test]
fn sections_and_keys_are_not_mixed_up() {
    assert_eq!(refused("log = 3"), "P:1: log = 3: is a section, not a key");
    assert_eq!(
        refused("[mode]\nx = 1"),
        "P:1: mode = a table: must be one of \"standalone\", \"replicated\", \"shared\""
    );
    assert_eq!(
        refused("[[log]]"),
        "P:1: log = a table: is a section, not a key"
    );
    assert!(Scratch::new("log = { level = 'debug' }").load().is_ok());
    assert!(Scratch::new("log.level = 'debug'").load().is_ok());
}

/// A TOML value of another type than the key's.
fn wrong_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "\"true\"",
        Kind::Integer { .. } => "1.5",
        Kind::Choice(_)
        | Kind::Name
        | Kind::Ip
        | Kind::Host
        | Kind::Path
        | Kind::Levels
        | Kind::Pattern
        | Kind::QueueName => "7",
        Kind::Addresses | Kind::Targets => "[1, 2]",
    }
}

/// A TOML value of the right type that no key of this kind takes.
fn out_of_range(kind: Kind) -> Option<String> {
    Some(match kind {
        Kind::Bool => return None,
        Kind::Integer { max, .. } => (max + 1).to_string(),
        Kind::Choice(_) => "\"neither\"".to_owned(),
        Kind::Name => "\"two words\"".to_owned(),
        Kind::Ip => "\"not-an-address\"".to_owned(),
        Kind::Host => "\"-bad-.example\"".to_owned(),
        Kind::Path => "\"line\\nbreak\"".to_owned(),
        Kind::Levels => "\"inof\"".to_owned(),
        Kind::Addresses => "[\"localhost:1\"]".to_owned(),
        Kind::Targets => "[\"host\"]".to_owned(),
        Kind::Pattern => "\"a.>.b\"".to_owned(),
        Kind::QueueName => "\"/queue/a\"".to_owned(),
    })
}

#[test]
fn every_key_refuses_a_wrong_type_and_a_value_out_of_range_and_a_misspelling() {
    for key in keys::all() {
        let say = |leaf: &str, value: &str| match key.path.rsplit_once('.') {
            Some((section, _)) => (3, refused(&format!("[{section}]\n\n{leaf} = {value}\n"))),
            None => (1, refused(&format!("{leaf} = {value}\n"))),
        };
        let values = [
            Some(wrong_type(key.kind).to_owned()),
            out_of_range(key.kind),
        ];
        for value in values.into_iter().flatten() {
            let (line, said) = say(key.leaf(), &value);
            let expected = format!(
                "P:{line}: {} = {value}: must be {}",
                key.path,
                key.kind.expected()
            );
            assert_eq!(said, expected);
        }
        let misspelled = format!("{}x", key.leaf());
        let (line, said) = say(&misspelled, &key.default_value().to_string());
        let known = format!("unknown key {}x, did you mean {}?", key.path, key.path);
        assert_eq!(said, format!("P:{line}: {known}"));
    }
}

#[test]
fn integers_below_their_range_are_refused() {
    for key in keys::all() {
        if let Kind::Integer { min, .. } = key.kind {
            let mut source = ConfigSource::profile("standalone");
            let below = min - 1;
            source.set = vec![format!("{}={below}", key.path)];
            let said = load(&source).unwrap_err().to_string();
            let rule = key.kind.expected();
            let path = key.path;
            assert_eq!(
                said,
                format!("--set {path}={below}: {path} = {below}: must be {rule}")
            );
        }
    }
}

#[test]
fn the_reference_s_names_are_known_and_unambiguous() {
    for name in [
        "BackupServerIp",
        "BackupServerPort",
        "BackupHAIPAddress",
        "BackupHAPort",
        "Port",
        "PingInterval",
        "LockFile",
        "SocketCreationTimeout",
        "GatewayServerIPAddress",
        "GatewayServerPort",
        "NagleAlgo",
        "SocketInitializationTimeout",
        "ActiveLockReAcquisitionInterval",
        "PassiveLockAcquisitionInterval",
        "MaxWaitTimeout",
        "BackupRMIServerPort",
        "RMIServerPort",
        "isPrimary",
    ] {
        let ours = keys::of_reference(name);
        assert!(ours.is_some(), "{name}");
        let claims = keys::all()
            .flat_map(|key| key.reference)
            .filter(|alias| alias.eq_ignore_ascii_case(name));
        assert_eq!(claims.count(), 1, "{name}");
    }
}

#[test]
fn profiles_are_found_by_path_by_name_and_built_in() {
    let scratch = Scratch::new("name = 'mine'");
    let folder = scratch.folder.path();
    std::fs::create_dir(folder.join("sub")).unwrap();
    std::fs::write(folder.join("sub/profile.toml"), "name = 'inner'").unwrap();
    std::fs::write(folder.join("sub/other.toml"), "name = 'other'").unwrap();
    let name = |asked: &str| {
        let mut source = ConfigSource::profile(asked);
        source.search = vec![folder.to_owned()];
        load(&source).map(|loaded| loaded.config.name)
    };
    let path = scratch.path();
    assert_eq!(name(&path).unwrap(), "mine");
    assert_eq!(name(path.trim_end_matches(".toml")).unwrap(), "mine");
    assert_eq!(
        name(&folder.join("sub").display().to_string()).unwrap(),
        "inner"
    );
    assert_eq!(name("p").unwrap(), "mine");
    assert_eq!(name("sub/other").unwrap(), "other");
    assert_eq!(name("sub\\other").unwrap(), "other");
    assert_eq!(name("replicated\\secondary").unwrap(), "secondary");
    let places = format!("{} and the built-in profiles", folder.display());
    for (asked, nearest) in [
        ("replicated/primray", "replicated/primary"),
        ("FioranoMQ_HA_rpl/HASsecondary", "replicated/secondary"),
        ("sub/ohter", "sub/other"),
        ("stand-alone", "standalone"),
        ("shard/primary", "shared/primary"),
    ] {
        assert_eq!(
            name(asked).unwrap_err().to_string(),
            format!(
                "there is no profile {asked:?}, did you mean {nearest}?; looked for {asked}.toml, \
                 {places}"
            )
        );
    }
    assert!(
        name("zzzzzz")
            .unwrap_err()
            .to_string()
            .starts_with("there is no profile \"zzzzzz\"; ")
    );
}

#[test]
fn files_that_are_no_profiles_are_refused() {
    let scratch = Scratch::new("");
    std::fs::write(scratch.path(), [0xff, 0xfe]).unwrap();
    assert_eq!(
        scratch.load().unwrap_err(),
        "profile P cannot be read: it is not UTF-8 text"
    );
    std::fs::write(scratch.path(), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        scratch.load().unwrap_err(),
        "profile P cannot be read: it is larger than 1 MiB"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_is_taken_or_refused(text in "\\PC{0,200}") {
        let _checked = load_text("p", &text);
    }

    /// Lines of a good profile, some of them damaged: reaches far more of the loader.
    #[test]
    fn damaged_profiles_are_taken_or_refused(
        profile in 0..STOCK_PROFILES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,8}"), 1..6),
    ) {
        let mut text: Vec<char> = STOCK_PROFILES[profile]
            .1
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| line.trim_start_matches('#').to_owned() + "\n")
            .collect::<String>()
            .chars()
            .collect();
        for (place, with) in damage {
            let at = place.index(text.len());
            text.splice(at..at + 1, with.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = load_text("p", &text) {
            prop_assert!(!errors.0.is_empty());
            for line in errors.to_string().lines() {
                prop_assert!(line.starts_with('p') || line.starts_with("built-in"), "{line}");
            }
        }
    }

    #[test]
    fn arbitrary_settings_are_taken_or_refused(key in 0..70usize, text in "\\PC{0,40}") {
        if let Some(key) = keys::all().nth(key) {
            let mut source = ConfigSource::profile("replicated/primary");
            source.set = vec![format!("{}={text}", key.path)];
            let _checked = load(&source);
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
    let depth = 100_000;
    for text in [
        format!("x = {}", "[".repeat(depth)),
        format!("log = {}{}", "[".repeat(depth), "]".repeat(depth)),
        format!("log = {}", "{a=".repeat(depth)),
        format!("log{} = 1", ".a".repeat(depth)),
        format!("[log{}]", ".a".repeat(depth)),
        format!("[[log{}]]", ".a".repeat(depth)),
    ] {
        let said = load_text("p", &text).unwrap_err().to_string();
        assert!(said.starts_with("p:1: "), "{said}");
        assert!(said.len() < 400, "{} bytes", said.len());
    }
}

#[test]
fn a_file_full_of_mistakes_gives_the_first_ones_in_short() {
    let many: String = (0..30_000).map(|n| format!("key{n} = 1\n")).collect();
    let said = refused(&many);
    assert_eq!(said.lines().count(), 50);
    assert_eq!(said.lines().next(), Some("P:1: unknown key key0"));
    let long = "k".repeat(500_000);
    assert_eq!(
        refused(&format!("{long} = 1")),
        format!("P:1: unknown key {}...", &long[..120])
    );
    let said = refused(&format!("mode = \"{long}\""));
    assert!(said.len() < 300, "{} bytes", said.len());
}
