//! The turn of the consumers with a selector in each step: they look on, take what they find, and are
//! sent what is marked. See [`super::picky`].

use std::sync::Arc;

use super::backlog::Seen;
use super::claims::Question;
use super::deliver::judge;
use super::groups::Bucket;
use super::picky::{FOUND_BYTES, FOUND_MESSAGES, Going, Picker};
use super::timers::Place;
use super::{DestinationEffect, DestinationMachine, Now};
use crate::machines::delivery::ConsumerKey;
use crate::proto::message;
use crate::storage::api::{Entry, Fetched, Lane, Seek};

/// How far a consumer has seen what there is.
#[derive(Clone, Copy, Debug)]
enum Sight {
    All,
    /// Down to this lane, which it has found enough in for now.
    Enough(Lane),
    /// Down to this lane, of which the store has more to say.
    Waits(Lane),
}

impl Sight {
    /// Nothing that goes before a message of this lane is unseen.
    fn reaches(self, lane: Lane) -> bool {
        match self {
            Self::All => true,
            Self::Enough(lowest) | Self::Waits(lowest) => lane >= lowest,
        }
    }
}

/// What a consumer may take next.
enum Candidate {
    Due(Place),
    InLane(Lane),
}

impl DestinationMachine {
    /// A consumer picks no more: what was on its way to it goes back. Nothing of it was delivered.
    pub(super) fn end_picking(&mut self, key: ConsumerKey) {
        for Going { entry, .. } in self.pickers.detach(key) {
            self.consumers.unreserve(key, entry.message.len());
            self.put_back(entry);
        }
    }

    /// The store's answer about what is due; nobody's business stays in the store.
    pub(super) fn found_due(&mut self, fetched: Fetched) {
        let (takes_all, alone) = (self.consumers.takes_all(), self.consumers.alone());
        self.timers.found_due(fetched, &mut self.claims, |entry| {
            takes_all || self.pickers.is_wanted(entry, alone)
        });
    }

    /// The store's answer to a question of a consumer's.
    pub(super) fn found_matching(&mut self, key: ConsumerKey, fetched: Fetched) {
        let mut all = self.pickers.all.iter_mut();
        let Some(picker) = all.find(|picker| picker.key == key) else {
            return;
        };
        let Some((lane, after)) = picker.asked.take() else {
            return;
        };
        let look = picker.look(lane);
        for entry in fetched.entries {
            if self.lanes.is_free(lane, entry.lsn, &self.claims) {
                look.insert(entry);
            }
        }
        if look.upto == after {
            look.upto = fetched.scanned.min(self.lanes.end(lane)).max(after);
        }
    }

    /// Gives those with a selector what they take.
    pub(super) fn pick(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        let fresh = self.timers.take_fresh();
        let freed = self.claims.take_freed();
        if self.pickers.all.is_empty() {
            return;
        }
        for look in self.pickers.all.iter_mut().flat_map(|one| &mut one.looks) {
            for lsn in &freed {
                look.drop(*lsn);
            }
            look.clean(&self.lanes, &self.claims);
        }
        for entry in fresh.into_iter().filter_map(|place| self.timers.at(place)) {
            self.pickers.offer_due(entry);
        }
        self.forget_due();
        self.serve_aside(now, effects);
        loop {
            self.share_out(now, effects);
            if !self.send_off(now, effects) {
                return;
            }
        }
    }

    /// Forgets due ones that others have taken, now and then.
    fn forget_due(&mut self) {
        let many = self.timers.ready().saturating_mul(2).saturating_add(64);
        for picker in &mut self.pickers.all {
            if picker.due.len() > many {
                picker
                    .due
                    .retain(|place, _| self.timers.at(*place).is_some());
            }
        }
    }

    /// One after the other takes a message, until nobody can.
    fn share_out(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        loop {
            let (mut waiting, mut served) = (Vec::new(), Vec::new());
            for mut picker in std::mem::take(&mut self.pickers.all) {
                if self.pick_for(now, &mut picker, effects) {
                    served.push(picker);
                } else {
                    waiting.push(picker);
                }
            }
            let is_over = served.is_empty();
            waiting.append(&mut served);
            self.pickers.all = waiting;
            if is_over {
                return;
            }
        }
    }

    /// Looks for a consumer, and takes one message, if it can.
    fn pick_for(
        &mut self,
        now: Now,
        picker: &mut Picker,
        effects: &mut Vec<DestinationEffect>,
    ) -> bool {
        let key = picker.key;
        if self.consumers.alone().is_some_and(|alone| alone != key) {
            return false;
        }
        let can_take = self.consumers.can_take(key) && !self.groups.waits_for(key);
        loop {
            let sight = self.look_for(picker, effects);
            if !can_take {
                return false;
            }
            if self.take_for(now, picker, sight) {
                return true;
            }
            match sight {
                Sight::All | Sight::Waits(_) => return false,
                // Others have taken it: there is room to look on.
                Sight::Enough(_) => {}
            }
        }
    }

