//! A script of `tests/clients` with everything that it told so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::eventually::{SOON, eventually};
use super::script::Script;

/// Facts that are shown of a script which does not tell what is waited for.
const SHOWN: usize = 8;

/// The script; killed on drop.
pub(crate) struct Told {
    script: Script,
    facts: Arc<Mutex<Vec<Value>>>,
}

impl Told {
    /// Starts a script by its file's name.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let facts = Arc::new(Mutex::new(Vec::new()));
        let entered = Arc::clone(&facts);
        let script = Script::start(name, arguments, move |fact| open(&entered).push(fact));
        Self { script, facts }
    }

    /// The same, once it tells that it is connected.
    #[track_caller]
    pub(crate) fn connected(name: &str, arguments: &[&str]) -> Self {
        let told = Self::start(name, arguments);
        told.until("it is connected", |fact| fact["event"] == "connected");
        told
    }

    /// Gives it a command, and waits for nothing.
    pub(crate) fn say(&mut self, command: &str) {
        self.script.say(command);
    }

    /// Every fact so far.
    pub(crate) fn facts(&self) -> Vec<Value> {
        open(&self.facts).clone()
    }

    /// How many facts so far are of this event.
    pub(crate) fn count(&self, event: &str) -> usize {
        self.count_of(|fact| fact["event"] == event)
    }

    pub(crate) fn count_of(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        open(&self.facts).iter().filter(|fact| wanted(fact)).count()
    }

    /// Waits for a fact, and gives the first such.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(SOON * 2, what, || {
            let facts = open(&self.facts);
            let found = facts.iter().find(|fact| wanted(fact)).cloned();
            found.ok_or_else(|| format!("{:?}", &facts[facts.len().saturating_sub(SHOWN)..]))
        })
    }

    /// Waits for so many facts of an event.
    #[track_caller]
    pub(crate) fn await_count(&self, event: &str, wanted: usize) {
        eventually(SOON * 2, &format!("{wanted} of {event}"), || {
            let count = self.count(event);
            if count >= wanted {
                Ok(())
            } else {
                Err(count.to_string())
            }
        });
    }

    #[track_caller]
    pub(crate) fn receipt(&self, id: &str) {
        self.until(&format!("the receipt {id}"), |fact| {
            fact["event"] == "receipt" && fact["id"] == id
        });
    }
}

/// A test that fails elsewhere poisons nothing.
fn open(facts: &Mutex<Vec<Value>>) -> MutexGuard<'_, Vec<Value>> {
    facts.lock().unwrap_or_else(PoisonError::into_inner)
}
