//! What the tests of this folder share: a virtual clock, a runtime for it, and a store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn, Position, StoreId};
use crate::storage::api::{
    Batch, Change, Committed, DestinationFacts, Draft, DuplicateId, Entry, Fetched, GatePolicy,
    Job, Lane, LaneFacts, LogFacts, LogStore, RoomLevel, SPACE_DESTINATION, SPACE_DUPLICATES, Seek,
    StoreEvent, StoreFacts, StoreSink, Ticket, Times, Unit,
};
use crate::time::{Clock, Moment};

/// Runs `test` on a paused current-thread runtime with a `LocalSet`.
pub(crate) fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Follows tokio's clock, paused or not.
#[derive(Debug)]
pub(crate) struct TestClock(std::sync::OnceLock<tokio::time::Instant>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        let start = self.0.get_or_init(tokio::time::Instant::now);
        Moment(u64::try_from(start.elapsed().as_nanos()).unwrap())
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

/// Applies units at once, or when it is told to. Its log survives as the store's does.
pub(crate) struct FakeStore {
    state: Mutex<State>,
    sink: Arc<dyn StoreSink>,
}

#[derive(Default)]
struct State {
    log_end: Lsn,
    queue: Vec<Unit>,
    held: bool,
    refuses: bool,
    level: RoomLevel,
    /// Set by a test; else as a server that serves alone.
    gate: Option<GatePolicy>,
    definitions: BTreeMap<DestId, Bytes>,
    owed: BTreeMap<DestId, BTreeMap<Lsn, Bytes>>,
    marks: BTreeMap<DestId, BTreeMap<Lane, Lsn>>,
    /// Delivered one by one, and failures.
    known: BTreeMap<(DestId, Lsn), (bool, u32)>,
    submits: usize,
    seen: std::collections::HashSet<DuplicateId>,
    /// Parts of bodies whose uploads are open or whose messages were put.
    parts: BTreeMap<Lsn, (u64, Bytes)>,
    /// Uploads that have ended, in order.
    ended: Vec<u64>,
    stored_parts: Vec<(u64, Lsn)>,
}

impl FakeStore {
    pub(crate) fn new(sink: Arc<dyn StoreSink>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            sink,
        })
    }

    /// From now on units wait (true), or are committed as they come (false; those that wait too).
    pub(crate) fn hold(&self, held: bool) {
        self.state.lock().unwrap().held = held;
        if !held {
            self.commit();
        }
    }

    /// The oldest units that wait are committed; the others, and what comes, wait on.
    pub(crate) fn let_through(&self, units: usize) {
        let rest = {
            let mut state = self.state.lock().unwrap();
            let units = units.min(state.queue.len());
            state.queue.split_off(units)
        };
        self.commit();
        self.state.lock().unwrap().queue.extend(rest);
    }

    pub(crate) fn refuse_sends(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }

    /// How full it says that it is.
    pub(crate) fn fill(&self, level: RoomLevel) {
        let mut state = self.state.lock().unwrap();
        state.level = level;
        state.refuses = level == RoomLevel::Refuses;
    }

    /// Who must hold what is committed from now on.
    pub(crate) fn under(&self, gate: GatePolicy) {
        self.state.lock().unwrap().gate = Some(gate);
    }

    /// Messages that all destinations owe.
    pub(crate) fn owed(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.owed.values().map(BTreeMap::len).sum()
    }

    /// Parts of bodies that were stored, and the uploads that have ended.
    pub(crate) fn uploads(&self) -> (usize, Vec<u64>) {
        let state = self.state.lock().unwrap();
        (state.parts.len(), state.ended.clone())
    }

    /// Parts of bodies are gone, as after their messages.
    pub(crate) fn lose_parts(&self) {
        self.state.lock().unwrap().parts.clear();
    }

    /// Calls of `submit`.
    pub(crate) fn submits(&self) -> usize {
        self.state.lock().unwrap().submits
    }

    fn commit(&self) {
        let mut state = self.state.lock().unwrap();
        let units = std::mem::take(&mut state.queue);
        let mut committed = Committed::default();
        let mut changes: BTreeMap<DestId, Change> = BTreeMap::new();
        for unit in units {
            for record in unit.records {
                state.apply(record, &mut changes);
            }
            if unit.ticket != Ticket::default() {
                committed.tickets.push(unit.ticket);
            }
        }
        committed.parts = std::mem::take(&mut state.stored_parts);
        for (id, change) in &mut changes {
            change.bytes = Some(state.bytes(*id));
        }
        committed.upto = state.log_end;
        committed.changes = changes.into_iter().collect();
        committed.alone = state.gate.unwrap_or(GatePolicy::Alone) == GatePolicy::Alone;
        drop(state);
        self.sink.event(StoreEvent::Committed(committed));
    }
}

