//! Messages with large bodies: whole through kills in the middle of an upload and of a delivery, and in
//! memory that does not depend on their size.
//!
//! By command: `TWINMQ_LARGE_MIB=256 cargo test --test cluster -- --nocapture large`.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::chance::number_from;
use crate::support::eventually::{SOON, eventually, now};
use crate::support::memory::anonymous_kib;
use crate::support::pair::Pair;
use crate::support::told::Told;
use crate::{connect, drain, standalone, test_name};

const MIB: usize = 1 << 20;
const QUEUE: &str = "/queue/large";
/// Anonymous memory that a server may need more while a message passes, whatever its size.
const GROWTH_MAX_KIB: u64 = 32 * 1024;

/// An unmodified stomp.py client.
pub(crate) struct Client(pub(crate) Told);

impl Client {
    pub(crate) fn start(hosts: &str) -> Self {
        Self(Told::connected("large_driver.py", &[hosts]))
    }

    /// It came, whole.
    #[track_caller]
    pub(crate) fn received(&self, name: &str, bytes: usize) -> Value {
        let fact = self.0.until(&format!("the message {name}"), |fact| {
            fact["event"] == "received" && fact["name"] == name
        });
        assert_eq!(fact["bytes"], bytes, "{fact}");
        assert_eq!(fact["whole"], true, "{fact}");
        fact
    }
}

/// A connection without a library, so that a body never is in its memory as a whole either.
struct Raw(BufReader<TcpStream>);

impl Raw {
    fn connect(address: &str) -> Self {
        let stream = eventually(SOON, "a server serves", || {
            TcpStream::connect(address).map_err(|error| error.to_string())
        });
        stream.set_read_timeout(Some(SOON * 4)).expect("a socket");
        let mut raw = Self(BufReader::with_capacity(64 << 10, stream));
        raw.say("CONNECT\naccept-version:1.2\nhost:x\n\n\0");
        raw.expect("CONNECTED");
        raw
    }

    fn say(&mut self, text: &str) {
        self.write(text.as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("it is connected");
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("it is connected");
        byte[0]
    }

    /// Command and headers of the next frame.
    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\n\n") {
            match self.byte() {
                b'\n' if head.is_empty() => {}
                byte => head.push(byte),
            }
        }
        String::from_utf8(head).expect("text")
    }

    /// The next frame, which has no body.
    #[track_caller]
    fn expect(&mut self, command: &str) -> String {
        let head = self.head();
        assert!(head.starts_with(command), "wanted {command}: {head}");
        assert_eq!(self.byte(), 0);
        head
    }

    /// The head of a SEND of so many bytes.
    fn begin_send(&mut self, bytes: usize, receipt: &str) {
        self.say(&format!(
            "SEND\ndestination:{QUEUE}\ncontent-length:{bytes}\nreceipt:{receipt}\n\n"
        ));
    }

    fn subscribe(&mut self) -> String {
        self.say(&format!(
            "SUBSCRIBE\nid:1\ndestination:{QUEUE}\nack:client-individual\n\n\0"
        ));
        let head = self.head();
        assert!(head.starts_with("MESSAGE"), "{head}");
        head
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {head}"))
}

