//! An unmodified stomp.py client in a process of its own, and the ledger of what it saw.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use twinmq::cli::ledger::{Arrival, Ledger, LedgerReport};
use twinmq::time::Moment;

use super::eventually::{SOON, eventually, now};
use super::script::Script;

/// What the client does.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    pub(crate) hosts: String,
    pub(crate) queue: String,
    /// How many messages may be unconfirmed.
    pub(crate) window: u32,
    /// Messages per second; 0: no limit.
    pub(crate) rate: u32,
    /// Milliseconds both ways; 0: none.
    pub(crate) heart_beat_ms: u32,
}

/// A client that sends and receives on one connection. Its process is killed on drop.
pub(crate) struct StompPy {
    script: Script,
    seen: Arc<Mutex<Seen>>,
}

/// A host answered or delivered, from its first to its last word in a row.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) host: String,
    pub(crate) first: Moment,
    pub(crate) last: Moment,
}

/// What its lines said so far.
#[derive(Debug, Default)]
struct Seen {
    ledger: Ledger,
    confirmed: u64,
    connected_to: Vec<String>,
    last_receipt: Option<Moment>,
    longest_gap: Duration,
    /// Receipts and arrivals of one host in a row: from when to when.
    served: Vec<Served>,
    idle: bool,
    ended: bool,
    stacks: Option<String>,
    errors: Vec<String>,
}

impl StompPy {
    /// Starts a client that begins to send and to receive as soon as a server serves.
    pub(crate) fn start(driver: &Driver) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let entered = Arc::clone(&seen);
        let script = Script::start(
            "stomp_driver.py",
            &[
                "--send",
                "--receive",
                "--hosts",
                &driver.hosts,
                "--queue",
                &driver.queue,
                "--window",
                &driver.window.to_string(),
                "--rate",
                &driver.rate.to_string(),
                "--heart-beat",
                &driver.heart_beat_ms.to_string(),
            ],
            move |fact| lock(&entered).enter(&fact),
        );
        Self { script, seen }
    }

    /// How many receipts have come.
    pub(crate) fn confirmed(&self) -> u64 {
        lock(&self.seen).confirmed
    }

    /// Waits for `more` further receipts.
    #[track_caller]
    pub(crate) fn await_confirmed(&self, more: u64) {
        let goal = self.confirmed() + more;
        eventually(SOON * 2, &format!("{goal} receipts"), || {
            let seen = lock(&self.seen);
            if seen.confirmed >= goal {
                Ok(())
            } else {
                Err(format!("{} receipts, {}", seen.confirmed, seen.tail()))
            }
        });
    }

    /// The hosts that it was connected to, in order.
    pub(crate) fn connected_to(&self) -> Vec<String> {
        lock(&self.seen).connected_to.clone()
    }

    /// Who spoke to it, in order.
    pub(crate) fn served(&self) -> Vec<Served> {
        lock(&self.seen).served.clone()
    }

    /// Begins a new measurement of [`StompPy::longest_gap`].
    pub(crate) fn watch_gaps(&self) {
        lock(&self.seen).longest_gap = Duration::ZERO;
    }

    /// The longest time between two receipts.
    pub(crate) fn longest_gap(&self) -> Duration {
        lock(&self.seen).longest_gap
    }

    /// Ends sending and waits until everything that was sent is answered or unknown.
    #[track_caller]
    pub(crate) fn stop_sending(&mut self) {
        self.script.say("stop-sending");
        eventually(SOON * 2, "all sends are settled", || {
            let seen = lock(&self.seen);
            if seen.idle { Ok(()) } else { Err(seen.tail()) }
        });
    }

    /// What the ledger says now; messages that are still under way count as lost.
    pub(crate) fn report_so_far(&self) -> LedgerReport {
        lock(&self.seen).ledger.report()
    }

    /// Ends sending, waits until everything confirmed has arrived, ends the client, and adds up.
    #[track_caller]
    pub(crate) fn finish(mut self) -> LedgerReport {
        self.stop_sending();
        eventually(SOON * 2, "everything confirmed has arrived", || {
            let seen = lock(&self.seen);
            match seen.ledger.awaited() {
                0 => Ok(()),
                missing => Err(format!(
                    "{missing} are missing, such as {:?}; {}",
                    seen.ledger.missing(10),
                    seen.tail()
                )),
            }
        });
        self.script.say("quit");
        eventually(SOON, "the client ends", || {
            let seen = lock(&self.seen);
            if seen.ended { Ok(()) } else { Err(seen.tail()) }
        });
        lock(&self.seen).ledger.report()
    }
}

impl StompPy {
    /// What its threads do, for the text of a failure.
    fn stacks(&mut self) -> String {
        if self.script.try_say("stacks").is_err() {
            return "it has ended".to_owned();
        }
        let until = now().after(Duration::from_secs(2));
        while now() < until {
            if let Some(text) = lock(&self.seen).stacks.take() {
                return text;
            }
            thread::sleep(Duration::from_millis(20));
        }
        "it does not say".to_owned()
    }
}

impl Drop for StompPy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("stomp.py's threads: {}", self.stacks());
        }
        self.script.end();
        if thread::panicking() {
            eprintln!("stomp.py saw: {}", lock(&self.seen).tail());
        }
    }
}

impl Seen {
    fn enter(&mut self, fact: &Value) {
        let number = || {
            fact["number"]
                .as_u64()
                .expect("the driver numbers its messages")
        };
        let at = Moment(fact["at"].as_u64().expect("each fact has its time"));
        match fact["event"].as_str() {
            Some("sent") => assert_eq!(self.ledger.attempt(), number(), "attempts are in order"),
            Some("receipt") => {
                assert!(
                    self.ledger.confirm(number()),
                    "a receipt for nothing: {fact}"
                );
                self.confirmed += 1;
                self.spoke(fact, at);
                if let Some(last) = self.last_receipt.replace(at) {
                    self.longest_gap = self.longest_gap.max(at.since(last));
                }
            }
            Some("received") => {
                self.spoke(fact, at);
                let arrival = Arrival {
                    consumer: 0,
                    message_id: fact["message_id"].as_str().unwrap_or_default(),
                    redelivered: fact["redelivered"].as_bool().unwrap_or_default(),
                };
                self.ledger.arrive(number(), arrival);
            }
            Some("connected") => self
                .connected_to
                .push(fact["host"].as_str().unwrap_or_default().to_owned()),
            Some("error" | "lost") => self.errors.push(fact["message"].to_string()),
            Some("stacks") => {
                self.stacks = fact["text"].as_str().map(str::to_owned);
            }
            Some("idle") => self.idle = true,
            Some("end") => self.ended = true,
            Some("disconnected") => {}
            other => panic!("the driver printed an unknown event {other:?}"),
        }
    }

    fn spoke(&mut self, fact: &Value, at: Moment) {
        let host = fact["host"].as_str().unwrap_or_default();
        match self.served.last_mut() {
            Some(served) if served.host == host => served.last = at,
            Some(_) | None => self.served.push(Served {
                host: host.to_owned(),
                first: at,
                last: at,
            }),
        }
    }

    fn tail(&self) -> String {
        let errors = &self.errors[self.errors.len().saturating_sub(5)..];
        format!(
            "{:?}; connected to {:?}; last errors {errors:?}",
            self.ledger.report(),
            self.connected_to
        )
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
