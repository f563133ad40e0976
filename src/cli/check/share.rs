//! Does the lock file's share keep what the pair builds on: one holder, a lock that goes with its
//! process, a loss that is noticed, and `link()` with one winner? Tried with the code that serves,
//! on files of its own beside the lock file; the lock file itself is only looked at.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::report::Report;
use crate::io::arbiter_file::{ArbiterFileConfig, FileArbiter, record_folder, spawn_file_arbiter};
use crate::io::file_lock::{folder_of, is_local, try_lock, validate_lock_file};
use crate::io::mounts::{Mount, mount_of};
use crate::proto::arbiter::{Arbiter, ArbiterAnswer, ArbiterCall, ArbiterRecord, LockHeartbeat};
use crate::proto::ids::{ArbiterId, Epoch, NodeId, RecordSeq, StoreId};
use crate::time::{Clock, SystemClock};

/// How long the share may take for one step before the check gives it up.
const STEP: Duration = Duration::from_secs(20);
/// Compare-and-sets that two race for.
const RACES: u64 = 50;

/// A folder of the check's own on the share, gone with this value.
pub(super) struct Scratch {
    pub(super) folder: PathBuf,
    left: bool,
}

impl Scratch {
    /// # Errors
    /// As the system says.
    pub(super) fn beside(lock_file: &Path, name: &str) -> io::Result<Self> {
        let folder = folder_of(lock_file).join(name);
        match fs::create_dir(&folder) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
            _ => Ok(Self {
                folder,
                left: false,
            }),
        }
    }
}

impl Scratch {
    /// Leaves the folder to whoever else is to remove it.
    pub(super) fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if let Err(cause) = fs::remove_dir_all(&self.folder)
            && cause.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(target: "twinmq::check", folder = %self.folder.display(), %cause, "folder not removed");
        }
    }
}

/// Looks at the mount, then tries the share. False: it cannot even be written.
pub(super) fn look(report: &mut Report, lock_file: &Path, demo: bool) -> bool {
    report.topic("lock file");
    if let Err(error) = validate_lock_file(lock_file) {
        report.bad(error.to_string(), "see docs/lock-share.md");
        return false;
    }
    let folder = folder_of(lock_file);
    if !folder.exists() {
        report.note(format!(
            "{}: the folder is not there yet; the first start makes it",
            folder.display()
        ));
        return false;
    }
    match mount_of(lock_file) {
        Ok(Some(mount)) => judge_mount(report, lock_file, &mount, demo),
        Ok(None) => report.note("the kernel lists no mount for the lock file"),
        Err(cause) => report.note(format!(
            "the kernel's list of mounts cannot be read: {cause}"
        )),
    }
    judge_owner(report, lock_file);
    true
}

fn judge_mount(report: &mut Report, lock_file: &Path, mount: &Mount, demo: bool) {
    let shown = format!(
        "{} lies on {} ({} from {})",
        lock_file.display(),
        mount.point.display(),
        mount.kind,
        mount.source
    );
    if !mount.is_network() {
        if demo {
            report.good(format!("{shown}: a pair on one machine"));
        } else {
            report.bad(
                format!("{shown}: a disk of this machine, which the other server does not see"),
                format!(
                    "mount the share of the third machine at {}, in /etc/fstab, and let the unit \
                     say RequiresMountsFor={}: docs/lock-share.md",
                    folder_of(lock_file).display(),
                    folder_of(lock_file).display()
                ),
            );
        }
        return;
    }
    report.good(shown);
    if mount.kind == "nfs"
        && mount
            .option("vers")
            .is_none_or(|version| version.starts_with('3'))
    {
        report.bad(
            "NFS before version 4 has no lease on locks: one of a dead host may be held for ever",
            "mount it with vers=4.1 or higher",
        );
    }
    if mount.is_smb() {
        report.warn(
            "SMB: whether a lost lock is noticed is not known; every take-over rests on the record",
            "use NFSv4 where you can",
        );
    }
    if mount.kind == "fuse" || mount.kind.starts_with("fuse.") {
        report.warn(
            format!("{}: the kernel does not say what is behind it", mount.kind),
            "trust the trials below, run them on both machines at once (--with-peer)",
        );
    }
    if mount.is_nfs() {
        judge_nfs(report, mount);
    }
}

