//! Resyncs: how much they move, and what becomes of one that is interrupted.
//!
//! By command: `TWINMQ_RESYNC_MISSED=100000 cargo test --test cluster -- --nocapture missed`,
//! `TWINMQ_RESYNC_ROUNDS=20 TWINMQ_SEED=1 ... interrupted`, and, printed and not judged,
//! `TWINMQ_RESYNC_GIB=1 TWINMQ_BINARY=$PWD/target/release/twinmq ... gibibyte`.

use std::fs;
use std::time::Duration;

use twinmq::cli::admin_client::{Status, SyncStatus};

use crate::nemesis::lab::{Cut, Network, in_a_lab};
use crate::support::chance::{Chance, number_from};
use crate::support::eventually::{SOON, eventually, now};
use crate::support::pair::Pair;
use crate::support::server::Role;
use crate::{connect, load, test_name};

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;
/// A full resync of a store of some GiB on a slow disk.
const LONG: Duration = Duration::from_secs(600);

/// Sends so many persistent messages of one KiB, or of as many as are said, to a queue of their own.
fn send(hosts: &str, count: u64, kib: usize) {
    let mut connection = connect(hosts);
    let body = vec![b'm'; kib * KIB];
    let headers = [("destination", "/queue/missed")];
    for number in 1..=count {
        if number % 200 == 0 || number == count {
            connection
                .request("SEND", &headers, &body, SOON)
                .expect("a server that serves confirms");
        } else {
            connection.queue("SEND", &headers, &body);
        }
    }
}

/// The pair in sync, then the secondary killed while the primary gets these messages.
fn left_behind(test: &str, settings: &[(&str, &str)], missed: u64, kib: usize) -> Pair {
    let mut pair = Pair::in_sync_with(test, settings);
    pair.secondary.kill();
    pair.primary.await_state("STANDALONE");
    send(&pair.primary.client_address(), missed, kib);
    pair
}

fn await_in_sync(pair: &mut Pair) {
    pair.primary
        .await_status_within(LONG, "in sync", Status::pair_is_in_sync);
    pair.await_in_sync();
}

/// What the active says of the bytes of its last resync.
fn sent_bytes(log: &str) -> u64 {
    let (_, rest) = log
        .rsplit_once("a whole copy, ")
        .expect("a resync has ended");
    let number = rest.split(' ').next().expect("split gives one");
    number.parse().expect("a number of bytes")
}

fn missed(test: &str, count: u64) {
    let mut pair = left_behind(test, &[], count, 1);
    pair.secondary.start();
    await_in_sync(&mut pair);
    let log = pair.primary.log();
    let last = log.rsplit("resync of the returning server: ").next();
    assert!(
        last.is_some_and(|last| last.starts_with("incremental")),
        "{log}"
    );
    let (bytes, payload) = (sent_bytes(&log), count * KIB as u64);
    eprintln!("{count} missed messages of 1 KiB: {bytes} bytes for {payload} of payload");
    assert!(bytes >= payload, "{bytes} bytes cannot hold {payload}");
    assert!(bytes <= payload * 115 / 100 + MIB, "{bytes} for {payload}");
}

#[test]
fn a_thousand_missed_messages_cost_little_more_than_themselves() {
    missed(test_name!(), 1000);
}

#[test]
fn ten_thousand_missed_messages_cost_little_more_than_themselves() {
    missed(
        test_name!(),
        number_from("TWINMQ_RESYNC_MISSED").unwrap_or(10_000),
    );
}

/// What interrupts a resync.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillFilled,
    KillFilling,
    CutLink,
}

/// Put into the gap that an interrupted resync has to fill: messages of 64 KiB.
const BALLAST: u64 = 256;

/// Waits until this share of the ballast has moved; none if it was over before that was seen.
fn await_share(pair: &mut Pair, share: u64) -> Option<SyncStatus> {
    let filling = &pair.primary;
    eventually(SOON, "a resync comes that far", || match filling.status() {
        Ok(status) if status.pair_is_in_sync() => Ok(None),
        Ok(Status {
            sync: Some(sync), ..
        }) if sync.done_bytes * 100 >= BALLAST * 64 * KIB as u64 * share => Ok(Some(sync)),
        Ok(status) => Err(format!("{status:?}")),
        Err(error) => Err(error),
    })
}

