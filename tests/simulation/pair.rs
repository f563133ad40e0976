//! Two simulated servers on one virtual clock: started, killed, watched.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use twinmq::actors::ha_manager::HaMessage;
use twinmq::actors::post::post;
use twinmq::io::peer_tcp::MemoryNet;
use twinmq::proto::ids::{Lsn, NodeId};
use twinmq::proto::peer::ServerState;
use twinmq::storage::api::Entry;
use twinmq::storage::memory::MemoryDisk;

use crate::arbiter::{Life, Share};
use crate::clients::QUEUE;
use crate::clock::{Chance, Trace, VirtualClock};
use crate::server::{Server, World};

/// Conditions are looked at this often, on the virtual clock.
const STEP: Duration = Duration::from_millis(1);
/// What has not happened within these many steps does not happen.
const STEPS_MAX: u32 = 120_000;

/// Tasks that do nothing: a poll of a `LocalSet` runs 61 tasks, and so only two or three others.
const FILLERS: usize = 59;

pub(crate) struct Pair {
    pub(crate) world: World,
    seed: u64,
    disks: [MemoryDisk; 2],
    servers: [Option<Server>; 2],
    shown: [ServerState; 2],
    starts: u64,
}

impl Pair {
    /// Two empty disks, nothing started.
    pub(crate) fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let clock = Arc::new(VirtualClock::new());
        let trace = Trace::new(Arc::clone(&clock) as Arc<_>);
        Self {
            world: World {
                share: Share::new(chance.split(), trace.clone()),
                net: MemoryNet::default(),
                ledger: Arc::default(),
                flow: Arc::new(AtomicBool::new(true)),
                clock,
                chance,
                trace,
            },
            seed,
            disks: [1, 2].map(|node| MemoryDisk::new(NodeId([node; 16]))),
            servers: [None, None],
            shown: [ServerState::Dead; 2],
            starts: 0,
        }
    }

    /// Starts a server that does not run.
    pub(crate) async fn start(&mut self, at: usize) {
        assert!(self.servers[at].is_none(), "server {at} runs");
        self.starts += 1;
        let life = Life {
            at,
            number: self.starts,
        };
        self.world.trace.tell(format_args!("{life} starts"));
        self.servers[at] = Some(Server::start(&self.world, &self.disks[at], life).await);
    }

    /// `kill -9` and the loss of power at once: sockets end, the lock is free, what was not flushed
    /// is gone.
    pub(crate) fn kill(&mut self, at: usize) {
        let server = self.servers[at].take().expect("only what runs is killed");
        let life = server.life;
        self.world.trace.tell(format_args!("{life} is killed"));
        drop(server.local);
        self.world.share.free(life);
        self.disks[at].lose_unflushed();
        self.shown[at] = ServerState::Dead;
    }

    /// The operator stops a server; its process ends in order.
    pub(crate) async fn stop(&mut self, at: usize) {
        post(&self.server(at).wired.manager, HaMessage::Stop);
        self.until("stopped", |pair| pair.server(at).clients.ended())
            .await;
        self.server(at).store.close();
        self.kill(at);
    }

    /// The server, which runs.
    pub(crate) fn server(&self, at: usize) -> &Server {
        self.servers[at].as_ref().expect("the server runs")
    }

    /// What a server shows; `Dead` where none runs.
    pub(crate) fn state(&self, at: usize) -> ServerState {
        self.servers[at]
            .as_ref()
            .map_or(ServerState::Dead, Server::state)
    }

    /// One serves, the other is in step.
    pub(crate) fn in_sync(&self) -> bool {
        let states = [self.state(0), self.state(1)];
        states.contains(&ServerState::Active) && states.contains(&ServerState::Passive)
    }

    /// The one that serves.
    pub(crate) fn active(&self) -> usize {
        let serves = |at: &usize| {
            self.servers[*at]
                .as_ref()
                .is_some_and(|server| server.clients.serving())
        };
        let serving: Vec<usize> = (0..2).filter(serves).collect();
        assert_eq!(serving.len(), 1, "not one server serves: {serving:?}");
        serving[0]
    }

    /// Clients begin or cease to send.
    pub(crate) fn flow(&self, flows: bool) {
        self.world.flow.store(flows, Ordering::Relaxed);
    }

    /// Until the condition holds.
    ///
    /// # Panics
    /// When it does not come to hold.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if condition(self) {
                self.world.trace.tell(format_args!("now: {what}"));
                return;
            }
            self.run_for(STEP).await;
        }
        self.fail(&format!("never came to be: {what}"));
    }

    /// Until clients have been told of so many more.
    pub(crate) async fn until_confirmed(&mut self, more: u64) {
        let goal = self.world.ledger.confirmed() + more;
        let what = format!("{goal} confirms");
        self.until(&what, |pair| pair.world.ledger.confirmed() >= goal)
            .await;
    }

    /// Lets both servers run for this long. What is due at the last moment is not done yet.
    pub(crate) async fn run_for(&mut self, span: Duration) {
        let mut over = pin!(tokio::time::sleep(span));
        poll_fn(|context| {
            let over = over.as_mut().poll(context);
            if over.is_pending() {
                self.poll(context);
            }
            over
        })
        .await;
        self.look();
    }

    /// Goes on for a few tasks of what is due now, so that a kill finds mailboxes that are not empty.
    pub(crate) async fn run_into(&mut self, polls: u64) {
        let over = Arc::new(AtomicBool::new(false));
        for server in self.servers.iter().flatten() {
            for _ in 0..FILLERS {
                drop(server.local.spawn_local(fill(Arc::clone(&over))));
            }
        }
        poll_fn(|context| {
            for _ in 0..polls {
                self.poll(context);
            }
            Poll::Ready(())
        })
        .await;
        over.store(true, Ordering::Relaxed);
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        for server in self.servers.iter_mut().flatten() {
            // It ends only when nothing is left of the server.
            if let Poll::Ready(()) = Pin::new(&mut server.local).poll(context) {
                panic!("server {} has no tasks left", server.life.at);
            }
        }
    }

    /// Everything that a server owes, read as the data thread reads it.
    pub(crate) async fn owed(&mut self, at: usize) -> Vec<Entry> {
        let known = self.server(at).store.destinations();
        if known.iter().all(|destination| destination.id != QUEUE) {
            return Vec::new();
        }
        let mut owed = Vec::new();
        let mut after = Lsn::ZERO;
        loop {
            self.server(at).store.fetch(QUEUE, after, 50, 10_000);
            let (entries, scanned) = loop {
                if let Some(fetched) = self.server(at).clients.take_fetched() {
                    break fetched;
                }
                self.run_for(STEP).await;
            };
            if entries.is_empty() {
                return owed;
            }
            owed.extend(entries);
            after = scanned;
        }
    }

    /// The server holds all that was confirmed.
    pub(crate) async fn check(&mut self, at: usize) {
        let promises = self.world.ledger.promises();
        let owed = self.owed(at).await;
        if let Err(wrong) = self.world.ledger.judge(&promises, &owed) {
            self.fail(&format!("server {at}: {wrong}"));
        }
        let text = format!("{at} holds what was confirmed, {} owed", owed.len());
        self.world.trace.tell(text);
    }

    /// Both logs are the same, and so is what they owe.
    pub(crate) async fn check_equal(&mut self) {
        let facts = [0, 1].map(|at| self.server(at).store.log_facts());
        let logs = facts
            .each_ref()
            .map(|facts| (facts.durable, facts.chain, facts.epochs.clone()));
        if logs[0] != logs[1] {
            self.fail(&format!("the logs differ: {logs:?}"));
        }
        let owed = [self.owed(0).await, self.owed(1).await];
        if owed[0] != owed[1] {
            self.fail("the logs are equal and what is owed differs");
        }
        self.world.trace.tell(format_args!("equal: {logs:?}"));
    }

    /// Whatever happens, only one speaks to clients.
    fn look(&mut self) {
        let running = self.servers.iter().flatten();
        if running.filter(|server| server.clients.speaks()).count() > 1 {
            self.fail("both servers speak to clients");
        }
        for at in 0..2 {
            let state = self.state(at);
            if self.shown[at] != state {
                self.world.trace.tell(format_args!("{at} is {state}"));
                self.shown[at] = state;
            }
        }
    }

    fn fail(&self, what: &str) -> ! {
        let tail = self.world.trace.tail(60);
        panic!("seed {}: {what}\n{tail}", self.seed);
    }
}

/// Takes its turn until it is over.
async fn fill(over: Arc<AtomicBool>) {
    poll_fn(|context| {
        if over.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
