//! A store of which little is owed, chunk by chunk, so that it appends that again: recorded like a
//! server. A server's own bound would make disks of hundreds of MiB; this process stands in for one,
//! with the shipped store and a bound of its own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use twinmq::proto::ids::{DestId, Epoch, Lsn};
use twinmq::proto::message::{Envelope, MessageWriter, Parts, Properties};
use twinmq::proto::record::{Chunk, LogRecord};
use twinmq::storage::api::{
    Batch, Committed, Draft, GatePolicy, Job, SPACE_DESTINATION, SharedStore, StoreEvent,
    StoreSink, Ticket, Unit,
};
use twinmq::storage::{StoreConfig, open};

use crate::load::FILL;
use crate::recording::{Recorder, Recording};
use crate::support::eventually::SOON;
use crate::support::pair::Scene;
use crate::support::server::FORKS;

/// Says to the recorded process where its store is.
const WHERE: &str = "TWINMQ_RECORDED_STORE";
/// Chunks that each life of it empties, at least, before it ends.
const EMPTIED: usize = 40;
/// Messages of a lot...
const LOT: u64 = 24;
/// ...of which every n-th stays...
const STAYS_EACH: u64 = 10;
/// ...and every n-th is in parts.
const PARTS_EACH: u64 = 4;
/// Lots between two pauses: more than its bound.
const LOTS: usize = 30;
const BODY: usize = 900;
const DEST: DestId = DestId(1);

