//! SIGSTOP, for less and for more than the lease, and SIGCONT.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::lab::in_a_lab;
use super::{Mode, Nemesis};
use crate::support::server::Role;
use crate::test_name;

/// Stops in a plain `cargo test`.
const STOPS: u64 = 5;
/// LeaseTTL of the stock profiles is 2 s.
const SHORT: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(1800)];
const LONG: [Duration; 2] = [Duration::from_millis(2500), Duration::from_secs(6)];
/// By command.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Stop {
    ActiveShort,
    ActiveLong,
    PassiveShort,
    PassiveLong,
    Both,
}

const DECK: [Stop; 5] = [
    Stop::ActiveLong,
    Stop::PassiveLong,
    Stop::Both,
    Stop::ActiveShort,
    Stop::PassiveShort,
];

fn signal(nemesis: &mut Nemesis, role: Role, machine: bool, signal: Signal) {
    let server = nemesis.pair.server(role);
    if machine {
        server.signal_with_children(signal);
    } else {
        server.signal(signal);
    }
}

fn stop_and_wake(test: &'static str, mode: Mode) {
    in_a_lab(move || {
        let mut nemesis = Nemesis::new(test, mode);
        let stops = Nemesis::count("TWINMQ_STOPS", STOPS);
        let longest = if stops > STOPS { LONGEST } else { LONG[1] };
        let mut deck = Vec::new();
        let mut longs = 0_u64;
        for _ in 0..stops {
            let stop = nemesis.draw(&mut deck, &DECK);
            let active = nemesis.pair.active();
            let (stopped, [least, most]): (&[Role], _) = match stop {
                Stop::ActiveShort => (&[active], SHORT),
                Stop::PassiveShort => (&[active.other()], SHORT),
                Stop::ActiveLong => (&[active], [LONG[0], longest]),
                Stop::PassiveLong => (&[active.other()], [LONG[0], longest]),
                Stop::Both => (&[active, active.other()], [SHORT[0], longest]),
            };
            // With its watchdog, or it is killed before it can wake: a paused machine, not a hanging
            // process.
            let machine = longs.is_multiple_of(2) || nemesis.chance.percent(50);
            longs += u64::from(matches!(stop, Stop::ActiveLong));
            for role in stopped {
                signal(&mut nemesis, *role, machine, Signal::SIGSTOP);
            }
            let span = nemesis.last(least, most);
            if matches!(stop, Stop::PassiveLong) {
                // The active goes on alone.
                nemesis.client.await_confirmed(20);
            }
            for role in stopped {
                signal(&mut nemesis, *role, machine, Signal::SIGCONT);
            }
            let what = if machine { "machine" } else { "process" };
            nemesis.recovered(&format!("{stop:?}, {what}, for {span:?}"));
        }
        nemesis.finish();
    });
}

#[test]
fn servers_that_are_stopped_and_wake_lose_nothing_and_never_serve_beside_each_other() {
    stop_and_wake(test_name!(), Mode::Replicated);
}

#[test]
fn servers_of_one_store_that_are_stopped_and_wake_lose_nothing() {
    stop_and_wake(test_name!(), Mode::Shared);
}
