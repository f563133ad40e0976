//! The store of shared mode: closed until it may be opened, locked as long as it is written.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::rig::*;
use crate::proto::ids::{Epoch, Lsn, StoreId};
use crate::storage::api::*;
use crate::storage::door::{ClosedStore, open_door};
use crate::storage::error::StoreError;
use crate::storage::{StoreConfig, check, clear};

struct Server {
    closed: ClosedStore,
    probe: Arc<Probe>,
}

fn shared(folder: &Path, name: &str) -> StoreConfig {
    let mut config = config(&folder.join("store"));
    config.node_dir = Some(folder.join(name));
    // Each test that writes takes a few checkpoints.
    config.checkpoint_bytes = 64 << 10;
    config.retain_bytes = 64 << 10;
    config
}

impl Server {
    fn start(folder: &Path, name: &str) -> Self {
        let probe = Arc::new(Probe::default());
        let config = shared(folder, name);
        let node_dir = config.node_dir.clone().unwrap();
        let closed = open_door(config, &node_dir, true, Arc::clone(&probe) as Arc<_>).unwrap();
        Self { closed, probe }
    }

    fn ask(&self, call: StoreCall) -> StoreAnswer {
        let (tell, told) = channel();
        let answer_to = Box::new(move |answer| tell.send(answer).unwrap());
        self.closed.store.call(call, answer_to);
        told.recv().unwrap()
    }

    fn rig(&self) -> Rig {
        let store = Arc::clone(&self.closed.store) as SharedStore;
        Rig::of(store, Arc::clone(&self.probe))
    }

    /// Opened, and serving.
    fn activate(&self, epoch: u64) -> Rig {
        assert_eq!(
            self.ask(StoreCall::Take),
            StoreAnswer::Taken { local: true }
        );
        assert_eq!(self.ask(StoreCall::Open), StoreAnswer::Opened);
        let rig = self.rig();
        rig.serve(epoch);
        rig
    }
}

fn data_file(folder: &Path) -> std::path::PathBuf {
    let dir = folder.join("store");
    let current = fs::read_to_string(dir.join("CURRENT")).unwrap();
    dir.join(current.trim_end()).join("data.mdb")
}

/// Whether the kernel has a POSIX lock of this process on the file.
fn is_locked(folder: &Path) -> bool {
    let inode = fs::metadata(data_file(folder)).unwrap().ino();
    let own = std::process::id();
    fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "POSIX", _, "WRITE", pid, file, ..] = words[..] else {
                return false;
            };
            pid == own.to_string() && file.ends_with(&format!(":{inode}"))
        })
}

/// What this process has open or mapped of the data file.
fn touches(folder: &Path) -> bool {
    let file = fs::canonicalize(data_file(folder)).unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().any(|entry| {
        entry.is_ok_and(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == file))
    });
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    open || maps.contains(&*file.to_string_lossy())
}

/// The process of a real server is gone by then; here its map goes with the last handle, on its thread.
fn await_closed(folder: &Path) {
    while touches(folder) {
        std::thread::yield_now();
    }
}

#[test]
fn a_store_is_founded_once_and_stays_closed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let one = Server::start(folder.path(), "one");
    let other = Server::start(folder.path(), "other");
    assert_ne!(one.closed.node, other.closed.node);
    assert_eq!(one.ask(StoreCall::Look), StoreAnswer::Seen(None));
    assert_eq!(one.closed.store.log_facts().store, StoreId::NONE);
    let founded = one.ask(StoreCall::Found);
    let StoreAnswer::Founded(store, Epoch::ZERO) = founded else {
        panic!("{founded:?}");
    };
    assert_eq!(other.ask(StoreCall::Found), founded);
    assert_eq!(other.ask(StoreCall::Look), StoreAnswer::Seen(Some(store)));
    assert_eq!(other.closed.store.log_facts().store, store);
    assert!(!touches(folder.path()) && !is_locked(folder.path()));
    // The record of a server that stands by goes to its own folder.
    let rig = other.rig();
    rig.job(Job::PersistRecord("record".into())).unwrap();
    assert_eq!(
        fs::read(folder.path().join("other/last_record")).unwrap(),
        b"record"
    );
    assert!(!touches(folder.path()));
    assert!(rig.job(Job::Flush).is_err(), "it is closed");
}

#[test]
fn a_missing_directory_is_made_for_a_relative_path_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), "one");
    assert_eq!(server.ask(StoreCall::Look), StoreAnswer::Seen(None));
    for call in [StoreCall::Found, StoreCall::Take] {
        let answer = server.ask(call);
        assert!(matches!(answer, StoreAnswer::Failed(_)), "{answer:?}");
    }
    assert!(!folder.path().join("store").exists());
}