/// Two lives of a store.
pub(crate) fn strewn(test: &str) -> Recording {
    let scene = Scene::new(test);
    let dir = scene.path().join("data/recorded");
    fs::create_dir_all(scene.path().join("data")).expect("the scene is empty");
    let mut recorder = Recorder::default();
    let mut emptied = Vec::new();
    for _ in 0..2 {
        let words = recorder.wrapper(scene.path());
        let forking = FORKS.write().unwrap_or_else(PoisonError::into_inner);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg(env::current_exe().expect("it runs"))
            .args([
                "--exact",
                "stragglers::this_process_is_recorded",
                "--nocapture",
            ])
            .env(WHERE, &dir)
            .current_dir(scene.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is there");
        drop(forking);
        let output = child.wait_with_output().expect("it is this one's child");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let count = text.lines().find_map(|line| {
            let (_, count) = line.split_once("emptied: ")?;
            count.parse::<usize>().ok()
        });
        emptied.push(count.unwrap_or_else(|| panic!("it ended early: {text}")));
    }
    eprintln!("chunks appended again: {emptied:?}");
    recorder.finish(scene, &[], &[dir], None)
}

/// Does nothing but when it is started to be recorded.
#[test]
fn this_process_is_recorded() {
    if let Some(dir) = env::var_os(WHERE) {
        let emptied = Life::begin(Path::new(&dir)).live();
        eprintln!("emptied: {emptied}");
    }
}

struct Told(Sender<StoreEvent>);

impl StoreSink for Told {
    fn event(&self, event: StoreEvent) {
        // Nobody listens at the very end.
        self.0.send(event).ok();
    }
}

struct Life {
    store: SharedStore,
    told: Receiver<StoreEvent>,
    /// A client, whose receipts are recorded as they leave.
    client: UnixStream,
    last_ticket: u64,
    /// The number of the last message, which is also that of its upload.
    number: u64,
    /// Chunks that were emptied.
    emptied: usize,
}

impl Life {
    fn begin(dir: &Path) -> Self {
        let (sink, told) = channel();
        let mut config = StoreConfig::new(dir, "recorded");
        (config.retain_bytes, config.checkpoint_bytes) = (96 << 10, 48 << 10);
        config.slack_bytes = 0;
        let opened = open(config, Arc::new(Told(sink))).expect("the folder can be written");
        let (client, mut server) = UnixStream::pair().expect("a socket");
        std::thread::spawn(move || {
            let mut heard = [0; 4096];
            while server.read(&mut heard).is_ok_and(|bytes| bytes > 0) {}
        });
        let end = opened.store.log_facts().durable;
        let mut life = Self {
            store: opened.store,
            told,
            client,
            last_ticket: 0,
            // No name is used twice: each message takes an LSN at least.
            number: end.lsn.0,
            emptied: 0,
        };
        life.store.run(1, Job::BeginEpoch(Epoch(end.epoch.0 + 1)));
        life.until(|event| matches!(event, StoreEvent::Done { request: 1, .. }).then_some(()));
        life.store.set_gate(GatePolicy::Alone);
        life.commit(vec![Draft::Kv {
            space: SPACE_DESTINATION,
            key: Bytes::copy_from_slice(&DEST.0.to_be_bytes()),
            value: Bytes::from_static(b"qleft"),
        }]);
        life
    }

    /// Sends and acknowledges until enough was appended again; gives how often.
    fn live(mut self) -> usize {
        while self.emptied < EMPTIED {
            for _ in 0..LOTS {
                self.lot();
            }
            // Nothing is asked of it any more, and there is much to be done.
            let before = self.emptied;
            while self.emptied == before {
                self.until(|event| matches!(event, StoreEvent::Cut(_)).then_some(()));
            }
        }
        // A call under way at the end could not be replayed.
        self.store.close();
        self.emptied
    }

    /// Messages, of which most are taken at once.
    fn lot(&mut self) {
        let names: Vec<(u64, String)> = (0..LOT)
            .map(|_| {
                self.number += 1;
                let kind = if self.number.is_multiple_of(STAYS_EACH) {
                    "kept"
                } else {
                    "done"
                };
                (self.number, format!("{kind}-{}", self.number))
            })
            .collect();
        let parts = self.upload(&names);
        let mut records = Vec::new();
        for (number, name) in &names {
            let properties = Properties::default();
            let writer = MessageWriter::new(&Envelope::default(), &properties, BODY);
            let message = match parts.get(number) {
                Some(parts) => writer.finish_in_parts(parts),
                None => writer.finish(&body_of(name)),
            };
            records.push(Draft::Put {
                targets: vec![DEST],
                message: message.expect("it is small"),
            });
        }
        records.extend(parts.keys().copied().map(Draft::UploadEnded));
        let committed = self.commit(records);
        self.say(names.iter().map(|(_, name)| name.clone()));
        let changes = committed.changes.iter();
        let entries = changes.flat_map(|(_, change)| &change.entries);
        let taken: Vec<(Lsn, &String)> = entries
            .zip(&names)
            .filter(|(_, (_, name))| name.starts_with("done"))
            .map(|(entry, (_, name))| (entry.lsn, name))
            .collect();
        self.commit(vec![Draft::Ack {
            dest: DEST,
            lsns: taken.iter().map(|(lsn, _)| *lsn).collect(),
        }]);
        self.say(taken.iter().map(|(_, name)| format!("ack-{name}")));
    }

    /// The bodies of some of these go first, each in two parts, which lie among those of others.
    fn upload(&mut self, names: &[(u64, String)]) -> BTreeMap<u64, Parts> {
        let large = names.iter().filter(|(number, _)| number % PARTS_EACH == 0);
        let bodies: Vec<(u64, Bytes)> = large
            .map(|(number, name)| (*number, Bytes::from(body_of(name))))
            .collect();
        let half = |range: std::ops::Range<usize>| {
            let bodies = bodies.iter();
            bodies.map(move |(upload, body)| Draft::Part {
                upload: *upload,
                bytes: body.slice(range.clone()),
            })
        };
        let records: Vec<Draft> = half(0..BODY / 3).chain(half(BODY / 3..BODY)).collect();
        let lengths: Vec<usize> = records
            .iter()
            .map(|draft| match draft {
                Draft::Part { bytes, .. } => bytes.len(),
                _ => 0,
            })
            .collect();
        let committed = self.commit(records);
        let mut parts: BTreeMap<u64, Parts> = BTreeMap::new();
        for ((upload, lsn), length) in committed.parts.iter().zip(lengths) {
            assert!(parts.entry(*upload).or_default().push(*lsn, length));
        }
        parts
    }

    fn commit(&mut self, records: Vec<Draft>) -> Committed {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.store.submit(vec![Unit { ticket, records }]);
        self.until(|event| match event {
            StoreEvent::Committed(committed) if committed.tickets.contains(&ticket) => {
                Some(committed.clone())
            }
            _ => None,
        })
    }

    fn say(&mut self, receipts: impl Iterator<Item = String>) {
        for receipt in receipts {
            let frame = format!("RECEIPT\nreceipt-id:{receipt}\n\n\0");
            let written = self.client.write_all(frame.as_bytes());
            written.expect("the other end reads");
        }
    }

    fn until<T>(&mut self, wanted: impl Fn(&StoreEvent) -> Option<T>) -> T {
        loop {
            let event = self.told.recv_timeout(SOON).expect("the store answers");
            match &event {
                StoreEvent::Cut(batch) => self.emptied += relogged(batch),
                StoreEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }
}

fn body_of(name: &str) -> Vec<u8> {
    let mut body = format!("{name} {BODY} ").into_bytes();
    body.resize(BODY, FILL);
    body
}

/// How many chunks are emptied by what is appended again in a batch.
fn relogged(batch: &Batch) -> usize {
    let chunks = batch.chunks.iter();
    let chunks = chunks.map(|bytes| Chunk::decode(bytes.clone(), usize::MAX).expect("just cut"));
    chunks
        .map(|chunk| {
            let records = chunk.records();
            let relogged = |record: &_| matches!(record, Ok((_, LogRecord::Relogged { .. })));
            records.filter(relogged).count()
        })
        .sum()
}
