//! The index as it was at a point of the log, in pages: for each destination a head, a page for each
//! run of each lane, and pages of what is known of single messages; one value for each other
//! definition; a page for each run of known ids of each scope. Only what changed is written again. Every value carries a CRC-32C.
//!
//! | key | value, after its checksum |
//! |---|---|
//! | `b`, page | ranges of LSNs whose messages lie in these chunks: distance of the chunk, first, length |
//! | `c`, page | chunks that begin in these 4,096 LSNs: distance, records, bytes, what was owed of them |
//! | `d`, destination, 0, 0 | tail, depth, lanes with their marks, definition |
//! | `d`, destination, 1 + lane, run | the run; in the delayed lane, when each message is due |
//! | `d`, destination, 32, run | LSN, whether marked, failures |
//! | `k`, space, key | the definition |
//! | `p`, LSN of its first part | a body in parts: its upload if it is open, the messages that name it, its parts |
//! | `s`, scope, run | ids of messages: distance of their LSNs, when, hash |

use bytes::Bytes;

use crate::proto::duplicate::Scope;
use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::{DecodeError, KEY_BYTES_MAX, Reader, put_varint};

use super::api::Lane;
use super::backend::{Table, View, Write};
use super::error::StoreError;
use super::index::{Changed, Index};
use super::ledger::{ChunkFacts, Content};
use super::moved::Range;
use super::owed::{Destination, Known};
use super::runs::{Run, run_of};

/// Below the others: where what is owed lies is known then...
const MOVED: u8 = b'b';
/// ...and the chunks are.
const CHUNKS: u8 = b'c';
const DESTINATION: u8 = b'd';
const DEFINITION: u8 = b'k';
const BODY: u8 = b'p';
/// Above the others: the bounds of known ids are a definition.
const SEEN: u8 = b's';
/// Sections of a destination's pages: its head, its lanes from 1 on, what is known of messages.
const HEAD: u8 = 0;
const LANES: u8 = 1;
const KNOWN: u8 = 32;

/// What has to be written so that the `ckpt` table shows the index as it is now.
#[must_use]
pub fn changes(index: &mut Index) -> Vec<Write> {
    let Changed {
        destinations,
        definitions,
        gone,
        known,
        seen,
        bodies,
    } = index.take_changed();
    let mut writes = Vec::new();
    for page in index.ledger.take_changed() {
        writes.push(moved_page(page, index.ledger.moved_page(page)));
        writes.push(chunks_page(page, index.ledger.page(page)));
    }
    // First: a run may have come again.
    for (id, lane, run) in gone {
        let key = page_key(id, LANES + lane.0, run);
        writes.push(Write::Delete(Table::Checkpoint, key));
    }
    for id in destinations {
        match index.destination_mut(id) {
            Some(destination) => {
                destination.dirty = false;
                put(&mut writes, page_key(id, HEAD, 0), encode_head(destination));
                put_runs(&mut writes, id, destination);
            }
            None => writes.push(Write::Delete(Table::Checkpoint, page_key(id, HEAD, 0))),
        }
    }
    for (id, run) in known {
        let key = page_key(id, KNOWN, run);
        let page = index
            .destination(id)
            .map_or_else(Vec::new, |destination| encode_known(destination, run));
        if page.is_empty() {
            writes.push(Write::Delete(Table::Checkpoint, key));
        } else {
            put(&mut writes, key, page);
        }
    }
    for first in bodies {
        let key = body_key(first);
        let page = index.bodies().page(first);
        if page.is_empty() {
            writes.push(Write::Delete(Table::Checkpoint, key));
        } else {
            put(&mut writes, key, page);
        }
    }
    for (scope, run) in seen {
        let key = seen_key(scope, run);
        let page = index.seen().page(scope, run);
        if page.is_empty() {
            writes.push(Write::Delete(Table::Checkpoint, key));
        } else {
            put(&mut writes, key, page);
        }
    }
    for name in definitions {
        let mut key = vec![DEFINITION, name.0];
        key.extend_from_slice(&name.1);
        match index.definition(&name) {
            Some(value) => put(&mut writes, key, value.to_vec()),
            None => writes.push(Write::Delete(Table::Checkpoint, key)),
        }
    }
    writes
}

/// Whether a key is of a page that tells which chunks there are: another copy has others.
#[must_use]
pub fn is_of_chunks(key: &[u8]) -> bool {
    key.first() == Some(&CHUNKS)
}

