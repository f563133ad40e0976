//! Disks after a power cut, by the thousand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::thread;

use tempfile::TempDir;

use crate::disk::{Fate, Step};
use crate::recording::Recording;
use crate::scenes;
use crate::stragglers;
use crate::support::chance::{Chance, number_from};
use crate::support::pair::copy;
use crate::support::server::FORKS;
use crate::test_name;
use crate::trace::{Change, Event};
use crate::verdict::{Promises, judge_alone, judge_pair, start};

/// Images in a plain `cargo test`.
const IMAGES: u64 = 2000;
/// A long run says after so many images how far it is.
const SPOKEN_OF: u64 = 1000;
/// So many failures are shown.
const SHOWN: usize = 5;

/// What one image is made of: everything else is drawn from its seed.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The last step before power goes.
    step: usize,
    seed: u64,
}

#[derive(Debug, Default)]
struct Tally {
    images: u64,
    /// By which parts lost power.
    by_parts: BTreeMap<String, u64>,
    /// Confirms that had left before the cut, over all images.
    promises: u64,
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.images += other.images;
        self.promises += other.promises;
        for (parts, count) in other.by_parts {
            *self.by_parts.entry(parts).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

/// Memory, where the system offers it as a folder: the images are only read once.
fn image_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR"))
    };
    tempfile::Builder::new()
        .prefix("twinmq-power")
        .tempdir_in(place)
        .expect("a folder for images can be made")
}

/// Half of the cuts are anywhere, half are near the rare steps: of folders, of files beside the
/// store's own, of syncs.
fn draw(recording: &Recording, count: u64, seed: u64) -> Vec<Cut> {
    let steps = &recording.steps;
    let rare: Vec<usize> = (0..steps.len())
        .filter(|step| is_rare(&recording.events[steps[*step].event].what))
        .collect();
    let mut chance = Chance(seed);
    let mut cuts: Vec<Cut> = (0..count)
        .map(|_| {
            let step = if chance.percent(50) {
                chance.below(steps.len())
            } else {
                let near = rare[chance.below(rare.len())] + chance.below(5);
                near.saturating_sub(2).min(steps.len() - 1)
            };
            let seed = chance.next();
            Cut { step, seed }
        })
        .collect();
    cuts.sort_by_key(|cut| cut.step);
    cuts
}

fn is_rare(change: &Change) -> bool {
    match change {
        // For people, and never synced: too many to be rare.
        Change::Append { .. } | Change::Confirm(_) => false,
        Change::Write { path, .. } | Change::Sync(path) => !path.ends_with("data.mdb"),
        _ => true,
    }
}

/// Makes and judges images at these cuts, which are in order.
fn judge_all(recording: &Recording, cuts: &[Cut], name: &str) -> Tally {
    let folder = image_folder();
    let mut disk = recording.disk();
    let mut promises = Promises::default();
    let mut tally = Tally::default();
    let mut next = 0;
    for (number, cut) in cuts.iter().enumerate() {
        while next <= cut.step {
            disk.step(recording.steps[next]);
            recording.note(recording.steps[next], &mut promises);
            next += 1;
        }
        let mut chance = Chance(cut.seed);
        let parts = Parts::draw(recording, &mut chance);
        let fate = Fate::draw(&mut chance);
        let image = folder.path().join(number.to_string());
        disk.image(&image, &|path| parts.lost(path), fate, &mut chance)
            .expect("there is room for an image");
        tally.images += 1;
        tally.promises += promises.len() as u64;
        *tally.by_parts.entry(parts.name()).or_default() += 1;
        let judged = {
            let _no_forks = FORKS.read().unwrap_or_else(PoisonError::into_inner);
            judge(recording, &image, &promises, chance.percent(12))
        };
        if let Err(why) = judged {
            let kept = recording.scene.path().join(format!("{name}.{number}"));
            // The image was opened: what is kept shows what recovery made of it.
            copy(&image, &kept);
            tally.failures.push(format!(
                "{why}\n  {} lost power after step {} of {}, {fate:?}, {cut:?}\n  {}",
                parts.name(),
                cut.step,
                recording.steps.len(),
                around(recording, cut.step),
            ));
        }
        fs::remove_dir_all(&image).expect("it was just made");
        if tally.images.is_multiple_of(SPOKEN_OF) {
            let (images, failures) = (tally.images, tally.failures.len());
            eprintln!(
                "{name}: {images} of {} images, {failures} failures",
                cuts.len()
            );
        }
    }
    tally
}

