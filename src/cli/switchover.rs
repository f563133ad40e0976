//! `twinmq switchover`: the passive serves instead of the active, in order; done when the pair is in
//! sync again with its roles changed. In shared mode the old active's process ends, and whoever
//! supervises it starts it again: there it is done when the other one serves.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::admin_client::{AdminClient, AdminError, Status};
use super::args::SwitchoverArgs;
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::time::{Clock, Moment, SystemClock};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// What the server answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    ready: bool,
    epoch: u64,
    peer: Option<String>,
    conditions: Vec<Found>,
}

/// One thing that must be so.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    condition: String,
    holds: bool,
    found: String,
}

/// Why it was not done, or not seen to be done.
#[derive(Debug, thiserror::Error)]
enum SwitchoverError {
    #[error("{server} cannot hand over: {reasons}")]
    Refused { server: String, reasons: String },
    #[error(
        "{server} is alone, without a peer to hand over to: a switchover is for a replicated pair"
    )]
    Standalone { server: String },
    #[error("{url} answered what this version does not understand: {reason}")]
    Strange { url: String, reason: String },
    #[error(
        "{server} ended epoch {epoch} and its process, and after {seconds} s the other server does not \
         serve; last seen: {seen}. See the other server's status and log; {server} serves again once it \
         is started and has the lock"
    )]
    SharedNotInTime {
        server: String,
        epoch: u64,
        seconds: u64,
        seen: String,
    },
    #[error(
        "{server} ended in the middle of the hand-over of epoch {epoch}: nobody answers there any more; \
         {other}. Start {server} again; see both servers' status and logs"
    )]
    Ended {
        server: String,
        epoch: u64,
        other: String,
    },
    #[error(
        "{server} handed over epoch {epoch} and serves again, in epoch {now}: the other server did not \
         take over, or did not stay; see both servers' status and logs"
    )]
    ServesAgain {
        server: String,
        epoch: u64,
        now: u64,
    },
    #[error(
        "{server} handed over epoch {epoch}, and after {seconds} s the pair is not in sync with its \
         roles changed; last seen: {seen}. If the other server did not take over, {server} serves \
         again by itself; see both servers' status and logs"
    )]
    NotInTime {
        server: String,
        epoch: u64,
        seconds: u64,
        seen: String,
    },
}

/// Asks the server, and waits for the outcome.
///
/// # Errors
/// When it is refused, or the roles have not changed in time.
pub fn run(args: &SwitchoverArgs) -> Result<ExitCode, CliError> {
    let address = args.server.admin()?;
    let own = address.authorized()?;
    let status = own.status()?;
    let fail = |error: SwitchoverError| CliError::of(ExitCode::Failed, error);
    if status.mode == "standalone" {
        return Err(fail(SwitchoverError::Standalone {
            server: status.server,
        }));
    }
    let started = SystemClock.now();
    let answer = ask(&own, args.dry_run)?;
    if args.dry_run {
        if args.json {
            print_json(&dry_run_json(&status.server, &answer))?;
        } else {
            print(&dry_run_text(&status.server, &answer))?;
        }
        return Ok(if answer.ready {
            ExitCode::Done
        } else {
            ExitCode::Failed
        });
    }
    if !answer.ready {
        return Err(fail(SwitchoverError::Refused {
            server: status.server,
            reasons: reasons(&answer.conditions),
        }));
    }
    let peer = address.peer.map(|url| AdminClient::new(&url, None));
    let pair = Watched {
        own,
        peer,
        epoch: answer.epoch,
    };
    if status.mode == "shared" {
        return shared(args, &pair, started, &status.server, answer.peer);
    }
    let outcome = pair
        .watch(started, Duration::from_secs(args.timeout))
        .map_err(|missed| {
            let (server, epoch) = (status.server.clone(), answer.epoch);
            fail(match missed {
                Missed::Ended { other } => SwitchoverError::Ended {
                    server,
                    epoch,
                    other,
                },
                Missed::ServesAgain { now } => SwitchoverError::ServesAgain { server, epoch, now },
                Missed::NotInTime { seen } => SwitchoverError::NotInTime {
                    server,
                    epoch,
                    seconds: args.timeout,
                    seen,
                },
            })
        })?;
    let serves = answer.peer.unwrap_or_else(|| "the other server".to_owned());
    if args.json {
        print_json(&json!({
            "active": serves,
            "passive": status.server,
            "epoch": outcome.epoch,
            "serving_after_ms": outcome.serving_ms,
            "in_sync_after_ms": outcome.in_sync_ms,
        }))?;
    } else {
        let after = outcome
            .serving_ms
            .map_or_else(String::new, |ms| format!(" after {ms} ms"));
        print(&format!(
            "{serves} serves in epoch {}{after}; {} is PASSIVE and in sync after {} ms",
            outcome.epoch, status.server, outcome.in_sync_ms
        ))?;
    }
    Ok(ExitCode::Done)
}

