//! Temporary queues: each belongs to the session that made it and goes with it.

use super::{Directory, Unavailable, definition};
use crate::machines::delivery::SessionKey;
use crate::proto::destination::DestinationName;
use crate::storage::api::Ticket;

/// The kind byte of a temporary queue's definition; one that the next term finds is dropped.
pub(super) const KIND: u8 = b't';

impl Directory {
    /// What makes the names of a session's temporary queues its own: no other session of any term has
    /// it.
    #[must_use]
    pub fn temporary_scope(&self, session: SessionKey) -> String {
        let term = self.term.borrow();
        let begun = term.as_ref().map_or(0, |term| term.begun.0);
        format!("{begun:x}-{}", session.0)
    }

    /// A session makes a queue that goes with it. Its definition goes with its first unit.
    ///
    /// # Errors
    /// When there are too many destinations, or this server does not serve.
    pub fn make_temporary(
        &self,
        session: SessionKey,
        name: &DestinationName,
    ) -> Result<(), Unavailable> {
        let mut term = self.term.borrow_mut();
        let term = term.as_mut().ok_or(Unavailable::NotServing)?;
        if term.by_name.contains_key(name) {
            return Ok(());
        }
        let id = self.next_id(term)?;
        self.learn(term, id, name.clone(), Some(definition(KIND, name)), true);
        let owned = term.temporaries.entry(session).or_default();
        owned.push(name.clone());
        Ok(())
    }

    /// A session has ended.
    pub(super) fn drop_temporaries(&self, session: SessionKey) {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        for name in term.temporaries.remove(&session).into_iter().flatten() {
            if let Some(id) = term.by_name.get(&name).copied() {
                self.drop_destination(term, id, Ticket::default());
            }
        }
    }
}
