//! Numbers from bytes that may say anything.

use std::ops::Range;

use bytes::Bytes;

use crate::proto::duplicate::{DuplicateId, Scope};
use crate::proto::ids::{DestId, Lsn};
use crate::proto::lane::Lane;

use super::{DecodeError, LogRecord, Straggler};

/// Reads numbers from bytes that may say anything.
pub(crate) struct Reader<'a> {
    /// All of them.
    pub(crate) bytes: &'a [u8],
    /// The next to be read.
    pub(crate) at: usize,
}

impl Reader<'_> {
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    /// LEB128, at most ten bytes, no bits beyond the 64th.
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Number)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.varint()?).map_err(|_| DecodeError::Number)
    }

    /// An LSN that is written as the distance from the one before.
    pub(crate) fn lsn_after(&mut self, before: Lsn) -> Result<Lsn, DecodeError> {
        let lsn = before.0.checked_add(self.varint()?);
        lsn.map(Lsn).ok_or(DecodeError::Number)
    }

    pub(super) fn lsns(&mut self) -> Result<Vec<Lsn>, DecodeError> {
        let count = self.length()?;
        let mut lsns = Vec::with_capacity(count);
        let mut lsn = Lsn::ZERO;
        for _ in 0..count {
            lsn = self.lsn_after(lsn)?;
            lsns.push(lsn);
        }
        Ok(lsns)
    }

    pub(super) fn seen(&mut self) -> Result<LogRecord, DecodeError> {
        let scope = Scope(self.varint()?);
        let at_ms = self.varint()?;
        let mut key = [0; 16];
        key.copy_from_slice(self.take(16)?);
        let id = DuplicateId { scope, key };
        Ok(LogRecord::Seen { id, at_ms })
    }

    /// A part of a body, whose bytes go up to `end` of the chunk.
    pub(super) fn part(&mut self, chunk: &Bytes, end: usize) -> Result<LogRecord, DecodeError> {
        let upload = self.varint()?;
        let bytes = chunk.slice(self.at..end);
        self.at = end;
        Ok(LogRecord::Part { upload, bytes })
    }

    /// The payload of a RELOGGED record of this chunk, whose messages share its bytes.
    pub(super) fn relogged(&mut self, chunk: &Bytes) -> Result<LogRecord, DecodeError> {
        let from = Lsn(self.varint()?);
        let mut messages = Vec::new();
        let mut lsn = Lsn::ZERO;
        for _ in 0..self.length()? {
            let mut targets = Vec::new();
            let (at, range) = self.straggler(lsn, |target| targets.push(target))?;
            lsn = at;
            messages.push(Straggler {
                lsn,
                targets,
                message: chunk.slice(range),
            });
        }
        Ok(LogRecord::Relogged { from, messages })
    }

    /// One message or part of a RELOGGED record, after the one at `before`: its LSN, and where it
    /// stands.
    pub(super) fn straggler(
        &mut self,
        before: Lsn,
        mut target: impl FnMut(DestId),
    ) -> Result<(Lsn, Range<usize>), DecodeError> {
        let lsn = self.lsn_after(before)?;
        if lsn == before {
            return Err(DecodeError::Number);
        }
        for _ in 0..self.length()? {
            target(DestId(self.u32()?));
        }
        let len = self.length()?;
        let start = self.at;
        self.at += len;
        Ok((lsn, start..self.at))
    }

    pub(super) fn lane(&mut self) -> Result<Lane, DecodeError> {
        Lane::from_number(self.u8()?).ok_or(DecodeError::Number)
    }

    /// A count of bytes, or of things of at least one byte each, which must all be there.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Number)?;
        if len > self.bytes.len().saturating_sub(self.at) {
            return Err(DecodeError::Short);
        }
        Ok(len)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&[u8], DecodeError> {
        let end = self.at.checked_add(len).ok_or(DecodeError::Number)?;
        let taken = self.bytes.get(self.at..end).ok_or(DecodeError::Short)?;
        self.at = end;
        Ok(taken)
    }
}
