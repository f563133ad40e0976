//! A client that names its messages, so that its receipts can be recognised in a recording.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use twinmq::cli::stomp_client::{Connection, Hosts, StompError, StompOptions};

use crate::support::eventually::{SOON, eventually};

/// Its messages stay.
const KEPT: &str = "/queue/kept";
/// Its messages are acknowledged as they arrive.
const DONE: &str = "/queue/done";
/// Requests under way at most.
const WINDOW: usize = 6;
/// What follows the name in a body.
pub(crate) const FILL: u8 = b'.';

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Every n-th message stays for good.
    pub(crate) kept_each: u64,
    /// Bytes of most bodies.
    pub(crate) body: usize,
    /// Bytes of every 16th.
    pub(crate) large: usize,
}

pub(crate) struct Load {
    over: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    thread: Option<JoinHandle<BTreeSet<String>>>,
}

impl Load {
    pub(crate) fn start(hosts: &str, mix: Mix) -> Self {
        let (over, confirmed) = (Arc::default(), Arc::default());
        let mut client = Client {
            hosts: Hosts::parse(hosts, StompOptions::default()).expect("addresses"),
            mix,
            number: 0,
            over: Arc::clone(&over),
            confirmed: Arc::clone(&confirmed),
            receipts: BTreeSet::new(),
        };
        let thread = thread::spawn(move || {
            while !client.over.load(Ordering::Relaxed) {
                let over = Arc::clone(&client.over);
                let connected = client.hosts.connect(SOON, &|| over.load(Ordering::Relaxed));
                // A connection that dies is what these tests are about: the next one goes on.
                if let Ok(connection) = connected {
                    client.converse(connection).ok();
                }
            }
            client.receipts
        });
        Self {
            over,
            confirmed,
            thread: Some(thread),
        }
    }

    /// Waits for so many more receipts.
    #[track_caller]
    pub(crate) fn await_confirmed(&self, more: u64) {
        let goal = self.confirmed.load(Ordering::Relaxed) + more;
        eventually(SOON, &format!("{goal} receipts"), || {
            match self.confirmed.load(Ordering::Relaxed) {
                enough if enough >= goal => Ok(()),
                so_far => Err(so_far.to_string()),
            }
        });
    }

    /// Waits until nothing is confirmed any more, although everything was sent that may be.
    pub(crate) fn await_standstill(&self) {
        let mut before = u64::MAX;
        eventually(SOON, "no more receipts", || {
            let now = self.confirmed.load(Ordering::Relaxed);
            match std::mem::replace(&mut before, now) {
                same if same == now => Ok(()),
                before => Err(format!("{before}, then {now}")),
            }
        });
    }

    /// Ends it; gives every receipt that it saw.
    pub(crate) fn finish(mut self) -> BTreeSet<String> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only this takes it");
        thread.join().expect("the client does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

struct Client {
    hosts: Hosts,
    mix: Mix,
    number: u64,
    over: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    receipts: BTreeSet<String>,
}

impl Client {
    fn converse(&mut self, mut connection: Connection) -> Result<(), StompError> {
        let mut arrived = connection.subscribe("d", DONE, "client-individual", 50, SOON)?;
        let mut under_way = 0_usize;
        while !self.over.load(Ordering::Relaxed) || under_way > 0 {
            while under_way < WINDOW && !self.over.load(Ordering::Relaxed) {
                self.send(&mut connection);
                under_way += 1;
            }
            connection.flush()?;
            arrived.extend(connection.next(Duration::from_millis(200))?);
            for frame in arrived.drain(..) {
                if let Some(receipt) = frame.header("receipt-id") {
                    self.receipts.insert(receipt.into_owned());
                    self.confirmed.fetch_add(1, Ordering::Relaxed);
                    under_way -= 1;
                } else if let Some(ack) = frame.header("ack") {
                    let name = name_in(&frame.body).expect("nobody else sends here");
                    let receipt = format!("ack-{name}");
                    connection.queue("ACK", &[("id", &ack), ("receipt", &receipt)], b"");
                    under_way += 1;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, connection: &mut Connection) {
        let number = self.number;
        self.number += 1;
        let (queue, name) = if number.is_multiple_of(self.mix.kept_each) {
            (KEPT, format!("kept-{number}"))
        } else {
            (DONE, format!("done-{number}"))
        };
        let bytes = if number % 16 == 15 {
            self.mix.large
        } else {
            self.mix.body
        };
        let mut body = format!("{name} {bytes} ").into_bytes();
        body.resize(bytes, FILL);
        connection.queue("SEND", &[("destination", queue), ("receipt", &name)], &body);
    }
}

/// The name of a message, if it is whole.
pub(crate) fn name_in(body: &[u8]) -> Option<String> {
    let mut words = body.splitn(3, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (name, bytes) = (word()?.to_owned(), word()?.parse::<usize>().ok()?);
    let rest = word()?;
    let whole = body.len() == bytes && rest.bytes().all(|byte| byte == FILL);
    whole.then_some(name)
}
