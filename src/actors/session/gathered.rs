//! What one turn of a session has for its destinations: gathered, so that each gets one post.

use std::rc::Rc;

use bytes::Bytes;

use crate::actors::directory::{Directory, TopicSend, Unavailable};
use crate::actors::post::Port;
use crate::machines::delivery::{DestinationCommand, RequestNumber, SessionKey};
use crate::machines::destination::DestinationInput;
use crate::machines::destination::account::{Account, Load};
use crate::machines::subscriptions::Publisher;
use crate::proto::destination::DestinationName;
use crate::proto::ids::DestId;

/// Destinations gathered before their commands are posted: they are looked for one by one.
const BATCHES_MAX: usize = 32;

/// Commands for one destination, in order.
struct Batch {
    name: DestinationName,
    port: Port<DestinationInput>,
    id: DestId,
    account: Rc<Account>,
    commands: Vec<DestinationCommand>,
}

/// See the module.
pub(super) struct Gathered {
    directory: Rc<Directory>,
    batches: Vec<Batch>,
    /// Messages to topics, in order.
    to_topics: Vec<TopicSend>,
}

impl Gathered {
    pub(super) fn new(directory: Rc<Directory>) -> Self {
        Self {
            directory,
            batches: Vec::new(),
            to_topics: Vec::new(),
        }
    }

    /// Adds a message to a topic.
    pub(super) fn publish_to_topic(&mut self, send: TopicSend) {
        self.to_topics.push(send);
    }

    /// Adds a message; those for one destination that follow each other are one command.
    ///
    /// # Errors
    /// When the destination cannot be used.
    pub(super) fn publish(
        &mut self,
        session: SessionKey,
        name: &DestinationName,
        request: RequestNumber,
        message: Bytes,
    ) -> Result<(), Unavailable> {
        let demands_both = self.directory.check_copies(name)?;
        let batch = self.batch(name)?;
        let (id, account) = (batch.id, Rc::clone(&batch.account));
        account.announce(Load::of(&message));
        let commands = &mut batch.commands;
        if let Some(DestinationCommand::Publish { messages, .. }) = commands.last_mut() {
            messages.push((request, message));
        } else {
            commands.push(DestinationCommand::Publish {
                session,
                messages: vec![(request, message)],
            });
        }
        if demands_both {
            self.directory.demand_both(session, request);
        }
        if account.bounds().is_some() {
            self.directory.mind_bounds(id, &account);
        }
        Ok(())
    }

    /// Adds a command.
    ///
    /// # Errors
    /// When the destination cannot be used.
    pub(super) fn push(
        &mut self,
        name: &DestinationName,
        command: DestinationCommand,
    ) -> Result<(), Unavailable> {
        self.batch(name)?.commands.push(command);
        Ok(())
    }

    /// One post for each destination; what goes to topics is the publisher's.
    pub(super) fn post(&mut self, publisher: Publisher<'_>) {
        if !self.to_topics.is_empty() {
            let sends = std::mem::take(&mut self.to_topics);
            self.directory.publish_to_topics(publisher, sends);
        }
        self.post_batches();
    }

    fn post_batches(&mut self) {
        for batch in self.batches.drain(..) {
            let Batch {
                name,
                port,
                commands,
                ..
            } = batch;
            self.directory.command_or_answer(&name, &port, commands);
        }
    }

    fn batch(&mut self, name: &DestinationName) -> Result<&mut Batch, Unavailable> {
        let at = match self.batches.iter().position(|batch| batch.name == *name) {
            Some(at) => at,
            None => {
                let (id, port, account) = self.directory.resolve_to_send(name)?;
                if self.batches.len() >= BATCHES_MAX {
                    self.post_batches();
                }
                self.batches.push(Batch {
                    name: name.clone(),
                    port,
                    id,
                    account,
                    commands: Vec::new(),
                });
                self.batches.len() - 1
            }
        };
        Ok(&mut self.batches[at])
    }
}
