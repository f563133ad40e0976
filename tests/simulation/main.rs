//! Two servers' actors in one process, on a virtual clock, over a network, disks and an arbiter in
//! memory. Chance comes from a seed alone: one seed, one course of events.
//!
//! One seed again: `TWINMQ_SEED=7 cargo test --test simulation`; many: `TWINMQ_RUNS=1000`, from
//! `TWINMQ_SEED` on.
#![expect(
    clippy::print_stderr,
    reason = "the seed is for whoever runs the tests"
)]

mod arbiter;
mod clients;
mod clock;
mod ledger;
mod pair;
mod server;

use std::ops::Range;
use std::time::Duration;

use clock::Chance;
use pair::Pair;

/// The seeds that are run without being asked for.
const SEEDS: Range<u64> = 1..17;

#[test]
fn what_was_confirmed_survives_the_death_of_either_and_of_both() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        simulate(seed, async |pair| deaths(pair).await);
    }
}

#[test]
fn what_was_confirmed_survives_the_death_of_the_passive_and_an_orderly_stop() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        simulate(seed, async |pair| departures(pair).await);
    }
}

#[test]
fn what_was_confirmed_survives_broken_connections() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        simulate(seed, async |pair| interruptions(pair).await);
    }
}

#[test]
fn one_seed_gives_one_course_of_events() {
    for seed in seeds().take(2) {
        eprintln!("seed {seed}");
        let course = |seed| {
            simulate(seed, async |pair| {
                interruptions(pair).await;
            })
        };
        let (once, again) = (course(seed), course(seed));
        for (line, (one, two)) in once.iter().zip(&again).enumerate() {
            assert_eq!(one, two, "seed {seed}, line {line}");
        }
        assert_eq!(once.len(), again.len(), "seed {seed}");
        assert_ne!(once, course(seed.wrapping_add(1)), "the seed matters");
    }
}

fn seeds() -> Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    match (number("TWINMQ_SEED"), number("TWINMQ_RUNS")) {
        (Some(seed), runs) => seed..seed + runs.unwrap_or(1),
        (None, Some(runs)) => SEEDS.start..SEEDS.start + runs,
        (None, None) => SEEDS,
    }
}

/// Runs a scenario with a seed; gives its trace.
fn simulate(seed: u64, scenario: impl AsyncFnOnce(&mut Pair)) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(async {
        let mut pair = Pair::new(seed);
        scenario(&mut pair).await;
        pair.world.trace.lines()
    })
}

/// The active dies, returns; both die, one returns alone.
async fn deaths(pair: &mut Pair) {
    let chance = pair.world.chance.split();
    form(pair, &chance).await;
    come_upon(pair, &chance).await;
    let killed = pair.active();
    pair.kill(killed);
    pair.until("the other serves", |pair| {
        pair.server(1 - killed).clients.serving()
    })
    .await;
    pair.check(1 - killed).await;
    pair.until_confirmed(50).await;

    pair.start(killed).await;
    pair.until("in step again", Pair::in_sync).await;
    pair.until_confirmed(50 + chance.below(100)).await;
    pair.flow(false);
    pair.run_for(Duration::from_secs(1)).await;
    pair.check_equal().await;
    pair.check(killed).await;

    pair.flow(true);
    pair.until_confirmed(50 + chance.below(100)).await;
    come_upon(pair, &chance).await;
    pair.kill(0);
    pair.kill(1);
    let alone = chance.server();
    pair.start(alone).await;
    pair.until("one serves alone", |pair| {
        pair.server(alone).clients.serving()
    })
    .await;
    pair.check(alone).await;
    pair.until_confirmed(50).await;
}

/// The passive dies and returns; the active is stopped, and the other stops after it; both return.
async fn departures(pair: &mut Pair) {
    let chance = pair.world.chance.split();
    form(pair, &chance).await;
    come_upon(pair, &chance).await;
    let active = pair.active();
    pair.kill(1 - active);
    pair.until_confirmed(50).await;
    pair.check(active).await;

    pair.start(1 - active).await;
    pair.until("in step again", Pair::in_sync).await;
    pair.until_confirmed(50 + chance.below(100)).await;
    come_upon(pair, &chance).await;
    pair.stop(active).await;
    pair.until("the other serves", |pair| {
        pair.server(1 - active).clients.serving()
    })
    .await;
    pair.check(1 - active).await;
    pair.until_confirmed(50).await;

    come_upon(pair, &chance).await;
    pair.stop(1 - active).await;
    let first = chance.server();
    pair.start(first).await;
    pair.start(1 - first).await;
    pair.until("in step after all", Pair::in_sync).await;
    pair.until_confirmed(50).await;
    pair.flow(false);
    pair.run_for(Duration::from_secs(1)).await;
    pair.check_equal().await;
    pair.check(first).await;
}

/// The connection is reset, then the network is cut for a while; each time they find together again.
async fn interruptions(pair: &mut Pair) {
    let chance = pair.world.chance.split();
    form(pair, &chance).await;
    come_upon(pair, &chance).await;
    pair.world.net.reset();
    pair.until("parted", |pair| !pair.in_sync()).await;
    pair.until("in step again", Pair::in_sync).await;
    pair.until_confirmed(50).await;
    pair.check(pair.active()).await;

    come_upon(pair, &chance).await;
    pair.world.net.cut();
    pair.run_for(Duration::from_millis(chance.below(8000)))
        .await;
    pair.world.net.heal();
    pair.until_confirmed(50).await;
    pair.until("in step after the cut", Pair::in_sync).await;
    pair.until_confirmed(50).await;

    come_upon(pair, &chance).await;
    let active = pair.active();
    pair.kill(active);
    pair.until("the other serves", |pair| {
        pair.server(1 - active).clients.serving()
    })
    .await;
    pair.check(1 - active).await;
}

/// Starts both, in either order, and lets clients send for a while.
async fn form(pair: &mut Pair, chance: &Chance) {
    let first = chance.server();
    pair.start(first).await;
    pair.run_for(Duration::from_millis(chance.below(2000)))
        .await;
    pair.start(1 - first).await;
    pair.until("formed", Pair::in_sync).await;
    pair.until_confirmed(50 + chance.below(100)).await;
}

/// Goes on to some moment in the middle of the work.
async fn come_upon(pair: &mut Pair, chance: &Chance) {
    pair.run_for(Duration::from_millis(chance.below(20))).await;
    pair.run_into(chance.below(8)).await;
}
