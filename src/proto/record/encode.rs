//! Records into chunks, chunks into a batch.

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;

use crate::proto::ids::{Epoch, Lsn};
use crate::proto::log::Batch;

use super::{
    ACK, CHUNK_BYTES, CHUNK_HEADER, CRC_AT, DELIVERED, DELIVERED_EACH, EPOCH, FAILED, KV, MAGIC,
    PART, PUT, RELOGGED, Record, SEEN, Straggler, UPLOAD_ENDED, VERSION, checksum,
};

pub(crate) fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    to.push(low_byte(value));
}

fn low_byte(value: u64) -> u8 {
    u8::try_from(value & 0x7f).expect("seven bits fit a byte")
}

/// Bytes that [`put_varint`] appends.
pub(crate) fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Where a record's message came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The record's LSN.
    pub lsn: Lsn,
    /// Its chunk.
    pub chunk: Lsn,
    /// Where the message begins in it; meaningless for other records than PUT.
    pub offset: u32,
}

/// Encodes one batch: records are pushed in order, chunks are closed as they fill.
#[derive(Debug)]
pub struct BatchWriter {
    epoch: Epoch,
    first: Lsn,
    next: Lsn,
    prev: u32,
    done: Vec<OpenChunk>,
    open: OpenChunk,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct OpenChunk {
    first: Lsn,
    records: u32,
    bytes: Vec<u8>,
}

impl OpenChunk {
    fn new(first: Lsn, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(CHUNK_HEADER));
        bytes.resize(CHUNK_HEADER, 0);
        Self {
            first,
            records: 0,
            bytes,
        }
    }
}

impl BatchWriter {
    /// A batch that begins at `first` and chains to `prev`. `expected` bytes are reserved at most.
    #[must_use]
    pub fn new(epoch: Epoch, first: Lsn, prev: u32, expected: usize) -> Self {
        Self {
            epoch,
            first,
            next: first,
            prev,
            done: Vec::new(),
            open: OpenChunk::new(first, expected.min(CHUNK_BYTES)),
            scratch: Vec::new(),
        }
    }

    /// Encodes one record.
    pub fn push(&mut self, record: &Record<'_>) -> Placed {
        let (kind, tail) = put_head(&mut self.scratch, record);
        let payload = self.scratch.len() + tail.len();
        let whole = 1 + varint_len(payload as u64) + payload;
        if self.open.records > 0 && self.open.bytes.len() + whole > CHUNK_BYTES {
            let fresh = OpenChunk::new(self.next, CHUNK_BYTES);
            self.done.push(std::mem::replace(&mut self.open, fresh));
        }
        let to = &mut self.open.bytes;
        to.push(kind);
        put_varint(to, payload as u64);
        to.extend_from_slice(&self.scratch);
        let offset = u32::try_from(to.len()).expect("a record is far smaller than 4 GiB");
        to.extend_from_slice(tail);
        self.open.records += 1;
        let placed = Placed {
            lsn: self.next,
            chunk: self.open.first,
            offset,
        };
        self.next = self.next.next();
        placed
    }

    /// Closes the batch and gives it with the checksum of its last chunk, to which the next batch
    /// chains. None when nothing was pushed.
    #[must_use]
    pub fn finish(mut self) -> Option<(Batch, u32)> {
        if self.open.records > 0 {
            self.done.push(self.open);
        }
        if self.done.is_empty() {
            return None;
        }
        let of = u16::try_from(self.done.len()).expect("a batch has far fewer than 65536 chunks");
        let mut chain = self.prev;
        let mut chunks = Vec::with_capacity(self.done.len());
        for (index, mut chunk) in (0u16..).zip(self.done) {
            let body = u32::try_from(chunk.bytes.len() - CHUNK_HEADER)
                .expect("a chunk is far smaller than 4 GiB");
            let (head, rest) = chunk.bytes.split_at_mut(CHUNK_HEADER);
            LE::write_u32(head, MAGIC);
            head[4] = VERSION;
            LE::write_u64(&mut head[8..], self.epoch.0);
            LE::write_u64(&mut head[16..], chunk.first.0);
            LE::write_u64(&mut head[24..], self.first.0);
            LE::write_u16(&mut head[32..], index);
            LE::write_u16(&mut head[34..], of);
            LE::write_u32(&mut head[36..], body);
            LE::write_u32(&mut head[40..], chunk.records);
            LE::write_u32(&mut head[44..], chain);
            chain = checksum(head, rest);
            LE::write_u32(&mut head[CRC_AT..], chain);
            chunks.push(Bytes::from(chunk.bytes));
        }
        let batch = Batch {
            epoch: self.epoch,
            first: self.first,
            last: self.next.prev(),
            prev_chain: self.prev,
            chunks,
        };
        Some((batch, chain))
    }
}

