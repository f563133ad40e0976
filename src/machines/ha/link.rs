//! What comes over the channel: the peer's coming and going, its state, and what that means for a
//! server that waits or follows.

use crate::proto::ids::{Epoch, SessionId};
use crate::proto::peer::{Hello, PeerFacts, ServerState};
use crate::storage::api::GatePolicy;

use super::guards::Guard;
use super::{Claim, HaConfig, HaEffect, HaMachine, HaState, HaTimer, LinkEnd, Peer};

impl Peer {
    /// As it said hello, with an alarm where its configuration does not go with this server's.
    pub(super) fn linked(
        session: SessionId,
        hello: &Hello,
        config: &HaConfig,
        effects: &mut Vec<HaEffect>,
    ) -> Self {
        let flag = config.primary;
        if hello.primary == flag {
            // H14: the server's identity breaks the tie; the configuration is wrong all the same.
            effects.push(HaEffect::Alarmed {
                reason: format!(
                    "ha.primary is {flag} on both servers: set it to true on one of them"
                ),
            });
        }
        Self {
            session,
            node: hello.node,
            primary: hello.primary,
            name: hello.name.clone(),
            facts: hello.facts.clone(),
        }
    }
}

impl HaMachine {
    pub(super) fn on_link_up(
        &mut self,
        session: SessionId,
        hello: &Hello,
        effects: &mut Vec<HaEffect>,
    ) {
        // It lives again: what was said of its dead process is for no epoch that it may serve now.
        self.peer_died.take_if(|(node, _)| *node == hello.node);
        self.see_peer_lock(hello.node, &hello.facts);
        let mut peer = Peer::linked(session, hello, &self.config, effects);
        let handed_over = self.goodbye == Some((hello.node, self.epoch()));
        if handed_over && peer.facts.state.serves() && peer.facts.epoch == self.epoch() {
            // Nobody serves again in an epoch that he has ended: this hello is from before his goodbye.
            peer.facts.state = ServerState::Waiting;
        }
        let waits = peer.facts.state == ServerState::Waiting;
        self.peer = Some(peer);
        self.patience_over = false;
        self.peer_wait_over = false;
        self.silent = false;
        effects.push(HaEffect::Arm(HaTimer::Patience));
        effects.push(HaEffect::Disarm(HaTimer::PeerWait));
        // A passive that finds its active again under a new session has missed batches: it asks anew.
        // One that was handed the service goes on taking it.
        let takes_over = matches!(self.state, HaState::Passive { session: None });
        if takes_over && waits && handed_over {
            return;
        }
        if matches!(
            self.state,
            HaState::PassiveSync { .. } | HaState::Passive { .. }
        ) {
            self.fall_back("the channel to the active was replaced", effects);
        }
        // A new session: whatever the old one carried is over.
        self.lose_follower(effects);
        self.consider_peer(effects);
    }

