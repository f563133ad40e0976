//! Tails of the log that the pair does not share, kept when a resync dropped them (H15, Z19): one file of
//! chunks each in `node/divergent/`, and beside it what is needed to read it later.
//!
//! Nobody can tell from here whether an operator misses them: after an ordinary fail-over nothing in
//! them was ever confirmed; after an override, what the other server had confirmed alone is in them. So
//! all are kept, up to [`TAILS_MAX`] of them and [`BYTES_MAX`] in all, the oldest going first; the newest
//! stays whatever its size, and one that holds what this server knew to be confirmed stays for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::proto::fields::FieldReader;
use crate::proto::ids::{DestId, Epoch, Lsn, StoreId};
use crate::proto::message::Parts;
use crate::proto::record::{CHUNK_HEADER, Chunk, LogRecord};

use super::api::SPACE_DESTINATION;
use super::backend::Fill;
use super::error::StoreError;

/// So many tails are kept.
pub const TAILS_MAX: usize = 64;
/// So many bytes of tails are kept.
pub const BYTES_MAX: u64 = 1 << 30;
/// No chunk in a tail is larger: a length that says more is not believed.
const CHUNK_MAX: usize = 1 << 30;

/// What is noted of a tail, in `<number>-<first>-<last>.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TailNote {
    /// The store that it was in.
    pub store: StoreId,
    /// This server knew everything up to here to be confirmed, or delivered.
    pub committed: Lsn,
    /// Why it was dropped.
    pub why: String,
    /// Destinations by id, as the store knew them.
    pub destinations: BTreeMap<u32, String>,
}

/// A tail that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Its number: they only grow.
    pub number: u64,
    /// Its first LSN.
    pub first: Lsn,
    /// Its last.
    pub last: Lsn,
    /// Its size.
    pub bytes: u64,
    /// When it was dropped, by the wall clock.
    pub at_ms: u64,
    /// What was noted; none in a folder of an older version.
    pub note: Option<TailNote>,
    path: PathBuf,
}

impl Tail {
    /// Some of it is known to have been confirmed.
    #[must_use]
    pub fn was_confirmed(&self) -> bool {
        self.note
            .as_ref()
            .is_some_and(|note| note.committed >= self.first)
    }
}

/// A record of a tail, in the words of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A message.
    Put {
        /// Its position.
        lsn: Lsn,
        /// The epoch that wrote it.
        epoch: Epoch,
        /// Where to.
        destination: String,
        /// Its canonical bytes.
        message: Bytes,
        /// It was acknowledged within the tail.
        acknowledged: bool,
    },
    /// A message from before the tail that was acknowledged in it: the pair delivers it again.
    Ack {
        /// The position of the acknowledgement.
        lsn: Lsn,
        /// The epoch that wrote it.
        epoch: Epoch,
        /// Whose.
        destination: String,
        /// The message's position.
        of: Lsn,
    },
}

/// Keeps a tail, and lets go of older ones over the bounds.
///
/// # Errors
/// When it cannot be written.
pub(super) fn keep(
    node: &Path,
    (first, last): (Lsn, Lsn),
    note: &TailNote,
    fill: &mut Fill<'_>,
) -> Result<(), StoreError> {
    let dir = node.join("divergent");
    fs::create_dir_all(&dir).map_err(StoreError::file("make the folder", &dir))?;
    let known = list(&dir)?;
    let number = known.last().map_or(1, |tail| tail.number + 1);
    let name = format!("{number}-{first}-{last}");
    let about = dir.join(format!("{name}.json"));
    let mut text = serde_json::to_vec_pretty(note)
        .map_err(|cause| StoreError::file("write", &about)(cause.into()))?;
    text.push(b'\n');
    write_new(&about, &mut |file| {
        file.write_all(&text)
            .map_err(StoreError::file("write", &about))
    })?;
    // The tail comes last: without it, the note alone is no evidence.
    write_new(&dir.join(format!("{name}.log")), fill)?;
    for old in over_the_bounds(&list(&dir)?) {
        for path in [old.path.clone(), old.path.with_extension("json")] {
            if path.exists() {
                fs::remove_file(&path).map_err(StoreError::file("remove", &path))?;
            }
        }
        tracing::warn!(target: "twinmq::store", path = %old.path.display(),
            "a kept tail of the log was removed: newer ones take its place");
    }
    flush(&dir)?;
    flush(node)
}

