//! `GET /api/v1/explain` and `/api/v1/history`: an explanation as a document, with the ages of its
//! evidence and the last events. `twinmq explain` prints the same document, and makes one from the files
//! of a server that does not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::actors::ha_chronicle::{Age, Explained};
use crate::io::arbiter_file::record_folder;
use crate::machines::ha::{Checked, Event as Opening, Explanation, Fact, FactValue, Source, Truth};
use crate::proto::history::Event;
use crate::proto::ids::Epoch;
use crate::proto::peer::ServerState;

/// Events that an explanation ends with.
pub const EVENTS_SHOWN: usize = 8;

/// Why a server is in its state, what it needs to leave it, and what an operator can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainDocument {
    /// The server's name.
    pub server: String,
    /// Its profile.
    pub profile: String,
    /// `standalone`, `replicated`, `shared`.
    pub mode: String,
    /// It runs, and this is what it says; otherwise this was read from its files.
    pub running: bool,
    /// The state; `DEAD` where it does not run.
    pub state: ServerState,
    /// The state with its inner phase.
    pub place: String,
    /// What a server in this state does.
    pub meaning: String,
    /// Since when, by the wall clock; none where it does not run.
    pub since: Option<String>,
    /// The epoch served, followed or last seen.
    pub epoch: Epoch,
    /// What led to the state.
    pub cause: Option<String>,
    /// What keeps it from serving, or from going on as it should.
    pub trouble: Option<String>,
    /// What it would do if it were started now; none where it runs.
    pub if_started: Option<String>,
    /// What an operator can do, most useful first.
    pub advice: Vec<String>,
    /// The ways out.
    pub ways: Vec<WayDocument>,
    /// The last events, oldest first.
    pub events: Vec<Event>,
}

/// A way out of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayDocument {
    /// Where it leads.
    pub to: String,
    /// What opens it, in words.
    pub when: String,
    /// All guards hold: it is taken when that happens.
    pub open: bool,
    /// Judged when it happens.
    pub guards: Vec<GuardDocument>,
    /// Judged further on, before clients are served.
    pub ahead: Vec<GuardDocument>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardDocument {
    /// In words.
    pub guard: String,
    /// `yes`, `no` or `unknown`.
    pub holds: String,
    /// What that rests on.
    pub facts: Vec<FactDocument>,
}

/// A piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactDocument {
    /// In words.
    pub text: String,
    /// Where it is from.
    pub source: String,
    /// How old it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// In how long its timer is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<u64>,
    /// The values in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, serde_json::Value>,
}

/// The two servers' profiles, as commands name them.
#[derive(Clone, Debug)]
pub struct Profiles {
    own: String,
    other: String,
    record: Option<String>,
}

impl Profiles {
    /// From a server's own: the other's is the same with the other role in it.
    #[must_use]
    pub fn of(own: &str) -> Self {
        let swapped = |from: &str, to: &str| {
            let (before, after) = own.rsplit_once(from)?;
            Some(format!("{before}{to}{after}"))
        };
        Self {
            own: own.to_owned(),
            other: swapped("primary", "secondary")
                .or_else(|| swapped("secondary", "primary"))
                .unwrap_or_else(|| format!("{own} (on the other machine)")),
            record: None,
        }
    }

    /// The same, with the lock file, beside which the record's folder is.
    #[must_use]
    pub fn beside(self, lock_file: Option<&Path>) -> Self {
        let record = lock_file.map(|lock| record_folder(lock).display().to_string());
        Self { record, ..self }
    }

    /// A text with the profiles put in, and the record's folder for `LockFile.d`, as the protocol calls
    /// it.
    #[must_use]
    pub fn put_into(&self, text: &str) -> String {
        let text = text
            .replace("{own}", &self.own)
            .replace("{other}", &self.other);
        match &self.record {
            Some(record) => text.replace("LockFile.d", record),
            None => text,
        }
    }
}

/// Which server an explanation is of.
#[derive(Clone, Debug)]
pub struct Explaining {
    /// Its name.
    pub server: String,
    /// Its profile.
    pub profile: String,
    /// Its mode.
    pub mode: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// The lock file as configured; none in standalone mode.
    pub lock_file: Option<PathBuf>,
    /// Its last events.
    pub events: Vec<Event>,
}

