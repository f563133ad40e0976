//! Bodies in parts: which PART records belong to one body, and who still needs them. Changed only as
//! records are applied, like the index that it is a part of.
//!
//! A body is known by the LSN of its first part. It is held by its upload until that has ended, and by
//! every message whose head names it, as long as a destination owes that message: by one that was moved
//! as by the one that it was moved from. While it is held, each of its parts is one pair in the ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::proto::ids::Lsn;
use crate::proto::message::{self, Parts};
use crate::proto::record::{DecodeError, Reader, put_varint};

/// One body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Body {
    parts: Parts,
    /// The upload that may still add to it.
    upload: Option<u64>,
    /// Messages that name it, and how many destinations owe each.
    heads: BTreeMap<Lsn, u64>,
}

impl Body {
    fn is_held(&self) -> bool {
        self.upload.is_some() || !self.heads.is_empty()
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Bodies {
    /// By their first part.
    bodies: BTreeMap<Lsn, Body>,
    /// The body of each row of parts that follow each other in the log, by the first of the row.
    rows: BTreeMap<Lsn, Lsn>,
    /// The body of each message that has one.
    heads: HashMap<Lsn, Lsn>,
    /// The bodies of open uploads that have a part.
    uploads: BTreeMap<u64, Lsn>,
    /// Bodies of which the checkpoint shows something else.
    changed: BTreeSet<Lsn>,
}

impl Bodies {
    /// A part of an upload. False when it is not taken, because the body has too many.
    pub fn add(&mut self, upload: u64, lsn: Lsn, bytes: usize) -> bool {
        let first = *self.uploads.entry(upload).or_insert(lsn);
        let body = self.bodies.entry(first).or_default();
        body.upload = Some(upload);
        self.changed.insert(first);
        let taken = body.parts.push(lsn, bytes);
        if body.parts.rows().next_back() == Some(lsn) {
            self.rows.insert(lsn, first);
        }
        taken
    }

    /// An upload is over; gives the parts that nobody needs any more.
    pub fn end(&mut self, upload: u64) -> Option<Parts> {
        let first = self.uploads.remove(&upload)?;
        self.bodies.get_mut(&first)?.upload = None;
        self.changed.insert(first);
        self.release(first)
    }

    /// Every upload is over.
    pub fn end_all(&mut self) -> Vec<Parts> {
        let open: Vec<u64> = self.uploads.keys().copied().collect();
        open.into_iter()
            .filter_map(|upload| self.end(upload))
            .collect()
    }

    /// The body of a message in parts, if all of it is here.
    #[must_use]
    pub fn find(&self, message: &[u8]) -> Option<Lsn> {
        let parts = message::parts(message)?;
        let first = parts.first();
        let body = self.bodies.get(&first)?;
        (body.parts == parts).then_some(first)
    }

    /// A message with this body is owed by so many destinations.
    pub fn owe(&mut self, first: Lsn, head: Lsn, pairs: u64) {
        if pairs > 0
            && let Some(body) = self.bodies.get_mut(&first)
        {
            body.heads.insert(head, pairs);
            self.heads.insert(head, first);
            self.changed.insert(first);
        }
    }

    /// A destination is done with a message; gives the parts that nobody needs any more.
    pub fn settle(&mut self, head: Lsn) -> Option<Parts> {
        if self.heads.is_empty() {
            return None;
        }
        let first = *self.heads.get(&head)?;
        self.changed.insert(first);
        let body = self.bodies.get_mut(&first)?;
        let pairs = body.heads.get_mut(&head)?;
        *pairs -= 1;
        if *pairs > 0 {
            return None;
        }
        body.heads.remove(&head);
        self.heads.remove(&head);
        self.release(first)
    }

    fn release(&mut self, first: Lsn) -> Option<Parts> {
        if self.bodies.get(&first)?.is_held() {
            return None;
        }
        let parts = self.bodies.remove(&first)?.parts;
        for row in parts.rows() {
            self.rows.remove(&row);
        }
        Some(parts)
    }

    /// The parts of each body that is held.
    pub fn iter(&self) -> impl Iterator<Item = &Parts> + '_ {
        self.bodies.values().map(|body| &body.parts)
    }

    /// Messages that have a body here, and by how many destinations each is owed.
    pub fn heads(&self) -> impl Iterator<Item = (Lsn, u64)> + '_ {
        let bodies = self.bodies.values();
        bodies.flat_map(|body| body.heads.iter().map(|(head, pairs)| (*head, *pairs)))
    }

    /// Whether this part is held.
    #[must_use]
    pub fn holds(&self, part: Lsn) -> bool {
        let row = self.rows.range(..=part).next_back();
        let body = row.and_then(|(_, first)| self.bodies.get(first));
        body.is_some_and(|body| body.parts.contains(part))
    }

