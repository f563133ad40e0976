//! A seeded random schedule of kills and restarts of both servers under load.

use std::time::Duration;

use twinmq::cli::stomp_client::Connection;

use crate::support::chance::{Chance, number_from};
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::Role;
use crate::support::stomp_py::StompPy;
use crate::{load, test_name};

/// Kills in a plain `cargo test`.
const KILLS: u64 = 25;
/// Put into the gap that a resync has to fill, so that there is time to kill in the middle of it.
const BALLAST_MESSAGES: usize = 48;
const BALLAST_BYTES: usize = 512 * 1024;
const BALLAST: &str = "/queue/ballast";

/// One way to hit the pair. A shuffled deck holds each of them, so that none is left to luck.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Whatever it does just then.
    One(Role),
    /// At once.
    Both,
    /// The second while it served alone.
    OneThenTheOther,
    /// In the middle of a resync, the server that is being filled.
    Filled,
    /// In the middle of a resync, the server that fills it.
    Filling,
}

const DECK: [Blow; 7] = [
    Blow::One(Role::Primary),
    Blow::Both,
    Blow::Filled,
    Blow::One(Role::Secondary),
    Blow::OneThenTheOther,
    Blow::Filling,
    Blow::One(Role::Primary),
];

/// What was really hit.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    primary: u64,
    secondary: u64,
    both_down: u64,
    in_resync: u64,
}

struct Schedule {
    chance: Chance,
    deck: Vec<Blow>,
    pair: Pair,
    client: StompPy,
    tally: Tally,
    ballast: u64,
}

impl Schedule {
    fn draw(&mut self) -> Blow {
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
            self.chance.shuffle(&mut self.deck);
        }
        self.deck.pop().expect("it was filled")
    }

    fn role(&mut self) -> Role {
        if self.chance.percent(50) {
            Role::Primary
        } else {
            Role::Secondary
        }
    }

    fn in_sync(&mut self) -> bool {
        [Role::Primary, Role::Secondary].into_iter().all(|role| {
            let status = self.pair.server(role).status();
            status.is_ok_and(|status| status.pair_is_in_sync())
        })
    }

    fn count(&mut self, role: Role) {
        self.tally.kills += 1;
        match role {
            Role::Primary => self.tally.primary += 1,
            Role::Secondary => self.tally.secondary += 1,
        }
    }

    fn kill(&mut self, role: Role) {
        self.pair.server(role).kill();
        self.count(role);
    }

    /// Strikes, and starts whatever is down then, in either order.
    fn strike(&mut self, blow: Blow) {
        let in_sync = self.in_sync();
        match blow {
            Blow::One(role) => {
                self.kill(role);
                // Alone, the survivor of a pair in sync serves; of another it may have to wait.
                if in_sync && self.chance.percent(60) {
                    let more = 1 + self.chance.count_below(200);
                    self.client.await_confirmed(more);
                }
                self.pair.server(role).start();
            }
            Blow::Both => {
                self.pair.kill_both();
                self.count(Role::Primary);
                self.count(Role::Secondary);
                self.tally.both_down += 1;
                self.start_both();
            }
            Blow::OneThenTheOther => {
                let first = self.role();
                self.kill(first);
                if in_sync {
                    let more = 1 + self.chance.count_below(100);
                    self.client.await_confirmed(more);
                }
                self.kill(first.other());
                self.tally.both_down += 1;
                self.start_both();
            }
            Blow::Filled => self.strike_in_resync(|filled| filled),
            Blow::Filling => self.strike_in_resync(Role::other),
        }
    }

    fn start_both(&mut self) {
        let first = self.role();
        self.pair.server(first).start();
        self.pair.server(first.other()).start();
    }

    fn strike_in_resync(&mut self, victim: impl Fn(Role) -> Role) {
        self.pair.await_in_sync();
        let filled = self.role();
        self.kill(filled);
        self.pair
            .server(filled.other())
            .await_status("it serves alone", |status| status.state == "STANDALONE");
        self.send_ballast();
        self.pair.server(filled).start();
        let filling = self.pair.server(filled.other());
        let caught = eventually(SOON, "a resync begins", || match filling.status() {
            Ok(status) if status.state == "ACTIVE_SYNC" => Ok(true),
            Ok(status) if status.pair_is_in_sync() => Ok(false),
            Ok(status) => Err(format!("{status:?}")),
            Err(error) => Err(error),
        });
        let victim = victim(filled);
        self.kill(victim);
        self.tally.in_resync += u64::from(caught);
        self.pair.server(victim).start();
    }

    fn send_ballast(&mut self) {
        let mut connection = self.connect();
        let body = vec![b'b'; BALLAST_BYTES];
        for _ in 0..BALLAST_MESSAGES {
            connection
                .request("SEND", &[("destination", BALLAST)], &body, SOON)
                .expect("a server that serves confirms");
            self.ballast += 1;
        }
    }

    fn connect(&self) -> Connection {
        crate::connect(&self.pair.hosts())
    }

    /// Every confirmed message of the ballast is there.
    fn take_ballast(&mut self) {
        let mut connection = self.connect();
        let mut arrived = connection
            .subscribe("b", BALLAST, "auto", 100, SOON)
            .expect("a server that serves takes a subscription")
            .len() as u64;
        while arrived < self.ballast {
            let frame = connection.next(SOON).expect("the server serves on");
            assert!(
                frame.is_some(),
                "{arrived} of {} messages of ballast arrived",
                self.ballast
            );
            arrived += 1;
        }
        let more = connection.next(Duration::from_millis(200));
        assert!(
            matches!(more, Ok(None)),
            "more ballast than was sent: {more:?}"
        );
    }
}

#[test]
fn a_random_schedule_of_kills_and_restarts_loses_nothing_and_repeats_nothing_unflagged() {
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    let kills = number_from("TWINMQ_KILLS").unwrap_or(KILLS);
    eprintln!("schedule of {kills} kills: repeat it with TWINMQ_SEED={seed} TWINMQ_KILLS={kills}");
    let pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(50);
    let mut schedule = Schedule {
        chance: Chance(seed),
        deck: Vec::new(),
        pair,
        client,
        tally: Tally::default(),
        ballast: 0,
    };
    while schedule.tally.kills < kills {
        let blow = schedule.draw();
        schedule.strike(blow);
        eprintln!("seed {seed}: {blow:?}, {:?}", schedule.tally);
        if schedule.chance.percent(70) {
            schedule.pair.await_in_sync();
        }
        let more = schedule.chance.count_below(200);
        schedule.client.await_confirmed(more);
    }
    schedule.pair.await_in_sync();
    schedule.take_ballast();
    let Schedule {
        mut pair,
        client,
        tally,
        ..
    } = schedule;
    let served = client.served();
    let report = client.finish();
    eprintln!("after {tally:?}: {report:?}");
    assert!(report.holds(), "seed {seed}: {report:?}");
    if kills >= KILLS {
        for (hit, what) in [
            (tally.primary, "the primary"),
            (tally.secondary, "the secondary"),
            (tally.both_down, "both at once"),
            (tally.in_resync, "a resync"),
        ] {
            assert!(hit > 0, "seed {seed}: the schedule never hit {what}");
        }
    }
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).terminate();
        pair.server(role).assert_store_is_sound();
    }
    crate::nemesis::check_intervals(&mut pair, &served, seed);
}
