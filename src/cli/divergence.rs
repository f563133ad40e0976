//! `twinmq divergence`: tails of the log that resyncs dropped on this server, for whoever misses messages.
//! Works on the files, whether the server runs or not.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Value, json};

use super::args::{DivergenceCommand, DivergenceListArgs, DivergenceTailArgs};
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::proto::message::{self, Message, Parts};
use crate::storage::divergent::{Kept, Tail, body, read, tails};
use crate::storage::error::StoreError;
use crate::time::rfc3339;

/// Why a tail was not shown.
#[derive(Debug, thiserror::Error)]
enum DivergenceError {
    #[error(
        "there is no kept tail {number} in {dir}; `twinmq divergence list` shows which there are"
    )]
    None { number: u64, dir: String },
    #[error(
        "several tails are kept in {dir} ({numbers}): name one; `twinmq divergence list` tells more"
    )]
    Which { dir: String, numbers: String },
}

/// Runs a subcommand.
///
/// # Errors
/// When the configuration is wrong, there is no such tail, or it cannot be read.
pub fn run(command: &DivergenceCommand) -> Result<ExitCode, CliError> {
    match command {
        DivergenceCommand::List(args) => show_list(args),
        DivergenceCommand::Show(args) => show(args),
        DivergenceCommand::Export(args) => export(args),
    }
}

fn show_list(args: &DivergenceListArgs) -> Result<ExitCode, CliError> {
    let dir = args.profile.load(args.db_path.clone())?.config.store.path;
    let found = tails(&dir)?;
    if args.json {
        print_json(&found.iter().map(tail_json).collect())?;
    } else if found.is_empty() {
        print(&format!("{}: nothing is kept", dir.display()))?;
    } else {
        for tail in &found {
            print(&tail_line(tail))?;
        }
    }
    Ok(ExitCode::Done)
}

fn tail_line(tail: &Tail) -> String {
    let why = tail.note.as_ref().map_or("", |note| note.why.as_str());
    format!(
        "{}  {}  positions {} to {}  {} bytes  {}  {why}",
        tail.number,
        rfc3339(tail.at_ms),
        tail.first,
        tail.last,
        tail.bytes,
        confirmed(tail)
    )
}

fn confirmed(tail: &Tail) -> &'static str {
    if tail.was_confirmed() {
        "CONFIRMED in part or whole"
    } else {
        "not known to be confirmed"
    }
}

fn tail_json(tail: &Tail) -> Value {
    json!({
        "number": tail.number,
        "dropped_at": rfc3339(tail.at_ms),
        "first": tail.first,
        "last": tail.last,
        "bytes": tail.bytes,
        "confirmed": tail.was_confirmed(),
        "store": tail.note.as_ref().map(|note| note.store),
        "committed": tail.note.as_ref().map(|note| note.committed),
        "why": tail.note.as_ref().map(|note| note.why.clone()),
    })
}

fn find(args: &DivergenceTailArgs) -> Result<Tail, CliError> {
    let dir = args.profile.load(args.db_path.clone())?.config.store.path;
    let mut found = tails(&dir)?;
    let dir = dir.display().to_string();
    let fail = |error| CliError::of(ExitCode::Failed, error);
    match args.number {
        Some(number) => found
            .into_iter()
            .find(|tail| tail.number == number)
            .ok_or_else(|| fail(DivergenceError::None { number, dir })),
        None if found.len() > 1 => {
            let numbers: Vec<String> = found.iter().map(|tail| tail.number.to_string()).collect();
            let numbers = numbers.join(", ");
            Err(fail(DivergenceError::Which { dir, numbers }))
        }
        None => found
            .pop()
            .ok_or_else(|| fail(DivergenceError::None { number: 1, dir })),
    }
}

/// What a tail holds of one destination.
#[derive(Default)]
struct Count {
    messages: u64,
    bytes: u64,
    acknowledged: u64,
    acks: u64,
}