/// The store is free for the other server only when this one's process has ended: nobody waits for it to
/// come back.
fn shared(
    args: &SwitchoverArgs,
    pair: &Watched,
    started: Moment,
    server: &str,
    peer: Option<String>,
) -> Result<ExitCode, CliError> {
    let watched = pair.watch_shared(started, Duration::from_secs(args.timeout));
    let serving = watched.map_err(|seen| {
        let late = SwitchoverError::SharedNotInTime {
            server: server.to_owned(),
            epoch: pair.epoch,
            seconds: args.timeout,
            seen,
        };
        CliError::of(ExitCode::Failed, late)
    })?;
    let serves = peer.unwrap_or_else(|| "the other server".to_owned());
    if args.json {
        print_json(&json!({
            "active": serves,
            "ended": server,
            "epoch": serving.as_ref().map(|(epoch, _)| *epoch),
            "serving_after_ms": serving.as_ref().map(|(_, ms)| *ms),
        }))?;
        return Ok(ExitCode::Done);
    }
    let done = match serving {
        Some((epoch, ms)) => format!("{serves} serves in epoch {epoch} after {ms} ms"),
        None => format!("{serves} takes over (not asked: only one URL was given)"),
    };
    print(&format!(
        "{done}; the process of {server} has ended in order, to free the store: it is PASSIVE once its \
         supervisor, or you, start it again"
    ))?;
    Ok(ExitCode::Done)
}

fn ask(server: &AdminClient, dry_run: bool) -> Result<Answer, CliError> {
    let text = match server.post(&format!("switchover?dry_run={dry_run}")) {
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
            SwitchoverError::Strange {
                url: server.url().to_owned(),
                reason: error.to_string(),
            },
        )
    })
}

/// The pair, while its roles change.
struct Watched {
    own: AdminClient,
    /// None where only a URL was given: then the old active's word is all there is.
    peer: Option<AdminClient>,
    /// The epoch that ends.
    epoch: u64,
}

/// How it went, counted from the command.
struct Outcome {
    epoch: u64,
    /// None if nobody saw the moment.
    serving_ms: Option<u128>,
    in_sync_ms: u128,
}

/// How it ended otherwise.
enum Missed {
    /// The old active's process is gone; what the other server says of itself.
    Ended { other: String },
    /// The old active has claimed back.
    ServesAgain { now: u64 },
    /// What was seen last.
    NotInTime { seen: String },
}

impl Watched {
    /// Until the roles have changed, or it is certain that they will not by this hand-over.
    fn watch(&self, started: Moment, patience: Duration) -> Result<Outcome, Missed> {
        let clock = SystemClock;
        let until = started.after(patience);
        let since = |now: Moment| now.since(started).as_millis();
        let mut serving_ms = None;
        loop {
            if serving_ms.is_none() && self.peer_serves() {
                serving_ms = Some(since(clock.now()));
            }
            let seen = match self.own.status() {
                Ok(status) if self.is_done(&status) => {
                    return Ok(Outcome {
                        epoch: status.epoch,
                        serving_ms,
                        in_sync_ms: since(clock.now()),
                    });
                }
                Ok(status) if status.serving && status.epoch > self.epoch => {
                    return Err(Missed::ServesAgain { now: status.epoch });
                }
                // In this mode no process ends by a switchover.
                Err(AdminError::NotRunning { .. }) => {
                    let other = self.word_of_the_peer();
                    return Err(Missed::Ended { other });
                }
                Ok(status) => format!("{} is {}", status.server, status.state),
                Err(error) => error.to_string(),
            };
            if clock.now() >= until {
                return Err(Missed::NotInTime { seen });
            }
            thread::sleep(LOOK);
        }
    }

