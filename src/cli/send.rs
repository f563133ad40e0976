//! `twinmq send`: sends messages and ends when each of them is confirmed durable.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::time::Duration;

use serde_json::json;

use super::args::{ConnectArgs, SendArgs};
use super::stomp_client::{Connection, Hosts, StompError, StompOptions};
use super::{CliError, print, print_json};
use crate::exit::ExitCode;
use crate::time::{Clock, Moment, SystemClock};

/// Unconfirmed messages under way.
const WINDOW: usize = 500;
/// After so long without a server, the user is told what the command waits for.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a server is looked for, and how long a receipt may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl From<StompError> for CliError {
    fn from(error: StompError) -> Self {
        Self::of(ExitCode::Failed, error)
    }
}

/// Standard input cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read standard input: {0}")]
struct InputError(io::Error);

/// The host list of a command that connects.
pub(super) fn hosts(args: &ConnectArgs) -> Result<Hosts, CliError> {
    Ok(Hosts::parse(&host_list(args)?, StompOptions::default())?)
}

/// The same as text.
pub(super) fn host_list(args: &ConnectArgs) -> Result<String, CliError> {
    let servers: Vec<String> = args.servers()?.iter().map(ToString::to_string).collect();
    Ok(servers.join(","))
}

/// The STOMP destination of a queue's name.
pub(super) fn destination(queue: &str) -> String {
    if queue.starts_with('/') {
        queue.to_owned()
    } else {
        format!("/queue/{queue}")
    }
}

/// Sends.
///
/// # Errors
/// When no server takes the messages.
pub fn run(args: &SendArgs) -> Result<ExitCode, CliError> {
    let hosts = hosts(&args.connect)?;
    let mut sender = Sender::new(hosts, destination(&args.queue));
    let body = match (&args.body, args.size) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(size)) => Some(vec![b'.'; size]),
        (None, None) => None,
    };
    if let Some(body) = body {
        for _ in 0..args.count.unwrap_or(1) {
            sender.send(body.clone())?;
        }
    } else {
        let wanted = args.count.unwrap_or(u64::MAX);
        let mut lines = io::stdin().lock().split(b'\n');
        while sender.sent < wanted
            && let Some(line) = lines.next()
        {
            let line = line.map_err(|error| CliError::of(ExitCode::Failed, InputError(error)))?;
            sender.send(line)?;
        }
    }
    sender.finish()?;
    report(&sender, args.json)?;
    Ok(ExitCode::Done)
}

fn report(sender: &Sender, json: bool) -> Result<(), CliError> {
    if json {
        return print_json(&json!({
            "destination": sender.destination,
            "confirmed": sender.sent,
            "sent_again": sender.sent_again,
        }));
    }
    let mut text = format!(
        "{} messages to {}, all confirmed",
        sender.sent, sender.destination
    );
    if sender.sent_again > 0 {
        text.push_str(&format!(
            "; {} were sent again after a lost connection and may be there twice",
            sender.sent_again
        ));
    }
    print(&text)
}

/// A producer that gives up no message: what a lost connection left unanswered is sent again.
struct Sender {
    hosts: Hosts,
    destination: String,
    connection: Option<Connection>,
    /// Sent and not answered, in order.
    pending: VecDeque<(u64, Vec<u8>)>,
    sent: u64,
    sent_again: u64,
}

impl Sender {
    fn new(hosts: Hosts, destination: String) -> Self {
        Self {
            hosts,
            destination,
            connection: None,
            pending: VecDeque::new(),
            sent: 0,
            sent_again: 0,
        }
    }

