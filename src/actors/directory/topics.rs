//! Topics on the data thread: who subscribes to what, and the way of a message to all who do.
//!
//! A message to a topic is one unit with one PUT, submitted here and not by a destination: messages of
//! one connection stay in order at each subscription, because nothing stands between. A subscription's
//! definition has its place in the log before the first message that goes to it, and its consumers are
//! attached once it is committed, so that what SUBSCRIBE confirms is true.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;

use super::volatile::Passing;
use super::{Directory, Term, Unavailable};
use crate::machines::delivery::{
    ConsumerKey, ConsumerTraits, DestinationCommand, RequestNumber, SessionEvent, SessionKey,
};
use crate::machines::destination::{REFUSED, ticket};
use crate::machines::duplicates;
use crate::machines::subscriptions::{Identity, Publisher, SubscriptionSpec, SubscriptionTable};
use crate::machines::topics::TopicName;
use crate::proto::destination::DestinationName;
use crate::proto::ids::DestId;
use crate::storage::api::{Draft, SPACE_DESTINATION, Scope, Ticket, Unit};

/// Whose requests definitions are: sessions count from 1.
pub(super) const OWN: SessionKey = SessionKey(0);

/// Targets of one PUT. Four bytes and a sign each stay within what a chunk has room for beside the
/// largest message; more subscriptions than these take a record more.
const TARGETS_MAX: usize = 32_768;

/// A message to a topic.
#[derive(Debug)]
pub struct TopicSend {
    /// Answered by `Committed` or `Refused`.
    pub request: RequestNumber,
    /// Where.
    pub topic: DestinationName,
    /// The canonical message.
    pub message: Bytes,
}

/// A consumer whose subscription is not committed yet.
#[derive(Debug)]
struct Waiting {
    consumer: ConsumerKey,
    prefetch: u32,
    name: DestinationName,
    /// It was given up meanwhile.
    gone: bool,
}

/// One term's topics.
#[derive(Debug, Default)]
pub(super) struct Topics {
    pub(super) table: SubscriptionTable,
    /// Consumers by the request of their subscription's definition.
    waiting: HashMap<RequestNumber, Vec<Waiting>>,
    /// Definitions that are not committed.
    defining: HashMap<DestId, RequestNumber>,
    last_request: u32,
}

impl Topics {
    fn next_request(&mut self) -> RequestNumber {
        self.last_request = self.last_request.checked_add(1).unwrap_or(1);
        RequestNumber(self.last_request)
    }
}

/// A destination taken out of the store, with what it is owed.
pub(super) fn removal(id: DestId) -> Unit {
    define(id, Bytes::new(), Ticket::default())
}

fn define(id: DestId, value: Bytes, ticket: Ticket) -> Unit {
    Unit {
        ticket,
        records: vec![Draft::Kv {
            space: SPACE_DESTINATION,
            key: Bytes::copy_from_slice(&id.0.to_be_bytes()),
            value,
        }],
    }
}

impl Directory {
    /// A consumer subscribes to topics; gives what its subscription's destination is called. The session
    /// hears `Attached` when the subscription is as safe as a message.
    ///
    /// # Errors
    /// When it cannot be; in words for the client.
    pub fn subscribe(
        self: &Rc<Self>,
        consumer: ConsumerKey,
        prefetch: u32,
        spec: SubscriptionSpec,
    ) -> Result<DestinationName, String> {
        self.take_over(consumer.session, &spec);
        let (name, defined) = {
            let mut term = self.term.borrow_mut();
            let term = term.as_mut().ok_or(Unavailable::NotServing);
            let term = term.map_err(|error| error.to_string())?;
            self.join(term, consumer, prefetch, spec)?
        };
        if defined {
            self.attach(consumer, prefetch, &name);
        }
        Ok(name)
    }

