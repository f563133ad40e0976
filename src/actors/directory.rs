//! Who is who on the data thread: names to destinations, keys to sessions, and the way of what the
//! store tells to both. Local to its thread and no actor; it decides nothing about messages.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::actors::destination::{Destination, DestinationPorts, DestinationReport};
use crate::actors::inbox::{Inbox, Order};
use crate::actors::permits::{Ledger, PermitLimit, PermitPool};
use crate::actors::post::{Port, post};
use crate::machines::delivery::{
    DestinationCommand, OPERATOR, RequestNumber, SessionEvent, SessionKey,
};
use crate::machines::destination::{
    Activation, DestinationConfig, DestinationFigures, DestinationInput, request_of,
};
use crate::machines::duplicates::DuplicateMachine;
use crate::machines::subscriptions::{KIND_DURABLE, KIND_PASSING, SubscriptionView};
use crate::machines::transaction::TransactionMachine;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{
    Change, Committed, DuplicateBounds, Entry, Fetched, Lane, SharedStore, Ticket, Unit,
};
use crate::time::Clock;

use definition::{KIND_QUEUE, definition, queue_name};

pub use administration::{
    Administration, AdministrationError, BrowseQuery, DestinationPage, DestinationQuery,
    MessagePage, Reply, SweepOrder, SweepProgress, SweepWish, kind_of,
};
pub use topics::TopicSend;
pub use transactions::TransactionOperations;

mod administration;
mod browse;
mod definition;
mod submit;
mod temporary;
mod topics;
mod transactions;

/// Validated values.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryConfig {
    /// For each destination.
    pub destination: DestinationConfig,
    /// Destinations that clients may bring into being.
    pub destinations_max: usize,
    /// Messages on their way to the store, per connection.
    pub connection_permits: PermitLimit,
    /// The same of all connections.
    pub permits: PermitLimit,
    /// Ids of messages that are known.
    pub duplicates: DuplicateBounds,
}

impl Default for DirectoryConfig {
    fn default() -> Self {
        Self {
            destination: DestinationConfig::default(),
            destinations_max: 100_000,
            connection_permits: PermitLimit {
                messages: 8192,
                bytes: 16 << 20,
            },
            permits: PermitLimit {
                messages: 131_072,
                bytes: 256 << 20,
            },
            duplicates: DuplicateBounds::default(),
        }
    }
}

/// Why a destination cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// This server is not the active one (any more).
    #[error("this server does not serve; connect to the other server of the pair")]
    NotServing,
    /// Nothing of this name can be consumed from or sent to any more.
    #[error("the destination is gone: its connection has ended, or it was deleted")]
    Gone,
    /// The bound on destinations.
    #[error(
        "there are {0} destinations, which is the most allowed; use one that exists or raise `destinations_max`"
    )]
    TooMany(usize),
}

/// A destination for `status`.
#[derive(Clone, Debug)]
pub struct DestinationDescription {
    /// `/queue/NAME`.
    pub name: String,
    /// What it does.
    pub report: DestinationReport,
    /// What was subscribed to, if it is a subscription.
    pub subscription: Option<SubscriptionView>,
    /// Messages that were sent again in this term and not stored again.
    pub duplicates: u64,
}

/// A destination that is known in this term.
struct Known {
    name: DestinationName,
    state: Presence,
}

enum Presence {
    /// Not used in this term yet; what it will begin with.
    Asleep(Activation),
    Awake {
        port: Port<DestinationInput>,
        report: Rc<Cell<DestinationReport>>,
    },
}

/// One term of service.
struct Term {
    /// The end of the log then, which no other term has.
    begun: Lsn,
    by_name: HashMap<DestinationName, DestId>,
    known: HashMap<DestId, Known>,
    next: u32,
    /// Shared with the destinations: false once the term is over.
    serving: Rc<Cell<bool>>,
    sends_refused: bool,
    transactions: TransactionMachine,
    topics: topics::Topics,
    temporaries: HashMap<SessionKey, Vec<DestinationName>>,
    browsers: browse::Browsers,
    works: administration::Works,
}

/// See the module.
pub struct Directory {
    config: Cell<DirectoryConfig>,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    pool: Rc<PermitPool>,
    term: RefCell<Option<Term>>,
    /// Answers to fetches of earlier terms that are still to come.
    stale_fetches: RefCell<HashMap<DestId, u32>>,
    sessions: RefCell<HashMap<SessionKey, Rc<Inbox>>>,
    next_session: Cell<u32>,
    next_browser: Cell<u32>,
    next_work: Cell<u32>,
    upto: Cell<Lsn>,
    duplicates: RefCell<DuplicateMachine>,
}

