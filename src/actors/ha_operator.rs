//! An operator's commands to HAManager: each is answered with what was found, and carried out only if
//! all of it is as it must be.

use tokio::sync::oneshot;

use crate::actors::ha_manager::HaManager;
use crate::actors::post::post;
use crate::actors::replicator::ReplicatorCommand;
use crate::machines::ha::{Condition, HaInput, HaTimer, Promotion};
use crate::proto::history::EventKind;
use crate::proto::ids::Epoch;
use crate::time::rfc3339;

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
    /// Serve although the record does not name this store.
    Promote {
        /// The epoch that this ends, as it was typed; none: only say what would be given up.
        epoch: Option<Epoch>,
        /// For the answer.
        answer: oneshot::Sender<PromoteAnswer>,
    },
}

/// What became of a wish for an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromoteAnswer {
    /// What was found.
    pub found: Promotion,
    /// All conditions hold.
    pub ready: bool,
    /// It is carried out: the store is copied to this name in the data directory first.
    pub copy: Option<String>,
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
                    let text = format!(
                        "switchover: this server hands over to {}",
                        said.peer.as_deref().unwrap_or("its peer")
                    );
                    tracing::warn!(target: "twinmq::ha", epoch = said.epoch.0, "{text}");
                    self.note(EventKind::Operator, text);
                }
                if answer.send(said).is_err() {
                    tracing::debug!(target: "twinmq::ha", "nobody waits for the answer any more");
                }
                carried_out.then_some(HaInput::SwitchoverRequested)
            }
            OperatorOrder::Promote { epoch, answer } => {
                let found = self.machine.promotion();
                let ready = found.conditions.iter().all(|condition| condition.holds);
                let typed = epoch == Some(found.epoch);
                let copy = (ready && typed).then(|| self.begin_override(&found));
                let said = PromoteAnswer { found, ready, copy };
                if answer.send(said).is_err() {
                    tracing::debug!(target: "twinmq::ha", "nobody waits for the answer any more");
                }
                None
            }
        }
    }

    /// The store is copied and the override noted before anything is overruled. Gives the copy's name.
    fn begin_override(&self, found: &Promotion) -> String {
        let epoch = found.epoch;
        let at = rfc3339(self.identity.clock.wall_ms());
        let name = format!("epoch-{epoch}-{}", at.replace([':', '-'], ""));
        let record = found.record.as_ref().map(|record| record.seq);
        let note = serde_json::json!({
            "at": at,
            "overruled": "an operator promoted this server and accepted the loss",
            "epoch": epoch,
            "record": record,
            "own_epoch": found.own.epoch,
            "own_position": found.own.lsn,
            "lost_at_least": found.lost_at_least,
            "copy": format!("kept/{name}"),
        });
        tracing::error!(target: "twinmq::ha", epoch = epoch.0, lost_at_least = found.lost_at_least,
            copy = %format!("kept/{name}"),
            "OVERRIDE: an operator promotes this server; what only the other one has is given up");
        self.note(
            EventKind::Operator,
            format!(
                "override of epoch {epoch}: an operator promotes this server; at least {} records are \
                 given up, the store is copied to kept/{name} first",
                found.lost_at_least
            ),
        );
        let (name_of_copy, note) = (name.clone(), note.to_string());
        post(
            &self.ports().replicator,
            ReplicatorCommand::SetAside {
                epoch,
                name: name_of_copy,
                note,
            },
        );
        format!("kept/{name}")
    }
}

/// The copy is there, or there is no override.
pub(super) fn input_of_set_aside(epoch: Epoch, outcome: Result<(), String>) -> HaInput {
    match outcome {
        Ok(()) => HaInput::PromoteRequested { epoch },
        Err(why) => {
            tracing::error!(target: "twinmq::ha", why, "OVERRIDE given up: nothing was changed");
            HaInput::PromotionRefused { reason: why }
        }
    }
}
