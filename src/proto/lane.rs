//! Lanes: the order in which a destination hands out what it holds. Which lane a message waits in, and
//! when it is due or expires, is read from the first bytes of the canonical message alone.

use std::fmt;

use super::message::{self, PRIORITY_DEFAULT};

/// A lane of a destination. Higher priorities go first, in LSN order within each; what has a due time
/// waits in [`Lane::DELAYED`] until it is acknowledged, in the order of (due, LSN).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u8);

impl Lane {
    /// Messages of the priority that is meant when none is said.
    pub const DEFAULT: Self = Self(PRIORITY_DEFAULT);
    /// Messages with a due time.
    pub const DELAYED: Self = Self(10);
    /// Lanes of priorities.
    pub const PRIORITIES: usize = 10;
    /// Lanes in all.
    pub const COUNT: usize = 11;

    /// The lane of a canonical message. Bytes that are none are of the default lane.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Times::of(message).lane
    }

    /// The place in tables that have one for each lane.
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.0)
    }

    /// A lane by its number; none above [`Lane::DELAYED`].
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        (number <= Self::DELAYED.0).then_some(Self(number))
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DELAYED => f.write_str("delayed"),
            Self(priority) => write!(f, "priority {priority}"),
        }
    }
}

/// What decides where and how long a message waits. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Its lane.
    pub lane: Lane,
    /// Not to be delivered before; set exactly in [`Lane::DELAYED`].
    pub due_ms: Option<u64>,
    /// Not to be delivered at or after.
    pub expiry_ms: Option<u64>,
}

impl Times {
    /// Reads the first bytes of a canonical message. Total: bytes that are none give the default lane
    /// and no times.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        let (priority, expiry_ms, due_ms) =
            message::peek(message).unwrap_or((PRIORITY_DEFAULT, None, None));
        Self {
            lane: match due_ms {
                Some(_) => Lane::DELAYED,
                None => Lane(priority),
            },
            due_ms,
            expiry_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::{Envelope, MessageWriter, Properties};

    fn times(envelope: &Envelope<'_>) -> Times {
        let writer = MessageWriter::new(envelope, &Properties::default(), 10);
        Times::of(&writer.finish(b"body").unwrap())
    }

    #[test]
    fn the_first_bytes_say_where_a_message_waits() {
        assert_eq!(times(&Envelope::default()).lane, Lane::DEFAULT);
        let urgent = Envelope {
            priority: 9,
            expiry_ms: Some(77),
            group: Some("g"),
            ..Envelope::default()
        };
        assert_eq!(
            times(&urgent),
            Times {
                lane: Lane(9),
                due_ms: None,
                expiry_ms: Some(77)
            }
        );
        let later = Envelope {
            due_ms: Some(5),
            ..urgent
        };
        assert_eq!(
            times(&later),
            Times {
                lane: Lane::DELAYED,
                due_ms: Some(5),
                expiry_ms: Some(77)
            }
        );
    }

    #[test]
    fn bytes_that_are_no_message_wait_in_the_default_lane() {
        for bytes in [
            &b""[..],
            b"both",
            &[1, 6, 3],
            &[1, 6, 3, 0, 0],
            &[1, 0, 200],
        ] {
            assert_eq!(Lane::of(bytes), Lane::DEFAULT, "{bytes:?}");
        }
        assert_eq!(Lane::of(&[1, 0, 3]), Lane(3));
    }
}
