//! May this server be promoted, and if not, why not: the guards of a claim, each with its evidence,
//! in the words that `status` and the log show (ha-protocol A1, A4, R1, R4; rulings H1, H13).

use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord, LockFacts};
use crate::proto::ids::{ArbiterId, Epoch, Position, RecordSeq, StoreId};
use crate::storage::api::LogFacts;

use super::{HaConfig, Peer};

/// This server's own copy, as its store describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnStore {
    /// Its identity.
    pub store: StoreId,
    /// How far it is durable.
    pub position: Position,
    /// A resync into it began and has not ended.
    pub sync_in_progress: bool,
}

impl From<&LogFacts> for OwnStore {
    fn from(facts: &LogFacts) -> Self {
        Self {
            store: facts.store,
            position: facts.durable,
            sync_in_progress: facts.sync_in_progress,
        }
    }
}

/// What the arbiter showed when it was read last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArbiterView {
    /// Not read yet.
    Unread,
    /// It could not be read, in words.
    Unreadable(String),
    /// As read.
    Read {
        /// The record.
        record: Option<ArbiterRecord>,
        /// The lock file.
        lock: Option<LockFacts>,
    },
}

impl ArbiterView {
    /// The record, if one was read.
    pub(super) fn record(&self) -> Option<&ArbiterRecord> {
        match self {
            Self::Read { record, .. } => record.as_ref(),
            Self::Unread | Self::Unreadable(_) => None,
        }
    }

    /// A record that was read without its lock file. The lock file that was seen last belongs to the
    /// generation that was in force then.
    pub(super) fn see(&mut self, record: Option<ArbiterRecord>) {
        let generation = record.as_ref().map(|record| record.generation);
        let lock = match self {
            Self::Read { record: seen, lock }
                if seen.as_ref().map(|seen| seen.generation) == generation =>
            {
                lock.take()
            }
            Self::Read { .. } | Self::Unread | Self::Unreadable(_) => None,
        };
        *self = Self::Read { record, lock };
    }

    /// What an answer shows. One that failed shows nothing; whether that is more than what was known
    /// before is for the caller to say.
    pub(super) fn take_in(&mut self, answer: &ArbiterAnswer) {
        match answer {
            ArbiterAnswer::Read { record, lock } => {
                *self = Self::Read {
                    record: record.clone(),
                    lock: lock.clone(),
                };
            }
            ArbiterAnswer::Created(record) | ArbiterAnswer::Set(record) => {
                self.see(Some(record.clone()));
            }
            ArbiterAnswer::Conflict(record) => self.see(record.clone()),
            ArbiterAnswer::Locked { .. }
            | ArbiterAnswer::Refused { .. }
            | ArbiterAnswer::Unlocked
            | ArbiterAnswer::Held { .. }
            | ArbiterAnswer::Lost(_)
            | ArbiterAnswer::Failed(_) => {}
        }
    }
}