/// The last calls before a cut, for people.
fn around(recording: &Recording, step: usize) -> String {
    let shown: Vec<String> = recording.steps[step.saturating_sub(8)..=step]
        .iter()
        .map(|step| describe(*step, &recording.events[step.event]))
        .collect();
    shown.join("\n  ")
}

fn describe(step: Step, event: &Event) -> String {
    let what = match &event.what {
        Change::Write {
            path,
            offset,
            bytes,
            ..
        } => format!("write {} at {offset} to {}", bytes.len(), path.display()),
        Change::Append { path, bytes } => format!("append {} to {}", bytes.len(), path.display()),
        other => format!("{other:?}"),
    };
    let verb = if step.begins() { "begins" } else { "ends" };
    format!("{verb}: {what}")
}

fn judge(
    recording: &Recording,
    image: &Path,
    promises: &Promises,
    whole: bool,
) -> Result<(), String> {
    if let Some(lock_file) = &recording.lock_file {
        let dirs: Vec<_> = recording
            .servers
            .iter()
            .map(|(dir, node)| (image.join(dir), *node))
            .collect();
        return judge_pair(&dirs, &image.join(lock_file), promises);
    }
    let (dir, node) = &recording.servers[0];
    let dir = image.join(dir);
    match judge_alone(&dir, promises, *node)? {
        Some(store) if whole => start(&dir, &store),
        _ => Ok(()),
    }
}

/// The machines that lose power.
struct Parts(Vec<PathBuf>);

impl Parts {
    fn draw(recording: &Recording, chance: &mut Chance) -> Self {
        let mut all: Vec<PathBuf> = recording.servers.iter().map(|it| it.0.clone()).collect();
        if let Some(lock_file) = &recording.lock_file {
            let share = lock_file.parent().expect("it is in a folder");
            all.push(share.to_path_buf());
        }
        // Everything at once as often as any selection.
        if chance.percent(60) {
            let chosen = 1 + chance.below((1 << all.len()) - 1);
            let mut bit = 0;
            all.retain(|_| {
                bit += 1;
                chosen & (1 << (bit - 1)) != 0
            });
        }
        Self(all)
    }

    fn lost(&self, path: &Path) -> bool {
        self.0.iter().any(|part| path.starts_with(part))
    }

    fn name(&self) -> String {
        let names: Vec<_> = self
            .0
            .iter()
            .filter_map(|part| part.file_name()?.to_str())
            .collect();
        names.join("+")
    }
}

fn run(recording: &Recording, name: &str, share: u64) {
    let images = number_from("TWINMQ_IMAGES").unwrap_or(IMAGES) * share / 100;
    let seed = number_from("TWINMQ_SEED").unwrap_or_else(|| crate::support::eventually::now().0);
    eprintln!("{name}: {images} images, TWINMQ_SEED={seed}");
    let cuts = draw(recording, images, seed);
    // Late images are larger than early ones: each takes every other.
    let every_other =
        |from: usize| -> Vec<Cut> { cuts.iter().skip(from).step_by(2).copied().collect() };
    let (one, two) = (every_other(0), every_other(1));
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let other = scope.spawn(|| judge_all(recording, &one, &format!("{name}.a")));
        tally.add(judge_all(recording, &two, &format!("{name}.b")));
        tally.add(other.join().expect("the judge does not panic"));
    });
    eprintln!(
        "{name}: {} images of {} steps, {} confirms weighed, cut: {:?}, {} failures",
        tally.images,
        recording.steps.len(),
        tally.promises,
        tally.by_parts,
        tally.failures.len()
    );
    let shown: Vec<&String> = tally.failures.iter().take(SHOWN).collect();
    assert!(
        tally.failures.is_empty(),
        "TWINMQ_SEED={seed}: {} of {} images are wrong, such as:\n{}",
        tally.failures.len(),
        tally.images,
        shown
            .into_iter()
            .map(|it| format!("* {it}\n"))
            .collect::<String>()
    );
}

