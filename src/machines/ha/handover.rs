//! A planned change of roles: the active hands over to its peer in step, without any wait on a timer.
//!
//! | step | who | what |
//! |---|---|---|
//! | 1 | active | clients are drained: what they sent is answered, and on both disks |
//! | 2 | active | confirms nothing more, lets the lock go, says goodbye, ends the channel, waits |
//! | 3 | passive | takes the lock and claims, with no fence wait: the goodbye names the epoch that ended |
//! | 4 | old active | follows the new one when the channel is back |
//!
//! Nothing here weighs on safety: the claim is the ordinary one, by compare-and-set of a store that
//! the record names. A peer that does not claim costs time only: the old active claims back when the
//! peer has had MaxWaitTimeout for it, or is out of reach for PassiveInterval.

use crate::proto::ids::Epoch;
use crate::proto::peer::ServerState;
use crate::storage::api::GatePolicy;

use super::{HaEffect, HaMachine, HaMode, HaState, HaTimer, LinkEnd, Peer};

/// How far this server has come in handing over its epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Handover {
    /// Not asked to.
    #[default]
    None,
    /// Asked: clients are drained, then the lock is let go.
    Asked,
    /// The epoch is over, and the peer may claim first.
    Given(Epoch),
}

/// One thing that must be so before an operator's command is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What must be so.
    pub what: &'static str,
    /// Whether it is.
    pub holds: bool,
    /// What was found.
    pub found: String,
}

impl HaMachine {
    /// What must hold for a switchover, each with what is so now. It is carried out when all hold.
    #[must_use]
    pub fn switchover_conditions(&self) -> Vec<Condition> {
        let condition = |what, holds, found| Condition { what, holds, found };
        let state = match self.state {
            HaState::Shrinking { .. } => "it goes on alone: its peer was lost".to_owned(),
            HaState::Draining(_) | HaState::Releasing(_) => "it is ending its service".to_owned(),
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Standalone
            | HaState::Stopped => format!("it is {}", self.shown()),
        };
        let mut all = vec![
            condition(
                "the server is one of a replicated pair",
                self.config.mode == HaMode::Replicated,
                match self.config.mode {
                    HaMode::Replicated => "it is".to_owned(),
                    HaMode::Single => "it has no peer".to_owned(),
                    HaMode::Shared => "it shares its store".to_owned(),
                },
            ),
            condition(
                "this server is ACTIVE",
                matches!(self.state, HaState::Active { .. }),
                state,
            ),
            condition(
                "this server holds the lock",
                self.lock.is_some(),
                if self.lock.is_some() {
                    "it does".to_owned()
                } else {
                    "it does not".to_owned()
                },
            ),
        ];
        let Some(peer) = &self.peer else {
            let found = "there is no channel to it".to_owned();
            all.push(condition("the peer is PASSIVE", false, found));
            return all;
        };
        let in_set = self
            .record()
            .is_some_and(|record| record.holds(self.own.store) && record.holds(peer.facts.store));
        all.push(condition(
            "the peer is PASSIVE",
            peer.facts.state == ServerState::Passive,
            format!("{} is {}", peer.name, peer.facts.state),
        ));
        all.push(condition(
            "both stores are in the in-sync set of the record",
            in_set,
            self.record().map_or_else(
                || "no record is known".to_owned(),
                |record| {
                    let (number, stores) = (record.seq, record.isr.len());
                    format!("record {number} names {stores} of them")
                },
            ),
        ));
        let whole = peer.facts.eligible && !peer.facts.sync_in_progress;
        all.push(condition(
            "the peer's copy may be promoted",
            whole,
            format!(
                "{} says that it may{} be",
                peer.name,
                if whole { "" } else { " not" }
            ),
        ));
        all
    }

    /// A hand-over is under way: the drain is a short one.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.handover == Handover::Asked
    }

    pub(super) fn on_switchover(&mut self, effects: &mut Vec<HaEffect>) {
        let ready = self.switchover_conditions().iter().all(|it| it.holds);
        if ready {
            let shown = self.state.shown();
            self.handover = Handover::Asked;
            self.state = HaState::Draining(shown);
            effects.push(HaEffect::Arm(HaTimer::Drain));
            effects.push(HaEffect::DrainClients);
        }
    }

    /// Clients are answered and gone, or out of patience. The lock goes before the goodbye, so that the
    /// peer finds it free.
    pub(super) fn release_for_peer(&mut self, effects: &mut Vec<HaEffect>) {
        effects.push(HaEffect::CloseClients {
            reason: "the other server takes over".to_owned(),
        });
        effects.push(HaEffect::Gate(GatePolicy::Closed));
        effects.push(HaEffect::StopReplication);
        let shown = self.state.shown();
        self.state = HaState::Releasing(shown);
        let held = self.lock.take().is_some();
        effects.push(HaEffect::ReleaseLock);
        if !held {
            self.on_handed_over(effects);
        }
    }

    /// The lock is free: the peer is told, and this server waits for it to serve.
    pub(super) fn on_handed_over(&mut self, effects: &mut Vec<HaEffect>) {
        let epoch = self.epoch();
        self.handover = Handover::Given(epoch);
        effects.push(HaEffect::SayGoodbye { epoch });
        if let Some(session) = self.session() {
            // Under a new session nothing of the old roles is on its way any more.
            let reason = format!("epoch {epoch} is handed over");
            effects.push(HaEffect::DropLink { session, reason });
            self.on_link_down(session, LinkEnd::Ended, effects);
            // The channel ended by this server's own will: that says nothing about the peer.
            self.peer_wait_over = false;
        }
        self.wait(
            "it handed over to the other server, which is to serve",
            effects,
        );
    }

    /// The peer goes first: this server has just handed over to it.
    pub(super) fn yields(&self) -> bool {
        matches!(self.handover, Handover::Given(epoch) if self.epoch() == epoch)
    }

    /// This peer ended the record's epoch in order, and this server has not claimed since.
    pub(super) fn was_handed_over_by(&self, peer: &Peer) -> bool {
        self.record().is_some_and(|record| {
            record.owner == peer.node && self.goodbye == Some((peer.node, record.epoch))
        })
    }
}
