//! What a server of a pair has of the outside world: the network, the arbiter's thread, the probes.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;

use crate::actors::gateway_pinger::{GatewayMessage, Prober};
use crate::actors::post::{Port, post};
use crate::actors::server::StartError;
use crate::actors::watchdog_setup::WatchdogSetup;
use crate::actors::wiring::PairParts;
use crate::config::{Config, HaConfig as PairConfig};
use crate::io::arbiter_file::{ArbiterFileConfig, spawn_file_arbiter};
use crate::io::file_lock::validate_lock_file;
use crate::io::peer_tcp::{Net, PeerListener, TcpNet};
use crate::io::ping::{ProbeRequest, spawn_prober};
use crate::io::tls::TlsPaths;
use crate::io::watchdog::{SystemdWatchdog, Watchdog, WatchdogChild};
use crate::machines::gateway::{GatewayConfig, ProbeOutcome};
use crate::machines::link::LinkConfig;
use crate::machines::lock::LockConfig;
use crate::proto::auth::PairSecret;
use crate::proto::ids::NodeId;
use crate::time::Clock;

/// What a pair needs of the outside, all of it at hand.
pub(super) struct Outside {
    net: Arc<dyn Net>,
    listener: Box<dyn PeerListener>,
    secret: Option<PairSecret>,
}

pub(super) async fn open_outside(pair: &PairConfig, peer: &Arbiter) -> Result<Outside, StartError> {
    validate_lock_file(&pair.lock_file)?;
    let secret = match &pair.pair_secret_file {
        None => None,
        Some(path) => Some(PairSecret::new(
            crate::config::read_secret(path)?.as_bytes(),
        )),
    };
    let tls = match &pair.tls {
        None => None,
        Some(tls) => Some(crate::io::tls::load(&TlsPaths {
            ca: tls.ca_file.clone(),
            cert: tls.cert_file.clone(),
            key: tls.key_file.clone(),
        })?),
    };
    let net: Arc<dyn Net> = Arc::new(TcpNet {
        tls,
        nagle: pair.nagle,
        user_timeout: pair.passive_interval,
        handshake_timeout: pair.hello_timeout,
    });
    // On the thread that will use it: a socket belongs to one thread's reactor.
    let (found, listener) = tokio::sync::oneshot::channel();
    let (there, address) = (Arc::clone(&net), pair.listen.to_string());
    peer.spawn(async move {
        let listener = there.listen(&address).await;
        if found.send(listener).is_err() {
            tracing::debug!(target: "twinmq::net", "the server gave up while its HA port was opened");
        }
    });
    let listener = listener.await.map_err(|_| StartError::PeerThread)??;
    Ok(Outside {
        net,
        listener,
        secret,
    })
}

pub(super) fn pair_parts(
    config: &Config,
    pair: &PairConfig,
    outside: Outside,
    node: NodeId,
    clock: &Arc<dyn Clock>,
) -> PairParts {
    let files = ArbiterFileConfig {
        lock_file: pair.lock_file.clone(),
        secret: outside.secret.clone(),
        create_parent: pair.lock_file.is_relative(),
    };
    let clock = Arc::clone(clock);
    let listener = outside.listener;
    PairParts {
        arbiter: Box::new(move |answers| {
            Arc::new(spawn_file_arbiter(files, answers).expect("a starting process gets threads"))
        }),
        prober: Box::new(move |port| thread_prober(clock, port)),
        net: outside.net,
        listener: Box::new(move || listener),
        nonces: Box::new(random_nonce),
        link: LinkConfig {
            node,
            cluster: pair.cluster.clone(),
            primary: pair.primary,
            name: config.name.clone(),
            peer_address: pair.peer.to_string(),
            versions: (3, 3),
            must_agree: config.must_agree(),
            secret: outside.secret,
            ping_interval: pair.ping_interval,
            ping_misses: pair.ping_misses,
            creation_timeout: pair.connect_timeout,
            initialization_timeout: pair.hello_timeout,
        },
        lock: LockConfig::new(node, pair.ping_interval, pair.active_interval),
        gateway: GatewayConfig {
            targets: pair
                .gateway
                .targets
                .iter()
                .map(ToString::to_string)
                .collect(),
            interval: pair.gateway.probe_interval,
            timeout: pair.gateway.probe_timeout,
            misses_max: pair.gateway.probe_misses,
        },
        watchdog: start_watchdog(pair, node),
    }
}

/// A server without one is as safe, and slower to be taken over: not a reason not to start.
fn start_watchdog(pair: &PairConfig, node: NodeId) -> Option<Arc<dyn Watchdog>> {
    if !pair.watchdog {
        return None;
    }
    if SystemdWatchdog::is_asked_for() {
        return Some(Arc::new(SystemdWatchdog));
    }
    let setup = WatchdogSetup::of(pair, node);
    match WatchdogChild::start(&setup.to_line()) {
        Ok(child) => Some(Arc::new(child)),
        Err(cause) => {
            tracing::error!(target: "twinmq::ha", %cause, "the watchdog process could not be started");
            None
        }
    }
}

fn random_nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("the kernel has random bytes on every supported Linux");
    nonce
}

/// Probes run on the `ping-io` thread.
pub(super) struct ThreadProber(crate::io::ping::Prober);

pub(super) fn thread_prober(clock: Arc<dyn Clock>, port: Port<GatewayMessage>) -> Box<dyn Prober> {
    let sink = Arc::new(move |probe_id, result| {
        let outcome = match result {
            Ok(target) => ProbeOutcome::Reached { target },
            Err(reason) => ProbeOutcome::NothingReached { reason },
        };
        post(&port, GatewayMessage::ProbeFinished { probe_id, outcome });
    });
    Box::new(ThreadProber(
        spawn_prober(clock, sink).expect("a starting process gets threads"),
    ))
}

impl Prober for ThreadProber {
    fn probe(&self, probe_id: u64, targets: Vec<String>, timeout: Duration) {
        self.0.request(ProbeRequest {
            probe_id,
            targets,
            timeout,
        });
    }
}