impl Directory {
    /// Outside any term.
    #[must_use]
    pub fn new(config: DirectoryConfig, store: SharedStore, clock: Arc<dyn Clock>) -> Rc<Self> {
        Rc::new(Self {
            config: Cell::new(config),
            store,
            clock,
            pool: PermitPool::new(config.permits),
            term: RefCell::new(None),
            stale_fetches: RefCell::default(),
            sessions: RefCell::default(),
            next_session: Cell::new(1),
            next_browser: Cell::new(0),
            next_work: Cell::new(1),
            upto: Cell::new(Lsn::ZERO),
            duplicates: RefCell::new(DuplicateMachine::new(config.duplicates)),
        })
    }

    /// Other bounds, for what comes from now on.
    pub fn configure(&self, config: DirectoryConfig) {
        self.pool.set_limit(config.permits);
        self.duplicates.borrow_mut().set_bounds(config.duplicates);
        self.config.set(config);
    }

    /// This server begins to serve: the epoch is open and everything of earlier ones is committed.
    pub fn activate(&self) {
        self.deactivate("a new term begins");
        let horizon = self.store.log_facts().durable.lsn;
        let horizon = horizon.max(self.store.committed());
        let mut term = Term {
            begun: horizon,
            by_name: HashMap::new(),
            known: HashMap::new(),
            next: 1,
            serving: Rc::new(Cell::new(true)),
            sends_refused: self.store.facts().refuses_sends,
            transactions: TransactionMachine::default(),
            topics: topics::Topics::default(),
            temporaries: HashMap::new(),
            browsers: browse::Browsers::default(),
            works: administration::Works::default(),
        };
        let mut leftovers = Vec::new();
        for facts in self.store.destinations() {
            term.next = term.next.max(facts.id.0.saturating_add(1));
            let name = match facts.definition.first() {
                Some(&KIND_PASSING | &temporary::KIND) => {
                    leftovers.push(topics::removal(facts.id));
                    continue;
                }
                Some(&KIND_DURABLE) => term.restore_subscription(facts.id, &facts.definition),
                _ => queue_name(&facts.definition),
            };
            let Some(name) = name else {
                tracing::warn!(target: "twinmq::data", id = facts.id.0, "a destination of an unknown kind is left alone");
                continue;
            };
            let state = Presence::Asleep(Activation {
                definition: None,
                depth: facts.depth(),
                tail: facts.tail,
                mark: facts.mark(Lane::DEFAULT),
                horizon,
            });
            term.by_name.insert(name.clone(), facts.id);
            term.known.insert(facts.id, Known { name, state });
        }
        if !leftovers.is_empty() {
            self.store.submit(leftovers);
        }
        self.upto.set(self.store.committed());
        *self.duplicates.borrow_mut() = DuplicateMachine::new(self.config.get().duplicates);
        *self.term.borrow_mut() = Some(term);
    }

    /// This server stops serving: every session is told to close, every destination ends. Answers
    /// that are still to come are nobody's any more; the permits come back as the sessions end.
    pub fn deactivate(&self, reason: &str) {
        self.order_all(&Order::Close(reason.to_owned()));
        self.sessions.borrow_mut().clear();
        let Some(term) = self.term.borrow_mut().take() else {
            return;
        };
        term.serving.set(false);
        for (id, known) in term.known {
            self.end(id, known);
        }
    }

    /// A new session, with its mailbox.
    #[must_use]
    pub fn open_session(&self) -> (SessionKey, Rc<Inbox>) {
        let number = self.next_session.get();
        self.next_session.set(number.checked_add(1).unwrap_or(1));
        let ledger = Ledger::new(self.config.get().connection_permits, Rc::clone(&self.pool));
        let inbox = Rc::new(Inbox::new(ledger));
        let key = SessionKey(number);
        if self.term.borrow().is_some() {
            self.sessions.borrow_mut().insert(key, Rc::clone(&inbox));
        } else {
            // It was accepted just before the port was closed.
            inbox.order(Order::Close(Unavailable::NotServing.to_string()));
        }
        (key, inbox)
    }

    /// A session has ended. It is remembered until its last request is answered.
    pub fn close_session(&self, key: SessionKey) {
        self.drop_temporaries(key);
        let mut sessions = self.sessions.borrow_mut();
        if sessions.get(&key).is_some_and(|inbox| inbox.leave()) {
            sessions.remove(&key);
        }
    }

    /// Gives an order to every session.
    pub fn order_all(&self, order: &Order) {
        let sessions = self.sessions.borrow();
        // In the order of their coming: the same events give the same course.
        let mut inboxes: Vec<_> = sessions.iter().collect();
        inboxes.sort_unstable_by_key(|(key, _)| **key);
        for (_, inbox) in inboxes {
            inbox.order(order.clone());
        }
    }

