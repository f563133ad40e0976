//! Large messages: frames are read piece by piece, and while a MESSAGE is written piece by piece what
//! else there is for the client waits behind it.

use super::Session;
use crate::actors::overload::Limit;
use crate::machines::delivery::SessionEvent;
use crate::machines::stomp_session::SessionInput;
use crate::proto::stomp::{Piece, PieceSizes};
use crate::time::Moment;

/// Bytes of a large message that wait to be written, about: as much as keeps a client busy.
const PARTS_WAITING: usize = 512 << 10;

impl Session {
    /// Takes what is whole of what was read.
    pub(super) fn decode(&mut self, now: Moment) {
        while self.undecoded && !self.is_to_be_counted() && self.may_go_on() && self.may_take_next()
        {
            let piece = self
                .decoder
                .decode_piece(&mut self.input, PieceSizes::default());
            let input = match piece {
                Ok(Some(Piece::Whole(frame))) => SessionInput::Frame(frame),
                Ok(Some(Piece::Head(frame))) => SessionInput::Head(frame),
                Ok(Some(Piece::Part(bytes))) => SessionInput::Part(bytes),
                Ok(Some(Piece::End)) => SessionInput::BodyEnd,
                Ok(None) => {
                    self.undecoded = false;
                    break;
                }
                Err(error) => {
                    self.undecoded = false;
                    if error.is_limit() {
                        self.context.directory.overload().count(Limit::Frame);
                    }
                    SessionInput::Malformed(error)
                }
            };
            self.step(now, input);
        }
    }

    /// Writes more of a MESSAGE that is not whole; then what waited behind it.
    pub(super) fn take_parts(&mut self, now: Moment) {
        while self.machine.is_within_message()
            && self.has_part_room()
            && let Some(parts) = self.inbox.take_parts()
        {
            self.step(now, SessionInput::Event(SessionEvent::PartsRead { parts }));
        }
        if !self.machine.is_within_message() && !self.behind.is_empty() {
            self.output.unsplit(self.behind.split());
        }
    }

    /// Something that the client is to be sent is here, and there is room for it.
    pub(super) fn has_delivery(&self) -> bool {
        if self.machine.is_within_message() {
            self.has_part_room() && self.inbox.has_parts()
        } else {
            self.delivery_room() > 0 && self.inbox.has_delivery()
        }
    }

    fn has_part_room(&self) -> bool {
        self.delivery_room() > 0 && self.output.len() < PARTS_WAITING
    }
}
