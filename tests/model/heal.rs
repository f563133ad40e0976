//! Once the faults are over: one fair schedule that looks at nothing but the state. It must lead from
//! every state to an ACTIVE and a PASSIVE. With one server down for good it must lead the other to
//! STANDALONE if the record names its store, and never to service if it does not.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;

use twinmq::machines::ha::{HaMachine, HaTimer};
use twinmq::proto::peer::ServerState;

use super::budget::Budget;
use super::digest::Digest;
use super::rules::Rules;
use super::steps::Step;
use super::world::World;

/// No way to a formed pair is nearly as long.
const LONGEST: usize = 400;

/// States that are known to end well.
#[derive(Debug, Default)]
pub(crate) struct Healed {
    known: Mutex<HashSet<u64>>,
}

impl Healed {
    /// Asks one of the following questions once for each state, whatever may still come there.
    fn once(&self, world: &World, question: u8, ask: impl FnOnce() -> bool) -> bool {
        let mut hasher = Digest::default();
        world.hash_present(&mut hasher);
        hasher.write_u8(question);
        let here = hasher.finish();
        if self.knows(here) {
            return true;
        }
        let well = ask();
        if well {
            self.known.lock().expect("no panic holds it").insert(here);
        }
        well
    }

    fn knows(&self, here: u64) -> bool {
        let known = self.known.lock().expect("no panic holds it");
        known.contains(&here)
    }

    /// The pair forms again from here.
    pub(crate) fn forms_again(&self, world: &World, rules: Rules) -> bool {
        self.once(world, 2, || {
            let mut world = world.clone();
            world.heal(rules);
            self.ends(world, rules, formed)
        })
    }

    /// From here, without the other server: an in-sync store serves alone, no other does.
    pub(crate) fn alone(&self, world: &World, at: usize, rules: Rules) -> bool {
        let question = u8::from(at == 1);
        self.once(world, question, || {
            let mut world = world.clone();
            world.heal(rules);
            world.end(1 - at);
            world.server_mut(1 - at).gone = true;
            world.seal();
            self.ends(world, rules, move |world| {
                let shown = world.server(at).machine.as_ref().map(HaMachine::shown);
                let serves = shown == Some(ServerState::Standalone);
                let whole = !world.server(at).disk.own.sync_in_progress;
                // Before the first record it is the primary that may begin (A4).
                let may = match world.record() {
                    Some(_) => world.named(at),
                    None => at == 0,
                };
                serves == (may && whole)
            })
        })
    }

    fn ends(&self, mut world: World, rules: Rules, well: impl Fn(&World) -> bool) -> bool {
        let mut turn = 0;
        let mut path = Vec::new();
        let mut seen = HashSet::new();
        let ends_well = loop {
            let mut hasher = Digest::default();
            world.hash(&mut hasher);
            hasher.write_usize(turn);
            let here = hasher.finish();
            if self.knows(here) {
                break true;
            }
            // Where it goes round in a circle, it stays there.
            if !seen.insert(here) || path.len() > LONGEST {
                break well(&world);
            }
            path.push(here);
            let Some(step) = next(&world, turn, rules) else {
                break well(&world);
            };
            world.take(step, rules);
            world.finish(rules);
            turn = 1 - turn;
        };
        if ends_well {
            self.known.lock().expect("no panic holds it").extend(path);
        }
        ends_well
    }
}

impl World {
    /// No more faults come, and those that last are over.
    fn heal(&mut self, rules: Rules) {
        self.budget = Budget::default();
        for at in [0, 1] {
            let server = self.server(at);
            if server.cut_off || server.image.is_some() {
                let server = self.server_mut(at);
                (server.cut_off, server.image) = (false, None);
            }
        }
        self.finish(rules);
    }
}

pub(crate) fn formed(world: &World) -> bool {
    let state = |at: usize| world.server(at).machine.as_ref().map(HaMachine::shown);
    let is = |active, passive| {
        state(active) == Some(ServerState::Active) && state(passive) == Some(ServerState::Passive)
    };
    is(0, 1) || is(1, 0)
}

/// What is under way comes before timers; a timer that comes again and again comes last.
pub(crate) fn next(world: &World, turn: usize, rules: Rules) -> Option<Step> {
    let quiet = |at: usize| world.server(at).from_link.is_empty();
    if formed(world) && quiet(0) && quiet(1) {
        return None;
    }
    let mut steps = Vec::new();
    world.steps(rules, &mut steps);
    let rank = |step: &Step| {
        let (rank, at) = match step {
            Step::Start(at)
            | Step::Resume(at)
            | Step::HealArbiter(at)
            | Step::Deliver(at)
            | Step::DeliverHeld(at)
            | Step::Receive(at)
            | Step::CarryOut(at)
            | Step::Work(at)
            | Step::Beat(at)
            | Step::CheckLock(at)
            | Step::PeerHoldsAll(at)
            | Step::BeginSync(at)
            | Step::FindSilent(at)
            | Step::HearOfDeath(at)
            | Step::EndSync(at) => (0, *at),
            Step::Connect => (1, turn),
            Step::Ping(at) => (2, *at),
            Step::TryLock(at) if world.arbiter.holder.is_none() => (0, *at),
            Step::LockRunsOut(at) | Step::LeaseExpires(at) => (3, *at),
            Step::Fire(at, timer) => match timer {
                HaTimer::FenceWait => (4, *at),
                HaTimer::PeerWait | HaTimer::ReEntry => (5, *at),
                HaTimer::Patience => (6, *at),
                HaTimer::Retry => (7, *at),
                HaTimer::MaxWait | HaTimer::Drain => return None,
            },
            Step::TryLock(at) => (7, *at),
        };
        Some((rank, at != turn))
    };
    steps
        .into_iter()
        .filter_map(|step| rank(&step).map(|rank| (rank, step)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, step)| step)
}
