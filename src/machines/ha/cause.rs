//! What led to the present state, in words: for people, no decision looks at it.

use crate::proto::peer::ServerState;

use super::{Claim, HaInput, HaMachine, HaState, HaTimer, LinkEnd};

/// An input, as far as it can be a cause.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Started,
    ChannelUp(ServerState),
    ChannelEnded,
    ChannelSilent,
    PeerSaid(ServerState),
    Goodbye,
    Mismatch,
    LockObtained,
    LockRefused,
    LockConfirmed,
    LockLost,
    LockUnreachable,
    LockLetGo,
    ArbiterAnswered,
    Gateway,
    RecordKept,
    EpochBegun,
    EpochRefused,
    CopyWhole,
    PeerHoldsAll,
    NamedInSync,
    ResyncMoved,
    ResyncFailed,
    AckOverdue,
    LeaseOver,
    TimeOver(HaTimer),
    StopAsked,
    ClientsGone,
    PeerDied,
    SwitchoverAsked,
    PromotionAsked,
    PromotionRefused,
    StoreAnswered,
}

impl Told {
    pub(super) fn of(input: &HaInput) -> Self {
        match input {
            HaInput::Started => Self::Started,
            HaInput::LinkUp { hello, .. } => Self::ChannelUp(hello.facts.state),
            HaInput::LinkDown {
                cause: LinkEnd::Ended,
                ..
            } => Self::ChannelEnded,
            HaInput::LinkDown {
                cause: LinkEnd::Silent,
                ..
            } => Self::ChannelSilent,
            HaInput::PeerFacts { facts, .. } => Self::PeerSaid(facts.state),
            HaInput::PeerGoodbye { .. } => Self::Goodbye,
            HaInput::PeerMismatch { .. } => Self::Mismatch,
            HaInput::LockAcquired(_) => Self::LockObtained,
            HaInput::LockRefused { .. } => Self::LockRefused,
            HaInput::LockConfirmed { .. } => Self::LockConfirmed,
            HaInput::LockLost { .. } => Self::LockLost,
            HaInput::LockUnreachable { .. } => Self::LockUnreachable,
            HaInput::LockReleased => Self::LockLetGo,
            HaInput::ArbiterAnswered { .. } => Self::ArbiterAnswered,
            HaInput::GatewayUnreachable(_) => Self::Gateway,
            HaInput::Persisted => Self::RecordKept,
            HaInput::EpochBegun(_) => Self::EpochBegun,
            HaInput::EpochRefused(_) => Self::EpochRefused,
            HaInput::SyncDone { .. } => Self::CopyWhole,
            HaInput::PeerHoldsAll { .. } => Self::PeerHoldsAll,
            HaInput::InSync { .. } => Self::NamedInSync,
            HaInput::SyncProgress { .. } => Self::ResyncMoved,
            HaInput::SyncFailed { .. } => Self::ResyncFailed,
            HaInput::AckOverdue { .. } => Self::AckOverdue,
            HaInput::LeaseExpired => Self::LeaseOver,
            HaInput::Timer(timer) => Self::TimeOver(*timer),
            HaInput::StopRequested => Self::StopAsked,
            HaInput::ClientsDrained => Self::ClientsGone,
            HaInput::PeerDied { .. } => Self::PeerDied,
            HaInput::SwitchoverRequested => Self::SwitchoverAsked,
            HaInput::PromoteRequested { .. } => Self::PromotionAsked,
            HaInput::PromotionRefused { .. } => Self::PromotionRefused,
            HaInput::StoreAnswered { .. } => Self::StoreAnswered,
        }
    }

    fn text(self) -> String {
        let text = match self {
            Self::Started => "the server started",
            Self::ChannelUp(state) => {
                return format!("a channel to the other server came up, which is {state}");
            }
            Self::ChannelEnded => "the channel to the other server ended",
            Self::ChannelSilent => "the channel to the other server was lost",
            Self::PeerSaid(state) => return format!("the other server said that it is {state}"),
            Self::Goodbye => "the other server ended its service in order",
            Self::Mismatch => "the other server does not fit this one",
            Self::LockObtained => "the lock was obtained",
            Self::LockRefused => "the lock is held by another",
            Self::LockConfirmed => "a check of the lock found the record changed",
            Self::LockLost => "the lock was lost",
            Self::LockUnreachable => "the lock file did not answer",
            Self::LockLetGo => "the lock was let go",
            Self::ArbiterAnswered => "the record beside the lock file was read or changed",
            Self::Gateway => "the gateway's answer changed",
            Self::RecordKept => "the record was written to this server's disk",
            Self::EpochBegun => "the new epoch was opened in the log",
            Self::EpochRefused => "the log refused the new epoch",
            Self::CopyWhole => "the other server received a whole copy",
            Self::PeerHoldsAll => "the other server holds everything that was confirmed",
            Self::NamedInSync => "the other server said that the record names this copy",
            Self::ResyncMoved => "the resync went on",
            Self::ResyncFailed => "the resync failed",
            Self::AckOverdue => "the other server did not acknowledge in time",
            Self::LeaseOver => "neither the lock nor the other server answered in time",
            Self::TimeOver(timer) => match timer {
                HaTimer::PeerWait => "the other server had been out of reach for long enough",
                HaTimer::Patience => "the other server had its time to go first",
                HaTimer::Retry => "the next attempt was due",
                HaTimer::FenceWait => "the old holder's right to serve must be over",
                HaTimer::MaxWait => "the transition took too long",
                HaTimer::ReEntry => "the other server was kept out for long enough",
                HaTimer::Drain => "the time for answering clients was over",
            },
            Self::StopAsked => "it was asked to stop",
            Self::ClientsGone => "clients were answered",
            Self::PeerDied => "the other server's process was seen to end",
            Self::SwitchoverAsked => "an operator asked for a switchover",
            Self::PromotionAsked => "an operator overruled the record",
            Self::StoreAnswered => "the store answered",
            Self::PromotionRefused => "an operator's override could not be carried out",
        };
        text.to_owned()
    }
}

impl HaMachine {
    /// In words, what led to the present state; none right after the start.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Remembers why the state is another one than before the input.
    pub(super) fn note_cause(&mut self, before: &HaState, told: Told) {
        if std::mem::discriminant(before) == std::mem::discriminant(&self.state)
            && before.place() == self.state.place()
        {
            return;
        }
        // Whoever went back to WAITING has said why.
        let said = match self.state {
            HaState::Waiting(Claim::Idle) => self.reason.clone(),
            HaState::Waiting(_)
            | HaState::PassiveSync { .. }
            | HaState::Passive { .. }
            | HaState::ActiveSync { .. }
            | HaState::Active { .. }
            | HaState::Shrinking { .. }
            | HaState::Standalone
            | HaState::Draining(_)
            | HaState::Releasing(_)
            | HaState::Stopped => None,
        };
        self.cause = Some(said.unwrap_or_else(|| told.text()));
    }
}