    /// Bodies of which something changed since this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<Lsn> {
        std::mem::take(&mut self.changed)
    }

    /// The page of a body in the checkpoint; empty when it is gone.
    #[must_use]
    pub fn page(&self, first: Lsn) -> Vec<u8> {
        let mut page = Vec::new();
        let Some(body) = self.bodies.get(&first) else {
            return page;
        };
        page.push(u8::from(body.upload.is_some()));
        put_varint(&mut page, body.upload.unwrap_or_default());
        put_varint(&mut page, body.heads.len() as u64);
        let mut last = Lsn::ZERO;
        for (head, pairs) in &body.heads {
            put_varint(&mut page, head.0 - last.0);
            put_varint(&mut page, *pairs);
            last = *head;
        }
        body.parts.encode(&mut page);
        page
    }

    /// A body as it was at a checkpoint: its parts, which are owed from now on.
    ///
    /// # Errors
    /// When the page is not what was written.
    pub fn restore(&mut self, first: Lsn, page: &[u8], upto: Lsn) -> Result<Parts, DecodeError> {
        let mut from = Reader { bytes: page, at: 0 };
        let open = from.u8()? != 0;
        let upload = from.varint()?;
        let mut body = Body {
            upload: open.then_some(upload),
            ..Body::default()
        };
        let mut head = Lsn::ZERO;
        for _ in 0..from.length()? {
            head = from.lsn_after(head)?;
            body.heads.insert(head, from.varint()?);
        }
        body.parts = Parts::decode(&mut from)?;
        if from.at < page.len() {
            return Err(DecodeError::Trailing);
        }
        let last = body.parts.lsns().last().unwrap_or_default();
        let sound = body.parts.first() == first
            && first > Lsn::ZERO
            && last.max(head) <= upto
            && body.is_held()
            && body.heads.values().all(|pairs| *pairs > 0);
        if !sound {
            return Err(DecodeError::Number);
        }
        if open {
            self.uploads.insert(upload, first);
        }
        self.heads
            .extend(body.heads.keys().map(|head| (*head, first)));
        let parts = body.parts.clone();
        self.rows.extend(parts.rows().map(|row| (row, first)));
        self.bodies.insert(first, body);
        Ok(parts)
    }

    /// The same bodies, held by the same.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.bodies == other.bodies && self.uploads == other.uploads && self.heads == other.heads
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        let parts = self.iter().map(|parts| parts.memory() + 160);
        parts.sum::<usize>() + self.heads.len() * 64 + self.rows.len() * 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::{Envelope, MessageWriter, Properties};

    fn head(parts: &[(u64, usize)]) -> bytes::Bytes {
        let mut list = Parts::default();
        for (lsn, bytes) in parts {
            assert!(list.push(Lsn(*lsn), *bytes));
        }
        let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
        writer.finish_in_parts(&list).unwrap()
    }

    const NONE: [u64; 0] = [];

    fn lsns(released: Option<Parts>) -> Vec<u64> {
        let parts = released.iter().flat_map(Parts::lsns);
        parts.map(|lsn| lsn.0).collect()
    }

    #[test]
    fn a_body_stays_until_its_upload_and_every_message_of_it_are_over() {
        let mut bodies = Bodies::default();
        assert!(bodies.add(7, Lsn(3), 10) && bodies.add(8, Lsn(4), 10) && bodies.add(7, Lsn(5), 2));
        let message = head(&[(3, 10), (5, 2)]);
        let body = bodies.find(&message).unwrap();
        bodies.owe(body, Lsn(6), 2);
        assert_eq!(lsns(bodies.end(7)), NONE);
        // Moved: a second message with the same body.
        bodies.owe(bodies.find(&message).unwrap(), Lsn(9), 1);
        assert_eq!(lsns(bodies.settle(Lsn(6))), NONE);
        assert_eq!(lsns(bodies.settle(Lsn(6))), NONE);
        assert_eq!(lsns(bodies.settle(Lsn(6))), NONE, "settled twice");
        assert!(bodies.holds(Lsn(5)) && bodies.holds(Lsn(4)) && !bodies.holds(Lsn(6)));
        assert_eq!(lsns(bodies.settle(Lsn(9))), [3, 5]);
        assert!(!bodies.holds(Lsn(5)) && bodies.holds(Lsn(4)));
        assert_eq!(bodies.find(&message), None);
        assert_eq!(lsns(bodies.end(8)), [4]);
        assert_eq!(lsns(bodies.end(8)), NONE);
    }

    #[test]
    fn a_message_that_names_other_parts_than_there_are_has_no_body() {
        let mut bodies = Bodies::default();
        assert!(bodies.add(1, Lsn(3), 10) && bodies.add(1, Lsn(4), 10));
        assert_eq!(bodies.find(&head(&[(3, 10)])), None);
        assert_eq!(bodies.find(&head(&[(4, 10)])), None);
        assert_eq!(bodies.find(b"small"), None);
        assert!(bodies.find(&head(&[(3, 10), (4, 10)])).is_some());
    }

    #[test]
    fn an_epoch_ends_all_uploads_and_pages_show_what_is_left() {
        let mut bodies = Bodies::default();
        for (upload, lsn) in [(1, 2), (2, 3), (1, 4), (3, 5)] {
            assert!(bodies.add(upload, Lsn(lsn), 1));
        }
        let body = bodies.find(&head(&[(2, 1), (4, 1)])).unwrap();
        bodies.owe(body, Lsn(8), 3);
        let mut copy = Bodies::default();
        for first in bodies.take_changed() {
            copy.restore(first, &bodies.page(first), Lsn(8)).unwrap();
            assert!(
                copy.clone()
                    .restore(first, &bodies.page(first), Lsn(1))
                    .is_err()
            );
        }
        assert!(copy.same_as(&bodies));
        assert!((2..6).all(|part| copy.holds(Lsn(part))));
        let gone: Vec<_> = copy
            .end_all()
            .iter()
            .flat_map(|all| all.lsns().collect::<Vec<_>>())
            .collect();
        assert_eq!(gone, [Lsn(3), Lsn(5)]);
        assert_eq!(copy.take_changed().len(), 3);
        assert!(copy.page(Lsn(3)).is_empty() && !copy.page(Lsn(2)).is_empty());
        assert!(!copy.same_as(&bodies));
    }
}
