//! Room that is taken by more than what is owed is given back: pages in use stay below twice the bytes
//! that are owed and a *slack* of 256 MiB, or a third more than the retained log.
//!
//! A chunk is kept as long as one message in it is owed. Near that bound the server that serves reads
//! chunks of which little may be owed and appends what is, as a RELOGGED record of an ordinary batch;
//! both servers then let go of the chunk by themselves. Messages keep their LSNs: nothing but the
//! ledger knows that they moved. Also near the bound, on any server, a checkpoint comes as soon as it
//! lets chunks go.
//!
//! Clients go first. While they send, records ride along with their batches, for two bytes that are
//! read to each that they write; while nothing is asked of the writer, it goes on in portions.

use std::mem::take;

use crate::proto::ids::{DestId, Lsn};
use crate::proto::record::{Chunk, DecodeError, LogRecord, Straggler, varint_len};

use super::backend::{Backend, Home, Table, View, log_key};
use super::core::Core;
use super::error::StoreError;
use super::ledger::{ChunkFacts, Content};
use super::recover::bad;
use super::shared::{State, serves};

/// Bytes of chunks that are read at once, at most...
const PORTION: u64 = 4 << 20;
/// ...and at least, beside what clients send.
const PORTION_MIN: u64 = 1 << 20;
/// Bytes that are appended at once, at most, and one chunk's.
const APPENDED: u64 = 1 << 20;
/// Chunks deleted in one commit while nothing is asked of the writer...
const COLLECT_IDLE: usize = 256;
/// ...and such commits in a row.
const COMMITS: usize = 4;

/// When the room of a store is worked on, and how far it came.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Too much is in use.
    on: bool,
    /// There may be something to do about it.
    pub(super) busy: bool,
    /// Chunks after this one are looked at next.
    cursor: Lsn,
    /// A chunk was emptied since the cursor was at the beginning.
    found: bool,
    /// All chunks were looked at, in vain: the bytes in use and the bytes owed then.
    rested: Option<(u64, u64)>,
    /// Bytes that may be read beside what clients send.
    budget: u64,
    /// The last record that was appended: before it is applied, the ledger shows what was.
    awaited: Lsn,
}

impl Reclaim {
    /// Bytes in use and bytes owed, at least, were found to be these.
    fn look(&mut self, used: u64, owed: u64, slack: u64) {
        let bound = owed.saturating_mul(2).saturating_add(slack);
        let sixteenths = if self.on { 14 } else { 15 };
        let on = used > bound / 16 * sixteenths;
        if on != self.on {
            tracing::debug!(
                target: "twinmq::store", used, owed, bound, on, "room that little is owed of"
            );
        }
        self.rested = self.rested.filter(|(rested_used, rested_owed)| {
            used <= rested_used + slack / 32 && owed + slack / 32 >= *rested_owed
        });
        self.busy = on && self.rested.is_none();
        self.on = on;
    }
}

/// What is owed of a chunk: messages, and parts of bodies.
struct Found {
    from: Lsn,
    content: Content,
    messages: Vec<Straggler>,
}

impl<H: Home> Core<H> {
    /// Bytes that may be in use beside twice what is owed.
    fn slack(&self) -> u64 {
        let retained = self.config.retain_bytes;
        self.config.slack_bytes.max(retained + retained / 3)
    }

    /// The bytes in use were measured.
    pub(super) fn look_at_room(&mut self, used: u64) {
        let owed = self.shared.state().index.ledger.owed();
        let slack = self.slack();
        self.reclaim.look(used, owed, slack);
    }

    /// Checkpoints where that lets at least `least` bytes go, and lets go what may. False when there
    /// was nothing to do.
    fn give_back(&mut self, least: u64) -> Result<bool, StoreError> {
        let (free, settled) = self.shared.state().index.ledger.spare();
        let checkpointed = settled >= least && self.checkpoint_if_possible()?;
        if free == 0 && !checkpointed {
            return Ok(false);
        }
        let mut commits = 0;
        while commits < COMMITS && self.collect_now(COLLECT_IDLE)? {
            commits += 1;
        }
        Ok(commits > 0)
    }

    /// While clients are served: only what is worth a checkpoint that comes early.
    pub(super) fn reclaim_busy(&mut self) -> Result<(), StoreError> {
        if self.reclaim.on {
            let slack = self.slack();
            self.give_back(slack / 16)?;
        }
        Ok(())
    }

    /// While nothing is asked: one portion.
    pub(super) fn reclaim_idle(&mut self) -> Result<(), StoreError> {
        if !self.reclaim.on {
            return Ok(());
        }
        let slack = self.slack();
        let gave = self.give_back(slack / 256)?;
        let records = self.stragglers(PORTION)?;
        let appended = !records.is_empty();
        if appended {
            self.append_stragglers(records)?;
        }
        let goes_on = {
            let state = self.shared.state();
            self.reclaim.rested.is_none() && may_append(&state, Lsn::ZERO)
        };
        self.reclaim.busy = gave || appended || goes_on;
        Ok(())
    }

