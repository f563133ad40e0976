//! A server of shared mode that does not answer. The store is not its own: it is never looked into here,
//! the other server may have it open.

use super::{arbiter, nobody, peer, silent};
use crate::admin::{ExplainDocument, Profiles};
use crate::cli::admin_client::AdminError;
use crate::config::{Config, HaConfig};
use crate::io::file_lock;
use crate::machines::ha::{LockProbe, holder_text};
use crate::proto::arbiter::ArbiterAnswer;
use crate::storage::glance_identity;

/// Fills in what a start would give, and what to do.
pub(super) fn explain(
    config: &Config,
    pair: &HaConfig,
    profiles: &Profiles,
    unanswered: &AdminError,
    document: &mut ExplainDocument,
) {
    let own = config.store.own_folder();
    match file_lock::is_locked(&own.join("lock")) {
        Ok(Some(true)) => return silent(profiles, unanswered, document),
        Ok(Some(false) | None) => {
            let (_, damage) = glance_identity(&own.join("identity.json"));
            if let Some(why) = damage {
                return nobody(config, profiles, &why, document);
            }
        }
        Err(error) => {
            document.trouble = Some(format!("{} cannot be read: {error}", own.display()));
        }
    }
    let start = profiles.put_into("start it: twinmq run -p {own}");
    document.advice = vec![start];
    if let Some(state) = peer(pair) {
        document.if_started = Some(if state.serves() {
            format!("the other server runs and serves ({state}); this one would be PASSIVE")
        } else {
            format!(
                "the other server runs as well ({state}); one of the two would get the lock and serve, \
                 the other would be PASSIVE"
            )
        });
        return;
    }
    let (record, lock) = arbiter(pair);
    if let Err(error) = std::fs::read_dir(&config.store.path) {
        document.trouble = Some(format!(
            "the store {} cannot be reached: {error}",
            config.store.path.display()
        ));
    }
    let would = match (&record, &lock) {
        (ArbiterAnswer::Failed(why), _) => {
            document.trouble = Some(format!("the lock file's share does not answer: {why}"));
            "this one would be PASSIVE until the share answers".to_owned()
        }
        (_, LockProbe::Held { holder }) => format!(
            "this one would be PASSIVE until the lock is free: {} holds it",
            holder_text(holder.as_ref())
        ),
        (
            ArbiterAnswer::Read {
                record: Some(_), ..
            },
            LockProbe::Free,
        ) => "this one would take the lock, open the store and serve (ACTIVE)".to_owned(),
        (
            ArbiterAnswer::Read {
                record: Some(_), ..
            },
            LockProbe::Unknown,
        ) => "this one would try the lock, and serve (ACTIVE) if it gets it".to_owned(),
        (_, _) if pair.primary => {
            "there is no record beside the lock file; this one, the primary, \
                                   would make it at first boot and serve (ACTIVE)"
                .to_owned()
        }
        (_, _) => {
            "there is no record beside the lock file; this one, the secondary, would be PASSIVE \
                   until the primary has made it"
                .to_owned()
        }
    };
    document.if_started = Some(format!("the other server does not answer; {would}"));
}
