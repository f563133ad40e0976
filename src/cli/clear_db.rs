//! `twinmq clear-db`: empties a profile's store while its server is stopped.

use super::args::ClearDbArgs;
use super::run::store_code;
use super::{CliError, print};
use crate::actors::server::store_config;
use std::path::Path;

use crate::config::{Config, HaConfig, Mode, read_secret};
use crate::exit::ExitCode;
use crate::io::arbiter_file::{read_record, record_folder, replace_record};
use crate::proto::arbiter::ArbiterRecord;
use crate::proto::auth::PairSecret;
use crate::proto::ids::StoreId;
use crate::storage::error::StoreError;
use crate::storage::{ToClear, clear};

/// How often a record that others change is judged anew.
const TRIES: usize = 5;

/// Why a store was left as it is.
#[derive(Debug, thiserror::Error)]
enum ClearError {
    #[error(
        "{dir} holds the only copy that has every confirmed message (rec.{seq} in {folder}, epoch \
         {epoch}): start the other server and wait until both are in sync (twinmq wait --in-sync), or give \
         these messages up with --force"
    )]
    OnlyCopy {
        dir: String,
        seq: u64,
        epoch: u64,
        folder: String,
    },
    #[error(
        "{dir} is the only store of the pair (rec.{seq} in {folder}, epoch {epoch}), for both servers: give its \
         messages up with --force"
    )]
    OneStore {
        dir: String,
        seq: u64,
        epoch: u64,
        folder: String,
    },
    #[error(
        "{dir} was cleared, but the highest rec.N in {folder} still names the store that was there: \
         {why}; mend that, then clear it again"
    )]
    StillNamed {
        dir: String,
        folder: String,
        why: String,
    },
    #[error(
        "whether {dir} is the only copy that has every confirmed message is not known: the record \
         (the highest rec.N in {folder}) {why}; mend that, or give up what only this copy may hold with --force"
    )]
    Unknown {
        dir: String,
        folder: String,
        why: String,
    },
}

/// Empties the store.
///
/// # Errors
/// When a server has it, it is another pair's, it may be the only whole copy and `--force` was not
/// given, or it cannot be written.
pub fn run(args: &ClearDbArgs) -> Result<ExitCode, CliError> {
    let config = args.profile.load(args.db_path.clone())?.config;
    let dir = config.store.path.clone();
    if !dir.exists() {
        print(&format!(
            "{} does not exist: nothing to clear",
            dir.display()
        ))?;
        return Ok(ExitCode::Done);
    }
    let cleared = clear(&store_config(&config), |found| {
        judge(&config, found, args.force)
    })?;
    if let (Mode::Shared, Some(pair)) = (config.mode, &config.ha) {
        name_in_record(pair, &dir, cleared.store)?;
    }
    print(&format!(
        "{}: cleared, {} messages are gone; the store is a new one{}",
        dir.display(),
        cleared.messages,
        match config.mode {
            Mode::Standalone => "",
            Mode::Replicated => ", which its peer fills before it may serve",
            Mode::Shared => " for both servers",
        }
    ))?;
    Ok(ExitCode::Done)
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::of(store_code(&error), error)
    }
}

/// Refuses what would lose confirmed messages, and takes the store out of the record's in-sync set: the
/// record must not vouch for a copy that is gone. A standalone server's store is always the only copy:
/// there, the command itself says what is wanted.
fn judge(config: &Config, found: ToClear, force: bool) -> Result<(), CliError> {
    let Some(pair) = &config.ha else {
        return Ok(());
    };
    let store = match found.store {
        Ok(Some(store)) => store,
        // Nothing has ever been stored.
        Ok(None) => return Ok(()),
        Err(_) if force => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let secret = secret_of(pair)?;
    let record = read_record(&pair.lock_file, secret.clone());
    let left = leave(store, record, found.saw_record, |next| {
        replace_record(&pair.lock_file, secret.clone(), next)
    });
    let Err(why) = left else {
        return Ok(());
    };
    if force {
        return Ok(());
    }
    let dir = config.store.path.display().to_string();
    let folder = record_folder(&pair.lock_file).display().to_string();
    let error = match why {
        Doubt::OnlyCopy { seq, epoch } if config.mode == Mode::Shared => ClearError::OneStore {
            dir,
            seq,
            epoch,
            folder,
        },
        Doubt::OnlyCopy { seq, epoch } => ClearError::OnlyCopy {
            dir,
            seq,
            epoch,
            folder,
        },
        Doubt::Unknown(why) => ClearError::Unknown { dir, folder, why },
    };
    Err(CliError::of(ExitCode::Failed, error))
}

/// The record named the store that is gone, and nobody may serve another: it names the new one now.
fn name_in_record(pair: &HaConfig, dir: &Path, store: StoreId) -> Result<(), CliError> {
    let failed = |why: String| {
        CliError::of(
            ExitCode::Failed,
            ClearError::StillNamed {
                dir: dir.display().to_string(),
                folder: record_folder(&pair.lock_file).display().to_string(),
                why,
            },
        )
    };
    let secret = secret_of(pair)?;
    let mut found = read_record(&pair.lock_file, secret.clone()).map_err(failed)?;
    for _ in 0..TRIES {
        let Some(present) = found.filter(|present| !present.holds(store)) else {
            return Ok(());
        };
        let next = ArbiterRecord {
            seq: present.seq.next(),
            isr: vec![store],
            ..present
        };
        found = replace_record(&pair.lock_file, secret.clone(), &next).map_err(failed)?;
    }
    Err(failed("others change it again and again".to_owned()))
}

fn secret_of(pair: &HaConfig) -> Result<Option<PairSecret>, CliError> {
    let Some(path) = &pair.pair_secret_file else {
        return Ok(None);
    };
    let secret = read_secret(path).map_err(|error| CliError::of(ExitCode::Configuration, error))?;
    Ok(Some(PairSecret::new(secret.as_bytes())))
}

#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    OnlyCopy { seq: u64, epoch: u64 },
    Unknown(String),
}

