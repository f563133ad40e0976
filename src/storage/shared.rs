//! What the writer, the reader and the callers of a store share: the gate, the batches that wait for
//! it, and the index. Whoever moves the commit index last applies what that releases, and says so;
//! events leave in one order, whoever raised them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::proto::duplicate::DuplicateId;
use crate::proto::ids::{Lsn, StoreId};
use crate::proto::log::EpochStart;
use crate::proto::record::LogRecord;

use super::api::{
    Committed, GatePolicy, LogFacts, RoomLevel, StoreEvent, StoreFacts, StoreSink, Ticket,
};
use super::error::StoreError;
use super::index::{Index, Notes};
use super::ledger::ChunkFacts;
use super::meta::Mark;
use super::snapshot::Cursor;

/// A batch that is committed here and waits for the commit index.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    /// Where the log ends with it.
    pub(crate) end: Mark,
    /// Its chunks; empty for units without records.
    pub(crate) chunks: Vec<ChunkFacts>,
    /// Its records, in order.
    pub(crate) records: Vec<LogRecord>,
    /// Who waits for it.
    pub(crate) tickets: Vec<Ticket>,
}

/// Behind the one lock.
pub(crate) struct State {
    pub(crate) gate: GatePolicy,
    /// What the peer said that it holds, or that the active said is committed.
    pub(crate) peer: Lsn,
    /// What is on this disk.
    pub(crate) durable: Mark,
    /// The commit index: never falls but by truncation.
    pub(crate) commit: Lsn,
    /// What the index shows. Beyond `commit` only after a start, until the gate opens.
    pub(crate) applied: Mark,
    pub(crate) pending: VecDeque<PendingBatch>,
    /// Nothing has shown yet that this log is a beginning of the active's that is followed: what the
    /// active calls committed may be of another history. A batch that chains to the end shows it.
    pub(crate) unproven: bool,
    /// The last epoch of the log was begun by this process, and nothing has ended its service since:
    /// nobody else writes in it. The gate opens before that, and on another thread than the writer's.
    pub(crate) begun: bool,
    pub(crate) index: Index,
    pub(crate) store: StoreId,
    pub(crate) epochs: Vec<EpochStart>,
    pub(crate) floor: Lsn,
    pub(crate) checkpoint: Mark,
    pub(crate) sync_in_progress: bool,
    /// Garbage collection and checkpoints rest; what is still to be read.
    pub(crate) pinned: Option<Cursor>,
}

impl State {
    /// Moves the commit index as far as the gate allows and applies what that releases.
    fn release(&mut self, serving: bool) -> Option<Committed> {
        let durable = self.durable.position.lsn;
        let target = match self.gate {
            GatePolicy::Closed => return None,
            GatePolicy::Following if self.unproven => return None,
            GatePolicy::Alone => durable,
            GatePolicy::WithPeer | GatePolicy::Following => durable.min(self.peer),
        };
        let mut notes = Notes::new(serving);
        let mut tickets = Vec::new();
        let mut any = false;
        let ready = |pending: &VecDeque<PendingBatch>| {
            pending
                .front()
                .is_some_and(|batch| batch.end.position.lsn <= target)
        };
        while ready(&self.pending) {
            let Some(batch) = self.pending.pop_front() else {
                break;
            };
            any = true;
            self.apply(batch, &mut notes, &mut tickets);
        }
        // A target inside a batch (a peer that counts otherwise) does not move the index into it.
        let reached = match self.pending.front().and_then(|next| next.chunks.first()) {
            Some(chunk) => target.min(chunk.first.prev()),
            None => target,
        };
        any |= reached > self.commit;
        self.commit = self.commit.max(reached);
        any.then(|| {
            let mut event = Committed {
                upto: self.commit,
                tickets,
                alone: self.gate == GatePolicy::Alone,
                ..Committed::default()
            };
            notes.into_event(&mut event);
            event
        })
    }

    fn apply(&mut self, batch: PendingBatch, notes: &mut Notes, tickets: &mut Vec<Ticket>) {
        let mut records = batch.records.into_iter();
        for chunk in batch.chunks {
            self.index.begin_chunk(chunk);
            for lsn in chunk.first.0..=chunk.last.0 {
                let record = records
                    .next()
                    .expect("a batch has a record for each LSN of its chunks");
                self.index.apply(Lsn(lsn), chunk.first, &record, notes);
            }
        }
        self.applied = batch.end;
        tickets.extend(batch.tickets);
    }

    /// What is applied and what waits for the commit index.
    pub(crate) fn log_bytes(&self, after: Lsn) -> u64 {
        let waiting = self.pending.iter().flat_map(|batch| &batch.chunks);
        let waiting = waiting.filter(|chunk| chunk.last > after);
        let waiting: u64 = waiting.map(|chunk| chunk.bytes).sum();
        waiting.saturating_add(self.index.ledger.bytes_after(after))
    }

