//! A durable subscription that is not shared has one consumer, and the newest of its client id is that one:
//! a client that comes back must not wait for the end of its own dead connection.

use super::Directory;
use crate::actors::inbox::Order;
use crate::machines::delivery::{DestinationCommand, SessionKey};
use crate::machines::subscriptions::SubscriptionSpec;

impl Directory {
    /// Ends the connection that has the subscription which `session` asks for; its consumer is gone when this
    /// returns, and what that held comes to the next one.
    pub(super) fn take_over(&self, session: SessionKey, spec: &SubscriptionSpec) {
        let found = {
            let term = self.term.borrow();
            term.as_ref().and_then(|term| {
                let (dest, older) = term.topics.table.gives_way(session, spec)?;
                let known = term.known.get(&dest)?;
                Some((known.name.clone(), term.port(dest).cloned(), older))
            })
        };
        let Some((name, port, older)) = found else {
            return;
        };
        tracing::warn!(
            target: "twinmq::net", subscription = %name, session = older.session.0,
            from = self.address_of(older.session), by_session = session.0, by = self.address_of(session),
            "a connection is closed: another one with its client-id has subscribed to its durable \
             subscription; if this goes on, two clients share a client-id"
        );
        if let Some(port) = port {
            let detach = DestinationCommand::Detach { consumer: older };
            self.command(&port, vec![detach]);
        }
        self.leave_subscription(older, &name);
        if let Some(inbox) = self.sessions.borrow().get(&older.session) {
            inbox.order(Order::Close(format!(
                "another connection with the same client-id has subscribed to {}: the newest has it; give \
                 each client a client-id of its own, or share the subscription (shared:true)",
                spec.identity
            )));
        }
    }

    /// Where a client connects from, for the log.
    fn address_of(&self, session: SessionKey) -> String {
        let sessions = self.sessions.borrow();
        let client = sessions.get(&session).and_then(|inbox| inbox.client());
        client.map_or_else(
            || "an address that is not known".to_owned(),
            |(client, _)| client.address.to_string(),
        )
    }
}
