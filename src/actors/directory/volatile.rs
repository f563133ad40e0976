//! Messages that are kept in memory alone, on the data thread: which destinations have memory for a
//! message to a topic, and what goes to the store although it could have been kept.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use super::{Directory, Presence, Term};
use crate::machines::delivery::DestinationCommand;
use crate::machines::destination::VolatileShare;
use crate::machines::destination::account::{Account, Load};
use crate::proto::ids::{DestId, Lsn};
use crate::proto::message;
use crate::storage::api::{Draft, Entry, Lane, Ticket, Unit};

/// A question for what a destination has in memory alone; as in [`DestinationCommand::Show`].
pub(super) struct MemoryLook {
    pub(super) tag: u32,
    pub(super) lane: Option<Lane>,
    pub(super) after: Lsn,
    pub(super) count: usize,
}

/// A destination that has room and a position for a message.
pub(super) struct Kept {
    dest: DestId,
    lsn: Lsn,
    share: Rc<VolatileShare>,
    account: Option<Rc<Account>>,
}

/// Messages on their way to destinations that keep them in memory.
#[derive(Default)]
pub(super) struct Passing {
    all: Vec<(Ticket, Kept, Bytes)>,
}

impl Passing {
    /// One message, for these.
    pub(super) fn add(&mut self, ticket: Ticket, kept: Vec<Kept>, message: &Bytes) {
        let kept = kept.into_iter();
        self.all
            .extend(kept.map(|kept| (ticket, kept, message.clone())));
    }

    /// It is not sent after all.
    pub(super) fn give_back(&self, kept: Vec<Kept>, message: &Bytes) {
        for kept in kept {
            kept.share.give(message.len());
        }
    }

    /// What was sent again with these tickets is not kept again either. Gives who has room for it again.
    #[must_use]
    fn forget(&mut self, again: &[Ticket]) -> Vec<(DestId, Rc<Account>)> {
        let mut eased = Vec::new();
        if again.is_empty() {
            return eased;
        }
        self.all.retain(|(ticket, kept, message)| {
            let is_new = !again.contains(ticket);
            if !is_new {
                kept.share.give(message.len());
                if let Some(account) = &kept.account {
                    account.hold(account.held().minus(Load::one(message.len())));
                    eased.push((kept.dest, Rc::clone(account)));
                }
            }
            is_new
        });
        eased
    }
}

impl Directory {
    /// Takes those destinations out of `targets` that keep the message in memory.
    pub(super) fn take_memory(
        self: &Rc<Self>,
        targets: &mut Vec<DestId>,
        message: &[u8],
    ) -> Vec<Kept> {
        let mut kept = Vec::new();
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut().filter(|_| !message::is_in_parts(message)) else {
            return kept;
        };
        targets.retain(|dest| {
            if !term.is_all_volatile(*dest) || self.wake(term, *dest).is_none() {
                return true;
            }
            let Some((share, _)) = term.share(*dest) else {
                return true;
            };
            let Some(lsn) = share.take(message.len()) else {
                return true;
            };
            let (dest, share) = (*dest, Rc::clone(share));
            let account = self.account(term, dest);
            kept.push(Kept {
                dest,
                lsn,
                share,
                account,
            });
            false
        });
        kept
    }

    /// What is on its way to these counts as held by them already: they say the same when it has come.
    pub(super) fn count_kept(&self, kept: &[Kept], message: &[u8]) {
        for kept in kept {
            if let Some(account) = &kept.account {
                account.hold(account.held().plus(Load::one(message.len())));
                self.mind_bounds(kept.dest, account);
            }
        }
    }

    /// What was sent again with these tickets is on its way to nobody.
    pub(super) fn forget_again(&self, passing: &mut Passing, again: &[Ticket]) {
        for (dest, account) in passing.forget(again) {
            self.mind_bounds(dest, &account);
        }
    }

    /// Hands messages to those that keep them, in order.
    pub(super) fn keep(&self, passing: Passing) {
        let mut by_dest: BTreeMap<DestId, Vec<(Lsn, Bytes)>> = BTreeMap::new();
        for (_, kept, message) in passing.all {
            let messages = by_dest.entry(kept.dest).or_default();
            messages.push((kept.lsn, message));
        }
        let term = self.term.borrow();
        for (dest, messages) in by_dest {
            if let Some(port) = term.as_ref().and_then(|term| term.port(dest)) {
                self.command(port, vec![DestinationCommand::Keep { messages }]);
            }
        }
    }

