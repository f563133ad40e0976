//! What a transaction settles here, between the moment when its COMMIT asks for it and the one when its
//! unit is submitted, or is not: nobody else's, whether its consumer stays or goes.
//!
//! Other units of this destination may be submitted meanwhile. Where the transaction's acknowledgements
//! stand among them is told with its end, so that [`super::Claims`] has them in the log's order.

use std::collections::HashMap;

use super::{DestinationEffect, DestinationMachine, Now, REFUSED, define};
use crate::machines::delivery::{ConsumerKey, Outcome, Settlement, Share, TransactionKey};
use crate::proto::ids::Lsn;
use crate::storage::api::Entry;

const NOT_HELD: &str = "a message that the transaction acknowledges does not wait for that any more: \
    nothing of the transaction was stored";

#[derive(Debug)]
struct Hold {
    consumer: ConsumerKey,
    outcome: Outcome,
    messages: Vec<Entry>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holds {
    all: HashMap<TransactionKey, Vec<Hold>>,
}

impl Holds {
    /// No transaction is prepared.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Some transaction has this one.
    pub(super) fn contains(&self, lsn: Lsn) -> bool {
        let mut all = self.all.values().flatten();
        all.any(|hold| hold.messages.iter().any(|entry| entry.lsn == lsn))
    }
}

impl Holds {
    /// Everything that is held.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        let all = self.all.values().flatten();
        all.flat_map(|hold| &hold.messages)
    }
}

impl DestinationMachine {
    /// Holds what the transaction settles, and answers with this destination's share of its unit.
    pub(super) fn prepare(
        &mut self,
        now: Now,
        transaction: TransactionKey,
        settlements: Vec<Settlement>,
        puts: usize,
        effects: &mut Vec<DestinationEffect>,
    ) {
        // What this step did before has its place in the log before the transaction.
        self.coalesce();
        if !self.units.is_empty() {
            effects.push(DestinationEffect::Submit(std::mem::take(&mut self.units)));
        }
        let accepts = settlements
            .iter()
            .filter(|settlement| settlement.outcome == Outcome::Accepted)
            .map(|settlement| settlement.lsns.len())
            .sum();
        let answer = if puts > 0 && self.sends_refused {
            Err(REFUSED.to_owned())
        } else if let Some(reason) = self.full_for_unit(puts, accepts) {
            self.figures.refused = self.figures.refused.saturating_add(1);
            Err(reason)
        } else {
            self.hold(now, transaction, settlements)
        };
        if answer.is_ok() {
            let puts = u64::try_from(puts).unwrap_or(u64::MAX);
            self.account.promise(transaction, puts);
        }
        effects.push(DestinationEffect::Prepared {
            transaction,
            answer,
        });
    }

    fn hold(
        &mut self,
        now: Now,
        transaction: TransactionKey,
        settlements: Vec<Settlement>,
    ) -> Result<Share, String> {
        let mut holds = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            let Settlement {
                consumer,
                lsns,
                outcome,
            } = settlement;
            let Some(messages) = self.consumers.hold(consumer, &lsns) else {
                self.give_back(now, holds);
                return Err(NOT_HELD.to_owned());
            };
            holds.push(Hold {
                consumer,
                outcome,
                messages,
            });
        }
        let accepted = stored_and_accepted(&holds);
        let acks = if accepted.is_empty() {
            Vec::new()
        } else {
            self.ack_records(accepted)
        };
        let definition = self.definition.clone().map(|value| define(self.id, value));
        let before = self.holds.all.insert(transaction, holds);
        assert!(before.is_none(), "a transaction is prepared once");
        Ok(Share { definition, acks })
    }

    /// To the consumers that had them; if one is gone, as if it went now.
    fn give_back(&mut self, now: Now, holds: Vec<Hold>) {
        for hold in holds {
            for entry in self.consumers.take_back(hold.consumer, hold.messages) {
                self.came_back(now, entry);
            }
        }
    }

    /// A consumer takes no more, but an open transaction settles some of what it has.
    pub(super) fn retire(&mut self, now: Now, key: ConsumerKey, keep: &[Lsn]) {
        self.end_picking(key);
        self.end_being_alone(key);
        for entry in self.consumers.retire(key, keep) {
            self.came_back(now, entry);
        }
        self.free_groups(key);
    }

    /// The transaction's unit was submitted, after so many ack records of this destination's own, or
    /// it never will be.
    pub(super) fn finish(&mut self, now: Now, transaction: TransactionKey, submitted: Option<u64>) {
        let Some(holds) = self.holds.all.remove(&transaction) else {
            return;
        };
        let Some(after) = submitted else {
            self.give_back(now, holds);
            return;
        };
        // If there was one still to be written, it was in that unit.
        self.definition = None;
        let accepted = stored_and_accepted(&holds);
        if !accepted.is_empty() {
            self.claims.submitted_between(after, accepted);
        }
        for hold in holds {
            self.consumers.let_go(hold.consumer, &hold.messages);
            for entry in hold.messages {
                match hold.outcome {
                    Outcome::Accepted => self.accepted(&entry),
                    Outcome::Released => self.came_back(now, entry),
                }
            }
        }
    }
}

/// What of them is acknowledged by records: volatile ones need none.
fn stored_and_accepted(holds: &[Hold]) -> Vec<Lsn> {
    let accepted = holds
        .iter()
        .filter(|hold| hold.outcome == Outcome::Accepted);
    let lsns = accepted.flat_map(|hold| hold.messages.iter().map(|entry| entry.lsn));
    lsns.filter(|lsn| !lsn.is_volatile()).collect()
}
