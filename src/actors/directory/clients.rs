//! The clients of this server: who they are, and whether they would come back after a failover.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Directory;
use crate::machines::delivery::SessionKey;
use crate::machines::returning::{ClientFacts, Risk, risks};
use crate::machines::roll::Returned;
use crate::proto::peer::PeerClient;
use crate::time::Moment;

/// Clients that a description names.
const NAMED_MAX: usize = 200;

/// A client that may not come back whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAtRisk {
    /// Who it is.
    pub client: PeerClient,
    /// What is known of it.
    pub facts: ClientFacts,
    /// Why; at least one.
    pub risks: Vec<Risk>,
}

/// All clients of this server.
#[derive(Clone, Debug, Default)]
pub struct ClientsDescription {
    /// Those that may not come back whole, by number; 200 at most.
    pub at_risk: Vec<ClientAtRisk>,
    /// How many there are of them.
    pub at_risk_count: usize,
    /// How often each of [`Risk::ALL`] holds.
    pub risks: Vec<(Risk, usize)>,
    /// What has become of the peer's clients, on a server that took over.
    pub returned: Option<Returned>,
    /// Those that have not come; 200 at most.
    pub missing: Vec<PeerClient>,
    /// Clients of the peer that this server knows of, while it does not serve.
    pub at_peer: usize,
}

/// What a session shows of its client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientSigns {
    /// When something was read of it last.
    pub heard: Moment,
    /// The server sends it heart-beats.
    pub hears_beats: bool,
    /// Transactions that are not committed.
    pub open_transactions: usize,
}

impl Directory {
    /// A client has said who it is.
    pub fn introduce(
        &self,
        key: SessionKey,
        client_id: Option<&str>,
        login: Option<&str>,
        address: SocketAddr,
    ) {
        let sessions = self.sessions.borrow();
        let Some(inbox) = sessions.get(&key) else {
            return;
        };
        let client = PeerClient::new(key.0, client_id, login, address);
        inbox.introduce(client.clone());
        self.roll.machine().joined(client);
    }

    /// Who may not come back, and who has not.
    #[must_use]
    pub fn describe_clients(&self) -> ClientsDescription {
        let now = self.clock.now();
        let mut described = ClientsDescription {
            risks: Risk::ALL.iter().map(|risk| (*risk, 0)).collect(),
            ..ClientsDescription::default()
        };
        let passing = self.passing_subscriptions();
        let sessions = self.sessions.borrow();
        let mut keys: Vec<SessionKey> = sessions.keys().copied().collect();
        keys.sort_unstable();
        let term = self.term.borrow();
        let roll = self.roll.machine();
        for key in keys {
            let inbox = sessions.get(&key);
            let Some((client, signs)) = inbox.and_then(|inbox| inbox.client()) else {
                continue;
            };
            let temporaries = term.as_ref().and_then(|it| it.temporaries.get(&key));
            let facts = ClientFacts {
                hears_beats: signs.hears_beats,
                silent: now.since(signs.heard),
                was_at_peer: roll.was_at_peer(key.0),
                temporary_queues: temporaries.map_or(0, Vec::len),
                passing_subscriptions: passing.get(&key).copied().unwrap_or_default(),
                open_transactions: signs.open_transactions,
            };
            described.add(client, facts);
        }
        described.returned = roll.returned();
        described.missing = roll.missing(NAMED_MAX);
        described.at_peer = roll.peers();
        described
    }

    fn passing_subscriptions(&self) -> HashMap<SessionKey, usize> {
        let term = self.term.borrow();
        let mut counts = HashMap::new();
        for consumer in term.iter().flat_map(|term| term.topics.table.passing()) {
            let count: &mut usize = counts.entry(consumer.session).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }
}

impl ClientsDescription {
    fn add(&mut self, client: PeerClient, facts: ClientFacts) {
        let risks = risks(&facts);
        if risks.is_empty() {
            return;
        }
        self.at_risk_count = self.at_risk_count.saturating_add(1);
        for (risk, count) in &mut self.risks {
            *count = count.saturating_add(usize::from(risks.contains(risk)));
        }
        if self.at_risk.len() < NAMED_MAX {
            self.at_risk.push(ClientAtRisk {
                client,
                facts,
                risks,
            });
        }
    }
}
