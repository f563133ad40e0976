//! Whether an LMDB file is as long as its pages say. LMDB maps the file and reads beyond its end die
//! by SIGBUS, so this looks first, with plain reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::StoreError;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// Before the content of each page.
const HEADER: usize = 16;
/// Header and meta page together.
const META_BYTES: usize = HEADER + 136;
const PAGE_BYTES: std::ops::RangeInclusive<u64> = 512..=65536;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// Of a leaf's node: the value is on pages of its own.
const BIG_VALUE: u16 = 0x01;
/// Of a leaf's node: the value is a table.
const TABLE: u16 = 0x02;
/// Where a table's root stands in its 48 bytes.
const ROOT: usize = 40;
/// The root of an empty table.
const NO_PAGE: u64 = u64::MAX;

struct Meta {
    page_bytes: u64,
    /// Of the free pages, and of the tables.
    roots: [u64; 2],
    last_page: u64,
    transaction: u64,
}

/// Looks at the file of the environment in the folder `env`.
///
/// # Errors
/// `Damaged` when it is missing, no LMDB file, or shorter than its pages say; when it cannot be read.
pub(super) fn check(env: &Path) -> Result<(), StoreError> {
    let path = env.join("data.mdb");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(env, "is missing".to_owned()));
        }
        Err(cause) => return Err(StoreError::file("open", &path)(cause)),
    };
    let length = file
        .metadata()
        .map_err(StoreError::file("measure", &path))?
        .len();
    check_open(env, &file, length)
}

/// The same through a descriptor that is open already.
pub(super) fn check_file(env: &Path, file: &File) -> Result<(), StoreError> {
    let path = env.join("data.mdb");
    let length = file
        .metadata()
        .map_err(StoreError::file("measure", &path))?
        .len();
    check_open(env, file, length)
}

fn check_open(env: &Path, file: &File, length: u64) -> Result<(), StoreError> {
    let path = env.join("data.mdb");
    match look(file, length) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(damaged(env, what)),
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(
            env,
            format!("it is cut off: {length} bytes are less than its pages say"),
        )),
        Err(cause) => Err(StoreError::file("read", &path)(cause)),
    }
}

fn damaged(env: &Path, what: String) -> StoreError {
    StoreError::Damaged {
        path: env.to_path_buf(),
        table: "file",
        key: "data.mdb".to_owned(),
        what,
    }
}

/// Some: what is wrong.
fn look(file: &File, length: u64) -> io::Result<Option<String>> {
    let Some(first) = meta(file, 0)? else {
        return Ok(Some("its first page is no meta page".to_owned()));
    };
    if !PAGE_BYTES.contains(&first.page_bytes) {
        let found = first.page_bytes;
        return Ok(Some(format!("it says that a page has {found} bytes")));
    }
    let Some(second) = meta(file, first.page_bytes)? else {
        return Ok(Some("its second page is no meta page".to_owned()));
    };
    let newest = if second.transaction > first.transaction {
        second
    } else {
        first
    };
    let pages = length / newest.page_bytes;
    if newest.last_page < pages {
        return Ok(None);
    }
    // Pages at the end that a commit took and gave back were never written: only the pages that are in
    // use tell.
    let mut walk = Walk {
        file,
        page_bytes: newest.page_bytes,
        pages,
        waiting: newest.roots.to_vec(),
    };
    Ok((!walk.all_there()?).then(|| {
        format!("it is cut off: {length} bytes are less than its pages say, or they contradict")
    }))
}

/// None: something else stands there.
fn meta(file: &File, at: u64) -> io::Result<Option<Meta>> {
    let mut page = [0; META_BYTES];
    file.read_exact_at(&mut page, at)?;
    let word = |at| half(&page, HEADER + at).unwrap_or(0);
    let long = |at| long(&page, HEADER + at).unwrap_or(0);
    if word(0) != MAGIC || word(4) != VERSION {
        return Ok(None);
    }
    Ok(Some(Meta {
        page_bytes: u64::from(word(24)),
        roots: [long(24 + ROOT), long(24 + 48 + ROOT)],
        last_page: long(120),
        transaction: long(128),
    }))
}

/// Through all pages that are in use.
struct Walk<'a> {
    file: &'a File,
    page_bytes: u64,
    /// Whole pages in the file.
    pages: u64,
    waiting: Vec<u64>,
}

impl Walk<'_> {
    fn all_there(&mut self) -> io::Result<bool> {
        let mut page = vec![0; usize::try_from(self.page_bytes).unwrap_or(HEADER)];
        // Each page is named once: more visits are a circle.
        let mut left = self.pages;
        while let Some(number) = self.waiting.pop() {
            if number == NO_PAGE {
                continue;
            }
            if number >= self.pages || left == 0 {
                return Ok(false);
            }
            left -= 1;
            self.file
                .read_exact_at(&mut page, number * self.page_bytes)?;
            if self.nodes(&page).is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Queues the pages that a page names; none: it contradicts itself, or they are not there.
    fn nodes(&mut self, page: &[u8]) -> Option<()> {
        let (flags, lower) = (short(page, 10)?, usize::from(short(page, 12)?));
        for slot in (HEADER..lower).step_by(2) {
            let node = page.get(usize::from(short(page, slot)?)..)?;
            let (low, flag) = (u64::from(half(node, 0)?), short(node, 4)?);
            let value = 8 + usize::from(short(node, 6)?);
            if flags & BRANCH != 0 {
                self.waiting.push(low | u64::from(flag) << 32);
            } else if flags & LEAF == 0 {
                return None;
            } else if flag & BIG_VALUE != 0 {
                let count = (low + HEADER as u64).div_ceil(self.page_bytes);
                let end = long(node, value)?.checked_add(count)?;
                (end <= self.pages).then_some(())?;
            } else if flag & TABLE != 0 {
                self.waiting.push(long(node, value + ROOT)?);
            }
        }
        Some(())
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::backend::{Backend, Table, Write};
    use crate::storage::env::{LmdbEnv, SyncMode};

    #[test]
    fn every_cut_that_takes_a_page_in_use_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut env = LmdbEnv::open(dir.path(), SyncMode::Meta).unwrap();
        let writes: Vec<Write> = (0_u32..400)
            .map(|key| {
                let bytes = if key % 50 == 0 { 20_000 } else { 200 };
                Write::Put(
                    Table::Checkpoint,
                    key.to_be_bytes().to_vec(),
                    vec![7; bytes].into(),
                )
            })
            .collect();
        env.commit(&writes).unwrap();
        env.close();
        check(dir.path()).unwrap();
        let path = dir.path().join("data.mdb");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (length, first) = (file.metadata().unwrap().len(), meta(&file, 0).unwrap());
        let page = first.unwrap().page_bytes;
        let second = meta(&file, page).unwrap();
        let newest = [meta(&file, 0).unwrap(), second]
            .into_iter()
            .flatten()
            .max_by_key(|meta| meta.transaction)
            .unwrap();
        let mut walk = Walk {
            file: &file,
            page_bytes: page,
            pages: length / page,
            waiting: newest.roots.to_vec(),
        };
        assert!(walk.all_there().unwrap(), "a sound file is walked whole");
        for kept in [length / 2, 2 * page, page, 100, 0] {
            file.set_len(kept).unwrap();
            let error = check(dir.path()).unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{kept}: {error}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}
