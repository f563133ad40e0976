//! What strace wrote down, as changes of a disk and confirms that left.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// The calls that are recorded. `sendto` and its like for the confirms.
pub(crate) const CALLS: &str = "trace=openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,\
    ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,\
    rmdir,fsync,fdatasync,sync_file_range,msync,sendto,sendmsg,lseek,copy_file_range,sendfile";

/// strace's arguments for a recording, of which it may spoil calls by an `inject` expression.
pub(crate) fn arguments(inject: Option<&str>) -> Vec<&str> {
    let mut all = match inject {
        Some(inject) => vec!["-e", inject],
        // Faster, but strace 6.1 miscounts calls that are to be spoiled.
        None => vec!["--seccomp-bpf"],
    };
    all.extend(["-y", "-a", "1", "-s", "100000000"]);
    all.push("--absolute-timestamps=format:unix,precision:ns");
    all.extend(["--syscall-times=ns", "-e", CALLS]);
    all
}

/// Something that happened, between two times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) begun: u64,
    /// None: the process was gone before the call had returned.
    pub(crate) ended: Option<u64>,
    pub(crate) what: Change,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A file, if there is none.
    Create(PathBuf),
    MakeFolder(PathBuf),
    Resize {
        path: PathBuf,
        length: u64,
    },
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Bytes,
        /// On the disk when it returns (`O_DSYNC`).
        through: bool,
    },
    /// After whatever the file holds by then.
    Append {
        path: PathBuf,
        bytes: Bytes,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    Sync(PathBuf),
    /// Receipts for these left for a client.
    Confirm(Vec<String>),
}

/// Reads the trace of one process, which worked in `cwd`; paths below `root` count.
pub(crate) fn read(trace: &Path, cwd: &Path, root: &Path) -> Vec<Event> {
    let text = fs::read(trace).expect("strace has written its file");
    let mut reader = Reader {
        cwd,
        root,
        files: HashMap::new(),
        events: Vec::new(),
    };
    let mut unfinished: HashMap<&[u8], (u64, &[u8])> = HashMap::new();
    for line in lines(&text) {
        let (pid, rest) = split(line, b' ');
        let (stamp, call) = split(trim(rest), b' ');
        let begun = nanoseconds(stamp);
        if let Some(resumed) = call.strip_prefix(b"<... ") {
            let (_, tail) = resumed
                .split_at(memchr::memmem::find(resumed, b" resumed>").expect("strace says so"));
            let (begun, head) = unfinished.remove(pid).expect("it began");
            let whole = [head, &tail[b" resumed>".len()..]].concat();
            reader.take(begun, &whole);
        } else if let Some(head) = call.strip_suffix(b" <unfinished ...>") {
            unfinished.insert(pid, (begun, head));
        } else if !call.starts_with(b"+++") && !call.starts_with(b"---") {
            reader.take(begun, call);
        }
    }
    for (begun, head) in unfinished.into_values() {
        reader.take(begun, head);
    }
    reader.events
}

struct Reader<'a> {
    cwd: &'a Path,
    root: &'a Path,
    /// By descriptor and name, since there may be several processes.
    files: HashMap<(u64, PathBuf), Opened>,
    events: Vec<Event>,
}

#[derive(Clone, Copy, Default)]
struct Opened {
    /// Where `write` goes on.
    at: u64,
    /// What is written is on the disk when the call returns.
    through: bool,
    /// Everything goes to the end.
    appends: bool,
}

/// A call in its parts.
struct Call<'a> {
    name: &'a str,
    arguments: &'a [u8],
    /// None: it did not return.
    result: Option<i64>,
    ended: Option<u64>,
    begun: u64,
}

