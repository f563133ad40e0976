//! Bodies in parts on the data thread: the way of their parts to the store and back, and the end of an
//! upload whose session has gone before it was answered.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Directory, Unavailable};
use crate::machines::delivery::{RequestNumber, SessionEvent, SessionKey};
use crate::machines::destination::{REFUSED, ticket};
use crate::proto::ids::Lsn;
use crate::storage::api::{Draft, Ticket, Unit};

/// Uploads that end with the answer to a request.
pub(super) type Ending = HashMap<(SessionKey, RequestNumber), Vec<u32>>;

/// An upload as the store knows it: sessions have numbers of their own in the life of a process.
fn name_of(session: SessionKey, upload: u32) -> u64 {
    u64::from(session.0) << 32 | u64::from(upload)
}

fn of_name(name: u64) -> Option<(SessionKey, u32)> {
    let session = u32::try_from(name >> 32).ok()?;
    let upload = u32::try_from(name & u64::from(u32::MAX)).ok()?;
    Some((SessionKey(session), upload))
}

impl Directory {
    /// A part of a session's body. It hears `PartsStored` and `Committed`, or `Refused`.
    pub fn upload(&self, session: SessionKey, upload: u32, request: RequestNumber, bytes: Bytes) {
        let refusal = match self.term.borrow().as_ref() {
            None => Some(Unavailable::NotServing.to_string()),
            Some(term) => term.sends_refused.then(|| REFUSED.to_owned()),
        };
        if let Some(reason) = refusal {
            self.tell(session, SessionEvent::Refused { request, reason });
            return;
        }
        let upload = name_of(session, upload);
        self.store.submit(vec![Unit {
            ticket: ticket(session, request),
            records: vec![Draft::Part { upload, bytes }],
        }]);
    }

    /// No more comes of an upload. Its message, if it is still on its way to the store, is there when
    /// the request `after` is answered.
    pub fn end_upload(&self, session: SessionKey, upload: u32, after: RequestNumber) {
        let waits = after.0 != 0
            && self
                .sessions
                .borrow()
                .get(&session)
                .is_some_and(|inbox| inbox.ledger(|ledger| ledger.is_open(after)));
        if waits {
            let mut ending = self.ending.borrow_mut();
            ending.entry((session, after)).or_default().push(upload);
        } else {
            self.submit_end(session, upload);
        }
    }

    fn submit_end(&self, session: SessionKey, upload: u32) {
        if self.term.borrow().is_some() {
            self.store.submit(vec![Unit {
                ticket: Ticket::default(),
                records: vec![Draft::UploadEnded(name_of(session, upload))],
            }]);
        }
    }

    /// A session is told something: uploads that waited for it are over.
    pub(super) fn end_uploads(&self, session: SessionKey, event: &SessionEvent) {
        if self.ending.borrow().is_empty() {
            return;
        }
        let requests = match event {
            SessionEvent::Committed { requests } => &requests[..],
            SessionEvent::Refused { request, .. } => std::slice::from_ref(request),
            SessionEvent::Attached { .. }
            | SessionEvent::Delivered { .. }
            | SessionEvent::Closing { .. }
            | SessionEvent::NotAttached { .. }
            | SessionEvent::Browsed { .. }
            | SessionEvent::Submitted { .. }
            | SessionEvent::PartsStored { .. }
            | SessionEvent::PartsRead { .. } => &[],
        };
        for request in requests {
            let over = self.ending.borrow_mut().remove(&(session, *request));
            for upload in over.into_iter().flatten() {
                self.submit_end(session, upload);
            }
        }
    }

    /// Parts that were committed, in log order.
    pub(super) fn parts_committed(&self, parts: &[(u64, Lsn)]) {
        for row in parts.chunk_by(|one, next| one.0 == next.0) {
            let Some((session, upload)) = row.first().and_then(|(name, _)| of_name(*name)) else {
                continue;
            };
            let lsns = row.iter().map(|(_, lsn)| *lsn).collect();
            self.tell(session, SessionEvent::PartsStored { upload, lsns });
        }
    }

    /// A session asks for parts of a body; it hears `PartsRead`.
    pub fn read_parts(&self, session: SessionKey, lsns: Vec<Lsn>) {
        self.store.read_parts(session.0, lsns);
    }

    /// The store's answer.
    pub fn parts_read(&self, whose: u32, parts: Vec<Bytes>) {
        self.tell(SessionKey(whose), SessionEvent::PartsRead { parts });
    }
}
