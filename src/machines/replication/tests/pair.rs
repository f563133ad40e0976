//! Two servers of the replication alone: a machine and a store each, the wires between them, and
//! the few rules of HAManager that replication depends on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::machines::replication::*;
use bytes::Bytes;

use crate::proto::ids::{DestId, Epoch, Lsn, NodeId, SessionId};
use crate::proto::peer::{Body, SyncPlan};
use crate::storage::api::*;
use crate::storage::error::StoreError;
use crate::storage::inline::InlineStore;
use crate::storage::memory::{MemoryDisk, MemoryHome};
use crate::storage::{StoreConfig, open_memory};
use crate::time::Moment;

/// Of both servers, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) window: usize,
    pub(super) piece: usize,
    pub(super) retain: usize,
}

/// What a run went through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) incremental: u64,
    pub(super) full: u64,
    pub(super) truncated: u64,
    pub(super) in_sync: u64,
    pub(super) committed_with_peer: u64,
    pub(super) take_overs: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.incremental += other.incremental;
        self.full += other.full;
        self.truncated += other.truncated;
        self.in_sync += other.in_sync;
        self.committed_with_peer += other.committed_with_peer;
        self.take_overs += other.take_overs;
    }
}

/// Keeps the store's events until they are looked at.
#[derive(Default)]
struct Kept(Mutex<VecDeque<StoreEvent>>);

impl StoreSink for Kept {
    fn event(&self, event: StoreEvent) {
        self.0.lock().unwrap().push_back(event);
    }
}

struct Server {
    disk: MemoryDisk,
    store: Arc<InlineStore<MemoryHome>>,
    kept: Arc<Kept>,
    machine: ReplicationMachine,
    /// As the store's sink: batches are for a machine with a role only.
    listens: bool,
    mail: VecDeque<StoreEvent>,
    gate: GatePolicy,
}

impl Server {
    fn open(disk: MemoryDisk, limits: Limits) -> Self {
        let mut config = StoreConfig::new("memory", "test");
        config.checkpoint_bytes = 2000;
        config.retain_bytes = limits.retain as u64;
        let kept = Arc::new(Kept::default());
        let sink = Arc::clone(&kept) as Arc<dyn StoreSink>;
        let (_, store) = open_memory(&disk, config, sink, Box::new(|| ())).unwrap();
        Self {
            disk,
            store,
            kept,
            machine: ReplicationMachine::new(ReplicationConfig {
                window_bytes: limits.window,
                piece_bytes: limits.piece,
                ack_timeout: Duration::from_secs(1),
                resync_bytes_per_s: 0,
                resync_pause_max: Duration::from_secs(10),
            }),
            listens: false,
            mail: VecDeque::new(),
            gate: GatePolicy::Closed,
        }
    }

    fn end(&self) -> Lsn {
        self.store.log_facts().durable.lsn
    }
}

pub(super) struct Pair {
    limits: Limits,
    servers: [Server; 2],
    leader: usize,
    epoch: Epoch,
    session: Option<SessionId>,
    sessions: u64,
    /// What is on its way to each server.
    wires: [VecDeque<(SessionId, Body)>; 2],
    /// HAManager has decided, and the machine of this server is not told yet.
    orders: VecDeque<usize>,
    reports: VecDeque<(usize, ReplicationReport)>,
    /// The commit index of the leader when its gate was set last.
    required: Lsn,
    sync_done: bool,
    /// The record names both.
    both: bool,
    in_sync: bool,
    /// Reported as committed by a leader.
    confirmed: Lsn,
    /// Sent in this session and not acknowledged, as the wires show it.
    in_flight: VecDeque<(Lsn, usize)>,
    largest: usize,
    puts: u64,
    owed: VecDeque<Lsn>,
    pub(super) counts: Counts,
}

