//! What the holder of the lock writes into the lock file (A1).

use crate::proto::ids::{Position, StoreId};

use super::{HaMachine, HeldLock};

impl HaMachine {
    /// What to write now: how far each store of the in-sync set is durable, at least. That is this
    /// one's place; the follower's, as it has said; and whatever was written of either before, by this
    /// server or the holder before it. As long as the set names a store, what is known of it must
    /// outlive this server, also once it has stopped following: that store may have been set back
    /// meanwhile, and would be promoted as it is.
    pub fn positions(
        &mut self,
        own: (StoreId, Position),
        follower: Option<(StoreId, Position)>,
    ) -> Vec<(StoreId, Position)> {
        self.learn([own].into_iter().chain(follower));
        let in_sync = self.record().map(|record| record.isr.clone());
        let in_sync = in_sync.unwrap_or_default();
        self.written.retain(|(store, _)| in_sync.contains(store));
        self.written.clone()
    }

    /// What the holder before wrote is not forgotten.
    pub(super) fn take_over_words(&mut self, held: &HeldLock) {
        if let Some(last) = &held.lock.last {
            self.learn(last.positions.iter().copied());
        }
    }

    fn learn(&mut self, positions: impl IntoIterator<Item = (StoreId, Position)>) {
        for (store, position) in positions {
            match self.written.iter_mut().find(|(known, _)| *known == store) {
                Some((_, furthest)) => *furthest = position.max(*furthest),
                None => self.written.push((store, position)),
            }
        }
    }
}
