//! What an operator asks of the destinations: what there is, what is in them, and work on it, which
//! goes by batches through the destination's actor (`machines::sweep`).

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::{DestinationDescription, Directory, KIND_QUEUE, Term};
use crate::machines::delivery::{DestinationCommand, Removal, RequestNumber};
use crate::machines::destination::account::Load;
use crate::machines::sweep::{
    PAGE_MESSAGES, SweepAction, SweepEffect, SweepInput, SweepMachine, SweepReport, SweepSpec,
    SweepTarget, Swept,
};
use crate::proto::destination::{DestinationKind, DestinationName};
use crate::proto::ids::{DestId, Lsn};
use crate::storage::api::{Draft, Entry, Fetched, SPACE_DESTINATION, Scope, Times};

mod deletion;
mod looks;
mod vocabulary;

use self::deletion::Deleting;
use self::looks::Look;
pub use self::vocabulary::{
    Administration, AdministrationError, BrowseQuery, Deletion, DestinationPage, DestinationQuery,
    MessagePage, Reply, SweepOrder, SweepProgress, SweepWish, kind_of,
};
use self::vocabulary::{LISTED_MAX, RUNNING_MAX};

/// Tags of questions that are asked for an operator: this bit and a number.
const OPERATOR_TAG: u32 = 1 << 30;

/// The answer is for an operator. Asked after those of browsers, whose tags have a higher bit.
pub(super) fn is_operators(tag: u32) -> bool {
    tag & OPERATOR_TAG != 0
}

/// How long one call works before it says how far it came.
const STRETCH: Duration = Duration::from_millis(1000);
struct Sweep {
    dest: DestId,
    machine: SweepMachine,
    reply: Reply<SweepProgress>,
    /// Of the batch that the destination has.
    homeless: u64,
}

enum Running {
    Sweep(Box<Sweep>),
    Browse(Box<Look>),
    /// Waits until nothing is on its way there.
    Deleting(Box<Deleting>),
    /// Waits for the commit of its end.
    Delete(Reply<Deletion>, Deletion),
}

impl Running {
    fn dest(&self) -> Option<DestId> {
        match self {
            Self::Sweep(sweep) => Some(sweep.dest),
            Self::Browse(look) => Some(look.dest),
            Self::Deleting(deleting) => Some(deleting.dest),
            Self::Delete(..) => None,
        }
    }
}

/// What goes on in one term, by number.
#[derive(Default)]
pub(super) struct Works(HashMap<u32, Running>);

impl Works {
    /// A destination is no more: whoever works on it hears no more.
    pub(super) fn forget(&mut self, dest: DestId) {
        self.0.retain(|_, running| running.dest() != Some(dest));
    }

    pub(super) fn is_swept(&self, dest: DestId) -> bool {
        self.0.values().any(|running| match running {
            Running::Sweep(sweep) => sweep.dest == dest,
            Running::Browse(_) | Running::Deleting(_) | Running::Delete(..) => false,
        })
    }
}

