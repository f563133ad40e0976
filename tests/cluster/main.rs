//! Real servers, real disks, unmodified clients, `kill -9`. Nothing here measures time, and nothing
//! waits for anything but a condition.
//!
//! By command: `TWINMQ_KILLS=500 TWINMQ_SEED=1 cargo test --test cluster -- --nocapture schedule`
//! `TWINMQ_CRASH_POINTS=500 cargo test --test cluster -- --nocapture crash_points`,
//! `TWINMQ_OUTAGES=20 cargo test --test cluster -- --nocapture outage`,
//! `TWINMQ_LARGE_MIB=256 cargo test --test cluster -- --nocapture large`,
//! and `TWINMQ_SOAK_MINUTES=20 cargo test --test cluster -- --nocapture soak`.
#![expect(
    clippy::print_stderr,
    reason = "logs of failed servers, seeds and measured outages are for whoever runs the tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod admin_queues;
mod bounds;
mod commands;
mod crash_points;
mod dead_letters;
mod delete_in_use;
mod disk;
mod disk_errors;
mod duplicates;
mod explain;
mod failover;
mod fence;
mod harness;
mod large;
mod large_bounds;
mod life;
mod limits;
mod lock;
mod nemesis;
mod operate;
mod ordering;
mod outages;
mod overrule;
mod recovery;
mod refusals;
mod relief;
mod reloads;
mod resync;
mod returning;
mod scale;
mod schedule;
mod selectors;
mod shared;
mod shared_disk;
mod soak;
mod starts;
mod stomp_session;
mod stragglers;
mod topics;
mod transactions;
mod troubleshooting;
mod two_hosts;
mod volatile;
mod watchdog;

use stomp_session::StompSession;
use support::eventually::SOON;
use support::pair::{Pair, Scene};
use support::server::Server;
use support::stomp_py::{Driver, StompPy};
use twinmq::cli::stomp_client::{Connection, Hosts, StompOptions};

/// The load of these tests: one stomp.py client that sends and receives at a moderate rate, so that
/// servers have time for what is tested.
fn load(pair: &Pair) -> StompPy {
    StompPy::start(&driver(pair))
}

/// A standalone server with these keys set, and its scene; it serves.
#[track_caller]
fn standalone(test: &str, settings: &[(&str, &str)]) -> (Scene, Server) {
    let scene = Scene::new(test);
    let server = serving(&scene, settings);
    (scene, server)
}

/// The same in a scene that is there.
#[track_caller]
fn serving(scene: &Scene, settings: &[(&str, &str)]) -> Server {
    let mut server = Server::standalone(scene.address, scene.path());
    for (key, value) in settings {
        server.set(key, value);
    }
    server.start();
    server.await_state("STANDALONE");
    server
}

/// What `twinmq` prints about a server, which must succeed.
#[track_caller]
fn printed(server: &Server, words: &[&str]) -> String {
    let output = server.operator(words).output();
    let output = output.expect("the binary under test starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A stomp.py client of a server.
fn client(server: &Server) -> StompSession {
    StompSession::connect(&server.client_address(), &[])
}

/// A connection of this project's own client.
fn connect(hosts: &str) -> Connection {
    Hosts::parse(hosts, StompOptions::default())
        .expect("addresses")
        .connect(SOON, &|| false)
        .expect("a server serves")
}

/// Takes everything that is in a queue: the bodies, in order.
fn drain(hosts: &str, queue: &str) -> Vec<String> {
    let mut connection = connect(hosts);
    let mut early = connection
        .subscribe("1", queue, "client-individual", 1000, SOON)
        .expect("a server that serves takes subscribers")
        .into_iter();
    let mut bodies = Vec::new();
    // A mark of one's own ends it: what was there before comes before.
    connection.queue("SEND", &[("destination", queue)], b"the end");
    connection.flush().expect("the server serves");
    loop {
        let next = match early.next() {
            Some(frame) => Some(frame),
            None => connection.next(SOON).expect("the server serves"),
        };
        let frame = next.expect("the mark arrives in time");
        let body = String::from_utf8_lossy(&frame.body).into_owned();
        let ack = frame.header("ack").expect("a delivery to be acknowledged");
        connection.queue("ACK", &[("id", &ack)], b"");
        connection.flush().expect("the server serves");
        if body == "the end" {
            break;
        }
        bodies.push(body);
    }
    connection.close(SOON).expect("the server answers");
    bodies
}

fn driver(pair: &Pair) -> Driver {
    Driver {
        hosts: pair.hosts(),
        queue: "/queue/load".to_owned(),
        window: 50,
        rate: 300,
        heart_beat_ms: 0,
    }
}
