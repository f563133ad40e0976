//! A server is killed at a chosen call to its kernel, a write, a flush, a link, in each transition; it
//! must start again, the pair come together, and nothing confirmed be lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::chance::{Chance, number_from};
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::{Role, Server};
use crate::support::stomp_py::StompPy;
use crate::support::strace::{Attached, around, await_written};
use crate::{connect, load, test_name};

/// Kills in a plain `cargo test`.
const POINTS: u64 = 50;
/// The same in shared mode, which has fewer transitions.
const POINTS_SHARED: u64 = 12;
/// Calls that change what is on a disk, or the order in which it gets there.
const CALLS: [&str; 8] = [
    "pwrite64",
    "writev",
    "fdatasync",
    "fsync",
    "linkat",
    "rename",
    "unlink",
    "mkdir",
];
/// More than a checkpoint's worth of log, in messages of so many bytes.
const BALLAST: usize = 24;
const BALLAST_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transition {
    /// Data directory, store, lock file and first record are made.
    FirstBoot,
    /// A store that is there is opened, and brought up to date.
    StartAndIncremental,
    /// A new store is filled and switched to.
    Full,
    /// The other is brought up to date, and taken into the record.
    Lead,
    /// The other is gone and leaves the record.
    Shrink,
    /// The other is gone and its place is taken.
    TakeOver,
    /// SIGTERM.
    Stop,
    /// Load with checkpoints and collection, on the active.
    Serve,
    /// The same on the passive.
    Follow,
}

const ALL: [Transition; 9] = [
    Transition::FirstBoot,
    Transition::StartAndIncremental,
    Transition::Full,
    Transition::Lead,
    Transition::Shrink,
    Transition::TakeOver,
    Transition::Stop,
    Transition::Serve,
    Transition::Follow,
];

/// The n-th time that a thread of the server makes this call.
#[derive(Clone, Copy, Debug)]
struct Point {
    call: &'static str,
    nth: usize,
}

/// Those that touch a disk where there is one store.
const ALL_SHARED: [Transition; 4] = [
    Transition::FirstBoot,
    Transition::TakeOver,
    Transition::Stop,
    Transition::Serve,
];

struct Points {
    chance: Chance,
    pair: Pair,
    client: StompPy,
    /// How often a thread makes each call, for each transition that was counted.
    counts: BTreeMap<Transition, BTreeMap<&'static str, usize>>,
    runs: u64,
}

impl Points {
    fn server(&mut self, role: Role) -> &mut Server {
        self.pair.server(role)
    }

    fn is_shared(&self) -> bool {
        self.pair.primary.mode() == "shared"
    }

