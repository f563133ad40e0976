//! The end of a destination by an operator's order. Nothing that its sender was told is stored may be on its
//! way to it then, but for what goes with it: while something is, senders wait, as they do for one that is
//! full, and it goes once all is there. What they send then makes a queue anew.

use std::time::Duration;

use super::{AdministrationError, Deletion, Reply, Running};
use crate::actors::directory::{Directory, Presence, Term};
use crate::machines::delivery::{OPERATOR, RequestNumber};
use crate::machines::destination::ticket;
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::DestId;
use crate::time::Moment;

/// How long senders are held back for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// One that is to go.
pub(super) struct Deleting {
    pub(super) dest: DestId,
    name: DestinationName,
    messages_max: u64,
    until: Moment,
    reply: Reply<Deletion>,
}

/// Why a destination cannot go.
enum Objection {
    /// In words.
    Refused(String),
    /// Not at this moment.
    InUse,
}

impl Directory {
    pub(super) fn delete(&self, spelling: &str, messages_max: u64, reply: Reply<Deletion>) {
        let Some((dest, name)) = self.find(spelling) else {
            reply(Err(AdministrationError::Unknown(spelling.to_owned())));
            return;
        };
        if self.is_busy() {
            reply(Err(AdministrationError::Busy));
            return;
        }
        if self.is_leaving(dest) {
            let said = format!("{name} is being deleted already");
            reply(Err(AdministrationError::Refused(said)));
            return;
        }
        let until = self.clock.now().after(PATIENCE);
        let deleting = Box::new(Deleting {
            dest,
            name,
            messages_max,
            until,
            reply,
        });
        if let Some(number) = self.begin(|_| Running::Deleting(deleting)) {
            self.go_on_deleting(number);
        }
    }

    /// Deletes what nothing is on its way to any more. To be called now and then.
    pub fn look_at_deletions(&self) {
        let mut numbers: Vec<u32> = {
            let term = self.term.borrow();
            let all = term.iter().flat_map(|term| &term.works.0);
            let all = all.filter(|(_, running)| matches!(running, Running::Deleting(_)));
            all.map(|(number, _)| *number).collect()
        };
        // The same events give the same course.
        numbers.sort_unstable();
        for number in numbers {
            self.go_on_deleting(number);
        }
    }

    fn go_on_deleting(&self, number: u32) {
        let mut borrowed = self.term.borrow_mut();
        let Some(term) = borrowed.as_mut() else {
            return;
        };
        let deleting = match term.works.0.remove(&number) {
            Some(Running::Deleting(deleting)) => deleting,
            Some(other) => {
                term.works.0.insert(number, other);
                return;
            }
            None => return,
        };
        let dest = deleting.dest;
        let gone = term.deletion(dest);
        let reason = match term.objection(dest, &deleting.name, deleting.messages_max) {
            None => {
                tracing::info!(
                    target: "twinmq::admin", destination = %deleting.name, messages = gone.messages,
                    "deleted by an operator"
                );
                let waits = Running::Delete(deleting.reply, gone);
                term.works.0.insert(number, waits);
                self.drop_destination(term, dest, ticket(OPERATOR, RequestNumber(number)));
                return;
            }
            Some(Objection::InUse) if self.clock.now() < deleting.until => {
                let account = self.account(term, dest);
                term.works.0.insert(number, Running::Deleting(deleting));
                drop(borrowed);
                if let Some(account) = account {
                    account.set_leaving(true);
                    self.mind_bounds(dest, &account);
                }
                return;
            }
            Some(Objection::InUse) => format!(
                "{} was in use all the time, for {} s, though senders were held back: transactions, dead \
                 messages or another operator's work go on there; it is not deleted: stop those first",
                deleting.name,
                PATIENCE.as_secs()
            ),
            Some(Objection::Refused(reason)) => reason,
        };
        let account = self.account(term, dest);
        drop(borrowed);
        if let Some(account) = account.filter(|account| account.is_leaving()) {
            account.set_leaving(false);
            self.mind_bounds(dest, &account);
        }
        (deleting.reply)(Err(AdministrationError::Refused(reason)));
    }

    fn is_leaving(&self, dest: DestId) -> bool {
        let term = self.term.borrow();
        let mut all = term.iter().flat_map(|term| term.works.0.values());
        all.any(|running| matches!(running, Running::Deleting(it) if it.dest == dest))
    }
}

impl Term {
    /// What would go with it now.
    fn deletion(&self, dest: DestId) -> Deletion {
        let known = self.known.get(&dest);
        let account = known.and_then(|known| known.account.as_ref());
        Deletion {
            messages: known.map_or(0, |known| known.state.report().figures.depth),
            senders: account.map_or(0, |account| account.waiting()),
        }
    }

    /// Why this destination cannot go; a subscription that can go is no more in its table then.
    fn objection(
        &mut self,
        id: DestId,
        name: &DestinationName,
        messages_max: u64,
    ) -> Option<Objection> {
        let refused = |reason| Some(Objection::Refused(reason));
        let known = self.known.get(&id)?;
        let report = known.state.report();
        let figures = report.figures;
        let waits = match &known.state {
            Presence::Awake { port, .. } => port.depth(),
            Presence::Asleep(_) => 0,
        };
        if name.kind() == DestinationKind::TemporaryQueue {
            return refused(format!("{name} goes with the connection that made it"));
        }
        if figures.consumers > 0 || figures.unsettled > 0 {
            return refused(format!(
                "{name} has {} consumers and {} unsettled deliveries: stop its consumers first",
                figures.consumers, figures.unsettled
            ));
        }
        if figures.depth > messages_max {
            return refused(format!(
                "{name} holds {} messages, which would go with it, and {messages_max} are allowed for: with \
                 --yes it goes with whatever it holds",
                figures.depth
            ));
        }
        if let Some(user) = self.user_of_dead(id) {
            return refused(format!(
                "{name} takes the dead messages of {user}: say another dead_letter for that in the profile, \
                 or delete it first"
            ));
        }
        let quiet = known
            .account
            .as_ref()
            .is_none_or(|account| account.is_quiet());
        if waits > 0 || !quiet || self.works.is_swept(id) {
            return Some(Objection::InUse);
        }
        let identity = self.topics.table.view(id).map(|view| view.spec.identity)?;
        let forgotten = self.topics.table.forget(OPERATOR, &identity);
        forgotten
            .err()
            .map(|error| Objection::Refused(error.to_string()))
    }

    /// A destination that sends its dead messages to this one, or is about to.
    fn user_of_dead(&self, queue: DestId) -> Option<&DestinationName> {
        let users = self.dead_letters.get(&queue)?;
        let users = users.iter().filter(|user| **user != queue);
        let names = users.filter_map(|user| self.known.get(user));
        // The same state gives the same words.
        names.map(|known| &known.name).min()
    }
}
