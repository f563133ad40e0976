//! The arbiter on a shared file system: a lock file with an OFD lock, and beside it the folder
//! `LockFile.d` with the record (ha-protocol A9, "The arbiter record and how to CAS it").
//!
//! All calls run on one thread, `lock-io`, since each may hang with the share. The lock file is
//! written only through the locked descriptor. The record is the highest `rec.N`; the next one comes
//! to be by `link()` alone, which has one winner on every file system that counts.
//!
//! The record names the lock file's generation: after a take-over by fence, another file counts than
//! the one whose lock the old holder may still have. Whoever wants the lock takes the one that the
//! record names and reads the record again under it.

mod files;
mod generations;
mod record;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::io::arbiter_file::files::{Problem, open_for_lock, random, read_bounded, write_new};
use crate::io::arbiter_file::generations::OlderFiles;
use crate::io::arbiter_file::record::RecordFolder;
use crate::io::file_lock::{folder_of, is_local, try_lock};
use crate::proto::arbiter::{
    Arbiter, ArbiterAnswer, ArbiterCall, ArbiterRecord, LockFacts, LockHeartbeat,
};
use crate::proto::arbiter_codec::{ArbiterFileError, LOCK_FILE_BYTES, decode_lock, encode_lock};
use crate::proto::auth::PairSecret;
use crate::proto::ids::{Epoch, Nonce};

pub use generations::lock_file_of;

/// Where the arbiter's files are.
#[derive(Clone, Debug)]
pub struct ArbiterFileConfig {
    /// The lock file; the records go into `<lock file>.d`.
    pub lock_file: PathBuf,
    /// The pair secret, for the MAC of both files.
    pub secret: Option<PairSecret>,
    /// At first boot the lock file's folder may be made: only for a relative path (A4).
    pub create_parent: bool,
}

/// Takes each answer, with the id of its call. Called on the `lock-io` thread.
pub type ArbiterSink = Arc<dyn Fn(u64, ArbiterAnswer) + Send + Sync>;

/// Starts the `lock-io` thread. It ends, and with it the lock, when the arbiter is dropped and its
/// calls are done.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn_file_arbiter(config: ArbiterFileConfig, sink: ArbiterSink) -> io::Result<FileArbiter> {
    let (calls, inbox) = channel();
    std::thread::Builder::new()
        .name("lock-io".to_owned())
        .spawn(move || run(FileKeeper::new(config), &inbox, &sink))?;
    Ok(FileArbiter { calls })
}

/// The record beside a lock file, read on the calling thread: for commands, which may wait for the
/// share. None where there is none.
///
/// # Errors
/// In words, with the file: it cannot be read, or is not this pair's.
pub fn read_record(
    lock_file: &Path,
    secret: Option<PairSecret>,
) -> Result<Option<ArbiterRecord>, String> {
    let folder = RecordFolder::beside(lock_file, secret);
    match folder.highest() {
        Ok(found) => Ok(found.map(|file| file.record)),
        Err(problem) => Err(problem.to_string()),
    }
}

/// The record and the lock file, read on the calling thread: for commands. Nothing is made or locked.
#[must_use]
pub fn look(lock_file: &Path, secret: Option<PairSecret>) -> ArbiterAnswer {
    let mut keeper = FileKeeper::new(ArbiterFileConfig {
        lock_file: lock_file.to_path_buf(),
        secret,
        create_parent: false,
    });
    keeper.answer(ArbiterCall::Read)
}

/// Puts the record that follows the present one, by compare-and-set, on the calling thread: for
/// commands. Needs no lock. Gives what is there after that: `next`, or another's where that was faster.
///
/// # Errors
/// In words, with the file: it cannot be read or written; whether `next` is in force is not known.
pub fn replace_record(
    lock_file: &Path,
    secret: Option<PairSecret>,
    next: &ArbiterRecord,
) -> Result<Option<ArbiterRecord>, String> {
    let folder = RecordFolder::beside(lock_file, secret);
    match folder.compare_and_set(next) {
        Ok(ArbiterAnswer::Set(record)) => Ok(Some(record)),
        Ok(ArbiterAnswer::Conflict(present)) => Ok(present),
        Ok(other) => Err(format!("compare-and-set answered {other:?}")),
        Err(problem) => Err(problem.to_string()),
    }
}

/// The handle to the `lock-io` thread.
#[derive(Clone, Debug)]
pub struct FileArbiter {
    calls: Sender<(u64, ArbiterCall)>,
}

impl Arbiter for FileArbiter {
    fn call(&self, id: u64, call: ArbiterCall) {
        self.calls
            .send((id, call))
            .expect("the lock-io thread lives as long as its handle");
    }
}