    fn send(&mut self, body: Vec<u8>) -> Result<(), StompError> {
        while self.pending.len() >= WINDOW {
            self.settle_some()?;
        }
        let number = self.sent;
        self.sent += 1;
        if let Some(connection) = &mut self.connection {
            queue(connection, &self.destination, number, &body);
        }
        self.pending.push_back((number, body));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StompError> {
        while !self.pending.is_empty() {
            self.settle_some()?;
        }
        if let Some(connection) = self.connection.take() {
            // All is confirmed: how the connection ends changes nothing any more.
            connection.close(PATIENCE).ok();
        }
        Ok(())
    }

    /// Flushes and enters what is answered; connects first, or again, where that is needed.
    fn settle_some(&mut self) -> Result<(), StompError> {
        let outcome = match &mut self.connection {
            Some(connection) => settle(connection, &mut self.pending),
            None => {
                let waiting = Waiting::new();
                let mut connection = self.hosts.connect(PATIENCE, &|| waiting.tell())?;
                for (number, body) in &self.pending {
                    queue(&mut connection, &self.destination, *number, body);
                }
                self.connection = Some(connection);
                return Ok(());
            }
        };
        match outcome {
            Err(error) if error.is_connection_loss() => {
                self.connection = None;
                self.sent_again += self.pending.len() as u64;
                Ok(())
            }
            other => other,
        }
    }
}

/// Says once that no server is there yet.
struct Waiting {
    since: Moment,
    told: Cell<bool>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            since: SystemClock.now(),
            told: Cell::new(false),
        }
    }

    /// Asked after each round without success; never gives up.
    fn tell(&self) -> bool {
        if !self.told.get() && SystemClock.now().since(self.since) >= SILENCE {
            self.told.set(true);
            let text = format!("waiting for a server, up to {} s\n", PATIENCE.as_secs());
            // If standard error is gone, nobody reads it.
            io::Write::write_all(&mut io::stderr(), text.as_bytes()).ok();
        }
        false
    }
}

fn queue(connection: &mut Connection, destination: &str, number: u64, body: &[u8]) {
    let receipt = number.to_string();
    let headers = [
        ("destination", destination),
        ("receipt", receipt.as_str()),
        ("persistent", "true"),
    ];
    connection.queue("SEND", &headers, body);
}

fn settle(
    connection: &mut Connection,
    pending: &mut VecDeque<(u64, Vec<u8>)>,
) -> Result<(), StompError> {
    connection.flush()?;
    let Some(mut frame) = connection.next(PATIENCE)? else {
        return Err(StompError::Silent {
            what: "SEND",
            seconds: PATIENCE.as_secs(),
        });
    };
    loop {
        if let Some(number) = frame.number("receipt-id") {
            pending.retain(|(waiting, _)| *waiting != number);
        }
        match connection.buffered()? {
            Some(next) => frame = next,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::toy_server::{Faults, ToyServer};

    fn sender(faults: Faults) -> (ToyServer, Sender) {
        let server = ToyServer::start(faults);
        let hosts = Hosts::parse(&server.address.to_string(), StompOptions::default()).unwrap();
        (server, Sender::new(hosts, destination("q")))
    }

    #[test]
    fn everything_is_there_when_it_ends() {
        let (server, mut sender) = sender(Faults::default());
        for _ in 0..WINDOW * 2 + 1 {
            sender.send(b"x".to_vec()).unwrap();
        }
        sender.finish().unwrap();
        assert_eq!(server.stored(), WINDOW * 2 + 1);
        assert_eq!(sender.sent_again, 0);
    }

    #[test]
    fn what_a_lost_connection_left_open_is_sent_again_and_said() {
        let (server, mut sender) = sender(Faults {
            cut_every: 40,
            ..Faults::default()
        });
        for _ in 0..100 {
            sender.send(b"x".to_vec()).unwrap();
        }
        sender.finish().unwrap();
        assert!(server.stored() >= 100);
        assert!(sender.sent_again > 0);
    }

    #[test]
    fn a_queue_name_is_a_destination_and_a_destination_stays_one() {
        assert_eq!(destination("orders"), "/queue/orders");
        assert_eq!(destination("/topic/t"), "/topic/t");
    }
}
