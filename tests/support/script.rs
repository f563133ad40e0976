//! A script of `tests/clients` in a process of its own: told what to do by lines, and heard by lines of
//! JSON.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::python;

/// The process; killed on drop.
pub(crate) struct Script {
    child: Child,
    stdin: ChildStdin,
    reader: Option<JoinHandle<()>>,
}

impl Script {
    /// Starts a script by its file's name. `hear` is given each fact that it prints, on a thread.
    pub(crate) fn start(
        name: &str,
        arguments: &[&str],
        mut hear: impl FnMut(Value) + Send + 'static,
    ) -> Self {
        let mut child = Command::new(python::interpreter())
            // Without compiled files beside the sources.
            .arg("-B")
            .arg(format!(
                "{}/tests/clients/{name}",
                env!("CARGO_MANIFEST_DIR")
            ))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // stomp.py logs each refused connection: that is the normal course here.
            .stderr(Stdio::null())
            .spawn()
            .expect("the interpreter starts");
        let stdin = child.stdin.take().expect("it was asked for");
        let stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let reader = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                hear(serde_json::from_str(&line).expect("the driver prints JSON"));
            }
        });
        Self {
            child,
            stdin,
            reader: Some(reader),
        }
    }

    /// Gives it a command.
    pub(crate) fn say(&mut self, command: &str) {
        self.try_say(command)
            .expect("the driver reads its commands");
    }

    /// The same to one that may have ended.
    pub(crate) fn try_say(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.stdin, "{command}")
    }

    /// Kills it; everything that it printed has been heard after this.
    pub(crate) fn end(&mut self) {
        // It may have ended by itself; either way it is gone and reaped after this.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.end();
    }
}
