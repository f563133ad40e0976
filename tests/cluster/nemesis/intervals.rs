//! Who served when: from both servers' own logs, on the one clock that they share. Two servers never
//! serve at once, an epoch has one server, and whoever answered a client was serving.

use twinmq::time::Moment;

use crate::support::server::Role;
use crate::support::stomp_py::Served;

/// A server spoke to clients from `begin`, and not after `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) role: Role,
    pub(crate) epoch: u64,
    pub(crate) begin: Moment,
    pub(crate) end: Moment,
}

/// The intervals of one life of a server. One that was killed while it served ends with the kill;
/// without a kill, at `at_last`.
pub(crate) fn of_log(
    role: Role,
    log: &str,
    killed: Option<Moment>,
    at_last: Moment,
) -> Result<Vec<Interval>, String> {
    let mut intervals = Vec::new();
    let mut open: Option<Interval> = None;
    for line in log.lines() {
        let field = |name: &str| {
            number_after(line, name).ok_or_else(|| format!("no {name} in the line: {line}"))
        };
        if line.contains(": serving begins ") {
            let begun = Interval {
                role,
                epoch: field("epoch=")?,
                begin: Moment(field("boot_ns=")?),
                end: Moment(u64::MAX),
            };
            if let Some(before) = open.replace(begun) {
                return Err(format!("{before:?} did not end before: {line}"));
            }
        } else if line.contains(": serving ends ") {
            let mut ended = open
                .take()
                .ok_or_else(|| format!("nothing ends here: {line}"))?;
            ended.end = Moment(field("until_ns=")?);
            intervals.push(ended);
        }
    }
    if let Some(mut last) = open {
        last.end = killed.unwrap_or(at_last);
        intervals.push(last);
    }
    Ok(intervals)
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let rest = &line[line.find(name)? + name.len()..];
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// The verdict over both servers' intervals.
pub(crate) fn check(intervals: &mut [Interval]) -> Result<(), String> {
    intervals.sort_by_key(|interval| interval.begin);
    let mut last: Option<Interval> = None;
    for next in intervals.iter() {
        if let Some(last) = last {
            if last.role != next.role && last.end > next.begin {
                let overlap = last.end.since(next.begin);
                return Err(format!("both serve for {overlap:?}: {last:?} and {next:?}"));
            }
            if next.epoch <= last.epoch {
                return Err(format!("an epoch comes again: {last:?} and {next:?}"));
            }
        }
        // A long one may reach beyond several that follow.
        last = Some(last.filter(|last| last.end > next.end).unwrap_or(*next));
    }
    Ok(())
}

/// Each word that a client had from a server came after that server began to serve. (It may be read
/// after the end: it was under way, or in the client's socket.)
pub(crate) fn check_words(
    intervals: &[Interval],
    served: &[Served],
    role_of: impl Fn(&str) -> Option<Role>,
) -> Result<(), String> {
    for words in served {
        let role = role_of(&words.host).ok_or_else(|| format!("who is {}?", words.host))?;
        let began = |interval: &Interval| interval.role == role && interval.begin <= words.first;
        if !intervals.iter().any(began) {
            return Err(format!("{words:?} although {role:?} had never served"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
12:00 INFO twinmq::ha: serving begins epoch=3 boot_ns=100
12:01 INFO twinmq::ha: something else
12:02 INFO twinmq::ha: serving ends boot_ns=250 until_ns=200
12:03 INFO twinmq::ha: serving begins epoch=5 boot_ns=400";

    fn interval(role: Role, epoch: u64, begin: u64, end: u64) -> Interval {
        Interval {
            role,
            epoch,
            begin: Moment(begin),
            end: Moment(end),
        }
    }

    #[test]
    fn intervals_are_read_from_a_log_and_a_kill_ends_the_last() {
        let found = of_log(Role::Primary, LOG, Some(Moment(450)), Moment(900));
        let first = interval(Role::Primary, 3, 100, 200);
        let expected = vec![first, interval(Role::Primary, 5, 400, 450)];
        assert_eq!(found, Ok(expected));
        let running = of_log(Role::Primary, LOG, None, Moment(900)).unwrap();
        assert_eq!(running[1].end, Moment(900));
        assert!(of_log(Role::Primary, "x: serving ends until_ns=3", None, Moment(9)).is_err());
    }

    #[test]
    fn an_overlap_does_not_escape_the_check() {
        let (one, two) = (Role::Primary, Role::Secondary);
        let mut apart = [interval(two, 2, 20, 30), interval(one, 1, 10, 20)];
        assert_eq!(check(&mut apart), Ok(()));
        let mut both = [interval(two, 2, 19, 30), interval(one, 1, 10, 20)];
        assert!(check(&mut both).unwrap_err().contains("both serve"));
        let mut around = [
            interval(one, 1, 10, 90),
            interval(one, 2, 11, 12),
            interval(two, 3, 80, 95),
        ];
        assert!(check(&mut around).is_err());
    }

    #[test]
    fn an_epoch_has_one_server() {
        let (one, two) = (Role::Primary, Role::Secondary);
        let mut same = [interval(one, 1, 10, 20), interval(two, 1, 30, 40)];
        assert!(check(&mut same).unwrap_err().contains("epoch"));
    }

    #[test]
    fn words_of_a_server_that_never_served_are_noticed() {
        let intervals = [interval(Role::Primary, 1, 10, 20)];
        let words = |first: u64| Served {
            host: "p".to_owned(),
            first: Moment(first),
            last: Moment(first),
        };
        let role_of = |_: &str| Some(Role::Primary);
        assert_eq!(check_words(&intervals, &[words(15)], role_of), Ok(()));
        assert!(check_words(&intervals, &[words(5)], role_of).is_err());
    }
}