impl Reader<'_> {
    fn take(&mut self, begun: u64, text: &[u8]) {
        let call = parse(begun, text);
        if call.result.is_some_and(|result| result < 0) {
            return;
        }
        match call.name {
            "openat" | "open" | "creat" => self.opened(&call),
            "lseek" => {
                if let (Some(file), Some(result)) = (descriptor(call.arguments), call.result) {
                    let at = u64::try_from(result).expect("failures were left out");
                    // Also under the name that its folder was given since it was opened.
                    self.files.entry(file).or_default().at = at;
                }
            }
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "sendto" | "sendmsg" => {
                self.wrote(&call);
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = self.path_of(&call) {
                    self.push(&call, Change::Sync(path));
                }
            }
            "ftruncate" => {
                if let Some(path) = self.path_of(&call) {
                    let length = last_number(call.arguments);
                    self.push(&call, Change::Resize { path, length });
                }
            }
            "mkdir" | "mkdirat" => self.named(&call, |[path]| Change::MakeFolder(path)),
            "unlink" | "unlinkat" | "rmdir" => self.named(&call, |[path]| Change::Remove(path)),
            "link" | "linkat" => self.named(&call, |[from, to]| Change::Link { from, to }),
            "rename" | "renameat" | "renameat2" => {
                self.named(&call, |[from, to]| Change::Rename { from, to });
            }
            name => {
                // Not one of the ways in which a server writes; the model of the disk would be wrong.
                let path = self.path_of(&call);
                assert!(path.is_none(), "{name} on {path:?} is not understood");
            }
        }
    }

    fn push(&mut self, call: &Call<'_>, what: Change) {
        self.events.push(Event {
            begun: call.begun,
            ended: call.ended,
            what,
        });
    }

    fn path_of(&self, call: &Call<'_>) -> Option<PathBuf> {
        let (_, path) = descriptor(call.arguments)?;
        path.starts_with(self.root).then_some(path)
    }

    fn named<const N: usize>(&mut self, call: &Call<'_>, change: impl Fn([PathBuf; N]) -> Change) {
        let paths: Vec<PathBuf> = self.paths(call.arguments);
        if paths.iter().all(|path| path.starts_with(self.root)) {
            let paths = paths.try_into().expect("strace shows every name");
            self.push(call, change(paths));
        }
    }

    /// The names among the arguments; a relative one is below the folder that was named before it, or
    /// the process's.
    fn paths(&self, arguments: &[u8]) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let mut rest = arguments;
        let mut folder = self.cwd.to_path_buf();
        while let Some(at) = memchr::memchr2(b'<', b'"', rest) {
            if rest[at] == b'<' {
                let (path, after) = split(&rest[at + 1..], b'>');
                folder = PathBuf::from(text(path));
                rest = after;
            } else {
                let (name, after) = literal(&rest[at..]);
                paths.push(folder.join(text(&name)));
                rest = after;
            }
        }
        paths
    }

    fn opened(&mut self, call: &Call<'_>) {
        let Some(path) = self.paths(call.arguments).pop() else {
            return;
        };
        let Some(result) = call.result else {
            return;
        };
        let number = u64::try_from(result).expect("failures were left out");
        let flags = text(
            call.arguments
                .rsplit(|byte| *byte == b'"')
                .next()
                .unwrap_or(&[]),
        );
        if !path.starts_with(self.root) {
            return;
        }
        let opened = Opened {
            at: 0,
            through: flags.contains("SYNC"),
            appends: flags.contains("O_APPEND"),
        };
        assert!(
            !(opened.appends && opened.through),
            "appending to {path:?} without a cache is not understood"
        );
        self.files.insert((number, path.clone()), opened);
        if flags.contains("O_CREAT") {
            self.push(call, Change::Create(path.clone()));
        }
        if flags.contains("O_TRUNC") {
            self.push(call, Change::Resize { path, length: 0 });
        }
    }

    fn wrote(&mut self, call: &Call<'_>) {
        let Some((number, path)) = descriptor(call.arguments) else {
            return;
        };
        let on_disk = path.starts_with(self.root);
        let socket = path.to_string_lossy().starts_with("socket:")
            || path.to_string_lossy().starts_with("TCP");
        if !on_disk && !socket {
            return;
        }
        let (mut bytes, offset) = written(call);
        if let Some(result) = call.result {
            bytes.truncate(usize::try_from(result).expect("failures were left out"));
        }
        if socket {
            let confirmed = receipts(&bytes);
            if !confirmed.is_empty() {
                self.push(call, Change::Confirm(confirmed));
            }
            return;
        }
        let file = self.files.entry((number, path.clone())).or_default();
        if file.appends {
            let bytes = Bytes::from(bytes);
            self.push(call, Change::Append { path, bytes });
            return;
        }
        let through = file.through;
        let offset = if call.name.starts_with("pwrite") {
            offset
        } else {
            let offset = file.at;
            file.at += bytes.len() as u64;
            offset
        };
        let bytes = Bytes::from(bytes);
        self.push(
            call,
            Change::Write {
                path,
                offset,
                bytes,
                through,
            },
        );
    }
}

