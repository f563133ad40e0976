//! Servers at work, with everything that they do to their disks.

use std::collections::BTreeSet;
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
        let root = scene.path().join(DATA);
        let mut events = Vec::new();
        for trace in &self.traces {
            await_written(trace);
            events.extend(read(trace, scene.path(), &root));
        }
        events.sort_by_key(|event| event.begun);
        let below = |path: &PathBuf| {
            let below = path.strip_prefix(&root).expect("data is below the root");
            below.to_path_buf()
        };
        let mut recording = Recording {
            steps: steps(&events),
            events: events.into(),
            folders: folders.to_vec(),
            servers: Vec::new(),
            lock_file: lock_file.as_ref().map(below),
            forgiven_from: u64::MAX,
            root: root.clone(),
            scene,
        };
        recording.assert_complete();
        for dir in dirs {
            let found = look(dir).expect("it was stopped in order");
            let node = found.expect("there is a store").node;
            recording.servers.push((below(dir), node));
        }
        recording
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
    fn assert_complete(&self) {
        let mut disk = self.disk();
        for step in &self.steps {
            disk.step(*step);
        }
        let image = self.scene.path().join("replayed");
        let nowhere = |_: &Path| false;
        disk.image(&image, &nowhere, crate::disk::Fate::NOTHING, &mut Chance(0))
            .expect("the scene's folder can be written");
        let (there, replayed) = (files_below(&self.root), files_below(&image));
        assert_eq!(
            there.keys().collect::<Vec<_>>(),
            replayed.keys().collect::<Vec<_>>(),
            "the names of the recording are those that are there"
        );
        for (name, content) in &there {
            assert!(replayed[name] == *content, "{} differs", name.display());
        }
        fs::remove_dir_all(&image).expect("it was just made");
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

fn files_below(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
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
