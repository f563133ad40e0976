//! Who gets which message of one queue, and when a record has to be written for it.
//!
//! A message is in one of four places, and in LSN order within each:
//!
//! | place | what is known here |
//! |---|---|
//! | window | next to be delivered, in memory, everything owed up to the cursor |
//! | (store only) | between the cursor and `recent_after`: fetched when the window is half empty |
//! | recent | the newest ones, in memory, so that a short backlog is never read back |
//! | unsettled | with a consumer; comes back to `returned` when it is released or the consumer goes |
//!
//! The delivery mark (engine 6.6, 9): nothing beyond it is delivered; raising it is a record, which
//! rides with another unit where one is to be had and goes alone when a delivery waits for it.
//!
//! Deliberately not known here: names, sessions' sockets, permits, time, and what the store does
//! with a unit. A confirm of a stored message goes from the store to the session by its ticket.

use bytes::Bytes;

use self::backlog::Backlog;
use self::consumers::Consumers;
use self::holds::Holds;
use self::removals::Removals;
use crate::machines::delivery::{
    ConsumerKey, Delivery, DestinationCommand, Outcome, RequestNumber, SessionEvent, SessionKey,
    Share, TransactionKey,
};
use crate::machines::duplicates;
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{Draft, Entry, Lane, SPACE_DESTINATION, Scope, Ticket, Unit};

mod backlog;
mod consumers;
mod holds;
mod removals;

/// LSNs in one ack record: 32 KiB of them, so that a record stays within a chunk.
const ACK_LSNS_MAX: usize = 4096;
/// Bounds of how far a mark reaches beyond its record, in LSNs.
const AHEAD_MIN: u64 = 1024;
const AHEAD_MAX: u64 = 1 << 20;
/// Own messages that one mark is meant to last for.
const MARK_MESSAGES: u64 = 1024;

/// Why a message is not taken while the store is almost full.
pub const REFUSED: &str = "the server's store is almost full, by its quota or by its disk: the message \
    was not stored; receive messages or free disk space, then send again";

/// Memory that one destination may use for messages.
#[derive(Clone, Copy, Debug)]
pub struct DestinationConfig {
    /// While there are consumers: bound of the window, and again of `recent`.
    pub window: Room,
    /// The same while there are none.
    pub idle: Room,
    /// Unsettled bytes that one consumer may hold, besides its prefetch count. One message is
    /// always possible.
    pub consumer_bytes_max: usize,
}

/// A bound on kept messages.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// At most this many, at least 1.
    pub messages: usize,
    /// At most so many bytes of bodies; one message is always possible.
    pub bytes: usize,
}

impl Default for DestinationConfig {
    fn default() -> Self {
        Self {
            window: Room {
                messages: 4096,
                bytes: 8 << 20,
            },
            idle: Room {
                messages: 64,
                bytes: 64 << 10,
            },
            consumer_bytes_max: 64 << 20,
        }
    }
}

/// What the store knew of a destination when this server began to serve.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// The definition, if the store does not have it yet: written before anything else.
    pub definition: Option<Bytes>,
    /// Messages owed.
    pub depth: u64,
    /// The newest of them, or zero.
    pub tail: Lsn,
    /// The delivery mark.
    pub mark: Lsn,
    /// The end of the log then. What comes later has not been delivered by an earlier active.
    pub horizon: Lsn,
}

/// Facts for the machine.
#[derive(Debug)]
pub enum DestinationInput {
    /// Commands of sessions, in order.
    Commands {
        /// What they want.
        commands: Vec<DestinationCommand>,
        /// The commit index as far as it is known.
        upto: Lsn,
    },
    /// The store has committed something of this destination on the whole in-sync set.
    Committed {
        /// New messages, in LSN order.
        entries: Vec<Entry>,
        /// The delivery mark, if it rose.
        mark: Option<Lsn>,
    },
    /// Answer to [`DestinationEffect::Fetch`].
    Fetched {
        /// In LSN order.
        entries: Vec<Entry>,
        /// Up to here nothing more is owed than `entries`.
        scanned: Lsn,
    },
    /// The store refuses new messages (true) or takes them again (false).
    SendsRefused(bool),
}