/// Why a claim is refused. The text is for an operator: what is so, and what can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The share does not answer.
    #[error("the arbiter cannot be read: {0}")]
    Unreadable(String),
    /// A4: only the primary may begin alone.
    #[error(
        "first boot: there is no arbiter record yet, and only the primary may create it alone; start \
         the primary"
    )]
    FirstBootOfSecondary,
    /// Z17, S213: this store is new, the record is gone, and the peer's store knows of one.
    #[error(
        "there is no arbiter record, but the peer's store has seen one: restore the lock file's folder"
    )]
    PeerRemembers,
    /// Z17: the record that this store knows is gone.
    #[error(
        "the arbiter record is gone (this store has seen number {last}): restore the lock file's \
         folder, or start the other server too, and the pair re-forms it"
    )]
    RecordGone {
        /// The last record that this store saw.
        last: RecordSeq,
    },
    /// Z17: an older record than the one seen before.
    #[error(
        "the arbiter record went back from number {last} to {found} (restored from a backup?): \
         restore the newest one"
    )]
    RecordRolledBack {
        /// The last one seen.
        last: RecordSeq,
        /// The one found.
        found: RecordSeq,
    },
    /// Z17: the store has seen epochs that the record does not know.
    #[error(
        "the arbiter record is of epoch {record}, but this store's log has epoch {log} (the record was \
         restored from a backup?): restore the newest one"
    )]
    RecordBehindLog {
        /// The record's.
        record: Epoch,
        /// The log's.
        log: Epoch,
    },
    /// The log did not take the new epoch.
    #[error("the log did not take the new epoch: {0}")]
    EpochRefused(String),
    /// Z18: another pair's lock file.
    #[error("the lock file belongs to another pair: check lock_file and cluster on both servers")]
    OtherArbiter,
    /// A4: the record is there without its lock file.
    #[error(
        "the lock file is missing although its record is there: start the other server too, and the \
         pair makes a new one; or restore it"
    )]
    LockFileMissing,
    /// R4: half a copy.
    #[error(
        "a resync into this store was interrupted, it is not a whole copy: start the other server, \
         which completes it"
    )]
    SyncInProgress,
    /// R1: the other server has confirmed messages that this store does not hold.
    #[error(
        "not in sync since epoch {epoch}: the other server went on without this store and may have \
         confirmed messages that it lacks; start the other server"
    )]
    NotInSync {
        /// The epoch of the record that does not name this store.
        epoch: Epoch,
    },
    /// A1: this copy was in sync once, but what is here is not that copy any more.
    #[error(
        "this store is older than what it has confirmed (restored backup, reverted snapshot, new \
         disk?): start the other server, which brings it into step"
    )]
    OlderThanConfirmed,
    /// A5: claiming while cut off would only fail later.
    #[error("the gateway cannot be reached from here: this server may be the one that is cut off")]
    GatewayUnreachable,
    /// Somebody else holds the lock.
    #[error("the lock is held by {holder}")]
    LockHeld {
        /// As far as the lock file tells.
        holder: String,
    },
    /// Somebody who is silent holds the lock, and this server is set to wait for it.
    #[error(
        "the lock is held by {holder}, which has been silent for PassiveLockAcquisitionInterval: \
         ha.lock.takeover is \"lock\", so that this server waits until that process has ended or the \
         share has dropped its lock"
    )]
    LockHeldInSilence {
        /// As far as the lock file tells.
        holder: String,
    },
    /// Another server changed the record first.
    #[error("another server changed the arbiter record first")]
    Conflict,
    /// Shared mode: the folder of the store does not answer, or not as it should.
    #[error("the shared store cannot be reached: {0}")]
    StoreUnreachable(String),
    /// Shared mode, S227: the folder holds no store, or another one than the pair's.
    #[error(
        "the pair's store is {named}, and the store at this server's db-path is {found}: is the share \
         mounted, and is db-path (store.path) the same directory for both servers?"
    )]
    OtherStore {
        /// By the record.
        named: String,
        /// By the store's label.
        found: String,
    },
    /// Shared mode: a process that does not hold the lock has the store open.
    #[error("the shared store is still open in {0}: end that process")]
    StoreInUse(String),
    /// Shared mode: what is in the folder is not what was confirmed.
    #[error(
        "the shared store ends at {found}, but {confirmed} was confirmed (restored backup, reverted \
         snapshot?): put the newest copy back"
    )]
    StoreBehind {
        /// Where it ends.
        found: Position,
        /// By the lock file.
        confirmed: Position,
    },
}

/// What a server that may be promoted would do about the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Eligible {
    /// There is no record and there never was one: create it.
    FirstBoot,
    /// The record was lost, and the linked peer remembers the same one: create it anew after this.
    ReForm(ArbiterRecord),
    /// Raise the epoch of this record.
    Claim(ArbiterRecord),
}

/// Everything that the decision looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    /// Configured as the primary.
    pub(super) primary: bool,
    /// Linked: whether the peer has no record either, or remembers the same last one. Not linked: none.
    pub(super) peer_agrees: Option<bool>,
    /// The newest record of this arbiter that the linked peer remembers.
    pub(super) peer_record: Option<(ArbiterId, RecordSeq)>,
    /// This server's copy.
    pub(super) own: OwnStore,
    /// The record that this server saw last, from `node/`.
    pub(super) last_record: Option<&'a ArbiterRecord>,
    /// The arbiter now.
    pub(super) arbiter: &'a ArbiterView,
}

impl<'a> Evidence<'a> {
    /// What a server of this configuration has to go by.
    pub(super) fn new(
        config: &HaConfig,
        own: OwnStore,
        peer: Option<&Peer>,
        last_record: Option<&'a ArbiterRecord>,
        arbiter: &'a ArbiterView,
    ) -> Self {
        let mine = last_record.map(|record| (record.arbiter, record.seq));
        let theirs = peer.map(|peer| {
            let arbiter = peer.facts.arbiter;
            arbiter.map(|arbiter| (arbiter, peer.facts.last_record))
        });
        Self {
            primary: config.primary,
            peer_agrees: theirs.map(|theirs| mine == theirs),
            peer_record: theirs.flatten(),
            own,
            last_record,
            arbiter,
        }
    }
}

