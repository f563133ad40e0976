//! What every actor does with its machine: tell it the time and the input, carry out the effects in
//! order, arm the one timer at the machine's next deadline.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, AsyncContext, Context, SpawnHandle};

use crate::time::{Clock, Moment};

/// A step that takes longer than this holds up its thread.
const SLOW: Duration = Duration::from_millis(50);

/// An actor round one machine.
pub trait Shelled: Actor<Context = Context<Self>> {
    /// The machine's inputs.
    type Input;
    /// The machine's effects.
    type Effect;

    /// The shell in it.
    fn shell(&mut self) -> &mut Shell<Self::Effect>;
    /// Lets the machine take an input.
    fn step(&mut self, now: Moment, input: Self::Input, effects: &mut Vec<Self::Effect>);
    /// Carries out one effect.
    fn run(&mut self, ctx: &mut Context<Self>, effect: Self::Effect);
    /// When the machine wants [`Shelled::deadline`] as its input.
    fn next_deadline(&self) -> Option<Moment>;
    /// The input that says that time has passed; asked for only after `next_deadline` gave a moment.
    fn deadline() -> Option<Self::Input>;
}

/// The part that all actors have in common.
pub struct Shell<E> {
    name: &'static str,
    clock: Arc<dyn Clock>,
    timer: Option<(Moment, SpawnHandle)>,
    /// Kept for its allocation; empty between steps.
    effects: Vec<E>,
}

impl<E> Shell<E> {
    /// For the actor of this name.
    #[must_use]
    pub fn new(name: &'static str, clock: Arc<dyn Clock>) -> Self {
        Self {
            name,
            clock,
            timer: None,
            effects: Vec::new(),
        }
    }

    /// What the wall clock shows, in milliseconds since 1970.
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}

/// Gives `input` to the actor's machine and does what it says.
pub fn drive<A: Shelled>(actor: &mut A, ctx: &mut Context<A>, input: A::Input) {
    let started = actor.shell().clock.now();
    let mut effects = std::mem::take(&mut actor.shell().effects);
    actor.step(started, input, &mut effects);
    for effect in effects.drain(..) {
        actor.run(ctx, effect);
    }
    let deadline = actor.next_deadline();
    let shell = actor.shell();
    shell.effects = effects;
    arm(shell, ctx, deadline);
    let now = shell.clock.now();
    let took = now.since(started);
    if took > SLOW {
        tracing::warn!(target: "twinmq::actors", actor = shell.name, took_ms = took.as_millis(), "a step was slow");
    }
}

fn arm<A: Shelled>(shell: &mut Shell<A::Effect>, ctx: &mut Context<A>, deadline: Option<Moment>) {
    if shell.timer.map(|(moment, _)| moment) == deadline {
        return;
    }
    if let Some((_, handle)) = shell.timer.take() {
        ctx.cancel_future(handle);
    }
    if let Some(moment) = deadline {
        let delay = moment.since(shell.clock.now());
        let handle = ctx.run_later(delay, |actor, ctx| {
            actor.shell().timer = None;
            if let Some(input) = A::deadline() {
                drive(actor, ctx, input);
            }
        });
        shell.timer = Some((moment, handle));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::actors::testkit::{TestClock, local};

    /// Asks for an alarm every second, three times.
    struct Ticker {
        shell: Shell<&'static str>,
        next: Option<Moment>,
        heard: Arc<Mutex<Vec<(u64, &'static str)>>>,
    }

    impl Actor for Ticker {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            drive(self, ctx, "started");
        }
    }

    impl Shelled for Ticker {
        type Input = &'static str;
        type Effect = &'static str;

        fn shell(&mut self) -> &mut Shell<&'static str> {
            &mut self.shell
        }

        fn step(&mut self, now: Moment, input: &'static str, effects: &mut Vec<&'static str>) {
            effects.push(input);
            self.next =
                (self.heard.lock().unwrap().len() < 3).then(|| now.after(Duration::from_secs(1)));
        }

        fn run(&mut self, _: &mut Context<Self>, effect: &'static str) {
            let second = self.shell.clock.now().0 / 1_000_000_000;
            self.heard.lock().unwrap().push((second, effect));
        }

        fn next_deadline(&self) -> Option<Moment> {
            self.next
        }

        fn deadline() -> Option<&'static str> {
            Some("deadline")
        }
    }

    #[test]
    fn the_timer_follows_the_machine_and_rests_when_it_wants_none() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        local(async move {
            Ticker {
                shell: Shell::new("ticker", Arc::new(TestClock::new())),
                next: None,
                heard,
            }
            .start();
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
        let heard = kept.lock().unwrap();
        assert_eq!(
            *heard,
            [
                (0, "started"),
                (1, "deadline"),
                (2, "deadline"),
                (3, "deadline")
            ]
        );
    }
}
