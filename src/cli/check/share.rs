//! Does the lock file's share keep what the pair builds on: one holder, a lock that goes with its
//! process, a loss that is noticed, and `link()` with one winner? Tried with the code that serves,
//! on files of its own beside the lock file; the lock file itself is only looked at.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::report::Report;
use super::trial::{
    Asked, Holder, STEP, Scratch, await_lock, heartbeat, judge_race, open, race, record,
};
use crate::io::arbiter_file::record_folder;
use crate::io::file_lock::{folder_of, is_local, try_lock, validate_lock_file};
use crate::io::mounts::{Mount, mount_of};
use crate::io::store_mount::{RECOVER_LOST_LOCKS, check_store_mount};
use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall};
use crate::proto::ids::NodeId;

/// Compare-and-sets that two race for.
const RACES: u64 = 50;

/// Enough for every trial's files.
const ROOM_BYTES: usize = 1 << 20;
const ROOM: &str = "the disk of the lock file is full (df, df -i): make room there; a server of the pair \
                    could neither take over nor go on alone";

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

/// Shared mode: the mount that the store is on, by the check that a start makes.
pub(super) fn store(report: &mut Report, path: &Path, demo: bool) {
    report.topic("shared store");
    let shown = path.display();
    match check_store_mount(path, Path::new(RECOVER_LOST_LOCKS)) {
        Ok(true) if demo => report.good(format!("{shown}: a pair on one machine")),
        Ok(true) => report.bad(
            format!("{shown} lies on a disk of this machine, which the other server does not see"),
            "mount the same NFSv4 export on both machines; a SAN disk with ext4 or xfs that two \
             machines mount is destroyed",
        ),
        Ok(false) => {
            report.good(format!(
                "{shown} lies on a share whose locks other machines see"
            ));
            report.warn(
                "shared mode over a network is experimental",
                "a replicated pair keeps a copy on each server",
            );
        }
        Err(error) => report.bad(error.to_string(), "see docs/operations.md, Shared mode"),
    }
}

/// Tries the share with files of the check's own.
pub(super) fn try_out(report: &mut Report, lock_file: &Path) {
    report.topic("the share, tried out");
    let name = format!(".twinmq-check-{}", std::process::id());
    let scratch = match Scratch::beside(lock_file, &name) {
        Ok(scratch) => scratch,
        Err(cause) => {
            let what = format!(
                "no folder can be made in {}: {cause}",
                folder_of(lock_file).display()
            );
            return match is_full(&cause) {
                true => report.bad(what, ROOM),
                false => report.bad(what, "give this user write permission on it"),
            };
        }
    };
    let folder = scratch.folder.clone();
    // In a thread of its own: a share that hangs must not hang the check.
    let (done, outcome) = channel();
    thread::spawn(move || {
        let mut report = Report::default();
        report.topic("tried");
        // On a full disk the trials would fail, and blame the file system's locks and links.
        if has_room(&mut report, &folder) {
            exclusion(&mut report, &folder);
            release_on_kill(&mut report, &folder);
            races(&mut report, &folder);
            losses(&mut report, &folder);
        }
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

/// What all trials together write.
fn has_room(report: &mut Report, folder: &Path) -> bool {
    let path = folder.join("room");
    let written = fs::write(&path, vec![7; ROOM_BYTES]).and_then(|()| {
        File::open(&path)?.sync_all()?;
        fs::remove_file(&path)
    });
    let Err(cause) = written else {
        return true;
    };
    let share = folder.parent().unwrap_or(folder);
    let what = format!("{} cannot be written: {cause}", share.display());
    if is_full(&cause) {
        report.bad(what, ROOM);
    } else {
        report.bad(
            what,
            "see to the disk of the share, and to its server's log",
        );
    }
    false
}

fn is_full(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_nothing_is_tried_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::default();
        report.topic("tried");
        assert!(has_room(&mut report, folder.path()));
        assert!(!folder.path().join("room").exists());
        // Every byte that is written there meets a full disk.
        std::os::unix::fs::symlink("/dev/full", folder.path().join("room")).unwrap();
        assert!(!has_room(&mut report, folder.path()));
        let text = report.as_text();
        assert!(text.contains("cannot be written: No space left"), "{text}");
        assert!(text.contains("the disk of the lock file is full"), "{text}");
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
