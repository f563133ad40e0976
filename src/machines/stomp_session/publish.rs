//! SEND: the frame becomes a canonical message.

use std::borrow::Cow;

use bytes::BytesMut;

use super::ends::Problem;
use super::requests::Receipt;
use super::topics::{Temporaries, send_destination};
use super::uploads::Head;
use super::{SessionEffect, StompSession};
use crate::proto::destination::DestinationName;
use crate::proto::message::{Envelope, MessageWriter, PRIORITY_DEFAULT, Properties};
use crate::proto::stomp::frame::RawHeader;
use crate::proto::stomp::{ClientFrame, Headers};

/// How many destinations are remembered.
const RECENT: usize = 8;

/// Destinations as they were last parsed.
#[derive(Debug, Default)]
pub(super) struct RecentDestinations {
    names: Vec<DestinationName>,
    /// The next one to be replaced.
    oldest: usize,
}

impl RecentDestinations {
    fn find(
        &mut self,
        spelling: &[u8],
        temporaries: &Temporaries,
    ) -> Result<DestinationName, Problem> {
        let known = |name: &&DestinationName| name.spelling().as_bytes() == spelling;
        if let Some(name) = self.names.iter().find(known) {
            return Ok(name.clone());
        }
        let name = send_destination(spelling, temporaries)?;
        if self.names.len() < RECENT {
            self.names.push(name.clone());
        } else {
            self.names[self.oldest] = name.clone();
            self.oldest = (self.oldest + 1) % RECENT;
        }
        Ok(name)
    }
}

/// The headers of a SEND that mean something here, as they came; of repeated ones the first.
#[derive(Default)]
struct SendHeaders<'a> {
    destination: Option<&'a [u8]>,
    receipt: Option<&'a [u8]>,
    transaction: Option<&'a [u8]>,
    priority: Option<&'a [u8]>,
    expires: Option<&'a [u8]>,
    persistent: Option<&'a [u8]>,
    delay: Option<&'a [u8]>,
    due: Option<&'a [u8]>,
    group: Option<&'a [u8]>,
    duplicate_id: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    reply_to: Option<&'a [u8]>,
    correlation_id: Option<&'a [u8]>,
    /// The application's own, each name once.
    own: Vec<RawHeader<'a>>,
    own_bytes: usize,
}

impl<'a> SendHeaders<'a> {
    fn read(headers: &'a Headers) -> Self {
        let mut found = Self::default();
        for header in headers.raw() {
            let place = match header.name {
                b"destination" => &mut found.destination,
                b"receipt" => &mut found.receipt,
                b"transaction" => &mut found.transaction,
                b"priority" => &mut found.priority,
                b"expires" => &mut found.expires,
                b"persistent" => &mut found.persistent,
                b"AMQ_SCHEDULED_DELAY" => &mut found.delay,
                b"_AMQ_SCHED_DELIVERY" => &mut found.due,
                b"JMSXGroupID" => &mut found.group,
                b"_AMQ_DUPL_ID" => &mut found.duplicate_id,
                b"content-type" => &mut found.content_type,
                b"reply-to" => &mut found.reply_to,
                b"correlation-id" => &mut found.correlation_id,
                name => {
                    if !is_brokers(name) && !found.own.iter().any(|own| own.name == name) {
                        found.own_bytes += name.len() + header.value.len() + 10;
                        found.own.push(header);
                    }
                    continue;
                }
            };
            place.get_or_insert(header.value);
        }
        found
    }
}

/// Headers of MESSAGE that only the broker writes: those that an application sends are dropped, so
/// that it cannot pass for the broker. `persistent` is the broker's because every message is.
pub(super) fn is_brokers(name: &[u8]) -> bool {
    matches!(
        name,
        b"destination"
            | b"content-length"
            | b"persistent"
            | b"message-id"
            | b"subscription"
            | b"ack"
            | b"redelivered"
            | b"priority"
            | b"expires"
            | b"content-type"
            | b"reply-to"
            | b"correlation-id"
            | b"AMQ_SCHEDULED_DELAY"
            | b"_AMQ_SCHED_DELIVERY"
            | b"JMSXDeliveryCount"
            | b"JMSXGroupID"
            | b"_AMQ_DUPL_ID"
            | b"receipt"
            | b"receipt-id"
            | b"transaction"
            | b"browser"
    )
}

impl StompSession {
    pub(super) fn send(
        &mut self,
        frame: &ClientFrame,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        let (destination, headers, writer) = self.compose(frame, effects)?;
        let message = writer
            .finish(&frame.body)
            .map_err(|error| Problem::new("the message is too large", error.to_string()))?;
        if let Some(id) = headers.transaction {
            let limits = self.config.transactions;
            self.transactions.send(id, destination, message, limits)?;
            self.confirm_now(frame, out);
            return Ok(());
        }
        let request = self.requests.open(headers.receipt.map(Receipt::new));
        effects.push(SessionEffect::Publish {
            destination,
            request,
            message,
        });
        Ok(())
    }

