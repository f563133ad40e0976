//! A disk that is told what a server told its kernel, and can be cut from power at any time: what was
//! synced is there afterwards, and of everything else any part.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::chance::Chance;
use crate::trace::{Change, Event};

/// The smallest piece that a disk writes whole, in bytes.
const SECTOR: usize = 512;

/// One moment of a recording: an event begins, or a sync ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    at: u64,
    ends: bool,
    pub(crate) event: usize,
}

impl Step {
    /// A confirm leaves or a sync ends: what was promised is most, or least, in danger round it.
    pub(crate) fn begins(self) -> bool {
        !self.ends
    }
}

/// All moments in their order.
pub(crate) fn steps(events: &[Event]) -> Vec<Step> {
    let mut all = Vec::new();
    for (event, it) in events.iter().enumerate() {
        all.push(Step {
            at: it.begun,
            ends: false,
            event,
        });
        let syncs = matches!(
            it.what,
            Change::Sync(_) | Change::Write { through: true, .. }
        );
        if let (true, Some(at)) = (syncs, it.ended) {
            all.push(Step {
                at,
                ends: true,
                event,
            });
        }
    }
    all.sort_unstable();
    all
}

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    /// Of a hundred pieces so many survive.
    survive: usize,
    /// Bytes that survive or go together.
    unit: usize,
    /// Changes of a folder survive up to one of them, as with a journal; otherwise any of them.
    journal: bool,
}

impl Fate {
    /// Nothing is there but what was synced.
    pub(crate) const NOTHING: Self = Self {
        survive: 0,
        unit: SECTOR,
        journal: true,
    };

    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let survive = match chance.below(4) {
            0 => 0,
            1 => 100,
            2 => 50,
            _ => chance.below(101),
        };
        Self {
            survive,
            unit: if chance.percent(50) { SECTOR } else { 4096 },
            journal: chance.percent(50),
        }
    }
}

pub(crate) struct Disk {
    events: Arc<[Event]>,
    nodes: Vec<Node>,
    root: PathBuf,
    /// Syncs that have begun, and what they are about.
    running: HashMap<usize, usize>,
}

enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    live: Vec<u8>,
    pending: Vec<Piece>,
}

struct Piece {
    event: usize,
    what: PieceOf,
}

enum PieceOf {
    Length(usize),
    /// Whole sectors, as they were after the write.
    Sectors(usize, Vec<u8>),
}

#[derive(Default)]
struct Folder {
    durable: BTreeMap<String, usize>,
    live: BTreeMap<String, usize>,
    /// Each with the entries that change together.
    pending: Vec<(usize, Entries)>,
}

type Entries = Vec<(String, Option<usize>)>;

