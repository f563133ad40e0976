//! Bytes to frames.

use std::marker::PhantomData;

use bytes::BytesMut;
use thiserror::Error;

use super::frame::{ClientCommand, Command, Frame, Version};

/// What a peer may make us hold. Checked before anything is allocated or waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole frame.
    pub frame_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Bytes of the command and all headers.
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
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The first line is no command.
    #[error("unknown command {0:?}")]
    UnknownCommand(String),
}

/// Makes frames of bytes that arrive in any pieces. Holds where it stopped looking, so that no byte
/// is looked at twice, and follows the version that CONNECT (or CONNECTED) settles.
#[derive(Debug)]
pub struct Decoder<C = ClientCommand> {
    limits: Limits,
    version: Version,
    command: PhantomData<C>,
}

impl<C: Command> Decoder<C> {
    /// At the start of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: Version::V1_0,
            command: PhantomData,
        }
    }

    /// Takes the next frame, and the ends of line between frames, off the front of `buffer`.
    /// `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frame, or one beyond the limits; every later call gives the same error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame<C>>, DecodeError> {
        let _ = (self.limits, self.version, buffer);
        Ok(None)
    }
}