    /// The state of a server that serves without its peer.
    fn alone(&self) -> &'static str {
        if self.is_shared() {
            "ACTIVE"
        } else {
            "STANDALONE"
        }
    }

    fn output(&mut self) -> PathBuf {
        self.runs += 1;
        self.pair.scene.path().join(format!("strace.{}", self.runs))
    }

    fn passive_goes(&mut self) -> Role {
        let passive = self.pair.await_in_sync().other();
        self.server(passive).kill();
        self.client.await_confirmed(20);
        passive
    }

    /// Goes through a transition with a server under strace. Gives that server, whether strace killed
    /// it, and afterwards both run or have to be started.
    fn go(&mut self, transition: Transition, arguments: &[&str], output: &Path) -> bool {
        let wrapper = || around(output, arguments);
        let victim = match transition {
            Transition::FirstBoot => return self.first_boot(wrapper()),
            Transition::StartAndIncremental | Transition::Full => {
                let passive = self.passive_goes();
                if transition == Transition::Full {
                    let data = self.server(passive).data_dir();
                    fs::remove_dir_all(data).expect("nothing runs on it");
                }
                self.server(passive).start_under(wrapper());
                return self.await_end_or_in_sync(passive);
            }
            Transition::Lead => {
                let passive = self.passive_goes();
                let attached = self.attach(passive.other(), arguments, output);
                self.server(passive).start();
                let hit = self.await_end_or_in_sync(passive.other());
                drop(attached);
                return hit;
            }
            Transition::Shrink | Transition::Stop | Transition::Serve => self.pair.await_in_sync(),
            Transition::TakeOver | Transition::Follow => self.pair.await_in_sync().other(),
        };
        let attached = self.attach(victim, arguments, output);
        let hit = match transition {
            Transition::Stop => {
                // A stop by itself writes nothing: it is the load that does, and it has stood still.
                self.client.await_confirmed(5);
                self.server(victim)
                    .signal(nix::sys::signal::Signal::SIGTERM);
                self.server(victim).await_exit().signal().is_some()
            }
            Transition::Serve | Transition::Follow => {
                self.pass_ballast();
                self.was_killed(victim)
            }
            _ => {
                self.server(victim.other()).kill();
                let alone = self.alone();
                self.await_end_or(victim, |server| {
                    server.status().is_ok_and(|status| status.state == alone)
                })
            }
        };
        drop(attached);
        hit
    }

    fn attach(&mut self, role: Role, arguments: &[&str], output: &Path) -> Attached {
        let pid = self.server(role).pid().expect("it runs");
        Attached::to(pid, output, arguments)
    }

    fn was_killed(&mut self, role: Role) -> bool {
        let server = self.server(role);
        // One that does not answer is about to be gone.
        server.status().is_err() && server.await_exit().signal().is_some()
    }

    fn await_end_or(&mut self, role: Role, over: impl Fn(&mut Server) -> bool) -> bool {
        let server = self.pair.server(role);
        eventually(SOON, "the transition is over", || {
            if let Some(status) = server.has_ended() {
                assert!(status.signal().is_some(), "it ended with {status}");
                return Ok(true);
            }
            if over(server) {
                Ok(false)
            } else {
                Err("it goes on".to_owned())
            }
        })
    }

    fn await_end_or_in_sync(&mut self, role: Role) -> bool {
        self.await_end_or(role, |server| {
            server.status().is_ok_and(|status| status.pair_is_in_sync())
        })
    }

    /// Sends and takes messages through whichever server serves, or until it does no more.
    fn pass_ballast(&self) {
        let pass = || -> Result<(), twinmq::cli::stomp_client::StompError> {
            let mut connection = connect(&self.pair.hosts());
            let body = vec![b'b'; BALLAST_BYTES];
            let destination = [("destination", "/queue/ballast")];
            let mut arrived = 0;
            for _ in 0..BALLAST {
                connection.request("SEND", &destination, &body, SOON)?;
            }
            arrived += connection
                .subscribe("b", "/queue/ballast", "auto", 100, SOON)?
                .len();
            while arrived < BALLAST && connection.next(Duration::from_secs(2))?.is_some() {
                arrived += 1;
            }
            Ok(())
        };
        // It fails where the server is killed, which is what is wanted.
        pass().ok();
    }

    /// In a folder of its own.
    fn first_boot(&mut self, wrapper: Vec<String>) -> bool {
        let mut pair = if self.is_shared() {
            Pair::shared(concat!(module_path!(), "::first_boot_shared"))
        } else {
            Pair::new(concat!(module_path!(), "::first_boot"))
        };
        let alone = self.alone();
        pair.primary.start_under(wrapper);
        let server = &mut pair.primary;
        let hit = eventually(SOON, "first boot is over", || {
            if server.has_ended().is_some() {
                return Ok(true);
            }
            match server.status() {
                Ok(status) if status.serving => Ok(false),
                Ok(status) => Err(format!("{status:?}")),
                Err(error) => Err(error),
            }
        });
        if !hit {
            server.kill();
        }
        server.start();
        server.await_state(alone);
        pair.secondary.start();
        pair.await_in_sync();
        hit
    }

    /// How often the transition makes each call, by the thread that makes it most.
    fn count(&mut self, transition: Transition) {
        let output = self.output();
        let calls = format!("trace={}", CALLS.join(","));
        let hit = self.go(transition, &["-e", &calls], &output);
        assert!(!hit, "{transition:?}: nothing kills it");
        self.come_together();
        if matches!(
            transition,
            Transition::StartAndIncremental | Transition::Full
        ) {
            // This strace goes with the server that it follows.
            let passive = self.passive_goes();
            self.server(passive).start();
            self.pair.await_in_sync();
        }
        await_written(&output);
        let text = fs::read(&output).expect("strace has written");
        let mut by_thread: BTreeMap<(String, &'static str), usize> = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.split_whitespace();
            let (Some(thread), Some(call)) = (words.next(), words.next()) else {
                continue;
            };
            for name in CALLS {
                if call
                    .strip_prefix(name)
                    .is_some_and(|it| it.starts_with('('))
                {
                    *by_thread.entry((thread.to_owned(), name)).or_default() += 1;
                }
            }
        }
        let counts = self.counts.entry(transition).or_default();
        for ((_, name), count) in by_thread {
            let most = counts.entry(name).or_default();
            *most = count.max(*most);
        }
        eprintln!("{transition:?}: {counts:?}");
        assert!(!counts.is_empty(), "{transition:?} writes nothing?");
        fs::remove_file(output).expect("it was just read");
    }

    /// Starts whatever is down, in either order.
    fn come_together(&mut self) {
        let first = if self.chance.percent(50) {
            Role::Primary
        } else {
            Role::Secondary
        };
        for role in [first, first.other()] {
            if self.server(role).has_ended().is_some() || !self.server(role).is_started() {
                self.server(role).start();
            }
        }
        self.pair.await_in_sync();
    }

    fn draw(&mut self, transition: Transition) -> Point {
        let counts = &self.counts[&transition];
        // Each kind of call as often as any other: links and renames are few.
        let drawn = self.chance.below(counts.len());
        let (call, count) = counts.iter().nth(drawn).expect("it is below the length");
        // A stop is short: most of what was counted there was the load before it.
        let count = match transition {
            Transition::Stop => count.div_ceil(4),
            _ => *count,
        };
        Point {
            call,
            nth: 1 + self.chance.below(count),
        }
    }

    /// Kills at one point. False: the transition went another way, and never came there.
    fn kill_at(&mut self, transition: Transition, point: Point) -> bool {
        let output = self.output();
        let trace = format!("trace={}", point.call);
        let inject = format!("inject={}:signal=KILL:when={}", point.call, point.nth);
        let hit = self.go(transition, &["-e", &trace, "-e", &inject], &output);
        fs::remove_file(output).ok();
        // One that is still traced could be hit later: it is killed here in any case.
        for role in [Role::Primary, Role::Secondary] {
            if !hit && transition != Transition::FirstBoot && self.server(role).is_started() {
                self.server(role).kill();
            }
        }
        self.come_together();
        self.client.await_confirmed(5);
        hit
    }
}

