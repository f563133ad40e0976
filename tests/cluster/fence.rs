//! A server that is silent and keeps its lock: taken over from by fence, or not at all. Without its
//! watchdog, which would end it: so that it is there when it wakes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use twinmq::cli::admin_client::{LockStatus, Status};
use twinmq::cli::stomp_client::Connection;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::{connect, test_name};

const QUEUE: (&str, &str) = ("destination", "/queue/load");

/// Sends one message after the other on one connection until it ends.
struct Sender {
    confirmed: Arc<AtomicU32>,
    thread: JoinHandle<()>,
    first: u32,
}

impl Sender {
    /// Its messages are numbered from `first`.
    fn start(host: &str, first: u32) -> Self {
        let mut client = connect(host);
        let confirmed = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&confirmed);
        let thread = thread::spawn(move || {
            let mut number = first;
            let mut send = |number: u32| {
                let body = number.to_string();
                client.request("SEND", &[QUEUE], body.as_bytes(), SOON)
            };
            while send(number).is_ok() {
                number += 1;
                counted.store(number - first, Ordering::SeqCst);
            }
        });
        Self {
            confirmed,
            thread,
            first,
        }
    }

    fn confirmed(&self) -> u32 {
        self.confirmed.load(Ordering::SeqCst)
    }

    #[track_caller]
    fn await_confirmed(&self, more: u32) {
        let goal = self.confirmed() + more;
        eventually(SOON, "more receipts", || {
            let confirmed = self.confirmed();
            (confirmed >= goal)
                .then_some(())
                .ok_or(confirmed.to_string())
        });
    }

    /// What was confirmed on the connection, once it has ended.
    fn end(self) -> impl Iterator<Item = u32> {
        self.thread.join().expect("it ends with its connection");
        let confirmed = self.confirmed.load(Ordering::SeqCst);
        self.first..self.first + confirmed
    }
}

/// Receives until everything of `wanted` has come.
#[track_caller]
fn receive(client: &mut Connection, mut wanted: BTreeSet<u32>) {
    let subscription = [QUEUE, ("id", "1"), ("ack", "auto")];
    client.queue("SUBSCRIBE", &subscription, b"");
    client.flush().expect("it serves");
    while !wanted.is_empty() {
        let frame = client.next(SOON).expect("it serves");
        let frame = frame.unwrap_or_else(|| panic!("confirmed and lost: {wanted:?}"));
        let number = String::from_utf8_lossy(&frame.body).parse().ok();
        wanted.remove(&number.expect("only this test sends"));
    }
}

fn lock(status: &Status) -> LockStatus {
    status.lock.clone().expect("a pair has a lock")
}

#[test]
fn a_stopped_active_is_fenced_and_when_it_wakes_it_confirms_nothing_and_follows() {
    let mut pair = Pair::in_sync_with(test_name!(), &[("ha.watchdog", "false")]);
    let stopped = pair.active();
    let before = pair.server(stopped).status().expect("it runs");
    let early = Sender::start(&pair.server(stopped).client_address(), 0);
    early.await_confirmed(200);
    pair.server(stopped).signal(Signal::SIGSTOP);

    let serving = pair
        .server(stopped.other())
        .await_status("it serves", |status| status.serving);
    // One message is under way: the kernel has taken it for the stopped process.
    let confirmed_before = early.confirmed();
    assert_eq!(serving.epoch, before.epoch + 1);
    let path = format!("{}.{}", lock(&before).path, serving.epoch);
    assert_eq!(lock(&serving).path, path, "the new generation's file");
    assert!(lock(&serving).held);
    let late = Sender::start(&pair.server(stopped.other()).client_address(), 1_000_000);
    late.await_confirmed(200);

    pair.server(stopped).signal(Signal::SIGCONT);
    pair.server(stopped).await_log("this server stepped down");
    let mut confirmed: BTreeSet<u32> = early.end().collect();
    let count = u32::try_from(confirmed.len()).expect("a few thousand");
    assert_eq!(
        count, confirmed_before,
        "nothing more, once the other served"
    );
    assert_eq!(pair.await_in_sync(), stopped.other());
    late.await_confirmed(200);

    // And the other way round, under load again: from one new generation to the next.
    pair.server(stopped.other()).signal(Signal::SIGSTOP);
    let serving = pair
        .server(stopped)
        .await_status("it serves", |status| status.serving);
    let path = format!("{}.{}", lock(&before).path, before.epoch + 2);
    assert_eq!(lock(&serving).path, path);
    pair.server(stopped.other()).signal(Signal::SIGCONT);
    confirmed.extend(late.end());
    assert_eq!(pair.await_in_sync(), stopped);
    receive(
        &mut connect(&pair.server(stopped).client_address()),
        confirmed,
    );
}

#[test]
fn by_lock_nothing_moves_while_a_stopped_active_has_it_and_status_says_why() {
    let settings = [("ha.lock.takeover", "lock"), ("ha.watchdog", "false")];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let stopped = pair.active();
    let before = pair.server(stopped).status().expect("it runs");
    pair.server(stopped).signal(Signal::SIGSTOP);
    let waiting = pair.server(stopped.other());
    let status = waiting.await_status("it says why it does not serve", |status| {
        let claims = status.claims.as_ref();
        let reason = claims.and_then(|claims| claims.reason.as_deref());
        reason.is_some_and(|reason| {
            reason.contains("has been silent") && reason.contains("ha.lock.takeover is \"lock\"")
        })
    });
    assert_eq!((status.serving, status.epoch), (false, before.epoch));
    assert_eq!(lock(&status).path, lock(&before).path);
    pair.server(stopped).signal(Signal::SIGCONT);
    // Its lease is over: it lets the lock go, and whoever has it first serves.
    pair.await_in_sync();
}

/// The lock file of a generation that is over is not taken for another pair's.
#[test]
fn after_a_fence_the_service_is_handed_over_there_and_back() {
    let mut pair = Pair::in_sync_with(test_name!(), &[("ha.watchdog", "false")]);
    let stopped = pair.active();
    pair.server(stopped).signal(Signal::SIGSTOP);
    pair.server(stopped.other()).await_state("STANDALONE");
    pair.server(stopped).signal(Signal::SIGCONT);
    assert_eq!(pair.await_in_sync(), stopped.other());
    for active in [stopped.other(), stopped, stopped.other()] {
        let done = pair
            .server(active)
            .operator(&["switchover"])
            .output()
            .expect("the binary under test starts");
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{text}");
        assert_eq!(pair.await_in_sync(), active.other());
    }
}
