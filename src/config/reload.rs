//! The reload plan: what a changed profile changes at once, and what only a restart takes. All or
//! nothing: a source with anything wrong in it changes nothing.

use std::fmt;

use super::error::{ConfigError, ConfigErrors, Origin};
use super::keys::{Applies, Key};
use super::layers::Layer;
use super::load::{ConfigSource, Effective, EffectiveTable, Loaded, assemble, read};
use super::value::Value;
use crate::proto::pattern::NamePattern;

/// A key whose value differs from the one in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: &'static Key,
    /// In effect until now.
    pub old: Value,
    /// What the source says now.
    pub new: Value,
    /// Where it says so.
    pub origin: Origin,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} -> {} ({})",
            self.key.path, self.old, self.new, self.origin
        )
    }
}

/// A `[[destination]]` table that differs from the one in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// It was not there.
    Added(EffectiveTable),
    /// It is not there any more.
    Removed(NamePattern),
    /// A key in it.
    Key(NamePattern, Change),
}

impl fmt::Display for TableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(table) => {
                write!(f, "destination {}: added ({})", table.pattern, table.at)
            }
            Self::Removed(pattern) => write!(f, "destination {pattern}: removed"),
            Self::Key(pattern, change) => write!(f, "destination {pattern}: {change}"),
        }
    }
}

/// What a reload does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadPlan {
    /// The configuration to go on with: the new values of `changed`, the old of `needs_restart`.
    /// The next reload is compared with this.
    pub loaded: Loaded,
    /// Taken now.
    pub changed: Vec<Change>,
    /// Taken now, in the order of their patterns' tables.
    pub changed_tables: Vec<TableChange>,
    /// Not taken: the source says so, but the server must be started again for it.
    pub needs_restart: Vec<Change>,
}

impl ReloadPlan {
    /// Nothing of what the source says differently is taken now.
    #[must_use]
    pub fn takes_nothing(&self) -> bool {
        self.changed.is_empty() && self.changed_tables.is_empty()
    }

    /// The source says nothing but what is in effect.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.takes_nothing() && self.needs_restart.is_empty()
    }
}

/// One line for each change: what to tell the operator.
impl fmt::Display for ReloadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let changed = self
            .changed
            .iter()
            .map(|change| format!("changed: {change}"));
        let tables = self.changed_tables.iter();
        let tables = tables.map(|change| format!("changed: {change}"));
        let waiting = self.needs_restart.iter();
        let waiting = waiting.map(|change| format!("needs a restart, not changed: {change}"));
        let lines: Vec<String> = changed.chain(tables).chain(waiting).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Loads the source again and plans what of it to take.
///
/// # Errors
/// Everything that is wrong with the source; or with what would come of its new values together
/// with the old ones of keys that need a restart. Nothing is to be changed then.
pub fn reload(old: &Loaded, source: &ConfigSource) -> Result<ReloadPlan, ConfigErrors> {
    let (identity, mut layers) = read(source)?;
    if identity.file != old.config.file {
        // The lookup would go on to the next place while an editor replaces the file.
        return Err(ConfigErrors::from(ConfigError::Moved {
            now: identity.shown,
            path: old.config.file.clone().unwrap_or_default(),
        }));
    }
    let new = assemble(&layers, &identity)?;
    let mut changed = Vec::new();
    let mut needs_restart = Vec::new();
    let mut kept = Layer::default();
    for (before, after) in old.values.iter().zip(&new.values) {
        if before.value == after.value {
            continue;
        }
        let change = change(before, after);
        match after.key.applies {
            Applies::OnReload => changed.push(change),
            Applies::OnRestart => {
                needs_restart.push(change);
                kept.values
                    .push((before.key, before.value.clone(), before.origin.clone()));
            }
        }
    }
    layers.push(kept);
    Ok(ReloadPlan {
        changed_tables: table_changes(&old.tables, &new.tables),
        loaded: assemble(&layers, &identity)?,
        changed,
        needs_restart,
    })
}

fn table_changes(old: &[EffectiveTable], new: &[EffectiveTable]) -> Vec<TableChange> {
    let of = |tables: &'_ [EffectiveTable], pattern: &NamePattern| {
        tables.iter().position(|table| table.pattern == *pattern)
    };
    let mut changes = Vec::new();
    for table in new {
        let Some(before) = of(old, &table.pattern) else {
            changes.push(TableChange::Added(table.clone()));
            continue;
        };
        let pairs = old[before].values.iter().zip(&table.values);
        changes.extend(
            pairs
                .filter(|(before, after)| before.value != after.value)
                .map(|(before, after)| {
                    TableChange::Key(table.pattern.clone(), change(before, after))
                }),
        );
    }
    let gone = old.iter().filter(|table| of(new, &table.pattern).is_none());
    changes.extend(gone.map(|table| TableChange::Removed(table.pattern.clone())));
    changes
}

fn change(before: &Effective, after: &Effective) -> Change {
    Change {
        key: after.key,
        old: before.value.clone(),
        new: after.value.clone(),
        origin: after.origin.clone(),
    }
}
