//! A mixed load for a long time, with random kills: nothing is lost, memory and store do not creep.
//!
//! By command: `TWINMQ_SOAK_MINUTES=20 TWINMQ_SEED=1 cargo test --test cluster -- --nocapture soak`;
//! `TWINMQ_BINARY=$PWD/target/release/twinmq` takes another build than the one under test. Kills are in
//! the first half, so that the growth over the second is that of two processes. In the plain run it
//! lasts seconds, with one kill.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::chance::{Chance, number_from};
use crate::support::eventually::{SOON, eventually, now};
use crate::support::memory::anonymous_kib;
use crate::support::pair::Pair;
use crate::support::script::Script;
use crate::support::server::{Role, Server};
use crate::test_name;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// How many there are in the driver.
const ACTIVITIES: usize = 14;
/// Messages, or transactions, that each activity sends in a second.
const RATE: &str = "30";
/// Less log is retained than by default, so that garbage is collected and checkpoints are written many
/// times in a soak of minutes. Without a watchdog: a machine that does other things besides may hold a
/// server for seconds, and this is not about that.
const SETTINGS: [(&str, &str); 3] = [
    ("store.retain_mib", "32"),
    ("store.checkpoint_mib", "8"),
    ("ha.watchdog", "false"),
];
/// Anonymous memory that a server may gain in a minute, by command.
const GROWTH_MAX: f64 = 1.0 * 1024.0;

/// What one activity was told and saw.
#[derive(Debug, Default)]
struct Account {
    confirmed: HashSet<u64>,
    received: HashSet<u64>,
    /// Under which message-ids a number arrived.
    stored: HashMap<u64, HashSet<String>>,
    arrivals: u64,
    /// Arrivals of a message-id that had arrived, without the flag.
    unflagged: u64,
    seen: HashSet<String>,
    idle: bool,
}

impl Account {
    fn enter(&mut self, fact: &Value) {
        let number = fact["number"].as_u64().unwrap_or_default();
        match fact["event"].as_str() {
            Some("confirmed") => {
                self.confirmed.insert(number);
            }
            Some("received") => {
                let id = fact["message_id"].as_str().unwrap_or_default().to_owned();
                self.arrivals += 1;
                self.received.insert(number);
                let again = !self.seen.insert(id.clone());
                self.unflagged += u64::from(again && fact["redelivered"] != true);
                self.stored.entry(number).or_default().insert(id);
            }
            Some("idle") => self.idle = true,
            other => panic!("{other:?}"),
        }
    }

    fn lost(&self) -> usize {
        self.confirmed.difference(&self.received).count()
    }

    fn stored_twice(&self) -> usize {
        self.stored.values().filter(|ids| ids.len() > 1).count()
    }
}

#[derive(Debug, Default)]
struct Ledger {
    accounts: BTreeMap<String, Account>,
    errors: Vec<String>,
}

impl Ledger {
    fn confirmed(&self) -> usize {
        self.accounts.values().map(|one| one.confirmed.len()).sum()
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{:<14} {:>10} {:>10} {:>10} {:>6} {:>9}\n",
            "activity", "confirmed", "arrivals", "distinct", "lost", "unflagged"
        );
        for (name, account) in &self.accounts {
            table += &format!(
                "{name:<14} {:>10} {:>10} {:>10} {:>6} {:>9}\n",
                account.confirmed.len(),
                account.arrivals,
                account.received.len(),
                account.lost(),
                account.unflagged,
            );
        }
        table
    }
}

/// The load.
struct Load {
    script: Script,
    ledger: Arc<Mutex<Ledger>>,
}

impl Load {
    fn start(hosts: &str) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let entered = Arc::clone(&ledger);
        let script = Script::start("soak_driver.py", &[hosts, RATE], move |fact| {
            let mut ledger = entered.lock().unwrap_or_else(PoisonError::into_inner);
            match fact["event"].as_str() {
                Some("connected" | "lost") => return,
                Some("error") => return ledger.errors.push(fact.to_string()),
                _ => {}
            }
            let name = fact["activity"].as_str().unwrap_or_default().to_owned();
            ledger.accounts.entry(name).or_default().enter(&fact);
        });
        Self { script, ledger }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every activity goes on: each has more confirmed messages than before.
    #[track_caller]
    fn await_more(&self) {
        let counts = |ledger: &Ledger| -> BTreeMap<String, usize> {
            let of = |(name, one): (&String, &Account)| (name.clone(), one.confirmed.len());
            ledger.accounts.iter().map(of).collect()
        };
        let before = counts(&self.ledger());
        eventually(SOON, "every activity goes on", || {
            let after = counts(&self.ledger());
            let more = |(name, count): (&String, &usize)| {
                *count > before.get(name).copied().unwrap_or_default() + 5
            };
            let on = after.len() == ACTIVITIES && after.iter().all(more);
            on.then_some(())
                .ok_or_else(|| format!("{before:?} {after:?}"))
        });
    }
}

/// A server at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    minute: f64,
    anonymous_kib: u64,
    store_bytes: u64,
    messages: u64,
}

fn sample(server: &Server, minute: f64) -> Option<Sample> {
    let status = server.status().ok()?;
    Some(Sample {
        minute,
        anonymous_kib: anonymous_kib(server.pid()?)?,
        store_bytes: status.store.bytes,
        messages: status.store.messages,
    })
}