    /// What a SEND says whose body is large.
    pub(super) fn large_send(
        &mut self,
        frame: &ClientFrame,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<Head, Problem> {
        let (destination, headers, writer) = self.compose(frame, effects)?;
        Ok(Head {
            destination,
            writer,
            transaction: headers.transaction.map(Box::from),
            receipt: headers.receipt.map(Receipt::new),
        })
    }

    /// Everything of a message but its body.
    fn compose<'a>(
        &mut self,
        frame: &'a ClientFrame,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(DestinationName, SendHeaders<'a>, MessageWriter), Problem> {
        let headers = SendHeaders::read(&frame.headers);
        let spelling = headers
            .destination
            .ok_or_else(|| Problem::missing("SEND", "destination"))?;
        let spelling = frame.headers.unescape(spelling);
        let destination = self.destinations.find(&spelling, &self.temporaries)?;
        let reply_to = match headers.reply_to.map(|raw| text(&frame.headers, raw)) {
            None => None,
            Some(spelling) => Some(match self.reply_to(&spelling, effects)? {
                Some(name) => Cow::Owned(name.spelling().to_owned()),
                None => spelling,
            }),
        };
        let sender = Sender {
            destination: &destination,
            reply_to: reply_to.as_deref(),
            user: self.login.as_deref(),
        };
        let writer = encode(frame, &headers, sender, self.wall_ms)?;
        Ok((destination, headers, writer))
    }
}

/// What a message says besides what its frame does.
struct Sender<'a> {
    destination: &'a DestinationName,
    /// As others spell it.
    reply_to: Option<&'a str>,
    user: Option<&'a str>,
}

fn encode(
    frame: &ClientFrame,
    headers: &SendHeaders<'_>,
    sender: Sender<'_>,
    wall_ms: u64,
) -> Result<MessageWriter, Problem> {
    let plain = |raw| text(&frame.headers, raw);
    let group = headers.group.map(plain);
    let duplicate_id = headers.duplicate_id.map(plain);
    let correlation_id = headers.correlation_id.map(plain);
    let content_type = headers.content_type.map(plain);
    let envelope = Envelope {
        persistent: headers.persistent != Some(b"false"),
        priority: match headers.priority {
            None => PRIORITY_DEFAULT,
            Some([digit @ b'0'..=b'9']) => digit - b'0',
            Some(_) => {
                return Err(Problem::new(
                    "the priority header is wrong",
                    "priority is a digit from 0 to 9",
                ));
            }
        },
        expiry_ms: match headers.expires.map(decimal) {
            // Zero is how JMS spells never.
            None | Some(Some(0)) => None,
            Some(Some(expiry)) => Some(expiry),
            Some(None) => {
                return Err(Problem::new(
                    "the expires header is wrong",
                    "expires is a time in milliseconds since 1970, or 0 for never",
                ));
            }
        },
        due_ms: due(headers, wall_ms)?,
        group: group.as_deref(),
        duplicate_id: duplicate_id.as_deref(),
        user: sender.user,
    };
    let properties = Properties {
        to: Some(sender.destination.spelling()),
        reply_to: sender.reply_to,
        correlation_id: correlation_id.as_deref(),
        content_type: content_type.as_deref(),
    };
    let capacity = headers.own_bytes + frame.body.len();
    let mut writer = MessageWriter::new(&envelope, &properties, capacity);
    for RawHeader { name, value } in &headers.own {
        writer.header(&plain(name), &plain(value));
    }
    Ok(writer)
}

/// When the message is to be delivered: ActiveMQ's header has a delay, Artemis's a time.
fn due(headers: &SendHeaders<'_>, wall_ms: u64) -> Result<Option<u64>, Problem> {
    let wrong = |name: &str, what: &str| {
        Problem::new(
            "the time of a delayed message is wrong",
            format!("{name} is {what}, in milliseconds"),
        )
    };
    if let Some(delay) = headers.delay {
        let delay = decimal(delay).ok_or_else(|| wrong("AMQ_SCHEDULED_DELAY", "a delay"))?;
        return Ok((delay > 0).then(|| wall_ms.saturating_add(delay)));
    }
    let Some(due) = headers.due else {
        return Ok(None);
    };
    let due = decimal(due).ok_or_else(|| wrong("_AMQ_SCHED_DELIVERY", "a time since 1970"))?;
    Ok((due > 0).then_some(due))
}

/// The text of a raw name or value. The decoder has checked that it is UTF-8, and no escape changes
/// that.
fn text<'a>(headers: &Headers, raw: &'a [u8]) -> Cow<'a, str> {
    match headers.unescape(raw) {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// A number written in digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}
