//! Bounds of destinations on the data thread: what is on its way to each is counted as it goes to the
//! store, whoever sends it; and senders wait for those that say so.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::{BoundDescription, Directory, Known, Presence, Term, Unavailable};
use crate::actors::overload::Limit;
use crate::actors::post::Port;
use crate::machines::destination::DestinationInput;
use crate::machines::destination::account::{Account, Bounds, Load, Turn, full_text};
use crate::machines::policy::{DestinationPolicy, OnFull};
use crate::machines::topics::TopicName;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::DestId;
use crate::storage::api::{Draft, Unit};

/// Which destinations hold senders back, and who waits for any of them.
#[derive(Debug, Default)]
pub(super) struct Brake {
    full: RefCell<BTreeSet<DestId>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Brake {
    fn release(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// A destination for which a sender waits, for as long as this is kept.
pub struct Waiting {
    account: Rc<Account>,
    name: DestinationName,
}

impl Waiting {
    fn begin(account: Rc<Account>, name: DestinationName) -> Self {
        account.wait(true);
        Self { account, name }
    }

    /// Why, in words.
    #[must_use]
    pub fn why(&self) -> String {
        if self.account.is_leaving() {
            return format!("{} is being deleted by an operator: send again", self.name);
        }
        let bounds = self.account.bounds();
        let bounds = bounds.map_or_else(|| "no bounds".to_owned(), |bounds| bounds.to_string());
        format!(
            "{} is full, and its [[destination]] table says {bounds}: receive messages from it, or raise \
             the bound",
            self.name
        )
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.account.wait(false);
    }
}

impl Directory {
    /// How a destination behaves; a subscription as the table says that fits its topics, as they were
    /// spelled when it was subscribed.
    pub(super) fn policy_of(
        &self,
        term: &Term,
        id: DestId,
        name: &DestinationName,
    ) -> Arc<DestinationPolicy> {
        let policies = self.policies.borrow();
        if name.kind() == DestinationKind::Subscription
            && let Some(pattern) = term.topics.table.pattern(id)
            && let Ok(topics) = DestinationName::new(DestinationKind::Topic, pattern.as_str())
        {
            return policies.behaviour(&topics);
        }
        policies.behaviour(name)
    }

    /// The account of a destination that there is.
    pub(super) fn account(&self, term: &mut Term, id: DestId) -> Option<Rc<Account>> {
        let account = term.known.get(&id)?.account.clone();
        if account.is_some() {
            return account;
        }
        let name = term.known.get(&id)?.name.clone();
        let bounds = Bounds::of(&self.policy_of(term, id, &name));
        let known = term.known.get_mut(&id)?;
        let account = Rc::new(Account::default());
        account.set_bounds(bounds);
        account.hold(known.held());
        known.account = Some(Rc::clone(&account));
        Some(account)
    }

    /// The way to a destination and its account, for who sends to it; it is made if there is none of this
    /// name.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn resolve_to_send(
        self: &Rc<Self>,
        name: &DestinationName,
    ) -> Result<(DestId, Port<DestinationInput>, Rc<Account>), Unavailable> {
        let (id, port) = self.locate(name)?;
        let mut term = self.term.borrow_mut();
        let account = term.as_mut().and_then(|term| self.account(term, id));
        Ok((id, port, account.ok_or(Unavailable::Gone)?))
    }

    /// Counts what goes to the store.
    pub(super) fn count_sent(&self, units: &[Unit]) {
        let mut last: Option<(DestId, Rc<Account>)> = None;
        for record in units.iter().flat_map(|unit| &unit.records) {
            let Draft::Put { targets, message } = record else {
                continue;
            };
            for target in targets {
                if last.as_ref().is_none_or(|(id, _)| id != target) {
                    self.mind_last(last.take());
                    let mut term = self.term.borrow_mut();
                    let account = term.as_mut().and_then(|term| self.account(term, *target));
                    last = account.map(|account| (*target, account));
                }
                if let Some((_, account)) = &last {
                    account.sent(Load::of(message));
                }
            }
        }
        self.mind_last(last);
    }

    fn mind_last(&self, last: Option<(DestId, Rc<Account>)>) {
        if let Some((id, account)) = last {
            self.mind_bounds(id, &account);
        }
    }

    /// Looks whether a destination has become full or has room again, says so, and holds senders back or
    /// lets them go on.
    pub fn mind_bounds(&self, id: DestId, account: &Account) {
        if account.is_unbounded() && !self.holds_any_back() {
            return;
        }
        // The actor of one that is gone may still have something to do.
        let holds_back = account.holds_back() && self.is_account_of(id, account);
        let changed = {
            let mut full = self.brake.full.borrow_mut();
            if holds_back {
                full.insert(id)
            } else {
                full.remove(&id)
            }
        };
        if changed && !holds_back {
            self.brake.release();
        }
        let Some(turn) = account.turn() else {
            return;
        };
        let term = self.term.borrow();
        let known = term.as_ref().and_then(|term| term.known.get(&id));
        let name = known.map_or("a destination that is gone", |known| known.name.spelling());
        match turn {
            Turn::Reached(load, bounds) => {
                self.overload.count(Limit::DestinationFull);
                tracing::warn!(
                    target: "twinmq::data", destination = name, messages = load.messages, bytes = load.bytes,
                    on_full = bounds.on_full.name(), "a destination is full: {bounds}"
                );
            }
            Turn::Relieved(load) => tracing::info!(
                target: "twinmq::data", destination = name, messages = load.messages, bytes = load.bytes,
                "a destination has room again"
            ),
        }
    }

    fn is_account_of(&self, id: DestId, account: &Account) -> bool {
        let term = self.term.borrow();
        let known = term.as_ref().and_then(|term| term.known.get(&id));
        let its_own = known.and_then(|known| known.account.as_ref());
        its_own.is_some_and(|own| std::ptr::eq(Rc::as_ptr(own), account))
    }

    /// A destination is no more: nobody waits for it.
    pub(super) fn forget_bounds(&self, id: DestId) {
        if self.brake.full.borrow_mut().remove(&id) {
            self.brake.release();
        }
    }

    /// There are no destinations any more.
    pub(super) fn forget_all_bounds(&self) {
        self.brake.full.borrow_mut().clear();
        self.brake.release();
    }

    /// Other policies hold from now on.
    pub(super) fn change_bounds(&self) {
        let mut changed = Vec::new();
        if let Some(term) = self.term.borrow().as_ref() {
            for (id, known) in &term.known {
                if let Some(account) = &known.account {
                    let policy = self.policy_of(term, *id, &known.name);
                    account.set_bounds(Bounds::of(&policy));
                    changed.push((*id, Rc::clone(account)));
                }
            }
        }
        for (id, account) in changed {
            self.mind_bounds(id, &account);
        }
        self.find_full();
    }

    /// Senders wait for destinations that are full already, before anybody has sent to them.
    pub(super) fn find_full(&self) {
        if !self.policies.borrow().any_bounds() {
            return;
        }
        let mut full = Vec::new();
        if let Some(term) = self.term.borrow_mut().as_mut() {
            let holds_back = |(id, known): (&DestId, &Known)| {
                let bounds = Bounds::of(&self.policy_of(term, *id, &known.name))?;
                let full = bounds.on_full == OnFull::Block && bounds.is_reached(known.held());
                full.then_some(*id)
            };
            let mut ids: Vec<DestId> = term.known.iter().filter_map(holds_back).collect();
            // The same events give the same course.
            ids.sort_unstable();
            for id in ids {
                full.extend(self.account(term, id).map(|account| (id, account)));
            }
        }
        for (id, account) in full {
            self.mind_bounds(id, &account);
        }
    }

    /// For `status`.
    pub(super) fn bound_of(
        &self,
        term: &Term,
        id: DestId,
        known: &Known,
    ) -> Option<BoundDescription> {
        let (bounds, load, waiting) = match &known.account {
            Some(account) => (account.bounds(), account.load(), account.waiting()),
            None => {
                let policy = self.policy_of(term, id, &known.name);
                (Bounds::of(&policy), known.held(), 0)
            }
        };
        bounds.map(|bounds| BoundDescription {
            bounds,
            reached: bounds.is_reached(load),
            waiting,
        })
    }

    /// Which destinations hold senders back, and whether any waits, in words.
    pub(super) fn full_now(&self) -> Vec<String> {
        let term = self.term.borrow();
        let full = self.brake.full.borrow();
        let known = full.iter().filter_map(|id| {
            let known = term.as_ref()?.known.get(id)?;
            let account = known.account.as_ref()?;
            let said = if account.is_leaving() {
                format!("{} is being deleted", known.name)
            } else {
                format!("{} is full: {}", known.name, account.bounds()?)
            };
            Some(match account.waiting() {
                0 => said,
                _ => format!("senders wait: {said}"),
            })
        });
        known.collect()
    }

    /// Sends to this name may have to wait: what is read for it is counted one by one.
    #[must_use]
    pub fn may_hold_back(&self, name: &DestinationName) -> bool {
        let policies = self.policies.borrow();
        if !policies.any_bounds() {
            return false;
        }
        let policy = policies.of(name);
        name.kind() == DestinationKind::Topic
            || (policy.on_full == OnFull::Block && policy.is_bounded())
    }

    /// Senders wait for some destination.
    #[must_use]
    pub fn holds_any_back(&self) -> bool {
        !self.brake.full.borrow().is_empty()
    }

    /// The destination for which a SEND to this name is to wait, if there is one: the queue, or one of the
    /// topic's subscriptions.
    #[must_use]
    pub fn held_back_by(&self, name: &DestinationName) -> Option<Waiting> {
        let (account, name) = self.full_one(name)?;
        Some(Waiting::begin(account, name))
    }

    /// Whether a SEND to this name is to wait.
    #[must_use]
    pub fn holds_back(&self, name: &DestinationName) -> bool {
        self.full_one(name).is_some()
    }

    fn full_one(&self, name: &DestinationName) -> Option<(Rc<Account>, DestinationName)> {
        let term = self.term.borrow();
        let term = term.as_ref()?;
        let full = self.brake.full.borrow();
        let of = |id: &DestId| {
            let known = term.known.get(id)?;
            Some((known.account.clone()?, known.name.clone()))
        };
        if name.kind() != DestinationKind::Topic {
            let id = term.by_name.get(name)?;
            return full.get(id).and_then(of);
        }
        let topic = TopicName::parse(name.name()).ok()?;
        let mut wanted = full.iter().filter(|id| {
            let pattern = term.topics.table.pattern(**id);
            pattern.is_some_and(|pattern| pattern.matches(topic))
        });
        wanted.next().and_then(of)
    }

    /// Wakes the task when senders may go on. Call only while some may not.
    pub fn wait_for_destinations(&self, waker: &Waker) {
        let mut waiting = self.brake.waiting.borrow_mut();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Why these destinations cannot take a message more, if one of them refuses. Those with bounds are
    /// awake after this, to mind them.
    pub(super) fn refusal_of(
        self: &Rc<Self>,
        term: &mut Term,
        targets: &[DestId],
    ) -> Option<String> {
        if !self.policies.borrow().any_bounds() {
            return None;
        }
        for target in targets {
            let Some(account) = self.account(term, *target) else {
                continue;
            };
            if let Some(bounds) = account.full(OnFull::Reject) {
                let known = term.known.get(target);
                let name = known.map_or("a subscription", |known| known.name.spelling());
                return Some(full_text(name, bounds, account.load()));
            }
            if account.bounds().is_some() {
                self.wake(term, *target);
            }
        }
        None
    }

    /// Why these messages, of which the last is named, cannot be brought to a destination by an operator, if
    /// they cannot: its bound holds for them as for a sender, who may go over that of bytes by one message;
    /// and nothing waits here.
    pub(super) fn no_room_for(
        self: &Rc<Self>,
        target: DestId,
        all: Load,
        last: Load,
    ) -> Option<String> {
        let mut term = self.term.borrow_mut();
        let term = term.as_mut()?;
        let account = self.account(term, target)?;
        let bounds = account.bounds()?;
        if matches!(bounds.on_full, OnFull::DropOldest | OnFull::DeadLetter) {
            self.wake(term, target);
            return None;
        }
        let load = account.load();
        let room = bounds.most.minus(load);
        let fits = all.messages <= room.messages && all.minus(last).bytes < room.bytes;
        (!fits).then(|| {
            format!(
                "{} holds {} messages of {} bytes in all, and its [[destination]] table says {bounds}: \
                 there is no room for {} more of {} bytes; ask for fewer at once, receive messages from it, \
                 or raise the bound",
                term.known
                    .get(&target)
                    .map_or("the destination", |known| known.name.spelling()),
                load.messages,
                load.bytes,
                all.messages,
                all.bytes
            )
        })
    }
}

impl Known {
    pub(super) fn held(&self) -> Load {
        match &self.state {
            Presence::Asleep(activation) => Load {
                messages: activation.depth(),
                bytes: activation.bytes,
            },
            Presence::Awake { report, .. } => {
                let figures = report.get().figures;
                Load {
                    messages: figures.depth,
                    bytes: figures.bytes,
                }
            }
        }
    }

    /// Something was committed while it was asleep.
    pub(super) fn hold_asleep(&self, arrived: Load) {
        if let Some(account) = &self.account {
            account.arrived(arrived);
            account.hold(self.held());
        }
    }
}
