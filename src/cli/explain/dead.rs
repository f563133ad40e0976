//! The explanation of a server that does not answer, from its files and the arbiter's. Nothing in them
//! is changed, and no lock is taken.

mod shared;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::actors::server::role_config;
use crate::admin::{EVENTS_SHOWN, ExplainDocument, Explaining, Profiles};
use crate::cli::admin_client::{AdminClient, AdminError};
use crate::config::{Config, HaConfig, Mode, read_secret};
use crate::io::{arbiter_file, file_lock, history};
use crate::machines::ha::{Explanation, LockProbe, Outcome, OwnStore, forecast};
use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord};
use crate::proto::arbiter_codec::decode_record;
use crate::proto::auth::PairSecret;
use crate::proto::history::{Event, EventKind};
use crate::proto::ids::{Epoch, Position, StoreId};
use crate::proto::peer::ServerState;
use crate::storage::Glance;

/// The share may take so long.
const SHARE: Duration = Duration::from_secs(5);

/// What is known of a server that does not answer. What cannot be found out is said in its place.
pub(super) fn explain(config: &Config, unanswered: &AdminError) -> ExplainDocument {
    let profiles = Profiles::of(&config.profile);
    let events = history::read(&config.store.own_folder()).unwrap_or_default();
    let mut document = blank(config, &events);
    if let (Mode::Shared, Some(pair)) = (config.mode, &config.ha) {
        shared::explain(config, pair, &profiles, unanswered, &mut document);
        document.events = last(events);
        return document;
    }
    match glance_in_child(&config.store.path) {
        Err(why) => {
            document.trouble = Some(format!("its store cannot be read: {why}"));
            document.if_started = Some("it would end at once, or serve nobody".to_owned());
            document.advice = vec![profiles.put_into(
                "see what is wrong with the store: twinmq store check -p {own}; if it is damaged and the \
                 other server is in step, empty it (twinmq clear-db -p {own}) and start this one",
            )];
        }
        Ok(Some(Glance { in_use: true, .. })) => {
            silent(&profiles, unanswered, &mut document);
        }
        Ok(Some(Glance {
            identity_damage: Some(why),
            ..
        })) => nobody(config, &profiles, &why, &mut document),
        Ok(found) => down(config, &profiles, found.unwrap_or_default(), &mut document),
    }
    document.events = last(events);
    document
}

/// Its process is there.
fn silent(profiles: &Profiles, unanswered: &AdminError, document: &mut ExplainDocument) {
    document.trouble = Some(format!(
        "a process has its files open, but does not answer ({unanswered}): it is starting, ending, or \
         hangs"
    ));
    "its admin port does not answer, though its process is there".clone_into(&mut document.meaning);
    document.advice = vec![profiles.put_into(
        "wait a moment and ask again; if it still does not answer, see its log, then end the \
         process: the other server takes over",
    )];
}

/// It does not know who it is, and would not start. The file names the process's node alone: a store is
/// known by its own label, so a new identity costs nothing.
fn nobody(config: &Config, profiles: &Profiles, why: &str, document: &mut ExplainDocument) {
    let file = config.store.own_folder().join("identity.json");
    let file = file.display();
    document.trouble = Some(format!(
        "{file}, which says who this server is, is damaged: {why}"
    ));
    document.if_started = Some("it would end at once (exit code 6)".to_owned());
    document.advice = vec![
        profiles.put_into(&format!(
            "take the damaged file away (mv {file} {file}.damaged): the next start makes a new one, \
             and the store stays what it is"
        )),
        profiles.put_into(
            "what damaged this file may have damaged more: twinmq store check -p {own}; then start \
             it: twinmq run -p {own}",
        ),
    ];
}

fn blank(config: &Config, events: &[Event]) -> ExplainDocument {
    let meaning = match events.last() {
        None => "it has never run here, or its history is gone".to_owned(),
        Some(end) if end.kind == EventKind::End => format!("its last run {}", end.text),
        Some(event) => format!(
            "its last run did not end in order (killed, crashed, or power lost); the last thing known \
             is: {}",
            event.text
        ),
    };
    ExplainDocument {
        server: config.name.clone(),
        profile: config.profile.clone(),
        mode: config.mode.name().to_owned(),
        running: false,
        state: ServerState::Dead,
        place: ServerState::Dead.name().to_owned(),
        meaning,
        since: None,
        epoch: events.last().map_or(Epoch::ZERO, |event| event.epoch),
        cause: None,
        trouble: None,
        if_started: None,
        advice: Vec::new(),
        ways: Vec::new(),
        events: Vec::new(),
    }
}

/// No process has it: what would a start give?
fn down(config: &Config, profiles: &Profiles, found: Glance, document: &mut ExplainDocument) {
    let start = profiles.put_into("start it: twinmq run -p {own}");
    let Some(pair) = &config.ha else {
        document.if_started = Some("it would serve clients: it needs no other server".to_owned());
        document.advice = vec![start];
        return;
    };
    let last_record = match last_record(&found) {
        Ok(record) => record,
        Err(why) => {
            document.trouble = Some(why);
            document.if_started = Some("it would end at once".to_owned());
            document.advice = vec![profiles.put_into(
                "if the other server is in step: empty this one (twinmq clear-db -p {own}) and start it",
            )];
            return;
        }
    };
    let (arbiter, lock) = arbiter(pair);
    let own = own_store(&found);
    let node = found.node.unwrap_or_default();
    let told = forecast(role_config(config, node), own, last_record, &arbiter, &lock);
    let of = Explaining {
        server: document.server.clone(),
        profile: document.profile.clone(),
        mode: document.mode.clone(),
        epoch: document.epoch,
        lock_file: Some(pair.lock_file.clone()),
        events: Vec::new(),
    };
    let explained = ExplainDocument::of(of, &told.explanation, &BTreeMap::new());
    document.ways = explained.ways;
    let peer = peer(pair);
    document.advice = if peer.as_ref().is_some_and(|state| state.serves()) {
        Vec::new()
    } else {
        explained.advice
    };
    document.advice.push(start);
    document.trouble = match &told.outcome {
        Outcome::Refused(refusal) => Some(refusal.to_string()),
        Outcome::Serves | Outcome::MakesRecord | Outcome::WaitsForLock => None,
    };
    document.if_started = Some(if_started(&told.outcome, peer, &told.explanation));
}