fn run(mut keeper: FileKeeper, inbox: &Receiver<(u64, ArbiterCall)>, sink: &ArbiterSink) {
    while let Ok((id, call)) = inbox.recv() {
        sink(id, keeper.answer(call));
    }
}

/// The lock file as it is held.
struct HeldLock {
    /// Carries the lock: closing it lets the lock go.
    file: File,
    path: PathBuf,
    generation: Epoch,
    nonce: Nonce,
    /// What was written last, as it must be found again.
    written: Vec<u8>,
    /// A write that failed, and may have been carried out all the same.
    uncertain: Option<Vec<u8>>,
    older: OlderFiles,
}

/// What the `lock-io` thread owns.
struct FileKeeper {
    config: ArbiterFileConfig,
    records: RecordFolder,
    held: Option<HeldLock>,
    /// A lock that was reported lost, as long as its holder has not said that it is done: on a file
    /// system of this kernel a free lock is taken as the holder's death (A3), and it still serves.
    parked: Option<File>,
}

impl FileKeeper {
    fn new(config: ArbiterFileConfig) -> Self {
        let records = RecordFolder::beside(&config.lock_file, config.secret.clone());
        Self {
            config,
            records,
            held: None,
            parked: None,
        }
    }

    fn answer(&mut self, call: ArbiterCall) -> ArbiterAnswer {
        let answer = match call {
            ArbiterCall::Read => self.read(),
            ArbiterCall::Create(record) => self.create(&record),
            ArbiterCall::TryLock => self.lock(),
            ArbiterCall::Unlock => {
                (self.held, self.parked) = (None, None);
                Ok(ArbiterAnswer::Unlocked)
            }
            ArbiterCall::Check(heartbeat) => self.check(&heartbeat),
            ArbiterCall::CompareAndSet(next) => self.compare_and_set(&next),
        };
        answer.unwrap_or_else(|problem| ArbiterAnswer::Failed(problem.to_string()))
    }

    fn read(&self) -> Result<ArbiterAnswer, Problem> {
        let record = self.records.highest()?.map(|file| file.record);
        let lock = self.lock_facts(&self.path_of(generation_of(record.as_ref())))?;
        Ok(ArbiterAnswer::Read { record, lock })
    }

    fn compare_and_set(&self, next: &ArbiterRecord) -> Result<ArbiterAnswer, Problem> {
        if let Some(present) = self.records.highest()?
            && present.record.seq.next() == next.seq
            && present.record.generation != next.generation
        {
            self.prepare(present.record.generation, next.generation)?;
        }
        self.records.compare_and_set(next)
    }

    fn path_of(&self, generation: Epoch) -> PathBuf {
        lock_file_of(&self.config.lock_file, generation)
    }

    /// The file that the path names now, if there is one with content.
    fn lock_facts(&self, path: &Path) -> Result<Option<LockFacts>, Problem> {
        // The holder may be writing while this reads: a torn read is repeated.
        for _ in 0..5 {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(cause) => return Err(Problem::io(path, "cannot be opened", cause)),
            };
            match self.facts_of(&file, path) {
                Ok(facts) => return Ok(Some(facts)),
                Err(Problem::Content {
                    cause: ArbiterFileError::Torn,
                    ..
                }) => {
                    if file.metadata().is_ok_and(|it| it.len() == 0) {
                        // Made by hand, for its permissions; it is taken over with the lock.
                        return Ok(None);
                    }
                }
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::content(path, ArbiterFileError::Torn))
    }

    fn facts_of(&self, file: &File, path: &Path) -> Result<LockFacts, Problem> {
        let bytes = read_bounded(file, LOCK_FILE_BYTES)
            .map_err(|cause| Problem::io(path, "cannot be read", cause))?;
        let (nonce, last) = decode_lock(&bytes, self.config.secret.as_ref())
            .map_err(|cause| Problem::content(path, cause))?;
        let metadata = file
            .metadata()
            .map_err(|cause| Problem::io(path, "cannot be examined", cause))?;
        let local =
            is_local(file).map_err(|cause| Problem::io(path, "cannot be examined", cause))?;
        Ok(LockFacts {
            nonce,
            device: metadata.dev(),
            inode: metadata.ino(),
            local,
            last,
        })
    }

