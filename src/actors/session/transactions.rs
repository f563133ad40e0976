//! What a session's transactions do to others: their COMMIT, and their memory.

use super::Session;
use crate::actors::directory::TransactionOperations;
use crate::machines::delivery::{
    DestinationCommand, RequestNumber, SessionEvent, Settlement, TransactionKey,
};
use crate::machines::stomp_session::Operations;
use crate::proto::ids::Lsn;

impl Session {
    /// Hands a whole transaction over, after everything that the session wanted before.
    pub(super) fn commit(&mut self, request: RequestNumber, operations: Operations) {
        self.post_gathered();
        let transaction = TransactionKey {
            session: self.key,
            request,
        };
        let mut settlements = Vec::with_capacity(operations.settles.len());
        for (number, lsns, outcome) in operations.settles {
            let Some(name) = self.consumers.get(&number).cloned() else {
                let reason = "a consumer of the transaction is gone: nothing was stored".to_owned();
                self.inbox.put(SessionEvent::Refused { request, reason });
                return;
            };
            let consumer = self.consumer(number);
            settlements.push((
                name,
                Settlement {
                    consumer,
                    lsns,
                    outcome,
                },
            ));
        }
        let operations = TransactionOperations {
            client_id: self.machine.client_id().map(ToOwned::to_owned),
            sends: operations.sends,
            settlements,
        };
        self.context.directory.commit(transaction, operations);
    }

    /// A consumer was unsubscribed while a transaction acknowledges some of its deliveries.
    pub(super) fn retire(&mut self, number: u32, keep: Vec<Lsn>) {
        if let Some(name) = self.consumers.get(&number).cloned() {
            let consumer = self.consumer(number);
            self.queue(&name, DestinationCommand::Retire { consumer, keep });
        }
    }

    /// Counts what waits for a COMMIT; a session that makes it too much for the server is ended,
    /// because only it can let go of it.
    pub(super) fn count_uncommitted(&mut self) {
        let bytes = self.machine.uncommitted_bytes();
        if bytes == self.uncommitted {
            return;
        }
        let grew = bytes > self.uncommitted;
        self.uncommitted = bytes;
        let fits = self.inbox.ledger(|ledger| ledger.keep_uncommitted(bytes));
        if grew && !fits {
            self.machine.end(
                "too much waits for a COMMIT",
                "the open transactions of all connections have reached \
                 limits.global_in_flight_bytes; this one was rolled back: commit more often, or \
                 raise the limit",
                None,
                &mut self.output,
                &mut self.effects,
            );
            self.uncommitted = 0;
            self.inbox.ledger(|ledger| ledger.keep_uncommitted(0));
        }
    }
}
