//! The lanes of a destination, one for each priority that is in use: what waits in each, and how far
//! each may be delivered.
//!
//! The highest lane that has something goes first, also while it waits for its mark: a message of a
//! lower priority does not overtake it. Within a lane stored messages go in LSN order, volatile ones
//! too, and the two kinds take turns, unless volatile ones were spilled: then those in memory, which are
//! older, go first. The delivery mark (engine 6.6, 9) is the lane's own: nothing
//! stored beyond it is delivered; raising it is a record, which rides with another unit where one is
//! to be had and goes alone when a delivery waits for it.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::backlog::{Backlog, Seen};
use super::claims::{Claims, Question};
use super::vocabulary::{Activation, DestinationEffect, Room};
use super::volatile;
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{Draft, Entry, Lane, LaneFacts, Seek};

/// Bounds of how far a mark reaches beyond its record, in LSNs.
const AHEAD_MIN: u64 = 1024;
const AHEAD_MAX: u64 = 1 << 20;
/// Own messages that one mark is meant to last for.
const MARK_MESSAGES: u64 = 1024;

/// A raise of the delivery mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raise {
    /// None is on its way.
    Rests,
    /// Submitted, not committed.
    Submitted,
}

/// One priority.
#[derive(Debug)]
pub(super) struct LaneState {
    lane: Lane,
    pub(super) backlog: Backlog,
    /// In memory only; not bound to the mark, which nobody would read.
    pub(super) volatile: BTreeMap<Lsn, Entry>,
    /// The last message that was taken was a stored one.
    volatile_turn: bool,

    mark: Lsn,
    raise: Raise,
    /// Messages came since the last raise: the next one will be wanted.
    used: bool,
    /// The highest LSN that was delivered.
    reached: Lsn,
    /// LSNs from one own message to the next: moving average, times 16. Observed from the beginning on.
    spacing_x16: u64,
    /// Of the present commit: how many came, and the tail before them.
    arrived: u64,
    before: Lsn,
}

impl LaneState {
    fn new(room: Room, facts: &LaneFacts, horizon: Lsn) -> Self {
        Self {
            lane: facts.lane,
            backlog: Backlog::new(room, facts, horizon),
            volatile: BTreeMap::new(),
            volatile_turn: false,
            mark: facts.mark,
            raise: Raise::Rests,
            used: false,
            reached: Lsn::ZERO,
            spacing_x16: 16,
            arrived: 0,
            before: Lsn::ZERO,
        }
    }

    fn ready(&self) -> usize {
        self.backlog.ready().saturating_add(self.volatile.len())
    }

    fn is_open(&self) -> bool {
        self.backlog.next().is_some_and(|lsn| lsn <= self.mark)
    }

    fn pop(&mut self, memory_first: bool) -> Option<Entry> {
        let stored = self.is_open();
        if !self.volatile.is_empty() && (memory_first || self.volatile_turn || !stored) {
            self.volatile_turn = false;
            return self.volatile.pop_first().map(|(_, entry)| entry);
        }
        if !stored {
            return None;
        }
        self.volatile_turn = true;
        let entry = self.backlog.pop()?;
        self.reached = self.reached.max(entry.lsn);
        Some(entry)
    }

    fn observe_spacing(&mut self, begun: Lsn) {
        let from = self.before.max(begun);
        let gap_x16 = self
            .backlog
            .tail()
            .0
            .saturating_sub(from.0)
            .saturating_mul(16)
            / self.arrived.max(1);
        self.spacing_x16 = self.spacing_x16.saturating_mul(3).saturating_add(gap_x16) / 4;
        self.arrived = 0;
    }

