//! `docs/ha-states.md`, generated from the machine: every state with every input, as the shipped code
//! answers it. Nothing is written by hand but the names.

use std::fmt::Write;

use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord, LockFacts};
use crate::proto::ids::{
    ArbiterId, Epoch, Lsn, NodeId, Nonce, Position, RecordSeq, SessionId, StoreId,
};
use crate::proto::peer::{Hello, PeerFacts, ServerState};

use super::eligibility::{ArbiterView, OwnStore};
use super::{
    CallPurpose, Claim, HaConfig, HaEffect, HaInput, HaMachine, HaMode, HaState, HaTimer, HeldLock,
    LinkEnd, Peer, SyncStep, Takeover, render_shared_table,
};

pub(super) const SESSION: SessionId = SessionId(7);
pub(super) const ME: NodeId = NodeId([1; 16]);
pub(super) const PEER: NodeId = NodeId([2; 16]);
pub(super) const MY_STORE: StoreId = StoreId([11; 16]);
pub(super) const PEER_STORE: StoreId = StoreId([12; 16]);

/// The document.
#[must_use]
pub fn render_table() -> String {
    let mut text = String::from(
        "# The states of a server, and what each input does\n\n\
         Generated from the machines (`src/machines/ha`); a test keeps it true. Each section is a\n\
         state in a situation; each row is an input that changes the state or has an effect. What is\n\
         not listed changes nothing. Effects are in the order in which they are carried out; `Arm` and\n\
         `Disarm` name timers.\n",
    );
    text.push_str("\n# Replicated mode\n");
    for (title, machine) in states() {
        section(&mut text, title, &machine);
    }
    text.push_str(&render_shared_table());
    text
}

fn section(text: &mut String, title: &str, machine: &HaMachine) {
    line(text, format_args!("\n## {title}\n"));
    line(text, format_args!("| input | to | effects |"));
    line(text, format_args!("|---|---|---|"));
    for (input_name, input) in inputs(machine) {
        let mut after = machine.clone();
        let mut effects = Vec::new();
        after.step(own(), input, &mut effects);
        let names: Vec<String> = effects.iter().filter_map(name_of).collect();
        if after.state != machine.state || !names.is_empty() {
            let to = if after.state == machine.state {
                "-".into()
            } else {
                place(&after.state)
            };
            line(
                text,
                format_args!("| {input_name} | {to} | {} |", names.join(", ")),
            );
        }
    }
}

pub(super) fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes every text");
}

fn place(state: &HaState) -> String {
    let inner = match state {
        HaState::Waiting(claim) => format!(" ({claim:?})").to_lowercase(),
        HaState::PassiveSync { started: false, .. } => " (asked)".into(),
        HaState::Passive { session: None } => " (no channel)".into(),
        HaState::ActiveSync {
            step: SyncStep::Requiring(_),
            ..
        } => " (requiring)".into(),
        HaState::ActiveSync {
            step: SyncStep::Extending,
            ..
        } => " (extending)".into(),
        HaState::Shrinking { .. } => " (shrinking)".into(),
        HaState::Draining(_) => " (draining)".into(),
        HaState::Releasing(_) => " (releasing)".into(),
        HaState::Stopped => " (stopped)".into(),
        HaState::PassiveSync { .. }
        | HaState::Passive { .. }
        | HaState::ActiveSync { .. }
        | HaState::Active { .. }
        | HaState::Standalone => String::new(),
    };
    format!("{}{inner}", state.shown())
}

/// An effect's name with what matters of it; announcements follow from every change and are left out.
pub(super) fn name_of(effect: &HaEffect) -> Option<String> {
    let name = match effect {
        HaEffect::Announce(_) | HaEffect::PeerChanged { .. } => return None,
        HaEffect::Arm(timer) => format!("Arm {timer:?}"),
        HaEffect::Disarm(timer) => format!("Disarm {timer:?}"),
        HaEffect::Gate(policy) => format!("Gate {policy:?}"),
        HaEffect::Arbiter { call, .. } => {
            let call = format!("{call:?}");
            format!(
                "Arbiter {}",
                call.split(['(', ' ']).next().unwrap_or_default()
            )
        }
        HaEffect::Store { call, .. } => format!("Store {call:?}"),
        HaEffect::Exit(cause) => {
            let cause = format!("{cause:?}");
            format!("Exit {}", cause.split('(').next().unwrap_or_default())
        }
        HaEffect::AcquireLock
        | HaEffect::RecoverLock
        | HaEffect::ReleaseLock
        | HaEffect::Persist(_)
        | HaEffect::BeginEpoch(_)
        | HaEffect::OpenClients { .. }
        | HaEffect::CloseClients { .. }
        | HaEffect::DrainClients
        | HaEffect::Lead { .. }
        | HaEffect::Follow { .. }
        | HaEffect::StopReplication
        | HaEffect::SendInSync { .. }
        | HaEffect::DropLink { .. }
        | HaEffect::SayGoodbye { .. }
        | HaEffect::SteppedDown { .. }
        | HaEffect::Alarmed { .. }
        | HaEffect::ClaimRefused { .. } => {
            let name = format!("{effect:?}");
            name.split(['(', ' ']).next().unwrap_or_default().to_owned()
        }
    };
    Some(name)
}