    /// Looks on, from the highest lane down to the first that has to be asked for or has enough.
    fn look_for(&mut self, picker: &mut Picker, effects: &mut Vec<DestinationEffect>) -> Sight {
        let judge = Arc::clone(&picker.judge);
        let memory_first = self.volatile.has_spilled();
        let mut at = 0;
        while let Some(lane) = self.lanes.nth(at) {
            at += 1;
            let is_asking = picker.asked.is_some();
            let is_asked = picker.asked.is_some_and(|(asked, _)| asked == lane);
            let look = picker.look(lane);
            let (upto, volatile_upto) = (look.upto, look.volatile_upto);
            let mut see = |entry: &Entry| {
                if !judge.selector.matches_bytes(&entry.message) {
                    return true;
                }
                let has_room = look.has_room(entry, memory_first);
                if has_room {
                    look.insert(entry.clone());
                }
                has_room
            };
            let volatile = self.lanes.look_at_volatile(lane, volatile_upto, &mut see);
            // What the store was asked about is its to say.
            let stored = if is_asked {
                (upto, Seen::Gap)
            } else {
                self.lanes.look(lane, upto, &mut see)
            };
            let is_unseen = memory_first && matches!(volatile.1, Seen::Enough);
            look.has_seen(stored.0, volatile.0, is_unseen);
            match (volatile.1, stored.1) {
                (Seen::All, Seen::All) => {}
                (Seen::Enough, _) | (_, Seen::Enough) => return Sight::Enough(lane),
                (_, Seen::Gap) | (Seen::Gap, _) if look.found.len() > FOUND_MESSAGES / 2 => {
                    return Sight::Enough(lane);
                }
                (_, Seen::Gap) | (Seen::Gap, _) => {
                    if !is_asking {
                        picker.asked = Some((lane, stored.0));
                        effects.push(DestinationEffect::Fetch {
                            tag: self.claims.ask(Question::Matching(picker.key)),
                            seek: Seek::Matching {
                                lane,
                                after: stored.0,
                                filter: judge,
                            },
                            count: FOUND_MESSAGES,
                            bytes: FOUND_BYTES,
                        });
                    }
                    return Sight::Waits(lane);
                }
            }
        }
        Sight::All
    }

    /// Takes the first message that is still to be had.
    fn take_for(&mut self, now: Now, picker: &mut Picker, sight: Sight) -> bool {
        let limit = self.redelivery_limit();
        let memory_first = self.volatile.has_spilled();
        while let Some(candidate) = next_candidate(picker, sight) {
            let (entry, waits) = match candidate {
                Candidate::Due(place) => {
                    picker.due.remove(&place);
                    let Some(copy) = self.timers.at(place).cloned() else {
                        continue;
                    };
                    if !self.is_for(picker.key, &copy) {
                        picker.missed_due = true;
                        continue;
                    }
                    self.timers.take(place);
                    (copy, false)
                }
                Candidate::InLane(lane) => {
                    let Some(copy) = picker.look(lane).next(memory_first) else {
                        // Something is to be looked at first.
                        return false;
                    };
                    let lsn = copy.lsn;
                    if !self.lanes.is_free(lane, lsn, &self.claims) {
                        continue;
                    }
                    if !self.is_for(picker.key, &copy) {
                        picker.look(lane).miss(lsn);
                        continue;
                    }
                    let Some(entry) = self.lanes.take(lane, copy, &mut self.claims) else {
                        continue;
                    };
                    let is_covered = entry.marked || lsn <= self.lanes.mark(lane);
                    (entry, !is_covered && !lsn.is_volatile())
                }
            };
            if let Some(reason) = judge(&entry, now, limit) {
                self.leave(now, entry, reason);
                continue;
            }
            if waits {
                self.pickers.unmarked.push(entry.lsn);
            }
            self.consumers.reserve(picker.key, entry.message.len());
            picker.going.push_back(Going { entry, waits });
            return true;
        }
        false
    }

    /// The message has no group, or one that the consumer owns, from now on if nobody does.
    fn is_for(&mut self, key: ConsumerKey, entry: &Entry) -> bool {
        if self.consumers.is_exclusive() {
            return true;
        }
        message::group(&entry.message).is_none_or(|group| {
            let bucket = Bucket::of(group);
            self.groups.owner(bucket, key, &entry.message) == key
        })
    }

    /// Delivers what was taken and is marked. Whether some of it is not delivered any more, so that
    /// there is room for others.
    fn send_off(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) -> bool {
        let limit = self.redelivery_limit();
        let mut has_room = false;
        for at in 0..self.pickers.all.len() {
            let key = self.pickers.all[at].key;
            while let Some(entry) = self.pickers.all[at].next_ready() {
                self.consumers.unreserve(key, entry.message.len());
                if let Some(reason) = judge(&entry, now, limit) {
                    self.leave(now, entry, reason);
                    has_room = true;
                } else {
                    self.give(key, entry, effects);
                }
            }
        }
        has_room
    }
}

/// What goes first of what the consumer has found. What is due goes by its priority, before what waits
/// in the lane of that priority.
fn next_candidate(picker: &Picker, sight: Sight) -> Option<Candidate> {
    let found = picker.looks.iter().filter(|look| !look.found.is_empty());
    let lane = found.map(|look| look.lane).max();
    let lane = lane.filter(|lane| sight.reaches(*lane));
    let due = picker.due.first_key_value();
    let due = due.filter(|(_, priority)| sight.reaches(**priority));
    match (due, lane) {
        (Some((place, priority)), lane) if lane.is_none_or(|lane| lane <= *priority) => {
            Some(Candidate::Due(*place))
        }
        (_, Some(lane)) => Some(Candidate::InLane(lane)),
        (_, None) => None,
    }
}
