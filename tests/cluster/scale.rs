//! Many of everything: client connections, destinations, messages that wait. What they take of a server's
//! memory is measured and bounded.
//!
//! By command, as large as they are meant to be, with another build than the one under test:
//! `TWINMQ_BINARY=$PWD/target/release/twinmq TWINMQ_CONNECTIONS=5000 TWINMQ_DESTINATIONS=100000
//! TWINMQ_BACKLOG=10000000 TWINMQ_BACKLOG_BYTES=128 cargo test --test cluster -- --nocapture scale`.

use std::fmt::Display;
use std::time::Duration;

use twinmq::cli::stomp_client::{Connection, Frame};
use twinmq::time::Moment;

use crate::support::chance::number_from;
use crate::support::eventually::{SOON, eventually, now};
use crate::support::memory::anonymous_kib;
use crate::support::pair::{Pair, Scene};
use crate::support::server::{Role, Server};
use crate::{connect, test_name};

/// Where a deep backlog waits.
const DEEP: &str = "/queue/deep";
/// Sends that are not yet confirmed.
const WINDOW: u64 = 2000;
/// Messages whose rate is printed: those at either end of a backlog are compared.
const ENDS: u64 = 100_000;
/// Large ones take long on a slow machine.
const LONG: Duration = Duration::from_secs(600);
/// Anonymous memory that an idle connection with one subscription may take, with its queue.
const CONNECTION_KIB_MAX: u64 = 32;
/// Anonymous memory that a queue with one message may take.
const DESTINATION_KIB_MAX: u64 = 8;
/// Anonymous memory that a backlog may take, however deep it is: its window and what is kept of the log.
const BACKLOG_KIB_MAX: u64 = 64 * 1024;
/// What a server may gain for other reasons while it does something.
const SLACK_KIB: u64 = 16 * 1024;

fn print(what: impl Display, kib: u64, of: u64, each: &str) {
    let bytes = kib * 1024 / of.max(1);
    eprintln!("{what}: {kib} KiB, {bytes} bytes for each of {of} {each}");
}

/// Of so many, in a second.
#[expect(clippy::cast_precision_loss, reason = "a rate is read by people")]
fn rate(count: u64, since: Moment) -> f64 {
    (count as f64 / now().since(since).as_secs_f64()).round()
}

fn memory(server: &Server) -> u64 {
    anonymous_kib(server.pid().expect("it runs")).expect("it runs")
}

/// Sends each of `count` to its queue, with a window of unconfirmed ones, and waits until all are confirmed.
fn send_all(connection: &mut Connection, count: u64, of: impl Fn(u64) -> (String, Vec<u8>)) {
    let mut confirmed = 0;
    for number in 0..count {
        let (destination, body) = of(number);
        let receipt = number.to_string();
        let headers = [("destination", destination.as_str()), ("receipt", &receipt)];
        connection.queue("SEND", &headers, &body);
        if connection.queued_bytes() >= 64 << 10 || number + 1 == count {
            connection.flush().expect("it serves");
        }
        let most = if number + 1 == count { 0 } else { WINDOW };
        while number + 1 - confirmed > most {
            connection.flush().expect("it serves");
            let frame = connection.next(LONG).expect("it serves");
            let frame = frame.expect("sends are confirmed");
            assert_eq!(frame.command(), b"RECEIPT", "{frame:?}");
            confirmed += 1;
        }
    }
}

