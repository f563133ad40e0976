//! Will a client come back after a failover, and what of its own will it have lost? Judged from its
//! handshake and its behaviour; nothing rests on it but what the operator is told.

use std::time::Duration;

/// A client that was silent for so long, without heart-beats, may be gone for all we know.
pub const LONG_IDLE: Duration = Duration::from_secs(300);

/// What is known of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// The server sends it heart-beats: it notices when they stop.
    pub hears_beats: bool,
    /// How long nothing came from it, heart-beats included.
    pub silent: Duration,
    /// It was connected to the other server before; none where nothing is known of that.
    pub was_at_peer: Option<bool>,
    /// Temporary queues that it has.
    pub temporary_queues: usize,
    /// Its subscriptions that are not durable.
    pub passing_subscriptions: usize,
    /// Its transactions that are not committed.
    pub open_transactions: usize,
}

/// What speaks against a client's coming back whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Risk {
    /// It hears no heart-beats: when this server's machine dies without a word, it does not notice
    /// before it sends something, and a client that only receives never does.
    NoHeartBeat,
    /// It has been silent for [`LONG_IDLE`].
    LongIdle,
    /// Others came from the peer when this server took over, it did not: it has not shown that it
    /// knows both addresses.
    NeverAtPeer,
    /// It has temporary queues: they go with the connection, and answers to them are lost.
    TemporaryQueues,
    /// It has subscriptions that are not durable: what is published until it subscribes again is lost.
    PassingSubscriptions,
    /// It has open transactions: they are rolled back.
    OpenTransactions,
}

impl Risk {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::NoHeartBeat,
        Self::LongIdle,
        Self::NeverAtPeer,
        Self::TemporaryQueues,
        Self::PassingSubscriptions,
        Self::OpenTransactions,
    ];

    /// As `status` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoHeartBeat => "no-heart-beat",
            Self::LongIdle => "long-idle",
            Self::NeverAtPeer => "never-at-peer",
            Self::TemporaryQueues => "temporary-queues",
            Self::PassingSubscriptions => "non-durable-subscriptions",
            Self::OpenTransactions => "open-transactions",
        }
    }
}

/// What speaks against a client's coming back whole, in the order of [`Risk::ALL`].
#[must_use]
pub fn risks(facts: &ClientFacts) -> Vec<Risk> {
    let holds = |risk: &Risk| match risk {
        Risk::NoHeartBeat => !facts.hears_beats,
        Risk::LongIdle => facts.silent >= LONG_IDLE,
        Risk::NeverAtPeer => facts.was_at_peer == Some(false),
        Risk::TemporaryQueues => facts.temporary_queues > 0,
        Risk::PassingSubscriptions => facts.passing_subscriptions > 0,
        Risk::OpenTransactions => facts.open_transactions > 0,
    };
    Risk::ALL.into_iter().filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fact_speaks_for_itself() {
        let sound = ClientFacts {
            hears_beats: true,
            silent: Duration::from_secs(299),
            was_at_peer: Some(true),
            ..ClientFacts::default()
        };
        assert_eq!(risks(&sound), []);
        let unknown = ClientFacts {
            was_at_peer: None,
            ..sound
        };
        assert_eq!(
            risks(&unknown),
            [],
            "what is not known is not held against it"
        );
        let poor = ClientFacts {
            hears_beats: false,
            silent: LONG_IDLE,
            was_at_peer: Some(false),
            temporary_queues: 1,
            passing_subscriptions: 2,
            open_transactions: 3,
        };
        assert_eq!(risks(&poor), Risk::ALL);
        for (facts, risk) in [
            (
                ClientFacts {
                    hears_beats: false,
                    ..sound
                },
                Risk::NoHeartBeat,
            ),
            (
                ClientFacts {
                    silent: LONG_IDLE,
                    ..sound
                },
                Risk::LongIdle,
            ),
            (
                ClientFacts {
                    was_at_peer: Some(false),
                    ..sound
                },
                Risk::NeverAtPeer,
            ),
            (
                ClientFacts {
                    temporary_queues: 1,
                    ..sound
                },
                Risk::TemporaryQueues,
            ),
            (
                ClientFacts {
                    passing_subscriptions: 1,
                    ..sound
                },
                Risk::PassingSubscriptions,
            ),
            (
                ClientFacts {
                    open_transactions: 1,
                    ..sound
                },
                Risk::OpenTransactions,
            ),
        ] {
            assert_eq!(risks(&facts), [risk]);
        }
    }
}
