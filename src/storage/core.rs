//! The write side of a store: cuts units into batches, commits them, and does the jobs, one step at
//! a time and on one thread. The drivers ([`super::threaded`], [`super::inline`]) only bring requests.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::proto::ids::Epoch;
use crate::proto::log::{Batch, EpochStart};
use crate::proto::record::{BatchWriter, LogRecord, Record};

use super::api::{Draft, GatePolicy, Job, RoomLevel, StoreEvent, StoreFacts, Ticket, Unit};
use super::backend::{Backend, Home, View, Write, log_key};
use super::checkpoint;
use super::error::StoreError;
use super::ledger::ChunkFacts;
use super::meta::{self, Mark};
use super::recover::{self, Limits};
use super::relog::Reclaim;
use super::room::{self, Use};
use super::shared::{PendingBatch, Shared};
use super::snapshot::Receiving;
use super::{backend, open::StoreConfig};

/// A batch is closed when it has this many bytes...
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// ...or this many records.
const BATCH_RECORDS: usize = 4096;
/// Chunks deleted in one commit, at most.
pub(super) const COLLECT: usize = 64;
/// Sizes are asked for again after this many bytes of log...
const MEASURE_EVERY: u64 = 8 << 20;
/// ...to which a commit counts as this many at least.
const MEASURE_COMMIT: u64 = 32 << 10;
/// The same while senders wait for room, or too much is in use: acknowledgements are small.
const RELIEVE_EVERY: u64 = 256 << 10;

pub(crate) type HomeView<H> = <<H as Home>::Backend as Backend>::View;

/// What the writer is asked for.
pub(crate) enum Request {
    /// See `LogStore::submit`.
    Units(Vec<Unit>),
    /// See `LogStore::append`.
    Append(Batch),
    /// See `LogStore::run`.
    Job {
        /// Echoed.
        request: u64,
        /// What.
        job: Job,
    },
}

/// See the module.
pub(crate) struct Core<H: Home> {
    pub(super) home: H,
    /// None only after a switch of stores failed, which is fatal.
    pub(super) env: Option<H::Backend>,
    pub(super) shared: Arc<Shared<HomeView<H>>>,
    pub(super) config: Arc<StoreConfig>,
    pub(super) queue: VecDeque<Request>,
    /// What is left of the request that is being cut.
    units: std::vec::IntoIter<Unit>,
    /// Where the log ends, committed but perhaps not durable.
    pub(super) end: Mark,
    pub(super) epochs: Vec<EpochStart>,
    /// The last commit, where it is not durable yet.
    unsynced: Option<(Mark, Option<Vec<EpochStart>>)>,
    pub(super) since_checkpoint: u64,
    since_measured: u64,
    pub(super) receiving: Option<Receiving<H::Backend>>,
    pub(super) reclaim: Reclaim,
    failed: bool,
}

/// A batch that is ready to be committed.
pub(super) struct Ready {
    /// None for units without records.
    pub(super) batch: Option<Batch>,
    pub(super) pending: PendingBatch,
    /// It begins with the record of a new epoch.
    pub(super) epoch_begun: bool,
}

impl<H: Home> Core<H> {
    pub(crate) fn new(
        home: H,
        env: H::Backend,
        shared: Arc<Shared<HomeView<H>>>,
        config: Arc<StoreConfig>,
        since_checkpoint: u64,
    ) -> Self {
        let (end, epochs) = {
            let state = shared.state();
            (state.durable, state.epochs.clone())
        };
        Self {
            home,
            env: Some(env),
            shared,
            config,
            queue: VecDeque::new(),
            units: Vec::new().into_iter(),
            end,
            epochs,
            unsynced: None,
            since_checkpoint,
            since_measured: 0,
            receiving: None,
            reclaim: Reclaim::default(),
            failed: false,
        }
    }

    /// Takes requests, which are done in order.
    pub(crate) fn push(&mut self, requests: impl IntoIterator<Item = Request>) {
        self.queue.extend(requests);
    }