/// The page of these chunks, which are in order.
pub fn chunks_page(page: u64, chunks: impl Iterator<Item = (ChunkFacts, Content)>) -> Write {
    let mut body = Vec::new();
    let mut before = Lsn::ZERO;
    for (chunk, content) in chunks {
        put_varint(&mut body, chunk.first.0 - before.0);
        put_varint(&mut body, chunk.last.0 - chunk.first.0);
        put_varint(&mut body, chunk.bytes);
        for number in [content.pairs, content.bytes, content.largest] {
            put_varint(&mut body, u64::from(number));
        }
        before = chunk.first;
    }
    page_or_none(CHUNKS, page, body)
}

fn moved_page(page: u64, ranges: impl Iterator<Item = Range>) -> Write {
    let mut body = Vec::new();
    let mut before = Lsn::ZERO;
    for range in ranges {
        put_varint(&mut body, range.chunk.0 - before.0);
        put_varint(&mut body, range.first.0);
        put_varint(&mut body, range.last.0 - range.first.0);
        before = range.chunk;
    }
    page_or_none(MOVED, page, body)
}

fn page_or_none(table: u8, page: u64, body: Vec<u8>) -> Write {
    let mut key = vec![table];
    key.extend_from_slice(&page.to_be_bytes());
    if body.is_empty() {
        return Write::Delete(Table::Checkpoint, key);
    }
    let mut value = crc32c::crc32c(&body).to_le_bytes().to_vec();
    value.extend(body);
    Write::Put(Table::Checkpoint, key, Bytes::from(value))
}

fn put_runs(writes: &mut Vec<Write>, id: DestId, destination: &mut Destination) {
    let mut delayed = Vec::new();
    for lane in destination.lanes_mut() {
        for run in lane.runs.take_dirty() {
            let mut page = Vec::new();
            run.encode(&mut page);
            if lane.lane == Lane::DELAYED {
                delayed.push((run.number, page));
            } else {
                put(writes, page_key(id, LANES + lane.lane.0, run.number), page);
            }
        }
    }
    for (run, mut page) in delayed {
        for due in destination.dues_of(run) {
            put_varint(&mut page, due);
        }
        put(writes, page_key(id, LANES + Lane::DELAYED.0, run), page);
    }
}

/// Reads the whole table into an empty index. `upto` is the end of the log that it shows.
///
/// # Errors
/// When it cannot be read or is not what was written.
pub fn load<V: View>(view: &V, index: &mut Index, upto: Lsn) -> Result<(), StoreError> {
    let mut loading = Loading {
        index,
        open: None,
        chunks: Lsn::ZERO,
        upto,
    };
    let mut outcome = Ok(());
    view.scan(
        Table::Checkpoint,
        &[],
        &mut |key, value| match loading.page(key, value) {
            Ok(()) => std::ops::ControlFlow::Continue(()),
            Err(error) => {
                outcome = Err(damaged(view, key, &error));
                std::ops::ControlFlow::Break(())
            }
        },
    )?;
    outcome?;
    let last = loading.open.as_ref().map(|open| page_key(open.id, HEAD, 0));
    loading
        .close()
        .map_err(|error| damaged(view, &last.unwrap_or_default(), &error))
}

#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("checksum does not match")]
    Checksum,
    #[error("unknown key")]
    Key,
    #[error("its destination has no head")]
    NoHead,
    #[error("the destination owes {said} messages and its pages have {found}")]
    Missing { said: u64, found: u64 },
    #[error("a message of it is in no chunk of the log")]
    NoChunk,
    #[error("entries are not in order")]
    Order,
}

struct Loading<'a> {
    index: &'a mut Index,
    open: Option<Open>,
    /// The last LSN of the last chunk.
    chunks: Lsn,
    upto: Lsn,
}

/// A destination whose pages are being read.
struct Open {
    id: DestId,
    depth: u64,
    destination: Destination,
}

