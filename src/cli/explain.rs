//! `twinmq explain`: why a server is in its state and what gets it out of it, from its admin API, or
//! from its files when it is down.

mod dead;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::admin_client::{AdminClient, AdminError};
use super::args::ExplainArgs;
use super::history::line;
use super::run::store_code;
use super::{CliError, print, print_json};
use crate::admin::{ExplainDocument, FactDocument, GuardDocument, WayDocument};
use crate::exit::ExitCode;

/// Prints the explanation.
///
/// # Errors
/// When the server answers strangely, or is down and nothing of it can be read.
pub fn run(args: &ExplainArgs) -> Result<ExitCode, CliError> {
    if let Some(dir) = &args.reader {
        return read(dir);
    }
    let address = args.server.admin()?;
    let client = AdminClient::new(&address.url, None);
    let document = match client.explain() {
        Ok(document) => document,
        Err(error @ (AdminError::NotRunning { .. } | AdminError::Silent { .. }))
            if args.server.url.is_none() =>
        {
            let loaded = args.server.profile.load(None)?;
            dead::explain(&loaded.config, &error)
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        print_json(&serde_json::to_value(&document).unwrap_or_default())?;
    } else {
        print(&text(&document))?;
    }
    Ok(ExitCode::Done)
}

/// The child that reads a store: see `store check`.
fn read(dir: &Path) -> Result<ExitCode, CliError> {
    let found =
        crate::storage::glance(dir).map_err(|error| CliError::of(store_code(&error), error))?;
    print(&serde_json::to_value(&found).unwrap_or_default().to_string())?;
    Ok(ExitCode::Done)
}

/// The explanation for people.
#[must_use]
pub fn text(document: &ExplainDocument) -> String {
    let mut out = String::new();
    head(&mut out, document);
    if !document.advice.is_empty() {
        add(&mut out, "\nWhat you can do");
        for advice in &document.advice {
            add(&mut out, &format!("  - {advice}"));
        }
    }
    let (plain, judged): (Vec<_>, Vec<_>) = document
        .ways
        .iter()
        .partition(|way| way.guards.is_empty() && way.ahead.is_empty());
    if !document.ways.is_empty() {
        add(&mut out, "\nWays out of this state");
    }
    for way in judged {
        judged_way(&mut out, way);
    }
    for way in plain {
        add(&mut out, &format!("  to {} {}", way.to, way.when));
    }
    if !document.events.is_empty() {
        add(&mut out, "\nLast events (all of them: twinmq history)");
        for event in &document.events {
            add(&mut out, &format!("  {}", line(event)));
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn add(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("writing to a string cannot fail");
}

fn head(out: &mut String, document: &ExplainDocument) {
    let ExplainDocument { server, place, .. } = document;
    if document.running {
        add(out, &format!("{server} is {place}: {}.", document.meaning));
    } else {
        add(
            out,
            &format!("{server} is not running: {}.", document.meaning),
        );
    }
    if let Some(if_started) = &document.if_started {
        add(out, &format!("If it were started now: {if_started}."));
    }
    if let Some(trouble) = &document.trouble {
        add(
            out,
            &format!("Why it does not serve, or not as it should: {trouble}."),
        );
    }
    let since = document
        .since
        .as_ref()
        .map_or_else(String::new, |since| format!(" since {since}"));
    match &document.cause {
        Some(cause) if document.trouble.as_ref() != Some(cause) => {
            add(out, &format!("It is so{since} because: {cause}."));
        }
        Some(_) | None if !since.is_empty() => add(out, &format!("It is so{since}.")),
        Some(_) | None => {}
    }
}

fn judged_way(out: &mut String, way: &WayDocument) {
    add(out, &format!("  to {} {}", way.to, way.when));
    for guard in &way.guards {
        guard_line(out, guard);
    }
    if !way.ahead.is_empty() {
        add(out, "    and after that, before it goes further:");
        for guard in &way.ahead {
            guard_line(out, guard);
        }
    }
}

fn guard_line(out: &mut String, guard: &GuardDocument) {
    add(out, &format!("    {:<9}{}", guard.holds, guard.guard));
    for fact in &guard.facts {
        add(out, &format!("             {}", fact_text(fact)));
    }
}

fn fact_text(fact: &FactDocument) -> String {
    let seconds = |ms: u64| format!("{:.1} s", Duration::from_millis(ms).as_secs_f64());
    match (fact.age_ms, fact.due_ms) {
        (Some(ago), _) => format!("{} ({} ago)", fact.text, seconds(ago)),
        (None, Some(due)) => format!("{} ({} more)", fact.text, seconds(due)),
        (None, None) => fact.text.clone(),
    }
}