#[test]
fn nothing_that_an_open_store_does_drops_its_lock() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let server = Server::start(folder.path(), "one");
    server.ask(StoreCall::Found);
    let rig = server.activate(1);
    let held = |what: &str| assert!(is_locked(folder.path()), "{what}");
    held("opened");
    rig.store.submit(vec![unit(1, vec![define(1)])]);
    // Checkpoints, collection, measuring, and readers beside all of it.
    for round in 0..40_u64 {
        let drafts = (0..20).map(|_| put(&[1], vec![b'm'; 900])).collect();
        rig.store.submit(vec![unit(2 + round, drafts)]);
        rig.read_log(Lsn::ZERO, 1 << 20);
        if round % 10 == 0 {
            rig.owed(1);
        }
        held("written");
    }
    rig.flush();
    rig.job(Job::PersistRecord("record".into())).unwrap();
    assert_eq!(rig.owed(1).len(), 800);
    assert!(rig.store.log_facts().checkpoint > Lsn::ZERO);
    assert_eq!(
        server.ask(StoreCall::Look),
        StoreAnswer::Seen(Some(rig.store.log_facts().store))
    );
    held("all done");
    assert!(!folder.path().join("store/store.1/lock.mdb").exists());
}

#[test]
fn a_lock_that_was_lost_within_the_process_ends_the_store() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let server = Server::start(folder.path(), "one");
    server.ask(StoreCall::Found);
    let rig = server.activate(1);
    drop(fs::File::open(data_file(folder.path())).unwrap());
    rig.store.submit(vec![unit(1, vec![define(1)])]);
    let why = rig.probe.wait(|event| match event {
        StoreEvent::Failed(error) => Some(error.to_string()),
        _ => None,
    });
    assert!(why.contains("lost its lock"), "{why}");
}

#[test]
fn a_closed_store_is_let_go_and_taken_over_with_all_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let one = Server::start(folder.path(), "one");
    one.ask(StoreCall::Found);
    assert!(
        matches!(one.ask(StoreCall::Open), StoreAnswer::Failed(_)),
        "not taken"
    );
    let rig = one.activate(1);
    rig.store
        .submit(vec![unit(1, vec![define(1), put(&[1], "kept")])]);
    rig.flush();
    let before = rig.store.log_facts();
    assert_eq!(one.ask(StoreCall::Close), StoreAnswer::Closed);
    assert!(!is_locked(folder.path()));
    drop((rig, one));
    await_closed(folder.path());
    let other = Server::start(folder.path(), "other");
    other.ask(StoreCall::Look);
    let rig = other.activate(2);
    let texts: Vec<_> = rig.owed(1).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["kept"]);
    assert_eq!(rig.store.log_facts().store, before.store);
    assert!(
        matches!(other.ask(StoreCall::Open), StoreAnswer::Failed(_)),
        "once only"
    );
    assert!(is_locked(folder.path()));
}

#[test]
fn files_of_two_stores_are_not_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let one = Server::start(folder.path(), "one");
    one.ask(StoreCall::Found);
    let label = folder.path().join("store/shared.json");
    let text = fs::read_to_string(&label).unwrap();
    let id = one.closed.store.log_facts().store.to_string();
    fs::write(&label, text.replace(&id, &StoreId([7; 16]).to_string())).unwrap();
    assert_eq!(one.ask(StoreCall::Take), StoreAnswer::Taken { local: true });
    let StoreAnswer::Failed(why) = one.ask(StoreCall::Open) else {
        panic!("a store under a foreign label was opened");
    };
    assert!(why.contains("put both back from one copy"), "{why}");
}

#[test]
fn an_emptied_data_file_is_no_new_store() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let one = Server::start(folder.path(), "one");
    one.ask(StoreCall::Found);
    fs::write(data_file(folder.path()), "").unwrap();
    assert_eq!(one.ask(StoreCall::Take), StoreAnswer::Taken { local: true });
    assert!(matches!(one.ask(StoreCall::Open), StoreAnswer::Failed(_)));
}

#[test]
fn a_cleared_store_is_another_one_with_its_label() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("store")).unwrap();
    let one = Server::start(folder.path(), "one");
    one.ask(StoreCall::Found);
    let rig = one.activate(1);
    rig.store
        .submit(vec![unit(1, vec![define(1), put(&[1], "gone")])]);
    rig.flush();
    let before = rig.store.log_facts().store;
    one.ask(StoreCall::Close);
    drop((rig, one));
    await_closed(folder.path());
    let config = shared(folder.path(), "one");
    let cleared = clear(&config, |found| {
        assert_eq!(found.store.unwrap(), Some(before));
        Ok::<_, StoreError>(())
    })
    .unwrap();
    assert_eq!(cleared.messages, 1);
    assert_ne!(cleared.store, before);
    let other = Server::start(folder.path(), "other");
    assert_eq!(
        other.ask(StoreCall::Look),
        StoreAnswer::Seen(Some(cleared.store))
    );
    let rig = other.activate(2);
    assert_eq!(rig.owed(1), []);
    other.ask(StoreCall::Close);
    drop((rig, other));
    await_closed(folder.path());
    assert_eq!(check(&folder.path().join("store")).unwrap().findings, []);
}
