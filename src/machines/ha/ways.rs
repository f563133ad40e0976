//! What each state of a replicated pair means, and the ways out of it: which event opens each, and the
//! guards that are judged then.

use super::explain::{Event, Explanation, Way};
use super::guards::Guard;
use super::{Claim, HaMachine, HaMode, HaState, SyncStep};

impl HaState {
    /// The state with its inner phase, by name.
    #[must_use]
    pub fn place(&self) -> &'static str {
        match self {
            Self::Waiting(Claim::Idle) => "WAITING",
            Self::Waiting(Claim::Reading) => "WAITING (reading the record)",
            Self::Waiting(Claim::Creating) => "WAITING (making the record)",
            Self::Waiting(Claim::Locking) => "WAITING (trying the lock)",
            Self::Waiting(Claim::Claiming) => "WAITING (claiming the record)",
            Self::Waiting(Claim::Persisting) => "WAITING (keeping the record)",
            Self::Waiting(Claim::FenceLocking) => "WAITING (taking the lock of its own epoch)",
            Self::Waiting(Claim::Fencing) => "WAITING (waiting for the old holder's end)",
            Self::Waiting(Claim::Opening) => "WAITING (opening the epoch)",
            Self::PassiveSync { .. } => "PASSIVE_SYNC",
            Self::Passive { session: Some(_) } => "PASSIVE",
            Self::Passive { session: None } => "PASSIVE (no channel)",
            Self::ActiveSync {
                step: SyncStep::Streaming,
                ..
            } => "ACTIVE_SYNC",
            Self::ActiveSync {
                step: SyncStep::Requiring(_),
                ..
            } => "ACTIVE_SYNC (asking the other server for each confirm)",
            Self::ActiveSync {
                step: SyncStep::Extending,
                ..
            } => "ACTIVE_SYNC (naming the other server's copy)",
            Self::Active { .. } => "ACTIVE",
            Self::Shrinking { .. } => "ACTIVE (going on alone)",
            Self::Standalone => "STANDALONE",
            Self::Draining(_) => DRAINING,
            Self::Releasing(_) => RELEASING,
            Self::Stopped => "stopped",
        }
    }

    fn meaning(&self) -> &'static str {
        match self {
            Self::Waiting(Claim::Idle) => {
                "it serves no clients: it waits for the other server, or until it may serve alone"
            }
            Self::Waiting(Claim::Reading | Claim::Creating) => {
                "it serves no clients yet: it looks whether it may serve alone"
            }
            Self::Waiting(Claim::Locking) => {
                "it serves no clients yet: it may serve, and tries to get the lock"
            }
            Self::Waiting(Claim::Claiming | Claim::Persisting | Claim::FenceLocking) => {
                "it serves no clients yet: it enters itself as the server that serves"
            }
            Self::Waiting(Claim::Fencing) => {
                "it serves no clients yet: it waits until the server that served before must have stopped"
            }
            Self::Waiting(Claim::Opening) => "it is about to serve clients",
            Self::PassiveSync { .. } => {
                "it serves no clients: the other server does, and brings this copy into step"
            }
            Self::Passive { session: Some(_) } => {
                "it serves no clients: the other server does, every confirmed message is on both disks, \
                 and this one takes over when the other is gone"
            }
            Self::Passive { session: None } => {
                "it serves no clients: it has lost the other server, holds every confirmed message, and \
                 is about to take over unless the other one still serves"
            }
            Self::ActiveSync { .. } => {
                "it serves clients, and brings the other server's copy into step"
            }
            Self::Active { .. } => {
                "it serves clients, and every confirmed message is on both servers' disks"
            }
            Self::Shrinking { .. } => {
                "it holds back confirms until the record says that it goes on without the other server"
            }
            Self::Standalone => {
                "it serves clients alone: a confirmed message is on this server's disk only"
            }
            Self::Draining(_) | Self::Releasing(_) => {
                "it ends its service in order: it stops, or hands over to the other server"
            }
            Self::Stopped => "it has ended",
        }
    }
}

const DRAINING: &str = "ending its service (answering clients)";
const RELEASING: &str = "ending its service (letting the lock go)";
const IDLE: &str = "WAITING";
const CLAIMING: &str = "STANDALONE";