fn over_the_bounds(known: &[Tail]) -> Vec<&Tail> {
    let (mut count, mut bytes) = (0, 0_u64);
    let mut over = Vec::new();
    for tail in known.iter().rev() {
        if count > 0 && tail.was_confirmed() {
            continue;
        }
        count += 1;
        bytes = bytes.saturating_add(tail.bytes);
        if count > 1 && (count > TAILS_MAX || bytes > BYTES_MAX) {
            over.push(tail);
        }
    }
    over
}

fn write_new(path: &Path, fill: &mut Fill<'_>) -> Result<(), StoreError> {
    let file = File::create_new(path).map_err(StoreError::file("make", path))?;
    let mut to = io::BufWriter::new(file);
    fill(&mut to)?;
    to.flush().map_err(StoreError::file("write", path))?;
    to.get_ref()
        .sync_all()
        .map_err(StoreError::file("flush", path))
}

fn flush(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::file("flush", path))
}

/// The tails that a data directory keeps, oldest first.
///
/// # Errors
/// When its folder cannot be read.
pub fn tails(data_dir: &Path) -> Result<Vec<Tail>, StoreError> {
    let dir = data_dir.join("node/divergent");
    if dir.exists() {
        list(&dir)
    } else {
        Ok(Vec::new())
    }
}

fn list(dir: &Path) -> Result<Vec<Tail>, StoreError> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(StoreError::file("list", dir))?;
    for entry in entries {
        let entry = entry.map_err(StoreError::file("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((number, first, last)) = numbers_of(&name) else {
            continue;
        };
        let path = entry.path();
        let facts = entry
            .metadata()
            .map_err(StoreError::file("look at", &path))?;
        let at = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        found.push(Tail {
            number,
            first,
            last,
            bytes: facts.len(),
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            note: fs::read(path.with_extension("json"))
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok()),
            path,
        });
    }
    found.sort_by_key(|tail| tail.number);
    Ok(found)
}

fn numbers_of(name: &str) -> Option<(u64, Lsn, Lsn)> {
    let mut parts = name.strip_suffix(".log")?.split('-');
    let mut next = || parts.next()?.parse::<u64>().ok();
    let (number, first, last) = (next()?, next()?, next()?);
    Some((number, Lsn(first), Lsn(last)))
}

/// Reads a tail, twice: once for what was acknowledged, once to give each record in order.
///
/// # Errors
/// When it cannot be read, or is damaged; what came before was given already.
pub fn read<E: From<StoreError>>(
    tail: &Tail,
    give: &mut dyn FnMut(Kept) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = BTreeSet::new();
    let mut put = BTreeSet::new();
    each_record(&tail.path, &mut |lsn, _, record| {
        match record {
            LogRecord::Put { targets, .. } => put.extend(targets.iter().map(|dest| (*dest, lsn))),
            LogRecord::Ack { dest, lsns } => done.extend(lsns.iter().map(|of| (*dest, *of))),
            LogRecord::Delivered { .. }
            | LogRecord::DeliveredEach { .. }
            | LogRecord::Failed { .. }
            | LogRecord::Seen { .. }
            | LogRecord::Part { .. }
            | LogRecord::UploadEnded(_)
            // Their PUTs are further back, mostly where both servers agree.
            | LogRecord::Relogged { .. }
            | LogRecord::Kv { .. }
            | LogRecord::Epoch(_) => {}
        }
        Ok::<(), StoreError>(())
    })?;
    let mut names: BTreeMap<u32, String> = tail
        .note
        .as_ref()
        .map(|note| note.destinations.clone())
        .unwrap_or_default();
    each_record(&tail.path, &mut |lsn, epoch, record| {
        match record {
            LogRecord::Kv { space, key, value } if *space == SPACE_DESTINATION => {
                if let (Ok(id), Some(name)) = (<[u8; 4]>::try_from(&key[..]), name_of(value)) {
                    names.insert(u32::from_be_bytes(id), name);
                }
            }
            LogRecord::Put {
                targets, message, ..
            } => {
                for dest in targets {
                    give(Kept::Put {
                        lsn,
                        epoch,
                        destination: named(&names, *dest),
                        message: message.clone(),
                        acknowledged: done.contains(&(*dest, lsn)),
                    })?;
                }
            }
            LogRecord::Ack { dest, lsns } => {
                for of in lsns.iter().filter(|of| !put.contains(&(*dest, **of))) {
                    give(Kept::Ack {
                        lsn,
                        epoch,
                        destination: named(&names, *dest),
                        of: *of,
                    })?;
                }
            }
            LogRecord::Delivered { .. }
            | LogRecord::DeliveredEach { .. }
            | LogRecord::Failed { .. }
            | LogRecord::Seen { .. }
            | LogRecord::Part { .. }
            | LogRecord::UploadEnded(_)
            // Their PUTs are further back, mostly where both servers agree.
            | LogRecord::Relogged { .. }
            | LogRecord::Kv { .. }
            | LogRecord::Epoch(_) => {}
        }
        Ok(())
    })
}