pub(super) fn own() -> OwnStore {
    OwnStore {
        store: MY_STORE,
        position: Position {
            epoch: Epoch(5),
            lsn: Lsn(100),
        },
        sync_in_progress: false,
    }
}

pub(super) fn record(owner: NodeId, isr: &[StoreId]) -> ArbiterRecord {
    ArbiterRecord {
        arbiter: ArbiterId([3; 16]),
        cluster: "pair".into(),
        seq: RecordSeq(9),
        epoch: Epoch(5),
        owner,
        isr: isr.to_vec(),
        generation: Epoch::ZERO,
    }
}

pub(super) fn lock_file() -> LockFacts {
    LockFacts {
        nonce: Nonce([4; 16]),
        device: 1,
        inode: 1,
        local: false,
        last: None,
    }
}

pub(super) fn peer(state: ServerState, epoch: u64) -> PeerFacts {
    PeerFacts {
        state,
        previous: ServerState::Waiting,
        claiming: false,
        epoch: Epoch(epoch),
        store: PEER_STORE,
        position: own().position,
        sync_in_progress: false,
        arbiter: Some(ArbiterId([3; 16])),
        last_record: RecordSeq(9),
        looked: true,
        eligible: true,
        lock: Some(lock_file().identity()),
    }
}

pub(super) fn hello(facts: PeerFacts) -> Box<Hello> {
    Box::new(Hello {
        versions: (1, 1),
        features: 0,
        cluster: "pair".into(),
        node: PEER,
        primary: false,
        name: "secondary".into(),
        nonce: [0; 16],
        must_agree: Vec::new(),
        facts,
    })
}

/// A primary that has seen the arbiter, in this state.
fn machine(
    state: HaState,
    owner: NodeId,
    isr: &[StoreId],
    linked: Option<ServerState>,
) -> HaMachine {
    let config = HaConfig {
        mode: HaMode::Replicated,
        primary: true,
        node: ME,
        cluster: "pair".into(),
        new_arbiter: ArbiterId([3; 16]),
        takeover: Takeover::Fence,
    };
    let both = [MY_STORE, PEER_STORE];
    let mut machine = HaMachine::new(config, own(), Some(record(owner, &both)));
    machine.arbiter = ArbiterView::Read {
        record: Some(record(owner, isr)),
        lock: Some(lock_file()),
    };
    machine.peer = linked.map(|state| Peer {
        session: SESSION,
        node: PEER,
        primary: false,
        name: "secondary".into(),
        facts: peer(state, 5),
    });
    machine.state = state;
    machine
}

fn holding(mut machine: HaMachine) -> HaMachine {
    machine.lock = Some(held(&machine));
    machine
}

fn held(machine: &HaMachine) -> HeldLock {
    HeldLock {
        lock: lock_file(),
        record: machine.record().cloned(),
    }
}

fn calling(mut machine: HaMachine, isr: &[StoreId]) -> HaMachine {
    let next = ArbiterRecord {
        seq: RecordSeq(10),
        ..record(ME, isr)
    };
    machine.call = Some((1, CallPurpose::Set(next)));
    machine.next_call = 2;
    machine
}

