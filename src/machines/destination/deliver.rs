//! What is due at the end of each step: deliveries, records, questions, alarms.

use super::groups::Bucket;
use super::redelivery::Reason;
use super::{ACK_LSNS_MAX, DestinationEffect, DestinationMachine, FAILED_MAX, Lanes, Now, Timers};
use crate::machines::delivery::{ConsumerKey, Delivery};
use crate::proto::message;
use crate::storage::api::{Draft, Entry, Fetched, Lane, Ticket, Times};

impl DestinationMachine {
    pub(super) fn maintain(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        self.volatile.settle(self.stored, self.keeps_in_memory);
        self.lanes.set_memory_first(self.volatile.has_spilled());
        while let Some(entry) = self.redelivery.take_rested(now) {
            self.put_back(entry);
        }
        self.timers.wake_volatile(now);
        self.mind_expiry(now, effects);
        self.lanes.pull();
        self.pick(now, effects);
        self.deliver(now, effects);
        self.lanes.trim();
        self.mind_bounds(now, effects);
        self.coalesce();
        self.raise_marks();
        if !self.units.is_empty() {
            effects.push(DestinationEffect::Submit(std::mem::take(&mut self.units)));
        }
        if !self.consumers.is_empty() {
            let takes_all = self.consumers.takes_all();
            if takes_all {
                self.lanes.refill(&mut self.claims, effects);
            }
            let room = self.config.window;
            let wanted = if takes_all {
                usize::MAX
            } else {
                let alone = self.consumers.alone();
                self.timers.thin_out(room, &mut self.claims, |entry| {
                    self.pickers.is_wanted(entry, alone)
                });
                self.pickers.due(alone)
            };
            self.timers
                .seek_due(now, room, wanted, &mut self.claims, effects);
        }
        if let Some(policy) = &self.policy
            && let Some(name) = &policy.dead_letter
            && self.redelivery.asks(now)
        {
            effects.push(DestinationEffect::FindDeadLetter(name.clone()));
        }
        self.timers
            .arm(now, !self.consumers.is_empty(), &self.claims);
    }

    /// Gives each consumer in turn its share of what is ready.
    fn deliver(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        self.serve_aside(now, effects);
        while is_ready(&self.timers, &self.lanes) && !self.is_held_up() {
            let ready = self.lanes.ready().saturating_add(self.timers.ready());
            let share = ready.div_ceil(self.consumers.sharers());
            let Some(key) = self.consumers.turn() else {
                break;
            };
            self.serve(now, key, share, effects);
            self.lanes.pull();
        }
    }

    fn serve(
        &mut self,
        now: Now,
        key: ConsumerKey,
        share: usize,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let is_alone = self.consumers.is_exclusive();
        let bytes_max = self.consumers.bytes_max();
        let limit = self.redelivery_limit();
        let consumer = self
            .consumers
            .get_mut(key)
            .expect("the ring holds only consumers that are attached: detach takes them out");
        let mut deliveries = Vec::with_capacity(share.min(consumer.credit()));
        let mut gone = Vec::new();
        let mut for_owner = None;
        while deliveries.len() < share
            && consumer.has_credit(bytes_max)
            && let Some(entry) = next_entry(&mut self.timers, &mut self.lanes)
        {
            if let Some(reason) = judge(&entry, now, limit) {
                gone.push((entry, reason));
                continue;
            }
            if !is_alone && let Some(group) = message::group(&entry.message) {
                let bucket = Bucket::of(group);
                let owner = self.groups.owner(bucket, key, &entry.message);
                if owner != key || self.groups.waits_for(key) {
                    for_owner = Some((owner, entry));
                    break;
                }
            }
            deliveries.push(Delivery::from(&entry));
            consumer.hold(entry);
        }
        let bytes = deliveries.iter().map(|delivery| delivery.message.len());
        self.consumers.served(key, deliveries.len(), bytes.sum());
        if !deliveries.is_empty() {
            effects.push(DestinationEffect::Deliver {
                consumer: key,
                deliveries,
            });
        }
        if let Some((owner, entry)) = for_owner {
            if self.consumers.can_take(owner) && !self.groups.waits_for(owner) {
                self.give(owner, entry, effects);
            } else {
                self.claims.take(entry.lsn);
                self.groups.set_aside(owner, entry);
            }
        }
        for (entry, reason) in gone {
            self.leave(now, entry, reason);
        }
    }

    /// What waited for the owner of its group goes first.
    pub(super) fn serve_aside(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        let limit = self.redelivery_limit();
        while self.groups.waiting().0 > 0
            && let Some((owner, entry)) = self.groups.next(|key| self.consumers.can_take(key))
        {
            match judge(&entry, now, limit) {
                Some(reason) => self.leave(now, entry, reason),
                None => self.give(owner, entry, effects),
            }
        }
    }

