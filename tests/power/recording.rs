//! Servers at work, with everything that they do to their disks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twinmq::proto::ids::NodeId;

use crate::disk::{Disk, Step, steps};
use crate::support::chance::Chance;
use crate::support::pair::Scene;
use crate::support::server::Server;
use crate::support::strace::{around, await_written};
use crate::trace::{Change, Event, arguments, read};
use crate::verdict::{Promises, look};

/// All data is below this folder of a scene.
const DATA: &str = "data";
/// Calls of one recording that may not have been carried out: a thread or two of each process that ended.
const DOUBTFUL_MAX: usize = 8;

/// Records one scene.
#[derive(Default)]
pub(crate) struct Recorder {
    traces: Vec<PathBuf>,
}

impl Recorder {
    /// What a server is to be started under.
    pub(crate) fn wrapper(&mut self, scene: &Path) -> Vec<String> {
        self.spoiling_wrapper(scene, None)
    }

    /// The same with an `inject` expression of strace's.
    pub(crate) fn spoiling_wrapper(&mut self, scene: &Path, inject: Option<&str>) -> Vec<String> {
        let trace = scene.join(format!("trace.{}", self.traces.len()));
        let words = around(&trace, &arguments(inject));
        self.traces.push(trace);
        words
    }

    pub(crate) fn start(&mut self, server: &mut Server, scene: &Path) {
        let wrapper = self.wrapper(scene);
        server.start_under(wrapper);
    }

    /// Everything runs no more: reads what was recorded. `folders` were there before.
    pub(crate) fn finish(
        self,
        scene: Scene,
        folders: &[&'static str],
        dirs: &[PathBuf],
        lock_file: Option<PathBuf>,
    ) -> Recording {
        let mut recording = self.read(scene, folders);
        let settled = recording.settle();
        settled.unwrap_or_else(|difference| panic!("{difference}"));
        let below = |path: &Path| {
            let below = path.strip_prefix(&recording.root);
            below.expect("data is below the root").to_path_buf()
        };
        recording.lock_file = lock_file.as_deref().map(below);
        for dir in dirs {
            let found = look(dir).expect("it was stopped in order");
            let node = found.expect("there is a store").node;
            recording.servers.push((below(dir), node));
        }
        recording
    }

    fn read(self, scene: Scene, folders: &[&'static str]) -> Recording {
        let root = scene.path().join(DATA);
        let mut events = Vec::new();
        for trace in &self.traces {
            await_written(trace);
            events.extend(read(trace, scene.path(), &root));
        }
        events.sort_by_key(|event| event.begun);
        Recording {
            steps: steps(&events),
            events: events.into(),
            folders: folders.to_vec(),
            servers: Vec::new(),
            lock_file: None,
            forgiven_from: u64::MAX,
            root,
            scene,
        }
    }
}

pub(crate) struct Recording {
    pub(crate) events: Arc<[Event]>,
    pub(crate) steps: Vec<Step>,
    folders: Vec<&'static str>,
    /// Their data directories, below the root.
    pub(crate) servers: Vec<(PathBuf, NodeId)>,
    /// Below the root.
    pub(crate) lock_file: Option<PathBuf>,
    /// From then on nothing is promised: an operator emptied the store.
    pub(crate) forgiven_from: u64,
    root: PathBuf,
    /// Where the traces are.
    pub(crate) scene: Scene,
}

impl Recording {
    pub(crate) fn disk(&self) -> Disk {
        Disk::new(Arc::clone(&self.events), &self.root, &self.folders)
    }

    /// A disk that says of some syncs that they are done, and does nothing.
    pub(crate) fn lying_disk(&self, lies: impl Fn(usize, &Path) -> bool) -> Disk {
        let mut events = self.events.to_vec();
        for (number, event) in events.iter_mut().enumerate() {
            if let Change::Sync(path) = &event.what
                && lies(number, path)
            {
                event.what = Change::Confirm(Vec::new());
            }
        }
        Disk::new(events.into(), &self.root, &self.folders)
    }

    /// Replayed, it gives the files that are there: nothing was missed or misread.
    ///
    /// Where a process ends while one of its threads is in a call, strace shows that call without a
    /// result, whether the kernel carried it out or not. The files tell.
    ///
    /// # Errors
    /// In words: what differs.
    fn settle(&mut self) -> Result<(), String> {
        let there = files_below(&self.root);
        let all = Arc::clone(&self.events);
        let doubtful: Vec<usize> = (0..all.len()).filter(|at| is_doubtful(&all[*at])).collect();
        let count = doubtful.len();
        assert!(count <= DOUBTFUL_MAX, "{count} calls did not return");
        let settled = (0..1_usize << count).any(|choice| {
            let left_out = |at: &usize| {
                let place = doubtful.binary_search(at);
                place.is_ok_and(|place| choice >> place & 1 == 1)
            };
            let kept = (0..all.len()).filter(|at| !left_out(at));
            let kept: Vec<Event> = kept.map(|at| all[at].clone()).collect();
            self.steps = steps(&kept);
            self.events = kept.into();
            self.replayed() == there
        });
        if settled {
            return Ok(());
        }
        self.steps = steps(&all);
        self.events = all;
        let replayed = self.replayed();
        let names = there.keys().chain(replayed.keys());
        let differ: BTreeSet<&PathBuf> = names
            .filter(|name| there.get(*name) != replayed.get(*name))
            .collect();
        Err(format!(
            "replayed, what was recorded does not give the files that are there: {differ:?} differ, \
             with each choice of {count} calls that did not return"
        ))
    }

    /// The files at the end, by what was recorded.
    fn replayed(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut disk = self.disk();
        for step in &self.steps {
            disk.step(*step);
        }
        let image = self.scene.path().join("replayed");
        let nowhere = |_: &Path| false;
        disk.image(&image, &nowhere, crate::disk::Fate::NOTHING, &mut Chance(0))
            .expect("the scene's folder can be written");
        let files = files_below(&image);
        fs::remove_dir_all(&image).expect("it was just made");
        files
    }

    /// Whether the recording has every receipt that the client saw.
    pub(crate) fn assert_has(&self, receipts: &BTreeSet<String>) {
        let recorded: BTreeSet<&String> = self
            .events
            .iter()
            .filter_map(|event| match &event.what {
                Change::Confirm(ids) => Some(ids),
                _ => None,
            })
            .flatten()
            .collect();
        let missed: Vec<&String> = receipts
            .iter()
            .filter(|receipt| !recorded.contains(receipt))
            .collect();
        assert!(missed.is_empty(), "not in the recording: {missed:?}");
    }

    /// What was promised when a step is over, going on from the steps before it.
    pub(crate) fn note(&self, step: Step, promises: &mut Promises) {
        let event = &self.events[step.event];
        if event.begun >= self.forgiven_from {
            *promises = Promises::default();
        } else if let (Change::Confirm(receipts), true) = (&event.what, step.begins()) {
            for receipt in receipts {
                promises.note(receipt);
            }
        }
    }
}

/// It may have changed a file, or not.
fn is_doubtful(event: &Event) -> bool {
    let changes = match event.what {
        Change::Resize { .. } | Change::Write { .. } | Change::Append { .. } => true,
        Change::Create(_)
        | Change::MakeFolder(_)
        | Change::Rename { .. }
        | Change::Link { .. }
        | Change::Remove(_)
        | Change::Sync(_)
        | Change::Confirm(_) => false,
    };
    changes && event.ended.is_none()
}

fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name() != "lock.mdb" {
                let content = fs::read(&path).expect("it can be read");
                let below = path.strip_prefix(folder).expect("it is below");
                files.insert(below.to_path_buf(), content);
            }
        }
    }
    files
}

