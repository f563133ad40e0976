//! `twinmq store check`: walks a whole store and verifies what can be verified. It goes on after a
//! finding, so that the report shows the extent of a damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use crate::proto::ids::{DestId, Epoch, Lsn, Position, StoreId};
use crate::proto::message::{self, Parts};
use crate::proto::record::{Chunk, ChunkHeader, LogRecord};

use super::api::{SPACE_DESTINATION, Times};
use super::backend::{Backend, View};
use super::common_dir;
use super::data_dir::DataDir;
use super::error::StoreError;
use super::index::{Index, Notes};
use super::meta::{self, Meta};
use super::recover::{self, Limits, each_chunk};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which table.
    pub table: &'static str,
    /// At which key.
    pub key: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.table, self.key, self.what)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Whose it is.
    pub cluster: String,
    /// This copy.
    pub store: StoreId,
    /// Where the log ends.
    pub end: Position,
    /// Position of the last checkpoint.
    pub checkpoint: Lsn,
    /// See `LogFacts::floor`.
    pub floor: Lsn,
    /// Epochs in the table.
    pub epochs: u64,
    /// Chunks read.
    pub chunks: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of those chunks.
    pub log_bytes: u64,
    /// Destinations defined.
    pub destinations: u64,
    /// (message, destination) pairs owed.
    pub messages: u64,
    /// A resync into it has not ended.
    pub sync_in_progress: bool,
    /// All that is wrong; empty for a sound store.
    pub findings: Vec<Finding>,
}

/// Checks the store of a data directory that no server has.
///
/// # Errors
/// When a server has it, there is no store, or it cannot be read at all.
pub fn check(dir: &Path) -> Result<CheckReport, StoreError> {
    if common_dir::is_at(dir) {
        let env = common_dir::inspect(dir)?;
        return check_view(&env.view());
    }
    let (_lock, env) = DataDir::inspect(dir)?;
    check_view(&env.view())
}

/// Checks what a reader sees. Nothing may be written meanwhile.
///
/// # Errors
/// When it cannot be read.
pub fn check_view<V: View>(view: &V) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    let meta = match meta::load(view) {
        Ok(Some(meta)) => meta,
        Ok(None) => {
            report.find("meta", "format", "is missing");
            return Ok(report);
        }
        Err(error) => return report.with(error),
    };
    report.cluster.clone_from(&meta.cluster);
    report.store = meta.store;
    report.checkpoint = meta.checkpoint.position.lsn;
    report.floor = meta.floor;
    report.epochs = meta.epochs.len() as u64;
    report.sync_in_progress = meta.sync_in_progress;
    report.end = meta.checkpoint.position;
    let walked = walk(view, &meta, &mut report)?;
    let limits = Limits {
        retain: u64::MAX,
        chunk: usize::MAX,
    };
    let index = match recover::recover(view, &meta, limits, Lsn(u64::MAX)) {
        Ok(recovered) => recovered.index,
        Err(error) => return report.with(error),
    };
    report.messages = index.messages();
    report.destinations = index.len() as u64;
    recount(&index, &walked, &mut report);
    if meta.floor == Lsn::ZERO && report.findings.is_empty() {
        replay(view, &index, &mut report)?;
    } else {
        compare_owed(&index, &walked, meta.floor, &mut report);
    }
    Ok(report)
}

