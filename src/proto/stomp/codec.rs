//! Bytes to frames, in whatever pieces they arrive.
//!
//! A frame is looked for in three steps: the lines up to the empty one, each checked as soon as it is
//! complete; then a body of the announced length, or one that ends at the first NUL. Where the search
//! stopped is kept, so each byte is searched once however small the pieces are.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use thiserror::Error;

use super::frame::{ClientCommand, Command, Frame, Headers, RawHeader, Version};

pub use self::pieces::{Piece, PieceSizes};

mod pieces;

/// What a peer may make us hold. Checked before anything is allocated or waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole frame, its closing NUL included.
    pub frame_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Bytes of the command and all headers, ends of line included.
    pub header_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 4 * 1024 * 1024 + 64 * 1024,
            headers: 128,
            header_bytes: 32 * 1024,
            body_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Why bytes are not a frame. The connection cannot go on: where the next frame begins is unknown.
/// Lines count from 1, the command's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The first line is no command of this side.
    #[error("unknown command {0:?}")]
    UnknownCommand(String),
    /// More lines than the limit.
    #[error("the frame has more than {limit} headers")]
    HeaderCount {
        /// [`Limits::headers`].
        limit: usize,
    },
    /// The headers do not end within the limit.
    #[error("command and headers exceed {limit} bytes")]
    HeaderBytes {
        /// [`Limits::header_bytes`].
        limit: usize,
    },
    /// A line without a colon.
    #[error("line {line} of the frame is no header: it has no colon")]
    NoColon {
        /// Which.
        line: usize,
    },
    /// A line that begins with its colon.
    #[error("line {line} of the frame is a header without a name")]
    NoName {
        /// Which.
        line: usize,
    },
    /// A NUL before the empty line that ends the headers.
    #[error("the frame ended in line {line}, before the empty line that ends its headers")]
    NulInHeaders {
        /// Which.
        line: usize,
    },
    /// A line that is not UTF-8.
    #[error("line {line} of the frame is not UTF-8")]
    Encoding {
        /// Which.
        line: usize,
    },
    /// An escape that the version does not have.
    #[error("line {line} of the frame has an escape that STOMP {} does not define", version.name())]
    Escape {
        /// Which.
        line: usize,
        /// Whose rules.
        version: Version,
    },
    /// `content-length` is no number of bytes.
    #[error("content-length {0:?} is not a number of bytes")]
    ContentLength(String),
    /// The body is, or is announced to be, over the limit.
    #[error("the body exceeds {limit} bytes")]
    BodyBytes {
        /// [`Limits::body_bytes`].
        limit: usize,
    },
    /// Headers and body together are over the limit.
    #[error("the frame exceeds {limit} bytes")]
    FrameBytes {
        /// [`Limits::frame_bytes`].
        limit: usize,
    },
    /// No NUL after `content-length` bytes.
    #[error("no NUL follows the {length} bytes of the body that content-length announced")]
    NoNul {
        /// What was announced.
        length: usize,
    },
}

impl DecodeError {
    /// The frame may be sound, but it is beyond one of the [`Limits`].
    #[must_use]
    pub fn is_limit(&self) -> bool {
        match self {
            Self::HeaderCount { .. }
            | Self::HeaderBytes { .. }
            | Self::BodyBytes { .. }
            | Self::FrameBytes { .. } => true,
            Self::UnknownCommand(_)
            | Self::NoColon { .. }
            | Self::NoName { .. }
            | Self::NulInHeaders { .. }
            | Self::Encoding { .. }
            | Self::Escape { .. }
            | Self::ContentLength(_)
            | Self::NoNul { .. } => false,
        }
    }
}

/// Makes frames of bytes that arrive in any pieces, and follows the version that CONNECT (or
/// CONNECTED) settles.
#[derive(Debug)]
pub struct Decoder<C = ClientCommand> {
    limits: Limits,
    version: Version,
    progress: Progress<C>,
    command: PhantomData<C>,
}

#[derive(Clone, Debug)]
enum Progress<C> {
    /// In the lines up to the empty one.
    Lines(Lines<C>),
    /// The headers are whole.
    Body(Body<C>),
    /// In a body that is given in pieces.
    Pieces(pieces::Rest),
    /// For ever.
    Failed(DecodeError),
}

#[derive(Clone, Debug)]
struct Lines<C> {
    /// `None`: the first line is not complete.
    command: Option<C>,
    /// Where the headers begin.
    block: usize,
    /// Where the line that is being looked at begins.
    line: usize,
    /// Bytes in which no end of line was found.
    searched: usize,
    /// Complete headers.
    headers: usize,
    /// The first `content-length`.
    length: Option<usize>,
}