fn judge_nfs(report: &mut Report, mount: &Mount) {
    let seconds = |name| mount.option(name).and_then(|text| text.parse::<u64>().ok());
    let cached = ["acdirmax", "actimeo"].into_iter().find_map(seconds);
    if mount.option("noac").is_none() && cached.is_none_or(|seconds| seconds > 1) {
        report.warn(
            "the mount may show an old listing of the record's folder for up to a minute: a holder \
             that was fenced could go on delivering (never confirming) for so long",
            "mount it with actimeo=0,lookupcache=none, or noac",
        );
    }
    if mount.option("soft").is_some() || mount.option("softerr").is_some() {
        report.good("soft: a share that does not answer gives an error in the end");
    }
}

fn judge_owner(report: &mut Report, lock_file: &Path) {
    let own = nix::unistd::geteuid().as_raw();
    for path in [lock_file.to_owned(), record_folder(lock_file)] {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let mode = metadata.permissions().mode() & 0o777;
        let shown = path.display();
        if metadata.uid() != own && own != 0 {
            report.bad(
                format!(
                    "{shown} belongs to user {}, this is user {own}",
                    metadata.uid()
                ),
                "run both servers as the same user id, or map users on the share (NFS: the same \
                 idmap domain, anonuid)",
            );
        } else if mode & 0o022 != 0 {
            report.warn(
                format!("{shown} has mode {mode:o}: others may write it, and so stop the pair"),
                format!("chmod go-w {shown}"),
            );
        } else {
            report.good(format!("{shown}: user {}, mode {mode:o}", metadata.uid()));
        }
    }
}

/// Tries the share with files of the check's own.
pub(super) fn try_out(report: &mut Report, lock_file: &Path) {
    report.topic("the share, tried out");
    let name = format!(".twinmq-check-{}", std::process::id());
    let scratch = match Scratch::beside(lock_file, &name) {
        Ok(scratch) => scratch,
        Err(cause) => {
            return report.bad(
                format!(
                    "no folder can be made in {}: {cause}",
                    folder_of(lock_file).display()
                ),
                "give this user write permission on it",
            );
        }
    };
    let folder = scratch.folder.clone();
    // In a thread of its own: a share that hangs must not hang the check.
    let (done, outcome) = channel();
    thread::spawn(move || {
        let mut report = Report::default();
        report.topic("tried");
        exclusion(&mut report, &folder);
        release_on_kill(&mut report, &folder);
        races(&mut report, &folder);
        losses(&mut report, &folder);
        if done.send(report).is_err() {
            tracing::debug!(target: "twinmq::check", "the share answered too late");
        }
    });
    match outcome.recv_timeout(STEP.saturating_mul(3)) {
        Ok(tried) => report.append(tried),
        Err(_) => {
            report.bad(
                "the share does not answer",
                "see whether its server is up and reachable: a server of the pair could not serve",
            );
            // Its removal would hang as well.
            scratch.leave();
        }
    }
}

