//! How long clients are without service after each kind of failure, at worst, with these settings.
//! From the failure until the other server takes connections; how soon a client comes there is the
//! client's own (docs/clients.md).

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::config::{Config, HaConfig, Mode, Takeover};

/// Reading and changing the record, and opening an epoch, on a share that answers promptly.
const CLAIM: Duration = Duration::from_millis(200);
/// An orderly end closes clients after they were answered, and waits no longer than this for it.
const DRAIN: Duration = Duration::from_secs(10);

/// Whose locks the share keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// One kernel's: a lock that is free means that its holder has ended.
    Local,
    /// A server's, which frees the locks of a machine that it does not hear from when it pleases.
    Network,
}

/// One kind of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) failure: &'static str,
    /// None: nobody takes over by itself.
    pub(super) worst: Option<Duration>,
    /// How it comes to that.
    pub(super) how: String,
}

/// The failures of a pair, the frequent ones first.
pub(super) fn outages(config: &Config, ha: &HaConfig, share: Share) -> Vec<Outage> {
    let sums = Sums {
        ha,
        share,
        fences: ha.takeover == Takeover::Fence && config.mode == Mode::Replicated,
    };
    let mut list = vec![
        Outage {
            failure: "orderly stop or switchover of the active",
            worst: Some(DRAIN.saturating_add(CLAIM)),
            how: format!(
                "the peer takes over at once; up to {} only if a client does not take its answers",
                shown(DRAIN)
            ),
        },
        sums.crash(),
        sums.hang(),
        sums.host_loss(),
        Outage {
            failure: "the link between the servers is cut",
            worst: Some(Duration::ZERO),
            how: format!(
                "the active goes on; confirms wait for {} (ping_misses) and a change of the record",
                shown(ha.ping_interval.saturating_mul(ha.ping_misses))
            ),
        },
        Outage {
            failure: "the lock share or its machine is down",
            worst: Some(Duration::ZERO),
            how: if config.mode == Mode::Shared {
                "the active goes on for the lease and ends then: it cannot be without the share"
                    .to_owned()
            } else {
                "the pair goes on while the link is up; no take-over meanwhile".to_owned()
            },
        },
        Outage {
            failure: "lock share and link are both down",
            worst: None,
            how: format!(
                "nobody may serve: the active stops within {}, and serves again once one of them is \
                 back",
                shown(ha.lease_ttl())
            ),
        },
        sums.passive_loss(),
    ];
    if config.mode == Mode::Shared {
        list.retain(|outage| !outage.failure.starts_with("the passive"));
        for outage in &mut list {
            if outage.failure == "the lock share or its machine is down" {
                outage.worst = None;
            }
        }
    }
    list
}

pub(super) fn line(outage: &Outage) -> String {
    let worst = match outage.worst {
        Some(worst) => shown(worst),
        None => "until mended".to_owned(),
    };
    format!("{worst:>12}  {}: {}", outage.failure, outage.how)
}

pub(super) fn as_json(outages: &[Outage]) -> Json {
    outages
        .iter()
        .map(|outage| {
            json!({
                "failure": outage.failure,
                "worst_ms": outage.worst.map(|worst| worst.as_millis()),
                "how": outage.how,
            })
        })
        .collect()
}

/// Rounded up to tenths of a second.
fn shown(span: Duration) -> String {
    let tenths = span.as_millis().div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

struct Sums<'a> {
    ha: &'a HaConfig,
    share: Share,
    /// A take-over need not wait for the old lock.
    fences: bool,
}