/// What is said of a disk that lied, when power goes at a step and nothing survives but what was
/// synced.
pub(crate) fn judge_liar(
    recording: &Recording,
    last: usize,
    lies: impl Fn(usize, &Path) -> bool,
) -> Result<(), String> {
    let mut disk = recording.lying_disk(lies);
    let mut promises = Promises::default();
    for step in &recording.steps[..=last] {
        disk.step(*step);
        recording.note(*step, &mut promises);
    }
    let folder = image_folder();
    disk.image(folder.path(), &|_| true, Fate::NOTHING, &mut Chance(0))
        .expect("there is room for an image");
    judge(recording, folder.path(), &promises, false)
}

/// The steps at which a confirm leaves.
fn confirms(recording: &Recording) -> Vec<usize> {
    let steps = recording.steps.iter().enumerate();
    let leaves = |step: &Step| {
        let event = &recording.events[step.event];
        matches!(event.what, Change::Confirm(_)) && event.begun < recording.forgiven_from
    };
    steps.filter(|it| leaves(it.1)).map(|it| it.0).collect()
}

#[test]
fn one_flush_that_did_not_happen_is_found_at_the_next_confirm() {
    let recording = scenes::alone(test_name!());
    let confirms = confirms(&recording);
    let (mut found, mut tried) = (0, 0);
    for last in confirms.iter().rev().step_by(3).take(20) {
        assert_eq!(judge_liar(&recording, *last, |_, _| false), Ok(()));
        let flushed = recording.steps[..*last]
            .iter()
            .rfind(|step| {
                !step.begins() && matches!(recording.events[step.event].what, Change::Sync(_))
            })
            .expect("a confirm comes after a flush");
        tried += 1;
        let judged = judge_liar(&recording, *last, |event, _| event == flushed.event);
        found += usize::from(judged.is_err_and(|why| why.contains("lost") || why.contains("owed")));
    }
    // Where the flush was that of a later commit already, nothing is lost by it.
    assert!(found * 2 > tried, "{found} of {tried}");
    eprintln!("a lying flush was found at {found} of {tried} confirms");
    let last = *confirms.last().expect("there are some");
    let judged = judge_liar(&recording, last, |_, path| path.ends_with("node"));
    assert!(judged.is_err_and(|why| why.contains("identity")));
    let judged = judge_liar(&recording, last, |_, path| path.ends_with("standalone"));
    assert!(judged.is_err());
}

#[test]
fn a_server_alone_loses_nothing_by_a_power_cut() {
    let recording = scenes::alone(test_name!());
    run(&recording, "alone", 45);
}

#[test]
fn a_server_that_collects_its_log_loses_nothing_by_a_power_cut() {
    let recording = scenes::collected(test_name!());
    run(&recording, "collected", 5);
}

#[test]
fn a_store_that_appends_again_what_is_left_loses_nothing_by_a_power_cut() {
    let recording = stragglers::strewn(test_name!());
    run(&recording, "strewn", 15);
}

#[test]
fn a_pair_loses_nothing_by_a_power_cut_of_any_of_its_machines() {
    let recording = scenes::pair(test_name!());
    run(&recording, "pair", 50);
    let last = *confirms(&recording).last().expect("there are some");
    assert_eq!(judge_liar(&recording, last, |_, _| false), Ok(()));
    let records = |_, path: &Path| path.ends_with("replicated.lck.d");
    let judged = judge_liar(&recording, last, records);
    assert!(judged.is_err_and(|why| why.contains("record")));
}
