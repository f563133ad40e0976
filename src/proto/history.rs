//! The events of a server's life, as its `node/history` keeps them: one JSON object for each line.
//! Lines come back from a disk that may have been cut off: whatever is no event is skipped.

use serde::{Deserialize, Serialize};

use crate::proto::ids::Epoch;
use crate::proto::peer::ServerState;

/// The longest line that is written or read, in bytes.
pub const LINE_BYTES_MAX: usize = 4096;
/// The longest text of an event, in bytes: a line of it fits, whatever has to be escaped in it.
const TEXT_BYTES_MAX: usize = 600;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The server started.
    Start,
    /// It ended.
    End,
    /// Its state changed.
    State,
    /// A claim was refused.
    Refused,
    /// An epoch of service ended without an orderly stop, or a claim was given up.
    SteppedDown,
    /// Something that an operator must know while the server serves.
    Alarm,
    /// The lock was obtained.
    LockObtained,
    /// The lock was lost.
    LockLost,
    /// Somebody else holds the lock.
    LockRefused,
    /// The lock file does not answer.
    LockSilent,
    /// A channel to the peer came up.
    LinkUp,
    /// It went down.
    LinkDown,
    /// The peer's state changed.
    Peer,
    /// An operator asked for something: a stop, a switchover, a promotion.
    Operator,
    /// The gateway's verdict changed.
    Gateway,
}

impl EventKind {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
            Self::State => "state",
            Self::Refused => "refused",
            Self::SteppedDown => "stepped down",
            Self::Alarm => "alarm",
            Self::LockObtained => "lock obtained",
            Self::LockLost => "lock lost",
            Self::LockRefused => "lock refused",
            Self::LockSilent => "lock silent",
            Self::LinkUp => "link up",
            Self::LinkDown => "link down",
            Self::Peer => "peer",
            Self::Operator => "operator",
            Self::Gateway => "gateway",
        }
    }

    /// The same again and again is one event that is counted.
    #[must_use]
    pub fn repeats(self) -> bool {
        match self {
            Self::Refused | Self::LockRefused | Self::LockSilent | Self::Alarm => true,
            Self::Start
            | Self::End
            | Self::State
            | Self::SteppedDown
            | Self::LockObtained
            | Self::LockLost
            | Self::LinkUp
            | Self::LinkDown
            | Self::Peer
            | Self::Operator
            | Self::Gateway => false,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in this server's history, from 1. Lines of one number are one event: the last counts.
    pub n: u64,
    /// The wall clock, in milliseconds since 1970: for people.
    pub wall_ms: u64,
    /// The boot-time clock of this machine, in milliseconds: in order within one boot.
    pub boot_ms: u64,
    /// What kind.
    pub kind: EventKind,
    /// In which epoch.
    pub epoch: Epoch,
    /// Why, or what, in words.
    pub text: String,
    /// The state before, where it changed: this server's, or the peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ServerState>,
    /// The state after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ServerState>,
    /// How often it happened, up to the time of the line.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u64,
}

fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_once(count: &u64) -> bool {
    *count == 1
}

impl Event {
    /// One that has happened once; the history numbers it and gives it its time.
    pub fn new(kind: EventKind, epoch: Epoch, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX)
                .rev()
                .find(|end| text.is_char_boundary(*end))
                .unwrap_or(0);
            text.truncate(end);
        }
        Self {
            n: 0,
            wall_ms: 0,
            boot_ms: 0,
            kind,
            epoch,
            text,
            from: None,
            to: None,
            count: 1,
        }
    }

    /// With a change of state.
    #[must_use]
    pub fn between(mut self, from: ServerState, to: ServerState) -> Self {
        (self.from, self.to) = (Some(from), Some(to));
        self
    }

    /// The same thing as another event, if it is of a kind that is counted.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        self.kind.repeats()
            && (self.kind, self.epoch, &self.text) == (other.kind, other.epoch, &other.text)
    }

    /// Its line, newline included; at most [`LINE_BYTES_MAX`] bytes.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The events in these bytes, oldest first: of lines with one number the last. What is no event, a torn
/// line among it, is skipped.
#[must_use]
pub fn events_in(bytes: &[u8]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line.len() <= LINE_BYTES_MAX);
    for line in lines {
        let Ok(event) = serde_json::from_slice::<Event>(line) else {
            continue;
        };
        // Repeats stand close behind what they repeat.
        let earlier = events
            .iter()
            .rposition(|known| known.n == event.n && known.repeats(&event));
        match earlier {
            Some(at) => events[at] = event,
            None => events.push(event),
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_torn_is_skipped() {
        let mut one = Event::new(EventKind::State, Epoch(3), "the lock was lost")
            .between(ServerState::Active, ServerState::Waiting);
        (one.n, one.wall_ms, one.boot_ms) = (7, 1_769_860_800_000, 12);
        let two = Event {
            n: 8,
            ..Event::new(EventKind::Refused, Epoch(3), "why\nnot \"so\"")
        };
        let again = Event {
            count: 9,
            ..two.clone()
        };
        let mut bytes = b"}{ no event\n\n\xff\xfe\n{\"n\":1}\n".to_vec();
        for event in [&one, &two, &again] {
            bytes.extend(event.line());
        }
        let torn = one.line();
        bytes.extend(&torn[..torn.len() / 2]);
        assert_eq!(events_in(&bytes), [one, again]);
    }

    #[test]
    fn a_line_stays_within_its_bound_whatever_its_text() {
        for text in [
            "\u{1}".repeat(5000),
            "\u{10ffff}".repeat(999),
            "x".repeat(599) + "ä",
        ] {
            let event = Event {
                n: u64::MAX,
                wall_ms: u64::MAX,
                boot_ms: u64::MAX,
                count: u64::MAX,
                ..Event::new(EventKind::SteppedDown, Epoch(u64::MAX), text)
                    .between(ServerState::PassiveSync, ServerState::PassiveSync)
            };
            let line = event.line();
            assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
            assert_eq!(events_in(&line), [event]);
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut state = 7_u64;
        let mut line = Event::new(EventKind::Peer, Epoch(1), "x").line();
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = usize::try_from(state >> 40).expect("small") % line.len();
            line[at] = (state >> 33).to_le_bytes()[0];
            drop(events_in(&line));
        }
        assert_eq!(events_in(&vec![b'['; 1 << 20]), []);
    }
}
