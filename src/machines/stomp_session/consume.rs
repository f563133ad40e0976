//! SUBSCRIBE, UNSUBSCRIBE and the deliveries in between.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::ends::Problem;
use super::publish::{decimal, is_brokers};
use super::requests::Receipt;
use super::subscriptions::{AckMode, Subscription, message_head};
use super::topics::{any_destination, is_browser, selector};
use super::{Phase, SessionEffect, StompSession, write_receipt};
use crate::machines::delivery::{ConsumerTraits, Delivery};
use crate::proto::message::{Message, MessageError, PRIORITY_DEFAULT, Parts};
use crate::proto::stomp::encode::put_decimal;
use crate::proto::stomp::{ClientFrame, FrameWriter, Version};

impl StompSession {
    pub(super) fn subscribe(
        &mut self,
        frame: &ClientFrame,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        let header = |name: &'static str| frame.headers.raw_value(name.as_bytes());
        let spelling =
            header("destination").ok_or_else(|| Problem::missing("SUBSCRIBE", "destination"))?;
        let spelling = frame.headers.unescape(spelling);
        let destination = any_destination(&spelling, &self.temporaries)?;
        let id = header("id");
        if id.is_none() && self.version > Version::V1_0 {
            return Err(Problem::missing("SUBSCRIBE", "id"));
        }
        self.check_free(id, destination.spelling())?;
        let ack = match header("ack") {
            None => AckMode::Auto,
            Some(text) => AckMode::parse(text).ok_or_else(|| {
                Problem::new(
                    "the ack header is wrong",
                    "ack is auto, client or client-individual",
                )
            })?,
        };
        if is_browser(frame) && ack != AckMode::Auto {
            return Err(Problem::new(
                "the ack header is wrong",
                "a browser gets copies, of which nothing is acknowledged; subscribe with ack:auto",
            ));
        }
        let prefetch = self.prefetch(frame)?;
        let traits = traits(frame)?;
        let number = self.subscriptions.next_number().ok_or_else(|| {
            Problem::new(
                "too many subscriptions",
                "this connection has used up its subscription numbers; connect again",
            )
        })?;
        let attach = self
            .special_consumer(frame, &destination, number, prefetch, effects)?
            .unwrap_or_else(|| SessionEffect::Attach {
                destination: destination.clone(),
                consumer: number,
                prefetch,
                traits,
            });
        let topic = if let SessionEffect::Subscribe { subscription, .. } = &attach {
            Some(subscription.identity.clone())
        } else {
            None
        };
        let shown = topic.is_none().then_some(&*spelling);
        self.subscriptions.push(Subscription {
            number,
            id: id.map(Box::from),
            head: message_head(self.version, id, shown),
            destination,
            ack,
            topic,
            unsettled: VecDeque::new(),
            deliveries: 0,
            attaching: true,
            receipt: header("receipt").map(Receipt::new),
        });
        effects.push(attach);
        Ok(())
    }

    /// There is room for one more subscription, and this one can be told from the others.
    fn check_free(&mut self, id: Option<&[u8]>, destination: &str) -> Result<(), Problem> {
        let taken = self.subscriptions.iter_mut().any(|subscription| {
            subscription.id.as_deref() == id
                && (id.is_some() || subscription.destination.spelling() == destination)
        });
        if taken {
            let shown = id.map_or(destination.into(), String::from_utf8_lossy);
            return Err(Problem::new(
                "the subscription exists",
                format!("{shown:?} is subscribed already; use another id, or UNSUBSCRIBE first"),
            ));
        }
        let standing = self.subscriptions.standing();
        if standing >= self.config.max_subscriptions {
            return Err(Problem::new(
                "too many subscriptions",
                format!(
                    "a connection may have {} subscriptions; UNSUBSCRIBE some, or use more \
                     connections",
                    self.config.max_subscriptions
                ),
            ));
        }
        Ok(())
    }

