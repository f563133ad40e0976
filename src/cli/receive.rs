//! `twinmq receive`: prints messages as they come; each is acknowledged after it was printed.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::args::{AckMode, ReceiveArgs};
use super::send::{destination, hosts};
use super::stomp_client::{Connection, Frame, StompError};
use super::{CliError, print};
use crate::exit::ExitCode;
use crate::time::{Clock, SystemClock};

/// Messages under way to us: few, so that others get theirs while this one prints.
const PREFETCH: u64 = 100;
/// How long the server may take to answer SUBSCRIBE and the farewell.
const ANSWER: Duration = Duration::from_secs(10);

/// Fewer messages came than were wanted.
#[derive(Debug, thiserror::Error)]
#[error("{received} of {wanted} messages: none came for {seconds} s")]
struct TooFew {
    received: u64,
    wanted: u64,
    seconds: u64,
}

/// Receives.
///
/// # Errors
/// When no server serves, or fewer messages come than were wanted.
pub fn run(args: &ReceiveArgs) -> Result<ExitCode, CliError> {
    let mut receiver = Receiver {
        args,
        received: 0,
        printer: &print,
    };
    let mut hosts = hosts(&args.connect)?;
    let patience = Duration::from_secs(args.timeout);
    loop {
        let connection = hosts.connect(patience, &|| false)?;
        match receiver.receive(connection) {
            Err(Stop::Lost(error)) if error.is_connection_loss() => {}
            Err(Stop::Lost(error)) => return Err(error.into()),
            Err(Stop::Output(error)) => return Err(error),
            Ok(()) => break,
        }
    }
    match args.count {
        Some(wanted) if receiver.received < wanted => Err(CliError::of(
            ExitCode::Failed,
            TooFew {
                received: receiver.received,
                wanted,
                seconds: args.timeout,
            },
        )),
        Some(_) | None => Ok(ExitCode::Done),
    }
}

/// Why a connection's work ended early.
#[derive(Debug)]
enum Stop {
    Lost(StompError),
    Output(CliError),
}

impl From<StompError> for Stop {
    fn from(error: StompError) -> Self {
        Self::Lost(error)
    }
}

struct Receiver<'a> {
    args: &'a ReceiveArgs,
    received: u64,
    printer: &'a dyn Fn(&str) -> Result<(), CliError>,
}

impl Receiver<'_> {
    fn receive(&mut self, mut connection: Connection) -> Result<(), Stop> {
        let args = self.args;
        let ack = match args.ack {
            AckMode::Auto => "auto",
            AckMode::Client => "client",
            AckMode::ClientIndividual => "client-individual",
        };
        let left = args.count.unwrap_or(u64::MAX) - self.received;
        let prefetch = u32::try_from(left.clamp(1, PREFETCH)).unwrap_or(u32::MAX);
        let destination = destination(&args.queue);
        let early = connection.subscribe("0", &destination, ack, prefetch, ANSWER)?;
        for frame in &early {
            self.take(&mut connection, frame)?;
        }
        let clock = SystemClock;
        let mut heard = clock.now();
        let patience = Duration::from_secs(args.timeout);
        while !self.is_done() {
            connection.flush()?;
            let waited = clock.now().since(heard);
            let Some(left) = patience.checked_sub(waited) else {
                break;
            };
            let Some(frame) = connection.next(left)? else {
                break;
            };
            self.take(&mut connection, &frame)?;
            heard = clock.now();
        }
        // What came beyond the count was handed over by the server in mode auto: it is gone there,
        // so it is printed here. In the other modes it stays in the queue.
        for frame in connection.request("DISCONNECT", &[], &[], ANSWER)? {
            if args.ack == AckMode::Auto && is_message(&frame) {
                self.show(&frame)?;
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.args.count.is_some_and(|count| self.received >= count)
    }

    fn take(&mut self, connection: &mut Connection, frame: &Frame) -> Result<(), Stop> {
        let surplus = self.is_done() && self.args.ack != AckMode::Auto;
        if !is_message(frame) || surplus {
            return Ok(());
        }
        self.show(frame)?;
        if let Some(ack) = frame.header("ack")
            && self.args.ack != AckMode::Auto
        {
            connection.queue("ACK", &[("id", &ack)], &[]);
        }
        Ok(())
    }

    fn show(&mut self, frame: &Frame) -> Result<(), Stop> {
        self.received += 1;
        (self.printer)(&line(frame, self.args.json)).map_err(Stop::Output)
    }
}

/// A message as it is printed.
pub(super) fn line(frame: &Frame, as_json: bool) -> String {
    let text = String::from_utf8_lossy(&frame.body);
    if as_json {
        let headers: Map<String, Value> = frame
            .headers()
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        json!({"headers": headers, "body": text}).to_string()
    } else {
        text.into_owned()
    }
}

fn is_message(frame: &Frame) -> bool {
    frame.command() == b"MESSAGE"
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cli::args::ConnectArgs;
    use crate::cli::stomp_client::{Hosts, StompOptions};
    use crate::cli::toy_server::{Faults, ToyServer};

    /// Stores three messages, receives, and returns what was printed and what is left.
    fn receive(count: Option<u64>, json: bool) -> (Vec<String>, usize) {
        let server = ToyServer::start(Faults::default());
        let connect = || {
            Hosts::parse(&server.address.to_string(), StompOptions::default())
                .unwrap()
                .connect(ANSWER, &|| false)
                .unwrap()
        };
        let mut producer = connect();
        for body in ["a", "b", "c"] {
            let headers = [("destination", "/queue/q")];
            producer
                .request("SEND", &headers, body.as_bytes(), ANSWER)
                .unwrap();
        }
        let printed = RefCell::new(Vec::new());
        let args = ReceiveArgs {
            connect: ConnectArgs::default(),
            queue: "q".to_owned(),
            count,
            timeout: 1,
            ack: AckMode::ClientIndividual,
            json,
        };
        let mut receiver = Receiver {
            args: &args,
            received: 0,
            printer: &|line| {
                printed.borrow_mut().push(line.to_owned());
                Ok(())
            },
        };
        receiver.receive(connect()).unwrap();
        (printed.into_inner(), server.stored())
    }

    #[test]
    fn what_was_printed_is_gone_and_the_rest_stays() {
        let (printed, left) = receive(Some(2), false);
        assert_eq!(printed, ["a", "b"]);
        assert_eq!(left, 1);
    }

    #[test]
    fn without_a_count_it_ends_when_nothing_comes_any_more() {
        let (printed, left) = receive(None, true);
        assert_eq!((printed.len(), left), (3, 0));
        let first: Value = serde_json::from_str(&printed[0]).unwrap();
        assert_eq!(first["body"], "a");
        assert_eq!(first["headers"]["message-id"], "id:1");
    }
}
