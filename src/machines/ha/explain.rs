//! Why is the server in its state, and what gets it out of it? Read off the machine: the ways out of
//! each state, and for each the event that opens it and the guards that are judged then.
//!
//! The machine knows no time: a fact names its source, and the shell knows how old what came from
//! there is, or when a timer is due.

use crate::proto::peer::ServerState;

use super::HaTimer;

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
    /// The lock was tried and not obtained.
    LockInVain,
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
    /// The operator's switchover.
    SwitchoverAsked,
    /// The operator's override, with the epoch typed.
    PromotionAsked,
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
            Self::LockInVain => "when the lock has been tried in vain",
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
            Self::SwitchoverAsked => "on `twinmq switchover`",
            Self::PromotionAsked => "on `twinmq promote --accept-loss`",
            Self::PeerMismatched => "if the other server does not fit: the process ends then",
            Self::Started => "when it is started again: twinmq run -p {own}",
        }
    }
}