    /// Does one thing: a batch, a job, or the flush of the last commit when nothing else is left.
    /// False when there was nothing to do.
    pub(crate) fn step(&mut self) -> bool {
        if self.failed {
            self.queue.clear();
            return false;
        }
        match self.try_step() {
            Ok(worked) => worked,
            Err(error) => {
                self.give_up(error);
                true
            }
        }
    }

    /// Looks at the room on the disk while nothing is written, and works on it if there is cause.
    pub(crate) fn idle(&mut self) {
        if self.failed {
            return;
        }
        let looked = self.measure().and_then(|()| self.relieve(RoomLevel::Low));
        if let Err(error) = looked.and_then(|()| self.reclaim_idle()) {
            self.give_up(error);
        }
    }

    /// It is worth to be idle for a while soon.
    pub(crate) fn wants_idle(&self) -> bool {
        !self.failed && self.reclaim.busy
    }

    fn give_up(&mut self, error: StoreError) {
        tracing::error!(target: "twinmq::store", %error, "the store cannot go on");
        self.failed = true;
        self.env = None;
        self.shared.fail(error);
    }

    fn try_step(&mut self) -> Result<bool, StoreError> {
        if self.units.len() > 0 {
            self.cut()?;
        } else {
            match self.queue.pop_front() {
                Some(Request::Units(units)) => {
                    self.units = units.into_iter();
                    self.cut()?;
                }
                Some(Request::Append(batch)) => self.follow(batch)?,
                Some(Request::Job { request, job }) => {
                    let outcome = self.run(job)?;
                    self.shared.emit(StoreEvent::Done { request, outcome });
                }
                None if self.unsynced.is_some() => self.sync()?,
                None => return Ok(false),
            }
        }
        if self.since_checkpoint >= self.config.checkpoint_bytes {
            self.checkpoint_if_possible()?;
        }
        let short = self.shared.level() >= RoomLevel::Blocks || self.reclaim.busy;
        if self.since_measured >= if short { RELIEVE_EVERY } else { MEASURE_EVERY } {
            self.measure()?;
            self.relieve(RoomLevel::Blocks)?;
            self.reclaim_busy()?;
        }
        Ok(true)
    }

    /// The environment.
    pub(super) fn env(&mut self) -> &mut H::Backend {
        self.env
            .as_mut()
            .expect("the environment is there until the store has failed")
    }

    pub(super) fn limits(&self) -> Limits {
        self.config.limits()
    }

    /// Cuts the next batch from the queued units and commits it.
    fn cut(&mut self) -> Result<(), StoreError> {
        let following = {
            let state = self.shared.state();
            state.gate == GatePolicy::Following || state.sync_in_progress
        };
        if following {
            tracing::debug!(target: "twinmq::store", "units of a server that serves no more dropped");
            self.units = Vec::new().into_iter();
            return Ok(());
        }
        let (units, bytes) = self.take_units();
        let riding = self.riding(bytes)?;
        let rides = !riding.is_empty();
        self.cut_batch(units, bytes, riding)?;
        if rides {
            self.await_stragglers();
        }
        Ok(())
    }

    /// A batch of its own, for what else would ride along with units.
    pub(super) fn append_stragglers(&mut self, records: Vec<LogRecord>) -> Result<(), StoreError> {
        self.cut_batch(Vec::new(), 0, records)?;
        self.await_stragglers();
        Ok(())
    }

    fn cut_batch(
        &mut self,
        units: Vec<Unit>,
        bytes: usize,
        riding: Vec<LogRecord>,
    ) -> Result<(), StoreError> {
        let ready = self.encode(units, bytes, riding);
        if let Some(batch) = &ready.batch {
            self.shared.emit(StoreEvent::Cut(batch.clone()));
        }
        self.commit(vec![ready])
    }

