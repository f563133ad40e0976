//! `docs/ha-states.md`, generated from the machine.

/// The table.
#[must_use]
pub fn render_table() -> String {
    String::new()
}