impl Sums<'_> {
    /// A3: what a take-over owes to a holder of whom nothing is known.
    fn fence_wait(&self) -> Duration {
        self.ha.lease_ttl().saturating_add(self.ha.clock_drift)
    }

    /// The peer hears of the end of a process (not under systemd's own watchdog, which check cannot
    /// see).
    fn is_told(&self) -> bool {
        self.ha.watchdog
    }

    fn crash(&self) -> Outage {
        let (wait, how) = if self.share == Share::Local {
            (
                Duration::ZERO,
                "its connections and its lock end with it".to_owned(),
            )
        } else if self.is_told() {
            (
                Duration::ZERO,
                "its connections end with it, and its watchdog tells the peer".to_owned(),
            )
        } else {
            (
                self.fence_wait(),
                format!(
                    "its connections end with it; then the lease, {} (ha.watchdog would save it)",
                    shown(self.fence_wait())
                ),
            )
        };
        Outage {
            failure: "the active's process ends (crash, kill -9, disk error)",
            worst: Some(wait.saturating_add(CLAIM)),
            how,
        }
    }

    fn hang(&self) -> Outage {
        let failure = "the active's process hangs or is stopped";
        let fenced = self.silence_and_fence();
        if self.is_told() {
            // A beat every half ping interval.
            let found = self
                .ha
                .lease_ttl()
                .saturating_add(self.ha.ping_interval / 2);
            return Outage {
                failure,
                worst: Some(found.saturating_add(CLAIM)),
                how: format!(
                    "its watchdog ends it after {} and tells the peer",
                    shown(self.ha.lease_ttl())
                ),
            };
        }
        Outage {
            failure,
            worst: self.fences.then_some(fenced.saturating_add(CLAIM)),
            how: if self.fences {
                self.fence_text()
            } else {
                "the lock stays with it: nobody takes over until it is ended (ha.watchdog, \
                 ha.lock.takeover = \"fence\")"
                    .to_owned()
            },
        }
    }

    fn host_loss(&self) -> Outage {
        Outage {
            failure: "the active's machine is lost, or cut off from everything",
            worst: self
                .fences
                .then(|| self.silence_and_fence().saturating_add(CLAIM)),
            how: if self.fences {
                self.fence_text()
            } else {
                format!(
                    "the lock is free when the share says so (NFSv4: its lease, 90 s unless changed), \
                     then the lease of {}",
                    shown(self.fence_wait())
                )
            },
        }
    }

    fn silence_and_fence(&self) -> Duration {
        self.ha.passive_interval.saturating_add(self.fence_wait())
    }

    fn fence_text(&self) -> String {
        format!(
            "silence of {} (passive_lock_acquisition_interval_ms), then its lease of {}",
            shown(self.ha.passive_interval),
            shown(self.fence_wait())
        )
    }

    fn passive_loss(&self) -> Outage {
        let silence = self
            .ha
            .ping_interval
            .saturating_mul(self.ha.ping_misses)
            .max(self.ha.replication.ack_timeout);
        Outage {
            failure: "the passive is lost, hangs or is slow",
            worst: Some(Duration::ZERO),
            how: format!(
                "the active goes on; confirms wait for at most {}",
                shown(silence.saturating_add(CLAIM))
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSource, load};

    fn worst(settings: &[&str], share: Share, failure: &str) -> Option<u128> {
        let mut source = ConfigSource::profile("replicated/primary");
        source.search.clear();
        source.set = settings.iter().map(|it| (*it).to_owned()).collect();
        let config = load(&source).unwrap().config;
        let ha = config.ha.clone().unwrap();
        let list = outages(&config, &ha, share);
        let found = list.iter().find(|it| it.failure.contains(failure)).unwrap();
        found.worst.map(|it| it.as_millis())
    }

    #[test]
    fn the_stock_profile_takes_over_within_seconds() {
        let stock = |failure| worst(&[], Share::Local, failure);
        assert_eq!(stock("process ends"), Some(200));
        assert_eq!(stock("hangs or is stopped"), Some(2000 + 250 + 200));
        assert_eq!(stock("machine is lost"), Some(2500 + 2000 + 250 + 200));
        assert_eq!(stock("link between"), Some(0));
        assert_eq!(stock("both down"), None);
    }

    #[test]
    fn without_watchdog_and_fence_a_hang_is_not_survived() {
        let none = ["ha.watchdog=false", "ha.lock.takeover=lock"];
        assert_eq!(worst(&none, Share::Network, "hangs"), None);
        assert_eq!(worst(&none, Share::Network, "machine is lost"), None);
        assert_eq!(worst(&none, Share::Network, "process ends"), Some(2450));
        assert_eq!(
            worst(&["ha.watchdog=false"], Share::Network, "hangs"),
            Some(4950)
        );
    }

    #[test]
    fn spans_are_rounded_up() {
        assert_eq!(shown(Duration::from_millis(4901)), "5.0 s");
        assert_eq!(shown(Duration::ZERO), "0.0 s");
    }
}
