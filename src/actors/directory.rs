//! Who is who on the data thread: names to destinations, keys to sessions, and the way of what the
//! store tells to both. Local to its thread and no actor; it decides nothing about messages.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::actors::client_roll::ClientRoll;
use crate::actors::destination::{Destination, DestinationPorts, DestinationReport};
use crate::actors::inbox::{Inbox, Order};
use crate::actors::overload::{Limit, Overload};
use crate::actors::permits::{Ledger, PermitPool};
use crate::actors::post::{Port, post};
use crate::machines::delivery::{
    DestinationCommand, OPERATOR, RequestNumber, SessionEvent, SessionKey,
};
use crate::machines::destination::account::Account;
use crate::machines::destination::{
    Activation, DestinationInput, VolatilePool, VolatileShare, request_of,
};
use crate::machines::duplicates::DuplicateMachine;
use crate::machines::policy::Policies;
use crate::machines::transaction::TransactionMachine;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{Change, Committed, Fetched, SharedStore};
use crate::time::Clock;

use definition::{KIND_QUEUE, definition};

pub use bounds::Waiting;

pub use administration::{
    Administration, AdministrationError, BrowseQuery, Deletion, DestinationPage, DestinationQuery,
    MessagePage, Reply, SweepOrder, SweepProgress, SweepWish, kind_of,
};
pub use clients::{ClientAtRisk, ClientSigns, ClientsDescription};
pub use topics::TopicSend;
pub use transactions::TransactionOperations;
pub use vocabulary::{BoundDescription, DestinationDescription, DirectoryConfig, Unavailable};

mod administration;
mod bounds;
mod browse;
mod clients;
mod definition;
mod load;
mod sleep;
mod submit;
mod takeover;
mod temporary;
mod terms;
mod topics;
mod transactions;
mod upkeep;
mod uploads;
mod vocabulary;
mod volatile;

/// A destination that is known in this term.
struct Known {
    name: DestinationName,
    state: Presence,
    /// From its first message or use on.
    account: Option<Rc<Account>>,
}

enum Presence {
    /// Not used in this term yet, or not for a while; what it will begin with.
    Asleep(Activation),
    Awake {
        port: Port<DestinationInput>,
        report: Rc<Cell<DestinationReport>>,
        /// What it has of the memory for messages that are not stored.
        volatile: Rc<VolatileShare>,
        /// All its messages are such.
        all_volatile: bool,
        /// Tells this time from others before and after a sleep.
        waking: u64,
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
    /// The term is about to end: destinations that begin now are told so as well.
    draining: bool,
    transactions: TransactionMachine,
    volatile: Rc<VolatilePool>,
    /// No message of a destination that is asleep expires before this.
    next_expiry_ms: Option<u64>,
    /// Bytes of messages that destinations keep in memory; shared with them.
    kept: Rc<Cell<usize>>,
    topics: topics::Topics,
    temporaries: HashMap<SessionKey, Vec<DestinationName>>,
    browsers: browse::Browsers,
    sleepers: sleep::Sleepers,
    works: administration::Works,
    /// Queues for dead messages, with who was told of them.
    dead_letters: HashMap<DestId, HashSet<DestId>>,
}

/// See the module.
pub struct Directory {
    config: Cell<DirectoryConfig>,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    pool: Rc<PermitPool>,
    policies: RefCell<Arc<Policies>>,
    overload: Overload,
    shed: Cell<Option<load::Shed>>,
    brake: bounds::Brake,
    /// Sends that are confirmed only when both servers hold them.
    both: RefCell<HashSet<(SessionKey, RequestNumber)>>,
    term: RefCell<Option<Term>>,
    /// Answers to fetches of earlier terms that are still to come.
    stale_fetches: RefCell<HashMap<DestId, usize>>,
    sessions: RefCell<HashMap<SessionKey, Rc<Inbox>>>,
    next_session: Cell<u32>,
    next_browser: Cell<u32>,
    next_work: Cell<u32>,
    next_idle: Cell<u32>,
    upto: Cell<Lsn>,
    duplicates: RefCell<DuplicateMachine>,
    ending: RefCell<uploads::Ending>,
    roll: Arc<ClientRoll>,
}

impl Directory {
    /// Outside any term; with a roll of clients that others see.
    #[must_use]
    pub fn with_roll(
        config: DirectoryConfig,
        store: SharedStore,
        clock: Arc<dyn Clock>,
        roll: Arc<ClientRoll>,
    ) -> Rc<Self> {
        Rc::new(Self {
            config: Cell::new(config),
            store,
            clock,
            pool: PermitPool::new(config.permits),
            policies: RefCell::default(),
            overload: Overload::new(config.memory),
            shed: Cell::new(None),
            brake: bounds::Brake::default(),
            both: RefCell::default(),
            term: RefCell::new(None),
            stale_fetches: RefCell::default(),
            sessions: RefCell::default(),
            next_session: Cell::new(1),
            next_browser: Cell::new(0),
            next_work: Cell::new(1),
            next_idle: Cell::new(1),
            upto: Cell::new(Lsn::ZERO),
            duplicates: RefCell::new(DuplicateMachine::new(config.duplicates)),
            ending: RefCell::default(),
            roll,
        })
    }

