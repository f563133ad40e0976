//! ACK and NACK.

use bytes::BytesMut;

use super::ends::Problem;
use super::publish::decimal;
use super::requests::Receipt;
use super::subscriptions::{AckMode, MESSAGE_ID_PREFIX, Settled, Subscription};
use super::{SessionEffect, StompSession};
use crate::machines::delivery::Outcome;
use crate::proto::ids::Lsn;
use crate::proto::stomp::{ClientCommand, ClientFrame, Command, Version};

/// How far back an effect is looked for that an acknowledgement can join.
const GATHER: usize = 16;

impl StompSession {
    pub(super) fn acknowledge(
        &mut self,
        frame: &ClientFrame,
        outcome: Outcome,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        if frame.command == ClientCommand::Nack && self.version == Version::V1_0 {
            return Err(Problem::new(
                "unknown command",
                "STOMP 1.0 has no NACK; connect with accept-version:1.1 or 1.2",
            ));
        }
        if let Some(id) = frame.headers.raw_value(b"transaction") {
            let at = self.transactions.find(id, frame.command.name())?;
            let (consumer, settled) = self.settled_by(frame)?;
            let limits = self.config.transactions;
            self.transactions
                .settle(at, consumer, outcome, settled.into_sent(), limits)?;
            self.confirm_now(frame, out);
            return Ok(());
        }
        let (consumer, settled) = self.settled_by(frame)?;
        let receipt = frame.headers.raw_value(b"receipt").map(Receipt::new);
        if receipt.is_none()
            && let Some(lsns) = self.gathered(consumer, outcome, effects)
        {
            match settled {
                Settled::One(sent) => lsns.push(sent.lsn),
                Settled::UpTo(more) => lsns.extend(more.into_iter().map(|sent| sent.lsn)),
            }
            return Ok(());
        }
        let lsns = match settled {
            Settled::One(sent) => vec![sent.lsn],
            Settled::UpTo(all) => all.into_iter().map(|sent| sent.lsn).collect(),
        };
        effects.push(SessionEffect::Settle {
            consumer,
            lsns,
            outcome,
            request: self.requests.open(receipt),
        });
        Ok(())
    }

    /// The LSNs of an effect that was not run yet and does the same without a receipt.
    fn gathered<'a>(
        &mut self,
        of: u32,
        how: Outcome,
        effects: &'a mut [SessionEffect],
    ) -> Option<&'a mut Vec<Lsn>> {
        effects
            .iter_mut()
            .rev()
            .take(GATHER)
            .find_map(|effect| match effect {
                SessionEffect::Settle {
                    consumer,
                    lsns,
                    outcome,
                    request,
                } if *consumer == of && *outcome == how && self.requests.is_silent(*request) => {
                    Some(lsns)
                }
                SessionEffect::Settle { .. }
                | SessionEffect::Publish { .. }
                | SessionEffect::Attach { .. }
                | SessionEffect::Detach { .. }
                | SessionEffect::Retire { .. }
                | SessionEffect::Subscribe { .. }
                | SessionEffect::Forget { .. }
                | SessionEffect::MakeTemporary { .. }
                | SessionEffect::Browse { .. }
                | SessionEffect::Commit { .. }
                | SessionEffect::Upload { .. }
                | SessionEffect::EndUpload { .. }
                | SessionEffect::ReadParts { .. }
                | SessionEffect::Close => None,
            })
    }

    /// Takes what the frame settles off its subscription.
    fn settled_by(&mut self, frame: &ClientFrame) -> Result<(u32, Settled), Problem> {
        let command = frame.command.name();
        let header = |name: &'static str| frame.headers.raw_value(name.as_bytes());
        let required =
            |name: &'static str| header(name).ok_or_else(|| Problem::missing(command, name));
        let (raw, found) = match self.version {
            Version::V1_2 => {
                let raw = required("id")?;
                let subscription = ack_id(raw).and_then(|(consumer, lsn)| {
                    Some((self.subscriptions.by_number(consumer)?, lsn))
                });
                (raw, subscription)
            }
            Version::V1_1 => {
                let (id, raw) = (required("subscription")?, required("message-id")?);
                let subscription = self.subscriptions.by_id(id);
                (raw, subscription.zip(message_id(raw)))
            }
            Version::V1_0 => {
                let raw = required("message-id")?;
                let lsn = message_id(raw);
                let id = header("subscription");
                let waits = |subscription: &&mut Subscription| {
                    (id.is_none() || subscription.id.as_deref() == id)
                        && lsn.is_some_and(|lsn| subscription.waits_for(lsn))
                };
                let subscription = self.subscriptions.iter_mut().find(waits);
                (raw, subscription.zip(lsn))
            }
        };
        let Some((subscription, lsn)) = found else {
            return Err(unknown(command, raw));
        };
        if subscription.ack == AckMode::Auto {
            return Err(Problem::new(
                "nothing to acknowledge",
                format!(
                    "{command} names a message of a subscription with ack:auto; subscribe with \
                     ack:client or ack:client-individual to acknowledge"
                ),
            ));
        }
        let number = subscription.number;
        let settled = subscription
            .settle(lsn)
            .ok_or_else(|| unknown(command, raw))?;
        Ok((number, settled))
    }
}

fn unknown(command: &str, raw: &[u8]) -> Problem {
    let shown = &raw[..raw.len().min(80)];
    Problem::new(
        "unknown acknowledgement id",
        format!(
            "{command} names {:?}, which no delivery of this connection waits for: it was \
             acknowledged before, was not delivered here, or its subscription has ended",
            String::from_utf8_lossy(shown)
        ),
    )
}

/// Reads `CONSUMER-LSN`.
fn ack_id(raw: &[u8]) -> Option<(u32, Lsn)> {
    let dash = memchr::memchr(b'-', raw)?;
    let consumer = u32::try_from(decimal(&raw[..dash])?).ok()?;
    Some((consumer, Lsn(decimal(&raw[dash + 1..])?)))
}

fn message_id(raw: &[u8]) -> Option<Lsn> {
    decimal(raw.strip_prefix(MESSAGE_ID_PREFIX.as_bytes())?).map(Lsn)
}
