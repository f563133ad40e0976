//! `twinmq queue`, `topic` and `subscription`: what a running server holds for whom, and work on it.
//! Work on many messages is asked for in stretches, each of which says how far it came.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use self::delete::delete;
use super::admin_client::{AdminClient, AdminError};
use super::args::{
    ListArgs, QueueArgs, QueueBrowseArgs, QueueCommand, ServerArgs, SubscriptionCommand,
    TopicCommand, WhichArgs,
};
use super::typed::typed;
use super::{CliError, complain, print, print_json};
use crate::exit::ExitCode;
use crate::proto::destination::DestinationName;

mod delete;

/// Destinations asked for at a time.
const PAGE: usize = 1000;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum QueueError {
    #[error("{0}")]
    Refused(String),
    #[error("{url} answered what this version does not understand: {reason}")]
    Strange { url: String, reason: String },
    #[error("the name is {name}, not {typed}: nothing was changed")]
    OtherName { name: String, typed: String },
    #[error("standard input is no terminal: say --yes if you mean it; nothing was changed")]
    NobodyTypes,
    #[error("failed to read what was typed: {0}")]
    Terminal(std::io::Error),
    #[error(
        "{done} messages were done with when the server did not answer any more: {error}. Each batch is \
         whole or not; run the command again, at the server that serves, to go on"
    )]
    Interrupted { done: u64, error: String },
}

impl From<QueueError> for CliError {
    fn from(error: QueueError) -> Self {
        Self::of(ExitCode::Failed, error)
    }
}

/// What a list shows of a destination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    name: String,
    depth: u64,
    consumers: u64,
    unsettled: u64,
    arrived: u64,
    accepted: u64,
    subscription: Option<Subscription>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Subscription {
    pattern: String,
    selector: Option<String>,
    durable: bool,
    shared: bool,
}

/// How far a stretch came.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    done: u64,
    seen: u64,
    held: u64,
    homeless: u64,
    complete: bool,
    after: u64,
    until: u64,
}

/// `twinmq queue ...`
///
/// # Errors
/// When it was not done.
pub fn run(command: &QueueCommand) -> Result<ExitCode, CliError> {
    match command {
        QueueCommand::List(args) => list(args, "queue"),
        QueueCommand::Show(args) => show(args),
        QueueCommand::Browse(args) => browse(args),
        QueueCommand::Purge(args) => {
            let name = DestinationName::in_full(&args.which.queue.queue);
            let what = match (&args.which.selector, args.which.count) {
                (None, None) => format!("every message in {name} is thrown away"),
                _ => format!("the messages meant in {name} are thrown away"),
            };
            confirm(args.yes, &name, &what)?;
            work(&args.which, "purge", None)
        }
        QueueCommand::Move(args) => work(&args.which, "move", Some(&args.to)),
        QueueCommand::Retry(args) => work(&args.which, "retry", None),
        QueueCommand::Delete(args) => delete(args, &DestinationName::in_full(&args.name)),
    }
}

/// `twinmq topic ...`
///
/// # Errors
/// When it was not done.
pub fn run_topic(command: &TopicCommand) -> Result<ExitCode, CliError> {
    let TopicCommand::List(args) = command;
    let client = client(&args.server)?;
    let mut topics: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let mut path = "destinations?kind=subscription".to_owned();
    loop {
        let (listed, next, _) = page(&client, &format!("{path}&limit={PAGE}"))?;
        for (_, of) in listed {
            if let Some(subscription) = of.subscription {
                let counts = topics.entry(subscription.pattern).or_default();
                counts.0 += 1;
                counts.1 += of.consumers;
                counts.2 += of.depth;
            }
        }
        let Some(next) = next else { break };
        path = format!("destinations?kind=subscription&after={}", encoded(&next));
    }
    let wanted = |name: &str| match args.pattern.as_deref().map(|it| it.split_once('*')) {
        None => true,
        Some(None) => args.pattern.as_deref() == Some(name),
        Some(Some((before, after))) => {
            name.starts_with(before) && name.ends_with(after.trim_start_matches('*'))
        }
    };
    let shown: Vec<_> = topics
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .take(args.limit)
        .collect();
    if args.json {
        let topics = shown.iter().map(|(name, (subscriptions, consumers, owed))| {
            json!({"topic": name, "subscriptions": subscriptions, "consumers": consumers, "owed": owed})
        });
        print_json(&json!({ "topics": topics.collect::<Vec<_>>() }))?;
        return Ok(ExitCode::Done);
    }
    let rows = shown
        .iter()
        .map(|(name, (subscriptions, consumers, owed))| {
            [
                name.clone(),
                subscriptions.to_string(),
                consumers.to_string(),
                owed.to_string(),
            ]
        });
    let head = ["TOPIC", "SUBSCRIPTIONS", "CONSUMERS", "OWED"].map(str::to_owned);
    print(&table(std::iter::once(head).chain(rows).collect()))?;
    Ok(ExitCode::Done)
}

