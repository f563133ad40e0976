//! The log's bytes: records, and the chunks that hold them. A chunk is the value of one LSN in the
//! store and crosses the HA channel as it is, so everything in it is little-endian, versioned and
//! under one CRC-32C. A record's LSN is not in its bytes: it is the chunk's first LSN plus its
//! place in the chunk.
//!
//! | chunk header | bytes | | record | bytes |
//! |---|---|---|---|---|
//! | magic, version, flags, reserved | 4, 1, 1, 2 | | kind | 1 |
//! | epoch, first LSN, batch id | 8, 8, 8 | | length of payload | varint |
//! | chunk i, of n | 2, 2 | | payload | |
//! | body length, record count | 4, 4 | | | |
//! | CRC of the chunk before, own CRC | 4, 4 | | | |

mod encode;
mod find;
mod reader;

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;

use crate::proto::duplicate::DuplicateId;
use crate::proto::ids::{DestId, Epoch, Lsn};
use crate::proto::lane::Lane;

pub use encode::{BatchWriter, Placed};
pub(crate) use encode::{put_varint, varint_len};
pub use find::Messages;
pub(crate) use reader::Reader;

/// Bytes of a chunk's header.
pub const CHUNK_HEADER: usize = 52;
/// A chunk is closed before it grows over this; only a single larger record makes a larger one.
/// 64 KiB less the header of LMDB's overflow page, so that a full chunk is 16 pages and not 17.
pub const CHUNK_BYTES: usize = 65_536 - 16;
/// The longest key of a definition.
pub const KEY_BYTES_MAX: usize = 400;

const MAGIC: u32 = u32::from_le_bytes(*b"TMQc");
const VERSION: u8 = 2;
const CRC_AT: usize = CHUNK_HEADER - 4;

const PUT: u8 = 1;
const ACK: u8 = 2;
const DELIVERED: u8 = 3;
const KV: u8 = 4;
const EPOCH: u8 = 5;
const PART: u8 = 6;
/// Reserved: a part of a transaction over 8 MiB.
pub const KIND_TX: u8 = 7;
const DELIVERED_EACH: u8 = 8;
const FAILED: u8 = 9;
const SEEN: u8 = 10;
const UPLOAD_ENDED: u8 = 12;
const RELOGGED: u8 = 14;

/// Bytes that are not a chunk or a record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Ends before it should.
    #[error("cut short")]
    Short,
    /// Goes on after it should have ended.
    #[error("bytes left over at its end")]
    Trailing,
    /// Not a chunk.
    #[error("not a chunk of a log")]
    Magic,
    /// Written by another release.
    #[error("format version {0} is unknown to this release")]
    Version(u8),
    /// Larger than the limit that the reader set.
    #[error("larger than the limit")]
    TooLarge,
    /// The checksum does not match.
    #[error("checksum {found:08x} instead of {stored:08x}")]
    Checksum {
        /// What the chunk says.
        stored: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A kind of record that this release does not know.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// A number that does not fit its type, or that cannot be.
    #[error("a number is out of range")]
    Number,
}

