//! How many faults may come in a search, and which searches there are.

use super::rules::Words;

/// How many faults and writes may still come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    /// `kill -9`, with or without the last write that nobody was promised.
    pub(crate) crashes: u8,
    /// A crash that the process's parent has seen and tells the other of (A8).
    pub(crate) watched: u8,
    /// Orderly stops.
    pub(crate) stops: u8,
    /// Both sides hear nothing more, and what was under way is lost.
    pub(crate) cuts: u8,
    /// The arbiter forgets who holds the lock.
    pub(crate) lost_locks: u8,
    /// SIGSTOP, until SIGCONT at any time later.
    pub(crate) pauses: u8,
    /// A server's calls on the arbiter fail, with or without effect, until it is healed.
    pub(crate) arbiter_cuts: u8,
    /// Disks replaced while the server is down.
    pub(crate) wipes: u8,
    /// Disks set back to an older image while the server is down.
    pub(crate) reverts: u8,
    /// Times that the log which the other lacks is no longer kept.
    pub(crate) collections: u8,
    /// A timer that fires too early, an answer or a report that comes too late, a transition that
    /// takes too long, a passive that acknowledges too late.
    pub(crate) delays: u8,
    /// An operator's override, asked of a server that would carry it out.
    pub(crate) overrides: u8,
    /// The record and the lock file are deleted.
    pub(crate) lost_records: u8,
    /// Planned switchovers, asked of an active that would carry one out.
    pub(crate) switchovers: u8,
}

impl Budget {
    /// Nothing may happen.
    pub(crate) const NONE: Self = Self {
        writes: 0,
        crashes: 0,
        watched: 0,
        stops: 0,
        cuts: 0,
        lost_locks: 0,
        pauses: 0,
        arbiter_cuts: 0,
        wipes: 0,
        reverts: 0,
        collections: 0,
        delays: 0,
        overrides: 0,
        lost_records: 0,
        switchovers: 0,
    };

    fn entry(&mut self, name: &str) -> &mut u8 {
        match name {
            "writes" => &mut self.writes,
            "crashes" => &mut self.crashes,
            "watched" => &mut self.watched,
            "stops" => &mut self.stops,
            "cuts" => &mut self.cuts,
            "lost_locks" => &mut self.lost_locks,
            "pauses" => &mut self.pauses,
            "arbiter_cuts" => &mut self.arbiter_cuts,
            "wipes" => &mut self.wipes,
            "reverts" => &mut self.reverts,
            "collections" => &mut self.collections,
            "delays" => &mut self.delays,
            "overrides" => &mut self.overrides,
            "lost_records" => &mut self.lost_records,
            "switchovers" => &mut self.switchovers,
            other => panic!("there is no fault {other}"),
        }
    }
}

/// Where a search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Two new stores and an empty share.
    New,
    /// ACTIVE and PASSIVE.
    Formed,
}

/// One search of the shipped machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) begin: Begin,
    pub(crate) budget: Budget,
    pub(crate) words: Words,
    /// Small enough for `cargo test`.
    pub(crate) quick: bool,
}

impl Named {
    /// A search of a formed pair with a budget such as `crashes=1,writes=2`.
    pub(crate) fn of(text: &str) -> Self {
        let mut budget = Budget::NONE;
        for part in text.split(',') {
            let (name, count) = part.split_once('=').expect("a fault, =, a count");
            let count = count.parse().expect("a small number");
            *budget.entry(name) = count;
        }
        let words = match (budget.wipes, budget.reverts) {
            (_, 1..) => Words::AtOnce,
            (1.., 0) => Words::Late,
            (0, 0) => Words::None,
        };
        Self {
            words,
            ..formed("own", false, budget)
        }
    }
}

const fn formed(name: &'static str, quick: bool, budget: Budget) -> Named {
    Named {
        name,
        begin: Begin::Formed,
        budget,
        words: Words::None,
        quick,
    }
}

/// All searches, the protocol's five budgets first.
pub(crate) const SEARCHES: &[Named] = &[
    formed(
        "crashes",
        false,
        Budget {
            crashes: 3,
            writes: 3,
            ..Budget::NONE
        },
    ),
    formed(
        "cut",
        false,
        Budget {
            crashes: 2,
            cuts: 1,
            writes: 3,
            ..Budget::NONE
        },
    ),
    formed(
        "pause",
        false,
        Budget {
            crashes: 1,
            cuts: 1,
            lost_locks: 1,
            pauses: 1,
            writes: 2,
            ..Budget::NONE
        },
    ),
    formed(
        "lock",
        false,
        Budget {
            crashes: 2,
            cuts: 1,
            lost_locks: 1,
            writes: 2,
            ..Budget::NONE
        },
    ),
    formed(
        "arbiter",
        false,
        Budget {
            crashes: 1,
            cuts: 1,
            arbiter_cuts: 1,
            pauses: 1,
            writes: 2,
            ..Budget::NONE
        },
    ),
    // Where a disk is replaced, or goes back.
    Named {
        words: Words::Late,
        ..formed(
            "wipe",
            false,
            Budget {
                crashes: 2,
                wipes: 1,
                writes: 2,
                ..Budget::NONE
            },
        )
    },
    Named {
        words: Words::AtOnce,
        ..formed(
            "revert",
            false,
            Budget {
                crashes: 2,
                reverts: 1,
                writes: 2,
                ..Budget::NONE
            },
        )
    },
    // Resync by a whole copy.
    formed(
        "collect",
        false,
        Budget {
            crashes: 2,
            collections: 1,
            writes: 2,
            ..Budget::NONE
        },
    ),
    // Timers that fire too early, answers and reports that come too late or in another order.
    formed(
        "delay",
        false,
        Budget {
            crashes: 1,
            cuts: 1,
            delays: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    formed(
        "stop",
        false,
        Budget {
            stops: 2,
            crashes: 1,
            cuts: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    Named {
        begin: Begin::New,
        ..formed(
            "new",
            false,
            Budget {
                crashes: 2,
                cuts: 1,
                writes: 1,
                ..Budget::NONE
            },
        )
    },
    // A parent process that tells of its child's end (A8).
    formed(
        "watched",
        false,
        Budget {
            watched: 1,
            pauses: 1,
            cuts: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    // An operator's commands, and what comes between.
    formed(
        "switchover",
        false,
        Budget {
            switchovers: 2,
            crashes: 1,
            cuts: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    formed(
        "override",
        false,
        Budget {
            overrides: 1,
            crashes: 2,
            cuts: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    // The same, small enough for every test.
    formed(
        "quick-crashes",
        true,
        Budget {
            crashes: 2,
            writes: 2,
            ..Budget::NONE
        },
    ),
    formed(
        "quick-cut",
        true,
        Budget {
            crashes: 2,
            cuts: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    formed(
        "quick-lock",
        true,
        Budget {
            crashes: 1,
            cuts: 1,
            lost_locks: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    formed(
        "quick-pause",
        true,
        Budget {
            cuts: 1,
            pauses: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
    formed(
        "quick-switchover",
        true,
        Budget {
            switchovers: 1,
            crashes: 1,
            writes: 1,
            ..Budget::NONE
        },
    ),
];
