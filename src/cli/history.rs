//! `twinmq history`: what happened to a server, from its admin API, or from its files when it is down.

use serde_json::json;

use super::admin_client::{AdminClient, AdminError};
use super::args::HistoryArgs;
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::io::history;
use crate::proto::history::Event;
use crate::time::rfc3339;

/// The history's files are there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the event history in {dir} cannot be read: {cause}")]
struct HistoryError {
    dir: String,
    cause: std::io::Error,
}

/// Prints the last events.
///
/// # Errors
/// When the server answers strangely, or is down and its files cannot be read.
pub fn run(args: &HistoryArgs) -> Result<ExitCode, CliError> {
    let client = AdminClient::new(&args.server.admin()?.url, None);
    let events = match client.history(args.limit) {
        Ok(events) => events,
        Err(AdminError::NotRunning { .. } | AdminError::Silent { .. })
            if args.server.url.is_none() =>
        {
            from_files(args)?
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        print_json(&json!({ "events": events }))?;
    } else if events.is_empty() {
        print("no events are known: this server has never run")?;
    } else {
        let lines: Vec<String> = events.iter().map(line).collect();
        print(&lines.join("\n"))?;
    }
    Ok(ExitCode::Done)
}

fn from_files(args: &HistoryArgs) -> Result<Vec<Event>, CliError> {
    let dir = args.server.profile.load(None)?.config.store.own_folder();
    let mut events = history::read(&dir).map_err(|cause| {
        let dir = dir.display().to_string();
        CliError::of(ExitCode::Failed, HistoryError { dir, cause })
    })?;
    events.drain(..events.len().saturating_sub(args.limit));
    Ok(events)
}

/// One line for people: time, kind, change of state, text, how often. Control characters are blanked:
/// the file may hold anything.
#[must_use]
pub fn line(event: &Event) -> String {
    let change = match (event.from, event.to) {
        (Some(from), Some(to)) => format!("{from} -> {to}: "),
        (Some(_) | None, _) => String::new(),
    };
    let times = match event.count {
        1 => String::new(),
        count => format!(" ({count} times)"),
    };
    let text: String = event
        .text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!(
        "{}  {:<13} epoch {}  {change}{text}{times}",
        rfc3339(event.wall_ms),
        event.kind.name(),
        event.epoch,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::history::EventKind;
    use crate::proto::ids::Epoch;
    use crate::proto::peer::ServerState;

    #[test]
    fn an_event_is_one_line() {
        let mut event = Event::new(EventKind::State, Epoch(3), "the lock\n\x1b[2J was lost")
            .between(ServerState::Active, ServerState::Waiting);
        event.wall_ms = 1_769_860_800_000;
        event.count = 2;
        assert_eq!(
            line(&event),
            "2026-01-31T12:00:00Z  state         epoch 3  ACTIVE -> WAITING: the lock  [2J was lost (2 times)"
        );
    }
}
