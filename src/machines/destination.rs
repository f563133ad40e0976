//! Who gets which message of one destination, and when a record has to be written for it.
//!
//! A message is in one of these places:
//!
//! | place | what is known here |
//! |---|---|
//! | a lane's window | next to be delivered, in memory, everything owed up to the lane's cursor |
//! | (store only) | between the cursor and the recent ones: fetched when the window is half empty |
//! | a lane's recent ones | the newest, in memory, so that a short backlog is never read back |
//! | unsettled | with a consumer; comes back to its place when it is released or the consumer goes |
//! | held | as unsettled, by a transaction that is being committed |
//! | aside | waits for the owner of its group, for its redelivery, for its due time, or is dead |
//! | going | taken for a consumer with a selector, waits for its mark |
//! | volatile | in memory only, in its lane beside the stored ones |
//!
//! `account` is what bounds it, and `bounds` what it does there.
//!
//! `lanes` says what order is promised, `timers` what time does, `picky` how a selector finds its
//! messages, `groups`, `redelivery` and `volatile` what their names say; `claims` is why an old answer of
//! the store does no harm.
//!
//! Deliberately not known here: names, sessions' sockets, permits, clocks, and what the store does
//! with a unit. A confirm of a stored message goes from the store to the session by its ticket.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use self::account::{Account, Load, full_text};
use self::bounds::Shedding;
use self::claims::{Claims, Question};
use self::consumers::Consumers;
use self::groups::Groups;
use self::holds::Holds;
use self::lanes::Lanes;
use self::picky::Pickers;
use self::redelivery::Redelivery;
use self::timers::{Timers, is_delayed};
use crate::machines::delivery::{
    ConsumerKey, DestinationCommand, Outcome, RequestNumber, SessionEvent, SessionKey,
};
use crate::machines::duplicates;
use crate::machines::policy::DestinationPolicy;
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{
    Change, Draft, Entry, Fetched, Lane, SPACE_DESTINATION, Scope, Ticket, Times, Unit,
};
use crate::time::Moment;

pub mod account;
mod attach;
mod backlog;
mod bounds;
mod claims;
mod consumers;
mod deliver;
mod groups;
mod holds;
mod lanes;
mod memory;
mod pick;
mod picky;
mod redelivery;
mod removals;
mod rest;
mod timers;
mod vocabulary;
mod volatile;

pub use self::vocabulary::{
    Activation, DeadLetterQueue, DestinationConfig, DestinationEffect, DestinationFigures,
    DestinationInput, Now, Room, request_of, ticket,
};
pub use self::volatile::{VolatilePool, VolatileShare};

/// LSNs in one ack record: 32 KiB of them, so that a record stays within a chunk.
const ACK_LSNS_MAX: usize = 4096;
/// Counts in one record of failures, for the same reason.
const FAILED_MAX: usize = 2048;

/// Why a message is not taken while the store is almost full.
pub const REFUSED: &str = "the server's store is almost full, by its quota or by its disk: the message \
    was not stored; receive messages or free disk space, then send again";

/// A destination. See the module's comment.
#[derive(Debug)]
pub struct DestinationMachine {
    config: DestinationConfig,
    id: DestId,
    /// Goes with the first unit.
    definition: Option<Bytes>,
    name: String,
    policy: Option<Arc<DestinationPolicy>>,
    sends_refused: bool,
    /// The term is about to end: what comes back is nobody's failure.
    draining: bool,
    /// Every message is volatile, as long as there is memory.
    keeps_in_memory: bool,

    lanes: Lanes,
    consumers: Consumers,
    pickers: Pickers,
    groups: Groups,
    timers: Timers,
    redelivery: Redelivery,
    holds: Holds,
    volatile: Rc<VolatileShare>,
    claims: Claims,
    account: Rc<Account>,
    shedding: Shedding,

    /// The commit index as far as it is known.
    upto: Lsn,
    horizon: Lsn,
    /// Stored messages owed, by what is committed.
    stored: u64,
    /// Their bytes.
    stored_bytes: u64,
    figures: DestinationFigures,

    /// Messages of the present step for this destination, which nobody else has counted yet.
    admitted: Load,
    /// Units of the present step; empty between steps, as are the next ones.
    units: Vec<Unit>,
    /// Acks that nobody waits for.
    acks: Vec<Lsn>,
    /// Counts that rose.
    failed: Vec<(Lsn, u32)>,
}

