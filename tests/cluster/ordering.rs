//! Priorities, times, groups and exclusive consumers, as an unmodified stomp.py client sees them.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::pair::Pair;
use crate::support::python::interpreter;
use crate::{standalone, test_name};

/// Runs a scene of `tests/clients/stomp_scenes.py` and gives what it printed.
fn scene(name: &str, hosts: &str, arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/stomp_scenes.py");
    let output = Command::new(interpreter())
        .args([script, name, hosts])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("python runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    std::io::stderr()
        .write_all(errors.as_bytes())
        .expect("standard error takes it");
    assert!(output.status.success(), "scene {name} fails: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_highest_priority_comes_first() {
    let (_place, server) = standalone(test_name!(), &[]);
    let got = scene("priority", &server.client_address(), &[]);
    assert_eq!(got, "9a 9b 4a 4b 4c 0a 0b");
}

#[test]
fn what_has_expired_is_not_delivered_and_leaves_the_queue() {
    let (_place, mut server) = standalone(test_name!(), &[]);
    let got = scene("expire", &server.client_address(), &[]);
    assert_eq!(got, "stays");
    server.await_status("nothing is owed", |status| status.store.messages == 0);
}

#[test]
fn groups_stay_with_their_consumer() {
    let (_place, server) = standalone(test_name!(), &[]);
    let got = scene("groups", &server.client_address(), &[]);
    assert_eq!(got, "sticky");
}

#[test]
fn the_first_exclusive_consumer_gets_everything_and_the_next_one_takes_over() {
    let (_place, server) = standalone(test_name!(), &[]);
    let got = scene("exclusive", &server.client_address(), &[]);
    assert_eq!(got, "first:1,2,3 second:4,5,6");
}

#[test]
fn a_refused_message_shows_how_often_it_was_delivered() {
    let (_place, server) = standalone(test_name!(), &[]);
    let got = scene("refuse", &server.client_address(), &[]);
    assert_eq!(got, "None/None true/2 true/3 true/4");
}

#[test]
fn a_delay_and_a_count_outlive_a_kill_and_what_is_not_persistent_does_not() {
    let mut pair = Pair::in_sync(test_name!());
    let hosts = pair.hosts();
    scene("before-kill", &hosts, &[]);
    let active = pair.active();
    pair.server(active).kill();
    pair.server(active.other()).await_state("STANDALONE");
    let got = scene("after-kill", &hosts, &[]);
    assert_eq!(got, "refused:true/3 kept:None/None delayed:in-time");
}
