//! The shared mode's part of `docs/ha-states.md`, generated like the other.

use super::super::table::inputs::of_the_lock;
use super::super::table::{
    ME, MY_STORE, PEER, SESSION, hello, line, lock_file, name_of, own, peer, record,
};
use super::super::{
    ArbiterView, CallPurpose, HaConfig, HaInput, HaMode, HaTimer, HeldLock, LinkEnd, Peer, Takeover,
};
use super::{Attempt, SharedMachine, SharedState, Step, StoreView};
use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord};
use crate::proto::ids::{ArbiterId, Epoch, NodeId, RecordSeq, SessionId, StoreId};
use crate::proto::peer::{PeerFacts, ServerState};
use crate::storage::api::StoreAnswer;

/// The calls of a machine of the table: `ARBITER` or `STORE` is awaited, and nothing else.
const ARBITER: u64 = 1;
const STORE: u64 = 2;

/// The part of the document.
#[must_use]
pub fn render_shared_table() -> String {
    let mut text = String::from("\n# Shared mode\n");
    for (title, machine) in states() {
        line(&mut text, format_args!("\n## Shared: {title}\n"));
        line(&mut text, format_args!("| input | to | effects |"));
        line(&mut text, format_args!("|---|---|---|"));
        for (input_name, input) in inputs(&machine) {
            let mut after = machine.clone();
            let mut effects = Vec::new();
            after.step(own(), input, &mut effects);
            let names: Vec<String> = effects.iter().filter_map(name_of).collect();
            if after.state != machine.state || !names.is_empty() {
                let to = if after.state == machine.state {
                    "-".into()
                } else {
                    place(after.state)
                };
                line(
                    &mut text,
                    format_args!("| {input_name} | {to} | {} |", names.join(", ")),
                );
            }
        }
    }
    text
}

fn place(state: SharedState) -> String {
    let inner = match state {
        SharedState::Passive(attempt) => format!(" ({attempt:?})").to_lowercase(),
        SharedState::Activating(step) => format!(" ({step:?})").to_lowercase(),
        SharedState::Active => String::new(),
        SharedState::Draining => " (draining)".into(),
        SharedState::Closing(_) => " (closing)".into(),
        SharedState::Releasing(_) => " (releasing)".into(),
        SharedState::Stopped => " (stopped)".into(),
    };
    format!("{}{inner}", state.shown())
}

/// A primary that has seen arbiter and store, in this state.
pub(super) fn machine(state: SharedState, owner: NodeId) -> SharedMachine {
    let config = HaConfig {
        mode: HaMode::Shared,
        primary: true,
        node: ME,
        cluster: "pair".into(),
        new_arbiter: ArbiterId([3; 16]),
        takeover: Takeover::Lock,
    };
    let record = record(owner, &[MY_STORE]);
    let mut machine = SharedMachine::new(config, own(), Some(record.clone()));
    machine.arbiter = ArbiterView::Read {
        record: Some(record),
        lock: Some(lock_file()),
    };
    machine.store = StoreView::Seen;
    machine.next_call = 3;
    machine.state = state;
    machine
}

fn facts(state: ServerState, epoch: u64) -> PeerFacts {
    PeerFacts {
        store: MY_STORE,
        ..peer(state, epoch)
    }
}

fn linked(mut machine: SharedMachine, state: ServerState) -> SharedMachine {
    machine.peer = Some(Peer {
        session: SESSION,
        node: PEER,
        primary: false,
        name: "secondary".into(),
        facts: facts(state, 5),
    });
    machine
}

fn holding(mut machine: SharedMachine) -> SharedMachine {
    machine.lock = Some(held(&machine));
    machine.claimed_from = Some(record(PEER, &[MY_STORE]));
    machine.taken = true;
    machine
}

fn held(machine: &SharedMachine) -> HeldLock {
    HeldLock {
        lock: lock_file(),
        record: machine.record().cloned(),
    }
}

/// What it would set.
fn next() -> ArbiterRecord {
    ArbiterRecord {
        seq: RecordSeq(10),
        epoch: Epoch(6),
        ..record(ME, &[MY_STORE])
    }
}

