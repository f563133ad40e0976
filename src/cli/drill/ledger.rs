//! What a drill showed, fault by fault and in all.

use std::time::Duration;

use serde::Serialize;

use super::Fault;
use crate::cli::ledger::LedgerReport;
use crate::cli::load::LoadOutcome;

/// One fault's line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    fault: Fault,
    /// Which server was active when it was struck.
    active: &'static str,
    /// The longest time that a producer had to wait between two receipts.
    outage_ms: u64,
    #[serde(flatten)]
    ledger: LedgerReport,
    /// What kept a client from doing its part, if anything did.
    failure: Option<String>,
    verdict: &'static str,
}

impl Row {
    pub(super) fn new(
        fault: Fault,
        active: &'static str,
        outage: Duration,
        outcome: LoadOutcome,
    ) -> Self {
        let LoadOutcome {
            ledger, failure, ..
        } = outcome;
        Self {
            fault,
            active,
            outage_ms: u64::try_from(outage.as_millis()).unwrap_or(u64::MAX),
            verdict: verdict(&ledger, failure.is_some()),
            ledger,
            failure,
        }
    }

    fn holds(&self) -> bool {
        self.ledger.holds() && self.failure.is_none()
    }

    /// For the story.
    pub(super) fn sentence(&self) -> String {
        format!(
            "{}, outage {} ms, {} confirmed",
            self.verdict, self.outage_ms, self.ledger.confirmed
        )
    }
}

fn verdict(ledger: &LedgerReport, failed: bool) -> &'static str {
    if ledger.lost > 0 {
        "LOST"
    } else if ledger.duplicated > 0 || ledger.foreign > 0 {
        "REPEATED"
    } else if failed {
        "CLIENT FAILED"
    } else {
        "held"
    }
}

/// What it showed so far.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Drilled {
    pub(super) profile: String,
    pub(super) mode: &'static str,
    seed: u64,
    rounds: u64,
    faults: Vec<Row>,
    total: LedgerReport,
    /// When two servers served at once, if they ever did.
    pub(super) serving: Option<String>,
    /// Where it ended, if not at its end.
    pub(super) ended_early: Option<Early>,
}

/// A drill that did not come to its end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Early {
    /// What was done just then.
    pub(super) during: String,
    /// By whoever ran it; else something failed.
    pub(super) interrupted: bool,
    /// So many faults were to be struck.
    pub(super) planned: usize,
}

impl Drilled {
    pub(super) fn new(profile: &str, mode: &'static str, seed: u64, rounds: u64) -> Self {
        Self {
            profile: profile.to_owned(),
            mode,
            seed,
            rounds,
            faults: Vec::new(),
            total: LedgerReport::default(),
            serving: None,
            ended_early: None,
        }
    }

    pub(super) fn enter(&mut self, row: Row) {
        self.total += &row.ledger;
        self.faults.push(row);
    }

    /// Whether everything that was drilled held; of a drill that ended early, what was seen until then.
    pub(super) fn holds(&self) -> bool {
        self.serving.is_none() && self.faults.iter().all(Row::holds)
    }

    /// For a drill whose rows all held.
    fn good_verdict(&self) -> String {
        let Some(early) = &self.ended_early else {
            return "nothing confirmed was lost, nothing came twice unflagged, never two servers served"
                .to_owned();
        };
        let what = match early.interrupted {
            true => "INTERRUPTED",
            false => "NOT FINISHED: it stopped",
        };
        let seen = match self.faults.len() {
            0 => "no fault was struck and settled before that".to_owned(),
            done => format!(
                "until then, in {done} of {} faults, nothing confirmed was lost and nothing came twice \
                 unflagged",
                early.planned
            ),
        };
        format!(
            "{what} {}: {seen}; what it was at then, and who served when, was not judged",
            early.during
        )
    }

