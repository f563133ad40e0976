//! `twinmq promote`: an operator's override. The server judges and acts; this shows what it says, has the
//! epoch typed back, and waits for the outcome.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::admin_client::{AdminClient, AdminError, Status};
use super::args::{PromoteArgs, ServerArgs};
use super::switchover::{Found, list, reasons};
use super::typed::typed;
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::machines::ha::NOT_OVERRULED;
use crate::time::{Clock, SystemClock};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What the server answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    ready: bool,
    epoch: u64,
    record: Option<Record>,
    own_epoch: u64,
    own_position: u64,
    known: Vec<Known>,
    lost_at_least: u64,
    copy: Option<String>,
    conditions: Vec<Found>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    number: u64,
    epoch: u64,
    in_sync: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Known {
    store: String,
    own: bool,
    epoch: u64,
    position: u64,
    source: String,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum PromoteError {
    #[error("{0}; start it with `twinmq run`: it will wait, and can be promoted then")]
    NotRunning(AdminError),
    #[error("{server} cannot be promoted: {reasons}")]
    Refused { server: String, reasons: String },
    #[error("the epoch that this ends is {epoch}, not {typed}: nothing was changed")]
    OtherEpoch { epoch: u64, typed: String },
    #[error(
        "standard input is no terminal: give the epoch that this ends with --epoch; nothing was changed"
    )]
    NobodyTypes,
    #[error("failed to read what was typed: {0}")]
    Terminal(std::io::Error),
    #[error("{url} answered what this version does not understand: {reason}")]
    Strange { url: String, reason: String },
    #[error("{server} was not promoted: {reason}")]
    NotDone { server: String, reason: String },
    #[error("{server} does not serve after {seconds} s; it is {seen}; see its log")]
    NotInTime {
        server: String,
        seconds: u64,
        seen: String,
    },
}

/// Shows what would be given up, and promotes the server if that is accepted.
///
/// # Errors
/// When it is refused, the epoch was not typed, or the server does not serve in time.
pub fn run(args: &PromoteArgs) -> Result<ExitCode, CliError> {
    let fail = |error: PromoteError| CliError::of(ExitCode::Failed, error);
    let server = args.server.admin()?.authorized()?;
    let before = server.status().map_err(|error| match error {
        AdminError::NotRunning { .. } => fail(PromoteError::NotRunning(error)),
        other => other.into(),
    })?;
    let found = ask(&server, "promote")?;
    let name = before.server.clone();
    if args.json && !args.accept_loss {
        print_json(&as_json(&name, &found, false))?;
    } else if !args.json {
        print(&as_text(&name, &found))?;
    }
    if !found.ready {
        return Err(fail(PromoteError::Refused {
            server: name,
            reasons: reasons(&found.conditions),
        }));
    }
    let epoch = found.epoch;
    if !args.accept_loss {
        if !args.json {
            print(&format!(
                "Nothing was changed. To promote {name}, and give that up:\n  {}",
                next_command(args, epoch)
            ))?;
        }
        return Ok(ExitCode::Done);
    }
    let typed = match args.epoch {
        Some(typed) => typed.to_string(),
        None => have_typed(epoch).map_err(fail)?,
    };
    if typed.trim() != epoch.to_string() {
        return Err(fail(PromoteError::OtherEpoch { epoch, typed }));
    }
    let answer = ask(&server, &format!("promote?accept_loss=true&epoch={epoch}"))?;
    let Some(copy) = &answer.copy else {
        return Err(fail(PromoteError::Refused {
            server: name,
            reasons: reasons(&answer.conditions),
        }));
    };
    let now = await_service(&server, &before, args.timeout).map_err(fail)?;
    if args.json {
        let mut told = as_json(&name, &answer, true);
        told["serves_in_epoch"] = json!(now.epoch);
        print_json(&told)?;
    } else {
        print(&format!(
            "{name} serves alone in epoch {}. The store as it was before is in {copy} of its data \
             directory; the override is noted in node/overrides. When the other server is started, it \
             follows, and what it alone has is kept for `twinmq divergence`.",
            now.epoch
        ))?;
    }
    Ok(ExitCode::Done)
}

/// The command that does it, to be copied.
fn next_command(args: &PromoteArgs, epoch: u64) -> String {
    let mut command = "twinmq promote".to_owned();
    let mut add = |option: &str, value: &str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-:=+,@".contains(letter);
        let value = match value.chars().all(plain) && !value.is_empty() {
            true => value.to_owned(),
            false => format!("'{}'", value.replace('\'', r"'\''")),
        };
        write!(command, " {option} {value}").expect("a string takes every text");
    };
    let ServerArgs { profile, url } = &args.server;
    for (option, value) in [("--url", url), ("-p", &profile.profile)] {
        if let Some(value) = value {
            add(option, value);
        }
    }
    for setting in &profile.set {
        add("--set", setting);
    }
    format!("{command} --accept-loss --epoch {epoch}")
}