    fn word_of_the_peer(&self) -> String {
        match self.peer.as_ref().map(AdminClient::status) {
            None => "the other server was not asked: only one URL was given".to_owned(),
            Some(Ok(status)) if status.serving => {
                format!("{} serves in epoch {}", status.server, status.epoch)
            }
            Some(Ok(status)) => format!(
                "{} is {} now and takes over by itself if it may",
                status.server, status.state
            ),
            Some(Err(error)) => error.to_string(),
        }
    }

    /// The epoch that the other server serves in, and when; None where it cannot be asked and the old one
    /// does not answer any more. Err: what was seen last.
    fn watch_shared(
        &self,
        started: Moment,
        patience: Duration,
    ) -> Result<Option<(u64, u128)>, String> {
        let clock = SystemClock;
        let until = started.after(patience);
        loop {
            let asked = self.peer.as_ref().unwrap_or(&self.own);
            let seen = match (asked.status(), &self.peer) {
                (Ok(status), Some(_)) if status.serving && status.epoch > self.epoch => {
                    let ms = clock.now().since(started).as_millis();
                    return Ok(Some((status.epoch, ms)));
                }
                // It has ended, or was started again already.
                (Err(AdminError::NotRunning { .. }), None) => return Ok(None),
                (Ok(status), None) if !status.serving => return Ok(None),
                (Ok(status), _) => format!("{} is {}", status.server, status.state),
                (Err(error), _) => error.to_string(),
            };
            if clock.now() >= until {
                return Err(seen);
            }
            thread::sleep(LOOK);
        }
    }

    fn peer_serves(&self) -> bool {
        let status = self.peer.as_ref().and_then(|peer| peer.status().ok());
        status.is_some_and(|status| status.serving && status.epoch > self.epoch)
    }

    fn is_done(&self, own: &Status) -> bool {
        own.state == "PASSIVE" && own.epoch > self.epoch && own.pair_is_in_sync()
    }
}

/// What is missing, in one sentence.
pub(super) fn reasons(conditions: &[Found]) -> String {
    let missing: Vec<String> = conditions
        .iter()
        .filter(|found| !found.holds)
        .map(|found| format!("{}, but {}", found.condition, found.found))
        .collect();
    format!("it is required that {}", missing.join("; and that "))
}

/// Each thing with what was found, one a line.
pub(super) fn list(conditions: &[Found]) -> String {
    let mut text = String::new();
    for found in conditions {
        let mark = if found.holds { "yes" } else { "NO " };
        writeln!(text, "{mark}  {}: {}", found.condition, found.found)
            .expect("a string takes every text");
    }
    text
}

fn dry_run_text(server: &str, answer: &Answer) -> String {
    let mut text = list(&answer.conditions);
    let peer = answer.peer.as_deref().unwrap_or("the other server");
    if answer.ready {
        let epoch = answer.epoch;
        write!(
            text,
            "{server} would end epoch {epoch} and {peer} would serve; nothing was changed"
        )
    } else {
        write!(
            text,
            "{server} would refuse to hand over; nothing was changed"
        )
    }
    .expect("a string takes every text");
    text
}

fn dry_run_json(server: &str, answer: &Answer) -> serde_json::Value {
    let conditions: Vec<_> = answer
        .conditions
        .iter()
        .map(|found| {
            json!({"condition": found.condition, "holds": found.holds, "found": found.found})
        })
        .collect();
    json!({
        "server": server,
        "ready": answer.ready,
        "dry_run": true,
        "epoch": answer.epoch,
        "peer": answer.peer,
        "conditions": conditions,
    })
}
