//! `twinmq queue delete` and `twinmq subscription delete`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Listed, client, confirm, encoded, plainly, read};
use crate::cli::args::DeleteArgs;
use crate::cli::{CliError, print, print_json};
use crate::exit::ExitCode;

/// What went with a destination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Gone {
    messages: u64,
    senders: u32,
}

/// Deletes a destination of this spelling.
///
/// # Errors
/// When it was not done.
pub(super) fn delete(args: &DeleteArgs, name: &str) -> Result<ExitCode, CliError> {
    let client = client(&args.server)?;
    let path = format!("destination?name={}", encoded(name));
    let of: Listed = read(&client, client.get(&path).map_err(plainly)?)?;
    // Once it is said that it may go with what it holds, it may go with what comes meanwhile.
    let mut allowed = u64::MAX;
    if of.depth > 0 {
        let messages = of.depth;
        let what = format!(
            "{name} is deleted with its {messages} messages and those that come until then"
        );
        confirm(args.yes, name, &what)?;
    } else if !args.yes {
        allowed = 0;
    }
    let path = format!("delete?name={}&messages={allowed}", encoded(name));
    let answer = client.post(&path).map_err(plainly)?;
    let answer = serde_json::from_str(&answer).unwrap_or(Value::Null);
    let gone: Gone = read(&client, answer)?;
    if args.json {
        print_json(&json!({
            "deleted": name, "messages": gone.messages, "senders": gone.senders,
        }))?;
    } else {
        print(&deleted_text(name, &gone))?;
    }
    Ok(ExitCode::Done)
}

fn deleted_text(name: &str, gone: &Gone) -> String {
    let messages = gone.messages;
    let deleted = format!("{name} is deleted, with {messages} messages");
    match gone.senders {
        0 => deleted,
        senders => format!(
            "{deleted}; {senders} connections were sending to it meanwhile, and their next messages make it \
             anew"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_who_would_make_it_anew() {
        let gone = |messages, senders| deleted_text("/queue/a", &Gone { messages, senders });
        assert_eq!(gone(3, 0), "/queue/a is deleted, with 3 messages");
        let said = gone(3, 2);
        assert!(said.contains("2 connections were sending to it"), "{said}");
    }
}
