//! Plays a course: faults for thirty virtual seconds, then everything is healed, and the pair must
//! find together and owe nothing that it should not.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use twinmq::proto::ids::{Lsn, NodeId};
use twinmq::storage::memory::MemoryDisk;
use twinmq::time::Clock;

use crate::arbiter::Way;
use crate::clock::Chance;
use crate::course::{Course, FAULTS_MS, Fault};
use crate::operator::Misfortunes;
use crate::pair::Pair;

/// A process that has ended is started again after this, and up to so much more, in milliseconds.
const SUPERVISOR_MS: (u64, u64) = (300, 1500);
/// After the healing the pair is whole within this: twice the longest timer (`MaxWaitTimeout`), and a
/// resync.
const WHOLE_MS: u64 = 65_000;

/// What came of a course.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Lines of the trace and a hash of them.
    pub(crate) trace: (u64, u64),
    /// Confirms that clients heard.
    pub(crate) confirms: u64,
    /// Milliseconds from the healing to `ACTIVE` and `PASSIVE`; none where it took an operator.
    pub(crate) whole_after_ms: Option<u64>,
    /// How often things happened that a simulation is for.
    pub(crate) marks: BTreeMap<&'static str, u64>,
}

/// Plays a course to its end.
///
/// # Errors
/// In words, with the faults and the last events, what went wrong.
pub(crate) fn play(course: &Course) -> Result<Outcome, String> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        in_virtual_time(async || {
            let player = Player {
                pair: Pair::new(course),
                chance: Chance::new(course.seed ^ 0xface),
                course: *course,
                saved: [None, None],
                suffered: Misfortunes::default(),
                evidence: false,
            };
            player.run().await
        })
    }));
    played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let faults = course.faults();
        let faults: Vec<String> = faults
            .iter()
            .map(|(ms, fault)| format!("{ms:>7} {fault:?}"))
            .collect();
        format!(
            "seed {} fails: {}\nfaults:\n{}",
            course.seed,
            text.unwrap_or_default(),
            faults.join("\n")
        )
    })
}

/// Runs on a paused clock of its own.
pub(crate) fn in_virtual_time<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(work())
}

struct Player {
    pair: Pair,
    chance: Chance,
    course: Course,
    /// Snapshots of disks, and where their logs ended.
    saved: [Option<(MemoryDisk, Lsn)>; 2],
    /// What has happened that may need an operator.
    suffered: Misfortunes,
    /// Only the lock file and the record tell that a store is an old one: nobody touches them then.
    /// Whoever loses both, the newest copy and what is known of it, is not told.
    evidence: bool,
}

