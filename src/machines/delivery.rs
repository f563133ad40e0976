//! What sessions and destinations say to each other: the one vocabulary of the data path, for every
//! client protocol.

use std::sync::Arc;

use bytes::Bytes;

use crate::machines::selector::Selector;
use crate::proto::ids::Lsn;
use crate::storage::api::{Draft, Entry, Lane, Times};

/// A client connection, for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u32);

/// A subscription of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerKey {
    /// Whose.
    pub session: SessionKey,
    /// Counts up within the session, never used twice.
    pub number: u32,
}

/// A request of one session that will be answered: counts up from 1 within the session. Zero: no
/// answer is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestNumber(pub u32);

/// What a consumer is besides its credit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerTraits {
    /// It wants to be alone: of those that do, the first one gets every message while it is there.
    pub exclusive: bool,
    /// It gets only what this takes; none: everything.
    pub selector: Option<Arc<Selector>>,
}

/// What becomes of delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done with: an ack record.
    Accepted,
    /// Back to the queue at its old place, flagged redelivered (NACK).
    Released,
}

/// A message on its way to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Position and broker message-id.
    pub lsn: Lsn,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// How often it was delivered in vain, as far as is known: a server that dies leaves no count.
    pub failures: u32,
    /// The canonical message.
    pub message: Bytes,
}

/// A transaction whose COMMIT was read, by the request that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey {
    /// Whose.
    pub session: SessionKey,
    /// Its COMMIT: never zero.
    pub request: RequestNumber,
}

/// What a transaction does with deliveries of one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Whose deliveries.
    pub consumer: ConsumerKey,
    /// Which; each must be unsettled with the consumer.
    pub lsns: Vec<Lsn>,
    /// How.
    pub outcome: Outcome,
}

/// What a destination adds to a transaction's unit.
#[derive(Clone, Debug, Default)]
pub struct Share {
    /// Its own definition, if the store may not have it: before the first PUT. Defined twice is as
    /// defined once.
    pub definition: Option<Draft>,
    /// The acknowledgements.
    pub acks: Vec<Draft>,
}

/// Whose requests an operator's are: sessions are counted from 1, and none gets as far as this.
pub const OPERATOR: SessionKey = SessionKey(u32::MAX);

/// A message that an operator takes out of a destination.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Which.
    pub lsn: Lsn,
    /// Where it waits.
    pub times: Times,
    /// What is written in the same unit: the message's PUT elsewhere, or nothing.
    pub records: Vec<Draft>,
}