fn ask(server: &AdminClient, what: &str) -> Result<Answer, CliError> {
    let text = match server.post(what) {
        Ok(text) => text,
        // Refused: the body says why.
        Err(AdminError::Refused {
            code: 409, reason, ..
        }) => reason,
        Err(error) => return Err(error.into()),
    };
    serde_json::from_str(&text).map_err(|error| {
        CliError::of(
            ExitCode::Failed,
            PromoteError::Strange {
                url: server.url().to_owned(),
                reason: error.to_string(),
            },
        )
    })
}

fn have_typed(epoch: u64) -> Result<String, PromoteError> {
    typed(&format!(
        "Type the epoch that this ends ({epoch}) to go on: "
    ))
    .map_err(PromoteError::Terminal)?
    .ok_or(PromoteError::NobodyTypes)
}

fn await_service(
    server: &AdminClient,
    before: &Status,
    seconds: u64,
) -> Result<Status, PromoteError> {
    let refused = |status: &Status| status.claims.as_ref().map_or(0, |claims| claims.refused);
    let until = SystemClock.now().after(Duration::from_secs(seconds));
    let name = before.server.clone();
    // A claim of its own may have been refused since; an override says so in its reason.
    let mut last = refused(before);
    loop {
        let seen = match server.status() {
            Ok(status) if status.serving => return Ok(status),
            Ok(status) => {
                let reason = status
                    .claims
                    .as_ref()
                    .and_then(|claims| claims.reason.clone());
                if refused(&status) > last {
                    last = refused(&status);
                    if let Some(reason) = &reason
                        && reason.starts_with(NOT_OVERRULED)
                    {
                        let reason = reason.clone();
                        return Err(PromoteError::NotDone {
                            server: name,
                            reason,
                        });
                    }
                }
                reason.map_or(status.state.clone(), |reason| {
                    format!("{}: {reason}", status.state)
                })
            }
            Err(error) => error.to_string(),
        };
        if SystemClock.now() >= until {
            return Err(PromoteError::NotInTime {
                server: name,
                seconds,
                seen,
            });
        }
        thread::sleep(LOOK);
    }
}

fn as_text(server: &str, answer: &Answer) -> String {
    let mut text = list(&answer.conditions);
    let mut add = |line: String| writeln!(text, "{line}").expect("a string takes every text");
    match &answer.record {
        Some(record) => add(format!(
            "record {} of epoch {}; in sync: {}",
            record.number,
            record.epoch,
            record.in_sync.join(", ")
        )),
        None => add("there is no record; a new one is made".to_owned()),
    }
    add(format!(
        "this store: epoch {}, position {}",
        answer.own_epoch, answer.own_position
    ));
    for known in &answer.known {
        let whose = if known.own {
            "this store".to_owned()
        } else {
            format!("store {}", known.store)
        };
        add(format!(
            "{whose}: epoch {}, position {} ({})",
            known.epoch, known.position, known.source
        ));
    }
    add(match answer.lost_at_least {
        0 => "GIVEN UP: nothing that is known of; what was written after these positions is not known"
            .to_owned(),
        lost => format!("GIVEN UP: at least {lost} records of the log that {server} does not have"),
    });
    if answer.ready {
        add(format!("a promotion ends epoch {}", answer.epoch));
    }
    text.trim_end().to_owned()
}

fn as_json(server: &str, answer: &Answer, promoted: bool) -> serde_json::Value {
    let known: Vec<_> = answer
        .known
        .iter()
        .map(|known| {
            json!({"store": known.store, "own": known.own, "epoch": known.epoch,
                   "position": known.position, "source": known.source})
        })
        .collect();
    json!({
        "server": server,
        "ready": answer.ready,
        "promoted": promoted,
        "epoch": answer.epoch,
        "record": answer.record.as_ref().map(|record| record.number),
        "own_epoch": answer.own_epoch,
        "own_position": answer.own_position,
        "known": known,
        "lost_at_least": answer.lost_at_least,
        "copy": answer.copy,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    #[test]
    fn the_next_command_is_the_one_that_was_given_with_what_it_lacked() {
        let line = [
            "twinmq",
            "promote",
            "-p",
            "a b/it's.toml",
            "--set",
            "log.level=info",
        ];
        let Command::Promote(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("another command")
        };
        assert_eq!(
            next_command(&args, 7),
            r"twinmq promote -p 'a b/it'\''s.toml' --set log.level=info --accept-loss --epoch 7"
        );
    }
}
