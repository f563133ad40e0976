//! BEGIN, COMMIT, ABORT, and what waits between them.
//!
//! A transaction is kept here until its COMMIT: no destination knows of it, and one whose client goes
//! leaves nothing behind. A delivery that it acknowledges is taken off its subscription, and put back
//! at its place when the transaction is aborted.

use bytes::{Bytes, BytesMut};

use super::ends::Problem;
use super::requests::Receipt;
use super::subscriptions::{Sent, Subscriptions};
use super::uploads::ended;
use super::{SessionEffect, StompSession, write_receipt};
use crate::machines::delivery::{Outcome, RequestNumber};
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;
use crate::proto::stomp::{ClientFrame, Command};

/// What an operation counts besides its message.
const OPERATION_BYTES: usize = 64;
/// How far back an acknowledgement is looked for that another can join.
const GATHER: usize = 16;

/// Bounds of the transactions of a connection that are not committed.
#[derive(Clone, Copy, Debug)]
pub struct TransactionLimits {
    /// Open at once.
    pub open: usize,
    /// Messages in one, sent and acknowledged together.
    pub messages: usize,
    /// Bytes of one.
    pub bytes: usize,
    /// Bytes of all of one connection.
    pub connection_bytes: usize,
}

/// What a transaction does, in one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Canonical messages, in the order of the SENDs.
    pub sends: Vec<(DestinationName, Bytes)>,
    /// Deliveries by the number of their consumer; consumers may stand here more than once.
    pub settles: Vec<(u32, Vec<Lsn>, Outcome)>,
    /// About what it takes in memory.
    pub bytes: usize,
}

/// Bodies in parts of one transaction, at most. They are on the disk, not in memory.
const LARGE_BYTES_MAX: u64 = 4 << 30;

#[derive(Debug)]
struct Settles {
    consumer: u32,
    outcome: Outcome,
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Transaction {
    /// As the client spelled it.
    id: Box<[u8]>,
    sends: Vec<(DestinationName, Bytes)>,
    settles: Vec<Settles>,
    messages: usize,
    bytes: usize,
    /// Bodies in parts, and their bytes.
    uploads: Vec<u32>,
    large_bytes: u64,
}

/// The open transactions of a session.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: Vec<Transaction>,
    bytes: usize,
    /// A COMMIT whose unit has no place in the log yet: what comes after it must wait.
    pub(super) committing: Option<RequestNumber>,
}

impl Transactions {
    /// Bytes that wait for a COMMIT.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn clear(&mut self, effects: &mut Vec<SessionEffect>) {
        let open = self.open.drain(..);
        let uploads = open.flat_map(|transaction| transaction.uploads);
        effects.extend(uploads.map(|upload| ended(upload, RequestNumber::default())));
        self.bytes = 0;
    }

    pub(super) fn begin(&mut self, id: &[u8], limits: TransactionLimits) -> Result<(), Problem> {
        if self.open.iter().any(|open| *open.id == *id) {
            return Err(Problem::new(
                "the transaction exists",
                format!(
                    "{} was begun and is neither committed nor aborted; use another id",
                    shown(id)
                ),
            ));
        }
        if self.open.len() >= limits.open {
            return Err(Problem::new(
                "too many transactions",
                format!(
                    "a connection may have {} transactions open at once; commit or abort some, or \
                     raise limits.transactions",
                    limits.open
                ),
            ));
        }
        self.open.push(Transaction {
            id: id.into(),
            sends: Vec::new(),
            settles: Vec::new(),
            messages: 0,
            bytes: 0,
            uploads: Vec::new(),
            large_bytes: 0,
        });
        self.charge(self.open.len() - 1, 0, id.len(), limits)
    }

    pub(super) fn send(
        &mut self,
        id: &[u8],
        destination: DestinationName,
        message: Bytes,
        limits: TransactionLimits,
    ) -> Result<(), Problem> {
        let at = self.find(id, "SEND")?;
        let bytes = message.len().saturating_add(destination.spelling().len());
        self.charge(at, 1, bytes, limits)?;
        self.open[at].sends.push((destination, message));
        Ok(())
    }

    /// The same for a message whose body, of so many bytes, is in parts.
    pub(super) fn send_large(
        &mut self,
        id: &[u8],
        destination: DestinationName,
        message: Bytes,
        (upload, bytes): (u32, u64),
        limits: TransactionLimits,
    ) -> Result<(), Problem> {
        let at = self.find(id, "SEND")?;
        let all = self.open[at].large_bytes.saturating_add(bytes);
        if all > LARGE_BYTES_MAX {
            return Err(Problem::new(
                "the transaction is too large",
                format!(
                    "the large messages of a transaction may have {LARGE_BYTES_MAX} bytes together; \
                     commit more often"
                ),
            ));
        }
        self.send(id, destination, message, limits)?;
        self.open[at].large_bytes = all;
        self.open[at].uploads.push(upload);
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        at: usize,
        consumer: u32,
        outcome: Outcome,
        sent: Vec<Sent>,
        limits: TransactionLimits,
    ) -> Result<(), Problem> {
        self.charge(at, sent.len(), 0, limits)?;
        let settles = &mut self.open[at].settles;
        let same = settles
            .iter_mut()
            .rev()
            .take(GATHER)
            .find(|settles| settles.consumer == consumer && settles.outcome == outcome);
        match same {
            Some(settles) => settles.sent.extend(sent),
            None => settles.push(Settles {
                consumer,
                outcome,
                sent,
            }),
        }
        Ok(())
    }

    /// Where the open transaction of this id is.
    pub(super) fn find(&self, id: &[u8], command: &str) -> Result<usize, Problem> {
        let at = self.open.iter().position(|open| *open.id == *id);
        at.ok_or_else(|| {
            Problem::new(
                "unknown transaction",
                format!(
                    "{command} names the transaction {}, which was not begun on this connection, or \
                     has been committed or aborted; BEGIN comes first",
                    shown(id)
                ),
            )
        })
    }

    fn take(&mut self, id: &[u8], command: &str) -> Result<Transaction, Problem> {
        let at = self.find(id, command)?;
        let transaction = self.open.remove(at);
        self.bytes = self.bytes.saturating_sub(transaction.bytes);
        Ok(transaction)
    }

    /// Counts what is about to be added, if there is room for it.
    fn charge(
        &mut self,
        at: usize,
        messages: usize,
        bytes: usize,
        limits: TransactionLimits,
    ) -> Result<(), Problem> {
        let more = bytes.saturating_add(messages.max(1).saturating_mul(OPERATION_BYTES));
        let transaction = &mut self.open[at];
        transaction.messages = transaction.messages.saturating_add(messages);
        transaction.bytes = transaction.bytes.saturating_add(more);
        self.bytes = self.bytes.saturating_add(more);
        let too_large = |detail: String| Err(Problem::new("the transaction is too large", detail));
        if transaction.messages > limits.messages {
            return too_large(format!(
                "a transaction may send and acknowledge {} messages together; commit more often, or \
                 raise limits.transaction_messages",
                limits.messages
            ));
        }
        if transaction.bytes > limits.bytes {
            return too_large(format!(
                "a transaction may have {} bytes; commit more often, or raise \
                 limits.transaction_mib",
                limits.bytes
            ));
        }
        if self.bytes > limits.connection_bytes {
            return too_large(format!(
                "the open transactions of a connection may have {} bytes together; commit more \
                 often, or raise limits.connection_in_flight_bytes",
                limits.connection_bytes
            ));
        }
        Ok(())
    }

    /// Deliveries of a consumer that open transactions acknowledge.
    pub(super) fn of_consumer(&self, consumer: u32) -> Vec<Lsn> {
        let all = self.open.iter().flat_map(|open| &open.settles);
        all.filter(|settles| settles.consumer == consumer)
            .flat_map(|settles| settles.sent.iter().map(|sent| sent.lsn))
            .collect()
    }
}