    /// Whole units from the front of the queue, as many as fit one batch; at least one.
    fn take_units(&mut self) -> (Vec<Unit>, usize) {
        let (mut units, mut bytes, mut records) = (Vec::new(), 0, 0);
        loop {
            let Some(unit) = self.units.as_slice().first() else {
                if !matches!(self.queue.front(), Some(Request::Units(_))) {
                    break;
                }
                if let Some(Request::Units(more)) = self.queue.pop_front() {
                    self.units = more.into_iter();
                }
                continue;
            };
            let size: usize = unit.records.iter().map(size_of_draft).sum();
            let full = bytes + size > BATCH_BYTES || records + unit.records.len() > BATCH_RECORDS;
            if full && !units.is_empty() {
                break;
            }
            bytes += size;
            records += unit.records.len();
            units.extend(self.units.next());
        }
        (units, bytes)
    }

    fn encode(&self, units: Vec<Unit>, bytes: usize, riding: Vec<LogRecord>) -> Ready {
        let epoch = self.end.position.epoch;
        let first = self.end.position.lsn.next();
        let mut writer = BatchWriter::new(epoch, first, self.end.chain, bytes + 64);
        let mut records = Vec::with_capacity(units.iter().map(|unit| unit.records.len()).sum());
        let mut tickets = Vec::with_capacity(units.len());
        for unit in units {
            if unit.ticket != Ticket::default() {
                tickets.push(unit.ticket);
            }
            for draft in unit.records {
                let placed = writer.push(&borrow(&draft));
                records.push(into_record(draft, placed.offset));
            }
        }
        for record in riding {
            if let LogRecord::Relogged { from, messages } = &record {
                writer.push(&Record::Relogged {
                    from: *from,
                    messages,
                });
                records.push(record);
            }
        }
        self.ready(writer, records, tickets, false)
    }

    fn ready(
        &self,
        writer: BatchWriter,
        records: Vec<LogRecord>,
        tickets: Vec<Ticket>,
        epoch_begun: bool,
    ) -> Ready {
        let mut end = self.end;
        let mut chunks = Vec::new();
        let batch = writer.finish().map(|(batch, chain)| {
            end.position.epoch = batch.epoch;
            end.position.lsn = batch.last;
            end.chain = chain;
            chunks = chunk_facts(&batch);
            batch
        });
        Ready {
            batch,
            pending: PendingBatch {
                end,
                chunks,
                records,
                tickets,
            },
            epoch_begun,
        }
    }

    /// Commits batches in one transaction, together with what garbage collection removes.
    pub(super) fn commit(&mut self, ready: Vec<Ready>) -> Result<(), StoreError> {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut table_grew = false;
        for one in &ready {
            if let Some(batch) = &one.batch {
                bytes += batch.bytes() as u64;
                for (chunk, facts) in batch.chunks.iter().zip(&one.pending.chunks) {
                    writes.push(Write::Append(facts.first, chunk.clone()));
                }
                if one.epoch_begun {
                    table_grew = true;
                    self.epochs.push(EpochStart {
                        epoch: batch.epoch,
                        start: batch.first,
                    });
                }
            }
        }
        if table_grew {
            writes.push(meta::epochs(&self.epochs));
        }
        if !writes.is_empty() {
            self.collect(&mut writes, COLLECT);
            self.env().commit(&writes)?;
        }
        let mark = {
            let mut state = self.shared.state();
            for one in ready {
                self.end = one.pending.end;
                state.pending.push_back(one.pending);
            }
            self.end
        };
        self.since_checkpoint += bytes;
        if bytes > 0 {
            let counted = bytes.max(MEASURE_COMMIT);
            self.since_measured = self.since_measured.saturating_add(counted);
        }
        let epochs = table_grew.then(|| self.epochs.clone());
        self.committed(!writes.is_empty(), mark, epochs);
        Ok(())
    }

    /// Says what has become durable after a commit (`wrote`), or for units without records.
    pub(super) fn committed(&mut self, wrote: bool, mark: Mark, epochs: Option<Vec<EpochStart>>) {
        if !wrote {
            if self.unsynced.is_none() {
                self.shared.durable(mark, epochs);
            }
            return;
        }
        let before = self.unsynced.take();
        if self.env().defers() {
            self.unsynced = Some((mark, epochs));
            if let Some((mark, epochs)) = before {
                self.shared.durable(mark, epochs);
            }
        } else {
            self.shared.durable(mark, epochs);
        }
    }

