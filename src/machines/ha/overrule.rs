//! An operator's override (rulings H1, Z31): a server that may not serve by the record serves all the
//! same, and what only the other one has is given up.
//!
//! It is still a claim under the lock and by compare-and-set, with an epoch above every one that is
//! known. What is left out is the question whether this copy holds all that was confirmed: the
//! operator has answered it, by typing the epoch that ends. A record that went back is raised step by
//! step above the newest one that anybody here remembers, so that nobody takes it for an old one again.

use crate::proto::arbiter::{ArbiterCall, ArbiterRecord};
use crate::proto::ids::{Epoch, Position, RecordSeq, StoreId};

use super::eligibility::ArbiterView;
use super::{CallPurpose, Claim, Condition, HaEffect, HaMachine, HaMode, HaState};

/// How the reason begins of an override that was given up: `twinmq promote` looks for it.
pub const NOT_OVERRULED: &str = "the override was not carried out";

/// What an operator must know before a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// What must be so, and is or is not.
    pub conditions: Vec<Condition>,
    /// The epoch to be typed back: the record's, or without one the newest that this server knows.
    pub epoch: Epoch,
    /// The record, if there is one.
    pub record: Option<ArbiterRecord>,
    /// How far this copy reaches.
    pub own: Position,
    /// How far stores are known to have reached.
    pub known: Vec<KnownPosition>,
    /// So many records of the log are given up at least. What was written after the positions were
    /// is not known.
    pub lost_at_least: u64,
}

/// A store's position, as somebody saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPosition {
    /// Whose.
    pub store: StoreId,
    /// It is this server's own store.
    pub own: bool,
    /// How far it was.
    pub position: Position,
    /// Who says so.
    pub source: &'static str,
}

impl HaMachine {
    /// What a promotion of this server would need and give up, as it is now.
    #[must_use]
    pub fn promotion(&self) -> Promotion {
        let own = self.own.position;
        let known = self.known_positions();
        let furthest = known
            .iter()
            .map(|known| known.position)
            .filter(|position| *position > own)
            .map(|position| position.lsn.0)
            .max();
        Promotion {
            conditions: self.promotion_conditions(),
            epoch: self.epoch_to_end(),
            record: self.record().cloned(),
            own,
            known,
            lost_at_least: furthest.map_or(0, |lsn| lsn.saturating_sub(own.lsn.0)),
        }
    }

    /// An override is under way.
    #[must_use]
    pub fn overrules(&self) -> bool {
        self.overrule.is_some()
    }

    fn promotion_conditions(&self) -> Vec<Condition> {
        let condition = |what, holds, found: String| Condition { what, holds, found };
        let paired = self.config.mode == HaMode::Replicated;
        let idle = matches!(
            self.state,
            HaState::Waiting(Claim::Idle | Claim::Reading | Claim::Locking)
        );
        let (read, arbiter) = self.arbiter_is_there();
        let same = match (self.record(), &self.last_record) {
            (Some(found), Some(last)) => found.arbiter == last.arbiter,
            (Some(_) | None, _) => true,
        };
        let refusal = self.judge().err().map(|refusal| refusal.to_string());
        let (out_of_the_way, peer) = match &self.peer {
            None => (true, "there is no channel to it".to_owned()),
            Some(peer) => {
                let facts = &peer.facts;
                let may = if facts.eligible { "may" } else { "may not" };
                (
                    !facts.state.serves() && !facts.claiming && !facts.eligible,
                    format!("{} is {} and {may} serve", peer.name, facts.state),
                )
            }
        };
        vec![
            condition(
                "the server is one of a replicated pair",
                paired,
                if paired { "it is" } else { "it has no peer" }.to_owned(),
            ),
            condition(
                "this server is WAITING",
                idle,
                format!("it is {}", self.shown()),
            ),
            condition("the arbiter can be read", read, arbiter),
            condition(
                "the lock file is this pair's",
                same,
                if same {
                    "nothing speaks against it"
                } else {
                    "it belongs to another pair: check lock_file and cluster on both servers"
                }
                .to_owned(),
            ),
            condition(
                "this server may not serve by itself",
                refusal.is_some(),
                refusal.unwrap_or_else(|| "it may, and will when it has the lock".to_owned()),
            ),
            condition(
                "this store is a whole copy",
                !self.own.sync_in_progress,
                if self.own.sync_in_progress {
                    "a resync into it was interrupted"
                } else {
                    "it is"
                }
                .to_owned(),
            ),
            condition(
                "the other server neither serves nor may",
                out_of_the_way,
                peer,
            ),
        ]
    }

    /// Whether there is an arbiter to write to, and what is there.
    fn arbiter_is_there(&self) -> (bool, String) {
        match &self.arbiter {
            ArbiterView::Unread => (false, "it was not read yet".to_owned()),
            ArbiterView::Unreadable(why) => (false, format!("it cannot be read: {why}")),
            ArbiterView::Read { record: None, .. } => {
                (true, "there is no record: a new one is made".to_owned())
            }
            ArbiterView::Read { lock: None, .. } => (
                false,
                "the lock file is missing beside its record: restore it, or remove the record's folder \
                 as well"
                    .to_owned(),
            ),
            ArbiterView::Read {
                record: Some(record),
                ..
            } => (true, format!("record {} of epoch {}", record.seq, record.epoch)),
        }
    }

