//! The writer's jobs: each is done between two batches, and its effects are durable when it ends.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::proto::ids::{Lsn, Position};
use crate::proto::log::common_point;
use crate::proto::record::ChunkHeader;

use super::api::{Job, JobOutcome, JobRefusal};
use super::backend::{Backend, Home, Table, View, Write, log_key};
use super::core::Core;
use super::divergent::{TailNote, name_of};
use super::error::StoreError;
use super::meta::{self, Meta};
use super::recover::{self, Recovered, each_chunk};
use super::relog::Reclaim;
use super::shared::serves;
use super::snapshot::{Cursor, Receiving};

type Outcome = Result<JobOutcome, JobRefusal>;

const DONE: Outcome = Ok(JobOutcome::Durable);

impl<H: Home> Core<H> {
    /// Does one job. The outer error is fatal.
    pub(super) fn run(&mut self, job: Job) -> Result<Outcome, StoreError> {
        match job {
            Job::BeginEpoch(epoch) => {
                if epoch <= self.end.position.epoch {
                    return Ok(Err(JobRefusal::NotNow(
                        "the log knows this epoch or a later one",
                    )));
                }
                self.begin_epoch(epoch)?;
                Ok(DONE)
            }
            Job::PersistRecord(record) => {
                self.home.write_last_record(&record)?;
                Ok(DONE)
            }
            Job::BeginSync => self.mark_sync(true),
            Job::EndSync => self.mark_sync(false),
            Job::Truncate(to) => self.truncate(to),
            Job::PinSnapshot => self.pin(),
            Job::ReadSnapshot => Ok(self.read_snapshot()?),
            Job::UnpinSnapshot => {
                self.shared.state().pinned = None;
                Ok(DONE)
            }
            Job::BeginSnapshot | Job::EndSnapshot if self.serves() => {
                Ok(Err(JobRefusal::NotNow("this server serves")))
            }
            Job::BeginSnapshot => {
                if let Some(old) = self.receiving.take() {
                    self.home.drop_next(old.into_env())?;
                }
                self.receiving = Some(Receiving::new(self.home.create_next()?));
                Ok(DONE)
            }
            Job::WriteSnapshot(piece) => {
                let Some(receiving) = &mut self.receiving else {
                    return Ok(Err(JobRefusal::NotNow("no snapshot was begun")));
                };
                match receiving.write(&piece, self.config.limits().chunk)? {
                    Ok(()) => Ok(DONE),
                    Err(why) => Ok(Err(JobRefusal::BadPiece(why))),
                }
            }
            Job::EndSnapshot => self.switch(),
            Job::SetAside { name, note } => {
                self.sync()?;
                let present = self
                    .env
                    .as_ref()
                    .expect("the environment is there until the store has failed");
                // The store itself is as it was, whatever became of the copy.
                Ok(match self.home.set_aside(present, &name, &note) {
                    Ok(()) => DONE,
                    Err(error) => Err(JobRefusal::NotKept(error.to_string())),
                })
            }
            Job::Flush => {
                self.sync()?;
                self.measure()?;
                Ok(DONE)
            }
        }
    }

    fn serves(&self) -> bool {
        serves(self.shared.state().gate)
    }

    fn mark_sync(&mut self, on: bool) -> Result<Outcome, StoreError> {
        self.env().commit(&[meta::sync_in_progress(on)])?;
        self.sync()?;
        self.shared.state().sync_in_progress = on;
        Ok(DONE)
    }

