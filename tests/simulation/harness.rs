//! Runs tests by name as the usual harness does, so that `cargo test NAME` works, and schedules by
//! `--seed` and `--schedules`, on two threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::clock::open;
use crate::course::Course;
use crate::play::{Outcome, play};

/// A name and what it does; it fails by a panic.
pub(crate) type Test = (&'static str, fn());

/// Schedules run on so many threads, each by itself.
const THREADS: usize = 2;
/// Failures that are shown.
const SHOWN: usize = 5;

thread_local! {
    /// Where the last panic of this thread was.
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the command line asks for.
#[derive(Default)]
struct Asked {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
    seed: Option<u64>,
    schedules: Option<u64>,
    shared: bool,
    strewn: bool,
}

impl Asked {
    fn read(arguments: impl Iterator<Item = String>) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse().expect("a number"))
        };
        let mut asked = Self {
            seed: number("TWINMQ_SEED"),
            schedules: number("TWINMQ_RUNS"),
            ..Self::default()
        };
        let mut arguments = arguments.flat_map(|argument| {
            let parts: Vec<String> = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => {
                    vec![name.to_owned(), value.to_owned()]
                }
                Some(_) | None => vec![argument],
            };
            parts
        });
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.unwrap_or_else(|| panic!("{argument} wants a value"))
            };
            match argument.as_str() {
                "--seed" => asked.seed = Some(value().parse().expect("a number")),
                "--schedules" => asked.schedules = Some(value().parse().expect("a number")),
                "--shared" => asked.shared = true,
                "--strewn" => asked.strewn = true,
                "--skip" => {
                    let skipped = value();
                    asked.skips.push(skipped);
                }
                "--exact" => asked.exact = true,
                "--list" => asked.list = true,
                "--ignored" => asked.ignored_only = true,
                "--format" | "--color" | "--test-threads" | "--logfile" | "-Z" => {
                    value();
                }
                // Whatever else the usual harness takes changes nothing here.
                other if other.starts_with('-') => {}
                filter => asked.filters.push(filter.to_owned()),
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |pattern: &String| {
            if self.exact {
                name == pattern
            } else {
                name.contains(pattern.as_str())
            }
        };
        !self.ignored_only
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skips.iter().any(matches)
    }
}

/// Does what the command line asks for.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        PANICKED.set(place.unwrap_or_default());
    }));
    let asked = Asked::read(std::env::args().skip(1));
    let course = if asked.shared {
        Course::shared
    } else if asked.strewn {
        Course::strewn
    } else {
        Course::of
    };
    let holds = match (asked.seed, asked.schedules) {
        (None, None) => run_tests(tests, &asked),
        (Some(seed), None) => schedules(seed..=seed, course),
        (seed, Some(count)) => {
            let first = seed.unwrap_or(1);
            schedules(first..=first + count.saturating_sub(1), course)
        }
    };
    if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

fn run_tests(tests: &[Test], asked: &Asked) -> bool {
    let wanted: Vec<&Test> = tests.iter().filter(|(name, _)| asked.wants(name)).collect();
    if asked.list {
        for (name, _) in wanted {
            println!("{name}: test");
        }
        return true;
    }
    println!("\nrunning {} tests", wanted.len());
    let mut failed = 0;
    for (name, test) in &wanted {
        let passed = catch_unwind(AssertUnwindSafe(test));
        match passed {
            Ok(()) => println!("test {name} ... ok"),
            Err(panic) => {
                failed += 1;
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let place = PANICKED.take();
                println!("{}\nat {place}\ntest {name} ... FAILED", text.unwrap_or(""));
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out\n",
        wanted.len() - failed,
        tests.len() - wanted.len()
    );
    failed == 0
}

/// Does each of these, several at a time. The panic of one is this one's panic, when all have ended that
/// run beside it.
pub(crate) fn beside<T: Copy + Sync>(all: &[T], work: impl Fn(T) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        let rest = || all.get(next.fetch_add(1, Ordering::Relaxed));
        while let Some(one) = rest() {
            work(*one);
        }
    };
    let run = || catch_unwind(AssertUnwindSafe(run)).map_err(|panic| (panic, PANICKED.take()));
    std::thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(run));
        for thread in threads {
            let ended = thread.join().expect("its panics are caught");
            if let Err((panic, place)) = ended {
                PANICKED.set(place);
                resume_unwind(panic);
            }
        }
    });
}

/// Plays all of these seeds; tells what failed, and figures of the rest. False: some failed.
pub(crate) fn schedules(seeds: RangeInclusive<u64>, course: fn(u64) -> Course) -> bool {
    let next = AtomicU64::new(*seeds.start());
    let outcomes: Mutex<Vec<Outcome>> = Mutex::default();
    let failures: Mutex<Vec<u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        break;
                    }
                    match play(&course(seed)) {
                        Ok(outcome) => open(&outcomes).push(outcome),
                        Err(failure) => {
                            let place = PANICKED.take();
                            let failures = &mut *open(&failures);
                            if failures.len() < SHOWN {
                                println!("{failure}\nat {place}\n");
                            }
                            failures.push(seed);
                        }
                    }
                }
            });
        }
    });
    let mut failures = std::mem::take(&mut *open(&failures));
    failures.sort_unstable();
    if !failures.is_empty() {
        println!("{} schedules failed: {failures:?}", failures.len());
    }
    tell(&open(&outcomes));
    failures.is_empty()
}

fn tell(outcomes: &[Outcome]) {
    let confirms: u64 = outcomes.iter().map(|outcome| outcome.confirms).sum();
    let mut whole: Vec<u64> = outcomes.iter().filter_map(|it| it.whole_after_ms).collect();
    whole.sort_unstable();
    let helped = outcomes.len() - whole.len();
    let at = |part: usize| whole.get(whole.len().saturating_sub(1) * part / 100);
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in outcomes.iter().flat_map(|outcome| &outcome.marks) {
        *marks.entry(what).or_default() += count;
    }
    let marks: Vec<String> = marks
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    println!("in them: {}", marks.join(", "));
    println!(
        "{} schedules hold: {confirms} confirms, 0 lost; whole again after {:?} ms (median), {:?} ms \
         (99 of 100), {:?} ms (most); {helped} by an operator",
        outcomes.len(),
        at(50).unwrap_or(&0),
        at(99).unwrap_or(&0),
        at(100).unwrap_or(&0),
    );
}