    /// The credit of a new consumer.
    fn prefetch(&self, frame: &ClientFrame) -> Result<u32, Problem> {
        let most = self.config.max_prefetch.max(1);
        // Zero is RabbitMQ's "no limit", and ActiveMQ's "only when asked", which STOMP cannot ask.
        let spellings = [("prefetch-count", most), ("activemq.prefetchSize", 1)];
        for (name, zero) in spellings {
            if let Some(text) = frame.headers.raw_value(name.as_bytes()) {
                return match decimal(text) {
                    Some(0) => Ok(zero),
                    Some(count) => Ok(u32::try_from(count).unwrap_or(most).min(most)),
                    None => Err(Problem::new(
                        "the prefetch header is wrong",
                        format!("{name} is a number of messages"),
                    )),
                };
            }
        }
        Ok(self.config.default_prefetch.clamp(1, most))
    }

    pub(super) fn unsubscribe(
        &mut self,
        frame: &ClientFrame,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        let id = frame.headers.raw_value(b"id");
        let destination = frame.headers.get("destination");
        let subscription = match (id, destination) {
            (Some(id), _) => self
                .subscriptions
                .take(|subscription| subscription.id.as_deref() == Some(id)),
            (None, Some(destination)) if self.version == Version::V1_0 => self
                .subscriptions
                .take(|subscription| subscription.destination.spelling() == destination),
            (None, _) => return Err(Problem::missing("UNSUBSCRIBE", "id")),
        };
        let Some(subscription) = subscription else {
            if self.forget(frame, None, effects)? {
                return Ok(());
            }
            return Err(Problem::new(
                "unknown subscription",
                "UNSUBSCRIBE names no subscription of this connection",
            ));
        };
        let consumer = subscription.number;
        if subscription.ack == AckMode::Auto && !subscription.unsettled.is_empty() {
            // They are on their way to the client: detached now, they would be delivered again.
            let sent = subscription.unsettled.into_iter();
            let sent = sent.map(|sent| sent.lsn).collect();
            self.subscriptions.leaving.push((consumer, sent));
        } else {
            let keep = self.transactions.of_consumer(consumer);
            if keep.is_empty() {
                effects.push(SessionEffect::Detach { consumer });
            } else {
                // JMS lets a consumer be closed before its session commits.
                self.subscriptions.retired.push(consumer);
                effects.push(SessionEffect::Retire { consumer, keep });
            }
        }
        if let Some(receipt) = subscription.receipt {
            self.subscriptions.awaited.push((consumer, receipt));
        }
        if !self.forget(frame, subscription.topic, effects)?
            && let Some(receipt) = frame.headers.raw_value(b"receipt")
        {
            write_receipt(out, self.version, receipt);
        }
        Ok(())
    }

    /// A consumer that could not be: its SUBSCRIBE is answered with an ERROR.
    pub(super) fn not_attached(
        &mut self,
        consumer: u32,
        reason: String,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        let subscription = self
            .subscriptions
            .take(|subscription| subscription.number == consumer);
        let receipt = subscription.and_then(|subscription| subscription.receipt);
        let problem = Problem::new("the subscription was refused", reason);
        self.fail(&problem, receipt.as_ref().map(Receipt::raw), out, effects);
    }

    /// A browser has seen everything.
    pub(super) fn browsed(&mut self, consumer: u32, out: &mut BytesMut) {
        if let Some(subscription) = self.subscriptions.by_number(consumer) {
            out.extend_from_slice(&subscription.head);
            out.extend_from_slice(b"end\n");
            let mut frame = FrameWriter::resume(out, self.version);
            frame.raw_header("browser", b"end");
            frame.body(b"");
        }
    }

    pub(super) fn attached(&mut self, consumer: u32, out: &mut BytesMut) {
        if let Some(subscription) = self.subscriptions.by_number(consumer) {
            subscription.attaching = false;
            if let Some(receipt) = subscription.receipt.take() {
                write_receipt(out, self.version, receipt.raw());
            }
            return;
        }
        let awaited = &mut self.subscriptions.awaited;
        if let Some(at) = awaited.iter().position(|(number, _)| *number == consumer) {
            let (_, receipt) = awaited.swap_remove(at);
            write_receipt(out, self.version, receipt.raw());
        }
    }