    /// See `LogStore::seen`.
    pub(crate) fn seen(&self, ids: &[DuplicateId], now_ms: u64) -> Vec<bool> {
        let seen = self.index.seen();
        ids.iter().map(|id| seen.knows(id, now_ms)).collect()
    }

    pub(crate) fn log_facts(&self) -> LogFacts {
        LogFacts {
            store: self.store,
            durable: self.durable.position,
            chain: self.durable.chain,
            epochs: self.epochs.clone(),
            floor: self.floor,
            checkpoint: self.checkpoint.position.lsn,
            sync_in_progress: self.sync_in_progress,
        }
    }
}

/// A gate under which data threads deliver.
pub(crate) fn serves(gate: GatePolicy) -> bool {
    matches!(gate, GatePolicy::Alone | GatePolicy::WithPeer)
}

/// See the module.
pub(crate) struct Shared<V> {
    state: Mutex<State>,
    view: Mutex<V>,
    facts: Mutex<StoreFacts>,
    outbox: Outbox,
}

impl<V: Clone> Shared<V> {
    pub(crate) fn new(state: State, view: V, sink: Arc<dyn StoreSink>) -> Self {
        Self {
            state: Mutex::new(state),
            view: Mutex::new(view),
            facts: Mutex::new(StoreFacts::default()),
            outbox: Outbox {
                sink,
                inner: Mutex::new(Queue::default()),
            },
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn view(&self) -> V {
        lock(&self.view).clone()
    }

    pub(crate) fn set_view(&self, view: V) {
        *lock(&self.view) = view;
    }

    pub(crate) fn facts(&self) -> StoreFacts {
        let (messages, destinations) = {
            let state = self.state();
            (state.index.messages(), state.index.len() as u64)
        };
        StoreFacts {
            messages,
            destinations,
            ..*lock(&self.facts)
        }
    }

    /// How full the store was when it was measured last.
    pub(crate) fn level(&self) -> RoomLevel {
        lock(&self.facts).level
    }

    /// The sizes; counts are taken from the index when they are asked for.
    pub(crate) fn set_facts(&self, facts: StoreFacts) -> StoreFacts {
        std::mem::replace(&mut *lock(&self.facts), facts)
    }

    pub(crate) fn set_gate(&self, policy: GatePolicy) -> Lsn {
        let mut state = self.state();
        let serving = serves(state.gate);
        if policy != state.gate {
            state.peer = Lsn::ZERO;
            state.unproven = policy == GatePolicy::Following;
        }
        state.begun &= serves(policy);
        state.gate = policy;
        if let Some(event) = state.release(serving) {
            self.outbox.push(StoreEvent::Committed(event));
        }
        let commit = state.commit;
        drop(state);
        self.outbox.drain();
        commit
    }

    pub(crate) fn peer_holds(&self, upto: Lsn) {
        let mut state = self.state();
        state.peer = state.peer.max(upto);
        self.release(state);
    }

    /// The writer's disk holds everything up to `mark`. An epoch table comes with it if it changed.
    pub(crate) fn durable(&self, mark: Mark, epochs: Option<Vec<EpochStart>>) {
        let mut state = self.state();
        if mark.position.lsn > state.durable.position.lsn {
            state.durable = mark;
            self.outbox.push(StoreEvent::Durable(mark.position));
        }
        if let Some(epochs) = epochs {
            state.epochs = epochs;
        }
        self.release(state);
    }

    fn release(&self, mut state: MutexGuard<'_, State>) {
        let serving = serves(state.gate);
        if let Some(event) = state.release(serving) {
            // Queued under the lock, so that events are in the order of the commit index.
            self.outbox.push(StoreEvent::Committed(event));
        }
        drop(state);
        self.outbox.drain();
    }

    pub(crate) fn emit(&self, event: StoreEvent) {
        self.outbox.push(event);
        self.outbox.drain();
    }

    /// Tells a fatal error; nothing is told after it.
    pub(crate) fn fail(&self, error: StoreError) {
        self.outbox.close(error);
        self.outbox.drain();
    }
}

/// Events in the order in which they were raised. Whoever finds nobody delivering delivers all that
/// is queued, so a sink may call the store, and no thread waits for another's sink.
struct Outbox {
    sink: Arc<dyn StoreSink>,
    inner: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<StoreEvent>,
    delivering: bool,
    closed: bool,
}

impl Outbox {
    fn push(&self, event: StoreEvent) {
        let mut queue = lock(&self.inner);
        if !queue.closed {
            queue.events.push_back(event);
        }
    }

    fn close(&self, error: StoreError) {
        let mut queue = lock(&self.inner);
        if !queue.closed {
            queue.closed = true;
            queue.events.push_back(StoreEvent::Failed(error));
        }
    }

    fn drain(&self) {
        let mut queue = lock(&self.inner);
        if queue.delivering {
            return;
        }
        queue.delivering = true;
        while let Some(event) = queue.events.pop_front() {
            drop(queue);
            self.sink.event(event);
            queue = lock(&self.inner);
        }
        queue.delivering = false;
    }
}

/// A panic while a lock is held aborts the server; in tests the state is as the panic left it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
