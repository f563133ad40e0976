//! The link machine over real streams: machine, codec and loops fit together.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::tests::{plain, with_tls};
use super::*;
use crate::io::tls;
use crate::machines::link::{
    CloseCause, ConnId, LinkConfig, LinkDownCause, LinkEffect, LinkInput, LinkMachine,
};
use crate::proto::auth::PairSecret;
use crate::proto::ids::{Epoch, NodeId, Position, RecordSeq, SessionId, StoreId};
use crate::proto::peer::{PeerFacts, ServerState};
use crate::proto::peer_codec::FRAME_BYTES_MAX;
use crate::time::{Clock, Moment};

const PING: Duration = Duration::from_millis(500);
const LINGER: Duration = Duration::from_secs(1);

/// tokio's clock, which a test may pause.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment(0).after(self.0.elapsed())
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

/// Who waits for the links of one server.
type Links = UnboundedReceiver<Result<SessionId, LinkDownCause>>;

struct Server {
    machine: LinkMachine,
    net: Rc<dyn Net>,
    peer: String,
    clock: Arc<TestClock>,
    inputs: UnboundedSender<LinkInput>,
    conns: HashMap<ConnId, (FrameSender, FrameLimit)>,
    links: UnboundedSender<Result<SessionId, LinkDownCause>>,
}

fn config(node: u8) -> LinkConfig {
    LinkConfig {
        node: NodeId([node; 16]),
        cluster: "pair".to_owned(),
        primary: node == 1,
        name: String::new(),
        peer_address: String::new(),
        versions: (1, 1),
        must_agree: Vec::new(),
        secret: Some(PairSecret::new(b"secret")),
        ping_interval: PING,
        ping_misses: 2,
        creation_timeout: LINGER,
        initialization_timeout: LINGER,
    }
}

