//! What a machine remembers that no decision looks at.

use crate::proto::arbiter::{ArbiterRecord, LockFacts};
use crate::proto::ids::{Epoch, Position, RecordSeq};
use crate::proto::peer::PeerFacts;

use super::handover::Handover;
use super::{ArbiterView, CallPurpose, Claim, Claims, HaMachine, HaState};

/// A number that a machine remembers and that counts up for ever.
#[derive(Debug)]
pub enum Counted<'a> {
    /// An epoch.
    Epoch(&'a mut Epoch),
    /// The inode of a lock file, where a search counts the generations in it.
    LockFile(&'a mut u64),
    /// The number of a record.
    Record(&'a mut RecordSeq),
    /// A place in a log.
    Position(&'a mut Position),
}

impl HaMachine {
    /// Forgets what no decision looks at: counts, words for people, the numbers of calls (a call that
    /// is awaited has number 1 afterwards), and what every way to its next use sets anew. For a search
    /// through the states, which must find two servers the same when they will act the same.
    pub fn forget_history(&mut self) {
        self.claims = Claims::default();
        self.reason = None;
        self.cause = None;
        self.lock_refused = None;
        self.herald.previous = self.shown();
        if let Some(last) = &mut self.herald.said {
            last.previous = last.state;
        }
        self.next_call = 1;
        if let Some((number, _)) = &mut self.call {
            *number = self.next_call;
        }
        let claims = matches!(
            self.state,
            HaState::Waiting(
                Claim::Claiming | Claim::Persisting | Claim::FenceLocking | Claim::Fencing
            )
        );
        if !claims {
            self.claimed_from = None;
        }
        if !matches!(self.state, HaState::Waiting(_)) {
            // Each step is told of the store anew, and only who waits compares places or rests.
            self.own.position = Position::default();
            self.resting = false;
        }
        if self.shown().serves() {
            // Whoever steps down waits for the peer anew.
            self.peer_wait_over = false;
            self.silent = false;
        }
        if !self.seeking {
            // Each attempt at the lock begins anew.
            self.lock_denied = false;
        }
        let epoch = self.record().map(|record| record.epoch);
        for ended in [&mut self.goodbye, &mut self.peer_died] {
            ended.take_if(|(_, of)| epoch.is_some_and(|epoch| epoch > *of));
        }
        if matches!(self.handover, Handover::Given(given) if epoch.is_some_and(|epoch| epoch > given))
        {
            // It yields in the epoch that it gave up, and in no later one.
            self.handover = Handover::None;
        }
        if let Some(lock) = &mut self.lock {
            // It was judged when the lock was obtained.
            lock.record = None;
            lock.lock.last = None;
        }
    }

    /// Shows every number that it remembers. Decisions only compare them and count on by one, so that
    /// a search may count from the lowest that anybody still remembers.
    pub fn visit_counted(&mut self, visit: &mut impl FnMut(Counted<'_>)) {
        visit(Counted::Position(&mut self.own.position));
        let records = [
            &mut self.last_record,
            &mut self.unresolved,
            &mut self.claimed_from,
        ];
        for record in records.into_iter().flatten() {
            record.visit_counted(visit);
        }
        if let ArbiterView::Read { record, lock } = &mut self.arbiter {
            if let Some(record) = record {
                record.visit_counted(visit);
            }
            if let Some(lock) = lock {
                lock.visit_counted(visit);
            }
        }
        if let Some((_, CallPurpose::Set(record) | CallPurpose::Resolve(record))) = &mut self.call {
            record.visit_counted(visit);
        }
        if let Some(held) = &mut self.lock {
            held.lock.visit_counted(visit);
            if let Some(record) = &mut held.record {
                record.visit_counted(visit);
            }
        }
        for (_, position) in &mut self.written {
            visit(Counted::Position(position));
        }
        if let Some(peer) = &mut self.peer {
            peer.facts.visit_counted(visit);
        }
        for (_, epoch) in [&mut self.goodbye, &mut self.peer_died]
            .into_iter()
            .flatten()
        {
            visit(Counted::Epoch(epoch));
        }
        if let Handover::Given(epoch) = &mut self.handover {
            visit(Counted::Epoch(epoch));
        }
        if let Some(epoch) = &mut self.overrule {
            visit(Counted::Epoch(epoch));
        }
        if let Some((_, lock)) = &mut self.peer_lock {
            visit(Counted::LockFile(&mut lock.inode));
        }
        if let Some(said) = &mut self.herald.said {
            visit(Counted::Epoch(&mut said.epoch));
        }
    }
}

impl ArbiterRecord {
    /// As [`HaMachine::visit_counted`].
    pub fn visit_counted(&mut self, visit: &mut impl FnMut(Counted<'_>)) {
        visit(Counted::Record(&mut self.seq));
        visit(Counted::Epoch(&mut self.epoch));
        visit(Counted::Epoch(&mut self.generation));
    }
}

impl LockFacts {
    /// As [`HaMachine::visit_counted`].
    pub fn visit_counted(&mut self, visit: &mut impl FnMut(Counted<'_>)) {
        visit(Counted::LockFile(&mut self.inode));
        if let Some(beat) = &mut self.last {
            visit(Counted::Epoch(&mut beat.epoch));
            visit(Counted::Record(&mut beat.seq));
            for (_, position) in &mut beat.positions {
                visit(Counted::Position(position));
            }
        }
    }
}

impl PeerFacts {
    /// As [`HaMachine::visit_counted`].
    pub fn visit_counted(&mut self, visit: &mut impl FnMut(Counted<'_>)) {
        visit(Counted::Epoch(&mut self.epoch));
        visit(Counted::Record(&mut self.last_record));
        visit(Counted::Position(&mut self.position));
        if let Some(lock) = &mut self.lock {
            visit(Counted::LockFile(&mut lock.inode));
        }
    }
}
