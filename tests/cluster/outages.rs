//! How long a stomp.py client waits when the active server goes: printed, not judged.
//!
//! `TWINMQ_OUTAGES=20` says how often of each; `TWINMQ_BINARY=$PWD/target/release/twinmq` measures another
//! build than the one under test.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::nemesis::lab::{Cut, in_a_lab};
use crate::nemesis::{Mode, Nemesis};
use crate::support::chance::number_from;
use crate::test_name;

/// How the active server goes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// `kill -9`.
    Killed,
    /// `twinmq switchover`.
    SwitchedOver,
    /// SIGTERM: it hands over.
    Terminated,
    /// SIGSTOP of the process alone: its watchdog ends it.
    Stopped,
    /// SIGSTOP of the process and its watchdog, as a paused machine: sockets and lock stay.
    Paused,
    /// No packet comes from it any more, and its lock stays, as with a share that has not noticed.
    HostDead,
}

const ENDS: [End; 6] = [
    End::Killed,
    End::SwitchedOver,
    End::Terminated,
    End::Stopped,
    End::Paused,
    End::HostDead,
];

/// One of them, the client's longest gap between two receipts, and back into step.
fn outage(nemesis: &mut Nemesis, end: End) -> Duration {
    let gone = nemesis.pair.active();
    nemesis.client.watch_gaps();
    match end {
        End::Killed => nemesis.pair.server(gone).kill(),
        End::SwitchedOver => {
            let command = nemesis.pair.server(gone).operator(&["switchover"]).output();
            let done = command.expect("the binary under test starts");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{said}");
        }
        End::Terminated => {
            nemesis.pair.server(gone).terminate();
        }
        End::Stopped => nemesis.pair.server(gone).signal(Signal::SIGSTOP),
        End::Paused => {
            let server = nemesis.pair.server(gone);
            server.signal_with_children(Signal::SIGSTOP);
        }
        End::HostDead => {
            for cut in [Cut::Link, Cut::Gateway(gone), Cut::Clients(gone)] {
                nemesis.network.cut(cut);
            }
            let server = nemesis.pair.server(gone);
            server.signal_with_children(Signal::SIGSTOP);
        }
    }
    nemesis.client.await_confirmed(100);
    let gap = nemesis.client.longest_gap();
    match end {
        End::Killed | End::Terminated => nemesis.pair.server(gone).start(),
        End::SwitchedOver => {}
        // Its watchdog has ended it.
        End::Stopped => {
            let server = nemesis.pair.server(gone);
            server.await_exit();
            server.start();
        }
        End::Paused => {
            let server = nemesis.pair.server(gone);
            server.signal_with_children(Signal::SIGCONT);
        }
        End::HostDead => {
            let server = nemesis.pair.server(gone);
            // For the judge of intervals: whoever stands still cannot say when its lease ended.
            server.signal_with_children(Signal::SIGCONT);
            server.await_log("serving ends");
            server.signal_with_children(Signal::SIGKILL);
            server.kill();
            nemesis.network.heal();
            nemesis.pair.server(gone).start();
        }
    }
    nemesis.recovered(&format!("{end:?}, {gap:?}"));
    gap
}

#[test]
fn outages_as_a_stomp_py_client_sees_them() {
    let test = test_name!();
    in_a_lab(move || {
        let mut nemesis = Nemesis::new(test, Mode::Replicated);
        let count = number_from("TWINMQ_OUTAGES").unwrap_or(1).max(1);
        let mut table = format!("outages in ms, {count} of each: median, least, most\n");
        for end in ENDS {
            let mut gaps: Vec<Duration> = (0..count).map(|_| outage(&mut nemesis, end)).collect();
            gaps.sort();
            let ms = |gap: Duration| gap.as_millis();
            eprintln!("{end:?}: {gaps:?}");
            table += &format!(
                "  {:<12} {:>6} {:>6} {:>6}\n",
                format!("{end:?}"),
                ms(gaps[gaps.len() / 2]),
                ms(gaps[0]),
                ms(gaps[gaps.len() - 1])
            );
        }
        eprintln!("{table}");
        nemesis.finish();
    });
}
