//! As much of the AMQP 1.0 type system as the canonical message needs: writing strings, lists, maps
//! and binaries, and walking over any value without understanding it.

use bytes::{BufMut, BytesMut};

use super::{MessageError, Properties, PropertyValue};

const NULL: u8 = 0x40;
const TRUE: u8 = 0x41;
const FALSE: u8 = 0x42;
const UINT0: u8 = 0x43;
const ULONG0: u8 = 0x44;
const LIST0: u8 = 0x45;
const UBYTE: u8 = 0x50;
const BYTE: u8 = 0x51;
const SMALL_UINT: u8 = 0x52;
const SMALL_ULONG: u8 = 0x53;
const SMALL_INT: u8 = 0x54;
const SMALL_LONG: u8 = 0x55;
const BOOLEAN: u8 = 0x56;
const USHORT: u8 = 0x60;
const SHORT: u8 = 0x61;
const UINT: u8 = 0x70;
const INT: u8 = 0x71;
const FLOAT: u8 = 0x72;
const ULONG: u8 = 0x80;
const LONG: u8 = 0x81;
const DOUBLE: u8 = 0x82;
const TIMESTAMP: u8 = 0x83;
const VBIN8: u8 = 0xa0;
const STR8: u8 = 0xa1;
const SYM8: u8 = 0xa3;
const VBIN32: u8 = 0xb0;
const STR32: u8 = 0xb1;
const SYM32: u8 = 0xb3;
const LIST8: u8 = 0xc0;
const MAP8: u8 = 0xc1;
const LIST32: u8 = 0xd0;
const MAP32: u8 = 0xd1;

/// A described type whose descriptor is a small ulong.
const DESCRIBED: [u8; 2] = [0x00, 0x53];
const PROPERTIES: u8 = 0x73;
const APPLICATION_PROPERTIES: u8 = 0x74;
const DATA: u8 = 0x75;
/// Ours: where the parts of a body are.
const PARTS: u8 = 0x80;

/// A length as four bytes. Longer ones do not pass `MESSAGE_BYTES_MAX`, which is checked before the
/// message leaves.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Four bytes of length, that many bytes, the rest.
pub(super) fn split_long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn put_variable(out: &mut BytesMut, short: u8, long: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => out.put_slice(&[short, length]),
        Err(_) => {
            out.put_u8(long);
            out.put_u32(length(value.len()));
        }
    }
    out.put_slice(value);
}

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_variable(out, STR8, STR32, text.as_bytes()),
        None => out.put_u8(NULL),
    }
}

/// The properties section, up to its last field that is there; nothing when none is.
pub(super) fn put_properties(out: &mut BytesMut, properties: &Properties<'_>) {
    let Properties {
        to,
        reply_to,
        correlation_id,
        content_type,
    } = *properties;
    // message-id, user-id, to, subject, reply-to, correlation-id, content-type
    let fields = [None, None, to, None, reply_to, correlation_id, content_type];
    let Some(last) = fields.iter().rposition(Option::is_some) else {
        return;
    };
    let fields = &fields[..=last];
    let count = u8::try_from(fields.len()).unwrap_or(7);
    let bytes: usize = fields
        .iter()
        .map(|field| field.map_or(1, variable_bytes))
        .sum();
    out.put_slice(&DESCRIBED);
    out.put_u8(PROPERTIES);
    match u8::try_from(bytes + 1) {
        Ok(size) => out.put_slice(&[LIST8, size, count]),
        Err(_) => {
            out.put_u8(LIST32);
            out.put_u32(length(bytes.saturating_add(4)));
            out.put_u32(u32::from(count));
        }
    }
    for (index, field) in fields.iter().enumerate() {
        match (index, field) {
            (6, Some(symbol)) => put_variable(out, SYM8, SYM32, symbol.as_bytes()),
            _ => put_text(out, *field),
        }
    }
}

fn variable_bytes(text: &str) -> usize {
    text.len() + if text.len() > 255 { 5 } else { 2 }
}

/// Writes the application properties; the section begins with the first pair.
#[derive(Debug)]
pub(super) struct MapWriter {
    /// Where the map's size stands.
    size_at: usize,
    values: u32,
}