    fn known_positions(&self) -> Vec<KnownPosition> {
        let heartbeat = match &self.arbiter {
            ArbiterView::Read { lock, .. } => lock.as_ref().and_then(|lock| lock.last.as_ref()),
            ArbiterView::Unread | ArbiterView::Unreadable(_) => None,
        };
        let beats = heartbeat
            .into_iter()
            .flat_map(|beat| beat.positions.iter().copied())
            .map(|(store, position)| {
                (store, position, "the lock file, at its holder's last check")
            });
        let peer = self.peer.as_ref().map(|peer| {
            (
                peer.facts.store,
                peer.facts.position,
                "the other server, now",
            )
        });
        beats
            .chain(peer)
            .map(|(store, position, source)| KnownPosition {
                store,
                own: store == self.own.store,
                position,
                source,
            })
            .collect()
    }

    /// The epoch that a promotion ends.
    fn epoch_to_end(&self) -> Epoch {
        self.record()
            .map_or_else(|| self.highest_epoch(), |record| record.epoch)
    }

    fn highest_epoch(&self) -> Epoch {
        let remembered = self.last_record.as_ref().map(|record| record.epoch);
        let recorded = self.record().map(|record| record.epoch);
        let peer = self
            .peer
            .as_ref()
            .map(|peer| peer.facts.position.epoch.max(peer.facts.epoch));
        let beats = self
            .known_positions()
            .into_iter()
            .map(|it| it.position.epoch);
        [remembered, recorded, peer, Some(self.own.position.epoch)]
            .into_iter()
            .flatten()
            .chain(beats)
            .max()
            .unwrap_or_default()
    }

    /// The newest record that anybody within sight remembers.
    fn highest_seq(&self) -> RecordSeq {
        let remembered = self.last_record.as_ref().map(|record| record.seq);
        let recorded = self.record().map(|record| record.seq);
        let peer = self.peer.as_ref().map(|peer| peer.facts.last_record);
        let beat = match &self.arbiter {
            ArbiterView::Read { lock, .. } => lock
                .as_ref()
                .and_then(|lock| lock.last.as_ref())
                .map(|beat| beat.seq),
            ArbiterView::Unread | ArbiterView::Unreadable(_) => None,
        };
        [remembered, recorded, peer, beat]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or_default()
    }

    pub(super) fn on_promote(&mut self, epoch: Epoch, effects: &mut Vec<HaEffect>) {
        let asked = self.promotion();
        let ready = asked.conditions.iter().all(|condition| condition.holds);
        if !ready || asked.epoch != epoch {
            self.not_promoted("things have changed since the override was asked for".to_owned());
            return;
        }
        self.call = None;
        self.resting = false;
        self.overrule = Some(epoch);
        self.claims.tried = self.claims.tried.saturating_add(1);
        if asked.record.is_some() {
            self.state = HaState::Waiting(Claim::Locking);
            self.seek_lock(effects);
        } else {
            let remembered = self.last_record.as_ref().map(|record| record.arbiter);
            let peer = self.peer.as_ref().and_then(|peer| peer.facts.arbiter);
            // Above this server's own epochs as well, so that the claim waits for whoever may serve.
            let (seq, epoch) = (self.highest_seq().next(), self.highest_epoch().next());
            let last = self.last_record.as_ref();
            let record = ArbiterRecord {
                arbiter: remembered.or(peer).unwrap_or(self.config.new_arbiter),
                ..self.config.record(self.own.store, seq, epoch, last)
            };
            self.state = HaState::Waiting(Claim::Creating);
            self.call(CallPurpose::Create, ArbiterCall::Create(record), effects);
        }
    }

    /// For whoever waits for the outcome: it counts as a claim that was refused.
    pub(super) fn not_promoted(&mut self, why: String) {
        self.claims.refuse(format!("{NOT_OVERRULED}: {why}"));
    }

    /// Under the lock: the record that is overruled and the epoch to raise it to, if all is as it was
    /// when the operator decided.
    pub(super) fn overruled(&self) -> Option<(ArbiterRecord, Epoch)> {
        let typed = self.overrule?;
        let record = self.record().filter(|record| record.epoch == typed)?;
        let ready = self.promotion_conditions().iter().all(|it| it.holds);
        ready.then(|| (record.clone(), self.highest_epoch().next()))
    }

    /// The next record of an override that is still older than what somebody remembers.
    pub(super) fn overrule_further(&self) -> Option<ArbiterRecord> {
        self.overrule?;
        let record = self.record()?;
        (record.seq < self.highest_seq()).then(|| ArbiterRecord {
            seq: record.seq.next(),
            ..record.clone()
        })
    }
}