#[test]
fn scale_many_connections_take_little_memory_and_all_get_their_messages_across_a_failover() {
    let count = number_from("TWINMQ_CONNECTIONS").unwrap_or(200);
    let most = (count + 10).to_string();
    let settings = [("limits.max_connections", most.as_str())];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let active = pair.active();
    for serving in [active, active.other()] {
        pair.server(serving)
            .await_status_within(SOON, "it serves", |status| status.serving);
        let server = pair.server(serving);
        let before = memory(server);
        let address = server.client_address();
        let mut clients: Vec<Connection> = (0..count)
            .map(|number| {
                let mut client = connect(&address);
                let queue = format!("/queue/own.{number}");
                let early = client.subscribe("0", &queue, "client-individual", 10, SOON);
                assert_eq!(early.expect("it serves").len(), 0);
                client
            })
            .collect();
        let idle = memory(server).saturating_sub(before);
        print("connected and subscribed", idle, count, "connections");
        for (number, client) in clients.iter_mut().enumerate() {
            // Each sends to its neighbour.
            let queue = format!("/queue/own.{}", (number as u64 + 1) % count);
            client.queue("SEND", &[("destination", &queue)], &[b'x'; 1024]);
            client.flush().expect("it serves");
        }
        for client in &mut clients {
            let frame = client.next(LONG).expect("it serves");
            let frame = frame.expect("its neighbour sent something");
            let ack = frame.header("ack").expect("it is to be acknowledged");
            client
                .request("ACK", &[("id", &ack)], b"", SOON)
                .expect("it serves");
        }
        let busy = memory(server).saturating_sub(before);
        print("each has sent and received", busy, count, "connections");
        let most = count * CONNECTION_KIB_MAX + SLACK_KIB;
        assert!(idle.max(busy) <= most, "{idle} and {busy} KiB");
        server.kill();
        if serving == active {
            pair.server(active.other()).await_state("STANDALONE");
        }
    }
}

#[test]
fn scale_many_destinations_take_little_memory_and_are_all_there_after_a_kill() {
    let count = number_from("TWINMQ_DESTINATIONS").unwrap_or(2000);
    let most = (count + 10).to_string();
    let settings = [("limits.max_destinations", most.as_str())];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let active = pair.active();
    let roles = [active, active.other()];
    let before = roles.map(|role| memory(pair.server(role)));
    let queue = |number: u64| format!("/queue/region.{}.store.{number}", number % 100);
    send_all(&mut connect(&pair.hosts()), count, |number| {
        (queue(number), number.to_string().into_bytes())
    });
    let most = count * DESTINATION_KIB_MAX + SLACK_KIB;
    let within = |pair: &mut Pair, role: Role, before: u64, what: &str| {
        let taken = memory(pair.server(role)).saturating_sub(before);
        print(format!("{}, {what}", role.name()), taken, count, "queues");
        assert!(taken <= most, "{taken} KiB");
    };
    within(&mut pair, active, before[0], "active");
    // What each frees as it goes to sleep the allocator may keep for others.
    let server = pair.server(active);
    eventually(
        LONG,
        "all sleep: their messages are the store's alone",
        || {
            let clients = server.status()?.clients.ok_or("it does not serve")?;
            match clients.limits.memory_bytes {
                0 => Ok(()),
                kept => Err(format!("{kept} bytes of messages in memory")),
            }
        },
    );
    let asleep = memory(server).saturating_sub(before[0]);
    print("active, asleep", asleep, count, "queues");
    let mut client = connect(&pair.hosts());
    let one = client.subscribe("0", &queue(count / 2), "client", 1, SOON);
    let one = one.expect("it serves").into_iter().next();
    let one = one.map_or_else(|| client.next(SOON).expect("it serves"), Some);
    let one = one.expect("it has one");
    assert_eq!(one.body, (count / 2).to_string().as_bytes());
    assert_eq!(one.header("redelivered").as_deref(), None, "it is new");
    drop(client);
    within(&mut pair, active.other(), before[1], "passive");
    pair.server(active).kill();
    let started = now();
    pair.server(active.other())
        .await_status_within(LONG, "it has taken over", |status| status.serving);
    eprintln!("serves {} ms after it", now().since(started).as_millis());
    within(&mut pair, active.other(), before[1], "after its take-over");
    let status = pair.server(active.other()).status().expect("it serves");
    assert_eq!(status.store.messages, count);
    let started = now();
    pair.server(active).start();
    pair.await_in_sync();
    eprintln!(
        "in sync {} ms after its start",
        now().since(started).as_millis()
    );
    within(&mut pair, active, 0, "started again, all of it");
    let mut client = connect(&pair.hosts());
    for number in (0..count).step_by(usize::try_from(count / 20).expect("it is small").max(1)) {
        let early = client.subscribe(&number.to_string(), &queue(number), "auto", 1, SOON);
        let early = early.expect("it serves");
        let found = match early.into_iter().next() {
            Some(frame) => frame,
            None => client.next(SOON).expect("it serves").expect("it has one"),
        };
        assert_eq!(found.body, number.to_string().as_bytes());
    }
}

