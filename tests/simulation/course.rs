//! What a seed stands for: the kind of pair, and which faults happen when.

use std::fmt;

use twinmq::machines::ha::Takeover;

use crate::arbiter::Way;
use crate::clock::Chance;

/// Faults happen for so long, in milliseconds.
pub(crate) const FAULTS_MS: u64 = 30_000;
/// None happens before: the pair has hardly begun.
const QUIET_MS: u64 = 300;

/// One simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) seed: u64,
    /// Something is broken on purpose, so that the checker has something to find.
    pub(crate) broken: Option<Broken>,
    /// Whether somebody plays with the wall clocks.
    pub(crate) wall_jumps: bool,
    /// One store on the share, and no copies.
    pub(crate) shared: bool,
    /// Some messages are left among many that are taken, so that what little is owed of a chunk is
    /// appended again.
    pub(crate) strewn: bool,
}

/// What the protocol cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// They say that they have flushed, shortly before the power of both hosts goes.
    LyingDisks,
    /// Everybody gets the lock, and records are written blindly; the servers part for a while.
    GenerousArbiter,
}

/// What stays as it is for a whole simulation.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The share is a file system of this kernel's own.
    pub(crate) local: bool,
    /// Logs are kept short: full resyncs.
    pub(crate) short_logs: bool,
    /// How a server takes over.
    pub(crate) takeover: Takeover,
    /// What each server's clock gains in a million.
    pub(crate) drift_ppm: [i64; 2],
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(usize),
    /// The host falls silent; what was not flushed may be gone.
    LosePower(usize),
    Start(usize),
    /// An orderly stop.
    Stop(usize),
    Pause(usize),
    Resume(usize),
    /// Nothing that it sends arrives.
    CutFrom(usize),
    HealFrom(usize),
    /// All connections end.
    Reset,
    /// What it sends takes so many milliseconds, and up to so many more.
    Delay(usize, u64, u64),
    Share(usize, Way),
    DropLock,
    DeleteLockFile,
    ReplaceLockFile,
    /// Commits and flushes take up to so many milliseconds.
    SlowDisk(usize, u64),
    /// The commit or flush after so many fails, and all later ones.
    FailDisk(usize, u32),
    MendDisk(usize),
    Gateway(usize, bool),
    /// Somebody sets the wall clock by so many milliseconds.
    WallJump(usize, i64),
    /// A snapshot of the machine's disk is kept.
    Snapshot(usize),
    /// It is put back before the next start.
    Revert(usize),
    /// The disk is a new one at the next start.
    Wipe(usize),
    WipeRecord,
    RollBackRecord,
    /// The operator asks whoever serves to hand over.
    Switchover,
    /// From now on the disk says that it has flushed, and has not.
    Lie(usize),
}

impl Course {
    pub(crate) fn of(seed: u64) -> Self {
        Self {
            seed,
            broken: None,
            wall_jumps: true,
            shared: false,
            strewn: false,
        }
    }

    /// The same faults, suffered by a pair with one store.
    pub(crate) fn shared(seed: u64) -> Self {
        Self {
            shared: true,
            ..Self::of(seed)
        }
    }

    /// The same faults, while messages are left among others.
    pub(crate) fn strewn(seed: u64) -> Self {
        Self {
            strewn: true,
            ..Self::of(seed)
        }
    }

    /// The faults and their milliseconds, in order.
    pub(crate) fn faults(&self) -> Vec<(u64, Fault)> {
        let plan = Plan {
            chance: Chance::new(self.seed ^ 0x5eed),
            faults: Vec::new(),
        };
        let mut faults = plan.made(self.broken);
        if !self.wall_jumps {
            faults.retain(|(_, fault)| !matches!(fault, Fault::WallJump(..)));
        }
        faults
    }
}