/// `twinmq subscription ...`
///
/// # Errors
/// When it was not done.
pub fn run_subscription(command: &SubscriptionCommand) -> Result<ExitCode, CliError> {
    match command {
        SubscriptionCommand::List(args) => list(args, "subscription"),
        SubscriptionCommand::Delete(args) => {
            let name = match args.name.strip_prefix("/subscription/") {
                Some(_) => args.name.clone(),
                None => format!("/subscription/{}", args.name),
            };
            delete(args, &name)
        }
    }
}

fn client(server: &ServerArgs) -> Result<AdminClient, CliError> {
    server.admin()?.authorized()
}

/// As a query's value.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// The reason in a refusal, as people read it.
fn plainly(error: AdminError) -> CliError {
    match error {
        AdminError::Refused { reason, .. } => {
            let said: Option<Value> = serde_json::from_str(&reason).ok();
            let said = said.and_then(|said| said["error"].as_str().map(ToOwned::to_owned));
            QueueError::Refused(said.unwrap_or(reason)).into()
        }
        other => other.into(),
    }
}

fn read<T: for<'de> Deserialize<'de>>(client: &AdminClient, value: Value) -> Result<T, CliError> {
    serde_json::from_value(value).map_err(|error| {
        let (url, reason) = (client.url().to_owned(), error.to_string());
        QueueError::Strange { url, reason }.into()
    })
}

/// What a page holds (as it was sent, and as it is shown), where the next begins, and how many there are.
type Page = (Vec<(Value, Listed)>, Option<String>, u64);