    /// The ledger for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "\nledger of {} ({}), --seed {}\n\n  {:<16} {:>9} {:>10} {:>10} {:>8} {:>9} {:>6}  verdict\n",
            self.profile,
            self.mode,
            self.seed,
            "fault",
            "outage ms",
            "confirmed",
            "once",
            "flagged",
            "unflagged",
            "lost"
        );
        let line = |name: &str, outage: &str, ledger: &LedgerReport, verdict: &str| {
            format!(
                "  {name:<16} {outage:>9} {:>10} {:>10} {:>8} {:>9} {:>6}  {verdict}\n",
                ledger.confirmed,
                ledger.delivered_once,
                ledger.redelivered,
                ledger.duplicated,
                ledger.lost
            )
        };
        for row in &self.faults {
            let outage = row.outage_ms.to_string();
            text += &line(&row.fault.name(), &outage, &row.ledger, row.verdict);
        }
        let all = match (self.holds(), &self.ended_early) {
            (true, None) => "held",
            (true, Some(_)) => "not finished",
            (false, _) => "FAILED",
        };
        text += &line("all", "", &self.total, all);
        text += "\nonce: confirmed and delivered once; flagged: came again as redelivered; outage: the \
                 longest\ngap between two receipts of a producer, resync included\n\n";
        for row in &self.faults {
            if let Some(failure) = &row.failure {
                text += &format!(
                    "{}: a client could not go on: {failure}\n",
                    row.fault.name()
                );
            }
        }
        match (&self.serving, self.holds()) {
            (Some(both), _) => text += &format!("FAILED: {both}; please report this with the logs"),
            (None, true) => text += &self.good_verdict(),
            (None, false) => {
                text += "FAILED: the guarantee did not hold; please report this with the logs";
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fault: Fault, lost: u64) -> Row {
        let ledger = LedgerReport {
            confirmed: 10,
            delivered_once: 10 - lost,
            lost,
            ..LedgerReport::default()
        };
        Row {
            fault,
            active: "primary",
            outage_ms: 640,
            verdict: verdict(&ledger, false),
            ledger,
            failure: None,
        }
    }

    fn drilled(rows: Vec<Row>) -> Drilled {
        let mut drilled = Drilled::new("replicated/primary", "replicated", 7, 1);
        for row in rows {
            drilled.enter(row);
        }
        drilled
    }

    #[test]
    fn a_loss_is_shown_at_its_fault_and_in_the_verdict() {
        let held = drilled(vec![row(Fault::KillActive, 0)]);
        assert!(held.holds());
        assert!(held.text().ends_with("never two servers served"));
        let lost = drilled(vec![row(Fault::KillActive, 0), row(Fault::KillBoth, 1)]);
        assert!(!lost.holds());
        let text = lost.text();
        let line = text.lines().find(|line| line.contains("kill-both"));
        assert!(line.is_some_and(|line| line.ends_with("LOST")), "{text}");
        assert!(text.contains("FAILED: the guarantee"), "{text}");
    }

    #[test]
    fn two_servers_at_once_fail_the_drill() {
        let mut both = drilled(vec![row(Fault::HangActive, 0)]);
        both.serving = Some("both serve for 3 ms".to_owned());
        assert!(!both.holds());
        assert!(both.text().contains("FAILED: both serve"));
    }

    #[test]
    fn a_drill_that_did_not_come_to_its_end_claims_no_more_than_it_saw() {
        let mut cut = drilled(vec![row(Fault::KillActive, 0)]);
        cut.ended_early = Some(Early {
            during: "during 2/13 kill-both".to_owned(),
            interrupted: true,
            planned: 13,
        });
        let text = cut.text();
        let verdict = "INTERRUPTED during 2/13 kill-both: until then, in 1 of 13 faults, nothing confirmed \
                       was lost";
        assert!(text.contains(verdict), "{text}");
        assert!(!text.contains("never two servers"), "{text}");
        cut.faults.clear();
        assert!(cut.text().contains("no fault was struck and settled"));
        cut.enter(row(Fault::KillBoth, 1));
        assert!(cut.text().contains("FAILED: the guarantee"));
    }

    #[test]
    fn the_ledger_is_json_too() {
        let json = serde_json::to_value(drilled(vec![row(Fault::LockDeleted, 0)])).unwrap();
        assert_eq!(json["faults"][0]["fault"], "lock-deleted");
        assert_eq!(json["faults"][0]["verdict"], "held");
        assert_eq!(json["total"]["confirmed"], 10);
    }
}
