//! What a session's consumers say to the destinations that they consume from.

use super::Session;
use crate::machines::delivery::{DestinationCommand, Outcome, RequestNumber, SessionEvent};
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;

impl Session {
    pub(super) fn settle(
        &mut self,
        number: u32,
        lsns: Vec<Lsn>,
        outcome: Outcome,
        request: RequestNumber,
    ) {
        if self.browsers.contains(&number) {
            let consumer = self.consumer(number);
            let directory = &self.context.directory;
            directory.browser_settled(consumer, lsns.len());
            return;
        }
        let Some(name) = self.consumers.get(&number).cloned() else {
            // Its consumer is gone, and what it held is back in the queue: nothing is left to do.
            if request.0 != 0 {
                self.inbox.put(SessionEvent::Committed {
                    requests: vec![request],
                });
            }
            return;
        };
        let consumer = self.consumer(number);
        self.queue(
            &name,
            DestinationCommand::Settle {
                consumer,
                lsns,
                outcome,
                request,
            },
        );
    }

    /// Queues a command of a consumer. A destination that is no more has given everything back.
    pub(super) fn queue(&mut self, name: &DestinationName, command: DestinationCommand) {
        let answer = match &command {
            DestinationCommand::Settle { request, .. } if request.0 != 0 => Some(*request),
            _ => None,
        };
        if let Err(error) = self.gathered.push(name, command) {
            tracing::trace!(target: "twinmq::data", session = self.key.0, %error, "too late");
            if let Some(request) = answer {
                let requests = vec![request];
                self.inbox.put(SessionEvent::Committed { requests });
            }
        }
    }
}