/// A record to be encoded.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A message for each of the targets.
    Put {
        /// Who owes it.
        targets: &'a [DestId],
        /// Its canonical bytes.
        message: &'a [u8],
    },
    /// Messages of a destination that are done with.
    Ack {
        /// Whose.
        dest: DestId,
        /// Which; encoded in ascending order.
        lsns: &'a [Lsn],
    },
    /// Raises the delivery mark of a lane to the record's own LSN plus `ahead`.
    Delivered {
        /// Whose.
        dest: DestId,
        /// Which of its lanes.
        lane: Lane,
        /// How far.
        ahead: u32,
    },
    /// A definition, removed when the value is empty.
    Kv {
        /// Kind of definition.
        space: u8,
        /// Unique in its space.
        key: &'a [u8],
        /// What it is.
        value: &'a [u8],
    },
    /// An epoch begins.
    Epoch(Epoch),
    /// These messages may have been delivered, whatever the marks say.
    DeliveredEach {
        /// Whose.
        dest: DestId,
        /// Which; encoded in ascending order.
        lsns: &'a [Lsn],
    },
    /// So often were these messages delivered in vain.
    Failed {
        /// Whose.
        dest: DestId,
        /// Which, and how often in all; encoded in ascending order.
        counts: &'a [(Lsn, u32)],
    },
    /// A message with this id is stored, by a record of the same unit.
    Seen {
        /// Its hash, and where it counts.
        id: DuplicateId,
        /// When, in milliseconds since 1970 by the clock of the server that wrote it.
        at_ms: u64,
    },
    /// A part of a body, which is owed while its upload is open and while a message that names it is.
    Part {
        /// Whose parts belong together; unique in its epoch.
        upload: u64,
        /// Bytes of the body.
        bytes: &'a [u8],
    },
    /// An upload is over: what no message has named by now is owed no more. So is every upload when an
    /// epoch begins.
    UploadEnded(u64),
    /// What is owed of a chunk lies here from now on.
    Relogged {
        /// The chunk's first LSN.
        from: Lsn,
        /// All that was owed of it, messages and parts of bodies, by ascending LSNs.
        messages: &'a [Straggler],
    },
}

/// A message in a [`Record::Relogged`], or a part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Straggler {
    /// The LSN of its PUT or PART: still its position, and its identity.
    pub lsn: Lsn,
    /// Who owed it when it was read; nobody for a part, which messages hold.
    pub targets: Vec<DestId>,
    /// Its canonical bytes, or those of the part.
    pub message: Bytes,
}

impl Straggler {
    /// It is a part of a body.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.targets.is_empty()
    }
}

/// A record as it is applied: decoded from a chunk, or made from what was just encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// See [`Record::Put`].
    Put {
        /// Who owes it.
        targets: Vec<DestId>,
        /// Its canonical bytes.
        message: Bytes,
        /// Where `message` begins in its chunk.
        offset: u32,
    },
    /// See [`Record::Ack`].
    Ack {
        /// Whose.
        dest: DestId,
        /// Which, ascending when decoded.
        lsns: Vec<Lsn>,
    },
    /// See [`Record::Delivered`].
    Delivered {
        /// Whose.
        dest: DestId,
        /// Which of its lanes.
        lane: Lane,
        /// How far.
        ahead: u32,
    },
    /// See [`Record::Kv`].
    Kv {
        /// Kind of definition.
        space: u8,
        /// Unique in its space.
        key: Bytes,
        /// What it is.
        value: Bytes,
    },
    /// See [`Record::Epoch`].
    Epoch(Epoch),
    /// See [`Record::DeliveredEach`].
    DeliveredEach {
        /// Whose.
        dest: DestId,
        /// Which, ascending when decoded.
        lsns: Vec<Lsn>,
    },
    /// See [`Record::Failed`].
    Failed {
        /// Whose.
        dest: DestId,
        /// Which and how often, ascending when decoded.
        counts: Vec<(Lsn, u32)>,
    },
    /// See [`Record::Seen`].
    Seen {
        /// Its hash, and where it counts.
        id: DuplicateId,
        /// When.
        at_ms: u64,
    },
    /// See [`Record::Part`].
    Part {
        /// Whose parts belong together.
        upload: u64,
        /// Bytes of the body.
        bytes: Bytes,
    },
    /// See [`Record::UploadEnded`].
    UploadEnded(u64),
    /// See [`Record::Relogged`].
    Relogged {
        /// The chunk's first LSN.
        from: Lsn,
        /// All that was owed of it, ascending.
        messages: Vec<Straggler>,
    },
}

/// What a chunk says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Who wrote it.
    pub epoch: Epoch,
    /// The LSN of its first record.
    pub first: Lsn,
    /// The first LSN of its batch: equal in all chunks of it.
    pub batch: Lsn,
    /// Which chunk of its batch, from 0.
    pub index: u16,
    /// Of how many.
    pub of: u16,
    /// Bytes after the header.
    pub body: u32,
    /// Records in it, at least one.
    pub records: u32,
    /// The checksum of the chunk before: the chain.
    pub prev: u32,
    /// Over header and body.
    pub crc: u32,
}

