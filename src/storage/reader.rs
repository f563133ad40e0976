//! The read side: messages for delivery and the log for a peer that catches up. Runs beside the
//! writer; each answer is one short read of at most a few MiB.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::log::Batch;
use crate::proto::record::{self, ChunkHeader};

use super::api::{Entry, Fetched, Seek, StoreEvent, Times};
use super::backend::{Table, View, log_key};
use super::error::StoreError;
use super::index::Slot;
use super::recover::{bad, each_chunk, header};
use super::shared::Shared;

/// No answer has more, whatever was asked for.
const ANSWER_BYTES: usize = 8 << 20;

/// What the reader is asked for.
pub(crate) enum Question {
    /// See `LogStore::fetch`.
    Fetch {
        dest: DestId,
        tag: u32,
        seek: Seek,
        count: usize,
        bytes: usize,
    },
    /// See `LogStore::read_log`.
    Log {
        request: u64,
        after: Lsn,
        bytes: usize,
    },
}

/// Answers one question by an event.
pub(crate) fn answer<V: View>(shared: &Arc<Shared<V>>, question: &Question) {
    let answered = match question {
        Question::Fetch {
            dest,
            tag,
            seek,
            count,
            bytes,
        } => fetch(shared, *dest, seek, *count, *bytes)
            .map(|found| StoreEvent::Fetched(Fetched { tag: *tag, ..found })),
        Question::Log {
            request,
            after,
            bytes,
        } => {
            let (request, after, bytes) = (*request, *after, *bytes);
            let floor = shared.state().floor;
            let batches = if after < floor {
                tracing::warn!(target: "twinmq::store", %after, %floor, "the log below the floor was asked for");
                Ok(Vec::new())
            } else {
                read_log(&shared.view(), after, bytes.min(ANSWER_BYTES))
            };
            batches.map(|batches| StoreEvent::LogRead { request, batches })
        }
    };
    match answered {
        Ok(event) => shared.emit(event),
        Err(error) => {
            tracing::error!(target: "twinmq::store", %error, "the store cannot be read");
            shared.fail(error);
        }
    }
}

/// What is asked for, message by message.
struct Wanted<'a> {
    seek: &'a Seek,
    after: Lsn,
}

impl Wanted<'_> {
    fn place(&self, times: Times) -> bool {
        match self.seek {
            Seek::All { .. } => true,
            Seek::Lane { lane, .. } | Seek::Matching { lane, .. } => times.lane == *lane,
            Seek::Due { .. } => times.due_ms.is_some(),
            Seek::Expired { .. } => times.expiry_ms.is_some(),
        }
    }

    fn message(&self, message: &[u8]) -> bool {
        match self.seek {
            Seek::Matching { filter, .. } => filter.takes(message),
            _ => true,
        }
    }
}

