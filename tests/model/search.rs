//! A search as stateright sees it: the state, what may come next, and what must hold.

use std::sync::Arc;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Path, Property};
use twinmq::machines::ha::{HaMachine, Takeover};
use twinmq::proto::peer::ServerState;
use twinmq::time::{Clock, SystemClock};

use super::budget::{Begin, Budget, Named};
use super::faults::Fault;
use super::heal::{self, Healed};
use super::rules::{Rules, Words};
use super::steps::Step;
use super::world::World;

pub(crate) const NAMED: &str = "S1: every store that the record names holds what was confirmed";
pub(crate) const LOST: &str = "S1: whoever serves holds what was confirmed";
pub(crate) const FORKED: &str = "S2: one thing is confirmed at each place of the log";
pub(crate) const TWO_SERVE: &str = "S3: one server serves";
pub(crate) const HALF_SERVES: &str = "S4: half a copy does not serve";
pub(crate) const STUCK: &str = "L: when the faults end, the pair forms again";
pub(crate) const ALONE: &str =
    "L1: with one server down for good, the other serves if and only if it is in sync";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Step(Step),
    Fault(Fault),
}

#[derive(Clone, Debug)]
pub(crate) struct Search {
    pub(crate) start: World,
    rules: Rules,
    /// All of them, or this one.
    property: Option<&'static str>,
    healed: Arc<Healed>,
}

impl Search {
    pub(crate) fn new(begin: Begin, budget: Budget, rules: Rules) -> Self {
        let mut start = World::new();
        start.hands_over = budget.switchovers > 0;
        if begin == Begin::Formed {
            start.form(rules);
        }
        if budget.lost_locks + budget.pauses + budget.arbiter_cuts > 0
            && let Some(lock) = &mut start.arbiter_mut().lock_file
        {
            // Where a lock can be lost, a free one does not mean that its holder is dead.
            lock.local = false;
        }
        start.budget = budget;
        // Where disks are replaced or go back, or an operator takes from what was confirmed, places of
        // different logs are not to be subtracted.
        start.counts_anew =
            rules.words == Words::None && budget.overrides == 0 && budget.collections == 0;
        start.seal();
        Self {
            start,
            rules,
            property: None,
            healed: Arc::default(),
        }
    }

    /// Looks for nothing else.
    pub(crate) fn only(self, property: &'static str) -> Self {
        Self {
            property: Some(property),
            ..self
        }
    }

    /// The first way to what should not be, as short as they come.
    pub(crate) fn violation(self) -> Option<(&'static str, String)> {
        let checker = self
            .checker()
            .finish_when(HasDiscoveries::Any)
            .spawn_bfs()
            .join();
        let found = checker.discoveries().into_iter().next();
        found.map(|(property, path)| (property, told(path)))
    }
}

impl World {
    pub(crate) fn apply(&mut self, action: Action, rules: Rules) {
        match action {
            Action::Step(step) => self.take(step, rules),
            Action::Fault(fault) => self.suffer(fault, rules),
        }
        self.finish(rules);
    }

    /// By the fair schedule, to ACTIVE and PASSIVE.
    fn form(&mut self, rules: Rules) {
        let mut turn = 0;
        let mut steps = 0;
        while let Some(step) = heal::next(self, turn, rules) {
            self.apply(Action::Step(step), rules);
            steps += 1;
            assert!(steps < 100, "the pair does not form: {self:#?}");
            turn = 1 - turn;
        }
        assert!(heal::formed(self), "the pair does not form: {self:#?}");
    }

    /// What follows at once.
    pub(crate) fn finish(&mut self, rules: Rules) {
        self.settle(rules);
        self.keep_words(rules);
        self.seal();
    }
}

impl Model for Search {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let mut steps = Vec::new();
        world.steps(self.rules, &mut steps);
        actions.extend(steps.into_iter().map(Action::Step));
        let mut faults = Vec::new();
        world.faults(self.rules, &mut faults);
        actions.extend(faults.into_iter().map(Action::Fault));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(action, self.rules);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always(NAMED, |_, world| world.in_sync_is_whole()),
            Property::<Self>::always(LOST, |_, world| world.nothing_is_lost()),
            Property::<Self>::always(FORKED, |_, world| !world.forked),
            Property::<Self>::always(TWO_SERVE, |_, world| world.one_serves()),
            Property::<Self>::always(HALF_SERVES, |_, world| world.half_a_copy_waits()),
        ];
        let budget = &self.start.budget;
        if budget.reverts > 0 {
            // A disk that goes back takes with it what it held: it must not serve.
            properties.retain(|property| property.name != NAMED);
        }
        if budget.lost_records == 0 {
            properties.push(Property::<Self>::always(STUCK, |search, world| {
                search.healed.forms_again(world, search.rules)
            }));
            if budget.wipes + budget.reverts == 0 {
                properties.push(Property::<Self>::always(ALONE, |search, world| {
                    [0, 1]
                        .into_iter()
                        .all(|at| search.healed.alone(world, at, search.rules))
                }));
            }
        }
        if let Some(only) = self.property {
            properties.retain(|property| property.name == only);
        }
        properties
    }
}

/// Searches all of it, prints how much that was, and shows the shortest way to what should not be. With
/// `patience` it gives up after that, and says so.
#[expect(clippy::print_stdout, reason = "the size of the search is its result")]
pub(crate) fn run(named: &Named, takeover: Takeover, patience: Option<Duration>) {
    let clock = SystemClock;
    let began = clock.now();
    let rules = Rules {
        words: named.words,
        ..Rules::of(takeover)
    };
    let search = Search::new(named.begin, named.budget, rules);
    let mut checker = search.checker().threads(2).finish_when(HasDiscoveries::Any);
    if let Some(patience) = patience {
        checker = checker.timeout(patience);
    }
    let checker = checker.spawn_bfs().join();
    let took = clock.now().since(began);
    let ended = if patience.is_some_and(|patience| took >= patience) {
        ", NOT ENDED"
    } else {
        ""
    };
    println!(
        "{} by {takeover:?}: {} unique states, depth {}, {:.1} s{ended}",
        named.name,
        checker.unique_state_count(),
        checker.max_depth(),
        took.as_secs_f64(),
    );
    let found = checker.discoveries().into_iter().next();
    if let Some((property, path)) = found {
        let last = path.last_state().clone();
        panic!("{}: {property}: {}\n{last:#?}", named.name, told(path));
    }
}

fn told(path: Path<World, Action>) -> String {
    let actions = path.into_actions();
    let name = |action: &Action| match action {
        Action::Step(step) => format!("{step:?}"),
        Action::Fault(fault) => format!("{fault:?}!"),
    };
    let names: Vec<String> = actions.iter().map(name).collect();
    format!("{} steps: {}", names.len(), names.join(" > "))
}

/// What the searches of switchovers spend their budget on: the other server serves after it.
#[test]
fn a_switchover_changes_the_roles() {
    for takeover in [Takeover::Fence, Takeover::Lock] {
        let rules = Rules::of(takeover);
        let budget = Budget {
            switchovers: 1,
            ..Budget::NONE
        };
        let mut world = Search::new(Begin::Formed, budget, rules).start;
        let mut faults = Vec::new();
        world.faults(rules, &mut faults);
        assert_eq!(faults, [Fault::Switchover(0)]);
        world.apply(Action::Fault(faults[0]), rules);
        // While clients are drained, the roles are shown as they were.
        world.apply(Action::Step(Step::Work(0)), rules);
        world.form(rules);
        let shown = world.server(1).machine.as_ref().map(HaMachine::shown);
        assert_eq!(shown, Some(ServerState::Active));
    }
}
