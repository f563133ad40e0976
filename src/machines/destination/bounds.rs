//! What a destination does at its bounds: it refuses a send, or the oldest messages go, for good or to
//! the dead message queue. Senders that wait are no matter of its own: they look at its account.
//!
//! The oldest are read from the store, since most of them are nowhere else, and taken out as an operator
//! takes them: what a consumer or a transaction holds stays. Stored ones go before volatile ones, between
//! which there is no order.
//!
//! What goes is counted as gone from then on, until its acknowledgement is committed: a bound is not met
//! twice by the same message.

use super::account::Bounds;
use super::claims::Question;
use super::redelivery::Reason;
use super::removals::Found;
use super::{DestinationEffect, DestinationMachine, Load, Now, full_text};
use crate::machines::policy::OnFull;
use crate::proto::ids::Lsn;
use crate::storage::api::{Entry, Fetched, Seek, Times};

/// Messages and bytes of one question.
const PAGE_MESSAGES: usize = 1024;
const PAGE_BYTES: usize = 4 << 20;

/// Why a transaction is not taken, in words for its sender.
fn no_room_text(name: &str, bounds: Bounds, load: Load, brings: usize) -> String {
    let noun = if brings == 1 { "message" } else { "messages" };
    format!(
        "{name} is full with the transaction: it brings {brings} {noun}, {name} holds {} messages of {} \
         bytes in all, and its [[destination]] table says {bounds}: nothing of it was stored; send fewer in \
         one transaction, receive messages from it, or raise the bound",
        load.messages, load.bytes
    )
}

/// How far the search for the oldest messages has come.
#[derive(Debug, Default)]
pub(super) struct Shedding {
    /// What lies up to here is not to be had.
    after: Lsn,
    /// Nothing is to be had before something happens.
    rests: bool,
}

impl Shedding {
    /// Something happened: what was not to be had may be now.
    pub(super) fn look_again(&mut self) {
        self.rests = false;
    }
}

impl DestinationMachine {
    /// What is owed here, as everybody may see it.
    pub(super) fn held(&self) -> Load {
        let volatile = self.volatile.load();
        Load {
            messages: self.stored,
            bytes: self.stored_bytes,
        }
        .plus(volatile)
    }

    /// All that counts: what is owed, on its way, and of this step.
    fn load(&self) -> Load {
        self.account.hold(self.held());
        self.account.load().plus(self.admitted)
    }

    /// Why a send is refused, if it is to be.
    pub(super) fn full_for_sends(&self) -> Option<String> {
        let bounds = self.account.bounds()?;
        let load = self.load();
        (bounds.on_full == OnFull::Reject && bounds.is_reached(load))
            .then(|| full_text(&self.name, bounds, load))
    }

    /// Why a transaction that puts so many messages here, and accepts so many, is refused, if it is to be.
    pub(super) fn full_for_unit(&self, puts: usize, accepts: usize) -> Option<String> {
        let bounds = self.account.bounds()?;
        if puts == 0 || bounds.on_full != OnFull::Reject {
            return None;
        }
        let more = Load {
            messages: u64::try_from(puts).unwrap_or(u64::MAX).saturating_sub(1),
            bytes: 0,
        };
        let fewer = Load {
            messages: u64::try_from(accepts).unwrap_or(u64::MAX),
            bytes: 0,
        };
        let load = self.load().plus(more).minus(fewer);
        bounds
            .is_reached(load)
            .then(|| no_room_text(&self.name, bounds, self.load(), puts))
    }

    /// So much has to go, if anything.
    pub(super) fn excess(&self) -> Option<(OnFull, Load)> {
        let bounds = self.account.bounds()?;
        let goes = match bounds.on_full {
            OnFull::DropOldest => true,
            OnFull::DeadLetter => self.policy.as_ref().is_some_and(|policy| {
                policy.on_full == OnFull::DeadLetter && policy.dead_letter.is_some()
            }),
            OnFull::Reject | OnFull::Block => false,
        };
        // Nothing goes for a transaction that may still be undone.
        self.account.hold(self.held());
        let certain = self.account.certain().plus(self.admitted);
        let load = certain.minus(self.claims.leaving());
        // What consumers hold is no choice.
        let held = u64::try_from(self.consumers.unsettled()).unwrap_or(u64::MAX);
        let excess = bounds.excess(load, load.messages.saturating_sub(held));
        (goes && excess != Load::default()).then_some((bounds.on_full, excess))
    }

