//! What a simulated server's store tells, on its way to the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use twinmq::actors::store_sink::ServerSink;
use twinmq::proto::log::Batch;
use twinmq::proto::record::{Chunk, LogRecord};
use twinmq::storage::api::{JobOutcome, StoreEvent, StoreSink};

use crate::arbiter::Life;
use crate::clock::Trace;

/// The server's sink, with a line for each event about the log.
pub(crate) struct TracedSink {
    pub(crate) life: Life,
    pub(crate) trace: Trace,
    pub(crate) inner: Arc<ServerSink>,
    /// The process is dead.
    pub(crate) silent: Arc<AtomicBool>,
}

impl StoreSink for TracedSink {
    fn event(&self, event: StoreEvent) {
        if self.silent.load(Ordering::Relaxed) {
            return;
        }
        let life = self.life;
        let tell = |what: String| self.trace.tell(format_args!("{life} {what}"));
        match &event {
            StoreEvent::Cut(batch) => {
                for _ in 0..relogged(batch) {
                    self.trace.mark("chunks appended again");
                }
                tell(format!(
                    "cut {}..{} after {:08x}",
                    batch.first, batch.last, batch.prev_chain
                ));
            }
            StoreEvent::Durable(position) => tell(format!("durable: {position}")),
            StoreEvent::Done { request, outcome } => {
                if matches!(outcome, Ok(JobOutcome::Snapshot { .. })) {
                    self.trace.mark("full resyncs begun");
                }
                tell(format!("job {request:x}: {outcome:?}"));
            }
            StoreEvent::LogRead { request, batches } => {
                tell(format!("read {request:x}: {} batches", batches.len()));
            }
            StoreEvent::Failed(error) => tell(format!("failed: {error}")),
            // Told by the clients.
            StoreEvent::Committed(_) | StoreEvent::Fetched(_) | StoreEvent::PartsRead { .. } => {}
        }
        self.inner.event(event);
    }
}

/// How many chunks are emptied by what is appended again in a batch.
fn relogged(batch: &Batch) -> usize {
    let chunks = batch.chunks.iter();
    chunks
        .map(|bytes| {
            let chunk = Chunk::decode(bytes.clone(), usize::MAX).expect("it was cut just now");
            let records = chunk.records();
            records
                .filter(|record| matches!(record, Ok((_, LogRecord::Relogged { .. }))))
                .count()
        })
        .sum()
}