    /// How far to raise the mark: because a delivery waits (`true`) or because it is low. `upto` is
    /// where the next message will come after.
    fn wants_raise(&self, has_credit: bool, upto: Lsn) -> Option<(bool, u64)> {
        if self.raise == Raise::Submitted {
            return None;
        }
        let ahead =
            (self.spacing_x16.saturating_mul(MARK_MESSAGES) / 16).clamp(AHEAD_MIN, AHEAD_MAX);
        let next = self.backlog.next();
        let blocked = next.is_some_and(|lsn| lsn > self.mark) && has_credit;
        // With a backlog, what is delivered next; else the next message.
        let position = self.reached.max(next.unwrap_or(upto));
        let low = self.used && self.mark.0 < position.0.saturating_add(ahead / 2);
        (blocked || low).then_some((blocked, ahead))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The highest first. Most destinations have one.
    all: Vec<LaneState>,
    /// Of all lanes together.
    room: Room,
    horizon: Lsn,
    /// What was committed when this began. No lane that was not there then has anything before it.
    begun: Lsn,
    /// What is in memory goes before what is stored.
    memory_first: bool,
}

impl Lanes {
    pub(super) fn new(room: Room, activation: &Activation) -> Self {
        let mut lanes = Self {
            all: Vec::new(),
            room,
            horizon: activation.horizon,
            begun: activation.upto(),
            memory_first: false,
        };
        for facts in &activation.lanes {
            if facts.lane != Lane::DELAYED {
                let depth = facts.depth.max(u64::from(activation.is_mixed));
                lanes.add(&LaneFacts { depth, ..*facts });
            }
        }
        lanes
    }

    /// Nothing is known here that a lane of the same facts would not read from the store again.
    pub(super) fn is_at_rest(&self) -> bool {
        self.all.iter().all(|state| {
            state.volatile.is_empty() && state.raise == Raise::Rests && state.backlog.is_at_rest()
        })
    }

    /// What each begins with when it begins anew; how many messages it owes is not known lane by lane.
    pub(super) fn facts(&self) -> impl Iterator<Item = LaneFacts> {
        self.all.iter().map(|state| LaneFacts {
            lane: state.lane,
            depth: 0,
            tail: state.backlog.tail(),
            mark: state.mark,
        })
    }

    /// The horizon by which lanes that begin anew suspect as these do of having been delivered by an
    /// earlier active; none if there is none such.
    pub(super) fn suspected_upto(&self) -> Option<Lsn> {
        let suspects = || self.all.iter().map(|state| state.backlog.suspect_upto());
        let horizon = suspects().max().unwrap_or(Lsn::ZERO);
        let all = self.all.iter().zip(suspects());
        all.into_iter()
            .all(|(state, suspect)| state.mark.min(horizon) == suspect)
            .then_some(horizon)
    }

    fn add(&mut self, facts: &LaneFacts) -> usize {
        let state = LaneState::new(self.room, facts, self.horizon);
        let at = self.all.partition_point(|other| other.lane > facts.lane);
        // Most destinations have one for ever, and there may be very many destinations.
        self.all.reserve_exact(1);
        self.all.insert(at, state);
        self.resize(self.room);
        at
    }

    /// The lane, made if this is its first message.
    fn state(&mut self, lane: Lane) -> &mut LaneState {
        let at = match self.all.iter().position(|state| state.lane == lane) {
            Some(at) => at,
            // Whatever the activation did not name comes after it.
            None => self.add(&LaneFacts {
                lane,
                depth: 0,
                tail: self.begun,
                mark: Lsn::ZERO,
            }),
        };
        &mut self.all[at]
    }

    /// Other bounds, shared out to the lanes.
    pub(super) fn resize(&mut self, room: Room) {
        self.room = room;
        let part = room.part(self.all.len());
        for state in &mut self.all {
            state.backlog.resize(part);
        }
    }

    /// A message for this lane is about to be submitted: its mark may ride with it.
    pub(super) fn expect(&mut self, lane: Lane) {
        self.state(lane).used = true;
    }

    /// A new message was committed. Whether it is new here, too.
    pub(super) fn arrive(&mut self, lane: Lane, entry: Entry, claims: &Claims) -> bool {
        if entry.lsn <= self.horizon {
            // A commit of an earlier term, which the activation knew.
            return false;
        }
        let state = self.state(lane);
        let before = state.backlog.tail();
        let is_new = state.backlog.arrive(entry, claims);
        if is_new {
            if state.arrived == 0 {
                state.before = before;
            }
            state.arrived = state.arrived.saturating_add(1);
            state.used = true;
        }
        is_new
    }

    /// All messages of a commit have arrived.
    pub(super) fn arrived(&mut self) {
        for state in &mut self.all {
            if state.arrived > 0 {
                state.observe_spacing(self.begun);
            }
        }
    }

    /// A mark rose.
    pub(super) fn marked(&mut self, lane: Lane, mark: Lsn) {
        let state = self.state(lane);
        if mark > state.mark {
            state.mark = mark;
            state.raise = Raise::Rests;
        }
    }

