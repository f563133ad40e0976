//! The nemesis: seeded schedules of faults against a pair of real servers under load, and the
//! checker. Each test is one family of faults; docs/proofs.md has the list.
//!
//! By command, with the seed that a failed run printed:
//! `TWINMQ_SEED=7 TWINMQ_CUTS=300 cargo test --test cluster -- --nocapture nemesis::cuts`

mod arbiter;
mod clocks;
mod cuts;
pub(crate) mod lab;
mod stops;

use std::thread;
use std::time::Duration;

use twinmq::cli::serving::{had_begun, intervals, judge};

use crate::driver;
use crate::support::chance::{Chance, number_from};
use crate::support::eventually::{SOON, eventually, now};
use crate::support::pair::Pair;
use crate::support::server::Role;
use crate::support::stomp_py::{Driver, Served, StompPy};
use lab::{Network, Share};

/// Half a second: clients of a silent server must notice by themselves.
const HEART_BEAT_MS: u32 = 500;

/// What the pair shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: each server has a copy.
    Replicated,
    /// The store. A server that may not serve any more ends itself, and is started again.
    Shared,
}

/// A pair in a lab, its load, and what was done to it.
pub(crate) struct Nemesis {
    // Dropped in this order: processes that wait for a frozen share do not end before it is thawed.
    share: Share,
    pub(crate) client: StompPy,
    pub(crate) pair: Pair,
    pub(crate) network: Network,
    chance: Chance,
    mode: Mode,
    seed: u64,
}

impl Nemesis {
    /// A pair in sync under load. Called in a lab.
    pub(crate) fn new(test: &str, mode: Mode) -> Self {
        let pair = match mode {
            Mode::Replicated => Pair::new(test),
            Mode::Shared => Pair::shared(test),
        };
        Self::of(pair, mode)
    }

    /// The same with servers that a test has prepared.
    fn of(mut pair: Pair, mode: Mode) -> Self {
        let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| now().0);
        eprintln!("nemesis: repeat it with TWINMQ_SEED={seed}");
        let lock_file = pair.lock_file();
        let share = Share::mount(lock_file.parent().expect("it has a folder"));
        for role in [Role::Primary, Role::Secondary] {
            let server = pair.server(role);
            server.use_group(lab::group_of(role));
            for key in ["client.heart_beat_send_ms", "client.heart_beat_receive_ms"] {
                server.set(key, &HEART_BEAT_MS.to_string());
            }
            server.start();
        }
        pair.await_in_sync();
        let client = StompPy::start(&Driver {
            heart_beat_ms: HEART_BEAT_MS,
            ..driver(&pair)
        });
        client.await_confirmed(50);
        Self {
            share,
            client,
            pair,
            network: Network,
            chance: Chance(seed),
            mode,
            seed,
        }
    }

    /// How often a family strikes: what the variable says, or so often.
    fn count(variable: &str, quick: u64) -> u64 {
        number_from(variable).unwrap_or(quick)
    }

    /// The next of a shuffled deck, which holds each of its cards.
    fn draw<T: Copy>(&mut self, deck: &mut Vec<T>, full: &[T]) -> T {
        if deck.is_empty() {
            deck.extend_from_slice(full);
            self.chance.shuffle(deck);
        }
        deck.pop().expect("it was filled")
    }

    /// Lets a fault last: how long is the schedule's choice, no condition ends it.
    fn last(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = u64::try_from((most - least).as_millis()).expect("seconds");
        let span = least + Duration::from_millis(self.chance.count_below(spread + 1));
        thread::sleep(span);
        span
    }

    /// Everything heals; the pair is in sync and confirms.
    pub(crate) fn recovered(&mut self, after: &str) {
        let seed = self.seed;
        let pair = &mut self.pair;
        // Far longer than any one step: a server may be started again in between.
        eventually(SOON * 2, "the pair is in sync", || {
            for role in [Role::Primary, Role::Secondary] {
                // A supervisor's work: a watchdog ends what hangs, a fenced server may end itself.
                if pair.server(role).has_ended().is_some() {
                    pair.server(role).start();
                }
            }
            for role in [Role::Primary, Role::Secondary] {
                let status = pair.server(role).status()?;
                if !status.pair_is_in_sync() {
                    return Err(format!("{status:?}"));
                }
            }
            Ok(())
        });
        let active = self.pair.active();
        self.client.await_confirmed(20);
        eprintln!(
            "seed {seed}: {after}: recovered, the {} is active",
            active.name()
        );
    }

    /// The checker: the ledger, the intervals of service, both stores.
    pub(crate) fn finish(self) {
        let Self {
            share,
            client,
            mut pair,
            seed,
            ..
        } = self;
        pair.await_in_sync();
        let served = client.served();
        let report = client.finish();
        eprintln!("seed {seed}: {report:?}");
        assert!(report.holds(), "seed {seed}: {report:?}");
        for role in [Role::Primary, Role::Secondary] {
            pair.server(role).terminate();
        }
        // Both first: they may have one store.
        for role in [Role::Primary, Role::Secondary] {
            pair.server(role).assert_store_is_sound();
        }
        check_intervals(&mut pair, &served, seed);
        drop(share);
    }
}

/// Fails if two servers ever served at once, as their logs tell. Called when both have ended.
pub(crate) fn check_intervals(pair: &mut Pair, served: &[Served], seed: u64) {
    let at_last = now();
    let mut found = Vec::new();
    for role in [Role::Primary, Role::Secondary] {
        let (log, kills) = pair.server(role).whole_log();
        let more = intervals(role.name(), &log, &kills, at_last);
        found.extend(more.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    }
    let verdict = judge(&mut found);
    eprintln!(
        "seed {seed}: {} intervals of service, {verdict:?}",
        found.len()
    );
    assert_eq!(verdict, Ok(()), "seed {seed}");
    for words in served {
        let speaker = [Role::Primary, Role::Secondary]
            .into_iter()
            .find(|role| pair.server(*role).client_address() == words.host)
            .unwrap_or_else(|| panic!("who is {}?", words.host));
        assert!(
            had_begun(&found, speaker.name(), words.first),
            "seed {seed}: {words:?}, and it had never served"
        );
    }
}
