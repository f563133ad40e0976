//! The same trials with both machines at once. They meet on the share itself, so that nothing but
//! the share is trusted: each writes what it has to say into a file of a folder of its own name, and
//! reads the other's.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report::Report;
use super::trial::{Asked, Holder, Scratch, await_lock, heartbeat, judge_race, open, race, record};
use crate::config::{Config, HaConfig};
use crate::io::file_lock::try_lock;
use crate::machines::link::{Unequal, unequal};
use crate::proto::arbiter::{ArbiterAnswer, ArbiterCall};
use crate::proto::ids::NodeId;
use crate::time::{Clock, Moment, SystemClock};

/// How long the other machine may take to begin.
const MEET: Duration = Duration::from_secs(120);
/// How long one step of the other may take.
const STEP: Duration = Duration::from_secs(60);
/// A message may not be longer, in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// Compare-and-sets that both race for.
const RACES: u64 = 40;
/// Exchanges by which the share's delay is measured.
const ECHOES: u64 = 10;

/// Who each of the two is.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    /// Tells this run from an earlier one's remains.
    run: u64,
    host: String,
    version: String,
    cluster: String,
    must_agree: Vec<(String, String)>,
    boot: String,
    uid: u32,
}

/// Runs the trials; the other machine must run the same command within two minutes.
pub(super) fn try_out(report: &mut Report, config: &Config, ha: &HaConfig) {
    report.topic("the share, with the other machine");
    // One folder for both, removed by the primary.
    let name = format!(".twinmq-check-{}", ha.cluster);
    let scratch = match Scratch::beside(&ha.lock_file, &name) {
        Ok(scratch) => scratch,
        Err(cause) => {
            return report.bad(
                format!("no folder can be made beside the lock file: {cause}"),
                "give this user write permission on it",
            );
        }
    };
    let folder = scratch.folder.clone();
    let mut talk = Talk::new(&folder, ha.primary);
    if let Err(why) = all(report, &mut talk, config, ha) {
        report.bad(
            why,
            "run `twinmq check --with-peer` with the peer's profile on the other machine at the \
             same time; if it ran, the two do not see the same folder",
        );
    }
    if !ha.primary {
        // The primary may still read.
        scratch.leave();
    }
}

fn all(report: &mut Report, talk: &mut Talk, config: &Config, ha: &HaConfig) -> Result<(), String> {
    let greeting = greet(talk, config, ha)?;
    judge_greeting(report, &greeting, config);
    echo(report, talk, ha)?;
    let turns = if ha.primary {
        [true, false]
    } else {
        [false, true]
    };
    for (index, mine) in turns.into_iter().enumerate() {
        let path = talk.folder.join(format!("lock{index}"));
        if mine {
            hold_for_the_other(talk, &path)?;
        } else {
            try_against_the_other(report, talk, &path, ha)?;
        }
    }
    both_race(report, talk, ha)?;
    loss(report, talk, ha)?;
    // The primary removes the folder: not before the secondary has read everything.
    if ha.primary {
        talk.hear::<String>(STEP).map(|_| ())
    } else {
        talk.say(&"read everything")
    }
}

fn greet(talk: &mut Talk, config: &Config, ha: &HaConfig) -> Result<Greeting, String> {
    let own = Greeting {
        run: talk.run,
        host: nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: ha.cluster.clone(),
        must_agree: config.must_agree(),
        boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        uid: nix::unistd::geteuid().as_raw(),
    };
    talk.meet(&own)
}

fn judge_greeting(report: &mut Report, other: &Greeting, config: &Config) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    report.good(format!(
        "{} runs the check too, version {}",
        other.host, other.version
    ));
    if other.boot == boot {
        report.note("both are on one machine: what follows says nothing of a second one");
    }
    let uid = nix::unistd::geteuid().as_raw();
    if other.uid == uid {
        report.good(format!("both run as user id {uid}"));
    } else {
        report.bad(
            format!("this is user id {uid}, the other {}", other.uid),
            "run both servers as the same user id: each must write the other's files on the share",
        );
    }
    let own = config.must_agree();
    let differing = difference(&own, &other.must_agree);
    if differing.is_empty() {
        report.good("the values that must be equal on both servers are");
    } else {
        report.bad(
            format!("values that must be equal differ:\n{differing}"),
            "make them equal: the server that is not serving refuses to run otherwise",
        );
    }
}

