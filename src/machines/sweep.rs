//! An operator's work on the messages of one destination: purge, move, or send back to where they came
//! from. It goes through what is owed in LSN order, a batch at a time: read a page, let the destination
//! take out what of it nobody holds, wait until that is committed, read on.
//!
//! Each batch is one unit: it is whole or it is not. Whoever asks gets back how far it came, and asks
//! again to go on; so a server that dies in the middle leaves nothing half done, and a second run goes
//! on. What arrives after the first stretch began is not touched.
//!
//! Positions in memory alone are beyond all of the log: they come last. What came there before the
//! stretch that gets so far is worked on, too.
//!
//! Deliberately not known here: names, what consumers hold, and what the store does with a unit.

use std::sync::Arc;

use bytes::Bytes;

use crate::machines::selector::Selector;
use crate::proto::ids::{DestId, Lsn};
use crate::proto::message::{self, Message};
use crate::storage::api::Entry;
use crate::time::Moment;

/// Bounds of a page, and so of a batch.
pub const PAGE_MESSAGES: usize = 2048;
/// The same in bytes; one message is always possible.
pub const PAGE_BYTES: usize = 1 << 20;

/// Application properties that name the destination that a dead message was taken from, as they are
/// looked for.
pub const ORIGIN_HEADERS: [&str; 2] = ["TMQ_ORIGINAL_DESTINATION", "dead-letter-destination"];

/// What the server wrote on a dead message: gone from one that goes back, which is dead no more. Should it
/// die again, it gets them anew.
pub const DEATH_HEADERS: [&str; 6] = [
    "TMQ_DEAD_REASON",
    "TMQ_DEAD_CAUSE",
    "TMQ_DEAD_TIME",
    "TMQ_DELIVERY_COUNT",
    "TMQ_ORIGINAL_DESTINATION",
    "TMQ_ORIGINAL_MESSAGE_ID",
];

/// What becomes of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepAction {
    /// They are acknowledged.
    Purge,
    /// They go to another destination.
    Move(DestId),
    /// They go to where their headers say that they came from, without [`DEATH_HEADERS`].
    Retry,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct SweepSpec {
    /// What becomes of the messages.
    pub action: SweepAction,
    /// Which; none: all.
    pub selector: Option<Arc<Selector>>,
    /// So many at most.
    pub count: u64,
    /// Only those after this.
    pub after: Lsn,
    /// Only those up to here: not beyond the commit index at the beginning, or, of a work that has
    /// come as far as what is in memory, beyond what was there then.
    pub until: Lsn,
    /// The newest position in memory alone as this stretch begins; none: nothing is there.
    pub memory_until: Option<Lsn>,
    /// No batch begins after this.
    pub deadline: Moment,
}

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Messages taken out.
    pub done: u64,
    /// Messages that were looked at.
    pub seen: u64,
    /// Messages that were wanted and that a consumer or a transaction holds.
    pub held: u64,
    /// Messages that do not say where they came from, or whose place is gone.
    pub homeless: u64,
    /// Everything up to here was looked at.
    pub after: Lsn,
    /// Nothing is left to look at, or the count is reached.
    pub complete: bool,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepTarget {
    /// Nowhere.
    Nothing,
    /// There.
    Destination(DestId),
    /// To the destination of this spelling.
    Named(Box<str>),
}

/// A message to take out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Which.
    pub lsn: Lsn,
    /// As it goes there.
    pub message: Bytes,
    /// Where it goes.
    pub target: SweepTarget,
}

/// Facts for the machine.
#[derive(Debug)]
pub enum SweepInput {
    /// Begin.
    Begin,
    /// Answer to [`SweepEffect::Fetch`].
    Fetched {
        /// In LSN order.
        entries: Vec<Entry>,
        /// Up to here nothing more is owed than `entries`.
        scanned: Lsn,
    },
    /// Answer to [`SweepEffect::Remove`].
    Removed {
        /// Those that nobody held, or why nothing was done.
        taken: Result<Vec<Lsn>, String>,
        /// How many were not asked for, because their target is gone.
        homeless: u64,
    },
    /// The last batch is committed.
    Committed,
}

