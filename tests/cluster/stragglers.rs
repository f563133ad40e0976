//! Messages that nobody takes, strewn among others that are gone.

use std::process::Stdio;

use crate::support::eventually::SOON;
use crate::support::pair::Pair;
use crate::support::server::{Role, Server};
use crate::{connect, drain, test_name};

const MIB: u64 = 1 << 20;
/// Ten of them fill a chunk of the log.
const BODY: usize = 6000;
/// Beyond the bound of what may be in use for a tenth of them: twice that and 256 MiB.
const MESSAGES: u64 = 60_000;

/// Every tenth message goes to a queue of its own. The body says which one it is.
fn fill(hosts: &str) {
    let mut connection = connect(hosts);
    let mut body = vec![b'x'; BODY];
    for number in 1..=MESSAGES {
        let queue = if number.is_multiple_of(10) {
            "/queue/left"
        } else {
            "/queue/taken"
        };
        body[..6].copy_from_slice(format!("{number:06}").as_bytes());
        let headers = [("destination", queue)];
        // A receipt now and then, so that servers are not far behind.
        if number.is_multiple_of(2000) {
            connection
                .request("SEND", &headers, &body, SOON)
                .expect("a server that serves confirms");
            continue;
        }
        connection.queue("SEND", &headers, &body);
        if connection.queued_bytes() > 500_000 {
            connection.flush().expect("the server serves");
        }
    }
    connection.close(SOON).expect("the server answers");
}

fn purge(server: &Server, queue: &str) {
    let mut command = server.operator(&["queue", "purge", queue, "--yes"]);
    command.stdin(Stdio::null());
    let output = command.output().expect("the binary under test starts");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn one_message_in_ten_is_left_and_both_stores_return_below_their_bound() {
    let settings = [("store.retain_mib", "16"), ("store.checkpoint_mib", "16")];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    fill(&pair.hosts());
    let active = pair.active();
    purge(pair.server(active), "taken");
    let left = MESSAGES / 10;
    let bound = 2 * left * BODY as u64 + 256 * MIB;
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role)
            .await_status("its store is below the bound", |status| {
                status.store.messages == left && status.store.bytes < bound
            });
    }
    // The other takes over with all that is left.
    pair.server(active).kill();
    pair.server(active.other())
        .await_status("it serves", |status| status.serving);
    let bodies = drain(&pair.hosts(), "/queue/left");
    let numbers: Vec<u64> = bodies
        .iter()
        .map(|body| body[..6].parse().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=left).map(|number| number * 10).collect();
    assert_eq!(numbers, expected);
    pair.server(active.other()).terminate();
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).assert_store_is_sound();
    }
}
