//! The index as it was at a point of the log, in pages: a head and pages of entries for each
//! destination, one value for each other definition. Only what changed is written again. Every value
//! carries a CRC-32C.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::{DecodeError, KEY_BYTES_MAX, Reader, put_varint};

use super::api::{Lane, Times};
use super::backend::{Table, View, Write};
use super::error::StoreError;
use super::index::{Destination, Index, Known, Slot};

const DESTINATION: u8 = b'd';
const DEFINITION: u8 = b'k';
/// Entries of one page: about 20 KiB.
const PAGE: usize = 2048;

/// What has to be written so that the `ckpt` table shows the index as it is now. `view` shows what is
/// there, to find the pages that go.
///
/// # Errors
/// When the table cannot be read.
pub fn changes<V: View>(index: &mut Index, view: &V) -> Result<Vec<Write>, StoreError> {
    let changed = index.take_changed();
    let mut writes = Vec::new();
    for id in changed.destinations {
        let had = match view.get(Table::Checkpoint, &page_key(id, 0))? {
            Some(head) => {
                decode_head(&head)
                    .map_err(|error| damaged(view, &page_key(id, 0), &error))?
                    .pages
            }
            None => 0,
        };
        let mut pages = 0;
        if let Some(destination) = index.destination(id) {
            let slots: Vec<&Slot> = destination.owed_after(Lsn::ZERO).collect();
            for (number, page) in (1u32..).zip(slots.chunks(PAGE)) {
                put(&mut writes, page_key(id, number), encode_page(page));
                pages = number;
            }
            let head = encode_head(destination, pages);
            put(&mut writes, page_key(id, 0), head);
        } else {
            writes.push(Write::Delete(Table::Checkpoint, page_key(id, 0)));
        }
        for number in pages + 1..=had {
            writes.push(Write::Delete(Table::Checkpoint, page_key(id, number)));
        }
    }
    for name in changed.definitions {
        let mut key = vec![DEFINITION, name.0];
        key.extend_from_slice(&name.1);
        match index.definition(&name) {
            Some(value) => put(&mut writes, key, value.to_vec()),
            None => writes.push(Write::Delete(Table::Checkpoint, key)),
        }
    }
    Ok(writes)
}

/// Reads the whole table into an index whose ledger knows the chunks already.
///
/// # Errors
/// When it cannot be read or is not what was written.
pub fn load<V: View>(view: &V, index: &mut Index) -> Result<(), StoreError> {
    let mut pending: Option<(DestId, Head, VecDeque<Slot>, u32)> = None;
    let mut outcome = Ok(());
    view.scan(Table::Checkpoint, &[], &mut |key, value| match load_one(
        index,
        &mut pending,
        key,
        value,
    ) {
        Ok(()) => std::ops::ControlFlow::Continue(()),
        Err(error) => {
            outcome = Err(damaged(view, key, &error));
            std::ops::ControlFlow::Break(())
        }
    })?;
    outcome?;
    match pending {
        Some((id, head, ..)) if head.pages > 0 => Err(damaged(
            view,
            &page_key(id, head.pages),
            &PageError::Missing,
        )),
        _ => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("checksum does not match")]
    Checksum,
    #[error("unknown key")]
    Key,
    #[error("a page before it is missing")]
    Missing,
    #[error("a message of it is in no chunk of the log")]
    NoChunk,
    #[error("entries are not in order")]
    Order,
}

type Pending = Option<(DestId, Head, VecDeque<Slot>, u32)>;

