//! `twinmq stop`: an orderly stop over the admin API, done when the process is gone.

use std::fs;
use std::net::ToSocketAddrs;
use std::thread;
use std::time::Duration;

use super::admin_client::{AdminClient, AdminError};
use super::args::StopArgs;
use super::{CliError, print};
use crate::exit::ExitCode;
use crate::time::{Clock, SystemClock};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Why it was not stopped.
#[derive(Debug, thiserror::Error)]
enum StopError {
    #[error(
        "{url} (process {pid}) still runs after {seconds} s: clients may be slow to drain; see its log"
    )]
    StillThere { url: String, pid: u32, seconds: u64 },
}

/// Stops a server and waits until it is gone.
///
/// # Errors
/// When it is not running, refuses, or does not end in time.
pub fn run(args: &StopArgs) -> Result<ExitCode, CliError> {
    let address = args.server.admin()?;
    let client = address.authorized()?;
    let status = client.status()?;
    client.stop()?;
    let clock = SystemClock;
    let until = clock.now().after(Duration::from_secs(args.timeout));
    while !is_gone(&client, status.pid) {
        if clock.now() >= until {
            return Err(CliError::of(
                ExitCode::Failed,
                StopError::StillThere {
                    url: address.url,
                    pid: status.pid,
                    seconds: args.timeout,
                },
            ));
        }
        thread::sleep(LOOK);
    }
    print(&format!(
        "{} ({}) has stopped",
        status.server, status.profile
    ))?;
    Ok(ExitCode::Done)
}

/// Gone: nobody answers and, where the process can be looked at, it has ended.
fn is_gone(client: &AdminClient, pid: u32) -> bool {
    matches!(client.status_json(), Err(AdminError::NotRunning { .. }))
        && (!is_here(client.url()) || has_ended(pid))
}

fn is_here(url: &str) -> bool {
    url.trim_start_matches("http://")
        .to_socket_addrs()
        .is_ok_and(|mut addresses| addresses.any(|address| address.ip().is_loopback()))
}

/// Whether a process of this machine has ended; one that only waits for its parent to notice has.
fn has_ended(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // "pid (name) state ...", where the name may hold anything.
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_has_ended_when_it_is_a_zombie_or_gone() {
        assert!(!has_ended(std::process::id()));
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat exists");
        let pid = child.id();
        assert!(!has_ended(pid));
        drop(child.stdin.take());
        while !has_ended(pid) {
            thread::yield_now();
        }
        child.wait().unwrap();
        assert!(has_ended(pid));
    }

    #[test]
    fn only_loopback_addresses_are_of_this_machine() {
        assert!(is_here("http://127.9.9.9:1858"));
        assert!(!is_here("http://192.0.2.1:1858"));
    }
}
