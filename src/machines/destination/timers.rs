//! Messages and time: those that are due later, and when to look for expired ones.
//!
//! What a message says of its times is wall-clock time, which can jump. Nothing here waits longer than
//! a few seconds (minutes, for expired messages that nobody waits for) without looking at it again, so
//! a jump only moves the moment. Whether a message is due or expired is judged when it is handed out.
//!
//! A delayed message stays in the store until it is due; then it is fetched, in due order, marked as
//! delivered in a record of its own, and joins what is ready. Volatile ones wait here. One that is due
//! and that nobody who is there takes stays in the store; its place is noted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::claims::{Claims, Question};
use super::vocabulary::{Activation, DestinationEffect, Now, Room};
use super::volatile;
use crate::proto::ids::Lsn;
use crate::storage::api::{Entry, Fetched, Lane, Seek, Times};
use crate::time::Moment;

/// The wall clock is looked at again after this, while a consumer waits for a due time.
const DUE_LOOK: Duration = Duration::from_secs(5);
/// The same for expired messages, which nobody waits for.
const EXPIRY_LOOK: Duration = Duration::from_secs(300);
/// Expired messages are looked for at most so often.
const EXPIRY_PAUSE: Duration = Duration::from_secs(1);
/// Messages of one answer about expired ones.
const EXPIRED_MESSAGES: usize = 1024;
const EXPIRED_BYTES: usize = 4 << 20;

/// A wall-clock time as a moment. It stands while the time is the same, so that the shell's timer is
/// not set anew with each step.
#[derive(Debug, Default)]
struct Alarm {
    set: Option<(u64, Moment)>,
}

impl Alarm {
    /// Sets it to ring at `at_ms`, or after `at_most` to look again; `not_before` bounds it from below.
    fn set(&mut self, at_ms: Option<u64>, now: Now, at_most: Duration, not_before: Moment) {
        let Some(at_ms) = at_ms else {
            self.set = None;
            return;
        };
        if self
            .set
            .is_some_and(|(for_ms, at)| for_ms == at_ms && at > now.moment)
        {
            return;
        }
        let wait = Duration::from_millis(at_ms.saturating_sub(now.wall_ms)).min(at_most);
        self.set = Some((at_ms, now.moment.after(wait).max(not_before)));
    }

    fn at(&self) -> Option<Moment> {
        self.set.map(|(_, at)| at)
    }
}

/// The place of a delayed message: when it is due, and its position.
pub(super) type Place = (u64, Lsn);

pub(super) fn place(entry: &Entry) -> Place {
    let due = Times::of(&entry.message).due_ms;
    (due.unwrap_or(0), entry.lsn)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Due, marked (or volatile), in due order: to be delivered.
    ready: BTreeMap<Place, Entry>,
    /// Those of them that consumers with a selector have not been shown.
    fresh: Vec<Place>,
    /// Due, in the store alone, at or before the cursor: nobody who is there takes them.
    parked: BTreeSet<Place>,
    /// What is ready is thinned out at so many.
    thin_at: usize,
    /// Due, waiting for their mark.
    marking: BTreeMap<Lsn, Entry>,
    /// Due, to be marked with the next unit of this step.
    unmarked: Vec<Lsn>,
    /// Volatile ones that are not due.
    volatile: BTreeMap<Place, Entry>,
    /// What is stored up to here was fetched.
    cursor: Place,
    /// Nothing stored beyond the cursor is due before this.
    next_due_ms: Option<u64>,
    due: Alarm,
    /// The first that arrived since the last question, whose answer may not know it.
    since: Option<Place>,

    /// No message expires before this.
    next_expiry_ms: Option<u64>,
    /// A look in several parts is under way, and has come so far.
    expired_upto: Lsn,
    /// The last look needed more than one answer.
    in_parts: bool,
    /// The earliest next look.
    look_from: Moment,
    expiry: Alarm,
}

impl Timers {
    pub(super) fn new(activation: &Activation) -> Self {
        Self {
            next_due_ms: activation.next_due_ms,
            next_expiry_ms: activation.next_expiry_ms,
            ..Self::default()
        }
    }

    /// Something is due or expires at some time.
    pub(super) fn has_times(&self) -> bool {
        self.next_due_ms.is_some() || self.next_expiry_ms.is_some()
    }

    /// Nothing is known here that the store does not know, but for times. It may have a mark of one that
    /// never left, which is not marked here.
    pub(super) fn is_at_rest(&self) -> bool {
        self.marking.is_empty()
            && self.unmarked.is_empty()
            && self.volatile.is_empty()
            && !self.in_parts
            && self.ready.values().all(|entry| entry.marked)
    }

    /// No stored message with a due time is due before this, also of those that were found due.
    pub(super) fn first_due_ms(&self) -> Option<u64> {
        let ready = self.ready.keys().next();
        let found = ready.into_iter().chain(self.parked.first());
        let found = found.map(|(due, _)| *due);
        found.chain(self.next_due_ms).min()
    }