impl State {
    fn bytes(&self, id: DestId) -> u64 {
        let owed = self.owed.get(&id).into_iter().flat_map(BTreeMap::values);
        owed.map(|message| crate::proto::message::whole_bytes(message))
            .sum()
    }

    fn apply(&mut self, record: Draft, changes: &mut BTreeMap<DestId, Change>) {
        self.log_end = self.log_end.next();
        let lsn = self.log_end;
        match record {
            Draft::Put { targets, message } => {
                for id in targets {
                    assert!(self.definitions.contains_key(&id), "a PUT before its KV");
                    self.owed
                        .entry(id)
                        .or_default()
                        .insert(lsn, message.clone());
                    let entry = Entry::new(lsn, message.clone());
                    changes.entry(id).or_default().entries.push(entry);
                }
            }
            Draft::Ack { dest, lsns } => {
                let owed = self.owed.entry(dest).or_default();
                lsns.iter().for_each(|lsn| {
                    assert!(owed.remove(lsn).is_some(), "an ack of what is not owed");
                });
                changes.entry(dest).or_default().settled += u32::try_from(lsns.len()).unwrap();
            }
            Draft::Delivered { dest, lane, ahead } => {
                let mark = Lsn(lsn.0 + u64::from(ahead));
                self.marks.entry(dest).or_default().insert(lane, mark);
                changes.entry(dest).or_default().marks.push((lane, mark));
            }
            Draft::DeliveredEach { dest, lsns } => {
                for lsn in lsns {
                    self.known.entry((dest, lsn)).or_default().0 = true;
                    changes.entry(dest).or_default().marked.push(lsn);
                }
            }
            Draft::Failed { dest, counts } => {
                for (lsn, count) in counts {
                    self.known.entry((dest, lsn)).or_default().1 = count;
                    changes.entry(dest).or_default().failed.push((lsn, count));
                }
            }
            Draft::Seen { id, .. } => {
                self.seen.insert(id);
            }
            Draft::Part { upload, bytes } => {
                self.parts.insert(lsn, (upload, bytes));
                self.stored_parts.push((upload, lsn));
            }
            Draft::UploadEnded(upload) => self.ended.push(upload),
            Draft::Kv { space, key, value } => {
                if space == SPACE_DUPLICATES {
                    return;
                }
                assert_eq!(space, SPACE_DESTINATION);
                let id = DestId(u32::from_be_bytes(key[..].try_into().unwrap()));
                if value.is_empty() {
                    self.definitions.remove(&id);
                    self.owed.remove(&id);
                    self.marks.remove(&id);
                    return;
                }
                let before = self.definitions.insert(id, value.clone());
                assert!(
                    before.is_none_or(|before| before == value),
                    "defined otherwise"
                );
            }
        }
    }
}

impl LogStore for FakeStore {
    fn close(&self) {}

    fn submit(&self, units: Vec<Unit>) {
        let mut state = self.state.lock().unwrap();
        state.submits += 1;
        state.queue.extend(units);
        let held = state.held;
        drop(state);
        if !held {
            self.commit();
        }
    }

