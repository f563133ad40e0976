//! Two machines and one store under random faults: kills, cuts, timers in any order, an arbiter and a
//! store that fail or answer late, locks lost. Never two that write, nothing confirmed is lost, and
//! when the faults end one serves and the other stands by.

use super::world::{PRIMARY, SECONDARY, World};
use crate::machines::ha::*;
use crate::proto::peer::ServerState;

/// As many runs as take a few seconds in a debug build.
const RUNS: u64 = 4000;
const STEPS: u32 = 60;

#[test]
#[expect(
    clippy::print_stdout,
    reason = "a run that fails is run again by its seed"
)]
fn random_faults_lose_nothing_and_one_serves_again() {
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
    let mut world = if random.below(2) == 0 {
        World::formed()
    } else {
        World::new()
    };
    for _ in 0..STEPS {
        act(&mut world, &mut random);
        world.check();
    }
    heal(&mut world, &mut random);
    world.check();
    let written = world.confirmed.len();
    world.write();
    assert_eq!(world.confirmed.len(), written + 1, "{world:#?}");
}

fn act(world: &mut World, random: &mut Random) {
    let at = side(random);
    let alive = world.servers[at].machine.is_some();
    match random.below(24) {
        0 | 1 if alive => world.kill(at),
        0..=3 if !alive => world.start(at),
        4..=6 => world.connect_if_possible(),
        7 => world.cut(),
        8..=12 if alive => world.fire_any(at, random.0),
        13 => world.hold_answers(),
        14 => world.release_answers(),
        15 => world.arbiter_fails = random.below(3) == 0,
        16 => world.store_fails = random.below(3) == 0,
        17 if alive && world.lock_holder == Some(at) => {
            world.lock_holder = None;
            let reason = "the share was restarted".into();
            world.give(at, HaInput::LockLost { reason });
        }
        // A holder that is paused hears nothing of its loss.
        18 => {
            world.lock_holder = None;
            world.offer_lock();
        }
        19 if alive => world.give(at, HaInput::LeaseExpired),
        20 if alive && random.below(4) == 0 => world.give(at, HaInput::StopRequested),
        21 => world.end_exited(),
        22 => world.check_lock(at),
        _ => world.write(),
    }
}

/// The faults are over: within a bounded number of timers one is ACTIVE and the other PASSIVE.
fn heal(world: &mut World, random: &mut Random) {
    (world.arbiter_fails, world.store_fails) = (false, false);
    world.release_answers();
    for _ in 0..80 {
        world.end_exited();
        for at in [PRIMARY, SECONDARY] {
            if world.servers[at].machine.is_none() {
                world.start(at);
            }
            // A server that still believes in a lock that it lost is told so by its next check.
            let believes = world.machine(at).holds_lock();
            if believes && world.lock_holder != Some(at) {
                let reason = "another has it".into();
                world.give(at, HaInput::LockLost { reason });
            }
        }
        world.end_exited();
        world.connect_if_possible();
        world.ping();
        let states = world.states();
        let (active, passive) = (ServerState::Active, ServerState::Passive);
        let whole = world.servers.iter().all(|server| {
            let machine = server.machine.as_ref();
            server.exited.is_none() && machine.is_some_and(|it| it.reason().is_none())
        });
        if whole && (states == (active, passive) || states == (passive, active)) {
            return;
        }
        let at = side(random);
        world.fire_any(at, random.0);
    }
    panic!("nobody serves again: {world:#?}");
}

fn side(random: &mut Random) -> usize {
    if random.below(2) == 0 {
        PRIMARY
    } else {
        SECONDARY
    }
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
