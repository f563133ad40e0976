//! What would a server do if it were started now and heard nothing of its peer? Asked of the machine
//! itself: it is given the inputs of such a start, from what its files and the arbiter show.

use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord, LockHeartbeat};

use super::claim::holder_text;
use super::eligibility::{OwnStore, Refusal};
use super::explain::Explanation;
use super::{Claim, HaConfig, HaEffect, HaInput, HaMachine, HaState, HaTimer, HeldLock};

/// The lock on the lock file, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockProbe {
    /// Nobody holds it.
    Free,
    /// Somebody does.
    Held {
        /// What the file says of it.
        holder: Option<LockHeartbeat>,
    },
    /// That could not be found out.
    Unknown,
}

/// What it would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Its first state, with the ways out of it.
    pub explanation: Explanation,
    /// How far it would come.
    pub outcome: Outcome,
}

/// How far a server comes that is started and hears nothing of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It takes the lock, claims the record, and serves alone.
    Serves,
    /// It makes the first record, or makes a lost one anew, and serves alone.
    MakesRecord,
    /// It may serve, and waits for the lock.
    WaitsForLock,
    /// It may not serve.
    Refused(Refusal),
}

/// Plays the start of a server.
#[must_use]
pub fn forecast(
    config: HaConfig,
    own: OwnStore,
    last_record: Option<ArbiterRecord>,
    arbiter: &ArbiterAnswer,
    lock: &LockProbe,
) -> Forecast {
    let mut machine = HaMachine::new(config, own, last_record);
    let play = |machine: &mut HaMachine, input| {
        let mut effects = Vec::new();
        machine.step(own, input, &mut effects);
        while let Some(id) = effects.iter().find_map(call_of) {
            effects.clear();
            let answer = arbiter.clone();
            machine.step(own, HaInput::ArbiterAnswered { id, answer }, &mut effects);
            if machine.state == HaState::Waiting(Claim::Creating) {
                break;
            }
        }
    };
    play(&mut machine, HaInput::Started);
    machine.lock_refused = match lock {
        LockProbe::Held { holder } => Some(holder_text(holder.as_ref())),
        LockProbe::Free | LockProbe::Unknown => None,
    };
    let explanation = machine.explain();
    play(&mut machine, HaInput::Timer(HaTimer::PeerWait));
    if let (
        HaState::Waiting(Claim::Locking),
        LockProbe::Free,
        ArbiterAnswer::Read {
            record,
            lock: Some(file),
        },
    ) = (&machine.state, lock, arbiter)
    {
        let held = HeldLock {
            lock: file.clone(),
            record: record.clone(),
        };
        machine.step(own, HaInput::LockAcquired(held), &mut Vec::new());
    }
    let outcome = match (machine.state.clone(), machine.judge()) {
        (HaState::Waiting(Claim::Creating), _) => Outcome::MakesRecord,
        (HaState::Waiting(Claim::Locking), _) if *lock != LockProbe::Free => Outcome::WaitsForLock,
        (_, Err(refusal)) => Outcome::Refused(refusal),
        (_, Ok(_)) => Outcome::Serves,
    };
    Forecast {
        explanation,
        outcome,
    }
}

fn call_of(effect: &HaEffect) -> Option<u64> {
    if let HaEffect::Arbiter { id, .. } = effect {
        Some(*id)
    } else {
        None
    }
}