    /// First boot, or a pair that re-forms its record (A4).
    fn create(&mut self, record: &ArbiterRecord) -> Result<ArbiterAnswer, Problem> {
        if self.config.create_parent && self.config.lock_file.is_relative() {
            let folder = folder_of(&self.config.lock_file);
            files::make_folder(folder, true)?;
            files::flush_above(folder)?;
        }
        self.records.make()?;
        if let Some(present) = self.records.highest()? {
            return Ok(ArbiterAnswer::Conflict(Some(present.record)));
        }
        self.make_lock_file(&self.path_of(record.generation), None)?;
        self.records.create(record)
    }

    /// Makes a lock file by `link()`, so that of two creators one wins and both see one nonce. False:
    /// it is there already.
    fn make_lock_file(&self, path: &Path, last: Option<&LockHeartbeat>) -> Result<bool, Problem> {
        let bytes = encode_lock(Nonce(random()), last, self.config.secret.as_ref());
        let draft = self.records.draft("lock");
        write_new(&draft, &bytes)?;
        let linked = std::fs::hard_link(&draft, path);
        files::remove(&draft);
        let made = match linked {
            Ok(()) => true,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => false,
            Err(cause) => return Err(Problem::io(path, "cannot be made", cause)),
        };
        files::flush_folder(folder_of(path))?;
        Ok(made)
    }

    fn lock(&mut self) -> Result<ArbiterAnswer, Problem> {
        // More than once: the file may have been replaced between opening and locking (Z16), or the
        // record may name another one by then.
        for _ in 0..5 {
            let record = self.records.highest()?.map(|file| file.record);
            if let Some(answer) = self.lock_once(generation_of(record.as_ref()))? {
                if self.held.is_some() {
                    self.parked = None;
                }
                return Ok(answer);
            }
            self.held = None;
        }
        let path = self.config.lock_file.display();
        Ok(ArbiterAnswer::Failed(format!(
            "lock file {path} is being replaced again and again: find out by whom"
        )))
    }