    pub(super) fn put_volatile(&mut self, lane: Lane, entry: Entry) {
        self.state(lane).volatile.insert(entry.lsn, entry);
    }

    /// A message comes back.
    pub(super) fn put_back(&mut self, lane: Lane, entry: Entry) {
        let state = self.state(lane);
        if entry.lsn.is_volatile() {
            state.volatile.insert(entry.lsn, entry);
        } else {
            state.backlog.put_back(entry);
        }
    }

    pub(super) fn fetched(
        &mut self,
        lane: Lane,
        entries: Vec<Entry>,
        scanned: Lsn,
        claims: &Claims,
    ) {
        self.state(lane).backlog.fetched(entries, scanned, claims);
    }

    /// Takes a message out, if it is in memory.
    pub(super) fn remove(&mut self, lane: Lane, lsn: Lsn) -> Option<Entry> {
        let state = self.all.iter_mut().find(|state| state.lane == lane)?;
        if lsn.is_volatile() {
            return state.volatile.remove(&lsn);
        }
        state.backlog.remove(lsn)
    }

    /// This one is in the store alone, if it is owed at all.
    pub(super) fn is_in_store(&self, lane: Lane, lsn: Lsn) -> bool {
        let mut all = self.all.iter().filter(|state| state.lane == lane);
        all.any(|state| state.backlog.is_in_store(lsn))
    }

    /// The lane at this place, counted from the highest one.
    pub(super) fn nth(&self, at: usize) -> Option<Lane> {
        self.all.get(at).map(|state| state.lane)
    }

    fn get(&self, lane: Lane) -> Option<&LaneState> {
        self.all.iter().find(|state| state.lane == lane)
    }

    /// What the store knows of a lane beyond this will be told as new.
    pub(super) fn end(&self, lane: Lane) -> Lsn {
        let state = self.get(lane);
        state.map_or(Lsn::ZERO, |state| state.backlog.end())
    }

    /// How far a lane's delivery mark reaches.
    pub(super) fn mark(&self, lane: Lane) -> Lsn {
        self.get(lane).map_or(Lsn::ZERO, |state| state.mark)
    }

    /// Shows the stored messages of a lane that are in memory: see [`Backlog::look`].
    pub(super) fn look(
        &self,
        lane: Lane,
        after: Lsn,
        see: impl FnMut(&Entry) -> bool,
    ) -> (Lsn, Seen) {
        let state = self.get(lane);
        state.map_or((after, Seen::All), |state| state.backlog.look(after, see))
    }

    /// The same for volatile ones, which are all in memory.
    pub(super) fn look_at_volatile(
        &self,
        lane: Lane,
        after: Lsn,
        mut see: impl FnMut(&Entry) -> bool,
    ) -> (Lsn, Seen) {
        let mut upto = after;
        let all = self.get(lane).map(|state| &state.volatile);
        let later = (Bound::Excluded(after), Bound::Unbounded);
        for (lsn, entry) in all.iter().flat_map(|all| all.range(later)) {
            if !see(entry) {
                return (upto, Seen::Enough);
            }
            upto = *lsn;
        }
        (upto, Seen::All)
    }

    /// Nobody has this one: [`Lanes::take`] would give it.
    pub(super) fn is_free(&self, lane: Lane, lsn: Lsn, claims: &Claims) -> bool {
        self.get(lane).is_some_and(|state| {
            if lsn.is_volatile() {
                state.volatile.contains_key(&lsn)
            } else {
                state.backlog.is_free(lsn, claims)
            }
        })
    }

    /// Takes one out to be delivered out of its turn: see [`Backlog::take`].
    pub(super) fn take(&mut self, lane: Lane, copy: Entry, claims: &mut Claims) -> Option<Entry> {
        let state = self.all.iter_mut().find(|state| state.lane == lane)?;
        if copy.lsn.is_volatile() {
            return state.volatile.remove(&copy.lsn);
        }
        state.backlog.take(copy, claims)
    }

    /// Takes out the volatile messages that expire at or before `now_ms`, of all lanes, and tells
    /// when the next one does.
    pub(super) fn expire_volatile(&mut self, now_ms: u64, expired: &mut Vec<Entry>) -> Option<u64> {
        let all = self.all.iter_mut();
        all.filter_map(|state| volatile::expire(&mut state.volatile, now_ms, expired))
            .min()
    }

