//! What the machines ask for is done.

use super::{PRIMARY, Pair, SECONDARY};
use crate::machines::ha::*;
use crate::proto::arbiter::ArbiterCall;
use crate::proto::ids::Position;
use crate::storage::api::GatePolicy;

impl Pair {
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        while let Some((at, input)) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 2000, "no rest: {self:#?}");
            if self.servers[at].paused {
                self.servers[at].stalled.push(input);
                continue;
            }
            let own = self.servers[at].own;
            let Some(machine) = self.servers[at].machine.as_mut() else {
                continue;
            };
            let mut effects = Vec::new();
            machine.step(own, input, &mut effects);
            for effect in effects {
                self.act(at, effect);
            }
            assert!(
                !self
                    .servers
                    .iter()
                    .all(|server| server.serving && !server.lease_over),
                "two servers serve at once: {self:#?}"
            );
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each effect")]
    fn act(&mut self, at: usize, effect: HaEffect) {
        let server = &mut self.servers[at];
        match effect {
            HaEffect::Arm(timer) => drop(server.timers.insert(timer)),
            HaEffect::Disarm(timer) => drop(server.timers.remove(&timer)),
            HaEffect::Arbiter { id, call } => {
                let holds = matches!(call, ArbiterCall::CompareAndSet(_));
                let answer = self.arbiter(call);
                let input = HaInput::ArbiterAnswered { id, answer };
                match &mut self.held_answers {
                    Some(held) if holds => held.push((at, input)),
                    Some(_) | None => self.queue.push_back((at, input)),
                }
            }
            HaEffect::AcquireLock | HaEffect::RecoverLock => {
                server.wants_lock = true;
                self.offer_lock();
            }
            HaEffect::ReleaseLock => {
                server.wants_lock = false;
                if self.lock_holder == Some(at) {
                    self.lock_holder = None;
                }
                self.queue.push_back((at, HaInput::LockReleased));
                self.older_holders.remove(&at);
                self.offer_lock();
            }
            HaEffect::Persist(record) => {
                server.last_record = Some(record);
                self.queue.push_back((at, HaInput::Persisted));
            }
            HaEffect::Gate(gate) => {
                server.gate = gate;
                if let (GatePolicy::WithPeer, Some(session)) = (gate, server.leads) {
                    self.queue
                        .push_back((at, HaInput::PeerHoldsAll { session }));
                }
            }
            HaEffect::BeginEpoch(epoch) => {
                server.own.position = Position {
                    epoch,
                    lsn: server.own.position.lsn.next(),
                };
                self.queue.push_back((at, HaInput::EpochBegun(epoch)));
            }
            HaEffect::OpenClients { .. } => server.serving = true,
            HaEffect::CloseClients { .. } => server.serving = false,
            HaEffect::DrainClients => {
                server.serving = false;
                self.queue.push_back((at, HaInput::ClientsDrained));
            }
            HaEffect::Lead { session, .. } => {
                server.leads = Some(session);
                self.sync();
            }
            HaEffect::Follow { session, .. } => {
                server.follows = Some(session);
                self.sync();
            }
            HaEffect::StopReplication => (server.leads, server.follows) = (None, None),
            HaEffect::SendInSync { session, epoch } => {
                self.queue
                    .push_back((1 - at, HaInput::InSync { session, epoch }));
            }
            HaEffect::DropLink { session, .. } => {
                if self.link == Some(session) {
                    self.link = None;
                    let cause = LinkEnd::Silent;
                    self.queue
                        .push_back((1 - at, HaInput::LinkDown { session, cause }));
                }
            }
            HaEffect::SayGoodbye { epoch } => {
                if let Some(session) = self.link {
                    self.queue
                        .push_back((1 - at, HaInput::PeerGoodbye { session, epoch }));
                }
            }
            HaEffect::Announce(_) => {
                if let (Some(session), true) = (self.link, self.servers[1 - at].machine.is_some()) {
                    let facts = self.facts(at);
                    self.queue
                        .push_back((1 - at, HaInput::PeerFacts { session, facts }));
                }
            }
            HaEffect::Exit(cause) => server.exited = Some(cause),
            HaEffect::PeerChanged { .. }
            | HaEffect::SteppedDown { .. }
            | HaEffect::Alarmed { .. }
            | HaEffect::ClaimRefused { .. }
            | HaEffect::Store { .. } => {}
        }
    }

    /// Both sides of a resync are there: it happens.
    fn sync(&mut self) {
        for at in [PRIMARY, SECONDARY] {
            let (leads, follows) = (self.servers[at].leads, self.servers[1 - at].follows);
            if let (Some(session), true) = (leads, leads == follows) {
                self.servers[1 - at].own.position = self.servers[at].own.position;
                self.servers[1 - at].log = self.servers[at].log.clone();
                self.servers[1 - at].own.sync_in_progress = false;
                let store = self.servers[1 - at].own.store;
                self.queue
                    .push_back((at, HaInput::SyncDone { session, store }));
            }
        }
    }
}