/// From a session to a destination.
#[derive(Clone, Debug)]
pub enum DestinationCommand {
    /// Messages to store, in order. Each has a request number of its own (never zero, so that the
    /// session knows when its permit is free) and is answered with [`SessionEvent::Committed`] or
    /// [`SessionEvent::Refused`].
    Publish {
        /// Who publishes.
        session: SessionKey,
        /// In order.
        messages: Vec<(RequestNumber, Bytes)>,
    },
    /// A new consumer; answered with [`SessionEvent::Attached`].
    Attach {
        /// Who.
        consumer: ConsumerKey,
        /// How many deliveries may be unsettled at once: at least 1.
        prefetch: u32,
        /// What else it is.
        traits: ConsumerTraits,
    },
    /// The consumer is gone; what it had not settled goes back to its place, flagged redelivered.
    Detach {
        /// Who.
        consumer: ConsumerKey,
    },
    /// Deliveries are settled, which also gives the credit back.
    Settle {
        /// By whom.
        consumer: ConsumerKey,
        /// Which; those that are not unsettled with this consumer are passed over.
        lsns: Vec<Lsn>,
        /// How.
        outcome: Outcome,
        /// Answered once the outcome is durable (at once for `Released`).
        request: RequestNumber,
    },
    /// A transaction is to be committed: what it settles is nobody else's until `Finish`, whoever
    /// goes meanwhile. Answered at once, with a [`Share`] of its unit or with the reason why not;
    /// then nothing has changed.
    Prepare {
        /// Which.
        transaction: TransactionKey,
        /// What it settles here; all or nothing.
        settlements: Vec<Settlement>,
        /// Messages that it puts here.
        puts: usize,
    },
    /// The transaction's unit was submitted, or nothing of it was and everything is as before. Only
    /// after a `Share` was answered; those that were submitted come in the order of that.
    Finish {
        /// Which.
        transaction: TransactionKey,
        /// `Some`: it was submitted, when so many ack records of the destination's own had been.
        submitted: Option<u64>,
    },
    /// The consumer takes no more, and gives back what it has not settled but these, which an open
    /// transaction settles. `Detach` follows when the last of them has ended.
    Retire {
        /// Who.
        consumer: ConsumerKey,
        /// What it keeps.
        keep: Vec<Lsn>,
    },
    /// An operator takes messages out that no consumer and no transaction holds. Answered at once with
    /// what was taken; that is one unit with [`OPERATOR`]'s ticket for the request, if it is anything.
    Remove {
        /// Which batch, never used twice.
        request: RequestNumber,
        /// In LSN order, at or below the commit index that came with the command.
        removals: Vec<Removal>,
        /// Definitions of the destinations that the records name.
        definitions: Vec<Draft>,
    },
    /// An operator asks the store what is owed here, to remove some of it: what is settled from now on
    /// is remembered, because the answer may not know it. Before the question; a new one takes the place
    /// of the last.
    Look {
        /// `false`: nothing will be removed any more by what was asked.
        asks: bool,
    },
    /// Messages to keep in memory alone; nobody waits for an answer. The destination's share of that
    /// memory has given them their room and their positions.
    Keep {
        /// In order.
        messages: Vec<(Lsn, Bytes)>,
    },
    /// A browser's or an operator's look at what is kept in memory alone; answered at once.
    Show {
        /// Comes back with the answer.
        tag: u32,
        /// Only of this lane; none: of all.
        lane: Option<Lane>,
        /// Only beyond this.
        after: Lsn,
        /// At most.
        count: usize,
    },
}

/// From destinations (and the store, through the directory) to a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// Answer to `Attach`.
    Attached {
        /// `ConsumerKey::number`.
        consumer: u32,
    },
    /// Messages for a consumer.
    Delivered {
        /// `ConsumerKey::number`.
        consumer: u32,
        /// In order.
        deliveries: Vec<Delivery>,
    },
    /// These requests are durable on every server of the in-sync set.
    Committed {
        /// In commit order.
        requests: Vec<RequestNumber>,
    },
    /// This request was not carried out; nothing was stored.
    Refused {
        /// Which.
        request: RequestNumber,
        /// In words for the client, e.g. that the disk is almost full.
        reason: String,
    },
    /// The server stops serving: close after this.
    Closing {
        /// In words.
        reason: String,
    },
    /// Answer to an attempt to consume that cannot be.
    NotAttached {
        /// `ConsumerKey::number`.
        consumer: u32,
        /// In words for the client.
        reason: String,
    },
    /// A browser was given everything; comes in order with what was delivered.
    Browsed {
        /// `ConsumerKey::number`.
        consumer: u32,
    },
    /// The unit of this transaction has its place in the log: what the session does now comes after
    /// it. `Committed` follows when it is durable.
    Submitted {
        /// Its COMMIT.
        request: RequestNumber,
    },
    /// Parts of a body have their places in the log, in the order in which they were given. `Committed`
    /// of their requests follows.
    PartsStored {
        /// Which of the session's bodies.
        upload: u32,
        /// Where they are.
        lsns: Vec<Lsn>,
    },
    /// Parts of a body, as they were asked for; fewer, if the message is no more.
    PartsRead {
        /// In order.
        parts: Vec<Bytes>,
    },
}

impl From<&Entry> for Delivery {
    fn from(entry: &Entry) -> Self {
        Self {
            lsn: entry.lsn,
            redelivered: entry.marked || entry.failures > 0,
            failures: entry.failures,
            message: entry.message.clone(),
        }
    }
}
