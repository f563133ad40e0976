//! One server of a pair in sync dies or is stopped under load.

use crate::support::pair::Pair;
use crate::support::stomp_py::{Driver, StompPy};
use crate::{driver, load, test_name};

#[test]
fn kill_9_of_the_active_under_load_loses_nothing_that_was_confirmed() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(200);
    let dead = pair.active();
    pair.server(dead).kill();
    client.await_confirmed(200);
    assert_eq!(pair.active(), dead.other());
    pair.server(dead).start();
    assert_eq!(pair.await_in_sync(), dead.other());
    client.await_confirmed(200);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn kill_9_of_the_passive_under_load_and_its_return_lose_nothing() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(200);
    let active = pair.active();
    pair.server(active.other()).kill();
    pair.server(active).await_state("STANDALONE");
    client.await_confirmed(200);
    pair.server(active.other()).start();
    assert_eq!(pair.await_in_sync(), active);
    // The returned copy is a whole one: it serves everything after the other's death.
    pair.server(active).kill();
    client.await_confirmed(100);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn sigterm_of_the_active_hands_over_and_ends_with_success() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    let stopped = pair.active();
    let status = pair.server(stopped).terminate();
    assert!(status.success(), "{status}");
    pair.server(stopped.other())
        .await_status("it serves", |s| s.serving);
    client.await_confirmed(100);
    pair.server(stopped).start();
    pair.await_in_sync();
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}

#[test]
fn sigterm_of_the_passive_leaves_the_active_serving() {
    let mut pair = Pair::in_sync(test_name!());
    let client = load(&pair);
    client.await_confirmed(100);
    let active = pair.active();
    assert!(pair.server(active.other()).terminate().success());
    pair.server(active).await_state("STANDALONE");
    client.await_confirmed(100);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
    assert_eq!(report.redelivered, 0, "no client connection was touched");
}

#[test]
fn clients_with_heart_beats_stay_connected_and_fail_over_too() {
    let settings = [
        ("client.heart_beat_send_ms", "500"),
        ("client.heart_beat_receive_ms", "500"),
    ];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let client = StompPy::start(&Driver {
        heart_beat_ms: 500,
        ..driver(&pair)
    });
    client.await_confirmed(200);
    assert_eq!(client.connected_to().len(), 1);
    let dead = pair.active();
    pair.server(dead).kill();
    client.await_confirmed(500);
    assert_eq!(
        client.connected_to().len(),
        2,
        "the new connection lives on"
    );
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
}
