//! How a machine's effects are carried out: what is quick happens at once, what others answer is under
//! way until an action of its own.

use twinmq::machines::ha::{Claim, HaEffect, HaInput, HaState, LinkEnd};
use twinmq::proto::arbiter::{ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts};
use twinmq::proto::ids::{Nonce, RecordSeq, SessionId};
use twinmq::proto::peer::{Hello, PeerFacts};
use twinmq::storage::api::GatePolicy;

use super::world::{Ablation, Call, FromLink, Job, World, node};

impl World {
    /// Gives a machine one input and carries out what it wants.
    pub(crate) fn give(&mut self, at: usize, input: HaInput, ablation: Ablation) {
        let Some(mut machine) = self.servers[at].machine.take() else {
            return;
        };
        let mut effects = Vec::new();
        let lost_link = matches!(
            input,
            HaInput::LinkDown { .. } | HaInput::AckOverdue { .. } | HaInput::PeerGoodbye { .. }
        );
        machine.step(self.servers[at].own, input, &mut effects);
        machine.forget_history();
        self.servers[at].machine = Some(machine);
        for effect in effects {
            self.act(at, effect);
        }
        if ablation.alone_at_once && lost_link && self.servers[at].gate == GatePolicy::WithPeer {
            self.set_gate(at, GatePolicy::Alone);
        }
    }

    pub(crate) fn facts(&self, at: usize) -> PeerFacts {
        let server = &self.servers[at];
        let machine = server.machine.as_ref().expect("it runs");
        let last = machine.last_record();
        PeerFacts {
            state: machine.shown(),
            // For people only: the same for all, so that it does not tell states apart.
            previous: machine.shown(),
            claiming: machine.state().claiming(),
            epoch: machine.epoch(),
            store: server.own.store,
            position: server.own.position,
            sync_in_progress: server.own.sync_in_progress,
            arbiter: last.map(|record| record.arbiter),
            last_record: last.map_or(RecordSeq::ZERO, |record| record.seq),
            looked: machine.looked(),
            eligible: machine.eligible(),
            lock: machine.lock_identity(),
        }
    }

    fn act(&mut self, at: usize, effect: HaEffect) {
        match effect {
            HaEffect::Arm(timer) => drop(self.servers[at].timers.insert(timer)),
            HaEffect::Disarm(timer) => drop(self.servers[at].timers.remove(&timer)),
            HaEffect::Arbiter { call, .. } => self.ask(at, call),
            HaEffect::AcquireLock | HaEffect::RecoverLock => self.servers[at].wants_lock = true,
            HaEffect::ReleaseLock => self.release_lock(at),
            HaEffect::Persist(record) => self.persist(at, record),
            HaEffect::BeginEpoch(epoch) => {
                self.servers[at].jobs.push_back(Job::BeginEpoch(epoch));
            }
            HaEffect::Gate(gate) => self.set_gate(at, gate),
            HaEffect::OpenClients { .. } => self.servers[at].serving = true,
            HaEffect::CloseClients { .. } => self.servers[at].serving = false,
            HaEffect::DrainClients => self.servers[at].jobs.push_back(Job::Drain),
            HaEffect::Lead { session, .. } => {
                let server = &mut self.servers[at];
                (server.leads, server.streams, server.acked) = (Some(session), false, 0);
                server.must_hold = None;
            }
            HaEffect::Follow { session, .. } => self.servers[at].follows = Some(session),
            HaEffect::StopReplication => {
                let server = &mut self.servers[at];
                (server.leads, server.follows, server.streams) = (None, None, false);
                (server.acked, server.must_hold) = (0, None);
            }
            HaEffect::SendInSync { session, epoch } => {
                self.send(at, session, FromLink::InSync(session, epoch));
            }
            HaEffect::DropLink { session, .. } => {
                if self.link == Some(session) {
                    self.send(at, session, FromLink::Down(session, LinkEnd::Silent));
                    self.link = None;
                }
            }
            HaEffect::SayGoodbye { epoch } => {
                if let Some(session) = self.link {
                    self.send(at, session, FromLink::Goodbye(session, epoch));
                }
            }
            HaEffect::Announce(_) => {
                if let Some(session) = self.link {
                    self.send(at, session, FromLink::Facts(session, self.facts(at)));
                }
            }
            HaEffect::Exit(_) => self.end(at),
            HaEffect::PeerChanged { .. }
            | HaEffect::SteppedDown { .. }
            | HaEffect::Alarmed { .. }
            | HaEffect::ClaimRefused { .. }
            | HaEffect::Store { .. } => {}
        }
    }

