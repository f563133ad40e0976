//! What a store says of itself: the values of its `meta` table.

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;

use crate::proto::ids::{Epoch, Lsn, Position, StoreId};
use crate::proto::log::EpochStart;

use super::backend::{Table, View, Write};
use super::error::StoreError;

/// The format that this release writes.
pub const FORMAT: u32 = 3;

const KEY_FORMAT: &str = "format";
const KEY_CLUSTER: &str = "cluster";
const KEY_STORE: &str = "store";
const KEY_EPOCHS: &str = "epochs";
const KEY_CHECKPOINT: &str = "checkpoint";
const KEY_FLOOR: &str = "floor";
const KEY_SYNC: &str = "sync_in_progress";

/// A point of the log: all that has to be known to go on after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Epoch and LSN of the last record.
    pub position: Position,
    /// The checksum of the last chunk.
    pub chain: u32,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Whose it is.
    pub cluster: String,
    /// This copy's identity.
    pub store: StoreId,
    /// Every epoch that the log knows.
    pub epochs: Vec<EpochStart>,
    /// The last checkpoint.
    pub checkpoint: Mark,
    /// See `LogFacts::floor`.
    pub floor: Lsn,
    /// See `LogFacts::sync_in_progress`.
    pub sync_in_progress: bool,
}

fn put(key: &str, value: impl Into<Bytes>) -> Write {
    Write::Put(Table::Meta, key.as_bytes().to_vec(), value.into())
}

/// The whole table of a new store.
#[must_use]
pub fn whole(meta: &Meta) -> Vec<Write> {
    vec![
        put(KEY_FORMAT, FORMAT.to_le_bytes().to_vec()),
        put(KEY_CLUSTER, meta.cluster.clone()),
        put(KEY_STORE, meta.store.0.to_vec()),
        epochs(&meta.epochs),
        checkpoint(meta.checkpoint),
        floor(meta.floor),
        sync_in_progress(meta.sync_in_progress),
    ]
}

/// The epoch table changes.
#[must_use]
pub fn epochs(epochs: &[EpochStart]) -> Write {
    let mut value = Vec::with_capacity(epochs.len() * 16);
    for start in epochs {
        value.extend_from_slice(&start.epoch.0.to_le_bytes());
        value.extend_from_slice(&start.start.0.to_le_bytes());
    }
    put(KEY_EPOCHS, value)
}

/// The checkpoint moves.
#[must_use]
pub fn checkpoint(mark: Mark) -> Write {
    let mut value = vec![0; 20];
    LE::write_u64(&mut value, mark.position.epoch.0);
    LE::write_u64(&mut value[8..], mark.position.lsn.0);
    LE::write_u32(&mut value[16..], mark.chain);
    put(KEY_CHECKPOINT, value)
}

/// Chunks up to here were deleted.
#[must_use]
pub fn floor(lsn: Lsn) -> Write {
    put(KEY_FLOOR, lsn.0.to_le_bytes().to_vec())
}

/// A resync into this store begins or ends.
#[must_use]
pub fn sync_in_progress(on: bool) -> Write {
    put(KEY_SYNC, vec![u8::from(on)])
}

/// Reads the table. None when the environment is empty.
///
/// # Errors
/// When it cannot be read, is of another format, or makes no sense.
pub fn load<V: View>(view: &V) -> Result<Option<Meta>, StoreError> {
    let Some(format) = view.get(Table::Meta, KEY_FORMAT.as_bytes())? else {
        return Ok(None);
    };
    if format[..] != FORMAT.to_le_bytes() {
        let found = match <[u8; 4]>::try_from(&format[..]) {
            Ok(bytes) => u32::from_le_bytes(bytes).to_string(),
            Err(_) => "unreadable".to_owned(),
        };
        return Err(StoreError::WrongFormat {
            path: view.path(),
            found,
            known: FORMAT,
        });
    }
    let field = |key: &str| -> Result<Bytes, StoreError> {
        view.get(Table::Meta, key.as_bytes())?
            .ok_or_else(|| bad(view, key, "is missing"))
    };
    let sized = |key: &str, len: usize| -> Result<Bytes, StoreError> {
        let value = field(key)?;
        if value.len() == len {
            Ok(value)
        } else {
            Err(bad(view, key, "has a wrong length"))
        }
    };
    let cluster = String::from_utf8(field(KEY_CLUSTER)?.to_vec())
        .map_err(|_| bad(view, KEY_CLUSTER, "is not UTF-8"))?;
    let mut store = [0; 16];
    store.copy_from_slice(&sized(KEY_STORE, 16)?);
    let epochs = decode_epochs(&field(KEY_EPOCHS)?)
        .ok_or_else(|| bad(view, KEY_EPOCHS, "is not an ascending table"))?;
    let checkpoint = sized(KEY_CHECKPOINT, 20)?;
    Ok(Some(Meta {
        cluster,
        store: StoreId(store),
        epochs,
        checkpoint: Mark {
            position: Position {
                epoch: Epoch(LE::read_u64(&checkpoint)),
                lsn: Lsn(LE::read_u64(&checkpoint[8..])),
            },
            chain: LE::read_u32(&checkpoint[16..]),
        },
        floor: Lsn(LE::read_u64(&sized(KEY_FLOOR, 8)?)),
        sync_in_progress: sized(KEY_SYNC, 1)?[0] != 0,
    }))
}

fn bad<V: View>(view: &V, key: &str, what: &str) -> StoreError {
    view.damaged(Table::Meta, key.to_owned(), what.to_owned())
}

fn decode_epochs(bytes: &[u8]) -> Option<Vec<EpochStart>> {
    if !bytes.len().is_multiple_of(16) {
        return None;
    }
    let epochs: Vec<_> = bytes
        .chunks_exact(16)
        .map(|pair| EpochStart {
            epoch: Epoch(LE::read_u64(pair)),
            start: Lsn(LE::read_u64(&pair[8..])),
        })
        .collect();
    let ascending = epochs
        .windows(2)
        .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start);
    ascending.then_some(epochs)
}
