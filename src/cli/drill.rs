//! `twinmq drill`: a rehearsal of failures. A scratch pair made from the user's own profile, load
//! through both addresses, one fault after the other with a heal after each, and the ledger.

mod chance;
mod fault;
mod ledger;
mod profiles;
mod strike;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use fault::Fault;

use super::args::{DrillArgs, ProfileArgs};
use super::interrupt::Interrupt;
use super::load::{Load, LoadPlan};
use super::scratch::{Pair, Role, Scratch};
use super::serving::{intervals, judge};
use super::stage::{Stage, StageError};
use super::stomp_client::StompOptions;
use super::{CliError, print, print_json};
use crate::config::{HaConfig, Loaded};
use crate::exit::ExitCode;
use crate::time::{Clock, SystemClock};
use ledger::{Drilled, Early, Row};
use profiles::{Places, profiles};

/// What a phase may take besides the pair's own intervals.
const PHASE: Duration = Duration::from_secs(30);
/// Messages are missing when none has come for this long.
const QUIET: Duration = Duration::from_secs(10);
/// A server that owes an answer for so long hangs, as clients see it.
const SILENCE: Duration = Duration::from_secs(1);
/// How long load runs before each fault and after its heal.
const RUN: Duration = Duration::from_secs(1);
/// Queues, producers and consumers each.
const WIDTH: usize = 2;
/// Unconfirmed messages of each producer.
const WINDOW: usize = 100;
/// Bytes of each message.
const BODY_BYTES: usize = 512;

/// The drill could not go on; the logs are kept.
#[derive(Debug, thiserror::Error)]
#[error("{during}: {error}\nthe servers' logs: {logs}")]
struct DrillFailed {
    during: String,
    error: StageError,
    logs: String,
}

/// Runs the drill.
///
/// # Errors
/// When it could not be run to its end. A loss is no error of the command: the ledger shows it, and
/// the exit code says so.
pub fn run(args: &DrillArgs) -> Result<ExitCode, CliError> {
    let source = ProfileArgs {
        profile: Some(
            args.profile
                .clone()
                .unwrap_or_else(|| "replicated/primary".to_owned()),
        ),
        set: args.set.clone(),
    };
    let loaded = source.load(None)?;
    let seed = args.seed.unwrap_or_else(|| SystemClock.wall_ms());
    let places = places(args)?;
    let profiles = profiles(&loaded, &places)?;
    let Some(ha) = loaded.config.ha.clone() else {
        unreachable!("standalone profiles were refused just now")
    };
    // Before any thread starts, so that all of them leave the signals to the one that waits.
    let interrupt = Interrupt::watch();
    let folder = Scratch::make("drill", args.dir.clone(), args.keep)
        .map_err(|error| CliError::of(ExitCode::Failed, error))?;
    let phase_max = PHASE + ha.passive_interval.saturating_mul(4);
    let drill = Drill {
        args,
        stage: Stage::new(interrupt, phase_max, true),
        folder: folder.path().to_owned(),
        lock_file: folder.path().join(&places.lock_file),
        ha,
        seed,
    };
    let mut drilled = drill.begin(&loaded);
    let ended = drill.all(&folder, profiles, &mut drilled);
    drill.stage.clear();
    if args.share.is_some() {
        remove(&places);
    }
    if ended.is_err() || !drilled.holds() {
        folder.keep();
    }
    drilled.ended_early = ended.as_ref().err().map(|(during, error)| Early {
        during: during.clone(),
        interrupted: matches!(error, StageError::Interrupted),
        planned: schedule(args, seed).len(),
    });
    conclude(args, &drilled, &folder)?;
    match ended {
        Ok(()) if drilled.holds() => Ok(ExitCode::Done),
        Ok(()) => Ok(ExitCode::Failed),
        Err((during, error)) => {
            let logs = log_list(&folder);
            let failed = DrillFailed {
                during,
                error,
                logs,
            };
            Err(CliError::of(ExitCode::Failed, failed))
        }
    }
}

fn schedule(args: &DrillArgs, seed: u64) -> Vec<Fault> {
    fault::schedule(&args.faults, args.rounds, seed)
}

fn places(args: &DrillArgs) -> Result<Places, CliError> {
    let Some(share) = &args.share else {
        return Ok(Places::scratch());
    };
    match fs::canonicalize(share) {
        Ok(folder) if folder.is_dir() => {
            let unique = format!("{:x}-{}", SystemClock.wall_ms(), std::process::id());
            Ok(Places::on_share(&folder, &unique))
        }
        Ok(_) | Err(_) => Err(CliError::Usage(format!(
            "--share {}: is no folder; name one on the share of your lock file",
            share.display()
        ))),
    }
}

/// Takes away what the drill made on the user's share: all that begins with its unique names.
fn remove(places: &Places) {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let ours = [name(&places.lock_file), name(&places.shared_store)];
    let folder = places.lock_file.parent().map(fs::read_dir);
    let Some(Ok(entries)) = folder else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let found = name(&path).unwrap_or_default();
        if ours.iter().flatten().any(|ours| found.starts_with(ours)) {
            // What stays behind is named by its file name.
            if path.is_dir() {
                fs::remove_dir_all(&path).ok();
            } else {
                fs::remove_file(&path).ok();
            }
        }
    }
}