fn enter(entries: &mut BTreeMap<String, usize>, changes: &Entries) {
    for (name, node) in changes {
        match node {
            Some(node) => entries.insert(name.clone(), *node),
            None => entries.remove(name),
        };
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Disk {
    /// An empty folder, whose `folders` below it are there for good.
    pub(crate) fn new(events: Arc<[Event]>, root: &Path, folders: &[&str]) -> Self {
        let mut disk = Self {
            events,
            nodes: vec![Node::Folder(Folder::default())],
            root: root.to_path_buf(),
            running: HashMap::new(),
        };
        for folder in folders {
            disk.make(&root.join(folder), Node::Folder(Folder::default()), 0);
        }
        for node in &mut disk.nodes {
            if let Node::Folder(folder) = node {
                folder.durable.clone_from(&folder.live);
                folder.pending.clear();
            }
        }
        disk
    }

    /// Goes on by one moment.
    pub(crate) fn step(&mut self, step: Step) {
        if step.ends {
            self.end(step.event);
        } else {
            self.begin(step.event);
        }
    }

    fn begin(&mut self, event: usize) {
        let events = Arc::clone(&self.events);
        match &events[event].what {
            Change::Create(path) => {
                if self.find(path).is_none() {
                    self.make(path, Node::File(File::default()), event);
                }
            }
            Change::MakeFolder(path) => {
                self.make(path, Node::Folder(Folder::default()), event);
            }
            Change::Resize { path, length } => {
                let length = usize::try_from(*length).expect("files of a test are small");
                let file = self.file(path);
                if file.live.len() != length {
                    file.live.resize(length, 0);
                    let what = PieceOf::Length(length);
                    file.pending.push(Piece { event, what });
                }
            }
            Change::Write {
                path,
                offset,
                bytes,
                through,
            } => {
                if *through {
                    let node = self.must_find(path);
                    self.running.insert(event, node);
                }
                let offset = usize::try_from(*offset).expect("files of a test are small");
                self.file(path).write(event, offset, bytes);
            }
            Change::Append { path, bytes } => {
                let file = self.file(path);
                file.write(event, file.live.len(), bytes);
            }
            Change::Rename { from, to } => {
                let node = self.must_find(from);
                let (source, target) = (self.parent(from), self.parent(to));
                let gone = (name_of(from), None);
                let there = (name_of(to), Some(node));
                if source == target {
                    self.change(source, event, vec![gone, there]);
                } else {
                    self.change(source, event, vec![gone]);
                    self.change(target, event, vec![there]);
                }
            }
            Change::Link { from, to } => {
                let node = self.must_find(from);
                let folder = self.parent(to);
                self.change(folder, event, vec![(name_of(to), Some(node))]);
            }
            Change::Remove(path) => {
                let folder = self.parent(path);
                self.change(folder, event, vec![(name_of(path), None)]);
            }
            Change::Sync(path) => {
                // A file that has no name any more is nobody's.
                if let Some(node) = self.find(path) {
                    self.running.insert(event, node);
                }
            }
            Change::Confirm(_) => {}
        }
    }

    fn end(&mut self, event: usize) {
        let Some(node) = self.running.remove(&event) else {
            return;
        };
        let events = Arc::clone(&self.events);
        let begun = events[event].begun;
        let through = matches!(events[event].what, Change::Write { .. });
        // A write that was still under way when the sync began is not promised by it.
        let covered = |other: usize| match through {
            true => other == event,
            false => events[other].ended.is_some_and(|ended| ended <= begun),
        };
        match &mut self.nodes[node] {
            Node::File(file) => file.harden(covered),
            Node::Folder(folder) => folder.pending.retain(|(event, changes)| {
                let covered = covered(*event);
                if covered {
                    enter(&mut folder.durable, changes);
                }
                !covered
            }),
        }
    }

    fn make(&mut self, path: &Path, node: Node, event: usize) {
        let number = self.nodes.len();
        self.nodes.push(node);
        let folder = self.parent(path);
        self.change(folder, event, vec![(name_of(path), Some(number))]);
    }

    fn change(&mut self, folder: usize, event: usize, changes: Entries) {
        let Node::Folder(folder) = &mut self.nodes[folder] else {
            panic!("a folder was expected");
        };
        enter(&mut folder.live, &changes);
        folder.pending.push((event, changes));
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let below = path.strip_prefix(&self.root).ok()?;
        below
            .components()
            .try_fold(0, |at, name| match &self.nodes[at] {
                Node::Folder(folder) => folder
                    .live
                    .get(name.as_os_str().to_str().expect("plain names"))
                    .copied(),
                Node::File(_) => None,
            })
    }

    fn must_find(&self, path: &Path) -> usize {
        self.find(path)
            .unwrap_or_else(|| panic!("{} is not in the recording", path.display()))
    }

    fn parent(&self, path: &Path) -> usize {
        self.must_find(path.parent().expect("all paths are below the root"))
    }

    fn file(&mut self, path: &Path) -> &mut File {
        let node = self.must_find(path);
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Folder(_) => panic!("{} is a folder", path.display()),
        }
    }

    /// Writes what is found after power was cut now under the folders that `cut` says; elsewhere what
    /// the processes see.
    pub(crate) fn image(
        &self,
        to: &Path,
        cut: &dyn Fn(&Path) -> bool,
        fate: Fate,
        chance: &mut Chance,
    ) -> io::Result<()> {
        self.image_of(0, Path::new(""), to, cut, fate, chance)
    }

    fn image_of(
        &self,
        node: usize,
        below: &Path,
        to: &Path,
        cut: &dyn Fn(&Path) -> bool,
        fate: Fate,
        chance: &mut Chance,
    ) -> io::Result<()> {
        match &self.nodes[node] {
            Node::File(file) if cut(below) => {
                fs::write(to.join(below), file.after_cut(fate, chance))
            }
            Node::File(file) => fs::write(to.join(below), &file.live),
            Node::Folder(folder) => {
                fs::create_dir_all(to.join(below))?;
                for (name, node) in folder.after_cut(&|name| cut(&below.join(name)), fate, chance) {
                    // LMDB's table of readers is made anew at each start.
                    if name != "lock.mdb" {
                        self.image_of(node, &below.join(name), to, cut, fate, chance)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl File {
    fn write(&mut self, event: usize, offset: usize, bytes: &[u8]) {
        put(&mut self.live, offset, bytes);
        let first = offset / SECTOR * SECTOR;
        let end = (offset + bytes.len())
            .next_multiple_of(SECTOR)
            .min(self.live.len());
        let what = PieceOf::Sectors(first, self.live[first..end].to_vec());
        self.pending.push(Piece { event, what });
    }

    fn harden(&mut self, covered: impl Fn(usize) -> bool) {
        let durable = &mut self.durable;
        self.pending.retain(|piece| {
            let covered = covered(piece.event);
            if covered {
                match &piece.what {
                    PieceOf::Length(length) => durable.resize(*length, 0),
                    PieceOf::Sectors(offset, bytes) => put(durable, *offset, bytes),
                }
            }
            !covered
        });
    }

    fn after_cut(&self, fate: Fate, chance: &mut Chance) -> Vec<u8> {
        let mut content = self.durable.clone();
        for piece in &self.pending {
            match &piece.what {
                PieceOf::Length(length) => {
                    if chance.percent(fate.survive) {
                        content.resize(*length, 0);
                    }
                }
                PieceOf::Sectors(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let place = offset + at;
                        let end = ((place / fate.unit + 1) * fate.unit - offset).min(bytes.len());
                        if chance.percent(fate.survive) {
                            put(&mut content, place, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        content
    }
}

impl Folder {
    fn after_cut(
        &self,
        cut: &dyn Fn(&str) -> bool,
        fate: Fate,
        chance: &mut Chance,
    ) -> BTreeMap<String, usize> {
        let mut entries = self.durable.clone();
        let mut journal_holds = true;
        for (_, changes) in &self.pending {
            let survives = if fate.journal {
                journal_holds &= chance.percent(fate.survive);
                journal_holds
            } else {
                chance.percent(fate.survive)
            };
            if survives || !changes.iter().any(|(name, _)| cut(name)) {
                enter(&mut entries, changes);
            }
        }
        entries
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("plain names")
        .to_owned()
}