/// The lines that differ, as a diff of two profiles: `-` here, `+` there.
fn difference(own: &[(String, String)], other: &[(String, String)]) -> String {
    let mut lines = Vec::new();
    for Unequal { key, own, theirs } in unequal(own, other) {
        for (sign, found) in [('-', own), ('+', theirs)] {
            let found = found.unwrap_or_else(|| "(not known)".to_owned());
            lines.push(format!("         {sign} {key} = {found}"));
        }
    }
    lines.join("\n")
}

/// Messages to and fro: how long the share takes to show a change to the other machine.
fn echo(report: &mut Report, talk: &mut Talk, ha: &HaConfig) -> Result<(), String> {
    let mut trips = Vec::new();
    for _ in 0..ECHOES {
        let began = SystemClock.now();
        if ha.primary {
            talk.say(&())?;
            talk.hear::<()>(STEP)?;
        } else {
            talk.hear::<()>(STEP)?;
            talk.say(&())?;
        }
        trips.push(SystemClock.now().since(began));
    }
    trips.sort_unstable();
    let worst = trips.last().copied().unwrap_or_default();
    let text = format!(
        "a change is seen by the other machine and answered within {} ms, at worst {} ms",
        trips[trips.len() / 2].as_millis(),
        worst.as_millis()
    );
    if worst > ha.active_interval {
        report.warn(
            format!("{text}: longer than active_lock_re_acquisition_interval_ms"),
            "mount the share with actimeo=0,lookupcache=none on both machines: else a holder may \
             learn late that it was fenced",
        );
    } else {
        report.good(text);
    }
    Ok(())
}

fn hold_for_the_other(talk: &mut Talk, path: &Path) -> Result<(), String> {
    let holder = Holder::start(path)?;
    talk.say(&"held")?;
    talk.hear::<String>(STEP)?;
    holder.kill().map_err(|cause| cause.to_string())?;
    talk.say(&"killed")?;
    talk.hear::<String>(STEP.saturating_mul(3)).map(|_| ())
}

fn try_against_the_other(
    report: &mut Report,
    talk: &mut Talk,
    path: &Path,
    ha: &HaConfig,
) -> Result<(), String> {
    talk.hear::<String>(STEP)?;
    let file = open(path).map_err(|cause| cause.to_string())?;
    let obtained = try_lock(&file).map_err(|cause| format!("the lock fails: {cause}"))?;
    talk.say(&"tried")?;
    talk.hear::<String>(STEP)?;
    if obtained {
        report.bad(
            "a lock that the other machine holds was obtained here: locks stay on each machine",
            "mount without nolock, local_lock and nobrl; both must mount the same export",
        );
    } else {
        match await_lock(&file, STEP.saturating_mul(2)).map_err(|cause| cause.to_string())? {
            Some(took) if took <= ha.passive_interval => report.good(format!(
                "a lock that the other machine holds is refused, and free {} ms after its process \
                 was killed",
                took.as_millis()
            )),
            Some(took) => report.warn(
                format!(
                    "the lock of a process that was killed on the other machine is free only after \
                     {} ms",
                    took.as_millis()
                ),
                "ha.lock.takeover = \"fence\" does not wait for it",
            ),
            None => report.bad(
                "the lock of a process that was killed on the other machine stays held",
                "this share keeps locks too long: use NFSv4, and ha.lock.takeover = \"fence\"",
            ),
        }
    }
    talk.say(&"done")
}

