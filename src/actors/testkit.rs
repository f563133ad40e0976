//! What the tests of this folder share: a virtual clock, a runtime for it, and a store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::proto::ids::{DestId, Lsn, Position, StoreId};
use crate::storage::api::{
    Batch, Committed, DestinationFacts, Draft, Entry, GatePolicy, Job, LogFacts, LogStore,
    SPACE_DESTINATION, StoreEvent, StoreFacts, StoreSink, Ticket, Unit,
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
    definitions: BTreeMap<DestId, Bytes>,
    owed: BTreeMap<DestId, BTreeMap<Lsn, Bytes>>,
    marks: BTreeMap<DestId, Lsn>,
    submits: usize,
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

    pub(crate) fn refuse_sends(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }

    /// Messages that all destinations owe.
    pub(crate) fn owed(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.owed.values().map(BTreeMap::len).sum()
    }

    /// Calls of `submit`.
    pub(crate) fn submits(&self) -> usize {
        self.state.lock().unwrap().submits
    }

    fn commit(&self) {
        let mut state = self.state.lock().unwrap();
        let units = std::mem::take(&mut state.queue);
        let mut committed = Committed::default();
        let mut ready: BTreeMap<DestId, Vec<Entry>> = BTreeMap::new();
        for unit in units {
            for record in unit.records {
                state.apply(record, &mut ready, &mut committed.marks);
            }
            if unit.ticket != Ticket::default() {
                committed.tickets.push(unit.ticket);
            }
        }
        committed.upto = state.log_end;
        committed.ready = ready.into_iter().collect();
        drop(state);
        self.sink.event(StoreEvent::Committed(committed));
    }
}

impl State {
    fn apply(
        &mut self,
        record: Draft,
        ready: &mut BTreeMap<DestId, Vec<Entry>>,
        marks: &mut Vec<(DestId, Lsn)>,
    ) {
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
                    let message = message.clone();
                    ready.entry(id).or_default().push(Entry { lsn, message });
                }
            }
            Draft::Ack { dest, lsns } => {
                let owed = self.owed.entry(dest).or_default();
                lsns.iter().for_each(|lsn| {
                    assert!(owed.remove(lsn).is_some(), "an ack of what is not owed");
                });
            }
            Draft::Delivered { dest, ahead } => {
                let mark = Lsn(lsn.0 + u64::from(ahead));
                self.marks.insert(dest, mark);
                marks.retain(|(other, _)| *other != dest);
                marks.push((dest, mark));
            }
            Draft::Kv { space, key, value } => {
                assert_eq!(space, SPACE_DESTINATION);
                let id = DestId(u32::from_be_bytes(key[..].try_into().unwrap()));
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

    fn fetch(&self, dest: DestId, after: Lsn, count: usize, bytes: usize) {
        let state = self.state.lock().unwrap();
        let mut entries = Vec::new();
        let mut scanned = state.log_end;
        let mut sum = 0;
        for (lsn, message) in state
            .owed
            .get(&dest)
            .iter()
            .flat_map(|owed| owed.range(after.next()..))
        {
            if entries.len() == count || sum > bytes {
                scanned = entries.last().map_or(after, |entry: &Entry| entry.lsn);
                break;
            }
            sum += message.len();
            entries.push(Entry {
                lsn: *lsn,
                message: message.clone(),
            });
        }
        drop(state);
        self.sink.event(StoreEvent::Fetched {
            dest,
            entries,
            scanned,
        });
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

    fn destinations(&self) -> Vec<DestinationFacts> {
        let state = self.state.lock().unwrap();
        let definitions = state.definitions.iter();
        definitions
            .map(|(id, definition)| {
                let owed = state.owed.get(id);
                DestinationFacts {
                    id: *id,
                    definition: definition.clone(),
                    depth: owed.map_or(0, |owed| u64::try_from(owed.len()).unwrap()),
                    mark: state.marks.get(id).copied().unwrap_or_default(),
                    tail: owed
                        .and_then(|owed| owed.keys().next_back().copied())
                        .unwrap_or_default(),
                }
            })
            .collect()
    }

    fn facts(&self) -> StoreFacts {
        StoreFacts {
            refuses_sends: self.state.lock().unwrap().refuses,
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