    /// None: the path names another file by now, or the record another path.
    fn lock_once(&mut self, generation: Epoch) -> Result<Option<ArbiterAnswer>, Problem> {
        let path = self.path_of(generation);
        if let Some(held) = &self.held {
            return if held.generation == generation && self.names(held)? {
                self.locked()
            } else {
                Ok(None)
            };
        }
        let file = match open_for_lock(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                self.allow_new_lock_file(&path, "is missing")?;
                self.make_lock_file(&path, None)?;
                return Ok(None);
            }
            Err(cause) => return Err(Problem::io(&path, "cannot be opened", cause)),
        };
        let file = self
            .unpark(file)
            .map_err(|cause| Problem::io(&path, "cannot be examined", cause))?;
        if !try_lock(&file).map_err(|cause| Problem::io(&path, "cannot be locked", cause))? {
            let holder = self
                .lock_facts(&path)
                .ok()
                .flatten()
                .and_then(|facts| facts.last);
            return Ok(Some(ArbiterAnswer::Refused { holder }));
        }
        let written = read_bounded(&file, LOCK_FILE_BYTES)
            .map_err(|cause| Problem::io(&path, "cannot be read", cause))?;
        match decode_lock(&written, self.config.secret.as_ref()) {
            Ok((nonce, _)) => {
                let held = HeldLock {
                    older: OlderFiles::than(&self.config, generation),
                    file,
                    path,
                    generation,
                    nonce,
                    written,
                    uncertain: None,
                };
                if !self.names(&held)? {
                    return Ok(None);
                }
                self.held = Some(held);
                self.locked()
            }
            Err(ArbiterFileError::Torn) => {
                self.allow_new_lock_file(&path, "is empty or damaged")?;
                let fresh = encode_lock(Nonce(random()), None, self.config.secret.as_ref());
                write_in_place(&file, &fresh)
                    .map_err(|cause| Problem::io(&path, "cannot be written", cause))?;
                Ok(None)
            }
            Err(cause) => Err(Problem::content(&path, cause)),
        }
    }

    /// A lost lock that is wanted back is taken through the descriptor that still has it, if this is the
    /// same file: it is not let go in between. On a share the free lock proves no death, and the old
    /// descriptor may be dead: there it is closed.
    fn unpark(&mut self, file: File) -> io::Result<File> {
        let Some(parked) = &self.parked else {
            return Ok(file);
        };
        if !is_local(parked)? {
            self.parked = None;
            return Ok(file);
        }
        let (here, there) = (parked.metadata()?, file.metadata()?);
        if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
            // One open file description: the lock is kept while either descriptor is open.
            parked.try_clone()
        } else {
            Ok(file)
        }
    }

    /// A lock file that is gone while the record is there is made anew: whoever holds the old one
    /// sees the new nonce at its next check, and the record still says who may be promoted (Z16).
    /// Without a record nothing is made here: that is first boot's (A4).
    fn allow_new_lock_file(&self, path: &Path, what: &str) -> Result<(), Problem> {
        if self.records.highest()?.is_some() {
            return Ok(());
        }
        Err(Problem::NoArbiter {
            path: path.to_owned(),
            what: what.to_owned(),
        })
    }

    /// None: the record, read under the lock, names another generation.
    fn locked(&self) -> Result<Option<ArbiterAnswer>, Problem> {
        let Some(held) = &self.held else {
            return Ok(None);
        };
        let record = self.records.highest()?.map(|file| file.record);
        if record.is_some() && generation_of(record.as_ref()) != held.generation {
            return Ok(None);
        }
        Ok(Some(ArbiterAnswer::Locked {
            lock: self.facts_of(&held.file, &held.path)?,
            record,
        }))
    }

    /// The path still names the file that is held: by its content, read through a descriptor of its
    /// own, because on a share even inode numbers lie (Z16).
    fn names(&self, held: &HeldLock) -> Result<bool, Problem> {
        let path = &held.path;
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(Problem::io(path, "cannot be opened", cause)),
        };
        let bytes = read_bounded(&file, LOCK_FILE_BYTES)
            .map_err(|cause| Problem::io(path, "cannot be read", cause))?;
        let nonce = decode_lock(&bytes, self.config.secret.as_ref()).map(|(nonce, _)| nonce);
        Ok(nonce == Ok(held.nonce) && bytes == held.written)
    }

    fn check(&mut self, heartbeat: &LockHeartbeat) -> Result<ArbiterAnswer, Problem> {
        let Some(mut held) = self.held.take() else {
            return Ok(ArbiterAnswer::Lost("the lock is not held".to_owned()));
        };
        match self.check_held(&mut held, heartbeat) {
            Ok(None) => {
                held.older.prune();
                self.held = Some(held);
                let record = self.records.highest()?.map(|file| file.record);
                Ok(ArbiterAnswer::Held { record })
            }
            Ok(Some(lost)) => {
                let reason = format!("lock file {} {lost}", held.path.display());
                self.parked = Some(held.file);
                Ok(ArbiterAnswer::Lost(reason))
            }
            Err(problem) => {
                self.held = Some(held);
                Err(problem)
            }
        }
    }

    /// Some: why the lock is lost, to follow the path.
    fn check_held(
        &self,
        held: &mut HeldLock,
        heartbeat: &LockHeartbeat,
    ) -> Result<Option<String>, Problem> {
        match read_bounded(&held.file, LOCK_FILE_BYTES) {
            Ok(found) if found == held.written => {}
            Ok(found) if Some(&found) == held.uncertain.as_ref() => held.written = found,
            Ok(found) if found.len() < LOCK_FILE_BYTES => {
                return Ok(Some("was truncated while it was held".to_owned()));
            }
            Ok(_) => return Ok(Some("was overwritten while it was held".to_owned())),
            Err(cause) => return lost_or_failed(&held.path, "cannot be read", cause),
        }
        let next = encode_lock(held.nonce, Some(heartbeat), self.config.secret.as_ref());
        if let Err(cause) = write_in_place(&held.file, &next) {
            held.uncertain = Some(next);
            return lost_or_failed(&held.path, "cannot be written", cause);
        }
        (held.written, held.uncertain) = (next, None);
        if self.names(held)? {
            return Ok(None);
        }
        Ok(Some(
            if held.path.exists() {
                "was replaced while it was held"
            } else {
                "was deleted while it was held"
            }
            .to_owned(),
        ))
    }
}

/// A server of the share that dropped the lock says so by these errors (H25); others, as of a full
/// disk, say nothing about the lock.
fn lost_or_failed(path: &Path, what: &str, cause: io::Error) -> Result<Option<String>, Problem> {
    use nix::libc::{EBADF, EIO, ESTALE};
    match cause.raw_os_error() {
        Some(EIO | ESTALE | EBADF) => Ok(Some(format!(
            "{what} any more: {cause}: the file share has dropped the lock"
        ))),
        _ => Err(Problem::io(path, what, cause)),
    }
}

/// The generation whose lock counts by this record; by none, the configured file's.
fn generation_of(record: Option<&ArbiterRecord>) -> Epoch {
    record.map_or(Epoch::ZERO, |record| record.generation)
}

fn write_in_place(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

/// The folder of the records of this lock file.
#[must_use]
pub fn record_folder(lock_file: &Path) -> PathBuf {
    let mut name = lock_file.as_os_str().to_owned();
    name.push(".d");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
