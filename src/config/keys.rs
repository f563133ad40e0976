//! Every key of a profile, in one table: meaning, kind, range, default, whether a reload applies it,
//! and the reference's spelling. Profiles, `docs/configuration.md` and `pair init` are written from
//! this table, and every layer is checked against it.

mod table;

use super::value::Value;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Dotted path: `ha.ping_interval_ms`.
    pub path: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The built-in default, spelled as for `--set`. Empty: not set.
    pub default: &'static str,
    /// What it means, in sentences.
    pub meaning: &'static str,
    /// The rules beyond the kind's own; empty if none.
    pub rule: &'static str,
    /// When a changed value is taken.
    pub applies: Applies,
    /// The reference's spellings, for import and for "did you mean".
    pub reference: &'static [&'static str],
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Key {}

/// When a changed value is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// By a reload, for what comes after it.
    OnReload,
    /// At the next start.
    OnRestart,
}

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// `ms`, `bytes`, `MiB`, ...; empty for a plain number.
        unit: &'static str,
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A short name: letters, digits, `-`, `_`, `.`; at most 64 bytes; may be empty.
    Name,
    /// An IP address.
    Ip,
    /// A host name or IP address; may be empty where the default is.
    Host,
    /// A path; may be empty where the default is.
    Path,
    /// Log levels by target.
    Levels,
    /// A list of `ADDRESS:PORT` with an IP address.
    Addresses,
    /// A list of `HOST:PORT`.
    Targets,
    /// A pattern over names of destinations.
    Pattern,
    /// The name of a queue, without `/queue/`, or `none`.
    QueueName,
}

impl Kind {
    /// What a value of this kind must be, to follow "must be".
    #[must_use]
    pub fn expected(self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { unit, min, max } => {
                let space = if unit.is_empty() { "" } else { " " };
                format!("a whole number from {min} to {max}{space}{unit}")
            }
            Self::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
            Self::Name => {
                "a name of at most 64 letters, digits, dots, dashes and underscores".to_owned()
            }
            Self::Ip => "an IP address".to_owned(),
            Self::Host => "a host name or IP address".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Levels => "a level (error, warn, info, debug, trace) or a list such as \
                 \"info,twinmq::ha=debug\""
                .to_owned(),
            Self::Addresses => "a list of at most 16 \"IP-ADDRESS:PORT\"".to_owned(),
            Self::Targets => "a list of at most 16 \"HOST:PORT\"".to_owned(),
            Self::Pattern => "a pattern such as \"orders.>\" or \"/topic/news.*\"".to_owned(),
            Self::QueueName => {
                "the name of a queue, without /queue/ and wildcards, or \"none\"".to_owned()
            }
        }
    }
}

/// A group of keys.
#[derive(Debug)]
pub struct Section {
    /// Dotted path; empty for the top level.
    pub path: &'static str,
    /// What it is about.
    pub meaning: &'static str,
    /// Its keys, in the order of the profile.
    pub keys: &'static [Key],
}

impl Section {
    /// Used in replicated and shared mode only.
    #[must_use]
    pub fn only_in_ha(&self) -> bool {
        self.path == "ha" || self.path.starts_with("ha.")
    }
}

impl Key {
    /// The part after the last dot.
    #[must_use]
    pub fn leaf(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The default as a value.
    #[must_use]
    pub fn default_value(&self) -> Value {
        Value::from_text(self.kind, self.default)
            .expect("the table's defaults are checked by a test")
    }
}

/// Longer names are not compared with known ones.
const NEAREST_MAX: usize = 128;

/// Every section, in the order of the profiles.
#[must_use]
pub fn sections() -> &'static [Section] {
    table::SECTIONS
}

/// The keys of a `[[destination]]` table, of which there may be many; [`all`] is without them.
#[must_use]
pub fn destination() -> &'static Section {
    &table::DESTINATION
}

/// Every key, in the order of the profiles.
pub fn all() -> impl Iterator<Item = &'static Key> {
    sections().iter().flat_map(|section| section.keys)
}

/// The key of this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    all().find(|key| key.path == path)
}

/// Our key for a name of the reference, whatever its case: `PingInterval`.
#[must_use]
pub fn of_reference(name: &str) -> Option<&'static Key> {
    all().find(|key| {
        key.reference
            .iter()
            .any(|alias| alias.eq_ignore_ascii_case(name))
    })
}

/// The known key or section that an unknown one most likely meant.
#[must_use]
pub fn nearest(path: &str) -> Option<&'static str> {
    // Comparing takes memory in proportion to the length.
    if path.len() > NEAREST_MAX {
        return None;
    }
    let leaf = path.rsplit('.').next().unwrap_or(path);
    if let Some(key) = of_reference(leaf).or_else(|| of_reference(path)) {
        return Some(key.path);
    }
    let path = path.to_ascii_lowercase();
    let leaf = leaf.to_ascii_lowercase();
    let sections = sections().iter().map(|section| section.path);
    let of_tables = destination().keys.iter();
    all()
        .chain(of_tables)
        .map(|key| key.path)
        // A key that is wrong within its section was not meant to be the section.
        .chain(sections.filter(|section| !section.is_empty() && !within(&path, section)))
        .map(|known| {
            let known_leaf = known.rsplit('.').next().unwrap_or(known);
            // The right name in the wrong section counts nearly as much as the whole path.
            let whole = strsim::normalized_damerau_levenshtein(&path, known);
            let last = strsim::normalized_damerau_levenshtein(&leaf, known_leaf) * 0.95;
            (known, whole.max(last))
        })
        .filter(|(_, likeness)| *likeness >= 0.6)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(known, _)| known)
}

fn within(path: &str, section: &str) -> bool {
    path.strip_prefix(section)
        .is_some_and(|rest| rest.starts_with('.'))
}
