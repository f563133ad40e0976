use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

mod generations;

use super::*;
use crate::proto::ids::{ArbiterId, Epoch, NodeId, RecordSeq, StoreId};
use crate::time::{Clock, SystemClock};

/// Set in a child that holds the lock of this path until it is killed.
const HOLD: &str = "TWINMQ_TEST_HOLD_LOCK";

fn keeper(path: &Path) -> FileKeeper {
    FileKeeper::new(ArbiterFileConfig {
        lock_file: path.to_owned(),
        secret: Some(PairSecret::new(b"secret")),
        create_parent: false,
    })
}

fn record(owner: u8, seq: u64) -> ArbiterRecord {
    ArbiterRecord {
        arbiter: ArbiterId([owner; 16]),
        cluster: "pair".to_owned(),
        seq: RecordSeq(seq),
        epoch: Epoch(seq),
        owner: NodeId([owner; 16]),
        isr: vec![StoreId([owner; 16])],
        generation: Epoch::ZERO,
    }
}

fn heartbeat(counter: u64) -> LockHeartbeat {
    LockHeartbeat {
        owner: NodeId([1; 16]),
        epoch: Epoch(1),
        seq: RecordSeq(1),
        counter,
        positions: Vec::new(),
    }
}

/// A folder with a lock file and record 1 in it, and the path of the lock file.
fn booted() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.lck");
    let created = keeper(&path).answer(ArbiterCall::Create(record(1, 1)));
    assert_eq!(created, ArbiterAnswer::Created(record(1, 1)));
    (folder, path)
}

/// Takes the lock, which nobody holds any more. It may be refused for a moment: what another test of this
/// process is about to start has, between its fork and its exec, every descriptor that was open by then,
/// and with it a lock that was let go since.
#[track_caller]
fn take(keeper: &mut FileKeeper) -> ArbiterAnswer {
    let deadline = SystemClock.now().after(Duration::from_secs(10));
    loop {
        match keeper.answer(ArbiterCall::TryLock) {
            ArbiterAnswer::Refused { .. } if SystemClock.now() < deadline => {
                std::thread::yield_now();
            }
            answer => return answer,
        }
    }
}

fn held(path: &Path) -> FileKeeper {
    let mut keeper = keeper(path);
    let ArbiterAnswer::Locked {
        lock,
        record: found,
    } = take(&mut keeper)
    else {
        panic!("the lock is free");
    };
    assert!(lock.local);
    assert_eq!(lock.last, None);
    assert_eq!(found, Some(record(1, 1)));
    keeper
}

fn check(keeper: &mut FileKeeper, counter: u64) -> ArbiterAnswer {
    keeper.answer(ArbiterCall::Check(heartbeat(counter)))
}

fn lost(keeper: &mut FileKeeper, path: &Path) -> String {
    match check(keeper, 99) {
        ArbiterAnswer::Lost(reason) => {
            assert_eq!(
                check(keeper, 100),
                ArbiterAnswer::Lost("the lock is not held".to_owned())
            );
            reason.replace(&path.display().to_string(), "PATH")
        }
        other => panic!("still held: {other:?}"),
    }
}

fn failed(answer: ArbiterAnswer) -> String {
    match answer {
        ArbiterAnswer::Failed(reason) => reason,
        other => panic!("no failure: {other:?}"),
    }
}

fn read(path: &Path) -> (Option<ArbiterRecord>, Option<LockFacts>) {
    match keeper(path).answer(ArbiterCall::Read) {
        ArbiterAnswer::Read { record, lock } => (record, lock),
        other => panic!("not read: {other:?}"),
    }
}

