//! A store that is short of room gives back at once what it owes nobody.
//!
//! Chunks go when they owed nothing at the last checkpoint, and a checkpoint comes with bytes of log.
//! Where senders wait for room no such bytes come: what consumers acknowledge would keep its room, and
//! senders would wait for ever.

use super::api::RoomLevel;
use super::backend::Home;
use super::core::{COLLECT, Core};
use super::error::StoreError;

/// Transactions of one relief, so that others have their turn.
const COMMITS: usize = 64;

impl<H: Home> Core<H> {
    /// Checkpoints and collects if room is as short as that, or shorter: under load while senders wait
    /// ([`RoomLevel::Blocks`]), and where nothing is written from the first warning on.
    pub(super) fn relieve(&mut self, from: RoomLevel) -> Result<(), StoreError> {
        if self.shared.level() < from || !self.checkpoint_if_possible()? {
            return Ok(());
        }
        let mut any = false;
        for _ in 0..COMMITS {
            if !self.collect_now(COLLECT)? {
                break;
            }
            any = true;
        }
        if any {
            // Pages of a transaction are free for use only after the one that follows it.
            self.sync()?;
            self.measure()?;
        }
        Ok(())
    }
}