fn interrupted(test: &'static str, wiped: bool) {
    in_a_lab(move || {
        let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| now().0);
        let rounds = number_from("TWINMQ_RESYNC_ROUNDS").unwrap_or(3);
        eprintln!("repeat it with TWINMQ_SEED={seed} TWINMQ_RESYNC_ROUNDS={rounds}");
        let mut chance = Chance(seed);
        // Slow enough to be caught in the middle.
        let slow = [("ha.replication.resync_bandwidth_mib_s", "8")];
        let mut pair = Pair::in_sync_with(test, &slow);
        let client = load(&pair);
        client.await_confirmed(50);
        let mut caught = 0;
        let first = chance.below(3);
        for round in 0..rounds {
            let blows = [Blow::KillFilled, Blow::KillFilling, Blow::CutLink];
            let turn = usize::try_from(round).expect("small");
            let blow = blows[(first + turn) % blows.len()];
            pair.secondary.kill();
            pair.primary.await_state("STANDALONE");
            if wiped {
                fs::remove_dir_all(pair.secondary.data_dir()).expect("nothing runs on it");
            }
            send(&pair.primary.client_address(), BALLAST, 64);
            pair.secondary.start();
            let share = chance.count_below(70);
            let sync = await_share(&mut pair, share);
            caught += u64::from(sync.is_some());
            eprintln!("seed {seed}: {blow:?} at {share} %: {sync:?}");
            let Some(sync) = sync else {
                continue;
            };
            // A wiped one is filled from the log's beginning while that is still kept.
            assert!(wiped || sync.kind == "incremental", "{sync:?}");
            match blow {
                Blow::KillFilled => {
                    pair.secondary.kill();
                    pair.secondary.start();
                }
                Blow::KillFilling => {
                    pair.primary.kill();
                    pair.secondary
                        .await_status("it has noticed", |status| status.state == "WAITING");
                    pair.primary.start();
                }
                Blow::CutLink => {
                    Network.cut(Cut::Link);
                    pair.primary
                        .await_status("it has noticed", |status| status.state == "STANDALONE");
                    Network.heal();
                }
            }
            await_in_sync(&mut pair);
            // Only a whole copy may ever serve, and the secondary was never one before.
            assert_eq!(pair.active(), Role::Primary, "seed {seed}, {blow:?}");
            client.await_confirmed(50);
        }
        let report = client.finish();
        assert!(report.holds(), "seed {seed}: {report:?}");
        assert!(caught > 0, "seed {seed}: no resync was caught under way");
        let (log, _) = pair.secondary.whole_log();
        assert!(!log.contains("switched to STANDALONE"), "{log}");
        for server in [&mut pair.primary, &mut pair.secondary] {
            server.terminate();
            server.assert_store_is_sound();
        }
    });
}

#[test]
fn an_interrupted_resync_of_a_wiped_server_starts_over_and_never_serves() {
    interrupted(test_name!(), true);
}

#[test]
fn an_interrupted_resync_of_what_was_missed_starts_over_and_never_serves() {
    interrupted(test_name!(), false);
}

/// Confirm times of a steady load until a condition holds, in microseconds, sorted.
fn confirm_times(hosts: &str, mut goes_on: impl FnMut() -> bool) -> Vec<u128> {
    let mut connection = connect(hosts);
    let headers = [("destination", "/queue/steady")];
    let body = vec![b's'; KIB];
    let mut times = Vec::new();
    while goes_on() {
        let from = now();
        connection
            .request("SEND", &headers, &body, SOON)
            .expect("a server that serves confirms");
        times.push(now().since(from).as_micros());
    }
    times.sort_unstable();
    times
}

fn told(times: &[u128]) -> String {
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(0);
    format!(
        "p50 {} us, p99 {} us of {} sends",
        at(50),
        at(99),
        times.len()
    )
}

#[test]
fn a_wiped_server_is_filled_by_the_gibibyte_while_clients_send() {
    let gib = number_from("TWINMQ_RESYNC_GIB");
    // A mere pass through it in a plain run.
    let (count, before) = gib.map_or((256, Duration::from_millis(200)), |gib| {
        (gib * 16 * 1024, Duration::from_secs(30))
    });
    let mut pair = left_behind(test_name!(), &[], count, 64);
    fs::remove_dir_all(pair.secondary.data_dir()).expect("nothing runs on it");
    let hosts = pair.primary.client_address();
    let until = now().after(before);
    let calm = confirm_times(&hosts, || now() < until);
    let from = now();
    pair.secondary.start();
    let mut ends = 0;
    let busy = confirm_times(&hosts, || {
        ends += 1;
        ends % 20 != 0 || !pair.primary.status().is_ok_and(|s| s.pair_is_in_sync())
    });
    let spent = now().since(from);
    await_in_sync(&mut pair);
    let bytes = sent_bytes(&pair.primary.log());
    assert!(bytes >= count * 64 * KIB as u64, "{bytes}");
    let ms = u64::try_from(spent.as_millis()).expect("minutes").max(1);
    eprintln!(
        "wiped server: {bytes} bytes in {ms} ms, {} MiB/s\n  before: {}\n  during: {}",
        bytes * 1000 / ms / MIB,
        told(&calm),
        told(&busy)
    );
}
