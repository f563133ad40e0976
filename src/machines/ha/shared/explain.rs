//! Why is a server of shared mode in its state, and what gets it out of it? Read off the machine, by
//! the predicates that decide.

use super::super::explain::{Checked, Event, Explanation, Fact, Source, Truth, Way};
use super::super::{ArbiterView, Condition, HaMode, HaTimer, Promotion};
use super::{Attempt, SharedMachine, SharedState, Step, StoreView};
use crate::proto::ids::Position;
use crate::proto::peer::ServerState;

impl SharedMachine {
    /// Why this server is in its state, and every way out of it. Changes nothing.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        Explanation {
            state: self.shown(),
            place: self.state.place(),
            meaning: self.state.meaning(),
            cause: self.cause(),
            trouble: self.reason.clone(),
            ways: self.ways(),
        }
    }

    /// What led to the present state, as far as it said so.
    pub(super) fn cause(&self) -> Option<String> {
        let text = match self.state {
            SharedState::Passive(_) => return self.reason.clone(),
            SharedState::Activating(_) | SharedState::Active => {
                "it obtained the lock and the store's data file"
            }
            SharedState::Draining | SharedState::Closing(_) | SharedState::Releasing(_) => {
                "it was asked to end its service"
            }
            SharedState::Stopped => return self.reason.clone(),
        };
        Some(text.to_owned())
    }

    fn ways(&self) -> Vec<Way> {
        let way = |to, event, guards: Vec<Checked>, ahead: Vec<Checked>| Way {
            to,
            event,
            guards,
            ahead,
        };
        let stop = || way("stopped", Event::StopAsked, Vec::new(), Vec::new());
        match self.state {
            SharedState::Passive(Attempt::Idle) => vec![
                way(
                    "ACTIVE",
                    Event::ByItself,
                    vec![self.peer_lets_it(), self.rested()],
                    vec![self.may_serve(), self.lock_free(), self.data_file_free()],
                ),
                stop(),
            ],
            SharedState::Passive(Attempt::Locking) => vec![
                way(
                    "ACTIVE",
                    Event::LockObtained,
                    vec![self.may_serve()],
                    vec![self.lock_free(), self.data_file_free()],
                ),
                stop(),
            ],
            SharedState::Passive(_) => vec![
                way("ACTIVE", Event::RecordChanged, Vec::new(), Vec::new()),
                way("PASSIVE", Event::ClaimRefused, Vec::new(), Vec::new()),
                stop(),
            ],
            SharedState::Activating(step) => vec![
                way(
                    "ACTIVE",
                    match step {
                        Step::Fencing => Event::FenceOver,
                        Step::Persisting | Step::Opening | Step::Beginning => Event::EpochOpened,
                    },
                    Vec::new(),
                    vec![self.old_holder_over()],
                ),
                way("stopped", Event::LockLost, Vec::new(), Vec::new()),
                stop(),
            ],
            SharedState::Active => vec![
                way("stopped", Event::LockLost, Vec::new(), Vec::new()),
                way("stopped", Event::LeaseOver, Vec::new(), Vec::new()),
                way("stopped", Event::RecordMoved, Vec::new(), Vec::new()),
                way(
                    "stopped",
                    Event::SwitchoverAsked,
                    vec![self.switchover_ready()],
                    Vec::new(),
                ),
                stop(),
            ],
            SharedState::Draining => {
                vec![way("stopped", Event::ClientsGone, Vec::new(), Vec::new())]
            }
            SharedState::Closing(_) | SharedState::Releasing(_) => {
                vec![way("stopped", Event::LockLetGo, Vec::new(), Vec::new())]
            }
            SharedState::Stopped => vec![way("PASSIVE", Event::Started, Vec::new(), Vec::new())],
        }
    }

    fn checked(guard: &'static str, holds: Truth, facts: Vec<Fact>, advice: &str) -> Checked {
        Checked {
            guard,
            truth: holds,
            facts,
            advice: (holds != Truth::Holds && !advice.is_empty()).then(|| advice.to_owned()),
        }
    }

    fn peer_lets_it(&self) -> Checked {
        Self::checked(
            "the other server does not serve, as far as is known here",
            Truth::of(self.my_turn()),
            vec![self.peer_fact()],
            "nothing need be done while the other server serves; it hands over when it is stopped",
        )
    }

    fn rested(&self) -> Checked {
        let text = if self.resting {
            "the next attempt is not due yet"
        } else {
            "no pause is running"
        };
        Self::checked(
            "the pause after the last refused attempt is over",
            Truth::of(!self.resting),
            vec![Fact::new(Source::Timer(HaTimer::Retry), text)],
            "",
        )
    }

    fn may_serve(&self) -> Checked {
        let judged = self.judge();
        let truth = match (&judged, &self.store) {
            (_, StoreView::Unlooked) => Truth::Unknown,
            (Ok(_), _) => Truth::Holds,
            (Err(_), _) => Truth::Fails,
        };
        let refusal = judged.err();
        let mut facts: Vec<Fact> = refusal
            .iter()
            .map(|refusal| Fact::new(Source::Record, refusal.to_string()))
            .collect();
        facts.push(self.record_fact());
        let advice = refusal.map_or("", |refusal| refusal.advice());
        Self::checked(
            "the store can be reached, and is the one that the record names",
            truth,
            facts,
            advice,
        )
    }

    fn lock_free(&self) -> Checked {
        let (truth, text) = if self.lock.is_some() {
            (Truth::Holds, "this server holds it")
        } else if self.seeking {
            (Truth::Unknown, "it is being tried")
        } else {
            (Truth::Unknown, "it is not being tried")
        };
        Self::checked(
            "nobody else holds the lock",
            truth,
            vec![Fact::new(Source::Lock, text)],
            "if the other server hangs, end its process (or power its machine off): this server goes \
             on by itself then",
        )
    }

    fn data_file_free(&self) -> Checked {
        let (truth, text) = if self.taken {
            (Truth::Holds, "this server has it")
        } else {
            (Truth::Unknown, "it is tried once the lock is held")
        };
        Self::checked(
            "nobody else has the store's data file locked",
            truth,
            vec![Fact::new(Source::Store, text)],
            "",
        )
    }

    fn old_holder_over(&self) -> Checked {
        let truth = if self.old_holder_is_gone() {
            Truth::Holds
        } else {
            Truth::Unknown
        };
        Self::checked(
            "the server that served before has certainly ended",
            truth,
            vec![Fact::new(
                Source::Timer(HaTimer::FenceWait),
                "if that is not known, it waits until the old holder's lease must be over",
            )],
            "",
        )
    }

    fn switchover_ready(&self) -> Checked {
        let ready = self.switchover_conditions().iter().all(|it| it.holds);
        Self::checked(
            "the other server is ready to take over",
            Truth::of(ready),
            vec![self.peer_fact()],
            "start the other server: twinmq status -p {other}",
        )
    }

    fn peer_fact(&self) -> Fact {
        let text = match &self.peer {
            Some(peer) => format!("{} is {}", peer.name, peer.facts.state),
            None if self.peer_silent => "it fell silent a moment ago".to_owned(),
            None => "there is no channel to it".to_owned(),
        };
        Fact::new(Source::Peer, text)
    }

    fn record_fact(&self) -> Fact {
        let text = match &self.arbiter {
            ArbiterView::Unread => "it has not been read yet".to_owned(),
            ArbiterView::Unreadable(why) => format!("it cannot be read: {why}"),
            ArbiterView::Read { record: None, .. } => {
                "there is no record beside the lock file".to_owned()
            }
            ArbiterView::Read {
                record: Some(record),
                ..
            } => format!("record {} (epoch {})", record.seq, record.epoch),
        };
        Fact::new(Source::Record, text)
    }

    /// What must hold for a switchover, each with what is so now. It is carried out when all hold: this
    /// server ends in order, and the peer takes over.
    #[must_use]
    pub fn switchover_conditions(&self) -> Vec<Condition> {
        let condition = |what, holds, found| Condition { what, holds, found };
        let peer = self.peer.as_ref();
        vec![
            condition(
                "the server is one of a pair",
                self.config.mode == HaMode::Shared,
                "it is".to_owned(),
            ),
            condition(
                "this server is ACTIVE",
                self.state == SharedState::Active,
                format!("it is {}", self.shown()),
            ),
            condition(
                "the peer is PASSIVE",
                peer.is_some_and(|peer| peer.facts.state == ServerState::Passive),
                peer.map_or_else(
                    || "there is no channel to it".to_owned(),
                    |peer| format!("{} is {}", peer.name, peer.facts.state),
                ),
            ),
            condition(
                "the peer can reach the store",
                peer.is_some_and(|peer| peer.facts.eligible),
                peer.map_or_else(
                    || "there is no channel to it".to_owned(),
                    |peer| {
                        let may = if peer.facts.eligible {
                            "may"
                        } else {
                            "may not"
                        };
                        format!("{} says that it {may} serve", peer.name)
                    },
                ),
            ),
        ]
    }

    /// There is one store, so that there is nothing to choose and nothing to give up.
    #[must_use]
    pub fn promotion(&self) -> Promotion {
        Promotion {
            conditions: vec![Condition {
                what: "each server has a copy of its own",
                holds: false,
                found: "both share one store: whoever gets the lock serves with it".to_owned(),
            }],
            epoch: self.epoch(),
            record: self.record().cloned(),
            own: Position::default(),
            known: Vec::new(),
            lost_at_least: 0,
        }
    }
}