    /// A message goes to the store for these: those that could have kept it keep nothing more until it
    /// is gone. One that keeps all of its messages begins with that, if it was asleep.
    pub(super) fn spill(self: &Rc<Self>, targets: &[DestId], message: &[u8]) {
        let is_volatile = !message::is_persistent(message);
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        for dest in targets {
            if term.is_all_volatile(*dest) && self.wake(term, *dest).is_none() {
                continue;
            }
            if let Some((share, all)) = term.share(*dest)
                && (all || is_volatile)
            {
                share.spill();
            }
        }
    }

    /// The same for all messages of a unit.
    pub(super) fn spill_unit(self: &Rc<Self>, unit: &Unit) {
        for record in &unit.records {
            if let Draft::Put { targets, message } = record {
                self.spill(targets, message);
            }
        }
    }

    /// The same for what a destination moves to others; of its own messages it has counted each.
    pub(in crate::actors) fn spill_moved(self: &Rc<Self>, from: DestId, units: &[Unit]) {
        for record in units.iter().flat_map(|unit| &unit.records) {
            if let Draft::Put { targets, message } = record
                && !targets.contains(&from)
            {
                self.spill(targets, message);
            }
        }
    }

    /// A message that was sent again never comes from the store.
    pub(super) fn spilled_again(&self, targets: &[DestId], message: &[u8]) {
        let is_volatile = !message::is_persistent(message);
        let term = self.term.borrow();
        let term = term.iter();
        for (share, all) in term.flat_map(|term| targets.iter().filter_map(|id| term.share(*id))) {
            if all || is_volatile {
                share.arrived(1);
            }
        }
    }

    /// The newest position in memory that a look at this destination is to see; none: nothing of its
    /// is in memory alone.
    pub(super) fn newest_volatile(&self, dest: DestId) -> Option<Lsn> {
        let term = self.term.borrow();
        let (share, _) = term.as_ref()?.share(dest)?;
        (share.messages() > 0).then(|| share.newest())
    }

    /// A destination shows what it has in memory alone, in LSN order and not more than it was asked for.
    pub fn looked(self: &Rc<Self>, dest: DestId, tag: u32, entries: Vec<Entry>) {
        // Beyond the last one there may be more; beyond none there is nothing.
        let scanned = entries.last().map_or(Lsn(u64::MAX), |entry| entry.lsn);
        if super::browse::is_browsers(tag) {
            self.browser_answered(tag, entries, scanned);
        } else {
            self.work_looked(dest, tag, entries, scanned);
        }
    }

    /// Asks a destination for what it has in memory alone; one that is gone has nothing.
    pub(super) fn look_at_memory(self: &Rc<Self>, dest: DestId, look: MemoryLook) {
        let port = {
            let term = self.term.borrow();
            term.as_ref().and_then(|term| term.port(dest).cloned())
        };
        let Some(port) = port else {
            self.looked(dest, look.tag, Vec::new());
            return;
        };
        let MemoryLook {
            tag,
            lane,
            after,
            count,
        } = look;
        let command = DestinationCommand::Show {
            tag,
            lane,
            after,
            count,
        };
        self.command(&port, vec![command]);
    }

    /// The store is almost full.
    pub(super) fn refuses_sends(&self) -> bool {
        let term = self.term.borrow();
        term.as_ref().is_some_and(|term| term.sends_refused)
    }
}

impl Term {
    /// All its messages are kept in memory, as long as there is room.
    fn is_all_volatile(&self, dest: DestId) -> bool {
        match self.known.get(&dest).map(|known| &known.state) {
            Some(Presence::Awake { all_volatile, .. }) => *all_volatile,
            Some(Presence::Asleep(activation)) => activation.volatile,
            None => false,
        }
    }

    /// A destination's share of the memory, if it has begun, and whether all its messages are volatile.
    fn share(&self, dest: DestId) -> Option<(&Rc<VolatileShare>, bool)> {
        match &self.known.get(&dest)?.state {
            Presence::Awake {
                volatile,
                all_volatile,
                ..
            } => Some((volatile, *all_volatile)),
            Presence::Asleep(_) => None,
        }
    }
}