/// What the shell is to do, in order.
#[must_use]
#[derive(Debug)]
pub enum DestinationEffect {
    /// Hand these to the store, in order.
    Submit(Vec<Unit>),
    /// Hand these to a consumer.
    Deliver {
        /// To whom.
        consumer: ConsumerKey,
        /// In order.
        deliveries: Vec<Delivery>,
    },
    /// Tell a session.
    Answer {
        /// Whom.
        session: SessionKey,
        /// What.
        event: SessionEvent,
    },
    /// Ask the store for owed messages. One at a time.
    Fetch {
        /// The cursor.
        after: Lsn,
        /// At most.
        count: usize,
        /// About.
        bytes: usize,
    },
    /// Tell whoever commits the transaction. Units submitted before this come before its unit.
    Prepared {
        /// Which.
        transaction: TransactionKey,
        /// What this destination adds to its unit, or why there cannot be one.
        answer: Result<Share, String>,
    },
    /// Tell the operator what was taken out.
    Removed {
        /// Which batch.
        request: RequestNumber,
        /// In LSN order, or why nothing was.
        taken: Result<Vec<Lsn>, String>,
    },
}

/// Figures for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationFigures {
    /// Messages that are owed.
    pub depth: u64,
    /// Consumers attached.
    pub consumers: usize,
    /// Deliveries that are not settled.
    pub unsettled: usize,
    /// Messages that arrived since activation.
    pub arrived: u64,
    /// Messages that consumers accepted since activation.
    pub accepted: u64,
}

/// The ticket under which a request's unit is submitted.
#[must_use]
pub fn ticket(session: SessionKey, request: RequestNumber) -> Ticket {
    if request.0 == 0 {
        return Ticket::default();
    }
    Ticket(u64::from(session.0) << 32 | u64::from(request.0))
}

/// Whose request a ticket is; `None` when nobody waits.
#[must_use]
pub fn request_of(ticket: Ticket) -> Option<(SessionKey, RequestNumber)> {
    let session = u32::try_from(ticket.0 >> 32).ok()?;
    let request = u32::try_from(ticket.0 & u64::from(u32::MAX)).ok()?;
    (request != 0).then_some((SessionKey(session), RequestNumber(request)))
}

/// A raise of the delivery mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raise {
    /// None is on its way.
    Rests,
    /// Submitted, not committed.
    Submitted,
}

/// A queue. See the module's comment.
#[derive(Debug)]
pub struct DestinationMachine {
    config: DestinationConfig,
    id: DestId,
    /// Goes with the first unit.
    definition: Option<Bytes>,
    sends_refused: bool,

    backlog: Backlog,
    consumers: Consumers,
    holds: Holds,
    removals: Removals,

    mark: Lsn,
    raise: Raise,
    /// The highest LSN that was delivered.
    reached: Lsn,
    /// The commit index as far as commands told.
    upto: Lsn,
    /// LSNs from one own message to the next: moving average, times 16. Observed from `horizon` on.
    spacing_x16: u64,
    horizon: Lsn,

    figures: DestinationFigures,
    /// Units of the present step; empty between steps.
    units: Vec<Unit>,
    /// Acks of the present step that nobody waits for; empty between steps.
    acks: Vec<Lsn>,
}

impl DestinationMachine {
    /// A destination as this server's term begins.
    #[must_use]
    pub fn new(config: DestinationConfig, id: DestId, activation: Activation) -> Self {
        Self {
            config,
            id,
            backlog: Backlog::new(config.idle, &activation),
            definition: activation.definition,
            sends_refused: false,
            consumers: Consumers::new(config.consumer_bytes_max),
            holds: Holds::default(),
            removals: Removals::default(),
            mark: activation.mark,
            raise: Raise::Rests,
            reached: Lsn::ZERO,
            upto: activation.horizon,
            spacing_x16: 16,
            horizon: activation.horizon,
            figures: DestinationFigures {
                depth: activation.depth,
                ..DestinationFigures::default()
            },
            units: Vec::new(),
            acks: Vec::new(),
        }
    }