#[derive(Clone, Debug)]
struct Body<C> {
    command: C,
    headers: std::ops::Range<usize>,
    escaped: bool,
    /// Where the body begins.
    start: usize,
    end: BodyEnd,
}

#[derive(Clone, Debug)]
enum BodyEnd {
    /// By `content-length`.
    Length(usize),
    /// At the first NUL, which is not before this place.
    Nul { searched: usize },
}

impl<C> Default for Lines<C> {
    fn default() -> Self {
        Self {
            command: None,
            block: 0,
            line: 0,
            searched: 0,
            headers: 0,
            length: None,
        }
    }
}

impl<C: Command> Decoder<C> {
    /// At the start of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: Version::V1_0,
            progress: Progress::Lines(Lines::default()),
            command: PhantomData,
        }
    }

    /// Takes the next frame, and the ends of line between frames, off the front of `buffer`.
    /// `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frame, or one beyond the limits; every later call gives the same error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<C>>, DecodeError> {
        let decoded = self.advance(buffer, usize::MAX);
        if let Err(error) = &decoded {
            self.progress = Progress::Failed(error.clone());
        }
        decoded
    }

    /// How many bytes beyond the `buffered` ones complete the frame that is being read, where its
    /// `content-length` told.
    #[must_use]
    pub fn missing(&self, buffered: usize) -> Option<usize> {
        match &self.progress {
            Progress::Body(Body {
                start,
                end: BodyEnd::Length(length),
                ..
            }) => Some((start + length + 1).saturating_sub(buffered)),
            Progress::Body(_) | Progress::Lines(_) | Progress::Pieces(_) | Progress::Failed(_) => {
                None
            }
        }
    }

    /// A frame whose body has at most `whole` bytes.
    fn advance(
        &mut self,
        buffer: &mut BytesMut,
        whole: usize,
    ) -> Result<Option<Frame<C>>, DecodeError> {
        if let Progress::Lines(lines) = &mut self.progress {
            if lines.searched == 0 {
                let between = buffer
                    .iter()
                    .take_while(|byte| matches!(byte, b'\n' | b'\r'))
                    .count();
                buffer.advance(between);
            }
            match lines.advance(buffer, &self.limits, self.version)? {
                Some(body) => self.progress = Progress::Body(body),
                None => return Ok(None),
            }
        }
        match &mut self.progress {
            Progress::Body(body) => {
                if matches!(body.end, BodyEnd::Length(length) if length > whole) {
                    return Ok(None);
                }
                let length = body.length(buffer, &self.limits)?;
                let Some(length) = length.filter(|length| *length <= whole) else {
                    return Ok(None);
                };
                let whole = buffer.split_to(body.start + length + 1).freeze();
                let frame = Frame {
                    command: body.command,
                    headers: Headers::checked(whole.slice(body.headers.clone()), body.escaped),
                    body: whole.slice(body.start..body.start + length),
                };
                self.progress = Progress::Lines(Lines::default());
                if frame.command.is_handshake() {
                    let offered = frame.headers.raw_value(C::VERSION_HEADER);
                    self.version = Version::negotiate(offered).unwrap_or(Version::V1_0);
                }
                Ok(Some(frame))
            }
            Progress::Failed(error) => Err(error.clone()),
            Progress::Lines(_) | Progress::Pieces(_) => Ok(None),
        }
    }
}

