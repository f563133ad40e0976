//! Messages that are sent again: found by the id that the application gave them, just before their units
//! go to the store, and taken out.
//!
//! | the id | what becomes of the SEND |
//! |---|---|
//! | is not known | stored, and its id with it, in one unit |
//! | is in the store's window | not stored again; its unit keeps its ticket |
//! | is of a unit that is not committed yet | the same |
//!
//! A unit from which everything was taken still has its place in the log's order: its ticket comes back
//! when all before it is committed on the whole in-sync set, so also the message that was stored first.
//!
//! Whoever makes a unit of a SEND makes its records with [`send`]. What the broker moves by itself has
//! no such record, and is never a duplicate. A refused SEND makes no unit, so its id is not known.
//!
//! Deliberately not known here: names, the window itself (the store's), and how a unit fares.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

use crate::proto::ids::DestId;
use crate::proto::message;
use crate::storage::api::{
    DUPLICATE_BOUNDS, Draft, DuplicateBounds, DuplicateId, SPACE_DUPLICATES, Scope, Ticket, Unit,
};

/// The records of a message that a client sends: its id, if it has one, then itself.
#[must_use]
pub fn send(scope: Scope, targets: Vec<DestId>, message: Bytes) -> Vec<Draft> {
    let id = message::duplicate_id(&message).map(|id| DuplicateId::new(scope, id));
    // Its time is told when it is submitted.
    let seen = id.map(|id| Draft::Seen { id, at_ms: 0 });
    let put = Draft::Put { targets, message };
    seen.into_iter().chain([put]).collect()
}

/// The ids in units, in order: what the store is to be asked.
#[must_use]
pub fn ids(units: &[Unit]) -> Vec<DuplicateId> {
    let records = units.iter().flat_map(|unit| &unit.records);
    records
        .filter_map(|record| match record {
            Draft::Seen { id, .. } => Some(*id),
            Draft::Put { .. }
            | Draft::Ack { .. }
            | Draft::Delivered { .. }
            | Draft::DeliveredEach { .. }
            | Draft::Failed { .. }
            | Draft::Part { .. }
            | Draft::UploadEnded(_)
            | Draft::Kv { .. } => None,
        })
        .collect()
}

/// What is to be submitted.
#[derive(Debug, Default)]
pub struct Admitted {
    /// All units, in order; some with fewer records, perhaps none.
    pub units: Vec<Unit>,
    /// Messages that were taken out.
    pub hits: Vec<Hit>,
}

/// A message that was sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Of its unit.
    pub ticket: Ticket,
    /// Where it was sent.
    pub scope: Scope,
    /// Who would have got it.
    pub targets: Vec<DestId>,
    /// Itself.
    pub message: Bytes,
}

/// See the module. For one term of service.
#[derive(Debug)]
pub struct DuplicateMachine {
    bounds: DuplicateBounds,
    /// The bounds are in the log, or on their way to it.
    told: bool,
    /// Ids of units that were submitted and are not committed.
    in_flight: HashSet<DuplicateId>,
    /// The same in the order of the log.
    order: VecDeque<(Ticket, DuplicateId)>,
    hits: HashMap<Scope, u64>,
}

impl DuplicateMachine {
    /// As a term begins.
    #[must_use]
    pub fn new(bounds: DuplicateBounds) -> Self {
        Self {
            bounds,
            told: false,
            in_flight: HashSet::new(),
            order: VecDeque::new(),
            hits: HashMap::new(),
        }
    }

    /// Other bounds; the log is told with the next id.
    pub fn set_bounds(&mut self, bounds: DuplicateBounds) {
        self.told &= bounds == self.bounds;
        self.bounds = bounds;
    }

    /// Units on their way to the store. `known` is the store's answer to their [`ids`] for `now_ms`,
    /// which is in milliseconds since 1970.
    pub fn admit(&mut self, now_ms: u64, units: Vec<Unit>, known: &[bool]) -> Admitted {
        let mut known = known.iter();
        let mut admitted = Admitted::default();
        for Unit { ticket, records } in units {
            let mut kept = Vec::with_capacity(records.len() + 1);
            let mut records = records.into_iter();
            while let Some(record) = records.next() {
                let Draft::Seen { id, .. } = record else {
                    kept.push(record);
                    continue;
                };
                let stored = known.next().is_some_and(|known| *known);
                if self.bounds.per_scope == 0 {
                    continue;
                }
                if stored || self.in_flight.contains(&id) {
                    if let Some(Draft::Put { targets, message }) = records.next() {
                        let hits = self.hits.entry(id.scope).or_default();
                        *hits = hits.saturating_add(1);
                        admitted.hits.push(Hit {
                            ticket,
                            scope: id.scope,
                            targets,
                            message,
                        });
                    }
                    continue;
                }
                if !std::mem::replace(&mut self.told, true) {
                    kept.push(self.definition());
                }
                self.in_flight.insert(id);
                self.order.push_back((ticket, id));
                kept.push(Draft::Seen { id, at_ms: now_ms });
            }
            admitted.units.push(Unit {
                ticket,
                records: kept,
            });
        }
        admitted
    }

    /// These units are committed, and the store knows their ids.
    pub fn committed(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            while let Some((oldest, id)) = self.order.front()
                && (oldest == ticket || *oldest == Ticket::default())
            {
                self.in_flight.remove(id);
                self.order.pop_front();
            }
            if self.order.is_empty() {
                return;
            }
        }
    }

    /// Messages of a destination that were not stored again, in this term.
    #[must_use]
    pub fn hits(&self, scope: Scope) -> u64 {
        self.hits.get(&scope).copied().unwrap_or_default()
    }

    /// The same of all destinations.
    #[must_use]
    pub fn all_hits(&self) -> u64 {
        self.hits
            .values()
            .fold(0, |all, hits| all.saturating_add(*hits))
    }

    fn definition(&self) -> Draft {
        Draft::Kv {
            space: SPACE_DUPLICATES,
            key: Bytes::from_static(DUPLICATE_BOUNDS),
            value: Bytes::copy_from_slice(&self.bounds.encode()),
        }
    }
}

#[cfg(test)]
mod tests;
