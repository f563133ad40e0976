//! The canonical message: what a store holds and the peer receives, whatever protocol it came by.
//!
//! ```text
//! 1  format (1)
//! 1  flags: 0x01 persistent, 0x02 expiry, 0x04 due, 0x08 group, 0x10 duplicate id, 0x20 user,
//!    0x40 body in parts
//! 1  priority, 0 to 9
//! 8  expiry, milliseconds since 1970      if flagged; big-endian, as all numbers here
//! 8  due, milliseconds since 1970         if flagged
//! 4+n group, 4+n duplicate id, 4+n user   each if flagged: its length and UTF-8
//! .. AMQP 1.0 sections (OASIS part 3.2): properties, application-properties, one data section; for a
//!    body in parts, instead of the data, a section of our own (0x80) with a binary: where they are
//! ```
//!
//! The broker decides by the envelope alone; the sections are the application's. Written in one pass
//! into one buffer, read in place.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

mod amqp;
mod parts;
mod rewrite;

pub use self::parts::{BODY_IN_ONE_MAX, PART_BYTES, Parts};
pub use self::rewrite::{with_headers, without_headers};

/// The format written by this version.
const FORMAT: u8 = 1;
/// A message never has more bytes than this.
pub const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// The priority of a message that says none.
pub const PRIORITY_DEFAULT: u8 = 4;

const PERSISTENT: u8 = 0x01;
const EXPIRY: u8 = 0x02;
const DUE: u8 = 0x04;
const GROUP: u8 = 0x08;
const DUPLICATE_ID: u8 = 0x10;
const USER: u8 = 0x20;
const PARTS: u8 = 0x40;

/// What the broker itself needs to know of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Survives restarts.
    pub persistent: bool,
    /// 0 to 9, 9 goes first.
    pub priority: u8,
    /// Not delivered after this, milliseconds since 1970.
    pub expiry_ms: Option<u64>,
    /// Not delivered before this, milliseconds since 1970.
    pub due_ms: Option<u64>,
    /// Messages of one group go to one consumer.
    pub group: Option<&'a str>,
    /// The application's id for duplicate detection.
    pub duplicate_id: Option<&'a str>,
    /// Who sent it.
    pub user: Option<&'a str>,
}

impl Default for Envelope<'_> {
    fn default() -> Self {
        Self {
            persistent: true,
            priority: PRIORITY_DEFAULT,
            expiry_ms: None,
            due_ms: None,
            group: None,
            duplicate_id: None,
            user: None,
        }
    }
}

/// The AMQP properties that other protocols have too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    /// The address that it was sent to.
    pub to: Option<&'a str>,
    /// Where an answer goes.
    pub reply_to: Option<&'a str>,
    /// What it answers.
    pub correlation_id: Option<&'a str>,
    /// MIME type of the body.
    pub content_type: Option<&'a str>,
}

/// What a property is. Types that JMS has no counterpart for (binaries, UUIDs, decimals, characters,
/// anything compound) are none of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PropertyValue<'a> {
    /// True or false.
    Boolean(bool),
    /// A whole number of any width, or a time in milliseconds since 1970.
    Integer(i64),
    /// A whole number above `i64::MAX`.
    Unsigned(u64),
    /// A float or a double.
    Float(f64),
    /// A string or a symbol.
    Text(&'a str),
}

/// Fields of the AMQP properties section that [`Message::field`] reads as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// message-id
    MessageId,
    /// subject, JMS's type
    Subject,
    /// correlation-id
    CorrelationId,
    /// creation-time, milliseconds since 1970
    CreationTime,
    /// group-id
    GroupId,
}

impl Field {
    /// Its place in the list.
    fn index(self) -> usize {
        match self {
            Self::MessageId => 0,
            Self::Subject => 3,
            Self::CorrelationId => 5,
            Self::CreationTime => 9,
            Self::GroupId => 10,
        }
    }
}

/// The message would exceed [`MESSAGE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the message exceeds {MESSAGE_BYTES_MAX} bytes")]
pub struct MessageTooLarge;

