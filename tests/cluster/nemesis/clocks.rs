//! The wall clock of a server jumps. Nothing may rest on it.

use std::fs;
use std::path::Path;

use super::lab::in_a_lab;
use super::{Mode, Nemesis};
use crate::support::eventually::{SOON, eventually};
use crate::support::pair::Pair;
use crate::support::server::Role;
use crate::test_name;

/// Where distributions keep the library; `LIB` is the loader's word for its own folder.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];
/// An hour and ten years, there and back.
const JUMPS: [&str; 4] = ["+1h", "-1h", "+3650d", "-3650d"];

#[test]
fn jumps_of_a_wall_clock_change_nothing() {
    let test = test_name!();
    in_a_lab(move || {
        let library = LIBRARIES
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("this test needs libfaketime: apt-get install -y faketime");
        let mut pair = Pair::new(test);
        let offset = |pair: &Pair, role: Role| pair.scene.path().join(role.name());
        for role in [Role::Primary, Role::Secondary] {
            let file = offset(&pair, role);
            fs::write(&file, "+0\n").expect("the test's folder can be written");
            let file = file.display().to_string();
            let server = pair.server(role);
            server.set_variable("LD_PRELOAD", library);
            server.set_variable("FAKETIME_TIMESTAMP_FILE", &file);
            server.set_variable("FAKETIME_NO_CACHE", "1");
            server.set_variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut nemesis = Nemesis::of(pair, Mode::Replicated);
        let before = nemesis.pair.primary.status().expect("it runs");
        let active = nemesis.pair.active();
        for jump in JUMPS {
            for role in [active, active.other()] {
                let file = offset(&nemesis.pair, role);
                fs::write(&file, format!("{jump}\n")).expect("the test's folder can be written");
                let written = nemesis.pair.server(role).log().len();
                nemesis.client.await_confirmed(100);
                assert_eq!(
                    nemesis.pair.active(),
                    active,
                    "{jump} of the {}",
                    role.name()
                );
                let log = nemesis.pair.server(role).log();
                assert!(
                    !log[written..].contains("switched to"),
                    "{}",
                    &log[written..]
                );
            }
        }
        let after = nemesis.pair.primary.status().expect("it runs");
        assert_eq!(
            (after.epoch, &after.state),
            (before.epoch, &before.state),
            "no transition"
        );
        // The clocks did jump, or this test would prove nothing: the next line of a log shows it.
        nemesis.pair.server(active.other()).kill();
        eventually(SOON, "a line from ten years ago", || {
            let log = nemesis.pair.server(active).log();
            let last = log.lines().last().unwrap_or_default().to_owned();
            if last.starts_with("201") {
                Ok(())
            } else {
                Err(last)
            }
        });
        nemesis.pair.server(active.other()).start();
        nemesis.recovered("jumps of the clocks");
        nemesis.finish();
    });
}