/// Writes what stands before a record's bytes, if it has any; gives its kind and these.
fn put_head<'a>(head: &mut Vec<u8>, record: &Record<'a>) -> (u8, &'a [u8]) {
    head.clear();
    match *record {
        Record::Put { targets, message } => {
            put_varint(head, targets.len() as u64);
            for target in targets {
                put_varint(head, u64::from(target.0));
            }
            (PUT, message)
        }
        Record::Ack { dest, lsns } => {
            put_varint(head, u64::from(dest.0));
            put_lsns(head, lsns);
            (ACK, &[])
        }
        Record::Delivered { dest, lane, ahead } => {
            put_varint(head, u64::from(dest.0));
            head.push(lane.0);
            put_varint(head, u64::from(ahead));
            (DELIVERED, &[])
        }
        Record::Kv { space, key, value } => {
            head.push(space);
            put_varint(head, key.len() as u64);
            head.extend_from_slice(key);
            (KV, value)
        }
        Record::Epoch(epoch) => {
            put_varint(head, epoch.0);
            (EPOCH, &[])
        }
        Record::DeliveredEach { dest, lsns } => {
            put_varint(head, u64::from(dest.0));
            put_lsns(head, lsns);
            (DELIVERED_EACH, &[])
        }
        Record::Failed { dest, counts } => {
            put_varint(head, u64::from(dest.0));
            put_counts(head, counts);
            (FAILED, &[])
        }
        Record::Seen { id, at_ms } => {
            put_varint(head, id.scope.0);
            put_varint(head, at_ms);
            head.extend_from_slice(&id.key);
            (SEEN, &[])
        }
        Record::Part { upload, bytes } => {
            put_varint(head, upload);
            (PART, bytes)
        }
        Record::UploadEnded(upload) => {
            put_varint(head, upload);
            (UPLOAD_ENDED, &[])
        }
        Record::Relogged { from, messages } => {
            put_varint(head, from.0);
            put_stragglers(head, messages);
            (RELOGGED, &[])
        }
    }
}

fn put_lsns(to: &mut Vec<u8>, lsns: &[Lsn]) {
    put_varint(to, lsns.len() as u64);
    let mut last = 0;
    let mut put = |lsn: Lsn| {
        put_varint(to, lsn.0 - last);
        last = lsn.0;
    };
    if lsns.is_sorted() {
        lsns.iter().copied().for_each(&mut put);
    } else {
        let mut sorted = lsns.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().for_each(put);
    }
}

fn put_stragglers(to: &mut Vec<u8>, messages: &[Straggler]) {
    put_varint(to, messages.len() as u64);
    let mut last = 0;
    for straggler in messages {
        put_varint(to, straggler.lsn.0 - last);
        last = straggler.lsn.0;
        put_varint(to, straggler.targets.len() as u64);
        for target in &straggler.targets {
            put_varint(to, u64::from(target.0));
        }
        put_varint(to, straggler.message.len() as u64);
        to.extend_from_slice(&straggler.message);
    }
}

fn put_counts(to: &mut Vec<u8>, counts: &[(Lsn, u32)]) {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    put_varint(to, sorted.len() as u64);
    let mut last = 0;
    for (lsn, count) in sorted {
        put_varint(to, lsn.0 - last);
        put_varint(to, u64::from(count));
        last = lsn.0;
    }
}