fn fetch<V: View>(
    shared: &Shared<V>,
    dest: DestId,
    seek: &Seek,
    count: usize,
    bytes: usize,
) -> Result<Fetched, StoreError> {
    let after = match seek {
        Seek::All { after }
        | Seek::Lane { after, .. }
        | Seek::Matching { after, .. }
        | Seek::Expired { after, .. } => *after,
        Seek::Due { .. } => Lsn::ZERO,
    };
    let wanted = Wanted { seek, after };
    let mut next_ms = None;
    let (slots, end, view) = {
        let state = shared.state();
        let owed = state.index.destination(dest);
        let mut slots: Vec<Slot> = owed
            .iter()
            .flat_map(|dest| dest.owed_after(wanted.after))
            .filter(|slot| wanted.place(slot.times))
            .copied()
            .collect();
        match seek {
            Seek::Due { after, until_ms } => {
                slots.sort_unstable_by_key(|slot| (slot.times.due_ms, slot.lsn));
                slots.retain(|slot| (slot.times.due_ms.unwrap_or(0), slot.lsn) > *after);
                let due = slots.partition_point(|slot| slot.times.due_ms <= Some(*until_ms));
                next_ms = slots.get(due).and_then(|slot| slot.times.due_ms);
                slots.truncate(due);
            }
            Seek::Expired { now_ms, .. } => {
                let expired = |slot: &Slot| slot.times.expiry_ms <= Some(*now_ms);
                next_ms = slots
                    .iter()
                    .filter(|slot| !expired(slot))
                    .filter_map(|slot| slot.times.expiry_ms)
                    .min();
                slots.retain(expired);
            }
            Seek::All { .. } | Seek::Lane { .. } | Seek::Matching { .. } => {}
        }
        // The view under the lock: index and environment are of the same store.
        (slots, state.applied.position.lsn.max(after), shared.view())
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut scanned = after;
    let mut all = true;
    let mut size = 0;
    let mut chunk: Option<(Lsn, Bytes)> = None;
    for slot in slots {
        if entries.len() >= count || size >= bytes.min(ANSWER_BYTES) {
            all = false;
            if let Some(at) = slot.times.due_ms.or(slot.times.expiry_ms) {
                next_ms = Some(at);
            }
            break;
        }
        scanned = slot.lsn;
        let loaded = match &chunk {
            Some((first, bytes)) if *first == slot.chunk => bytes.clone(),
            _ => match load(&view, slot.chunk)? {
                Some(bytes) => {
                    chunk = Some((slot.chunk, bytes.clone()));
                    bytes
                }
                // Acknowledged and collected since the index was asked.
                None if !owes(shared, dest, slot.lsn) => continue,
                None => return Err(bad(&view, slot.chunk, &"is missing")),
            },
        };
        let start = slot.offset as usize;
        let message = start
            .checked_add(slot.len as usize)
            .and_then(|end| loaded.get(start..end))
            .ok_or_else(|| bad(&view, slot.chunk, &"is shorter than the index says"))?;
        if !wanted.message(message) {
            continue;
        }
        size += message.len();
        // A slice keeps its whole chunk in memory: worth it only for most of the chunk.
        let message = if message.len() * 2 > loaded.len() {
            loaded.slice_ref(message)
        } else {
            Bytes::copy_from_slice(message)
        };
        entries.push(Entry::new(slot.lsn, message));
    }
    {
        let state = shared.state();
        if let Some(dest) = state.index.destination(dest) {
            for entry in &mut entries {
                *entry = dest.entry(entry.lsn, entry.message.clone());
            }
        }
    }
    Ok(Fetched {
        dest,
        tag: 0,
        entries,
        scanned: if all { end } else { scanned },
        next_ms,
    })
}

fn owes<V: Clone>(shared: &Shared<V>, dest: DestId, lsn: Lsn) -> bool {
    let state = shared.state();
    state
        .index
        .destination(dest)
        .is_some_and(|dest| dest.owes(lsn))
}

/// A chunk whose checksum is good.
fn load<V: View>(view: &V, lsn: Lsn) -> Result<Option<Bytes>, StoreError> {
    let Some(bytes) = view.get(Table::Log, &log_key(lsn))? else {
        return Ok(None);
    };
    let header = header(view, lsn, &bytes)?;
    record::verify(&bytes, &header).map_err(|error| bad(view, lsn, &error))?;
    Ok(Some(bytes))
}

/// Whole batches that follow `after` without a gap, until they have `bytes` bytes.
fn read_log<V: View>(view: &V, after: Lsn, bytes: usize) -> Result<Vec<Batch>, StoreError> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut open: Option<(ChunkHeader, Vec<Bytes>)> = None;
    let (mut next, mut size) = (after.next(), 0);
    each_chunk(view, next, &mut |lsn, value| {
        if open.is_none() && size >= bytes.max(1) {
            return Ok(ControlFlow::Break(()));
        }
        let head = header(view, lsn, value)?;
        if lsn != next || (open.is_none() && head.index != 0) {
            tracing::warn!(
                target: "twinmq::store", %after, found = %lsn, wanted = %next,
                "the log was asked for from a place where it is not whole"
            );
            return Ok(ControlFlow::Break(()));
        }
        record::verify(value, &head).map_err(|error| bad(view, lsn, &error))?;
        next = head.last().next();
        size += value.len();
        let (first, chunks) = open.get_or_insert_with(|| (head, Vec::new()));
        chunks.push(Bytes::copy_from_slice(value));
        if head.index + 1 == head.of {
            batches.push(Batch {
                epoch: head.epoch,
                first: first.first,
                last: head.last(),
                prev_chain: first.prev,
                chunks: std::mem::take(chunks),
            });
            open = None;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(batches)
}
