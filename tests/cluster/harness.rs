//! The harness itself, against a toy server: the tests below would prove nothing if it were blind.

#[cfg(test)]
#[path = "../../src/cli/toy_server.rs"]
mod toy_server;

use std::process::{Child, Command, Stdio};

use crate::support::address::loopback_of;
use crate::support::eventually::{SOON, eventually};
use crate::support::python;
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

/// A process that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // In most cases it has ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Put after the document's example: sends until a hundred are confirmed.
const UNTIL_A_HUNDRED: &str = r#"
confirmed = set()


Life.on_receipt = lambda self, frame: confirmed.add(frame.headers["receipt-id"])
number = 0
while len(confirmed) < 100:
    try:
        life.connection.send("/queue/orders", str(number), receipt=str(number))
    except Exception:
        pass
    number += 1
    time.sleep(0.002)
"#;

#[test]
fn the_example_of_the_clients_document_goes_on_after_each_cut() {
    let server = ToyServer::start(Faults {
        cut_every: 30,
        ..Faults::default()
    });
    let document = include_str!("../../docs/clients.md");
    let example = document
        .split("```python\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the document has an example");
    let hosts = r#"("10.0.0.1", 1856), ("10.0.0.2", 1956)"#;
    assert!(example.contains(hosts), "the example names both servers");
    let own = format!(
        r#"("127.0.0.1", 1), ("127.0.0.1", {})"#,
        server.address.port()
    );
    let program = example.replace(hosts, &own) + UNTIL_A_HUNDRED;
    let client = Command::new(python::interpreter())
        .args(["-c", &program])
        .stderr(Stdio::null())
        .spawn()
        .expect("the interpreter starts");
    let mut client = Ended(client);
    let status = eventually(SOON, "a hundred are confirmed", || {
        let status = client.0.try_wait().expect("it can be waited for");
        status.ok_or_else(|| "it still runs".to_owned())
    });
    assert!(status.success(), "{status}");
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