    /// Adds the chunks that may go to a transaction.
    pub(super) fn collect(&mut self, writes: &mut Vec<Write>, count: usize) {
        let mut state = self.shared.state();
        if state.pinned.is_some() {
            return;
        }
        let gone = state.index.ledger.collect(count);
        let Some(floor) = gone.iter().map(|(_, last)| *last).max() else {
            return;
        };
        for (first, _) in gone {
            writes.push(Write::Delete(backend::Table::Log, log_key(first).to_vec()));
        }
        if floor > state.floor {
            state.floor = floor;
            writes.push(meta::floor(floor));
        }
    }

    /// Deletes some of the chunks that may go, in a transaction of its own. False when there are none.
    pub(super) fn collect_now(&mut self, count: usize) -> Result<bool, StoreError> {
        let mut writes = Vec::new();
        self.collect(&mut writes, count);
        if writes.is_empty() {
            return Ok(false);
        }
        self.env().commit(&writes)?;
        self.committed(true, self.end, None);
        Ok(true)
    }

    /// Flushes the last commit.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.env().sync()?;
        if let Some((mark, epochs)) = self.unsynced.take() {
            self.shared.durable(mark, epochs);
        }
        Ok(())
    }

    /// Writes the record that begins an epoch as a batch of its own.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch) -> Result<(), StoreError> {
        let first = self.end.position.lsn.next();
        let mut writer = BatchWriter::new(epoch, first, self.end.chain, 64);
        writer.push(&Record::Epoch(epoch));
        let ready = self.ready(writer, vec![LogRecord::Epoch(epoch)], Vec::new(), true);
        if let Some(batch) = &ready.batch {
            self.shared.emit(StoreEvent::Cut(batch.clone()));
        }
        self.commit(vec![ready])?;
        self.sync()?;
        self.shared.state().begun = true;
        Ok(())
    }

    /// Writes a checkpoint where the index shows nothing beyond the commit index.
    pub(super) fn checkpoint_if_possible(&mut self) -> Result<bool, StoreError> {
        let (mut writes, mark) = {
            let mut state = self.shared.state();
            let mark = state.applied;
            if state.pinned.is_some() || state.commit < mark.position.lsn {
                return Ok(false);
            }
            if mark == state.checkpoint {
                return Ok(true);
            }
            let writes = checkpoint::changes(&mut state.index);
            state.index.ledger.checkpointed();
            (writes, mark)
        };
        writes.push(meta::checkpoint(mark));
        self.env().commit(&writes)?;
        if self.env().defers() {
            // This commit's flush made the one before it durable; itself it holds no new records.
            let end = self.end;
            if let Some((_, epochs)) = self.unsynced.take() {
                self.shared.durable(end, epochs);
            }
            self.unsynced = Some((end, None));
        }
        self.shared.state().checkpoint = mark;
        self.since_checkpoint = 0;
        Ok(true)
    }

    /// Asks for the sizes again, and says so when sends begin or cease to be refused.
    pub(crate) fn measure(&mut self) -> Result<(), StoreError> {
        self.since_measured = 0;
        let view = self.env().view();
        let bytes = view.used_bytes()?;
        let space = self.home.space()?;
        let now = Use {
            bytes,
            // Below the map too, with room for pages that are free but cannot be reused yet.
            quota: self.config.quota_bytes.min(view.capacity() / 8 * 7),
            space,
        };
        let (level, percent) = room::judge(self.config.room, self.shared.level(), now);
        let before = self.shared.set_facts(StoreFacts {
            bytes,
            disk_free: space.free,
            refuses_sends: level == RoomLevel::Refuses,
            level,
            filled_percent: percent,
            ..StoreFacts::default()
        });
        if level != before.level {
            say_level(level, percent, now);
        }
        self.look_at_room(bytes);
        Ok(())
    }

    /// Forgets a flush that is owed: what it was for has been dropped or flushed.
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced = None;
    }
}

