//! The Python environment of the foreign clients: made once under `target/`, pinned, shared by all
//! test processes under a file lock.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The client that docs/clients.md speaks of.
const STOMP_PY: &str = "stomp.py==9.0.0";
/// What mends a machine that lacks Python.
const REMEDY: &str = "the client tests need Python 3 with venv: apt-get install -y python3-venv";

/// The interpreter that can import stomp.py.
pub(crate) fn interpreter() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(STOMP_PY);
    let python = folder.join("bin/python");
    let complete = folder.join("complete");
    let guard = File::create(folder.with_extension("lock")).expect("target/ can be written");
    guard.lock().expect("files under target/ can be locked");
    if !complete.exists() {
        run(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
            REMEDY,
        );
        run(
            Command::new(&python).args(["-m", "pip", "install", "--quiet", STOMP_PY]),
            "the client tests need stomp.py: give pip a way to the Python package index",
        );
        fs::write(&complete, STOMP_PY).expect("target/ can be written");
    }
    python
}

fn run(command: &mut Command, remedy: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{remedy} ({error})"));
    assert!(
        output.status.success(),
        "{remedy}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