#[test]
fn the_life_of_a_lock() {
    let (_folder, path) = booted();
    let mode = std::fs::metadata(record_folder(&path))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let mut first = held(&path);
    assert_eq!(
        check(&mut first, 1),
        ArbiterAnswer::Held {
            record: Some(record(1, 1))
        }
    );
    let mut second = keeper(&path);
    assert_eq!(
        second.answer(ArbiterCall::TryLock),
        ArbiterAnswer::Refused {
            holder: Some(heartbeat(1))
        }
    );
    // The record changes without the lock, and the holder sees it at its next check (L4).
    assert_eq!(
        second.answer(ArbiterCall::CompareAndSet(record(2, 2))),
        ArbiterAnswer::Set(record(2, 2))
    );
    assert_eq!(
        check(&mut first, 2),
        ArbiterAnswer::Held {
            record: Some(record(2, 2))
        }
    );
    assert_eq!(read(&path).1.unwrap().last, Some(heartbeat(2)));
    assert_eq!(first.answer(ArbiterCall::Unlock), ArbiterAnswer::Unlocked);
    let ArbiterAnswer::Locked {
        lock,
        record: found,
    } = take(&mut second)
    else {
        panic!("it was let go");
    };
    assert_eq!((lock.last, found), (Some(heartbeat(2)), Some(record(2, 2))));
    assert!(matches!(
        second.answer(ArbiterCall::TryLock),
        ArbiterAnswer::Locked { .. }
    ));
}

#[test]
fn the_thread_answers_in_order_with_the_ids() {
    let (_folder, path) = booted();
    let (sender, answers) = channel();
    let config = keeper(&path).config;
    let sink: ArbiterSink = Arc::new(move |id, answer| sender.send((id, answer)).unwrap());
    let arbiter = spawn_file_arbiter(config, sink).unwrap();
    arbiter.call(7, ArbiterCall::TryLock);
    arbiter.call(8, ArbiterCall::Unlock);
    let (id, answer) = answers.recv().unwrap();
    assert!(id == 7 && matches!(answer, ArbiterAnswer::Locked { .. }));
    assert_eq!(answers.recv().unwrap(), (8, ArbiterAnswer::Unlocked));
    // Whether it is free again at once is not the thread's doing (see `take`).
    arbiter.call(9, ArbiterCall::TryLock);
    drop(arbiter);
    assert!(matches!(
        answers.recv().unwrap(),
        (
            9,
            ArbiterAnswer::Locked { .. } | ArbiterAnswer::Refused { .. }
        )
    ));
    assert!(answers.recv().is_err(), "the thread has ended");
    held(&path);
}

#[test]
fn deletion_and_replacement_are_noticed() {
    type Deed = fn(&Path);
    let deeds: [(Deed, &str); 6] = [
        (
            |path| std::fs::remove_file(path).unwrap(),
            "lock file PATH was deleted while it was held",
        ),
        (
            |path| std::fs::write(path, "").unwrap(),
            "lock file PATH was truncated while it was held",
        ),
        (
            |path| std::fs::write(path, [b'x'; LOCK_FILE_BYTES]).unwrap(),
            "lock file PATH was overwritten while it was held",
        ),
        (
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::write(path, "").unwrap();
            },
            "lock file PATH was replaced while it was held",
        ),
        (
            // A copy of the same content, nonce and all.
            |path| {
                let copy = path.with_extension("copy");
                std::fs::copy(path, &copy).unwrap();
                std::fs::rename(&copy, path).unwrap();
            },
            "lock file PATH was replaced while it was held",
        ),
        (
            |path| {
                std::fs::remove_file(path).unwrap();
                assert!(keeper(path).make_lock_file(path, None).unwrap());
            },
            "lock file PATH was replaced while it was held",
        ),
    ];
    for (deed, reason) in deeds {
        let (_folder, path) = booted();
        let mut keeper = held(&path);
        check(&mut keeper, 1);
        deed(&path);
        assert_eq!(lost(&mut keeper, &path), reason);
    }
}

/// Writes an older state of the lock file over it: the file and its nonce stay, but it was written by
/// somebody else.
fn put_back(path: &Path, deed: impl FnOnce()) {
    let before = std::fs::read(path).unwrap();
    deed();
    std::fs::write(path, before).unwrap();
}

