//! A toy STOMP server in memory, to try the client against before and beside the real one: queues,
//! receipts, redelivery with its flag, and faults on request. Only for tests.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Confirms every n-th SEND without keeping it.
    pub(crate) lose_every: u64,
    /// Delivers again without the flag after a connection died.
    pub(crate) forget_flag: bool,
    /// Cuts all connections after every n-th SEND.
    pub(crate) cut_every: u64,
}

#[derive(Default)]
struct State {
    faults: Faults,
    sends: u64,
    queues: BTreeMap<String, VecDeque<Stored>>,
    peers: Vec<Peer>,
}

#[derive(Clone)]
struct Stored {
    id: u64,
    delivered: bool,
    body: Vec<u8>,
}

struct Peer {
    key: SocketAddr,
    stream: TcpStream,
    subscription: BTreeMap<String, String>,
    unacked: BTreeMap<u64, (String, Stored)>,
}

/// A running toy server; its threads end with the process.
pub(crate) struct ToyServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl ToyServer {
    /// Listens on a free port of the loopback.
    pub(crate) fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            faults,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        Self { address, state }
    }

    /// How many messages are stored, delivered or not.
    pub(crate) fn stored(&self) -> usize {
        let state = lock(&self.state);
        let waiting: usize = state.queues.values().map(VecDeque::len).sum();
        let unacked: usize = state.peers.iter().map(|peer| peer.unacked.len()).sum();
        waiting + unacked
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn serve(stream: TcpStream, shared: &Mutex<State>) {
    let mut reader = stream.try_clone().unwrap();
    let key = stream.peer_addr().unwrap();
    lock(shared).peers.push(Peer {
        key,
        stream,
        subscription: BTreeMap::new(),
        unacked: BTreeMap::new(),
    });
    let mut inbox = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = reader.read(&mut chunk) {
        inbox.extend_from_slice(&chunk[..read]);
        while let Some(frame) = take(&mut inbox) {
            answer(&mut lock(shared), key, &frame);
        }
    }
    let mut state = lock(shared);
    drop_peer(&mut state, key);
    deliver(&mut state);
}

fn drop_peer(state: &mut State, key: SocketAddr) {
    let at = state.peers.iter().position(|peer| peer.key == key);
    if let Some(at) = at {
        let gone = state.peers.remove(at);
        for (_, (queue, mut stored)) in gone.unacked.into_iter().rev() {
            stored.delivered = !state.faults.forget_flag;
            state.queues.entry(queue).or_default().push_front(stored);
        }
    }
}

struct Request {
    command: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn take(inbox: &mut Vec<u8>) -> Option<Request> {
    let head_end = inbox.windows(2).position(|pair| pair == b"\n\n")? + 2;
    let head = String::from_utf8(inbox[..head_end].to_vec()).unwrap();
    let mut lines = head.trim_start().lines();
    let command = lines.next().unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    if inbox.len() < head_end + length + 1 {
        return None;
    }
    let body = inbox[head_end..head_end + length].to_vec();
    assert_eq!(inbox[head_end + length], 0, "frames end with NUL");
    inbox.drain(..=head_end + length);
    Some(Request {
        command,
        headers,
        body,
    })
}

fn answer(state: &mut State, key: SocketAddr, request: &Request) {
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    match request.command.as_str() {
        "CONNECT" if header("login") == "wrong" => {
            tell(state, key, "ERROR\nmessage:access refused\n\nwho are you\0");
        }
        "CONNECT" | "STOMP" => tell(state, key, "CONNECTED\nversion:1.2\n\n\0"),
        "SEND" => {
            state.sends += 1;
            let id = state.sends;
            if !nth(state.sends, state.faults.lose_every) {
                let body = request.body.clone();
                let stored = Stored {
                    id,
                    delivered: false,
                    body,
                };
                let queue = state.queues.entry(header("destination")).or_default();
                queue.push_back(stored);
            }
        }
        "SUBSCRIBE" => {
            let peer = state.peers.iter_mut().find(|peer| peer.key == key).unwrap();
            peer.subscription
                .insert(header("destination"), header("id"));
        }
        "ACK" => {
            let peer = state.peers.iter_mut().find(|peer| peer.key == key).unwrap();
            peer.unacked.remove(&header("id").parse().unwrap());
        }
        "DISCONNECT" => {}
        other => tell(state, key, &format!("ERROR\nmessage:what is {other}\n\n\0")),
    }
    if let Some(receipt) = request.headers.get("receipt") {
        tell(state, key, &format!("RECEIPT\nreceipt-id:{receipt}\n\n\0"));
    }
    deliver(state);
    if request.command == "SEND" && nth(state.sends, state.faults.cut_every) {
        for peer in &state.peers {
            peer.stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn nth(count: u64, every: u64) -> bool {
    every > 0 && count.is_multiple_of(every)
}

fn tell(state: &State, key: SocketAddr, frame: &str) {
    if let Some(peer) = state.peers.iter().find(|peer| peer.key == key) {
        (&peer.stream).write_all(frame.as_bytes()).ok();
    }
}

fn deliver(state: &mut State) {
    for peer in &mut state.peers {
        for (destination, subscription) in &peer.subscription {
            let Some(queue) = state.queues.get_mut(destination) else {
                continue;
            };
            while let Some(stored) = queue.pop_front() {
                let flag = if stored.delivered {
                    "redelivered:true\n"
                } else {
                    ""
                };
                let id = stored.id;
                let head = format!(
                    "MESSAGE\nsubscription:{subscription}\nmessage-id:id\\c{id}\nack:{id}\n\
                     destination:{destination}\n{flag}content-length:{}\n\n",
                    stored.body.len()
                );
                let mut frame = head.into_bytes();
                frame.extend_from_slice(&stored.body);
                frame.push(0);
                (&peer.stream).write_all(&frame).ok();
                peer.unacked.insert(id, (destination.clone(), stored));
            }
        }
    }
}
