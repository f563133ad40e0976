//! `twinmq bench`: throughput and latency for each queue, with every message accounted for.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::BenchArgs;
use super::load::{DestinationFigures, Load, LoadError, LoadOutcome, LoadPlan};
use super::send::host_list;
use super::stomp_client::StompOptions;
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::time::{Clock, SystemClock};

/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(50);
/// How long a client looks for a server that serves.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages are missing when none has come for this long.
const QUIET: Duration = Duration::from_secs(10);

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Nothing { .. } => Self::Usage(error.to_string()),
            LoadError::Stomp(error) => error.into(),
        }
    }
}

/// Measures.
///
/// # Errors
/// When the load cannot be put on. Lost or duplicated messages are no error of the command: they
/// are printed, and the exit code says so.
pub fn run(args: &BenchArgs) -> Result<ExitCode, CliError> {
    measure(args, QUIET)
}

fn measure(args: &BenchArgs, quiet: Duration) -> Result<ExitCode, CliError> {
    let clock = SystemClock;
    // Queues of this run alone: another run's leftovers are nobody's duplicates.
    let run = format!("bench.{:x}", clock.wall_ms());
    let load = Load::start(LoadPlan {
        hosts: host_list(&args.connect)?,
        options: StompOptions::default(),
        destinations: (1..=args.queues)
            .map(|number| format!("/queue/{run}.{number}"))
            .collect(),
        producers: args.producers,
        consumers: args.consumers,
        window: args.window,
        body_bytes: args.size,
        count: args.count,
        rate: None,
        patience: PATIENCE,
        silence: None,
    })?;
    let bar = progress_bar(args);
    let end = clock.now().after(Duration::from_secs(args.seconds));
    let start = clock.now();
    while !load.sending_is_over() {
        if args.count.is_none() && clock.now() >= end {
            load.stop_sending();
        }
        let progress = load.progress();
        bar.set_position(match args.count {
            Some(_) => progress.confirmed,
            None => clock.now().since(start).as_secs(),
        });
        bar.set_message(format!(
            "{} confirmed, {} received",
            progress.confirmed, progress.received
        ));
        thread::sleep(LOOK);
    }
    bar.finish_and_clear();
    let outcome = load.finish(quiet, &|| false);
    if args.json {
        print_json(&json!({
            "producers": args.producers,
            "consumers": args.consumers,
            "queues": args.queues,
            "window": args.window,
            "body_bytes": args.size,
            "outcome": outcome,
        }))?;
    } else {
        print(&table(args, &outcome))?;
    }
    Ok(if outcome.holds() {
        ExitCode::Done
    } else {
        ExitCode::Failed
    })
}

/// On standard error, and only if that is a terminal.
fn progress_bar(args: &BenchArgs) -> ProgressBar {
    let (length, unit) = match args.count {
        Some(count) => (count, "messages"),
        None => (args.seconds, "s"),
    };
    let style = format!("{{bar:40}} {{pos}}/{{len}} {unit}  {{msg}}");
    ProgressBar::new(length).with_style(
        ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

fn table(args: &BenchArgs, outcome: &LoadOutcome) -> String {
    let mut out = format!(
        "{} producers, {} consumers, {} queues, window {}, {} bytes, {:.1} s\n\n",
        args.producers, args.consumers, args.queues, args.window, args.size, outcome.seconds
    );
    let width = outcome
        .destinations
        .iter()
        .map(|figures| figures.destination.len())
        .chain([11])
        .max()
        .unwrap_or(11);
    let mut line = |cells: [&str; 7]| {
        let [name, rest @ ..] = cells;
        write!(out, "{name:<width$}").expect("writing to a string cannot fail");
        for cell in rest {
            write!(out, "  {cell:>12}").expect("writing to a string cannot fail");
        }
        out.push('\n');
    };
    line([
        "destination",
        "confirmed/s",
        "received/s",
        "confirm p50",
        "confirm p99",
        "arrival p50",
        "arrival p99",
    ]);
    let all = [&outcome.all].into_iter();
    for figures in outcome.destinations.iter().chain(all) {
        let DestinationFigures {
            destination,
            confirmed_per_s,
            received_per_s,
            confirm_p50_us,
            confirm_p99_us,
            end_to_end_p50_us,
            end_to_end_p99_us,
            ..
        } = figures;
        line([
            destination,
            &format!("{confirmed_per_s:.0}"),
            &format!("{received_per_s:.0}"),
            &format!("{confirm_p50_us} us"),
            &format!("{confirm_p99_us} us"),
            &format!("{end_to_end_p50_us} us"),
            &format!("{end_to_end_p99_us} us"),
        ]);
    }
    let ledger = &outcome.ledger;
    write!(
        out,
        "\nconfirmed {}, lost {}, duplicated {}, redelivered {}, unknown {}, connections lost {}, longest gap \
         between receipts {} ms",
        ledger.confirmed,
        ledger.lost,
        ledger.duplicated,
        ledger.redelivered,
        ledger.unknown,
        outcome.reconnects,
        outcome.longest_gap_ms
    )
    .expect("writing to a string cannot fail");
    if let Some(failure) = &outcome.failure {
        out.push_str("\nFAILED: ");
        out.push_str(failure);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::ConnectArgs;
    use crate::cli::toy_server::{Faults, ToyServer};

    fn args(server: &ToyServer) -> BenchArgs {
        BenchArgs {
            connect: ConnectArgs {
                connect: vec![server.address.to_string()],
                ..ConnectArgs::default()
            },
            producers: 2,
            consumers: 2,
            queues: 2,
            size: 100,
            window: 10,
            seconds: 1,
            count: Some(200),
            json: false,
        }
    }

    #[test]
    fn a_run_without_loss_succeeds_and_one_with_loss_does_not() {
        let good = ToyServer::start(Faults::default());
        let quiet = Duration::from_millis(500);
        assert_eq!(measure(&args(&good), quiet).unwrap(), ExitCode::Done);
        let bad = ToyServer::start(Faults {
            lose_every: 100,
            ..Faults::default()
        });
        assert_eq!(measure(&args(&bad), quiet).unwrap(), ExitCode::Failed);
    }

    #[test]
    fn no_queues_is_a_mistake_on_the_command_line() {
        let server = ToyServer::start(Faults::default());
        let mut none = args(&server);
        none.queues = 0;
        assert_eq!(run(&none).unwrap_err().exit_code(), ExitCode::Usage);
    }
}
