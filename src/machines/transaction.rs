//! How transactions are committed: each destination is asked for its share, then one unit is submitted.
//!
//! | a transaction | what is true |
//! |---|---|
//! | waits for shares | what it settles is held by the destinations that answered; nothing is stored |
//! | is submitted | its unit has its place in the log; every destination has been told to finish |
//! | is refused | every destination that had answered with a share has been told to undo |
//!
//! Nobody waits for anybody: a destination answers at once, and a refusal is final. A session that dies
//! after its COMMIT was read changes nothing: its transaction is carried out, and nobody hears of it.
//! A term that ends forgets those that wait; nothing of them was stored.
//!
//! Deliberately not known here: names, what a destination holds, and what the store does with a unit.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::machines::delivery::{
    DestinationCommand, SessionEvent, SessionKey, Settlement, Share, TransactionKey,
};
use crate::machines::destination::ticket;
use crate::machines::duplicates;
use crate::proto::ids::DestId;
use crate::storage::api::{Draft, Scope, Unit};

/// A message of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionPut {
    /// Where the application's id of it counts.
    pub scope: Scope,
    /// Who will owe it.
    pub targets: Vec<DestId>,
    /// The canonical message.
    pub message: Bytes,
}

/// Facts for the machine.
#[derive(Debug)]
pub enum TransactionInput {
    /// A session's COMMIT.
    Commit {
        /// Not seen before.
        transaction: TransactionKey,
        /// In the order of the sends.
        puts: Vec<TransactionPut>,
        /// What is settled where.
        settlements: Vec<(DestId, Settlement)>,
    },
    /// Answer to [`DestinationCommand::Prepare`].
    Prepared {
        /// Which.
        transaction: TransactionKey,
        /// Who answers.
        dest: DestId,
        /// Its share, or why there is none.
        answer: Result<Share, String>,
    },
}

/// What the shell is to do, in order.
#[must_use]
#[derive(Debug)]
pub enum TransactionEffect {
    /// Tell a destination.
    Command {
        /// Which.
        dest: DestId,
        /// `Prepare`.
        command: DestinationCommand,
    },
    /// Tell a destination that answered with a share what became of it.
    Finish {
        /// Which.
        dest: DestId,
        /// Of what.
        transaction: TransactionKey,
        /// The unit was submitted, by the `Submit` before this.
        submitted: bool,
    },
    /// Hand the whole transaction to the store.
    Submit(Unit),
    /// Tell a session.
    Answer {
        /// Whom.
        session: SessionKey,
        /// What.
        event: SessionEvent,
    },
}

/// A transaction that waits for shares.
#[derive(Debug, Default)]
struct Waiting {
    puts: Vec<TransactionPut>,
    /// Those that have not answered.
    asked: BTreeSet<DestId>,
    /// Those that hold something for it.
    prepared: Vec<DestId>,
    definitions: Vec<Draft>,
    acks: Vec<Draft>,
    /// The first reason against it.
    refused: Option<String>,
}

/// What one destination is asked.
#[derive(Debug, Default)]
struct Question {
    settlements: Vec<Settlement>,
    puts: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct TransactionMachine {
    waiting: BTreeMap<TransactionKey, Waiting>,
}

impl TransactionMachine {
    /// Takes one input; appends what is to be done.
    pub fn step(&mut self, input: TransactionInput, effects: &mut Vec<TransactionEffect>) {
        match input {
            TransactionInput::Commit {
                transaction,
                puts,
                settlements,
            } => self.commit(transaction, puts, settlements, effects),
            TransactionInput::Prepared {
                transaction,
                dest,
                answer,
            } => self.prepared(transaction, dest, answer, effects),
        }
    }

    /// Transactions that wait for shares.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn commit(
        &mut self,
        transaction: TransactionKey,
        puts: Vec<TransactionPut>,
        settlements: Vec<(DestId, Settlement)>,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let mut questions: BTreeMap<DestId, Question> = BTreeMap::new();
        for target in puts.iter().flat_map(|put| &put.targets) {
            questions.entry(*target).or_default().puts += 1;
        }
        for (dest, settlement) in settlements {
            questions
                .entry(dest)
                .or_default()
                .settlements
                .push(settlement);
        }
        let mut waiting = Waiting {
            puts,
            ..Waiting::default()
        };
        for (dest, question) in questions {
            waiting.asked.insert(dest);
            effects.push(TransactionEffect::Command {
                dest,
                command: DestinationCommand::Prepare {
                    transaction,
                    settlements: question.settlements,
                    puts: question.puts,
                },
            });
        }
        if waiting.asked.is_empty() {
            waiting.end(transaction, effects);
        } else {
            let before = self.waiting.insert(transaction, waiting);
            assert!(
                before.is_none(),
                "a session gives each COMMIT a number of its own"
            );
        }
    }

    fn prepared(
        &mut self,
        transaction: TransactionKey,
        dest: DestId,
        answer: Result<Share, String>,
        effects: &mut Vec<TransactionEffect>,
    ) {
        let Some(waiting) = self.waiting.get_mut(&transaction) else {
            return;
        };
        if !waiting.asked.remove(&dest) {
            return;
        }
        match answer {
            Ok(share) => {
                waiting.prepared.push(dest);
                waiting.definitions.extend(share.definition);
                waiting.acks.extend(share.acks);
            }
            Err(reason) => {
                waiting.refused.get_or_insert(reason);
            }
        }
        if waiting.asked.is_empty()
            && let Some(waiting) = self.waiting.remove(&transaction)
        {
            waiting.end(transaction, effects);
        }
    }
}

impl Waiting {
    /// Every destination has answered.
    fn end(self, transaction: TransactionKey, effects: &mut Vec<TransactionEffect>) {
        let TransactionKey { session, request } = transaction;
        let answer = |event| TransactionEffect::Answer { session, event };
        let submitted = self.refused.is_none();
        let finish = self
            .prepared
            .into_iter()
            .map(|dest| TransactionEffect::Finish {
                dest,
                transaction,
                submitted,
            });
        if let Some(reason) = self.refused {
            effects.extend(finish);
            effects.push(answer(SessionEvent::Refused { request, reason }));
            return;
        }
        let mut records = self.definitions;
        // What goes to nobody, because nobody subscribes, is not stored.
        let puts = self.puts.into_iter().filter(|put| !put.targets.is_empty());
        records.extend(puts.flat_map(|put| duplicates::send(put.scope, put.targets, put.message)));
        records.extend(self.acks);
        let is_empty = records.is_empty();
        if !is_empty {
            effects.push(TransactionEffect::Submit(Unit {
                ticket: ticket(session, request),
                records,
            }));
        }
        effects.extend(finish);
        effects.push(answer(SessionEvent::Submitted { request }));
        if is_empty {
            // Nothing at all, or messages that were only given back: there is nothing to store.
            effects.push(answer(SessionEvent::Committed {
                requests: vec![request],
            }));
        }
    }
}

#[cfg(test)]
mod tests;
