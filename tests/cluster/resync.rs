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

/// Small messages first and large ones at the end: the estimate is of bytes, not of messages.
#[test]
fn the_estimate_holds_for_messages_of_many_sizes() {
    let slow = [("ha.replication.resync_bandwidth_mib_s", "8")];
    let mut pair = left_behind(test_name!(), &slow, 2000, 1);
    send(&pair.primary.client_address(), 192, 64);
    pair.secondary.start();
    let first = eventually(SOON, "the resync is seen", || {
        let status = pair.primary.status()?;
        let moving = status.sync.filter(|sync| sync.done_bytes > 0);
        moving.ok_or_else(|| "nothing moves yet".to_owned())
    });
    await_in_sync(&mut pair);
    let sent = sent_bytes(&pair.primary.log());
    assert_eq!(first.kind, "incremental");
    let apart = first.total_bytes.abs_diff(sent);
    assert!(apart * 20 <= sent, "{first:?}, and {sent} were sent");
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

/// Why a returning server has something to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// It was away.
    Missed,
    /// It has nothing, and the log has all.
    Wiped,
    /// It has nothing, and the log has only its end: it is filled by a snapshot.
    Collected,
}

/// Waits until this share of what is to be sent has moved; none if it was over before that was seen.
fn await_share(pair: &mut Pair, share: u64) -> Option<SyncStatus> {
    let filling = &pair.primary;
    eventually(SOON, "a resync comes that far", || match filling.status() {
        Ok(status) if status.pair_is_in_sync() => Ok(None),
        Ok(Status {
            sync: Some(sync), ..
        }) if sync.total_bytes > MIB && sync.done_bytes * 100 >= sync.total_bytes * share => {
            Ok(Some(sync))
        }
        Ok(status) => Err(format!("{status:?}")),
        Err(error) => Err(error),
    })
}

/// The kind of the last resync that this server led, in its log.
fn last_kind(pair: &Pair) -> String {
    let log = pair.primary.log();
    let told = log.rsplit("resync of the returning server: ").next();
    let kind = told.and_then(|told| told.split([':', ',']).next());
    kind.expect("a resync was told of").to_owned()
}

/// The blow falls, and what it hit comes back.
fn strike(pair: &mut Pair, blow: Blow) {
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
}

fn interrupted(test: &'static str, gap: Gap) {
    in_a_lab(move || {
        let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| now().0);
        let rounds = number_from("TWINMQ_RESYNC_ROUNDS").unwrap_or(3);
        eprintln!("repeat it with TWINMQ_SEED={seed} TWINMQ_RESYNC_ROUNDS={rounds}");
        let mut chance = Chance(seed);
        // Slow enough to be caught in the middle.
        let slow = ("ha.replication.resync_bandwidth_mib_s", "8");
        let short = [
            slow,
            ("store.retain_mib", "16"),
            ("store.checkpoint_mib", "1"),
        ];
        let settings = if gap == Gap::Collected {
            &short[..]
        } else {
            &short[..1]
        };
        let mut pair = Pair::in_sync_with(test, settings);
        if gap == Gap::Collected {
            // Beyond what is retained: the log's beginning, of which nothing is owed, goes.
            send(&pair.primary.client_address(), BALLAST * 5 / 4, 64);
        }
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
            if gap != Gap::Missed {
                fs::remove_dir_all(pair.secondary.data_dir()).expect("nothing runs on it");
            }
            if gap != Gap::Collected {
                send(&pair.primary.client_address(), BALLAST, 64);
            }
            pair.secondary.start();
            let share = chance.count_below(70);
            let sync = await_share(&mut pair, share);
            caught += u64::from(sync.is_some());
            eprintln!("seed {seed}: {blow:?} at {share} %: {sync:?}");
            let Some(sync) = sync else {
                continue;
            };
            // A wiped one is filled from the log's beginning while that is still kept.
            match gap {
                Gap::Missed => assert_eq!(sync.kind, "incremental", "{sync:?}"),
                Gap::Collected => assert_eq!(sync.kind, "full", "{sync:?}"),
                Gap::Wiped => {}
            }
            strike(&mut pair, blow);
            await_in_sync(&mut pair);
            // Only a whole copy may ever serve, and the secondary was never one before.
            assert_eq!(pair.active(), Role::Primary, "seed {seed}, {blow:?}");
            if gap == Gap::Collected {
                assert_eq!(last_kind(&pair), "full", "it starts over");
            }
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
    interrupted(test_name!(), Gap::Wiped);
}

#[test]
fn an_interrupted_resync_of_what_was_missed_starts_over_and_never_serves() {
    interrupted(test_name!(), Gap::Missed);
}

#[test]
fn an_interrupted_resync_by_a_snapshot_starts_over_and_never_serves() {
    interrupted(test_name!(), Gap::Collected);
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
