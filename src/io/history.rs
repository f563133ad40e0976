//! The event history on disk: `node/history.jsonl` and, before it, `node/history.1.jsonl`, each at most
//! 256 KiB. A thread of its own writes; whoever tells it something never waits. Nothing is flushed: the
//! last lines may be lost with the machine's power, and a torn one is skipped when it is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::proto::history::{Event, EventKind, LINE_BYTES_MAX, events_in};
use crate::proto::ids::Epoch;
use crate::time::Clock;

/// The segment that is written.
const PRESENT: &str = "history.jsonl";
/// The one before it.
const EARLIER: &str = "history.1.jsonl";
/// A segment is closed when it is larger than this.
const SEGMENT_BYTES_MAX: u64 = 256 * 1024;
/// Events that wait for the thread; more are dropped and counted.
const WAITING_MAX: usize = 256;
/// Different events of a kind that is counted, since the last change of state.
const REPEATED_MAX: usize = 16;
/// The server's end waits so long for the last lines.
const END_WAIT: Duration = Duration::from_millis(500);

enum Order {
    Write(Event),
    /// Write what is counted, and say so.
    End(SyncSender<()>),
}

/// The way to a server's history. Cheap to call, on any thread; never blocks.
pub struct History {
    orders: SyncSender<Order>,
    clock: Arc<dyn Clock>,
    dropped: AtomicU64,
}

impl History {
    /// Opens the history in a server's `node/` folder and starts its thread.
    ///
    /// # Errors
    /// When the files cannot be read or written, or the system gives no thread.
    pub fn open(node_dir: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let known = read(node_dir)?;
        let mut segment = Segment::open(node_dir)?;
        segment.next = known.last().map_or(1, |event| event.n.saturating_add(1));
        let unfinished = known
            .last()
            .is_some_and(|event| event.kind != EventKind::End);
        let (orders, inbox) = sync_channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || run(segment, &inbox))?;
        let history = Self {
            orders,
            clock,
            dropped: AtomicU64::new(0),
        };
        let text = if unfinished {
            "started; the run before did not end in order (killed, crashed, or power lost)"
        } else {
            "started"
        };
        let epoch = known.last().map_or(Epoch::ZERO, |event| event.epoch);
        history.tell(Event::new(EventKind::Start, epoch, text));
        Ok(history)
    }

    /// Notes an event, with the present time. When the thread is far behind it is dropped, and the next
    /// one that is not says so.
    pub fn tell(&self, mut event: Event) {
        event.wall_ms = self.clock.wall_ms();
        event.boot_ms = self.clock.now().0 / 1_000_000;
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            event.text = format!(
                "(before this, {dropped} events were not noted) {}",
                event.text
            );
        }
        match self.orders.try_send(Order::Write(event)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped
                    .fetch_add(dropped.saturating_add(1), Ordering::Relaxed);
            }
        }
    }

    /// Notes the last event, and waits a moment until it is written.
    pub fn end(&self, event: Event) {
        self.tell(event);
        let (tell, told) = sync_channel(1);
        if self.orders.try_send(Order::End(tell)).is_ok() && told.recv_timeout(END_WAIT).is_err() {
            tracing::debug!(target: "twinmq::ha", "the last events may not be in the history");
        }
    }
}

/// The events of a server's `node/` folder, oldest first; none where it has no history. Torn and foreign
/// lines are skipped, and no more than twice the largest segment is read.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn read(node_dir: &Path) -> io::Result<Vec<Event>> {
    let mut bytes = tail(&node_dir.join(EARLIER))?;
    bytes.push(b'\n');
    bytes.extend(tail(&node_dir.join(PRESENT))?);
    Ok(events_in(&bytes))
}

/// The last of a file, as much as a segment may hold.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause),
    };
    let max = SEGMENT_BYTES_MAX + LINE_BYTES_MAX as u64;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn run(mut segment: Segment, inbox: &Receiver<Order>) {
    let mut counted = Counted::default();
    while let Ok(order) = inbox.recv() {
        match order {
            Order::Write(event) => {
                for event in counted.take(event, &mut segment.next) {
                    segment.write(&event);
                }
            }
            Order::End(done) => {
                for event in counted.rest() {
                    segment.write(&event);
                }
                // Whoever asked may have given up waiting.
                done.try_send(()).ok();
            }
        }
    }
}

/// Events that come again and again, with how often they came and how often that was written.
#[derive(Default)]
struct Counted {
    open: Vec<(Event, u64)>,
}

impl Counted {
    /// What is to be written now: each event once, then at its 10th, 100th... time, and before
    /// whatever comes after it.
    fn take(&mut self, mut event: Event, next: &mut u64) -> Vec<Event> {
        if let Some((known, written)) = self.open.iter_mut().find(|(it, _)| it.repeats(&event)) {
            known.count = known.count.saturating_add(1);
            (known.wall_ms, known.boot_ms) = (event.wall_ms, event.boot_ms);
            if known.count / 10 < *written {
                return Vec::new();
            }
            *written = known.count;
            return vec![known.clone()];
        }
        event.n = *next;
        *next = next.saturating_add(1);
        let mut lines = Vec::new();
        if event.kind.repeats() {
            if self.open.len() == REPEATED_MAX {
                let (oldest, written) = self.open.remove(0);
                lines.extend((oldest.count > written).then_some(oldest));
            }
            self.open.push((event.clone(), 1));
        } else if event.kind == EventKind::State {
            lines = self.rest();
        }
        lines.push(event);
        lines
    }