fn page(client: &AdminClient, path: &str) -> Result<Page, CliError> {
    let answer = client.get(path).map_err(plainly)?;
    let next = answer["next"].as_str().map(ToOwned::to_owned);
    let total = answer["total"].as_u64().unwrap_or(0);
    let all = answer["destinations"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let listed: Result<Vec<_>, CliError> = all
        .into_iter()
        .map(|one| Ok((one.clone(), read(client, one)?)))
        .collect();
    Ok((listed?, next, total))
}

fn list(args: &ListArgs, kind: &str) -> Result<ExitCode, CliError> {
    let client = client(&args.server)?;
    let mut asked = format!("destinations?kind={kind}");
    if let Some(pattern) = &args.pattern {
        asked.push_str(&format!("&match={}", encoded(pattern)));
    }
    let (mut all, mut after, mut total) = (Vec::new(), None::<String>, 0);
    while all.len() < args.limit {
        let limit = PAGE.min(args.limit - all.len());
        let from = after
            .as_deref()
            .map(|name| format!("&after={}", encoded(name)));
        let path = format!("{asked}&limit={limit}{}", from.unwrap_or_default());
        let (listed, next, of) = page(&client, &path)?;
        total = of;
        all.extend(listed);
        after = next;
        if after.is_none() {
            break;
        }
    }
    if args.json {
        let listed: Vec<_> = all.into_iter().map(|(sent, _)| sent).collect();
        print_json(&json!({ "destinations": listed, "total": total }))?;
        return Ok(ExitCode::Done);
    }
    let listed: Vec<Listed> = all.into_iter().map(|(_, listed)| listed).collect();
    let text = match kind {
        "subscription" => subscriptions_text(&listed),
        _ => queues_text(&listed),
    };
    print(&text)?;
    if usize::try_from(total).unwrap_or(usize::MAX) > listed.len() {
        complain(&format!(
            "{} of {total} shown; --limit shows more, a PATTERN picks",
            listed.len()
        ));
    }
    Ok(ExitCode::Done)
}

fn queues_text(listed: &[Listed]) -> String {
    let head = [
        "QUEUE",
        "MESSAGES",
        "UNSETTLED",
        "CONSUMERS",
        "ARRIVED",
        "ACCEPTED",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(listed.iter().map(|of| {
        let name = of.name.strip_prefix("/queue/").unwrap_or(&of.name);
        [
            name.to_owned(),
            of.depth.to_string(),
            of.unsettled.to_string(),
            of.consumers.to_string(),
            of.arrived.to_string(),
            of.accepted.to_string(),
        ]
    }));
    table(rows)
}

fn subscriptions_text(listed: &[Listed]) -> String {
    let head = [
        "SUBSCRIPTION",
        "TOPICS",
        "KIND",
        "OWED",
        "CONSUMERS",
        "SELECTOR",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(listed.iter().map(|of| {
        let name = of.name.strip_prefix("/subscription/").unwrap_or(&of.name);
        let subscription = of.subscription.clone().unwrap_or_default();
        let kind = match (subscription.durable, subscription.shared) {
            (true, true) => "shared, durable",
            (true, false) => "durable",
            (false, true) => "shared",
            (false, false) => "with its consumer",
        };
        [
            name.to_owned(),
            subscription.pattern,
            kind.to_owned(),
            of.depth.to_string(),
            of.consumers.to_string(),
            subscription.selector.unwrap_or_default(),
        ]
    }));
    table(rows)
}

/// Columns under their heads; what begins with a digit is a number.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|at| width(at).unwrap_or(0)).collect();
    let numbers: Vec<bool> = (0..N)
        .map(|at| {
            let mut cells = rows.iter().skip(1).map(|row| &row[at]);
            at > 0 && cells.all(|cell| cell.parse::<u64>().is_ok())
        })
        .collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(at, cell)| {
            let width = widths[at];
            match numbers[at] {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            }
        });
        let cells: Vec<String> = cells.collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn show(args: &QueueArgs) -> Result<ExitCode, CliError> {
    let client = client(&args.server)?;
    let name = DestinationName::in_full(&args.queue);
    let path = format!("destination?name={}", encoded(&name));
    let sent = client.get(&path).map_err(plainly)?;
    if args.json {
        print_json(&sent)?;
        return Ok(ExitCode::Done);
    }
    let of: Listed = read(&client, sent)?;
    print(&format!(
        "{}\n  messages   {}, {} of them with consumers that have not acknowledged them\n  consumers  {}\n  \
         since this server serves: {} arrived, {} accepted",
        of.name, of.depth, of.unsettled, of.consumers, of.arrived, of.accepted
    ))?;
    Ok(ExitCode::Done)
}

fn browse(args: &QueueBrowseArgs) -> Result<ExitCode, CliError> {
    let client = client(&args.queue.server)?;
    let name = DestinationName::in_full(&args.queue.queue);
    let (mut messages, mut after) = (Vec::new(), args.after);
    let mut more = None;
    while messages.len() < args.count {
        let limit = args.count - messages.len();
        let path = format!(
            "messages?name={}&after={after}&limit={limit}&bytes={}",
            encoded(&name),
            args.bytes
        );
        let answer = client.get(&path).map_err(plainly)?;
        let page = answer["messages"].as_array().cloned().unwrap_or_default();
        messages.extend(page);
        more = answer["next"].as_u64();
        match more {
            Some(next) if next > after => after = next,
            Some(_) | None => break,
        }
    }
    if args.queue.json {
        print_json(&json!({ "messages": messages, "next": more }))?;
        return Ok(ExitCode::Done);
    }
    for message in &messages {
        print(&message_text(message))?;
    }
    match more {
        Some(next) => complain(&format!("there may be more: --after {next}")),
        None => complain(&format!("{} messages; that is all", messages.len())),
    }
    Ok(ExitCode::Done)
}

fn message_text(message: &Value) -> String {
    let of = |name: &str| match &message[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let mut text = format!(
        "{}  {} bytes, priority {}",
        of("position").unwrap_or_default(),
        of("body_bytes").unwrap_or_default(),
        of("priority").unwrap_or_default()
    );
    for (name, word) in [
        ("reply_to", "reply-to"),
        ("correlation_id", "correlation-id"),
        ("content_type", "content-type"),
        ("group", "group"),
        ("expires_ms", "expires"),
        ("due_ms", "due"),
    ] {
        if let Some(value) = of(name) {
            text.push_str(&format!(", {word} {value}"));
        }
    }
    for (name, value) in message["headers"].as_object().into_iter().flatten() {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned);
        text.push_str(&format!("\n    {name}: {value}"));
    }
    if message["large"] == true {
        text.push_str("\n    (its body is large: it is shown by browse and receive only)");
        return text;
    }
    let body = of("body").or_else(|| of("body_hex").map(|hex| format!("(hex) {hex}")));
    text.push_str(&format!(
        "\n    {}",
        body.unwrap_or_default().escape_debug()
    ));
    text
}

/// Asks for stretches of work until it is complete.
fn work(which: &WhichArgs, what: &str, to: Option<&str>) -> Result<ExitCode, CliError> {
    let client = client(&which.queue.server)?;
    let name = DestinationName::in_full(&which.queue.queue);
    let mut asked = format!("{what}?name={}", encoded(&name));
    if let Some(to) = to {
        asked.push_str(&format!("&to={}", encoded(&DestinationName::in_full(to))));
    }
    if let Some(selector) = &which.selector {
        asked.push_str(&format!("&selector={}", encoded(selector)));
    }
    let mut all = Progress::default();
    loop {
        let mut path = format!("{asked}&after={}", all.after);
        if all.until > 0 {
            path.push_str(&format!("&until={}", all.until));
        }
        if let Some(count) = which.count {
            path.push_str(&format!("&count={}", count.saturating_sub(all.done)));
        }
        let answer = client.post(&path).map_err(|error| match all.seen {
            0 => plainly(error),
            _ => {
                let (done, error) = (all.done, error.to_string());
                QueueError::Interrupted { done, error }.into()
            }
        })?;
        let answer = serde_json::from_str(&answer).unwrap_or(Value::Null);
        let part: Progress = read(&client, answer)?;
        all = Progress {
            done: all.done.saturating_add(part.done),
            seen: all.seen.saturating_add(part.seen),
            held: all.held.saturating_add(part.held),
            homeless: all.homeless.saturating_add(part.homeless),
            ..part
        };
        if all.complete {
            break;
        }
        complain(&format!(
            "{} of {} messages seen so far ...",
            all.done, all.seen
        ));
    }
    if which.queue.json {
        print_json(&json!({
            "done": all.done, "seen": all.seen, "held": all.held, "homeless": all.homeless,
        }))?;
        return Ok(ExitCode::Done);
    }
    let done = match what {
        "purge" => format!("{name}: {} messages thrown away", all.done),
        "move" => format!(
            "{name}: {} messages moved to {}",
            all.done,
            DestinationName::in_full(to.unwrap_or_default())
        ),
        _ => format!(
            "{name}: {} messages sent back to where they came from",
            all.done
        ),
    };
    let held = match all.held {
        0 => String::new(),
        held => format!("; {held} are with consumers and were left to them"),
    };
    let homeless = match all.homeless {
        0 => String::new(),
        homeless => format!("; {homeless} name no place that there is, and stay"),
    };
    print(&format!("{done}{held}{homeless}"))?;
    Ok(ExitCode::Done)
}

/// What cannot be undone has its name typed.
fn confirm(yes: bool, name: &str, what: &str) -> Result<(), QueueError> {
    if yes {
        return Ok(());
    }
    let typed = typed(&format!("When you go on, {what}. Type {name} to go on: "))
        .map_err(QueueError::Terminal)?
        .ok_or(QueueError::NobodyTypes)?;
    if typed == name || DestinationName::in_full(&typed) == name {
        Ok(())
    } else {
        let name = name.to_owned();
        Err(QueueError::OtherName { name, typed })
    }
}

#[cfg(test)]
mod tests;
