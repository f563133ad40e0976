//! What a check found, for people and as JSON.

use serde_json::{Value as Json, json};

/// How good or bad a finding is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    /// As it should be.
    Good,
    /// Could not be looked at, or should be known.
    Note,
    /// Works, but costs outage or comfort.
    Warning,
    /// The pair must not be run like this.
    Bad,
}

impl Grade {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Warning => "WARN",
            Self::Bad => "BAD",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) grade: Grade,
    pub(super) what: String,
    /// What to do; empty where nothing need be done.
    pub(super) advice: String,
}

/// What was found, by topic, in the order in which it was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    topics: Vec<(&'static str, Vec<Finding>)>,
}

impl Report {
    /// What follows belongs to this topic.
    pub(super) fn topic(&mut self, name: &'static str) {
        self.topics.push((name, Vec::new()));
    }

    pub(super) fn good(&mut self, what: impl Into<String>) {
        self.add(Grade::Good, what.into(), String::new());
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.add(Grade::Note, what.into(), String::new());
    }

    pub(super) fn warn(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Grade::Warning, what.into(), advice.into());
    }

    pub(super) fn bad(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.add(Grade::Bad, what.into(), advice.into());
    }

    /// Takes what was found apart, under the present topic.
    pub(super) fn append(&mut self, other: Self) {
        for (_, findings) in other.topics {
            for finding in findings {
                self.add(finding.grade, finding.what, finding.advice);
            }
        }
    }

    fn add(&mut self, grade: Grade, what: String, advice: String) {
        if self.topics.is_empty() {
            self.topic("check");
        }
        if let Some((_, findings)) = self.topics.last_mut() {
            findings.push(Finding {
                grade,
                what,
                advice,
            });
        }
    }

    /// How many findings have a grade.
    pub(super) fn count(&self, grade: Grade) -> usize {
        self.findings().filter(|it| it.grade == grade).count()
    }

    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.topics.iter().flat_map(|(_, findings)| findings)
    }

    pub(super) fn as_text(&self) -> String {
        let mut lines = Vec::new();
        for (topic, findings) in &self.topics {
            lines.push((*topic).to_owned());
            for finding in findings {
                lines.push(format!("  {:<5}{}", finding.grade.name(), finding.what));
                if !finding.advice.is_empty() {
                    lines.push(format!("       -> {}", finding.advice));
                }
            }
        }
        lines.join("\n")
    }

    pub(super) fn verdict(&self) -> String {
        let plural = |count: usize, one: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        match (self.count(Grade::Bad), self.count(Grade::Warning)) {
            (0, 0) => "nothing speaks against running it".to_owned(),
            (0, warnings) => format!("it can run; {}", plural(warnings, "warning")),
            (bad, warnings) => format!(
                "do not run it like this: {}, {}",
                plural(bad, "fault"),
                plural(warnings, "warning")
            ),
        }
    }

    pub(super) fn as_json(&self) -> Json {
        let topics: Vec<Json> = self
            .topics
            .iter()
            .map(|(topic, findings)| {
                let findings: Vec<Json> = findings
                    .iter()
                    .map(|it| {
                        json!({
                            "grade": it.grade.name().to_ascii_lowercase(),
                            "what": it.what,
                            "advice": it.advice,
                        })
                    })
                    .collect();
                json!({"topic": topic, "findings": findings})
            })
            .collect();
        json!(topics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_makes_the_verdict() {
        let mut report = Report::default();
        report.topic("ports");
        report.good("free");
        assert_eq!(report.verdict(), "nothing speaks against running it");
        report.warn("slow", "make it fast");
        assert_eq!(report.verdict(), "it can run; 1 warning");
        report.topic("share");
        report.bad("broken", "mend it");
        assert_eq!(
            report.verdict(),
            "do not run it like this: 1 fault, 1 warning"
        );
        assert_eq!(
            report.as_text(),
            "ports\n  ok   free\n  WARN slow\n       -> make it fast\nshare\n  BAD  broken\n       \
             -> mend it"
        );
        let json = report.as_json();
        assert_eq!(json[1]["findings"][0]["grade"], "bad");
        assert_eq!(json[1]["findings"][0]["advice"], "mend it");
    }
}