impl CheckReport {
    fn find(&mut self, table: &'static str, key: impl ToString, what: impl ToString) {
        let finding = Finding {
            table,
            key: key.to_string(),
            what: what.to_string(),
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// A damage is a finding; that nothing can be read is an error.
    fn with(mut self, error: StoreError) -> Result<Self, StoreError> {
        match error {
            StoreError::Damaged {
                table, key, what, ..
            } => {
                self.find(table, key, what);
                Ok(self)
            }
            other => Err(other),
        }
    }
}

/// What the records say, kept for comparison with the index.
#[derive(Default)]
struct Walked {
    chunks: BTreeSet<Lsn>,
    puts: BTreeMap<Lsn, Put>,
    /// Parts of bodies after the chunks that they are in, also those that were re-logged.
    parts: BTreeSet<(Lsn, Lsn)>,
    /// Messages that were re-logged, by the chunk that they were brought to.
    brought: BTreeMap<(Lsn, Lsn), Put>,
    /// Acknowledged pairs above the floor.
    acked: BTreeSet<(DestId, Lsn)>,
    /// Destinations that are defined or removed above the floor.
    defined: BTreeSet<DestId>,
}

struct Put {
    chunk: Lsn,
    times: Times,
    targets: Vec<DestId>,
    /// The first part of its body, if that comes in parts.
    body: Option<Lsn>,
}

fn walk<V: View>(view: &V, meta: &Meta, report: &mut CheckReport) -> Result<Walked, StoreError> {
    let mut walked = Walked::default();
    let mut before: Option<ChunkHeader> = None;
    let mut begun = Vec::new();
    each_chunk(view, Lsn::ZERO, &mut |lsn, value| {
        report.chunks += 1;
        report.log_bytes += value.len() as u64;
        let chunk = match Chunk::decode(Bytes::copy_from_slice(value), usize::MAX) {
            Ok(chunk) => chunk,
            Err(error) => {
                report.find("log", lsn, error);
                before = None;
                return Ok(ControlFlow::Continue(()));
            }
        };
        walked.chunks.insert(lsn);
        let header = chunk.header;
        if header.first != lsn {
            report.find(
                "log",
                lsn,
                format!("says that it is chunk {}", header.first),
            );
        }
        check_place(&header, before.as_ref(), meta, report);
        for record in chunk.records() {
            match record {
                Ok((at, record)) => {
                    report.records += 1;
                    walked.note(at, lsn, meta.floor, record, &mut begun);
                }
                Err(error) => {
                    report.find("log", lsn, format!("a record of it: {error}"));
                    break;
                }
            }
        }
        report.end = report.end.max(Position {
            epoch: header.epoch,
            lsn: header.last(),
        });
        before = Some(header);
        Ok(ControlFlow::Continue(()))
    })?;
    if before.is_some_and(|last| last.index + 1 != last.of) {
        report.find("log", report.end.lsn, "the log ends inside a batch");
    }
    for (epoch, at) in &begun {
        let known = meta
            .epochs
            .iter()
            .any(|start| start.epoch == *epoch && start.start == *at);
        if !known {
            report.find(
                "meta",
                "epochs",
                format!("lacks epoch {epoch}, begun at {at}"),
            );
        }
    }
    for start in meta.epochs.iter().filter(|start| start.start > meta.floor) {
        if !begun.contains(&(start.epoch, start.start)) {
            let what = format!("epoch {} does not begin at {}", start.epoch, start.start);
            report.find("meta", "epochs", what);
        }
    }
    Ok(walked)
}

/// Order, chain and epoch of a chunk that is whole in itself.
fn check_place(
    header: &ChunkHeader,
    before: Option<&ChunkHeader>,
    meta: &Meta,
    report: &mut CheckReport,
) {
    let lsn = header.first;
    let checkpoint = meta.checkpoint;
    let expected = match before {
        Some(before) if header.first <= before.last() => {
            report.find("log", lsn, "overlaps the chunk before it");
            None
        }
        Some(before) if before.last().next() == lsn => Some(before.crc),
        _ if lsn == checkpoint.position.lsn.next() => Some(checkpoint.chain),
        _ => {
            if lsn > meta.floor.next() {
                report.find("log", lsn, "the chunk before it is missing or damaged");
            }
            None
        }
    };
    if expected.is_some_and(|chain| chain != header.prev) {
        report.find("log", lsn, "breaks the chain of checksums");
    }
    let epoch = meta
        .epochs
        .iter()
        .rev()
        .find(|start| start.start <= lsn)
        .map_or(Epoch::ZERO, |start| start.epoch);
    if epoch != header.epoch {
        let what = format!("is of epoch {}, the table says {epoch}", header.epoch);
        report.find("log", lsn, what);
    }
}

impl Walked {
    fn note(
        &mut self,
        lsn: Lsn,
        chunk: Lsn,
        floor: Lsn,
        record: LogRecord,
        begun: &mut Vec<(Epoch, Lsn)>,
    ) {
        match record {
            LogRecord::Put {
                targets, message, ..
            } => {
                let put = Put {
                    chunk,
                    times: Times::of(&message),
                    targets,
                    body: message::parts(&message).map(|parts| parts.first()),
                };
                self.puts.insert(lsn, put);
            }
            LogRecord::Relogged { messages, .. } => {
                for straggler in messages {
                    if straggler.is_part() {
                        self.parts.insert((chunk, straggler.lsn));
                        continue;
                    }
                    let put = Put {
                        chunk,
                        times: Times::of(&straggler.message),
                        targets: straggler.targets,
                        body: None,
                    };
                    self.brought.insert((chunk, straggler.lsn), put);
                }
            }
            LogRecord::Ack { dest, lsns } if lsn > floor => {
                self.acked.extend(lsns.into_iter().map(|lsn| (dest, lsn)));
            }
            LogRecord::Kv { space, key, .. } if space == SPACE_DESTINATION && lsn > floor => {
                if let Ok(id) = <[u8; 4]>::try_from(&key[..]) {
                    self.defined.insert(DestId(u32::from_be_bytes(id)));
                }
            }
            LogRecord::Epoch(epoch) => begun.push((epoch, lsn)),
            LogRecord::Part { .. } => {
                self.parts.insert((chunk, lsn));
            }
            LogRecord::Ack { .. }
            | LogRecord::Delivered { .. }
            | LogRecord::DeliveredEach { .. }
            | LogRecord::Failed { .. }
            | LogRecord::Seen { .. }
            | LogRecord::UploadEnded(_)
            | LogRecord::Kv { .. } => {}
        }
    }
}

impl Walked {
    /// A message that lies in a chunk.
    fn message(&self, chunk: Lsn, lsn: Lsn) -> Option<&Put> {
        let put = self.puts.get(&lsn).filter(|put| put.chunk == chunk);
        put.or_else(|| self.brought.get(&(chunk, lsn)))
    }
}

/// Every entry of the index is a message in the log, and the ledger counts them right.
fn recount(index: &Index, walked: &Walked, report: &mut CheckReport) {
    let mut live: BTreeMap<Lsn, u64> = BTreeMap::new();
    for facts in index.facts() {
        let Some(owed) = index.destination(facts.id) else {
            continue;
        };
        let lanes = owed.lanes().iter();
        let all = lanes.flat_map(|lane| lane.runs.lsns().map(|lsn| (lane.lane, lsn)));
        for (lane, lsn) in all {
            let place = index.ledger.place_of(lsn);
            let put = place.and_then(|place| walked.message(place.chunk, lsn));
            if let Some(put) = put {
                *live.entry(put.chunk).or_default() += 1;
            }
            let due = owed.due_of(lsn);
            let sound = put.is_some_and(|put| {
                put.targets.contains(&facts.id) && (put.times.lane, put.times.due_ms) == (lane, due)
            });
            if !sound {
                let what = format!(
                    "destination {} owes it in lane {lane}, where it is not",
                    facts.id.0
                );
                report.find("log", lsn, what);
            }
        }
    }
    count_parts(index, walked, &mut live, report);
    // The ledger may still have chunks that were deleted since the checkpoint.
    for chunk in &walked.chunks {
        if index
            .ledger
            .chunk_of(*chunk)
            .is_none_or(|facts| facts.first != *chunk)
        {
            report.find("log", chunk, "is not in the ledger");
        }
    }
    for (chunk, count) in index.ledger.iter() {
        let found = live.remove(&chunk.first).unwrap_or_default();
        if found != count {
            let what = format!("the ledger counts {count} owed messages, there are {found}");
            report.find("log", chunk.first, what);
        }
    }
    for chunk in live.into_keys() {
        report.find("log", chunk, "owes messages and is not in the log");
    }
}

/// Every part of a body that is held is in the log, and who holds it owes it.
fn count_parts(
    index: &Index,
    walked: &Walked,
    live: &mut BTreeMap<Lsn, u64>,
    report: &mut CheckReport,
) {
    for lsn in index.bodies().iter().flat_map(Parts::lsns) {
        let place = index.ledger.place_of(lsn);
        match place.filter(|place| walked.parts.contains(&(place.chunk, lsn))) {
            Some(place) => *live.entry(place.chunk).or_default() += 1,
            None => report.find("log", lsn, "is a part of a body, and is not there"),
        }
    }
    for (head, pairs) in index.bodies().heads() {
        let place = index.ledger.place_of(head);
        let put = place.and_then(|place| walked.message(place.chunk, head));
        let targets = put.map(|put| &put.targets);
        let distinct: BTreeSet<DestId> = targets.into_iter().flatten().copied().collect();
        let owing = distinct
            .iter()
            .filter_map(|id| index.destination(*id))
            .filter(|owed| owed.owes(head));
        let found = owing.count() as u64;
        if found != pairs {
            let what = format!("its body is held for {pairs} destinations, {found} owe it");
            report.find("ckpt", format!("message {head}"), what);
        }
    }
}

/// The whole log is there: what it gives from its beginning must be what the checkpoint and the log
/// after it give.
fn replay<V: View>(view: &V, index: &Index, report: &mut CheckReport) -> Result<(), StoreError> {
    let mut fresh = Index::new(u64::MAX);
    let mut notes = Notes::new(false);
    each_chunk(view, Lsn::ZERO, &mut |lsn, value| {
        if let Ok(chunk) = Chunk::decode(Bytes::copy_from_slice(value), usize::MAX) {
            fresh.begin_chunk(recover::facts(&chunk.header, value.len()));
            for (at, record) in chunk.records().flatten() {
                fresh.apply(at, lsn, &record, &mut notes);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !index.seen().same_as(fresh.seen()) {
        let what = "the checkpoint differs from a replay of the log";
        report.find("ckpt", "ids of messages", what);
    }
    if !index.bodies().same_as(fresh.bodies()) {
        let what = "the checkpoint differs from a replay of the log";
        report.find("ckpt", "bodies in parts", what);
    }
    let (shown, replayed) = (index.facts(), fresh.facts());
    for facts in shown.iter().chain(&replayed) {
        let (one, other) = (index.destination(facts.id), fresh.destination(facts.id));
        let same = match (one, other) {
            (Some(one), Some(other)) => one.same_as(other),
            _ => false,
        };
        if !same {
            let what = "the checkpoint differs from a replay of the log";
            report.find("ckpt", format!("destination {}", facts.id.0), what);
        }
    }
    Ok(())
}

/// Part of the log is gone: what was put and acknowledged in the rest must agree with the index, for
/// destinations that were there all the time.
fn compare_owed(index: &Index, walked: &Walked, floor: Lsn, report: &mut CheckReport) {
    for (lsn, put) in walked.puts.range(floor.next()..) {
        // One whose body was not there any more was owed by nobody.
        let may_lack = put.body.is_some_and(|part| !index.bodies().holds(part));
        for target in put.targets.iter().filter(|id| !walked.defined.contains(id)) {
            let Some(dest) = index.destination(*target) else {
                continue;
            };
            let acked = walked.acked.contains(&(*target, *lsn));
            if dest.owes(*lsn) == acked && (acked || !may_lack) {
                let what = if acked {
                    "is acknowledged in the log and owed in the index"
                } else {
                    "is owed by the log and not in the index"
                };
                let key = format!("destination {} message {lsn}", target.0);
                report.find("ckpt", key, what);
            }
        }
    }
}
