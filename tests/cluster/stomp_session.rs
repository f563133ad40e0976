//! One connection of an unmodified stomp.py client, in a process of its own, told what to do.

use serde_json::{Value, json};

use crate::support::eventually::{SOON, eventually};
use crate::support::told::Told;

/// The connection; cut on drop, by `kill -9` of its process.
pub(crate) struct StompSession {
    told: Told,
    receipts: u32,
}

/// Headers of a frame.
pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

fn object(headers: Headers<'_>) -> Value {
    headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect()
}

impl StompSession {
    /// Connected to the first server of the list that serves.
    pub(crate) fn connect(hosts: &str, headers: Headers<'_>) -> Self {
        let headers = object(headers).to_string();
        let session = Self {
            told: Told::start("session_driver.py", &[hosts, &headers]),
            receipts: 0,
        };
        session.until("it is connected", |frame| frame["frame"] == "CONNECTED");
        session
    }

    /// Every frame so far.
    pub(crate) fn frames(&self) -> Vec<Value> {
        self.told.facts()
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.told.until(what, wanted)
    }

    /// Gives a command and waits for nothing.
    pub(crate) fn say(&mut self, command: &Value) {
        self.told.say(&command.to_string());
    }

    /// Gives a command with a receipt and waits for that.
    #[track_caller]
    pub(crate) fn confirmed(&mut self, mut command: Value, headers: Headers<'_>) {
        self.receipts += 1;
        let receipt = format!("receipt-{}", self.receipts);
        let mut headers = object(headers);
        headers["receipt"] = json!(receipt);
        command["headers"] = headers;
        self.say(&command);
        self.until(&format!("the receipt of {command}"), |frame| {
            let refused = frame["frame"] == "ERROR";
            assert!(!refused, "{frame}");
            frame["frame"] == "RECEIPT" && frame["headers"]["receipt-id"] == receipt
        });
    }

    #[track_caller]
    pub(crate) fn subscribe(&mut self, id: &str, destination: &str, headers: Headers<'_>) {
        let command = json!({"do": "subscribe", "id": id, "destination": destination});
        self.confirmed(command, headers);
    }

    /// The same with acknowledgements of one's own.
    #[track_caller]
    pub(crate) fn subscribe_individually(
        &mut self,
        id: &str,
        destination: &str,
        headers: Headers<'_>,
    ) {
        let ack = "client-individual";
        let command = json!({"do": "subscribe", "id": id, "destination": destination, "ack": ack});
        self.confirmed(command, headers);
    }

    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, id: &str, headers: Headers<'_>) {
        self.confirmed(json!({"do": "unsubscribe", "id": id}), headers);
    }

    #[track_caller]
    pub(crate) fn send(&mut self, destination: &str, body: &str, headers: Headers<'_>) {
        let command = json!({"do": "send", "destination": destination, "body": body});
        self.confirmed(command, headers);
    }

    /// Messages that came for a subscription.
    pub(crate) fn messages(&self, id: &str) -> Vec<Value> {
        let frames = self.frames().into_iter();
        frames
            .filter(|frame| frame["frame"] == "MESSAGE" && frame["headers"]["subscription"] == id)
            .collect()
    }

    /// Their bodies.
    pub(crate) fn bodies(&self, id: &str) -> Vec<String> {
        let messages = self.messages(id).into_iter();
        messages
            .map(|frame| frame["body"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits until so many have come, and gives their bodies.
    #[track_caller]
    pub(crate) fn await_bodies(&self, id: &str, count: usize) -> Vec<String> {
        eventually(SOON, &format!("{count} messages of {id}"), || {
            let bodies = self.bodies(id);
            if bodies.len() >= count {
                Ok(())
            } else {
                Err(format!("{bodies:?} {:?}", self.frames().last()))
            }
        });
        self.bodies(id)
    }

    /// Waits for the ERROR, and gives its message and body.
    #[track_caller]
    pub(crate) fn await_error(&self) -> String {
        let frame = self.until("an ERROR", |frame| frame["frame"] == "ERROR");
        format!("{}: {}", frame["headers"]["message"], frame["body"])
    }

    /// Ends in good order.
    #[track_caller]
    pub(crate) fn disconnect(mut self) {
        self.confirmed(json!({"do": "disconnect"}), &[]);
    }
}