#[test]
fn what_is_left_of_a_lost_lock_is_kept_until_its_holder_is_done() {
    let (_folder, path) = booted();
    let mut first = held(&path);
    let identity = read(&path).1.unwrap().identity();
    put_back(&path, || drop(check(&mut first, 1)));
    assert_eq!(
        lost(&mut first, &path),
        "lock file PATH was overwritten while it was held"
    );
    // The same file on this kernel: were it free, its holder would be taken for dead (A3).
    let mut second = keeper(&path);
    assert!(matches!(
        second.answer(ArbiterCall::TryLock),
        ArbiterAnswer::Refused { .. }
    ));
    assert_eq!(first.answer(ArbiterCall::Unlock), ArbiterAnswer::Unlocked);
    let ArbiterAnswer::Locked { lock, .. } = take(&mut second) else {
        panic!("it was let go");
    };
    assert!(lock.local && lock.identity() == identity);
}

#[test]
fn a_lost_lock_that_is_wanted_back_is_not_let_go_in_between() {
    let (_folder, path) = booted();
    let mut first = held(&path);
    put_back(&path, || drop(check(&mut first, 1)));
    lost(&mut first, &path);
    assert!(matches!(
        first.answer(ArbiterCall::TryLock),
        ArbiterAnswer::Locked { .. }
    ));
    assert!(first.parked.is_none());
    assert!(matches!(check(&mut first, 2), ArbiterAnswer::Held { .. }));
    let refused = keeper(&path).answer(ArbiterCall::TryLock);
    assert!(matches!(refused, ArbiterAnswer::Refused { .. }));
    // Another file by now: that one's lock is free, and the old one's of no use any more.
    std::fs::remove_file(&path).unwrap();
    lost(&mut first, &path);
    let locked = first.answer(ArbiterCall::TryLock);
    assert!(matches!(locked, ArbiterAnswer::Locked { .. }));
    assert!(first.parked.is_none());
    assert_eq!(first.answer(ArbiterCall::Unlock), ArbiterAnswer::Unlocked);
    held(&path);
}

#[test]
fn a_heartbeat_whose_write_failed_may_be_found_or_not() {
    for arrived in [false, true] {
        let (_folder, path) = booted();
        let mut keeper = held(&path);
        check(&mut keeper, 1);
        let hold = keeper.held.as_mut().unwrap();
        let next = encode_lock(
            hold.nonce,
            Some(&heartbeat(2)),
            keeper.config.secret.as_ref(),
        );
        if arrived {
            std::fs::write(&path, &next).unwrap();
        }
        hold.uncertain = Some(next);
        assert!(matches!(check(&mut keeper, 3), ArbiterAnswer::Held { .. }));
        assert_eq!(read(&path).1.unwrap().last, Some(heartbeat(3)));
    }
}

