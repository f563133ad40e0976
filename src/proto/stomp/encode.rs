//! Frames to bytes, straight into an output buffer.

use bytes::BytesMut;

use super::frame::{Command, Version};

/// Writes one frame; [`FrameWriter::body`] or [`FrameWriter::finish`] ends it.
#[must_use]
pub struct FrameWriter<'a> {
    out: &'a mut BytesMut,
    escaping: Escaping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escaping {
    /// The rules of the version; NUL, which no version can carry, becomes a space.
    Version(Version),
    /// Handshakes and 1.0: what would break the line becomes a space.
    None,
}

impl<'a> FrameWriter<'a> {
    /// Writes the command.
    pub fn new<C: Command>(out: &'a mut BytesMut, version: Version, command: C) -> Self {
        out.extend_from_slice(command.name().as_bytes());
        out.extend_from_slice(b"\n");
        let escaping = if command.is_handshake() || version == Version::V1_0 {
            Escaping::None
        } else {
            Escaping::Version(version)
        };
        Self { out, escaping }
    }

    /// Goes on with a frame whose command and first headers are already in `out`.
    pub fn resume(out: &'a mut BytesMut, version: Version) -> Self {
        let escaping = if version == Version::V1_0 {
            Escaping::None
        } else {
            Escaping::Version(version)
        };
        Self { out, escaping }
    }

    /// A header whose name needs no escape and whose value may.
    pub fn header(&mut self, name: &str, value: &[u8]) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b":");
        self.escaped(value, false);
        self.out.extend_from_slice(b"\n");
    }

    /// A header with a name from outside.
    pub fn foreign_header(&mut self, name: &[u8], value: &[u8]) {
        self.escaped(name, true);
        self.out.extend_from_slice(b":");
        self.escaped(value, false);
        self.out.extend_from_slice(b"\n");
    }

    /// A header whose value is written as it is: it is known to need no escape, or it was read from
    /// a frame of the same version and not unescaped.
    pub fn raw_header(&mut self, name: &str, value: &[u8]) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b":");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\n");
    }

    /// A header whose value is a number.
    pub fn number_header(&mut self, name: &str, value: u64) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b":");
        put_decimal(self.out, value);
        self.out.extend_from_slice(b"\n");
    }

    /// Ends the frame with a body and its length.
    pub fn body(mut self, body: &[u8]) {
        self.number_header("content-length", body.len() as u64);
        self.out.extend_from_slice(b"\n");
        self.out.extend_from_slice(body);
        self.out.extend_from_slice(b"\0");
    }

    /// Ends the head of a frame whose body, of so many bytes and with a NUL behind it, is written later.
    pub fn body_follows(mut self, length: u64) {
        self.number_header("content-length", length);
        self.out.extend_from_slice(b"\n");
    }

    /// Ends the frame without a body.
    pub fn finish(self) {
        self.out.extend_from_slice(b"\n\0");
    }

    fn escaped(&mut self, text: &[u8], is_name: bool) {
        let special = |byte: &u8| matches!(byte, b'\n' | b'\r' | b':' | b'\\' | 0);
        let mut rest = text;
        while let Some(at) = rest.iter().position(special) {
            self.out.extend_from_slice(&rest[..at]);
            self.out
                .extend_from_slice(self.escaping.spelling(&rest[at..=at], is_name));
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
    }
}

impl Escaping {
    /// How one special byte is written.
    fn spelling(self, byte: &[u8], is_name: bool) -> &[u8] {
        match (self, byte) {
            (Self::Version(_), b"\n") => b"\\n",
            (Self::Version(_), b":") => b"\\c",
            (Self::Version(_), b"\\") => b"\\\\",
            (Self::Version(Version::V1_2), b"\r") => b"\\r",
            (Self::None, b":") if is_name => b"_",
            (Self::None, b":" | b"\\") => byte,
            // A carriage return at the end of a line would be taken for a part of the line's end.
            (_, _) => b" ",
        }
    }
}

/// Appends a number in decimal.
pub fn put_decimal(out: &mut BytesMut, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(value % 10).unwrap_or(0)];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stomp::{Decoder, Limits, ServerCommand};

    fn message(version: Version, name: &[u8], value: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let mut frame = FrameWriter::new(&mut out, version, ServerCommand::Message);
        frame.foreign_header(name, value);
        frame.body(b"hi");
        out
    }

    #[test]
    fn what_a_version_cannot_carry_never_breaks_the_frame() {
        for (version, bytes) in [
            (
                Version::V1_2,
                &b"MESSAGE\na\\cb:1\\n2\\r3\\c4\\\\5 6\ncontent-length:2\n\nhi\0"[..],
            ),
            (
                Version::V1_1,
                b"MESSAGE\na\\cb:1\\n2 3\\c4\\\\5 6\ncontent-length:2\n\nhi\0",
            ),
            (
                Version::V1_0,
                b"MESSAGE\na_b:1 2 3:4\\5 6\ncontent-length:2\n\nhi\0",
            ),
        ] {
            assert_eq!(message(version, b"a:b", b"1\n2\r3:4\\5\x006"), bytes);
        }
    }

    #[test]
    fn handshakes_are_not_escaped() {
        let mut out = BytesMut::new();
        let mut frame = FrameWriter::new(&mut out, Version::V1_2, ServerCommand::Connected);
        frame.header("server", b"a:b\\c\nd");
        frame.finish();
        assert_eq!(&out[..], b"CONNECTED\nserver:a:b\\c d\n\n\0");
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for value in [0, 7, 10, 99, 100, 12_345_678_901, u64::MAX] {
            let mut out = BytesMut::new();
            put_decimal(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }

    #[test]
    fn a_client_reads_back_what_was_written() {
        let mut bytes = BytesMut::from(&b"CONNECTED\nversion:1.2\n\n\0"[..]);
        bytes.extend_from_slice(&message(Version::V1_2, b"n:\n", b"v\\\r\n:"));
        let mut decoder = Decoder::<ServerCommand>::new(Limits::default());
        let connected = decoder.decode(&mut bytes).unwrap().unwrap();
        assert_eq!(connected.command, ServerCommand::Connected);
        let frame = decoder.decode(&mut bytes).unwrap().unwrap();
        let header = frame.headers.raw().next().unwrap();
        assert_eq!(&frame.headers.unescape(header.name)[..], b"n:\n");
        assert_eq!(&frame.headers.unescape(header.value)[..], b"v\\\r\n:");
        assert_eq!(&frame.body[..], b"hi");
    }
}