impl ExplainDocument {
    /// What a running server says.
    #[must_use]
    pub fn of_running(of: Explaining, explained: &Explained, since: String) -> Self {
        let document = Self::of(of, &explained.explanation, &explained.ages);
        Self {
            since: Some(since),
            ..document
        }
    }

    /// Of an explanation, with the ages of what it rests on.
    #[must_use]
    pub fn of(of: Explaining, explanation: &Explanation, ages: &BTreeMap<Source, Age>) -> Self {
        let profiles = Profiles::of(&of.profile).beside(of.lock_file.as_deref());
        let write = Writer {
            profiles: &profiles,
            ages,
        };
        Self {
            server: of.server,
            profile: of.profile,
            mode: of.mode,
            running: true,
            state: explanation.state,
            place: explanation.place.to_owned(),
            meaning: explanation.meaning.to_owned(),
            since: None,
            epoch: of.epoch,
            cause: explanation.cause.clone(),
            trouble: explanation.trouble.clone(),
            if_started: None,
            advice: advice(explanation, &profiles),
            ways: explanation
                .ways
                .iter()
                .map(|way| WayDocument {
                    to: way.to.to_owned(),
                    when: profiles.put_into(way.event.text()),
                    open: way.is_open(),
                    guards: write.guards(&way.guards),
                    ahead: write.guards(&way.ahead),
                })
                .collect(),
            events: of.events,
        }
    }
}

/// What can be done about the guards that keep the ways to service, then the others, shut.
fn advice(explanation: &Explanation, profiles: &Profiles) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let ways = explanation.ways.iter();
    for way in ways.filter(|way| way.event != Opening::StopAsked) {
        for checked in way.ahead.iter().chain(&way.guards) {
            let Some(advice) = &checked.advice else {
                continue;
            };
            let text = profiles.put_into(advice);
            if checked.truth == Truth::Fails && !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found
}

struct Writer<'a> {
    profiles: &'a Profiles,
    ages: &'a BTreeMap<Source, Age>,
}

impl Writer<'_> {
    fn guards(&self, checked: &[Checked]) -> Vec<GuardDocument> {
        let guard = |checked: &Checked| GuardDocument {
            guard: self.profiles.put_into(checked.guard),
            holds: checked.truth.name().to_owned(),
            facts: checked.facts.iter().map(|fact| self.fact(fact)).collect(),
        };
        checked.iter().map(guard).collect()
    }

    fn fact(&self, fact: &Fact) -> FactDocument {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let (age_ms, due_ms) = match self.ages.get(&fact.source) {
            Some(Age::Ago(ago)) => (Some(ms(*ago)), None),
            Some(Age::In(left)) => (None, Some(ms(*left))),
            None => (None, None),
        };
        let value = |value: &FactValue| match value {
            FactValue::Number(number) => serde_json::Value::from(*number),
            FactValue::Text(text) => serde_json::Value::from(text.as_str()),
        };
        FactDocument {
            text: self.profiles.put_into(&fact.text),
            source: fact.source.name().to_owned(),
            age_ms,
            due_ms,
            values: fact
                .values
                .iter()
                .map(|(name, of)| ((*name).to_owned(), value(of)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_servers_profile_is_found_by_its_role() {
        for (own, other) in [
            ("replicated/primary", "replicated/secondary"),
            ("/etc/twinmq/secondary.toml", "/etc/twinmq/primary.toml"),
            (
                "/etc/twinmq/profile.toml",
                "/etc/twinmq/profile.toml (on the other machine)",
            ),
        ] {
            let put = Profiles::of(own).put_into("twinmq run -p {other} -p {own}");
            assert_eq!(put, format!("twinmq run -p {other} -p {own}"));
        }
    }

    #[test]
    fn the_records_folder_is_called_by_its_path() {
        let text = "put rec.N back into LockFile.d";
        let profiles = Profiles::of("replicated/primary");
        assert_eq!(profiles.put_into(text), text);
        let profiles = profiles.beside(Some(Path::new("/mnt/share/pair.lck")));
        assert_eq!(
            profiles.put_into(text),
            "put rec.N back into /mnt/share/pair.lck.d"
        );
    }
}
