//! ERROR: why a connection ends.

use bytes::BytesMut;

use super::requests::Receipt;
use super::{SessionEffect, StompSession};
use crate::proto::stomp::{DecodeError, FrameWriter, ServerCommand, Version};

/// The one ERROR that names the server's versions.
pub(super) const UNSUPPORTED_VERSION: &str = "no common version";

/// Why the connection ends, for the client.
#[derive(Debug)]
pub(super) struct Problem {
    /// The `message` header.
    pub(super) message: &'static str,
    /// The body: what was wrong and what to do.
    pub(super) detail: String,
}

impl Problem {
    pub(super) fn new(message: &'static str, detail: impl Into<String>) -> Self {
        Self {
            message,
            detail: detail.into(),
        }
    }

    pub(super) fn missing(command: &str, header: &str) -> Self {
        Self::new(
            "a header is missing",
            format!("{command} needs the header {header}"),
        )
    }
}

impl StompSession {
    pub(super) fn on_malformed(
        &mut self,
        error: &DecodeError,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        let (message, advice) = match error {
            DecodeError::UnknownCommand(_) => (
                "unknown command",
                "; is the client speaking STOMP, and does content-length count bytes?",
            ),
            DecodeError::HeaderCount { .. }
            | DecodeError::HeaderBytes { .. }
            | DecodeError::BodyBytes { .. }
            | DecodeError::FrameBytes { .. } => (
                "the frame is over a limit",
                "; send less in one frame, or raise the limit in the server's profile",
            ),
            DecodeError::NoColon { .. }
            | DecodeError::NoName { .. }
            | DecodeError::NulInHeaders { .. }
            | DecodeError::Encoding { .. }
            | DecodeError::Escape { .. }
            | DecodeError::ContentLength(_)
            | DecodeError::NoNul { .. } => (
                "the frame is malformed",
                "; the frame was not carried out, nor anything after it",
            ),
        };
        let problem = Problem::new(message, format!("{error}{advice}"));
        // If it is a large body that is, its SEND is what cannot be carried out.
        let receipt = self.receipt_of_upload();
        self.fail(&problem, receipt.as_ref().map(Receipt::raw), out, effects);
    }

    /// A large SEND that cannot be carried out ends the connection like any other.
    pub(super) fn fail_upload(
        &mut self,
        outcome: Result<(), (Problem, Option<Receipt>)>,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        if let Err((problem, receipt)) = outcome {
            let receipt = receipt.as_ref().map(Receipt::raw);
            self.fail(&problem, receipt, out, effects);
        }
    }

    /// Ends the connection with an ERROR; without a word within a MESSAGE, whose body it would become
    /// part of.
    pub(super) fn fail(
        &mut self,
        problem: &Problem,
        receipt: Option<&[u8]>,
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        if self.is_within_message() {
            self.close(effects);
            return;
        }
        let mut error = FrameWriter::new(out, self.version, ServerCommand::Error);
        if problem.message == UNSUPPORTED_VERSION {
            error.raw_header("version", Version::ALL.as_bytes());
        }
        error.header("message", problem.message.as_bytes());
        error.raw_header("content-type", b"text/plain");
        if let Some(receipt) = receipt {
            error.raw_header("receipt-id", receipt);
        }
        error.body(problem.detail.as_bytes());
        self.close(effects);
    }
}