    /// Gives the destination's name, and whether its definition is committed.
    fn join(
        &self,
        term: &mut Term,
        consumer: ConsumerKey,
        prefetch: u32,
        spec: SubscriptionSpec,
    ) -> Result<(DestinationName, bool), String> {
        let fresh = match self.next_id(term) {
            Ok(id) => id,
            Err(error) if term.topics.table.makes(&spec) => return Err(error.to_string()),
            // Takes part in one that there is, or takes its place.
            Err(_) => DestId(term.next),
        };
        let passes = !spec.identity.is_durable();
        let joined = term.topics.table.subscribe(consumer, spec, fresh);
        let joined = joined.map_err(|error| error.to_string())?;
        if let Some(dropped) = joined.dropped {
            self.drop_destination(term, dropped, Ticket::default());
        }
        if let Some(definition) = joined.definition {
            let request = term.topics.next_request();
            term.topics.defining.insert(joined.dest, request);
            self.learn(term, joined.dest, joined.name.clone(), None, passes);
            let unit = define(joined.dest, definition, ticket(OWN, request));
            self.store.submit(vec![unit]);
        }
        let request = term.topics.defining.get(&joined.dest).copied();
        if let Some(request) = request {
            let waiting = Waiting {
                consumer,
                prefetch,
                name: joined.name.clone(),
                gone: false,
            };
            term.topics
                .waiting
                .entry(request)
                .or_default()
                .push(waiting);
        }
        Ok((joined.name, request.is_none()))
    }

    fn attach(self: &Rc<Self>, consumer: ConsumerKey, prefetch: u32, name: &DestinationName) {
        match self.resolve(name) {
            Ok(port) => {
                let attach = DestinationCommand::Attach {
                    consumer,
                    prefetch,
                    traits: ConsumerTraits::default(),
                };
                self.command(&port, vec![attach]);
            }
            Err(error) => {
                let event = SessionEvent::NotAttached {
                    consumer: consumer.number,
                    reason: error.to_string(),
                };
                self.tell(consumer.session, event);
            }
        }
    }

    /// The definition of a subscription is committed: its consumers begin.
    pub(super) fn subscription_defined(self: &Rc<Self>, request: RequestNumber) {
        let waiting = match self.term.borrow_mut().as_mut() {
            Some(term) => {
                term.topics.defining.retain(|_, other| *other != request);
                term.topics.waiting.remove(&request)
            }
            None => None,
        };
        for waiting in waiting.into_iter().flatten() {
            if waiting.gone {
                // Its session waits for this answer all the same.
                let consumer = waiting.consumer.number;
                self.tell(
                    waiting.consumer.session,
                    SessionEvent::Attached { consumer },
                );
            } else {
                self.attach(waiting.consumer, waiting.prefetch, &waiting.name);
            }
        }
    }

    /// A consumer of a subscription has gone; a subscription that goes with it is dropped. Call after
    /// its `Detach` was posted.
    pub fn leave_subscription(&self, consumer: ConsumerKey, name: &DestinationName) {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        let waiting = term.topics.waiting.values_mut().flatten();
        for waiting in waiting.filter(|waiting| waiting.consumer == consumer) {
            waiting.gone = true;
        }
        let Some(dest) = term.by_name.get(name).copied() else {
            return;
        };
        if term.topics.table.leave(consumer, dest) {
            self.drop_destination(term, dest, Ticket::default());
        }
    }