#[test]
fn a_lock_file_that_is_gone_is_made_anew_only_beside_its_record() {
    for empty in [false, true] {
        let (_folder, path) = booted();
        let before = read(&path).1.unwrap().nonce;
        std::fs::remove_file(&path).unwrap();
        if empty {
            std::fs::write(&path, "").unwrap();
            assert_eq!(read(&path).1, None);
        }
        let ArbiterAnswer::Locked { lock, .. } = take(&mut keeper(&path)) else {
            panic!("nobody holds it");
        };
        assert_ne!(lock.nonce, before);
        assert_eq!(lock.last, None);
        std::fs::remove_dir_all(record_folder(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        if empty {
            std::fs::write(&path, "").unwrap();
        }
        let reason = failed(keeper(&path).answer(ArbiterCall::TryLock));
        assert!(
            reason.ends_with(
                "there is no record beside it: is lock_file right, and the share mounted?"
            ),
            "{reason}"
        );
        assert_eq!(read(&path), (None, None));
        // First boot takes an empty file as it is.
        let created = keeper(&path).answer(ArbiterCall::Create(record(1, 1)));
        assert_eq!(created, ArbiterAnswer::Created(record(1, 1)));
        held(&path);
    }
}

#[test]
fn a_file_locked_before_it_was_replaced_is_not_the_lock() {
    let (_folder, path) = booted();
    let mut old = held(&path);
    std::fs::remove_file(&path).unwrap();
    // Somebody else takes the new one; the old holder's attempt must go there as well.
    let other = keeper(&path).answer(ArbiterCall::TryLock);
    assert!(matches!(other, ArbiterAnswer::Locked { .. }));
    let mut holder = keeper(&path);
    assert!(matches!(take(&mut holder), ArbiterAnswer::Locked { .. }));
    assert_eq!(
        old.answer(ArbiterCall::TryLock),
        ArbiterAnswer::Refused { holder: None }
    );
}

#[test]
fn strangers_files_are_never_overwritten() {
    let (_folder, path) = booted();
    std::fs::write(&path, "root:x:0:0").unwrap();
    let reason = failed(keeper(&path).answer(ArbiterCall::TryLock));
    assert!(
        reason.ends_with("it is not a file of twinmq's arbiter"),
        "{reason}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"root:x:0:0");

    let (_folder, path) = booted();
    let mut other = keeper(&path);
    other.config.secret = None;
    other.records = RecordFolder::beside(&path, None);
    for call in [ArbiterCall::Read, ArbiterCall::TryLock] {
        let reason = failed(other.answer(call));
        assert!(
            reason.contains("not written under this pair's secret"),
            "{reason}"
        );
    }
}

#[test]
fn a_damaged_or_renamed_record_is_a_failure_and_not_first_boot() {
    let (_folder, path) = booted();
    let first = record_folder(&path).join("rec.1");
    std::fs::copy(&first, record_folder(&path).join("rec.9")).unwrap();
    let reason = failed(keeper(&path).answer(ArbiterCall::Read));
    assert!(reason.contains("rec.9 holds the record 1"), "{reason}");
    std::fs::remove_file(record_folder(&path).join("rec.9")).unwrap();
    let mut bytes = std::fs::read(&first).unwrap();
    bytes.truncate(60);
    std::fs::write(&first, bytes).unwrap();
    for call in [ArbiterCall::Read, ArbiterCall::Create(record(1, 1))] {
        let reason = failed(keeper(&path).answer(call));
        assert!(reason.contains("rec.1: it is damaged"), "{reason}");
    }
}

#[test]
fn failures_name_the_path_and_what_to_do() {
    let create = |path: &Path| failed(keeper(path).answer(ArbiterCall::Create(record(1, 1))));
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/a.lck");
    assert_eq!(
        create(&missing),
        format!(
            "{}.d cannot be made: No such file or directory (os error 2): is the share mounted?",
            missing.display()
        )
    );
    let reason = create(Path::new("/proc/a.lck"));
    assert!(
        reason.starts_with("/proc/a.lck.d cannot be made"),
        "{reason}"
    );
    std::fs::create_dir(folder.path().join("b.lck")).unwrap();
    std::fs::create_dir(folder.path().join("b.lck.d")).unwrap();
    let lock = failed(keeper(&folder.path().join("b.lck")).answer(ArbiterCall::TryLock));
    assert!(
        lock.ends_with("lock_file must name a file in a folder"),
        "{lock}"
    );
}

#[test]
fn of_two_creators_one_wins_and_both_see_one_nonce() {
    for round in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lck");
        if round % 4 == 0 {
            std::fs::write(&path, "").unwrap();
        }
        let barrier = Barrier::new(2);
        let answers = std::thread::scope(|scope| {
            [1, 2]
                .map(|owner| {
                    let (path, barrier) = (&path, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        keeper(path).answer(ArbiterCall::Create(record(owner, 1)))
                    })
                })
                .map(|thread| thread.join().unwrap())
        });
        let (found, _) = read(&path);
        let winner = found.unwrap();
        let won = answers
            .iter()
            .filter(|it| **it == ArbiterAnswer::Created(winner.clone()));
        assert_eq!(won.count(), 1, "{answers:?}");
        let conflict = ArbiterAnswer::Conflict(Some(winner.clone()));
        assert_eq!(
            answers.iter().filter(|it| **it == conflict).count(),
            1,
            "{answers:?}"
        );
        // An empty lock file is filled under the lock, which is let go and taken again.
        let mut keeper = keeper(&path);
        assert!(matches!(take(&mut keeper), ArbiterAnswer::Locked { .. }));
        assert_eq!(
            check(&mut keeper, 1),
            ArbiterAnswer::Held {
                record: Some(winner)
            }
        );
    }
}

#[test]
fn of_racing_compare_and_sets_exactly_one_wins_each_round() {
    const RACERS: u8 = 4;
    const ROUNDS: u64 = 100;
    let (_folder, path) = booted();
    let barrier = Barrier::new(RACERS.into());
    let wins = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=RACERS)
            .map(|owner| {
                let (path, barrier) = (&path, &barrier);
                scope.spawn(move || {
                    let mut keeper = keeper(path);
                    let mut wins = Vec::new();
                    for seq in 2..ROUNDS + 2 {
                        barrier.wait();
                        let next = record(owner, seq);
                        match keeper.answer(ArbiterCall::CompareAndSet(next.clone())) {
                            ArbiterAnswer::Set(set) => {
                                assert_eq!(set, next);
                                wins.push(seq);
                            }
                            ArbiterAnswer::Conflict(Some(other)) => {
                                assert_eq!(other.seq, RecordSeq(seq));
                            }
                            other => panic!("{other:?}"),
                        }
                        barrier.wait();
                    }
                    wins
                })
            })
            .collect();
        let mut wins: Vec<u64> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        wins.sort_unstable();
        wins
    });
    assert_eq!(wins, (2..ROUNDS + 2).collect::<Vec<_>>());
    let names: Vec<_> = std::fs::read_dir(record_folder(&path))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().all(|name| name.starts_with("rec.")),
        "no drafts are left: {names:?}"
    );
    assert_eq!(names.len(), 65, "far ones are pruned");
}

