//! The follower's side of the writer: the active's batches, each verified against the log before it
//! is committed.

use crate::proto::log::Batch;
use crate::proto::record::{Chunk, LogRecord};

use super::api::StoreEvent;
use super::backend::Home;
use super::core::{BATCH_BYTES, Core, Ready, Request};
use super::error::StoreError;
use super::meta::Mark;
use super::recover;
use super::shared::{PendingBatch, serves};

impl<H: Home> Core<H> {
    /// A batch of the active's, and those queued behind it, in one commit.
    pub(super) fn follow(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut ready: Vec<Ready> = Vec::new();
        let mut bytes = 0;
        let mut next = Some(batch);
        let mut refused = None;
        let mut end = self.end;
        while let Some(batch) = next.take() {
            bytes += batch.bytes();
            match self.verify(&batch, end) {
                Ok(one) => {
                    end = one.pending.end;
                    ready.push(one);
                }
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            }
            if bytes < BATCH_BYTES
                && let Some(Request::Append(more)) = self
                    .queue
                    .pop_front_if(|request| matches!(request, Request::Append(_)))
            {
                next = Some(more);
            }
        }
        if !ready.is_empty() {
            {
                let mut state = self.shared.state();
                state.unproven = false;
                state.begun = false;
            }
            self.commit(ready)?;
        }
        if let Some(why) = refused {
            self.shared
                .emit(StoreEvent::Failed(StoreError::ReplicaMismatch(why)));
        }
        Ok(())
    }

    /// Checks everything that a batch says against the log that ends at `end`.
    fn verify(&self, batch: &Batch, end: Mark) -> Result<Ready, String> {
        if serves(self.shared.state().gate) {
            return Err("this server serves and follows nobody".to_owned());
        }
        let begins = batch.epoch > end.position.epoch;
        if batch.epoch < end.position.epoch {
            return Err(format!(
                "it is of epoch {}, the log of {}",
                batch.epoch, end.position.epoch
            ));
        }
        let of = batch.chunks.len();
        let (mut mark, mut records, mut chunks) = (end, Vec::new(), Vec::with_capacity(of));
        for (index, bytes) in batch.chunks.iter().enumerate() {
            let chunk = Chunk::decode(bytes.clone(), self.limits().chunk)
                .map_err(|error| format!("chunk {index} of it: {error}"))?;
            let header = chunk.header;
            if header.first != mark.position.lsn.next() || header.prev != mark.chain {
                return Err(format!(
                    "it goes on at {} (chain {:08x}), the log ends at {} (chain {:08x})",
                    header.first, header.prev, mark.position.lsn, mark.chain
                ));
            }
            let placed = usize::from(header.index) == index
                && usize::from(header.of) == of
                && header.batch == batch.first
                && header.epoch == batch.epoch;
            if !placed {
                return Err(format!("chunk {index} of it belongs to another batch"));
            }
            for record in chunk.records() {
                let (lsn, record) = record.map_err(|error| format!("chunk {index}: {error}"))?;
                let sound = if begins && lsn == batch.first {
                    record == LogRecord::Epoch(batch.epoch)
                } else {
                    !matches!(record, LogRecord::Epoch(_))
                };
                if !sound {
                    return Err(format!("epoch {} does not begin with it", batch.epoch));
                }
                records.push(record);
            }
            chunks.push(recover::facts(&header, bytes.len()));
            mark.position.epoch = header.epoch;
            mark.position.lsn = header.last();
            mark.chain = header.crc;
        }
        if of == 0 || mark.position.lsn != batch.last {
            return Err(format!("it is not whole: it ends at {}", mark.position.lsn));
        }
        Ok(Ready {
            batch: Some(batch.clone()),
            pending: PendingBatch {
                end: mark,
                chunks,
                records,
                tickets: Vec::new(),
            },
            epoch_begun: begins,
        })
    }
}
