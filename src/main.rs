//! The `twinmq` binary.
fn main() {}