#[test]
fn drafts_that_a_crash_left_are_removed_by_their_own_server_only() {
    let (_folder, path) = booted();
    let draft = |owner: u8| {
        let name = format!("tmp.{}.00", NodeId([owner; 16]));
        record_folder(&path).join(name)
    };
    for owner in [1, 2] {
        std::fs::write(draft(owner), "half").unwrap();
    }
    keeper(&path).answer(ArbiterCall::CompareAndSet(record(1, 2)));
    assert_eq!(
        [draft(1), draft(2)].map(|path| path.exists()),
        [false, true]
    );
}

#[test]
fn an_older_or_far_newer_record_conflicts() {
    let (_folder, path) = booted();
    for seq in [0, 1, 3] {
        assert_eq!(
            keeper(&path).answer(ArbiterCall::CompareAndSet(record(2, seq))),
            ArbiterAnswer::Conflict(Some(record(1, 1)))
        );
    }
    let nowhere = tempfile::tempdir().unwrap();
    assert_eq!(
        keeper(&nowhere.path().join("a.lck")).answer(ArbiterCall::CompareAndSet(record(2, 2))),
        ArbiterAnswer::Conflict(None)
    );
}

/// Not a test of its own: the child of the one below.
#[test]
fn hold_the_lock_until_killed_when_asked_to() {
    let Some(path) = std::env::var_os(HOLD) else {
        return;
    };
    let path = PathBuf::from(path);
    let mut keeper = held(&path);
    check(&mut keeper, 5);
    std::fs::write(path.with_extension("held"), "").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn the_lock_of_a_killed_process_is_free() {
    let (_folder, path) = booted();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1"])
        .arg("io::arbiter_file::tests::hold_the_lock_until_killed_when_asked_to")
        .env(HOLD, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !path.with_extension("held").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "the child holds the lock");
        std::thread::yield_now();
    }
    let mut keeper = keeper(&path);
    let refused = ArbiterAnswer::Refused {
        holder: Some(heartbeat(5)),
    };
    assert_eq!(keeper.answer(ArbiterCall::TryLock), refused);
    child.kill().unwrap();
    child.wait().unwrap();
    let ArbiterAnswer::Locked { lock, .. } = take(&mut keeper) else {
        panic!("its holder is dead");
    };
    assert_eq!(lock.last, Some(heartbeat(5)));
}
