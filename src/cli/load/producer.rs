//! One producer: keeps its window full, enters receipts, follows the host list.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LOOK, REFUSALS_MAX, Shared, Tally, lock};
use crate::cli::stomp_client::{Connection, Frame, Hosts, StompError};
use crate::time::{Clock, Moment, SystemClock};

/// Frames are collected up to this before they are written, in bytes.
const FLUSH_BYTES: usize = 64 * 1024;

pub(super) struct Producer {
    shared: Arc<Shared>,
    hosts: Hosts,
    index: usize,
    /// One for each destination that it sends to, in turn.
    tallies: Vec<Tally>,
    turn: usize,
    /// Sent on this connection and not answered: which tally, and when.
    pending: HashMap<u64, (usize, Moment)>,
    /// How many it may send in all.
    quota: u64,
    sent: u64,
    /// Between two messages, if there is a rate.
    pace: Option<Duration>,
    due: Moment,
    connected_at: Moment,
    body: Vec<u8>,
    refusals: u32,
}

impl Producer {
    pub(super) fn new(shared: &Arc<Shared>, hosts: Hosts, index: usize) -> Self {
        let producers = shared.plan.producers as u64;
        let quota = shared.plan.count.map_or(u64::MAX, |count| {
            count / producers + u64::from((index as u64) < count % producers)
        });
        let pace = shared.plan.rate.map(|rate| {
            Duration::from_nanos(1_000_000_000_u64.saturating_mul(producers) / rate.max(1))
        });
        Self {
            hosts,
            index,
            tallies: shared
                .share(index, shared.plan.producers)
                .into_iter()
                .map(Tally::new)
                .collect(),
            turn: 0,
            pending: HashMap::new(),
            quota,
            sent: 0,
            pace,
            due: SystemClock.now(),
            connected_at: Moment::default(),
            body: Vec::new(),
            refusals: 0,
            shared: Arc::clone(shared),
        }
    }

    pub(super) fn run(mut self) -> Vec<Tally> {
        while !self.sending_is_over() {
            let shared = Arc::clone(&self.shared);
            let give_up = || shared.sending_over.load(Ordering::Relaxed);
            let connected = self.hosts.connect(self.shared.plan.patience, &give_up);
            let outcome = match connected {
                Ok(connection) => {
                    self.connected_at = SystemClock.now();
                    self.work(connection)
                }
                // The end was announced while no server served: nothing is left to do.
                Err(StompError::Unreachable { .. }) if give_up() => Ok(()),
                Err(error) => {
                    self.shared.fail("producer", self.index, &error);
                    Ok(())
                }
            };
            self.pending.clear();
            match outcome {
                Ok(()) => break,
                Err(error) if self.may_go_on(&error) => {
                    self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.shared.fail("producer", self.index, &error);
                    break;
                }
            }
        }
        self.tallies
    }

    /// Works until all is sent and answered, or the connection dies.
    fn work(&mut self, mut connection: Connection) -> Result<(), StompError> {
        let clock = SystemClock;
        let mut heard = clock.now();
        loop {
            let mut now = clock.now();
            if self.pending.is_empty() {
                heard = now;
            }
            if let Some(silence) = self.shared.plan.silence
                && now.since(heard) >= silence
            {
                let seconds = silence.as_secs();
                return Err(StompError::Silent {
                    what: "SEND",
                    seconds,
                });
            }
            while self.may_send(now) {
                self.send(&mut connection, now)?;
                now = clock.now();
            }
            connection.flush()?;
            if self.pending.is_empty() && self.sending_is_over() {
                // All is answered: how the connection ends changes nothing any more.
                connection.close(LOOK).ok();
                return Ok(());
            }
            let wait = match self.pace {
                Some(_) => LOOK.min(self.due.since(now)),
                None => LOOK,
            };
            let mut next = connection.next(wait)?;
            while let Some(frame) = next {
                heard = clock.now();
                self.enter(&frame);
                next = connection.buffered()?;
            }
        }
    }

    fn may_send(&self, now: Moment) -> bool {
        self.pending.len() < self.shared.plan.window
            && !self.sending_is_over()
            && (self.pace.is_none() || self.due <= now)
    }

    fn sending_is_over(&self) -> bool {
        self.sent >= self.quota || self.shared.sending_over.load(Ordering::Relaxed)
    }

    fn send(&mut self, connection: &mut Connection, now: Moment) -> Result<(), StompError> {
        if let Some(pace) = self.pace {
            // After an outage the schedule starts anew: no burst.
            self.due = self.due.max(Moment(now.0.saturating_sub(1_000_000_000)));
            self.due = self.due.after(pace);
        }
        self.turn = (self.turn + 1) % self.tallies.len();
        let destination = &self.shared.plan.destinations[self.tallies[self.turn].destination];
        let number = lock(&self.shared.books[self.index]).ledger.attempt();
        self.sent += 1;
        self.body.clear();
        write!(
            self.body,
            "{:x} {} {number} {} ",
            self.shared.run, self.index, now.0
        )?;
        let size = self.shared.plan.body_bytes.max(self.body.len());
        self.body.resize(size, b'.');
        let receipt = number.to_string();
        connection.queue(
            "SEND",
            &[("destination", destination), ("receipt", &receipt)],
            &self.body,
        );
        self.pending.insert(number, (self.turn, now));
        if connection.queued_bytes() >= FLUSH_BYTES {
            connection.flush()?;
        }
        Ok(())
    }

    fn enter(&mut self, frame: &Frame) {
        let Some(number) = frame.number("receipt-id") else {
            return;
        };
        let Some((turn, sent)) = self.pending.remove(&number) else {
            return;
        };
        let now = SystemClock.now();
        self.refusals = 0;
        self.tallies[turn].count(now.since(sent));
        let mut book = lock(&self.shared.books[self.index]);
        book.ledger.confirm(number);
        if let Some(last) = book.last_receipt {
            book.longest_gap = book.longest_gap.max(now.since(last));
        }
        book.last_receipt = Some(now);
        book.served_by = Some(self.connected_at);
        drop(book);
        self.shared.confirmed.fetch_add(1, Ordering::Relaxed);
        self.shared.last_receipt.fetch_max(now.0, Ordering::Relaxed);
    }

    /// A server that dies, or says ERROR while it steps down, is followed by another; one that
    /// refuses again and again is not waited for.
    fn may_go_on(&mut self, error: &StompError) -> bool {
        if matches!(error, StompError::Refused { .. }) {
            self.refusals += 1;
            return self.refusals < REFUSALS_MAX;
        }
        error.is_connection_loss()
    }
}
