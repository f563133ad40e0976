//! The log as both servers hold it and as it crosses the HA channel.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::proto::ids::{Epoch, Lsn};

/// A batch as it stands in the log and as it crosses the HA channel: encoded chunks, one after the
/// other. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// Its first LSN.
    pub first: Lsn,
    /// Its last LSN.
    pub last: Lsn,
    /// The checksum of the chunk before it (0 before the first): the chain.
    pub prev_chain: u32,
    /// Encoded chunks, in order.
    pub chunks: Vec<Bytes>,
}

impl Batch {
    /// Bytes of all chunks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// One epoch's beginning in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The LSN of its first record.
    pub start: Lsn,
}
