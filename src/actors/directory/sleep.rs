//! Destinations that nobody needs go back to sleep: what an actor, its mailbox and its machine take is for
//! those that are used, however many there are.
//!
//! | step | by whom |
//! |---|---|
//! | one was not used for [`IDLE`], and nothing is on its way to it | a look, a bounded number of them at a time |
//! | everything that it had submitted is committed and told | an empty unit, which the store answers then |
//! | it has nothing that the store does not have | its machine, in its turn |
//! | nothing came meanwhile: it sleeps with what the machine left, and its actor stops | here, at once |
//!
//! Whoever has its port looks it up again when that is retired.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::{Directory, Known, Presence, Term};
use crate::actors::post::{Port, post};
use crate::machines::delivery::{RequestNumber, SessionKey};
use crate::machines::destination::account::Bounds;
use crate::machines::destination::{Activation, DestinationInput, ticket};
use crate::machines::policy::OnFull;
use crate::proto::destination::DestinationName;
use crate::proto::ids::DestId;
use crate::storage::api::Unit;
use crate::time::Moment;

/// Whose requests empty units are: no session gets as far as this, and operators' are the next one.
pub(super) const SLEEPERS: SessionKey = SessionKey(u32::MAX - 1);

/// One that was used in this time stays awake. To wake costs some microseconds and one question to the store:
/// less than a thousandth of a thread for 10,000 destinations that are used once in this time.
const IDLE: Duration = Duration::from_secs(10);

/// Destinations that one look takes up: some ten microseconds.
const LOOKS_MAX: usize = 512;

/// Those that are not there any more and are passed over besides, at most: subscriptions and temporary
/// queues come and go faster than others are looked at, and must not pile up here.
const GONE_MAX: usize = 32 * LOOKS_MAX;

/// When a destination is looked at next.
#[derive(Clone, Copy, Debug)]
struct Look {
    dest: DestId,
    /// Which time that it was woken is meant.
    waking: u64,
    at: Moment,
    /// Its steps when it was looked at last.
    steps: u64,
}

/// One term's awake destinations, and those of them that may go to sleep.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    /// The next first. One for each that is awake, and for a while for those that are not any more.
    looks: VecDeque<Look>,
    wakings: u64,
    /// Were not used since the last look; the store is asked whether all of theirs is committed.
    asked: Option<(RequestNumber, Vec<Look>)>,
}

impl Sleepers {
    /// A destination is awake. Gives the number of its waking.
    pub(super) fn wakes(&mut self, dest: DestId, now: Moment) -> u64 {
        self.wakings = self.wakings.wrapping_add(1);
        self.looks.push_back(Look {
            dest,
            waking: self.wakings,
            at: now.after(IDLE),
            steps: 0,
        });
        self.wakings
    }
}

impl Directory {
    /// Looks for destinations that nobody needs.
    pub fn look_at_idle(&self) {
        let now = self.clock.now();
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut().filter(|term| term.sleepers.asked.is_none()) else {
            return;
        };
        let mut idle = Vec::new();
        let (mut looked, mut gone) = (0, 0);
        while looked < LOOKS_MAX && gone < GONE_MAX {
            let Some(look) = term.sleepers.looks.pop_front_if(|look| look.at <= now) else {
                break;
            };
            let Some(steps) = term.steps(look) else {
                gone += 1;
                continue;
            };
            looked += 1;
            let next = Look {
                at: now.after(IDLE),
                steps,
                ..look
            };
            term.sleepers.looks.push_back(next);
            if steps == look.steps && term.is_quiet(look.dest) {
                idle.push(next);
            }
        }
        if idle.is_empty() {
            return;
        }
        // One of an earlier term may be answered only now.
        let request = self.next_idle.get();
        self.next_idle.set(request.checked_add(1).unwrap_or(1));
        let request = RequestNumber(request);
        term.sleepers.asked = Some((request, idle));
        self.store.submit(vec![Unit {
            ticket: ticket(SLEEPERS, request),
            records: Vec::new(),
        }]);
    }

    /// All that was submitted before this request is committed, and was told.
    pub(super) fn idle_confirmed(&self, request: RequestNumber) {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        let is_it = |asked: &mut (RequestNumber, Vec<Look>)| asked.0 == request;
        let Some((_, idle)) = term.sleepers.asked.take_if(is_it) else {
            return;
        };
        for look in idle {
            let is_unused = term.steps(look) == Some(look.steps) && term.is_quiet(look.dest);
            if let Some(port) = term.port(look.dest).filter(|_| is_unused) {
                post(port, DestinationInput::Unneeded);
            }
        }
    }

