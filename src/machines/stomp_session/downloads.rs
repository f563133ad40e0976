//! A MESSAGE whose body is in parts: its head is written at once, its parts as they are read from the
//! store. Until it is whole, nothing else may come between: whoever has more for the client keeps it.

use bytes::{Bytes, BytesMut};

use super::{SessionEffect, StompSession};
use crate::proto::ids::Lsn;
use crate::proto::message::Parts;

/// Parts that are asked for at once: 256 KiB.
const PARTS_AT_ONCE: usize = 4;

/// A MESSAGE that is not whole yet.
#[derive(Debug)]
pub(super) struct Download {
    parts: Parts,
    /// Asked for up to here.
    asked: Lsn,
    /// How many of these have not come.
    awaited: usize,
    /// Bytes of the body that are not written.
    left: u64,
}

impl StompSession {
    /// A MESSAGE is not whole yet: what comes out of a step with anything but `PartsRead` belongs
    /// behind it. Still so when the session has closed: it never will be whole, and nothing more may be
    /// written.
    #[must_use]
    pub fn is_within_message(&self) -> bool {
        self.download.is_some()
    }

    /// The head of a MESSAGE is written; its body follows.
    pub(super) fn begin_download(&mut self, parts: Parts, effects: &mut Vec<SessionEffect>) {
        assert!(
            self.download.is_none(),
            "one MESSAGE is whole before the next begins: the mailbox gives a large one by itself"
        );
        let left = parts.bytes();
        let mut download = Box::new(Download {
            parts,
            asked: Lsn::ZERO,
            awaited: 0,
            left,
        });
        download.ask(effects);
        self.download = Some(download);
    }

    /// The next parts of the body. Fewer than were asked for: the message is gone, and with it the
    /// connection, since a frame that was begun cannot be taken back.
    pub(super) fn on_parts_read(
        &mut self,
        parts: &[Bytes],
        out: &mut BytesMut,
        effects: &mut Vec<SessionEffect>,
    ) {
        let Some(download) = &mut self.download else {
            return;
        };
        let bytes = parts.iter().map(|part| part.len() as u64);
        let left = download.left.checked_sub(bytes.sum());
        let Some(left) = left.filter(|_| parts.len() == download.awaited) else {
            self.close(effects);
            return;
        };
        download.left = left;
        parts.iter().for_each(|part| out.extend_from_slice(part));
        if !download.ask(effects) {
            if left == 0 {
                self.download = None;
                out.extend_from_slice(b"\0");
            } else {
                self.close(effects);
            }
        }
    }
}

impl Download {
    /// False: there is nothing more.
    fn ask(&mut self, effects: &mut Vec<SessionEffect>) -> bool {
        let lsns = self.parts.after(self.asked, PARTS_AT_ONCE);
        self.awaited = lsns.len();
        let Some(last) = lsns.last() else {
            return false;
        };
        self.asked = *last;
        effects.push(SessionEffect::ReadParts { lsns });
        true
    }
}
