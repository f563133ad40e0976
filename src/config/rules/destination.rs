//! The rules of a `[[destination]]` table.

use std::time::Duration;

use super::{MIB, Rules};
use crate::config::error::ConfigError;
use crate::config::load::{Effective, EffectiveTable};
use crate::config::model::{DestinationTable, Mode, OnFull};
use crate::config::value::Value;

impl Rules<'_> {
    pub(super) fn destination(&mut self, mode: Mode, table: &EffectiveTable) -> DestinationTable {
        let number = |leaf: &str| match &find(table, leaf).value {
            Value::Integer(number) => *number,
            Value::Bool(_) | Value::Text(_) | Value::List(_) => 0,
        };
        let text = |leaf: &str| match &find(table, leaf).value {
            Value::Text(text) => text.as_str(),
            Value::Bool(_) | Value::Integer(_) | Value::List(_) => "",
        };
        let bound = |leaf: &str| u64::try_from(number(leaf)).ok().filter(|bound| *bound > 0);
        let dead_letter = Some(text("dead_letter")).filter(|name| *name != "none");
        let expired = find(table, "expired_to_dead_letter").value == Value::Bool(true);
        let on_full = match text("on_full") {
            "block" => OnFull::Block,
            "drop_oldest" => OnFull::DropOldest,
            "dead_letter" => OnFull::DeadLetter,
            _ => OnFull::Reject,
        };
        let (max_messages, max_mib) = (bound("max_messages"), bound("max_mib"));
        let both_copies = number("copies") == 2;
        if dead_letter.is_none() && expired {
            self.broken_in(table, "expired_to_dead_letter", "needs a dead_letter queue");
        }
        if dead_letter.is_none() && on_full == OnFull::DeadLetter {
            self.broken_in(table, "on_full", "needs a dead_letter queue");
        }
        if both_copies && mode != Mode::Replicated {
            self.broken_in(
                table,
                "copies",
                format!(
                    "a server in {mode} mode never has two copies, and would refuse every send: say \
                     copies = 1, or use a replicated pair"
                ),
            );
        }
        DestinationTable {
            pattern: table.pattern.clone(),
            redelivery_limit: u32::try_from(number("redelivery_limit")).ok(),
            redelivery_delay: Duration::from_millis(
                bound("redelivery_delay_ms").unwrap_or_default(),
            ),
            dead_letter: dead_letter.map(ToOwned::to_owned),
            expired_to_dead_letter: expired,
            max_messages,
            max_bytes: max_mib.map(|mib| mib.saturating_mul(MIB)),
            on_full,
            both_copies,
        }
    }

    fn broken_in(&mut self, table: &EffectiveTable, leaf: &str, rule: impl Into<String>) {
        let found = find(table, leaf);
        self.errors.push(ConfigError::BadValue {
            at: found.origin.clone(),
            key: found.key.path.to_owned(),
            value: found.value.to_string(),
            rule: rule.into(),
        });
    }
}

fn find<'a>(table: &'a EffectiveTable, leaf: &str) -> &'a Effective {
    let mut values = table.values.iter();
    values
        .find(|one| one.key.leaf() == leaf)
        .expect("a table in effect has every key of its kind")
}
