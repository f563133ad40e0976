//! `twinmq demo`: the main job in one command. Two servers from the stock profiles of either mode in a
//! scratch folder, load through both addresses, `kill -9` of the active, failover, the dead one's return
//! (and resync, where there are two copies), and the ledger at the end.
//!
//! Every server process ends with this one, however it ends (`scratch`); an interrupt ends it in
//! order (`interrupt`).

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::args::{DemoArgs, PairMode};
use super::interrupt::Interrupt;
use super::load::{Load, LoadOutcome, LoadPlan};
use super::scratch::{Pair, Role, Scratch};
use super::stage::{Stage, StageError};
use super::stomp_client::StompOptions;
use super::{CliError, print, print_json};
use crate::config::render::Profile;
use crate::config::stock;
use crate::exit::ExitCode;
use crate::time::{Clock, Moment, SystemClock};

/// No phase may take longer; the whole demo takes well under a minute.
const PHASE_MAX: Duration = Duration::from_secs(30);
/// How long load runs if the command line does not say.
const SECONDS: u64 = 12;
/// Messages per second: enough to see something, and both servers share this machine with us.
const RATE: u64 = 2000;
/// Messages are missing when none has come for this long.
const QUIET: Duration = Duration::from_secs(10);
/// Queues, producers and consumers each.
const WIDTH: usize = 4;
/// Unconfirmed messages of each producer.
const WINDOW: usize = 100;
/// Bytes of each message.
const BODY_BYTES: usize = 512;

/// The demo failed; the logs are kept.
#[derive(Debug, thiserror::Error)]
#[error("{error}\nthe servers' logs: {logs}")]
struct DemoFailed {
    error: StageError,
    logs: String,
}

/// What the demo showed.
#[derive(Debug, Serialize)]
struct Shown {
    /// The longest time that a producer had to wait between two receipts, over the kill.
    failover_ms: u64,
    /// Which kind of pair it was.
    mode: &'static str,
    /// From the restart of the dead server to both being in sync again; replicated mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    resync_ms: Option<u64>,
    /// Which server was killed.
    killed: &'static str,
    #[serde(flatten)]
    outcome: LoadOutcome,
}

/// Shows it.
///
/// # Errors
/// When it could not be shown to its end. A loss is no error of the command: the ledger shows it,
/// and the exit code says so.
pub fn run(args: &DemoArgs) -> Result<ExitCode, CliError> {
    // Before any thread starts, so that all of them leave the signals to the one that waits.
    let interrupt = Interrupt::watch();
    let folder = Scratch::make("demo", args.dir.clone(), args.keep)
        .map_err(|error| CliError::of(ExitCode::Failed, error))?;
    let stage = Stage::new(interrupt, PHASE_MAX, false);
    let demo = Demo { args, stage };
    match demo.show(&folder) {
        Ok(shown) => {
            let held = shown.outcome.holds();
            if !held {
                folder.keep();
            }
            conclude(args, &shown, &folder)?;
            Ok(if held {
                ExitCode::Done
            } else {
                ExitCode::Failed
            })
        }
        Err(error) => {
            folder.keep();
            let logs = log_list(&folder);
            Err(CliError::of(ExitCode::Failed, DemoFailed { error, logs }))
        }
    }
}

fn stock_profiles(mode: PairMode) -> [(String, Profile); 2] {
    [Role::Primary, Role::Secondary].map(|role| {
        let name = format!("{}/{}", mode.name(), role.name());
        let profile = stock(&name).expect("the stock profiles are built in");
        (name, profile)
    })
}

fn log_list(folder: &Scratch) -> String {
    let paths: Vec<String> = [Role::Primary, Role::Secondary]
        .map(|role| folder.log(role))
        .iter()
        .map(|path: &PathBuf| path.display().to_string())
        .collect();
    paths.join(", ")
}

fn conclude(args: &DemoArgs, shown: &Shown, folder: &Scratch) -> Result<(), CliError> {
    if args.json {
        let json = serde_json::to_value(shown).expect("plain numbers and texts are JSON");
        print_json(&json)?;
    } else {
        print(&ledger_text(shown))?;
    }
    if folder.is_kept() && !args.json {
        print(&format!("kept: {}", folder.path().display()))?;
    }
    Ok(())
}

fn ledger_text(shown: &Shown) -> String {
    let ledger = &shown.outcome.ledger;
    let mut text = String::from("\nledger\n");
    for (name, count) in [
        ("confirmed", ledger.confirmed),
        ("delivered once", ledger.delivered_once),
        ("delivered again, flagged redelivered", ledger.redelivered),
        ("duplicated, unflagged", ledger.duplicated),
        ("lost", ledger.lost),
        (
            "sent without a receipt (the application sends them again)",
            ledger.unknown,
        ),
    ] {
        text.push_str(&format!("  {count:>9}  {name}\n"));
    }
    let resync = shown
        .resync_ms
        .map_or_else(String::new, |ms| format!(", resync {ms} ms"));
    text.push_str(&format!(
        "\nfailover {} ms (longest gap between receipts of one producer){resync}\n",
        shown.failover_ms
    ));
    text.push_str(match (&shown.outcome.failure, ledger.holds()) {
        (Some(_), _) => "FAILED: a client could not go on: ",
        (None, true) => "nothing confirmed was lost, nothing came twice unflagged",
        (None, false) => "FAILED: the guarantee did not hold; please report this with the logs",
    });
    if let Some(failure) = &shown.outcome.failure {
        text.push_str(failure);
    }
    text
}

/// The show.
struct Demo<'a> {
    args: &'a DemoArgs,
    stage: Stage,
}