impl HaMachine {
    /// Why this server is in its state, and every way out of it. Changes nothing.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        Explanation {
            state: self.shown(),
            place: self.state.place(),
            meaning: self.state.meaning(),
            cause: self.cause.clone(),
            trouble: self.trouble(),
            ways: self.ways(),
        }
    }

    fn trouble(&self) -> Option<String> {
        match self.state {
            HaState::Waiting(Claim::Idle) => match self.judge() {
                Err(refusal) if self.looked() => Some(refusal.to_string()),
                Ok(_) | Err(_) => self.reason.clone(),
            },
            HaState::Waiting(_) | HaState::Shrinking { .. } => self.reason.clone(),
            HaState::Passive { session: None } => self.claims.reason.clone(),
            HaState::Active { .. } if self.lock.is_none() => Some(
                "the lock is lost: it goes on only as long as the other server answers".to_owned(),
            ),
            HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Standalone
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => None,
        }
    }

    fn way(&self, to: &'static str, event: Event, guards: &[Guard], ahead: &[Guard]) -> Way {
        let checked = |guards: &[Guard]| guards.iter().map(|guard| self.check(*guard)).collect();
        Way {
            to,
            event,
            guards: checked(guards),
            ahead: checked(ahead),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each state")]
    fn ways(&self) -> Vec<Way> {
        let way = |to, event, guards: &[Guard]| self.way(to, event, guards, &[]);
        let single = self.config.mode == HaMode::Single;
        let end = |to| way(to, Event::StopAsked, &[]);
        let mut ways = match self.state {
            HaState::Waiting(Claim::Idle) => {
                let mut begin = vec![Guard::ArbiterSeen, Guard::Rested];
                begin.extend_from_slice(self.turn());
                let ahead = [Guard::MayBePromoted, Guard::NotCutOff, Guard::LockFree];
                vec![
                    self.way(CLAIMING, Event::ByItself, &begin, &ahead),
                    way("PASSIVE_SYNC", Event::PeerSays, &[Guard::PeerOffersCopy]),
                ]
            }
            HaState::Waiting(Claim::Reading) => vec![
                self.way(
                    CLAIMING,
                    Event::RecordRead,
                    &[Guard::MayBePromoted],
                    &[Guard::LockFree],
                ),
                way(IDLE, Event::ClaimRefused, &[]),
                way("PASSIVE_SYNC", Event::PeerSays, &[Guard::PeerOffersCopy]),
            ],
            HaState::Waiting(Claim::Creating) => vec![
                self.way(CLAIMING, Event::RecordMade, &[], &[Guard::LockFree]),
                way(IDLE, Event::ClaimRefused, &[]),
                way(IDLE, Event::RecordTaken, &[]),
            ],
            // An operator has answered the question whether this copy may be promoted.
            HaState::Waiting(Claim::Locking) if self.overrules() => vec![
                self.way(CLAIMING, Event::LockObtained, &[], &[Guard::LockFree]),
                way(IDLE, Event::ClaimRefused, &[]),
                way("PASSIVE_SYNC", Event::PeerSays, &[Guard::PeerOffersCopy]),
            ],
            HaState::Waiting(Claim::Locking) => vec![
                self.way(
                    CLAIMING,
                    Event::LockObtained,
                    &[Guard::MayBePromoted],
                    &[Guard::LockFree],
                ),
                self.way(
                    CLAIMING,
                    Event::LockInVain,
                    &[Guard::FenceDue, Guard::MayBePromoted],
                    &[Guard::OldHolderOver],
                ),
                way(IDLE, Event::ClaimRefused, &[]),
                way("PASSIVE_SYNC", Event::PeerSays, &[Guard::PeerOffersCopy]),
            ],
            HaState::Waiting(Claim::Claiming) => vec![
                self.way(CLAIMING, Event::RecordChanged, &[], &[Guard::OldHolderOver]),
                way(IDLE, Event::RecordTaken, &[]),
                way(IDLE, Event::LockLost, &[Guard::LockHeld]),
            ],
            HaState::Waiting(Claim::Persisting) => vec![
                self.way(CLAIMING, Event::RecordKept, &[], &[Guard::OldHolderOver]),
                way(IDLE, Event::LockLost, &[Guard::LockHeld]),
                way(IDLE, Event::RecordMoved, &[]),
            ],
            HaState::Waiting(Claim::FenceLocking) => vec![
                self.way(CLAIMING, Event::LockObtained, &[], &[Guard::OldHolderOver]),
                way(IDLE, Event::ClaimRefused, &[]),
                way(IDLE, Event::RecordMoved, &[]),
            ],
            HaState::Waiting(Claim::Fencing) => vec![
                self.way(CLAIMING, Event::FenceOver, &[], &[Guard::OldHolderOver]),
                way(IDLE, Event::LockLost, &[Guard::LockHeld]),
                way(IDLE, Event::RecordMoved, &[]),
            ],
            HaState::Waiting(Claim::Opening) => vec![
                way(CLAIMING, Event::EpochOpened, &[]),
                way(IDLE, Event::EpochRefused, &[]),
                way(IDLE, Event::LockLost, &[Guard::LockHeld]),
                way(IDLE, Event::RecordMoved, &[]),
            ],
            HaState::PassiveSync { .. } => vec![
                way("PASSIVE", Event::NamedInSync, &[]),
                way(IDLE, Event::PeerSays, &[Guard::PeerStoppedSending]),
                way(IDLE, Event::ResyncFails, &[]),
                way(IDLE, Event::ChannelDown, &[]),
                way(IDLE, Event::ChannelUp, &[]),
            ],
            HaState::Passive { session: Some(_) } => vec![
                way("PASSIVE (no channel)", Event::ChannelDown, &[]),
                way("PASSIVE (no channel)", Event::ResyncFails, &[]),
                way(IDLE, Event::PeerSays, &[Guard::PeerMovedOn]),
                way(IDLE, Event::ChannelUp, &[]),
            ],
            HaState::Passive { session: None } => vec![
                self.way(
                    CLAIMING,
                    Event::LockObtained,
                    &[Guard::MayBePromoted],
                    &[Guard::MayTakeOver, Guard::LockFree],
                ),
                self.way(
                    CLAIMING,
                    Event::LockInVain,
                    &[Guard::FenceDue, Guard::MayBePromoted],
                    &[Guard::OldHolderOver],
                ),
                way(IDLE, Event::ClaimRefused, &[]),
                way(IDLE, Event::ChannelUp, &[]),
                way(IDLE, Event::RecordRead, &[Guard::RecordDropsCopy]),
            ],
            HaState::Standalone => {
                let asks = [Guard::PeerAsksForCopy, Guard::ReEntryOpen];
                let mut ways = vec![way("ACTIVE_SYNC", Event::PeerSays, &asks)];
                ways.push(way("STANDALONE", Event::PeerTooSlow, &[]));
                ways.extend(self.ways_down());
                ways
            }
            HaState::ActiveSync { step, .. } => {
                let mut ways = match step {
                    SyncStep::Streaming => vec![
                        way("ACTIVE", Event::CopyWhole, &[]),
                        way("STANDALONE", Event::ChannelDown, &[]),
                        way("STANDALONE", Event::ResyncFails, &[]),
                    ],
                    SyncStep::Requiring(_) => vec![
                        way("ACTIVE", Event::PeerHoldsAll, &[]),
                        way("STANDALONE", Event::ChannelDown, &[]),
                        way("STANDALONE", Event::ResyncFails, &[]),
                    ],
                    SyncStep::Extending => vec![
                        way("ACTIVE", Event::RecordChanged, &[]),
                        way("STANDALONE", Event::ChannelDown, &[]),
                        way("STANDALONE", Event::ResyncFails, &[]),
                        way(IDLE, Event::RecordTaken, &[]),
                    ],
                };
                ways.push(way("STANDALONE", Event::PeerTooSlow, &[]));
                ways.extend(self.ways_down());
                ways
            }
            HaState::Active { .. } => {
                let mut ways = Vec::new();
                for (to, lock) in [("STANDALONE", Guard::LockHeld), (IDLE, Guard::LockNotHeld)] {
                    ways.extend([
                        way(to, Event::ChannelDown, &[lock]),
                        way(to, Event::PeerTooSlow, &[lock]),
                        way(to, Event::ResyncFails, &[lock]),
                        way(to, Event::PeerSays, &[Guard::PeerAsksForCopy, lock]),
                    ]);
                }
                ways.push(way(
                    DRAINING,
                    Event::SwitchoverAsked,
                    &[Guard::SwitchoverReady],
                ));
                ways.extend(self.ways_down());
                ways
            }
            HaState::Shrinking { .. } => {
                let mut ways = vec![
                    way("STANDALONE", Event::RecordChanged, &[]),
                    way(IDLE, Event::RecordTaken, &[]),
                ];
                ways.extend(self.ways_down());
                ways
            }
            HaState::Draining(_) => {
                let to = match (self.hands_over(), &self.lock) {
                    (false, _) => "stopped",
                    (true, Some(_)) => RELEASING,
                    (true, None) => IDLE,
                };
                vec![
                    way(to, Event::ClientsGone, &[]),
                    way(to, Event::LeaseOver, &[]),
                    way(to, Event::RecordMoved, &[]),
                ]
            }
            HaState::Releasing(_) => {
                let to = if self.hands_over() { IDLE } else { "stopped" };
                vec![way(to, Event::LockLetGo, &[])]
            }
            HaState::Stopped => vec![way(IDLE, Event::Started, &[])],
        };
        if matches!(
            self.state,
            HaState::Waiting(Claim::Idle | Claim::Reading | Claim::Locking)
        ) {
            let ready = [Guard::PromotionReady];
            ways.push(way(CLAIMING, Event::PromotionAsked, &ready));
        }
        if single {
            ways.retain(|way| matches!(way.event, Event::EpochOpened | Event::ClientsGone));
        }
        match self.state {
            HaState::Draining(_) | HaState::Releasing(_) | HaState::Stopped => {}
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone => ways.push(end("stopped")),
        }
        if !self.state.shown().serves() && !single && !matches!(self.state, HaState::Stopped) {
            ways.push(way("stopped", Event::PeerMismatched, &[]));
        }
        ways
    }

    /// From service to WAITING.
    fn ways_down(&self) -> Vec<Way> {
        let way = |event, guards: &[Guard]| self.way(IDLE, event, guards, &[]);
        let mut ways = vec![
            way(Event::LeaseOver, &[]),
            way(Event::RecordMoved, &[]),
            way(Event::PeerSays, &[Guard::PeerServesNewer]),
        ];
        // An ACTIVE goes on by the peer's word.
        if !matches!(self.state, HaState::Active { .. }) {
            ways.push(way(Event::LockLost, &[Guard::LockHeld]));
        }
        ways
    }
}
