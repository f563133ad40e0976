//! The log: lines of text or JSON on standard error and, if one is named, in a file; levels that
//! change while the server runs.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{LogConfig, LogFormat};

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The levels cannot be read.
    #[error("log level {levels:?} cannot be read: {cause}")]
    Levels {
        /// As given.
        levels: String,
        /// What is wrong.
        cause: ParseError,
    },
    /// The log file cannot be opened.
    #[error("log file {path} cannot be opened: {cause}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The log is set up once in a process.
    #[error("the log is set up already")]
    Twice,
    /// The log went away while its levels were changed.
    #[error("log levels cannot be changed any more: {0}")]
    Gone(reload::Error),
}

/// The running log's levels.
#[derive(Clone, Debug)]
pub struct Telemetry {
    levels: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Takes other levels, for everything that is logged from now on.
    ///
    /// # Errors
    /// When they cannot be read; the old ones stay.
    pub fn set_level(&self, levels: &str) -> Result<(), TelemetryError> {
        self.levels
            .reload(parse(levels)?)
            .map_err(TelemetryError::Gone)
    }
}

/// Sets up the process's log.
///
/// # Errors
/// When the levels cannot be read, the file cannot be opened, or a log is set up already.
pub fn init(log: &LogConfig) -> Result<Telemetry, TelemetryError> {
    let (filter, levels) = reload::Layer::new(parse(&log.level)?);
    let file = match &log.file {
        Some(path) => Some(lines(log.format, false, Arc::new(open(path)?))),
        None => None,
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::registry()
        .with(filter)
        .with(lines(log.format, colours, std::io::stderr))
        .with(file)
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry { levels })
}

/// Sets up the log of a command that is not a server: warnings and errors only.
///
/// # Errors
/// When a log is set up already.
pub fn init_for_command() -> Result<Telemetry, TelemetryError> {
    init(&LogConfig {
        level: "warn".to_owned(),
        format: LogFormat::Text,
        file: None,
    })
}

fn parse(levels: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        // The admin server's own start-up lines tell an operator nothing, and what it calls an error
        // is a request that somebody else got wrong; a level set for either counts.
        .parse(format!("actix_server=warn,actix_http=off,{levels}"))
        .map_err(|cause| TelemetryError::Levels {
            levels: levels.to_owned(),
            cause,
        })
}

fn open(path: &Path) -> Result<File, TelemetryError> {
    let failed = |cause| TelemetryError::File {
        path: path.to_owned(),
        cause,
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)
}

fn lines<S, W>(format: LogFormat, colours: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .with_writer(writer);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs two events, the second after a change of levels, and gives what the file then holds.
    fn written(format: LogFormat, before: &str, after: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/server.log");
        let (filter, levels) = reload::Layer::new(parse(before).unwrap());
        let telemetry = Telemetry { levels };
        let log = tracing_subscriber::registry().with(filter).with(lines(
            format,
            false,
            Arc::new(open(&path).unwrap()),
        ));
        tracing::subscriber::with_default(log, || {
            tracing::debug!(target: "twinmq::ha", epoch = 7, "first");
            telemetry.set_level(after).unwrap();
            tracing::debug!(target: "twinmq::ha", epoch = 8, "second");
        });
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn levels_change_while_the_log_is_open() {
        let text = written(LogFormat::Text, "info", "info,twinmq::ha=debug");
        assert!(!text.contains("first"), "{text}");
        assert!(text.contains("twinmq::ha: second epoch=8"), "{text}");
    }

    #[test]
    fn bad_requests_on_the_admin_port_are_not_logged_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let logged = |levels: &str| {
            let path = folder.path().join(levels);
            let log = tracing_subscriber::registry()
                .with(parse(levels).unwrap())
                .with(lines(
                    LogFormat::Text,
                    false,
                    Arc::new(open(&path).unwrap()),
                ));
            tracing::subscriber::with_default(log, || {
                tracing::error!(target: "actix_http::h1::dispatcher", "stream error");
                tracing::error!(target: "twinmq::admin", "its own");
            });
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains("its own"), "{text}");
            text.contains("stream error")
        };
        assert!(!logged("info"));
        assert!(!logged("trace"));
        assert!(logged("info,actix_http=error"));
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_at_the_top() {
        let text = written(LogFormat::Json, "debug", "info");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "first");
        assert_eq!(line["epoch"], 7);
        assert_eq!(line["target"], "twinmq::ha");
    }

    #[test]
    fn levels_that_cannot_be_read_leave_the_old_ones() {
        let (_filter, levels) = reload::Layer::new(parse("info").unwrap());
        let telemetry = Telemetry { levels };
        let error = telemetry.set_level("twinmq=loud").unwrap_err().to_string();
        assert!(
            error.starts_with("log level \"twinmq=loud\" cannot be read: "),
            "{error}"
        );
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let error = open(Path::new("/dev/null/server.log")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("log file /dev/null/server.log cannot be opened: ")
        );
    }
}