fn facts() -> PeerFacts {
    PeerFacts {
        state: ServerState::Waiting,
        previous: ServerState::Dead,
        claiming: false,
        epoch: Epoch(0),
        store: StoreId([1; 16]),
        position: Position::default(),
        sync_in_progress: false,
        arbiter: None,
        last_record: RecordSeq(0),
        eligible: true,
        looked: true,
        lock: None,
    }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// Starts a server on this LocalSet; it ends with it.
fn start(node: u8, net: Rc<dyn Net>, mut own: Box<dyn PeerListener>, peer: String) -> Links {
    let clock = Arc::new(TestClock(Instant::now()));
    let (inputs, mut inbox) = unbounded_channel();
    let (links, events) = unbounded_channel();
    let mut server = Server {
        machine: LinkMachine::new(config(node), facts(), clock.now()),
        net,
        peer,
        clock,
        inputs: inputs.clone(),
        conns: HashMap::new(),
        links,
    };
    let (streams, mut accepted) = unbounded_channel();
    spawn_local(async move {
        while let Ok(incoming) = own.accept().await {
            let streams = streams.clone();
            spawn_local(async move {
                if let Ok(stream) = incoming.await {
                    streams.send((None, stream)).unwrap();
                }
            });
        }
    });
    spawn_local(async move {
        let (dialled, mut dials) = unbounded_channel();
        let mut last_conn = 0;
        server.step(LinkInput::Started, &dialled);
        loop {
            let deadline = server.machine.next_deadline().unwrap();
            let due = server.clock.0 + deadline.since(Moment(0));
            let (attempt, stream) = tokio::select! {
                Some(input) = inbox.recv() => {
                    server.step(input, &dialled);
                    continue;
                }
                Some(opened) = accepted.recv() => opened,
                Some(opened) = dials.recv() => opened,
                () = sleep_until(due) => {
                    server.step(LinkInput::Tick, &dialled);
                    continue;
                }
            };
            last_conn += 1;
            let conn = ConnId(last_conn);
            server.carry(conn, stream);
            let nonce = random();
            let input = match attempt {
                Some(attempt) => LinkInput::Dialled {
                    attempt,
                    conn,
                    nonce,
                },
                None => LinkInput::Accepted { conn, nonce },
            };
            server.step(input, &dialled);
        }
    });
    events
}

type Opened = UnboundedSender<(Option<u64>, BoxedStream)>;

impl Server {
    fn step(&mut self, input: LinkInput, dialled: &Opened) {
        let mut effects = Vec::new();
        self.machine.step(self.clock.now(), input, &mut effects);
        for effect in effects {
            self.run(effect, dialled);
        }
    }

    fn run(&mut self, effect: LinkEffect, dialled: &Opened) {
        match effect {
            LinkEffect::Dial { attempt, timeout } => {
                let dial = self.net.dial(&self.peer, timeout);
                let (inputs, dialled) = (self.inputs.clone(), dialled.clone());
                spawn_local(async move {
                    match dial.await {
                        Ok(stream) => dialled.send((Some(attempt), stream)).unwrap(),
                        Err(cause) => {
                            let reason = cause.to_string();
                            inputs
                                .send(LinkInput::DialFailed { attempt, reason })
                                .unwrap();
                        }
                    }
                });
            }
            LinkEffect::Send { conn, frame } => {
                if let Some((sender, _)) = self.conns.get(&conn) {
                    sender.send(frame);
                }
            }
            LinkEffect::Close { conn } => {
                self.conns.remove(&conn);
            }
            LinkEffect::LinkUp { session, conn, .. } => {
                self.conns[&conn].1.raise(FRAME_BYTES_MAX);
                self.links.send(Ok(session)).unwrap();
            }
            LinkEffect::LinkDown { cause, .. } => self.links.send(Err(cause)).unwrap(),
            LinkEffect::Mismatch { reason, .. } => panic!("{reason}"),
            LinkEffect::PeerDied { .. } => panic!("nobody has died"),
            LinkEffect::PeerFacts { .. }
            | LinkEffect::PeerGoodbye { .. }
            | LinkEffect::Answered { .. }
            | LinkEffect::ReplySent { .. }
            | LinkEffect::Data { .. }
            | LinkEffect::PeerClients { .. }
            | LinkEffect::NotLinked { .. } => {}
        }
    }

    fn carry(&mut self, conn: ConnId, stream: BoxedStream) {
        let (sender, queue) = frame_channel();
        let limit = FrameLimit::default();
        self.conns.insert(conn, (sender, limit.clone()));
        let (inputs, clock) = (self.inputs.clone(), Arc::clone(&self.clock));
        spawn_local(async move {
            let heard = inputs.clone();
            let end = carry_frames(stream, queue, limit, clock, LINGER, move |frame, at| {
                heard
                    .send(LinkInput::FrameReceived { conn, frame, at })
                    .unwrap();
            });
            let cause = match end.await {
                StreamEnd::Ended | StreamEnd::Finished => CloseCause::Ended,
                StreamEnd::Unreachable(reason) => CloseCause::Unreachable(reason),
                StreamEnd::Malformed(reason) => CloseCause::Malformed(reason),
            };
            inputs.send(LinkInput::Closed { conn, cause }).unwrap();
        });
    }
}

/// Two servers that dial each other; the events of both.
async fn pair(nets: [Rc<dyn Net>; 2], addresses: [&str; 2]) -> [Links; 2] {
    let first = nets[0].listen(addresses[0]).await.unwrap();
    let second = nets[1].listen(addresses[1]).await.unwrap();
    let at = [first.address(), second.address()];
    let [one, two] = nets;
    let [to_first, to_second] = at;
    [
        start(1, one, first, to_second),
        start(2, two, second, to_first),
    ]
}

/// Awaits one session on both.
async fn linked([first, second]: &mut [Links; 2]) -> SessionId {
    let session = first.recv().await.unwrap().unwrap();
    assert_eq!(second.recv().await.unwrap(), Ok(session));
    session
}

async fn down([first, second]: &mut [Links; 2]) -> [LinkDownCause; 2] {
    [first.recv().await, second.recv().await].map(|event| event.unwrap().unwrap_err())
}

#[tokio::test(start_paused = true)]
async fn a_pair_in_memory_links_loses_its_link_and_links_again() {
    let test = async {
        let net = MemoryNet::default();
        let nets: [Rc<dyn Net>; 2] = [Rc::new(net.clone()), Rc::new(net.clone())];
        let mut links = pair(nets, ["a:2000", "b:3000"]).await;
        let first = linked(&mut links).await;
        sleep(PING * 20).await;
        assert!(
            links.iter_mut().all(|it| it.try_recv().is_err()),
            "it stays up"
        );
        net.cut();
        assert_eq!(
            down(&mut links).await,
            [LinkDownCause::Silent, LinkDownCause::Silent]
        );
        sleep(PING * 20).await;
        net.heal();
        let second = linked(&mut links).await;
        assert_ne!(first, second);
        net.reset();
        assert_eq!(
            down(&mut links).await,
            [LinkDownCause::Ended, LinkDownCause::Ended]
        );
        assert_ne!(linked(&mut links).await, second);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_pair_links_over_tcp_with_and_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    for net in [plain(), with_tls(folder.path(), tls::PEER_NAME)] {
        let test = async {
            let nets: [Rc<dyn Net>; 2] = [Rc::new(net.clone()), Rc::new(net.clone())];
            let mut links = pair(nets, ["127.0.0.1:0", "127.0.0.1:0"]).await;
            linked(&mut links).await;
        };
        LocalSet::new().run_until(test).await;
    }
}
