//! Which subscriptions there are, who consumes from each, and to which of them a topic's message goes.
//!
//! | a subscription | lives | its consumers |
//! |---|---|---|
//! | anonymous | with its consumer | one |
//! | shared | with the last of its consumers | any number |
//! | durable | until it is deleted | none or one |
//! | shared durable | until it is deleted | any number |
//!
//! Each is a destination of its own, which owes it its messages; a topic holds nothing. A message is
//! judged by selectors and `no-local` here, as it is published, so that what a subscription does not
//! want is never stored for it.
//!
//! Deliberately not known here: frames, ports, what a destination does with its messages, and when the
//! store has a definition.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::machines::delivery::{ConsumerKey, SessionKey};
use crate::machines::selector::Selector;
use crate::machines::topics::{TopicName, TopicPattern, TopicRouter};
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::DestId;
use crate::proto::message::Message;

mod definition;

pub use definition::{DefinitionError, KIND_DURABLE, KIND_PASSING};

/// Longest name or client id of a subscription, in bytes.
pub const SUBSCRIPTION_NAME_BYTES_MAX: usize = 200;

/// A text that can be the name or client id of a subscription: 1 to [`SUBSCRIPTION_NAME_BYTES_MAX`]
/// bytes without control characters.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= SUBSCRIPTION_NAME_BYTES_MAX
        && !text.chars().any(char::is_control)
}

/// How a subscription is found again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Not at all: it is its consumer's alone.
    Anonymous,
    /// By its name.
    Named {
        /// It outlives its consumers.
        durable: bool,
        /// Whose; none when it is everybody's.
        client_id: Option<Box<str>>,
        /// Unique for the client, of durable ones and of others.
        name: Box<str>,
    },
}

impl Identity {
    /// It outlives its consumers.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        matches!(self, Self::Named { durable: true, .. })
    }

    /// The client id that it belongs to.
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Named { client_id, .. } => client_id.as_deref(),
        }
    }

    /// What its destination is called: `CLIENT/NAME`, with `%` before what would be taken for a sign;
    /// shared ones that go with their consumers have `~` before it, anonymous ones are `~` and a number.
    fn destination(&self, id: DestId) -> DestinationName {
        let text = match self {
            Self::Anonymous => format!("~{}", id.0),
            Self::Named {
                durable,
                client_id,
                name,
            } => {
                let sign = if *durable { "" } else { "~shared/" };
                let client = client_id.as_deref().unwrap_or_default();
                format!("{sign}{}/{name}", Escaped(client))
            }
        };
        DestinationName::new(DestinationKind::Subscription, &text)
            .expect("client ids and names are short and hold no control characters")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("a subscription without a name"),
            Self::Named {
                client_id, name, ..
            } => match client_id {
                Some(client) => write!(f, "the subscription {name:?} of client-id {client:?}"),
                None => write!(f, "the subscription {name:?} without a client-id"),
            },
        }
    }
}

/// A client id in which the signs of a destination's name are spelled out.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '%' | '/' | '~' => write!(f, "%{:02X}", u32::from(c)),
            c => fmt::Write::write_char(f, c),
        })
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// The topics.
    pub pattern: TopicPattern,
    /// Which of their messages.
    pub selector: Option<Arc<Selector>>,
    /// None that its own connection, or one of its client id, published.
    pub no_local: bool,
    /// Several consumers may share it.
    pub shared: bool,
    /// How it is found again.
    pub identity: Identity,
}

impl SubscriptionSpec {
    /// The same messages are meant.
    fn wants_the_same(&self, other: &Self) -> bool {
        self.pattern == other.pattern
            && self.selector == other.selector
            && self.no_local == other.no_local
    }
}

/// Why somebody cannot subscribe.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubscribeError {
    /// One that is not shared has a consumer.
    #[error("{0} has a consumer already; close that one first, or share it")]
    Active(Identity),
    /// Its consumers are owed other messages.
    #[error(
        "{0} is shared by consumers that subscribed with another topic or selector; use the same, or \
         another name"
    )]
    Differs(Identity),
    /// Shared where it is not, or the other way round.
    #[error(
        "{identity} exists and {}; unsubscribe it first, or use another name",
        if *.shared { "is shared" } else { "is not shared" }
    )]
    OtherKind {
        /// Which.
        identity: Identity,
        /// What it is.
        shared: bool,
    },
}

