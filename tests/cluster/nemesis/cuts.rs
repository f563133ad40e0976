//! Packets are lost: between the servers, to the gateway, all of one server's; and hosts that die
//! without a word.

use std::time::Duration;

use super::lab::{Cut, in_a_lab};
use super::{Mode, Nemesis};
use crate::support::server::Role;
use crate::test_name;

/// Cuts in a plain `cargo test`: each card of the deck once.
const CUTS: u64 = 10;
const LEAST: Duration = Duration::from_millis(300);
const MOST: Duration = Duration::from_secs(6);
const FLAPS: u64 = 6;

#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Both ways.
    Link,
    /// One way: what the active sends is lost.
    FromActive,
    /// One way: what the active should hear is lost.
    ToActive,
    /// On and off, faster than anything settles.
    Flapping,
    /// The active's way to the gateway.
    GatewayOfActive,
    /// The passive's.
    GatewayOfPassive,
    /// The active's cable is pulled: peer, clients and gateway; the process lives.
    ActiveAlone,
    /// The passive's.
    PassiveAlone,
    /// The active's machine is gone: no packet says so.
    ActiveHostDies,
    /// The passive's.
    PassiveHostDies,
}

const DECK: [Blow; 10] = [
    Blow::Link,
    Blow::FromActive,
    Blow::ToActive,
    Blow::Flapping,
    Blow::GatewayOfActive,
    Blow::GatewayOfPassive,
    Blow::ActiveAlone,
    Blow::PassiveAlone,
    Blow::ActiveHostDies,
    Blow::PassiveHostDies,
];

fn strike(nemesis: &mut Nemesis, blow: Blow) {
    let active = nemesis.pair.active();
    let passive = active.other();
    match blow {
        Blow::Link => lose(nemesis, &[Cut::Link]),
        Blow::FromActive => lose(nemesis, &[Cut::LinkFrom(active)]),
        Blow::ToActive => lose(nemesis, &[Cut::LinkFrom(passive)]),
        Blow::Flapping => {
            for _ in 0..FLAPS {
                nemesis.network.cut(Cut::Link);
                nemesis.last(Duration::from_millis(50), Duration::from_millis(1500));
                nemesis.network.heal();
                nemesis.last(Duration::from_millis(50), Duration::from_millis(1500));
            }
        }
        Blow::GatewayOfActive => lose(nemesis, &[Cut::Gateway(active)]),
        Blow::GatewayOfPassive => lose(nemesis, &[Cut::Gateway(passive)]),
        Blow::ActiveAlone => lose(nemesis, &all_of(active)),
        Blow::PassiveAlone => lose(nemesis, &all_of(passive)),
        Blow::ActiveHostDies => host_dies(nemesis, active),
        Blow::PassiveHostDies => host_dies(nemesis, passive),
    }
}

fn all_of(role: Role) -> [Cut; 3] {
    [Cut::Link, Cut::Gateway(role), Cut::Clients(role)]
}

fn lose(nemesis: &mut Nemesis, cuts: &[Cut]) {
    for cut in cuts {
        nemesis.network.cut(*cut);
    }
    nemesis.last(LEAST, MOST);
    let reachable = !cuts.contains(&Cut::Clients(nemesis.pair.active()));
    if reachable {
        // One server holds lock and record, and goes on.
        nemesis.client.await_confirmed(20);
    }
    nemesis.network.heal();
}

/// No packet leaves it any more, then its process is gone and the share frees its lock: what an
/// NFS server does when the host's lease there is over.
fn host_dies(nemesis: &mut Nemesis, role: Role) {
    for cut in all_of(role) {
        nemesis.network.cut(cut);
    }
    nemesis.pair.server(role).kill();
    nemesis.client.await_confirmed(20);
    nemesis.network.heal();
    nemesis.pair.server(role).start();
}

fn lose_packets(test: &'static str, mode: Mode) {
    in_a_lab(move || {
        let mut nemesis = Nemesis::new(test, mode);
        let mut deck = Vec::new();
        for _ in 0..Nemesis::count("TWINMQ_CUTS", CUTS) {
            let blow = nemesis.draw(&mut deck, &DECK);
            strike(&mut nemesis, blow);
            nemesis.recovered(&format!("{blow:?}"));
        }
        nemesis.finish();
    });
}

#[test]
fn lost_packets_and_silent_hosts_lose_no_message_and_never_make_two_serve() {
    lose_packets(test_name!(), Mode::Replicated);
}

#[test]
fn lost_packets_between_servers_of_one_store_lose_no_message() {
    lose_packets(test_name!(), Mode::Shared);
}
