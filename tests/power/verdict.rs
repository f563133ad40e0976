//! Whether a disk that lost power may be so: opened by the shipped recovery, checked by the store's own
//! check, and compared with what clients had been told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use twinmq::io::arbiter_file::read_record;
use twinmq::proto::arbiter_codec::decode_record;
use twinmq::proto::ids::{Lsn, NodeId, StoreId};
use twinmq::proto::message::Message;
use twinmq::proto::record::{ChunkHeader, DecodeError, Messages};
use twinmq::storage::api::{StoreEvent, StoreSink};
use twinmq::storage::backend::{Backend as _, Table, View, log_key};
use twinmq::storage::check::check_view;
use twinmq::storage::data_dir::DataDir;
use twinmq::storage::recover::{Limits, recover};
use twinmq::storage::{StoreConfig, SyncMode, meta, open};

use crate::load::name_in;

/// What clients have been told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    /// Sends that were confirmed.
    sent: BTreeSet<String>,
    /// Messages whose acknowledgement was confirmed.
    done: BTreeSet<String>,
}

impl Promises {
    pub(crate) fn note(&mut self, receipt: &str) {
        if let Some(name) = receipt.strip_prefix("ack-") {
            self.done.insert(name.to_owned());
        } else if receipt.starts_with("kept-") || receipt.starts_with("done-") {
            self.sent.insert(receipt.to_owned());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.sent.len() + self.done.len()
    }

    /// All of them hold in a store that owes these.
    fn judge(&self, owed: &BTreeSet<String>) -> Result<(), String> {
        let kept = |name: &&String| name.starts_with("kept-");
        let lost: Vec<&String> = self.sent.iter().filter(kept).collect();
        let lost: Vec<&&String> = lost.iter().filter(|name| !owed.contains(**name)).collect();
        if !lost.is_empty() {
            return Err(format!("{} are lost, such as {:?}", lost.len(), lost[0]));
        }
        if let Some(again) = self.done.iter().find(|name| owed.contains(*name)) {
            return Err(format!("{again} was acknowledged and is owed again"));
        }
        Ok(())
    }
}

/// A server as its data directory shows it.
pub(crate) struct Found {
    pub(crate) node: NodeId,
    /// None before the first store.
    pub(crate) store: Option<FoundStore>,
    /// `seq` of the arbiter record that it saw last.
    saw: Option<u64>,
}

pub(crate) struct FoundStore {
    id: StoreId,
    cluster: String,
    in_resync: bool,
    owed: BTreeSet<String>,
    messages: u64,
}

/// Opens a data directory as a start does. None: there is none.
pub(crate) fn look(dir: &Path) -> Result<Option<Found>, String> {
    if !dir.exists() {
        return Ok(None);
    }
    let (home, env) = DataDir::open(dir, SyncMode::Deferred).map_err(|error| error.to_string())?;
    // Its last lines may be gone, but it can be read.
    twinmq::io::history::read(&dir.join("node")).map_err(|error| format!("history: {error}"))?;
    let saw = home.last_record().map_err(|error| error.to_string())?;
    let saw = saw
        .map(|bytes| decode_record(&bytes, None))
        .transpose()
        .map_err(|error| format!("node/last_record: {error}"))?;
    let store = match &env {
        Some(env) => Some(look_into(&env.view())?),
        None => None,
    };
    Ok(Some(Found {
        node: home.node(),
        store,
        saw: saw.map(|file| file.record.seq.0),
    }))
}

fn look_into<V: View>(view: &V) -> Result<FoundStore, String> {
    let failed = |error: twinmq::storage::error::StoreError| error.to_string();
    let report = check_view(view).map_err(failed)?;
    if let Some(finding) = report.findings.first() {
        return Err(format!("the store's own check: {finding}"));
    }
    let meta = meta::load(view)
        .map_err(failed)?
        .ok_or("the store has no format")?;
    let limits = Limits {
        retain: u64::MAX,
        chunk: usize::MAX,
    };
    let index = recover(view, &meta, limits, Lsn(u64::MAX))
        .map_err(failed)?
        .index;
    let bytes_of = |lsn: Lsn, is_part: bool| -> Result<Bytes, String> {
        let place = index.ledger.place_of(lsn);
        let place = place.ok_or_else(|| format!("{lsn} is in no chunk"))?;
        let chunk = view
            .get(Table::Log, &log_key(place.chunk))
            .map_err(failed)?
            .ok_or_else(|| format!("chunk {} is missing", place.chunk))?;
        let wrong = |error: DecodeError| format!("chunk {}: {error}", place.chunk);
        let header = ChunkHeader::decode(&chunk, chunk.len()).map_err(wrong)?;
        let mut messages = Messages::new(&chunk, &header);
        let found = if is_part {
            messages.find_part(lsn)
        } else {
            messages.find(lsn)
        };
        let range = found.map_err(wrong)?;
        let range = range.ok_or_else(|| format!("{lsn} is not in chunk {}", place.chunk))?;
        Ok(chunk.slice(range))
    };
    let mut owed = BTreeSet::new();
    for facts in index.facts() {
        let destination = index.destination(facts.id);
        let lanes = destination.iter().flat_map(|it| it.lanes());
        for lsn in lanes.flat_map(|lane| lane.runs.lsns()) {
            let head = bytes_of(lsn, false)?;
            let message =
                Message::read(&head).map_err(|error| format!("message {lsn}: {error}"))?;
            let name = match message.parts() {
                None => name_in(message.body()),
                Some(parts) => {
                    let parts = parts.lsns().map(|part| bytes_of(part, true));
                    name_in(&parts.collect::<Result<Vec<_>, String>>()?.concat())
                }
            };
            let name = name.ok_or_else(|| format!("message {lsn} is not whole"))?;
            if !owed.insert(name.clone()) {
                return Err(format!("{name} is owed twice"));
            }
        }
    }
    Ok(FoundStore {
        id: meta.store,
        cluster: report.cluster,
        in_resync: meta.sync_in_progress,
        owed,
        messages: index.messages(),
    })
}

/// The whole way of a start, threads and all.
pub(crate) fn start(dir: &Path, found: &FoundStore) -> Result<(), String> {
    struct Nobody;
    impl StoreSink for Nobody {
        fn event(&self, _event: StoreEvent) {}
    }
    let config = StoreConfig::new(dir, &found.cluster);
    let opened = open(config, Arc::new(Nobody)).map_err(|error| error.to_string())?;
    if opened.found_messages == found.messages {
        Ok(())
    } else {
        Err(format!(
            "a start finds {} messages, the log owes {}",
            opened.found_messages, found.messages
        ))
    }
}

/// One server alone: everything that it confirmed is there.
pub(crate) fn judge_alone(
    dir: &Path,
    promises: &Promises,
    node: NodeId,
) -> Result<Option<FoundStore>, String> {
    let found = look(dir)?;
    if promises.is_empty() {
        return Ok(found.and_then(|found| found.store));
    }
    let found = found.ok_or("the data directory is gone")?;
    if found.node != node {
        return Err("the server has another identity".to_owned());
    }
    let store = found.store.ok_or("the store is gone")?;
    promises.judge(&store.owed)?;
    Ok(Some(store))
}

/// A pair: every store that the record names holds everything that was confirmed, and the record is at
/// least as new as what either server has seen of it.
pub(crate) fn judge_pair(
    dirs: &[(PathBuf, NodeId)],
    lock_file: &Path,
    promises: &Promises,
) -> Result<(), String> {
    let record = read_record(lock_file, None)?;
    let mut named = Vec::new();
    for (dir, node) in dirs {
        let name = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let found = look(dir).map_err(|error| format!("{name}: {error}"))?;
        let Some(found) = found else { continue };
        let seq = record.as_ref().map(|record| record.seq.0);
        if found.saw > seq {
            return Err(format!(
                "{name} has seen record {:?}, the arbiter has {seq:?}",
                found.saw
            ));
        }
        let Some(store) = found.store else { continue };
        if !record.as_ref().is_some_and(|it| it.holds(store.id)) {
            continue;
        }
        if found.node != *node {
            return Err(format!("{name} has another identity"));
        }
        if store.in_resync {
            return Err(format!("{name} is named and not a whole copy"));
        }
        promises
            .judge(&store.owed)
            .map_err(|error| format!("{name}: {error}"))?;
        named.push(name);
    }
    let expected = record.map_or(0, |record| record.isr.len());
    if promises.is_empty() || (expected > 0 && named.len() == expected) {
        Ok(())
    } else {
        Err(format!(
            "the record names {expected} stores, there are {named:?}"
        ))
    }
}
