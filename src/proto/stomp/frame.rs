//! A decoded frame. Headers stay as they came, in one shared block: they are found by scanning it,
//! and only a header that holds an escape costs an allocation, when it is read.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// No escapes.
    V1_0,
    /// Escapes `\n`, `\c`, `\\`.
    V1_1,
    /// Escapes of 1.1 and `\r`.
    V1_2,
}

impl Version {
    /// Every version spoken here, as the `version` header of an ERROR lists them.
    pub const ALL: &'static str = "1.0,1.1,1.2";

    /// As the headers spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// The highest version in an `accept-version` header; without the header the client speaks 1.0.
    /// `None`: nothing in common.
    #[must_use]
    pub fn negotiate(accept_version: Option<&[u8]>) -> Option<Self> {
        let Some(offered) = accept_version else {
            return Some(Self::V1_0);
        };
        offered
            .split(|byte| *byte == b',')
            .filter_map(|version| match version.trim_ascii() {
                b"1.0" => Some(Self::V1_0),
                b"1.1" => Some(Self::V1_1),
                b"1.2" => Some(Self::V1_2),
                _ => None,
            })
            .max()
    }
}

/// The set of commands that one side sends.
pub trait Command: Copy + Eq + fmt::Debug {
    /// Bytes of the longest command.
    const LONGEST: usize;
    /// The header of the handshake that settles the version.
    const VERSION_HEADER: &'static [u8];
    /// The command of this spelling.
    fn parse(spelling: &[u8]) -> Option<Self>;
    /// As the frame spells it.
    fn name(self) -> &'static str;
    /// Its headers are never escaped, whatever the version.
    fn is_handshake(self) -> bool;
}

macro_rules! commands {
    ($(#[$doc:meta])* $name:ident, $version:literal in $($shake:ident)|+, $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Every command.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl Command for $name {
            const LONGEST: usize = {
                let mut longest = 0;
                let mut index = 0;
                let names = [$($text.len()),+];
                while index < names.len() {
                    if names[index] > longest {
                        longest = names[index];
                    }
                    index += 1;
                }
                longest
            };
            const VERSION_HEADER: &'static [u8] = $version;

            fn parse(spelling: &[u8]) -> Option<Self> {
                $(if spelling == $text.as_bytes() {
                    return Some(Self::$variant);
                })+
                None
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            fn is_handshake(self) -> bool {
                matches!(self, $(Self::$shake)|+)
            }
        }
    };
}

commands! {
    /// What clients send.
    ClientCommand, b"accept-version" in Connect | Stomp,
    /// A message to a destination.
    Send = "SEND",
    /// Deliveries are done with.
    Ack = "ACK",
    /// Deliveries go back.
    Nack = "NACK",
    /// A new consumer.
    Subscribe = "SUBSCRIBE",
    /// The end of a consumer.
    Unsubscribe = "UNSUBSCRIBE",
    /// The first frame.
    Connect = "CONNECT",
    /// The first frame, as 1.1 also spells it.
    Stomp = "STOMP",
    /// The last frame.
    Disconnect = "DISCONNECT",
    /// Transactions.
    Begin = "BEGIN",
    /// Transactions.
    Commit = "COMMIT",
    /// Transactions.
    Abort = "ABORT",
}

commands! {
    /// What servers send.
    ServerCommand, b"version" in Connected,
    /// A delivery.
    Message = "MESSAGE",
    /// What the receipt was asked for is true.
    Receipt = "RECEIPT",
    /// The connection stands.
    Connected = "CONNECTED",
    /// The connection ends.
    Error = "ERROR",
}

/// One frame. Cheap to clone: the bytes are shared with the buffer it was read from, so whoever
/// keeps part of it for long copies that part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<C> {
    /// What it says.
    pub command: C,
    /// Valid UTF-8, valid escapes, within the decoder's limits.
    pub headers: Headers,
    /// Without the closing NUL.
    pub body: Bytes,
}

/// A frame from a client.
pub type ClientFrame = Frame<ClientCommand>;
/// A frame from a server.
pub type ServerFrame = Frame<ServerCommand>;

/// The headers of a frame, as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Headers {
    /// `name:value` lines, each with its end of line; checked by the decoder.
    block: Bytes,
    /// A header holds an escape.
    escaped: bool,
}

/// A header as it came, escapes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawHeader<'a> {
    /// Up to the first colon.
    pub name: &'a [u8],
    /// The rest of the line without its end.
    pub value: &'a [u8],
}

impl Headers {
    /// From a block whose lines, UTF-8 and escapes the decoder has checked.
    pub(super) fn checked(block: Bytes, escaped: bool) -> Self {
        Self { block, escaped }
    }

    /// The headers of a block.
    pub(super) fn lines(block: &[u8]) -> RawHeaders<'_> {
        RawHeaders { rest: block }
    }

    /// In order, repeated ones too.
    #[must_use]
    pub fn raw(&self) -> RawHeaders<'_> {
        Self::lines(&self.block)
    }

    /// The first header of this name, as it came. The name must need no escape.
    #[must_use]
    pub fn raw_value(&self, name: &[u8]) -> Option<&[u8]> {
        self.raw()
            .find(|header| header.name == name)
            .map(|header| header.value)
    }

    /// The first header of this name. The name must need no escape.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = self.raw_value(name.as_bytes())?;
        Some(match self.unescape(value) {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// The text that a raw name or value of this frame stands for.
    #[must_use]
    pub fn unescape<'a>(&self, raw: &'a [u8]) -> Cow<'a, [u8]> {
        if self.escaped {
            Self::unescaped(raw)
        } else {
            Cow::Borrowed(raw)
        }
    }

    /// The text that a name or value with escapes stands for.
    pub(super) fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
        if memchr::memchr(b'\\', raw).is_none() {
            return Cow::Borrowed(raw);
        }
        let mut text = Vec::with_capacity(raw.len());
        let mut bytes = raw.iter();
        while let Some(byte) = bytes.next() {
            text.push(match byte {
                b'\\' => match bytes.next() {
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b'c') => b':',
                    Some(other) => *other,
                    None => b'\\',
                },
                other => *other,
            });
        }
        Cow::Owned(text)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.raw().map(|header| {
                (
                    String::from_utf8_lossy(header.name),
                    String::from_utf8_lossy(header.value),
                )
            }))
            .finish()
    }
}

/// See [`Headers::raw`].
#[derive(Clone, Debug)]
pub struct RawHeaders<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RawHeaders<'a> {
    type Item = RawHeader<'a>;

    fn next(&mut self) -> Option<RawHeader<'a>> {
        let end = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = memchr::memchr(b':', line)?;
        Some(RawHeader {
            name: &line[..colon],
            value: &line[colon + 1..],
        })
    }
}