/// Two appends, in the second of which the process ended, and the file that it left: so many of them are
/// settled on.
#[cfg(test)]
fn settled_on(test: &str, left: &str) -> Result<usize, String> {
    let scene = Scene::new(test);
    let file = scene.path().join(DATA).join("history");
    fs::create_dir(scene.path().join(DATA)).expect("the scene is empty");
    fs::write(&file, left).expect("it can be written");
    let path = file.display();
    let trace = scene.path().join("trace");
    let lines = [
        format!("7 1.0 openat(3</>, \"{path}\", O_WRONLY|O_CREAT|O_APPEND) = 4<{path}> <0.1>"),
        format!("8 2.0 write(4<{path}>, \"one\\n\", 4) = 4 <0.1>"),
        format!("8 3.0 write(4<{path}>, \"two\\n\", 4 <unfinished ...>"),
        "7 3.1 +++ exited with 0 +++".to_owned(),
        "8 3.2 <... write resumed>) = ?\n".to_owned(),
    ];
    fs::write(&trace, lines.join("\n")).expect("it can be written");
    let traces = vec![trace];
    let mut recording = Recorder { traces }.read(scene, &[]);
    recording.settle()?;
    let events = recording.events.iter();
    Ok(events
        .filter(|event| matches!(event.what, Change::Append { .. }))
        .count())
}

#[test]
fn whether_a_call_was_carried_out_in_which_its_process_ended_the_files_tell() {
    let test = crate::test_name!();
    assert_eq!(settled_on(test, "one\ntwo\n"), Ok(2));
    assert_eq!(settled_on(test, "one\n"), Ok(1));
    let differs = settled_on(test, "two\n").expect_err("the first was carried out");
    assert!(differs.contains("history"), "{differs}");
}