/// Block `number` of a body: all of them differ.
fn block(number: usize) -> Vec<u8> {
    let seed = u64::try_from(number).expect("it fits") + 1;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(64 << 10);
    while bytes.len() < 64 << 10 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[test]
fn large_messages_are_sent_browsed_and_received_by_transactions_and_across_a_kill() {
    let (_scene, mut server) = standalone(test_name!(), &[]);
    let mut client = Client::start(&server.client_address());
    client.0.say(&format!("send {QUEUE} one {MIB}"));
    client.0.say(&format!("send {QUEUE} eight {}", 8 * MIB));
    client.0.receipt("one");
    client.0.receipt("eight");
    client.0.say("begin t");
    client.0.say(&format!("send {QUEUE} three {} t", 3 * MIB));
    client.0.say("begin u");
    client.0.say(&format!("send {QUEUE} never {} u", 3 * MIB));
    client.0.say("abort u");
    client.0.receipt("abort u");
    client.0.say("commit t");
    client.0.receipt("commit t");
    client.0.say(&format!("browse {QUEUE}"));
    client
        .0
        .until("all was seen", |fact| fact["event"] == "browsed");
    for (name, size) in [("one", 1), ("eight", 8), ("three", 3)] {
        client.received(name, size * MIB);
    }
    drop(client);
    server.kill();
    server.assert_store_is_sound();
    server.start_and_await();
    let mut client = Client::start(&server.client_address());
    client.0.say(&format!("subscribe {QUEUE}"));
    for (name, size) in [("one", 1), ("eight", 8), ("three", 3)] {
        client.received(name, size * MIB);
    }
    drop(client);
    assert_eq!(drain(&server.client_address(), QUEUE), Vec::<String>::new());
    server.terminate();
    server.assert_store_is_sound();
}

#[test]
fn half_an_upload_leaves_nothing_behind() {
    let (_scene, mut server) = standalone(test_name!(), &[]);
    let mut raw = Raw::connect(&server.client_address());
    raw.begin_send(8 * MIB, "never");
    for number in 0..64 {
        raw.write(&block(number));
    }
    drop(raw);
    let mut raw = Raw::connect(&server.client_address());
    raw.begin_send(MIB, "whole");
    (0..16).for_each(|number| raw.write(&block(number)));
    raw.say("\0");
    raw.expect("RECEIPT");
    let message = raw.subscribe();
    assert_eq!(header(&message, "content-length"), MIB.to_string());
    drop(raw);
    server.kill();
    server.assert_store_is_sound();
}

#[test]
fn a_kill_in_the_middle_of_uploads_loses_nothing_that_was_confirmed() {
    let mut pair = Pair::in_sync(test_name!());
    let mut client = Client::start(&pair.hosts());
    let size = 4 * MIB;
    let names: Vec<String> = (0..6).map(|number| format!("m{number}")).collect();
    for name in &names {
        client.0.say(&format!("send {QUEUE} {name} {size}"));
    }
    client.0.receipt("m1");
    let active = pair.active();
    pair.server(active).kill();
    for name in &names {
        client.0.receipt(name);
    }
    client.0.say(&format!("subscribe {QUEUE}"));
    for name in &names {
        client.received(name, size);
    }
    drop(client);
    assert_eq!(drain(&pair.hosts(), QUEUE), Vec::<String>::new());
    pair.server(active).start();
    pair.await_in_sync();
    pair.kill_both();
    pair.primary.assert_store_is_sound();
    pair.secondary.assert_store_is_sound();
}

#[test]
fn a_kill_in_the_middle_of_a_delivery_gives_the_whole_message_to_another() {
    let mut pair = Pair::in_sync(test_name!());
    let mut client = Client::start(&pair.hosts());
    let size = 16 * MIB;
    client.0.say(&format!("send {QUEUE} whole {size}"));
    client.0.receipt("whole");
    let active = pair.active();
    let address = pair.server(active).client_address();
    let mut raw = Raw::connect(&address);
    let head = raw.subscribe();
    assert_eq!(header(&head, "content-length"), size.to_string());
    let mut half = vec![0; MIB];
    raw.0.read_exact(&mut half).expect("a part of it comes");
    pair.server(active).kill();
    let mut other = Client::start(&pair.hosts());
    other.0.say(&format!("subscribe {QUEUE}"));
    let fact = other.received("whole", size);
    assert_eq!(fact["redelivered"], true, "{fact}");
    // A copy of everything comes to the server that was down.
    client.0.say(&format!("send /queue/kept copy {size}"));
    client.0.receipt("copy");
    pair.server(active).start();
    pair.await_in_sync();
    pair.server(active.other()).kill();
    let mut third = Client::start(&pair.hosts());
    third.0.say("subscribe /queue/kept");
    third.received("copy", size);
}

#[test]
fn memory_does_not_grow_with_the_size_of_a_message() {
    let mib = number_from("TWINMQ_LARGE_MIB").unwrap_or(64);
    let bytes = usize::try_from(mib).expect("it fits") * MIB;
    let limit = bytes.max(100 * MIB).to_string();
    let settings = [("limits.max_body_bytes", limit.as_str())];
    let mut pair = Pair::in_sync_with(test_name!(), &settings);
    let active = pair.active();
    let address = pair.server(active).client_address();
    // What a server needs for messages at all is had before.
    drop(connect(&address));
    let mut raw = Raw::connect(&address);
    let pids = [&pair.primary, &pair.secondary].map(|server| server.pid().expect("it runs"));
    let memory = |pid| anonymous_kib(pid).expect("it runs");
    let before = pids.map(memory);
    let mut most = before;
    let mut look = || {
        for (most, pid) in most.iter_mut().zip(pids) {
            *most = memory(pid).max(*most);
        }
    };
    let begun = now();
    raw.begin_send(bytes, "sent");
    for number in 0..bytes >> 16 {
        raw.write(&block(number));
        if number % 64 == 0 {
            look();
        }
    }
    raw.say("\0");
    raw.expect("RECEIPT");
    let sent = now();
    let head = raw.subscribe();
    assert_eq!(header(&head, "content-length"), bytes.to_string());
    let mut found = vec![0; 64 << 10];
    for number in 0..bytes >> 16 {
        raw.0.read_exact(&mut found).expect("all of it comes");
        assert!(found == block(number), "block {number} is another");
        if number % 64 == 0 {
            look();
        }
    }
    assert_eq!(raw.byte(), 0);
    raw.say(&format!(
        "ACK\nid:{}\nreceipt:done\n\n\0",
        header(&head, "ack")
    ));
    raw.expect("RECEIPT");
    look();
    let grown = [0, 1].map(|at| most[at].saturating_sub(before[at]));
    eprintln!(
        "{mib} MiB: sent in {:?}, received in {:?}; anonymous memory grew by {grown:?} KiB",
        sent.since(begun),
        now().since(sent)
    );
    assert!(
        grown.iter().all(|kib| *kib < GROWTH_MAX_KIB),
        "{grown:?} KiB"
    );
}
