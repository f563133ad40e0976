//! The share hangs; the lock file or the record is taken away, replaced or set back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use twinmq::cli::admin_client::Status;

use super::lab::{Cut, in_a_lab};
use super::{Mode, Nemesis};
use crate::support::eventually::{SOON, eventually};
use crate::support::server::Role;
use crate::test_name;

const LEAST: Duration = Duration::from_millis(500);
/// Three times LeaseTTL of the stock profiles.
const MOST: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug)]
enum Blow {
    /// The share hangs.
    Cut,
    /// And the link is cut.
    CutWithLink,
    LockDeleted,
    LockReplaced,
    LockTruncated,
    RecordWiped,
    /// The highest record is gone, the one before is there.
    RecordRolledBack,
}

const DECK: [Blow; 7] = [
    Blow::Cut,
    Blow::CutWithLink,
    Blow::LockDeleted,
    Blow::LockReplaced,
    Blow::LockTruncated,
    Blow::RecordWiped,
    Blow::RecordRolledBack,
];

fn strike(nemesis: &mut Nemesis, blow: Blow) {
    let base = nemesis.pair.lock_file();
    let lock = lock_in_force(nemesis);
    match blow {
        Blow::Cut => {
            nemesis.share.freeze();
            nemesis.last(LEAST, MOST);
            if nemesis.mode == Mode::Replicated {
                // The peer's answers are proof enough.
                nemesis.client.await_confirmed(20);
            }
            nemesis.share.thaw();
        }
        Blow::CutWithLink => {
            nemesis.share.freeze();
            nemesis.network.cut(Cut::Link);
            nobody_serves(nemesis);
            nemesis.last(LEAST, MOST);
            nemesis.network.heal();
            nemesis.share.thaw();
        }
        Blow::LockDeleted => {
            until_noticed(nemesis, || fs::remove_file(&lock).expect("it is there"));
        }
        Blow::LockReplaced => until_noticed(nemesis, || {
            let copy = lock.with_extension("copy");
            fs::copy(&lock, &copy).expect("it can be read");
            fs::rename(&copy, &lock).expect("it is there");
        }),
        Blow::LockTruncated => until_noticed(nemesis, || {
            let file = File::options().write(true).open(&lock);
            file.and_then(|file| file.set_len(0)).expect("it is there");
        }),
        Blow::RecordWiped => {
            for record in records(&base) {
                fs::remove_file(record).expect("it is there");
            }
            // Nobody can know any more what the other has confirmed without it.
            let active = nemesis.pair.active();
            nemesis.pair.server(active).kill();
            await_refusal(nemesis, active.other(), "the arbiter record is gone");
            nemesis.pair.server(active).start();
        }
        Blow::RecordRolledBack => {
            let highest = records(&base).pop().expect("there is a record");
            let aside = base.with_extension("aside");
            fs::rename(&highest, &aside).expect("it is there");
            let ended = [Role::Primary, Role::Secondary].map(|role| {
                let ended = refuses_or_ends(nemesis, role);
                ended.then_some(role)
            });
            // What the texts say.
            fs::rename(&aside, &highest).expect("it is there");
            for role in ended.into_iter().flatten() {
                nemesis.pair.server(role).start();
            }
        }
    }
}

/// Strikes, and waits until the holder says that its lock was lost.
fn until_noticed(nemesis: &mut Nemesis, strike: impl FnOnce()) {
    let holder = nemesis.pair.active();
    let server = nemesis.pair.server(holder);
    let before = server.log().len();
    strike();
    eventually(SOON, "the loss of the lock is noticed", || {
        let log = server.log();
        let said = &log[before..];
        let noticed = said.contains("the lock was lost");
        if noticed {
            Ok(())
        } else {
            Err(said.to_owned())
        }
    });
}

/// Both see a record that went back. A passive that looks for its own name there before the active
/// has said so takes the share for another one, and ends with that text. True if it did.
fn refuses_or_ends(nemesis: &mut Nemesis, role: Role) -> bool {
    let server = nemesis.pair.server(role);
    eventually(SOON, "the record that went back is refused", || {
        if let Some(status) = server.has_ended() {
            let log = server.log();
            assert!(log.contains("by another arbiter record"), "{status}: {log}");
            return Ok(true);
        }
        let status = server.status()?;
        let claims = status.claims.as_ref();
        let reason = claims.and_then(|claims| claims.reason.as_deref());
        if !status.serving && reason.is_some_and(|reason| reason.contains("went back")) {
            return Ok(false);
        }
        Err(format!("{status:?}"))
    })
}

fn await_refusal(nemesis: &mut Nemesis, role: Role, text: &str) {
    let refused = |status: &Status| {
        let claims = status.claims.as_ref();
        let reason = claims.and_then(|claims| claims.reason.as_deref());
        !status.serving && reason.is_some_and(|reason| reason.contains(text))
    };
    nemesis.pair.server(role).await_status(text, refused);
}

/// The lock file of the present generation: a take-over by fence makes the next one.
fn lock_in_force(nemesis: &mut Nemesis) -> PathBuf {
    let active = nemesis.pair.active();
    let status = nemesis.pair.server(active).status().expect("it serves");
    let lock = status.lock.expect("a pair has a lock");
    nemesis.pair.scene.path().join(lock.path)
}

/// The records, the highest last.
fn records(lock: &Path) -> Vec<PathBuf> {
    let mut folder = lock.as_os_str().to_owned();
    folder.push(".d");
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .expect("the folder of the record is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some((name.strip_prefix("rec.")?.parse().ok()?, path.clone()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn nobody_serves(nemesis: &mut Nemesis) {
    let pair = &mut nemesis.pair;
    eventually(SOON, "nobody serves", || {
        for role in [Role::Primary, Role::Secondary] {
            // One that has ended itself does not.
            match pair.server(role).status() {
                Ok(status) if status.serving => return Err(format!("{status:?}")),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    });
}

fn spoil(test: &'static str, mode: Mode) {
    in_a_lab(move || {
        let mut nemesis = Nemesis::new(test, mode);
        let mut deck = Vec::new();
        // What a record that is gone means for a store that both can open is not for the pair to say.
        let full = match mode {
            Mode::Replicated => &DECK[..],
            Mode::Shared => &DECK[..5],
        };
        let quick = full.len() as u64;
        for _ in 0..Nemesis::count("TWINMQ_ARBITER_FAULTS", quick) {
            let blow = nemesis.draw(&mut deck, full);
            strike(&mut nemesis, blow);
            nemesis.recovered(&format!("{blow:?}"));
        }
        nemesis.finish();
    });
}

#[test]
fn a_share_that_hangs_and_files_of_it_that_are_spoilt_lose_nothing() {
    spoil(test_name!(), Mode::Replicated);
}

#[test]
fn a_share_that_hangs_or_a_spoilt_lock_loses_nothing_of_one_store() {
    spoil(test_name!(), Mode::Shared);
}
