//! The guards: the conditions that transitions depend on, each with a name, a truth and its evidence.
//! The machine decides by [`HaMachine::holds`], and `explain` shows the same guards by
//! [`HaMachine::check`]: there is no second copy of a rule (ha-protocol A11).

use crate::proto::arbiter::ArbiterRecord;
use crate::proto::ids::{NodeId, StoreId};
use crate::proto::peer::ServerState;

use super::eligibility::{ArbiterView, Refusal};
use super::explain::{Checked, Fact, Source, Truth};
use super::{Claim, HaMachine, HaMode, HaState, HaTimer, Takeover};

/// A condition of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// The arbiter has been looked at, and no answer of it is awaited.
    ArbiterSeen,
    /// The rest after a refused claim is over.
    Rested,
    /// There is no channel, and the peer has been away for long enough.
    PeerAway,
    /// The peer waits too, and does not claim.
    PeerWaits,
    /// Of two that wait this one goes first, or the other had its time.
    FirstInTurn,
    /// By record, lock file and store, this copy holds everything that was confirmed.
    MayBePromoted,
    /// The arbiter can be read, or else the gateway can be reached.
    NotCutOff,
    /// Nobody else holds the lock.
    LockFree,
    /// This process holds the lock.
    LockHeld,
    /// This process does not hold the lock.
    LockNotHeld,
    /// No attempt to get the lock is under way, and it is not held.
    LockNotSought,
    /// The lock may be left alone: the record is claimed first, and the old holder's lease ends it.
    FenceDue,
    /// Nobody else can still be serving in the epoch that was taken over.
    OldHolderOver,
    /// The peer serves, and is ready to bring this copy into step.
    PeerOffersCopy,
    /// The peer that sends its copy has stopped doing so.
    PeerStoppedSending,
    /// The peer does not count on this server any more.
    PeerMovedOn,
    /// The peer waits for this server's copy.
    PeerAsksForCopy,
    /// A peer that was too slow has been kept out for long enough.
    ReEntryOpen,
    /// The peer serves, or is about to, in a newer epoch.
    PeerServesNewer,
    /// The record names this server as the one that serves.
    RecordMine,
    /// The record names this server's copy.
    RecordNamesCopy,
    /// The record does not name this server's copy.
    RecordDropsCopy,
    /// The server that served is away, or handed over.
    MayTakeOver,
    /// The peer, to which this server handed over, neither serves nor claims.
    PeerIdle,
    /// The peer, to which this server handed over, has had its time.
    PeerHadItsTime,
    /// What must be so for a switchover.
    SwitchoverReady,
    /// What must be so for an operator's override.
    PromotionReady,
}

impl Guard {
    /// The condition in words that need no glossary.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ArbiterSeen => "the record beside the lock file has been looked at",
            Self::Rested => "the pause after the last refused attempt is over",
            Self::PeerAway => "the other server has been out of reach for long enough",
            Self::PeerWaits => "the other server waits as well",
            Self::FirstInTurn => "this server goes first, or the other one had its time",
            Self::MayBePromoted => "this server's copy holds every confirmed message",
            Self::NotCutOff => "this server is not the one that is cut off",
            Self::LockFree => "nobody else holds the lock",
            Self::LockHeld => "this server holds the lock",
            Self::LockNotHeld => "this server does not hold the lock",
            Self::LockNotSought => "the lock is not being tried already",
            Self::FenceDue => {
                "the other server has been silent for long enough to be taken over without its lock"
            }
            Self::OldHolderOver => "the server that served before has certainly ended",
            Self::PeerOffersCopy => {
                "the other server serves and is ready to bring this one into step"
            }
            Self::PeerStoppedSending => "the other server has stopped sending its copy",
            Self::PeerMovedOn => "the other server does not count on this one any more",
            Self::PeerAsksForCopy => "the other server waits to be brought into step",
            Self::ReEntryOpen => "the other server is not being kept out for having been too slow",
            Self::PeerServesNewer => "the other server serves in a newer epoch",
            Self::RecordMine => "the record still names this server as the one that serves",
            Self::RecordDropsCopy => "the record does not name this server's copy",
            Self::RecordNamesCopy => "the record names this server's copy",
            Self::MayTakeOver => "the server that served has gone, or handed over",
            Self::PeerIdle => "the other server does not take what was handed to it",
            Self::PeerHadItsTime => "the other server has had its time",
            Self::SwitchoverReady => "the other server is ready to take over",
            Self::PromotionReady => "an override is needed, and nobody else may serve",
        }
    }
}