/// A file to lock, made where it is missing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn exclusion(report: &mut Report, folder: &Path) {
    let path = folder.join("exclusion");
    let tried = || -> io::Result<(bool, bool, bool, bool)> {
        let (first, second) = (open(&path)?, open(&path)?);
        let taken = try_lock(&first)?;
        let twice = try_lock(&second)?;
        let local = is_local(&first)?;
        drop(first);
        Ok((taken, twice, try_lock(&second)?, local))
    };
    match tried() {
        Ok((true, false, true, local)) => {
            let release = if local {
                "; a free lock means that its holder's process has ended"
            } else {
                ""
            };
            report.good(format!(
                "a lock has one holder and can be passed on{release}"
            ));
        }
        Ok((false, ..)) => report.bad(
            "a lock on a new file is refused",
            "see whether the share's server runs its lock service; after a reboot it may be in its \
             grace period",
        ),
        Ok((true, true, ..)) => report.bad(
            "two hold the same lock",
            "this file system does not keep locks: use NFSv4",
        ),
        Ok((true, false, false, _)) => report.bad(
            "a lock that was let go is not free",
            "see whether the share's server runs its lock service",
        ),
        Err(cause) => report.bad(
            format!("files cannot be locked: {cause}"),
            "use a file system with byte-range locks (NFSv4)",
        ),
    }
}

/// A child that holds a lock until it is killed.
pub(super) struct Holder {
    child: Child,
}

impl Holder {
    /// # Errors
    /// In words: it could not be started, or could not take the lock.
    pub(super) fn start(path: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|it| it.to_string())?;
        let mut child = Command::new(program)
            .args(["check", "--hold"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|cause| format!("a process that holds a lock cannot be started: {cause}"))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out)
                .read_line(&mut line)
                .map_err(|it| it.to_string())?;
        }
        let holder = Self { child };
        if line.trim() == "held" {
            Ok(holder)
        } else {
            Err("a process of its own did not get the lock".to_owned())
        }
    }

    /// SIGKILL, as a crash.
    pub(super) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        for ended in [self.child.kill(), self.child.wait().map(|_| ())] {
            if let Err(cause) = ended {
                tracing::debug!(target: "twinmq::check", %cause, "holder not ended");
            }
        }
    }
}

/// The child's side: takes the lock, says so, and holds it until its input ends or it is killed.
///
/// # Errors
/// As the system says.
pub(super) fn hold(path: &Path) -> io::Result<bool> {
    let file = open(path)?;
    if !try_lock(&file)? {
        return Ok(false);
    }
    if super::super::print("held").is_err() {
        return Ok(false);
    }
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(true)
}

fn release_on_kill(report: &mut Report, folder: &Path) {
    let path = folder.join("release");
    let tried = || -> Result<Option<Duration>, String> {
        let words = |cause: io::Error| cause.to_string();
        let file = open(&path).map_err(words)?;
        let holder = Holder::start(&path)?;
        if try_lock(&file).map_err(words)? {
            return Err("another process could take a lock that was held".to_owned());
        }
        holder.kill().map_err(words)?;
        await_lock(&file, STEP).map_err(words)
    };
    match tried() {
        Ok(Some(took)) => report.good(format!(
            "a killed process lets its lock go: {} ms",
            took.as_millis()
        )),
        Ok(None) => report.bad(
            format!(
                "the lock of a killed process is still held after {} s",
                STEP.as_secs()
            ),
            "this share keeps locks too long: use NFSv4",
        ),
        Err(why) => report.bad(why, "this file system does not keep locks: use NFSv4"),
    }
}

