//! The inputs that each state is given.

use crate::machines::ha::{HaInput, HaMachine, HaTimer, HeldLock, LinkEnd};
use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord};
use crate::proto::ids::{Epoch, RecordSeq, SessionId};
use crate::proto::peer::ServerState;

use super::{PEER, PEER_STORE, SESSION, held, hello, lock_file, peer, record};

/// Those of a peer that does not fit, and of the lock, in either mode; `other` is another server's record.
pub(in crate::machines::ha) fn of_the_lock(
    held: HeldLock,
    other: &ArbiterRecord,
) -> [(&'static str, HaInput); 6] {
    [
        (
            "peer does not fit",
            HaInput::PeerMismatch {
                reason: "it does not fit".into(),
            },
        ),
        ("lock obtained", HaInput::LockAcquired(held)),
        ("lock refused", HaInput::LockRefused { holder: None }),
        (
            "lock file does not answer",
            HaInput::LockUnreachable {
                reason: "it hangs".into(),
            },
        ),
        (
            "lock lost",
            HaInput::LockLost {
                reason: "it was replaced".into(),
            },
        ),
        (
            "lock held, record claimed by another",
            HaInput::LockConfirmed {
                record: Some(other.clone()),
            },
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one entry for each input")]
pub(in crate::machines::ha) fn of(machine: &HaMachine) -> Vec<(&'static str, HaInput)> {
    use ServerState::{Active, ActiveSync, Standalone, Waiting};
    let facts = |state, epoch| HaInput::PeerFacts {
        session: SESSION,
        facts: peer(state, epoch),
    };
    let answer = |answer| HaInput::ArbiterAnswered { id: 1, answer };
    let next = match &machine.call {
        Some((_, purpose)) => purpose.record().cloned(),
        None => None,
    };
    let other = ArbiterRecord {
        seq: RecordSeq(10),
        epoch: Epoch(6),
        ..record(PEER, &[PEER_STORE])
    };
    let up = |state, epoch| HaInput::LinkUp {
        session: SessionId(8),
        hello: hello(peer(state, epoch)),
    };
    let read = ArbiterAnswer::Read {
        record: machine.record().cloned(),
        lock: Some(lock_file()),
    };
    let mut inputs = vec![
        ("channel up, peer WAITING", up(Waiting, 5)),
        (
            "channel up, peer STANDALONE in a newer epoch",
            up(Standalone, 6),
        ),
        (
            "channel ended",
            HaInput::LinkDown {
                session: SESSION,
                cause: LinkEnd::Ended,
            },
        ),
        (
            "channel silent",
            HaInput::LinkDown {
                session: SESSION,
                cause: LinkEnd::Silent,
            },
        ),
        ("peer is WAITING", facts(Waiting, 5)),
        ("peer is STANDALONE", facts(Standalone, 5)),
        ("peer is ACTIVE_SYNC", facts(ActiveSync, 5)),
        ("peer is ACTIVE in a newer epoch", facts(Active, 6)),
        (
            "peer says goodbye",
            HaInput::PeerGoodbye {
                session: SESSION,
                epoch: Epoch(5),
            },
        ),
    ];
    inputs.extend(of_the_lock(held(machine), &other));
    inputs.extend([
        ("lock released", HaInput::LockReleased),
        ("arbiter read", answer(read)),
        (
            "compare-and-set: another was first",
            answer(ArbiterAnswer::Conflict(Some(other))),
        ),
        (
            "compare-and-set: outcome unknown",
            answer(ArbiterAnswer::Failed("it hangs".into())),
        ),
        ("record persisted", HaInput::Persisted),
        ("epoch open in the log", HaInput::EpochBegun(Epoch(5))),
        (
            "the log does not take the epoch",
            HaInput::EpochRefused("it is old".into()),
        ),
        (
            "peer holds a whole copy",
            HaInput::SyncDone {
                session: SESSION,
                store: PEER_STORE,
            },
        ),
        (
            "peer holds all that was confirmed",
            HaInput::PeerHoldsAll { session: SESSION },
        ),
        (
            "active names this store in sync",
            HaInput::InSync {
                session: SESSION,
                epoch: Epoch(5),
            },
        ),
        (
            "resync failed",
            HaInput::SyncFailed {
                session: SESSION,
                reason: "it failed".into(),
            },
        ),
        ("peer too slow", HaInput::AckOverdue { session: SESSION }),
        (
            "the peer's process is known to have ended",
            HaInput::PeerDied {
                node: PEER,
                epoch: Epoch(5),
            },
        ),
        ("lease over", HaInput::LeaseExpired),
        ("stop asked for", HaInput::StopRequested),
        ("clients drained", HaInput::ClientsDrained),
        ("switchover asked for", HaInput::SwitchoverRequested),
        (
            "promotion asked for, epoch typed",
            HaInput::PromoteRequested { epoch: Epoch(5) },
        ),
    ]);
    if let Some(next) = next {
        inputs.push(("compare-and-set: done", answer(ArbiterAnswer::Set(next))));
    }
    let timers = [
        ("timer PeerWait", HaTimer::PeerWait),
        ("timer Patience", HaTimer::Patience),
        ("timer Retry", HaTimer::Retry),
        ("timer FenceWait", HaTimer::FenceWait),
        ("timer MaxWait", HaTimer::MaxWait),
        ("timer ReEntry", HaTimer::ReEntry),
        ("timer Drain", HaTimer::Drain),
    ];
    inputs.extend(timers.map(|(name, timer)| (name, HaInput::Timer(timer))));
    inputs
}