/// What the shell is to do.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum SweepEffect {
    /// Ask the store for what is owed after this, or the destination if it is a position in memory: at
    /// most [`PAGE_MESSAGES`] and, of the store, [`PAGE_BYTES`].
    Fetch(Lsn),
    /// Let the destination take these out, in one unit with their PUTs.
    Remove(Vec<Swept>),
    /// That was all of this stretch.
    End(Result<SweepReport, String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Reading,
    /// A page up to `upto` was handed to the destination, with so many messages.
    Taking {
        upto: Lsn,
        asked: u64,
    },
    Committing,
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct SweepMachine {
    spec: SweepSpec,
    report: SweepReport,
    phase: Phase,
}

impl SweepMachine {
    /// Nothing is done yet.
    #[must_use]
    pub fn new(spec: SweepSpec) -> Self {
        let report = SweepReport {
            after: spec.after,
            ..SweepReport::default()
        };
        Self {
            spec,
            report,
            phase: Phase::New,
        }
    }

    /// Takes one input; appends what is to be done. An input that nothing waits for is passed over.
    pub fn step(&mut self, now: Moment, input: SweepInput, effects: &mut Vec<SweepEffect>) {
        match (self.phase, input) {
            (Phase::New, SweepInput::Begin) => self.go_on(now, effects),
            (Phase::Reading, SweepInput::Fetched { entries, scanned }) => {
                self.read(now, entries, scanned, effects);
            }
            (Phase::Taking { upto, asked }, SweepInput::Removed { taken, homeless }) => {
                self.taken(now, (upto, asked), taken, homeless, effects);
            }
            (Phase::Committing, SweepInput::Committed) => self.go_on(now, effects),
            (
                Phase::New
                | Phase::Reading
                | Phase::Taking { .. }
                | Phase::Committing
                | Phase::Ended,
                SweepInput::Begin
                | SweepInput::Fetched { .. }
                | SweepInput::Removed { .. }
                | SweepInput::Committed,
            ) => {}
        }
    }

    /// The end of the work, as far as it is known now: to go on with.
    #[must_use]
    pub fn until(&self) -> Lsn {
        self.spec.until
    }

    /// What is stored is done: on to what is in memory.
    fn go_to_memory(&mut self) {
        if self.report.after >= self.spec.until
            && !self.spec.until.is_volatile()
            && let Some(until) = self.spec.memory_until
        {
            self.report.after = Lsn::volatile(0);
            self.spec.until = until;
        }
    }

    fn left(&self) -> u64 {
        self.spec.count.saturating_sub(self.report.done)
    }

    fn go_on(&mut self, now: Moment, effects: &mut Vec<SweepEffect>) {
        self.go_to_memory();
        self.report.complete = self.left() == 0 || self.report.after >= self.spec.until;
        let begun = self.phase != Phase::New;
        if self.report.complete || (begun && now >= self.spec.deadline) {
            self.phase = Phase::Ended;
            effects.push(SweepEffect::End(Ok(self.report)));
        } else {
            self.phase = Phase::Reading;
            effects.push(SweepEffect::Fetch(self.report.after));
        }
    }

    fn read(
        &mut self,
        now: Moment,
        entries: Vec<Entry>,
        scanned: Lsn,
        effects: &mut Vec<SweepEffect>,
    ) {
        let mut upto = scanned.min(self.spec.until);
        if upto <= self.report.after && entries.is_empty() {
            // A store that does not get on must not be asked for ever.
            upto = self.spec.until;
        }
        let mut left = self.left();
        let mut batch = Vec::new();
        for entry in entries {
            if entry.lsn > self.spec.until {
                break;
            }
            upto = upto.max(entry.lsn);
            self.report.seen = self.report.seen.saturating_add(1);
            if !self.wants(&entry.message) {
                continue;
            }
            let Some(target) = self.target(&entry.message) else {
                self.report.homeless = self.report.homeless.saturating_add(1);
                continue;
            };
            batch.push(Swept {
                lsn: entry.lsn,
                message: self.as_it_goes(entry.message),
                target,
            });
            left = left.saturating_sub(1);
            if left == 0 {
                upto = entry.lsn;
                break;
            }
        }
        if batch.is_empty() {
            self.report.after = self.report.after.max(upto);
            self.go_on(now, effects);
            return;
        }
        let asked = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.phase = Phase::Taking { upto, asked };
        effects.push(SweepEffect::Remove(batch));
    }

    fn wants(&self, message: &[u8]) -> bool {
        let selector = self.spec.selector.as_ref();
        selector.is_none_or(|selector| selector.matches_bytes(message))
    }

    fn target(&self, message: &[u8]) -> Option<SweepTarget> {
        match self.spec.action {
            SweepAction::Purge => Some(SweepTarget::Nothing),
            SweepAction::Move(to) => Some(SweepTarget::Destination(to)),
            SweepAction::Retry => origin(message).map(SweepTarget::Named),
        }
    }

    fn as_it_goes(&self, message: Bytes) -> Bytes {
        match self.spec.action {
            SweepAction::Purge | SweepAction::Move(_) => message,
            SweepAction::Retry => {
                // Who it came from was read in it, so it can be read.
                message::without_headers(&message, &DEATH_HEADERS).unwrap_or(message)
            }
        }
    }

    fn taken(
        &mut self,
        now: Moment,
        (upto, asked): (Lsn, u64),
        taken: Result<Vec<Lsn>, String>,
        homeless: u64,
        effects: &mut Vec<SweepEffect>,
    ) {
        let taken = match taken {
            Ok(taken) => u64::try_from(taken.len()).unwrap_or(u64::MAX),
            Err(reason) => {
                self.phase = Phase::Ended;
                effects.push(SweepEffect::End(Err(reason)));
                return;
            }
        };
        let report = &mut self.report;
        report.after = report.after.max(upto);
        report.done = report.done.saturating_add(taken);
        report.homeless = report.homeless.saturating_add(homeless);
        let held = asked.saturating_sub(taken).saturating_sub(homeless);
        report.held = report.held.saturating_add(held);
        if taken == 0 {
            self.go_on(now, effects);
        } else {
            self.phase = Phase::Committing;
        }
    }
}

/// Where a dead message came from, if it says so.
#[must_use]
pub fn origin(message: &[u8]) -> Option<Box<str>> {
    let message = Message::read(message).ok()?;
    ORIGIN_HEADERS.iter().find_map(|wanted| {
        let mut headers = message.headers();
        headers.find_map(|(name, value)| (name == *wanted).then(|| value.into()))
    })
}

#[cfg(test)]
mod tests;
