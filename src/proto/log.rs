//! The log as both servers hold it and as it crosses the HA channel.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::proto::ids::{Epoch, Lsn, Position};

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

/// Where two logs part (Z19), as in leader-epoch truncation: the last LSN that both share, or none where they have no epoch in common. Two logs hold the
/// same records of an epoch as far as both reach into it, because one server wrote it and the other
/// took its batches in order; so the newest epoch with the same start in both decides.
#[must_use]
pub fn common_point(
    mine: &[EpochStart],
    my_end: Position,
    theirs: &[EpochStart],
    their_end: Position,
) -> Option<Lsn> {
    if their_end.lsn == Lsn::ZERO {
        return Some(Lsn::ZERO);
    }
    theirs
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, theirs_start)| {
            let found = mine.iter().position(|start| start == theirs_start)?;
            let their_last = end_of(theirs, at, their_end);
            let my_last = end_of(mine, found, my_end);
            Some(their_last.min(my_last))
        })
}

/// The last LSN of the epoch at this place of a table.
fn end_of(table: &[EpochStart], at: usize, end: Position) -> Lsn {
    table
        .get(at.saturating_add(1))
        .map_or(end.lsn, |next| next.start.prev())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(starts: &[(u64, u64)]) -> Vec<EpochStart> {
        starts
            .iter()
            .map(|(epoch, start)| EpochStart {
                epoch: Epoch(*epoch),
                start: Lsn(*start),
            })
            .collect()
    }

    fn at(epoch: u64, lsn: u64) -> Position {
        Position {
            epoch: Epoch(epoch),
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn logs_part_where_the_shorter_of_the_last_common_epoch_ends() {
        let active = table(&[(1, 1), (2, 51)]);
        for (theirs, end, common) in [
            (table(&[(1, 1)]), at(1, 40), Some(40)), // behind within epoch 1
            (table(&[(1, 1)]), at(1, 60), Some(50)), // an un-replicated tail of epoch 1
            (table(&[(1, 1), (2, 51)]), at(2, 70), Some(70)), // behind within epoch 2
            (table(&[(1, 1), (3, 41)]), at(3, 90), Some(40)), // another history after 40
            (table(&[(7, 1)]), at(7, 5), None),      // nothing in common
            (table(&[(1, 2)]), at(1, 5), None),      // the same epoch, another beginning
            (Vec::new(), at(0, 0), Some(0)),         // an empty log is a beginning of any
        ] {
            let found = common_point(&active, at(2, 80), &theirs, end);
            assert_eq!(found, common.map(Lsn), "{theirs:?} ending at {end}");
        }
    }
}
