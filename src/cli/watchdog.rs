//! `twinmq watchdog`: the process beside a server (A8). A server starts it; nobody else does.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::signal::{SigSet, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::CliError;
use crate::actors::watchdog_setup::WatchdogSetup;
use crate::exit::ExitCode;
use crate::io::peer_tcp::{Net, TcpNet};
use crate::io::tls::{self, PeerTls, TlsPaths};
use crate::io::watchdog::{Sighting, Watched, read_setup};
use crate::machines::watchdog::{WatchdogEffect, WatchdogInput, WatchdogMachine};
use crate::proto::auth::{DeathNotice, PairSecret};
use crate::proto::ids::Epoch;
use crate::proto::peer::Frame;
use crate::proto::peer_codec::encode;
use crate::time::{Clock, SystemClock};

/// How long the peer is tried. After it the lease has done what the word would have.
const TELL: Duration = Duration::from_secs(10);
/// A peer whose port is closed does not run: nobody is there to take over.
const REFUSALS_MAX: u32 = 5;
/// One connect to the peer.
const CONNECT: Duration = Duration::from_secs(2);

/// Why a server goes unwatched.
#[derive(Debug, thiserror::Error)]
enum WatchdogError {
    #[error("the server cannot be watched: {0}")]
    Watch(io::Error),
    #[error("what the server wrote cannot be read: {0}")]
    Setup(serde_json::Error),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("the pair secret cannot be read: {0}")]
    Secret(#[from] crate::config::SecretError),
}

/// What is needed to speak for the server once it is gone. Read at the start: the files may be out
/// of reach by then.
struct Voice {
    setup: WatchdogSetup,
    secret: Option<PairSecret>,
    tls: Option<PeerTls>,
}

/// Watches the parent until it ends.
///
/// # Errors
/// When it cannot be watched.
pub fn run() -> Result<ExitCode, CliError> {
    let failed = |error| CliError::of(ExitCode::Failed, error);
    // A Ctrl-C at the terminal is for the server, which dismisses this process when it has ended in
    // order.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|errno| failed(WatchdogError::Watch(errno.into())))?;
    let watching = |cause| failed(WatchdogError::Watch(cause));
    let setup = read_setup().map_err(watching)?;
    let voice = Voice::new(&setup).map_err(failed)?;
    let watched = Watched::server(voice.setup.pid).map_err(watching)?;
    watch(watched, &voice).map_err(failed)?;
    Ok(ExitCode::Done)
}

fn watch(mut watched: Watched, voice: &Voice) -> Result<(), WatchdogError> {
    let clock = SystemClock;
    let mut machine = WatchdogMachine::new(voice.setup.ttl(), clock.now());
    let mut effects = Vec::new();
    loop {
        // Often enough to notice that this process itself was held up.
        let limit = machine
            .next_deadline()
            .map(|due| due.since(clock.now()).min(voice.setup.ttl()));
        let seen = watched
            .await_sightings(limit)
            .map_err(WatchdogError::Watch)?;
        let now = clock.now();
        for sighting in seen {
            let input = match sighting {
                Sighting::Beat(serving) => WatchdogInput::Beat(serving),
                Sighting::Dismissed => WatchdogInput::Dismissed,
                Sighting::PipeClosed => WatchdogInput::PipeClosed,
                Sighting::ProcessEnded => WatchdogInput::ProcessEnded,
            };
            machine.step(now, input, &mut effects);
        }
        machine.step(now, WatchdogInput::Tick, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                WatchdogEffect::Kill { silent } => {
                    super::complain(&format!(
                        "watchdog: the server has not turned for {} ms and is killed \
                         boot_ns={}",
                        silent.as_millis(),
                        now.0
                    ));
                    watched.kill().map_err(WatchdogError::Watch)?;
                }
                WatchdogEffect::Tell(epoch) => voice.tell(epoch),
                WatchdogEffect::End => return Ok(()),
            }
        }
    }
}

impl Voice {
    fn new(line: &str) -> Result<Self, WatchdogError> {
        let setup: WatchdogSetup = serde_json::from_str(line).map_err(WatchdogError::Setup)?;
        let secret = match &setup.secret_file {
            Some(path) => Some(PairSecret::new(
                crate::config::read_secret(path)?.as_bytes(),
            )),
            None => None,
        };
        let tls = match &setup.tls {
            Some((ca, cert, key)) => Some(tls::load(&TlsPaths {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
            })?),
            None => None,
        };
        Ok(Self { setup, secret, tls })
    }

    /// Until the peer has read it, or it is too late to matter.
    fn tell(&self, epoch: Epoch) {
        // Whoever reads the server's log to its end need not wait for this process.
        super::let_go_of_output();
        let notice = DeathNotice {
            cluster: self.setup.cluster.clone(),
            node: self.setup.node,
            epoch,
        };
        let frame = Frame::LastWord {
            node: notice.node,
            epoch,
            proof: notice.prove(self.secret.as_ref()),
        };
        let mut bytes = BytesMut::new();
        if encode(&frame, &mut bytes).is_err() {
            return;
        }
        crate::actors::server::block_on(async {
            let clock = SystemClock;
            let until = clock.now().after(TELL);
            let mut refused = 0;
            while let Err(cause) = self.say(&bytes).await {
                refused += u32::from(cause.kind() == io::ErrorKind::ConnectionRefused);
                if clock.now() >= until || refused >= REFUSALS_MAX {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    async fn say(&self, bytes: &[u8]) -> io::Result<()> {
        let net = TcpNet {
            tls: self.tls.clone(),
            nagle: false,
            user_timeout: CONNECT,
            handshake_timeout: CONNECT,
        };
        let mut stream = net.dial(&self.setup.peer, CONNECT).await?;
        stream.write_all(bytes).await?;
        stream.flush().await?;
        // The peer says hello to whoever connects, and closes once it has read the word.
        let mut hello = Vec::new();
        let mut rest = stream.take(64 * 1024);
        match tokio::time::timeout(CONNECT, rest.read_to_end(&mut hello)).await? {
            // TLS without its own farewell.
            Err(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => Err(cause),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