fn parse(begun: u64, text: &[u8]) -> Call<'_> {
    let (name, rest) = split(text, b'(');
    let name = std::str::from_utf8(name).expect("calls have names");
    let (arguments, result, ended) = match memchr::memmem::rfind(rest, b") = ") {
        // A process that is killed while in a call never sees its result.
        Some(at) if rest[at + 4] != b'?' => {
            let tail = self::text(&rest[at + 4..]);
            let result = if tail.contains("(INJECTED)") {
                // strace gave the answer, whatever it is, in the kernel's place.
                Some(-1)
            } else {
                tail.split([' ', '<']).next().and_then(|it| it.parse().ok())
            };
            let took = tail
                .rsplit_once('<')
                .and_then(|(_, it)| it.strip_suffix('>'))
                .map(|it| nanoseconds(it.as_bytes()));
            (&rest[..at], result, took.map(|took| begun + took))
        }
        Some(at) => (&rest[..at], None, None),
        None => (rest, None, None),
    };
    Call {
        name,
        arguments,
        result,
        ended,
        begun,
    }
}

/// What a call writes, and the number that follows it.
fn written(call: &Call<'_>) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    let mut rest = call.arguments;
    while let Some(at) = memchr::memchr(b'"', rest) {
        let (piece, after) = literal(&rest[at..]);
        bytes.extend_from_slice(&piece);
        rest = after;
    }
    (bytes, last_number(rest))
}

fn last_number(arguments: &[u8]) -> u64 {
    let text = text(arguments);
    text.trim_end_matches(')')
        .rsplit(", ")
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// The receipts in a piece of a STOMP stream.
fn receipts(bytes: &[u8]) -> Vec<String> {
    const HEADER: &[u8] = b"receipt-id:";
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, HEADER) {
        let (id, after) = split(&rest[at + HEADER.len()..], b'\n');
        found.push(text(id));
        rest = after;
    }
    found
}

/// `12</a/path>` at the beginning.
fn descriptor(arguments: &[u8]) -> Option<(u64, PathBuf)> {
    let (number, rest) = split(arguments, b'<');
    let number = text(number).parse().ok()?;
    Some((number, PathBuf::from(text(split(rest, b'>').0))))
}

/// A quoted text at the beginning, without its escapes, and what follows.
fn literal(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut bytes = Vec::new();
    let mut at = 1;
    loop {
        let run = memchr::memchr2(b'"', b'\\', &quoted[at..]).expect("it is closed");
        bytes.extend_from_slice(&quoted[at..at + run]);
        at += run;
        if quoted[at] == b'"' {
            break;
        }
        at += 1;
        let escaped = quoted[at];
        at += 1;
        bytes.push(match escaped {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'0'..=b'7' => {
                let mut value = escaped - b'0';
                for _ in 0..2 {
                    let next = quoted[at];
                    if !(b'0'..=b'7').contains(&next) {
                        break;
                    }
                    value = value.wrapping_mul(8).wrapping_add(next - b'0');
                    at += 1;
                }
                value
            }
            other => other,
        });
    }
    let rest = &quoted[at + 1..];
    assert!(!rest.starts_with(b"..."), "strace cut a text short");
    (bytes, rest)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr::memchr_iter(b'\n', text).map(move |end| {
        let line = &text[from..end];
        from = end + 1;
        line
    })
}

fn split(bytes: &[u8], at: u8) -> (&[u8], &[u8]) {
    match memchr::memchr(at, bytes) {
        Some(found) => (&bytes[..found], &bytes[found + 1..]),
        None => (bytes, &[]),
    }
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `1795260805.477547889`.
fn nanoseconds(stamp: &[u8]) -> u64 {
    let stamp = text(stamp);
    let (seconds, fraction) = stamp.split_once('.').expect("nanoseconds were asked for");
    let number = |digits: &str| digits.parse::<u64>().expect("a number");
    number(seconds) * 1_000_000_000 + number(&format!("{fraction:0<9}"))
}

#[test]
fn a_write_in_which_a_server_was_killed_keeps_its_place() {
    let call = parse(7, b"pwrite64(26</d/data.mdb>, \"ab\", 2, 4128) = ?");
    assert_eq!((call.result, call.ended), (None, None));
    assert_eq!(written(&call), (b"ab".to_vec(), 4128));
    let call = parse(7, b"pwrite64(26</d/data.mdb>, \"ab\", 2, 4128");
    assert_eq!(written(&call), (b"ab".to_vec(), 4128));
    let call = parse(
        7,
        b"fdatasync(26</d/data.mdb>) = -1 EIO (Input/output error) (INJECTED) <0.000001000>",
    );
    assert_eq!((call.result, call.ended), (Some(-1), Some(1007)));
}
