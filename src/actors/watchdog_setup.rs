//! What a server tells its watchdog process at the start.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::HaConfig as PairConfig;
use crate::proto::ids::NodeId;

/// One line of JSON. Secrets are named by their files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogSetup {
    /// The server's process.
    pub pid: u32,
    /// LeaseTTL in milliseconds: a server that is silent for longer is killed.
    pub ttl_ms: u64,
    /// The peer's HA port.
    pub peer: String,
    /// The pair's name.
    pub cluster: String,
    /// The server that is watched.
    pub node: NodeId,
    /// The file with the pair secret.
    pub secret_file: Option<PathBuf>,
    /// Certificates of the HA channel: authority, own certificate, its key.
    pub tls: Option<(PathBuf, PathBuf, PathBuf)>,
}

impl WatchdogSetup {
    /// Of a server of this pair.
    #[must_use]
    pub fn of(pair: &PairConfig, node: NodeId) -> Self {
        Self {
            pid: std::process::id(),
            ttl_ms: u64::try_from(pair.lease_ttl().as_millis()).unwrap_or(u64::MAX),
            peer: pair.peer.to_string(),
            cluster: pair.cluster.clone(),
            node,
            secret_file: pair.pair_secret_file.clone(),
            tls: pair.tls.as_ref().map(|tls| {
                (
                    tls.ca_file.clone(),
                    tls.cert_file.clone(),
                    tls.key_file.clone(),
                )
            }),
        }
    }

    /// For the pipe.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("paths of a configuration are text")
    }

    /// LeaseTTL.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}
