//! A term of service from its beginning to its end, and destinations that end within it.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use super::definition::queue_name;
use super::{
    Directory, Known, Presence, Term, Unavailable, administration, browse, sleep, temporary, topics,
};
use crate::actors::inbox::Order;
use crate::actors::post::Port;
use crate::machines::delivery::{DestinationCommand, SessionEvent};
use crate::machines::destination::{Activation, DestinationInput, VolatilePool};
use crate::machines::duplicates::DuplicateMachine;
use crate::machines::subscriptions::{KIND_DURABLE, KIND_PASSING};
use crate::machines::transaction::TransactionMachine;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::DestId;
use crate::storage::api::{Ticket, Unit};

impl Directory {
    /// This server begins to serve: the epoch is open and everything of earlier ones is committed.
    pub fn activate(&self) {
        self.deactivate("a new term begins");
        self.roll.machine().begin(self.clock.wall_ms());
        let horizon = self.store.log_facts().durable.lsn;
        let horizon = horizon.max(self.store.committed());
        let mut term = Term {
            begun: horizon,
            by_name: HashMap::new(),
            known: HashMap::new(),
            next: 1,
            serving: Rc::new(Cell::new(true)),
            sends_refused: self.store.facts().refuses_sends,
            draining: false,
            transactions: TransactionMachine::default(),
            // Higher than in any earlier life of the process, as long as the clock is not set back.
            volatile: VolatilePool::new(
                self.config.get().volatile_bytes,
                self.clock.wall_ms() << 20,
            ),
            next_expiry_ms: None,
            kept: Rc::default(),
            topics: topics::Topics::default(),
            temporaries: HashMap::new(),
            browsers: browse::Browsers::default(),
            sleepers: sleep::Sleepers::default(),
            works: administration::Works::default(),
            dead_letters: HashMap::new(),
        };
        let mut leftovers = Vec::new();
        for facts in self.store.destinations() {
            term.next = term.next.max(facts.id.0.saturating_add(1));
            let name = match facts.definition.first() {
                Some(&KIND_PASSING | &temporary::KIND) => {
                    leftovers.push(topics::removal(facts.id));
                    continue;
                }
                Some(&KIND_DURABLE) => term.restore_subscription(facts.id, &facts.definition),
                _ => queue_name(&facts.definition),
            };
            let Some(name) = name else {
                tracing::warn!(target: "twinmq::data", id = facts.id.0, "a destination of an unknown kind is left alone");
                continue;
            };
            let id = facts.id;
            let activation = Activation::from_facts(facts, horizon);
            term.expires(activation.next_expiry_ms);
            term.sleeps(id, name, activation);
        }
        if !leftovers.is_empty() {
            self.store.submit(leftovers);
        }
        self.upto.set(self.store.committed());
        *self.duplicates.borrow_mut() = DuplicateMachine::new(self.config.get().duplicates);
        *self.term.borrow_mut() = Some(term);
        self.find_full();
    }

    /// This server stops serving: every session is told to close, every destination ends. Answers
    /// that are still to come are nobody's any more; the permits come back as the sessions end.
    pub fn deactivate(&self, reason: &str) {
        self.roll.machine().end();
        self.order_all(&Order::Close(reason.to_owned()));
        self.sessions.borrow_mut().clear();
        self.both.borrow_mut().clear();
        self.ending.borrow_mut().clear();
        self.forget_all_bounds();
        let Some(term) = self.term.borrow_mut().take() else {
            return;
        };
        term.serving.set(false);
        for (id, known) in term.known {
            self.end(id, known);
        }
    }

    /// A destination is no more: its definition is taken out of the store with what it is owed. What is
    /// in its mailbox is still carried out.
    pub(super) fn drop_destination(&self, term: &mut Term, id: DestId, ticket: Ticket) {
        self.store.submit(vec![Unit {
            ticket,
            ..topics::removal(id)
        }]);
        if let Some(known) = term.known.remove(&id) {
            term.by_name.remove(&known.name);
            term.works.forget(id);
            term.dead_letters.remove(&id);
            for users in term.dead_letters.values_mut() {
                users.remove(&id);
            }
            self.forget_bounds(id);
            self.end(id, known);
        }
    }

    /// Commands of a session for a destination that was looked up before and may have gone since, or gone
    /// to sleep: each that is to be answered is, by the destination or here.
    pub fn command_or_answer(
        self: &Rc<Self>,
        name: &DestinationName,
        port: &Port<DestinationInput>,
        commands: Vec<DestinationCommand>,
    ) {
        if !port.is_retired() {
            self.command(port, commands);
            return;
        }
        if let Some(port) = self.find_again(name) {
            self.command(&port, commands);
            return;
        }
        for command in commands {
            self.answer_for_one_gone(name, command);
        }
    }

    fn answer_for_one_gone(&self, name: &DestinationName, command: DestinationCommand) {
        let committed = |request| SessionEvent::Committed {
            requests: vec![request],
        };
        match command {
            DestinationCommand::Publish { session, messages } => {
                for (request, _) in messages {
                    let event = if name.kind() == DestinationKind::TemporaryQueue {
                        // Nobody waits for the answer any more.
                        committed(request)
                    } else {
                        let reason = Unavailable::Gone.to_string();
                        SessionEvent::Refused { request, reason }
                    };
                    self.tell(session, event);
                }
            }
            DestinationCommand::Attach { consumer, .. } => {
                let event = SessionEvent::NotAttached {
                    consumer: consumer.number,
                    reason: Unavailable::Gone.to_string(),
                };
                self.tell(consumer.session, event);
            }
            DestinationCommand::Settle {
                consumer, request, ..
            } if request.0 != 0 => self.tell(consumer.session, committed(request)),
            DestinationCommand::Settle { .. }
            | DestinationCommand::Detach { .. }
            | DestinationCommand::Prepare { .. }
            | DestinationCommand::Finish { .. }
            | DestinationCommand::Retire { .. }
            | DestinationCommand::Remove { .. }
            | DestinationCommand::Look { .. }
            | DestinationCommand::Keep { .. }
            | DestinationCommand::Show { .. } => {}
        }
    }

    /// Its actor ends; an answer that is still to come is nobody's.
    pub(super) fn end(&self, id: DestId, known: Known) {
        if let Presence::Awake { port, report, .. } = known.state {
            port.retire();
            let fetching = report.get().fetching;
            if fetching > 0 {
                let mut stale = self.stale_fetches.borrow_mut();
                let count = stale.entry(id).or_default();
                *count = count.saturating_add(fetching);
            }
        }
    }
}
