//! The messages of a queue that no consumer holds, in LSN order: those that came back, the window,
//! what only the store has, and the recent ones.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Activation, Room};
use crate::machines::delivery::Delivery;
use crate::proto::ids::Lsn;
use crate::storage::api::Entry;

/// Messages in LSN order with their bytes counted.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) entries: VecDeque<Entry>,
    pub(super) bytes: usize,
}

impl Kept {
    fn push_back(&mut self, entry: Entry) {
        self.bytes = self.bytes.saturating_add(entry.message.len());
        self.entries.push_back(entry);
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes = self.bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    fn pop_back(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_back()?;
        self.bytes = self.bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    fn front(&self) -> Option<Lsn> {
        self.entries.front().map(|entry| entry.lsn)
    }

    fn holds(&self, lsn: Lsn) -> bool {
        let found = self.entries.binary_search_by_key(&lsn, |entry| entry.lsn);
        found.is_ok()
    }

    /// Takes these out; they are in LSN order.
    fn remove(&mut self, lsns: &[Lsn]) {
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let goes = lsns.binary_search(&entry.lsn).is_ok();
            if goes {
                *bytes = bytes.saturating_sub(entry.message.len());
            }
            !goes
        });
    }

    fn exceeds(&self, room: Room) -> bool {
        self.entries.len() > room.messages || (self.bytes > room.bytes && self.entries.len() > 1)
    }

    fn has_room_for(&self, message: usize, room: Room) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < room.messages
                && self.bytes.saturating_add(message) <= room.bytes)
    }
}

/// What to ask the store for.
pub(super) struct Wanted {
    pub(super) after: Lsn,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The bound of the window, and again of `recent`.
    room: Room,
    /// Came back; every one is below the window. All are flagged redelivered.
    returned: BTreeMap<Lsn, Bytes>,
    pub(super) window: Kept,
    /// Everything owed up to here is in this machine (or was settled).
    pub(super) cursor: Lsn,
    /// Everything owed after `recent_after` is in `recent`. Never below the cursor.
    pub(super) recent: Kept,
    recent_after: Lsn,
    /// The newest message known to be owed.
    tail: Lsn,
    /// The `after` of the fetch that is under way.
    fetching: Option<Lsn>,
    /// What lies at or below may have been delivered by an earlier active.
    suspect_upto: Lsn,
}

impl Backlog {
    pub(super) fn new(room: Room, activation: &Activation) -> Self {
        Self {
            room,
            returned: BTreeMap::new(),
            window: Kept::default(),
            cursor: if activation.depth == 0 {
                activation.tail
            } else {
                Lsn::ZERO
            },
            recent: Kept::default(),
            recent_after: activation.tail,
            tail: activation.tail,
            fetching: None,
            suspect_upto: activation.mark.min(activation.horizon),
        }
    }

    pub(super) fn tail(&self) -> Lsn {
        self.tail
    }

    pub(super) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// Messages that could be delivered now.
    pub(super) fn ready(&self) -> usize {
        self.returned
            .len()
            .saturating_add(self.window.entries.len())
    }

    /// The message that is delivered next.
    pub(super) fn next(&self) -> Option<Lsn> {
        let returned = self.returned.keys().next().copied();
        returned.or_else(|| self.window.front())
    }

    /// Takes the next message.
    pub(super) fn pop(&mut self) -> Option<Delivery> {
        if let Some((lsn, message)) = self.returned.pop_first() {
            return Some(Delivery {
                lsn,
                redelivered: true,
                message,
            });
        }
        let mut delivery = Delivery::from(self.window.pop_front()?);
        delivery.redelivered = delivery.lsn <= self.suspect_upto;
        Some(delivery)
    }

    /// A delivered message comes back to its old place.
    pub(super) fn put_back(&mut self, lsn: Lsn, message: Bytes) {
        self.returned.insert(lsn, message);
    }