    fn truncate(&mut self, to: Lsn) -> Result<Outcome, StoreError> {
        let refuse = |why| Ok(Err(JobRefusal::CannotTruncate { to, why }));
        self.sync()?;
        let (checkpoint, pinned) = {
            let state = self.shared.state();
            (state.checkpoint.position.lsn, state.pinned.is_some())
        };
        if to > self.end.position.lsn {
            return refuse("the log ends before it");
        }
        if to < checkpoint {
            return refuse("it is below the checkpoint; a full resync is needed");
        }
        if pinned {
            return refuse("a snapshot is being read");
        }
        if self.serves() {
            return refuse("this server serves");
        }
        if to == self.end.position.lsn {
            self.shared.state().unproven = false;
            return Ok(DONE);
        }
        let view = self.env().view();
        let next = view.get(Table::Log, &log_key(to.next()))?;
        let begins_batch = next.is_some_and(|value| {
            ChunkHeader::decode(&value, value.len()).is_ok_and(|header| header.index == 0)
        });
        if !begins_batch {
            return refuse("it is inside a batch");
        }
        self.keep_tail(to, "a resync cut the log to where both servers agree")?;
        let mut writes = Vec::new();
        each_chunk(&view, to.next(), &mut |lsn, _| {
            writes.push(Write::Delete(Table::Log, log_key(lsn).to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        self.epochs.retain(|epoch| epoch.start <= to);
        writes.push(meta::epochs(&self.epochs));
        self.env().commit(&writes)?;
        self.env().sync()?;
        tracing::info!(
            target: "twinmq::store", from = %self.end.position.lsn, %to,
            "a tail of the log that the pair does not share was dropped; a copy is in node/divergent"
        );
        let recovered = self.reload(to)?;
        self.show(recovered);
        Ok(DONE)
    }

    /// Copies the log after `after` into the evidence.
    fn keep_tail(&mut self, after: Lsn, why: &str) -> Result<(), StoreError> {
        let view = self.env().view();
        let (first, last) = (after.next(), self.end.position.lsn);
        let note = {
            let state = self.shared.state();
            TailNote {
                store: state.store,
                committed: state.commit,
                why: why.to_owned(),
                destinations: state
                    .index
                    .facts()
                    .into_iter()
                    .filter_map(|facts| Some((facts.id.0, name_of(&facts.definition)?)))
                    .collect(),
            }
        };
        self.home.keep_tail((first, last), &note, &mut |file| {
            each_chunk(&view, first, &mut |_, value| {
                file.write_all(value).map_err(|cause| StoreError::File {
                    action: "write the divergent tail of",
                    path: view.path(),
                    cause,
                })?;
                Ok(ControlFlow::Continue(()))
            })
        })
    }

    fn reload(&mut self, upto: Lsn) -> Result<(Meta, Recovered), StoreError> {
        let limits = self.limits();
        let view = self.env().view();
        let meta = meta::load(&view)?.ok_or_else(|| {
            view.damaged(Table::Meta, "format".to_owned(), "is missing".to_owned())
        })?;
        let recovered = recover::recover(&view, &meta, limits, upto)?;
        Ok((meta, recovered))
    }

    /// Replaces all that is known in memory by what was read.
    fn show(&mut self, (meta, recovered): (Meta, Recovered)) {
        self.end = recovered.end;
        self.epochs.clone_from(&meta.epochs);
        self.since_checkpoint = recovered.since_checkpoint;
        self.forget_unsynced();
        let view = self.env().view();
        let mut state = self.shared.state();
        // Under the lock: nobody may look a message of one store up in the other.
        self.shared.set_view(view);
        state.durable = recovered.end;
        state.applied = recovered.end;
        state.pending.clear();
        state.index = recovered.index;
        state.store = meta.store;
        state.epochs = meta.epochs;
        state.floor = meta.floor;
        state.sync_in_progress = meta.sync_in_progress;
        state.checkpoint = meta.checkpoint;
        state.pinned = None;
        let bounds = (meta.checkpoint.position.lsn, recovered.end.position.lsn);
        state.commit = state.commit.clamp(bounds.0, bounds.1);
        // Whatever the active called committed before was of the log as it was.
        state.peer = Lsn::ZERO;
        state.unproven = false;
        state.begun = false;
        drop(state);
        self.reclaim = Reclaim::default();
    }

    fn pin(&mut self) -> Result<Outcome, StoreError> {
        self.sync()?;
        self.shared.state().pinned = None;
        if !self.checkpoint_if_possible()? {
            return Ok(Err(JobRefusal::NotNow(
                "the index shows what is not committed yet",
            )));
        }
        self.sync()?;
        let used = self.env().view().used_bytes()?;
        let mut state = self.shared.state();
        let at = state.checkpoint;
        let chunks: Vec<_> = state
            .index
            .ledger
            .iter()
            .filter(|(chunk, live)| *live > 0 && chunk.last <= at.position.lsn)
            .map(|(chunk, _)| chunk)
            .collect();
        let log: u64 = chunks.iter().map(|chunk| chunk.bytes).sum();
        let index = used.saturating_sub(state.index.ledger.bytes());
        let epochs = state
            .epochs
            .iter()
            .filter(|epoch| epoch.start <= at.position.lsn)
            .copied()
            .collect();
        let chunks = chunks.into_iter().map(|chunk| chunk.first).collect();
        state.pinned = Some(Cursor::new(&self.config.cluster, at, epochs, chunks));
        Ok(Ok(JobOutcome::Snapshot {
            at: at.position,
            bytes: log + index,
        }))
    }

    fn read_snapshot(&mut self) -> Result<Outcome, StoreError> {
        // Out of the lock while it reads.
        let Some(mut cursor) = self.shared.state().pinned.take() else {
            return Ok(Err(JobRefusal::NotNow("no snapshot is pinned")));
        };
        let piece = cursor.read(&self.env().view())?;
        self.shared.state().pinned = Some(cursor);
        Ok(Ok(JobOutcome::Piece(Bytes::from(piece))))
    }

    fn switch(&mut self) -> Result<Outcome, StoreError> {
        let refuse = |why: String| Ok(Err(JobRefusal::BadPiece(why)));
        let Some(receiving) = self.receiving.take() else {
            return Ok(Err(JobRefusal::NotNow("no snapshot was begun")));
        };
        let meta = match receiving.meta(&self.config.cluster, self.home.new_store_id()?) {
            Ok(meta) => meta,
            Err(why) => {
                self.home.drop_next(receiving.into_env())?;
                return refuse(why);
            }
        };
        let mut next = receiving.into_env();
        next.commit(&meta::whole(&meta))?;
        next.sync()?;
        let found = recover::recover(&next.view(), &meta, self.limits(), Lsn(u64::MAX));
        if let Err(error) = found {
            self.home.drop_next(next)?;
            return refuse(error.to_string());
        }
        self.sync()?;
        // Where the two histories part, as far as the new copy tells: its newest epoch goes on.
        let beyond = Position {
            epoch: meta.checkpoint.position.epoch,
            lsn: Lsn(u64::MAX),
        };
        let shared = common_point(&meta.epochs, beyond, &self.epochs, self.end.position);
        let shared = shared.unwrap_or(Lsn::ZERO);
        if shared < self.end.position.lsn {
            // Somebody may want to know what it was.
            self.keep_tail(shared, "a full resync replaced the store")?;
        }
        let present = self
            .env
            .take()
            .expect("the environment is there until the store has failed");
        let env = self.home.promote_next(next, present)?;
        self.env = Some(env);
        let recovered = self.reload(Lsn(u64::MAX))?;
        tracing::info!(
            target: "twinmq::store", store = %recovered.0.store, at = %recovered.1.end.position,
            "switched to the store that the full resync filled"
        );
        self.shared.state().commit = Lsn::ZERO;
        self.show(recovered);
        Ok(DONE)
    }
}
