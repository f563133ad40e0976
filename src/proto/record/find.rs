//! Messages in a chunk by their LSNs, without reading what lies between them.

use std::ops::Range;

use bytes::Bytes;

use crate::proto::ids::Lsn;

use super::{CHUNK_HEADER, ChunkHeader, DecodeError, PART, PUT, RELOGGED, Reader};

/// Walks a chunk whose checksum is good.
#[derive(Debug)]
pub struct Messages<'a> {
    chunk: &'a Bytes,
    first: Lsn,
    last: Lsn,
    at: usize,
    next: Lsn,
}

impl<'a> Messages<'a> {
    /// Of a whole chunk with this header.
    #[must_use]
    pub fn new(chunk: &'a Bytes, header: &ChunkHeader) -> Self {
        Self {
            chunk,
            first: header.first,
            last: header.last(),
            at: CHUNK_HEADER,
            next: header.first,
        }
    }

    /// Goes on where [`Messages::place`] said, in the same chunk.
    #[must_use]
    pub fn resumed(chunk: &'a Bytes, header: &ChunkHeader, next: Lsn, at: usize) -> Self {
        Self {
            next,
            at,
            ..Self::new(chunk, header)
        }
    }

    /// The LSN of the next record, and where it begins.
    #[must_use]
    pub fn place(&self) -> (Lsn, usize) {
        (self.next, self.at)
    }

    /// Where the message with this LSN stands in the chunk: that of its PUT, or an earlier one's that
    /// a RELOGGED record brought. None when there is no such message. Quick when LSNs are asked for in
    /// ascending order.
    ///
    /// # Errors
    /// When the records are not sound.
    pub fn find(&mut self, lsn: Lsn) -> Result<Option<Range<usize>>, DecodeError> {
        self.find_kind(lsn, PUT)
    }

    /// The same for the bytes of a part of a body, in its PART or brought by a RELOGGED record.
    ///
    /// # Errors
    /// When the records are not sound.
    pub fn find_part(&mut self, lsn: Lsn) -> Result<Option<Range<usize>>, DecodeError> {
        self.find_kind(lsn, PART)
    }

    fn find_kind(&mut self, lsn: Lsn, wanted: u8) -> Result<Option<Range<usize>>, DecodeError> {
        if lsn < self.first {
            return self.find_relogged(lsn, wanted);
        }
        if lsn > self.last {
            return Ok(None);
        }
        if lsn < self.next {
            self.at = CHUNK_HEADER;
            self.next = self.first;
        }
        loop {
            let mut from = Reader {
                bytes: self.chunk,
                at: self.at,
            };
            let kind = from.u8()?;
            let len = from.length()?;
            let end = from.at.checked_add(len).ok_or(DecodeError::Number)?;
            let found = self.next == lsn;
            self.at = end;
            self.next = self.next.next();
            if !found {
                continue;
            }
            if kind != wanted {
                return Ok(None);
            }
            if kind == PUT {
                for _ in 0..from.length()? {
                    from.u32()?;
                }
            } else {
                from.varint()?;
            }
            return if from.at <= end {
                Ok(Some(from.at..end))
            } else {
                Err(DecodeError::Short)
            };
        }
    }

    /// From where the last one was found to the end, then from the beginning.
    fn find_relogged(&mut self, lsn: Lsn, wanted: u8) -> Result<Option<Range<usize>>, DecodeError> {
        let begun = self.next;
        if let Some(found) = self.walk_relogged(lsn, wanted, self.last.next())? {
            return Ok(Some(found));
        }
        (self.next, self.at) = (self.first, CHUNK_HEADER);
        self.walk_relogged(lsn, wanted, begun)
    }

    /// Stays at the record that has it; records from `until` on are not looked at.
    fn walk_relogged(
        &mut self,
        lsn: Lsn,
        wanted: u8,
        until: Lsn,
    ) -> Result<Option<Range<usize>>, DecodeError> {
        while self.next < until {
            let mut from = Reader {
                bytes: self.chunk,
                at: self.at,
            };
            let kind = from.u8()?;
            let len = from.length()?;
            let end = from.at.checked_add(len).ok_or(DecodeError::Number)?;
            if kind == RELOGGED {
                let bytes = self.chunk.get(..end).ok_or(DecodeError::Short)?;
                let mut payload = Reader { bytes, at: from.at };
                payload.varint()?;
                let mut at = Lsn::ZERO;
                for _ in 0..payload.length()? {
                    let mut kind = PART;
                    let (found, range) = payload.straggler(at, |_| kind = PUT)?;
                    if found == lsn && kind == wanted {
                        return Ok(Some(range));
                    }
                    if found >= lsn {
                        break;
                    }
                    at = found;
                }
            }
            self.at = end;
            self.next = self.next.next();
        }
        Ok(None)
    }
}