fn both_race(report: &mut Report, talk: &mut Talk, ha: &HaConfig) -> Result<(), String> {
    let path = talk.folder.join("race.lck");
    let asked = Asked::on(&path).map_err(|cause| cause.to_string())?;
    let own = NodeId([if ha.primary { 1 } else { 2 }; 16]);
    if ha.primary {
        match asked.ask(ArbiterCall::Create(record(1, own)))? {
            ArbiterAnswer::Created(_) => {}
            other => return Err(format!("no record can be made: {other:?}")),
        }
    }
    talk.say(&"ready")?;
    talk.hear::<String>(STEP)?;
    let won = race(&asked, own, RACES)?;
    talk.say(&won)?;
    let theirs: Vec<u64> = talk.hear(STEP.saturating_mul(2))?;
    match judge_race(&won, &theirs) {
        Ok(()) => report.good(format!(
            "the record has one winner per change: {} races, {} won here and {} there",
            RACES.saturating_sub(1),
            won.len(),
            theirs.len()
        )),
        Err(why) => report.bad(
            why,
            "link() does not exclude across machines on this share: use NFSv4",
        ),
    }
    Ok(())
}

/// The secondary replaces a lock file that the primary holds.
fn loss(report: &mut Report, talk: &mut Talk, ha: &HaConfig) -> Result<(), String> {
    let path = talk.folder.join("loss.lck");
    if !ha.primary {
        talk.hear::<String>(STEP)?;
        fs::remove_file(&path).map_err(|cause| cause.to_string())?;
        talk.say(&"deleted")?;
        talk.hear::<String>(STEP)?;
        return Ok(());
    }
    let asked = Asked::on(&path).map_err(|cause| cause.to_string())?;
    asked.ask(ArbiterCall::Create(record(1, NodeId([1; 16]))))?;
    asked.ask(ArbiterCall::TryLock)?;
    asked.ask(ArbiterCall::Check(heartbeat(1)))?;
    talk.say(&"held")?;
    talk.hear::<String>(STEP)?;
    let began = SystemClock.now();
    let mut counter = 1_u64;
    let noticed = loop {
        counter = counter.saturating_add(1);
        if let ArbiterAnswer::Lost(_) = asked.ask(ArbiterCall::Check(heartbeat(counter)))? {
            break true;
        }
        if SystemClock.now().since(began) > ha.lease_ttl() {
            break false;
        }
        thread::sleep(ha.active_interval / 10);
    };
    if noticed {
        report.good(format!(
            "a lock file that the other machine deletes is noticed within {} ms",
            SystemClock.now().since(began).as_millis()
        ));
    } else {
        report.warn(
            "a lock file that the other machine deletes is not noticed within the lease",
            "mount the share with actimeo=0,lookupcache=none on both machines",
        );
    }
    talk.say(&"done")
}

/// Numbered messages over the share.
struct Talk {
    folder: PathBuf,
    run: u64,
    own: &'static str,
    other: &'static str,
    said: u64,
    heard: u64,
}

impl Talk {
    fn new(folder: &Path, primary: bool) -> Self {
        let (own, other) = if primary {
            ("primary", "secondary")
        } else {
            ("secondary", "primary")
        };
        let mut run = [0; 8];
        getrandom::fill(&mut run).expect("the kernel has random bytes once it has booted");
        Self {
            folder: folder.to_owned(),
            run: u64::from_be_bytes(run),
            own,
            other,
            said: 0,
            heard: 0,
        }
    }

