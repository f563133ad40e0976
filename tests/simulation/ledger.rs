//! What clients have asked for, what they were told and what they got: the measure of what may not
//! be lost, nor come twice unflagged, nor out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use twinmq::proto::ids::Epoch;
use twinmq::storage::api::Entry;

use crate::arbiter::Life;
use crate::clock::open;

/// Producers; each sends to the queue `producer % QUEUES`.
pub(crate) const PRODUCERS: usize = 3;
/// Queues, each with one consumer.
pub(crate) const QUEUES: usize = 2;
/// Messages of a producer that are not confirmed yet, at most.
const OUTSTANDING: usize = 8;

/// What is said of a message that was promised and is not there any more.
pub(crate) const LOST: &str = "was confirmed and is lost";

/// Shared by the clients of all servers.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<State>);

/// Copies that were confirmed, and acks, up to some moment.
pub(crate) struct Promises {
    stored: BTreeSet<u64>,
    acked: BTreeSet<u64>,
}

#[derive(Default)]
struct State {
    producers: [Producer; PRODUCERS],
    /// By number: each sending of a message is a copy with a number of its own.
    copies: BTreeMap<u64, Copy>,
    last_copy: u64,
    /// Whose confirms were heard in an epoch.
    spoke: BTreeMap<Epoch, Life>,
    confirms: u64,
    first: Option<String>,
    /// Copies up to this number were there before an operator's override: they may come once more.
    overridden: u64,
}

/// What was confirmed before an override.
pub(crate) struct Before(BTreeSet<u64>);

#[derive(Default)]
struct Producer {
    /// The last message's number.
    last: u64,
    /// Not confirmed.
    outstanding: BTreeSet<u64>,
    /// The highest that has reached the consumer.
    arrived: u64,
    /// Messages up to this one may be missing: an operator gave up what was confirmed of them.
    forgiven: u64,
}

/// One sending of a message.
#[derive(Default)]
struct Copy {
    producer: usize,
    message: u64,
    confirmed: bool,
    /// Reached the consumer without the flag.
    came: bool,
    ack_sent: bool,
    ack_confirmed: bool,
    /// An operator gave it up.
    given_up: bool,
}

impl Ledger {
    /// A producer's next message, unless it waits for confirms.
    pub(crate) fn send(&self, producer: usize, padding: usize) -> Option<(u64, Bytes)> {
        let state = &mut *open(&self.0);
        let of = &mut state.producers[producer];
        if of.outstanding.len() >= OUTSTANDING {
            return None;
        }
        of.last += 1;
        of.outstanding.insert(of.last);
        let message = of.last;
        Some(state.copy(producer, message, padding))
    }

    /// What a producer sends again at its next connection: all that was not confirmed, in order.
    pub(crate) fn again(&self, producer: usize) -> Vec<(u64, Bytes)> {
        let state = &mut *open(&self.0);
        let outstanding = state.producers[producer].outstanding.clone();
        let again = outstanding.into_iter();
        again
            .map(|message| state.copy(producer, message, 0))
            .collect()
    }

    /// The producer was told that this copy is safe.
    pub(crate) fn confirm(&self, copy: u64, life: Life, epoch: Epoch) {
        let state = &mut *open(&self.0);
        state.spoken(life, epoch);
        let Some(of) = state.copies.get_mut(&copy) else {
            return;
        };
        if std::mem::replace(&mut of.confirmed, true) {
            let what = format!("copy {copy} was confirmed twice");
            state.wrong(what);
            return;
        }
        let (producer, message) = (of.producer, of.message);
        state.producers[producer].outstanding.remove(&message);
        state.confirms += 1;
    }

    /// The consumer got a copy. False: it will not ack it, since it has.
    pub(crate) fn arrived(&self, entry: &Bytes, redelivered: bool) {
        let copy = number_of(entry);
        let state = &mut *open(&self.0);
        let Some(of) = state.copies.get_mut(&copy) else {
            state.wrong(format!("copy {copy} was never sent"));
            return;
        };
        let (producer, message) = (of.producer, of.message);
        let anew = copy <= state.overridden;
        let twice = !redelivered && of.came && !anew;
        of.came = true;
        let back = of.ack_confirmed && !anew;
        let of = &mut state.producers[producer];
        let last = of.arrived;
        of.arrived = last.max(message);
        let forgiven = of.forgiven;
        if twice {
            state.wrong(format!(
                "copy {copy} (message {producer}:{message}) came twice, not flagged"
            ));
        }
        if back {
            state.wrong(format!(
                "copy {copy} (message {producer}:{message}) came after its confirmed ack"
            ));
        }
        if message > last.max(forgiven) + 1 {
            // Those that were not confirmed are sent again before any later one.
            let skipped = last.max(forgiven) + 1..message;
            let promised = state.copies.iter().find(|(_, copy)| {
                copy.producer == producer && copy.confirmed && skipped.contains(&copy.message)
            });
            let lost = promised.map_or_else(String::new, |(number, copy)| {
                format!(
                    ": copy {number} (message {producer}:{}) {LOST}",
                    copy.message
                )
            });
            state.wrong(format!(
                "message {producer}:{message} came after {last}{lost}"
            ));
        }
    }

    /// The consumer acks a copy.
    pub(crate) fn ack(&self, copy: u64) {
        if let Some(of) = open(&self.0).copies.get_mut(&copy) {
            of.ack_sent = true;
        }
    }