/// The body of a message in parts, where all of them are in the tail; none where some were stored before
/// the logs parted. As large as the body is.
///
/// # Errors
/// When the tail cannot be read, or is damaged.
pub fn body(tail: &Tail, parts: &Parts) -> Result<Option<Vec<u8>>, StoreError> {
    let wanted: BTreeSet<Lsn> = parts.lsns().collect();
    let (mut found, mut count) = (Vec::new(), 0);
    each_record(&tail.path, &mut |lsn, _, record| {
        if let LogRecord::Part { bytes, .. } = record
            && wanted.contains(&lsn)
        {
            found.extend_from_slice(bytes);
            count += 1;
        }
        Ok::<(), StoreError>(())
    })?;
    Ok((count == wanted.len()).then_some(found))
}

fn named(names: &BTreeMap<u32, String>, dest: DestId) -> String {
    names
        .get(&dest.0)
        .cloned()
        .unwrap_or_else(|| format!("destination {}", dest.0))
}

/// The name in a destination's definition; none in a definition that removes it.
pub(super) fn name_of(definition: &[u8]) -> Option<String> {
    let (kind, name) = definition.split_first()?;
    let subscription = matches!(kind, b's' | b'v').then(|| subscription_name(name));
    let plain = || String::from_utf8_lossy(name).into_owned();
    Some(subscription.flatten().unwrap_or_else(plain))
}

/// What people call a subscription, whose definition goes on with flags, pattern and name.
fn subscription_name(rest: &[u8]) -> Option<String> {
    let mut reader = FieldReader::new(Bytes::copy_from_slice(rest));
    reader.u8("flags").ok()?;
    let pattern = reader.text("pattern").ok()?;
    let name = reader.text("name").ok()?;
    Some(format!("subscription {name:?} of /topic/{pattern}"))
}

fn each_record<E: From<StoreError>>(
    path: &Path,
    visit: &mut dyn FnMut(Lsn, Epoch, &LogRecord) -> Result<(), E>,
) -> Result<(), E> {
    let failed = StoreError::file("read", path);
    let damaged = |what: String| StoreError::file("read", path)(io::Error::other(what));
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    loop {
        let mut bytes = vec![0; CHUNK_HEADER];
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(StoreError::file("read", path)(error).into()),
        }
        let body = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
        let body = usize::try_from(body).unwrap_or(usize::MAX);
        if body > CHUNK_MAX {
            return Err(damaged(format!("a chunk claims {body} bytes")).into());
        }
        // Grows with what is there, not with what is claimed.
        let limit = u64::try_from(body).unwrap_or(u64::MAX);
        (&mut file)
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(StoreError::file("read", path))?;
        let chunk = Chunk::decode(Bytes::from(bytes), usize::MAX)
            .map_err(|error| damaged(error.to_string()))?;
        for record in chunk.records() {
            let (lsn, record) = record.map_err(|error| damaged(error.to_string()))?;
            visit(lsn, chunk.header.epoch, &record)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(number: u64, bytes: u64, committed: u64) -> Tail {
        Tail {
            number,
            first: Lsn(10),
            last: Lsn(20),
            bytes,
            at_ms: 0,
            note: Some(TailNote {
                committed: Lsn(committed),
                ..TailNote::default()
            }),
            path: PathBuf::new(),
        }
    }

    fn removed(known: &[Tail]) -> Vec<u64> {
        over_the_bounds(known)
            .iter()
            .map(|tail| tail.number)
            .collect()
    }

    #[test]
    fn the_oldest_go_first_and_what_was_confirmed_stays() {
        let many: Vec<Tail> = (1..=66).map(|number| tail(number, 1, 5)).collect();
        assert_eq!(removed(&many), [2, 1]);
        let mut confirmed = many.clone();
        confirmed[0] = tail(1, BYTES_MAX, 15);
        assert_eq!(removed(&confirmed), [2]);
        // The newest stays, however large; what is older has no room then.
        assert_eq!(removed(&[tail(1, 1, 5), tail(2, BYTES_MAX * 2, 5)]), [1]);
    }

    #[test]
    fn numbers_are_read_from_names() {
        assert_eq!(numbers_of("3-10-20.log"), Some((3, Lsn(10), Lsn(20))));
        for other in ["3-10-20.json", "x-10-20.log", "3-10.log"] {
            assert_eq!(numbers_of(other), None, "{other}");
        }
    }
}