/// KiB in a minute, by least squares.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes of processes are far below the precision of a double"
)]
fn growth(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (
        mean(&|sample| sample.minute),
        mean(&|sample| sample.anonymous_kib as f64),
    );
    let (mut both, mut own) = (0.0, 0.0);
    for sample in samples {
        both += (sample.minute - x) * (sample.anonymous_kib as f64 - y);
        own += (sample.minute - x).powi(2);
    }
    if own > 0.0 { both / own } else { 0.0 }
}

/// One kill and the way back, while the load goes on.
fn kill_one(pair: &mut Pair, load: &Load, chance: &mut Chance) -> String {
    let active = pair.active();
    let dead = if chance.below(3) == 0 {
        active.other()
    } else {
        active
    };
    pair.server(dead).kill();
    load.await_more();
    pair.server(dead).start();
    pair.await_in_sync();
    let role = if dead == active { "active" } else { "passive" };
    format!("{} killed, the {role} one", dead.name())
}

/// What was sampled, by server.
type Samples = BTreeMap<&'static str, Vec<Sample>>;

/// The load for so long, with kills in the first half.
fn run(pair: &mut Pair, load: &Load, length: Duration, chance: &mut Chance) -> Samples {
    let pace = (length / 8).min(Duration::from_secs(10));
    let began = now();
    let mut samples = Samples::new();
    let mut next_kill = pace * 3 / 2;
    eprintln!(
        "{:>7} {:<10} {:>10} {:>10} {:>9}",
        "minute", "server", "anon KiB", "store KiB", "messages"
    );
    loop {
        let elapsed = now().since(began);
        if elapsed >= length {
            return samples;
        }
        let minute = elapsed.as_secs_f64() / 60.0;
        if elapsed > next_kill && elapsed < length / 2 {
            eprintln!("{minute:>7.2} {}", kill_one(pair, load, chance));
            let pause = 1 + u32::try_from(chance.below(5)).expect("it is below five");
            next_kill = now().since(began) + pace * pause;
            continue;
        }
        for role in [Role::Primary, Role::Secondary] {
            let (server, name) = (pair.server(role), role.name());
            // A server whose lease is over may end, so that it is started anew.
            if let Some(ended) = server.has_ended() {
                eprintln!("{minute:>7.2} {name} ended by itself with {ended}");
                server.start();
                samples.remove(name);
            }
            if let Some(found) = sample(server, minute) {
                let (anonymous, store) = (found.anonymous_kib, found.store_bytes / KIB);
                let messages = found.messages;
                eprintln!("{minute:>7.2} {name:<10} {anonymous:>10} {store:>10} {messages:>9}");
                samples.entry(name).or_default().push(found);
            }
        }
        // What passes here is the time of the soak itself.
        thread::sleep(pace);
    }
}

/// Producers end, and all that is confirmed arrives and is acknowledged.
fn drain(pair: &mut Pair, load: &mut Load) {
    load.script.say("stop");
    eventually(SOON * 4, "everything confirmed is delivered", || {
        let ledger = load.ledger();
        let done = |one: &Account| one.idle && one.lost() == 0;
        let all = ledger.accounts.values().all(done);
        all.then_some(()).ok_or_else(|| ledger.table())
    });
    eventually(SOON * 4, "both stores are drained", || {
        let left = [Role::Primary, Role::Secondary].map(|role| {
            let status = pair.server(role).status();
            status.map_or(u64::MAX, |status| status.store.messages)
        });
        if left == [0, 0] {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    load.script.say("quit");
}

#[test]
fn a_mixed_soak_loses_nothing_and_does_not_creep() {
    let minutes = number_from("TWINMQ_SOAK_MINUTES");
    let seed = number_from("TWINMQ_SEED").unwrap_or(1);
    let length = Duration::from_secs(minutes.map_or(8, |count| count * 60));
    let mut pair = Pair::in_sync_with(test_name!(), &SETTINGS);
    let mut load = Load::start(&pair.hosts());
    load.await_more();
    let mut samples = run(&mut pair, &load, length, &mut Chance(seed));
    drain(&mut pair, &mut load);

    let ledger = load.ledger();
    eprintln!("{}", ledger.table());
    assert_eq!(ledger.errors, Vec::<String>::new(), "seed {seed}");
    assert!(ledger.confirmed() > 0);
    let unflagged: u64 = ledger.accounts.values().map(|one| one.unflagged).sum();
    assert_eq!(
        unflagged, 0,
        "arrivals of the same message without the flag, seed {seed}"
    );
    assert_eq!(ledger.accounts["ids"].stored_twice(), 0, "seed {seed}");

    let half = length.as_secs_f64() / 120.0;
    for role in [Role::Primary, Role::Secondary] {
        let name = role.name();
        let all = samples.remove(name).unwrap_or_default();
        let last: Vec<Sample> = all.into_iter().filter(|one| one.minute >= half).collect();
        let grows = growth(&last);
        let store = sample(pair.server(role), 0.0).expect("it runs").store_bytes;
        eprintln!(
            "{name}: {grows:.0} KiB/min over the last half, store {} KiB",
            store / KIB
        );
        if minutes.is_some_and(|count| count >= 10) {
            assert!(grows < GROWTH_MAX, "{name} grows by {grows} KiB/min");
        }
        // Nothing is live.
        assert!(store < 256 * MIB, "{name}: {store} bytes for nothing");
    }
}
