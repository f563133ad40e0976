//! `twinmq wait`: returns when a server is as wanted, for scripts.

use std::thread;
use std::time::Duration;

use super::CliError;
use super::admin_client::{AdminClient, Status};
use super::args::WaitArgs;
use crate::exit::ExitCode;
use crate::time::{Clock, SystemClock};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// It did not become so in time.
#[derive(Debug, thiserror::Error)]
#[error("{url} is not {wanted} after {seconds} s; last seen: {seen}")]
struct NotInTime {
    url: String,
    wanted: String,
    seconds: u64,
    seen: String,
}

/// What is waited for.
enum Condition {
    Serving,
    InSync,
    State(&'static str),
}

/// Waits. A server that is not running yet is waited for too.
///
/// # Errors
/// When it is not so in time; the text says what was seen last.
pub fn run(args: &WaitArgs) -> Result<ExitCode, CliError> {
    let client = AdminClient::new(&args.server.admin()?.url, None);
    let condition = match args.state {
        Some(state) => Condition::State(state.name()),
        None if args.in_sync => Condition::InSync,
        None => Condition::Serving,
    };
    let clock = SystemClock;
    let until = clock.now().after(Duration::from_secs(args.timeout));
    loop {
        let seen = match client.status() {
            Ok(status) if condition.holds(&status) => return Ok(ExitCode::Done),
            Ok(status) => brief(&status),
            Err(error) => error.to_string(),
        };
        if clock.now() >= until {
            return Err(CliError::of(
                ExitCode::Failed,
                NotInTime {
                    url: client.url().to_owned(),
                    wanted: condition.name(),
                    seconds: args.timeout,
                    seen,
                },
            ));
        }
        thread::sleep(LOOK);
    }
}

impl Condition {
    fn holds(&self, status: &Status) -> bool {
        match self {
            Self::Serving => status.serving,
            Self::InSync => status.pair_is_in_sync(),
            Self::State(state) => status.state == *state,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Serving => "serving".to_owned(),
            Self::InSync => "in sync with its peer".to_owned(),
            Self::State(state) => (*state).to_owned(),
        }
    }
}

/// State, in-sync set and reason, in one line.
fn brief(status: &Status) -> String {
    let mut text = format!(
        "{}, in sync: {}",
        status.state,
        if status.in_sync.is_empty() {
            "nobody".to_owned()
        } else {
            status.in_sync.join(" and ")
        }
    );
    let reason = status.claims.as_ref().and_then(|c| c.reason.as_ref());
    if let Some(reason) = reason {
        text.push_str(", ");
        text.push_str(reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::admin_client::PeerStatus;

    #[test]
    fn each_condition_looks_at_its_own_field() {
        let mut status = Status {
            state: "ACTIVE".to_owned(),
            ..Status::default()
        };
        assert!(Condition::State("ACTIVE").holds(&status));
        assert!(!Condition::State("PASSIVE").holds(&status));
        assert!(!Condition::Serving.holds(&status));
        assert!(!Condition::InSync.holds(&status));
        status.serving = true;
        status.in_sync = vec!["primary".to_owned(), "secondary".to_owned()];
        assert!(Condition::Serving.holds(&status));
        // The record may name both for as long as its share cannot be written: it takes the channel too.
        assert!(!Condition::InSync.holds(&status));
        status.peer = Some(PeerStatus {
            connected: true,
            ..PeerStatus::default()
        });
        assert!(Condition::InSync.holds(&status));
        // While the set is extended the record may name both before the states follow.
        status.state = "ACTIVE_SYNC".to_owned();
        assert!(!Condition::InSync.holds(&status));
    }
}
