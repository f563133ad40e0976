//! `twinmq clear-db`: empties a profile's store while its server is stopped.

use super::args::ClearDbArgs;
use super::run::store_code;
use super::{CliError, print};
use crate::actors::server::store_config;
use crate::config::{Config, HaConfig, read_secret};
use crate::exit::ExitCode;
use crate::io::arbiter_file::read_record;
use crate::proto::arbiter::ArbiterRecord;
use crate::proto::auth::PairSecret;
use crate::proto::ids::StoreId;
use crate::storage::error::StoreError;
use crate::storage::{clear, identify};

/// Why a store was left as it is.
#[derive(Debug, thiserror::Error)]
enum ClearError {
    #[error(
        "{dir} holds the only copy that has every confirmed message (record {seq}, epoch {epoch}): \
         start the other server and wait until both are in sync (twinmq wait --in-sync), or give \
         these messages up with --force"
    )]
    OnlyCopy { dir: String, seq: u64, epoch: u64 },
    #[error(
        "whether {dir} is the only copy that has every confirmed message is not known: the record \
         beside {lock_file} {why}; mend that, or give up what only this copy may hold with --force"
    )]
    Unknown {
        dir: String,
        lock_file: String,
        why: String,
    },
}

/// Empties the store.
///
/// # Errors
/// When a server has it, when it may be the only whole copy and `--force` was not given, or when it
/// cannot be written.
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
    if !args.force {
        judge(&config)?;
    }
    let messages = clear(&store_config(&config)).map_err(store_failed)?;
    print(&format!(
        "{}: cleared, {messages} messages are gone; the store is a new one{}",
        dir.display(),
        if config.ha.is_some() {
            ", which its peer fills before it may serve"
        } else {
            ""
        }
    ))?;
    Ok(ExitCode::Done)
}

fn store_failed(error: StoreError) -> CliError {
    CliError::of(store_code(&error), error)
}

/// Refuses what would lose confirmed messages. A standalone server's store is always the only copy:
/// there, the command itself says what is wanted.
fn judge(config: &Config) -> Result<(), CliError> {
    let Some(pair) = &config.ha else {
        return Ok(());
    };
    let (store, last_record) = match identify(&config.store.path) {
        Ok(found) => found,
        // Nothing has ever been stored.
        Err(StoreError::Layout { .. }) => return Ok(()),
        Err(error) => return Err(store_failed(error)),
    };
    let record = record_of(pair)?;
    verdict(store, record, last_record.is_some()).map_err(|why| {
        let dir = config.store.path.display().to_string();
        let error = match why {
            Doubt::OnlyCopy { seq, epoch } => ClearError::OnlyCopy { dir, seq, epoch },
            Doubt::Unknown(why) => ClearError::Unknown {
                dir,
                lock_file: pair.lock_file.display().to_string(),
                why,
            },
        };
        CliError::of(ExitCode::Failed, error)
    })
}

fn record_of(pair: &HaConfig) -> Result<Result<Option<ArbiterRecord>, String>, CliError> {
    let secret = match &pair.pair_secret_file {
        None => None,
        Some(path) => {
            let secret =
                read_secret(path).map_err(|error| CliError::of(ExitCode::Configuration, error))?;
            Some(PairSecret::new(secret.as_bytes()))
        }
    };
    Ok(read_record(&pair.lock_file, secret))
}

#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    OnlyCopy { seq: u64, epoch: u64 },
    Unknown(String),
}

/// May this store go? `seen`: its server has once seen a record.
fn verdict(
    store: StoreId,
    record: Result<Option<ArbiterRecord>, String>,
    seen: bool,
) -> Result<(), Doubt> {
    match record {
        Ok(Some(record)) if record.isr == [store] => Err(Doubt::OnlyCopy {
            seq: record.seq.0,
            epoch: record.epoch.0,
        }),
        // The record names another copy that holds everything, with or without this one.
        Ok(Some(_)) => Ok(()),
        Ok(None) if seen => Err(Doubt::Unknown("is gone".to_owned())),
        Ok(None) => Ok(()),
        Err(why) => Err(Doubt::Unknown(format!("cannot be read: {why}"))),
    }
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
        }))
    }

    #[test]
    fn only_a_copy_that_nobody_else_has_is_kept() {
        assert_eq!(verdict(OWN, record(&[OWN, OTHER]), true), Ok(()));
        assert_eq!(verdict(OWN, record(&[OTHER]), true), Ok(()));
        let only = Doubt::OnlyCopy { seq: 9, epoch: 3 };
        assert_eq!(verdict(OWN, record(&[OWN]), true), Err(only));
    }

    #[test]
    fn without_a_record_only_a_store_that_never_saw_one_goes() {
        assert_eq!(verdict(OWN, Ok(None), false), Ok(()));
        let gone = Doubt::Unknown("is gone".to_owned());
        assert_eq!(verdict(OWN, Ok(None), true), Err(gone));
        let unread = verdict(OWN, Err("rec.7 is damaged".to_owned()), false);
        let why = "cannot be read: rec.7 is damaged".to_owned();
        assert_eq!(unread, Err(Doubt::Unknown(why)));
    }
}