impl DestinationMachine {
    /// A destination as this server's term begins.
    #[must_use]
    pub fn new(
        config: DestinationConfig,
        id: DestId,
        activation: Activation,
        pool: Rc<VolatilePool>,
    ) -> Self {
        Self::with_share(config, id, activation, VolatileShare::new(pool))
    }

    /// The same with a share of the memory for volatile messages that whoever sends to it asks, too.
    #[must_use]
    pub fn with_share(
        config: DestinationConfig,
        id: DestId,
        activation: Activation,
        volatile: Rc<VolatileShare>,
    ) -> Self {
        let counted = activation.counted.as_deref().copied().unwrap_or_default();
        Self {
            config,
            id,
            upto: activation.upto(),
            lanes: Lanes::new(config.idle, &activation),
            timers: Timers::new(&activation),
            stored: activation.depth(),
            stored_bytes: activation.bytes,
            definition: activation.definition,
            name: activation.name,
            policy: activation.policy,
            sends_refused: false,
            draining: false,
            keeps_in_memory: activation.volatile,
            consumers: Consumers::new(config.consumer_bytes_max),
            pickers: Pickers::new(counted.selector_reads),
            groups: Groups::default(),
            redelivery: Redelivery::default(),
            holds: Holds::default(),
            volatile,
            claims: Claims::default(),
            account: activation.account.unwrap_or_default(),
            shedding: Shedding::default(),
            horizon: activation.horizon,
            figures: counted,
            admitted: Load::default(),
            units: Vec::new(),
            acks: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Takes one input; appends what is to be done.
    pub fn step(
        &mut self,
        now: Now,
        input: DestinationInput,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let may_rest = matches!(input, DestinationInput::Unneeded);
        match input {
            DestinationInput::Commands { commands, upto } => {
                self.upto = self.upto.max(upto);
                self.shedding.look_again();
                for command in commands {
                    self.command(now, command, effects);
                }
            }
            DestinationInput::Committed { change, upto } => {
                self.shedding.look_again();
                self.committed(change, upto);
            }
            DestinationInput::Fetched(fetched) => self.fetched(now, fetched),
            DestinationInput::SendsRefused(refused) => self.sends_refused = refused,
            DestinationInput::Draining => self.draining = true,
            DestinationInput::DeadLetterFound(queue) => {
                self.redelivery.found(queue, now);
                if self.redelivery.queue.is_some() {
                    for (entry, reason) in std::mem::take(&mut self.redelivery.dead) {
                        self.leave(now, entry, reason);
                    }
                }
            }
            DestinationInput::Deadline | DestinationInput::Unneeded => {}
            DestinationInput::PolicyChanged(policy) => {
                self.policy = Some(policy);
                self.redelivery.forget_queue();
                self.judge_again(now);
            }
        }
        self.maintain(now, effects);
        self.admitted = Load::default();
        self.account.hold(self.held());
        self.assert_invariants();
        if may_rest
            && effects.is_empty()
            && let Some(activation) = self.rest()
        {
            effects.push(DestinationEffect::Rest(Box::new(activation)));
        }
    }

    /// When to come back with [`DestinationInput::Deadline`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let timers = self.timers.next_deadline();
        timers
            .into_iter()
            .chain(self.redelivery.next_deadline())
            .min()
    }

    /// Something of it is due or expires at some time: it is to be given a `Deadline` at once.
    #[must_use]
    pub fn has_times(&self) -> bool {
        self.timers.has_times()
    }

    /// Fetches under way, whose answers will still come.
    #[must_use]
    pub fn fetching(&self) -> usize {
        self.claims.open()
    }

    /// Bytes of the stored messages that are in memory here, but for delayed ones that are due; volatile
    /// ones have a bound of their own.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let aside = self.groups.waiting().1;
        self.lanes
            .kept_bytes()
            .saturating_add(self.consumers.unsettled_bytes())
            .saturating_add(aside)
            .saturating_add(self.redelivery.kept_bytes())
            .saturating_add(self.pickers.kept_bytes())
    }

    /// Figures for `status`.
    #[must_use]
    pub fn figures(&self) -> DestinationFigures {
        DestinationFigures {
            depth: self.stored.saturating_add(self.volatile.messages()),
            consumers: self.consumers.len(),
            unsettled: self.consumers.unsettled(),
            selector_reads: self.pickers.reads(),
            bytes: self.held().bytes,
            ..self.figures
        }
    }