fn log_list(folder: &Scratch) -> String {
    let paths: Vec<String> = [Role::Primary, Role::Secondary]
        .map(|role| folder.log(role))
        .iter()
        .map(|path: &PathBuf| path.display().to_string())
        .collect();
    paths.join(", ")
}

fn conclude(args: &DrillArgs, drilled: &Drilled, folder: &Scratch) -> Result<(), CliError> {
    if args.json {
        let json = serde_json::to_value(drilled).expect("plain numbers and texts are JSON");
        return print_json(&json);
    }
    print(&drilled.text())?;
    if folder.is_kept() {
        print(&format!("kept: {}", folder.path().display()))?;
    }
    Ok(())
}

/// What a drill goes by.
struct Drill<'a> {
    args: &'a DrillArgs,
    stage: Stage,
    folder: PathBuf,
    ha: HaConfig,
    lock_file: PathBuf,
    seed: u64,
}

impl Drill<'_> {
    fn begin(&self, loaded: &Loaded) -> Drilled {
        Drilled::new(
            &loaded.config.profile,
            loaded.config.mode.name(),
            self.seed,
            self.args.rounds,
        )
    }

    /// All faults of all rounds. The error comes with what was done just then.
    fn all(
        &self,
        folder: &Scratch,
        profiles: [(String, crate::config::render::Profile); 2],
        drilled: &mut Drilled,
    ) -> Result<(), (String, StageError)> {
        let starting = |error| ("starting the scratch pair".to_owned(), error);
        let faults = schedule(self.args, self.seed);
        self.stage.say(&format!(
            "drill of {} ({}): {} faults, --seed {}",
            drilled.profile,
            drilled.mode,
            faults.len(),
            self.seed
        ));
        let prepared = Pair::prepare(folder, profiles).map_err(StageError::from);
        let mut pair = prepared.map_err(starting)?;
        for role in [Role::Primary, Role::Secondary] {
            pair.start(role)
                .map_err(StageError::from)
                .map_err(starting)?;
        }
        self.stage.in_sync(&mut pair, None).map_err(starting)?;
        for (number, fault) in (1..).zip(&faults) {
            let said = format!("{number}/{} {}", faults.len(), fault.name());
            let row = self
                .one(&mut pair, *fault, number)
                .map_err(|error| (format!("during {said}"), error))?;
            self.stage.say(&format!("{said}: {}", row.sentence()));
            drilled.enter(row);
        }
        pair.stop();
        drilled.serving = self.serving(&pair);
        Ok(())
    }

    /// One fault under load of its own, its heal, and its ledger.
    fn one(&self, pair: &mut Pair, fault: Fault, number: u64) -> Result<Row, StageError> {
        self.stage.say(&fault.words());
        let active = self.stage.in_sync(pair, None)?;
        let load = Load::start(self.plan(pair, number))?;
        self.run_on(pair, &load)?;
        load.watch_gaps();
        self.strike(pair, &load, fault, active)?;
        self.stage.in_sync(pair, Some(&load))?;
        self.run_on(pair, &load)?;
        let outage = load.longest_gap();
        load.stop_sending();
        let outcome = load.finish(QUIET, &|| self.stage.interrupted());
        if self.stage.interrupted() {
            return Err(StageError::Interrupted);
        }
        Ok(Row::new(fault, active.name(), outage, outcome))
    }

    fn plan(&self, pair: &Pair, number: u64) -> LoadPlan {
        LoadPlan {
            hosts: pair.hosts(),
            options: StompOptions {
                connect_timeout: SILENCE,
                ..StompOptions::default()
            },
            destinations: (1..=WIDTH)
                .map(|n| format!("/queue/drill.{number}.{n}"))
                .collect(),
            producers: WIDTH,
            consumers: WIDTH,
            window: WINDOW,
            body_bytes: BODY_BYTES,
            count: None,
            rate: Some(self.args.rate),
            patience: self.stage.phase_max,
            silence: Some(SILENCE),
        }
    }

    /// Lets load run for a while, in which something is confirmed.
    fn run_on(&self, pair: &mut Pair, load: &Load) -> Result<(), StageError> {
        let clock = SystemClock;
        let begin = clock.now();
        let from = load.progress().confirmed;
        self.stage.until(pair, Some(load), "load runs", |_| {
            let confirmed = load.progress().confirmed - from;
            if confirmed > 0 && clock.now().since(begin) >= RUN {
                Ok(())
            } else {
                Err(format!("{confirmed} confirmed"))
            }
        })
    }

    /// Whether the two ever served at once: none if not, else when, as the logs tell.
    fn serving(&self, pair: &Pair) -> Option<String> {
        let at_last = SystemClock.now();
        let mut all = Vec::new();
        for role in [Role::Primary, Role::Secondary] {
            let (log, kills) = pair.log(role);
            match intervals(role.name(), &log, kills, at_last) {
                Ok(found) => all.extend(found),
                Err(error) => return Some(error),
            }
        }
        judge(&mut all).err()
    }
}