impl SharedState {
    fn place(self) -> &'static str {
        match self {
            Self::Passive(Attempt::Idle) => "PASSIVE",
            Self::Passive(Attempt::Looking) => "PASSIVE (looking at record and store)",
            Self::Passive(Attempt::Founding) => "PASSIVE (making the store)",
            Self::Passive(Attempt::Creating) => "PASSIVE (making the record)",
            Self::Passive(Attempt::Locking) => "PASSIVE (trying the lock)",
            Self::Passive(Attempt::Taking) => "PASSIVE (locking the store's data file)",
            Self::Passive(Attempt::Claiming) => "PASSIVE (claiming the record)",
            Self::Activating(Step::Persisting) => "ACTIVATING (keeping the record)",
            Self::Activating(Step::Fencing) => "ACTIVATING (waiting for the old holder's end)",
            Self::Activating(Step::Opening) => "ACTIVATING (opening the store)",
            Self::Activating(Step::Beginning) => "ACTIVATING (opening the epoch)",
            Self::Active => "ACTIVE",
            Self::Draining => "ending its service (answering clients)",
            Self::Closing(_) => "ending its service (closing the store)",
            Self::Releasing(_) => "ending its service (letting the lock go)",
            Self::Stopped => "stopped",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Passive(Attempt::Idle) => {
                "it serves no clients and has the store closed: it takes over when the other server is \
                 gone"
            }
            Self::Passive(_) => {
                "it serves no clients yet: it tries to become the one server that has the store open"
            }
            Self::Activating(_) => "it is about to serve clients: it opens the store",
            Self::Active => {
                "it serves clients, and every confirmed message is on the shared store's disk"
            }
            Self::Draining | Self::Closing(_) | Self::Releasing(_) => {
                "it ends its service in order; the other server takes over"
            }
            Self::Stopped => "it has ended, or is about to",
        }
    }
}
