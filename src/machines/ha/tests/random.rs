//! Two machines under random faults: kills, power losses, pauses, cuts, timers in any order, an arbiter that fails or
//! answers late, locks lost, disks replaced. Nothing confirmed may be missing where somebody serves,
//! and when the faults end the pair must form again.

use super::pair::{PRIMARY, Pair, SECONDARY};
use crate::machines::ha::*;
use crate::proto::peer::ServerState;

/// As many runs as take a few seconds in a debug build.
const RUNS: u64 = 3000;
const STEPS: u32 = 60;

#[test]
#[expect(
    clippy::print_stdout,
    reason = "a run that fails is run again by its seed"
)]
fn random_faults_lose_nothing_and_the_pair_forms_again() {
    let seeds = match std::env::var("TWINMQ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => seed..seed + 1,
        None => 1..RUNS + 1,
    };
    for seed in seeds {
        println!("TWINMQ_SEED={seed}");
        run(seed);
    }
}

fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pair = if random.below(2) == 0 {
        Pair::formed()
    } else {
        Pair::new()
    };
    if random.below(2) == 0 {
        pair.local = false;
        if let Some(file) = &mut pair.lock_file {
            file.local = false;
        }
    }
    for _ in 0..STEPS {
        act(&mut pair, &mut random);
        pair.check_nothing_is_lost();
    }
    heal(&mut pair, &mut random);
    pair.check_nothing_is_lost();
}

fn act(pair: &mut Pair, random: &mut Random) {
    let at = if random.below(2) == 0 {
        PRIMARY
    } else {
        SECONDARY
    };
    let alive = pair.servers[at].machine.is_some();
    match random.below(28) {
        0 if alive => pair.kill(at),
        1 if alive && pair.servers[at].serving => pair.kill_with_word(at),
        1 if alive => pair.power_off(at),
        0 | 1 if random.below(12) == 0 && pair.may_wipe(at) => pair.wipe(at),
        0 | 1 if random.below(6) == 0 && pair.may_wipe(at) => pair.revert(at),
        0..=3 if !alive => pair.start(at),
        4..=6 => pair.connect_if_possible(),
        7 => pair.cut(),
        8..=12 => pair.fire_any(at, random.0),
        13 => pair.hold_answers(),
        14 => pair.release_answers(),
        15 => pair.arbiter_fails = random.below(3) == 0,
        // Where the kernel keeps the locks, none is lost; but one that hears of it at once harms nobody.
        16 if pair.lock_holder == Some(at) && !(pair.local && pair.servers[at].paused) => {
            pair.lock_holder = None;
            pair.give(
                at,
                HaInput::LockLost {
                    reason: "the share was restarted".into(),
                },
            );
        }
        17 if alive => pair.give(at, HaInput::LeaseExpired),
        18 if alive => {
            if let Some(session) = pair.link {
                pair.give(at, HaInput::AckOverdue { session });
            }
        }
        19 => pair.back_up(at),
        20 | 21 if pair.servers[at].paused => pair.resume(at),
        20 | 21 if alive => pair.pause(at),
        _ => pair.write(),
    }
}

/// The faults are over: within a bounded number of timers the pair is ACTIVE and PASSIVE.
fn heal(pair: &mut Pair, random: &mut Random) {
    pair.arbiter_fails = false;
    pair.release_answers();
    for _ in 0..80 {
        for at in [PRIMARY, SECONDARY] {
            if pair.servers[at].paused {
                pair.resume(at);
            }
            if pair.servers[at].machine.is_none() {
                pair.start(at);
            }
        }
        pair.connect_if_possible();
        let (one, other) = pair.states();
        let formed =
            |active, passive| active == ServerState::Active && passive == ServerState::Passive;
        if formed(one, other) || formed(other, one) {
            return;
        }
        let at = if random.below(2) == 0 {
            PRIMARY
        } else {
            SECONDARY
        };
        pair.fire_any(at, random.0);
    }
    panic!("the pair does not form again: {pair:#?}");
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