fn say_level(level: RoomLevel, percent: u8, now: Use) {
    let (bytes, quota, disk_free) = (now.bytes, now.quota, now.space.free);
    match level {
        RoomLevel::Refuses => tracing::error!(
            target: "twinmq::store", bytes, quota, disk_free, percent,
            "too little room: sends are refused, acknowledgements go on; make room or raise the quota"
        ),
        RoomLevel::Blocks => tracing::warn!(
            target: "twinmq::store", bytes, quota, disk_free, percent,
            "little room: senders wait, acknowledgements go on; receive messages, make room or raise \
             the quota"
        ),
        RoomLevel::Low => tracing::warn!(
            target: "twinmq::store", bytes, quota, disk_free, percent,
            "the store's room becomes little; sends are taken"
        ),
        RoomLevel::Enough => tracing::info!(
            target: "twinmq::store", bytes, disk_free, percent, "the store has room enough again"
        ),
    }
}

fn chunk_facts(batch: &Batch) -> Vec<ChunkFacts> {
    batch
        .chunks
        .iter()
        .map(|bytes| {
            let header = crate::proto::record::ChunkHeader::decode(bytes, bytes.len())
                .expect("the chunk was encoded just now");
            recover::facts(&header, bytes.len())
        })
        .collect()
}

/// About what a draft takes in the log.
fn size_of_draft(draft: &Draft) -> usize {
    16 + match draft {
        Draft::Put { targets, message } => targets.len() * 5 + message.len(),
        Draft::Ack { lsns, .. } | Draft::DeliveredEach { lsns, .. } => lsns.len() * 10,
        Draft::Failed { counts, .. } => counts.len() * 15,
        Draft::Delivered { .. } => 0,
        Draft::Seen { .. } => 36,
        Draft::Part { bytes, .. } => bytes.len(),
        Draft::UploadEnded(_) => 10,
        Draft::Kv { key, value, .. } => key.len() + value.len(),
    }
}

fn borrow(draft: &Draft) -> Record<'_> {
    match draft {
        Draft::Put { targets, message } => Record::Put { targets, message },
        Draft::Ack { dest, lsns } => Record::Ack { dest: *dest, lsns },
        Draft::DeliveredEach { dest, lsns } => Record::DeliveredEach { dest: *dest, lsns },
        Draft::Failed { dest, counts } => Record::Failed {
            dest: *dest,
            counts,
        },
        Draft::Delivered { dest, lane, ahead } => Record::Delivered {
            dest: *dest,
            lane: *lane,
            ahead: *ahead,
        },
        Draft::Kv { space, key, value } => Record::Kv {
            space: *space,
            key,
            value,
        },
        Draft::Seen { id, at_ms } => Record::Seen {
            id: *id,
            at_ms: *at_ms,
        },
        Draft::Part { upload, bytes } => Record::Part {
            upload: *upload,
            bytes,
        },
        Draft::UploadEnded(upload) => Record::UploadEnded(*upload),
    }
}

fn into_record(draft: Draft, offset: u32) -> LogRecord {
    match draft {
        Draft::Put { targets, message } => LogRecord::Put {
            targets,
            message,
            offset,
        },
        Draft::Ack { dest, lsns } => LogRecord::Ack { dest, lsns },
        Draft::Delivered { dest, lane, ahead } => LogRecord::Delivered { dest, lane, ahead },
        Draft::DeliveredEach { dest, lsns } => LogRecord::DeliveredEach { dest, lsns },
        Draft::Failed { dest, counts } => LogRecord::Failed { dest, counts },
        Draft::Kv { space, key, value } => LogRecord::Kv { space, key, value },
        Draft::Seen { id, at_ms } => LogRecord::Seen { id, at_ms },
        Draft::Part { upload, bytes } => LogRecord::Part { upload, bytes },
        Draft::UploadEnded(upload) => LogRecord::UploadEnded(upload),
    }
}