    /// Records that ride along with `bytes` of clients' units.
    pub(super) fn riding(&mut self, bytes: usize) -> Result<Vec<LogRecord>, StoreError> {
        if !self.reclaim.on {
            return Ok(Vec::new());
        }
        let reclaim = &mut self.reclaim;
        reclaim.budget = PORTION.min(reclaim.budget + 2 * bytes as u64);
        if reclaim.budget < PORTION_MIN {
            return Ok(Vec::new());
        }
        let budget = take(&mut reclaim.budget);
        self.stragglers(budget)
    }

    /// Reads chunks of which little may be owed, `budget` bytes of them at most, and gives what is to
    /// be appended. None when this server does not serve, or what was appended last is not applied.
    fn stragglers(&mut self, budget: u64) -> Result<Vec<LogRecord>, StoreError> {
        let mut records = Vec::new();
        let (mut read, mut appended) = (0, 0);
        while read < budget && appended < APPENDED {
            let (sparse, next) = {
                let state = self.shared.state();
                if !may_append(&state, self.reclaim.awaited) || self.reclaim.rested.is_some() {
                    break;
                }
                state.index.ledger.sparse(self.reclaim.cursor)
            };
            let mut whole = true;
            for (chunk, takes) in sparse {
                if read >= budget || appended >= APPENDED {
                    whole = false;
                    break;
                }
                read += chunk.bytes.max(1);
                self.reclaim.cursor = chunk.first;
                let Some(found) = self.owed_of(chunk)? else {
                    continue;
                };
                let size = relogged_bytes(&found);
                if Content::wastes(size, takes) {
                    appended += size;
                    self.reclaim.found = true;
                    records.push(LogRecord::Relogged {
                        from: found.from,
                        messages: found.messages,
                    });
                }
            }
            // Looking at the ledger costs something too.
            read += PORTION / 16;
            match next {
                _ if !whole => {}
                Some(at) => self.reclaim.cursor = at,
                None => {
                    self.reclaim.cursor = Lsn::ZERO;
                    if !take(&mut self.reclaim.found) {
                        self.reclaim.rested = Some(self.used_and_owed());
                    }
                    break;
                }
            }
        }
        Ok(records)
    }

    fn used_and_owed(&self) -> (u64, u64) {
        let owed = self.shared.state().index.ledger.owed();
        (self.shared.facts().bytes, owed)
    }

    /// What is owed of a chunk, of which the ledger takes note. None when that is nothing any more, or
    /// not all of it is found.
    fn owed_of(&mut self, chunk: ChunkFacts) -> Result<Option<Found>, StoreError> {
        let (from, limit) = (chunk.first, self.limits().chunk);
        let view = self.env().view();
        let Some(bytes) = view.get(Table::Log, &log_key(from))? else {
            return Err(bad(&view, from, &"is missing"));
        };
        let sound = Chunk::decode(bytes, limit).map_err(|error| bad(&view, from, &error))?;
        let mut messages = messages_of(&sound).map_err(|error| bad(&view, from, &error))?;
        let mut state = self.shared.state();
        let live = state.index.ledger.live(from);
        messages.retain_mut(|straggler| {
            let place = state.index.ledger.place_of(straggler.lsn);
            if place.is_none_or(|place| place.chunk != from) {
                return false;
            }
            if straggler.is_part() {
                return state.index.bodies().holds(straggler.lsn);
            }
            let owes = |target: &DestId| {
                let owed = state.index.destination(*target);
                owed.is_some_and(|owed| owed.owes(straggler.lsn))
            };
            straggler.targets.retain(owes);
            !straggler.targets.is_empty()
        });
        let content = state.index.owed_of(&messages, from);
        if content.pairs != live || live == 0 {
            // It stays where it is, and is not looked at again before it is owed less.
            let whole = Content {
                pairs: live,
                bytes: u32::try_from(chunk.bytes).unwrap_or(u32::MAX),
                largest: u32::MAX,
            };
            state.index.ledger.judge(from, whole);
            return Ok(None);
        }
        state.index.ledger.judge(from, content);
        Ok(Some(Found {
            from,
            content,
            messages,
        }))
    }

    /// The last record of these rides in the batch that was made last.
    pub(super) fn await_stragglers(&mut self) {
        self.reclaim.awaited = self.end.position.lsn;
    }
}

