//! Writes profiles: every key with its comment, set where the profile sets it, else commented out
//! with its default. The stock profiles and those of `pair init` are written by this.

use std::fmt::Write as _;

use super::keys::{self, Applies, Key, Section};
use super::value::Value;

/// Longest comment line.
const WIDTH: usize = 98;

/// A profile to be written.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Its opening comment, in paragraphs.
    pub preamble: Vec<String>,
    /// The keys that it sets.
    pub set: Vec<(&'static str, Value)>,
    /// Comments of its own, above the key that they belong to.
    pub notes: Vec<(&'static str, String)>,
}

impl Profile {
    /// Sets a key that takes a text.
    #[must_use]
    pub fn text(mut self, key: &'static str, value: &str) -> Self {
        self.set.push((key, Value::Text(value.to_owned())));
        self
    }

    /// Sets a key that takes a number.
    #[must_use]
    pub fn number(mut self, key: &'static str, value: i64) -> Self {
        self.set.push((key, Value::Integer(value)));
        self
    }

    /// Sets a key that takes `true` or `false`.
    #[must_use]
    pub fn flag(mut self, key: &'static str, value: bool) -> Self {
        self.set.push((key, Value::Bool(value)));
        self
    }

    /// Sets a key that takes a list.
    #[must_use]
    pub fn list(mut self, key: &'static str, items: &[&str]) -> Self {
        let items = items.iter().map(|item| (*item).to_owned()).collect();
        self.set.push((key, Value::List(items)));
        self
    }

    /// Adds a comment of this profile's own to a key.
    #[must_use]
    pub fn note(mut self, key: &'static str, text: &str) -> Self {
        self.notes.push((key, text.to_owned()));
        self
    }

    /// The file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (index, paragraph) in self.preamble.iter().enumerate() {
            if index > 0 {
                out.push_str("#\n");
            }
            comment(&mut out, paragraph);
        }
        for section in keys::sections() {
            self.section(&mut out, section);
        }
        tables(&mut out, keys::destination());
        out
    }

    fn section(&self, out: &mut String, section: &Section) {
        out.push('\n');
        comment(out, section.meaning);
        if !section.path.is_empty() {
            line(out, &format!("[{}]", section.path));
        }
        for key in section.keys {
            out.push('\n');
            comment(out, key.meaning);
            comment(out, &facts(key));
            for (_, note) in self.notes.iter().filter(|(path, _)| *path == key.path) {
                comment(out, note);
            }
            match self.set.iter().find(|(path, _)| *path == key.path) {
                Some((_, value)) => line(out, &format!("{} = {value}", key.leaf())),
                None => line(out, &format!("#{} = {}", key.leaf(), key.default_value())),
            }
        }
    }
}

/// Where tables of a kind go, with their keys explained; it sets none.
fn tables(out: &mut String, section: &Section) {
    out.push('\n');
    comment(out, section.meaning);
    line(out, &format!("#[[{}]]", section.path));
    for key in section.keys {
        out.push('\n');
        comment(out, key.meaning);
        comment(out, &facts(key));
        match key.default {
            "" => line(out, &format!("#{} = \"orders.>\"", key.leaf())),
            _ => line(out, &format!("#{} = {}", key.leaf(), key.default_value())),
        }
    }
}

/// Unit or kind, default, rule and when a change applies, in one sentence each.
#[must_use]
pub fn facts(key: &Key) -> String {
    let mut text = upper_first(&key.kind.expected());
    text.push_str(". Default: ");
    match key.default {
        "" => text.push_str("none."),
        _ => {
            text.push_str(&key.default_value().to_string());
            text.push('.');
        }
    }
    if !key.rule.is_empty() {
        text.push_str(" Rule: ");
        text.push_str(key.rule);
        text.push('.');
    }
    if key.applies == Applies::OnReload {
        text.push_str(" A reload applies it.");
    }
    text
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a string cannot fail");
}

fn comment(out: &mut String, text: &str) {
    let mut current = String::from("#");
    for word in text.split_whitespace() {
        if current.len() > 1 && current.len() + 1 + word.len() > WIDTH {
            line(out, &current);
            current = String::from("#");
        }
        current.push(' ');
        current.push_str(word);
    }
    line(out, &current);
}
