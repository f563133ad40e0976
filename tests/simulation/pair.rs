//! Two simulated servers on one virtual clock: started, killed, watched.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use twinmq::actors::ha_manager::HaMessage;
use twinmq::actors::ha_operator::{OperatorOrder, SwitchoverAnswer};
use twinmq::actors::post::post;
use twinmq::machines::ha::{HaMode, Takeover};
use twinmq::proto::ids::{Lsn, NodeId, StoreId};
use twinmq::proto::peer::ServerState;
use twinmq::storage::api::Entry;
use twinmq::storage::memory::MemoryDisk;
use twinmq::time::{Clock, Moment};

use crate::arbiter::{Life, Share};
use crate::clock::{Chance, ServerClock, Trace, VirtualClock};
use crate::course::{Broken, Course, Kind};
use crate::homes::Homes;
use crate::ledger::{PRODUCERS, QUEUES};
use crate::net::SimNet;
use crate::server::{Host, Server, World};

/// Conditions are looked at this often, on the virtual clock.
const STEP: Duration = Duration::from_millis(1);
/// What has not happened within these many steps does not happen.
const STEPS_MAX: u32 = 120_000;

/// What is said of a pair where clients may hear both.
pub(crate) const TWO_SPEAK: &str = "both servers may speak to clients";

/// Tasks that do nothing: a poll of a `LocalSet` runs 61 tasks, and so only two or three others.
const FILLERS: usize = 59;

pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) hosts: [Host; 2],
    servers: [Option<Server>; 2],
    /// Stopped by a signal: nothing of it runs.
    paused: [bool; 2],
    /// Was asked to stop in this life.
    leaving: [bool; 2],
    shown: [ServerState; 2],
    starts: u64,
    /// Why each server ended by itself last.
    pub(crate) ended_for: [Option<String>; 2],
    /// When each server was seen to have ended by itself.
    pub(crate) gone: [Option<Moment>; 2],
    /// The store that each server had last.
    last_store: [StoreId; 2],
    /// Disks say that they have flushed, and have not.
    lies: bool,
    /// Answers to the operator that are still to come.
    asked: Vec<(usize, oneshot::Receiver<SwitchoverAnswer>)>,
}