    pub(super) fn redelivery_limit(&self) -> Option<u32> {
        let policy = self.policy.as_ref();
        policy.and_then(|policy| policy.redelivery_limit)
    }

    /// Gives one message to a consumer out of its turn.
    pub(super) fn give(
        &mut self,
        consumer: ConsumerKey,
        entry: Entry,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let delivery = Delivery::from(&entry);
        self.consumers.give(consumer, entry);
        if let Some(DestinationEffect::Deliver {
            consumer: last,
            deliveries,
        }) = effects.last_mut()
            && *last == consumer
        {
            deliveries.push(delivery);
            return;
        }
        effects.push(DestinationEffect::Deliver {
            consumer,
            deliveries: vec![delivery],
        });
    }

    /// As much waits aside as may: nothing more is taken out of the lanes.
    fn is_held_up(&self) -> bool {
        let others = self.groups.waiting();
        self.redelivery.is_full(others, self.config.window)
    }

    /// Expired messages are looked for, in memory and in the store.
    fn mind_expiry(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        if !self.timers.is_expiry_due(now, &self.claims) {
            return;
        }
        let mut expired = Vec::new();
        let mut next = None;
        if self.volatile.messages() > 0 {
            let lanes = self.lanes.expire_volatile(now.wall_ms, &mut expired);
            let timers = self.timers.expire_volatile(now.wall_ms, &mut expired);
            next = lanes.into_iter().chain(timers).min();
        }
        for entry in expired {
            self.leave(now, entry, Reason::Expired);
        }
        let seeks = self.stored > 0;
        self.timers
            .seek_expired(now, next, seeks, &mut self.claims, effects);
    }

    pub(super) fn found_expired(&mut self, now: Now, fetched: Fetched) {
        self.timers.found_expired(&fetched, now);
        let acknowledged = self.claims.acknowledged();
        for entry in fetched.entries {
            let lsn = entry.lsn;
            if acknowledged.contains(&lsn) || self.consumers.holds(lsn) || self.holds.contains(lsn)
            {
                continue;
            }
            let times = Times::of(&entry.message);
            let known = match times.due_ms {
                Some(due) => self.timers.remove(lsn, due),
                None => self.lanes.remove(times.lane, lsn),
            };
            if known.is_none() && self.claims.is_taken(lsn) {
                // It waits aside; it is judged when its turn comes.
                continue;
            }
            self.claims.take(lsn);
            self.leave(now, known.unwrap_or(entry), Reason::Expired);
        }
    }

    /// Records of the step that nobody waits for.
    pub(super) fn coalesce(&mut self) {
        let dest = self.id;
        if !self.acks.is_empty() {
            let lsns = std::mem::take(&mut self.acks);
            let records = self.ack_records(lsns);
            self.submit(Ticket::default(), records);
        }
        let mut records = Vec::new();
        for part in self.failed.chunks(FAILED_MAX) {
            let counts = part.to_vec();
            records.push(Draft::Failed { dest, counts });
        }
        self.failed.clear();
        let mut unmarked = self.timers.take_unmarked();
        unmarked.append(&mut self.pickers.take_unmarked());
        for part in unmarked.chunks(ACK_LSNS_MAX) {
            let lsns = part.to_vec();
            records.push(Draft::DeliveredEach { dest, lsns });
        }
        self.ride(records);
    }

    fn raise_marks(&mut self) {
        if !self.consumers.takes_all() {
            return;
        }
        let mut records = Vec::new();
        let rides = !self.units.is_empty();
        let has_credit = self.consumers.has_credit();
        self.lanes
            .raise(self.id, has_credit, rides, self.upto, &mut records);
        self.ride(records);
    }
}

/// Why a message is not to be delivered, if there is a reason.
pub(super) fn judge(entry: &Entry, now: Now, limit: Option<u32>) -> Option<Reason> {
    let expiry = Times::of(&entry.message).expiry_ms;
    if expiry.is_some_and(|at| at <= now.wall_ms) {
        return Some(Reason::Expired);
    }
    limit
        .is_some_and(|limit| entry.failures > limit)
        .then_some(Reason::TooOften)
}

/// What is due takes its turn by its priority, before what waits in the lane of that priority.
fn due_goes_first(timers: &Timers, lanes: &Lanes) -> bool {
    timers.next_priority().is_some_and(|priority| {
        lanes
            .highest()
            .is_none_or(|highest| highest <= Lane(priority))
    })
}

fn is_ready(timers: &Timers, lanes: &Lanes) -> bool {
    (timers.ready() > 0 && due_goes_first(timers, lanes)) || lanes.is_ready()
}

fn next_entry(timers: &mut Timers, lanes: &mut Lanes) -> Option<Entry> {
    if timers.ready() > 0 && due_goes_first(timers, lanes) {
        timers.pop()
    } else {
        lanes.pop()
    }
}
