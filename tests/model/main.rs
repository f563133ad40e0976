//! The shipped HA machine, two of them, in every order in which messages, answers, timers and faults
//! can come, within a budget of faults.
//!
//! Time is not searched: a fence wait is as long as it must be, and a lease ends when neither the lock
//! nor the peer extends it. `TWINMQ_MODEL=big` searches without a bound on the depth; it takes
//! hours. `TWINMQ_MODEL_DEPTH` sets another bound.

mod actions;
mod effects;
mod heal;
mod world;

use std::sync::Arc;

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use actions::Action;
use heal::Healed;
use world::{Ablation, Budget, World};

const LOST: &str =
    "S1: whoever serves, and every store that the record names, holds what was confirmed";
const FORKED: &str = "S2: one thing is confirmed at each place of the log";
const TWO_SERVE: &str = "S3: one server serves";
const HALF_SERVES: &str = "S4: half a copy does not serve";
const STUCK: &str = "L: when the faults end, the pair forms again";

/// As deep as a debug build gets in seconds.
const DEPTH: usize = 13;
const WIDE: usize = 7;

#[derive(Clone, Debug)]
struct Search {
    start: World,
    ablation: Ablation,
    healed: Arc<Healed>,
}

impl Search {
    /// From a pair that has formed, or from two new servers.
    fn new(formed: bool, budget: Budget, ablation: Ablation) -> Self {
        let mut start = World::new();
        if formed {
            let mut turn = 0;
            let mut steps = 0;
            while let Some(action) = heal::next(&start, turn) {
                start.apply(action, Ablation::default());
                steps += 1;
                assert!(steps < 100, "the pair does not form: {start:#?}");
                turn = 1 - turn;
            }
            assert!(heal::formed(&start), "the pair does not form: {start:#?}");
        }
        if let (true, Some(lock)) = (budget.lost_locks > 0, &mut start.lock_file) {
            // Where a lock can be lost, a free one does not mean that its holder is dead.
            lock.local = false;
        }
        start.budget = budget;
        Self {
            start,
            ablation,
            healed: Arc::default(),
        }
    }
}

impl Model for Search {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(action, self.ablation);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(LOST, |_, world: &World| world.nothing_is_lost()),
            Property::always(FORKED, |_, world: &World| !world.forked),
            Property::always(TWO_SERVE, |_, world: &World| world.one_serves()),
            Property::always(HALF_SERVES, |_, world: &World| world.half_a_copy_waits()),
        ];
        if self.ablation == Ablation::default() {
            properties.push(Property::always(STUCK, |search: &Self, world: &World| {
                search.healed.forms_again(world)
            }));
        }
        properties
    }
}

/// Searches all within a depth, prints how much that was, and shows the shortest way to what should not be.
#[expect(clippy::print_stdout, reason = "the size of the search is its result")]
fn search(name: &str, formed: bool, budget: Budget) {
    let depth = depth(if budget.wipes > 0 { WIDE } else { DEPTH });
    let checker = Search::new(formed, budget, Ablation::default())
        .checker()
        .finish_when(HasDiscoveries::Any)
        .target_max_depth(depth)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} unique states, depth {}",
        checker.unique_state_count(),
        checker.max_depth()
    );
    let found = checker.discoveries().into_iter().next();
    if let Some((property, path)) = found {
        panic!("{name}: {property}: {}", told(path));
    }
}

/// The shortest way to break this property.
#[expect(clippy::print_stdout, reason = "the trace is the result")]
fn breaks(property: &'static str, search: Search) {
    let ablation = search.ablation;
    let checker = search
        .checker()
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{property}: nothing found with {ablation:?}"));
    println!("{property}: {}", told(path));
}

fn told(path: Path<World, Action>) -> String {
    let actions = path.into_actions();
    let count = actions.len();
    let names: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
    format!("{count} steps: {}", names.join(" > "))
}

/// How many actions deep. Zero is without a bound.
fn depth(usual: usize) -> usize {
    let depth = std::env::var("TWINMQ_MODEL_DEPTH").ok();
    match std::env::var("TWINMQ_MODEL") {
        Ok(size) if size == "big" => 0,
        Ok(_) | Err(_) => depth.and_then(|depth| depth.parse().ok()).unwrap_or(usual),
    }
}

#[test]
fn a_crash_loses_nothing() {
    let budget = Budget {
        writes: 1,
        crashes: 1,
        ..Budget::default()
    };
    search("crash", true, budget);
}

#[test]
fn a_cut_loses_nothing() {
    let budget = Budget {
        writes: 1,
        cuts: 1,
        ..Budget::default()
    };
    search("cut", true, budget);
}

/// One of each fault: wide, so not as deep.
#[test]
fn mixed_faults_lose_nothing() {
    let budget = Budget {
        writes: 2,
        crashes: 1,
        stops: 1,
        cuts: 1,
        wipes: 1,
        lost_answers: 1,
        lost_locks: 1,
        delays: 1,
    };
    search("mixed", true, budget);
}

#[test]
fn without_r1_a_stale_copy_serves() {
    let budget = Budget {
        writes: 1,
        crashes: 2,
        ..Budget::default()
    };
    let ablation = Ablation {
        record_names_all: true,
        ..Ablation::default()
    };
    let mut search = Search::new(true, budget, ablation);
    // The primary goes on alone, confirms, and dies; the secondary may try.
    search.start.apply(Action::Crash(1), ablation);
    for action in [Action::Receive(0), Action::CarryOut(0), Action::Answer(0)] {
        search.start.apply(action, ablation);
    }
    search.start.apply(Action::Write(0), ablation);
    search.start.apply(Action::Crash(0), ablation);
    assert!(search.start.confirmed.contains(&world::Entry::Write(0)));
    breaks(LOST, search);
}

#[test]
fn without_r2_a_lone_confirm_is_lost() {
    let budget = Budget {
        writes: 1,
        cuts: 1,
        ..Budget::default()
    };
    let ablation = Ablation {
        alone_at_once: true,
        ..Ablation::default()
    };
    breaks(LOST, Search::new(true, budget, ablation));
}
