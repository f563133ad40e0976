//! Configuration: profiles, layers, rules, and the reload plan.
//!
//! Built-in defaults < profile file < environment `TWINMQ__SECTION__KEY` < `--set key=value`, merged
//! by the crate `config`; each value keeps its origin, and a spanned parse of the same file gives the
//! line for every message. Out comes one validated [`Config`].

mod model;

pub use model::*;
