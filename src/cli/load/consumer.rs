//! One consumer: acknowledges each message on its own, enters it, follows the host list.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LOOK, REFUSALS_MAX, Shared, Tally, lock};
use crate::cli::ledger::Arrival;
use crate::cli::stomp_client::{Connection, Frame, Hosts, StompError};
use crate::time::{Clock, Moment, SystemClock};

/// Messages that the server may have under way to one consumer.
const PREFETCH: u32 = 1000;
/// How long a SUBSCRIBE, or the farewell, may take.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) struct Consumer {
    shared: Arc<Shared>,
    hosts: Hosts,
    index: usize,
    tallies: Vec<Tally>,
    /// Made before the thread starts, with the messages that came while it subscribed.
    first: Option<(Connection, Vec<Frame>)>,
    refusals: u32,
}

impl Consumer {
    pub(super) fn subscribe(
        shared: &Arc<Shared>,
        hosts: Hosts,
        index: usize,
    ) -> Result<Self, StompError> {
        let mut consumer = Self {
            hosts,
            index,
            tallies: shared
                .share(index, shared.plan.consumers)
                .into_iter()
                .map(Tally::new)
                .collect(),
            first: None,
            refusals: 0,
            shared: Arc::clone(shared),
        };
        consumer.first = Some(consumer.connect()?);
        Ok(consumer)
    }

    pub(super) fn run(mut self) -> Vec<Tally> {
        while !self.receiving_is_over() {
            let ready = match self.first.take() {
                Some(ready) => Ok(ready),
                None => self.connect(),
            };
            let error = match ready.and_then(|(connection, early)| self.work(connection, &early)) {
                Ok(()) => break,
                Err(error) => error,
            };
            if !self.may_go_on(&error) {
                if !self.receiving_is_over() {
                    self.shared.fail("consumer", self.index, &error);
                }
                break;
            }
            self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        self.tallies
    }

    /// Connects and subscribes. Messages of a connection that dies here were never acknowledged:
    /// they come again.
    fn connect(&mut self) -> Result<(Connection, Vec<Frame>), StompError> {
        let shared = Arc::clone(&self.shared);
        let give_up = || shared.receiving_over.load(Ordering::Relaxed);
        let mut connection = self.hosts.connect(self.shared.plan.patience, &give_up)?;
        let mut early = Vec::new();
        for (id, tally) in self.tallies.iter().enumerate() {
            let destination = &self.shared.plan.destinations[tally.destination];
            let id = id.to_string();
            early.extend(connection.subscribe(
                &id,
                destination,
                "client-individual",
                PREFETCH,
                ANSWER,
            )?);
        }
        Ok((connection, early))
    }

    fn work(&mut self, mut connection: Connection, early: &[Frame]) -> Result<(), StompError> {
        for frame in early {
            self.take(&mut connection, frame);
        }
        connection.flush()?;
        let clock = SystemClock;
        let mut heard = clock.now();
        while !self.receiving_is_over() {
            let mut next = connection.next(LOOK)?;
            if let Some(silence) = self.shared.plan.silence {
                let owes = next.is_none() && self.shared.awaited() > 0;
                if !owes {
                    heard = clock.now();
                } else if clock.now().since(heard) >= silence {
                    let seconds = silence.as_secs();
                    return Err(StompError::Silent {
                        what: "SUBSCRIBE",
                        seconds,
                    });
                }
            }
            while let Some(frame) = next {
                self.take(&mut connection, &frame);
                next = connection.buffered()?;
            }
            connection.flush()?;
        }
        self.farewell(connection)
    }

    /// Leaves in order, so that the acknowledgements count; what still comes meanwhile is entered.
    fn farewell(&mut self, mut connection: Connection) -> Result<(), StompError> {
        for frame in connection.request("DISCONNECT", &[], &[], ANSWER)? {
            self.enter(&frame);
        }
        Ok(())
    }

    fn take(&mut self, connection: &mut Connection, frame: &Frame) {
        if frame.command() != b"MESSAGE" {
            return;
        }
        self.enter(frame);
        if let Some(ack) = frame.header("ack") {
            connection.queue("ACK", &[("id", &ack)], &[]);
        }
    }

    fn enter(&mut self, frame: &Frame) {
        if frame.command() != b"MESSAGE" {
            return;
        }
        let now = SystemClock.now();
        self.refusals = 0;
        self.shared.received.fetch_add(1, Ordering::Relaxed);
        self.shared.last_arrival.fetch_max(now.0, Ordering::Relaxed);
        let arrival = Arrival {
            consumer: u32::try_from(self.index).unwrap_or(u32::MAX),
            message_id: &frame.header("message-id").unwrap_or_default(),
            redelivered: frame.header("redelivered").as_deref() == Some("true"),
        };
        match Mark::read(&frame.body) {
            Some(mark) if mark.run == self.shared.run => {
                if let Some(book) = self.shared.books.get(mark.producer) {
                    lock(book).ledger.arrive(mark.number, arrival);
                }
                let subscription = frame.number("subscription").unwrap_or_default();
                let tally = usize::try_from(subscription)
                    .ok()
                    .and_then(|index| self.tallies.get_mut(index));
                if let Some(tally) = tally {
                    tally.count(now.since(mark.sent));
                }
            }
            // Entered where no attempt has its number: it counts as foreign.
            Some(_) | None => {
                lock(&self.shared.books[0]).ledger.arrive(u64::MAX, arrival);
            }
        }
    }

    fn receiving_is_over(&self) -> bool {
        self.shared.receiving_over.load(Ordering::Relaxed)
    }

    fn may_go_on(&mut self, error: &StompError) -> bool {
        if matches!(error, StompError::Refused { .. }) {
            self.refusals += 1;
            return self.refusals < REFUSALS_MAX;
        }
        error.is_connection_loss()
    }
}

/// What each body begins with: `RUN PRODUCER NUMBER SENT `.
struct Mark {
    run: u64,
    producer: usize,
    number: u64,
    sent: Moment,
}

impl Mark {
    fn read(body: &[u8]) -> Option<Self> {
        let mut words = body.splitn(5, |byte| *byte == b' ');
        let mut word = || std::str::from_utf8(words.next()?).ok();
        Some(Self {
            run: u64::from_str_radix(word()?, 16).ok()?,
            producer: word()?.parse().ok()?,
            number: word()?.parse().ok()?,
            sent: Moment(word()?.parse().ok()?),
        })
    }
}
