//! What is kept in memory alone: which messages may be, and how they are shown to whoever reads the
//! store past this machine: browsers, and operators at work.

use bytes::Bytes;

use super::DestinationMachine;
use crate::proto::ids::Lsn;
use crate::proto::message;
use crate::storage::api::{Entry, Lane, Times};

impl DestinationMachine {
    /// The message may be kept in memory alone, if there is room.
    pub(super) fn is_volatile(&self, message: &[u8]) -> bool {
        self.keeps_in_memory || !message::is_persistent(message)
    }

    /// Keeps a volatile message, if there is memory for it; gives it back otherwise. Where two copies
    /// are demanded none is in memory alone.
    pub(super) fn keep_in_memory(&mut self, message: Bytes) -> Option<Bytes> {
        let demands_both = self.policy.as_ref().is_some_and(|it| it.both_copies);
        // A body in parts is on the disk already, and is held there only for what is stored.
        if demands_both || message::is_in_parts(&message) || !self.is_volatile(&message) {
            return Some(message);
        }
        let Some(lsn) = self.volatile.take(message.len()) else {
            return Some(message);
        };
        self.keep(lsn, message);
        None
    }

    /// A volatile message has its place.
    fn keep(&mut self, lsn: Lsn, message: Bytes) {
        let times = Times::of(&message);
        if let Some(at) = times.expiry_ms {
            self.timers.expires(at);
        }
        let entry = Entry::new(lsn, message);
        if times.lane == Lane::DELAYED {
            self.timers.put_volatile(entry);
        } else {
            self.lanes.put_volatile(times.lane, entry);
        }
        self.figures.arrived = self.figures.arrived.saturating_add(1);
    }

    /// What others have taken room for.
    pub(super) fn keep_all(&mut self, messages: Vec<(Lsn, Bytes)>) {
        for (lsn, message) in messages {
            self.keep(lsn, message);
        }
    }

    /// Spilled messages that are committed are not on their way any more.
    pub(super) fn count_spilled(&self, entries: &[Entry]) {
        if self.volatile.is_waiting() {
            let spilled = entries.iter().filter(|it| self.is_volatile(&it.message));
            let count = u64::try_from(spilled.count()).unwrap_or(u64::MAX);
            self.volatile.arrived(count);
        }
    }

    /// The first `count` messages beyond `after` that only memory has, in LSN order, wherever they are:
    /// those that wait, and those that a consumer or a transaction has.
    pub(super) fn look(&self, lane: Option<Lane>, after: Lsn, count: usize) -> Vec<Entry> {
        if self.volatile.messages() == 0 {
            return Vec::new();
        }
        let elsewhere = self
            .timers
            .waiting()
            .chain(self.consumers.iter())
            .chain(self.holds.iter())
            .chain(self.groups.iter())
            .chain(self.redelivery.iter())
            .filter(|entry| entry.lsn.is_volatile() && entry.lsn > after)
            .filter(|entry| lane.is_none_or(|lane| lane == entry.lane()));
        let mut found: Vec<&Entry> = self.lanes.volatile(lane, after, count).collect();
        found.extend(elsewhere);
        found.sort_unstable_by_key(|entry| entry.lsn);
        found.into_iter().take(count).cloned().collect()
    }
}
