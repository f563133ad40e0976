//! Transactions on the data thread: from names to destinations, and the way of what the machine says.

use std::rc::Rc;

use bytes::Bytes;

use super::{Directory, Presence, Term, Unavailable};
use crate::actors::post::Port;
use crate::machines::delivery::{
    DestinationCommand, SessionEvent, Settlement, Share, TransactionKey,
};
use crate::machines::destination::DestinationInput;
use crate::machines::subscriptions::Publisher;
use crate::machines::transaction::{TransactionEffect, TransactionInput, TransactionPut};
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::DestId;
use crate::storage::api::Scope;

/// What a session's COMMIT asks for.
#[derive(Debug)]
pub struct TransactionOperations {
    /// Of the connection.
    pub client_id: Option<String>,
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
        self: &Rc<Self>,
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
        let mut demands_both = false;
        let puts = operations.sends.into_iter().map(|(name, message)| {
            let publisher = Publisher {
                session: transaction.session,
                client_id: operations.client_id.as_deref(),
            };
            let targets = self.targets(&name, publisher, &message)?;
            if !targets.is_empty() {
                demands_both |= self.check_copies(&name)?;
            }
            let scope = match (name.kind(), targets.first()) {
                (DestinationKind::Topic, _) | (_, None) => Scope::topic(name.name()),
                (_, Some(dest)) => Scope::queue(*dest),
            };
            Ok(TransactionPut {
                scope,
                targets,
                message,
            })
        });
        let puts = puts.collect::<Result<_, _>>()?;
        let settlements = operations.settlements.into_iter();
        let settlements = settlements.map(|(name, settlement)| {
            let (dest, _) = self.locate(&name)?;
            Ok((dest, settlement))
        });
        let settlements = settlements.collect::<Result<_, _>>()?;
        if demands_both {
            self.demand_both(transaction.session, transaction.request);
        }
        Ok(TransactionInput::Commit {
            transaction,
            puts,
            settlements,
        })
    }

    /// The destinations that will owe a message that is sent to this name.
    fn targets(
        self: &Rc<Self>,
        name: &DestinationName,
        publisher: Publisher<'_>,
        message: &[u8],
    ) -> Result<Vec<DestId>, Unavailable> {
        match name.kind() {
            DestinationKind::Topic => {
                let mut term = self.term.borrow_mut();
                let term = term.as_mut().ok_or(Unavailable::NotServing)?;
                let targets = term.topic_targets(publisher, name, message);
                for dest in &targets {
                    // Each is asked for its share.
                    self.wake(term, *dest).ok_or(Unavailable::Gone)?;
                }
                Ok(targets)
            }
            DestinationKind::TemporaryQueue => match self.locate(name) {
                Ok((dest, _)) => Ok(vec![dest]),
                // As without a transaction: nobody waits for the answer any more.
                Err(Unavailable::Gone) => Ok(Vec::new()),
                Err(error) => Err(error),
            },
            DestinationKind::Queue | DestinationKind::Subscription => {
                let (dest, _) = self.locate(name)?;
                Ok(vec![dest])
            }
        }
    }

    fn transact(self: &Rc<Self>, input: TransactionInput) {
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
                TransactionEffect::Finish {
                    dest,
                    transaction,
                    submitted,
                } => self.finish(dest, transaction, submitted),
                TransactionEffect::Submit(unit) => {
                    self.spill_unit(&unit);
                    self.submit(vec![unit]);
                }
                TransactionEffect::Answer { session, event } => self.tell(session, event),
            }
        }
    }

    /// Tells a destination what became of a transaction, and where among its own acks it stands in
    /// the log: what the destination does until it hears of it comes after it.
    fn finish(&self, dest: DestId, transaction: TransactionKey, submitted: bool) {
        let term = self.term.borrow();
        let known = term.as_ref().and_then(|term| term.known.get(&dest));
        let Some(Presence::Awake { port, report, .. }) = known.map(|known| &known.state) else {
            return;
        };
        if let Some(account) = known.and_then(|known| known.account.as_ref()) {
            account.redeem(transaction);
            self.mind_bounds(dest, account);
        }
        let submitted = submitted.then(|| report.get().acks);
        let command = DestinationCommand::Finish {
            transaction,
            submitted,
        };
        self.command(port, vec![command]);
    }
}

impl Term {
    /// The way to a destination that is used in this term.
    pub(super) fn port(&self, dest: DestId) -> Option<&Port<DestinationInput>> {
        match &self.known.get(&dest)?.state {
            Presence::Awake { port, .. } => Some(port),
            Presence::Asleep(_) => None,
        }
    }
}