    fn fetch(&self, dest: DestId, tag: u32, seek: Seek, count: usize, bytes: usize) {
        let state = self.state.lock().unwrap();
        let mut wanted: Vec<(Lsn, Bytes)> = state
            .owed
            .get(&dest)
            .iter()
            .flat_map(|owed| owed.iter())
            .map(|(lsn, message)| (*lsn, message.clone()))
            .collect();
        let times = |message: &Bytes| Times::of(message);
        let (mut after, mut next_ms) = (Lsn::ZERO, None);
        match &seek {
            Seek::All { after: from } => after = *from,
            Seek::Lane { lane, after: from } => {
                after = *from;
                wanted.retain(|(_, message)| times(message).lane == *lane);
            }
            Seek::Matching {
                lane,
                after: from,
                filter,
            } => {
                after = *from;
                wanted.retain(|(_, message)| times(message).lane == *lane && filter.takes(message));
            }
            Seek::Due {
                after: from,
                until_ms,
            } => {
                let due = |message: &Bytes| times(message).due_ms;
                wanted.retain(|(lsn, message)| due(message).is_some_and(|at| (at, *lsn) > *from));
                wanted.sort_by_key(|(lsn, message)| (due(message), *lsn));
                let end = wanted.partition_point(|(_, message)| due(message) <= Some(*until_ms));
                next_ms = wanted.get(end).and_then(|(_, message)| due(message));
                wanted.truncate(end);
            }
            Seek::Expired {
                now_ms,
                after: from,
            } => {
                after = *from;
                wanted.retain(|(_, message)| times(message).expiry_ms.is_some());
                let later = wanted
                    .iter()
                    .filter_map(|(_, message)| times(message).expiry_ms);
                next_ms = later.filter(|at| at > now_ms).min();
                wanted.retain(|(_, message)| times(message).expiry_ms <= Some(*now_ms));
            }
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut scanned = state.log_end;
        let mut sum = 0;
        for (lsn, message) in wanted.into_iter().filter(|(lsn, _)| *lsn > after) {
            if entries.len() == count || sum > bytes {
                scanned = entries.last().map_or(after, |entry: &Entry| entry.lsn);
                next_ms = next_ms.map(|_| 0);
                break;
            }
            sum += message.len();
            let (marked, failures) = state.known.get(&(dest, lsn)).copied().unwrap_or_default();
            entries.push(Entry {
                lsn,
                message,
                marked,
                failures,
            });
        }
        drop(state);
        self.sink.event(StoreEvent::Fetched(Fetched {
            dest,
            tag,
            entries,
            scanned,
            next_ms,
        }));
    }

    fn read_parts(&self, whose: u32, lsns: Vec<Lsn>) {
        let parts = {
            let state = self.state.lock().unwrap();
            let found = lsns.iter().map_while(|lsn| state.parts.get(lsn));
            found.map(|(_, bytes)| bytes.clone()).collect()
        };
        self.sink.event(StoreEvent::PartsRead { whose, parts });
    }

    fn log_bytes(&self, _: Lsn) -> u64 {
        0
    }

    fn log_facts(&self) -> LogFacts {
        let lsn = self.committed();
        LogFacts {
            store: StoreId::default(),
            durable: Position {
                lsn,
                ..Position::default()
            },
            chain: 0,
            epochs: Vec::new(),
            floor: Lsn::ZERO,
            checkpoint: Lsn::ZERO,
            sync_in_progress: false,
        }
    }

    fn committed(&self) -> Lsn {
        self.state.lock().unwrap().log_end
    }

    fn gate(&self) -> GatePolicy {
        let gate = self.state.lock().unwrap().gate;
        gate.unwrap_or(GatePolicy::Alone)
    }

    fn destinations(&self) -> Vec<DestinationFacts> {
        let state = self.state.lock().unwrap();
        let definitions = state.definitions.iter();
        definitions
            .map(|(id, definition)| {
                let owed: Vec<(Lsn, Times)> = state
                    .owed
                    .get(id)
                    .iter()
                    .flat_map(|owed| owed.iter())
                    .map(|(lsn, message)| (*lsn, Times::of(message)))
                    .collect();
                let lanes = (0..=Lane::DELAYED.0).map(Lane).map(|lane| {
                    let mut of = owed.iter().filter(|(_, times)| times.lane == lane);
                    let marks = state.marks.get(id);
                    LaneFacts {
                        lane,
                        depth: u64::try_from(of.clone().count()).unwrap(),
                        tail: of.next_back().map_or(Lsn::ZERO, |(lsn, _)| *lsn),
                        mark: marks
                            .and_then(|marks| marks.get(&lane))
                            .copied()
                            .unwrap_or_default(),
                    }
                });
                DestinationFacts {
                    id: *id,
                    definition: definition.clone(),
                    lanes: lanes
                        .filter(|lane| lane.depth > 0 || lane.mark > Lsn::ZERO)
                        .collect(),
                    tail: owed.last().map_or(Lsn::ZERO, |(lsn, _)| *lsn),
                    bytes: state.bytes(*id),
                    next_due_ms: owed.iter().filter_map(|(_, times)| times.due_ms).min(),
                    next_expiry_ms: owed.iter().filter_map(|(_, times)| times.expiry_ms).min(),
                }
            })
            .collect()
    }

    fn seen(&self, ids: &[DuplicateId], _: u64) -> Vec<bool> {
        let state = self.state.lock().unwrap();
        ids.iter().map(|id| state.seen.contains(id)).collect()
    }

    fn facts(&self) -> StoreFacts {
        let state = self.state.lock().unwrap();
        StoreFacts {
            refuses_sends: state.refuses,
            level: state.level,
            ..StoreFacts::default()
        }
    }

    fn append(&self, batch: Batch) {
        panic!("the data thread appends nothing: {batch:?}");
    }

    fn set_gate(&self, policy: GatePolicy) -> Lsn {
        panic!("the data thread sets no gate: {policy:?}");
    }

    fn peer_holds(&self, upto: Lsn) {
        panic!("the data thread knows no peer: {upto}");
    }

    fn read_log(&self, request: u64, _: Lsn, _: usize) {
        panic!("the data thread reads no log: {request}");
    }

    fn run(&self, request: u64, job: Job) {
        panic!("the data thread has no jobs: {request} {job:?}");
    }
}