    /// The oldest volatile message that waits here.
    pub(super) fn oldest_volatile(&self) -> Option<Lsn> {
        let oldest = |state: &LaneState| state.volatile.keys().next().copied();
        self.all.iter().filter_map(oldest).min()
    }

    /// Takes a volatile message out.
    pub(super) fn take_volatile(&mut self, lsn: Lsn) -> Option<Entry> {
        let mut all = self.all.iter_mut();
        all.find_map(|state| state.volatile.remove(&lsn))
    }

    /// Messages in memory that wait for a consumer.
    pub(super) fn ready(&self) -> usize {
        self.all
            .iter()
            .fold(0, |sum, state| sum.saturating_add(state.ready()))
    }

    /// Bytes of the stored messages in memory here.
    pub(super) fn kept_bytes(&self) -> usize {
        let all = self.all.iter().map(|state| state.backlog.kept_bytes());
        all.fold(0, usize::saturating_add)
    }

    /// The lane whose turn it is.
    pub(super) fn highest(&self) -> Option<Lane> {
        let first = self.all.iter().find(|state| state.ready() > 0)?;
        Some(first.lane)
    }

    /// Something could be delivered: the lane whose turn it is does not wait for its mark.
    pub(super) fn is_ready(&self) -> bool {
        let mut all = self.all.iter();
        let first = all.find(|state| state.ready() > 0);
        first.is_some_and(|state| state.is_open() || !state.volatile.is_empty())
    }

    /// The next message.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let memory_first = self.memory_first;
        let mut all = self.all.iter_mut();
        all.find(|state| state.ready() > 0)?.pop(memory_first)
    }

    /// Whether what is in memory goes before what is stored.
    pub(super) fn set_memory_first(&mut self, memory_first: bool) {
        self.memory_first = memory_first;
    }

    /// What waits in memory alone, in LSN order from beyond `after`; of one lane or of all.
    pub(super) fn volatile(
        &self,
        lane: Option<Lane>,
        after: Lsn,
        count: usize,
    ) -> impl Iterator<Item = &Entry> {
        let asked = self.all.iter();
        let asked = asked.filter(move |state| lane.is_none_or(|lane| lane == state.lane));
        let beyond = (Bound::Excluded(after), Bound::Unbounded);
        asked
            .flat_map(move |state| state.volatile.range(beyond).take(count))
            .map(|(_, entry)| entry)
    }

    pub(super) fn pull(&mut self) {
        for state in &mut self.all {
            state.backlog.pull();
        }
    }

    pub(super) fn trim(&mut self) {
        for state in &mut self.all {
            state.backlog.trim();
        }
    }

    /// The raises that are due: all when a delivery waits or a unit is there for them to ride with.
    pub(super) fn raise(
        &mut self,
        dest: DestId,
        has_credit: bool,
        rides: bool,
        upto: Lsn,
        records: &mut Vec<Draft>,
    ) {
        let mut goes = rides;
        for state in &self.all {
            goes |= matches!(state.wants_raise(has_credit, upto), Some((true, _)));
        }
        if !goes {
            return;
        }
        for state in &mut self.all {
            if let Some((_, ahead)) = state.wants_raise(has_credit, upto) {
                state.raise = Raise::Submitted;
                state.used = false;
                records.push(Draft::Delivered {
                    dest,
                    lane: state.lane,
                    ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
                });
            }
        }
    }

    /// Asks for what lies in the store alone.
    pub(super) fn refill(&mut self, claims: &mut Claims, effects: &mut Vec<DestinationEffect>) {
        for state in &mut self.all {
            if let Some(wanted) = state.backlog.want() {
                let lane = state.lane;
                effects.push(DestinationEffect::Fetch {
                    tag: claims.ask(Question::Lane(lane)),
                    seek: Seek::Lane {
                        lane,
                        after: wanted.after,
                    },
                    count: wanted.count,
                    bytes: wanted.bytes,
                });
            }
        }
    }

    pub(super) fn assert_invariants(&self) {
        for state in &self.all {
            state.backlog.assert_invariants();
        }
    }

    #[cfg(test)]
    pub(super) fn of(&self, lane: Lane) -> Option<&LaneState> {
        self.get(lane)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneState> {
        self.all.iter()
    }
}
