//! What comes over the channel. It carries who is where, and nothing of the store.

use super::super::arbitration::{self, STRANGE_LOOKS_MAX};
use super::super::{HaEffect, HaTimer, LinkEnd, Peer};
use super::{Attempt, SharedMachine, SharedState, Step};
use crate::proto::ids::{Epoch, NodeId, SessionId};
use crate::proto::peer::{Hello, PeerFacts};

impl SharedMachine {
    pub(super) fn on_link_up(
        &mut self,
        session: SessionId,
        hello: &Hello,
        effects: &mut Vec<HaEffect>,
    ) {
        self.peer = Some(Peer::linked(session, hello, &self.config, effects));
        self.peer_silent = false;
        self.strange_looks = 0;
        effects.push(HaEffect::Disarm(HaTimer::PeerWait));
        self.consider_peer(effects);
    }

    pub(super) fn on_link_down(
        &mut self,
        session: SessionId,
        cause: LinkEnd,
        effects: &mut Vec<HaEffect>,
    ) {
        if self.peer.as_ref().map(|peer| peer.session) != Some(session) {
            return;
        }
        self.peer = None;
        match cause {
            // PassiveInterval is for silence, never for an ended channel (A3).
            LinkEnd::Ended => {
                self.peer_silent = false;
                self.resting = false;
            }
            LinkEnd::Silent => {
                self.peer_silent = true;
                effects.push(HaEffect::Arm(HaTimer::PeerWait));
            }
        }
    }

    pub(super) fn on_peer_facts(
        &mut self,
        session: SessionId,
        facts: PeerFacts,
        effects: &mut Vec<HaEffect>,
    ) {
        let Some(peer) = self.peer.as_mut().filter(|peer| peer.session == session) else {
            return;
        };
        peer.facts = facts;
        self.consider_peer(effects);
    }

    pub(super) fn on_goodbye(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        effects: &mut Vec<HaEffect>,
    ) {
        let Some(peer) = self.peer.as_ref().filter(|peer| peer.session == session) else {
            return;
        };
        self.goodbye = Some((peer.node, epoch));
        self.on_link_down(session, LinkEnd::Ended, effects);
    }

    /// The peer's process has ended, although its channel may stand for a while longer: a host that
    /// lost its network closes nothing.
    pub(super) fn on_peer_died(&mut self, node: NodeId, epoch: Epoch, effects: &mut Vec<HaEffect>) {
        if node == self.config.node {
            return;
        }
        self.peer_died = Some((node, epoch));
        let linked = self
            .peer
            .as_ref()
            .filter(|peer| peer.node == node && peer.facts.epoch == epoch)
            .map(|peer| peer.session);
        if let (SharedState::Passive(_), Some(session)) = (self.state, linked) {
            let reason = "the peer's process has ended".to_owned();
            effects.push(HaEffect::DropLink { session, reason });
            self.on_link_down(session, LinkEnd::Ended, effects);
        }
        let owns = |owner: NodeId, at: Epoch| (owner, at) == (node, epoch);
        if self.peer.is_none() && self.record().is_some_and(|it| owns(it.owner, it.epoch)) {
            self.peer_silent = false;
        }
        if self.state == SharedState::Activating(Step::Fencing) && self.old_holder_is_gone() {
            effects.push(HaEffect::Disarm(HaTimer::FenceWait));
            self.on_fence_over(effects);
        }
    }

    /// What the linked peer's state means for this one.
    fn consider_peer(&mut self, effects: &mut Vec<HaEffect>) {
        let Some(peer) = &self.peer else { return };
        let newer = peer.facts.epoch > self.epoch();
        let serves = self.peer_will_serve();
        match self.state {
            SharedState::Passive(Attempt::Looking | Attempt::Locking) if serves => {
                self.fall_back(effects);
                self.consider_a_look(effects);
            }
            SharedState::Passive(Attempt::Idle) => self.consider_a_look(effects),
            SharedState::Activating(_) | SharedState::Active if serves && newer => {
                self.step_down("the peer serves in a newer epoch", effects);
            }
            // A founding or claim that has begun ends by the record, whatever the peer says.
            SharedState::Passive(_)
            | SharedState::Activating(_)
            | SharedState::Active
            | SharedState::Draining
            | SharedState::Closing(_)
            | SharedState::Releasing(_)
            | SharedState::Stopped => {}
        }
    }

    /// The peer knows of a newer record: so that this server remembers it, too (Z17).
    fn consider_a_look(&mut self, effects: &mut Vec<HaEffect>) {
        let idle = self.call.is_none() && self.looking.is_none() && self.looked();
        if idle && self.strange_looks == 0 && self.record_is_behind_the_peer() {
            self.look(super::CallPurpose::Look, effects);
        }
    }

    fn record_is_behind_the_peer(&self) -> bool {
        arbitration::is_behind_the_peer(self.record(), self.peer.as_ref())
    }

    /// The active serves by a record that is not found here: a share may be slow to show it, but not
    /// for ever (S173).
    pub(super) fn compare_with_the_peer(&mut self, effects: &mut Vec<HaEffect>) {
        if !self.peer_will_serve() || !self.record_is_behind_the_peer() {
            self.strange_looks = 0;
            return;
        }
        self.strange_looks = self.strange_looks.saturating_add(1);
        if self.strange_looks < STRANGE_LOOKS_MAX {
            effects.push(HaEffect::Arm(HaTimer::Retry));
            return;
        }
        let why = arbitration::not_the_active_s(self.record());
        self.on_mismatch(why, effects);
    }
}