impl StompSession {
    pub(super) fn begin(&mut self, frame: &ClientFrame, out: &mut BytesMut) -> Result<(), Problem> {
        let id = transaction_id(frame)?;
        self.transactions.begin(id, self.config.transactions)?;
        self.confirm_now(frame, out);
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        frame: &ClientFrame,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        let transaction = self.transactions.take(transaction_id(frame)?, "COMMIT")?;
        let receipt = frame.headers.raw_value(b"receipt").map(Receipt::new);
        let request = self.requests.open(receipt);
        self.transactions.committing = Some(request);
        self.uploads.wait(request, transaction.uploads);
        let settles = transaction.settles.into_iter();
        effects.push(SessionEffect::Commit {
            request,
            operations: Operations {
                sends: transaction.sends,
                settles: settles
                    .map(|settles| {
                        let lsns = settles.sent.into_iter().map(|sent| sent.lsn).collect();
                        (settles.consumer, lsns, settles.outcome)
                    })
                    .collect(),
                bytes: transaction.bytes,
            },
        });
        self.detach_retired(effects);
        Ok(())
    }

    pub(super) fn abort(
        &mut self,
        frame: &ClientFrame,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        let transaction = self.transactions.take(transaction_id(frame)?, "ABORT")?;
        let uploads = transaction.uploads.into_iter();
        effects.extend(uploads.map(|upload| ended(upload, RequestNumber::default())));
        restore(transaction.settles, &mut self.subscriptions);
        self.detach_retired(effects);
        self.confirm_now(frame, out);
        Ok(())
    }

    /// The receipt of a frame that does nothing but change what is kept here.
    pub(super) fn confirm_now(&self, frame: &ClientFrame, out: &mut BytesMut) {
        if let Some(receipt) = frame.headers.raw_value(b"receipt") {
            write_receipt(out, self.version, receipt);
        }
    }

    /// Lets consumers go that were unsubscribed while a transaction acknowledged their deliveries.
    fn detach_retired(&mut self, effects: &mut Vec<SessionEffect>) {
        let transactions = &self.transactions;
        self.subscriptions.retired.retain(|consumer| {
            let stays = !transactions.of_consumer(*consumer).is_empty();
            if !stays {
                let consumer = *consumer;
                effects.push(SessionEffect::Detach { consumer });
            }
            stays
        });
    }
}

/// What an aborted transaction had acknowledged waits for an acknowledgement again.
fn restore(all: Vec<Settles>, subscriptions: &mut Subscriptions) {
    for settles in all {
        if let Some(subscription) = subscriptions.by_number(settles.consumer) {
            subscription.restore(settles.sent);
        }
    }
}

fn transaction_id(frame: &ClientFrame) -> Result<&[u8], Problem> {
    frame
        .headers
        .raw_value(b"transaction")
        .ok_or_else(|| Problem::missing(frame.command.name(), "transaction"))
}

fn shown(id: &[u8]) -> String {
    let id = &id[..id.len().min(80)];
    format!("{:?}", String::from_utf8_lossy(id))
}