    /// What was counted and not written, all of it; counting begins anew.
    fn rest(&mut self) -> Vec<Event> {
        let open = std::mem::take(&mut self.open);
        open.into_iter()
            .filter(|(event, written)| event.count > *written)
            .map(|(event, _)| event)
            .collect()
    }
}

/// The file that is written.
struct Segment {
    dir: PathBuf,
    file: File,
    bytes: u64,
    next: u64,
    /// Said once: a history that cannot be written is no reason to stop serving.
    failed: bool,
}

impl Segment {
    fn open(dir: &Path) -> io::Result<Self> {
        let file = open_segment(dir)?;
        let bytes = file.metadata()?.len();
        let mut segment = Self {
            dir: dir.to_path_buf(),
            file,
            bytes,
            next: 1,
            failed: false,
        };
        // The line that a crash cut off ends here.
        if tail(&dir.join(PRESENT))?
            .last()
            .is_some_and(|last| *last != b'\n')
        {
            segment.append(b"\n")?;
        }
        Ok(segment)
    }

    fn write(&mut self, event: &Event) {
        let line = event.line();
        match self.rotate().and_then(|()| self.append(&line)) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(target: "twinmq::ha", %error, "the event history cannot be written");
            }
            Err(_) => {}
        }
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.bytes < SEGMENT_BYTES_MAX {
            return Ok(());
        }
        std::fs::rename(self.dir.join(PRESENT), self.dir.join(EARLIER))?;
        self.file = open_segment(&self.dir)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }
}

fn open_segment(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(dir.join(PRESENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    fn open(dir: &Path) -> History {
        History::open(dir, Arc::new(SystemClock)).expect("a folder for tests can be written")
    }

    fn refused(text: &str) -> Event {
        Event::new(EventKind::Refused, Epoch(1), text)
    }

    fn texts(dir: &Path) -> Vec<(String, u64)> {
        let events = read(dir).expect("it can be read");
        events
            .into_iter()
            .map(|event| (event.text, event.count))
            .collect()
    }

    #[test]
    fn events_come_back_in_order_and_numbered_on_across_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(texts(dir.path()), []);
        open(dir.path()).end(Event::new(EventKind::End, Epoch(2), "stopped"));
        let killed = open(dir.path());
        killed.end(Event::new(EventKind::Peer, Epoch(2), "x"));
        let mut torn = OpenOptions::new()
            .append(true)
            .open(dir.path().join(PRESENT))
            .expect("it is there");
        torn.write_all(b"{\"n\": 5, \"wal").expect("written");
        open(dir.path()).end(Event::new(EventKind::End, Epoch(2), "y"));
        let events = read(dir.path()).expect("it can be read");
        let found: Vec<(u64, &str)> = events.iter().map(|it| (it.n, &it.text[..])).collect();
        let unfinished =
            "started; the run before did not end in order (killed, crashed, or power lost)";
        let expected = [
            (1, "started"),
            (2, "stopped"),
            (3, "started"),
            (4, "x"),
            (5, unfinished),
            (6, "y"),
        ];
        assert_eq!(found, expected);
        assert_eq!(events[4].epoch, Epoch(2));
    }

    #[test]
    fn what_repeats_is_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let history = open(dir.path());
        for _ in 0..123 {
            history.tell(refused("a"));
            history.tell(refused("b"));
            // So that nothing is dropped.
            while read(dir.path()).expect("it can be read").len() < 3 {
                std::thread::yield_now();
            }
        }
        history.tell(Event::new(EventKind::State, Epoch(1), "on"));
        history.tell(refused("a"));
        history.end(Event::new(EventKind::End, Epoch(1), "end"));
        let dropped: u64 = texts(dir.path()).iter().map(|(_, count)| count).sum();
        assert_eq!(dropped, 1 + 2 * 123 + 3);
        let lines = std::fs::read_to_string(dir.path().join(PRESENT)).expect("text");
        assert!(lines.lines().count() < 20, "{lines}");
    }

    #[test]
    fn the_history_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut segment = Segment::open(dir.path()).expect("a folder for tests");
        for n in 1..=4000 {
            segment.write(&Event {
                n,
                ..Event::new(EventKind::State, Epoch(1), "x".repeat(300))
            });
        }
        let bytes: u64 = [PRESENT, EARLIER]
            .iter()
            .map(|name| std::fs::metadata(dir.path().join(name)).map_or(0, |it| it.len()))
            .sum();
        assert!(
            bytes <= 2 * (SEGMENT_BYTES_MAX + LINE_BYTES_MAX as u64),
            "{bytes}"
        );
        let events = read(dir.path()).expect("it can be read");
        assert!(events.len() > 500, "{}", events.len());
        assert_eq!(events.last().map(|event| event.n), Some(4000));
        assert!(events.windows(2).all(|two| two[0].n + 1 == two[1].n));
    }

    #[test]
    fn a_history_that_is_no_history_is_written_after() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(PRESENT), vec![0xff; 3 << 20]).expect("written");
        std::fs::write(dir.path().join(EARLIER), b"\n\n{}\n[1]").expect("written");
        open(dir.path()).end(Event::new(EventKind::End, Epoch(1), "end"));
        assert_eq!(
            texts(dir.path()),
            [("started".to_owned(), 1), ("end".to_owned(), 1)]
        );
    }
}
