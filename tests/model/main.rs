//! The shipped HA machine, two of them, in every order in which messages, answers, timers and faults
//! can come, within a budget of faults. Each search ends by itself: nothing bounds its depth.
//!
//! `cargo test --test model` searches the small budgets; `TWINMQ_MODEL=all` searches every one of
//! `budget::SEARCHES`, and `TWINMQ_MODEL=<name>` one of them. What is searched, what is left out and
//! how far that reaches is in docs/proofs.md.

mod budget;
mod digest;
mod effects;
mod faults;
mod heal;
mod rebase;
mod rules;
mod search;
mod steps;
mod without;
mod world;

use budget::SEARCHES;
use search::run;
use twinmq::machines::ha::Takeover;

/// Those that `cargo test` has time for.
#[test]
fn small_budgets_hold() {
    let wanted = std::env::var("TWINMQ_MODEL").unwrap_or_default();
    let chosen = |name: &str, quick: bool| match wanted.as_str() {
        "" => quick,
        "all" => true,
        one => one == name,
    };
    let chosen: Vec<_> = SEARCHES
        .iter()
        .filter(|search| chosen(search.name, search.quick))
        .collect();
    assert!(!chosen.is_empty(), "there is no search {wanted:?}");
    for search in chosen {
        run(search, Takeover::Fence);
        run(search, Takeover::Lock);
    }
}