    /// Takes one input; appends what is to be done.
    pub fn step(&mut self, input: DestinationInput, effects: &mut Vec<DestinationEffect>) {
        match input {
            DestinationInput::Commands { commands, upto } => {
                self.upto = self.upto.max(upto);
                for command in commands {
                    self.command(command, effects);
                }
                self.coalesce_acks();
            }
            DestinationInput::Committed { entries, mark } => self.committed(entries, mark),
            DestinationInput::Fetched { entries, scanned } => {
                let entries = self.removals.fetched(entries);
                self.backlog.fetched(entries, scanned);
            }
            DestinationInput::SendsRefused(refused) => self.sends_refused = refused,
        }
        self.maintain(effects);
        self.assert_invariants();
    }

    /// Whether a fetch is under way, whose answer will still come.
    #[must_use]
    pub fn is_fetching(&self) -> bool {
        self.backlog.is_fetching()
    }

    /// Figures for `status`.
    #[must_use]
    pub fn figures(&self) -> DestinationFigures {
        DestinationFigures {
            consumers: self.consumers.len(),
            unsettled: self.consumers.unsettled(),
            ..self.figures
        }
    }

    fn command(&mut self, command: DestinationCommand, effects: &mut Vec<DestinationEffect>) {
        match command {
            DestinationCommand::Publish { session, messages } => {
                self.publish(session, messages, effects);
            }
            DestinationCommand::Attach { consumer, prefetch } => {
                self.attach(consumer, prefetch);
                effects.push(DestinationEffect::Answer {
                    session: consumer.session,
                    event: SessionEvent::Attached {
                        consumer: consumer.number,
                    },
                });
            }
            DestinationCommand::Detach { consumer } => self.detach(consumer),
            DestinationCommand::Settle {
                consumer,
                lsns,
                outcome,
                request,
            } => self.settle(consumer, lsns, outcome, request, effects),
            DestinationCommand::Prepare {
                transaction,
                settlements,
                puts,
            } => self.prepare(transaction, settlements, puts, effects),
            DestinationCommand::Finish {
                transaction,
                submitted,
            } => self.finish(transaction, submitted),
            DestinationCommand::Retire { consumer, keep } => {
                self.consumers.retire(consumer, &keep, &mut self.backlog);
            }
            DestinationCommand::Remove {
                request,
                removals,
                definitions,
            } => self.remove(request, removals, definitions, effects),
            DestinationCommand::Removed { request } => {
                self.removals.committed(request, self.backlog.is_fetching());
            }
        }
    }

    fn publish(
        &mut self,
        session: SessionKey,
        messages: Vec<(RequestNumber, Bytes)>,
        effects: &mut Vec<DestinationEffect>,
    ) {
        if self.sends_refused {
            effects.extend(
                messages
                    .into_iter()
                    .map(|(request, _)| DestinationEffect::Answer {
                        session,
                        event: SessionEvent::Refused {
                            request,
                            reason: REFUSED.to_owned(),
                        },
                    }),
            );
            return;
        }
        self.units.reserve(messages.len());
        for (request, message) in messages {
            let records = duplicates::send(Scope::queue(self.id), vec![self.id], message);
            self.submit(ticket(session, request), records);
        }
    }

    fn attach(&mut self, key: ConsumerKey, prefetch: u32) {
        self.consumers.attach(key, prefetch);
        self.backlog.resize(self.config.window);
    }

    fn detach(&mut self, key: ConsumerKey) {
        self.consumers.detach(key, &mut self.backlog);
        if self.consumers.is_empty() {
            // A server may have very many idle queues.
            self.backlog.resize(self.config.idle);
        }
    }

