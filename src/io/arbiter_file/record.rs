//! The record: the highest `rec.N` of a folder, followed by the next through `link()` alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::io::arbiter_file::files::{
    Problem, flush_folder, make_folder, random, read_bounded, remove, write_new,
};
use crate::io::arbiter_file::record_folder;
use crate::proto::arbiter::{ArbiterAnswer, ArbiterRecord};
use crate::proto::arbiter_codec::{RECORD_BYTES_MAX, RecordFile, decode_record, encode_record};
use crate::proto::auth::PairSecret;

/// Records this far below the highest are removed. None nearer: a slow `link()` must still find its
/// name taken, or a higher one.
const KEPT_RECORDS: u64 = 64;

pub(super) struct RecordFolder {
    folder: PathBuf,
    secret: Option<PairSecret>,
}

impl RecordFolder {
    pub(super) fn beside(lock_file: &Path, secret: Option<PairSecret>) -> Self {
        Self {
            folder: record_folder(lock_file),
            secret,
        }
    }

    pub(super) fn make(&self) -> Result<(), Problem> {
        make_folder(&self.folder, false)
    }

    /// A name for a file that is to be linked; nobody else uses it.
    pub(super) fn draft(&self, owner: &str) -> PathBuf {
        let random = u128::from_be_bytes(random());
        self.folder.join(format!("tmp.{owner}.{random:032x}"))
    }

    /// The record; none where there is none.
    pub(super) fn highest(&self) -> Result<Option<RecordFile>, Problem> {
        // A record may be pruned between listing and reading: then there is a higher one.
        let mut tries = 0_u32;
        loop {
            tries = tries.saturating_add(1);
            let Some(seq) = self.list()?.into_iter().max() else {
                return Ok(None);
            };
            match self.read(seq) {
                Err(Problem::Io { cause, .. })
                    if cause.kind() == io::ErrorKind::NotFound && tries < 5 => {}
                read => return read.map(Some),
            }
        }
    }

    /// First record (A4), where none is.
    pub(super) fn create(&self, record: &ArbiterRecord) -> Result<ArbiterAnswer, Problem> {
        match self.link(record, 0)? {
            None if self.list()?.len() == 1 => Ok(ArbiterAnswer::Created(record.clone())),
            None => self.conflict(),
            Some(conflict) => Ok(conflict),
        }
    }

    pub(super) fn compare_and_set(&self, next: &ArbiterRecord) -> Result<ArbiterAnswer, Problem> {
        let highest = self.highest()?;
        let prev_crc = match highest {
            Some(present) if present.record.seq.next() == next.seq => present.crc,
            other => return Ok(ArbiterAnswer::Conflict(other.map(|file| file.record))),
        };
        Ok(match self.link(next, prev_crc)? {
            None => ArbiterAnswer::Set(next.clone()),
            Some(conflict) => conflict,
        })
    }

    /// None: `record` is the highest now. Some: the conflict.
    fn link(
        &self,
        record: &ArbiterRecord,
        prev_crc: u32,
    ) -> Result<Option<ArbiterAnswer>, Problem> {
        let bytes = encode_record(record, prev_crc, self.secret.as_ref());
        let draft = self.draft(&record.owner.to_string());
        write_new(&draft, &bytes)?;
        let linked = self.link_draft(&draft, record.seq.0, &bytes);
        remove(&draft);
        if !linked? {
            return self.conflict().map(Some);
        }
        let all = self.list()?;
        if all.iter().any(|seq| *seq > record.seq.0) {
            return self.conflict().map(Some);
        }
        self.prune(record, &all);
        Ok(None)
    }

    /// Whether the name is the draft's now.
    fn link_draft(&self, draft: &Path, seq: u64, bytes: &[u8]) -> Result<bool, Problem> {
        let name = self.name(seq);
        let linked = match std::fs::hard_link(draft, &name) {
            Ok(()) => true,
            // It may be this very link, carried out and asked for again by the share's protocol.
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => false,
            Err(cause) => return Err(Problem::io(&name, "cannot be made", cause)),
        };
        let examine = |cause| Problem::io(&name, "cannot be examined", cause);
        let links = std::fs::metadata(draft).map_err(examine)?.nlink();
        let content = File::open(&name)
            .and_then(|file| read_bounded(&file, RECORD_BYTES_MAX))
            .map_err(examine)?;
        if (linked || links == 2) && content == bytes {
            flush_folder(&self.folder)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn conflict(&self) -> Result<ArbiterAnswer, Problem> {
        Ok(ArbiterAnswer::Conflict(
            self.highest()?.map(|file| file.record),
        ))
    }

    fn read(&self, seq: u64) -> Result<RecordFile, Problem> {
        let name = self.name(seq);
        let bytes = File::open(&name)
            .and_then(|file| read_bounded(&file, RECORD_BYTES_MAX))
            .map_err(|cause| Problem::io(&name, "cannot be read", cause))?;
        let file = decode_record(&bytes, self.secret.as_ref())
            .map_err(|cause| Problem::content(&name, cause))?;
        if file.record.seq.0 != seq {
            return Err(Problem::Misnamed {
                path: name,
                found: file.record.seq.0,
            });
        }
        Ok(file)
    }

    /// The numbers of all records; none where the folder is missing.
    fn list(&self) -> Result<Vec<u64>, Problem> {
        let cannot = |cause| Problem::io(&self.folder, "cannot be listed", cause);
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(cannot(cause)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(cannot)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("rec."));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// Removes records far below, and drafts of this server that a crash has left: it makes one at a
    /// time, and has removed the present one.
    fn prune(&self, record: &ArbiterRecord, all: &[u64]) {
        let below = record.seq.0.saturating_sub(KEPT_RECORDS);
        for seq in all.iter().filter(|seq| **seq < below) {
            remove(&self.name(*seq));
        }
        let own = format!("tmp.{}.", record.owner);
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&own)) {
                remove(&entry.path());
            }
        }
    }

    fn name(&self, seq: u64) -> PathBuf {
        self.folder.join(format!("rec.{seq}"))
    }
}
