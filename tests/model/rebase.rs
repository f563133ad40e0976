//! Numbers that only ever grow are counted from the lowest that anybody still remembers, and what both
//! logs and the clients have in common is cut off at its last epoch: a pair that has come through a
//! fault is then the pair that it was before. Decisions only compare these numbers and count on by one.

use twinmq::machines::ha::Counted;
use twinmq::proto::arbiter::ArbiterCall;
use twinmq::proto::ids::{Epoch, Position};

use super::world::{Entry, FromLink, Job, Server, World};

/// By how much each kind of number is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shift {
    epochs: u64,
    records: u64,
    lsns: u64,
}

/// The lowest numbers that somebody remembers. Zero means "none", and is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lowest {
    epoch: u64,
    record: u64,
    lsn: u64,
}

impl Lowest {
    pub(crate) const NONE: Self = Self {
        epoch: u64::MAX,
        record: u64::MAX,
        lsn: u64::MAX,
    };

    pub(crate) fn of(server: &mut Server) -> Self {
        let mut lowest = Self::NONE;
        server.visit(&mut |number| lowest.see(&number));
        lowest
    }

    fn see(&mut self, number: &Counted<'_>) {
        let lower = |lowest: &mut u64, number: u64| {
            if number > 0 {
                *lowest = number.min(*lowest);
            }
        };
        match number {
            Counted::Epoch(epoch) => lower(&mut self.epoch, epoch.0),
            Counted::LockFile(inode) => lower(&mut self.epoch, **inode),
            Counted::Record(seq) => lower(&mut self.record, seq.0),
            Counted::Position(position) => {
                lower(&mut self.epoch, position.epoch.0);
                lower(&mut self.lsn, position.lsn.0);
            }
        }
    }

    fn min(self, other: Self) -> Self {
        Self {
            epoch: self.epoch.min(other.epoch),
            record: self.record.min(other.record),
            lsn: self.lsn.min(other.lsn),
        }
    }
}

impl Shift {
    fn lower(self, number: Counted<'_>) {
        match number {
            Counted::Epoch(epoch) => epoch.0 = down(epoch.0, self.epochs),
            Counted::LockFile(inode) => *inode = down(*inode, self.epochs),
            Counted::Record(seq) => seq.0 = down(seq.0, self.records),
            Counted::Position(position) => self.place(position),
        }
    }

    fn place(self, position: &mut Position) {
        position.epoch.0 = down(position.epoch.0, self.epochs);
        position.lsn.0 = down(position.lsn.0, self.lsns);
    }
}

fn down(number: u64, by: u64) -> u64 {
    number.saturating_sub(by)
}

impl World {
    /// Whether anything was counted anew. What waits in an inbox is not looked at: then nothing is.
    pub(crate) fn rebase(&mut self) -> bool {
        let waits = |at: usize| !self.server(at).inbox.is_empty() || self.server(at).held.is_some();
        if waits(0) || waits(1) {
            return false;
        }
        let mut lowest = self.lowest(0).min(self.lowest(1));
        if let Some(mut record) = self.arbiter.record.clone() {
            record.visit_counted(&mut |number| lowest.see(&number));
        }
        if let Some(mut lock) = self.arbiter.lock_file.clone() {
            lock.visit_counted(&mut |number| lowest.see(&number));
        }
        let cut = self.common(lowest.lsn);
        // The epochs of what is cut off are forgotten, but for the last.
        for log in [
            &self.server(0).disk.log,
            &self.server(1).disk.log,
            &self.confirmed,
        ] {
            let kept = log
                .iter()
                .enumerate()
                .filter(|(at, _)| cut.is_none_or(|(from, _)| *at >= from));
            let epochs = kept
                .filter_map(|(_, entry)| entry.epoch())
                .chain(cut.map(|(_, epoch)| epoch));
            for epoch in epochs {
                lowest.epoch = lowest.epoch.min(epoch.0);
            }
        }
        let shift = Shift {
            epochs: lowest.epoch.saturating_sub(1),
            records: lowest.record.saturating_sub(1),
            lsns: cut.map_or(0, |(from, _)| from as u64 - 1),
        };
        let none = Shift {
            epochs: 0,
            records: 0,
            lsns: 0,
        };
        if lowest.epoch == u64::MAX || lowest.record == u64::MAX || shift == none {
            return false;
        }
        self.shift(shift, cut.map(|(from, epoch)| (from - 1, epoch)));
        true
    }

