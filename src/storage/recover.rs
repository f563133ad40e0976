//! The index from what is on the medium: the checkpoint, then every record after it.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::proto::ids::Lsn;
use crate::proto::record::{Chunk, ChunkHeader};

use super::backend::{Table, View, log_key, lsn_of};
use super::checkpoint;
use super::error::StoreError;
use super::index::{Index, Notes};
use super::ledger::ChunkFacts;
use super::meta::{Mark, Meta};

/// A log and its index.
#[derive(Debug)]
pub struct Recovered {
    /// With every record up to `end` applied.
    pub index: Index,
    /// Where the log ends.
    pub end: Mark,
    /// Bytes of log after the checkpoint.
    pub since_checkpoint: u64,
}

/// Limits that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// See `StoreConfig::retain_bytes`.
    pub retain: u64,
    /// No chunk is larger.
    pub chunk: usize,
}

/// Replays the log up to `upto`, which must not be before the checkpoint, and verifies checksums and
/// chain of what comes after the checkpoint.
///
/// # Errors
/// When it cannot be read or is not what was written.
pub fn recover<V: View>(
    view: &V,
    meta: &Meta,
    limits: Limits,
    upto: Lsn,
) -> Result<Recovered, StoreError> {
    let mut index = Index::new(limits.retain);
    let start = meta.checkpoint;
    // Nothing of the log before the checkpoint is looked at: it may be very long.
    checkpoint::load(view, &mut index, start.position.lsn)?;
    drop(index.ledger.take_changed());
    index.ledger.forget_strays();
    index.ledger.checkpointed();
    let mut end = start;
    let mut since_checkpoint = 0;
    let mut whole = true;
    let mut notes = Notes::new(false);
    each_chunk(view, start.position.lsn.next(), &mut |lsn, value| {
        if lsn > upto {
            return Ok(ControlFlow::Break(()));
        }
        let chunk = Chunk::decode(Bytes::copy_from_slice(value), limits.chunk)
            .map_err(|error| bad(view, lsn, &error))?;
        let header = chunk.header;
        if header.first != lsn || lsn != end.position.lsn.next() {
            return Err(bad(view, lsn, &"does not follow the chunk before it"));
        }
        if header.prev != end.chain {
            return Err(bad(view, lsn, &"breaks the chain of checksums"));
        }
        index.begin_chunk(facts(&header, value.len()));
        for record in chunk.records() {
            let (at, record) = record.map_err(|error| bad(view, lsn, &error))?;
            index.apply(at, lsn, &record, &mut notes);
        }
        end.position.epoch = header.epoch;
        end.position.lsn = header.last();
        end.chain = header.crc;
        since_checkpoint += value.len() as u64;
        whole = header.index + 1 == header.of;
        Ok(ControlFlow::Continue(()))
    })?;
    if !whole {
        return Err(bad(view, end.position.lsn, &"the log ends inside a batch"));
    }
    Ok(Recovered {
        index,
        end,
        since_checkpoint,
    })
}

/// What the ledger needs of a chunk.
#[must_use]
pub fn facts(header: &ChunkHeader, bytes: usize) -> ChunkFacts {
    ChunkFacts {
        first: header.first,
        last: header.last(),
        bytes: bytes as u64,
    }
}

/// The header of the chunk at `lsn`, which must say the same LSN.
///
/// # Errors
/// When it is damaged.
pub fn header<V: View>(view: &V, lsn: Lsn, value: &[u8]) -> Result<ChunkHeader, StoreError> {
    let header = ChunkHeader::decode(value, value.len()).map_err(|error| bad(view, lsn, &error))?;
    if header.first == lsn {
        Ok(header)
    } else {
        Err(bad(view, lsn, &"says that it is another chunk"))
    }
}

/// A damaged chunk.
pub fn bad<V: View>(view: &V, lsn: Lsn, what: &dyn std::fmt::Display) -> StoreError {
    view.damaged(Table::Log, lsn.to_string(), what.to_string())
}

/// Called with each chunk's key and value.
type VisitChunk<'a> = dyn FnMut(Lsn, &[u8]) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Scans the log's chunks whose key is `from` or later.
///
/// # Errors
/// Those of the medium and of `visit`.
pub fn each_chunk<V: View>(
    view: &V,
    from: Lsn,
    visit: &mut VisitChunk<'_>,
) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    view.scan(Table::Log, &log_key(from), &mut |key, value| {
        let step = match lsn_of(key) {
            Some(lsn) => visit(lsn, value),
            None => Err(view.damaged(Table::Log, format!("{key:02x?}"), "no LSN".to_owned())),
        };
        step.unwrap_or_else(|error| {
            outcome = Err(error);
            ControlFlow::Break(())
        })
    })?;
    outcome
}
