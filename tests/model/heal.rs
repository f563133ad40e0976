//! Once the faults are over: one fair schedule that looks at nothing but the state. It must lead from
//! every state to an ACTIVE and a PASSIVE, and it may not come back to where it was.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use twinmq::machines::ha::{HaMachine, HaTimer};
use twinmq::proto::peer::ServerState;

use super::actions::Action;
use super::world::{Ablation, World};

/// No way to a formed pair is nearly as long.
const LONGEST: usize = 300;

/// States that are known to end well.
#[derive(Debug, Default)]
pub(crate) struct Healed {
    hasher: RandomState,
    known: Mutex<HashSet<u64>>,
}

impl Healed {
    /// Whether the pair forms again from here.
    pub(crate) fn forms_again(&self, world: &World) -> bool {
        let mut world = world.clone();
        let mut turn = 0;
        let mut path = Vec::new();
        let mut seen = HashSet::new();
        let well = loop {
            let here = self.hasher.hash_one((&world, turn));
            if self
                .known
                .lock()
                .expect("no panic holds it")
                .contains(&here)
            {
                break true;
            }
            if !seen.insert(here) || path.len() > LONGEST {
                break false;
            }
            path.push(here);
            let Some(action) = next(&world, turn) else {
                break formed(&world);
            };
            world.apply(action, Ablation::default());
            turn = 1 - turn;
        };
        if well {
            self.known.lock().expect("no panic holds it").extend(path);
        }
        well
    }
}

pub(crate) fn formed(world: &World) -> bool {
    let state = |at: usize| world.servers[at].machine.as_ref().map(HaMachine::shown);
    let is = |active, passive| {
        state(active) == Some(ServerState::Active) && state(passive) == Some(ServerState::Passive)
    };
    is(0, 1) || is(1, 0)
}

/// What is under way comes before timers; a timer that comes again and again comes last.
pub(crate) fn next(world: &World, turn: usize) -> Option<Action> {
    let mut actions = Vec::new();
    world.actions(&mut actions);
    if formed(world)
        && world
            .servers
            .iter()
            .all(|server| server.from_link.is_empty())
    {
        return None;
    }
    let rank = |action: &Action| {
        let (rank, at) = match action {
            Action::Start(at)
            | Action::Receive(at)
            | Action::HearOfLock(at)
            | Action::CarryOut(at)
            | Action::Answer(at)
            | Action::Work(at)
            | Action::CheckLock(at)
            | Action::PeerHoldsAll(at)
            | Action::BeginSync(at)
            | Action::EndSync(at) => (0, *at),
            Action::Connect => (1, turn),
            Action::Ping(at) => (2, *at),
            Action::TryLock(at) if world.holder.is_none() => (0, *at),
            Action::LeaseExpires(at) => (3, *at),
            Action::Fire(at, timer) => match timer {
                HaTimer::FenceWait => (4, *at),
                HaTimer::PeerWait | HaTimer::ReEntry => (5, *at),
                HaTimer::Patience => (6, *at),
                HaTimer::Retry => (7, *at),
                HaTimer::MaxWait | HaTimer::Drain => return None,
            },
            Action::TryLock(at) => (7, *at),
            Action::Write(_)
            | Action::Crash(_)
            | Action::Stop(_)
            | Action::Cut
            | Action::Wipe(_)
            | Action::LoseQuestion(_)
            | Action::LoseAnswer(_)
            | Action::AnswerLate(_)
            | Action::LoseLock
            | Action::TransitionTooLong(_)
            | Action::AckOverdue(_) => return None,
        };
        Some((rank, at != turn))
    };
    actions
        .into_iter()
        .filter_map(|action| rank(&action).map(|rank| (rank, action)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, action)| action)
}
