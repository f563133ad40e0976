//! What goes into a destination's machine and what comes out of it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::account::{Account, Load};
use crate::machines::delivery::{
    ConsumerKey, Delivery, DestinationCommand, RequestNumber, SessionEvent, SessionKey, Share,
    TransactionKey,
};
use crate::machines::policy::DestinationPolicy;
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{
    Change, DestinationFacts, Entry, Fetched, Lane, LaneFacts, Seek, Ticket, Times, Unit,
};
use crate::time::Moment;

/// The time at which a step is taken. Deadlines rest on `moment`; what a message says of its life
/// (expiry, due time) is in wall-clock time, and judged by `wall_ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// On the clock that nobody can set.
    pub moment: Moment,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// Memory that one destination may use for messages.
#[derive(Clone, Copy, Debug)]
pub struct DestinationConfig {
    /// While there are consumers: bound of the windows of all lanes, and again of their `recent`
    /// ones, and again of the messages that wait aside (for the owner of their group, or for their
    /// redelivery).
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

impl Room {
    /// Each of `count` parts of it.
    pub(super) fn part(self, count: usize) -> Self {
        let count = count.max(1);
        Self {
            messages: (self.messages / count).max(1),
            bytes: self.bytes / count,
        }
    }
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

/// What a destination begins with: what the store knew of it when this server began to serve, or what it
/// left when it went to sleep; and how it is to behave.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// The definition, if the store does not have it yet: written before anything else.
    pub definition: Option<Bytes>,
    /// What is in its lanes.
    pub lanes: Vec<LaneFacts>,
    /// The depths of the lanes are right in their sum only: any of them may owe something.
    pub is_mixed: bool,
    /// The end of the log then. What comes later has not been delivered by an earlier active.
    pub horizon: Lsn,
    /// No delayed message is due before this.
    pub next_due_ms: Option<u64>,
    /// No message expires before this.
    pub next_expiry_ms: Option<u64>,
    /// Messages are kept in memory and lost with the server, as long as the memory lasts.
    pub volatile: bool,
    /// As it is spelled, for the headers of dead messages.
    pub name: String,
    /// How it behaves; `None`: as [`DestinationPolicy::default`] says.
    pub policy: Option<Arc<DestinationPolicy>>,
    /// Bytes of the messages owed.
    pub bytes: u64,
    /// What is on its way to it, and its bounds; `None`: nothing, and no bounds.
    pub account: Option<Rc<Account>>,
    /// What was counted in this term, before it went to sleep and since; the rest of the figures is zero.
    pub counted: Option<Box<DestinationFigures>>,
}

impl Activation {
    /// What the store says of a destination; `horizon` is the end of its log.
    #[must_use]
    pub fn from_facts(facts: DestinationFacts, horizon: Lsn) -> Self {
        Self {
            lanes: facts.lanes,
            horizon,
            bytes: facts.bytes,
            next_due_ms: facts.next_due_ms,
            next_expiry_ms: facts.next_expiry_ms,
            ..Self::default()
        }
    }

    /// Messages owed.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.lanes
            .iter()
            .fold(0, |sum, lane| sum.saturating_add(lane.depth))
    }

    /// What it shows of itself.
    #[must_use]
    pub fn figures(&self) -> DestinationFigures {
        DestinationFigures {
            depth: self.depth(),
            bytes: self.bytes,
            ..self.counted.as_deref().copied().unwrap_or_default()
        }
    }

    /// As much of the log as it is known to have seen.
    pub(super) fn upto(&self) -> Lsn {
        let tails = self.lanes.iter().map(|lane| lane.tail);
        tails.fold(self.horizon, Lsn::max)
    }

    /// Something was committed before the machine was there to be told. Gives what of it was sent in this
    /// term.
    pub fn absorb(&mut self, change: &Change) -> Load {
        let mut sent = Load::default();
        let mut arrived = 0u64;
        for entry in &change.entries {
            if entry.lsn <= self.horizon {
                continue;
            }
            sent = sent.plus(Load::of(&entry.message));
            let times = Times::of(&entry.message);
            let lane = self.lane(times.lane);
            if entry.lsn <= lane.tail {
                continue;
            }
            lane.depth = lane.depth.saturating_add(1);
            lane.tail = entry.lsn;
            arrived = arrived.saturating_add(1);
            self.next_due_ms = self.next_due_ms.into_iter().chain(times.due_ms).min();
            let expiries = self.next_expiry_ms.into_iter().chain(times.expiry_ms);
            self.next_expiry_ms = expiries.min();
        }
        self.bytes = change.bytes.unwrap_or(self.bytes);
        for (lane, mark) in &change.marks {
            let lane = self.lane(*lane);
            lane.mark = lane.mark.max(*mark);
        }
        if arrived > 0 {
            let counted = self.counted.get_or_insert_default();
            counted.arrived = counted.arrived.saturating_add(arrived);
        }
        sent
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneFacts {
        let at = match self.lanes.iter().position(|facts| facts.lane == lane) {
            Some(at) => at,
            None => {
                self.lanes.push(LaneFacts {
                    lane,
                    depth: 0,
                    tail: Lsn::ZERO,
                    mark: Lsn::ZERO,
                });
                self.lanes.len() - 1
            }
        };
        &mut self.lanes[at]
    }
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
        /// What.
        change: Change,
        /// The commit index with it.
        upto: Lsn,
    },
    /// Answer to [`DestinationEffect::Fetch`].
    Fetched(Fetched),
    /// The store refuses new messages (true) or takes them again (false).
    SendsRefused(bool),
    /// The server is about to end its term: what comes back from now on is nobody's failure.
    Draining,
    /// Answer to [`DestinationEffect::FindDeadLetter`].
    DeadLetterFound(Option<DeadLetterQueue>),
    /// Time has passed.
    Deadline,
    /// Other rules from now on.
    PolicyChanged(Arc<DestinationPolicy>),
    /// Nobody has used it for a while, and everything that it had submitted is committed and was told:
    /// it may go to sleep.
    Unneeded,
}

/// The queue that takes dead messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterQueue {
    /// Its id.
    pub id: DestId,
    /// Its definition, which goes with each dead message: it may be the queue's first one.
    pub definition: Bytes,
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
    /// Ask the store for owed messages.
    Fetch {
        /// Comes back with the answer.
        tag: u32,
        /// Which.
        seek: Seek,
        /// At most.
        count: usize,
        /// About.
        bytes: usize,
    },
    /// Find the dead message queue of this name, or make it; answered with
    /// [`DestinationInput::DeadLetterFound`].
    FindDeadLetter(String),
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
    /// Answer to [`DestinationCommand::Show`].
    Shown {
        /// Whose question it was.
        tag: u32,
        /// In LSN order.
        entries: Vec<Entry>,
    },
    /// The machine is not needed: one that begins with this does what it would do. It goes on as if it had
    /// said nothing if it is used all the same.
    Rest(Box<Activation>),
}

/// Figures for `status`. A sleep changes none of them.
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
    /// Messages that expired since activation.
    pub expired: u64,
    /// Messages that went to the dead message queue since activation.
    pub dead: u64,
    /// Messages that were read from the store for consumers with selectors since activation, once for
    /// each of these consumers.
    pub selector_reads: u64,
    /// Bytes of the messages that are owed.
    pub bytes: u64,
    /// Messages that went because the destination was full, since activation: those that went to the dead
    /// message queue are in `dead` too.
    pub dropped: u64,
    /// Sends that were refused because the destination was full, since activation.
    pub refused: u64,
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
