//! What destinations are told besides commands: how they behave, where their dead messages go, and that
//! something of theirs expires.

use std::rc::Rc;
use std::sync::Arc;

use super::{Directory, KIND_QUEUE, Presence, definition};
use crate::actors::post::post;
use crate::machines::destination::{DeadLetterQueue, DestinationInput};
use crate::machines::policy::Policies;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::DestId;

impl Directory {
    /// Other policies, from now on.
    pub fn set_policies(self: &Rc<Self>, policies: Arc<Policies>) {
        *self.policies.borrow_mut() = policies;
        if let Some(term) = self.term.borrow_mut().as_mut() {
            // Who still needs one asks for it again.
            term.dead_letters.clear();
            for (id, known) in &term.known {
                if let Presence::Awake { port, .. } = &known.state {
                    let policy = self.policy_of(term, *id, &known.name);
                    post(port, DestinationInput::PolicyChanged(policy));
                }
            }
        }
        self.change_bounds();
        self.wake_all_overfull();
    }

    /// Tells a destination where its dead messages go: to the queue of this name, which is made if
    /// there is none.
    pub fn find_dead_letter(self: &Rc<Self>, id: DestId, queue: &str) {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        let found = DestinationName::new(DestinationKind::Queue, queue)
            .map_err(|error| error.to_string())
            .and_then(|name| {
                let id = match term.by_name.get(&name) {
                    Some(id) => *id,
                    None => self.define(term, &name).map_err(|error| error.to_string())?,
                };
                let definition = definition(KIND_QUEUE, &name);
                Ok(DeadLetterQueue { id, definition })
            })
            .inspect(|queue| {
                // It minds its own bounds.
                self.wake(term, queue.id);
                let users = term.dead_letters.entry(queue.id).or_default();
                users.insert(id);
            })
            .inspect_err(|error| {
                tracing::warn!(target: "twinmq::data", queue, %error, "the dead message queue cannot be used: dead messages wait where they are");
            });
        if let Some(Presence::Awake { port, .. }) = term.known.get(&id).map(|known| &known.state) {
            post(port, DestinationInput::DeadLetterFound(found.ok()));
        }
    }

    /// Wakes destinations in which messages expire: nobody else would look there.
    pub fn look_at_expiry(self: &Rc<Self>) {
        let now_ms = self.clock.wall_ms();
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        if term.next_expiry_ms.is_none_or(|at| at > now_ms) {
            return;
        }
        let mut next: Option<u64> = None;
        let mut due = Vec::new();
        for (id, known) in &term.known {
            if let Presence::Asleep(activation) = &known.state
                && let Some(at) = activation.next_expiry_ms
            {
                if at <= now_ms {
                    due.push(*id);
                } else {
                    next = next.into_iter().chain([at]).min();
                }
            }
        }
        // The same events give the same course.
        due.sort_unstable();
        for id in due {
            self.wake(term, id);
        }
        term.next_expiry_ms = next;
    }
}
