//! A queue that clients send to without a pause is deleted all the same, and every message that was confirmed
//! went with it or is in the queue that the senders made anew.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Scene;
use crate::support::server::Server;
use crate::{connect, drain, test_name};

const QUEUE: &str = "/queue/busy";

/// Sends, one after the other; how many were confirmed.
fn send_until(hosts: &str, stop: &AtomicBool) -> usize {
    let mut connection = connect(hosts);
    let mut confirmed = 0;
    while !stop.load(Ordering::Relaxed) {
        let headers = [("destination", QUEUE)];
        connection
            .request("SEND", &headers, b"x", SOON)
            .expect("senders hear nothing of it");
        confirmed += 1;
    }
    connection.close(SOON).expect("the server answers");
    confirmed
}

fn delete(server: &Server) -> Result<Value, String> {
    let output = server
        .operator(&["queue", "delete", "busy", "--yes", "--json"])
        .stdin(Stdio::null())
        .output()
        .expect("the binary under test starts");
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn a_queue_that_clients_send_to_without_a_pause_is_deleted() {
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.start();
    server.await_state("STANDALONE");
    let hosts = server.client_address();
    let stop = AtomicBool::new(false);
    let (confirmed, gone) = thread::scope(|scope| {
        let sender = || scope.spawn(|| send_until(&hosts, &stop));
        let senders = [sender(), sender(), sender()];
        let mut gone = 0;
        for round in 0..5 {
            let mut found = Value::Null;
            eventually(SOON, &format!("it is deleted, round {round}"), || {
                match delete(&server) {
                    Ok(deleted) => {
                        found = deleted;
                        Ok(())
                    }
                    // Not made anew yet.
                    Err(said) if said.contains("no destination") => Err(said),
                    Err(said) => panic!("{said}"),
                }
            });
            gone += found["messages"].as_u64().expect("a number");
        }
        stop.store(true, Ordering::Relaxed);
        let confirmed = senders.map(|sender| sender.join().expect("it sent to the end"));
        (confirmed.iter().sum::<usize>(), gone)
    });
    assert!(gone > 0, "something went with it");
    let left = drain(&hosts, QUEUE).len();
    let gone = usize::try_from(gone).expect("it fits");
    assert_eq!(gone + left, confirmed);
    server.kill();
    server.assert_store_is_sound();
}
