//! A take-over by fence, as the share sees it.

use super::*;
use crate::proto::ids::{Lsn, Position};

fn fenced(seq: u64) -> ArbiterRecord {
    ArbiterRecord {
        arbiter: ArbiterId([1; 16]),
        epoch: Epoch(seq),
        generation: Epoch(seq),
        ..record(2, seq)
    }
}

fn position(store: u8, lsn: u64) -> (StoreId, Position) {
    let (epoch, lsn) = (Epoch(1), Lsn(lsn));
    (StoreId([store; 16]), Position { epoch, lsn })
}

fn tell(keeper: &mut FileKeeper, positions: &[(StoreId, Position)]) -> ArbiterAnswer {
    let mut beat = heartbeat(7);
    beat.positions = positions.to_vec();
    keeper.answer(ArbiterCall::Check(beat))
}

fn lock_of(keeper: &mut FileKeeper) -> LockFacts {
    match take(keeper) {
        ArbiterAnswer::Locked { lock, .. } => lock,
        other => panic!("{other:?}"),
    }
}

fn set(keeper: &mut FileKeeper, next: &ArbiterRecord) {
    let answer = keeper.answer(ArbiterCall::CompareAndSet(next.clone()));
    assert_eq!(answer, ArbiterAnswer::Set(next.clone()));
}

#[test]
fn the_lock_of_the_generation_that_the_record_names_is_taken_beside_the_old_holders() {
    let (_folder, path) = booted();
    let (mut old, mut new) = (held(&path), keeper(&path));
    let positions = [position(1, 40), position(2, 39)];
    assert!(matches!(
        tell(&mut old, &positions),
        ArbiterAnswer::Held { .. }
    ));
    let refused = new.answer(ArbiterCall::TryLock);
    assert!(
        matches!(refused, ArbiterAnswer::Refused { holder: Some(_) }),
        "{refused:?}"
    );

    set(&mut new, &fenced(2));
    // What both stores had confirmed is known there, before its first holder says anything (A1).
    let (found, lock) = read(&path);
    assert_eq!(found, Some(fenced(2)));
    assert_eq!(lock.unwrap().last.unwrap().positions, positions);
    let lock = lock_of(&mut new);
    let plain = std::fs::metadata(&path).unwrap();
    assert_ne!(lock.inode, plain.ino());
    assert!(path.with_extension("lck.2").exists());

    // The old holder sees the record at its next check, and cannot come back with its lock.
    let checked = tell(&mut old, &positions);
    assert_eq!(
        checked,
        ArbiterAnswer::Held {
            record: Some(fenced(2))
        }
    );
    let refused = old.answer(ArbiterCall::TryLock);
    assert!(
        matches!(refused, ArbiterAnswer::Refused { .. }),
        "{refused:?}"
    );
    drop(new);
    assert_eq!(lock_of(&mut old).identity(), lock.identity());
}

#[test]
fn a_lock_obtained_while_the_record_moved_on_is_let_go_for_the_new_one() {
    let (_folder, path) = booted();
    let mut keeper = held(&path);
    set(&mut keeper, &fenced(2));
    assert_eq!(keeper.held.as_ref().unwrap().generation, Epoch::ZERO);
    lock_of(&mut keeper);
    assert_eq!(keeper.held.as_ref().unwrap().generation, Epoch(2));
    // The old file is free: a claim of an older view finds it so, and does not keep it.
    let file = open_for_lock(&path).unwrap();
    assert!(try_lock(&file).unwrap());
}

#[test]
fn a_claim_that_came_second_leaves_a_lock_file_that_the_next_one_completes() {
    let (_folder, path) = booted();
    let mut active = held(&path);
    tell(&mut active, &[position(1, 40), position(2, 40)]);
    let other = keeper(&path);
    other.prepare(Epoch::ZERO, Epoch(3)).unwrap();
    let nonce = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        decode_lock(&bytes, Some(&PairSecret::new(b"secret"))).unwrap()
    };
    let left = nonce(&path.with_extension("lck.3"));
    // Further on in one store, and in the other not known as far as before.
    tell(&mut active, &[position(1, 50), position(2, 30)]);
    other.prepare(Epoch::ZERO, Epoch(3)).unwrap();
    let (identity, last) = nonce(&path.with_extension("lck.3"));
    assert_eq!(identity, left.0, "the same file");
    assert_eq!(last.unwrap().positions, [position(1, 50), position(2, 40)]);
    // Under its lock alone: whoever holds it has more to say than this.
    let file = open_for_lock(&path.with_extension("lck.3")).unwrap();
    assert!(try_lock(&file).unwrap());
    let before = std::fs::read(path.with_extension("lck.3")).unwrap();
    tell(&mut active, &[position(1, 60), position(2, 60)]);
    other.prepare(Epoch::ZERO, Epoch(3)).unwrap();
    assert_eq!(std::fs::read(path.with_extension("lck.3")).unwrap(), before);
}

#[test]
fn a_re_formed_record_goes_on_with_the_lock_file_that_counted() {
    let (folder, path) = booted();
    set(&mut keeper(&path), &fenced(2));
    std::fs::remove_dir_all(record_folder(&path)).unwrap();
    let anew = fenced(3);
    let kept = ArbiterRecord {
        generation: Epoch(2),
        ..anew
    };
    let created = keeper(&path).answer(ArbiterCall::Create(kept.clone()));
    assert_eq!(created, ArbiterAnswer::Created(kept));
    let mut holder = keeper(&path);
    lock_of(&mut holder);
    assert_eq!(
        holder.held.as_ref().unwrap().path,
        folder.path().join("a.lck.2")
    );
}

#[test]
fn old_lock_files_go_once_nobody_has_them_locked_and_the_configured_one_stays() {
    let (folder, path) = booted();
    let mut stopped = keeper(&path);
    set(&mut stopped, &fenced(2));
    lock_of(&mut stopped);
    let mut next = keeper(&path);
    for seq in 3..6 {
        set(&mut next, &fenced(seq));
    }
    lock_of(&mut next);
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".d"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(),
        ["a.lck", "a.lck.2", "a.lck.3", "a.lck.4", "a.lck.5"]
    );
    let beat = |keeper: &mut FileKeeper| {
        for counter in 0..16 {
            assert!(matches!(check(keeper, counter), ArbiterAnswer::Held { .. }));
        }
    };
    beat(&mut next);
    assert_eq!(
        names(),
        ["a.lck", "a.lck.2", "a.lck.5"],
        "one is still locked"
    );
    drop(stopped);
    beat(&mut next);
    assert_eq!(names(), ["a.lck", "a.lck.5"]);
}

#[test]
fn a_file_that_only_looks_like_a_generation_is_left_alone() {
    let (folder, path) = booted();
    let strange = ["a.lck.07", "a.lck.+7", "a.lck.7"];
    for name in strange {
        std::fs::write(folder.path().join(name), "somebody's notes").unwrap();
    }
    let mut keeper = keeper(&path);
    set(&mut keeper, &fenced(2));
    set(&mut keeper, &fenced(3));
    let mut far = fenced(4);
    far.generation = Epoch(9);
    set(&mut keeper, &far);
    lock_of(&mut keeper);
    for counter in 0..40 {
        assert!(matches!(
            check(&mut keeper, counter),
            ArbiterAnswer::Held { .. }
        ));
    }
    assert!(!folder.path().join("a.lck.3").exists(), "this is one");
    for name in strange {
        let kept = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(kept, b"somebody's notes", "{name}");
    }
}
