//! The data directory: locks, crashes at each step, and what is refused.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;

use crate::proto::arbiter::ArbiterRecord;
use crate::proto::arbiter_codec::encode_record;
use crate::proto::ids::{ArbiterId, Epoch, Lsn, NodeId, RecordSeq, StoreId};
use crate::storage::SyncMode;
use crate::storage::api::*;
use crate::storage::data_dir::{DataDir, crash};
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
        clear(&config(dir.path()), |_| Ok::<_, StoreError>(())),
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

fn a_record() -> Bytes {
    let record = ArbiterRecord {
        arbiter: ArbiterId([1; 16]),
        cluster: "twinmq".to_owned(),
        seq: RecordSeq(7),
        epoch: Epoch(3),
        owner: NodeId([2; 16]),
        isr: vec![StoreId([3; 16])],
        generation: Epoch::ZERO,
    };
    encode_record(&record, 0, None).into()
}

/// Otherwise the server that was told to empty its store could not start afterwards either.
#[test]
fn clearing_removes_a_record_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(&Medium::Threads(dir.path().to_path_buf()));
    rig.serve(1);
    rig.flush();
    drop(rig);
    fs::write(dir.path().join("node/last_record"), "garbage").unwrap();
    clear(&config(dir.path()), |_| Ok::<_, StoreError>(())).unwrap();
    let again = open(config(dir.path()), Arc::new(Probe::default())).unwrap();
    assert_eq!(again.last_record, None);
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
        rig.job(Job::PersistRecord(a_record())).unwrap();
        drop(rig);
        crash::after(Some(step));
        let outcome = clear(&config(dir.path()), |_| Ok::<_, StoreError>(()));
        crash::after(None);
        let again = open(config(dir.path()), Arc::new(Probe::default())).unwrap();
        assert_eq!(again.last_record, Some(a_record()));
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
        if let Ok(cleared) = outcome {
            assert_eq!(cleared.messages, 1);
            break;
        }
    }
    assert!(old >= 2 && empty >= 2, "{old} old, {empty} empty");
}

#[test]
fn a_crash_at_any_step_of_compacting_loses_nothing_and_the_file_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Medium::Threads(dir.path().to_path_buf());
    let rig = Rig::open_with(&medium, |config| {
        config.checkpoint_bytes = 100_000;
        config.retain_bytes = 100_000;
    });
    rig.serve(1);
    rig.store
        .submit(vec![unit(0, vec![define(1), define(2), put(&[2], "kept")])]);
    for _ in 0..100 {
        rig.store
            .submit(vec![unit(0, vec![put(&[1], vec![1; 60_000])])]);
    }
    rig.flush();
    let all: Vec<u64> = rig.owed(1).iter().map(|message| message.0).collect();
    rig.store.submit(vec![unit(0, vec![ack(1, &all)])]);
    for _ in 0..20 {
        rig.store
            .submit(vec![unit(0, vec![put(&[2], vec![2; 10_000])])]);
        rig.flush();
    }
    let (facts, owed) = (rig.store.log_facts(), rig.owed(2));
    assert!(facts.floor > Lsn(100));
    rig.store.close();
    drop(rig);
    let compact = |step| {
        let (mut home, env) = DataDir::open(dir.path(), SyncMode::Deferred).unwrap();
        let env = env.unwrap();
        let before = env.file_bytes().unwrap();
        crash::after(step);
        let outcome = home.compact(env, 0);
        crash::after(None);
        outcome.map(|env| (before, env.file_bytes().unwrap()))
    };
    let mut crashes = 0;
    let (before, after) = loop {
        // The copy is made anew each time, as long as the crash comes before the switch.
        match compact(Some(crashes)) {
            Ok(sizes) => break sizes,
            Err(_) => crashes += 1,
        }
        let rig = Rig::open(&medium);
        assert_eq!(rig.store.log_facts(), facts);
        assert_eq!(rig.owed(2), owed);
    };
    assert!(crashes >= 4, "only {crashes} steps were tried");
    assert!(before >= after);
    let rig = Rig::open(&medium);
    assert_eq!(rig.store.log_facts(), facts);
    assert_eq!(rig.owed(2), owed);
    drop(rig);
    let (now, _) = compact(None).unwrap();
    assert!(now < 2_000_000, "{now} bytes are left");
}

#[test]
fn a_damaged_identity_or_a_file_that_is_cut_off_is_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(Rig::open(&Medium::Threads(dir.path().to_path_buf())));
    let identity = dir.path().join("node/identity.json");
    let whole = fs::read(&identity).unwrap();
    fs::write(&identity, "").unwrap();
    let error = refusal(dir.path(), "test");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    fs::write(&identity, whole).unwrap();

    let file = dir.path().join("store.1/data.mdb");
    let file = fs::File::options().write(true).open(file).unwrap();
    for bytes in [3 * 4096, 0] {
        file.set_len(bytes).unwrap();
        let error = refusal(dir.path(), "test");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        let error = crate::storage::check(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    let nowhere = dir.path().join("nowhere");
    let error = crate::storage::check(&nowhere).unwrap_err();
    assert!(matches!(error, StoreError::NoDataDir { .. }), "{error}");
    assert!(!nowhere.exists());
}
