//! What a transaction settles here, between the moment when its COMMIT asks for it and the one when its
//! unit is submitted, or is not: nobody else's, whether its consumer stays or goes.

use std::collections::HashMap;

use bytes::Bytes;

use super::{DestinationEffect, DestinationMachine, REFUSED};
use crate::machines::delivery::{ConsumerKey, Outcome, Settlement, Share, TransactionKey};
use crate::proto::ids::Lsn;

const NOT_HELD: &str = "a message that the transaction acknowledges does not wait for that any more: \
    nothing of the transaction was stored";

#[derive(Debug)]
struct Hold {
    consumer: ConsumerKey,
    outcome: Outcome,
    messages: Vec<(Lsn, Bytes)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holds {
    all: HashMap<TransactionKey, Vec<Hold>>,
}

impl DestinationMachine {
    /// Holds what the transaction settles, and answers with this destination's share of its unit.
    pub(super) fn prepare(
        &mut self,
        transaction: TransactionKey,
        settlements: Vec<Settlement>,
        puts: usize,
        effects: &mut Vec<DestinationEffect>,
    ) {
        // What this step did before has its place in the log before the transaction.
        self.coalesce_acks();
        if !self.units.is_empty() {
            effects.push(DestinationEffect::Submit(std::mem::take(&mut self.units)));
        }
        let answer = if puts > 0 && self.sends_refused {
            Err(REFUSED.to_owned())
        } else {
            self.hold(transaction, settlements)
        };
        effects.push(DestinationEffect::Prepared {
            transaction,
            answer,
        });
    }

    fn hold(
        &mut self,
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
                self.give_back(holds);
                return Err(NOT_HELD.to_owned());
            };
            holds.push(Hold {
                consumer,
                outcome,
                messages,
            });
        }
        let accepted: Vec<Lsn> = holds
            .iter()
            .filter(|hold| hold.outcome == Outcome::Accepted)
            .flat_map(|hold| hold.messages.iter().map(|(lsn, _)| *lsn))
            .collect();
        let acks = if accepted.is_empty() {
            Vec::new()
        } else {
            self.ack_records(accepted)
        };
        let definition = self.definition.clone().map(|value| self.define(value));
        let before = self.holds.all.insert(transaction, holds);
        assert!(before.is_none(), "a transaction is prepared once");
        Ok(Share { definition, acks })
    }

    fn give_back(&mut self, holds: Vec<Hold>) {
        for hold in holds {
            self.consumers
                .take_back(hold.consumer, hold.messages, &mut self.backlog);
        }
    }

    /// The transaction's unit was submitted, or it never will be.
    pub(super) fn finish(&mut self, transaction: TransactionKey, submitted: bool) {
        let Some(holds) = self.holds.all.remove(&transaction) else {
            return;
        };
        if !submitted {
            self.give_back(holds);
            return;
        }
        // If there was one still to be written, it was in that unit.
        self.definition = None;
        for hold in holds {
            self.consumers.let_go(hold.consumer, &hold.messages);
            match hold.outcome {
                Outcome::Accepted => {
                    let count = u64::try_from(hold.messages.len()).unwrap_or(u64::MAX);
                    self.figures.depth = self.figures.depth.saturating_sub(count);
                    self.figures.accepted = self.figures.accepted.saturating_add(count);
                }
                Outcome::Released => {
                    for (lsn, message) in hold.messages {
                        self.backlog.put_back(lsn, message);
                    }
                }
            }
        }
    }
}