/// R1, R4, A1 and A4 in one place: may this store be promoted?
pub(super) fn judge(evidence: Evidence<'_>) -> Result<Eligible, Refusal> {
    let (record, lock) = match evidence.arbiter {
        ArbiterView::Unread => return Err(Refusal::Unreadable("not read yet".into())),
        ArbiterView::Unreadable(why) => return Err(Refusal::Unreadable(why.clone())),
        ArbiterView::Read { record, lock } => (record.as_ref(), lock.as_ref()),
    };
    if evidence.own.sync_in_progress {
        return Err(Refusal::SyncInProgress);
    }
    // A holder of the lock has written there: this pair has served, and its record is gone (Z17). That
    // the lock is free says nothing: the holder's may be of a later generation.
    let served = lock.and_then(|lock| lock.last.as_ref());
    match (record, evidence.last_record) {
        (None, None) if served.is_some() => Err(Refusal::RecordGone {
            last: served.map_or(RecordSeq::ZERO, |beat| beat.seq),
        }),
        (None, None) => match evidence.peer_agrees {
            Some(true) => Ok(Eligible::FirstBoot),
            // The peer has data of a pair whose record is gone: a new pair must not begin beside it.
            Some(false) => Err(Refusal::PeerRemembers),
            None if evidence.primary => Ok(Eligible::FirstBoot),
            None => Err(Refusal::FirstBootOfSecondary),
        },
        (None, Some(last))
            if evidence.peer_agrees == Some(true) && last.holds(evidence.own.store) =>
        {
            Ok(Eligible::ReForm(last.clone()))
        }
        (None, Some(last)) => Err(Refusal::RecordGone { last: last.seq }),
        (Some(found), _) => {
            judge_record(evidence, found, lock).map(|()| Eligible::Claim(found.clone()))
        }
    }
}

fn judge_record(
    evidence: Evidence<'_>,
    found: &ArbiterRecord,
    lock: Option<&LockFacts>,
) -> Result<(), Refusal> {
    let (own, last) = (evidence.own, evidence.last_record);
    let linked = evidence.peer_agrees.is_some();
    // Whoever remembers a newer record than the one that is found: it has gone back (Z17), and the
    // store that it names may lack what was confirmed since.
    let newer = [
        evidence
            .peer_record
            .filter(|(arbiter, _)| *arbiter == found.arbiter)
            .map(|(_, seq)| seq),
        lock.and_then(|lock| lock.last.as_ref())
            .map(|beat| beat.seq),
    ];
    if let Some(known) = newer
        .into_iter()
        .flatten()
        .max()
        .filter(|known| *known > found.seq)
    {
        return Err(Refusal::RecordRolledBack {
            last: known,
            found: found.seq,
        });
    }
    if let Some(last) = last {
        if last.arbiter != found.arbiter {
            return Err(Refusal::OtherArbiter);
        }
        if found.seq < last.seq {
            return Err(Refusal::RecordRolledBack {
                last: last.seq,
                found: found.seq,
            });
        }
    }
    if !found.holds(own.store) {
        // A store remembers only records that named it: one that does fell behind, one that does not
        // is a new or replaced copy.
        return Err(if last.is_some_and(|last| last.holds(own.store)) {
            Refusal::NotInSync { epoch: found.epoch }
        } else {
            Refusal::OlderThanConfirmed
        });
    }
    if own.position.epoch > found.epoch {
        return Err(Refusal::RecordBehindLog {
            record: found.epoch,
            log: own.position.epoch,
        });
    }
    let Some(lock) = lock else {
        // Without the file nobody knows how far each store had confirmed. That does not matter where
        // no other store could have confirmed more, or where both are here to be compared.
        return if found.isr == [own.store] || linked {
            Ok(())
        } else {
            Err(Refusal::LockFileMissing)
        };
    };
    match lock.confirmed(own.store) {
        Some(confirmed) if own.position < confirmed => Err(Refusal::OlderThanConfirmed),
        Some(_) | None => Ok(()),
    }
}
