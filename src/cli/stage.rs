//! What the commands that strike a pair of their own have in common: waiting for a condition while
//! the pair, its load and the user are watched, and telling the story on standard error.

use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::Interrupt;
use super::load::{Load, LoadError};
use super::scratch::{Pair, Role, ScratchError};
use crate::time::{Clock, SystemClock};

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Why the command could not go on to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("{what}: not within {seconds} s; last seen: {seen}")]
    NotReached {
        what: &'static str,
        seconds: u64,
        seen: String,
    },
    #[error("failed to put load on the pair: {0}")]
    Load(#[from] LoadError),
    #[error("a client could not go on: {0}")]
    Client(String),
    #[error("interrupted")]
    Interrupted,
}

/// What is waited for, what is displayed, and when to stop.
pub(super) struct Stage {
    interrupt: Interrupt,
    bar: ProgressBar,
    /// No phase may take longer.
    pub(super) phase_max: Duration,
    /// Servers that end by themselves are started again; else their end is an error.
    pub(super) supervised: bool,
}

impl Stage {
    pub(super) fn new(interrupt: Interrupt, phase_max: Duration, supervised: bool) -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self {
            interrupt,
            bar: ProgressBar::new_spinner().with_style(style),
            phase_max,
            supervised,
        }
    }

    pub(super) fn interrupted(&self) -> bool {
        self.interrupt.came()
    }

    /// The story is told: nothing moves on the screen any more.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Waits until both servers hold everything confirmed; returns the active one.
    pub(super) fn in_sync(&self, pair: &mut Pair, load: Option<&Load>) -> Result<Role, StageError> {
        self.until(pair, load, "the pair is in sync", |pair| {
            let mut seen = Vec::new();
            let mut active = None;
            for role in [Role::Primary, Role::Secondary] {
                match pair.status(role) {
                    Ok(status) if status.pair_is_in_sync() => {
                        if status.state == "ACTIVE" {
                            active = Some(role);
                        }
                        seen.push(format!("{}: in sync", role.name()));
                    }
                    Ok(status) => {
                        let reason = status.claims.and_then(|claims| claims.reason);
                        seen.push(format!(
                            "{}: {} {}",
                            role.name(),
                            status.state,
                            reason.unwrap_or_default()
                        ));
                        active = None;
                        break;
                    }
                    Err(error) => {
                        seen.push(error.to_string());
                        active = None;
                        break;
                    }
                }
            }
            active.ok_or_else(|| seen.join(", "))
        })
    }

    pub(super) fn until<T>(
        &self,
        pair: &mut Pair,
        load: Option<&Load>,
        what: &'static str,
        condition: impl FnMut(&Pair) -> Result<T, String>,
    ) -> Result<T, StageError> {
        self.until_within(pair, load, Some(self.phase_max), what, condition)
    }

    /// Asks until the condition gives its answer; meanwhile shows progress and notices what ends
    /// the show: an interrupt, a server or a client that gives up, too long a wait.
    pub(super) fn until_within<T>(
        &self,
        pair: &mut Pair,
        load: Option<&Load>,
        limit: Option<Duration>,
        what: &'static str,
        mut condition: impl FnMut(&Pair) -> Result<T, String>,
    ) -> Result<T, StageError> {
        let clock = SystemClock;
        let begin = clock.now();
        loop {
            let seen = match condition(pair) {
                Ok(found) => return Ok(found),
                Err(seen) => seen,
            };
            if self.interrupt.came() {
                return Err(StageError::Interrupted);
            }
            self.look_after(pair)?;
            if let Some(failure) = load.and_then(Load::failure) {
                return Err(StageError::Client(failure));
            }
            if limit.is_some_and(|limit| clock.now().since(begin) >= limit) {
                return Err(StageError::NotReached {
                    what,
                    seconds: limit.unwrap_or_default().as_secs(),
                    seen,
                });
            }
            self.tick(load);
            thread::sleep(LOOK);
        }
    }

    fn look_after(&self, pair: &mut Pair) -> Result<(), StageError> {
        if !self.supervised {
            return Ok(pair.check()?);
        }
        for role in [Role::Primary, Role::Secondary] {
            if pair.supervise(role)? {
                self.say(&format!(
                    "the {} ended by itself and is started again",
                    role.name()
                ));
            }
        }
        Ok(())
    }

    fn tick(&self, load: Option<&Load>) {
        self.bar.tick();
        if let Some(load) = load {
            let progress = load.progress();
            self.bar.set_message(format!(
                "{} confirmed, {} received, {} under way",
                progress.confirmed, progress.received, progress.awaited
            ));
        }
    }

    /// A line of the story, on standard error.
    pub(super) fn say(&self, text: &str) {
        if self.bar.is_hidden() {
            // Progress goes to standard error; if that is gone, nobody reads it.
            std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes()).ok();
        } else {
            self.bar.println(text);
        }
    }
}
