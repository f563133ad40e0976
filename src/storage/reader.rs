//! The read side: messages for delivery and the log for a peer that catches up. Runs beside the
//! writer; each answer is one short read of at most a few MiB.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::log::Batch;
use crate::proto::record::{self, ChunkHeader};

use super::api::{Fetched, Seek, StoreEvent};
use super::backend::View;
use super::error::StoreError;
use super::recover::{bad, each_chunk, header};
use super::seek::{Room, fetch, read_parts};
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
    /// See `LogStore::read_parts`.
    Parts { whose: u32, lsns: Vec<Lsn> },
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
        } => {
            let room = Room {
                count: *count,
                bytes: (*bytes).min(ANSWER_BYTES),
            };
            fetch(shared, *dest, seek, room)
                .map(|found| StoreEvent::Fetched(Fetched { tag: *tag, ..found }))
        }
        Question::Parts { whose, lsns } => {
            let whose = *whose;
            read_parts(shared, lsns).map(|parts| StoreEvent::PartsRead { whose, parts })
        }
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