impl Player {
    async fn run(mut self) -> Outcome {
        let start = self.now_ms();
        for (ms, fault) in self.course.faults() {
            if ms >= FAULTS_MS {
                break;
            }
            self.go_on_until(start + ms).await;
            self.apply(fault).await;
        }
        self.go_on_until(start + FAULTS_MS).await;
        self.heal().await;
        let whole_after_ms = self.prove().await;
        let world = &self.pair.world;
        Outcome {
            trace: world.trace.sum(),
            confirms: world.ledger.confirmed(),
            whole_after_ms,
            marks: world.trace.marks(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.pair.world.clock.now().0 / 1_000_000
    }

    fn tell(&self, what: &str) {
        self.pair.world.trace.tell(what);
    }

    /// Lets time pass; processes that have ended are started again.
    async fn go_on_until(&mut self, ms: u64) {
        loop {
            let left = ms.saturating_sub(self.now_ms());
            if left == 0 {
                return;
            }
            self.pair.run_for(Duration::from_millis(left.min(50))).await;
            for at in 0..2 {
                if let Some(gone) = self.pair.gone[at] {
                    let gone_ms = gone.0 / 1_000_000;
                    let (least, more) = SUPERVISOR_MS;
                    if self.now_ms() > gone_ms + least && self.chance.below(more) < 50 {
                        self.pair.start(at).await;
                    }
                }
            }
        }
    }

    async fn apply(&mut self, fault: Fault) {
        self.tell(&format!("-- {fault:?}"));
        self.pair.world.trace.mark("faults and their ends");
        let pair = &mut self.pair;
        match fault {
            Fault::Start(at) => {
                if !pair.runs(at) {
                    pair.start(at).await;
                }
            }
            Fault::Kill(at) => {
                if pair.runs(at) {
                    pair.kill(at);
                }
            }
            Fault::LosePower(at) => {
                // Two servers on one kernel have one host.
                if pair.runs(at) && pair.world.share.is_local() {
                    pair.kill(at);
                } else if pair.runs(at) {
                    pair.lose_power(at);
                }
            }
            Fault::Stop(at) => {
                if pair.runs(at) {
                    pair.ask_to_stop(at);
                }
            }
            Fault::Switchover => pair.ask_to_hand_over(),
            Fault::Lie(at) => pair.lie(at),
            Fault::Pause(at) => pair.pause(at, pair.runs(at)),
            Fault::Resume(at) => pair.pause(at, false),
            Fault::CutFrom(at) => pair.world.net.cut_from(at),
            Fault::HealFrom(at) => pair.world.net.heal_from(at),
            Fault::Reset => pair.world.net.reset(),
            Fault::Delay(at, least, more) => pair.world.net.set_delay(at, least, more),
            Fault::Share(at, way) => pair.world.share.set_way(at, way),
            Fault::DropLock => {
                if !pair.world.share.is_local() {
                    pair.world.share.drop_lock();
                }
            }
            Fault::DeleteLockFile
            | Fault::ReplaceLockFile
            | Fault::WipeRecord
            | Fault::RollBackRecord
                if self.evidence => {}
            Fault::DeleteLockFile => pair.world.share.delete_lock_file(),
            Fault::ReplaceLockFile => pair.world.share.replace_lock_file(),
            Fault::SlowDisk(at, ms) => pair.hosts[at].set_disk_ms(ms),
            Fault::FailDisk(at, good) => pair.disk(at).fail_commits_after(good),
            Fault::MendDisk(at) => pair.disk(at).fail_commits_after(u32::MAX),
            Fault::Gateway(at, seen) => pair.hosts[at].see_gateway(seen),
            Fault::WallJump(at, by) => pair.hosts[at].clock.jump(by),
            Fault::Snapshot(at) => self.snapshot(at),
            Fault::Revert(at) => self.revert(at),
            Fault::Wipe(at) => self.wipe(at),
            Fault::WipeRecord => {
                pair.world.share.wipe_record();
                self.suffered.record = true;
            }
            Fault::RollBackRecord => {
                pair.world.share.roll_back_record();
                self.suffered.record = true;
            }
        }
    }

    fn snapshot(&mut self, at: usize) {
        if self.pair.runs(at) {
            let end = self.pair.server(at).store.log_facts().durable.lsn;
            // Shared mode: whoever has the store open knows where it ends.
            if end > Lsn::ZERO || !self.pair.is_shared() {
                self.saved[at] = Some((self.pair.disk(at).copy(), end));
            }
        }
    }

    /// An old disk is put back only where the protocol promises to notice: the record does not name
    /// this store, or the lock file says that it had more.
    fn revert(&mut self, at: usize) {
        let Some((saved, end)) = &self.saved[at] else {
            return;
        };
        let in_use = self.pair.is_shared() && !self.pair.world.share.mount.is_free();
        if self.pair.runs(at) || in_use {
            return;
        }
        let (record, lock) = self.pair.world.share.look();
        let own = self.pair.store_of(at);
        let named = record.is_none_or(|record| record.isr.contains(&own));
        let beats = lock.and_then(|lock| lock.last);
        let beats = beats.iter().flat_map(|beat| &beat.positions);
        let known = beats
            .filter(|(store, _)| *store == own)
            .map(|(_, position)| position.lsn)
            .max();
        let noticed = !named || known > Some(*end);
        if noticed {
            self.tell("the old disk is put back");
            self.pair.world.trace.mark("disks put back or empty");
            if self.pair.is_shared() {
                // The first one that was replaced is the newest.
                let newest = &mut self.suffered.newest;
                newest.get_or_insert_with(|| self.pair.disk(at).copy());
            }
            self.pair.disk(at).revert_to(saved);
            self.evidence |= named;
            self.lost_a_copy(at);
        }
    }

    fn wipe(&mut self, at: usize) {
        if self.pair.runs(at) {
            return;
        }
        self.tell("the disk is a new one");
        self.pair.world.trace.mark("disks put back or empty");
        if !self.pair.is_shared() {
            self.saved[at] = None;
        }
        if self.chance.once_in(2) {
            let node = NodeId(self.chance.bytes());
            self.pair.hosts[at].disk = MemoryDisk::new(node);
        } else {
            self.pair.hosts[at].disk.wipe();
        }
        self.lost_a_copy(at);
    }

    /// A copy is gone: if the record names no other, nobody can serve.
    fn lost_a_copy(&mut self, at: usize) {
        if self.pair.is_shared() {
            return;
        }
        let (record, _) = self.pair.world.share.look();
        let other = self.pair.store_of(1 - at);
        if !record.is_some_and(|record| record.isr.contains(&other)) {
            self.suffered.copy = true;
        }
    }

    /// Everything is well from now on.
    async fn heal(&mut self) {
        self.tell("-- everything is healed");
        for at in 0..2 {
            self.pair.pause(at, false);
            self.pair.world.net.heal_from(at);
            self.pair.world.net.set_delay(at, 0, 1);
            self.pair.world.share.set_way(at, Way::Good);
            self.pair.hosts[at].heal();
            self.pair.disk(at).fail_commits_after(u32::MAX);
            if !self.pair.runs(at) && self.pair.gone[at].is_none() {
                self.pair.start(at).await;
            }
        }
    }

    async fn prove(&mut self) -> Option<u64> {
        let whole = self.becomes_whole().await;
        let mut restores = self.chance.once_in(2);
        let mut again = whole;
        while again.is_none() {
            // A record that is put back may name a copy alone that is gone: the next call is about that.
            self.pair.call_operator(&self.suffered, restores).await;
            again = self.becomes_whole().await;
            if again.is_none() && !restores {
                self.pair
                    .fail("the pair does not become whole after the operator's work");
            }
            restores = false;
        }
        self.tell("-- whole");
        let pair = &mut self.pair;
        pair.check(pair.active()).await;
        pair.until_confirmed(20).await;
        pair.flow(false);
        pair.until("all is confirmed", |pair| pair.world.ledger.settled())
            .await;
        pair.until("nothing is owed", |pair| {
            let depth = |at| pair.server(at).store.facts().messages;
            pair.in_sync() && depth(0) == 0 && depth(1) == 0
        })
        .await;
        pair.run_for(Duration::from_secs(1)).await;
        pair.check_equal().await;
        pair.check(pair.active()).await;
        whole
    }

    /// Milliseconds until the pair is whole; none: it does not come to be.
    async fn becomes_whole(&mut self) -> Option<u64> {
        let since = self.now_ms();
        while !self.pair.in_sync() {
            if self.now_ms() > since + WHOLE_MS {
                return None;
            }
            self.go_on_until(self.now_ms() + 10).await;
        }
        Some(self.now_ms() - since)
    }
}
