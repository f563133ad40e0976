//! What an operator takes out: purged, moved, or sent back to where it came from. Only messages that
//! nobody holds, each with its acknowledgement in one unit with its PUT elsewhere, so that it is in one
//! place at any time.
//!
//! A batch that was submitted is passed over in answers of the store that may be older than it.

use std::collections::{HashMap, HashSet};

use super::{DestinationEffect, DestinationMachine, REFUSED, ticket};
use crate::machines::delivery::{OPERATOR, Removal, RequestNumber};
use crate::proto::ids::Lsn;
use crate::storage::api::{Draft, Entry};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Submitted, perhaps not in the index yet.
    submitted: HashMap<RequestNumber, Vec<Lsn>>,
    /// In the index, after the question that is open was asked.
    settled: Vec<Lsn>,
    /// All of both.
    gone: HashSet<Lsn>,
}

impl Removals {
    /// A unit is in the index: what is asked from now on does not bring its messages.
    pub(super) fn committed(&mut self, request: RequestNumber, is_fetching: bool) {
        let lsns = self.submitted.remove(&request).unwrap_or_default();
        if is_fetching {
            self.settled.extend(lsns);
        } else {
            for lsn in lsns {
                self.gone.remove(&lsn);
            }
        }
    }

    /// An answer without what is gone.
    pub(super) fn fetched(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        if !self.gone.is_empty() {
            entries.retain(|entry| !self.gone.contains(&entry.lsn));
        }
        for lsn in self.settled.drain(..) {
            self.gone.remove(&lsn);
        }
        entries
    }
}

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
        let mut lsns: Vec<Lsn> = removals.iter().map(|removal| removal.lsn).collect();
        lsns.sort_unstable();
        lsns.retain(|lsn| !self.removals.gone.contains(lsn));
        let taken = self.backlog.remove(&lsns);
        if !taken.is_empty() {
            let mut records = definitions;
            for removal in removals {
                if taken.binary_search(&removal.lsn).is_ok() {
                    records.extend(removal.records);
                }
            }
            records.extend(self.ack_records(taken.clone()));
            // What this step acknowledged before has its place in the log before it.
            self.coalesce_acks();
            self.submit(ticket(OPERATOR, request), records);
            self.removals.gone.extend(&taken);
            self.removals.submitted.insert(request, taken.clone());
            let count = u64::try_from(taken.len()).unwrap_or(u64::MAX);
            self.figures.depth = self.figures.depth.saturating_sub(count);
            effects.push(DestinationEffect::Submit(std::mem::take(&mut self.units)));
        }
        let taken = Ok(taken);
        effects.push(DestinationEffect::Removed { request, taken });
    }
}