    pub(super) fn on_link_down(
        &mut self,
        session: SessionId,
        cause: LinkEnd,
        effects: &mut Vec<HaEffect>,
    ) {
        if self.session() != Some(session) {
            return;
        }
        self.peer = None;
        self.patience_over = false;
        effects.push(HaEffect::Disarm(HaTimer::Patience));
        // PassiveInterval is for silence: an ended channel lets the lock be tried at once (A3). To
        // take over without it, silence must have lasted in either case (A2).
        self.peer_wait_over = cause == LinkEnd::Ended;
        self.silent = false;
        effects.push(HaEffect::Arm(HaTimer::PeerWait));
        match self.state {
            HaState::PassiveSync { .. } => self.fall_back("the channel was lost", effects),
            HaState::Passive { .. } => {
                self.state = HaState::Passive { session: None };
                effects.push(HaEffect::StopReplication);
            }
            HaState::ActiveSync { .. } | HaState::Active { .. } | HaState::Draining(_) => {
                self.lose_follower(effects);
            }
            HaState::Waiting(_)
            | HaState::Shrinking { .. }
            | HaState::Standalone
            | HaState::Releasing(_)
            | HaState::Stopped => {}
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
        let node = peer.node;
        peer.facts = facts.clone();
        self.see_peer_lock(node, &facts);
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
        // Whoever hands over ends the channel himself, but not one of which he has not heard yet. It must
        // be over for both, or for neither.
        let reason = "the other server said goodbye".to_owned();
        effects.push(HaEffect::DropLink { session, reason });
        self.on_link_down(session, LinkEnd::Ended, effects);
    }

    /// What the linked peer's state means for this one.
    pub(super) fn consider_peer(&mut self, effects: &mut Vec<HaEffect>) {
        let Some(peer) = &self.peer else { return };
        let (session, facts) = (peer.session, peer.facts.clone());
        match self.state {
            HaState::Waiting(Claim::Idle | Claim::Reading | Claim::Locking) => {
                if facts.state.serves() {
                    self.follow(session, &facts, effects);
                }
            }
            HaState::PassiveSync { session: mine, .. } if mine == session => {
                if self.holds(Guard::PeerStoppedSending) {
                    // L3: no longer a source.
                    self.fall_back("the active stopped sending", effects);
                } else if facts.state != ServerState::Standalone {
                    self.state = HaState::PassiveSync {
                        session,
                        started: true,
                    };
                }
            }
            HaState::Passive {
                session: Some(mine),
            } if mine == session => {
                if self.holds(Guard::PeerMovedOn) {
                    // L2: the active does not count on this server any more.
                    self.fall_back("the active went on without this server", effects);
                } else if self.call.is_none() && self.record_is_behind_the_peer() {
                    self.read_record(effects);
                }
            }
            HaState::Passive { session: None } => {
                if facts.state.serves() {
                    self.drop_lock(effects);
                    self.fall_back("the other server went on", effects);
                }
            }
            HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Standalone
            | HaState::Shrinking { .. } => {
                if self.holds(Guard::PeerServesNewer) {
                    self.step_down("the peer serves in a newer epoch", effects);
                } else if self.holds(Guard::PeerAsksForCopy) {
                    self.peer_waits(session, effects);
                }
            }
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => {}
        }
    }

    /// WAITING and the peer serves: PASSIVE_SYNC.
    pub(super) fn follow(
        &mut self,
        session: SessionId,
        facts: &PeerFacts,
        effects: &mut Vec<HaEffect>,
    ) {
        if !self.holds(Guard::PeerOffersCopy) {
            return;
        }
        self.drop_lock(effects);
        self.overrule = None;
        self.call = None;
        self.claims.reason = None;
        self.state = HaState::PassiveSync {
            session,
            started: false,
        };
        effects.push(HaEffect::Gate(GatePolicy::Following));
        effects.push(HaEffect::Follow {
            session,
            epoch: facts.epoch,
        });
        effects.push(HaEffect::Arm(HaTimer::MaxWait));
    }

    /// PASSIVE or PASSIVE_SYNC to WAITING.
    pub(super) fn fall_back(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        effects.push(HaEffect::StopReplication);
        effects.push(HaEffect::Gate(GatePolicy::Closed));
        effects.push(HaEffect::Disarm(HaTimer::MaxWait));
        self.wait(why, effects);
        self.consider_peer(effects);
    }

    /// Enters WAITING and looks at the arbiter anew.
    pub(super) fn wait(&mut self, why: &str, effects: &mut Vec<HaEffect>) {
        self.state = HaState::Waiting(Claim::Idle);
        self.overrule = None;
        self.reason = Some(why.to_owned());
        self.resting = false;
        if self.peer.is_none() && !self.peer_wait_over {
            effects.push(HaEffect::Arm(HaTimer::PeerWait));
        }
        self.read_record(effects);
    }

    pub(super) fn on_in_sync(
        &mut self,
        session: SessionId,
        epoch: Epoch,
        effects: &mut Vec<HaEffect>,
    ) {
        let HaState::PassiveSync { session: mine, .. } = self.state else {
            return;
        };
        if mine != session || epoch != self.epoch() {
            return;
        }
        self.state = HaState::Passive {
            session: Some(session),
        };
        self.reason = None;
        effects.push(HaEffect::Disarm(HaTimer::MaxWait));
        // To remember that this store was named (Z17).
        self.read_record(effects);
    }

    pub(super) fn on_sync_progress(&mut self, session: SessionId, effects: &mut Vec<HaEffect>) {
        if self.session() == Some(session)
            && matches!(
                self.state,
                HaState::PassiveSync { .. } | HaState::ActiveSync { .. }
            )
        {
            effects.push(HaEffect::Arm(HaTimer::MaxWait));
        }
    }

    pub(super) fn on_sync_failed(
        &mut self,
        session: SessionId,
        why: &str,
        effects: &mut Vec<HaEffect>,
    ) {
        if self.session() == Some(session) {
            effects.push(HaEffect::DropLink {
                session,
                reason: why.to_owned(),
            });
            self.on_link_down(session, LinkEnd::Ended, effects);
        }
    }
}