    /// A session deletes a durable subscription; it is answered when that is as safe as a message, or
    /// with the reason why not.
    pub fn forget_subscription(
        &self,
        session: SessionKey,
        identity: &Identity,
        request: RequestNumber,
    ) {
        let refused = {
            let mut term = self.term.borrow_mut();
            match term.as_mut() {
                None => Some(Unavailable::NotServing.to_string()),
                Some(term) => match term.topics.table.forget(session, identity) {
                    Ok(dest) => {
                        self.drop_destination(term, dest, ticket(session, request));
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
            }
        };
        if let Some(reason) = refused {
            self.tell(session, SessionEvent::Refused { request, reason });
        }
    }

    /// Messages of one session to topics, in order. Each is stored once for those subscriptions that
    /// have no memory for it, and is handed to those that have.
    pub fn publish_to_topics(self: &Rc<Self>, publisher: Publisher<'_>, sends: Vec<TopicSend>) {
        let session = publisher.session;
        let mut units = Vec::with_capacity(sends.len());
        let mut passing = Passing::default();
        let (mut answers, mut unstored) = (Vec::new(), Vec::new());
        for send in sends {
            let request = send.request;
            let ticket = ticket(session, request);
            match self.topic_records(publisher, &send, ticket, &mut passing) {
                Ok(records) if records.is_empty() => unstored.push(request),
                Ok(records) => units.push(Unit { ticket, records }),
                Err(reason) => answers.push(SessionEvent::Refused { request, reason }),
            }
            if !units.is_empty() && self.may_hold_back(&send.topic) {
                // The next one is judged by what this one takes.
                let again = self.submit(std::mem::take(&mut units));
                self.forget_again(&mut passing, &again);
            }
        }
        if !units.is_empty() {
            let again = self.submit(units);
            self.forget_again(&mut passing, &again);
        }
        self.keep(passing);
        if !unstored.is_empty() {
            // Nothing is stored: there is nothing to wait for.
            answers.push(SessionEvent::Committed { requests: unstored });
        }
        for answer in answers {
            self.tell(session, answer);
        }
    }

    /// What a message to a topic is in the log, and who keeps it in memory instead; nothing of both
    /// when nobody is subscribed. It is refused whole if one of the subscriptions refuses it.
    fn topic_records(
        self: &Rc<Self>,
        publisher: Publisher<'_>,
        send: &TopicSend,
        ticket: Ticket,
        passing: &mut Passing,
    ) -> Result<Vec<Draft>, String> {
        let mut targets = {
            let mut term = self.term.borrow_mut();
            let term = term.as_mut().ok_or(Unavailable::NotServing);
            let term = term.map_err(|error| error.to_string())?;
            let targets = term.topic_targets(publisher, &send.topic, &send.message);
            if let Some(reason) = self.refusal_of(term, &targets) {
                return Err(reason);
            }
            targets
        };
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let demands_both = self.check_copies(&send.topic);
        let demands_both = demands_both.map_err(|error| error.to_string())?;
        let kept = if demands_both {
            Vec::new()
        } else {
            self.take_memory(&mut targets, &send.message)
        };
        if !targets.is_empty() && self.refuses_sends() {
            passing.give_back(kept, &send.message);
            return Err(REFUSED.to_owned());
        }
        self.spill(&targets, &send.message);
        self.count_kept(&kept, &send.message);
        passing.add(ticket, kept, &send.message);
        if demands_both {
            self.demand_both(publisher.session, send.request);
        }
        Ok(records(&send.topic, &targets, &send.message))
    }
}

/// What a message to a topic is in the log; nothing when nobody is to get it from there.
fn records(topic: &DestinationName, targets: &[DestId], message: &Bytes) -> Vec<Draft> {
    let mut parts = targets.chunks(TARGETS_MAX);
    let Some(first) = parts.next() else {
        return Vec::new();
    };
    // Its id, if it has one, stands before the first of them.
    let scope = Scope::topic(topic.name());
    let mut records = duplicates::send(scope, first.to_vec(), message.clone());
    records.extend(parts.map(|targets| Draft::Put {
        targets: targets.to_vec(),
        message: message.clone(),
    }));
    records
}

impl Term {
    /// A durable subscription that the store has.
    pub(super) fn restore_subscription(
        &mut self,
        id: DestId,
        definition: &Bytes,
    ) -> Option<DestinationName> {
        match SubscriptionSpec::read(definition) {
            Ok(spec) => Some(self.topics.table.restore(id, spec)),
            Err(error) => {
                tracing::warn!(target: "twinmq::data", id = id.0, %error, "a subscription cannot be read");
                None
            }
        }
    }

    /// The destinations that will owe a message to a topic.
    pub(super) fn topic_targets(
        &self,
        publisher: Publisher<'_>,
        topic: &DestinationName,
        message: &[u8],
    ) -> Vec<DestId> {
        let mut targets = Vec::new();
        if let Ok(topic) = TopicName::parse(topic.name()) {
            let table = &self.topics.table;
            table.route(topic, publisher, message, &mut targets);
        }
        targets
    }
}
