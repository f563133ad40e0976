//! WatchdogMachine: is the server process alive, and if not, who must hear of it (A8)?
//!
//! It runs in a small process of its own. The server beats as long as its control plane turns; a
//! server that stops beating is killed, and once a process is gone that did not end in order, the
//! peer is told that the epoch in which it served is dead.
//!
//! | state | what it waits for |
//! |---|---|
//! | `Starting` | the first beat: opening a large store takes as long as it takes |
//! | `Watching` | the next beat |
//! | `Ending`   | the end of the process, which was killed or has closed its end of the pipe |
//! | `Over`     | nothing more |
//!
//! It does not know processes, pipes or sockets, nor what an epoch is.

use std::time::Duration;

use crate::proto::ids::Epoch;
use crate::time::Moment;

/// Facts that the machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogInput {
    /// The control plane turns; and the epoch that is served, if any.
    Beat(Option<Epoch>),
    /// The server ends in order and has told the peer itself.
    Dismissed,
    /// The server's end of the pipe is closed.
    PipeClosed,
    /// The process is gone.
    ProcessEnded,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WatchdogEffect {
    /// End the process: it has not beaten for this long.
    Kill {
        /// Since the last beat.
        silent: Duration,
    },
    /// Tell the peer that this epoch is dead.
    Tell(Epoch),
    /// There is nothing left to watch.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Watching { last_beat: Moment, due: Moment },
    Ending { since: Moment, killed: bool },
    Over,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct WatchdogMachine {
    ttl: Duration,
    state: State,
    /// The epoch served at the last beat.
    served: Option<Epoch>,
    /// When `step` was last called: a watchdog that was itself held up does not blame the server.
    last_step: Moment,
}

impl WatchdogMachine {
    /// A machine that waits for the first beat. `ttl` is LeaseTTL: a server that was silent for
    /// longer may not speak to clients any more.
    #[must_use]
    pub fn new(ttl: Duration, now: Moment) -> Self {
        Self {
            ttl,
            state: State::Starting,
            served: None,
            last_step: now,
        }
    }

    /// Takes one input and appends what is to be done.
    pub fn step(&mut self, now: Moment, input: WatchdogInput, effects: &mut Vec<WatchdogEffect>) {
        self.notice_own_pause(now);
        match (self.state, input) {
            (State::Starting | State::Watching { .. }, WatchdogInput::Beat(served)) => {
                self.served = served;
                self.state = State::Watching {
                    last_beat: now,
                    due: now.after(self.ttl),
                };
            }
            (
                State::Starting | State::Watching { .. } | State::Ending { .. },
                WatchdogInput::Dismissed,
            ) => {
                self.state = State::Over;
                effects.push(WatchdogEffect::End);
            }
            (State::Starting | State::Watching { .. }, WatchdogInput::PipeClosed) => {
                self.state = State::Ending {
                    since: now,
                    killed: false,
                };
            }
            (
                State::Starting | State::Watching { .. } | State::Ending { .. },
                WatchdogInput::ProcessEnded,
            ) => {
                self.state = State::Over;
                effects.extend(self.served.map(WatchdogEffect::Tell));
                effects.push(WatchdogEffect::End);
            }
            // What was under way when the process was killed.
            (State::Ending { .. }, WatchdogInput::Beat(_) | WatchdogInput::PipeClosed)
            | (
                State::Starting | State::Watching { .. } | State::Ending { .. },
                WatchdogInput::Tick,
            )
            | (
                State::Over,
                WatchdogInput::Beat(_)
                | WatchdogInput::Dismissed
                | WatchdogInput::PipeClosed
                | WatchdogInput::ProcessEnded
                | WatchdogInput::Tick,
            ) => {}
        }
        self.maintain(now, effects);
    }

    /// When `Tick` is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        match self.state {
            State::Watching { due, .. } => Some(due),
            State::Ending {
                since,
                killed: false,
            } => Some(since.after(self.ttl)),
            State::Starting | State::Ending { killed: true, .. } | State::Over => None,
        }
    }

    fn maintain(&mut self, now: Moment, effects: &mut Vec<WatchdogEffect>) {
        let silent_since = match self.state {
            State::Watching { last_beat, due } if due <= now => last_beat,
            // A server that has closed the pipe and stays is not one that ends.
            State::Ending {
                since,
                killed: false,
            } if since.after(self.ttl) <= now => since,
            State::Starting | State::Watching { .. } | State::Ending { .. } | State::Over => return,
        };
        self.state = State::Ending {
            since: now,
            killed: true,
        };
        effects.push(WatchdogEffect::Kill {
            silent: now.since(silent_since),
        });
    }

    /// If nobody called this machine for so long, the whole machine stood still, and the server's
    /// beats may still be on their way.
    fn notice_own_pause(&mut self, now: Moment) {
        let pause = now.since(self.last_step);
        self.last_step = now;
        if pause > self.ttl.saturating_mul(2)
            && let State::Watching { due, .. } = &mut self.state
        {
            *due = (*due).max(now.after(self.ttl / 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_millis(2000);

    fn at(ms: u64) -> Moment {
        Moment::default().after(Duration::from_millis(ms))
    }

    fn run(steps: &[(u64, WatchdogInput)]) -> Vec<WatchdogEffect> {
        let mut machine = WatchdogMachine::new(TTL, at(0));
        let mut effects = Vec::new();
        for (ms, input) in steps {
            machine.step(at(*ms), *input, &mut effects);
        }
        effects
    }

    use WatchdogEffect::{End, Kill, Tell};
    use WatchdogInput::{Beat, Dismissed, PipeClosed, ProcessEnded, Tick};

    #[test]
    fn a_server_that_stops_beating_is_killed_and_its_epoch_told_once_it_is_gone() {
        let mut steps = vec![(0, Beat(Some(Epoch(4)))), (250, Beat(Some(Epoch(4))))];
        steps.extend([(1500, Tick), (2249, Tick)]);
        assert_eq!(run(&steps), []);
        steps.push((2250, Tick));
        let killed = Kill { silent: TTL };
        assert_eq!(run(&steps), [killed]);
        // It may take its time, and its last beats may still come.
        steps.extend([(2260, Beat(Some(Epoch(4)))), (9000, Tick)]);
        assert_eq!(run(&steps), [killed]);
        steps.push((9001, ProcessEnded));
        assert_eq!(run(&steps), [killed, Tell(Epoch(4)), End]);
        steps.push((9002, ProcessEnded));
        assert_eq!(run(&steps), [killed, Tell(Epoch(4)), End], "once");
    }

    #[test]
    fn a_crash_is_told_and_an_orderly_end_is_not() {
        let beat = (0, Beat(Some(Epoch(4))));
        assert_eq!(
            run(&[beat, (10, PipeClosed), (11, ProcessEnded)]),
            [Tell(Epoch(4)), End]
        );
        assert_eq!(run(&[beat, (10, Dismissed), (11, ProcessEnded)]), [End]);
        assert_eq!(run(&[beat, (10, PipeClosed), (11, Dismissed)]), [End]);
        // Nothing was served: nobody need hear of it.
        assert_eq!(run(&[(0, Beat(None)), (10, ProcessEnded)]), [End]);
        assert_eq!(run(&[beat, (9, Beat(None)), (10, ProcessEnded)]), [End]);
    }

    #[test]
    fn a_long_start_is_no_silence_and_a_closed_pipe_is() {
        assert_eq!(run(&[(60_000, Tick)]), []);
        assert_eq!(
            run(&[
                (0, Beat(None)),
                (10, PipeClosed),
                (2009, Tick),
                (2010, Tick)
            ]),
            [Kill { silent: TTL }]
        );
    }

    #[test]
    fn a_machine_that_stood_still_gives_the_server_time_to_beat() {
        let paused = [(0, Beat(None)), (1000, Tick), (60_000, Tick)];
        assert_eq!(run(&paused), []);
        let mut machine = WatchdogMachine::new(TTL, at(0));
        let mut effects = Vec::new();
        for (ms, input) in paused {
            machine.step(at(ms), input, &mut effects);
        }
        assert_eq!(machine.next_deadline(), Some(at(61_000)));
        machine.step(at(61_000), Tick, &mut effects);
        assert_eq!(
            effects,
            [Kill {
                silent: Duration::from_secs(61)
            }]
        );
    }

    #[test]
    fn each_state_takes_each_input() {
        let inputs = [Beat(None), Dismissed, PipeClosed, ProcessEnded, Tick];
        let ways: [&[(u64, WatchdogInput)]; 4] = [
            &[],
            &[(0, Beat(None))],
            &[(0, PipeClosed)],
            &[(0, Dismissed)],
        ];
        for way in ways {
            for input in inputs {
                let mut steps = way.to_vec();
                steps.push((1, input));
                let effects = run(&steps);
                let ends = effects.iter().filter(|it| **it == End).count();
                assert!(ends <= 1, "{steps:?}: {effects:?}");
            }
        }
    }
}
