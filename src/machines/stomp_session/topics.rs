//! Topics, temporary queues and browsing: what the headers of SUBSCRIBE and UNSUBSCRIBE mean for them.
//!
//! | spelling | of | means |
//! |---|---|---|
//! | `durable:true`, `subscription-name` | STOMP, Artemis | durable; `client-id` of CONNECT is needed |
//! | `activemq.subscriptionName` (or `subcriptionName`) | ActiveMQ | the same |
//! | `durable:true`, `auto-delete:false`, `id` | RabbitMQ | durable; without `client-id` everybody's, shared |
//! | `shared:true`, `subscription-name` | TwinMQ | shared; without `client-id` everybody's |
//! | `no-local:true`, `activemq.noLocal:true` | TwinMQ, ActiveMQ | none of one's own |

use std::borrow::Cow;
use std::sync::Arc;

use super::ends::Problem;
use super::requests::Receipt;
use super::{SessionEffect, StompSession};
use crate::machines::selector::{Dialect, Selector};
use crate::machines::subscriptions::{
    Identity, SUBSCRIPTION_NAME_BYTES_MAX, SubscriptionSpec, is_name,
};
use crate::machines::topics::{TopicName, TopicPattern};
use crate::proto::destination::{DestinationError, DestinationKind, DestinationName};
use crate::proto::stomp::ClientFrame;

/// How a client spells a temporary queue of its own.
const OWN_TEMPORARY: &str = "/temp-queue/";

/// Temporary queues of one connection: their names, and what makes them its own.
#[derive(Debug, Default)]
pub(super) struct Temporaries {
    /// Unique in the life of the pair.
    pub(super) scope: String,
    made: Vec<DestinationName>,
}

impl Temporaries {
    /// The name that others use for `/temp-queue/NAME`; none when it is not spelled so.
    fn own(&self, spelling: &str) -> Option<Result<DestinationName, DestinationError>> {
        let name = spelling.strip_prefix(OWN_TEMPORARY)?;
        // As of any other queue.
        Some(
            DestinationName::new(DestinationKind::Queue, name).and_then(|name| {
                let made = [&self.scope, "/", name.name()].concat();
                DestinationName::new(DestinationKind::TemporaryQueue, &made)
            }),
        )
    }

    /// Whether a queue that is not spelled by its owner belongs to this connection.
    fn owns(&self, name: &DestinationName) -> bool {
        let rest = name.name().strip_prefix(self.scope.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

/// A destination that can be sent to.
pub(super) fn send_destination(
    spelling: &[u8],
    temporaries: &Temporaries,
) -> Result<DestinationName, Problem> {
    let name = any_destination(spelling, temporaries)?;
    if name.kind() == DestinationKind::Topic {
        TopicName::parse(name.name()).map_err(|error| not_valid(spelling, &format!("{error}")))?;
    }
    Ok(name)
}

/// A destination as a client may spell it.
pub(super) fn any_destination(
    spelling: &[u8],
    temporaries: &Temporaries,
) -> Result<DestinationName, Problem> {
    let own = std::str::from_utf8(spelling)
        .ok()
        .and_then(|spelling| temporaries.own(spelling));
    own.unwrap_or_else(|| DestinationName::parse_bytes(spelling))
        .map_err(|error| not_valid(spelling, &error.to_string()))
}

fn not_valid(spelling: &[u8], why: &str) -> Problem {
    let shown = String::from_utf8_lossy(spelling);
    Problem::new(
        "the destination is not valid",
        format!("{why}; it was {shown:?}"),
    )
}

/// Text headers of a frame.
struct Asked<'a>(&'a ClientFrame);

impl<'a> Asked<'a> {
    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.0.headers.get(name)
    }

    fn says(&self, name: &str, value: &str) -> bool {
        self.text(name)
            .is_some_and(|text| text.eq_ignore_ascii_case(value))
    }

    fn is_true(&self, name: &str) -> bool {
        self.says(name, "true")
    }

    fn activemq_name(&self) -> Option<Cow<'a, str>> {
        // The second is ActiveMQ's own misspelling, which its clients send.
        self.text("activemq.subscriptionName")
            .or_else(|| self.text("activemq.subcriptionName"))
    }

    /// It is to outlive its consumers.
    fn durable(&self) -> bool {
        self.is_true("durable") || self.activemq_name().is_some()
    }

    fn name(&self) -> Option<Cow<'a, str>> {
        self.text("subscription-name")
            .or_else(|| self.text("durable-subscription-name"))
            .or_else(|| self.activemq_name())
    }
}

impl StompSession {
    /// What makes its temporary queues its own: unique in the life of the pair. Before the first frame.
    pub fn set_temporary_scope(&mut self, scope: String) {
        self.temporaries.scope = scope;
    }

    /// Makes a temporary queue that belongs to this connection, if it was not made before.
    pub(super) fn make_temporary(
        &mut self,
        name: &DestinationName,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        if self.temporaries.made.contains(name) {
            return Ok(());
        }
        if self.temporaries.made.len() >= self.config.max_subscriptions {
            return Err(Problem::new(
                "too many temporary queues",
                format!(
                    "a connection may have {}; use fewer, or more connections",
                    self.config.max_subscriptions
                ),
            ));
        }
        self.temporaries.made.push(name.clone());
        effects.push(SessionEffect::MakeTemporary {
            destination: name.clone(),
        });
        Ok(())
    }