#[expect(clippy::too_many_lines, reason = "one entry for each state")]
fn states() -> Vec<(&'static str, HaMachine)> {
    use ServerState::{Active, Passive, PassiveSync, Waiting};
    let both = [MY_STORE, PEER_STORE];
    let alone = [MY_STORE];
    let stale = [PEER_STORE];
    let streaming = |step| HaState::ActiveSync {
        session: SESSION,
        step,
    };
    vec![
        (
            "WAITING, no channel, in the in-sync set",
            machine(HaState::Waiting(Claim::Idle), PEER, &both, None),
        ),
        (
            "WAITING, no channel, not in the in-sync set",
            machine(HaState::Waiting(Claim::Idle), PEER, &stale, None),
        ),
        (
            "WAITING (reading the record to claim), in the in-sync set",
            reading(machine(HaState::Waiting(Claim::Reading), PEER, &both, None)),
        ),
        (
            "WAITING (trying the lock)",
            seeking(machine(HaState::Waiting(Claim::Locking), PEER, &both, None)),
        ),
        (
            "WAITING (claiming)",
            calling(
                holding(machine(
                    HaState::Waiting(Claim::Claiming),
                    PEER,
                    &both,
                    None,
                )),
                &alone,
            ),
        ),
        (
            "WAITING (trying the lock, which a silent peer keeps)",
            silent(seeking(machine(
                HaState::Waiting(Claim::Locking),
                PEER,
                &both,
                None,
            ))),
        ),
        (
            "WAITING (claimed by fence, taking the new generation's lock)",
            seeking(machine(
                HaState::Waiting(Claim::FenceLocking),
                ME,
                &alone,
                None,
            )),
        ),
        (
            "WAITING (persisting the record)",
            holding(machine(
                HaState::Waiting(Claim::Persisting),
                ME,
                &alone,
                None,
            )),
        ),
        (
            "WAITING (fencing the old holder)",
            claimed_from_peer(holding(machine(
                HaState::Waiting(Claim::Fencing),
                ME,
                &alone,
                None,
            ))),
        ),
        (
            "WAITING (opening the epoch)",
            holding(machine(HaState::Waiting(Claim::Opening), ME, &alone, None)),
        ),
        (
            "PASSIVE_SYNC",
            machine(
                HaState::PassiveSync {
                    session: SESSION,
                    started: true,
                },
                PEER,
                &stale,
                Some(ServerState::ActiveSync),
            ),
        ),
        (
            "PASSIVE, linked",
            machine(
                HaState::Passive {
                    session: Some(SESSION),
                },
                PEER,
                &both,
                Some(Active),
            ),
        ),
        (
            "PASSIVE, channel lost",
            machine(HaState::Passive { session: None }, PEER, &both, None),
        ),
        (
            "PASSIVE, channel lost, the peer is silent and keeps the lock",
            silent(seeking(machine(
                HaState::Passive { session: None },
                PEER,
                &both,
                None,
            ))),
        ),
        (
            "PASSIVE, looking whether to claim without the lock",
            looking_to_fence(machine(
                HaState::Passive { session: None },
                PEER,
                &both,
                None,
            )),
        ),
        (
            "STANDALONE, no channel",
            holding(machine(HaState::Standalone, ME, &alone, None)),
        ),
        (
            "ACTIVE_SYNC",
            holding(machine(
                streaming(SyncStep::Streaming),
                ME,
                &alone,
                Some(PassiveSync),
            )),
        ),
        (
            "ACTIVE_SYNC (requiring the peer for each confirm)",
            holding(machine(
                streaming(SyncStep::Requiring(PEER_STORE)),
                ME,
                &alone,
                Some(PassiveSync),
            )),
        ),
        (
            "ACTIVE_SYNC (extending the in-sync set)",
            calling(
                holding(machine(
                    streaming(SyncStep::Extending),
                    ME,
                    &alone,
                    Some(PassiveSync),
                )),
                &both,
            ),
        ),
        (
            "ACTIVE, lock held",
            holding(machine(
                HaState::Active { session: SESSION },
                ME,
                &both,
                Some(Passive),
            )),
        ),
        (
            "ACTIVE, lock lost",
            machine(
                HaState::Active { session: SESSION },
                ME,
                &both,
                Some(Passive),
            ),
        ),
        (
            "ACTIVE (shrinking the in-sync set)",
            calling(
                holding(machine(HaState::Shrinking { was: Active }, ME, &both, None)),
                &alone,
            ),
        ),
        (
            "ACTIVE (draining before an orderly stop)",
            holding(machine(HaState::Draining(Active), ME, &both, Some(Passive))),
        ),
        (
            "ACTIVE (releasing the lock before an orderly stop)",
            machine(HaState::Releasing(Active), ME, &both, Some(Waiting)),
        ),
    ]
}

fn reading(mut machine: HaMachine) -> HaMachine {
    machine.call = Some((1, CallPurpose::LookToClaim));
    machine.next_call = 2;
    machine
}

fn seeking(mut machine: HaMachine) -> HaMachine {
    machine.seeking = true;
    machine
}

fn claimed_from_peer(mut machine: HaMachine) -> HaMachine {
    machine.claimed_from = Some(record(PEER, &[MY_STORE, PEER_STORE]));
    machine
}

fn silent(mut machine: HaMachine) -> HaMachine {
    (machine.peer_wait_over, machine.silent) = (true, true);
    machine
}

fn looking_to_fence(machine: HaMachine) -> HaMachine {
    let mut machine = silent(seeking(machine));
    machine.call = Some((1, CallPurpose::LookToFence));
    machine.next_call = 2;
    machine
}

#[expect(clippy::too_many_lines, reason = "one entry for each input")]
fn inputs(machine: &HaMachine) -> Vec<(&'static str, HaInput)> {
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
        (
            "peer does not fit",
            HaInput::PeerMismatch {
                reason: "it does not fit".into(),
            },
        ),
        ("lock obtained", HaInput::LockAcquired(held(machine))),
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
    ];
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