impl Pair {
    pub(super) fn new(limits: Limits) -> Self {
        let open = |node| Server::open(MemoryDisk::new(NodeId([node; 16])), limits);
        let mut pair = Self {
            limits,
            servers: [open(1), open(2)],
            leader: 0,
            epoch: Epoch::ZERO,
            session: None,
            sessions: 0,
            wires: Default::default(),
            orders: VecDeque::new(),
            reports: VecDeque::new(),
            required: Lsn::ZERO,
            sync_done: false,
            both: false,
            in_sync: false,
            confirmed: Lsn::ZERO,
            in_flight: VecDeque::new(),
            largest: 0,
            puts: 0,
            owed: VecDeque::new(),
            counts: Counts::default(),
        };
        pair.serve();
        pair.submit(vec![Draft::Kv {
            space: SPACE_DESTINATION,
            key: Bytes::copy_from_slice(&1_u32.to_be_bytes()),
            value: Bytes::from_static(b"qq"),
        }]);
        pair
    }

    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// A message and, once there are a few, the end of the oldest.
    pub(super) fn put(&mut self, size: usize) {
        self.puts += 1;
        let mut body = self.puts.to_be_bytes().to_vec();
        body.resize(8 + size, 7);
        let mut records = vec![Draft::Put {
            targets: vec![DestId(1)],
            message: Bytes::from(body),
        }];
        if self.owed.len() > 3 {
            records.push(Draft::Ack {
                dest: DestId(1),
                lsns: self.owed.pop_front().into_iter().collect(),
            });
        }
        self.submit(records);
    }

    fn submit(&mut self, records: Vec<Draft>) {
        let unit = Unit {
            ticket: Ticket(0),
            records,
        };
        self.servers[self.leader].store.submit(vec![unit]);
    }

    /// One thing that a store has to do.
    pub(super) fn pump(&mut self, at: usize) -> bool {
        let worked = self.servers[at].store.pump_one();
        self.collect();
        worked
    }

    /// The oldest frame that is on its way to a server.
    pub(super) fn deliver(&mut self, at: usize) -> bool {
        let Some((session, body)) = self.wires[at].pop_front() else {
            return false;
        };
        if let Body::Durable { position, .. } | Body::SyncDone { position, .. } = &body
            && Some(session) == self.session
        {
            self.in_flight.retain(|(last, _)| *last > position.lsn);
        }
        self.input(at, ReplicationInput::Frame { session, body });
        true
    }

    /// The oldest event of a store reaches its machine.
    pub(super) fn hear(&mut self, at: usize) -> bool {
        let Some(event) = self.servers[at].mail.pop_front() else {
            return false;
        };
        let input = match event {
            StoreEvent::Cut(batch) => ReplicationInput::Cut(batch),
            StoreEvent::Durable(position) => ReplicationInput::Durable(position),
            StoreEvent::Committed(committed) => ReplicationInput::Committed(committed.upto),
            StoreEvent::LogRead { request, batches } => {
                ReplicationInput::LogRead { request, batches }
            }
            StoreEvent::Done { request, outcome } => ReplicationInput::JobDone { request, outcome },
            StoreEvent::Failed(StoreError::ReplicaMismatch(reason)) => {
                ReplicationInput::ReplicaRefused(reason)
            }
            StoreEvent::Fetched(_) | StoreEvent::PartsRead { .. } | StoreEvent::Failed(_) => {
                panic!("not kept: {event:?}")
            }
        };
        self.input(at, input);
        true
    }

    /// A machine hears which part it has in the session.
    pub(super) fn order(&mut self, newest: bool) -> bool {
        let order = if newest {
            self.orders.pop_back()
        } else {
            self.orders.pop_front()
        };
        let (Some(at), Some(session), epoch) = (order, self.session, self.epoch) else {
            return false;
        };
        self.servers[at].listens = true;
        if at == self.leader {
            self.input(at, ReplicationInput::Lead { session, epoch });
        } else {
            self.gate(at, GatePolicy::Following);
            self.input(at, ReplicationInput::Follow { session, epoch });
        }
        true
    }

    /// HAManager hears the oldest report.
    pub(super) fn manage(&mut self) -> bool {
        let Some((at, report)) = self.reports.pop_front() else {
            return false;
        };
        match report {
            ReplicationReport::SyncDone { session, .. } if self.session == Some(session) => {
                self.sync_done = true;
                self.gate(at, GatePolicy::WithPeer);
            }
            ReplicationReport::PeerHoldsAll { session } if self.session == Some(session) => {
                self.both = true;
                let epoch = self.epoch;
                self.wires[1 - at].push_back((session, Body::InSync { epoch }));
            }
            ReplicationReport::InSync { session, epoch } if self.session == Some(session) => {
                assert_eq!(epoch, self.epoch);
                self.in_sync = true;
                self.counts.in_sync += 1;
            }
            ReplicationReport::SyncFailed { session, .. } if self.session == Some(session) => {
                self.drop_session(true);
            }
            _ => {}
        }
        true
    }

    /// The link is lost; what was on its way may still come.
    pub(super) fn drop_session(&mut self, tell: bool) {
        self.session = None;
        self.orders.clear();
        if tell {
            self.wires = Default::default();
            for at in 0..2 {
                self.rest(at);
            }
        }
    }