    /// Greets until both have seen this run of the other, not one that a crash has left behind.
    fn meet(&mut self, own: &Greeting) -> Result<Greeting, String> {
        self.clear();
        write(&self.file(self.own, "greeting"), own)?;
        let began = SystemClock.now();
        loop {
            let theirs: Option<Greeting> = read(&self.file(self.other, "greeting"));
            if let Some(theirs) = theirs {
                write(&self.file(self.own, "met"), &theirs.run)?;
                if read::<u64>(&self.file(self.other, "met")) == Some(self.run) {
                    // Its greeting came before that; the one read above may be an earlier run's.
                    let theirs: Greeting =
                        read(&self.file(self.other, "greeting")).unwrap_or(theirs);
                    write(&self.file(self.own, "met"), &theirs.run)?;
                    return Ok(theirs);
                }
            }
            if SystemClock.now().since(began) > MEET {
                return Err(format!(
                    "the other machine did not come to {} within {} s",
                    self.folder.display(),
                    MEET.as_secs()
                ));
            }
            // Written again: the other may have cleared the folder of an earlier run meanwhile.
            write(&self.file(self.own, "greeting"), own)?;
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn say(&mut self, value: &impl Serialize) -> Result<(), String> {
        self.said = self.said.saturating_add(1);
        write(&self.file(self.own, &self.said.to_string()), value)
    }

    fn hear<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T, String> {
        self.heard = self.heard.saturating_add(1);
        let path = self.file(self.other, &self.heard.to_string());
        let until: Moment = SystemClock.now().after(patience);
        loop {
            if let Some(value) = read(&path) {
                return Ok(value);
            }
            if SystemClock.now() > until {
                return Err(format!(
                    "the other machine did not answer within {} s",
                    patience.as_secs()
                ));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn file(&self, who: &str, what: &str) -> PathBuf {
        self.folder.join(format!("{who}.{what}"))
    }

    /// Own files of an earlier run.
    fn clear(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let own = name
                .to_str()
                .is_some_and(|name| name.starts_with(&format!("{}.", self.own)));
            let trial = name.to_str().is_some_and(|name| {
                !name.starts_with("primary.") && !name.starts_with("secondary.")
            });
            if own || (trial && self.own == "primary") {
                remove(&entry.path());
            }
        }
    }
}

fn remove(path: &Path) {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    if let Err(cause) = removed {
        tracing::debug!(target: "twinmq::check", file = %path.display(), %cause, "not removed");
    }
}

/// By a rename, so that it is never seen half.
fn write(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let text = serde_json::to_vec(value).map_err(|cause| cause.to_string())?;
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .map_err(|cause| format!("{}: {cause}", path.display()))
}

/// None: not there yet, or not to be understood.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let metadata = fs::metadata(path).ok()?;
    if metadata.len() > MESSAGE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_reads_as_a_diff() {
        let list = |port: &str| {
            vec![
                ("mode".to_owned(), "replicated".to_owned()),
                ("port".to_owned(), port.to_owned()),
            ]
        };
        assert_eq!(difference(&list("7"), &list("7")), "");
        assert_eq!(
            difference(&list("7"), &list("8")),
            "         - port = 7\n         + port = 8"
        );
        assert_eq!(
            difference(&list("7"), &[]),
            "         - mode = replicated\n         + mode = (not known)\n         - port = 7\n         \
             + port = (not known)"
        );
    }

    #[test]
    fn two_talk_over_a_folder_that_an_earlier_run_has_left_messages_in() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secondary.1"), "\"old\"").unwrap();
        fs::write(folder.path().join("secondary.met"), "5").unwrap();
        let path = folder.path().to_owned();
        let greeting = |talk: &Talk| Greeting {
            run: talk.run,
            host: talk.own.to_owned(),
            version: String::new(),
            cluster: String::new(),
            must_agree: Vec::new(),
            boot: String::new(),
            uid: 0,
        };
        let secondary = thread::spawn(move || {
            let mut talk = Talk::new(&path, false);
            let other = talk.meet(&greeting(&talk)).unwrap();
            talk.say(&"new").unwrap();
            (other.host, talk.hear::<u64>(STEP).unwrap())
        });
        let mut talk = Talk::new(folder.path(), true);
        let other = talk.meet(&greeting(&talk)).unwrap();
        assert_eq!(other.host, "secondary");
        assert_eq!(talk.hear::<String>(STEP).unwrap(), "new");
        talk.say(&7).unwrap();
        assert_eq!(secondary.join().unwrap(), ("primary".to_owned(), 7));
    }
}
