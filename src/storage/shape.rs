//! Whether an LMDB file can be read: as long as its pages say, and its trees made of pages of its own.
//! LMDB maps the file and believes it: reads beyond its end die by SIGBUS, and on a page that is
//! something else it aborts, so this looks first, with plain reads.

use std::collections::VecDeque;
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
const OVERFLOW: u16 = 0x04;
/// The flags that say what a page is; the others are of a page in memory.
const KINDS: u16 = 0x6f;
/// So many pages are looked at where the file is long enough, from the roots downwards: all of a store
/// with few messages, and of a large one what opening it meets first. Some 20 ms.
const LOOKED_AT_MAX: u64 = 4096;
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
    let mut walk = Walk::new(file, length, &newest);
    // Pages at the end that a commit took and gave back were never written: where the file is short,
    // only the pages that are in use tell, all of them.
    let most = if newest.last_page < walk.pages {
        LOOKED_AT_MAX
    } else {
        walk.pages
    };
    Ok(walk.first_wrong(most)?.map(|page| {
        if page < walk.pages {
            format!("page {page} is not what belongs there")
        } else {
            format!("it is cut off: {length} bytes are less than its pages say")
        }
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

/// Through the pages that are in use, from the roots downwards.
struct Walk<'a> {
    file: &'a File,
    page_bytes: u64,
    /// Whole pages in the file.
    pages: u64,
    waiting: VecDeque<Named>,
}

/// A page that another one names.
#[derive(Clone, Copy)]
enum Named {
    Tree(u64),
    /// The first page of a large value, and how many it takes at least.
    Value(u64, u64),
}

impl<'a> Walk<'a> {
    fn new(file: &'a File, length: u64, newest: &Meta) -> Self {
        Self {
            file,
            page_bytes: newest.page_bytes,
            pages: length / newest.page_bytes,
            waiting: newest.roots.into_iter().map(Named::Tree).collect(),
        }
    }

    /// Looks at no more than `most` pages. Some: this one is not there, or something else.
    fn first_wrong(&mut self, most: u64) -> io::Result<Option<u64>> {
        let mut page = vec![0; usize::try_from(self.page_bytes).unwrap_or(HEADER)];
        let mut left = most;
        while let Some(&named) = self.waiting.front() {
            let (number, bytes) = match named {
                Named::Tree(NO_PAGE) => {
                    self.waiting.pop_front();
                    continue;
                }
                Named::Tree(number) => (number, page.len()),
                Named::Value(number, _) => (number, HEADER),
            };
            if number >= self.pages {
                return Ok(Some(number));
            }
            if left == 0 {
                // Each page is named once: more than there are is a circle.
                return Ok((most == self.pages).then_some(number));
            }
            left -= 1;
            self.waiting.pop_front();
            self.file
                .read_exact_at(&mut page[..bytes], number * self.page_bytes)?;
            let sound = match named {
                Named::Tree(_) => self.tree(&page, number),
                Named::Value(_, count) => self.value(&page, number, count),
            };
            if sound.is_none() {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Queues the pages that a page names; none: it contradicts itself.
    fn tree(&mut self, page: &[u8], number: u64) -> Option<()> {
        (long(page, 0)? == number).then_some(())?;
        let kind = short(page, 10)? & KINDS;
        let (lower, upper) = (usize::from(short(page, 12)?), usize::from(short(page, 14)?));
        let least = if kind == BRANCH { HEADER + 2 } else { HEADER };
        ((least..=upper).contains(&lower) && upper <= page.len()).then_some(())?;
        for slot in (HEADER..lower).step_by(2) {
            let at = usize::from(short(page, slot)?);
            (at >= upper).then_some(())?;
            let node = page.get(at..)?;
            let (low, flag) = (u64::from(half(node, 0)?), short(node, 4)?);
            let value = 8 + usize::from(short(node, 6)?);
            let here = node.get(value..)?;
            match kind {
                BRANCH => self
                    .waiting
                    .push_back(Named::Tree(low | u64::from(flag) << 32)),
                LEAF if flag & BIG_VALUE != 0 => {
                    let count = (low + HEADER as u64).div_ceil(self.page_bytes);
                    self.waiting.push_back(Named::Value(long(here, 0)?, count));
                }
                LEAF if flag & TABLE != 0 => {
                    self.waiting.push_back(Named::Tree(long(here, ROOT)?));
                }
                LEAF => (here.len() as u64 >= low).then_some(())?,
                _ => return None,
            }
        }
        matches!(kind, BRANCH | LEAF).then_some(())
    }

    /// A value may have more pages than it needs.
    fn value(&self, page: &[u8], number: u64, count: u64) -> Option<()> {
        let has = u64::from(half(page, 12)?);
        let sound = long(page, 0)? == number
            && short(page, 10)? & KINDS == OVERFLOW
            && has >= count
            && number.checked_add(count)? <= self.pages;
        sound.then_some(())
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
        let mut walk = Walk::new(&file, length, &newest);
        let wrong = walk.first_wrong(length / page).unwrap();
        assert_eq!(wrong, None, "a sound file is walked whole");
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
    #[test]
    fn every_page_in_use_that_is_something_else_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut env = LmdbEnv::open(dir.path(), SyncMode::Meta).unwrap();
        for round in 0_u32..3 {
            let writes: Vec<Write> = (0_u32..400)
                .map(|key| {
                    let bytes = if key % 50 == round { 20_000 } else { 200 };
                    let value = vec![7; bytes].into();
                    Write::Put(Table::Checkpoint, key.to_be_bytes().to_vec(), value)
                })
                .collect();
            env.commit(&writes).unwrap();
        }
        env.close();
        let path = dir.path().join("data.mdb");
        let sound = std::fs::read(&path).unwrap();
        let file = File::open(&path).unwrap();
        let page = meta(&file, 0).unwrap().unwrap().page_bytes;
        let newest = [meta(&file, 0).unwrap(), meta(&file, page).unwrap()]
            .into_iter()
            .flatten()
            .max_by_key(|meta| meta.transaction)
            .unwrap();
        let length = sound.len() as u64;
        let (mut in_use, mut left) = (Vec::new(), 0);
        // The walk with room for one page more each time shows where it comes along.
        loop {
            let mut walk = Walk::new(&file, length, &newest);
            assert_eq!(walk.first_wrong(left).unwrap(), None);
            let Some(next) = walk.waiting.front() else {
                break;
            };
            match next {
                Named::Tree(NO_PAGE) => {}
                Named::Tree(number) | Named::Value(number, _) => in_use.push(*number),
            }
            left += 1;
        }
        assert!(in_use.len() > 20, "{in_use:?}");
        for number in in_use {
            let at = usize::try_from(number * page).unwrap();
            for garbage in [0, 0x55, 0xff] {
                let mut bytes = sound.clone();
                bytes[at..at + 16].fill(garbage);
                std::fs::write(&path, &bytes).unwrap();
                let error = check(dir.path()).unwrap_err().to_string();
                assert!(error.contains(&format!("page {number} is not")), "{error}");
            }
        }
        std::fs::write(&path, &sound).unwrap();
        check(dir.path()).unwrap();
    }
}