impl Pair {
    /// Two empty disks, nothing started.
    pub(crate) fn new(course: &Course) -> Self {
        let chance = Chance::new(course.seed);
        let clock = Arc::new(VirtualClock::new());
        let trace = Trace::new(Arc::clone(&clock) as Arc<_>);
        let kind = Kind::of(&chance, course.broken);
        trace.tell(&kind);
        let generous = course.broken == Some(Broken::GenerousArbiter);
        let lease = Duration::from_millis(3000 + chance.below(12_000));
        let share = Share::new(chance.split(), trace.clone(), kind.local, lease, generous);
        let hosts = [0, 1].map(|at| {
            let own = ServerClock::new(
                Arc::clone(&clock),
                chance.below(100_000),
                kind.drift_ppm[at],
            );
            Host::new(own, NodeId(chance.bytes()))
        });
        Self {
            world: World {
                share,
                net: SimNet::new(chance.split()),
                ledger: Arc::default(),
                homes: Arc::new(Homes::new(PRODUCERS + QUEUES, Arc::clone(&clock))),
                flow: Arc::new(AtomicBool::new(true)),
                clock,
                chance,
                trace,
                takeover: if course.shared {
                    Takeover::Lock
                } else {
                    kind.takeover
                },
                mode: if course.shared {
                    HaMode::Shared
                } else {
                    HaMode::Replicated
                },
                short_logs: kind.short_logs,
                strewn: course.strewn,
            },
            hosts,
            servers: [None, None],
            paused: [false; 2],
            leaving: [false; 2],
            shown: [ServerState::Dead; 2],
            starts: 0,
            ended_for: [None, None],
            gone: [None, None],
            last_store: [StoreId::default(); 2],
            lies: false,
            asked: Vec::new(),
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
        self.world.net.wake(at);
        self.world.share.silence(at, false);
        self.gone[at] = None;
        self.leaving[at] = false;
        self.servers[at] = Server::start(&self.world, &self.hosts[at], life).await;
        if self.servers[at].is_none() {
            self.world.trace.tell(format_args!("{life} cannot start"));
            self.gone[at] = Some(self.world.clock.now());
        }
    }

    /// The store that a server has, or had when it ran.
    pub(crate) fn store_of(&self, at: usize) -> StoreId {
        let server = self.servers[at].as_ref();
        server.map_or(self.last_store[at], |server| server.store.log_facts().store)
    }

    /// Whether a server runs, paused or not.
    pub(crate) fn runs(&self, at: usize) -> bool {
        self.servers[at].is_some()
    }

    /// `kill -9`: sockets end, the lock is free, what was written is there.
    pub(crate) fn kill(&mut self, at: usize) {
        let (node, epoch) = self.server(at).serves_as();
        let life = self.bury(at, "is killed");
        // Its watchdog may have a word with the peer, or be killed with it.
        if self.world.net.joins()
            && self.world.chance.once_in(2)
            && let Some(other) = &self.servers[1 - at]
        {
            post(&other.wired.manager, HaMessage::PeerDied { node, epoch });
        }
        self.world.share.free(life);
        self.world.homes.leave_all(life);
    }

    /// The power of its host goes: nobody is told, and what was not flushed may be gone.
    pub(crate) fn lose_power(&mut self, at: usize) {
        self.world.net.silence(at);
        self.world.share.silence(at, true);
        self.bury(at, "loses power");
        match self.world.mode {
            // The mount knows.
            HaMode::Shared if !self.lies => {}
            HaMode::Shared => self.world.share.mount.disk.lose_unflushed(),
            HaMode::Single | HaMode::Replicated => {
                if self.world.chance.once_in(2) || self.lies {
                    self.hosts[at].disk.lose_unflushed();
                }
            }
        }
    }

    /// Both servers have one store.
    pub(crate) fn is_shared(&self) -> bool {
        self.world.mode == HaMode::Shared
    }

    /// The disk that a server's store is on.
    pub(crate) fn disk(&self, at: usize) -> &MemoryDisk {
        match self.world.mode {
            HaMode::Shared => &self.world.share.mount.disk,
            HaMode::Single | HaMode::Replicated => &self.hosts[at].disk,
        }
    }

    fn bury(&mut self, at: usize, how: &str) -> Life {
        let server = self.servers[at].take().expect("only what runs ends");
        let life = server.life;
        self.last_store[at] = server.store.log_facts().store;
        self.world.trace.tell(format_args!("{life} {how}"));
        if self.world.chance.once_in(2) {
            server.write_unheard();
        }
        drop(server);
        self.shown[at] = ServerState::Dead;
        self.paused[at] = false;
        life
    }

    /// From now on the power takes all that this disk says that it has flushed.
    pub(crate) fn lie(&mut self, at: usize) {
        self.lies = true;
        self.disk(at).lie();
    }

    /// `SIGSTOP`, and `SIGCONT`.
    pub(crate) fn pause(&mut self, at: usize, paused: bool) {
        self.paused[at] = paused;
    }

    /// Removes those that have ended by themselves.
    fn reap(&mut self) {
        for at in 0..2 {
            let server = self.servers[at].as_ref();
            if let Some(why) = server.and_then(|server| server.clients.ended()) {
                self.ended_for[at] = Some(why);
                self.world.trace.mark("processes that ended by themselves");
                let life = self.bury(at, "has ended");
                self.world.share.free(life);
                self.world.homes.leave_all(life);
                self.gone[at] = Some(self.world.clock.now());
            }
        }
    }

    /// The operator asks a server to stop.
    pub(crate) fn ask_to_stop(&mut self, at: usize) {
        self.leaving[at] = true;
        post(&self.server(at).wired.manager, HaMessage::Stop);
    }

    /// The operator asks both servers to hand over: one that does not serve refuses.
    pub(crate) fn ask_to_hand_over(&mut self) {
        for (at, server) in self.servers.iter().enumerate() {
            let Some(server) = server else {
                continue;
            };
            let (answer, heard) = oneshot::channel();
            let order = OperatorOrder::Switchover {
                dry_run: false,
                answer,
            };
            post(&server.wired.manager, HaMessage::Operator(order));
            self.asked.push((at, heard));
        }
    }

    /// Counts what became of the operator's wishes; whoever is dead answers nothing.
    fn hear_answers(&mut self) {
        let (trace, ends) = (&self.world.trace, self.is_shared());
        let leaving = &mut self.leaving;
        self.asked.retain_mut(|(at, heard)| match heard.try_recv() {
            Ok(said) => {
                if said.ready {
                    // In shared mode by the end of its process.
                    leaving[*at] |= ends;
                    trace.mark("switchovers begun");
                    trace.tell(format_args!("epoch {} is handed over", said.epoch));
                }
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
    }

    /// The operator stops a server; its process ends in order.
    pub(crate) async fn stop(&mut self, at: usize) {
        self.ask_to_stop(at);
        self.until("stopped", |pair| !pair.runs(at)).await;
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
        let serve = |at: usize| {
            self.servers[at]
                .as_ref()
                .is_some_and(|it| it.clients.serving())
        };
        states.contains(&ServerState::Active)
            && states.contains(&ServerState::Passive)
            && (serve(0) || serve(1))
            && !self.is_leaving()
    }

    /// A server that was asked to stop has not ended yet.
    fn is_leaving(&self) -> bool {
        (0..2).any(|at| self.leaving[at] && self.runs(at))
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
        let owed = [0, 1].map(|at| {
            let running = self.servers[at].as_ref();
            running.map(|server| (server.state(), server.store.facts().messages))
        });
        self.fail(&format!("never came to be: {what} (owed: {owed:?})"));
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
        for (server, paused) in self.servers.iter_mut().zip(self.paused) {
            let Some(server) = server.as_mut().filter(|_| !paused) else {
                continue;
            };
            // It ends only when nothing is left of the server.
            if let Poll::Ready(()) = Pin::new(&mut server.local).poll(context) {
                panic!("server {} has no tasks left", server.life.at);
            }
        }
        self.judge();
        self.reap();
    }

    /// Whatever happens, only one may speak to clients, and what they hear is true.
    fn judge(&self) {
        let running = self.servers.iter().flatten();
        if running.filter(|server| server.clients.speaks()).count() > 1 {
            self.fail(TWO_SPEAK);
        }
        if let Some(wrong) = self.world.ledger.first_wrong() {
            self.fail(&wrong);
        }
    }

    /// Everything that a server owes, read as the data thread reads it.
    pub(crate) async fn owed(&mut self, at: usize) -> Vec<Entry> {
        let mut owed = Vec::new();
        for known in self.server(at).store.destinations() {
            let mut after = Lsn::ZERO;
            loop {
                let server = self.server(at);
                server.clients.fetch(&server.store, known.id, after);
                let (entries, scanned) = loop {
                    if let Some(fetched) = self.server(at).clients.take_fetched() {
                        break fetched;
                    }
                    self.run_for(STEP).await;
                };
                if entries.is_empty() {
                    break;
                }
                owed.extend(entries);
                after = scanned;
            }
        }
        owed
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

    /// Both logs are the same, and so is what they owe. There is nothing to compare where there is one.
    pub(crate) async fn check_equal(&mut self) {
        if self.is_shared() {
            return;
        }
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

    /// Notes what the servers show.
    fn look(&mut self) {
        self.hear_answers();
        for at in 0..2 {
            let state = self.state(at);
            if self.shown[at] != state {
                if state == ServerState::Passive {
                    self.world.trace.mark("times in step");
                }
                self.world.trace.tell(format_args!("{at} is {state}"));
                self.shown[at] = state;
            }
        }
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        let tail = self.world.trace.tail(80);
        panic!("{what}\n{tail}");
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