    /// Writes MESSAGE frames. Those for a subscription that ended are passed over: its `Detach` puts
    /// them back.
    pub(super) fn deliver(
        &mut self,
        consumer: u32,
        deliveries: &[Delivery],
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        match self.phase {
            Phase::Connected => {}
            Phase::Greeting { .. } | Phase::Leaving { .. } | Phase::Closed => return Ok(()),
        }
        let version = self.version;
        let Some(subscription) = self.subscriptions.by_number(consumer) else {
            return Ok(());
        };
        let mut large = None;
        for delivery in deliveries {
            let parts = write_message(out, version, subscription, delivery).map_err(|error| {
                Problem::new(
                    "a message cannot be read",
                    format!(
                        "message {} of {}: {error}; it stays where it is",
                        delivery.lsn, subscription.destination
                    ),
                )
            })?;
            subscription.send(delivery.lsn);
            if let Some(parts) = parts {
                assert!(
                    large.is_none(),
                    "a large message is the last of those that are given together"
                );
                large = Some(parts);
            }
        }
        if let Some(parts) = large {
            self.begin_download(parts, effects);
        }
        Ok(())
    }
}

/// What SUBSCRIBE says of the consumer besides its credit.
fn traits(frame: &ClientFrame) -> Result<ConsumerTraits, Problem> {
    let mut traits = ConsumerTraits {
        exclusive: false,
        selector: selector(frame)?,
    };
    for name in ["exclusive", "activemq.exclusive"] {
        traits.exclusive |= match frame.headers.raw_value(name.as_bytes()) {
            None | Some(b"false") => false,
            Some(b"true") => true,
            Some(_) => {
                return Err(Problem::new(
                    "the exclusive header is wrong",
                    format!("{name} is true or false"),
                ));
            }
        };
    }
    Ok(traits)
}

/// Writes a MESSAGE; where its body is in parts, only its head, and says where they are.
fn write_message(
    out: &mut BytesMut,
    version: Version,
    subscription: &Subscription,
    delivery: &Delivery,
) -> Result<Option<Parts>, MessageError> {
    let message = Message::read(&delivery.message)?;
    let parts = message.parts();
    out.reserve(subscription.head.len() + delivery.message.len() + 160);
    out.extend_from_slice(&subscription.head);
    put_decimal(out, delivery.lsn.0);
    out.extend_from_slice(b"\n");
    if version == Version::V1_2 && subscription.ack != AckMode::Auto {
        out.extend_from_slice(b"ack:");
        put_decimal(out, u64::from(subscription.number));
        out.extend_from_slice(b"-");
        put_decimal(out, delivery.lsn.0);
        out.extend_from_slice(b"\n");
    }
    let mut frame = FrameWriter::resume(out, version);
    if subscription.topic.is_some() {
        let to = message.properties().to;
        let to = to.unwrap_or_else(|| subscription.destination.spelling());
        frame.header("destination", to.as_bytes());
    }
    if delivery.redelivered {
        frame.raw_header("redelivered", b"true");
    }
    if delivery.failures > 0 {
        let count = u64::from(delivery.failures).saturating_add(1);
        frame.number_header("JMSXDeliveryCount", count);
    }
    let envelope = message.envelope();
    if envelope.persistent {
        frame.raw_header("persistent", b"true");
    }
    if envelope.priority != PRIORITY_DEFAULT {
        frame.number_header("priority", u64::from(envelope.priority));
    }
    if let Some(expiry) = envelope.expiry_ms {
        frame.number_header("expires", expiry);
    }
    let properties = message.properties();
    for (name, value) in [
        ("JMSXGroupID", envelope.group),
        ("_AMQ_DUPL_ID", envelope.duplicate_id),
        ("reply-to", properties.reply_to),
        ("correlation-id", properties.correlation_id),
        ("content-type", properties.content_type),
    ] {
        if let Some(value) = value {
            frame.header(name, value.as_bytes());
        }
    }
    for (name, value) in message.headers() {
        // AMQP allows an empty name, a frame does not.
        if !name.is_empty() && !is_brokers(name.as_bytes()) {
            frame.foreign_header(name.as_bytes(), value.as_bytes());
        }
    }
    match &parts {
        Some(parts) => frame.body_follows(parts.bytes()),
        None => frame.body(message.body()),
    }
    Ok(parts)
}
