//! Consumers come and go.

use super::{DestinationEffect, DestinationMachine, Now};
use crate::machines::delivery::{ConsumerKey, ConsumerTraits, SessionEvent};

impl DestinationMachine {
    pub(super) fn attach(
        &mut self,
        key: ConsumerKey,
        prefetch: u32,
        traits: ConsumerTraits,
        effects: &mut Vec<DestinationEffect>,
    ) {
        self.consumers.attach(key, prefetch, &traits);
        if let Some(selector) = traits.selector {
            self.groups.introduce(key, selector.clone());
            self.pickers.attach(key, selector);
            self.timers.show_again();
        }
        self.timers.revisit();
        self.lanes.resize(self.config.window);
        effects.push(DestinationEffect::Answer {
            session: key.session,
            event: SessionEvent::Attached {
                consumer: key.number,
            },
        });
    }

    pub(super) fn detach(&mut self, now: Now, key: ConsumerKey) {
        self.end_picking(key);
        self.end_being_alone(key);
        for entry in self.consumers.detach(key) {
            self.came_back(now, entry);
        }
        self.free_groups(key);
        if self.consumers.is_empty() {
            // A server may have very many idle queues.
            self.lanes.resize(self.config.idle);
            self.groups.forget_owners();
        }
    }

    /// What only others take is for them again, if the consumer was alone.
    pub(super) fn end_being_alone(&mut self, key: ConsumerKey) {
        if self.consumers.alone() == Some(key) {
            self.timers.revisit();
        }
    }

    /// A consumer's groups are anybody's from now on, also what of them was passed over.
    pub(super) fn free_groups(&mut self, key: ConsumerKey) {
        for entry in self.groups.release(key) {
            self.put_back(entry);
        }
        if self.pickers.look_again() {
            self.timers.show_again();
        }
    }
}
