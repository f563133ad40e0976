//! The way of units to the store: what was sent again is taken out of them.

use bytes::Bytes;

use super::Directory;
use crate::machines::duplicates;
use crate::proto::message;
use crate::storage::api::{Scope, Ticket, Unit};

impl Directory {
    /// Units for the store, in order. Everything that clients cause goes this way. Gives the tickets of
    /// those with a message that was sent again and is not stored again.
    pub fn submit(&self, units: Vec<Unit>) -> Vec<Ticket> {
        let ids = duplicates::ids(&units);
        if ids.is_empty() {
            self.count_sent(&units);
            self.store.submit(units);
            return Vec::new();
        }
        let now_ms = self.clock.wall_ms();
        let known = self.store.seen(&ids, now_ms);
        let admitted = {
            let mut duplicates = self.duplicates.borrow_mut();
            duplicates.admit(now_ms, units, &known)
        };
        for hit in &admitted.hits {
            self.log_duplicate(hit.scope, &hit.message);
            self.spilled_again(&hit.targets, &hit.message);
        }
        self.count_sent(&admitted.units);
        self.store.submit(admitted.units);
        admitted.hits.into_iter().map(|hit| hit.ticket).collect()
    }

    fn log_duplicate(&self, scope: Scope, message: &Bytes) {
        if !tracing::enabled!(target: "twinmq::data", tracing::Level::DEBUG) {
            return;
        }
        let term = self.term.borrow();
        let known = term.iter().flat_map(|term| &term.known);
        let mut names = known.filter(|(id, _)| Scope::queue(**id) == scope);
        let destination = names
            .next()
            .map_or("a topic", |(_, known)| known.name.spelling());
        let id = message::duplicate_id(message).unwrap_or_default();
        tracing::debug!(target: "twinmq::data", destination, id, "a message that was sent again is not stored again");
    }

    /// Messages that were sent again in this term and not stored again, to all destinations.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates.borrow().all_hits()
    }
}