impl MapWriter {
    pub(super) fn new() -> Self {
        Self {
            size_at: 0,
            values: 0,
        }
    }

    pub(super) fn put(&mut self, out: &mut BytesMut, name: &str, value: &str) {
        self.begin_pair(out);
        put_text(out, Some(name));
        put_text(out, Some(value));
    }

    /// A pair as it lies in another message.
    fn put_raw(&mut self, out: &mut BytesMut, pair: &[u8]) {
        self.begin_pair(out);
        out.put_slice(pair);
    }

    fn begin_pair(&mut self, out: &mut BytesMut) {
        if self.values == 0 {
            out.put_slice(&DESCRIBED);
            out.put_slice(&[APPLICATION_PROPERTIES, MAP32]);
            self.size_at = out.len();
            out.put_u64(0);
        }
        self.values = self.values.saturating_add(2);
    }

    /// Fills in size and count.
    pub(super) fn finish(self, out: &mut BytesMut) {
        if self.values > 0 {
            let size = length(out.len() - self.size_at - 4);
            out[self.size_at..self.size_at + 4].copy_from_slice(&size.to_be_bytes());
            out[self.size_at + 4..self.size_at + 8].copy_from_slice(&self.values.to_be_bytes());
        }
    }
}

/// Application properties: the pairs of `old` whose names are neither among `gone` nor among `new`, as they
/// are, then `new`.
pub(super) fn put_headers(
    out: &mut BytesMut,
    old: Values<'_>,
    gone: &[&str],
    new: &[(&str, String)],
) {
    let mut writer = MapWriter::new();
    let mut rest = old;
    loop {
        let before = rest.rest;
        let (Some(name), Some(_)) = (rest.next(), rest.next()) else {
            break;
        };
        let mut left_out = gone
            .iter()
            .copied()
            .chain(new.iter().map(|(name, _)| *name));
        if !left_out.any(|other| name.text() == Some(other)) {
            writer.put_raw(out, &before[..before.len() - rest.rest.len()]);
        }
    }
    for (name, value) in new {
        writer.put(out, name, value);
    }
    writer.finish(out);
}

/// One data section.
pub(super) fn put_data(out: &mut BytesMut, body: &[u8]) {
    out.reserve(body.len().saturating_add(8));
    out.put_slice(&DESCRIBED);
    out.put_u8(DATA);
    put_variable(out, VBIN8, VBIN32, body);
}

/// One section that says where the parts of the body are.
pub(super) fn put_parts(out: &mut BytesMut, place: &[u8]) {
    out.put_slice(&DESCRIBED);
    out.put_u8(PARTS);
    put_variable(out, VBIN8, VBIN32, place);
}

