//! Two servers' actors in one process, on a virtual clock, over a network, disks and an arbiter in
//! memory. Chance comes from a seed alone: one seed, one course of events.
//!
//! `cargo test --test simulation -- --seed 42` plays one seed, `--schedules 20000` many, from the seed
//! on if one is given, `--shared` in shared mode, `--strewn` with messages that are left among others;
//! `TWINMQ_SEED` and `TWINMQ_RUNS` do the same. Without them the tests run.
#![expect(
    clippy::print_stdout,
    reason = "this is the program that runs the tests and tells what came of them"
)]

mod arbiter;
mod clients;
mod clock;
mod course;
mod door;
mod harness;
mod homes;
mod ledger;
mod mount;
mod net;
mod operator;
mod pair;
mod play;
mod scenarios;
mod server;
mod sessions;
mod sink;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clock::open;
use course::{Broken, Course};
use harness::{Test, beside, schedules};
use play::{Outcome, play};
use scenarios::{deaths, departures, interruptions, simulate};

/// Schedules that run without being asked for.
const SCHEDULES: u64 = 300;
/// The same in shared mode.
const SHARED_SCHEDULES: u64 = 60;
/// The same where messages are left among others.
const STREWN_SCHEDULES: u64 = 25;
/// Seeds of each scenario.
const SCENARIO_SEEDS: std::ops::Range<u64> = 1..9;
/// Among so many schedules the checker finds what is broken on purpose.
const FOUND_AMONG: u64 = 100;
/// So many seeds with jumps of wall clocks are played with and without.
const JUMPED: usize = 8;
/// Each of these is played twice.
const ONE_COURSE_SEEDS: std::ops::Range<u64> = 1..8;

const TESTS: &[Test] = &[
    (
        "what_was_confirmed_survives_the_death_of_either_and_of_both",
        || scenario(async |pair| deaths(pair).await),
    ),
    (
        "what_was_confirmed_survives_the_death_of_the_passive_and_an_orderly_stop",
        || scenario(async |pair| departures(pair).await),
    ),
    ("what_was_confirmed_survives_broken_connections", || {
        scenario(async |pair| interruptions(pair).await)
    }),
    ("seeds_that_failed_once_hold", seeds_that_failed_once),
    (
        "what_was_confirmed_survives_random_schedules_of_faults",
        || assert!(schedules(1..=SCHEDULES, Course::of), "see above"),
    ),
    (
        "what_was_confirmed_to_a_shared_store_survives_random_schedules_of_faults",
        || assert!(schedules(1..=SHARED_SCHEDULES, Course::shared), "see above"),
    ),
    (
        "what_is_left_among_others_survives_random_schedules_of_faults",
        || assert!(schedules(1..=STREWN_SCHEDULES, Course::strewn), "see above"),
    ),
    (
        "what_is_left_is_appended_again",
        what_is_left_is_appended_again,
    ),
    (
        "one_seed_gives_one_course_of_events",
        one_seed_gives_one_course,
    ),
    ("wall_clocks_decide_nothing", wall_clocks_decide_nothing),
    ("disks_that_lie_are_found_out", || {
        finds(Broken::LyingDisks, ledger::LOST);
    }),
    ("an_arbiter_that_refuses_nobody_is_found_out", || {
        finds(Broken::GenerousArbiter, pair::TWO_SPEAK);
    }),
];

fn main() -> ExitCode {
    harness::run(TESTS)
}

fn scenario(scenario: impl AsyncFn(&mut pair::Pair) + Sync) {
    let seeds: Vec<u64> = SCENARIO_SEEDS.collect();
    beside(&seeds, |seed| {
        println!("seed {seed}");
        simulate(seed, async |pair| scenario(pair).await);
    });
}

/// Seeds in `seeds.txt`, one a line, those of shared mode with that word before them.
fn seeds_that_failed_once() {
    let mut courses = Vec::new();
    for line in include_str!("seeds.txt").lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        let number = |text: &str| text.trim().parse().expect("a number");
        courses.push(match seed.strip_prefix("shared") {
            _ if seed.is_empty() => continue,
            Some(seed) => Course::shared(number(seed)),
            None => Course::of(number(seed)),
        });
    }
    beside(&courses, |course| {
        if let Err(failure) = play(&course) {
            panic!("{failure}");
        }
    });
}

fn one_seed_gives_one_course() {
    let seeds: Vec<u64> = ONE_COURSE_SEEDS.collect();
    let outcomes: Mutex<BTreeMap<u64, Outcome>> = Mutex::default();
    beside(&seeds, |seed| {
        let course = || play(&Course::of(seed)).expect("it holds");
        let (one, other) = (course(), course());
        assert_eq!(one, other, "seed {seed}");
        open(&outcomes).insert(seed, one);
    });
    let outcomes = std::mem::take(&mut *open(&outcomes));
    let outcomes: Vec<Outcome> = outcomes.into_values().collect();
    assert_eq!(outcomes.len(), seeds.len());
    for two in outcomes.windows(2) {
        assert_ne!(two[0], two[1], "the seed matters");
    }
}

/// Else the schedules with messages that are left would be about nothing.
fn what_is_left_is_appended_again() {
    let again = |seed| {
        let outcome = play(&Course::strewn(seed)).expect("it holds");
        let count = outcome.marks.get("chunks appended again").copied();
        count.unwrap_or_default()
    };
    let counts: Vec<u64> = (1..9).map(again).collect();
    println!("chunks appended again: {counts:?}");
    assert!(
        counts.iter().filter(|count| **count > 10).count() >= 4,
        "{counts:?}"
    );
}

fn wall_clocks_decide_nothing() {
    let still = |course| Course {
        wall_jumps: false,
        ..course
    };
    let jumps = |course: &Course| course.faults().len() > still(*course).faults().len();
    let jumped: Vec<Course> = (1..60).map(Course::of).filter(jumps).take(JUMPED).collect();
    assert_eq!(jumped.len(), JUMPED, "seeds with jumps");
    beside(&jumped, |course| {
        let confirms = |course| play(&course).expect("it holds").confirms;
        let (with, without) = (confirms(course), confirms(still(course)));
        assert_eq!(with, without, "seed {}", course.seed);
    });
}

/// The checker bites: what the fault leads to is found, and not only that something is wrong.
fn finds(broken: Broken, consequence: &str) {
    let seeds: Vec<u64> = (1..=FOUND_AMONG).collect();
    let found: Mutex<Option<String>> = Mutex::default();
    let others = AtomicU64::new(0);
    beside(&seeds, |seed| {
        if open(&found).is_some() {
            return;
        }
        let course = Course {
            broken: Some(broken),
            ..Course::of(seed)
        };
        let Err(failure) = play(&course) else {
            return;
        };
        let first = failure.lines().next().unwrap_or_default();
        if first.contains(consequence) {
            *open(&found) = Some(first.to_owned());
        } else {
            others.fetch_add(1, Ordering::Relaxed);
        }
    });
    let found = std::mem::take(&mut *open(&found));
    let found = found.unwrap_or_else(|| panic!("of {broken:?} it was not found: {consequence}"));
    println!("{found}\n({others:?} other failures before)");
}