impl ChunkHeader {
    /// Reads the header only; `total` is the length of the whole chunk. Nothing is said of the body.
    ///
    /// # Errors
    /// When it is not the header of a chunk of that length.
    pub fn decode(bytes: &[u8], total: usize) -> Result<Self, DecodeError> {
        let head = bytes.get(..CHUNK_HEADER).ok_or(DecodeError::Short)?;
        if LE::read_u32(head) != MAGIC {
            return Err(DecodeError::Magic);
        }
        if head[4] != VERSION {
            return Err(DecodeError::Version(head[4]));
        }
        let header = Self {
            epoch: Epoch(LE::read_u64(&head[8..])),
            first: Lsn(LE::read_u64(&head[16..])),
            batch: Lsn(LE::read_u64(&head[24..])),
            index: LE::read_u16(&head[32..]),
            of: LE::read_u16(&head[34..]),
            body: LE::read_u32(&head[36..]),
            records: LE::read_u32(&head[40..]),
            prev: LE::read_u32(&head[44..]),
            crc: LE::read_u32(&head[CRC_AT..]),
        };
        let body = usize::try_from(header.body).map_err(|_| DecodeError::Number)?;
        match total.checked_sub(CHUNK_HEADER) {
            None => return Err(DecodeError::Short),
            Some(rest) if rest < body => return Err(DecodeError::Short),
            Some(rest) if rest > body => return Err(DecodeError::Trailing),
            Some(_) => {}
        }
        // Each record takes at least two bytes, so the count can be trusted for allocation.
        let plausible = header.records > 0
            && header.records <= header.body / 2
            && header.index < header.of
            && header.first > Lsn::ZERO
            && header.batch > Lsn::ZERO
            && header.batch <= header.first
            && header
                .first
                .0
                .checked_add(u64::from(header.records))
                .is_some();
        if plausible {
            Ok(header)
        } else {
            Err(DecodeError::Number)
        }
    }

    /// The LSN of its last record.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.first.0 + u64::from(self.records) - 1)
    }
}

/// A chunk whose checksum is good.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// What it says of itself.
    pub header: ChunkHeader,
    /// All of it.
    pub bytes: Bytes,
}

impl Chunk {
    /// Checks length and checksum; the records are checked as they are read.
    ///
    /// # Errors
    /// When it is larger than `limit`, not a chunk, or damaged.
    pub fn decode(bytes: Bytes, limit: usize) -> Result<Self, DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError::TooLarge);
        }
        let header = ChunkHeader::decode(&bytes, bytes.len())?;
        verify(&bytes, &header)?;
        Ok(Self { header, bytes })
    }

    /// Its records with their LSNs, in order. Their bytes share the chunk's.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records {
            chunk: &self.bytes,
            at: CHUNK_HEADER,
            next: self.header.first,
            left: self.header.records,
        }
    }
}

/// Checks the checksum of a whole chunk against its header.
///
/// # Errors
/// When it does not match.
pub fn verify(bytes: &[u8], header: &ChunkHeader) -> Result<(), DecodeError> {
    let (head, body) = bytes
        .split_at_checked(CHUNK_HEADER)
        .ok_or(DecodeError::Short)?;
    let found = checksum(head, body);
    if found == header.crc {
        Ok(())
    } else {
        Err(DecodeError::Checksum {
            stored: header.crc,
            found,
        })
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), body)
}

/// The records of a chunk. Ends after the first error.
#[derive(Debug)]
pub struct Records<'a> {
    chunk: &'a Bytes,
    at: usize,
    next: Lsn,
    left: u32,
}

impl Iterator for Records<'_> {
    type Item = Result<(Lsn, LogRecord), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.at == self.chunk.len() {
                return None;
            }
            self.at = self.chunk.len();
            return Some(Err(DecodeError::Trailing));
        }
        let lsn = self.next;
        match read_record(self.chunk, &mut self.at) {
            Ok(record) => {
                self.left -= 1;
                self.next = lsn.next();
                Some(Ok((lsn, record)))
            }
            Err(error) => {
                self.left = 0;
                self.at = self.chunk.len();
                Some(Err(error))
            }
        }
    }
}

