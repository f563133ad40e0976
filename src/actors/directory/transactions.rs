//! Transactions on the data thread: from names to destinations, and the way of what the machine says.

use std::rc::Rc;

use bytes::Bytes;

use super::{Directory, Presence, Term, Unavailable};
use crate::actors::post::Port;
use crate::machines::delivery::{SessionEvent, Settlement, Share, TransactionKey};
use crate::machines::destination::DestinationInput;
use crate::machines::transaction::{TransactionEffect, TransactionInput, TransactionPut};
use crate::proto::destination::DestinationName;
use crate::proto::ids::DestId;
use crate::storage::api::Scope;

/// What a session's COMMIT asks for.
#[derive(Debug)]
pub struct TransactionOperations {
    /// In the order of the sends.
    pub sends: Vec<(DestinationName, Bytes)>,
    /// What is settled where.
    pub settlements: Vec<(DestinationName, Settlement)>,
}

impl Directory {
    /// Commits a transaction whole, or refuses it whole. The session hears of it.
    pub fn commit(self: &Rc<Self>, transaction: TransactionKey, operations: TransactionOperations) {
        match self.resolved(transaction, operations) {
            Ok(input) => self.transact(input),
            Err(error) => {
                let event = SessionEvent::Refused {
                    request: transaction.request,
                    reason: format!("{error}; nothing of the transaction was stored"),
                };
                self.tell(transaction.session, event);
            }
        }
    }

    /// A destination's answer to `Prepare`.
    pub fn prepared(
        &self,
        transaction: TransactionKey,
        dest: DestId,
        answer: Result<Share, String>,
    ) {
        self.transact(TransactionInput::Prepared {
            transaction,
            dest,
            answer,
        });
    }

    fn resolved(
        self: &Rc<Self>,
        transaction: TransactionKey,
        operations: TransactionOperations,
    ) -> Result<TransactionInput, Unavailable> {
        let puts = operations.sends.into_iter().map(|(name, message)| {
            let (dest, _) = self.locate(&name)?;
            Ok(TransactionPut {
                scope: Scope::queue(dest),
                targets: vec![dest],
                message,
            })
        });
        let puts = puts.collect::<Result<_, _>>()?;
        let settlements = operations.settlements.into_iter();
        let settlements = settlements.map(|(name, settlement)| {
            let (dest, _) = self.locate(&name)?;
            Ok((dest, settlement))
        });
        Ok(TransactionInput::Commit {
            transaction,
            puts,
            settlements: settlements.collect::<Result<_, _>>()?,
        })
    }

    fn transact(&self, input: TransactionInput) {
        let mut effects = Vec::new();
        if let Some(term) = self.term.borrow_mut().as_mut() {
            term.transactions.step(input, &mut effects);
        }
        for effect in effects {
            match effect {
                TransactionEffect::Command { dest, command } => {
                    let term = self.term.borrow();
                    if let Some(port) = term.as_ref().and_then(|term| term.port(dest)) {
                        self.command(port, vec![command]);
                    }
                }
                TransactionEffect::Submit(unit) => self.submit(vec![unit]),
                TransactionEffect::Answer { session, event } => self.tell(session, event),
            }
        }
    }
}

impl Term {
    /// The way to a destination that is used in this term.
    fn port(&self, dest: DestId) -> Option<&Port<DestinationInput>> {
        match &self.known.get(&dest)?.state {
            Presence::Awake { port, .. } => Some(port),
            Presence::Asleep(_) => None,
        }
    }
}
