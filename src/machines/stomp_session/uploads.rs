//! SENDs whose bodies are too large for one record. Each part of a body goes on as it arrives; the
//! message, which only names its parts, is published when all of them are in the log.
//!
//! | an upload | what is true |
//! |---|---|
//! | is read | parts go on, at most [`PARTS_ON_THEIR_WAY`] of them unanswered |
//! | is complete | the frame is whole; nothing more is read until its last part is in the log |
//! | waits | for the COMMIT of its transaction, or for the answer to its message |
//!
//! However it ends, the store is told: what no message names by then is owed no more.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::ends::Problem;
use super::requests::Receipt;
use super::{Phase, SessionEffect, StompSession};
use crate::machines::delivery::RequestNumber;
use crate::proto::destination::DestinationName;
use crate::proto::ids::Lsn;
use crate::proto::message::{MessageWriter, Parts};
use crate::proto::stomp::{ClientCommand, ClientFrame, Command};

/// Parts of one connection that are not in the log yet: about a MiB.
const PARTS_ON_THEIR_WAY: usize = 16;

/// A large SEND whose message is not published yet.
#[derive(Debug)]
struct Upload {
    number: u32,
    destination: DestinationName,
    /// The message without its body.
    writer: MessageWriter,
    transaction: Option<Box<[u8]>>,
    receipt: Option<Receipt>,
    parts: Parts,
    /// Bytes of the parts that are on their way, in order.
    sizes: VecDeque<usize>,
    complete: bool,
}

/// What the head of a large SEND says.
pub(super) struct Head {
    pub(super) destination: DestinationName,
    pub(super) writer: MessageWriter,
    pub(super) transaction: Option<Box<[u8]>>,
    pub(super) receipt: Option<Receipt>,
}

/// The uploads of a session.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    current: Option<Box<Upload>>,
    last_number: u32,
    /// Of messages that wait for their answer.
    answering: Vec<(RequestNumber, Vec<u32>)>,
}

impl Uploads {
    /// Nothing more may be read.
    pub(super) fn is_full(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|upload| upload.complete || upload.sizes.len() >= PARTS_ON_THEIR_WAY)
    }

    /// The answer to a request ends these.
    pub(super) fn wait(&mut self, request: RequestNumber, uploads: Vec<u32>) {
        if !uploads.is_empty() {
            self.answering.push((request, uploads));
        }
    }

    /// A request is answered; its uploads are over.
    pub(super) fn answered(&mut self, request: RequestNumber, effects: &mut Vec<SessionEffect>) {
        if self.answering.is_empty() {
            return;
        }
        let over = self.answering.extract_if(.., |(of, _)| *of == request);
        for upload in over.flat_map(|(_, uploads)| uploads) {
            effects.push(ended(upload, RequestNumber::default()));
        }
    }

    /// The session is over: nobody hears its answers any more.
    pub(super) fn clear(&mut self, effects: &mut Vec<SessionEffect>) {
        if let Some(upload) = self.current.take() {
            effects.push(ended(upload.number, RequestNumber::default()));
        }
        for (after, uploads) in self.answering.drain(..) {
            effects.extend(uploads.into_iter().map(|upload| ended(upload, after)));
        }
    }
}

/// An upload is over, at once or with the answer to a request.
pub(super) fn ended(upload: u32, after: RequestNumber) -> SessionEffect {
    SessionEffect::EndUpload { upload, after }
}

impl StompSession {
    /// A frame whose body comes in pieces.
    pub(super) fn on_head(
        &mut self,
        frame: &ClientFrame,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), Problem> {
        match self.phase {
            Phase::Connected => {}
            Phase::Greeting { .. } => {
                return Err(Problem::new(
                    "not connected",
                    "the first frame of a connection must be CONNECT or STOMP, without a body",
                ));
            }
            Phase::Leaving { .. } | Phase::Closed => return Ok(()),
        }
        if frame.command != ClientCommand::Send {
            let detail = format!(
                "only SEND has a body, and {} came with one",
                frame.command.name()
            );
            return Err(Problem::new("the frame is malformed", detail));
        }
        let head = self.large_send(frame, effects)?;
        if let Some(id) = &head.transaction {
            self.transactions.find(id, "SEND")?;
        }
        let number = self.uploads.last_number.wrapping_add(1).max(1);
        self.uploads.last_number = number;
        self.uploads.current = Some(Box::new(Upload {
            number,
            destination: head.destination,
            writer: head.writer,
            transaction: head.transaction,
            receipt: head.receipt,
            parts: Parts::default(),
            sizes: VecDeque::new(),
            complete: false,
        }));
        Ok(())
    }

    pub(super) fn on_part(&mut self, bytes: Bytes, effects: &mut Vec<SessionEffect>) {
        // After DISCONNECT there is none.
        if let Some(upload) = &mut self.uploads.current {
            upload.sizes.push_back(bytes.len());
            effects.push(SessionEffect::Upload {
                upload: upload.number,
                request: self.requests.open(None),
                bytes,
            });
        }
    }

    pub(super) fn on_body_end(
        &mut self,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), (Problem, Option<Receipt>)> {
        if let Some(upload) = &mut self.uploads.current {
            upload.complete = true;
        }
        self.publish_upload(out, effects)
    }

    /// Parts have their places in the log.
    pub(super) fn on_parts_stored(
        &mut self,
        number: u32,
        lsns: &[Lsn],
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), (Problem, Option<Receipt>)> {
        let Some(upload) = self.uploads.current.as_mut() else {
            return Ok(());
        };
        if upload.number != number {
            return Ok(());
        }
        for lsn in lsns {
            let size = upload.sizes.pop_front().unwrap_or_default();
            if !upload.parts.push(*lsn, size) {
                let receipt = upload.receipt.take();
                let problem = Problem::new(
                    "the message is too large",
                    "its body has more parts than a message may have; send it in several messages",
                );
                return Err((problem, receipt));
            }
        }
        self.publish_upload(out, effects)
    }

    /// Publishes the message, or puts it to its transaction, once all of it is in the log.
    fn publish_upload(
        &mut self,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) -> Result<(), (Problem, Option<Receipt>)> {
        let stored = |upload: &mut Box<Upload>| upload.complete && upload.sizes.is_empty();
        let Some(upload) = self.uploads.current.take_if(stored) else {
            return Ok(());
        };
        let Upload {
            number,
            destination,
            writer,
            transaction,
            receipt,
            parts,
            ..
        } = *upload;
        let message = match writer.finish_in_parts(&parts) {
            Ok(message) => message,
            Err(error) => {
                effects.push(ended(number, RequestNumber::default()));
                let problem = Problem::new("the message is too large", error.to_string());
                return Err((problem, receipt));
            }
        };
        let Some(id) = transaction else {
            let request = self.requests.open(receipt);
            self.uploads.wait(request, vec![number]);
            effects.push(SessionEffect::Publish {
                destination,
                request,
                message,
            });
            return Ok(());
        };
        let limits = self.config.transactions;
        let bytes = parts.bytes();
        let added =
            self.transactions
                .send_large(&id, destination, message, (number, bytes), limits);
        if let Err(problem) = added {
            effects.push(ended(number, RequestNumber::default()));
            return Err((problem, receipt));
        }
        if let Some(receipt) = receipt {
            super::write_receipt(out, self.version, receipt.raw());
        }
        Ok(())
    }

    /// The receipt of the SEND that is being read: an ERROR that ends it names it.
    pub(super) fn receipt_of_upload(&mut self) -> Option<Receipt> {
        self.uploads.current.as_mut()?.receipt.take()
    }
}