    /// Where an answer goes: a temporary queue of this connection by the name that others use.
    pub(super) fn reply_to(
        &mut self,
        spelling: &str,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<Option<DestinationName>, Problem> {
        let Some(name) = self.temporaries.own(spelling) else {
            return Ok(None);
        };
        let name = name.map_err(|error| not_valid(spelling.as_bytes(), &error.to_string()))?;
        self.make_temporary(&name, effects)?;
        Ok(Some(name))
    }

    /// The effect by which a consumer of a topic, a temporary queue or a browser begins; none when it
    /// is a plain consumer of a queue.
    pub(super) fn special_consumer(
        &mut self,
        frame: &ClientFrame,
        destination: &DestinationName,
        consumer: u32,
        prefetch: u32,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<Option<SessionEffect>, Problem> {
        let browser = is_browser(frame);
        match destination.kind() {
            DestinationKind::Topic if browser => Err(Problem::new(
                "a topic cannot be browsed",
                "a topic holds no messages; browse a queue",
            )),
            DestinationKind::Topic => {
                let subscription = Box::new(self.topic_subscription(frame, destination)?);
                Ok(Some(SessionEffect::Subscribe {
                    consumer,
                    prefetch,
                    subscription,
                }))
            }
            DestinationKind::Queue | DestinationKind::TemporaryQueue if browser => {
                Ok(Some(SessionEffect::Browse {
                    destination: destination.clone(),
                    consumer,
                    prefetch,
                    selector: selector(frame)?,
                }))
            }
            DestinationKind::TemporaryQueue => {
                if !self.temporaries.owns(destination) {
                    return Err(Problem::new(
                        "the temporary queue is another connection's",
                        "only the connection that made a temporary queue can receive from it; it \
                         spells it /temp-queue/NAME",
                    ));
                }
                self.make_temporary(destination, effects)?;
                Ok(None)
            }
            DestinationKind::Queue | DestinationKind::Subscription => Ok(None),
        }
    }

    fn topic_subscription(
        &self,
        frame: &ClientFrame,
        destination: &DestinationName,
    ) -> Result<SubscriptionSpec, Problem> {
        let asked = Asked(frame);
        let spelling = destination.spelling().as_bytes();
        let pattern = TopicPattern::parse(destination.name())
            .map_err(|error| not_valid(spelling, &error.to_string()))?;
        let identity = self.identity(frame)?;
        let everybodys = identity != Identity::Anonymous && identity.client_id().is_none();
        let shared = asked.is_true("shared") || everybodys;
        // One that is not shared has one consumer, which is alone.
        if shared && (asked.is_true("exclusive") || asked.is_true("activemq.exclusive")) {
            return Err(Problem::new(
                "a shared subscription cannot be exclusive",
                "leave out exclusive, or subscribe with a client-id and without shared",
            ));
        }
        Ok(SubscriptionSpec {
            pattern,
            selector: selector(frame)?,
            no_local: asked.is_true("no-local") || asked.is_true("activemq.noLocal"),
            shared,
            identity,
        })
    }

    fn identity(&self, frame: &ClientFrame) -> Result<Identity, Problem> {
        let asked = Asked(frame);
        let (durable, shared) = (asked.durable(), asked.is_true("shared"));
        if !durable && !shared {
            return Ok(Identity::Anonymous);
        }
        let name = match asked.name() {
            Some(name) => name,
            None if durable => asked
                .text("id")
                .ok_or_else(|| Problem::missing("SUBSCRIBE", "subscription-name"))?,
            None => return Err(Problem::missing("SUBSCRIBE", "subscription-name")),
        };
        let client_id = self.client_id.as_deref();
        if client_id.is_none() && durable && !shared && !asked.says("auto-delete", "false") {
            return Err(Problem::new(
                "a durable subscription needs a client-id",
                "give CONNECT a client-id of your own, or share the subscription (shared:true)",
            ));
        }
        if !is_name(&name) || !client_id.is_none_or(is_name) {
            return Err(Problem::new(
                "the subscription's name is not valid",
                format!(
                    "client-id and subscription-name have 1 to {SUBSCRIPTION_NAME_BYTES_MAX} bytes \
                     and no control characters"
                ),
            ));
        }
        Ok(Identity::Named {
            durable,
            client_id: client_id.map(Box::from),
            name: Box::from(&*name),
        })
    }

    /// An UNSUBSCRIBE that deletes a durable subscription; false: it ends a consumer and no more. Call
    /// after the consumer's own end.
    pub(super) fn forget(
        &mut self,
        frame: &ClientFrame,
        known: Option<Identity>,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<bool, Problem> {
        if !Asked(frame).durable() {
            return Ok(false);
        }
        let identity = match known {
            Some(identity) => identity,
            None => self.identity(frame)?,
        };
        if !identity.is_durable() {
            return Ok(false);
        }
        let receipt = frame.headers.raw_value(b"receipt").map(Receipt::new);
        effects.push(SessionEffect::Forget {
            identity: Box::new(identity),
            request: self.requests.open(receipt),
        });
        Ok(true)
    }
}

/// A SUBSCRIBE that only looks.
pub(super) fn is_browser(frame: &ClientFrame) -> bool {
    Asked(frame).is_true("browser")
}

/// What SUBSCRIBE says of the messages that are wanted; none: all.
pub(super) fn selector(frame: &ClientFrame) -> Result<Option<Arc<Selector>>, Problem> {
    let Some(text) = Asked(frame).text("selector") else {
        return Ok(None);
    };
    Selector::wanted(&text, Dialect::TextIsNumeric).map_err(|error| {
        let what = format!("{error}\n{}", error.marked());
        Problem::new("the selector is not valid", what)
    })
}
