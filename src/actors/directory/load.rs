//! The directory's part in limits: who holds how much memory, whether the store has room, and sends
//! that demand two copies.

use std::rc::Rc;
use std::time::Duration;

use super::{Directory, Unavailable};
use crate::actors::inbox::Inbox;
use crate::actors::overload::{Limit, Overload};
use crate::actors::permits::PermitPool;
use crate::machines::delivery::{RequestNumber, SessionEvent, SessionKey};
use crate::machines::destination::request_of;
use crate::proto::destination::DestinationName;
use crate::storage::api::{GatePolicy, StoreFacts, Ticket};
use crate::time::Moment;

/// A connection with less than this is not to blame for what all hold.
const OFFENCE_BYTES: usize = 1 << 20;

/// What a closed connection held comes back once its destinations have heard of it. Who holds less is
/// not closed for that until so much later.
const COMES_BACK: Duration = Duration::from_secs(1);

const UNCONFIRMED: &str = "its destination demands two copies (copies = 2), and the other server went \
    away before it had this message: it is stored on this server alone and will be delivered, but it is \
    NOT confirmed; sent again it may come twice";

/// The connection that was closed last for what all hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shed {
    /// What all held then, in bytes.
    total: usize,
    /// What it held of that.
    held: usize,
    at: Moment,
}

impl Shed {
    /// Most of what it held has not come back yet.
    fn is_awaited(&self, total: usize, now: Moment) -> bool {
        total > self.total.saturating_sub(self.held / 2) && now.since(self.at) < COMES_BACK
    }
}

impl Directory {
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

    /// What is limited.
    #[must_use]
    pub fn overload(&self) -> &Overload {
        &self.overload
    }

    /// Looks at memory and store: holds senders back or lets them go on, and closes who holds too much.
    pub(super) fn look_at_load(&self, store: StoreFacts) {
        let bounds = self.overload.bounds();
        let mut total = self
            .term
            .borrow()
            .as_ref()
            .map_or(0, |term| term.kept.get());
        let mut going = 0usize;
        let mut staying = Vec::new();
        for (key, inbox) in self.sessions.borrow().iter() {
            let held = inbox.held();
            total = total.saturating_add(held.own);
            if inbox.is_shed() {
                going = going.saturating_add(held.all());
            } else {
                staying.push((held.all(), *key, Rc::clone(inbox)));
            }
        }
        self.overload.look(total, store);
        for (held, key, inbox) in &staying {
            if *held > bounds.connection {
                going = going.saturating_add(*held);
                let limit = Limit::ConnectionMemory;
                let name = "limits.connection_memory_mib";
                self.shed(*key, inbox, *held, (limit, name, bounds.connection));
            }
        }
        // Those that go already free what they hold in a moment.
        let now = self.clock.now();
        let awaited = self
            .shed
            .get()
            .is_some_and(|shed| shed.is_awaited(total, now));
        if total.saturating_sub(going) > bounds.critical && !awaited {
            let offender = staying
                .iter()
                .filter(|(held, _, inbox)| *held >= OFFENCE_BYTES && !inbox.is_shed())
                .max_by_key(|(held, key, _)| (*held, *key));
            if let Some((held, key, inbox)) = offender {
                let limit = Limit::MemoryCritical;
                let name = "limits.memory_critical_mib";
                self.shed(*key, inbox, *held, (limit, name, bounds.critical));
                let held = *held;
                self.shed.set(Some(Shed {
                    total,
                    held,
                    at: now,
                }));
            }
        }
    }

    /// `met` is the limit, its key and its bound.
    fn shed(&self, session: SessionKey, inbox: &Inbox, held: usize, met: (Limit, &str, usize)) {
        let (limit, key, bound) = met;
        let (held, bound) = (held >> 20, bound >> 20);
        tracing::warn!(
            target: "twinmq::data", session = session.0, held_mib = held, bound_mib = bound,
            "a connection is closed for the memory that it holds ({key})"
        );
        self.overload.count(limit);
        inbox.shed(format!(
            "this connection holds {held} MiB of the server's memory, and `{key}` is {bound}: read and \
             acknowledge faster, or ask for a smaller prefetch"
        ));
    }

    /// Whether a send to this destination demands two copies.
    ///
    /// # Errors
    /// It does, and there is one.
    pub fn check_copies(&self, name: &DestinationName) -> Result<bool, Unavailable> {
        let demands = self.policies.borrow().demands_both(name);
        if demands && self.store.gate() != GatePolicy::WithPeer {
            self.overload.count(Limit::Copies);
            return Err(Unavailable::OneCopy);
        }
        Ok(demands)
    }

    /// This request is to be confirmed only when it is on both servers.
    pub fn demand_both(&self, session: SessionKey, request: RequestNumber) {
        self.both.borrow_mut().insert((session, request));
    }

    /// Drops the tickets of requests that are stored here alone and demand both, and tells their
    /// sessions so.
    pub(super) fn without_unconfirmed(&self, tickets: Vec<Ticket>, alone: bool) -> Vec<Ticket> {
        if self.both.borrow().is_empty() {
            return tickets;
        }
        let (unconfirmed, confirmed): (Vec<Ticket>, Vec<Ticket>) =
            tickets.into_iter().partition(|ticket| {
                let demanded = request_of(*ticket)
                    .is_some_and(|request| self.both.borrow_mut().remove(&request));
                demanded && alone
            });
        for (session, request) in unconfirmed.into_iter().filter_map(request_of) {
            self.overload.count(Limit::Copies);
            let reason = UNCONFIRMED.to_owned();
            self.tell(session, SessionEvent::Refused { request, reason });
        }
        confirmed
    }

    /// What is limited now and why, for `status`.
    #[must_use]
    pub fn limited_now(&self) -> Vec<String> {
        let mut now = self.overload.now();
        if !self.pool.has_room() {
            now.push(format!(
                "senders wait: {} messages are on their way to the store",
                self.pool.used().0
            ));
        }
        now.extend(self.full_now());
        let serving = self.term.borrow().is_some();
        let alone = self.store.gate() != GatePolicy::WithPeer;
        if serving && alone && self.policies.borrow().any_demands_both() {
            now.push(
                "sends to destinations with copies = 2 are refused: this server is alone"
                    .to_owned(),
            );
        }
        now
    }
}
