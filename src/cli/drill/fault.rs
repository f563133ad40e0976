//! The faults of a drill: none of them needs root.

use clap::ValueEnum;
use serde::Serialize;

use super::chance::Chance;

/// One way to strike the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// kill -9 to the active server
    KillActive,
    /// kill -9 to the passive server
    KillPassive,
    /// kill -9 to both at once
    KillBoth,
    /// The active server hangs (SIGSTOP), for longer than its lease
    HangActive,
    /// The passive server hangs
    HangPassive,
    /// The active server hangs for less than its lease
    PauseActive,
    /// An orderly stop of the active server
    StopActive,
    /// An orderly stop of the passive server
    StopPassive,
    /// The lock file is deleted under its holder
    LockDeleted,
    /// The lock file is replaced by a copy
    LockReplaced,
    /// The lock file is emptied
    LockEmptied,
    /// The record beside the lock file is gone, and both servers are killed
    RecordRemoved,
    /// `twinmq switchover` of the active server
    Switchover,
}

impl Fault {
    /// As the command line spells it.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// In words.
    pub(super) fn words(self) -> String {
        self.to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }
}

/// The faults of all rounds, each round in an order of its own; all faults where none are named.
pub(super) fn schedule(named: &[Fault], rounds: u64, seed: u64) -> Vec<Fault> {
    let mut faults = if named.is_empty() {
        Fault::value_variants().to_vec()
    } else {
        named.to_vec()
    };
    let mut chance = Chance(seed);
    let mut all = Vec::new();
    for _ in 0..rounds {
        chance.shuffle(&mut faults);
        all.extend_from_slice(&faults);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_order_and_each_round_has_every_fault() {
        let one = schedule(&[], 3, 7);
        assert_eq!(one, schedule(&[], 3, 7));
        assert_ne!(one, schedule(&[], 3, 8));
        let all = Fault::value_variants();
        assert_eq!(one.len(), 3 * all.len());
        for round in one.chunks(all.len()) {
            assert!(all.iter().all(|fault| round.contains(fault)));
        }
        assert_eq!(schedule(&[Fault::KillBoth], 2, 7).len(), 2);
    }

    #[test]
    fn each_fault_has_a_name_and_words() {
        for fault in Fault::value_variants() {
            assert!(!fault.name().is_empty() && !fault.words().is_empty());
        }
    }
}
