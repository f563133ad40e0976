//! Reload plans.

use super::Scratch;
use crate::config::keys::{self, Applies};
use crate::config::{load, reload};

#[test]
fn what_a_reload_takes_and_what_needs_a_restart_are_told_apart() {
    let scratch = Scratch::new("[log]\nlevel = 'info'\n");
    let old = load(&scratch.source()).unwrap();
    scratch.write("[log]\nlevel = 'debug'\nformat = 'json'\n[limits]\nprefetch = 10\n");
    let plan = reload(&old, &scratch.source()).unwrap();
    assert_eq!(
        plan.to_string().replace(&scratch.path(), "P"),
        "changed: limits.prefetch: 1000 -> 10 (P:5)\n\
         changed: log.level: \"info\" -> \"debug\" (P:2)\n\
         needs a restart, not changed: log.format: \"text\" -> \"json\" (P:3)"
    );
    let mut expected = old.config.clone();
    expected.limits.prefetch = 10;
    expected.log.level = "debug".to_owned();
    assert_eq!(plan.loaded.config, expected);
    // Reloading again changes nothing more, and still says what waits for a restart.
    let again = reload(&plan.loaded, &scratch.source()).unwrap();
    assert_eq!(again.changed, []);
    assert_eq!(again.needs_restart.len(), 1);
    assert_eq!(again.loaded.config, plan.loaded.config);
    scratch.write("[log]\nlevel = 'debug'\n[limits]\nprefetch = 10\n");
    let reverted = reload(&again.loaded, &scratch.source()).unwrap();
    assert!(reverted.is_empty());
    assert_eq!(reverted.to_string(), "nothing changed");
}

#[test]
fn one_mistake_and_nothing_is_taken() {
    let scratch = Scratch::new("[log]\nlevel = 'info'\n");
    let old = load(&scratch.source()).unwrap();
    scratch.write("[log]\nlevel = 'debug'\n[limits]\nprefetch = 0\n");
    assert_eq!(
        scratch
            .explain(reload(&old, &scratch.source()))
            .unwrap_err(),
        "P:4: limits.prefetch = 0: must be a whole number from 1 to 1000000"
    );
    // Good by itself, but not together with the old value of a key that needs a restart.
    scratch.write("[limits]\nglobal_in_flight_bytes = 1048576\n");
    assert!(reload(&old, &scratch.source()).is_err());
}

#[test]
fn a_profile_that_went_away_is_not_replaced_by_another() {
    let scratch = Scratch::new("");
    let folder = scratch.folder.path().join("search");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("standalone.toml"), "").unwrap();
    let mut source = scratch.source();
    source.profile = None;
    source.search = vec![folder.clone()];
    let old = load(&source).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(
        reload(&old, &source).unwrap_err().to_string(),
        format!(
            "profile {}/standalone.toml is not there any more (found built-in profile standalone \
             instead)",
            folder.display()
        )
    );
}

#[test]
fn limits_and_levels_are_applied_by_a_reload_and_addresses_are_not() {
    for key in keys::all() {
        // What `Server::reconfigure` and the log take, and nothing else.
        let live = key.path.starts_with("limits.")
            || [
                "client.connect_timeout_ms",
                "client.heart_beat_send_ms",
                "client.heart_beat_receive_ms",
                "log.level",
            ]
            .contains(&key.path);
        assert_eq!(key.applies == Applies::OnReload, live, "{}", key.path);
    }
}