/// Serves in an epoch of its own, shows all that is committed, and what was appended last; and chunks
/// may go. The gate of a server that takes over opens before its epoch is begun: until then the log
/// ends in the epoch of another, who may have written more of it.
fn may_append(state: &State, awaited: Lsn) -> bool {
    let applied = state.applied.position.lsn;
    serves(state.gate)
        && state.begun
        && !state.sync_in_progress
        && state.pinned.is_none()
        && state.commit >= applied
        && applied >= awaited
}

/// All messages and parts in a chunk, those that were brought to it too, by ascending LSNs.
fn messages_of(chunk: &Chunk) -> Result<Vec<Straggler>, DecodeError> {
    let mut messages = Vec::new();
    for record in chunk.records() {
        match record? {
            (
                lsn,
                LogRecord::Put {
                    targets, message, ..
                },
            ) if !targets.is_empty() => messages.push(Straggler {
                lsn,
                targets: distinct(targets),
                message,
            }),
            (lsn, LogRecord::Part { bytes, .. }) => messages.push(Straggler {
                lsn,
                targets: Vec::new(),
                message: bytes,
            }),
            (_, LogRecord::Relogged { messages: more, .. }) => messages.extend(more),
            (
                _,
                // Owed to nobody.
                LogRecord::Put { .. }
                | LogRecord::Ack { .. }
                | LogRecord::Delivered { .. }
                | LogRecord::DeliveredEach { .. }
                | LogRecord::Failed { .. }
                | LogRecord::Kv { .. }
                | LogRecord::Seen { .. }
                | LogRecord::UploadEnded(_)
                | LogRecord::Epoch(_),
            ) => {}
        }
    }
    messages.sort_by_key(|straggler| straggler.lsn);
    Ok(messages)
}

/// What a chunk of its own would take whose record brings this: the distances of LSNs may be large.
fn relogged_bytes(found: &Found) -> u64 {
    let mut distances = 0;
    let mut last = Lsn::ZERO;
    for straggler in &found.messages {
        // One byte of each is counted already.
        distances += varint_len(straggler.lsn.0 - last.0) - 1;
        last = straggler.lsn;
    }
    u64::from(found.content.bytes) + distances as u64
}

/// A PUT that names a destination twice owes it one message.
fn distinct(mut targets: Vec<DestId>) -> Vec<DestId> {
    targets.sort_unstable();
    targets.dedup();
    targets
}

#[cfg(test)]
mod tests {
    use crate::proto::ids::Epoch;
    use crate::proto::record::{BatchWriter, CHUNK_HEADER, Record};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn work_begins_near_the_bound_and_ends_below_it() {
        let mut reclaim = Reclaim::default();
        let mut on = |used, owed| {
            reclaim.look(used * MIB, owed * MIB, 256 * MIB);
            reclaim.on
        };
        // Of 1056 MiB.
        assert!(!on(989, 400));
        assert!(on(991, 400));
        assert!(on(925, 400));
        assert!(!on(923, 400));
        assert!(!on(989, 400));
        assert!(on(989, 390));
    }

    #[test]
    fn the_size_of_a_record_is_known_before_it_is_written() {
        let targets: Vec<DestId> = (0..400).map(|id| DestId(u32::MAX - id)).collect();
        let at = |lsn| Straggler {
            lsn: Lsn(lsn),
            targets: targets.clone(),
            message: bytes::Bytes::from_static(&[7; 200]),
        };
        let messages = vec![at(1 << 40), at((1 << 40) + 1), at(1 << 41)];
        let mut content = Content::default();
        for straggler in &messages {
            content.add(400, 400 * 5, straggler.message.len());
        }
        let from = Lsn(1 << 40);
        let mut writer = BatchWriter::new(Epoch(1), Lsn(1 << 50), 0, 0);
        writer.push(&Record::Relogged {
            from,
            messages: &messages,
        });
        let (batch, _) = writer.finish().unwrap();
        let found = Found {
            from,
            content,
            messages,
        };
        // Its kind, its length, the chunk that it is from, and how many messages there are.
        let head = 1 + 2 + 6 + 1;
        let bytes = batch.bytes() - CHUNK_HEADER - head;
        assert_eq!(relogged_bytes(&found), bytes as u64);
    }

    #[test]
    fn what_was_looked_at_in_vain_is_looked_at_again_when_something_changed() {
        let mut reclaim = Reclaim::default();
        reclaim.look(300 * MIB, MIB, 256 * MIB);
        assert!(reclaim.busy);
        reclaim.rested = Some((300 * MIB, 20 * MIB));
        reclaim.busy = false;
        reclaim.look(308 * MIB, 12 * MIB, 256 * MIB);
        assert!(reclaim.on && !reclaim.busy && reclaim.rested.is_some());
        reclaim.look(309 * MIB, 12 * MIB, 256 * MIB);
        assert!(reclaim.busy && reclaim.rested.is_none());
        reclaim.look(100 * MIB, 12 * MIB, 256 * MIB);
        assert!(!reclaim.busy);
    }
}
