//! What clients have asked for and what they were told: the measure of what may not be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use twinmq::storage::api::{Entry, Ticket};

use crate::clock::open;

/// Shared by the clients of all servers.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<State>);

/// Tickets that were confirmed up to some moment.
pub(crate) struct Promises(BTreeSet<u64>);

#[derive(Default)]
struct State {
    last: u64,
    /// Each message is sent once; its number is its ticket.
    sent: BTreeSet<u64>,
    /// Tickets of acks, with the message's number. A message may be acked anew after a take-over.
    acked: BTreeMap<u64, u64>,
    confirmed: BTreeSet<u64>,
}

impl Ledger {
    /// A new message and its ticket.
    pub(crate) fn send(&self, padding: usize) -> (Ticket, Bytes) {
        let mut state = open(&self.0);
        state.last += 1;
        let number = state.last;
        state.sent.insert(number);
        let text = format!("{number} {}", "x".repeat(padding));
        (Ticket(number), Bytes::from(text))
    }

    /// A message is acked.
    pub(crate) fn ack(&self, message: &Bytes) -> Ticket {
        let mut state = open(&self.0);
        state.last += 1;
        let ticket = state.last;
        state.acked.insert(ticket, number_of(message));
        Ticket(ticket)
    }

    /// The client was told.
    pub(crate) fn confirm(&self, ticket: Ticket) {
        let fresh = open(&self.0).confirmed.insert(ticket.0);
        assert!(fresh, "ticket {} was confirmed twice", ticket.0);
    }

    /// Whether a ticket is that of a message.
    pub(crate) fn is_message(&self, ticket: Ticket) -> bool {
        open(&self.0).sent.contains(&ticket.0)
    }

    /// Confirms so far.
    pub(crate) fn confirmed(&self) -> u64 {
        open(&self.0).confirmed.len() as u64
    }

    /// All that was confirmed so far: take it before what is owed is read, since clients go on.
    pub(crate) fn promises(&self) -> Promises {
        Promises(open(&self.0).confirmed.clone())
    }

    /// What is owed holds every message that was promised, none whose ack was, each once.
    ///
    /// # Errors
    /// In words, what is wrong.
    pub(crate) fn judge(&self, promises: &Promises, owed: &[Entry]) -> Result<(), String> {
        let Promises(promised) = promises;
        let state = open(&self.0);
        let mut found = BTreeSet::new();
        for entry in owed {
            let number = number_of(&entry.message);
            if !state.sent.contains(&number) {
                return Err(format!("message {number} was never sent"));
            }
            if !found.insert(number) {
                return Err(format!("message {number} is there twice"));
            }
        }
        let acked: BTreeSet<u64> = state.acked.values().copied().collect();
        for number in state.sent.intersection(promised) {
            if !found.contains(number) && !acked.contains(number) {
                return Err(format!("message {number} was confirmed and is lost"));
            }
        }
        for (ticket, number) in &state.acked {
            if promised.contains(ticket) && found.contains(number) {
                return Err(format!("message {number} is back after its confirmed ack"));
            }
        }
        Ok(())
    }
}

/// The number that a message begins with.
pub(crate) fn number_of(message: &Bytes) -> u64 {
    let text = std::str::from_utf8(message).expect("messages of this test are text");
    let number = text.split(' ').next().expect("a split gives something");
    number.parse().expect("messages begin with their number")
}
