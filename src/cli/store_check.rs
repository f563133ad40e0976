//! `twinmq store check`: verifies a store that no server has, and says what is in it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};
use serde_json::{Value, json};

use super::args::StoreCheckArgs;
use super::run::store_code;
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::storage::{CheckReport, Finding, check};

/// Signals that a process brings on itself.
const FAULTS: [i32; 5] = [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV];

/// Checks the store and prints what was found; findings are not an error but have their exit code.
///
/// # Errors
/// When a server has it, there is no store, or it cannot be read at all.
pub fn run(args: &StoreCheckArgs) -> Result<ExitCode, CliError> {
    let dir = args.data_directory()?;
    if !args.reader {
        return read_in_child(&dir, args.json);
    }
    let report = check(&dir).map_err(|error| CliError::of(store_code(&error), error))?;
    let shown = dir.display().to_string();
    if args.json {
        print_json(&as_json(&shown, &report))?;
    } else {
        print(&as_text(&shown, &report))?;
    }
    Ok(if report.findings.is_empty() {
        ExitCode::Done
    } else {
        ExitCode::StoreDamaged
    })
}

/// A process could not be started to read the store.
#[derive(Debug, thiserror::Error)]
#[error("failed to start a process that reads the store: {0}")]
struct ReaderError(std::io::Error);

/// LMDB trusts its pages: on some damaged ones it aborts or reads beyond its map. That ends a child,
/// and is a finding here.
fn read_in_child(dir: &Path, json: bool) -> Result<ExitCode, CliError> {
    let failed = |error| CliError::of(ExitCode::Failed, ReaderError(error));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["store", "check", "--reader"]);
    if json {
        command.arg("--json");
    }
    let status = command.arg("--").arg(dir).status().map_err(failed)?;
    if let Some(code) = status.code() {
        let known = |known: &ExitCode| i32::from(known.code()) == code;
        let code = ExitCode::ALL.into_iter().find(known);
        return Ok(code.unwrap_or(ExitCode::Failed));
    }
    let signal = status.signal().unwrap_or_default();
    let finding = died_of(signal);
    let shown = dir.display().to_string();
    if json {
        let finding = json!({"table": finding.table, "key": finding.key, "what": finding.what});
        print_json(&json!({"dir": shown, "sound": false, "findings": [finding]}))?;
    } else {
        print(&format!("{shown}\n1 findings:\n  {finding}"))?;
    }
    Ok(if FAULTS.contains(&signal) {
        ExitCode::StoreDamaged
    } else {
        ExitCode::Failed
    })
}

fn died_of(signal: i32) -> Finding {
    let what = if FAULTS.contains(&signal) {
        format!("LMDB died of signal {signal} while reading: the file is damaged")
    } else {
        format!("signal {signal} ended the check: whether the file is sound is not known")
    };
    Finding {
        table: "file",
        key: "data.mdb".to_owned(),
        what,
    }
}

fn as_text(dir: &str, report: &CheckReport) -> String {
    let resync = if report.sync_in_progress {
        "\n  a resync into it has not ended: it is not a whole copy"
    } else {
        ""
    };
    let verdict = match report.findings.len() {
        0 => "sound".to_owned(),
        findings => format!("{findings} findings:"),
    };
    let findings: String = report
        .findings
        .iter()
        .map(|finding| format!("\n  {finding}"))
        .collect();
    format!(
        "{dir}: store {} of {}\n  \
         ends at epoch {}, position {}; checkpoint at {}, kept from {}; epochs {}\n  \
         {} chunks, {} records, {} bytes of log\n  \
         {} destinations, {} messages{resync}\n{verdict}{findings}",
        report.store,
        report.cluster,
        report.end.epoch,
        report.end.lsn,
        report.checkpoint,
        report.floor,
        report.epochs,
        report.chunks,
        report.records,
        report.log_bytes,
        report.destinations,
        report.messages,
    )
}

fn as_json(dir: &str, report: &CheckReport) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| json!({"table": finding.table, "key": finding.key, "what": finding.what}))
        .collect();
    json!({
        "dir": dir,
        "sound": report.findings.is_empty(),
        "cluster": report.cluster,
        "store": report.store,
        "epoch": report.end.epoch,
        "position": report.end.lsn,
        "checkpoint": report.checkpoint,
        "floor": report.floor,
        "epochs": report.epochs,
        "chunks": report.chunks,
        "records": report.records,
        "log_bytes": report.log_bytes,
        "destinations": report.destinations,
        "messages": report.messages,
        "sync_in_progress": report.sync_in_progress,
        "findings": findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_in_both_forms() {
        let mut report = CheckReport {
            cluster: "twinmq".to_owned(),
            messages: 12,
            ..CheckReport::default()
        };
        assert!(as_text("data", &report).ends_with("12 messages\nsound"));
        assert_eq!(as_json("data", &report)["sound"], true);
        report.sync_in_progress = true;
        report.findings.push(Finding {
            table: "log",
            key: "17".to_owned(),
            what: "checksum differs".to_owned(),
        });
        let text = as_text("data", &report);
        assert!(text.contains("not a whole copy"), "{text}");
        assert!(
            text.ends_with("1 findings:\n  log 17: checksum differs"),
            "{text}"
        );
        let json = as_json("data", &report);
        assert_eq!(json["sound"], false);
        assert_eq!(json["findings"][0]["what"], "checksum differs");
    }
}