    /// No message expires before this.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        self.next_expiry_ms
    }

    /// A stored message with a due time was committed.
    pub(super) fn arrive(&mut self, due_ms: u64, lsn: Lsn) {
        self.next_due_ms = self.next_due_ms.into_iter().chain([due_ms]).min();
        self.since = self.since.into_iter().chain([(due_ms, lsn)]).min();
        self.step_back();
    }

    /// The cursor never passes what came after the question.
    fn step_back(&mut self) {
        if let Some((due_ms, lsn)) = self.since
            && (due_ms, lsn) <= self.cursor
        {
            self.cursor = (due_ms, lsn.prev());
        }
    }

    /// A message with an expiry came.
    pub(super) fn expires(&mut self, at_ms: u64) {
        self.next_expiry_ms = self.next_expiry_ms.into_iter().chain([at_ms]).min();
    }

    pub(super) fn put_volatile(&mut self, entry: Entry) {
        self.volatile.insert(place(&entry), entry);
    }

    /// A delayed message that was due comes back.
    pub(super) fn put_back(&mut self, entry: Entry) {
        let place = place(&entry);
        self.fresh.push(place);
        self.ready.insert(place, entry);
    }

    /// Those that have become ready since this was asked.
    pub(super) fn take_fresh(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.fresh)
    }

    /// All that are ready are as new: somebody else is to be shown them.
    pub(super) fn show_again(&mut self) {
        self.fresh = self.ready.keys().copied().collect();
    }

    /// One that could be delivered now.
    pub(super) fn at(&self, place: Place) -> Option<&Entry> {
        self.ready.get(&place)
    }

    pub(super) fn take(&mut self, place: Place) -> Option<Entry> {
        self.ready.remove(&place)
    }

    /// Another consumer is there: what nobody wanted is looked at again.
    pub(super) fn revisit(&mut self) {
        if let Some(first) = std::mem::take(&mut self.parked).pop_first() {
            self.next_due_ms = self.next_due_ms.into_iter().chain([first.0]).min();
            self.since = self.since.into_iter().chain([first]).min();
            self.step_back();
        }
    }

    /// The message that is delivered next, with its priority.
    pub(super) fn next_priority(&self) -> Option<u8> {
        let (_, entry) = self.ready.first_key_value()?;
        Some(crate::proto::message::priority(&entry.message))
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.ready.pop_first().map(|(_, entry)| entry)
    }

    /// Messages that could be delivered now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes a message out, if it is here.
    pub(super) fn remove(&mut self, lsn: Lsn, due_ms: u64) -> Option<Entry> {
        self.parked.remove(&(due_ms, lsn));
        self.ready
            .remove(&(due_ms, lsn))
            .or_else(|| self.marking.remove(&lsn))
            .or_else(|| self.volatile.remove(&(due_ms, lsn)))
    }

    /// This one is in the store alone, if it is owed at all.
    pub(super) fn is_in_store(&self, lsn: Lsn, due_ms: u64) -> bool {
        (due_ms, lsn) > self.cursor || self.parked.contains(&(due_ms, lsn))
    }

    /// These are marked: they may go.
    pub(super) fn marked(&mut self, lsns: &[Lsn]) {
        for lsn in lsns {
            if let Some(entry) = self.marking.remove(lsn) {
                self.put_back(entry);
            }
        }
    }

    /// What is to be marked in this step.
    pub(super) fn take_unmarked(&mut self) -> Vec<Lsn> {
        std::mem::take(&mut self.unmarked)
    }

    /// Answer to what was asked about due messages; `is_wanted` by somebody who is there.
    pub(super) fn found_due(
        &mut self,
        fetched: Fetched,
        claims: &mut Claims,
        is_wanted: impl Fn(&Entry) -> bool,
    ) {
        self.next_due_ms = self.next_due_ms.into_iter().chain(fetched.next_ms).min();
        for entry in fetched.entries {
            self.cursor = self.cursor.max(place(&entry));
            if claims.is_taken(entry.lsn) {
                continue;
            }
            if !is_wanted(&entry) {
                self.parked.insert(place(&entry));
                continue;
            }
            claims.take(entry.lsn);
            if entry.marked {
                self.put_back(entry);
            } else {
                self.unmarked.push(entry.lsn);
                self.marking.insert(entry.lsn, entry);
            }
        }
        self.step_back();
    }

    /// What is here, but for what waits for its mark: volatile ones, and others that are due.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.ready.values().chain(self.volatile.values())
    }

    /// Volatile messages that have become due join what is ready.
    pub(super) fn wake_volatile(&mut self, now: Now) {
        while let Some(first) = self.volatile.first_entry()
            && first.key().0 <= now.wall_ms
        {
            let entry = first.remove();
            self.put_back(entry);
        }
    }

    /// Leaves to the store what is ready and nobody who is there takes, when there is much. What had
    /// failed stays: its count may not be in the store yet.
    pub(super) fn thin_out(
        &mut self,
        room: Room,
        claims: &mut Claims,
        is_wanted: impl Fn(&Entry) -> bool,
    ) {
        if self.ready.len() <= self.thin_at.max(room.messages) {
            return;
        }
        let parked = &mut self.parked;
        self.ready.retain(|place, entry| {
            let stays = entry.lsn.is_volatile() || entry.failures > 0 || is_wanted(entry);
            if !stays {
                claims.release(entry.lsn);
                parked.insert(*place);
            }
            stays
        });
        self.thin_at = self.ready.len().saturating_mul(2);
    }

    /// Asks for what is due, while somebody could take it: `wanted` of what is ready.
    pub(super) fn seek_due(
        &mut self,
        now: Now,
        room: Room,
        wanted: usize,
        claims: &mut Claims,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let waiting = wanted.min(self.ready.len());
        let waiting = waiting.saturating_add(self.marking.len());
        if self.next_due_ms.is_some_and(|due| due <= now.wall_ms)
            && waiting <= room.messages / 2
            && !claims.is_open(Question::Due)
        {
            self.since = None;
            self.next_due_ms = None;
            effects.push(DestinationEffect::Fetch {
                tag: claims.ask(Question::Due),
                seek: Seek::Due {
                    after: self.cursor,
                    until_ms: now.wall_ms,
                },
                count: room.messages.saturating_sub(waiting).max(1),
                bytes: room.bytes,
            });
        }
    }

    /// It is time to look for expired messages.
    pub(super) fn is_expiry_due(&self, now: Now, claims: &Claims) -> bool {
        self.next_expiry_ms.is_some_and(|at| at <= now.wall_ms)
            && (now.moment >= self.look_from || self.in_parts)
            && !claims.is_open(Question::Expired)
    }

    /// Asks for what is expired, if `seeks`; `next` is the next expiry that is known besides.
    pub(super) fn seek_expired(
        &mut self,
        now: Now,
        next: Option<u64>,
        seeks: bool,
        claims: &mut Claims,
        effects: &mut Vec<DestinationEffect>,
    ) {
        self.look_from = now.moment.after(EXPIRY_PAUSE);
        self.next_expiry_ms = next;
        if seeks {
            effects.push(DestinationEffect::Fetch {
                tag: claims.ask(Question::Expired),
                seek: Seek::Expired {
                    now_ms: now.wall_ms,
                    after: self.expired_upto,
                },
                count: EXPIRED_MESSAGES,
                bytes: EXPIRED_BYTES,
            });
        } else {
            self.in_parts = false;
            self.expired_upto = Lsn::ZERO;
        }
    }

    /// The volatile ones here that expire at or before now, due or not, and when the next one does.
    pub(super) fn expire_volatile(&mut self, now_ms: u64, expired: &mut Vec<Entry>) -> Option<u64> {
        let sleeping = volatile::expire(&mut self.volatile, now_ms, expired);
        let due = volatile::expire(&mut self.ready, now_ms, expired);
        sleeping.into_iter().chain(due).min()
    }

    /// The oldest volatile message here, due or not.
    pub(super) fn oldest_volatile(&self) -> Option<Lsn> {
        let waiting = self.volatile.keys().chain(self.ready.keys());
        let lsns = waiting.map(|(_, lsn)| *lsn);
        lsns.filter(|lsn| lsn.is_volatile()).min()
    }

    /// Takes a volatile message out.
    pub(super) fn take_volatile(&mut self, lsn: Lsn) -> Option<Entry> {
        [&mut self.volatile, &mut self.ready]
            .into_iter()
            .find_map(|waiting| {
                let place = *waiting.keys().find(|(_, waits)| *waits == lsn)?;
                waiting.remove(&place)
            })
    }

    /// How far the answer about expired messages goes, and when to look again.
    pub(super) fn found_expired(&mut self, fetched: &Fetched, now: Now) {
        let goes_on = fetched.next_ms.is_some_and(|at| at <= now.wall_ms)
            && fetched.scanned > self.expired_upto;
        let mut again = fetched.next_ms;
        if !goes_on && self.in_parts {
            // What lies before the last part was not asked about again: it is, before long.
            again = again
                .into_iter()
                .chain([now.wall_ms.saturating_add(10_000)])
                .min();
        }
        self.next_expiry_ms = self.next_expiry_ms.into_iter().chain(again).min();
        self.in_parts = goes_on;
        self.expired_upto = if goes_on { fetched.scanned } else { Lsn::ZERO };
    }

    /// Sets the alarms anew after a step. What is over now waits for an answer or for room, and needs
    /// none.
    pub(super) fn arm(&mut self, now: Now, has_consumers: bool, claims: &Claims) {
        let volatile = self.volatile.first_key_value().map(|((due, _), _)| *due);
        let due = self.next_due_ms.into_iter().chain(volatile);
        let due = due.filter(|due| *due > now.wall_ms).min();
        self.due.set(
            due.filter(|_| has_consumers),
            now,
            DUE_LOOK,
            Moment::default(),
        );
        let expiry = self
            .next_expiry_ms
            .filter(|_| !claims.is_open(Question::Expired));
        self.expiry.set(expiry, now, EXPIRY_LOOK, self.look_from);
    }

    /// When to come back.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.due.at().into_iter().chain(self.expiry.at()).min()
    }
}

/// Whether a message waits in the delayed lane.
pub(super) fn is_delayed(entry: &Entry) -> bool {
    entry.lane() == Lane::DELAYED
}