    fn rest(&mut self, at: usize) {
        self.servers[at].listens = false;
        self.input(at, ReplicationInput::Rest);
    }

    /// The leader goes on alone, by the record too.
    pub(super) fn notice(&mut self) {
        if self.servers[self.leader].gate != GatePolicy::Alone {
            self.both = false;
            self.gate(self.leader, GatePolicy::Alone);
        }
    }

    pub(super) fn connect(&mut self) {
        self.sessions += 1;
        self.session = Some(SessionId(self.sessions));
        self.in_flight.clear();
        (self.sync_done, self.in_sync) = (false, false);
        self.orders = [0, 1].into();
    }

    /// A server's process ends and starts again.
    pub(super) fn crash(&mut self, at: usize, lose: bool) {
        self.drop_session(false);
        self.wires[at].clear();
        self.reports.retain(|(from, _)| *from != at);
        let disk = self.servers[at].disk.clone();
        if lose {
            disk.lose_unflushed();
        }
        self.servers[at] = Server::open(disk, self.limits);
        if at == self.leader {
            self.serve();
        }
    }

    /// The follower has all that was confirmed and may serve without the leader.
    pub(super) fn may_take_over(&self) -> bool {
        self.both
    }

    pub(super) fn take_over(&mut self, old_crashes: bool) {
        let old = self.leader;
        assert!(self.shared() >= self.confirmed, "confirmed and lost");
        self.counts.take_overs += 1;
        self.leader = 1 - old;
        if old_crashes {
            self.crash(old, true);
        } else {
            self.rest(old);
            self.gate(old, GatePolicy::Closed);
        }
        self.rest(self.leader);
        self.serve();
    }

    /// Alone, in a new epoch.
    fn serve(&mut self) {
        let at = self.leader;
        self.epoch = self.epoch.next();
        self.both = false;
        self.servers[at].store.pump();
        self.servers[at]
            .store
            .run(u64::MAX, Job::BeginEpoch(self.epoch));
        self.servers[at].store.pump();
        self.collect();
        let began = self.servers[at].store.log_facts().durable.epoch;
        assert_eq!(began, self.epoch, "the epoch was not begun");
        self.gate(at, GatePolicy::Alone);
    }

    fn gate(&mut self, at: usize, policy: GatePolicy) {
        self.servers[at].gate = policy;
        let committed = self.servers[at].store.set_gate(policy);
        if at == self.leader {
            self.required = committed;
        }
        self.collect();
        self.input(at, ReplicationInput::GateSet { policy, committed });
    }

    fn input(&mut self, at: usize, input: ReplicationInput) {
        let server = &mut self.servers[at];
        let mut effects = Vec::new();
        server.machine.step(Moment(0), input, &mut effects);
        while let Some(asked) = effects.iter().position(ReplicationEffect::asks_of_the_log) {
            let answer = match effects.remove(asked) {
                ReplicationEffect::MeasureLog { after } => {
                    ReplicationInput::LogBytes(server.store.log_bytes(after))
                }
                _ => ReplicationInput::Log(server.store.log_facts()),
            };
            server.machine.step(Moment(0), answer, &mut effects);
        }
        for effect in effects {
            self.run(at, effect);
            self.collect();
        }
    }

    fn run(&mut self, at: usize, effect: ReplicationEffect) {
        let store = Arc::clone(&self.servers[at].store);
        match effect {
            ReplicationEffect::DescribeLog | ReplicationEffect::MeasureLog { .. } => {
                unreachable!("answered within the step")
            }
            ReplicationEffect::Send { session, body } => {
                if let Body::SyncPlan(plan) = &body {
                    self.in_flight.clear();
                    match plan {
                        SyncPlan::Incremental { .. } => self.counts.incremental += 1,
                        SyncPlan::Full { .. } => self.counts.full += 1,
                    }
                }
                self.send(at, session, body);
            }
            ReplicationEffect::SendBatch { session, batch } => {
                if self.session == Some(session) {
                    self.in_flight.push_back((batch.last, batch.bytes()));
                    self.largest = self.largest.max(batch.bytes());
                    let all: usize = self.in_flight.iter().map(|(_, bytes)| bytes).sum();
                    assert!(
                        all <= self.limits.window + self.limits.piece + self.largest,
                        "{all} bytes in flight"
                    );
                }
                let committed = store.committed();
                self.send(at, session, Body::Batch { committed, batch });
            }
            ReplicationEffect::SendCommitIndex { session } => {
                let committed = store.committed();
                self.send(at, session, Body::CommitIndex { committed });
            }
            ReplicationEffect::ReadLog { request, after } => {
                store.read_log(request, after, self.limits.piece)
            }
            ReplicationEffect::Run { request, job } => {
                if matches!(job, ReplicationJob::Truncate(to) if to < self.servers[at].end()) {
                    self.counts.truncated += 1;
                }
                store.run(request, job.into());
            }
            ReplicationEffect::Append(batch) => store.append(batch),
            ReplicationEffect::PeerHolds(upto) => store.peer_holds(upto),
            ReplicationEffect::Report(report) => self.report(at, report),
        }
    }

