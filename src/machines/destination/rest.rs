//! When a destination is not needed, and what it leaves: with that another machine does what this one
//! would do, as after a take-over, but that nothing of this term is forgotten.
//!
//! Consumers own most of what is not in the store, so there must be none. What else only this machine
//! knows keeps it: messages in memory alone, or aside; answers and acknowledgements on their way; messages
//! that have to go. That whatever it submitted is committed is for others to see ([`super::DestinationInput::Unneeded`]):
//! of failures and marks on their way nothing is known here.
//!
//! What is lost is what can be read again: messages in memory that are stored, and how far the lanes
//! were read; and guesses, such as how often the mark is to be raised.

use super::DestinationMachine;
use super::vocabulary::Activation;
use crate::machines::destination::DestinationFigures;
use crate::proto::ids::Lsn;
use crate::storage::api::{Lane, LaneFacts};

impl DestinationMachine {
    /// What it leaves, if it is not needed.
    pub(super) fn rest(&self) -> Option<Activation> {
        let nobody = self.consumers.is_empty() && self.holds.is_empty();
        let is_at_rest = nobody
            && !self.draining
            && self.claims.is_at_rest()
            && self.account.is_quiet()
            && self.volatile.is_at_rest()
            && self.redelivery.is_at_rest()
            && self.groups.waiting().0 == 0
            && self.timers.is_at_rest()
            && self.lanes.is_at_rest()
            && self.excess().is_none();
        // Where nothing is owed, nothing is suspected.
        let horizon = if self.stored == 0 {
            self.upto
        } else {
            self.lanes.suspected_upto()?
        };
        is_at_rest.then(|| Activation {
            definition: self.definition.clone(),
            lanes: self.lane_facts(),
            is_mixed: self.stored > 0,
            horizon,
            next_due_ms: self.timers.first_due_ms(),
            next_expiry_ms: self.timers.next_expiry_ms(),
            volatile: self.keeps_in_memory,
            bytes: self.stored_bytes,
            counted: self.counted(),
            ..Activation::default()
        })
    }

    /// All that is owed stands at the first of them.
    fn lane_facts(&self) -> Vec<LaneFacts> {
        let mut lanes: Vec<LaneFacts> = self.lanes.facts().collect();
        if lanes.is_empty() && self.stored > 0 {
            lanes.push(LaneFacts {
                lane: Lane::DELAYED,
                depth: 0,
                tail: Lsn::ZERO,
                mark: Lsn::ZERO,
            });
        }
        if let Some(first) = lanes.first_mut() {
            first.depth = self.stored;
        }
        lanes.shrink_to_fit();
        lanes
    }

    fn counted(&self) -> Option<Box<DestinationFigures>> {
        let figures = DestinationFigures {
            selector_reads: self.pickers.reads(),
            ..self.figures
        };
        (figures != DestinationFigures::default()).then(|| Box::new(figures))
    }
}