    /// The way to a destination, which is made if there is none of this name.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn resolve(
        self: &Rc<Self>,
        name: &DestinationName,
    ) -> Result<Port<DestinationInput>, Unavailable> {
        let (_, port) = self.locate(name)?;
        Ok(port)
    }

    /// The same with its id.
    fn locate(
        self: &Rc<Self>,
        name: &DestinationName,
    ) -> Result<(DestId, Port<DestinationInput>), Unavailable> {
        let mut term = self.term.borrow_mut();
        let term = term.as_mut().ok_or(Unavailable::NotServing)?;
        let id = match term.by_name.get(name) {
            Some(id) => *id,
            None if name.kind() == DestinationKind::Queue => self.define(term, name)?,
            None => return Err(Unavailable::Gone),
        };
        Ok((id, self.awake(term, id).ok_or(Unavailable::Gone)?))
    }

    /// The way to a destination that there is.
    fn awake(self: &Rc<Self>, term: &mut Term, id: DestId) -> Option<Port<DestinationInput>> {
        let refused = term.sends_refused;
        let serving = Rc::clone(&term.serving);
        let known = term.known.get_mut(&id)?;
        let activation = match &mut known.state {
            Presence::Awake { port, .. } => return Some(port.clone()),
            Presence::Asleep(activation) => std::mem::take(activation),
        };
        let (port, report) = self.wake(id, activation, serving);
        if refused {
            post(&port, DestinationInput::SendsRefused(true));
        }
        known.state = Presence::Awake {
            port: port.clone(),
            report,
        };
        Some(port)
    }

    fn wake(
        self: &Rc<Self>,
        id: DestId,
        activation: Activation,
        serving: Rc<Cell<bool>>,
    ) -> (Port<DestinationInput>, Rc<Cell<DestinationReport>>) {
        let report = Rc::new(Cell::new(DestinationReport {
            figures: DestinationFigures {
                depth: activation.depth,
                ..DestinationFigures::default()
            },
            fetching: false,
        }));
        let ports = DestinationPorts {
            store: Arc::clone(&self.store),
            directory: Rc::clone(self),
            serving,
            report: Rc::clone(&report),
        };
        let clock = Arc::clone(&self.clock);
        let address =
            Destination::begin(self.config.get().destination, id, activation, ports, clock);
        (Port::new("destination", address.recipient()), report)
    }

    /// Commands for a destination, with what it needs to know besides.
    pub fn command(&self, port: &Port<DestinationInput>, commands: Vec<DestinationCommand>) {
        let upto = self.upto.get();
        post(port, DestinationInput::Commands { commands, upto });
    }

    /// An event for a session; nobody minds if it has ended.
    pub fn tell(&self, session: SessionKey, event: SessionEvent) {
        let mut sessions = self.sessions.borrow_mut();
        if let Some(inbox) = sessions.get(&session) {
            inbox.put(event);
            if inbox.is_done() {
                sessions.remove(&session);
            }
        }
    }

    /// What the store has committed: one post for each destination and session that it concerns.
    pub fn committed(self: &Rc<Self>, committed: Committed) {
        self.upto.set(self.upto.get().max(committed.upto));
        self.duplicates.borrow_mut().committed(&committed.tickets);
        self.route_changes(committed.changes);
        let mut whose = None;
        let mut requests: Vec<RequestNumber> = Vec::new();
        for (session, request) in committed.tickets.into_iter().filter_map(request_of) {
            if session == topics::OWN {
                self.subscription_defined(request);
                continue;
            }
            if session == OPERATOR {
                self.work_committed(request);
                continue;
            }
            if let Some(before) = whose.replace(session)
                && before != session
            {
                let requests = std::mem::take(&mut requests);
                self.tell(before, SessionEvent::Committed { requests });
            }
            requests.push(request);
        }
        if let Some(session) = whose {
            self.tell(session, SessionEvent::Committed { requests });
        }
    }

    fn route_changes(&self, changes: Vec<(DestId, Change)>) {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        for (id, change) in changes {
            let mark = change.marks.last().map(|(_, mark)| *mark);
            if mark.is_some() || !change.entries.is_empty() {
                term.route(id, change.entries, mark);
            }
        }
    }

    /// The store's answer to a fetch.
    pub fn fetched(self: &Rc<Self>, fetched: Fetched) {
        let Fetched {
            dest: id,
            tag,
            entries,
            scanned,
            ..
        } = fetched;
        if browse::is_browsers(tag) {
            self.browser_fetched(tag, entries, scanned);
            return;
        }
        let Some(entries) = self.work_fetched((id, tag), entries, scanned) else {
            return;
        };
        let mut stale = self.stale_fetches.borrow_mut();
        if let Some(count) = stale.get_mut(&id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                stale.remove(&id);
            }
            return;
        }
        let term = self.term.borrow();
        let known = term.as_ref().and_then(|term| term.known.get(&id));
        if let Some(Presence::Awake { port, .. }) = known.map(|known| &known.state) {
            post(port, DestinationInput::Fetched { entries, scanned });
        }
    }

    /// Looks whether the store refuses sends now, and passes on a change.
    pub fn look_at_store(&self) {
        let refused = self.store.facts().refuses_sends;
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut().filter(|term| term.sends_refused != refused) else {
            return;
        };
        term.sends_refused = refused;
        if refused {
            tracing::warn!(target: "twinmq::data", "sends are refused: the store is almost full");
        } else {
            tracing::info!(target: "twinmq::data", "sends are taken again");
        }
        for known in term.known.values() {
            if let Presence::Awake { port, .. } = &known.state {
                post(port, DestinationInput::SendsRefused(refused));
            }
        }
    }

    /// Posts that destinations have not handled.
    #[must_use]
    pub fn backlog(&self) -> usize {
        let term = self.term.borrow();
        let known = term.iter().flat_map(|term| term.known.values());
        known
            .map(|known| match &known.state {
                Presence::Awake { port, .. } => port.depth(),
                Presence::Asleep(_) => 0,
            })
            .sum()
    }

    /// Sessions that are open or wait for their last answer.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// Messages and bytes on their way to the store.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        self.pool.used()
    }

    /// The pool that connections wait for.
    #[must_use]
    pub fn pool(&self) -> &PermitPool {
        &self.pool
    }

    /// Gives a new queue its id. Its definition goes with its first unit.
    fn define(&self, term: &mut Term, name: &DestinationName) -> Result<DestId, Unavailable> {
        let id = self.next_id(term)?;
        self.learn(term, id, name.clone(), Some(definition(KIND_QUEUE, name)));
        Ok(id)
    }

    /// The id of one destination more, which is taken by [`Directory::learn`].
    fn next_id(&self, term: &Term) -> Result<DestId, Unavailable> {
        let full = term.known.len() >= self.config.get().destinations_max;
        if full || term.next == u32::MAX {
            return Err(Unavailable::TooMany(term.known.len()));
        }
        Ok(DestId(term.next))
    }

    /// A new destination; its definition goes with its first unit unless it is in the store's hands.
    fn learn(&self, term: &mut Term, id: DestId, name: DestinationName, definition: Option<Bytes>) {
        term.next = term.next.max(id.0.saturating_add(1));
        let state = Presence::Asleep(Activation {
            definition,
            horizon: self.upto.get(),
            ..Activation::default()
        });
        term.by_name.insert(name.clone(), id);
        term.known.insert(id, Known { name, state });
    }

    /// A destination is no more: its definition is taken out of the store with what it is owed. What is
    /// in its mailbox is still carried out.
    fn drop_destination(&self, term: &mut Term, id: DestId, ticket: Ticket) {
        self.store.submit(vec![Unit {
            ticket,
            ..topics::removal(id)
        }]);
        if let Some(known) = term.known.remove(&id) {
            term.by_name.remove(&known.name);
            term.works.forget(id);
            self.end(id, known);
        }
    }

    /// Its actor ends; an answer that is still to come is nobody's.
    fn end(&self, id: DestId, known: Known) {
        if let Presence::Awake { port, report } = known.state {
            port.retire();
            if report.get().fetching {
                let mut stale = self.stale_fetches.borrow_mut();
                let count = stale.entry(id).or_default();
                *count = count.saturating_add(1);
            }
        }
    }
}

impl Term {
    fn route(&mut self, id: DestId, entries: Vec<Entry>, mark: Option<Lsn>) {
        match self.known.get_mut(&id).map(|known| &mut known.state) {
            Some(Presence::Awake { port, .. }) => {
                post(port, DestinationInput::Committed { entries, mark });
            }
            Some(Presence::Asleep(activation)) => {
                let new = entries.iter().filter(|entry| entry.lsn > activation.tail);
                let count = u64::try_from(new.count()).unwrap_or(u64::MAX);
                activation.depth = activation.depth.saturating_add(count);
                let tail = entries.last().map_or(Lsn::ZERO, |entry| entry.lsn);
                activation.tail = activation.tail.max(tail);
                activation.mark = activation.mark.max(mark.unwrap_or(Lsn::ZERO));
            }
            None => {}
        }
    }
}

impl Presence {
    fn report(&self) -> DestinationReport {
        match self {
            Self::Asleep(activation) => DestinationReport {
                figures: DestinationFigures {
                    depth: activation.depth,
                    ..DestinationFigures::default()
                },
                fetching: false,
            },
            Self::Awake { report, .. } => report.get(),
        }
    }
}

#[cfg(test)]
mod tests;