    /// The process is gone: the kernel closes the channel after what was sent, and frees the lock.
    pub(crate) fn end(&mut self, at: usize) {
        self.servers[at].end();
        if self.holder == Some(at) {
            self.holder = None;
        }
        if let Some(session) = self.link {
            self.send(at, session, FromLink::Down(session, LinkEnd::Ended));
            self.link = None;
        }
    }

    /// From this server to the other, in order.
    pub(crate) fn send(&mut self, at: usize, session: SessionId, message: FromLink) {
        if self.link == Some(session) {
            self.servers[1 - at].from_link.push_back(message);
        }
    }

    /// Only a claim waits for it.
    fn persist(&mut self, at: usize, record: ArbiterRecord) {
        let server = &mut self.servers[at];
        let claims = server
            .machine
            .as_ref()
            .is_some_and(|machine| matches!(machine.state(), HaState::Waiting(Claim::Persisting)));
        if claims {
            server.jobs.push_back(Job::Persist(record));
        } else {
            server.last_record = Some(record);
        }
    }

    fn ask(&mut self, at: usize, call: ArbiterCall) {
        let server = &mut self.servers[at];
        // At most one call is awaited: the answers of earlier ones mean nothing any more.
        for call in &mut server.calls {
            call.id = 0;
        }
        for (id, _) in &mut server.answers {
            *id = 0;
        }
        server.calls.push_back(Call {
            id: 1,
            call,
            told: false,
        });
    }

    fn release_lock(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.wants_lock = false;
        // Only an orderly stop looks at this answer.
        let awaited = server
            .machine
            .as_ref()
            .is_some_and(|machine| matches!(machine.state(), HaState::Releasing(_)));
        if awaited {
            server.from_lock.push_back(HaInput::LockReleased);
        }
        if self.holder == Some(at) {
            self.holder = None;
        }
    }

    fn set_gate(&mut self, at: usize, gate: GatePolicy) {
        let before = self.servers[at].gate;
        self.servers[at].gate = gate;
        if gate == GatePolicy::WithPeer && before != gate {
            self.servers[at].must_hold = Some(self.confirmed.len());
        }
        self.confirm(at);
    }

    /// One call, carried out. The arbiter answers every question in order.
    pub(crate) fn carry_out(&mut self, call: ArbiterCall) -> ArbiterAnswer {
        match call {
            ArbiterCall::Read => ArbiterAnswer::Read {
                record: self.record.clone(),
                lock: self.lock_file.clone(),
            },
            ArbiterCall::Create(record) => {
                if self.record.is_some() {
                    return ArbiterAnswer::Conflict(self.record.clone());
                }
                self.lock_file = Some(LockFacts {
                    nonce: Nonce([7; 16]),
                    device: 1,
                    inode: 2,
                    local: true,
                    last: None,
                });
                self.record = Some(record.clone());
                ArbiterAnswer::Created(record)
            }
            ArbiterCall::CompareAndSet(next) => {
                let expected = self.record.as_ref().map(|now| now.seq.next());
                if expected == Some(next.seq) {
                    self.record = Some(next.clone());
                    ArbiterAnswer::Set(next)
                } else {
                    ArbiterAnswer::Conflict(self.record.clone())
                }
            }
            ArbiterCall::TryLock | ArbiterCall::Unlock | ArbiterCall::Check(_) => {
                unreachable!("the machine leaves the lock to LockKeeper")
            }
        }
    }

    /// As this server is shown the record.
    pub(crate) fn seen(
        &self,
        at: usize,
        record: Option<ArbiterRecord>,
        ablation: Ablation,
    ) -> Option<ArbiterRecord> {
        record.map(|mut record| {
            let own = self.servers[at].own.store;
            if ablation.record_names_all && !record.holds(own) {
                record.isr.push(own);
            }
            record
        })
    }
}

pub(crate) fn hello(from: usize, facts: PeerFacts) -> Box<Hello> {
    Box::new(Hello {
        versions: (1, 1),
        features: 0,
        cluster: String::new(),
        node: node(from),
        primary: from == 0,
        name: String::new(),
        nonce: [0; 16],
        must_agree: Vec::new(),
        facts,
    })
}