/// A section of a message.
pub(super) enum Section<'a> {
    Properties(Values<'a>),
    ApplicationProperties(Values<'a>),
    Data(&'a [u8]),
    Parts(&'a [u8]),
    /// Of no concern here.
    Other,
}

impl<'a> Section<'a> {
    /// The first section and what follows it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), MessageError> {
        let Some(([0x00, 0x53, descriptor], rest)) = bytes.split_first_chunk() else {
            return Err(MessageError::Section("section header"));
        };
        let (value, after) = Value::split(rest).ok_or(MessageError::Truncated("sections"))?;
        let section = match *descriptor {
            PROPERTIES => Self::Properties(
                value
                    .list()
                    .ok_or(MessageError::Section("properties section"))?,
            ),
            APPLICATION_PROPERTIES => Self::ApplicationProperties(
                value
                    .map()
                    .ok_or(MessageError::Section("application-properties section"))?,
            ),
            DATA => Self::Data(
                value
                    .binary()
                    .ok_or(MessageError::Section("data section"))?,
            ),
            PARTS => Self::Parts(
                value
                    .binary()
                    .ok_or(MessageError::Section("section about its parts"))?,
            ),
            // header, annotations, sequence and value bodies, footer
            0x70..=0x78 => Self::Other,
            _ => return Err(MessageError::Section("section header")),
        };
        Ok((section, after))
    }
}

/// One value: its constructor and its bytes without any size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    code: u8,
    content: &'a [u8],
}

impl<'a> Value<'a> {
    /// The first value and what follows it. The high digit of a constructor tells how wide its value
    /// is, so that types which are not known can be passed over. Descriptors are passed over.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        if let Some(([0x00], described)) = bytes.split_first_chunk() {
            let (_, value) = Self::split_plain(described)?;
            return Self::split_plain(value);
        }
        Self::split_plain(bytes)
    }

    fn split_plain(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (code, rest) = bytes.split_first()?;
        let (content, rest) = match code >> 4 {
            0x4 => rest.split_at_checked(0)?,
            0x5 => rest.split_at_checked(1)?,
            0x6 => rest.split_at_checked(2)?,
            0x7 => rest.split_at_checked(4)?,
            0x8 => rest.split_at_checked(8)?,
            0x9 => rest.split_at_checked(16)?,
            0xa | 0xc | 0xe => split_short(rest)?,
            0xb | 0xd | 0xf => split_long(rest)?,
            _ => return None,
        };
        Some((
            Self {
                code: *code,
                content,
            },
            rest,
        ))
    }

    /// The content of a string or symbol.
    pub(super) fn text(self) -> Option<&'a str> {
        match self.code {
            STR8 | STR32 | SYM8 | SYM32 => std::str::from_utf8(self.content).ok(),
            _ => None,
        }
    }

    /// Whether it is a string or symbol of these bytes.
    pub(super) fn is_text(self, text: &str) -> bool {
        matches!(self.code, STR8 | STR32 | SYM8 | SYM32) && self.content == text.as_bytes()
    }

    /// What it says, if it is of a type that a property may have.
    pub(super) fn property(self) -> Option<PropertyValue<'a>> {
        if let Some(text) = self.text() {
            return Some(PropertyValue::Text(text));
        }
        match self.code {
            TRUE => return Some(PropertyValue::Boolean(true)),
            FALSE => return Some(PropertyValue::Boolean(false)),
            FLOAT => {
                let number = f32::from_be_bytes(self.content.try_into().ok()?);
                return Some(PropertyValue::Float(f64::from(number)));
            }
            DOUBLE => {
                let number = f64::from_be_bytes(self.content.try_into().ok()?);
                return Some(PropertyValue::Float(number));
            }
            BOOLEAN => {
                return match self.content {
                    [0] => Some(PropertyValue::Boolean(false)),
                    [1] => Some(PropertyValue::Boolean(true)),
                    _ => None,
                };
            }
            _ => {}
        }
        let number = match (self.code, self.content) {
            (UINT0 | ULONG0, []) => 0,
            (UBYTE | SMALL_UINT | SMALL_ULONG, [byte]) => i64::from(*byte),
            (BYTE | SMALL_INT | SMALL_LONG, [byte]) => i64::from(byte.cast_signed()),
            (USHORT, bytes) => i64::from(u16::from_be_bytes(bytes.try_into().ok()?)),
            (SHORT, bytes) => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
            (UINT, bytes) => i64::from(u32::from_be_bytes(bytes.try_into().ok()?)),
            (INT, bytes) => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
            (LONG | TIMESTAMP, bytes) => i64::from_be_bytes(bytes.try_into().ok()?),
            (ULONG, bytes) => {
                let number = u64::from_be_bytes(bytes.try_into().ok()?);
                match i64::try_from(number) {
                    Ok(number) => number,
                    Err(_) => return Some(PropertyValue::Unsigned(number)),
                }
            }
            _ => return None,
        };
        Some(PropertyValue::Integer(number))
    }

    fn binary(self) -> Option<&'a [u8]> {
        matches!(self.code, VBIN8 | VBIN32).then_some(self.content)
    }

    fn list(self) -> Option<Values<'a>> {
        match self.code {
            LIST0 => Some(Values::default()),
            LIST8 => self.content.get(1..).map(Values::new),
            LIST32 => self.content.get(4..).map(Values::new),
            _ => None,
        }
    }

    fn map(self) -> Option<Values<'a>> {
        match self.code {
            MAP8 => self.content.get(1..).map(Values::new),
            MAP32 => self.content.get(4..).map(Values::new),
            _ => None,
        }
    }
}

/// Values one after the other; ends early where the bytes stop making sense.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Values<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (value, rest) = Value::split(self.rest)?;
        self.rest = rest;
        Some(value)
    }
}