/// Takes what comes in order, and acknowledges it by the last of each hundred.
struct Drain {
    connection: Connection,
    early: std::vec::IntoIter<Frame>,
    next: u64,
}

impl Drain {
    fn start(server: &Server) -> Self {
        let mut connection = connect(&server.client_address());
        let early = connection.subscribe("0", DEEP, "client", 5000, SOON);
        Self {
            early: early.expect("it serves").into_iter(),
            connection,
            next: 0,
        }
    }

    fn take(&mut self, count: u64) {
        for _ in 0..count {
            let frame = match self.early.next() {
                Some(frame) => frame,
                None => {
                    let next = self.connection.next(LONG).expect("it serves");
                    next.expect("there are more")
                }
            };
            let text = &frame.body[..frame.body.len().min(12)];
            assert_eq!(text, format!("{:012}", self.next).as_bytes());
            self.next += 1;
            if self.next.is_multiple_of(100) {
                let ack = frame.header("ack").expect("it is to be acknowledged");
                self.connection.queue("ACK", &[("id", &ack)], b"");
                self.connection.flush().expect("it serves");
            }
        }
    }
}

#[test]
fn scale_a_deep_backlog_takes_bounded_memory_and_comes_out_whole_and_in_order_after_a_kill() {
    let count = number_from("TWINMQ_BACKLOG").unwrap_or(50_000);
    let bytes = number_from("TWINMQ_BACKLOG_BYTES").unwrap_or(1024);
    let scene = Scene::new(test_name!());
    let mut server = Server::standalone(scene.address, scene.path());
    server.set("store.quota_mib", "65536");
    server.start_and_await();
    server.await_status("it serves", |status| status.serving);
    let before = memory(&server);
    let filling = now();
    send_all(&mut connect(&server.client_address()), count, |number| {
        let size = usize::try_from(bytes).expect("a body is small");
        (
            DEEP.to_owned(),
            format!("{number:012}{:1$}", "", size.saturating_sub(12)).into(),
        )
    });
    eprintln!("filled: {}/s", rate(count, filling));
    let filled = memory(&server).saturating_sub(before);
    print("filled", filled, count, "messages");
    server.kill();
    let starting = now();
    server.start();
    server.await_status_within(LONG, "it serves again", |status| status.serving);
    eprintln!(
        "serves {} ms after its start",
        now().since(starting).as_millis()
    );
    let opened = memory(&server);
    print("opened, all of it", opened, count, "messages");
    let slice = ENDS.min(count / 10).max(1);
    let mut drain = Drain::start(&server);
    let mut rates: Vec<f64> = Vec::new();
    while drain.next < count {
        let (part, since) = (slice.min(count - drain.next), now());
        drain.take(part);
        rates.push(rate(part, since));
    }
    let last = rates.split_off(rates.len() - rates.len().min(5));
    rates.truncate(5);
    eprintln!("drained by {slice}, the first in a second: {rates:?}, the last: {last:?}");
    drain
        .connection
        .close(SOON)
        .expect("what was acknowledged is confirmed");
    eventually(LONG, "all is acknowledged", || {
        let status = server.status()?;
        match status.store.messages {
            0 => Ok(()),
            left => Err(format!("{left} messages")),
        }
    });
    let drained = memory(&server);
    print("drained, all of it", drained, count, "messages");
    let most = filled
        .max(opened.saturating_sub(before))
        .max(drained.saturating_sub(before));
    assert!(
        most <= BACKLOG_KIB_MAX,
        "{most} KiB more than the {before} before"
    );
}
