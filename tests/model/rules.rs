//! What is left out on purpose, to see that the search finds what comes of it. Nothing of this is in
//! the shipped code: the model alters what a machine is told, or what becomes of its effects.

use twinmq::machines::ha::Takeover;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Only a store that the record names is promoted. Without: every record that a server is shown
    /// names its store.
    R1,
    /// The record is shrunk before the first lone confirm. Without: the server is told that it was.
    R2,
    /// Frames carry the epoch. Without: the follower is told its own.
    R3,
    /// Half a copy is marked. Without: no server knows that its store is one.
    R4,
    /// The peer is demanded before the set is extended. Without: it is only once it has been.
    R5,
    /// A lease ends, and with it service. Without: it does not.
    R6,
    /// The record only changes by compare-and-set. Without: it is written over.
    R8,
    /// What comes of a session names it. Without: all have the same name.
    Sessions,
    /// A new store has a new name. Without: it has the old one's.
    Stores,
}

/// What the holder of the lock writes into the lock file (A1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Words {
    /// Nothing: where no disk is replaced or goes back, the words only repeat what is so.
    #[default]
    None,
    /// How far both stores are, whenever that changes.
    AtOnce,
    /// The same at some time later, or never.
    Late,
}

/// How the world behaves in one search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) takeover: Takeover,
    pub(crate) without: Option<Rule>,
    pub(crate) words: Words,
}

impl Rules {
    pub(crate) fn of(takeover: Takeover) -> Self {
        Self {
            takeover,
            without: None,
            words: Words::None,
        }
    }

    pub(crate) fn lacks(self, rule: Rule) -> bool {
        self.without == Some(rule)
    }
}
