//! Courses of events that were thought of, each with chance in its details.

use std::time::Duration;

use crate::clock::Chance;
use crate::course::Course;
use crate::pair::Pair;
use crate::play::in_virtual_time;

/// A scenario with a seed; gives the sum of its trace.
pub(crate) fn simulate(seed: u64, scenario: impl AsyncFnOnce(&mut Pair)) -> (u64, u64) {
    in_virtual_time(async || {
        let mut pair = Pair::new(&Course::of(seed));
        scenario(&mut pair).await;
        pair.world.trace.sum()
    })
}

/// The active dies, returns; both die, one returns alone.
pub(crate) async fn deaths(pair: &mut Pair) {
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
pub(crate) async fn departures(pair: &mut Pair) {
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
pub(crate) async fn interruptions(pair: &mut Pair) {
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
