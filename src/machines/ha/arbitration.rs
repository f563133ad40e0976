//! What the arbiter's answers tell of a change to the record: one reading for both modes. What follows
//! from it is for the machine of the mode.

use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord};
use crate::proto::ids::{Epoch, RecordSeq, StoreId};

use super::{CallPurpose, HaConfig, HaEffect, Peer, Refusal};

/// So many looks at a record that cannot be the active's, before it is called another one (S173).
pub(super) const STRANGE_LOOKS_MAX: u32 = 3;

/// A record that was there is not found any more.
const RECORD_MISSED: &str = "the arbiter record beside the lock file is gone: this server goes on, but after the loss of either \
     server nobody may serve; see who removed it, and restore it from a backup of the share, or restart \
     both servers, which make it anew from their last known one";

/// What is known of a compare-and-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetOutcome {
    /// The wanted record is there.
    Applied,
    /// Another one is, and the wanted one never will be.
    Beaten,
    /// It is not there yet: to be asked for again.
    Missing,
    /// Nothing: to be looked for later.
    Unknown,
}

impl SetOutcome {
    /// By the answer to the compare-and-set itself.
    pub(super) fn answered(answer: &ArbiterAnswer) -> Self {
        match answer {
            ArbiterAnswer::Set(_) => Self::Applied,
            ArbiterAnswer::Conflict(_) => Self::Beaten,
            ArbiterAnswer::Read { .. }
            | ArbiterAnswer::Created(_)
            | ArbiterAnswer::Locked { .. }
            | ArbiterAnswer::Refused { .. }
            | ArbiterAnswer::Unlocked
            | ArbiterAnswer::Held { .. }
            | ArbiterAnswer::Lost(_)
            | ArbiterAnswer::Failed(_) => Self::Unknown,
        }
    }

    /// By a look at the record, after a compare-and-set to `next` whose outcome was not told. Where the
    /// record is missing it is asked for again rather than given up: an old request may still land, and
    /// then the new one conflicts and is looked into once more (Z5).
    pub(super) fn looked_for(next: &ArbiterRecord, answer: &ArbiterAnswer) -> Self {
        match answer {
            ArbiterAnswer::Read {
                record: Some(found),
                ..
            } => {
                if found == next {
                    Self::Applied
                } else if found.seq < next.seq {
                    Self::Missing
                } else {
                    Self::Beaten
                }
            }
            ArbiterAnswer::Read { record: None, .. }
            | ArbiterAnswer::Created(_)
            | ArbiterAnswer::Set(_)
            | ArbiterAnswer::Conflict(_)
            | ArbiterAnswer::Locked { .. }
            | ArbiterAnswer::Refused { .. }
            | ArbiterAnswer::Unlocked
            | ArbiterAnswer::Held { .. }
            | ArbiterAnswer::Lost(_)
            | ArbiterAnswer::Failed(_) => Self::Unknown,
        }
    }
}

/// Whether the record was created, by the answer to that.
pub(super) fn created(answer: ArbiterAnswer) -> Result<(), Refusal> {
    match answer {
        ArbiterAnswer::Created(_) => Ok(()),
        ArbiterAnswer::Failed(why) => Err(Refusal::Unreadable(why)),
        ArbiterAnswer::Read { .. }
        | ArbiterAnswer::Locked { .. }
        | ArbiterAnswer::Refused { .. }
        | ArbiterAnswer::Unlocked
        | ArbiterAnswer::Held { .. }
        | ArbiterAnswer::Lost(_)
        | ArbiterAnswer::Set(_)
        | ArbiterAnswer::Conflict(_) => Err(Refusal::Conflict),
    }
}

/// The record that a check of the lock found, beside the one that was known.
#[derive(Debug)]
pub(super) enum RecordCheck {
    /// None, or the same one: service goes on. A record that cannot be found now does not end it:
    /// nothing can change in it either.
    Same,
    /// An older one, or another of the same number; in words. Another server could claim on it without
    /// what was confirmed since.
    WentBack(String, ArbiterRecord),
    /// A newer one.
    Newer(ArbiterRecord),
}

impl RecordCheck {
    /// `missed` tells whether it was said already that there is no record.
    pub(super) fn of(
        found: Option<ArbiterRecord>,
        known: Option<&ArbiterRecord>,
        missed: &mut bool,
        effects: &mut Vec<HaEffect>,
    ) -> Self {
        let Some(found) = found else {
            if !std::mem::replace(missed, true) {
                effects.push(HaEffect::Alarmed {
                    reason: RECORD_MISSED.to_owned(),
                });
            }
            return Self::Same;
        };
        *missed = false;
        let seq = known.map_or(RecordSeq::ZERO, |record| record.seq);
        if found.seq > seq {
            return Self::Newer(found);
        }
        if known == Some(&found) {
            return Self::Same;
        }
        let why = format!(
            "the arbiter record went back or was replaced (number {seq} was known, {} is there): \
             restore the newest one",
            found.seq
        );
        Self::WentBack(why, found)
    }
}

/// The call that `id` answers, if it is the one that is awaited. Otherwise it was given up: the world has
/// moved on.
pub(super) fn awaited(call: &mut Option<(u64, CallPurpose)>, id: u64) -> Option<CallPurpose> {
    let (_, purpose) = call.take_if(|(awaited, _)| *awaited == id)?;
    Some(purpose)
}

/// The linked peer remembers a newer record than the one found here.
pub(super) fn is_behind_the_peer(record: Option<&ArbiterRecord>, peer: Option<&Peer>) -> bool {
    let known = record.map_or(RecordSeq::ZERO, |record| record.seq);
    peer.is_some_and(|peer| peer.facts.last_record > known)
}

/// The active serves by a record that is not the one found here, and that has lasted.
pub(super) fn not_the_active_s(record: Option<&ArbiterRecord>) -> String {
    let found = record.map_or(RecordSeq::ZERO, |record| record.seq);
    format!(
        "the active serves by another arbiter record than the one found here (number {found}): do both \
         servers use the same lock file?"
    )
}

impl HaConfig {
    /// A record that this server makes: of a new arbiter, or in the place of the `last` one. Whoever may
    /// still hold the lock that counted then keeps it.
    pub(super) fn record(
        &self,
        store: StoreId,
        seq: RecordSeq,
        epoch: Epoch,
        last: Option<&ArbiterRecord>,
    ) -> ArbiterRecord {
        ArbiterRecord {
            arbiter: last.map_or(self.new_arbiter, |last| last.arbiter),
            cluster: self.cluster.clone(),
            seq,
            epoch,
            owner: self.node,
            isr: vec![store],
            generation: last.map_or(Epoch::ZERO, |last| last.generation),
        }
    }
}