    /// A destination is not needed, and left this. Whether it sleeps from now on: its actor stops, and
    /// nothing that was posted to it is lost.
    #[must_use]
    pub fn falls_asleep(&self, dest: DestId, left: Activation) -> bool {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut().filter(|term| term.is_quiet(dest)) else {
            return false;
        };
        let expiry = left.next_expiry_ms;
        let Some(known) = term.known.get_mut(&dest) else {
            return false;
        };
        if let Presence::Awake { port, .. } = &known.state {
            port.retire();
        }
        known.state = Presence::Asleep(left);
        // One without bounds is made again when something is sent to it.
        known.account.take_if(|account| {
            account.is_quiet() && account.is_unbounded() && account.waiting() == 0
        });
        term.expires(expiry);
        true
    }

    /// The way to a destination that has gone to sleep since its port was had; none if it is gone.
    pub(super) fn find_again(
        self: &Rc<Self>,
        name: &DestinationName,
    ) -> Option<Port<DestinationInput>> {
        let mut term = self.term.borrow_mut();
        let term = term.as_mut()?;
        let id = term.by_name.get(name).copied()?;
        self.wake(term, id)
    }

    /// Wakes those of `dests` that are full and whose oldest messages have to go for that: nobody else
    /// would look there.
    pub(super) fn wake_overfull(self: &Rc<Self>, mut dests: Vec<DestId>) {
        if let Some(term) = self.term.borrow().as_ref() {
            dests.retain(|dest| term.known.get(dest).is_some_and(Known::is_overfull));
        }
        self.wake_to_shed(dests);
    }

    /// The same of all that sleep, by policies that did not hold when they were used.
    pub(super) fn wake_all_overfull(self: &Rc<Self>) {
        if !self.policies.borrow().any_bounds() {
            return;
        }
        let mut overfull: Vec<DestId> = {
            let term = self.term.borrow();
            let known = term.iter().flat_map(|term| {
                let known = term.known.iter();
                known.map(move |(id, known)| (term, *id, known))
            });
            let overfull = known.filter(|(term, id, known)| {
                let bounds = Bounds::of(&self.policy_of(term, *id, &known.name));
                known.sleeps_beyond(bounds)
            });
            overfull.map(|(_, id, _)| id).collect()
        };
        // The same events give the same course.
        overfull.sort_unstable();
        self.wake_to_shed(overfull);
    }

    fn wake_to_shed(self: &Rc<Self>, dests: Vec<DestId>) {
        let mut term = self.term.borrow_mut();
        let Some(term) = term.as_mut() else {
            return;
        };
        for dest in dests {
            if let Some(port) = self.wake(term, dest) {
                post(&port, DestinationInput::Deadline);
            }
        }
    }
}

impl Known {
    fn is_overfull(&self) -> bool {
        let account = self.account.as_ref();
        self.sleeps_beyond(account.and_then(|account| account.bounds()))
    }

    /// It sleeps, and is at a bound at which its oldest messages go.
    fn sleeps_beyond(&self, bounds: Option<Bounds>) -> bool {
        let goes = bounds.is_some_and(|bounds| {
            let drops = matches!(bounds.on_full, OnFull::DropOldest | OnFull::DeadLetter);
            drops && bounds.is_reached(self.held())
        });
        goes && matches!(self.state, Presence::Asleep(_))
    }
}

impl Term {
    /// The steps of a destination, if it is awake since that waking.
    fn steps(&self, look: Look) -> Option<u64> {
        match &self.known.get(&look.dest)?.state {
            Presence::Awake { report, waking, .. } if *waking == look.waking => {
                Some(report.get().steps)
            }
            Presence::Awake { .. } | Presence::Asleep(_) => None,
        }
    }

    /// It is awake, as far as it shows nobody is there, and nothing is on its way to it.
    fn is_quiet(&self, dest: DestId) -> bool {
        let Some(known) = self.known.get(&dest) else {
            return false;
        };
        let Presence::Awake {
            port,
            report,
            volatile,
            ..
        } = &known.state
        else {
            return false;
        };
        let report = report.get();
        let nobody = report.figures.consumers == 0 && report.figures.unsettled == 0;
        let account = known.account.as_ref();
        nobody
            && report.fetching == 0
            && port.depth() == 0
            && volatile.messages() == 0
            && account.is_none_or(|account| account.is_quiet())
            && !self.works.is_swept(dest)
    }
}

#[cfg(test)]
mod tests;
