//! The stored messages of one lane that no consumer holds, in LSN order: those that came back, the
//! window, what only the store has, and the recent ones.

use std::collections::{BTreeMap, VecDeque};

use super::claims::Claims;
use super::vocabulary::Room;
use crate::proto::ids::Lsn;
use crate::storage::api::{Entry, LaneFacts};

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

    fn remove(&mut self, lsn: Lsn) -> Option<Entry> {
        let at = self
            .entries
            .binary_search_by_key(&lsn, |entry| entry.lsn)
            .ok()?;
        let entry = self.entries.remove(at)?;
        self.bytes = self.bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    fn front(&self) -> Option<Lsn> {
        self.entries.front().map(|entry| entry.lsn)
    }

    fn has(&self, lsn: Lsn) -> bool {
        let found = self.entries.binary_search_by_key(&lsn, |entry| entry.lsn);
        found.is_ok()
    }

    fn after(&self, lsn: Lsn) -> impl Iterator<Item = &Entry> {
        let from = self.entries.partition_point(|entry| entry.lsn <= lsn);
        self.entries.range(from..)
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

/// Why a look at what is in memory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// There is nothing more.
    All,
    /// Whoever looked has enough.
    Enough,
    /// What follows is in the store alone.
    Gap,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The bound of the window, and again of `recent`.
    room: Room,
    /// Came back; mostly below the window.
    returned: BTreeMap<Lsn, Entry>,
    returned_bytes: usize,
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
    /// What the store has of a lane.
    pub(super) fn new(room: Room, facts: &LaneFacts, horizon: Lsn) -> Self {
        Self {
            room,
            returned: BTreeMap::new(),
            returned_bytes: 0,
            window: Kept::default(),
            cursor: if facts.depth == 0 {
                facts.tail
            } else {
                Lsn::ZERO
            },
            recent: Kept::default(),
            recent_after: facts.tail,
            tail: facts.tail,
            fetching: None,
            suspect_upto: facts.mark.min(horizon),
        }
    }

    pub(super) fn tail(&self) -> Lsn {
        self.tail
    }

    /// What lies at or below may have been delivered by an earlier active.
    pub(super) fn suspect_upto(&self) -> Lsn {
        self.suspect_upto
    }

    /// The store knows as much of each message. It may have a mark of one that was taken for a consumer
    /// with a selector and never left, which is not marked here.
    pub(super) fn is_at_rest(&self) -> bool {
        self.fetching.is_none() && self.returned.values().all(|entry| entry.marked)
    }

    /// What the store knows beyond this will be told as new.
    pub(super) fn end(&self) -> Lsn {
        self.tail.max(self.recent_after)
    }

    /// Messages that could be delivered now.
    pub(super) fn ready(&self) -> usize {
        self.returned
            .len()
            .saturating_add(self.window.entries.len())
    }

    /// The message that is delivered next.
    pub(super) fn next(&self) -> Option<Lsn> {
        let front = self.window.front();
        match self.returned.keys().next() {
            None => front,
            Some(returned) => Some(front.map_or(*returned, |front| front.min(*returned))),
        }
    }

    /// Takes the next message.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let next = self.next()?;
        if let Some(entry) = self.take_returned(next) {
            return Some(entry);
        }
        let mut entry = self.window.pop_front()?;
        entry.marked |= entry.lsn <= self.suspect_upto;
        Some(entry)
    }

    /// A message comes back to its old place.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.returned_bytes = self.returned_bytes.saturating_add(entry.message.len());
        self.returned.insert(entry.lsn, entry);
    }

    /// Takes a message out, if it is in memory.
    pub(super) fn remove(&mut self, lsn: Lsn) -> Option<Entry> {
        self.take_returned(lsn)
            .or_else(|| self.window.remove(lsn))
            .or_else(|| self.recent.remove(lsn))
    }

    /// Takes one out to be delivered out of its turn. One that is in the store alone is `copy`.
    pub(super) fn take(&mut self, copy: Entry, claims: &mut Claims) -> Option<Entry> {
        let lsn = copy.lsn;
        let known = self.remove(lsn);
        if known.is_none() && (!self.is_in_store(lsn) || claims.is_taken(lsn)) {
            return None;
        }
        let mut entry = known.unwrap_or(copy);
        entry.marked |= lsn <= self.suspect_upto;
        claims.take(lsn);
        Some(entry)
    }

    /// Nobody has this one: [`Backlog::take`] would give it.
    pub(super) fn is_free(&self, lsn: Lsn, claims: &Claims) -> bool {
        self.returned.contains_key(&lsn)
            || self.window.has(lsn)
            || self.recent.has(lsn)
            || (self.is_in_store(lsn) && !claims.is_taken(lsn))
    }

    /// Shows what is in memory after `after`, in LSN order, as long as `see` wants more. Gives up to
    /// where nothing was left out, and why it ended there.
    pub(super) fn look(&self, after: Lsn, mut see: impl FnMut(&Entry) -> bool) -> (Lsn, Seen) {
        let mut upto = after;
        if upto < self.cursor {
            let returned = self.returned.range(upto.next()..=self.cursor);
            let window = self.window.after(upto);
            if let Some(unseen) = show(returned, window, &mut see) {
                return (unseen.prev(), Seen::Enough);
            }
            upto = self.cursor;
        }
        if upto < self.recent_after {
            return (upto, Seen::Gap);
        }
        if upto < self.tail {
            let returned = self.returned.range(upto.next()..);
            let recent = self.recent.after(upto);
            if let Some(unseen) = show(returned, recent, &mut see) {
                return (unseen.prev(), Seen::Enough);
            }
            upto = self.tail;
        }
        (upto, Seen::All)
    }

    fn take_returned(&mut self, lsn: Lsn) -> Option<Entry> {
        let entry = self.returned.remove(&lsn)?;
        self.returned_bytes = self.returned_bytes.saturating_sub(entry.message.len());
        Some(entry)
    }

    /// Bytes of the messages here.
    pub(super) fn kept_bytes(&self) -> usize {
        let windows = self.window.bytes.saturating_add(self.recent.bytes);
        windows.saturating_add(self.returned_bytes)
    }

    /// A new message; those that the activation knew already are passed over. Whether it is new.
    pub(super) fn arrive(&mut self, entry: Entry, claims: &Claims) -> bool {
        if entry.lsn <= self.tail {
            return false;
        }
        self.tail = entry.lsn;
        if entry.lsn > self.recent_after && !claims.is_taken(entry.lsn) {
            self.recent.push_back(entry);
        }
        true
    }

    /// What the store answered to the last [`Backlog::want`].
    pub(super) fn fetched(&mut self, entries: Vec<Entry>, scanned: Lsn, claims: &Claims) {
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
            if !claims.is_taken(entry.lsn) {
                self.window.push_back(entry);
            }
        }
        if complete {
            self.cursor = self.cursor.max(scanned);
        }
        self.recent_after = self.recent_after.max(self.cursor);
    }

    /// This one is in the store alone, if it is owed at all.
    pub(super) fn is_in_store(&self, lsn: Lsn) -> bool {
        lsn > self.cursor && lsn <= self.recent_after
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
            self.window.entries.len() <= self.room.messages,
            "more messages are kept than there is room for"
        );
    }
}

/// Shows two runs of messages as one; gives the first that was not wanted.
fn show<'a>(
    returned: impl Iterator<Item = (&'a Lsn, &'a Entry)>,
    others: impl Iterator<Item = &'a Entry>,
    see: &mut impl FnMut(&Entry) -> bool,
) -> Option<Lsn> {
    let mut returned = returned.map(|(_, entry)| entry).peekable();
    let mut others = others.peekable();
    loop {
        let next = match (returned.peek(), others.peek()) {
            (Some(one), Some(other)) if other.lsn < one.lsn => others.next(),
            (Some(_), _) => returned.next(),
            (None, _) => others.next(),
        };
        let entry = next?;
        if !see(entry) {
            return Some(entry.lsn);
        }
    }
}
