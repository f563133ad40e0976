//! Real servers, real disks, unmodified clients, `kill -9`. Nothing here measures time, and nothing
//! waits for anything but a condition.
//!
//! By command: `TWINMQ_KILLS=500 TWINMQ_SEED=1 cargo test --test cluster -- --nocapture schedule`
//! and `TWINMQ_OUTAGES=20 cargo test --test cluster -- --nocapture outage`.
#![expect(
    clippy::print_stderr,
    reason = "logs of failed servers, seeds and measured outages are for whoever runs the tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod failover;
mod harness;
mod lock;
mod recovery;
mod refusals;
mod schedule;
mod starts;

use support::pair::Pair;
use support::stomp_py::{Driver, StompPy};

/// The load of these tests: one stomp.py client that sends and receives at a moderate rate, so that
/// servers have time for what is tested.
fn load(pair: &Pair) -> StompPy {
    StompPy::start(&driver(pair))
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
