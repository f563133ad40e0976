//! Reading and writing of the fields that the binary formats are made of. Big-endian; every length
//! is checked against what is there before anything is taken or allocated.

use bytes::{Buf, BufMut, Bytes};

/// Fewer bytes than a field needs, or a field out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadField(pub(crate) &'static str);

/// Takes fields off the front of a frame or file.
pub(crate) struct FieldReader {
    rest: Bytes,
}

impl FieldReader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, BadField> {
        self.rest.try_get_u8().map_err(|_| BadField(what))
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, BadField> {
        self.rest.try_get_u16().map_err(|_| BadField(what))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, BadField> {
        self.rest.try_get_u32().map_err(|_| BadField(what))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, BadField> {
        self.rest.try_get_u64().map_err(|_| BadField(what))
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, BadField> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadField(what)),
        }
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], BadField> {
        let mut array = [0; N];
        self.rest
            .try_copy_to_slice(&mut array)
            .map_err(|_| BadField(what))?;
        Ok(array)
    }

    /// Shares the bytes, copies nothing.
    pub(crate) fn bytes(&mut self, len: usize, what: &'static str) -> Result<Bytes, BadField> {
        if len > self.rest.len() {
            return Err(BadField(what));
        }
        Ok(self.rest.split_to(len))
    }

    /// A text of at most 65,535 bytes.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<String, BadField> {
        let len = self.u16(what)?;
        let bytes = self.bytes(len.into(), what)?;
        std::str::from_utf8(&bytes)
            .map(str::to_owned)
            .map_err(|_| BadField(what))
    }

    /// A part that later versions may lengthen: what they add is passed over.
    pub(crate) fn part(&mut self, what: &'static str) -> Result<Self, BadField> {
        let len = self.u16(what)?;
        self.bytes(len.into(), what).map(Self::new)
    }

    /// All that is left.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn end(&self) -> Result<(), BadField> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(BadField("more bytes than the fields take"))
        }
    }
}

/// A text of at most `max` (and 65,535) bytes; a longer one is cut between letters.
pub(crate) fn put_text(to: &mut impl BufMut, text: &str, max: usize) {
    let text = &text[..text.floor_char_boundary(max.min(usize::from(u16::MAX)))];
    to.put_u16(u16::try_from(text.len()).expect("it was cut to fit"));
    to.put_slice(text.as_bytes());
}

/// See [`FieldReader::part`].
pub(crate) fn put_part(to: &mut impl BufMut, part: &[u8]) {
    to.put_u16(u16::try_from(part.len()).expect("parts are made of a few fixed fields"));
    to.put_slice(part);
}
