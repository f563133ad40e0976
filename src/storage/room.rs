//! How full a store is: against its quota, and against the room that its disk leaves it.
//!
//! The *room* of a store is the smaller of its quota and of what it has in use plus what is free on its
//! disk. What other programs fill is thus no room. Three levels are shares of it. The last one, from
//! which sends are refused, is never nearer to the end than a reserve that acknowledgements need; on a
//! small disk or quota, where that decides, the other two move down with it.

use super::api::RoomLevel;
use super::backend::Space;

/// Kept free for acknowledgements: this, or 2 % of the disk.
pub(super) const RESERVE: u64 = 64 << 20;

/// Shares of the room, in percent; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLevels {
    /// From here on it is said.
    pub warn: u8,
    /// From here on senders wait.
    pub block: u8,
    /// From here on sends are refused.
    pub refuse: u8,
}

impl Default for RoomLevels {
    fn default() -> Self {
        Self {
            warn: 80,
            block: 90,
            refuse: 95,
        }
    }
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// Bytes in use.
    pub(super) bytes: u64,
    /// Bytes that the store may use.
    pub(super) quota: u64,
    /// Of its disk.
    pub(super) space: Space,
}

/// The level, and the share of the room in use, in percent. A level that was reached is left only
/// below 63/64 of it, so that a store at the edge does not change its mind with every message.
pub(super) fn judge(levels: RoomLevels, before: RoomLevel, now: Use) -> (RoomLevel, u8) {
    let reserve = RESERVE.max(now.space.total / 50);
    let disk = now.bytes.saturating_add(now.space.free);
    let room = now.quota.min(disk);
    let refuse = share(room, levels.refuse)
        .min(now.quota.saturating_sub(RESERVE))
        .min(disk.saturating_sub(reserve));
    let below = |percent: u8| {
        let scaled = u128::from(refuse) * u128::from(percent) / u128::from(levels.refuse.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    let reached = |level: RoomLevel, at: u64| {
        let at = if before >= level { at - at / 64 } else { at };
        now.bytes > at
    };
    let level = if reached(RoomLevel::Refuses, refuse) || now.space.free < reserve {
        RoomLevel::Refuses
    } else if reached(RoomLevel::Blocks, below(levels.block)) {
        RoomLevel::Blocks
    } else if reached(RoomLevel::Low, below(levels.warn)) {
        RoomLevel::Low
    } else {
        RoomLevel::Enough
    };
    let percent = u128::from(now.bytes) * 100 / u128::from(room.max(1));
    (level, u8::try_from(percent).unwrap_or(100).min(100))
}

fn share(of: u64, percent: u8) -> u64 {
    let part = u128::from(of) * u128::from(percent) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn at(bytes: u64, quota: u64, free: u64) -> Use {
        Use {
            bytes,
            quota,
            space: Space {
                free,
                total: 1000 * GIB,
            },
        }
    }

    fn level(before: RoomLevel, now: Use) -> RoomLevel {
        judge(RoomLevels::default(), before, now).0
    }

    #[test]
    fn the_levels_are_shares_of_the_quota() {
        for (bytes, expected) in [
            (79, RoomLevel::Enough),
            (81, RoomLevel::Low),
            (91, RoomLevel::Blocks),
            (96, RoomLevel::Refuses),
        ] {
            let now = at(bytes * GIB, 100 * GIB, 500 * GIB);
            assert_eq!(
                judge(RoomLevels::default(), RoomLevel::Enough, now),
                (expected, u8::try_from(bytes).unwrap())
            );
        }
    }

    #[test]
    fn what_others_fill_of_the_disk_is_no_room() {
        // 20 GiB are the reserve of such a disk.
        for (free, expected) in [
            (500, RoomLevel::Enough),
            (24, RoomLevel::Blocks),
            (19, RoomLevel::Refuses),
        ] {
            let now = at(100 * GIB, 1000 * GIB, free * GIB);
            assert_eq!(level(RoomLevel::Enough, now), expected, "{free}");
        }
        // An empty store on a nearly full disk has little room, and takes nothing of the reserve.
        assert_eq!(
            level(RoomLevel::Enough, at(4096, GIB, 19 * GIB)),
            RoomLevel::Refuses
        );
        assert_eq!(
            level(RoomLevel::Enough, at(4096, GIB, 30 * GIB)),
            RoomLevel::Enough
        );
    }

    #[test]
    fn the_reserve_is_never_given_away_and_blocking_comes_before_refusing() {
        let small = 2 * RESERVE;
        let tried = |bytes| level(RoomLevel::Enough, at(bytes, small, 500 * GIB));
        assert_eq!(tried(RESERVE + 1), RoomLevel::Refuses);
        assert_eq!(tried(RESERVE), RoomLevel::Blocks);
        assert_eq!(tried(RESERVE / 10 * 9), RoomLevel::Low);
        assert_eq!(tried(RESERVE / 10 * 8), RoomLevel::Enough);
    }

    #[test]
    fn a_level_is_left_a_little_lower_than_it_was_reached() {
        let now = at(90 * GIB - GIB / 2, 100 * GIB, 500 * GIB);
        assert_eq!(level(RoomLevel::Low, now), RoomLevel::Low);
        assert_eq!(level(RoomLevel::Blocks, now), RoomLevel::Blocks);
        let lower = at(88 * GIB, 100 * GIB, 500 * GIB);
        assert_eq!(level(RoomLevel::Blocks, lower), RoomLevel::Low);
    }
}
