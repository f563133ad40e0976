//! strace, which shows what a server asks of the kernel, and answers in its place.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually::{SOON, eventually, now};

/// What to do where it is missing.
const REMEDY: &str = "these tests look at and spoil system calls: install strace \
                      (apt-get install strace), which must be allowed to trace (ptrace)";

/// An strace whose server is gone has so long to end by itself.
const WRITES: Duration = Duration::from_secs(2);

/// The command line that a server is started under: it stays this process's child, and strace is
/// beside it (`-D`).
pub(crate) fn around(output: &Path, arguments: &[&str]) -> Vec<String> {
    assert_present();
    let mut words: Vec<String> = ["strace", "-D", "-f", "-qq", "-e", "signal=none"]
        .map(str::to_owned)
        .to_vec();
    words.extend(["-o".to_owned(), output.display().to_string()]);
    words.extend(arguments.iter().map(|&word| word.to_owned()));
    words
}

fn assert_present() {
    let found = Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    assert!(found.is_ok_and(|status| status.success()), "{REMEDY}");
}

/// An strace that was attached to a running server, and goes when the server does.
pub(crate) struct Attached {
    strace: Child,
    traced: u32,
}

impl Attached {
    /// Returns when every thread of the process is traced.
    pub(crate) fn to(pid: u32, output: &Path, arguments: &[&str]) -> Self {
        assert_present();
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "signal=none"])
            .arg("-o")
            .arg(output)
            .args(arguments)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was just there");
        let attached = Self {
            strace,
            traced: pid,
        };
        eventually(SOON, "strace has attached", || attached.traces(pid));
        attached
    }

    fn traces(&self, pid: u32) -> Result<(), String> {
        let whole = std::fs::read_to_string(format!("/proc/{pid}/status"));
        if whole.is_ok_and(|text| text.contains("State:\tZ")) {
            // What was asked of strace has killed it already.
            return Ok(());
        }
        let own = format!("TracerPid:\t{}\n", self.strace.id());
        let tasks = format!("/proc/{pid}/task");
        let threads = std::fs::read_dir(&tasks).map_err(|error| format!("{REMEDY}: {error}"))?;
        for thread in threads.flatten() {
            // A thread that has just ended needs no tracer.
            let text = std::fs::read_to_string(thread.path().join("status"));
            if text.is_ok_and(|text| !text.contains(&own)) {
                return Err(format!(
                    "{} is not traced: {REMEDY}",
                    thread.path().display()
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // What it has seen of a server that is gone it has yet to write.
        let gone = !Path::new(&format!("/proc/{}", self.traced)).exists();
        let deadline = now().after(WRITES);
        while gone && matches!(self.strace.try_wait(), Ok(None)) && now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kernel lets the server go unharmed if it still runs. SIGTERM would do, but not always:
        // strace may wait for a thread that has just gone.
        self.strace.kill().ok();
        self.strace.wait().ok();
    }
}

/// Waits until the strace that writes to a file is gone: only then is the file complete.
pub(crate) fn await_written(output: &Path) {
    let output = output.display().to_string();
    let writes = |entry: std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|word| word == output.as_bytes())
        })
    };
    eventually(SOON, "strace has ended", || {
        let processes = std::fs::read_dir("/proc").expect("/proc is there");
        match processes.flatten().any(writes) {
            true => Err(format!("{output} is still being written")),
            false => Ok(()),
        }
    });
}