    fn settle(
        &mut self,
        key: ConsumerKey,
        mut lsns: Vec<Lsn>,
        outcome: Outcome,
        request: RequestNumber,
        effects: &mut Vec<DestinationEffect>,
    ) {
        self.consumers
            .settle(key, &mut lsns, outcome, &mut self.backlog);
        let accepted = u64::try_from(lsns.len()).unwrap_or(u64::MAX);
        self.figures.depth = self.figures.depth.saturating_sub(accepted);
        self.figures.accepted = self.figures.accepted.saturating_add(accepted);
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

    fn coalesce_acks(&mut self) {
        if !self.acks.is_empty() {
            let lsns = std::mem::take(&mut self.acks);
            let records = self.ack_records(lsns);
            self.submit(Ticket::default(), records);
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
        if let Some(value) = self.definition.take() {
            records.insert(0, self.define(value));
        }
        self.units.push(Unit { ticket, records });
    }

    fn define(&self, value: Bytes) -> Draft {
        Draft::Kv {
            space: SPACE_DESTINATION,
            key: Bytes::copy_from_slice(&self.id.0.to_be_bytes()),
            value,
        }
    }

    fn committed(&mut self, entries: Vec<Entry>, mark: Option<Lsn>) {
        if let Some(mark) = mark
            && mark > self.mark
        {
            self.mark = mark;
            self.raise = Raise::Rests;
        }
        let before = self.backlog.tail();
        let arrived = self.backlog.arrive(entries);
        self.observe_spacing(before, arrived);
        self.figures.arrived = self.figures.arrived.saturating_add(arrived);
        self.figures.depth = self.figures.depth.saturating_add(arrived);
    }

    fn observe_spacing(&mut self, before: Lsn, arrived: u64) {
        let from = before.max(self.horizon);
        if arrived == 0 {
            return;
        }
        let gap_x16 = self
            .backlog
            .tail()
            .0
            .saturating_sub(from.0)
            .saturating_mul(16)
            / arrived;
        self.spacing_x16 = self.spacing_x16.saturating_mul(3).saturating_add(gap_x16) / 4;
    }

    fn maintain(&mut self, effects: &mut Vec<DestinationEffect>) {
        self.backlog.pull();
        self.deliver(effects);
        self.backlog.trim();
        self.raise_mark();
        if !self.units.is_empty() {
            effects.push(DestinationEffect::Submit(std::mem::take(&mut self.units)));
        }
        self.refill(effects);
    }

    /// Gives each consumer in turn its share of what is ready.
    fn deliver(&mut self, effects: &mut Vec<DestinationEffect>) {
        while self.backlog.next().is_some_and(|lsn| lsn <= self.mark)
            && let Some((consumer, deliveries)) =
                self.consumers.serve_next(&mut self.backlog, self.mark)
        {
            let newest = deliveries.last().map_or(Lsn::ZERO, |delivery| delivery.lsn);
            self.reached = self.reached.max(newest);
            effects.push(DestinationEffect::Deliver {
                consumer,
                deliveries,
            });
            self.backlog.pull();
        }
    }

    fn raise_mark(&mut self) {
        if self.raise == Raise::Submitted || self.consumers.is_empty() {
            return;
        }
        let ahead =
            (self.spacing_x16.saturating_mul(MARK_MESSAGES) / 16).clamp(AHEAD_MIN, AHEAD_MAX);
        let next = self.backlog.next();
        let blocked = next.is_some_and(|lsn| lsn > self.mark) && self.consumers.has_credit();
        // With a backlog, what is delivered next; else the next message, which comes after `upto`.
        let position = self.reached.max(next.unwrap_or(self.upto));
        let low = self.mark.0 < position.0.saturating_add(ahead / 2);
        let record = Draft::Delivered {
            dest: self.id,
            lane: Lane::DEFAULT,
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
        };
        if !(blocked || low) {
            return;
        }
        if let Some(unit) = self.units.last_mut() {
            unit.records.push(record);
        } else if blocked {
            self.submit(Ticket::default(), vec![record]);
        } else {
            return;
        }
        self.raise = Raise::Submitted;
    }

    /// Asks for more while there is somebody to give it to.
    fn refill(&mut self, effects: &mut Vec<DestinationEffect>) {
        if !self.consumers.is_empty()
            && let Some(wanted) = self.backlog.want()
        {
            effects.push(DestinationEffect::Fetch {
                after: wanted.after,
                count: wanted.count,
                bytes: wanted.bytes,
            });
        }
    }

    fn assert_invariants(&self) {
        assert!(
            self.units.is_empty() && self.acks.is_empty(),
            "units stay behind a step"
        );
        self.backlog.assert_invariants();
    }
}

#[cfg(test)]
mod tests;