impl Kind {
    pub(crate) fn of(chance: &Chance, broken: Option<Broken>) -> Self {
        let drift = || i64::try_from(chance.below(100_001)).expect("small") - 50_000;
        let local = chance.once_in(2);
        Self {
            local: match broken {
                None => local,
                // Two hosts, whose power goes.
                Some(Broken::LyingDisks) => false,
                // A free lock means that its holder is dead.
                Some(Broken::GenerousArbiter) => true,
            },
            short_logs: chance.once_in(2),
            takeover: if chance.once_in(3) {
                Takeover::Lock
            } else {
                Takeover::Fence
            },
            drift_ppm: [drift(), drift()],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Faults in the making.
struct Plan {
    chance: Chance,
    faults: Vec<(u64, Fault)>,
}

impl Plan {
    fn made(mut self, broken: Option<Broken>) -> Vec<(u64, Fault)> {
        // A few subjects each time, so that some of them meet often.
        let subjects: Vec<u64> = (0..1 + self.chance.below(4))
            .map(|_| self.chance.below(15))
            .collect();
        for at in 0..2 {
            let start = self.chance.below(1500);
            self.faults.push((start, Fault::Start(at)));
            if self.chance.once_in(2) {
                let (least, more) = (self.chance.below(20), self.chance.below(20));
                self.faults.push((0, Fault::Delay(at, least, more)));
            }
        }
        for _ in 0..2 + self.chance.below(12) {
            let subject = usize::try_from(self.chance.below(subjects.len() as u64));
            let subject = subjects[subject.expect("an index")];
            self.one(subject);
        }
        if self.chance.once_in(20) {
            let fault = if self.chance.once_in(2) {
                Fault::WipeRecord
            } else {
                Fault::RollBackRecord
            };
            let from = self.from();
            self.faults.push((from, fault));
        }
        // Drawn last, so that a seed's other faults are what they would be without an operator.
        self.operator();
        match broken {
            Some(Broken::LyingDisks) => self.power_goes_after_a_lie(),
            Some(Broken::GenerousArbiter) => self.they_part(),
            None => {}
        }
        self.faults.sort_by_key(|(ms, _)| *ms);
        self.faults
    }

    /// Switchovers and orderly stops, in the middle of whatever else happens.
    fn operator(&mut self) {
        if self.chance.once_in(2) {
            for _ in 0..1 + self.chance.below(3) {
                let from = self.from();
                self.faults.push((from, Fault::Switchover));
            }
        }
        if self.chance.once_in(5) {
            let (at, from, span) = (self.chance.server(), self.from(), self.span());
            self.put(from, Fault::Stop(at), span, Fault::Start(at));
        }
    }

    /// The share hangs meanwhile: else the lock file tells how far both stores were, and an old one
    /// does not serve.
    fn power_goes_after_a_lie(&mut self) {
        let lie = 3500 + self.chance.below(20_000);
        let cut = lie + self.chance.below(2000);
        for at in 0..2 {
            let hangs = Fault::Share(at, Way::Hangs);
            self.put(lie, hangs, cut - lie, Fault::Share(at, Way::Good));
            self.faults.push((lie, Fault::Lie(at)));
            self.put(cut, Fault::LosePower(at), 500, Fault::Start(at));
        }
    }

    /// For longer than PassiveInterval.
    fn they_part(&mut self) {
        let from = 4000 + self.chance.below(15_000);
        for at in 0..2 {
            self.put(from, Fault::CutFrom(at), 6000, Fault::HealFrom(at));
        }
    }

    /// When a fault begins: often just after another one, while the pair is at odds with that.
    fn from(&self) -> u64 {
        if self.chance.once_in(2) && !self.faults.is_empty() {
            let other = self.chance.below(self.faults.len() as u64);
            let (ms, _) = self.faults[usize::try_from(other).expect("an index")];
            let after = [30, 400, 3000][usize::try_from(self.chance.below(3)).expect("an index")];
            return ms + self.chance.below(after);
        }
        QUIET_MS + self.chance.below(FAULTS_MS - QUIET_MS)
    }

    /// How long one lasts: mostly about as long as a timer.
    fn span(&self) -> u64 {
        match self.chance.below(4) {
            0 => self.chance.below(200),
            1 => self.chance.below(1500),
            2 => self.chance.below(4000),
            _ => self.chance.below(12_000),
        }
    }

    fn put(&mut self, from: u64, fault: Fault, span: u64, end: Fault) {
        self.faults.push((from, fault));
        self.faults.push((from + span, end));
    }

    fn one(&mut self, subject: u64) {
        let (at, from, span) = (self.chance.server(), self.from(), self.span());
        match subject {
            0 => self.put(from, Fault::Kill(at), span, Fault::Start(at)),
            1 => self.put(from, Fault::LosePower(at), span, Fault::Start(at)),
            2 => {
                self.put(from, Fault::Kill(at), span, Fault::Start(at));
                let after = self.chance.below(50);
                self.put(
                    from + after,
                    Fault::LosePower(1 - at),
                    self.span(),
                    Fault::Start(1 - at),
                );
            }
            3 => self.put(from, Fault::Stop(at), span, Fault::Start(at)),
            4 => self.put(from, Fault::Pause(at), span, Fault::Resume(at)),
            5 => {
                self.put(from, Fault::CutFrom(at), span, Fault::HealFrom(at));
                self.put(from, Fault::CutFrom(1 - at), span, Fault::HealFrom(1 - at));
            }
            6 => self.put(from, Fault::CutFrom(at), span, Fault::HealFrom(at)),
            7 => self.flap(at, from),
            8 => {
                let way = [
                    Way::Hangs,
                    Way::Fails,
                    Way::Slow(1 + self.span()),
                    Way::Mute,
                ];
                let way = way[usize::try_from(self.chance.below(4)).expect("an index")];
                self.put(
                    from,
                    Fault::Share(at, way),
                    span,
                    Fault::Share(at, Way::Good),
                );
                if self.chance.once_in(2) {
                    self.put(
                        from,
                        Fault::Share(1 - at, way),
                        span,
                        Fault::Share(1 - at, Way::Good),
                    );
                }
            }
            9 => {
                let what = [
                    Fault::DropLock,
                    Fault::DeleteLockFile,
                    Fault::ReplaceLockFile,
                ];
                let what = what[usize::try_from(self.chance.below(3)).expect("an index")];
                self.faults.push((from, what));
            }
            10 => {
                let ms = [20, 300, 3000][usize::try_from(self.chance.below(3)).expect("an index")];
                self.put(from, Fault::SlowDisk(at, ms), span, Fault::SlowDisk(at, 2));
            }
            11 => {
                let good = u32::try_from(self.chance.below(40)).expect("small");
                self.put(from, Fault::FailDisk(at, good), span, Fault::MendDisk(at));
            }
            12 => self.put(
                from,
                Fault::Gateway(at, false),
                span,
                Fault::Gateway(at, true),
            ),
            13 => self.other_disk(at, from, span),
            _ => {
                let by = i64::try_from(self.chance.below(7_200_000)).expect("small") - 3_600_000;
                self.faults.push((from, Fault::WallJump(at, by)));
            }
        }
    }

    /// Cut and healed again and again, or reset.
    fn flap(&mut self, at: usize, from: u64) {
        let mut ms = from;
        for _ in 0..1 + self.chance.below(6) {
            let (cut, whole) = (self.chance.below(800), self.chance.below(800));
            if self.chance.once_in(3) {
                self.faults.push((ms, Fault::Reset));
            } else {
                self.put(ms, Fault::CutFrom(at), cut, Fault::HealFrom(at));
            }
            ms += cut + whole;
        }
    }

    /// It dies and comes back with an empty disk, or with an old one.
    fn other_disk(&mut self, at: usize, from: u64, span: u64) {
        self.put(from, Fault::Kill(at), span, Fault::Start(at));
        if self.chance.once_in(2) {
            self.faults.push((from, Fault::Wipe(at)));
        } else {
            let before = from.saturating_sub(self.span());
            self.faults.push((before, Fault::Snapshot(at)));
            self.faults.push((from, Fault::Revert(at)));
        }
    }
}
