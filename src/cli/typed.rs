//! What cannot be undone is typed back by whoever asks for it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// What is typed at the terminal after `prompt`, without white space around it; none where standard input
/// is no terminal.
///
/// # Errors
/// When the terminal cannot be written or read.
pub(super) fn typed(prompt: &str) -> io::Result<Option<String>> {
    let input = io::stdin();
    if !input.is_terminal() {
        return Ok(None);
    }
    let mut out = io::stderr();
    write!(out, "{prompt}")?;
    out.flush()?;
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()))
}
