//! Why is the server in its state, and what gets it out of it? Read off the machine: the ways out of
//! each state, and for each the event that opens it and the guards that are judged then.
//!
//! The machine knows no time: a fact names its source, and the shell knows how old what came from
//! there is, or when a timer is due.

use super::guards::Guard;
use super::{Claim, HaMachine, HaMode, HaState, HaTimer, SyncStep};
use crate::proto::peer::ServerState;

/// Why, and what next. A machine of either mode can give one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The state.
    pub state: ServerState,
    /// The state with its inner phase.
    pub place: &'static str,
    /// What a server in this state does, in a sentence.
    pub meaning: &'static str,
    /// What led to it; none right after the start.
    pub cause: Option<String>,
    /// What keeps it from serving, or from going on as it should, in a sentence.
    pub trouble: Option<String>,
    /// Every way out.
    pub ways: Vec<Way>,
}

/// A way out of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where it leads.
    pub to: &'static str,
    /// What opens it.
    pub event: Event,
    /// All of them must hold when the event comes.
    pub guards: Vec<Checked>,
    /// What is judged further on, before clients are served.
    pub ahead: Vec<Checked>,
}

impl Way {
    /// Every guard holds: with its event the way is taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.guards.iter().all(|guard| guard.truth == Truth::Holds)
    }
}

/// Whether a guard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// Nobody here knows; nothing happens by it.
    Unknown,
}

impl Truth {
    /// Of what is known.
    #[must_use]
    pub fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }

    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "yes",
            Self::Fails => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// A guard as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The condition, in words.
    pub guard: &'static str,
    /// Whether it holds.
    pub truth: Truth,
    /// What that rests on.
    pub facts: Vec<Fact>,
    /// What an operator can do about it, where it does not hold. `{own}` and `{other}` stand for the two
    /// servers' profiles.
    pub advice: Option<String>,
}

/// Something known, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// For its age.
    pub source: Source,
    /// In words.
    pub text: String,
    /// The values in it, for programs.
    pub values: Vec<(&'static str, FactValue)>,
}

/// A value of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// A count or position.
    Number(u64),
    /// An identity or a name.
    Text(String),
}

impl From<u64> for FactValue {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<String> for FactValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Fact {
    /// A fact in words.
    pub fn new(source: Source, text: impl Into<String>) -> Self {
        Self {
            source,
            text: text.into(),
            values: Vec::new(),
        }
    }

    /// With one of its values.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<FactValue>) -> Self {
        self.values.push((name, value.into()));
        self
    }
}

/// Where a fact comes from: what its age is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The record beside the lock file, when it was read last.
    Record,
    /// The lock file's content, read with it.
    LockFile,
    /// Attempts at the lock and checks of it.
    Lock,
    /// The channel to the peer, and what it said last.
    Peer,
    /// The gateway's probes.
    Gateway,
    /// This server's own store and `node/`: as it is now.
    Store,
    /// A timer: when it is due.
    Timer(HaTimer),
}

impl Source {
    /// A short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::LockFile => "lock file",
            Self::Lock => "lock",
            Self::Peer => "peer",
            Self::Gateway => "gateway",
            Self::Store => "store",
            Self::Timer(_) => "timer",
        }
    }
}

/// What opens a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Nothing in particular: as soon as the guards hold.
    ByItself,
    /// The record is read.
    RecordRead,
    /// The record is made.
    RecordMade,
    /// The change of the record is done.
    RecordChanged,
    /// Another server changed the record first.
    RecordTaken,
    /// The record is written to this server's own disk.
    RecordKept,
    /// A check finds the record in another server's hands, or gone back.
    RecordMoved,
    /// The lock is obtained.
    LockObtained,
    /// The lock is lost.
    LockLost,
    /// The lock is let go.
    LockLetGo,
    /// The old holder's right to serve must be over.
    FenceOver,
    /// The log has opened the new epoch.
    EpochOpened,
    /// The log refused the new epoch.
    EpochRefused,
    /// A channel to the peer comes up.
    ChannelUp,
    /// The channel ends or falls silent, or the peer says goodbye.
    ChannelDown,
    /// The peer says where it is.
    PeerSays,
    /// The peer has a whole copy.
    CopyWhole,
    /// The peer holds everything that was confirmed.
    PeerHoldsAll,
    /// The active says that the record names this copy.
    NamedInSync,
    /// The resync fails or takes too long.
    ResyncFails,
    /// The peer does not acknowledge in time.
    PeerTooSlow,
    /// The lease is over.
    LeaseOver,
    /// The operator's stop, or SIGTERM.
    StopAsked,
    /// Clients are answered and gone.
    ClientsGone,
    /// The operator starts the server again.
    Started,
    /// A condition of the claim does not hold when it is judged.
    ClaimRefused,
    /// The peer does not fit this server's configuration.
    PeerMismatched,
}

impl Event {
    /// After "when".
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ByItself => "by itself, as soon as all of this holds",
            Self::RecordRead => "when the record beside the lock file has been read",
            Self::RecordMade => "when the record has been made",
            Self::RecordChanged => "when the record has been changed",
            Self::RecordTaken => "if another server changes the record first",
            Self::RecordKept => "when the record is on this server's own disk",
            Self::RecordMoved => "if the record is found in the other server's hands, or gone back",
            Self::LockObtained => "when the lock is obtained",
            Self::LockLost => "if the lock is lost",
            Self::LockLetGo => "when the lock has been let go",
            Self::FenceOver => "when the old holder's right to serve must be over",
            Self::EpochOpened => "when the log has opened the new epoch",
            Self::EpochRefused => "if the log refuses the new epoch",
            Self::ChannelUp => "when a channel to the other server comes up",
            Self::ChannelDown => "if the channel to the other server ends or falls silent",
            Self::PeerSays => "when the other server says so",
            Self::CopyWhole => "when the other server has a whole copy",
            Self::PeerHoldsAll => "when the other server holds everything that was confirmed",
            Self::NamedInSync => "when the record names this server's copy",
            Self::ResyncFails => "if the resync fails or takes too long",
            Self::PeerTooSlow => "if the other server does not acknowledge in time",
            Self::LeaseOver => "if neither the lock nor the other server answers in time",
            Self::StopAsked => "when it is stopped in order: twinmq stop -p {own}",
            Self::ClientsGone => "when clients have been answered",
            Self::ClaimRefused => "if one of these does not hold when its turn comes",
            Self::PeerMismatched => "if the other server does not fit: the process ends then",
            Self::Started => "when it is started again: twinmq run -p {own}",
        }
    }
}

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
            Self::Draining(_) => "stopping (answering clients)",
            Self::Releasing(_) => "stopping (letting the lock go)",
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
            Self::Waiting(Claim::Claiming | Claim::Persisting) => {
                "it serves no clients yet: it has the lock, and enters itself as the server that serves"
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
            Self::Draining(_) | Self::Releasing(_) => "it is being stopped in order",
            Self::Stopped => "it has ended",
        }
    }
}

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
            HaState::Waiting(Claim::Locking) => vec![
                self.way(
                    CLAIMING,
                    Event::LockObtained,
                    &[Guard::MayBePromoted],
                    &[Guard::LockFree],
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
                    &[Guard::PeerAway, Guard::LockFree],
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
            HaState::Draining(_) => vec![
                way("stopped", Event::ClientsGone, &[]),
                way("stopped", Event::LeaseOver, &[]),
                way("stopped", Event::RecordMoved, &[]),
            ],
            HaState::Releasing(_) => vec![way("stopped", Event::LockLetGo, &[])],
            HaState::Stopped => vec![way(IDLE, Event::Started, &[])],
        };
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
