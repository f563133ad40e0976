//! Who served when: from both servers' own logs, on the one clock that two servers on a machine share.
//! Two servers never serve at once, an epoch has one server, and whoever answered a client was
//! serving. Pure; `drill` and the tests of real pairs judge by it.

use crate::time::Moment;

/// A server spoke to clients from `begin`, and not after `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Which server.
    pub server: String,
    /// Its generation of service.
    pub epoch: u64,
    /// When it began.
    pub begin: Moment,
    /// When its right to speak was over: with its lease, where that came first.
    pub end: Moment,
}

/// The intervals of a server's log, of all its lives. One that the log does not end was ended by
/// the next of the `kills`, or goes on until `at_last`.
///
/// # Errors
/// When the log contradicts itself, with the line.
pub fn intervals(
    server: &str,
    log: &str,
    kills: &[Moment],
    at_last: Moment,
) -> Result<Vec<Interval>, String> {
    let mut found = Vec::new();
    let mut open: Option<Interval> = None;
    // Its watchdog speaks for a server that hangs.
    let watchdog = |line: &str| line.starts_with("watchdog: ") && line.contains(" is killed ");
    let killed = |open: &Interval| kills.iter().copied().find(|kill| *kill > open.begin);
    for line in log.lines() {
        let field = |name: &str| {
            number_after(line, name).ok_or_else(|| format!("no {name} in the line: {line}"))
        };
        if line.contains(": serving begins ") {
            let begun = Interval {
                server: server.to_owned(),
                epoch: field("epoch=")?,
                begin: Moment(field("boot_ns=")?),
                end: Moment(u64::MAX),
            };
            if let Some(mut before) = open.replace(begun) {
                before.end = killed(&before)
                    .ok_or_else(|| format!("{before:?} did not end before: {line}"))?;
                found.push(before);
            }
        } else if line.contains(": serving ends ") {
            let mut ended = open
                .take()
                .ok_or_else(|| format!("nothing ends here: {line}"))?;
            ended.end = Moment(field("until_ns=")?);
            found.push(ended);
        } else if watchdog(line)
            && let Some(mut ended) = open.take()
        {
            // It may speak of a later life, which hung without ever serving.
            let told = Moment(field("boot_ns=")?);
            ended.end = killed(&ended).map_or(told, |kill| kill.min(told));
            found.push(ended);
        }
    }
    if let Some(mut last) = open {
        last.end = killed(&last).unwrap_or(at_last);
        found.push(last);
    }
    Ok(found)
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let rest = line.get(line.find(name)? + name.len()..)?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

/// The verdict over both servers' intervals, which it sorts.
///
/// # Errors
/// Which two servers served at once, or in the same epoch.
pub fn judge(intervals: &mut [Interval]) -> Result<(), String> {
    intervals.sort_by_key(|interval| interval.begin);
    let mut last: Option<&Interval> = None;
    for next in intervals.iter() {
        if let Some(last) = last {
            if last.server != next.server && last.end > next.begin {
                let overlap = last.end.since(next.begin);
                return Err(format!("both serve for {overlap:?}: {last:?} and {next:?}"));
            }
            if next.epoch <= last.epoch {
                return Err(format!("an epoch comes again: {last:?} and {next:?}"));
            }
        }
        // A long one may reach beyond several that follow.
        last = last.filter(|last| last.end > next.end).or(Some(next));
    }
    Ok(())
}

/// Whether a server had begun to serve when a client had a word from it. (The word may be read after
/// the end: it was under way, or in the client's socket.)
#[must_use]
pub fn had_begun(intervals: &[Interval], server: &str, at: Moment) -> bool {
    intervals
        .iter()
        .any(|interval| interval.server == server && interval.begin <= at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
12:00 INFO twinmq::ha: serving begins epoch=3 boot_ns=100
12:01 INFO twinmq::ha: something else
12:02 INFO twinmq::ha: serving ends boot_ns=250 until_ns=200
12:03 INFO twinmq::ha: serving begins epoch=5 boot_ns=400";

    fn interval(server: &str, epoch: u64, begin: u64, end: u64) -> Interval {
        Interval {
            server: server.to_owned(),
            epoch,
            begin: Moment(begin),
            end: Moment(end),
        }
    }

    #[test]
    fn intervals_are_read_from_a_log_and_a_kill_ends_the_last() {
        let kills = [Moment(50), Moment(450)];
        let found = intervals("a", LOG, &kills, Moment(900));
        let expected = vec![interval("a", 3, 100, 200), interval("a", 5, 400, 450)];
        assert_eq!(found, Ok(expected));
        let running = intervals("a", LOG, &[], Moment(900)).unwrap();
        assert_eq!(running[1].end, Moment(900));
    }

    #[test]
    fn a_life_that_was_killed_ends_before_the_next_and_nothing_else_does() {
        let lives = format!("{LOG}\nx: serving begins epoch=7 boot_ns=600");
        let found = intervals("a", &lives, &[Moment(500)], Moment(900)).unwrap();
        assert_eq!(found[1], interval("a", 5, 400, 500));
        assert!(intervals("a", &lives, &[], Moment(900)).is_err());
        assert!(intervals("a", "x: serving ends until_ns=3", &[], Moment(9)).is_err());
    }

    #[test]
    fn a_watchdog_ends_the_interval_of_a_server_that_hangs() {
        let killed =
            format!("{LOG}\nwatchdog: the server has not turned and is killed boot_ns=470");
        let found = intervals("a", &killed, &[Moment(500)], Moment(900)).unwrap();
        assert_eq!(found[1], interval("a", 5, 400, 470));
        let idle = "watchdog: the server has not turned and is killed boot_ns=470";
        assert_eq!(intervals("a", idle, &[], Moment(9)), Ok(vec![]));
    }

    #[test]
    fn a_watchdog_of_a_later_life_does_not_lengthen_one_that_was_killed() {
        let passive =
            format!("{LOG}\nwatchdog: the server has not turned and is killed boot_ns=800");
        let found = intervals("a", &passive, &[Moment(450)], Moment(900)).unwrap();
        assert_eq!(found[1], interval("a", 5, 400, 450));
    }

    #[test]
    fn an_overlap_does_not_escape_the_judge() {
        let mut apart = [interval("b", 2, 20, 30), interval("a", 1, 10, 20)];
        assert_eq!(judge(&mut apart), Ok(()));
        let mut both = [interval("b", 2, 19, 30), interval("a", 1, 10, 20)];
        assert!(judge(&mut both).unwrap_err().contains("both serve"));
        let mut around = [
            interval("a", 1, 10, 90),
            interval("a", 2, 11, 12),
            interval("b", 3, 80, 95),
        ];
        assert!(judge(&mut around).is_err());
    }

    #[test]
    fn an_epoch_has_one_server() {
        let mut same = [interval("a", 1, 10, 20), interval("b", 1, 30, 40)];
        assert!(judge(&mut same).unwrap_err().contains("epoch"));
    }

    #[test]
    fn words_of_a_server_that_never_served_are_noticed() {
        let intervals = [interval("a", 1, 10, 20)];
        assert!(had_begun(&intervals, "a", Moment(15)));
        assert!(!had_begun(&intervals, "a", Moment(5)));
        assert!(!had_begun(&intervals, "b", Moment(15)));
    }
}
