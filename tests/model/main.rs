//! The shipped HA machine, two of them, in every order in which messages, answers, timers and faults
//! can come, within a budget of faults. Each search ends by itself: nothing bounds its depth.
//!
//! `cargo test --test model` searches the small budgets; `TWINMQ_MODEL=all` searches every one of
//! `budget::SEARCHES`, `TWINMQ_MODEL=<name>` one of them, `TWINMQ_MODEL=crashes=1,pauses=1,writes=1` a
//! budget of one's own. `TWINMQ_TAKEOVER=fence` or `lock` searches that way alone, and after
//! `TWINMQ_MODEL_SECONDS` a search gives up and says how far it came. What is searched, what is left out
//! and how far that reaches is in docs/proofs.md.

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

use std::time::Duration;

use budget::{Named, SEARCHES};
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
    let own = wanted.contains('=').then(|| Named::of(&wanted));
    let named = SEARCHES
        .iter()
        .filter(|search| chosen(search.name, search.quick));
    let searches: Vec<&Named> = named.chain(&own).collect();
    assert!(!searches.is_empty(), "there is no search {wanted:?}");
    let takeovers = match std::env::var("TWINMQ_TAKEOVER").as_deref() {
        Ok("fence") => &[Takeover::Fence][..],
        Ok("lock") => &[Takeover::Lock],
        Ok(other) => panic!("TWINMQ_TAKEOVER is fence or lock, not {other}"),
        Err(_) => &[Takeover::Fence, Takeover::Lock],
    };
    let patience = std::env::var("TWINMQ_MODEL_SECONDS").ok();
    let patience = patience.map(|text| Duration::from_secs(text.parse().expect("seconds")));
    for search in searches {
        for takeover in takeovers {
            run(search, *takeover, patience);
        }
    }
}