impl Loading<'_> {
    fn page(&mut self, key: &[u8], value: &[u8]) -> Result<(), PageError> {
        match key {
            [DESTINATION, rest @ ..] => {
                let (id, rest) = rest.split_first_chunk::<4>().ok_or(PageError::Key)?;
                let (section, number) = rest.split_first().ok_or(PageError::Key)?;
                let number = <[u8; 8]>::try_from(number).map_err(|_| PageError::Key)?;
                let id = DestId(u32::from_be_bytes(*id));
                self.destination_page(id, *section, u64::from_be_bytes(number), checked(value)?)
            }
            [DEFINITION, space, name @ ..] if name.len() <= KEY_BYTES_MAX => {
                let value = Bytes::copy_from_slice(checked(value)?);
                self.index
                    .restore_definition(*space, Bytes::copy_from_slice(name), value);
                Ok(())
            }
            [CHUNKS, ..] => self.chunks_page(checked(value)?),
            [BODY, first @ ..] => {
                let first = <[u8; 8]>::try_from(first).map_err(|_| PageError::Key)?;
                let first = Lsn(u64::from_be_bytes(first));
                if self.index.restore_body(first, checked(value)?, self.upto)? {
                    Ok(())
                } else {
                    Err(PageError::NoChunk)
                }
            }
            [MOVED, ..] => self.moved_page(checked(value)?),
            [SEEN, rest @ ..] => {
                let (scope, run) = rest.split_first_chunk::<8>().ok_or(PageError::Key)?;
                let run = <[u8; 8]>::try_from(run).map_err(|_| PageError::Key)?;
                let (scope, run) = (u64::from_be_bytes(*scope), u64::from_be_bytes(run));
                let (body, upto) = (checked(value)?, self.upto);
                let seen = self.index.seen_mut();
                if seen.restore(Scope(scope), run, body, upto)? {
                    Ok(())
                } else {
                    Err(PageError::Order)
                }
            }
            _ => Err(PageError::Key),
        }
    }

    fn chunks_page(&mut self, body: &[u8]) -> Result<(), PageError> {
        let mut from = Reader { bytes: body, at: 0 };
        let mut before = Lsn::ZERO;
        while from.at < body.len() {
            let first = from.lsn_after(before)?;
            let chunk = ChunkFacts {
                first,
                last: from.lsn_after(first)?,
                bytes: from.varint()?,
            };
            if first <= self.chunks || chunk.last > self.upto {
                return Err(PageError::Order);
            }
            let content = Content {
                pairs: from.u32()?,
                bytes: from.u32()?,
                largest: from.u32()?,
            };
            self.index.begin_chunk(chunk);
            self.index.ledger.judge(first, content);
            self.chunks = chunk.last;
            before = first;
        }
        Ok(())
    }

    fn moved_page(&mut self, body: &[u8]) -> Result<(), PageError> {
        let mut from = Reader { bytes: body, at: 0 };
        let mut chunk = Lsn::ZERO;
        while from.at < body.len() {
            chunk = from.lsn_after(chunk)?;
            let first = Lsn(from.varint()?);
            let range = Range {
                first,
                last: from.lsn_after(first)?,
                chunk,
            };
            if chunk > self.upto || !self.index.ledger.restore_moved(range) {
                return Err(PageError::Order);
            }
        }
        Ok(())
    }

    fn destination_page(
        &mut self,
        id: DestId,
        section: u8,
        number: u64,
        body: &[u8],
    ) -> Result<(), PageError> {
        if section == HEAD {
            self.close()?;
            let (destination, depth) = decode_head(body)?;
            self.open = Some(Open {
                id,
                depth,
                destination,
            });
            return Ok(());
        }
        let destination = match &mut self.open {
            Some(open) if open.id == id => &mut open.destination,
            _ => return Err(PageError::NoHead),
        };
        let mut from = Reader { bytes: body, at: 0 };
        if section == KNOWN {
            return decode_known(destination, number, &mut from);
        }
        let lane = section.checked_sub(LANES).and_then(Lane::from_number);
        let lane = lane.ok_or(PageError::Key)?;
        let run = Run::decode(number, &mut from)?;
        let lsns: Vec<Lsn> = if lane == Lane::DELAYED {
            run.lsns().collect()
        } else {
            Vec::new()
        };
        if !destination.lane_mut(lane).runs.restore(run) {
            return Err(PageError::Order);
        }
        for lsn in lsns {
            destination.delay(lsn, from.varint()?);
        }
        if from.at < body.len() {
            return Err(PageError::Decode(DecodeError::Trailing));
        }
        Ok(())
    }

    /// No more pages of the destination that is open.
    fn close(&mut self) -> Result<(), PageError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let found = open.destination.depth();
        if found != open.depth {
            return Err(PageError::Missing {
                said: open.depth,
                found,
            });
        }
        if self.index.restore(open.id, open.destination) {
            Ok(())
        } else {
            Err(PageError::NoChunk)
        }
    }
}