fn read_record(chunk: &Bytes, at: &mut usize) -> Result<LogRecord, DecodeError> {
    let mut head = Reader {
        bytes: chunk,
        at: *at,
    };
    let kind = head.u8()?;
    let len = head.length()?;
    let start = head.at;
    // `length` has checked that this many bytes are there.
    let end = start.checked_add(len).ok_or(DecodeError::Number)?;
    let mut payload = Reader {
        bytes: chunk.get(..end).ok_or(DecodeError::Short)?,
        at: start,
    };
    let record = match kind {
        PUT => {
            let count = payload.length()?;
            let mut targets = Vec::with_capacity(count);
            for _ in 0..count {
                targets.push(DestId(payload.u32()?));
            }
            let offset = u32::try_from(payload.at).map_err(|_| DecodeError::Number)?;
            let message = chunk.slice(payload.at..end);
            payload.at = end;
            LogRecord::Put {
                targets,
                message,
                offset,
            }
        }
        ACK => {
            let dest = DestId(payload.u32()?);
            let lsns = payload.lsns()?;
            LogRecord::Ack { dest, lsns }
        }
        DELIVERED => LogRecord::Delivered {
            dest: DestId(payload.u32()?),
            lane: payload.lane()?,
            ahead: payload.u32()?,
        },
        KV => {
            let space = payload.u8()?;
            let len = payload.length()?;
            if len > KEY_BYTES_MAX {
                return Err(DecodeError::TooLarge);
            }
            let key = chunk.slice(payload.at..payload.at + len);
            payload.at += len;
            let value = chunk.slice(payload.at..end);
            payload.at = end;
            LogRecord::Kv { space, key, value }
        }
        EPOCH => LogRecord::Epoch(Epoch(payload.varint()?)),
        DELIVERED_EACH => {
            let dest = DestId(payload.u32()?);
            let lsns = payload.lsns()?;
            LogRecord::DeliveredEach { dest, lsns }
        }
        FAILED => {
            let dest = DestId(payload.u32()?);
            let count = payload.length()?;
            let mut counts = Vec::with_capacity(count);
            let mut lsn = Lsn::ZERO;
            for _ in 0..count {
                lsn = payload.lsn_after(lsn)?;
                counts.push((lsn, payload.u32()?));
            }
            LogRecord::Failed { dest, counts }
        }
        SEEN => payload.seen()?,
        PART => payload.part(chunk, end)?,
        UPLOAD_ENDED => LogRecord::UploadEnded(payload.varint()?),
        RELOGGED => payload.relogged(chunk)?,
        other => return Err(DecodeError::Kind(other)),
    };
    if payload.at != end {
        return Err(DecodeError::Trailing);
    }
    *at = end;
    Ok(record)
}

/// Decodes a chunk and all its records from arbitrary bytes: the target of the fuzzer. True when all
/// of it is sound.
#[must_use]
pub fn decodes(bytes: &[u8]) -> bool {
    match Chunk::decode(Bytes::copy_from_slice(bytes), 1 << 20) {
        Ok(chunk) => chunk.records().all(|record| record.is_ok()),
        Err(_) => false,
    }
}

/// As [`decodes`], with magic, version, length and checksum made right first, so that the fuzzer
/// gets past them to the records.
#[must_use]
pub fn decodes_body(bytes: &[u8]) -> bool {
    let Some((_, body)) = bytes.split_at_checked(CHUNK_HEADER) else {
        return false;
    };
    let Ok(body_len) = u32::try_from(body.len()) else {
        return false;
    };
    let mut chunk = bytes.to_vec();
    LE::write_u32(&mut chunk, MAGIC);
    chunk[4] = VERSION;
    LE::write_u32(&mut chunk[36..], body_len);
    let crc = checksum(&chunk[..CHUNK_HEADER], &chunk[CHUNK_HEADER..]);
    LE::write_u32(&mut chunk[CRC_AT..], crc);
    decodes(&chunk)
}

#[cfg(test)]
mod tests;