    fn command(
        &mut self,
        now: Now,
        command: DestinationCommand,
        effects: &mut Vec<DestinationEffect>,
    ) {
        match command {
            DestinationCommand::Publish { session, messages } => {
                self.publish(session, messages, effects);
            }
            DestinationCommand::Attach {
                consumer,
                prefetch,
                traits,
            } => self.attach(consumer, prefetch, traits, effects),
            DestinationCommand::Detach { consumer } => self.detach(now, consumer),
            DestinationCommand::Settle {
                consumer,
                lsns,
                outcome,
                request,
            } => self.settle(now, consumer, lsns, outcome, request, effects),
            DestinationCommand::Prepare {
                transaction,
                settlements,
                puts,
            } => self.prepare(now, transaction, settlements, puts, effects),
            DestinationCommand::Finish {
                transaction,
                submitted,
            } => self.finish(now, transaction, submitted),
            DestinationCommand::Retire { consumer, keep } => self.retire(now, consumer, &keep),
            DestinationCommand::Remove {
                request,
                removals,
                definitions,
            } => self.remove(request, removals, definitions, effects),
            DestinationCommand::Look { asks } => self.claims.operator_asks(asks),
            DestinationCommand::Keep { messages } => self.keep_all(messages),
            DestinationCommand::Show {
                tag,
                lane,
                after,
                count,
            } => {
                let entries = self.look(lane, after, count);
                effects.push(DestinationEffect::Shown { tag, entries });
            }
        }
    }

    fn publish(
        &mut self,
        session: SessionKey,
        messages: Vec<(RequestNumber, Bytes)>,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let mut kept = Vec::new();
        self.units.reserve(messages.len());
        for (request, message) in messages {
            self.account.heard(Load::of(&message));
            if let Some(reason) = self.full_for_sends() {
                self.figures.refused = self.figures.refused.saturating_add(1);
                let event = SessionEvent::Refused { request, reason };
                effects.push(DestinationEffect::Answer { session, event });
                continue;
            }
            let Some(message) = self.keep_in_memory(message) else {
                kept.push(request);
                continue;
            };
            if self.sends_refused {
                let reason = REFUSED.to_owned();
                let event = SessionEvent::Refused { request, reason };
                effects.push(DestinationEffect::Answer { session, event });
                continue;
            }
            let lane = Lane::of(&message);
            if lane != Lane::DELAYED {
                self.lanes.expect(lane);
            }
            self.admitted = self.admitted.plus(Load::of(&message));
            if self.is_volatile(&message) {
                self.volatile.spill();
            }
            let records = duplicates::send(Scope::queue(self.id), vec![self.id], message);
            self.submit(ticket(session, request), records);
        }
        if !kept.is_empty() {
            let event = SessionEvent::Committed { requests: kept };
            effects.push(DestinationEffect::Answer { session, event });
        }
    }

    /// A consumer is done with a message; the record, if it needs one, is somebody else's matter.
    fn accepted(&mut self, entry: &Entry) {
        self.figures.accepted = self.figures.accepted.saturating_add(1);
        if entry.lsn.is_volatile() {
            self.volatile.give(entry.message.len());
            self.claims.drop_volatile(entry.lsn);
        }
    }

    fn settle(
        &mut self,
        now: Now,
        key: ConsumerKey,
        mut lsns: Vec<Lsn>,
        outcome: Outcome,
        request: RequestNumber,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let mut released = Vec::new();
        let mut accepted = 0u64;
        let volatile = &self.volatile;
        let claims = &mut self.claims;
        self.consumers
            .settle(key, &mut lsns, |entry| match outcome {
                Outcome::Accepted => {
                    accepted = accepted.saturating_add(1);
                    if entry.lsn.is_volatile() {
                        volatile.give(entry.message.len());
                        claims.drop_volatile(entry.lsn);
                    }
                    !entry.lsn.is_volatile()
                }
                Outcome::Released => {
                    released.push(entry);
                    false
                }
            });
        self.figures.accepted = self.figures.accepted.saturating_add(accepted);
        for entry in released {
            self.came_back(now, entry);
        }
        if request.0 == 0 {
            self.acks.append(&mut lsns);
        } else if lsns.is_empty() {
            effects.push(DestinationEffect::Answer {
                session: key.session,
                event: SessionEvent::Committed {
                    requests: vec![request],
                },
            });
        } else {
            let records = self.ack_records(lsns);
            self.submit(ticket(key.session, request), records);
        }
    }

