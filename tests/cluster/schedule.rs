//! A seeded random schedule of kills and restarts of both servers under load.

use crate::support::pair::Pair;
use crate::support::server::Role;
use crate::{load, test_name};

/// Kills in a plain `cargo test`.
const KILLS: u64 = 25;

/// A number from the environment; none if it is not set.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

/// SplitMix64: small, and the same everywhere for one seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

#[test]
fn a_random_schedule_of_kills_and_restarts_loses_nothing_and_repeats_nothing_unflagged() {
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    let kills = number_from("TWINMQ_KILLS").unwrap_or(KILLS);
    eprintln!("schedule of {kills} kills: repeat it with TWINMQ_SEED={seed} TWINMQ_KILLS={kills}");
    let mut chance = Chance(seed);
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(50);
    let mut killed = 0;
    while killed < kills {
        let in_sync = [Role::Primary, Role::Secondary].into_iter().all(|role| {
            let status = pair.server(role).status();
            status.is_ok_and(|status| status.pair_is_in_sync())
        });
        let victim = if chance.percent(50) {
            Role::Primary
        } else {
            Role::Secondary
        };
        let both = chance.percent(20);
        if both {
            pair.kill_both();
            killed += 2;
        } else {
            pair.server(victim).kill();
            killed += 1;
        }
        eprintln!(
            "kill {killed} of {kills}: {} {}",
            if both { "both" } else { victim.name() },
            if in_sync { "in sync" } else { "not in sync" }
        );
        // Alone, the survivor of a pair in sync serves; of another pair it may have to wait.
        if !both && in_sync && chance.percent(60) {
            client.await_confirmed(1 + chance.below(200));
        }
        pair.server(victim).start();
        if both {
            pair.server(victim.other()).start();
        }
        if chance.percent(70) {
            pair.await_in_sync();
        }
        client.await_confirmed(chance.below(200));
    }
    pair.await_in_sync();
    let report = client.finish();
    eprintln!("after {killed} kills: {report:?}");
    assert!(report.holds(), "seed {seed}: {report:?}");
}