    /// New messages; those that the activation knew already are passed over. How many were new.
    pub(super) fn arrive(&mut self, entries: Vec<Entry>) -> u64 {
        let mut arrived = 0u64;
        for entry in entries {
            if entry.lsn <= self.tail {
                continue;
            }
            self.tail = entry.lsn;
            arrived = arrived.saturating_add(1);
            if entry.lsn > self.recent_after {
                self.recent.push_back(entry);
            }
        }
        arrived
    }

    /// What the store answered to the last [`Backlog::want`].
    pub(super) fn fetched(&mut self, entries: Vec<Entry>, scanned: Lsn) {
        if self.fetching.take() != Some(self.cursor) {
            // The window was shrunk meanwhile; what is missing is asked for again.
            return;
        }
        let mut complete = true;
        for entry in entries {
            if entry.lsn <= self.cursor {
                continue;
            }
            if self.window.entries.len() >= self.room.messages {
                complete = false;
                break;
            }
            self.cursor = entry.lsn;
            self.window.push_back(entry);
        }
        if complete {
            self.cursor = self.cursor.max(scanned);
        }
        self.recent_after = self.recent_after.max(self.cursor);
    }

    /// Takes these out, as far as nobody holds them; gives those that were to be had, in their order.
    /// An answer of the store that is older than their acknowledgement may still bring them.
    pub(super) fn remove(&mut self, lsns: &[Lsn]) -> Vec<Lsn> {
        let taken: Vec<Lsn> = lsns
            .iter()
            .copied()
            .filter(|lsn| {
                let waits = *lsn <= self.tail && *lsn > self.cursor;
                waits || self.window.holds(*lsn) || self.returned.contains_key(lsn)
            })
            .collect();
        for lsn in &taken {
            self.returned.remove(lsn);
        }
        self.window.remove(&taken);
        self.recent.remove(&taken);
        taken
    }

    /// Moves what follows the window without a gap into it.
    pub(super) fn pull(&mut self) {
        while self.recent.front().is_some_and(|lsn| lsn <= self.cursor) {
            self.recent.pop_front();
        }
        if self.recent_after > self.cursor {
            return;
        }
        while let Some(next) = self.recent.entries.front()
            && self.window.has_room_for(next.message.len(), self.room)
            && let Some(entry) = self.recent.pop_front()
        {
            self.cursor = entry.lsn;
            self.window.push_back(entry);
        }
        self.recent_after = self.cursor;
    }

    /// The oldest of `recent` are left to the store when there are too many.
    pub(super) fn trim(&mut self) {
        while self.recent.exceeds(self.room)
            && let Some(entry) = self.recent.pop_front()
        {
            self.recent_after = entry.lsn;
        }
    }

    /// Changes the bounds; what is too much is left to the store.
    pub(super) fn resize(&mut self, room: Room) {
        self.room = room;
        while self.window.exceeds(room)
            && let Some(entry) = self.window.pop_back()
        {
            self.recent_after = self.recent_after.max(self.cursor);
            self.cursor = entry.lsn.prev();
        }
    }

    /// What to ask for: when half of the window is used up, messages lie in the store alone, and
    /// nothing was asked for yet.
    pub(super) fn want(&mut self) -> Option<Wanted> {
        let room = self.room;
        if self.fetching.is_some()
            || self.recent_after <= self.cursor
            || self.window.entries.len() > room.messages / 2
            || self.window.bytes > room.bytes / 2
        {
            return None;
        }
        self.fetching = Some(self.cursor);
        Some(Wanted {
            after: self.cursor,
            count: room.messages.saturating_sub(self.window.entries.len()),
            bytes: room.bytes.saturating_sub(self.window.bytes),
        })
    }

    pub(super) fn assert_invariants(&self) {
        assert!(
            self.recent_after >= self.cursor || self.recent.entries.is_empty(),
            "the recent messages overlap the window"
        );
        assert!(
            self.window.entries.len() <= self.room.messages
                && self.recent.entries.len() <= self.room.messages,
            "more messages are kept than there is room for"
        );
        assert!(
            self.returned
                .keys()
                .next_back()
                .zip(self.window.front())
                .is_none_or(|(returned, front)| *returned < front),
            "a message came back beyond the window"
        );
    }
}
