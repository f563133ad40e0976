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

/// Bodies of about 300 KB, whose last parts are of all sizes.
const LARGE: usize = 270_000;
/// Beyond the bound for a tenth of them.
const LARGE_MESSAGES: u64 = 1300;
/// They are sent side by side, so that parts of several share a chunk.
const SENDERS: u64 = 6;

fn large_bytes(number: u64) -> usize {
    LARGE + usize::try_from(number % 50).expect("small") * 1200
}

/// It begins with its number, and the rest follows from that.
fn large_body(number: u64) -> Vec<u8> {
    let mut body = format!("{number:06}").into_bytes();
    let letter = b'a' + u8::try_from(number % 26).expect("small");
    body.resize(large_bytes(number), letter);
    body
}

/// Every tenth large message goes to a queue of its own.
fn fill_with_large(hosts: &str) {
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            scope.spawn(move || {
                let mut connection = connect(hosts);
                for number in (1..=LARGE_MESSAGES).filter(|number| number % SENDERS == sender) {
                    let queue = if number.is_multiple_of(10) {
                        "/queue/left"
                    } else {
                        "/queue/taken"
                    };
                    connection
                        .request(
                            "SEND",
                            &[("destination", queue)],
                            &large_body(number),
                            SOON * 2,
                        )
                        .expect("a server that serves confirms");
                }
                connection.close(SOON).expect("the server answers");
            });
        }
    });
}

#[test]
fn one_large_message_in_ten_is_left_and_is_whole_after_kills() {
    let settings = [("store.retain_mib", "16"), ("store.checkpoint_mib", "16")];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    fill_with_large(&pair.hosts());
    let active = pair.active();
    purge(pair.server(active), "taken");
    let left = LARGE_MESSAGES / 10;
    let owed: usize = (1..=left).map(|number| large_bytes(number * 10)).sum();
    let bound = 2 * owed as u64 + 256 * MIB;
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role)
            .await_status("its store is below the bound", |status| {
                status.store.messages == left && status.store.bytes < bound
            });
    }
    // The other takes over with all that is left, and finds it again after a kill of its own.
    pair.server(active).kill();
    let other = active.other();
    pair.server(other)
        .await_status("it serves", |status| status.serving);
    pair.server(other).kill();
    pair.server(other).start();
    pair.server(other)
        .await_status("it serves again", |status| status.serving);
    let mut bodies = drain(&pair.hosts(), "/queue/left");
    bodies.sort_unstable();
    assert_eq!(bodies.len() as u64, left);
    for (body, number) in bodies.iter().zip((1..=left).map(|number| number * 10)) {
        assert!(
            body.as_bytes() == large_body(number),
            "{number} is not whole"
        );
    }
    pair.server(other).terminate();
    for role in [Role::Primary, Role::Secondary] {
        pair.server(role).assert_store_is_sound();
    }
}