#[expect(clippy::too_many_lines, reason = "one entry for each state")]
fn states() -> Vec<(&'static str, SharedMachine)> {
    let passive = |attempt| machine(SharedState::Passive(attempt), PEER);
    let activating = |step| holding(machine(SharedState::Activating(step), ME));
    let asked = |mut machine: SharedMachine| {
        machine.asked = Some(STORE);
        machine
    };
    let calling = |mut machine: SharedMachine, purpose| {
        machine.call = Some((ARBITER, purpose));
        machine
    };
    let mut silent = passive(Attempt::Idle);
    silent.peer_silent = true;
    let mut resting = passive(Attempt::Idle);
    resting.resting = true;
    let mut other = resting.clone();
    other.arbiter = ArbiterView::Read {
        record: Some(record(PEER, &[StoreId([99; 16])])),
        lock: Some(lock_file()),
    };
    let mut locking = passive(Attempt::Locking);
    locking.seeking = true;
    let mut persisting = activating(Step::Persisting);
    persisting.persisting = 1;
    vec![
        (
            "PASSIVE, peer ACTIVE",
            linked(passive(Attempt::Idle), ServerState::Active),
        ),
        ("PASSIVE, the peer fell silent", silent),
        ("PASSIVE, resting after a refusal", resting),
        ("PASSIVE, the record names another store", other),
        (
            "PASSIVE (looking at the record and the store's label)",
            calling(passive(Attempt::Looking), CallPurpose::LookToClaim),
        ),
        (
            "PASSIVE (founding the store)",
            asked(passive(Attempt::Founding)),
        ),
        ("PASSIVE (trying the lock)", locking),
        (
            "PASSIVE (taking the data file)",
            asked(holding(passive(Attempt::Taking))),
        ),
        (
            "PASSIVE (claiming)",
            calling(
                holding(passive(Attempt::Claiming)),
                CallPurpose::Set(next()),
            ),
        ),
        ("ACTIVATING (persisting the record)", persisting),
        (
            "ACTIVATING (fencing the old holder)",
            activating(Step::Fencing),
        ),
        (
            "ACTIVATING (opening the store)",
            asked(activating(Step::Opening)),
        ),
        (
            "ACTIVATING (opening the epoch)",
            activating(Step::Beginning),
        ),
        (
            "ACTIVE",
            linked(
                holding(machine(SharedState::Active, ME)),
                ServerState::Passive,
            ),
        ),
        (
            "ACTIVE (draining before an orderly stop)",
            holding(machine(SharedState::Draining, ME)),
        ),
        (
            "ACTIVE (closing the store before an orderly stop)",
            asked(holding(machine(
                SharedState::Closing(ServerState::Active),
                ME,
            ))),
        ),
        (
            "ACTIVE (releasing the lock before an orderly stop)",
            machine(SharedState::Releasing(ServerState::Active), ME),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one entry for each input")]
pub(super) fn inputs(machine: &SharedMachine) -> Vec<(&'static str, HaInput)> {
    use ServerState::{Activating, Active, Passive};
    let other = ArbiterRecord {
        seq: RecordSeq(10),
        epoch: Epoch(6),
        ..record(PEER, &[MY_STORE])
    };
    let told = |state, epoch| HaInput::PeerFacts {
        session: SESSION,
        facts: facts(state, epoch),
    };
    let answer = |answer| HaInput::ArbiterAnswered {
        id: ARBITER,
        answer,
    };
    let store = |answer| HaInput::StoreAnswered { id: STORE, answer };
    let end = |cause| HaInput::LinkDown {
        session: SESSION,
        cause,
    };
    let up = |state, epoch| HaInput::LinkUp {
        session: SessionId(8),
        hello: hello(facts(state, epoch)),
    };
    let read = ArbiterAnswer::Read {
        record: machine.record().cloned(),
        lock: Some(lock_file()),
    };
    let mut inputs = vec![
        ("started", HaInput::Started),
        ("channel up, peer PASSIVE", up(Passive, 5)),
        ("channel up, peer ACTIVE in a newer epoch", up(Active, 6)),
        ("channel ended", end(LinkEnd::Ended)),
        ("channel silent", end(LinkEnd::Silent)),
        ("peer is PASSIVE", told(Passive, 5)),
        ("peer is ACTIVATING", told(Activating, 6)),
        ("peer is ACTIVE", told(Active, 5)),
        (
            "peer says goodbye",
            HaInput::PeerGoodbye {
                session: SESSION,
                epoch: Epoch(5),
            },
        ),
        (
            "peer's process has ended",
            HaInput::PeerDied {
                node: PEER,
                epoch: Epoch(5),
            },
        ),
    ];
    inputs.extend(of_the_lock(held(machine), &other));
    inputs.extend([
        (
            "lock held, record went back",
            HaInput::LockConfirmed {
                record: Some(ArbiterRecord {
                    seq: RecordSeq(8),
                    ..other.clone()
                }),
            },
        ),
        ("lock released", HaInput::LockReleased),
        ("arbiter read", answer(read)),
        ("compare-and-set: done", answer(ArbiterAnswer::Set(next()))),
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
        ("lease over", HaInput::LeaseExpired),
        ("stop asked for", HaInput::StopRequested),
        ("clients drained", HaInput::ClientsDrained),
    ]);
    let answers = [
        ("store founded", StoreAnswer::Founded(MY_STORE, Epoch::ZERO)),
        ("data file taken", StoreAnswer::Taken { local: false }),
        (
            "data file in use",
            StoreAnswer::InUse("process 4711".into()),
        ),
        ("store opened", StoreAnswer::Opened),
        ("store closed", StoreAnswer::Closed),
        (
            "store does not answer as it should",
            StoreAnswer::Failed("it hangs".into()),
        ),
    ];
    inputs.extend(answers.map(|(name, answer)| (name, store(answer))));
    let timers = [
        ("timer PeerWait", HaTimer::PeerWait),
        ("timer Retry", HaTimer::Retry),
        ("timer FenceWait", HaTimer::FenceWait),
        ("timer MaxWait", HaTimer::MaxWait),
        ("timer Drain", HaTimer::Drain),
    ];
    inputs.extend(timers.map(|(name, timer)| (name, HaInput::Timer(timer))));
    inputs
}