/// Takes the store out of the in-sync set, through `replace`, which gives the record that is there
/// afterwards. Ok: the record vouches for another copy, or for none, and not for this one. `seen`: its
/// server has once seen a record.
fn leave(
    store: StoreId,
    mut record: Result<Option<ArbiterRecord>, String>,
    seen: bool,
    mut replace: impl FnMut(&ArbiterRecord) -> Result<Option<ArbiterRecord>, String>,
) -> Result<(), Doubt> {
    for _ in 0..TRIES {
        let present = match record {
            Ok(Some(present)) => present,
            Ok(None) if seen => return Err(Doubt::Unknown("is gone".to_owned())),
            Ok(None) => return Ok(()),
            Err(why) => return Err(Doubt::Unknown(format!("cannot be read: {why}"))),
        };
        if !present.holds(store) {
            return Ok(());
        }
        if present.isr == [store] {
            return Err(Doubt::OnlyCopy {
                seq: present.seq.0,
                epoch: present.epoch.0,
            });
        }
        let next = ArbiterRecord {
            seq: present.seq.next(),
            isr: present
                .isr
                .iter()
                .copied()
                .filter(|other| *other != store)
                .collect(),
            ..present
        };
        // Either it is in force now, or another's is, which is judged anew.
        record = match replace(&next) {
            Ok(there) => Ok(there),
            Err(why) => return Err(Doubt::Unknown(format!("cannot be changed: {why}"))),
        };
    }
    Err(Doubt::Unknown(
        "is being changed by others again and again".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ids::{ArbiterId, Epoch, NodeId, RecordSeq};

    const OWN: StoreId = StoreId([1; 16]);
    const OTHER: StoreId = StoreId([2; 16]);

    fn record(isr: &[StoreId]) -> Result<Option<ArbiterRecord>, String> {
        Ok(Some(ArbiterRecord {
            arbiter: ArbiterId([0; 16]),
            cluster: "twinmq".to_owned(),
            seq: RecordSeq(9),
            epoch: Epoch(3),
            owner: NodeId([7; 16]),
            isr: isr.to_vec(),
            generation: Epoch::ZERO,
        }))
    }

    fn untouched(_: &ArbiterRecord) -> Result<Option<ArbiterRecord>, String> {
        panic!("the record stays as it is")
    }

    #[test]
    fn a_store_leaves_the_in_sync_set_before_it_is_cleared() {
        let mut set = Vec::new();
        let left = leave(OWN, record(&[OWN, OTHER]), true, |next| {
            set.push(next.clone());
            Ok(Some(next.clone()))
        });
        assert_eq!(left, Ok(()));
        let expected = ArbiterRecord {
            seq: RecordSeq(10),
            ..record(&[OTHER]).unwrap().unwrap()
        };
        assert_eq!(set, [expected]);
        assert_eq!(leave(OWN, record(&[OTHER]), true, untouched), Ok(()));
    }

    #[test]
    fn only_a_copy_that_nobody_else_has_is_kept() {
        let only = Err(Doubt::OnlyCopy { seq: 9, epoch: 3 });
        assert_eq!(leave(OWN, record(&[OWN]), true, untouched), only);
        // The other left meanwhile.
        let left = leave(OWN, record(&[OWN, OTHER]), true, |_| record(&[OWN]));
        assert_eq!(left, only);
    }

    #[test]
    fn a_record_that_cannot_be_changed_keeps_the_store() {
        let left = leave(OWN, record(&[OWN, OTHER]), true, |_| {
            Err("the disk is full".to_owned())
        });
        let why = "cannot be changed: the disk is full".to_owned();
        assert_eq!(left, Err(Doubt::Unknown(why)));
        let left = leave(OWN, record(&[OWN, OTHER]), true, |_| record(&[OWN, OTHER]));
        assert!(matches!(left, Err(Doubt::Unknown(_))), "{left:?}");
    }

    #[test]
    fn without_a_record_only_a_store_that_never_saw_one_goes() {
        assert_eq!(leave(OWN, Ok(None), false, untouched), Ok(()));
        let gone = Doubt::Unknown("is gone".to_owned());
        assert_eq!(leave(OWN, Ok(None), true, untouched), Err(gone));
        let damaged = Err("rec.7 is damaged".to_owned());
        let unread = leave(OWN, damaged, false, untouched);
        let why = "cannot be read: rec.7 is damaged".to_owned();
        assert_eq!(unread, Err(Doubt::Unknown(why)));
    }
}