/// Tries until the lock is obtained. None: not in time.
pub(super) fn await_lock(file: &File, patience: Duration) -> io::Result<Option<Duration>> {
    let clock = SystemClock;
    let began = clock.now();
    loop {
        if try_lock(file)? {
            return Ok(Some(clock.now().since(began)));
        }
        if clock.now().since(began) > patience {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The arbiter that servers use, asked one call at a time.
pub(super) struct Asked {
    arbiter: FileArbiter,
    answers: Receiver<ArbiterAnswer>,
}

impl Asked {
    pub(super) fn on(lock_file: &Path) -> io::Result<Self> {
        let (sender, answers) = channel();
        let config = ArbiterFileConfig {
            lock_file: lock_file.to_owned(),
            secret: None,
            create_parent: false,
        };
        let arbiter = spawn_file_arbiter(
            config,
            Arc::new(move |_, answer| {
                if sender.send(answer).is_err() {
                    tracing::debug!(target: "twinmq::check", "an answer came too late");
                }
            }),
        )?;
        Ok(Self { arbiter, answers })
    }

    pub(super) fn ask(&self, call: ArbiterCall) -> Result<ArbiterAnswer, String> {
        self.arbiter.call(0, call);
        self.answers
            .recv_timeout(STEP)
            .map_err(|_| format!("the share did not answer for {} s", STEP.as_secs()))
    }
}

/// A record of the check's own arbiter.
pub(super) fn record(seq: u64, owner: NodeId) -> ArbiterRecord {
    ArbiterRecord {
        arbiter: ArbiterId([7; 16]),
        cluster: "twinmq-check".to_owned(),
        seq: RecordSeq(seq),
        epoch: Epoch(seq),
        owner,
        isr: vec![StoreId([7; 16])],
        generation: Epoch::ZERO,
    }
}

/// Sets records until `last` is there; gives the numbers that were won.
pub(super) fn race(asked: &Asked, own: NodeId, last: u64) -> Result<Vec<u64>, String> {
    let mut won = Vec::new();
    let mut present = match asked.ask(ArbiterCall::Read)? {
        ArbiterAnswer::Read { record, .. } => record.map_or(0, |it| it.seq.0),
        other => return Err(format!("the record cannot be read: {other:?}")),
    };
    while present < last {
        let next = record(present.saturating_add(1), own);
        match asked.ask(ArbiterCall::CompareAndSet(next))? {
            ArbiterAnswer::Set(set) => {
                won.push(set.seq.0);
                present = set.seq.0;
            }
            ArbiterAnswer::Conflict(Some(there)) => present = there.seq.0,
            other => return Err(format!("the record cannot be changed: {other:?}")),
        }
    }
    Ok(won)
}

fn races(report: &mut Report, folder: &Path) {
    let path = folder.join("race.lck");
    let owner = |number: u8| NodeId([number; 16]);
    let tried = || -> Result<(usize, usize), String> {
        let asked = Asked::on(&path).map_err(|it| it.to_string())?;
        match asked.ask(ArbiterCall::Create(record(1, owner(0))))? {
            ArbiterAnswer::Created(_) => {}
            other => return Err(format!("no record can be made: {other:?}")),
        }
        let start = Arc::new(Barrier::new(2));
        let racers: Vec<_> = [1, 2]
            .map(|number| {
                let (start, path) = (Arc::clone(&start), path.clone());
                thread::spawn(move || {
                    let asked = Asked::on(&path).map_err(|it| it.to_string())?;
                    start.wait();
                    race(&asked, owner(number), RACES)
                })
            })
            .into();
        let mut won = Vec::new();
        for racer in racers {
            won.push(
                racer
                    .join()
                    .map_err(|_| "a racing thread died".to_owned())??,
            );
        }
        judge_race(&won[0], &won[1])?;
        Ok((won[0].len(), won[1].len()))
    };
    match tried() {
        Ok((one, other)) => report.good(format!(
            "the record has one winner per change: {} races, {one} to {other}",
            RACES.saturating_sub(1)
        )),
        Err(why) => report.bad(
            why,
            "link() does not exclude on this file system: use NFSv4 or a local one",
        ),
    }
}

/// No number may have been won by both. One may be without a winner: whoever finds a higher record
/// when it looks again counts its own as lost.
pub(super) fn judge_race(one: &[u64], other: &[u64]) -> Result<(), String> {
    match one.iter().find(|number| other.contains(number)) {
        Some(twice) => Err(format!("two changes both became record {twice}")),
        None => Ok(()),
    }
}

/// Each kind of damage to a held lock file must be noticed by the next check of its holder.
fn losses(report: &mut Report, folder: &Path) {
    type Damage = fn(&Path) -> io::Result<()>;
    let damages: [(&str, Damage); 3] = [
        ("deleted", |path| fs::remove_file(path)),
        ("truncated", |path| {
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(path)
                .map(|_| ())
        }),
        ("replaced", |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy)?;
            // Another life of the file: the first bytes after the header differ.
            let mut bytes = fs::read(&copy)?;
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            fs::write(&copy, bytes)?;
            fs::rename(&copy, path)
        }),
    ];
    let mut noticed = Vec::new();
    for (index, (name, damage)) in damages.into_iter().enumerate() {
        let path = folder.join(format!("loss{index}.lck"));
        match lose(&path, damage) {
            Ok(()) => noticed.push(name),
            Err(why) => report.bad(
                format!("a lock file that was {name} while it was held: {why}"),
                "the share shows old contents: mount it with actimeo=0,lookupcache=none",
            ),
        }
    }
    if !noticed.is_empty() {
        report.good(format!(
            "a holder notices when its lock file is {}",
            noticed.join(", ")
        ));
    }
}

fn lose(path: &Path, damage: impl Fn(&Path) -> io::Result<()>) -> Result<(), String> {
    let asked = Asked::on(path).map_err(|it| it.to_string())?;
    asked.ask(ArbiterCall::Create(record(1, NodeId([1; 16]))))?;
    match asked.ask(ArbiterCall::TryLock)? {
        ArbiterAnswer::Locked { .. } => {}
        other => return Err(format!("it could not be locked: {other:?}")),
    }
    match asked.ask(ArbiterCall::Check(heartbeat(1)))? {
        ArbiterAnswer::Held { .. } => {}
        other => return Err(format!("it was not found held: {other:?}")),
    }
    damage(path).map_err(|cause| cause.to_string())?;
    match asked.ask(ArbiterCall::Check(heartbeat(2)))? {
        ArbiterAnswer::Lost(_) => Ok(()),
        _ => Err("its holder did not notice".to_owned()),
    }
}

pub(super) fn heartbeat(counter: u64) -> LockHeartbeat {
    LockHeartbeat {
        owner: NodeId([1; 16]),
        epoch: Epoch(1),
        seq: RecordSeq(1),
        counter,
        positions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_has_at_most_one_winner_for_each_number() {
        assert_eq!(judge_race(&[2, 4], &[3]), Ok(()));
        assert_eq!(
            judge_race(&[2, 3], &[3, 4]),
            Err("two changes both became record 3".to_owned())
        );
    }

    #[test]
    fn this_machines_file_system_stands_the_races_and_the_losses() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::default();
        report.topic("tried");
        exclusion(&mut report, folder.path());
        races(&mut report, folder.path());
        losses(&mut report, folder.path());
        let text = report.as_text();
        assert_eq!(
            text.lines().filter(|it| it.starts_with("  ok")).count(),
            3,
            "{text}"
        );
        assert!(text.contains("deleted, truncated, replaced"), "{text}");
    }

    #[test]
    fn a_disk_of_this_machine_is_a_pair_on_one_machine_or_a_fault() {
        let mount = |kind: &str, options: &str| Mount {
            point: "/mnt".into(),
            kind: kind.to_owned(),
            source: "gw:/".to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        };
        let text = |mount: &Mount, demo| {
            let mut report = Report::default();
            judge_mount(&mut report, Path::new("/mnt/a.lck"), mount, demo);
            report.as_text()
        };
        assert!(text(&mount("ext4", "rw"), true).contains("a pair on one machine"));
        let local = text(&mount("ext4", "rw"), false);
        assert!(
            local.contains("BAD") && local.contains("RequiresMountsFor=/mnt"),
            "{local}"
        );
        let cached = text(&mount("nfs4", "rw,vers=4.1"), false);
        assert!(cached.contains("actimeo=0"), "{cached}");
        let fresh = text(&mount("nfs4", "rw,vers=4.1,acdirmax=0"), false);
        assert!(!fresh.contains("WARN"), "{fresh}");
        let old = text(&mount("nfs", "rw,vers=3,noac"), false);
        assert!(old.contains("vers=4.1"), "{old}");
        assert!(text(&mount("cifs", "rw"), false).contains("WARN"));
    }
}