/// Why a subscription was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForgetError {
    /// There is none.
    #[error("there is no durable subscription to delete: {0}")]
    Unknown(Identity),
    /// Somebody else's consumer.
    #[error("{0} has a consumer on another connection; close that one first")]
    Active(Identity),
}

/// What came of subscribing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Where its messages wait.
    pub dest: DestId,
    /// What that is called.
    pub name: DestinationName,
    /// It is new: this is its definition, for the store.
    pub definition: Option<Bytes>,
    /// Takes the place of this one, which is to be dropped first.
    pub dropped: Option<DestId>,
}

/// Who publishes.
#[derive(Clone, Copy, Debug)]
pub struct Publisher<'a> {
    /// The connection.
    pub session: SessionKey,
    /// Its client id.
    pub client_id: Option<&'a str>,
}

/// A subscription, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionView {
    /// What was asked for.
    pub spec: SubscriptionSpec,
    /// It has a consumer.
    pub active: bool,
}

#[derive(Debug)]
struct Subscription {
    spec: SubscriptionSpec,
    consumers: Vec<ConsumerKey>,
}

impl Subscription {
    fn wants(&self, publisher: Publisher<'_>, message: Option<&Message<'_>>) -> bool {
        let own = self.spec.no_local
            && (self
                .consumers
                .iter()
                .any(|consumer| consumer.session == publisher.session)
                || (publisher.client_id.is_some()
                    && self.spec.identity.client_id() == publisher.client_id));
        !own && self
            .spec
            .selector
            .as_ref()
            .is_none_or(|selector| message.is_some_and(|message| selector.matches(message)))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct SubscriptionTable {
    router: TopicRouter<DestId>,
    all: HashMap<DestId, Subscription>,
    named: HashMap<Identity, DestId>,
}

impl SubscriptionTable {
    /// Subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What was subscribed to.
    #[must_use]
    pub fn pattern(&self, dest: DestId) -> Option<&TopicPattern> {
        self.all
            .get(&dest)
            .map(|subscription| &subscription.spec.pattern)
    }

    /// For `status`.
    #[must_use]
    pub fn view(&self, dest: DestId) -> Option<SubscriptionView> {
        let subscription = self.all.get(&dest)?;
        Some(SubscriptionView {
            spec: subscription.spec.clone(),
            active: !subscription.consumers.is_empty(),
        })
    }

    /// The consumers of subscriptions that go with them.
    pub fn passing(&self) -> impl Iterator<Item = ConsumerKey> {
        let all = self.all.values();
        let passing = all.filter(|it| !it.spec.identity.is_durable());
        passing.flat_map(|it| it.consumers.iter().copied())
    }

    /// One that the store has from before this term; gives what its destination is called.
    pub fn restore(&mut self, dest: DestId, spec: SubscriptionSpec) -> DestinationName {
        let name = spec.identity.destination(dest);
        self.insert(dest, spec, Vec::new());
        name
    }

    /// The consumer of another connection that has the durable subscription that is asked for: it gives way
    /// to who comes now, which has the same client id. The older one may be a connection that died without a
    /// word, and what is owed must not wait for that to be noticed.
    #[must_use]
    pub fn gives_way(
        &self,
        session: SessionKey,
        spec: &SubscriptionSpec,
    ) -> Option<(DestId, ConsumerKey)> {
        let dest = self.named.get(&spec.identity).copied()?;
        let there = self.all.get(&dest)?;
        let alone = spec.identity.is_durable() && !spec.shared && !there.spec.shared;
        // Another topic or selector drops what is owed: not in the place of one that lives.
        let alone = alone && there.spec.wants_the_same(spec);
        let mut others = there.consumers.iter().filter(|it| it.session != session);
        let other = others.next().filter(|_| alone)?;
        Some((dest, *other))
    }

    /// What subscribing would make anew.
    #[must_use]
    pub fn makes(&self, spec: &SubscriptionSpec) -> bool {
        !self.named.contains_key(&spec.identity)
    }

    /// A consumer subscribes; a new subscription will be `fresh`.
    ///
    /// # Errors
    /// When others or other kinds stand against it. Nothing has changed then.
    pub fn subscribe(
        &mut self,
        consumer: ConsumerKey,
        spec: SubscriptionSpec,
        fresh: DestId,
    ) -> Result<Joined, SubscribeError> {
        let mut dropped = None;
        if let Some(dest) = self.named.get(&spec.identity).copied() {
            let there = self
                .all
                .get_mut(&dest)
                .expect("every named subscription is in `all`: both are filled together");
            if there.spec.shared != spec.shared {
                return Err(SubscribeError::OtherKind {
                    identity: spec.identity,
                    shared: there.spec.shared,
                });
            }
            if !there.consumers.is_empty() && !spec.shared {
                return Err(SubscribeError::Active(spec.identity));
            }
            if there.spec.wants_the_same(&spec) {
                there.consumers.push(consumer);
                return Ok(Joined {
                    dest,
                    name: spec.identity.destination(dest),
                    definition: None,
                    dropped,
                });
            }
            if !there.consumers.is_empty() {
                return Err(SubscribeError::Differs(spec.identity));
            }
            self.remove(dest);
            dropped = Some(dest);
        }
        let name = spec.identity.destination(fresh);
        let definition = Some(spec.definition());
        self.insert(fresh, spec, vec![consumer]);
        Ok(Joined {
            dest: fresh,
            name,
            definition,
            dropped,
        })
    }

    /// A consumer is gone; true: its subscription went with it and is to be dropped.
    pub fn leave(&mut self, consumer: ConsumerKey, dest: DestId) -> bool {
        let Some(subscription) = self.all.get_mut(&dest) else {
            return false;
        };
        subscription.consumers.retain(|other| *other != consumer);
        let ends = subscription.consumers.is_empty() && !subscription.spec.identity.is_durable();
        if ends {
            self.remove(dest);
        }
        ends
    }

    /// A session deletes a durable subscription, which has no consumers but its own; it is to be
    /// dropped.
    ///
    /// # Errors
    /// When there is none, or others consume from it.
    pub fn forget(
        &mut self,
        session: SessionKey,
        identity: &Identity,
    ) -> Result<DestId, ForgetError> {
        let dest = self.named.get(identity).copied();
        let found = dest.and_then(|dest| Some((dest, self.all.get(&dest)?)));
        let Some((dest, subscription)) = found else {
            return Err(ForgetError::Unknown(identity.clone()));
        };
        if subscription
            .consumers
            .iter()
            .any(|consumer| consumer.session != session)
        {
            return Err(ForgetError::Active(identity.clone()));
        }
        self.remove(dest);
        Ok(dest)
    }

    /// The subscriptions that a message goes to; what was in `targets` is gone.
    pub fn route(
        &self,
        topic: TopicName<'_>,
        publisher: Publisher<'_>,
        message: &[u8],
        targets: &mut Vec<DestId>,
    ) {
        self.router.matching(topic, targets);
        // Read once, and only if somebody asks what is in it.
        let mut read = None;
        targets.retain(|dest| {
            let Some(subscription) = self.all.get(dest) else {
                return false;
            };
            let message = match (&subscription.spec.selector, &mut read) {
                (None, _) => None,
                (Some(_), Some(read)) => *read,
                (Some(_), read @ None) => *read.insert(Message::read(message).ok()),
            };
            subscription.wants(publisher, message.as_ref())
        });
    }

    fn insert(&mut self, dest: DestId, spec: SubscriptionSpec, consumers: Vec<ConsumerKey>) {
        self.router.insert(&spec.pattern, dest);
        if spec.identity != Identity::Anonymous {
            self.named.insert(spec.identity.clone(), dest);
        }
        self.all.insert(dest, Subscription { spec, consumers });
    }

    fn remove(&mut self, dest: DestId) {
        if let Some(gone) = self.all.remove(&dest) {
            self.router.remove(&gone.spec.pattern, dest);
            self.named.remove(&gone.spec.identity);
        }
    }
}

#[cfg(test)]
mod tests;
