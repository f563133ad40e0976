//! Configuration: profiles, layers, rules, and the reload plan.
//!
//! Built-in defaults < profile file < environment `TWINMQ__SECTION__KEY` < `--set key=value`, merged
//! by the crate `config`; each value keeps its origin, and a spanned parse of the same file gives the
//! line for every message. Out comes one validated [`Config`].

mod error;
pub mod keys;
mod layers;
mod load;
mod model;
mod profile;
mod raw;
mod reload;
pub mod render;
mod rules;
mod secrets;
mod stock;
mod value;
mod watch;

pub use error::{ConfigError, ConfigErrors, ConfigWarning, Origin};
pub use layers::ENVIRONMENT_PREFIX;
pub use load::{ConfigSource, Effective, EffectiveTable, Loaded, load, load_text};
pub use model::*;
pub use profile::{DEFAULT as DEFAULT_PROFILE, STOCK as STOCK_PROFILES};
pub use reload::{Change, ReloadPlan, TableChange, reload};
pub use secrets::{SecretError, new_secret, read_or_make_secret, read_private, read_secret};
pub use stock::{Ports, stock};
pub use value::{Value, parse_target};
pub(crate) use value::{is_host, is_name};
pub use watch::{ConfigWatcher, WatchError, watch};

#[cfg(test)]
mod tests;