impl Demo<'_> {
    fn show(&self, folder: &Scratch) -> Result<Shown, StageError> {
        let clock = SystemClock;
        let mut pair = Pair::prepare(folder, stock_profiles(self.args.mode))?;
        self.stage
            .say("starting two servers from the stock profiles");
        pair.start(Role::Primary)?;
        pair.start(Role::Secondary)?;
        let active = self.stage.in_sync(&mut pair, None)?;
        let (begun, again) = match self.args.mode {
            PairMode::Replicated => ("in sync", "in sync again"),
            PairMode::Shared => ("both share one store", "it stands by again"),
        };
        self.stage.say(&format!(
            "{begun}: the {} is active, the {} passive",
            active.name(),
            active.other().name()
        ));

        let load = Load::start(self.plan(&pair))?;
        self.stage
            .say(&format!("{WIDTH} producers and {WIDTH} consumers at work"));
        let begin = clock.now();
        self.run_on(&mut pair, &load, begin, 1)?;

        load.watch_gaps();
        let killed_at = clock.now();
        pair.kill(active);
        self.stage
            .say(&format!("kill -9 to the active, the {}", active.name()));
        self.stage
            .until(&mut pair, Some(&load), "service is back", |_| {
                if load.all_served_anew_since(killed_at) {
                    Ok(())
                } else {
                    Err("a producer has no receipt of the other server yet".to_owned())
                }
            })?;
        let failover = load.longest_gap();
        self.stage.say(&format!(
            "the {} serves: the longest gap between receipts was {} ms",
            active.other().name(),
            failover.as_millis()
        ));
        self.run_on(&mut pair, &load, begin, 2)?;

        let restarted_at = clock.now();
        pair.start(active)?;
        self.stage
            .say(&format!("the dead {} is started again", active.name()));
        self.stage.in_sync(&mut pair, Some(&load))?;
        let resync = clock.now().since(restarted_at);
        self.stage
            .say(&format!("{again} after {} ms", resync.as_millis()));
        self.run_on(&mut pair, &load, begin, 3)?;

        load.stop_sending();
        self.stage.say("settling the ledger");
        let outcome = load.finish(QUIET, &|| self.stage.interrupted());
        if self.stage.interrupted() {
            return Err(StageError::Interrupted);
        }
        pair.stop();
        self.stage.clear();
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Ok(Shown {
            failover_ms: ms(failover),
            mode: self.args.mode.name(),
            resync_ms: match self.args.mode {
                PairMode::Replicated => Some(ms(resync)),
                PairMode::Shared => None,
            },
            killed: active.name(),
            outcome,
        })
    }

    fn plan(&self, pair: &Pair) -> LoadPlan {
        LoadPlan {
            hosts: pair.hosts(),
            options: StompOptions::default(),
            destinations: (1..=WIDTH).map(|n| format!("/queue/demo.{n}")).collect(),
            producers: WIDTH,
            consumers: WIDTH,
            window: WINDOW,
            body_bytes: BODY_BYTES,
            count: self.args.messages,
            rate: Some(RATE),
            patience: PHASE_MAX,
            silence: None,
        }
    }

    /// Lets load run to the end of a third of the show: of the messages asked for, or of the time.
    fn run_on(
        &self,
        pair: &mut Pair,
        load: &Load,
        begin: Moment,
        third: u64,
    ) -> Result<(), StageError> {
        let clock = SystemClock;
        let seconds = self.args.seconds.unwrap_or(SECONDS);
        let from = load.progress().confirmed;
        self.stage
            .until_within(pair, Some(load), None, "load runs", |_| {
                let confirmed = load.progress().confirmed;
                let over = match self.args.messages {
                    Some(messages) => confirmed >= messages * third / 3,
                    // Each part goes on for a while, however long the failover took.
                    None => {
                        clock.now().since(begin).as_millis()
                            >= u128::from(seconds * third * 1000 / 3)
                            && confirmed > from
                    }
                };
                if over || load.sending_is_over() {
                    Ok(())
                } else {
                    Err(format!("{confirmed} confirmed"))
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ledger::LedgerReport;
    use crate::cli::load::DestinationFigures;

    fn shown(lost: u64) -> Shown {
        Shown {
            failover_ms: 640,
            mode: "replicated",
            resync_ms: Some(900),
            killed: "primary",
            outcome: LoadOutcome {
                ledger: LedgerReport {
                    confirmed: 100,
                    delivered_once: 100 - lost,
                    lost,
                    ..LedgerReport::default()
                },
                seconds: 1.0,
                all: DestinationFigures {
                    destination: "all".to_owned(),
                    confirmed: 100,
                    received: 100 - lost,
                    confirmed_per_s: 100.0,
                    received_per_s: 100.0,
                    confirm_p50_us: 1,
                    confirm_p99_us: 1,
                    end_to_end_p50_us: 1,
                    end_to_end_p99_us: 1,
                },
                destinations: Vec::new(),
                reconnects: 0,
                longest_gap_ms: 640,
                failure: None,
            },
        }
    }

    #[test]
    fn the_ledger_says_plainly_whether_the_guarantee_held() {
        let good = ledger_text(&shown(0));
        assert!(good.contains("nothing confirmed was lost"), "{good}");
        assert!(good.contains("failover 640 ms"), "{good}");
        let bad = ledger_text(&shown(1));
        assert!(bad.contains("FAILED"), "{bad}");
        assert!(bad.contains("        1  lost"), "{bad}");
    }

    #[test]
    fn the_json_holds_the_ledger_and_the_times() {
        let json = serde_json::to_value(shown(2)).unwrap();
        assert_eq!(json["failover_ms"], 640);
        assert_eq!(json["ledger"]["lost"], 2);
    }
}
