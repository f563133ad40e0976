//! Power cuts: what a real server wrote is recorded under load and in every transition; then disks are
//! made as a cut at any moment could have left them, and each is opened by the shipped recovery.
//!
//! By command: `TWINMQ_IMAGES=50000 TWINMQ_SEED=1 cargo test --test power -- --nocapture`.
#![expect(
    clippy::print_stderr,
    reason = "seeds and counts are for whoever runs the tests"
)]

#[expect(dead_code, reason = "the cluster's tests use the rest of it")]
#[path = "../support/mod.rs"]
mod support;

mod disk;
mod errors;
mod images;
mod load;
mod recording;
mod scenes;
mod stragglers;
mod trace;
mod verdict;
