//! Heart-beats both ways. Reading has a grace factor of two, as the protocol advises; writing happens
//! after three quarters of the interval, so that a late timer is not seen by the client.

use std::time::Duration;

use super::HeartBeatOffer;
use crate::time::Moment;

#[derive(Debug)]
pub(super) struct HeartBeats {
    /// The client is given up when nothing came for this long.
    read_within: Option<Duration>,
    /// Something is written when nothing was for this long.
    write_after: Option<Duration>,
    last_read: Moment,
    last_write: Moment,
}

impl HeartBeats {
    /// None are agreed on yet.
    pub(super) fn new(now: Moment) -> Self {
        Self {
            read_within: None,
            write_after: None,
            last_read: now,
            last_write: now,
        }
    }

    /// Settles both directions by the offers of both sides.
    pub(super) fn agree(&mut self, server: HeartBeatOffer, client: HeartBeatOffer) {
        let interval = |sender: u32, receiver: u32| {
            (sender > 0 && receiver > 0).then(|| Duration::from_millis(sender.max(receiver).into()))
        };
        self.read_within = interval(client.send, server.receive).map(|every| every * 2);
        self.write_after = interval(server.send, client.receive).map(|every| every * 3 / 4);
    }

    pub(super) fn has_read(&mut self, now: Moment) {
        self.last_read = now;
    }

    pub(super) fn has_written(&mut self, now: Moment) {
        self.last_write = now;
    }

    pub(super) fn read_deadline(&self) -> Option<Moment> {
        self.read_within.map(|span| self.last_read.after(span))
    }

    pub(super) fn write_deadline(&self) -> Option<Moment> {
        self.write_after.map(|span| self.last_write.after(span))
    }

    /// How long the client may stay silent.
    pub(super) fn patience_ms(&self) -> u128 {
        self.read_within.map_or(0, |span| span.as_millis())
    }
}

/// Reads `cx,cy`.
pub(super) fn parse(text: &[u8]) -> Option<HeartBeatOffer> {
    let text = std::str::from_utf8(text).ok()?;
    let (send, receive) = text.split_once(',')?;
    let number = |digits: &str| {
        let digits = digits.trim();
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // Longer than 49 days is as good as 49 days.
        plain.then(|| digits.parse().unwrap_or(u32::MAX))
    };
    Some(HeartBeatOffer {
        send: number(send)?,
        receive: number(receive)?,
    })
}
