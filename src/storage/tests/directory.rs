//! The data directory: locks, crashes at each step, and what is refused.

use std::fs;
use std::sync::Arc;

use crate::proto::ids::Lsn;
use crate::storage::api::*;
use crate::storage::data_dir::crash;
use crate::storage::error::StoreError;
use crate::storage::open::{clear, open};

use super::rig::*;

fn refusal(dir: &std::path::Path, cluster: &str) -> StoreError {
    let mut config = config(dir);
    config.cluster = cluster.to_owned();
    match open(config, Arc::new(Probe::default())) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn a_second_server_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(&Medium::Threads(dir.path().to_path_buf()));
    let error = refusal(dir.path(), "test");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
    assert!(matches!(
        clear(&config(dir.path())),
        Err(StoreError::InUse { .. })
    ));
    rig.store.close();
    drop(rig);
    Rig::open(&Medium::Threads(dir.path().to_path_buf()));
}

#[test]
fn a_store_of_another_pair_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Rig::open(&Medium::Threads(dir.path().to_path_buf())));
    let error = refusal(dir.path(), "other");
    assert!(
        matches!(&error, StoreError::WrongCluster { found, expected, .. }
            if found == "test" && expected == "other"),
        "{error}"
    );
}

#[test]
fn current_that_names_no_store_is_refused_and_other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Rig::open(&Medium::Threads(dir.path().to_path_buf())));
    fs::write(dir.path().join("store.notes"), "mine").unwrap();
    fs::write(dir.path().join("CURRENT"), "store.2\n").unwrap();
    assert!(matches!(
        refusal(dir.path(), "test"),
        StoreError::Layout { .. }
    ));
    assert!(dir.path().join("store.1/data.mdb").exists());
    assert!(dir.path().join("store.notes").exists());
}

#[test]
fn a_crash_at_any_step_of_the_first_start_leaves_a_directory_that_opens() {
    let mut crashes = 0;
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        crash::after(Some(step));
        let outcome = open(config(dir.path()), Arc::new(Probe::default()));
        crash::after(None);
        let first = outcome.ok().map(|opened| opened.node);
        let again = open(config(dir.path()), Arc::new(Probe::default())).unwrap();
        assert_eq!(again.found_messages, 0);
        assert_eq!(again.store.log_facts().durable.lsn, Lsn::ZERO);
        if let Some(node) = first {
            assert_eq!(node, again.node);
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= 5, "only {crashes} steps were tried");
}

#[test]
fn a_crash_at_any_step_of_clearing_leaves_the_old_store_or_an_empty_one() {
    let (mut old, mut empty) = (0, 0);
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let medium = Medium::Threads(dir.path().to_path_buf());
        let rig = Rig::open(&medium);
        rig.serve(1);
        rig.store
            .submit(vec![unit(0, vec![define(1), put(&[1], "a")])]);
        rig.flush();
        let id = rig.store.log_facts().store;
        rig.job(Job::PersistRecord("record".into())).unwrap();
        drop(rig);
        crash::after(Some(step));
        let outcome = clear(&config(dir.path()));
        crash::after(None);
        let again = open(config(dir.path()), Arc::new(Probe::default())).unwrap();
        assert_eq!(again.last_record, Some("record".into()));
        match again.found_messages {
            1 => {
                assert_eq!(again.store.log_facts().store, id);
                old += 1;
            }
            _ => {
                assert_ne!(again.store.log_facts().store, id);
                assert_eq!(again.found_destinations, 0);
                empty += 1;
            }
        }
        drop(again);
        let stores = fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("store.")
            })
            .count();
        assert_eq!(stores, 1);
        if let Ok(messages) = outcome {
            assert_eq!(messages, 1);
            break;
        }
    }
    assert!(old >= 2 && empty >= 2, "{old} old, {empty} empty");
}