fn load_one(
    index: &mut Index,
    pending: &mut Pending,
    key: &[u8],
    value: &[u8],
) -> Result<(), PageError> {
    match key {
        [DESTINATION, rest @ ..] => {
            let (id, page) = rest.split_at_checked(4).ok_or(PageError::Key)?;
            let id = DestId(be32(id).ok_or(PageError::Key)?);
            let page = be32(page).ok_or(PageError::Key)?;
            if page == 0 {
                if pending.is_some() {
                    return Err(PageError::Missing);
                }
                *pending = Some((id, decode_head(value)?, VecDeque::new(), 1));
            } else {
                match pending {
                    Some((dest, _, slots, next)) if *dest == id && *next == page => {
                        decode_page(value, slots)?;
                        *next += 1;
                    }
                    _ => return Err(PageError::Missing),
                }
            }
            if pending
                .as_ref()
                .is_some_and(|(_, head, _, next)| *next > head.pages)
                && let Some((id, head, slots, _)) = pending.take()
            {
                let destination = Destination::restored(
                    head.definition,
                    head.marks,
                    head.tail,
                    slots,
                    head.known,
                );
                if !index.restore(id, destination) {
                    return Err(PageError::NoChunk);
                }
            }
            Ok(())
        }
        [DEFINITION, space, name @ ..] if name.len() <= KEY_BYTES_MAX => {
            let value = Bytes::copy_from_slice(checked(value)?);
            index.restore_definition(*space, Bytes::copy_from_slice(name), value);
            Ok(())
        }
        _ => Err(PageError::Key),
    }
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn page_key(id: DestId, page: u32) -> Vec<u8> {
    let mut key = vec![DESTINATION];
    key.extend_from_slice(&id.0.to_be_bytes());
    key.extend_from_slice(&page.to_be_bytes());
    key
}

fn damaged<V: View>(view: &V, key: &[u8], error: &PageError) -> StoreError {
    view.damaged(Table::Checkpoint, name_key(key), error.to_string())
}

/// A key of the table for people.
#[must_use]
pub fn name_key(key: &[u8]) -> String {
    match key {
        [DESTINATION, rest @ ..] if rest.len() == 8 => {
            let part = |bytes: &[u8]| be32(bytes).unwrap_or_default();
            format!("destination {} page {}", part(&rest[..4]), part(&rest[4..]))
        }
        [DEFINITION, space, name @ ..] => {
            format!("definition {space}/{}", String::from_utf8_lossy(name))
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

struct Head {
    definition: Bytes,
    marks: [Lsn; Lane::COUNT],
    tail: Lsn,
    pages: u32,
    known: BTreeMap<Lsn, Known>,
}

fn encode_head(destination: &Destination, pages: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(destination.definition.len() + 24);
    for mark in destination.marks {
        put_varint(&mut body, mark.0);
    }
    put_varint(&mut body, destination.tail.0);
    put_varint(&mut body, u64::from(pages));
    put_varint(&mut body, destination.known.len() as u64);
    for (lsn, known) in &destination.known {
        put_varint(&mut body, lsn.0);
        body.push(u8::from(known.marked));
        put_varint(&mut body, u64::from(known.failures));
    }
    body.extend_from_slice(&destination.definition);
    body
}

fn decode_head(value: &[u8]) -> Result<Head, PageError> {
    let body = checked(value)?;
    let mut from = Reader { bytes: body, at: 0 };
    let mut marks = [Lsn::ZERO; Lane::COUNT];
    for mark in &mut marks {
        *mark = Lsn(from.varint()?);
    }
    let tail = Lsn(from.varint()?);
    let pages = from.u32()?;
    let mut known = BTreeMap::new();
    for _ in 0..from.length()? {
        let lsn = Lsn(from.varint()?);
        let marked = from.u8()? != 0;
        let failures = from.u32()?;
        known.insert(lsn, Known { marked, failures });
    }
    let at = from.at;
    Ok(Head {
        definition: Bytes::copy_from_slice(&body[at..]),
        marks,
        tail,
        pages,
        known,
    })
}

fn encode_page(slots: &[&Slot]) -> Vec<u8> {
    let mut body = Vec::with_capacity(slots.len() * 10);
    let mut last = Lsn::ZERO;
    for slot in slots {
        put_varint(&mut body, slot.lsn.0 - last.0);
        put_varint(&mut body, slot.lsn.0 - slot.chunk.0);
        put_varint(&mut body, u64::from(slot.offset));
        put_varint(&mut body, u64::from(slot.len));
        body.push(slot.times.lane.0);
        put_varint(
            &mut body,
            slot.times.due_ms.map_or(0, |at| at.saturating_add(1)),
        );
        put_varint(
            &mut body,
            slot.times.expiry_ms.map_or(0, |at| at.saturating_add(1)),
        );
        last = slot.lsn;
    }
    body
}

fn decode_page(value: &[u8], slots: &mut VecDeque<Slot>) -> Result<(), PageError> {
    let body = checked(value)?;
    let mut from = Reader { bytes: body, at: 0 };
    let mut last = Lsn::ZERO;
    while from.at < body.len() {
        let lsn = last.0.checked_add(from.varint()?);
        let lsn = Lsn(lsn.ok_or(DecodeError::Number)?);
        let chunk = lsn.0.checked_sub(from.varint()?);
        let slot = Slot {
            lsn,
            chunk: Lsn(chunk.ok_or(DecodeError::Number)?),
            offset: from.u32()?,
            len: from.u32()?,
            times: Times {
                lane: Lane::from_number(from.u8()?).ok_or(DecodeError::Number)?,
                due_ms: from.varint()?.checked_sub(1),
                expiry_ms: from.varint()?.checked_sub(1),
            },
        };
        if !slot.live() || slots.back().is_some_and(|before| before.lsn >= lsn) {
            return Err(PageError::Order);
        }
        slots.push_back(slot);
        last = lsn;
    }
    Ok(())
}
