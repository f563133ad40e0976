//! The harness itself, against a toy server: the tests below would prove nothing if it were blind.

#[cfg(test)]
#[path = "../../src/cli/toy_server.rs"]
mod toy_server;

use crate::support::address::loopback_of;
use crate::support::stomp_py::{Driver, StompPy};
use toy_server::{Faults, ToyServer};

fn client_of(server: &ToyServer, heart_beat_ms: u32) -> StompPy {
    StompPy::start(&Driver {
        hosts: format!("127.0.0.1:1,{}", server.address),
        queue: "/queue/q".to_owned(),
        window: 20,
        rate: 0,
        heart_beat_ms,
    })
}

#[test]
fn stomp_py_skips_a_dead_host_and_its_messages_are_accounted_for() {
    let server = ToyServer::start(Faults::default());
    let client = client_of(&server, 0);
    client.await_confirmed(200);
    assert_eq!(client.connected_to(), [server.address.to_string()]);
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
    assert!(report.confirmed >= 200);
    assert_eq!(report.delivered_once, report.confirmed);
    assert_eq!(server.stored(), 0, "everything was acknowledged");
}

#[test]
fn stomp_py_connects_and_subscribes_again_after_each_cut() {
    let server = ToyServer::start(Faults {
        cut_every: 100,
        ..Faults::default()
    });
    let client = client_of(&server, 0);
    client.await_confirmed(500);
    let connections = client.connected_to().len();
    let report = client.finish();
    assert!(report.holds(), "{report:?}");
    assert!(connections > 3, "{connections} connections");
}

#[test]
fn a_lost_message_does_not_escape_the_harness() {
    let server = ToyServer::start(Faults {
        lose_every: 50,
        ..Faults::default()
    });
    let mut client = client_of(&server, 0);
    client.await_confirmed(120);
    client.stop_sending();
    let report = client.report_so_far();
    assert!(report.lost >= 2, "{report:?}");
    assert!(!report.holds());
}

#[test]
fn an_unflagged_second_arrival_does_not_escape_the_harness() {
    let server = ToyServer::start(Faults {
        cut_every: 10,
        forget_flag: true,
        ..Faults::default()
    });
    let client = client_of(&server, 0);
    client.await_confirmed(300);
    let report = client.finish();
    assert!(report.duplicated > 0, "{report:?}");
}

#[test]
fn each_test_has_a_loopback_address_of_its_own() {
    let (one, other) = (loopback_of("a::one"), loopback_of("a::other"));
    assert_ne!(one, other);
    assert_eq!(one, loopback_of("a::one"));
    assert!(one.is_loopback() && one.octets()[1] != 0);
    assert!(crate::test_name!().ends_with("each_test_has_a_loopback_address_of_its_own"));
}
