//! What a session wants of topics, temporary queues and browsers.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use crate::actors::directory::{TopicSend, Unavailable};
use crate::machines::delivery::{DestinationCommand, RequestNumber, SessionEvent};
use crate::machines::selector::Selector;
use crate::machines::subscriptions::{Identity, Publisher, SubscriptionSpec};
use crate::proto::destination::{DestinationKind, DestinationName};

impl Session {
    /// Hands over what was gathered.
    pub(super) fn post_gathered(&mut self) {
        self.gathered.post(Publisher {
            session: self.key,
            client_id: self.machine.client_id(),
        });
    }

    /// A consumer is gone, and with it what was its alone.
    pub(super) fn detach(&mut self, number: u32) {
        let consumer = self.consumer(number);
        if self.browsers.remove(&number) {
            self.context.directory.end_browser(consumer);
        }
        let Some(name) = self.consumers.remove(&number) else {
            return;
        };
        self.queue(&name, DestinationCommand::Detach { consumer });
        if name.kind() == DestinationKind::Subscription {
            self.post_gathered();
            self.context.directory.leave_subscription(consumer, &name);
        }
    }

    pub(super) fn publish(
        &mut self,
        name: &DestinationName,
        request: RequestNumber,
        message: Bytes,
    ) {
        if name.kind() == DestinationKind::Topic {
            let topic = name.clone();
            self.gathered.publish_to_topic(TopicSend {
                request,
                topic,
                message,
            });
            return;
        }
        let outcome = self.gathered.publish(self.key, name, request, message);
        match outcome {
            Ok(()) => {}
            Err(Unavailable::Gone) if name.kind() == DestinationKind::TemporaryQueue => {
                // Nobody waits for the answer any more, which is nothing that its sender could mend.
                let requests = vec![request];
                self.inbox.put(SessionEvent::Committed { requests });
            }
            Err(error) => {
                let reason = error.to_string();
                self.inbox.put(SessionEvent::Refused { request, reason });
            }
        }
    }

    pub(super) fn subscribe(&mut self, number: u32, prefetch: u32, spec: SubscriptionSpec) {
        // What was published before is not for it.
        self.post_gathered();
        // It may have to be said who it is that takes a subscription from another.
        self.show_signs();
        let consumer = self.consumer(number);
        match self.context.directory.subscribe(consumer, prefetch, spec) {
            Ok(name) => {
                self.consumers.insert(number, name);
            }
            Err(reason) => {
                let consumer = number;
                self.inbox
                    .put(SessionEvent::NotAttached { consumer, reason });
            }
        }
    }

    pub(super) fn forget(&mut self, identity: &Identity, request: RequestNumber) {
        self.post_gathered();
        let directory = &self.context.directory;
        directory.forget_subscription(self.key, identity, request);
    }

    pub(super) fn make_temporary(&mut self, name: &DestinationName) {
        if let Err(error) = self.context.directory.make_temporary(self.key, name) {
            let reason = error.to_string();
            self.inbox.put(SessionEvent::Closing { reason });
        }
    }

    pub(super) fn browse(
        &mut self,
        name: &DestinationName,
        number: u32,
        prefetch: u32,
        selector: Option<Arc<Selector>>,
    ) {
        // What was sent before is not necessarily stored yet, and may be seen or not.
        self.browsers.insert(number);
        let consumer = self.consumer(number);
        let directory = &self.context.directory;
        directory.browse(consumer, name, prefetch, selector);
    }
}