    /// The same with a roll of its own.
    #[must_use]
    pub fn new(config: DirectoryConfig, store: SharedStore, clock: Arc<dyn Clock>) -> Rc<Self> {
        Self::with_roll(config, store, clock, ClientRoll::new())
    }

    /// Other bounds, for what comes from now on.
    pub fn configure(&self, config: DirectoryConfig) {
        self.pool.set_limit(config.permits);
        self.overload.set_bounds(config.memory);
        self.duplicates.borrow_mut().set_bounds(config.duplicates);
        self.config.set(config);
        if let Some(term) = self.term.borrow().as_ref() {
            term.volatile.set_bytes_max(config.volatile_bytes);
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
        self.roll.machine().left(key.0);
        self.drop_temporaries(key);
        let mut sessions = self.sessions.borrow_mut();
        if sessions.get(&key).is_some_and(|inbox| inbox.leave()) {
            sessions.remove(&key);
        }
    }

    /// Gives an order to every session. What consumers hold when they are drained is nobody's failure.
    pub fn order_all(&self, order: &Order) {
        if *order != Order::Run {
            self.roll.machine().freeze();
        }
        if let (Order::Drain(_), Some(term)) = (order, self.term.borrow_mut().as_mut()) {
            term.draining = true;
            for known in term.known.values() {
                if let Presence::Awake { port, .. } = &known.state {
                    post(port, DestinationInput::Draining);
                }
            }
        }
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
        Ok((id, self.wake(term, id).ok_or(Unavailable::Gone)?))
    }

    /// The way to a destination that there is, which is begun if it was asleep.
    fn wake(self: &Rc<Self>, term: &mut Term, id: DestId) -> Option<Port<DestinationInput>> {
        if let Presence::Awake { port, .. } = &term.known.get(&id)?.state {
            return Some(port.clone());
        }
        let account = self.account(term, id)?;
        let name = term.known.get(&id)?.name.clone();
        let policy = self.policy_of(term, id, &name);
        let known = term.known.get_mut(&id)?;
        let mut activation = match &mut known.state {
            Presence::Awake { port, .. } => return Some(port.clone()),
            Presence::Asleep(activation) => std::mem::take(activation),
        };
        name.spelling().clone_into(&mut activation.name);
        activation.policy = Some(policy);
        activation.account = Some(Rc::clone(&account));
        let report = Rc::new(Cell::new(asleep(&activation)));
        let all_volatile = activation.volatile;
        let volatile = VolatileShare::new(Rc::clone(&term.volatile));
        let ports = DestinationPorts {
            store: Arc::clone(&self.store),
            directory: Rc::clone(self),
            serving: Rc::clone(&term.serving),
            report: Rc::clone(&report),
            volatile: Rc::clone(&volatile),
            kept: Rc::clone(&term.kept),
            account,
        };
        let clock = Arc::clone(&self.clock);
        let config = self.config.get().destination;
        let address = Destination::begin(config, id, activation, ports, clock);
        let port = Port::new("destination", address.recipient());
        if term.sends_refused {
            post(&port, DestinationInput::SendsRefused(true));
        }
        if term.draining {
            post(&port, DestinationInput::Draining);
        }
        known.state = Presence::Awake {
            port: port.clone(),
            report,
            volatile,
            all_volatile,
            waking: term.sleepers.wakes(id, self.clock.now()),
        };
        Some(port)
    }

    /// Commands for a destination, with what it needs to know besides.
    pub fn command(&self, port: &Port<DestinationInput>, commands: Vec<DestinationCommand>) {
        let upto = self.upto.get();
        post(port, DestinationInput::Commands { commands, upto });
    }

    /// An event for a session; nobody minds if it has ended.
    pub fn tell(&self, session: SessionKey, event: SessionEvent) {
        if let SessionEvent::Refused { request, .. } = &event
            && !self.both.borrow_mut().remove(&(session, *request))
        {
            self.overload.count(Limit::Refused);
        }
        self.end_uploads(session, &event);
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
        self.route(committed.changes, committed.upto);
        self.parts_committed(&committed.parts);
        let mut whose = None;
        let mut requests: Vec<RequestNumber> = Vec::new();
        let tickets = self.without_unconfirmed(committed.tickets, committed.alone);
        for (session, request) in tickets.into_iter().filter_map(request_of) {
            if session == topics::OWN {
                self.subscription_defined(request);
                continue;
            }
            if session == sleep::SLEEPERS {
                self.idle_confirmed(request);
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

    fn route(self: &Rc<Self>, changes: Vec<(DestId, Change)>, upto: Lsn) {
        let mut arrived = Vec::new();
        if let Some(term) = self.term.borrow_mut().as_mut() {
            for (id, change) in changes {
                if term.route(id, change, upto) {
                    arrived.push(id);
                }
            }
        }
        self.wake_overfull(arrived);
    }

    /// The store's answer to a fetch.
    pub fn fetched(self: &Rc<Self>, fetched: Fetched) {
        if browse::is_browsers(fetched.tag) {
            self.browser_answered(fetched.tag, fetched.entries, fetched.scanned);
            return;
        }
        if administration::is_operators(fetched.tag) {
            self.work_fetched(fetched);
            return;
        }
        let mut stale = self.stale_fetches.borrow_mut();
        if let Some(count) = stale.get_mut(&fetched.dest) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                stale.remove(&fetched.dest);
            }
            return;
        }
        let term = self.term.borrow();
        let known = term.as_ref().and_then(|term| term.known.get(&fetched.dest));
        if let Some(Presence::Awake { port, .. }) = known.map(|known| &known.state) {
            post(port, DestinationInput::Fetched(fetched));
        }
    }

    /// Looks at what is short, and whether the store refuses sends now; passes on a change.
    pub fn look_at_store(&self) {
        let facts = self.store.facts();
        self.look_at_load(facts);
        let refused = facts.refuses_sends;
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

    /// Gives a new queue its id. Its definition goes with its first unit.
    fn define(&self, term: &mut Term, name: &DestinationName) -> Result<DestId, Unavailable> {
        let id = self.next_id(term)?;
        let definition = definition(KIND_QUEUE, name);
        self.learn(term, id, name.clone(), Some(definition), false);
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
    /// The messages of a `volatile` one are not stored as long as there is memory for them.
    fn learn(
        &self,
        term: &mut Term,
        id: DestId,
        name: DestinationName,
        definition: Option<Bytes>,
        volatile: bool,
    ) {
        term.next = term.next.max(id.0.saturating_add(1));
        let activation = Activation {
            definition,
            horizon: self.upto.get(),
            volatile,
            ..Activation::default()
        };
        term.sleeps(id, name, activation);
    }
}

impl Term {
    /// There is a destination that is not used in this term yet.
    fn sleeps(&mut self, id: DestId, name: DestinationName, activation: Activation) {
        self.by_name.insert(name.clone(), id);
        let known = Known {
            name,
            state: Presence::Asleep(activation),
            account: None,
        };
        self.known.insert(id, known);
    }

    /// Whether something arrived at one that is asleep.
    fn route(&mut self, id: DestId, change: Change, upto: Lsn) -> bool {
        let Some(known) = self.known.get_mut(&id) else {
            return false;
        };
        match &mut known.state {
            Presence::Awake { port, .. } => {
                post(port, DestinationInput::Committed { change, upto });
                false
            }
            Presence::Asleep(activation) => {
                let arrived = activation.absorb(&change);
                let expiry = activation.next_expiry_ms;
                known.hold_asleep(arrived);
                self.expires(expiry);
                true
            }
        }
    }

    /// A destination that is asleep has a message that expires.
    fn expires(&mut self, at_ms: Option<u64>) {
        self.next_expiry_ms = self.next_expiry_ms.into_iter().chain(at_ms).min();
    }
}

impl Presence {
    fn report(&self) -> DestinationReport {
        match self {
            Self::Asleep(activation) => asleep(activation),
            Self::Awake { report, .. } => report.get(),
        }
    }
}

/// What a destination that is asleep shows of itself.
fn asleep(activation: &Activation) -> DestinationReport {
    DestinationReport {
        figures: activation.figures(),
        ..DestinationReport::default()
    }
}

#[cfg(test)]
mod tests;
