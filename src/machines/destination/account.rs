//! What a destination holds, what is on its way to it, and its bounds: shared by all who send to it on
//! the data thread, so that each counts what the others have sent.
//!
//! A message counts from the moment when it is handed to the store until its acknowledgement is committed.
//! Bytes may go over their bound by one message, so that one that is larger than the bound can be sent.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;

use crate::machines::delivery::TransactionKey;
use crate::machines::policy::{DestinationPolicy, OnFull};
use crate::proto::message;

/// Messages and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How many.
    pub messages: u64,
    /// Bytes of canonical messages.
    pub bytes: u64,
}

impl Load {
    /// One message of so many bytes.
    #[must_use]
    pub fn one(bytes: usize) -> Self {
        Self {
            messages: 1,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        }
    }

    /// One canonical message, with its body wherever that is.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Self {
            messages: 1,
            bytes: message::whole_bytes(message),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// What is left of it; never less than nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What a policy allows; at least one of the two is a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most, `u64::MAX` where there is no bound.
    pub most: Load,
    /// What happens there.
    pub on_full: OnFull,
}

impl Bounds {
    /// Those of a policy, if it has any.
    #[must_use]
    pub fn of(policy: &DestinationPolicy) -> Option<Self> {
        let (messages, bytes) = (policy.max_messages, policy.max_bytes);
        let most = Load {
            messages: messages.unwrap_or(u64::MAX),
            bytes: bytes.unwrap_or(u64::MAX),
        };
        (messages.is_some() || bytes.is_some()).then_some(Self {
            most,
            on_full: policy.on_full,
        })
    }

    /// So much leaves no room for one message more.
    #[must_use]
    pub fn is_reached(&self, load: Load) -> bool {
        load.messages >= self.most.messages || load.bytes >= self.most.bytes
    }

    /// What of it has to go, where `free` messages of it could: the last one of them stays, however
    /// large it is, as one that is refused beyond the bound may go over it.
    #[must_use]
    pub fn excess(&self, load: Load, free: u64) -> Load {
        let mut excess = load.minus(self.most);
        if free <= 1 {
            excess.bytes = 0;
        }
        excess
    }

    /// An eighth is free again: worth telling.
    fn is_relieved(&self, load: Load) -> bool {
        let eased = |most: u64| most - most / 8;
        let below = |load: u64, most: u64| load < most && load <= eased(most);
        below(load.messages, self.most.messages) && below(load.bytes, self.most.bytes)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { messages, bytes } = self.most;
        let mut between = "";
        if messages < u64::MAX {
            write!(f, "max_messages = {messages}")?;
            between = ", ";
        }
        if bytes < u64::MAX {
            write!(f, "{between}max_mib = {}", bytes >> 20)?;
        }
        Ok(())
    }
}

/// A destination became full, or has room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It reached a bound.
    Reached(Load, Bounds),
    /// An eighth of its room is free again, or it has no bound any more.
    Relieved(Load),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Account {
    bounds: Cell<Option<Bounds>>,
    /// Owed, as the destination knows it.
    held: Cell<Load>,
    /// Handed to the store and not committed.
    under_way: Cell<Load>,
    /// Read from clients, and not come to the destination yet.
    announced: Cell<Load>,
    /// Of transactions that may be submitted at any moment.
    promised: RefCell<HashMap<TransactionKey, u64>>,
    /// It was told that a bound is reached.
    told: Cell<bool>,
    /// Connections that wait for room here.
    waiting: Cell<u32>,
    /// It is to be deleted as soon as nothing is on its way to it.
    leaving: Cell<bool>,
}

impl Account {
    /// Other bounds, or none, from now on.
    pub fn set_bounds(&self, bounds: Option<Bounds>) {
        self.bounds.set(bounds);
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> Option<Bounds> {
        self.bounds.get()
    }

    /// The destination owes so much.
    pub fn hold(&self, load: Load) {
        self.held.set(load);
    }

    /// Owed.
    #[must_use]
    pub fn held(&self) -> Load {
        self.held.get()
    }

    /// Something was handed to the store for it.
    pub fn sent(&self, load: Load) {
        self.under_way.set(self.under_way.get().plus(load));
    }

    /// That is committed; the destination holds it from now on.
    pub fn arrived(&self, load: Load) {
        self.under_way.set(self.under_way.get().minus(load));
    }

    /// A client's message was read and will come to the destination.
    pub fn announce(&self, load: Load) {
        self.announced.set(self.announced.get().plus(load));
    }

    /// It has come.
    pub fn heard(&self, load: Load) {
        self.announced.set(self.announced.get().minus(load));
    }

    /// A transaction may be submitted that puts so many messages here.
    pub fn promise(&self, transaction: TransactionKey, messages: u64) {
        if messages > 0 {
            self.promised.borrow_mut().insert(transaction, messages);
        }
    }

    /// It was submitted, or never will be.
    pub fn redeem(&self, transaction: TransactionKey) {
        self.promised.borrow_mut().remove(&transaction);
    }

    fn promised(&self) -> Load {
        let promised = self.promised.borrow();
        Load {
            messages: promised
                .values()
                .fold(0, |sum, messages| sum.saturating_add(*messages)),
            bytes: 0,
        }
    }

    /// Everything that is its own, or will be whatever happens.
    #[must_use]
    pub fn certain(&self) -> Load {
        self.held.get().plus(self.under_way.get())
    }

    /// The same with what transactions may put.
    #[must_use]
    pub fn load(&self) -> Load {
        self.certain().plus(self.promised())
    }

    /// Nothing is on its way to it.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let nothing = Load::default();
        self.under_way.get() == nothing
            && self.announced.get() == nothing
            && self.promised.borrow().is_empty()
    }