fn show(args: &DivergenceTailArgs) -> Result<ExitCode, CliError> {
    let tail = find(args)?;
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut epochs: Option<(u64, u64)> = None;
    read(&tail, &mut |kept| {
        let (epoch, destination) = match &kept {
            Kept::Put {
                epoch, destination, ..
            }
            | Kept::Ack {
                epoch, destination, ..
            } => (epoch.0, destination.clone()),
        };
        let (low, high) = epochs.unwrap_or((epoch, epoch));
        epochs = Some((low.min(epoch), high.max(epoch)));
        let count = counts.entry(destination).or_default();
        match kept {
            Kept::Put {
                message,
                acknowledged,
                ..
            } => {
                count.messages += 1;
                count.bytes += message::whole_bytes(&message);
                count.acknowledged += u64::from(acknowledged);
            }
            Kept::Ack { .. } => count.acks += 1,
        }
        Ok::<(), StoreError>(())
    })?;
    let mut text = vec![tail_line(&tail)];
    if let Some((low, high)) = epochs {
        text.push(format!("epochs {low} to {high}"));
    }
    for (destination, count) in counts {
        text.push(format!(
            "{destination}: {} messages ({} bytes), {} of them acknowledged; {} older ones \
             acknowledged",
            count.messages, count.bytes, count.acknowledged, count.acks
        ));
    }
    print(&text.join("\n"))?;
    Ok(ExitCode::Done)
}

fn export(args: &DivergenceTailArgs) -> Result<ExitCode, CliError> {
    let tail = find(args)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = read(&tail, &mut |kept| {
        let mut line = kept_json(&kept);
        if let Kept::Put { message, .. } = &kept
            && let Some(parts) = message::parts(message)
        {
            put_large_body(&mut line, &tail, &parts)?;
        }
        writeln!(out, "{line}").map_err(CliError::Output)
    });
    match written.and_then(|()| out.flush().map_err(CliError::Output)) {
        // Its reader has seen enough (`| head`).
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            // What is still in the buffer is nobody's; its drop would try again.
            drop(out.into_parts());
            Ok(ExitCode::Done)
        }
        other => other.map(|()| ExitCode::Done),
    }
}

/// The body of a message in parts.
fn put_large_body(line: &mut Value, tail: &Tail, parts: &Parts) -> Result<(), StoreError> {
    match body(tail, parts)? {
        Some(body) => {
            line["body_base64"] = base64(&body).into();
            line["text"] = std::str::from_utf8(&body).ok().into();
        }
        None => {
            line["body_base64"] = Value::Null;
            line["unreadable"] = "a part of its body was stored before the logs parted".into();
        }
    }
    Ok(())
}

fn kept_json(kept: &Kept) -> Value {
    match kept {
        Kept::Ack {
            lsn,
            epoch,
            destination,
            of,
        } => {
            json!({"type": "ack", "lsn": lsn, "epoch": epoch, "destination": destination, "of": of})
        }
        Kept::Put {
            lsn,
            epoch,
            destination,
            message,
            acknowledged,
        } => {
            let mut line = json!({
                "type": "put",
                "lsn": lsn,
                "epoch": epoch,
                "destination": destination,
                "acknowledged": acknowledged,
            });
            match Message::read(message) {
                Ok(message) => {
                    let headers: serde_json::Map<String, Value> = message
                        .headers()
                        .map(|(name, value)| (name.to_owned(), value.into()))
                        .collect();
                    let properties = message.properties();
                    line["headers"] = headers.into();
                    line["content_type"] = properties.content_type.into();
                    line["correlation_id"] = properties.correlation_id.into();
                    line["reply_to"] = properties.reply_to.into();
                    line["persistent"] = message.envelope().persistent.into();
                    line["priority"] = message.envelope().priority.into();
                    line["body_base64"] = base64(message.body()).into();
                    line["text"] = std::str::from_utf8(message.body()).ok().into();
                }
                Err(error) => {
                    // Whatever it is, it is not lost.
                    line["unreadable"] = error.to_string().into();
                    line["body_base64"] = base64(message).into();
                }
            }
            line
        }
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let number = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4_usize {
            if place <= three.len() {
                let index = (number >> (18 - 6 * place)) & 63;
                out.push(char::from(LETTERS[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfcs_examples() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