    /// Lets the oldest go while there are too many.
    pub(super) fn mind_bounds(&mut self, now: Now, effects: &mut Vec<DestinationEffect>) {
        let Some((on_full, _)) = self.excess() else {
            self.redelivery.want_queue(false);
            self.shedding.after = Lsn::ZERO;
            return;
        };
        if on_full == OnFull::DeadLetter {
            match &self.redelivery.queue {
                None => {
                    // Nothing goes before it is known where to.
                    self.redelivery.want_queue(true);
                    return;
                }
                Some(queue) if queue.id == self.id => return,
                Some(_) => {}
            }
        }
        let held = u64::try_from(self.consumers.unsettled()).unwrap_or(u64::MAX);
        let leaving = self.claims.leaving().messages;
        let is_in_memory = self.stored <= leaving;
        if is_in_memory || self.volatile.has_spilled() {
            // What is in memory is older than what was spilled.
            self.shed_volatile(now);
        }
        let Some((_, excess)) = self.excess().filter(|_| !is_in_memory) else {
            return;
        };
        let owed = self.stored.saturating_add(self.volatile.messages());
        if self.shedding.rests
            || owed <= held.saturating_add(leaving)
            || self.claims.is_open(Question::Oldest)
        {
            return;
        }
        // Some of the first may be held.
        let count = excess.messages.saturating_add(held).saturating_add(16);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        effects.push(DestinationEffect::Fetch {
            tag: self.claims.ask(Question::Oldest),
            seek: Seek::All {
                after: self.shedding.after,
            },
            count: count.min(PAGE_MESSAGES),
            bytes: PAGE_BYTES,
        });
    }

    /// The oldest messages, of which those go that are too many and that nobody holds.
    pub(super) fn found_oldest(&mut self, now: Now, fetched: Fetched) {
        let acknowledged = self.claims.acknowledged();
        let (before, mut looked) = (self.shedding.after, fetched.scanned);
        let mut is_enough = false;
        for entry in fetched.entries {
            let goes = self.excess().is_some_and(|(on_full, _)| {
                on_full == OnFull::DropOldest || self.redelivery.queue.is_some()
            });
            if !goes {
                looked = entry.lsn.prev();
                is_enough = true;
                break;
            }
            let lsn = entry.lsn;
            let entry = match self.take_out(lsn, Times::of(&entry.message), &acknowledged) {
                Found::Held => continue,
                Found::Here(known) => known,
                Found::InStore => entry,
            };
            self.claims.leave(lsn, Load::of(&entry.message).bytes);
            self.leave(now, entry, Reason::Full);
        }
        self.shedding.after = looked.max(before);
        if !is_enough && (looked <= before || looked >= self.upto) {
            // All was seen. What is left is held, and is looked at again when something happens.
            self.shedding.after = Lsn::ZERO;
            self.shedding.rests = true;
            if self.excess().is_some() {
                self.shed_volatile(now);
            }
        }
    }

    fn shed_volatile(&mut self, now: Now) {
        while self.volatile.messages() > 0
            && self.excess().is_some()
            && let Some(entry) = self.oldest_volatile()
        {
            self.leave(now, entry, Reason::Full);
        }
    }

    /// The oldest volatile message that nobody holds, taken out.
    fn oldest_volatile(&mut self) -> Option<Entry> {
        let (lanes, timers) = (self.lanes.oldest_volatile(), self.timers.oldest_volatile());
        match (lanes, timers) {
            (Some(lane), Some(timer)) if timer < lane => self.timers.take_volatile(timer),
            (Some(lane), _) => self.lanes.take_volatile(lane),
            (None, Some(timer)) => self.timers.take_volatile(timer),
            (None, None) => None,
        }
    }
}