    /// Its bounds, if they leave no room and it acts so then.
    #[must_use]
    pub fn full(&self, on_full: OnFull) -> Option<Bounds> {
        let bounds = self.bounds.get().filter(|bounds| bounds.on_full == on_full);
        bounds.filter(|bounds| bounds.is_reached(self.load()))
    }

    /// Senders wait: with what was read for it and has not come to it, it is full, or it is being deleted.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        let bounds = self.bounds.get();
        self.leaving.get()
            || bounds.is_some_and(|bounds| {
                bounds.on_full == OnFull::Block
                    && bounds.is_reached(self.load().plus(self.announced.get()))
            })
    }

    /// It is to be deleted (`true`), or not after all.
    pub fn set_leaving(&self, leaving: bool) {
        self.leaving.set(leaving);
    }

    /// It is to be deleted as soon as nothing is on its way to it.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// It has no bounds, nobody was told of any, and it is not being deleted.
    #[must_use]
    pub fn is_unbounded(&self) -> bool {
        self.bounds.get().is_none() && !self.told.get() && !self.leaving.get()
    }

    /// Whether it became full, or has room again, since this was asked last.
    pub fn turn(&self) -> Option<Turn> {
        let load = self.load();
        let (told, bounds) = (self.told.get(), self.bounds.get());
        let turn = match bounds {
            Some(bounds) if !told && bounds.is_reached(load) => Turn::Reached(load, bounds),
            Some(bounds) if told && bounds.is_relieved(load) => Turn::Relieved(load),
            None if told => Turn::Relieved(load),
            Some(_) | None => return None,
        };
        self.told.set(!told);
        Some(turn)
    }

    /// A connection begins to wait for room here (`true`), or ends.
    pub fn wait(&self, begins: bool) {
        let waiting = self.waiting.get();
        self.waiting.set(if begins {
            waiting.saturating_add(1)
        } else {
            waiting.saturating_sub(1)
        });
    }

    /// Connections that wait for room here.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.get()
    }
}

/// Why a message is not taken, in words for its sender.
#[must_use]
pub fn full_text(name: &str, bounds: Bounds, load: Load) -> String {
    format!(
        "{name} is full: it holds {} messages of {} bytes in all, and its [[destination]] table says \
         {bounds}: the message was not stored; receive messages from it, or raise the bound, then send \
         again",
        load.messages, load.bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::delivery::{RequestNumber, SessionKey};

    fn load(messages: u64, bytes: u64) -> Load {
        Load { messages, bytes }
    }

    fn bounded(messages: u64, bytes: u64, on_full: OnFull) -> Account {
        let account = Account::default();
        account.set_bounds(Some(Bounds {
            most: load(messages, bytes),
            on_full,
        }));
        account
    }

    #[test]
    fn what_is_held_on_its_way_and_promised_counts_and_what_was_read_only_for_who_waits() {
        let account = bounded(4, u64::MAX, OnFull::Block);
        account.hold(load(1, 10));
        account.sent(Load::one(5));
        let transaction = TransactionKey {
            session: SessionKey(1),
            request: RequestNumber(1),
        };
        account.promise(transaction, 1);
        assert_eq!(account.load(), load(3, 15));
        assert!(!account.holds_back());
        account.announce(Load::one(1));
        assert!(account.holds_back() && account.full(OnFull::Block).is_none());
        account.heard(Load::one(1));
        account.sent(Load::one(1));
        assert!(account.full(OnFull::Block).is_some() && account.full(OnFull::Reject).is_none());
        account.redeem(transaction);
        account.arrived(load(2, 6));
        account.hold(load(3, 16));
        assert!(!account.holds_back() && account.is_quiet());
    }

    #[test]
    fn bytes_are_a_bound_too_and_one_message_may_go_over_it() {
        let account = bounded(u64::MAX, 100, OnFull::Reject);
        account.hold(load(1, 99));
        assert!(account.full(OnFull::Reject).is_none());
        account.sent(Load::one(5000));
        assert!(account.full(OnFull::Reject).is_some());
    }

    #[test]
    fn each_turn_is_told_once_and_relief_is_an_eighth() {
        let account = bounded(8, u64::MAX, OnFull::Reject);
        account.hold(load(8, 0));
        assert!(matches!(account.turn(), Some(Turn::Reached(..))));
        for (held, turn) in [(9, None), (8, None), (7, Some(Turn::Relieved(load(7, 0))))] {
            account.hold(load(held, 0));
            assert_eq!(account.turn(), turn, "{held}");
        }
        account.hold(load(8, 0));
        assert!(account.turn().is_some());
        account.set_bounds(None);
        assert_eq!(account.turn(), Some(Turn::Relieved(load(8, 0))));
        assert_eq!(account.turn(), None);
    }

    #[test]
    fn a_bound_of_one_is_relieved_by_none() {
        let account = bounded(1, u64::MAX, OnFull::Reject);
        account.hold(load(1, 0));
        assert!(matches!(account.turn(), Some(Turn::Reached(..))));
        account.hold(load(0, 0));
        assert!(matches!(account.turn(), Some(Turn::Relieved(..))));
    }
}
