//! The client side of a simulated server: submits units as the data thread would, and hears what
//! becomes of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use twinmq::actors::ha_manager::{ClientSide, HaMessage};
use twinmq::actors::lease::{Lease, ServingLease};
use twinmq::actors::post::{Port, post};
use twinmq::actors::store_sink::CommittedSink;
use twinmq::machines::ha::ExitCause;
use twinmq::proto::ids::{DestId, Epoch, Lsn};
use twinmq::storage::api::{Committed, Draft, Entry, LogStore, SPACE_DESTINATION, Ticket, Unit};

use crate::arbiter::Life;
use crate::clock::{Chance, Trace, open};
use crate::ledger::{Ledger, number_of};

/// The one destination of the simulation.
pub(crate) const QUEUE: DestId = DestId(1);
const DEFINITION: &[u8] = b"qorders";
/// Between two units of a client, at most, in milliseconds.
const PACE_MS: u64 = 4;

/// The outside of one life's clients.
pub(crate) struct Setting {
    pub(crate) life: Life,
    pub(crate) lease: Arc<Lease>,
    pub(crate) ledger: Arc<Ledger>,
    /// Clients have something to send.
    pub(crate) flow: Arc<AtomicBool>,
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
}

/// All clients of one life of a server.
pub(crate) struct Clients {
    setting: Setting,
    state: Mutex<State>,
    /// The store's owner holds it; its sink leads back here.
    store: OnceLock<Weak<dyn LogStore>>,
    manager: OnceLock<Port<HaMessage>>,
    change: Notify,
}

#[derive(Default)]
struct State {
    serving: bool,
    /// The process is to end.
    ended: bool,
    /// Delivered and not acked.
    delivered: VecDeque<Entry>,
    fetched: VecDeque<(Vec<Entry>, Lsn)>,
}

impl Clients {
    pub(crate) fn new(setting: Setting) -> Arc<Self> {
        Arc::new(Self {
            setting,
            state: Mutex::default(),
            store: OnceLock::new(),
            manager: OnceLock::new(),
            change: Notify::new(),
        })
    }

    /// Joins the store whose sink this is.
    pub(crate) fn join_store(&self, store: Weak<dyn LogStore>) {
        assert!(self.store.set(store).is_ok(), "joined once");
    }

    /// Joins HAManager.
    pub(crate) fn join_manager(&self, manager: Port<HaMessage>) {
        assert!(self.manager.set(manager).is_ok(), "joined once");
    }

    /// HAManager has opened the port.
    pub(crate) fn serving(&self) -> bool {
        open(&self.state).serving
    }

    /// What a session would find when it writes its confirms.
    pub(crate) fn speaks(&self) -> bool {
        self.serving() && self.setting.lease.may_speak()
    }

    /// HAManager wants the process to end.
    pub(crate) fn ended(&self) -> bool {
        open(&self.state).ended
    }

    /// The next answer to a fetch.
    pub(crate) fn take_fetched(&self) -> Option<(Vec<Entry>, Lsn)> {
        open(&self.state).fetched.pop_front()
    }

    /// Sends and acks at a random pace while the server serves.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.setting.chance.delay(PACE_MS).await;
            if !self.serving() {
                self.change.notified().await;
            } else if self.setting.flow.load(Ordering::Relaxed) {
                self.act();
            } else {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }

    fn act(&self) {
        let delivered = if self.setting.chance.once_in(3) {
            open(&self.state).delivered.pop_front()
        } else {
            None
        };
        let unit = match delivered {
            Some(Entry { lsn, message }) => Unit {
                ticket: self.setting.ledger.ack(&message),
                records: vec![Draft::Ack {
                    dest: QUEUE,
                    lsns: vec![lsn],
                }],
            },
            None => {
                let padding = usize::try_from(self.setting.chance.below(300)).expect("below 300");
                let (ticket, message) = self.setting.ledger.send(padding);
                let targets = vec![QUEUE];
                let records = vec![Draft::Put { targets, message }];
                Unit { ticket, records }
            }
        };
        self.submit(unit);
    }

    fn submit(&self, unit: Unit) {
        self.store().submit(vec![unit]);
    }

    fn store(&self) -> Arc<dyn LogStore> {
        let store = self.store.get().and_then(Weak::upgrade);
        store.expect("the store lives as long as its server")
    }

    fn tell(&self, what: &str) {
        let Setting { life, trace, .. } = &self.setting;
        trace.tell(format_args!("{life} {what}"));
    }

    fn close(&self) {
        let mut state = open(&self.state);
        state.serving = false;
        state.delivered.clear();
    }
}

impl CommittedSink for Clients {
    fn committed(&self, committed: Committed) {
        let Committed {
            upto,
            ready,
            tickets,
            marks: _,
        } = committed;
        let numbers: Vec<u64> = ready
            .iter()
            .flat_map(|(_, entries)| entries)
            .map(|entry| number_of(&entry.message))
            .collect();
        let speaks = self.speaks();
        let text = format!("committed {upto}, ready {numbers:?}, {tickets:?}, {speaks}");
        self.tell(&text);
        for (dest, entries) in &ready {
            assert_eq!(*dest, QUEUE);
            assert!(
                entries.is_sorted_by(|a, b| a.lsn < b.lsn),
                "deliveries out of order: {text}"
            );
        }
        for ticket in tickets {
            if self.setting.ledger.is_message(ticket) {
                assert!(
                    numbers.contains(&ticket.0),
                    "a confirm without its delivery: {text}"
                );
            }
            if speaks {
                self.setting.ledger.confirm(ticket);
            }
        }
        let mut state = open(&self.state);
        if state.serving {
            let entries = ready.into_iter().flat_map(|(_, entries)| entries);
            state.delivered.extend(entries);
        }
    }

    fn fetched(&self, dest: DestId, entries: Vec<Entry>, scanned: Lsn) {
        assert_eq!(dest, QUEUE);
        open(&self.state).fetched.push_back((entries, scanned));
    }
}

impl ClientSide for Clients {
    fn serve(&self, epoch: Epoch) {
        self.tell(&format!("serves in epoch {epoch}"));
        let known = self.store().destinations();
        if known.iter().all(|destination| destination.id != QUEUE) {
            self.submit(Unit {
                ticket: Ticket::default(),
                records: vec![Draft::Kv {
                    space: SPACE_DESTINATION,
                    key: Bytes::copy_from_slice(&QUEUE.0.to_be_bytes()),
                    value: Bytes::from_static(DEFINITION),
                }],
            });
        }
        open(&self.state).serving = true;
        self.change.notify_one();
    }

    fn stop_serving(&self, reason: &str) {
        self.tell(&format!("serves no more: {reason}"));
        self.close();
    }

    fn drain(&self, _: Duration, _: &str) {
        self.tell("drains");
        self.close();
        if let Some(manager) = self.manager.get() {
            post(manager, HaMessage::ClientsDrained);
        }
    }

    fn end_process(&self, cause: &ExitCause) {
        self.tell(&format!("ends: {cause:?}"));
        open(&self.state).ended = true;
    }
}
