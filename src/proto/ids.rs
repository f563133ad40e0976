//! Identifiers and counters that cross module borders, each its own type so that two of them can
//! never be swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing yet: the value before the first.
            pub const ZERO: Self = Self(0);

            /// The one after this. Saturates: 2^64 is out of reach of any real history.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The one before this, or zero.
            #[must_use]
            pub fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Log sequence number: the position of one record in a store's log. The first record is 1.
    Lsn
}
impl Lsn {
    /// Set in the positions of messages that no log holds.
    const VOLATILE: u64 = 1 << 63;

    /// The position of a message that is kept in memory only. Such numbers are given out by the server
    /// that keeps it; no log ever reaches them.
    #[must_use]
    pub const fn volatile(number: u64) -> Self {
        Self(number | Self::VOLATILE)
    }

    /// No log holds it.
    #[must_use]
    pub const fn is_volatile(self) -> bool {
        self.0 & Self::VOLATILE != 0
    }
}
counter! {
    /// Generation of service: raised by compare-and-set on the arbiter record at each take-over.
    Epoch
}
counter! {
    /// `seq` of the arbiter record: raised by one with each change of the record.
    RecordSeq
}
counter! {
    /// One established HA channel. Frames and messages of an older session are dropped (R3).
    SessionId
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads 32 hex digits.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                parse_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text)
                    .ok_or_else(|| serde::de::Error::custom("expected 32 hex digits"))
            }
        }
    };
}

identity! {
    /// One copy of the data (ha-protocol A1): made with each store, and made anew by clear-db,
    /// restore and full resync. The in-sync set holds these, not servers.
    StoreId
}
impl StoreId {
    /// Shared mode: there is no store, or it is not known which.
    pub const NONE: Self = Self([0; 16]);
}

identity! {
    /// One server, for the life of its `node/` folder.
    NodeId
}
identity! {
    /// One lock file with its record, made at first boot; stores of another arbiter are refused.
    ArbiterId
}
identity! {
    /// One life of a lock file: a new file has a new nonce, whatever its inode says (Z16).
    Nonce
}

/// A destination in the store: given by the active when it is first used, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DestId(pub u32);

/// How far a store reaches: its last epoch and the last LSN in it. Compared in this order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The epoch of the last record.
    pub epoch: Epoch,
    /// The last record.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, position {}", self.epoch, self.lsn)
    }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0u8; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_what_they_print() {
        let id = StoreId([0xa5; 16]);
        assert_eq!(StoreId::parse(&id.to_string()), Some(id));
        assert_eq!(StoreId::parse("a5"), None);
        assert_eq!(StoreId::parse(&"é".repeat(16)), None);
    }

    #[test]
    fn positions_compare_epoch_first() {
        let old = Position {
            epoch: Epoch(1),
            lsn: Lsn(900),
        };
        let new = Position {
            epoch: Epoch(2),
            lsn: Lsn(10),
        };
        assert!(new > old);
    }
}