/// A claim that begins while the peer is away.
const ALONE: [Guard; 1] = [Guard::PeerAway];
/// A claim that begins while the peer is linked.
const LINKED: [Guard; 2] = [Guard::PeerWaits, Guard::FirstInTurn];
/// A claim of a server that has handed over, while the peer is linked.
const YIELDING: [Guard; 2] = [Guard::PeerIdle, Guard::PeerHadItsTime];

impl HaMachine {
    /// The decision.
    pub(super) fn holds(&self, guard: Guard) -> bool {
        self.truth(guard) == Truth::Holds
    }

    /// All of them hold.
    pub(super) fn hold(&self, guards: &[Guard]) -> bool {
        guards.iter().all(|guard| self.holds(*guard))
    }

    /// What decides whose turn it is to claim.
    pub(super) fn turn(&self) -> &'static [Guard] {
        match &self.peer {
            None => &ALONE,
            // Whoever takes over is PASSIVE until it has the lock, and claims then: one that waits and
            // does not claim has started anew, and knows of no hand-over.
            Some(peer) if self.yields() && peer.facts.state != ServerState::Waiting => &YIELDING,
            Some(_) => &LINKED,
        }
    }

    /// The guard with its truth and what it rests on.
    pub(super) fn check(&self, guard: Guard) -> Checked {
        let truth = self.truth(guard);
        Checked {
            guard: guard.text(),
            truth,
            facts: self.facts(guard),
            advice: if truth == Truth::Holds {
                None
            } else {
                self.advice(guard)
            },
        }
    }

    /// Three-valued: what is not known lets nothing happen, but is told apart from what is wrong.
    #[expect(clippy::too_many_lines, reason = "one arm for each guard")]
    pub(super) fn truth(&self, guard: Guard) -> Truth {
        let peer = self.peer.as_ref().map(|peer| &peer.facts);
        let is = Truth::of;
        match guard {
            Guard::ArbiterSeen => is(self.call.is_none() && self.arbiter != ArbiterView::Unread),
            Guard::Rested => is(!self.resting),
            Guard::PeerAway => is(peer.is_none() && self.peer_wait_over),
            Guard::PeerWaits => is(
                peer.is_some_and(|facts| facts.state == ServerState::Waiting && !facts.claiming)
            ),
            // A peer that has not looked yet cannot say whether it is the better one.
            Guard::FirstInTurn => is(self.peer.as_ref().is_some_and(|peer| {
                self.patience_over
                    || (peer.facts.looked && self.better_than(peer))
                    || self.was_handed_over_by(peer)
            })),
            Guard::MayBePromoted => match self.judge() {
                Ok(_) => Truth::Holds,
                Err(Refusal::Unreadable(_)) => Truth::Unknown,
                Err(_) => Truth::Fails,
            },
            Guard::NotCutOff => match (&self.arbiter, self.gateway_unreachable) {
                (ArbiterView::Read { .. }, _) => Truth::Holds,
                (ArbiterView::Unread | ArbiterView::Unreadable(_), true) => Truth::Fails,
                (ArbiterView::Unread | ArbiterView::Unreadable(_), false) => Truth::Unknown,
            },
            Guard::LockFree => match (&self.lock, &self.lock_refused) {
                (Some(_), _) => Truth::Holds,
                (None, Some(_)) => Truth::Fails,
                (None, None) => Truth::Unknown,
            },
            Guard::LockHeld => is(self.lock.is_some()),
            Guard::LockNotHeld => is(self.lock.is_none()),
            Guard::LockNotSought => is(!self.seeking && self.lock.is_none()),
            Guard::FenceDue => is(self.fence_due()),
            Guard::OldHolderOver => {
                if self.old_holder_is_gone() {
                    Truth::Holds
                } else {
                    Truth::Unknown
                }
            }
            Guard::PeerOffersCopy => is(peer.is_some_and(|facts| {
                // An ACTIVE has not yet noticed that this server came back; it will say so.
                matches!(
                    facts.state,
                    ServerState::Standalone | ServerState::ActiveSync
                )
            })),
            Guard::PeerStoppedSending => is(peer.is_some_and(|facts| {
                let started = matches!(self.state, HaState::PassiveSync { started: true, .. });
                let source = matches!(facts.state, ServerState::ActiveSync | ServerState::Active);
                !source && (started || facts.state != ServerState::Standalone)
            })),
            Guard::PeerMovedOn => is(peer.is_some_and(|facts| {
                !matches!(facts.state, ServerState::Active | ServerState::ActiveSync)
            })),
            Guard::PeerAsksForCopy => is(peer.is_some_and(|facts| {
                facts.state == ServerState::Waiting
                    || (facts.state == ServerState::PassiveSync
                        && self.state == HaState::Standalone)
            })),
            Guard::ReEntryOpen => {
                is(!self.reentry_barred && self.config.mode == HaMode::Replicated)
            }
            Guard::PeerServesNewer => is(peer.is_some_and(|facts| {
                (facts.state.serves() || facts.claiming) && facts.epoch > self.epoch()
            })),
            Guard::RecordMine => match self.record() {
                Some(record) => is(!self.moved_on(record)),
                None => Truth::Unknown,
            },
            Guard::RecordDropsCopy => match self.record() {
                Some(record) => is(!record.holds(self.own.store)),
                None => Truth::Unknown,
            },
            Guard::RecordNamesCopy => match self.record() {
                Some(record) => is(record.holds(self.own.store)),
                None => Truth::Unknown,
            },
            Guard::MayTakeOver => is(self.peer_wait_over || peer.is_some()),
            // It may have been handed the service and cannot take it.
            Guard::PeerIdle => is(peer.is_some_and(|facts| {
                (facts.state == ServerState::Waiting && !facts.claiming)
                    || facts.state == ServerState::Passive
            })),
            Guard::PeerHadItsTime => is(self.patience_over),
            Guard::SwitchoverReady => is(self.switchover_conditions().iter().all(|it| it.holds)),
            Guard::PromotionReady => is(self.promotion().conditions.iter().all(|it| it.holds)),
        }
    }

    /// L4: another server has this record, or it is of a newer epoch than the one served.
    pub(super) fn moved_on(&self, found: &ArbiterRecord) -> bool {
        found.owner != self.config.node || found.epoch > self.epoch()
    }

    fn facts(&self, guard: Guard) -> Vec<Fact> {
        match guard {
            Guard::ArbiterSeen => vec![self.arbiter_fact()],
            Guard::Rested => vec![self.timer_fact(HaTimer::Retry, self.resting)],
            Guard::PeerAway => match self.peer {
                Some(_) => vec![self.peer_fact()],
                None => vec![
                    self.peer_fact(),
                    self.timer_fact(HaTimer::PeerWait, !self.peer_wait_over),
                ],
            },
            Guard::MayTakeOver => vec![
                self.peer_fact(),
                self.timer_fact(HaTimer::PeerWait, !self.peer_wait_over),
            ],
            Guard::PeerHadItsTime => vec![self.timer_fact(
                HaTimer::Patience,
                self.peer.is_some() && !self.patience_over,
            )],
            Guard::SwitchoverReady => vec![self.peer_fact(), self.lock_fact(), self.arbiter_fact()],
            Guard::PromotionReady => vec![self.peer_fact(), self.arbiter_fact(), self.copy_fact()],
            Guard::PeerWaits
            | Guard::PeerIdle
            | Guard::PeerOffersCopy
            | Guard::PeerStoppedSending
            | Guard::PeerMovedOn
            | Guard::PeerAsksForCopy => vec![self.peer_fact()],
            Guard::FirstInTurn => vec![
                self.copy_fact(),
                self.peer_fact(),
                self.timer_fact(
                    HaTimer::Patience,
                    self.peer.is_some() && !self.patience_over,
                ),
            ],
            Guard::MayBePromoted => {
                let refusal = self
                    .judge()
                    .err()
                    .map(|refusal| Fact::new(Source::Record, refusal.to_string()));
                let mut facts: Vec<Fact> = refusal.into_iter().collect();
                facts.extend([self.arbiter_fact(), self.copy_fact()]);
                facts.extend(self.confirmed_fact());
                facts.extend(self.last_record_fact());
                facts
            }
            Guard::NotCutOff => vec![self.arbiter_fact(), self.gateway_fact()],
            Guard::LockFree | Guard::LockHeld | Guard::LockNotHeld | Guard::LockNotSought => {
                vec![self.lock_fact()]
            }
            Guard::FenceDue => vec![
                self.peer_fact(),
                self.takeover_fact(),
                self.timer_fact(HaTimer::PeerWait, self.peer.is_none() && !self.silent),
            ],
            Guard::OldHolderOver => {
                let fencing = self.state == HaState::Waiting(Claim::Fencing);
                vec![
                    self.old_holder_fact(),
                    self.timer_fact(HaTimer::FenceWait, fencing),
                ]
            }
            Guard::ReEntryOpen => vec![self.timer_fact(HaTimer::ReEntry, self.reentry_barred)],
            Guard::PeerServesNewer => vec![self.peer_fact(), self.arbiter_fact()],
            Guard::RecordMine | Guard::RecordNamesCopy | Guard::RecordDropsCopy => {
                vec![self.arbiter_fact()]
            }
        }
    }

    fn arbiter_fact(&self) -> Fact {
        match &self.arbiter {
            ArbiterView::Unread => Fact::new(Source::Record, "it has not been read yet"),
            ArbiterView::Unreadable(why) => {
                Fact::new(Source::Record, format!("it cannot be read: {why}"))
            }
            ArbiterView::Read { record: None, .. } => {
                Fact::new(Source::Record, "there is no record beside the lock file")
            }
            ArbiterView::Read {
                record: Some(record),
                ..
            } => {
                let text = format!(
                    "record {} (epoch {}, served by {}) names {}",
                    record.seq,
                    record.epoch,
                    self.name_of(record.owner),
                    self.copies(&record.isr),
                );
                let isr: Vec<String> = record.isr.iter().map(ToString::to_string).collect();
                Fact::new(Source::Record, text)
                    .with("seq", record.seq.0)
                    .with("epoch", record.epoch.0)
                    .with("owner", record.owner.to_string())
                    .with("in_sync", isr.join(" "))
            }
        }
    }

    fn copy_fact(&self) -> Fact {
        let own = self.own;
        let unfinished = if own.sync_in_progress {
            ", and a resync into it has not ended"
        } else {
            ""
        };
        let text = format!(
            "this server's copy ends at epoch {}, position {}{unfinished}",
            own.position.epoch, own.position.lsn
        );
        Fact::new(Source::Store, text)
            .with("store", own.store.to_string())
            .with("epoch", own.position.epoch.0)
            .with("position", own.position.lsn.0)
    }

    /// A1: what the lock's last holder wrote down for this copy.
    fn confirmed_fact(&self) -> Option<Fact> {
        let ArbiterView::Read {
            lock: Some(lock), ..
        } = &self.arbiter
        else {
            return None;
        };
        let position = lock.confirmed(self.own.store)?;
        let text = format!(
            "the lock file says that this copy has confirmed up to epoch {}, position {}",
            position.epoch, position.lsn
        );
        Some(
            Fact::new(Source::LockFile, text)
                .with("epoch", position.epoch.0)
                .with("position", position.lsn.0),
        )
    }

    fn last_record_fact(&self) -> Option<Fact> {
        let last = self.last_record.as_ref()?;
        let named = if last.holds(self.own.store) {
            "which named this copy"
        } else {
            "which did not name this copy"
        };
        let text = format!(
            "the last record that this server kept is number {} of epoch {}, {named}",
            last.seq, last.epoch
        );
        Some(
            Fact::new(Source::Store, text)
                .with("seq", last.seq.0)
                .with("epoch", last.epoch.0),
        )
    }

    pub(super) fn peer_fact(&self) -> Fact {
        let Some(peer) = &self.peer else {
            return Fact::new(Source::Peer, "there is no channel to the other server");
        };
        let facts = &peer.facts;
        let claiming = if facts.claiming {
            " and claims the record"
        } else {
            ""
        };
        let text = format!(
            "the other server ({}) is {}{claiming} in epoch {}, its copy ends at position {}",
            peer.name, facts.state, facts.epoch, facts.position.lsn
        );
        Fact::new(Source::Peer, text)
            .with("node", peer.node.to_string())
            .with("state", facts.state.name().to_owned())
            .with("epoch", facts.epoch.0)
            .with("position", facts.position.lsn.0)
            .with("session", peer.session.0)
    }

    pub(super) fn lock_fact(&self) -> Fact {
        let text = match (&self.lock, &self.lock_refused, self.seeking) {
            (Some(_), _, _) => "this server holds the lock".to_owned(),
            (None, Some(holder), _) => format!("the lock is held by {holder}"),
            (None, None, true) => "the lock is being tried".to_owned(),
            (None, None, false) => "the lock has not been tried".to_owned(),
        };
        Fact::new(Source::Lock, text)
    }

    fn gateway_fact(&self) -> Fact {
        let text = if self.gateway_unreachable {
            "the gateway cannot be reached"
        } else {
            "nothing says that the gateway cannot be reached"
        };
        Fact::new(Source::Gateway, text)
    }

    fn takeover_fact(&self) -> Fact {
        let text = match self.config.takeover {
            Takeover::Fence => "ha.lock.takeover is \"fence\": a hung server is taken over from",
            Takeover::Lock => "ha.lock.takeover is \"lock\": a hung server's lock is waited for",
        };
        Fact::new(Source::Store, text)
    }

    fn old_holder_fact(&self) -> Fact {
        let Some(from) = &self.claimed_from else {
            return Fact::new(Source::Record, "nothing has been taken over");
        };
        let text = format!(
            "record {} of epoch {} was taken over from {}",
            from.seq,
            from.epoch,
            self.name_of(from.owner)
        );
        Fact::new(Source::Record, text)
            .with("seq", from.seq.0)
            .with("epoch", from.epoch.0)
            .with("owner", from.owner.to_string())
    }

    fn timer_fact(&self, timer: HaTimer, runs: bool) -> Fact {
        let text = match (timer, runs) {
            (HaTimer::PeerWait, true) => "the wait for it is not over",
            (HaTimer::PeerWait, false) => "the wait for it is over",
            (HaTimer::Patience, true) => "the other server's time to go first is not over",
            (HaTimer::Patience, false) => "the other server's time to go first is over",
            (HaTimer::Retry, true) => "the next attempt is not due yet",
            (HaTimer::Retry, false) => "no pause is running",
            (HaTimer::FenceWait, true) => {
                "waits until the old holder's right to serve (its lease) must be over"
            }
            (HaTimer::FenceWait, false) => "no such wait is running",
            (HaTimer::MaxWait, true) => "the longest time for it is running",
            (HaTimer::MaxWait, false) => "no time limit is running",
            (HaTimer::ReEntry, true) => "it was too slow and is kept out for now",
            (HaTimer::ReEntry, false) => "it is not being kept out",
            (HaTimer::Drain, true) => "the time for answering clients is running",
            (HaTimer::Drain, false) => "no stop is under way",
        };
        let source = if runs {
            Source::Timer(timer)
        } else {
            Source::Peer
        };
        Fact::new(source, text)
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        if node == self.config.node {
            return "this server".to_owned();
        }
        match &self.peer {
            Some(peer) if peer.node == node => format!("the other server ({})", peer.name),
            Some(_) | None => "the other server".to_owned(),
        }
    }

    fn copies(&self, isr: &[StoreId]) -> String {
        let own = isr.contains(&self.own.store);
        let text = if own && isr.len() == 1 {
            "this server's copy alone"
        } else if own {
            "both servers' copies"
        } else {
            "only a copy that is not this server's"
        };
        text.to_owned()
    }

    /// `{own}` and `{other}` stand for the two servers' profiles.
    fn advice(&self, guard: Guard) -> Option<String> {
        let text = match guard {
            Guard::MayBePromoted => return Some(self.judge().err()?.advice().to_owned()),
            Guard::NotCutOff => {
                "see to this machine's network and to the share: twinmq check -p {own}"
            }
            Guard::LockFree if self.lock_refused.is_some() => {
                "if the other server runs, leave it: it serves. If it hangs, end its process (or \
                 power its machine off); the lock is free then, and this server goes on by itself"
            }
            Guard::ArbiterSeen
            | Guard::Rested
            | Guard::PeerAway
            | Guard::MayTakeOver
            | Guard::PeerIdle
            | Guard::PeerHadItsTime
            | Guard::SwitchoverReady
            | Guard::PromotionReady
            | Guard::PeerWaits
            | Guard::FirstInTurn
            | Guard::LockFree
            | Guard::LockHeld
            | Guard::LockNotHeld
            | Guard::LockNotSought
            | Guard::FenceDue
            | Guard::OldHolderOver
            | Guard::PeerStoppedSending
            | Guard::PeerMovedOn
            | Guard::PeerServesNewer
            | Guard::ReEntryOpen
            | Guard::RecordMine
            | Guard::RecordNamesCopy
            | Guard::RecordDropsCopy => return None,
            Guard::PeerOffersCopy | Guard::PeerAsksForCopy if self.peer.is_none() => {
                "start the other server, or see to the network between the two: twinmq status -p {other}"
            }
            Guard::PeerOffersCopy | Guard::PeerAsksForCopy => return None,
        };
        Some(text.to_owned())
    }
}