    /// How much of both logs is common, confirmed, and behind every place that somebody remembers; and
    /// its last epoch.
    fn common(&self, lowest_lsn: u64) -> Option<(usize, Epoch)> {
        let logs = [&self.server(0).disk.log, &self.server(1).disk.log];
        let same = |at: &usize| {
            let entry = self.confirmed[*at];
            logs.iter().all(|log| log.get(*at) == Some(&entry))
        };
        let most = usize::try_from(lowest_lsn).unwrap_or(usize::MAX);
        let common = (0..self.confirmed.len()).take_while(same).count().min(most);
        let epoch = self.confirmed[..common]
            .iter()
            .rev()
            .find_map(|entry| entry.epoch())?;
        Some((common, epoch))
    }

    fn shift(&mut self, shift: Shift, cut: Option<(usize, Epoch)>) {
        let mut lower = |number: Counted<'_>| shift.lower(number);
        for at in [0, 1] {
            let server = self.server_mut(at);
            server.visit(&mut lower);
            server.acked = server.acked.saturating_sub(cut.map_or(0, |(by, _)| by));
            if let (Some(must), Some((by, _))) = (&mut server.must_hold, cut) {
                *must = must.saturating_sub(by);
            }
            for message in &mut server.from_link {
                if let FromLink::Durable(_, upto) | FromLink::SyncDone(_, _, upto) = message {
                    *upto = upto.saturating_sub(cut.map_or(0, |(by, _)| by));
                }
            }
            lower_log(&mut server.disk.log, shift, cut);
            server.disk.place();
        }
        lower_log(&mut self.confirmed, shift, cut);
        let arbiter = self.arbiter_mut();
        if let Some(record) = &mut arbiter.record {
            record.visit_counted(&mut lower);
        }
        if let Some(lock) = &mut arbiter.lock_file {
            lock.visit_counted(&mut lower);
        }
    }
}

fn lower_log(log: &mut Vec<Entry>, shift: Shift, cut: Option<(usize, Epoch)>) {
    if let Some((by, epoch)) = cut {
        log.drain(..by);
        log[0] = Entry::Epoch(epoch);
    }
    for entry in log {
        entry.lower(shift);
    }
}

impl Entry {
    fn lower(&mut self, shift: Shift) {
        if let Self::Epoch(epoch) = self {
            epoch.0 = down(epoch.0, shift.epochs);
        }
    }
}

impl Server {
    fn visit(&mut self, visit: &mut impl FnMut(Counted<'_>)) {
        if let Some(epoch) = &mut self.death {
            visit(Counted::Epoch(epoch));
        }
        if let Some(machine) = &mut self.machine {
            machine.visit_counted(visit);
        }
        if let Some(record) = &mut self.disk.last_record {
            record.visit_counted(visit);
        }
        for call in &mut self.calls {
            if let ArbiterCall::CompareAndSet(record) | ArbiterCall::Create(record) = &mut call.call
            {
                record.visit_counted(visit);
            }
        }
        for job in &mut self.jobs {
            if let Job::Persist(record) = job {
                record.visit_counted(visit);
            }
        }
        for message in &mut self.from_link {
            match message {
                FromLink::Up(_, facts) | FromLink::Facts(_, facts) => facts.visit_counted(visit),
                FromLink::Goodbye(_, epoch)
                | FromLink::InSync(_, epoch)
                | FromLink::Batch(_, Entry::Epoch(epoch)) => visit(Counted::Epoch(epoch)),
                FromLink::Down(..)
                | FromLink::Batch(_, Entry::Write(_))
                | FromLink::Durable(..)
                | FromLink::SyncDone(..) => {}
            }
        }
    }
}