    fn send(&mut self, at: usize, session: SessionId, body: Body) {
        if self.session == Some(session) {
            self.wires[1 - at].push_back((session, body));
        }
    }

    fn report(&mut self, at: usize, report: ReplicationReport) {
        match report {
            ReplicationReport::SyncDone { session, store } if self.session == Some(session) => {
                let facts = self.servers[1 - at].store.log_facts();
                assert_eq!(facts.store, store);
                assert!(!facts.sync_in_progress, "said to be whole and is marked");
                // Its disk may be quicker than the leader's own.
                let whole = facts.durable.lsn.min(self.servers[at].end());
                assert_eq!(self.shared(), whole, "no copy of the leader's");
            }
            ReplicationReport::PeerHoldsAll { session } if self.session == Some(session) => {
                assert!(self.shared() >= self.required, "said to hold what it lacks");
            }
            _ => {}
        }
        self.reports.push_back((at, report));
    }

    /// How far the two logs on the disks are one.
    fn shared(&self) -> Lsn {
        let [one, other] = [0, 1].map(|at| self.servers[at].store.log_facts());
        common_point(&one.epochs, one.durable, &other.epochs, other.durable)
            .map_or(Lsn::ZERO, |common| common.min(one.durable.lsn))
    }

    /// What the stores have told: checked, and put where the machines will hear it.
    fn collect(&mut self) {
        for at in 0..2 {
            loop {
                let Some(event) = self.servers[at].kept.0.lock().unwrap().pop_front() else {
                    break;
                };
                let (wanted, gate) = (self.servers[at].listens, self.servers[at].gate);
                let wanted = match &event {
                    StoreEvent::Committed(committed) => {
                        if at == self.leader && gate == GatePolicy::WithPeer {
                            self.counts.committed_with_peer += 1;
                            let (shared, upto) = (self.shared(), committed.upto);
                            assert!(shared >= upto, "{upto} committed, the peer has {shared}");
                        }
                        if at == self.leader {
                            self.confirmed = committed.upto;
                            for (_, change) in &committed.changes {
                                let entries = &change.entries;
                                self.owed.extend(entries.iter().map(|entry| entry.lsn));
                            }
                        }
                        wanted
                    }
                    StoreEvent::Cut(_) | StoreEvent::Durable(_) => wanted,
                    StoreEvent::Done { request, .. } => *request != u64::MAX,
                    StoreEvent::LogRead { .. }
                    | StoreEvent::Failed(StoreError::ReplicaMismatch(_)) => true,
                    StoreEvent::Fetched(_)
                    | StoreEvent::PartsRead { .. }
                    | StoreEvent::Failed(_) => panic!("{event:?}"),
                };
                if wanted {
                    self.servers[at].mail.push_back(event);
                }
            }
        }
    }

    /// Nothing is under way any more: the logs are one, and everybody knows.
    pub(super) fn assert_one(&self) {
        let [one, other] = [0, 1].map(|at| self.servers[at].store.log_facts());
        assert_eq!(one.durable, other.durable);
        assert_eq!(one.chain, other.chain);
        assert_eq!(one.epochs, other.epochs);
        assert!(self.sync_done, "the resync never ended");
        assert!(self.both, "never said to hold all");
        assert!(self.in_sync, "the follower never heard that it is in step");
        let leader = &self.servers[self.leader];
        assert_eq!(leader.store.committed(), leader.end());
        assert!(self.in_flight.is_empty());
        for server in &self.servers {
            assert_eq!(server.machine.progress(), None);
            assert_eq!(server.machine.next_deadline(), None);
        }
        let (_, position) = leader.machine.follower_position().unwrap();
        assert_eq!(position, other.durable);
    }

    /// After a message that came when they were one, the follower has applied all of it.
    pub(super) fn assert_applied(&self) {
        let follower = &self.servers[1 - self.leader];
        assert_eq!(follower.store.committed(), follower.end());
    }
}
