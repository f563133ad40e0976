//! GatewayMachine: is this server on the network at all?
//!
//! | Verdict     | Means                                                          |
//! |-------------|----------------------------------------------------------------|
//! | Unknown     | nothing asked yet, or nothing to ask                           |
//! | Reachable   | a target or the arbiter answered, and fewer misses than allowed since |
//! | Unreachable | as many rounds in a row as allowed reached nothing             |
//!
//! It probes, counts and reports each change. What a verdict means for a role is HAManager's (A5).

use std::time::Duration;

use crate::time::Moment;

/// What is probed, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// `host:port` each; one that answers is enough. Empty: nothing is probed and only the arbiter
    /// counts.
    pub targets: Vec<String>,
    /// Between the starts of two rounds.
    pub interval: Duration,
    /// How long a round may take; a round without an answer is a miss.
    pub timeout: Duration,
    /// Misses in a row that make the verdict `Unreachable`: at least 1.
    pub misses_max: u32,
}

/// See the table above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayVerdict {
    /// Nothing is known.
    #[default]
    Unknown,
    /// On the network.
    Reachable,
    /// Cut off.
    Unreachable,
}

impl GatewayVerdict {
    /// As `status` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a round of probes gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// A target answered, or refused the connection, which shows as well that it is there (H35).
    Reached {
        /// Which.
        target: String,
    },
    /// None did.
    NothingReached {
        /// For each target why, in words.
        reason: String,
    },
}

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayInput {
    /// Begin.
    Started,
    /// End: no more rounds.
    Stopped,
    /// A round has ended.
    ProbeFinished {
        /// As in [`GatewayEffect::Probe`].
        probe_id: u64,
        /// What it gave.
        outcome: ProbeOutcome,
    },
    /// The arbiter's record was read or written: counts as reached (A5).
    ArbiterReached,
    /// Time has passed.
    Tick,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum GatewayEffect {
    /// Probe all targets, answer with `ProbeFinished`.
    Probe {
        /// Never used twice by one machine.
        probe_id: u64,
        /// `host:port` each.
        targets: Vec<String>,
        /// For the whole round.
        timeout: Duration,
    },
    /// The verdict has changed.
    Report {
        /// Now.
        verdict: GatewayVerdict,
        /// Why, in words.
        reason: String,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct GatewayMachine {
    config: GatewayConfig,
    verdict: GatewayVerdict,
    /// Rounds in a row that reached nothing.
    misses: u32,
    /// The last round's number.
    last_probe: u64,
    rounds: Rounds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounds {
    Stopped,
    /// The next round starts then.
    Between {
        next_at: Moment,
    },
    /// The round `last_probe` runs; at `miss_at` (moved on with each miss) it counts as a miss.
    Running {
        started: Moment,
        miss_at: Moment,
    },
}

impl GatewayMachine {
    /// A machine that has not asked yet.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Self {
        Self {
            config,
            verdict: GatewayVerdict::Unknown,
            misses: 0,
            last_probe: 0,
            rounds: Rounds::Stopped,
        }
    }

    /// Takes one input and appends what is to be done.
    pub fn step(&mut self, now: Moment, input: GatewayInput, effects: &mut Vec<GatewayEffect>) {
        match (self.rounds, input) {
            (Rounds::Stopped, GatewayInput::Started) => {
                self.rounds = Rounds::Between { next_at: now };
            }
            (Rounds::Between { .. } | Rounds::Running { .. }, GatewayInput::Started) => {}
            (
                Rounds::Stopped | Rounds::Between { .. } | Rounds::Running { .. },
                GatewayInput::Stopped,
            ) => self.rounds = Rounds::Stopped,
            (
                Rounds::Running { started, .. },
                GatewayInput::ProbeFinished { probe_id, outcome },
            ) if probe_id == self.last_probe => {
                let next_at = started.after(self.interval()).max(now);
                self.rounds = Rounds::Between { next_at };
                match outcome {
                    ProbeOutcome::Reached { target } => {
                        self.reached(format!("{target} answers"), effects);
                    }
                    ProbeOutcome::NothingReached { reason } => self.missed(&reason, effects),
                }
            }
            // A late answer, of a round before `Stopped`.
            (
                Rounds::Stopped | Rounds::Between { .. } | Rounds::Running { .. },
                GatewayInput::ProbeFinished { .. },
            ) => {}
            (
                Rounds::Stopped | Rounds::Between { .. } | Rounds::Running { .. },
                GatewayInput::ArbiterReached,
            ) => {
                self.reached("the lock file's machine answers".to_owned(), effects);
            }
            (
                Rounds::Stopped | Rounds::Between { .. } | Rounds::Running { .. },
                GatewayInput::Tick,
            ) => {}
        }
        self.maintain(now, effects);
    }

    /// When `Tick` is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.rounds {
            Rounds::Stopped => None,
            Rounds::Between { .. } if self.config.targets.is_empty() => None,
            Rounds::Between { next_at } => Some(next_at),
            Rounds::Running { miss_at, .. } => Some(miss_at),
        }
    }

    /// The verdict now.
    #[must_use]
    pub fn verdict(&self) -> GatewayVerdict {
        self.verdict
    }

    fn maintain(&mut self, now: Moment, effects: &mut Vec<GatewayEffect>) {
        match self.rounds {
            Rounds::Stopped => {}
            Rounds::Between { next_at } => {
                if next_at <= now && !self.config.targets.is_empty() {
                    self.last_probe = self.last_probe.saturating_add(1);
                    effects.push(GatewayEffect::Probe {
                        probe_id: self.last_probe,
                        targets: self.config.targets.clone(),
                        timeout: self.config.timeout,
                    });
                    // The prober keeps the timeout itself; this covers one that hangs in a name
                    // look-up. No second round is queued behind it, but each interval is a miss.
                    let miss_at = now.after(self.config.timeout).after(self.interval());
                    self.rounds = Rounds::Running {
                        started: now,
                        miss_at,
                    };
                }
            }
            Rounds::Running { started, miss_at } => {
                if miss_at <= now {
                    self.rounds = Rounds::Running {
                        started,
                        miss_at: now.after(self.interval()),
                    };
                    self.missed("the probe itself does not come back", effects);
                }
            }
        }
    }

    fn reached(&mut self, reason: String, effects: &mut Vec<GatewayEffect>) {
        self.misses = 0;
        self.judge(GatewayVerdict::Reachable, reason, effects);
    }

    fn missed(&mut self, reason: &str, effects: &mut Vec<GatewayEffect>) {
        self.misses = self.misses.saturating_add(1);
        if self.misses >= self.config.misses_max.max(1) {
            let reason = format!("{} probes in a row reached nothing: {reason}", self.misses);
            self.judge(GatewayVerdict::Unreachable, reason, effects);
        }
    }

    fn judge(&mut self, verdict: GatewayVerdict, reason: String, effects: &mut Vec<GatewayEffect>) {
        if self.verdict != verdict {
            self.verdict = verdict;
            effects.push(GatewayEffect::Report { verdict, reason });
        }
    }

    fn interval(&self) -> Duration {
        self.config.interval.max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests;
