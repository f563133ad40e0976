//! Two link machines against each other over a network of the test's own: delays, drops, cuts,
//! connections that end, all by seed.

use std::collections::{BTreeMap, VecDeque};

use super::tests::{at, config, machine};
use super::*;
use crate::proto::auth::PairSecret;

/// One direction of a connection: frames keep their order, a cut loses all that follow.
#[derive(Default)]
struct Wire {
    /// (arrives, what); none: the end of the stream.
    queue: VecDeque<(u64, Option<Frame>)>,
}

struct Connection {
    /// By server: who dialled is `dialler`.
    dialler: usize,
    ids: [Option<ConnId>; 2],
    /// Indexed by the receiving server.
    wires: [Wire; 2],
}

struct Pair {
    now: u64,
    random: u64,
    servers: [LinkMachine; 2],
    /// What each believes, from its effects.
    up: [Option<SessionId>; 2],
    mismatches: usize,
    connections: Vec<Connection>,
    /// (comes, server, attempt): the connection reaches the other at the same time.
    dials: Vec<(u64, usize, u64)>,
    /// A frame towards this server is lost from here on, in every connection that is there.
    deaf: [bool; 2],
    last_conn: u64,
    sessions: BTreeMap<SessionId, usize>,
}

impl Pair {
    fn new(seed: u64, configs: [LinkConfig; 2]) -> Self {
        let mut pair = Self {
            now: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            servers: configs.map(machine),
            up: [None; 2],
            mismatches: 0,
            connections: Vec::new(),
            dials: Vec::new(),
            deaf: [false; 2],
            last_conn: 0,
            sessions: BTreeMap::new(),
        };
        pair.input(0, LinkInput::Started);
        pair.input(1, LinkInput::Started);
        pair
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn nonce(&mut self) -> [u8; 16] {
        let (high, low) = (self.below(u64::MAX), self.below(u64::MAX));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }

    fn input(&mut self, server: usize, input: LinkInput) {
        let mut effects = Vec::new();
        self.servers[server].step(at(self.now), input, &mut effects);
        for effect in effects {
            self.run(server, effect);
        }
    }

    fn run(&mut self, server: usize, effect: LinkEffect) {
        match effect {
            LinkEffect::Dial { attempt, .. } => {
                let comes = self.now + self.below(40);
                self.dials.push((comes, server, attempt));
            }
            LinkEffect::Send { conn, frame } => self.push(server, conn, Some(frame)),
            LinkEffect::Close { conn } => {
                self.push(server, conn, None);
                if let Some(connection) = self.connection(server, conn) {
                    connection.ids[server] = None;
                }
            }
            LinkEffect::LinkUp { session, .. } => {
                assert_eq!(self.up[server], None, "two channels at once");
                self.up[server] = Some(session);
                let ups = self.sessions.entry(session).or_default();
                *ups += 1;
                assert!(*ups <= 2, "a session came up twice on one server");
            }
            LinkEffect::LinkDown { session, .. } => {
                assert_eq!(self.up[server], Some(session));
                self.up[server] = None;
            }
            LinkEffect::Mismatch { .. } => self.mismatches += 1,
            LinkEffect::PeerDied { .. } => panic!("nobody has died"),
            LinkEffect::PeerFacts { session, .. }
            | LinkEffect::PeerGoodbye { session, .. }
            | LinkEffect::Answered { session, .. }
            | LinkEffect::Data { session, .. } => assert_eq!(self.up[server], Some(session)),
            LinkEffect::ReplySent { .. }
            | LinkEffect::PeerClients { .. }
            | LinkEffect::NotLinked { .. } => {}
        }
    }

    fn connection(&mut self, server: usize, conn: ConnId) -> Option<&mut Connection> {
        self.connections
            .iter_mut()
            .find(|connection| connection.ids[server] == Some(conn))
    }

    fn push(&mut self, from: usize, conn: ConnId, frame: Option<Frame>) {
        let (now, delay, to) = (self.now, self.below(30), 1 - from);
        let lost = self.deaf[to];
        if let Some(connection) = self.connection(from, conn)
            && !lost
        {
            let queue = &mut connection.wires[to].queue;
            let earliest = queue.back().map_or(now, |(arrives, _)| *arrives);
            queue.push_back((earliest.max(now + delay), frame));
        }
    }

    /// Everything that is due in this millisecond.
    fn advance(&mut self) {
        self.now += 1;
        let now = self.now;
        let due: Vec<_> = self.dials.extract_if(.., |dial| dial.0 <= now).collect();
        for (_, dialler, attempt) in due {
            self.connect(dialler, attempt);
        }
        for index in 0..self.connections.len() {
            for to in [0, 1] {
                while let Some((arrives, _)) = self.connections[index].wires[to].queue.front()
                    && *arrives <= now
                {
                    let (_, frame) = self.connections[index].wires[to].queue.pop_front().unwrap();
                    let Some(conn) = self.connections[index].ids[to] else {
                        continue;
                    };
                    let input = match frame {
                        Some(frame) => LinkInput::FrameReceived {
                            conn,
                            frame,
                            at: at(now),
                        },
                        None => {
                            self.connections[index].ids[to] = None;
                            LinkInput::Closed {
                                conn,
                                cause: CloseCause::Ended,
                            }
                        }
                    };
                    self.input(to, input);
                }
            }
        }
        self.connections
            .retain(|connection| connection.ids.iter().any(Option::is_some));
        for server in [0, 1] {
            if self.servers[server]
                .next_deadline()
                .is_some_and(|due| due <= at(now))
            {
                self.input(server, LinkInput::Tick);
            }
        }
    }

    fn connect(&mut self, dialler: usize, attempt: u64) {
        if self.deaf[0] || self.deaf[1] {
            let reason = "timed out".to_owned();
            self.input(dialler, LinkInput::DialFailed { attempt, reason });
            return;
        }
        let mut ids = [None; 2];
        for id in &mut ids {
            self.last_conn += 1;
            *id = Some(ConnId(self.last_conn));
        }
        self.connections.push(Connection {
            dialler,
            ids,
            wires: Default::default(),
        });
        let (own, other) = (self.nonce(), self.nonce());
        let conn = ids[1 - dialler].unwrap();
        self.input(1 - dialler, LinkInput::Accepted { conn, nonce: other });
        let conn = ids[dialler].unwrap();
        self.input(
            dialler,
            LinkInput::Dialled {
                attempt,
                conn,
                nonce: own,
            },
        );
    }

    /// A connection's end, seen by both: what a killed proxy or a reset gives.
    fn break_one(&mut self) {
        let live: Vec<usize> = (0..self.connections.len())
            .filter(|index| self.connections[*index].ids.iter().any(Option::is_some))
            .collect();
        if live.is_empty() {
            return;
        }
        let pick = self.below(live.len() as u64);
        let index = live[usize::try_from(pick).unwrap()];
        for server in [0, 1] {
            if let Some(conn) = self.connections[index].ids[server].take() {
                let cause = CloseCause::Ended;
                self.input(server, LinkInput::Closed { conn, cause });
            }
        }
    }

    fn settle(&mut self, millis: u64) {
        for _ in 0..millis {
            self.advance();
        }
    }

    fn assert_linked(&mut self, what: &str) {
        assert!(self.up[0].is_some(), "{what}: server 0 has no channel");
        assert_eq!(self.up[0], self.up[1], "{what}: both on one session");
        assert_eq!(self.servers[0].session(), self.up[0]);
        assert_eq!(self.connections.len(), 1, "{what}: one connection survives");
    }
}

#[test]
fn both_dial_at_once_and_one_session_is_left_on_both() {
    let mut by_dialler = [0, 0];
    for seed in 0..500 {
        let mut pair = Pair::new(seed, [config(1), config(2)]);
        pair.settle(600);
        pair.assert_linked(&format!("seed {seed}"));
        let session = pair.up[0];
        pair.settle(3000);
        assert_eq!(pair.up[0], session, "seed {seed}: it stays up");
        let survivor = pair
            .connections
            .iter()
            .find(|connection| connection.ids.iter().any(Option::is_some))
            .unwrap();
        by_dialler[survivor.dialler] += 1;
    }
    assert!(
        by_dialler.iter().all(|count| *count > 25),
        "{by_dialler:?}: both orders were seen"
    );
}

#[test]
fn after_any_faults_the_pair_links_again() {
    for seed in 0..100 {
        let mut pair = Pair::new(seed, [config(1), config(2)]);
        for _ in 0..30 {
            let pause = pair.below(900);
            pair.settle(pause);
            match pair.below(4) {
                0 => pair.break_one(),
                1 => pair.deaf = [true, false],
                2 => pair.deaf = [false, true],
                _ => pair.deaf = [true, true],
            }
            let lasts = pair.below(2500);
            pair.settle(lasts);
            // What is lost stays lost: the connections that missed frames are broken by TCP later,
            // here by their silence.
            pair.deaf = [false, false];
        }
        pair.settle(13_000);
        pair.assert_linked(&format!("seed {seed}"));
        assert_eq!(pair.mismatches, 0);
    }
}

#[test]
fn one_deaf_server_takes_the_link_down_on_both() {
    for deaf in [0, 1] {
        let mut pair = Pair::new(7, [config(1), config(2)]);
        pair.settle(600);
        pair.deaf[deaf] = true;
        pair.settle(2100);
        assert_eq!(pair.up, [None, None]);
    }
}

#[test]
fn different_secrets_never_link() {
    let other = LinkConfig {
        secret: Some(PairSecret::new(b"other")),
        ..config(2)
    };
    let none = LinkConfig {
        secret: None,
        ..config(2)
    };
    for second in [other, none] {
        let mut pair = Pair::new(1, [config(1), second]);
        pair.settle(5000);
        assert_eq!(pair.up, [None, None]);
        assert_eq!(pair.mismatches, 0, "a stranger's hello is not believed");
    }
}

#[test]
fn a_difference_is_seen_by_both() {
    let other = LinkConfig {
        must_agree: Vec::new(),
        ..config(2)
    };
    let mut pair = Pair::new(1, [config(1), other]);
    pair.settle(1000);
    assert_eq!(pair.up, [None, None]);
    assert!(pair.mismatches >= 2, "{}", pair.mismatches);
}