/// Why bytes are not a canonical message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Written by a later version, or no message at all.
    #[error("message format {0} is not known to this version")]
    Format(u8),
    /// The bytes end within a part.
    #[error("the message ends within its {0}")]
    Truncated(&'static str),
    /// A priority above 9.
    #[error("the message's priority is {0}, above 9")]
    Priority(u8),
    /// A text that is not UTF-8.
    #[error("the message's {0} is not UTF-8")]
    Encoding(&'static str),
    /// A section or value that is not what AMQP 1.0 says.
    #[error("the message's {0} is not valid AMQP")]
    Section(&'static str),
}

/// Writes one message: envelope and properties at once, then headers, then the body.
#[derive(Debug)]
pub struct MessageWriter {
    out: BytesMut,
    headers: amqp::MapWriter,
}

impl MessageWriter {
    /// `capacity`: bytes of all headers and of the body, at least; the message is then written
    /// without growing.
    #[must_use]
    pub fn new(envelope: &Envelope<'_>, properties: &Properties<'_>, capacity: usize) -> Self {
        let texts = [
            envelope.group,
            envelope.duplicate_id,
            envelope.user,
            properties.to,
            properties.reply_to,
            properties.correlation_id,
            properties.content_type,
        ];
        let text_bytes: usize = texts.iter().flatten().map(|text| text.len() + 5).sum();
        let mut out = BytesMut::with_capacity(64 + text_bytes + capacity.min(MESSAGE_BYTES_MAX));
        put_envelope(&mut out, envelope);
        amqp::put_properties(&mut out, properties);
        let headers = amqp::MapWriter::new();
        Self { out, headers }
    }

    /// Appends an application property.
    pub fn header(&mut self, name: &str, value: &str) {
        self.headers.put(&mut self.out, name, value);
    }

    /// Appends the body.
    ///
    /// # Errors
    /// The whole would exceed [`MESSAGE_BYTES_MAX`].
    pub fn finish(mut self, body: &[u8]) -> Result<Bytes, MessageTooLarge> {
        let whole = self.out.len().saturating_add(body.len());
        if whole.saturating_add(64) > MESSAGE_BYTES_MAX {
            return Err(MessageTooLarge);
        }
        self.headers.finish(&mut self.out);
        amqp::put_data(&mut self.out, body);
        Ok(self.out.freeze())
    }

    /// Instead of a body, says where the parts of it are.
    ///
    /// # Errors
    /// As of [`MessageWriter::finish`].
    pub fn finish_in_parts(mut self, parts: &Parts) -> Result<Bytes, MessageTooLarge> {
        let mut place = Vec::new();
        parts.encode(&mut place);
        let whole = self.out.len().saturating_add(place.len());
        if whole.saturating_add(64) > MESSAGE_BYTES_MAX {
            return Err(MessageTooLarge);
        }
        self.headers.finish(&mut self.out);
        amqp::put_parts(&mut self.out, &place);
        flag_parts(&mut self.out);
        Ok(self.out.freeze())
    }
}

/// The message whose envelope begins `out` has its body in parts.
fn flag_parts(out: &mut BytesMut) {
    if let Some(flags) = out.get_mut(1) {
        *flags |= PARTS;
    }
}

fn put_envelope(out: &mut BytesMut, envelope: &Envelope<'_>) {
    let mut flags = 0;
    for (present, flag) in [
        (envelope.persistent, PERSISTENT),
        (envelope.expiry_ms.is_some(), EXPIRY),
        (envelope.due_ms.is_some(), DUE),
        (envelope.group.is_some(), GROUP),
        (envelope.duplicate_id.is_some(), DUPLICATE_ID),
        (envelope.user.is_some(), USER),
    ] {
        if present {
            flags |= flag;
        }
    }
    out.put_slice(&[FORMAT, flags, envelope.priority.min(9)]);
    for number in [envelope.expiry_ms, envelope.due_ms].into_iter().flatten() {
        out.put_u64(number);
    }
    for text in [envelope.group, envelope.duplicate_id, envelope.user]
        .into_iter()
        .flatten()
    {
        out.put_u32(amqp::length(text.len()));
        out.put_slice(text.as_bytes());
    }
}

/// A message as it lies in its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    envelope: Envelope<'a>,
    /// The fields of the properties list.
    properties: amqp::Values<'a>,
    /// Keys and values of the application properties, in turn.
    headers: amqp::Values<'a>,
    body: &'a [u8],
    /// Where the parts of the body are.
    parts: &'a [u8],
}

impl<'a> Message<'a> {
    /// Finds the parts of a message; nothing is copied.
    ///
    /// # Errors
    /// The bytes are no message of a known format.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let (envelope, mut rest) = read_envelope(bytes)?;
        let mut message = Self {
            envelope,
            properties: amqp::Values::default(),
            headers: amqp::Values::default(),
            body: &[],
            parts: &[],
        };
        while !rest.is_empty() {
            let (section, after) = amqp::Section::read(rest)?;
            rest = after;
            match section {
                amqp::Section::Properties(fields) => message.properties = fields,
                amqp::Section::ApplicationProperties(pairs) => message.headers = pairs,
                amqp::Section::Data(body) => message.body = body,
                amqp::Section::Parts(parts) => message.parts = parts,
                amqp::Section::Other => {}
            }
        }
        Ok(message)
    }

    /// The broker's part.
    #[must_use]
    pub fn envelope(&self) -> &Envelope<'a> {
        &self.envelope
    }

    /// The properties that are text; others, as AMQP clients may send them, are left out.
    #[must_use]
    pub fn properties(&self) -> Properties<'a> {
        let mut properties = Properties::default();
        for (index, value) in self.properties.enumerate() {
            match index {
                2 => properties.to = value.text(),
                4 => properties.reply_to = value.text(),
                5 => properties.correlation_id = value.text(),
                6 => properties.content_type = value.text(),
                _ => {}
            }
        }
        properties
    }

    /// The application properties whose values are text, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut values = self.headers;
        std::iter::from_fn(move || {
            loop {
                let (name, value) = (values.next()?, values.next()?);
                if let (Some(name), Some(value)) = (name.text(), value.text()) {
                    return Some((name, value));
                }
            }
        })
    }

    /// The application property of this name, the first of them; nothing if there is none, if it is
    /// null or of a type that [`PropertyValue`] does not have. Only this one is decoded.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<PropertyValue<'a>> {
        let mut values = self.headers;
        while let (Some(key), Some(value)) = (values.next(), values.next()) {
            if key.is_text(name) {
                return value.property();
            }
        }
        None
    }

    /// A field of the properties section; nothing as with [`Self::property`].
    #[must_use]
    pub fn field(&self, field: Field) -> Option<PropertyValue<'a>> {
        let mut values = self.properties;
        values.nth(field.index())?.property()
    }

    /// The content of the data section; of the last one, where AMQP sent several. Nothing where the
    /// body is in parts.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Where the parts of the body are, if it is in parts.
    #[must_use]
    pub fn parts(&self) -> Option<Parts> {
        Parts::read(self.parts)
    }
}