    /// The consumer was told that its ack is safe.
    pub(crate) fn ack_confirmed(&self, copy: u64, life: Life, epoch: Epoch) {
        let state = &mut *open(&self.0);
        state.spoken(life, epoch);
        if let Some(of) = state.copies.get_mut(&copy) {
            of.ack_confirmed = true;
            state.confirms += 1;
        }
    }

    /// Confirms so far.
    pub(crate) fn confirmed(&self) -> u64 {
        open(&self.0).confirms
    }

    /// The first thing that was wrong.
    pub(crate) fn first_wrong(&self) -> Option<String> {
        open(&self.0).first.clone()
    }

    /// Every message is confirmed.
    pub(crate) fn settled(&self) -> bool {
        let state = open(&self.0);
        let mut producers = state.producers.iter();
        producers.all(|producer| producer.outstanding.is_empty())
    }

    /// All that was confirmed so far: take it before what is owed is read, since clients go on.
    pub(crate) fn promises(&self) -> Promises {
        let state = open(&self.0);
        let which = |chosen: fn(&Copy) -> bool| {
            let copies = state.copies.iter();
            let chosen = copies.filter(|(_, copy)| chosen(copy));
            chosen.map(|(number, _)| *number).collect()
        };
        Promises {
            stored: which(|copy| copy.confirmed && !copy.given_up),
            acked: which(|copy| copy.ack_confirmed),
        }
    }

    /// An operator promotes a server: what only the other one had is given up.
    pub(crate) fn override_begins(&self) -> Before {
        let state = &mut *open(&self.0);
        state.overridden = state.last_copy;
        for of in &mut state.producers {
            of.forgiven = of.last;
        }
        let copies = state.copies.iter();
        let confirmed = copies.filter(|(_, copy)| copy.confirmed);
        Before(confirmed.map(|(number, _)| *number).collect())
    }

    /// The promoted server serves, with what it `owed` then. Gives the copies that are given up.
    ///
    /// # Errors
    /// In words, when something is missing that is older than what is there: a server that is promoted
    /// lacks the end of what was confirmed, and nothing else.
    pub(crate) fn override_ends(
        &self,
        before: &Before,
        owed: &[Entry],
    ) -> Result<Vec<u64>, String> {
        let state = &mut *open(&self.0);
        let found: BTreeSet<u64> = owed.iter().map(|it| number_of(&it.message)).collect();
        // Acks may be what was given up, also of what its producer never knew to be safe.
        for (number, copy) in state.copies.range_mut(..=state.overridden) {
            copy.ack_confirmed &= !found.contains(number);
        }
        let mut given_up = Vec::new();
        for number in &before.0 {
            let Some(copy) = state.copies.get_mut(number) else {
                continue;
            };
            if !found.contains(number) && !copy.ack_sent {
                copy.given_up = true;
                given_up.push(*number);
            }
        }
        for number in &given_up {
            let lost = &state.copies[number];
            let later = before.0.iter().find(|other| {
                let copy = &state.copies[*other];
                copy.producer == lost.producer
                    && copy.message > lost.message
                    && found.contains(other)
            });
            if let Some(later) = later {
                return Err(format!(
                    "copy {number} (message {}:{}) {LOST}, and the later copy {later} is there",
                    lost.producer, lost.message
                ));
            }
        }
        Ok(given_up)
    }

    /// What is owed holds every message that was promised, none whose ack was, each once.
    ///
    /// # Errors
    /// In words, what is wrong.
    pub(crate) fn judge(&self, promises: &Promises, owed: &[Entry]) -> Result<(), String> {
        let state = open(&self.0);
        let mut found = BTreeSet::new();
        for entry in owed {
            let copy = number_of(&entry.message);
            if !state.copies.contains_key(&copy) {
                return Err(format!("copy {copy} was never sent"));
            }
            if !found.insert(copy) {
                return Err(format!("copy {copy} is there twice"));
            }
        }
        for number in promises.stored.difference(&found) {
            let copy = &state.copies[number];
            if !copy.ack_sent {
                let Copy {
                    producer, message, ..
                } = copy;
                return Err(format!(
                    "copy {number} (message {producer}:{message}) {LOST}"
                ));
            }
        }
        if let Some(number) = promises.acked.intersection(&found).next() {
            return Err(format!("copy {number} is back after its confirmed ack"));
        }
        Ok(())
    }
}

impl State {
    fn copy(&mut self, producer: usize, message: u64, padding: usize) -> (u64, Bytes) {
        self.last_copy += 1;
        let number = self.last_copy;
        let copy = Copy {
            producer,
            message,
            ..Copy::default()
        };
        self.copies.insert(number, copy);
        let text = format!("{number} {}", "x".repeat(padding));
        (number, Bytes::from(text))
    }

    fn spoken(&mut self, life: Life, epoch: Epoch) {
        let first = *self.spoke.entry(epoch).or_insert(life);
        if first != life {
            self.wrong(format!("{first} and {life} both confirm in epoch {epoch}"));
        }
    }

    fn wrong(&mut self, what: String) {
        self.first.get_or_insert(what);
    }
}

/// The number that a copy begins with.
pub(crate) fn number_of(message: &Bytes) -> u64 {
    let text = std::str::from_utf8(message).expect("messages of this test are text");
    let number = text.split(' ').next().expect("a split gives something");
    number.parse().expect("messages begin with their number")
}
