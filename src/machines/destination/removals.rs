//! What an operator takes out: purged, moved, or sent back to where it came from. Only messages that
//! nobody holds, each with its acknowledgement in one unit with its PUT elsewhere, so that it is in one
//! place at any time.
//!
//! What was taken is claimed: it is passed over in answers of the store that may be older than it.

use std::collections::HashSet;

use super::{DestinationEffect, DestinationMachine, REFUSED, ticket};
use crate::machines::delivery::{OPERATOR, Removal, RequestNumber};
use crate::proto::ids::Lsn;
use crate::storage::api::{Draft, Entry, Times};

impl DestinationMachine {
    /// Takes out what nobody holds.
    pub(super) fn remove(
        &mut self,
        request: RequestNumber,
        removals: Vec<Removal>,
        definitions: Vec<Draft>,
        effects: &mut Vec<DestinationEffect>,
    ) {
        let needs_room = removals.iter().any(|removal| !removal.records.is_empty());
        if needs_room && self.sends_refused {
            let taken = Err(REFUSED.to_owned());
            effects.push(DestinationEffect::Removed { request, taken });
            return;
        }
        // What this step did before has its place in the log before it.
        self.coalesce();
        let acknowledged = self.claims.acknowledged();
        let mut records = definitions;
        let mut taken = Vec::new();
        for removal in removals {
            if self.take_out(removal.lsn, removal.times, &acknowledged) != Found::Held {
                taken.push(removal.lsn);
                records.extend(removal.records);
            }
        }
        if !taken.is_empty() {
            let stored = taken.iter().copied().filter(|lsn| !lsn.is_volatile());
            let stored: Vec<Lsn> = stored.collect();
            if !stored.is_empty() {
                records.extend(self.ack_records(stored));
            }
            // A unit without records is answered like any other.
            self.submit(ticket(OPERATOR, request), records);
        }
        if !self.units.is_empty() {
            effects.push(DestinationEffect::Submit(std::mem::take(&mut self.units)));
        }
        let taken = Ok(taken);
        effects.push(DestinationEffect::Removed { request, taken });
    }

    /// Claims it, if it is to be had.
    pub(super) fn take_out(
        &mut self,
        lsn: Lsn,
        times: Times,
        acknowledged: &HashSet<Lsn>,
    ) -> Found {
        if acknowledged.contains(&lsn) || self.consumers.holds(lsn) || self.holds.contains(lsn) {
            return Found::Held;
        }
        let (known, is_in_store) = match times.due_ms {
            Some(due) => {
                let is_in_store = self.timers.is_in_store(lsn, due);
                (self.timers.remove(lsn, due), is_in_store)
            }
            None => (
                self.lanes.remove(times.lane, lsn),
                self.lanes.is_in_store(times.lane, lsn),
            ),
        };
        let known = known
            .or_else(|| self.groups.remove(lsn))
            .or_else(|| self.redelivery.remove(lsn));
        if lsn.is_volatile() {
            if let Some(entry) = &known {
                self.volatile.give(entry.message.len());
                self.claims.drop_volatile(lsn);
            }
            return known.map_or(Found::Held, Found::Here);
        }
        if known.is_none() && (!is_in_store || self.claims.is_taken(lsn)) {
            return Found::Held;
        }
        self.claims.take(lsn);
        known.map_or(Found::InStore, Found::Here)
    }
}

/// Where a message was that is taken out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is not to be had: somebody holds it, or it is settled.
    Held,
    /// In memory.
    Here(Entry),
    /// In the store alone.
    InStore,
}