fn page_key(id: DestId, section: u8, number: u64) -> Vec<u8> {
    let mut key = vec![DESTINATION];
    key.extend_from_slice(&id.0.to_be_bytes());
    key.push(section);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn seen_key(scope: Scope, run: u64) -> Vec<u8> {
    let mut key = vec![SEEN];
    key.extend_from_slice(&scope.0.to_be_bytes());
    key.extend_from_slice(&run.to_be_bytes());
    key
}

fn body_key(first: Lsn) -> Vec<u8> {
    let mut key = vec![BODY];
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

fn damaged<V: View>(view: &V, key: &[u8], error: &PageError) -> StoreError {
    view.damaged(Table::Checkpoint, name_key(key), error.to_string())
}

/// A key of the table for people.
#[must_use]
pub fn name_key(key: &[u8]) -> String {
    match key {
        [DESTINATION, rest @ ..] if rest.len() == 13 => {
            let id = rest.first_chunk().map_or(0, |id| u32::from_be_bytes(*id));
            let number = rest.last_chunk().map_or(0, |at| u64::from_be_bytes(*at));
            match rest[4] {
                HEAD => format!("destination {id}"),
                KNOWN => format!("destination {id} notes {number}"),
                section => format!("destination {id} lane {} run {number}", section - LANES),
            }
        }
        [table @ (CHUNKS | MOVED), page @ ..] => {
            let page = page.first_chunk().map_or(0, |at| u64::from_be_bytes(*at));
            let name = if *table == CHUNKS { "chunks" } else { "moved" };
            format!("{name} {page}")
        }
        [DEFINITION, space, name @ ..] => {
            format!("definition {space}/{}", String::from_utf8_lossy(name))
        }
        [BODY, first @ ..] if first.len() == 8 => {
            let first = first.first_chunk().map_or(0, |at| u64::from_be_bytes(*at));
            format!("body {first}")
        }
        [SEEN, rest @ ..] if rest.len() == 16 => {
            let part = |at: Option<&[u8; 8]>| at.map_or(0, |at| u64::from_be_bytes(*at));
            let (scope, run) = (part(rest.first_chunk()), part(rest.last_chunk()));
            format!("known ids of {scope} run {run}")
        }
        _ => format!("{key:02x?}"),
    }
}

fn put(writes: &mut Vec<Write>, key: Vec<u8>, body: Vec<u8>) {
    let mut value = crc32c::crc32c(&body).to_le_bytes().to_vec();
    value.extend(body);
    writes.push(Write::Put(Table::Checkpoint, key, Bytes::from(value)));
}

fn checked(value: &[u8]) -> Result<&[u8], PageError> {
    let (crc, body) = value
        .split_first_chunk::<4>()
        .ok_or(PageError::Decode(DecodeError::Short))?;
    if crc32c::crc32c(body) == u32::from_le_bytes(*crc) {
        Ok(body)
    } else {
        Err(PageError::Checksum)
    }
}

fn encode_head(destination: &Destination) -> Vec<u8> {
    let mut body = Vec::with_capacity(destination.definition.len() + 24);
    put_varint(&mut body, destination.tail.0);
    put_varint(&mut body, destination.depth());
    let marked = |lane: &&super::owed::LaneIndex| lane.mark > Lsn::ZERO;
    let lanes = destination.lanes();
    put_varint(&mut body, lanes.iter().filter(marked).count() as u64);
    for lane in lanes.iter().filter(marked) {
        body.push(lane.lane.0);
        put_varint(&mut body, lane.mark.0);
    }
    body.extend_from_slice(&destination.definition);
    body
}

fn decode_head(body: &[u8]) -> Result<(Destination, u64), PageError> {
    let mut from = Reader { bytes: body, at: 0 };
    let mut destination = Destination::default();
    destination.tail = Lsn(from.varint()?);
    let depth = from.varint()?;
    for _ in 0..from.length()? {
        let lane = Lane::from_number(from.u8()?).ok_or(DecodeError::Number)?;
        destination.lane_mut(lane).mark = Lsn(from.varint()?);
    }
    destination.definition = Bytes::copy_from_slice(&body[from.at..]);
    Ok((destination, depth))
}

fn encode_known(destination: &Destination, run: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for (lsn, known) in destination.known_of(run) {
        put_varint(&mut body, lsn.0);
        body.push(u8::from(known.marked));
        put_varint(&mut body, u64::from(known.failures));
    }
    body
}

fn decode_known(
    destination: &mut Destination,
    run: u64,
    from: &mut Reader<'_>,
) -> Result<(), PageError> {
    while from.at < from.bytes.len() {
        let lsn = Lsn(from.varint()?);
        let known = Known {
            marked: from.u8()? != 0,
            failures: from.u32()?,
        };
        if run_of(lsn) != run || !destination.owes(lsn) {
            return Err(PageError::Order);
        }
        destination.know(lsn, |own| *own = known);
    }
    Ok(())
}
