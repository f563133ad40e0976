//! What can be wrong with a configuration, said so that the line can be found and put right.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from, the lowest layer first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The profile: a path, or `built-in profile NAME`, and the line in it, from 1.
    Profile {
        /// Which.
        name: String,
        /// Where in it.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// The command line, as it was written: `--set ha.port=1`.
    CommandLine(String),
}

impl Origin {
    /// The layer's name, as `config show --json` gives it.
    #[must_use]
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Profile { .. } => "profile",
            Self::Environment(_) => "environment",
            Self::CommandLine(_) => "command line",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::Profile { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::CommandLine(written) => f.write_str(written),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No profile of that name.
    #[error(
        "there is no profile {name:?}{}; looked for {looked}",
        did_you_mean(nearest.as_deref())
    )]
    NoProfile {
        /// As asked for.
        name: String,
        /// The known one that was most likely meant.
        nearest: Option<String>,
        /// Where it was looked for, in words.
        looked: String,
    },
    /// The file is there but cannot be read.
    #[error("profile {path} cannot be read: {cause}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A reload found the profile somewhere else than the start did.
    #[error("profile {path} is not there any more (found {now} instead)", path = path.display())]
    Moved {
        /// Where it was at the start.
        path: PathBuf,
        /// What would be read now.
        now: String,
    },
    /// Not TOML; also a key that is there twice.
    #[error("{at}: {cause}")]
    Syntax {
        /// Where.
        at: Origin,
        /// What the parser said.
        cause: String,
    },
    /// Not `KEY=VALUE`.
    #[error("{at}: expected --set KEY=VALUE, such as --set log.level=debug")]
    NoAssignment {
        /// As written.
        at: Origin,
    },
    /// No such key.
    #[error("{at}: unknown key {key}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// Where.
        at: Origin,
        /// As written.
        key: String,
        /// The known one that was most likely meant.
        nearest: Option<String>,
    },
    /// A section where a key must be.
    #[error("{at}: {section} is a section; name a key in it, such as {example}")]
    Section {
        /// Where.
        at: Origin,
        /// Its path.
        section: &'static str,
        /// A key in it, by its full path.
        example: &'static str,
    },
    /// A value of the wrong type or out of its range, or against a rule.
    #[error("{at}: {key} = {value}: {rule}")]
    BadValue {
        /// Where.
        at: Origin,
        /// Which key.
        key: String,
        /// The value, as TOML spells it.
        value: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// A key that this mode cannot do without.
    #[error("{profile}: {key} is not set: {rule}")]
    Missing {
        /// The profile.
        profile: String,
        /// Which key.
        key: String,
        /// Why it is needed.
        rule: String,
    },
    /// The merged values do not form a configuration: the table of keys and the structs disagree.
    #[error("the merged configuration cannot be read: {cause}")]
    Merge {
        /// What the crate `config` said.
        cause: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |known| format!(", did you mean {known}?"))
}

/// Everything that is wrong, in the order of the layers. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// Something that works but is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// Where.
    pub at: Origin,
    /// Which key.
    pub key: String,
    /// The value, as TOML spells it.
    pub value: String,
    /// What follows from it.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} = {}: {}",
            self.at, self.key, self.value, self.message
        )
    }
}
