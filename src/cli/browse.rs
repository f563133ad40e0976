//! `twinmq browse`: prints copies of what a queue holds, in the order of delivery.

use std::time::Duration;

use super::args::BrowseArgs;
use super::receive::line;
use super::send::{destination, hosts};
use super::stomp_client::{Connection, Frame, StompError};
use super::{CliError, print};
use crate::exit::ExitCode;

/// Copies under way to us.
const PREFETCH: &str = "500";
/// How long the server may take for its next word.
const ANSWER: Duration = Duration::from_secs(10);

/// Browses. What a lost connection broke off is not begun again: it would show everything twice.
///
/// # Errors
/// When no server serves, or the connection ends before the queue does.
pub fn run(args: &BrowseArgs) -> Result<ExitCode, CliError> {
    let connection = hosts(&args.connect)?.connect(ANSWER, &|| false)?;
    let mut shown = |frame: &Frame| print(&line(frame, args.json));
    browse(args, connection, &mut shown)?;
    Ok(ExitCode::Done)
}

fn browse(
    args: &BrowseArgs,
    mut connection: Connection,
    show: &mut dyn FnMut(&Frame) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    let destination = destination(&args.queue);
    let mut headers = vec![
        ("id", "0"),
        ("destination", destination.as_str()),
        ("browser", "true"),
        ("ack", "auto"),
        ("prefetch-count", PREFETCH),
    ];
    if let Some(selector) = &args.selector {
        headers.push(("selector", selector));
    }
    let mut early = connection
        .request("SUBSCRIBE", &headers, &[], ANSWER)?
        .into_iter();
    let most = args.count.unwrap_or(u64::MAX);
    let mut shown = 0u64;
    while shown < most {
        let frame = match early.next() {
            Some(frame) => frame,
            None => connection.next(ANSWER)?.ok_or(StompError::Silent {
                what: "SUBSCRIBE",
                seconds: ANSWER.as_secs(),
            })?,
        };
        if frame.header("browser").as_deref() == Some("end") {
            break;
        }
        if frame.command() == b"MESSAGE" {
            shown = shown.saturating_add(1);
            show(&frame)?;
        }
    }
    Ok(shown)
}