    /// To its old place.
    fn put_back(&mut self, entry: Entry) {
        if is_delayed(&entry) {
            self.timers.put_back(entry);
        } else {
            self.pickers.offer(&entry);
            self.lanes.put_back(entry.lane(), entry);
        }
    }

    fn ack_records(&self, mut lsns: Vec<Lsn>) -> Vec<Draft> {
        let dest = self.id;
        if lsns.len() <= ACK_LSNS_MAX {
            return vec![Draft::Ack { dest, lsns }];
        }
        lsns.sort_unstable();
        lsns.chunks(ACK_LSNS_MAX)
            .map(|part| Draft::Ack {
                dest,
                lsns: part.to_vec(),
            })
            .collect()
    }

    /// Queues a unit for the end of the step, the first with the definition before it.
    fn submit(&mut self, ticket: Ticket, mut records: Vec<Draft>) {
        for record in &records {
            if let Draft::Ack { lsns, .. } = record {
                self.claims.submitted(lsns.clone());
            }
        }
        if let Some(value) = self.definition.take() {
            records.insert(0, define(self.id, value));
        }
        self.units.push(Unit { ticket, records });
    }

    /// Records that nobody waits for go with the last unit of the step.
    fn ride(&mut self, records: Vec<Draft>) {
        if records.is_empty() {
            return;
        }
        match self.units.last_mut() {
            Some(unit) => unit.records.extend(records),
            None => self.submit(Ticket::default(), records),
        }
    }

    fn committed(&mut self, change: Change, upto: Lsn) {
        self.upto = self.upto.max(upto);
        if upto > self.horizon {
            // What an earlier term did is in the activation's figures.
            self.claims.settled(change.settled);
            self.stored = self.stored.saturating_sub(u64::from(change.settled));
        }
        self.stored_bytes = change.bytes.unwrap_or(self.stored_bytes);
        self.shedding.look_again();
        for (lane, mark) in change.marks {
            if lane != Lane::DELAYED {
                self.lanes.marked(lane, mark);
            }
        }
        self.timers.marked(&change.marked);
        self.pickers.marked(&change.marked);
        let mut arrived = 0u64;
        self.count_spilled(&change.entries);
        for entry in change.entries {
            let times = Times::of(&entry.message);
            let lsn = entry.lsn;
            if lsn > self.horizon {
                self.account.arrived(Load::of(&entry.message));
            }
            let is_new = match times.due_ms {
                Some(due) if lsn > self.horizon => {
                    self.timers.arrive(due, lsn);
                    true
                }
                Some(_) => false,
                None => self.lanes.arrive(times.lane, entry, &self.claims),
            };
            if is_new {
                arrived = arrived.saturating_add(1);
                if let Some(at) = times.expiry_ms {
                    self.timers.expires(at);
                }
            }
        }
        self.lanes.arrived();
        self.figures.arrived = self.figures.arrived.saturating_add(arrived);
        self.stored = self.stored.saturating_add(arrived);
    }

    fn fetched(&mut self, now: Now, fetched: Fetched) {
        match self.claims.answered(fetched.tag) {
            Some(Question::Lane(lane)) => {
                let Fetched {
                    entries, scanned, ..
                } = fetched;
                self.lanes.fetched(lane, entries, scanned, &self.claims);
            }
            Some(Question::Due) => self.found_due(fetched),
            Some(Question::Matching(consumer)) => self.found_matching(consumer, fetched),
            Some(Question::Expired) => self.found_expired(now, fetched),
            Some(Question::Oldest) => self.found_oldest(now, fetched),
            // Operators' answers do not come here.
            Some(Question::Operator) | None => {}
        }
        self.claims.forget();
    }

    fn assert_invariants(&self) {
        assert!(
            self.units.is_empty() && self.acks.is_empty() && self.failed.is_empty(),
            "units stay behind a step"
        );
        self.lanes.assert_invariants();
    }
}

/// The record that defines a destination.
fn define(id: DestId, value: Bytes) -> Draft {
    Draft::Kv {
        space: SPACE_DESTINATION,
        key: Bytes::copy_from_slice(&id.0.to_be_bytes()),
        value,
    }
}

#[cfg(test)]
mod tests;
