//! `twinmq check`: may this profile be run, and what does each kind of failure cost with it?

mod network;
mod outage;
mod report;
mod share;
mod trial;
mod two_machines;

use serde_json::json;

use super::args::CheckArgs;
use super::{CliError, print, print_json};
use crate::config::{Loaded, Mode};
use crate::exit::ExitCode;
use crate::io::mounts::mount_of;
use outage::{Share, outages};
use report::{Grade, Report};

/// The lock could not be held for another process.
#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error("the lock is held by another process")]
    Taken,
    #[error("the file cannot be locked: {0}")]
    Io(#[from] std::io::Error),
}

/// Looks at everything that a server with this profile would depend on.
///
/// # Errors
/// When the configuration is wrong, or standard output cannot be written. What speaks against running
/// the profile is printed and gives an exit code.
pub fn run(args: &CheckArgs) -> Result<ExitCode, CliError> {
    if let Some(path) = &args.hold {
        return match trial::hold(path) {
            Ok(true) => Ok(ExitCode::Done),
            Ok(false) => Err(CliError::of(ExitCode::LockFile, HoldError::Taken)),
            Err(cause) => Err(CliError::of(ExitCode::LockFile, HoldError::Io(cause))),
        };
    }
    let loaded = args.profile.load(args.db_path.clone())?;
    let mut report = Report::default();
    configuration(&mut report, &loaded);
    let config = &loaded.config;
    network::own(&mut report, config);
    if let Some(ha) = &config.ha {
        if share::look(&mut report, &ha.lock_file, config.demo) {
            share::try_out(&mut report, &ha.lock_file);
            if args.with_peer {
                two_machines::try_out(&mut report, config, ha);
            }
        }
        if config.mode == Mode::Shared {
            share::store(&mut report, &config.store.path, config.demo);
        }
        network::gateway(&mut report, ha);
        network::peer(&mut report, config, ha);
    } else if args.with_peer {
        return Err(CliError::Usage(
            "--with-peer: a standalone server has no peer".to_owned(),
        ));
    }
    let outages = config.ha.as_ref().map_or_else(Vec::new, |ha| {
        let mount = mount_of(&ha.lock_file).ok().flatten();
        let share = if mount.is_some_and(|mount| mount.is_network()) {
            Share::Network
        } else {
            Share::Local
        };
        outages(config, ha, share)
    });
    if args.json {
        print_json(&json!({
            "profile": config.profile,
            "verdict": report.verdict(),
            "faults": report.count(Grade::Bad),
            "warnings": report.count(Grade::Warning),
            "topics": report.as_json(),
            "outages": outage::as_json(&outages),
        }))?;
    } else {
        let mut text = report.as_text();
        if !outages.is_empty() {
            text.push_str("\nwithout service, at worst");
        }
        for outage in &outages {
            text.push_str("\n  ");
            text.push_str(&outage::line(outage));
        }
        print(&format!("{text}\n\n{}", report.verdict()))?;
    }
    Ok(if report.count(Grade::Bad) == 0 {
        ExitCode::Done
    } else {
        ExitCode::Failed
    })
}

fn configuration(report: &mut Report, loaded: &Loaded) {
    let config = &loaded.config;
    report.topic("configuration");
    let file = config
        .file
        .as_ref()
        .map_or_else(|| "built in".to_owned(), |file| file.display().to_string());
    report.good(format!(
        "{} ({file}): {} mode, every key is valid",
        config.profile, config.mode
    ));
    for warning in &loaded.warnings {
        report.warn(warning.to_string(), "");
    }
    if config.demo {
        report.note("demo: a pair on one machine, for trying out: it does not survive the machine");
    }
}