fn if_started(outcome: &Outcome, peer: Option<ServerState>, first: &Explanation) -> String {
    match (peer, outcome) {
        (Some(peer), _) if peer.serves() => format!(
            "the other server runs and serves ({peer}); it would bring this one into step \
             (PASSIVE_SYNC, then PASSIVE)"
        ),
        (Some(peer), Outcome::Refused(_)) => format!(
            "it would be {} and leave it to the other server, which runs ({peer})",
            first.state
        ),
        (Some(peer), _) => format!(
            "the other server runs as well ({peer}); the one with the newer copy would serve"
        ),
        (None, Outcome::Serves) => {
            "the other server does not answer; this one would take the lock, \
             enter itself in the record, and serve alone (STANDALONE)"
                .to_owned()
        }
        (None, Outcome::MakesRecord) => {
            "the other server does not answer; this one would make the \
             record beside the lock file, and serve alone (STANDALONE)"
                .to_owned()
        }
        (None, Outcome::WaitsForLock) => {
            "the other server does not answer; this one may serve, but \
             would wait (WAITING) until the lock is free"
                .to_owned()
        }
        (None, Outcome::Refused(_)) => "the other server does not answer; this one would wait \
             (WAITING) and serve nobody"
            .to_owned(),
    }
}

fn own_store(found: &Glance) -> OwnStore {
    match &found.store {
        Some(store) => OwnStore {
            store: store.store,
            position: store.end,
            sync_in_progress: store.sync_in_progress,
        },
        // One that it would make: no record can name it.
        None => OwnStore {
            store: StoreId::default(),
            position: Position::default(),
            sync_in_progress: false,
        },
    }
}

fn last_record(found: &Glance) -> Result<Option<ArbiterRecord>, String> {
    let Some(bytes) = &found.last_record else {
        return Ok(None);
    };
    match decode_record(bytes, None) {
        Ok(file) => Ok(Some(file.record)),
        Err(error) => Err(format!("its node/last_record is not readable: {error}")),
    }
}

/// None: the folder is not there, or was never a server's.
fn glance_in_child(dir: &Path) -> Result<Option<Glance>, String> {
    if !dir.join("node").is_dir() && !dir.join("CURRENT").exists() {
        return Ok(None);
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["explain", "--reader"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("failed to start a process that reads it: {error}"))?;
    if let Some(signal) = output.status.signal() {
        return Err(format!(
            "the process that read it died of signal {signal}: the file is damaged"
        ));
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("twinmq: ");
        return Err(said.to_owned());
    }
    serde_json::from_slice(&output.stdout)
        .map(Some)
        .map_err(|error| format!("the process that read it said nothing sensible: {error}"))
}

/// The record, the lock file, and whether somebody holds it. A share that hangs is given up on.
fn arbiter(pair: &HaConfig) -> (ArbiterAnswer, LockProbe) {
    let secret = match &pair.pair_secret_file {
        None => None,
        Some(path) => match read_secret(path) {
            Ok(secret) => Some(PairSecret::new(secret.as_bytes())),
            Err(error) => {
                return (ArbiterAnswer::Failed(error.to_string()), LockProbe::Unknown);
            }
        },
    };
    let path = pair.lock_file.clone();
    let (tell, told) = channel();
    let asked = std::thread::Builder::new().spawn(move || {
        let answer = arbiter_file::look(&path, secret);
        let holder = match &answer {
            ArbiterAnswer::Read {
                lock: Some(lock), ..
            } => lock.last.clone(),
            _ => None,
        };
        let lock = match file_lock::is_locked(&path) {
            Ok(Some(true)) => LockProbe::Held { holder },
            Ok(Some(false)) => LockProbe::Free,
            Ok(None) | Err(_) => LockProbe::Unknown,
        };
        // Nobody listens any more when the share took too long.
        tell.send((answer, lock)).ok();
    });
    let late = || {
        let why = format!(
            "{} did not answer in {} s: its share hangs",
            pair.lock_file.display(),
            SHARE.as_secs()
        );
        (ArbiterAnswer::Failed(why), LockProbe::Unknown)
    };
    match asked {
        Ok(_) => told.recv_timeout(SHARE).unwrap_or_else(|_| late()),
        Err(error) => (ArbiterAnswer::Failed(error.to_string()), LockProbe::Unknown),
    }
}

/// The other server's state, if it answers.
fn peer(pair: &HaConfig) -> Option<ServerState> {
    let client = AdminClient::new(&pair.peer_admin.to_string(), None);
    client.explain().ok().map(|document| document.state)
}

fn last(mut events: Vec<Event>) -> Vec<Event> {
    events.drain(..events.len().saturating_sub(EVENTS_SHOWN));
    events
}
