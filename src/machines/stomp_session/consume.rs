//! SUBSCRIBE, UNSUBSCRIBE and the deliveries in between.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::ends::Problem;
use super::publish::{decimal, is_brokers, queue};
use super::requests::Receipt;
use super::subscriptions::{AckMode, Subscription, message_head};
use super::{Phase, SessionEffect, StompSession, write_receipt};
use crate::machines::delivery::{ConsumerTraits, Delivery};
use crate::proto::message::{Message, MessageError, PRIORITY_DEFAULT};
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
        let destination = queue(&frame.headers.unescape(spelling))?;
        let id = header("id");
        if id.is_none() && self.version > Version::V1_0 {
            return Err(Problem::missing("SUBSCRIBE", "id"));
        }
        self.check_free(id, destination.spelling())?;
        if header("selector").is_some() {
            return Err(Problem::new(
                "selectors are not available yet in this version",
                "subscribe without the selector header",
            ));
        }
        let ack = match header("ack") {
            None => AckMode::Auto,
            Some(text) => AckMode::parse(text).ok_or_else(|| {
                Problem::new(
                    "the ack header is wrong",
                    "ack is auto, client or client-individual",
                )
            })?,
        };
        let prefetch = self.prefetch(frame)?;
        let traits = traits(frame)?;
        let number = self.subscriptions.next_number().ok_or_else(|| {
            Problem::new(
                "too many subscriptions",
                "this connection has used up its subscription numbers; connect again",
            )
        })?;
        self.subscriptions.push(Subscription {
            number,
            id: id.map(Box::from),
            head: message_head(self.version, id, &destination),
            destination: destination.clone(),
            ack,
            unsettled: VecDeque::new(),
            deliveries: 0,
            attaching: true,
            receipt: header("receipt").map(Receipt::new),
        });
        effects.push(SessionEffect::Attach {
            destination,
            consumer: number,
            prefetch,
            traits,
        });
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
        if let Some(receipt) = frame.headers.raw_value(b"receipt") {
            write_receipt(out, self.version, receipt);
        }
        Ok(())
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
    ) -> Result<(), Problem> {
        match self.phase {
            Phase::Connected => {}
            Phase::Greeting { .. } | Phase::Leaving { .. } | Phase::Closed => return Ok(()),
        }
        let version = self.version;
        let Some(subscription) = self.subscriptions.by_number(consumer) else {
            return Ok(());
        };
        for delivery in deliveries {
            write_message(out, version, subscription, delivery).map_err(|error| {
                Problem::new(
                    "a message cannot be read",
                    format!(
                        "message {} of {}: {error}; it stays where it is",
                        delivery.lsn, subscription.destination
                    ),
                )
            })?;
            subscription.send(delivery.lsn);
        }
        Ok(())
    }
}

/// What SUBSCRIBE says of the consumer besides its credit.
fn traits(frame: &ClientFrame) -> Result<ConsumerTraits, Problem> {
    let mut traits = ConsumerTraits::default();
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

fn write_message(
    out: &mut BytesMut,
    version: Version,
    subscription: &Subscription,
    delivery: &Delivery,
) -> Result<(), MessageError> {
    let message = Message::read(&delivery.message)?;
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
    frame.body(message.body());
    Ok(())
}