/// Whether the body is in parts; the message is then its head alone. Quick.
#[must_use]
pub fn is_in_parts(bytes: &[u8]) -> bool {
    matches!(bytes, [FORMAT, flags, ..] if flags & PARTS != 0)
}

/// Where the parts of the body are; none where it is not in parts.
#[must_use]
pub fn parts(bytes: &[u8]) -> Option<Parts> {
    if !is_in_parts(bytes) {
        return None;
    }
    Message::read(bytes).ok()?.parts()
}

/// Bytes of a message with its body, wherever that is.
#[must_use]
pub fn whole_bytes(bytes: &[u8]) -> u64 {
    let body = parts(bytes).map_or(0, |parts| parts.bytes());
    body.saturating_add(bytes.len() as u64)
}

/// Priority, expiry and due time from the first bytes; none when the bytes are no message. Nothing
/// else is looked at.
pub(crate) fn peek(bytes: &[u8]) -> Option<(u8, Option<u64>, Option<u64>)> {
    let ([format, flags, priority], mut rest) = bytes.split_first_chunk()?;
    if *format != FORMAT || *priority > 9 {
        return None;
    }
    let mut number = |flag: u8| {
        if flags & flag == 0 {
            return Some(None);
        }
        let (value, after) = rest.split_first_chunk()?;
        rest = after;
        Some(Some(u64::from_be_bytes(*value)))
    };
    Some((*priority, number(EXPIRY)?, number(DUE)?))
}

/// The application's id for duplicate detection; none also when the bytes are no message.
pub(crate) fn duplicate_id(bytes: &[u8]) -> Option<&str> {
    let [format, flags, ..] = bytes else {
        return None;
    };
    if *format != FORMAT || flags & DUPLICATE_ID == 0 {
        return None;
    }
    read_envelope(bytes).ok()?.0.duplicate_id
}

fn read_envelope(bytes: &[u8]) -> Result<(Envelope<'_>, &[u8]), MessageError> {
    const PART: &str = "envelope";
    let Some(([format, flags, priority], mut rest)) = bytes.split_first_chunk() else {
        return Err(MessageError::Truncated(PART));
    };
    if *format != FORMAT {
        return Err(MessageError::Format(*format));
    }
    if *priority > 9 {
        return Err(MessageError::Priority(*priority));
    }
    let mut number = |flag: u8| {
        if flags & flag == 0 {
            return Ok(None);
        }
        let (value, after) = rest
            .split_first_chunk()
            .ok_or(MessageError::Truncated(PART))?;
        rest = after;
        Ok(Some(u64::from_be_bytes(*value)))
    };
    let (expiry_ms, due_ms) = (number(EXPIRY)?, number(DUE)?);
    let mut text = |flag: u8| {
        if flags & flag == 0 {
            return Ok(None);
        }
        let (value, after) = amqp::split_long(rest).ok_or(MessageError::Truncated(PART))?;
        rest = after;
        std::str::from_utf8(value)
            .map(Some)
            .map_err(|_| MessageError::Encoding(PART))
    };
    let (group, duplicate_id, user) = (text(GROUP)?, text(DUPLICATE_ID)?, text(USER)?);
    let envelope = Envelope {
        persistent: flags & PERSISTENT != 0,
        priority: *priority,
        expiry_ms,
        due_ms,
        group,
        duplicate_id,
        user,
    };
    Ok((envelope, rest))
}

/// Whether the message survives a restart. Bytes that are no message do.
#[must_use]
pub fn is_persistent(bytes: &[u8]) -> bool {
    match bytes {
        [FORMAT, flags, ..] => flags & PERSISTENT != 0,
        _ => true,
    }
}

/// The priority of a message, whatever its lane. Bytes that are no message have the default.
#[must_use]
pub fn priority(bytes: &[u8]) -> u8 {
    match bytes {
        [FORMAT, _, priority @ 0..=9, ..] => *priority,
        _ => PRIORITY_DEFAULT,
    }
}

/// The group of a message, if it has one.
#[must_use]
pub fn group(bytes: &[u8]) -> Option<&str> {
    match bytes {
        [FORMAT, flags, ..] if flags & GROUP != 0 => {
            let (envelope, _) = read_envelope(bytes).ok()?;
            envelope.group
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
