//! The consumers of a session: what each has been sent and has not settled.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::requests::Receipt;
use crate::machines::subscriptions::Identity;
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;
use crate::proto::stomp::{FrameWriter, ServerCommand, Version};

/// What stands before the LSN in a `message-id`.
pub(super) const MESSAGE_ID_PREFIX: &str = "tm-";

/// When a delivery counts as settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    /// Once its bytes have reached the socket.
    Auto,
    /// By an ACK of it or of a later one.
    Client,
    /// By an ACK of its own.
    Individual,
}

impl AckMode {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        [
            (&b"auto"[..], Self::Auto),
            (b"client", Self::Client),
            (b"client-individual", Self::Individual),
        ]
        .into_iter()
        .find_map(|(spelling, mode)| (spelling == text).then_some(mode))
    }
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) number: u32,
    /// As the client spelled it; 1.0 may leave it out.
    pub(super) id: Option<Box<[u8]>>,
    pub(super) destination: DestinationName,
    pub(super) ack: AckMode,
    /// Of a topic: each message says which, and this is how the subscription is found again.
    pub(super) topic: Option<Identity>,
    /// The first lines of each of its MESSAGE frames, up to the LSN of the message-id.
    pub(super) head: Bytes,
    /// Sent, in the order of sending. Auto: not yet known to have reached the socket; others: not
    /// acknowledged. Bounded by the credit.
    pub(super) unsettled: VecDeque<Sent>,
    /// Deliveries that were sent.
    pub(super) deliveries: u64,
    /// Its consumer is not attached yet.
    pub(super) attaching: bool,
    /// Leaves when it is attached.
    pub(super) receipt: Option<Receipt>,
}

/// A delivery that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) lsn: Lsn,
    /// Its place in the order of sending.
    ordinal: u64,
}

impl Subscription {
    /// A delivery is sent.
    pub(super) fn send(&mut self, lsn: Lsn) {
        self.deliveries = self.deliveries.saturating_add(1);
        let ordinal = self.deliveries;
        self.unsettled.push_back(Sent { lsn, ordinal });
    }

    /// It was sent, and is not acknowledged.
    pub(super) fn waits_for(&self, lsn: Lsn) -> bool {
        self.unsettled.iter().any(|sent| sent.lsn == lsn)
    }

    /// Puts back what [`Subscription::settle`] took, each at its place.
    pub(super) fn restore(&mut self, sent: Vec<Sent>) {
        self.unsettled.extend(sent);
        let all = self.unsettled.make_contiguous();
        all.sort_unstable_by_key(|sent| sent.ordinal);
    }

    /// Takes what an ACK or NACK of `lsn` settles; `None`: it does not wait for one.
    pub(super) fn settle(&mut self, lsn: Lsn) -> Option<Settled> {
        // Clients mostly acknowledge in order, so the search mostly ends at once.
        let at = self.unsettled.iter().position(|sent| sent.lsn == lsn)?;
        match self.ack {
            AckMode::Auto => None,
            AckMode::Client => Some(Settled::UpTo(self.unsettled.drain(..=at).collect())),
            AckMode::Individual => self.unsettled.remove(at).map(Settled::One),
        }
    }
}

/// What an ACK or NACK settled.
pub(super) enum Settled {
    One(Sent),
    UpTo(Vec<Sent>),
}

impl Settled {
    pub(super) fn into_sent(self) -> Vec<Sent> {
        match self {
            Self::One(sent) => vec![sent],
            Self::UpTo(all) => all,
        }
    }
}

/// The lines of a MESSAGE that are the same for all messages of a subscription. Without a destination
/// where each message has its own.
pub(super) fn message_head(
    version: Version,
    id: Option<&[u8]>,
    destination: Option<&[u8]>,
) -> Bytes {
    let mut head = BytesMut::new();
    let mut frame = FrameWriter::new(&mut head, version, ServerCommand::Message);
    if let Some(id) = id {
        frame.raw_header("subscription", id);
    }
    if let Some(destination) = destination {
        frame.header("destination", destination);
    }
    head.extend_from_slice(b"message-id:");
    head.extend_from_slice(MESSAGE_ID_PREFIX.as_bytes());
    head.freeze()
}

/// All consumers of a session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// By number, which only grows.
    all: Vec<Subscription>,
    last_number: u32,
    /// Unsubscribed in auto mode while deliveries were on their way to the socket.
    pub(super) leaving: Vec<(u32, Vec<Lsn>)>,
    /// Unsubscribed while open transactions acknowledge some of their deliveries.
    pub(super) retired: Vec<u32>,
    /// Unsubscribed before they were attached: the receipts of their SUBSCRIBE.
    pub(super) awaited: Vec<(u32, Receipt)>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Those that hold memory, the ended ones that wait for something too.
    pub(super) fn standing(&self) -> usize {
        self.all.len() + self.leaving.len() + self.retired.len() + self.awaited.len()
    }

    /// The number of the next one; `None` after 2^32.
    pub(super) fn next_number(&mut self) -> Option<u32> {
        self.last_number = self.last_number.checked_add(1)?;
        Some(self.last_number)
    }

    pub(super) fn push(&mut self, subscription: Subscription) {
        self.all.push(subscription);
    }

    pub(super) fn by_number(&mut self, number: u32) -> Option<&mut Subscription> {
        let at = self
            .all
            .binary_search_by_key(&number, |subscription| subscription.number)
            .ok()?;
        self.all.get_mut(at)
    }

    pub(super) fn by_id(&mut self, id: &[u8]) -> Option<&mut Subscription> {
        self.all
            .iter_mut()
            .find(|subscription| subscription.id.as_deref() == Some(id))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.all.iter_mut()
    }

    /// Takes the first one that `is` the one.
    pub(super) fn take(&mut self, is: impl Fn(&Subscription) -> bool) -> Option<Subscription> {
        let at = self.all.iter().position(is)?;
        Some(self.all.remove(at))
    }

    /// Nothing is on its way to the socket or to a destination.
    pub(super) fn is_quiet(&self) -> bool {
        self.leaving.is_empty()
            && self.awaited.is_empty()
            && self.all.iter().all(|subscription| {
                !subscription.attaching
                    && (subscription.ack != AckMode::Auto || subscription.unsettled.is_empty())
            })
    }

    /// Forgets everything; gives the numbers of all consumers.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = u32> + use<'_> {
        self.awaited.clear();
        let leaving = self.leaving.drain(..).map(|(number, _)| number);
        let leaving = leaving.chain(self.retired.drain(..));
        leaving.chain(self.all.drain(..).map(|subscription| subscription.number))
    }
}