impl<C: Command> Lines<C> {
    /// Looks at the lines that are complete; gives what is known of the body after the empty one.
    fn advance(
        &mut self,
        buffer: &[u8],
        limits: &Limits,
        version: Version,
    ) -> Result<Option<Body<C>>, DecodeError> {
        loop {
            let unsearched = buffer.get(self.searched..).unwrap_or_default();
            let found = memchr::memchr2(b'\n', 0, unsearched);
            let end = found.map_or(buffer.len(), |at| self.searched + at);
            if end > limits.header_bytes {
                return Err(DecodeError::HeaderBytes {
                    limit: limits.header_bytes,
                });
            }
            let line = &buffer[self.line..end];
            // Judged before it is complete, so that a stranger (TLS, HTTP) is not waited for.
            if self.command.is_none() && line.len() > C::LONGEST + 1 {
                return Err(unknown_command(&line[..C::LONGEST + 2]));
            }
            if found.is_none() {
                self.searched = end;
                return Ok(None);
            }
            if buffer[end] == 0 {
                return Err(match self.command {
                    None => unknown_command(line),
                    Some(_) => DecodeError::NulInHeaders {
                        line: self.headers + 2,
                    },
                });
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let start = self.line;
            (self.line, self.searched) = (end + 1, end + 1);
            match self.command {
                None => {
                    self.command = Some(C::parse(line).ok_or_else(|| unknown_command(line))?);
                    self.block = end + 1;
                }
                Some(command) if line.is_empty() => {
                    return self.complete(command, buffer, start, limits, version);
                }
                Some(_) => self.header(line, limits)?,
            }
        }
    }

    fn header(&mut self, line: &[u8], limits: &Limits) -> Result<(), DecodeError> {
        self.headers += 1;
        if self.headers > limits.headers {
            return Err(DecodeError::HeaderCount {
                limit: limits.headers,
            });
        }
        match memchr::memchr(b':', line) {
            None => Err(DecodeError::NoColon {
                line: self.headers + 1,
            }),
            Some(0) => Err(DecodeError::NoName {
                line: self.headers + 1,
            }),
            Some(colon) => {
                if self.length.is_none() && &line[..colon] == b"content-length" {
                    self.length = Some(content_length(&line[colon + 1..])?);
                }
                Ok(())
            }
        }
    }

    /// The empty line that begins at `end` was found.
    fn complete(
        &self,
        command: C,
        buffer: &[u8],
        end: usize,
        limits: &Limits,
        version: Version,
    ) -> Result<Option<Body<C>>, DecodeError> {
        let block = &buffer[self.block..end];
        if let Err(error) = std::str::from_utf8(block) {
            let before = &block[..error.valid_up_to()];
            return Err(DecodeError::Encoding {
                line: memchr::memchr_iter(b'\n', before).count() + 2,
            });
        }
        let escaped = version > Version::V1_0
            && !command.is_handshake()
            && memchr::memchr(b'\\', block).is_some();
        if escaped {
            check_escapes(block, version)?;
        }
        let start = self.line;
        let end_of_body = match self.length {
            Some(length) => {
                if length > limits.body_bytes {
                    return Err(DecodeError::BodyBytes {
                        limit: limits.body_bytes,
                    });
                }
                if start.saturating_add(length).saturating_add(1) > limits.frame_bytes {
                    return Err(DecodeError::FrameBytes {
                        limit: limits.frame_bytes,
                    });
                }
                BodyEnd::Length(length)
            }
            None => BodyEnd::Nul { searched: start },
        };
        Ok(Some(Body {
            command,
            headers: self.block..end,
            escaped,
            start,
            end: end_of_body,
        }))
    }
}

impl<C> Body<C> {
    /// Bytes of the body, once it is whole.
    fn length(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, DecodeError> {
        match &mut self.end {
            BodyEnd::Length(length) => match buffer.get(self.start + *length) {
                None => Ok(None),
                Some(0) => Ok(Some(*length)),
                Some(_) => Err(DecodeError::NoNul { length: *length }),
            },
            BodyEnd::Nul { searched } => {
                let unsearched = buffer.get(*searched..).unwrap_or_default();
                let found = memchr::memchr(0, unsearched);
                let end = found.map_or(buffer.len(), |at| *searched + at);
                if end - self.start > limits.body_bytes {
                    return Err(DecodeError::BodyBytes {
                        limit: limits.body_bytes,
                    });
                }
                if end >= limits.frame_bytes {
                    return Err(DecodeError::FrameBytes {
                        limit: limits.frame_bytes,
                    });
                }
                *searched = end;
                Ok(found.map(|_| end - self.start))
            }
        }
    }
}

fn unknown_command(line: &[u8]) -> DecodeError {
    DecodeError::UnknownCommand(String::from_utf8_lossy(line).into_owned())
}

fn content_length(value: &[u8]) -> Result<usize, DecodeError> {
    let digits = value.trim_ascii();
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        let shown = &value[..value.len().min(24)];
        DecodeError::ContentLength(String::from_utf8_lossy(shown).into_owned())
    })
}

fn check_escapes(block: &[u8], version: Version) -> Result<(), DecodeError> {
    let sound = |text: &[u8]| {
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            if *byte == b'\\' {
                match bytes.next() {
                    Some(b'n' | b'c' | b'\\') => {}
                    Some(b'r') if version >= Version::V1_2 => {}
                    Some(_) | None => return false,
                }
            }
        }
        true
    };
    for (index, RawHeader { name, value }) in Headers::lines(block).enumerate() {
        if !sound(name) || !sound(value) {
            return Err(DecodeError::Escape {
                line: index + 2,
                version,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