impl Directory {
    /// Every destination, by name.
    #[must_use]
    pub fn describe(&self) -> Vec<DestinationDescription> {
        let term = self.term.borrow();
        let all = term
            .iter()
            .flat_map(|term| term.known.keys().filter_map(|id| self.described(term, *id)));
        let mut all: Vec<DestinationDescription> = all.collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    fn described(&self, term: &Term, id: DestId) -> Option<DestinationDescription> {
        let known = term.known.get(&id)?;
        Some(DestinationDescription {
            name: known.name.spelling().to_owned(),
            report: known.state.report(),
            subscription: term.topics.table.view(id),
            duplicates: self.duplicates.borrow().hits(Scope::queue(id)),
            bound: self.bound_of(term, id, known),
        })
    }

    /// Does what an operator asks, or begins to.
    pub fn administer(self: &Rc<Self>, asked: Administration) {
        if self.term.borrow().is_none() {
            asked.refuse(AdministrationError::NotServing);
            return;
        }
        match asked {
            Administration::List(query, reply) => reply(Ok(self.page(&query))),
            Administration::Browse(query, reply) => self.look(&query, reply),
            Administration::Sweep(order, reply) => self.sweep(order, reply),
            Administration::Delete(name, messages_max, reply) => {
                self.delete(&name, messages_max, reply);
            }
        }
    }

    fn page(&self, query: &DestinationQuery) -> DestinationPage {
        let term = self.term.borrow();
        let Some(term) = term.as_ref() else {
            return DestinationPage::default();
        };
        let limit = query.limit.clamp(1, LISTED_MAX);
        let mut named: Vec<(&str, DestId)> = term
            .known
            .iter()
            .map(|(id, known)| (known.name.spelling(), *id))
            .filter(|(name, _)| query.takes(name))
            .collect();
        let total = named.len();
        let after = query.after.as_deref();
        named.retain(|(name, _)| after.is_none_or(|after| *name > after));
        let more = named.len() > limit;
        if more {
            // Only the first are wanted in order: there may be very many.
            named.select_nth_unstable(limit);
            named.truncate(limit);
        }
        named.sort_unstable();
        let destinations = named
            .into_iter()
            .filter_map(|(_, id)| self.described(term, id))
            .collect();
        DestinationPage {
            destinations,
            total,
            more,
        }
    }

    /// The next number, if there is room for one more.
    fn begin(&self, running: impl FnOnce(u32) -> Running) -> Option<u32> {
        let number = self.next_work.get();
        self.next_work
            .set(number.checked_add(1).unwrap_or(1) % OPERATOR_TAG);
        let mut term = self.term.borrow_mut();
        term.as_mut()?.works.0.insert(number, running(number));
        Some(number)
    }

    fn is_busy(&self) -> bool {
        let term = self.term.borrow();
        let running = term.as_ref().map_or(0, |term| term.works.0.len());
        running >= RUNNING_MAX
    }

    fn find(&self, spelling: &str) -> Option<(DestId, DestinationName)> {
        let term = self.term.borrow();
        let term = term.as_ref()?;
        let name = name_of(spelling)?;
        term.by_name.get(&name).map(|id| (*id, name))
    }

    fn sweep(self: &Rc<Self>, order: SweepOrder, reply: Reply<SweepProgress>) {
        let begun = self.sweep_spec(&order);
        let (dest, spec) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                reply(Err(error));
                return;
            }
        };
        let sweep = Sweep {
            dest,
            machine: SweepMachine::new(spec),
            reply,
            homeless: 0,
        };
        if let Some(number) = self.begin(|_| Running::Sweep(Box::new(sweep))) {
            self.drive_sweep(number, SweepInput::Begin);
        }
    }

    fn sweep_spec(
        self: &Rc<Self>,
        order: &SweepOrder,
    ) -> Result<(DestId, SweepSpec), AdministrationError> {
        let refused = |text: String| Err(AdministrationError::Refused(text));
        let (dest, name) = self
            .find(&order.name)
            .ok_or_else(|| AdministrationError::Unknown(order.name.clone()))?;
        if self.is_busy() {
            return Err(AdministrationError::Busy);
        }
        let term = self.term.borrow();
        if term.as_ref().is_some_and(|term| term.works.is_swept(dest)) {
            return refused(format!(
                "{name} is being purged or moved already: wait until that is done"
            ));
        }
        drop(term);
        let action = match &order.wish {
            SweepWish::Purge => SweepAction::Purge,
            SweepWish::Retry => SweepAction::Retry,
            SweepWish::Move(to) => {
                let Some(to) = name_of(to).filter(|to| to.kind() == DestinationKind::Queue) else {
                    return refused(format!(
                        "{to}: messages can be moved to a queue, /queue/NAME"
                    ));
                };
                if to == name {
                    return refused(format!("{name} is where the messages are already"));
                }
                match self.locate(&to) {
                    Ok((id, _)) => SweepAction::Move(id),
                    Err(error) => return refused(error.to_string()),
                }
            }
        };
        let upto = self.upto.get();
        let spec = SweepSpec {
            action,
            selector: order.selector.clone(),
            count: order.count,
            after: order.after,
            until: match order.until {
                Some(until) if until.is_volatile() => until,
                until => until.unwrap_or(upto).min(upto),
            },
            memory_until: self.newest_volatile(dest),
            deadline: self.clock.now().after(STRETCH),
        };
        Ok((dest, spec))
    }

    fn drive_sweep(self: &Rc<Self>, number: u32, input: SweepInput) {
        let now = self.clock.now();
        let mut effects = Vec::new();
        let dest = {
            let mut term = self.term.borrow_mut();
            let works = term.as_mut().map(|term| &mut term.works.0);
            let Some(Running::Sweep(sweep)) = works.and_then(|works| works.get_mut(&number)) else {
                return;
            };
            sweep.machine.step(now, input, &mut effects);
            sweep.dest
        };
        for effect in effects {
            match effect {
                SweepEffect::Fetch(after) => {
                    // Before the question, so that it hears what the answer may not know.
                    self.order(dest, DestinationCommand::Look { asks: true });
                    self.read_page(number, dest, after, PAGE_MESSAGES);
                }
                SweepEffect::Remove(batch) => self.hand_over(number, dest, batch),
                SweepEffect::End(report) => {
                    self.order(dest, DestinationCommand::Look { asks: false });
                    self.end_sweep(number, report);
                }
            }
        }
    }

    fn end_sweep(&self, number: u32, report: Result<SweepReport, String>) {
        let ended = {
            let mut term = self.term.borrow_mut();
            term.as_mut().and_then(|term| term.works.0.remove(&number))
        };
        if let Some(Running::Sweep(sweep)) = ended {
            let until = sweep.machine.until();
            let report = report.map(|report| SweepProgress { report, until });
            (sweep.reply)(report.map_err(AdministrationError::Refused));
        }
    }

    /// A command for a destination, which is woken for it.
    fn order(self: &Rc<Self>, dest: DestId, command: DestinationCommand) {
        let port = {
            let mut term = self.term.borrow_mut();
            term.as_mut().and_then(|term| self.wake(term, dest))
        };
        if let Some(port) = port {
            self.command(&port, vec![command]);
        }
    }

    /// Gives a batch to its destination, each message with its PUT.
    fn hand_over(self: &Rc<Self>, number: u32, dest: DestId, batch: Vec<Swept>) {
        let mut removals = Vec::with_capacity(batch.len());
        let mut targets: HashMap<DestId, Draft> = HashMap::new();
        let mut homeless = 0u64;
        for swept in batch {
            let target = match &swept.target {
                SweepTarget::Nothing => None,
                SweepTarget::Destination(id) => Some(*id),
                SweepTarget::Named(spelling) => match self.home(spelling) {
                    Some(id) if id != dest => Some(id),
                    Some(_) | None => {
                        homeless = homeless.saturating_add(1);
                        continue;
                    }
                },
            };
            let times = Times::of(&swept.message);
            let put = target.map(|id| Draft::Put {
                targets: vec![id],
                message: swept.message,
            });
            if let Some(id) = target
                && let Some(definition) = self.definition_of(id)
            {
                targets.insert(id, definition);
            }
            removals.push(Removal {
                lsn: swept.lsn,
                times,
                records: put.into_iter().collect(),
            });
        }
        if let Some(term) = self.term.borrow_mut().as_mut()
            && let Some(Running::Sweep(sweep)) = term.works.0.get_mut(&number)
        {
            sweep.homeless = homeless;
        }
        let refused = targets_of(&removals)
            .into_iter()
            .find_map(|(target, (all, last))| self.no_room_for(target, all, last));
        if let Some(reason) = refused {
            self.removed(RequestNumber(number), Err(reason));
            return;
        }
        if removals.is_empty() {
            self.removed(RequestNumber(number), Ok(Vec::new()));
            return;
        }
        let mut definitions: Vec<(DestId, Draft)> = targets.into_iter().collect();
        definitions.sort_unstable_by_key(|(id, _)| *id);
        let command = DestinationCommand::Remove {
            request: RequestNumber(number),
            removals,
            definitions: definitions.into_iter().map(|(_, draft)| draft).collect(),
        };
        self.order(dest, command);
    }

    /// The destination that a dead message came from. A queue is made again if it is gone.
    fn home(self: &Rc<Self>, spelling: &str) -> Option<DestId> {
        if let Some((id, _)) = self.find(spelling) {
            return Some(id);
        }
        let name = name_of(spelling).filter(|name| name.kind() == DestinationKind::Queue)?;
        self.locate(&name).ok().map(|(id, _)| id)
    }

    /// A queue's definition, which goes with a PUT for it: the store may not have it. Defined twice is
    /// as defined once. Others have theirs in the store before anything is sent to them.
    fn definition_of(&self, id: DestId) -> Option<Draft> {
        let term = self.term.borrow();
        let known = term.as_ref()?.known.get(&id)?;
        (known.name.kind() == DestinationKind::Queue).then(|| Draft::Kv {
            space: SPACE_DESTINATION,
            key: Bytes::copy_from_slice(&id.0.to_be_bytes()),
            value: super::definition(KIND_QUEUE, &known.name),
        })
    }

    /// A destination's answer to `Remove`.
    pub fn removed(self: &Rc<Self>, request: RequestNumber, taken: Result<Vec<Lsn>, String>) {
        let homeless = match self.term.borrow().as_ref() {
            Some(term) => match term.works.0.get(&request.0) {
                Some(Running::Sweep(sweep)) => sweep.homeless,
                Some(Running::Browse(_) | Running::Deleting(_) | Running::Delete(..)) | None => {
                    return;
                }
            },
            None => return,
        };
        self.drive_sweep(request.0, SweepInput::Removed { taken, homeless });
    }

    /// A unit of the operator's is committed.
    pub(super) fn work_committed(self: &Rc<Self>, request: RequestNumber) {
        let deleted = {
            let mut term = self.term.borrow_mut();
            let works = term.as_mut().map(|term| &mut term.works.0);
            works.and_then(|works| match works.get(&request.0) {
                Some(Running::Delete(..)) => works.remove(&request.0),
                Some(Running::Sweep(_) | Running::Browse(_) | Running::Deleting(_)) | None => None,
            })
        };
        match deleted {
            Some(Running::Delete(reply, gone)) => reply(Ok(gone)),
            Some(Running::Sweep(_) | Running::Browse(_) | Running::Deleting(_)) | None => {
                self.drive_sweep(request.0, SweepInput::Committed);
            }
        }
    }

    /// The store's answer to what was asked for an operator.
    pub(super) fn work_fetched(self: &Rc<Self>, fetched: Fetched) {
        let (dest, tag) = (fetched.dest, fetched.tag);
        self.work_looked(dest, tag, fetched.entries, fetched.scanned);
    }

    /// The same, or a destination's answer.
    pub(super) fn work_looked(
        self: &Rc<Self>,
        dest: DestId,
        tag: u32,
        entries: Vec<Entry>,
        scanned: Lsn,
    ) {
        let number = tag & !OPERATOR_TAG;
        let looked = {
            let mut term = self.term.borrow_mut();
            let Some(works) = term.as_mut().map(|term| &mut term.works.0) else {
                return;
            };
            match works.get(&number) {
                Some(Running::Browse(look)) if look.dest == dest => works.remove(&number),
                Some(Running::Sweep(sweep)) if sweep.dest == dest => None,
                // Whoever asked has gone.
                Some(
                    Running::Sweep(_)
                    | Running::Browse(_)
                    | Running::Deleting(_)
                    | Running::Delete(..),
                )
                | None => return,
            }
        };
        match looked {
            Some(Running::Browse(look)) => self.show(number, look, entries, scanned),
            Some(Running::Sweep(_) | Running::Deleting(_) | Running::Delete(..)) | None => {
                self.drive_sweep(number, SweepInput::Fetched { entries, scanned });
            }
        }
    }
}

/// What goes where, by destination: all of it, and the last message of it.
fn targets_of(removals: &[Removal]) -> BTreeMap<DestId, (Load, Load)> {
    let mut all: BTreeMap<DestId, (Load, Load)> = BTreeMap::new();
    for record in removals.iter().flat_map(|removal| &removal.records) {
        if let Draft::Put { targets, message } = record {
            let last = Load::of(message);
            for target in targets {
                let before = all.get(target).map_or(Load::default(), |(sum, _)| *sum);
                all.insert(*target, (before.plus(last), last));
            }
        }
    }
    all
}

/// Any destination's name, as the server spells it or bare.
fn name_of(spelling: &str) -> Option<DestinationName> {
    let spelling = DestinationName::in_full(spelling);
    for kind in [
        DestinationKind::Queue,
        DestinationKind::Topic,
        DestinationKind::TemporaryQueue,
        DestinationKind::Subscription,
    ] {
        if let Some(name) = spelling.strip_prefix(kind.prefix()) {
            return DestinationName::new(kind, name).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests;