#[test]
fn a_server_killed_at_any_write_of_any_transition_starts_again_and_nothing_is_lost() {
    let settings = [("store.checkpoint_mib", "1"), ("store.retain_mib", "16")];
    let pair = Pair::in_sync_with(test_name!(), &settings);
    kill_at_points(pair, &ALL, POINTS);
}

#[test]
fn a_server_of_a_shared_pair_killed_at_any_write_starts_again_and_nothing_is_lost() {
    let mut pair = Pair::shared(test_name!());
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).set("store.checkpoint_mib", "1");
        pair.server(role).set("store.retain_mib", "16");
    }
    pair.start_shared();
    kill_at_points(pair, &ALL_SHARED, POINTS_SHARED);
}

fn kill_at_points(pair: Pair, transitions: &[Transition], least: u64) {
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    let points = number_from("TWINMQ_CRASH_POINTS").unwrap_or(least);
    eprintln!("{points} crash points: TWINMQ_SEED={seed} TWINMQ_CRASH_POINTS={points}");
    let client = load(&pair);
    client.await_confirmed(20);
    let mut all = Points {
        chance: Chance(seed),
        pair,
        client,
        counts: BTreeMap::new(),
        runs: 0,
    };
    for transition in transitions {
        all.count(*transition);
    }
    let mut hits: BTreeMap<Transition, (u64, u64)> = BTreeMap::new();
    for (number, transition) in (0..points).zip(transitions.iter().copied().cycle()) {
        let point = all.draw(transition);
        let hit = all.kill_at(transition, point);
        eprintln!("seed {seed}, {number}: {transition:?} at {point:?}: {hit}");
        let tally = hits.entry(transition).or_default();
        tally.0 += u64::from(hit);
        tally.1 += 1;
    }
    let Points {
        mut pair, client, ..
    } = all;
    let report = client.finish();
    eprintln!("kills that came there, of all: {hits:?}\n{report:?}");
    assert!(report.holds(), "seed {seed}: {report:?}");
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).terminate();
    }
    pair.primary.assert_store_is_sound();
    pair.secondary.assert_store_is_sound();
    let hit: u64 = hits.values().map(|tally| tally.0).sum();
    assert!(
        hit * 2 > points,
        "seed {seed}: only {hit} of {points} kills came there"
    );
}
