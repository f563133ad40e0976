//! An operator's commands to HAManager: each is answered with what was found, and carried out only if
//! all of it is as it must be.

use tokio::sync::oneshot;

use crate::actors::ha_manager::HaManager;
use crate::machines::ha::{Condition, HaInput, HaTimer};
use crate::proto::ids::Epoch;

/// What an operator wants of the role machine.
#[derive(Debug)]
pub enum OperatorOrder {
    /// Hand over to the peer in step.
    Switchover {
        /// Only say what would happen.
        dry_run: bool,
        /// For the answer.
        answer: oneshot::Sender<SwitchoverAnswer>,
    },
}

/// What became of a wish for a switchover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchoverAnswer {
    /// All hold: it is carried out, or would be.
    pub ready: bool,
    /// What must be so, and is or is not.
    pub conditions: Vec<Condition>,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// The server that is to serve; none if there is no channel to it.
    pub peer: Option<String>,
}

impl HaManager {
    pub(super) fn arm(&mut self, timer: HaTimer) {
        let now = self.identity.clock.now();
        if timer == HaTimer::Drain {
            self.timing.arm_drain(self.machine.hands_over(), now);
        } else {
            self.timing.arm(timer, now);
        }
    }

    pub(super) fn drain_clients(&self) {
        let hands_over = self.machine.hands_over();
        let reason = if hands_over {
            "a switchover: the other server takes over"
        } else {
            "the server is stopping; the other server takes over"
        };
        let patience = self.timing.drain_for(hands_over);
        self.ports().clients.drain(patience, reason);
    }

    pub(super) fn input_of_order(&mut self, order: OperatorOrder) -> Option<HaInput> {
        match order {
            OperatorOrder::Switchover { dry_run, answer } => {
                let conditions = self.machine.switchover_conditions();
                let ready = conditions.iter().all(|condition| condition.holds);
                let said = SwitchoverAnswer {
                    ready,
                    conditions,
                    epoch: self.machine.epoch(),
                    peer: self.machine.peer().map(|peer| peer.name.clone()),
                };
                let carried_out = ready && !dry_run;
                if carried_out {
                    tracing::warn!(target: "twinmq::ha", epoch = said.epoch.0,
                        "switchover: this server hands over to {}",
                        said.peer.as_deref().unwrap_or("its peer"));
                }
                if answer.send(said).is_err() {
                    tracing::debug!(target: "twinmq::ha", "nobody waits for the answer any more");
                }
                carried_out.then_some(HaInput::SwitchoverRequested)
            }
        }
    }
}
