//! Ids that applications give their messages, so that one that is sent again is stored once: what the
//! log and the index keep of them, and how many.

use std::fmt;

use byteorder::{BigEndian as BE, ByteOrder};
use sha2::{Digest, Sha256};

use super::ids::DestId;

/// Where an id means the same message: one queue, or one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub u64);

impl Scope {
    /// Of what is sent to one queue. A queue that is removed and made again is another one.
    #[must_use]
    pub fn queue(id: DestId) -> Self {
        Self(u64::from(id.0))
    }

    /// Of what is sent to a topic, which has no id in the store: by its spelling.
    #[must_use]
    pub fn topic(spelling: &str) -> Self {
        let hash = Sha256::digest(spelling.as_bytes());
        Self(BE::read_u64(&hash) | 1 << 63)
    }
}

/// An id in its scope, as 128 bits of SHA-256: whoever chooses ids cannot make two of them meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DuplicateId {
    /// Where it counts.
    pub scope: Scope,
    /// Of scope and id together.
    pub key: [u8; 16],
}

impl DuplicateId {
    /// What stands for an application's id.
    #[must_use]
    pub fn new(scope: Scope, id: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(scope.0.to_be_bytes());
        hash.update(id.as_bytes());
        let hash = hash.finalize();
        let key = std::array::from_fn(|at| hash[at]);
        Self { scope, key }
    }
}

impl fmt::Debug for DuplicateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DuplicateId({:x}:", self.scope.0)?;
        self.key
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// How many ids are kept. They are a definition in the log, so that both servers keep the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateBounds {
    /// Of one scope. 0: none are kept, and nothing is a duplicate.
    pub per_scope: u64,
    /// In all.
    pub all: u64,
    /// For how long, in milliseconds by the clock of the server that stored the message.
    pub window_ms: u64,
}

impl DuplicateBounds {
    /// As the definition's value.
    #[must_use]
    pub fn encode(&self) -> [u8; 24] {
        let mut value = [0; 24];
        BE::write_u64(&mut value, self.per_scope);
        BE::write_u64(&mut value[8..], self.all);
        BE::write_u64(&mut value[16..], self.window_ms);
        value
    }

    /// Reads the definition's value; none when it is none.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        (value.len() == 24).then(|| Self {
            per_scope: BE::read_u64(value),
            all: BE::read_u64(&value[8..]),
            window_ms: BE::read_u64(&value[16..]),
        })
    }
}

impl Default for DuplicateBounds {
    /// 20,000 of each destination, a million in all, for an hour.
    fn default() -> Self {
        Self {
            per_scope: 20_000,
            all: 1_000_000,
            window_ms: 3_600_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_in_its_own_destination_only() {
        let (one, other) = (Scope::queue(DestId(1)), Scope::queue(DestId(2)));
        assert_eq!(DuplicateId::new(one, "a"), DuplicateId::new(one, "a"));
        assert_ne!(
            DuplicateId::new(one, "a").key,
            DuplicateId::new(other, "a").key
        );
        assert_ne!(
            DuplicateId::new(one, "a").key,
            DuplicateId::new(one, "b").key
        );
        let topic = Scope::topic("/topic/t");
        assert!(topic.0 > u64::from(u32::MAX), "no queue has this scope");
        assert_ne!(topic, Scope::topic("/topic/u"));
    }

    #[test]
    fn bounds_read_back() {
        let bounds = DuplicateBounds {
            per_scope: 3,
            all: u64::MAX,
            window_ms: 1 << 33,
        };
        assert_eq!(DuplicateBounds::decode(&bounds.encode()), Some(bounds));
        assert_eq!(DuplicateBounds::decode(&[0; 23]), None);
    }
}
