//! Which subscriptions a topic's message goes to.
//!
//! A topic's name has levels with `.` between them; a pattern may have `*` for any one level and, as
//! its last, `>` for one or more of them. `a/b` is one level.
//!
//! The router is a tree with a level at each step. A lookup goes down at most two ways at each level
//! (the level itself and `*`), so that it costs what it finds and not what there is. Nodes without
//! subscriptions are dropped with the last one.

use std::collections::HashMap;
use std::fmt;

use thiserror::Error;

use crate::proto::levels::{self, ANY_LEVEL, ANY_REST, levels, wildcard_beside_others};

/// Longest name or pattern, in bytes.
pub const TOPIC_BYTES_MAX: usize = 1024;
/// Most levels of a name or pattern.
pub const TOPIC_LEVELS_MAX: usize = 64;

/// Why a text is no topic's name or pattern. Places are in bytes from the text's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// More than [`TOPIC_BYTES_MAX`].
    #[error("the topic's name has {0} bytes, {TOPIC_BYTES_MAX} are the limit")]
    TooLong(usize),
    /// More than [`TOPIC_LEVELS_MAX`].
    #[error("the topic's name has {0} levels, {TOPIC_LEVELS_MAX} are the limit")]
    TooManyLevels(usize),
    /// Nothing before, between or after dots.
    #[error("the topic's name has an empty level at byte {0}: write names between its dots")]
    EmptyLevel(usize),
    /// `*` or `>` beside other characters.
    #[error("the wildcard at byte {0} is not a level of its own: put dots around it")]
    WildcardInLevel(usize),
    /// Something follows `>`.
    #[error("the '>' at byte {0} is not the last level: it stands for all the rest")]
    RestNotLast(usize),
    /// A message is sent to one topic.
    #[error("the wildcard at byte {0} has no place in a name to send to: name one topic")]
    WildcardInName(usize),
}

/// A name that messages are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// It has a wildcard or an empty level, or is too long.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check_size(text)?;
        for (at, level) in levels(text) {
            if level.is_empty() {
                return Err(TopicError::EmptyLevel(at));
            }
            if let Some(wildcard) = level.find(['*', '>']) {
                return Err(TopicError::WildcardInName(at + wildcard));
            }
        }
        Ok(Self(text))
    }

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// What a subscription asks for: a name, perhaps with wildcards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPattern(Box<str>);

impl TopicPattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// A level is empty, a wildcard is not a level of its own, something follows `>`, or it is too
    /// long.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check_size(text)?;
        let mut rest_at = None;
        for (at, level) in levels(text) {
            if level.is_empty() {
                return Err(TopicError::EmptyLevel(at));
            }
            if let Some(wildcard) = wildcard_beside_others(level) {
                return Err(TopicError::WildcardInLevel(at + wildcard));
            }
            if let Some(rest_at) = rest_at {
                return Err(TopicError::RestNotLast(rest_at));
            }
            if level == ANY_REST {
                rest_at = Some(at);
            }
        }
        Ok(Self(text.into()))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it may match more than one name.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        levels(&self.0).any(|(_, level)| level == ANY_LEVEL || level == ANY_REST)
    }

    /// Whether messages to this name are asked for. For one pattern alone; [`TopicRouter`] is for many.
    #[must_use]
    pub fn matches(&self, name: TopicName<'_>) -> bool {
        levels::matches(&self.0, name.0)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_size(text: &str) -> Result<(), TopicError> {
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong(text.len()));
    }
    let levels = text.split('.').count();
    if levels > TOPIC_LEVELS_MAX {
        return Err(TopicError::TooManyLevels(levels));
    }
    Ok(())
}

/// Subscriptions by their patterns.
#[derive(Clone, Debug)]
pub struct TopicRouter<K> {
    root: Node<K>,
    len: usize,
}

/// Where names that are alike so far come together.
#[derive(Clone, Debug)]
struct Node<K> {
    /// The next level, if it is a name.
    named: HashMap<Box<str>, Node<K>>,
    /// The next level, if it is `*`.
    any: Option<Box<Node<K>>>,
    /// Patterns that end here, ascending.
    here: Vec<K>,
    /// Patterns that end with `>` from here, ascending.
    rest: Vec<K>,
}

impl<K> Default for TopicRouter<K> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            len: 0,
        }
    }
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self {
            named: HashMap::new(),
            any: None,
            here: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<K: Copy + Ord> TopicRouter<K> {
    /// Without subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Pairs of pattern and key.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a pair; whether it was not there yet. A key may have several patterns.
    pub fn insert(&mut self, pattern: &TopicPattern, key: K) -> bool {
        let mut node = &mut self.root;
        for level in pattern.0.split('.') {
            node = match level {
                ANY_REST => {
                    // The last level.
                    let new = add(&mut node.rest, key);
                    self.len += usize::from(new);
                    return new;
                }
                ANY_LEVEL => &mut **node.any.get_or_insert_default(),
                name => {
                    if !node.named.contains_key(name) {
                        node.named.insert(name.into(), Node::default());
                    }
                    node.named
                        .get_mut(name)
                        .expect("it was there or has just been put there")
                }
            };
        }
        let new = add(&mut node.here, key);
        self.len += usize::from(new);
        new
    }

    /// Takes a pair away; whether it was there.
    pub fn remove(&mut self, pattern: &TopicPattern, key: K) -> bool {
        let removed = self.root.remove(Some(&pattern.0), key);
        self.len -= usize::from(removed);
        removed
    }

    /// The keys whose patterns match the name, each once, ascending; what was in `keys` is gone.
    pub fn matching(&self, name: TopicName<'_>, keys: &mut Vec<K>) {
        keys.clear();
        let mut runs = 0;
        self.root.matching(Some(name.0), keys, &mut runs);
        // What one pattern gives is in order already.
        if runs > 1 {
            keys.sort_unstable();
            keys.dedup();
        }
    }
}

/// The first level and what follows it.
fn split(levels: &str) -> (&str, Option<&str>) {
    match levels.split_once('.') {
        Some((level, after)) => (level, Some(after)),
        None => (levels, None),
    }
}

impl<K: Copy + Ord> Node<K> {
    fn is_unused(&self) -> bool {
        self.named.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }

    /// As deep as the pattern has levels.
    fn remove(&mut self, levels: Option<&str>, key: K) -> bool {
        let Some(levels) = levels else {
            return take(&mut self.here, key);
        };
        let (level, after) = split(levels);
        match level {
            ANY_REST => take(&mut self.rest, key),
            ANY_LEVEL => {
                let Some(node) = &mut self.any else {
                    return false;
                };
                let removed = node.remove(after, key);
                if node.is_unused() {
                    self.any = None;
                }
                removed
            }
            name => {
                let Some(node) = self.named.get_mut(name) else {
                    return false;
                };
                let removed = node.remove(after, key);
                if node.is_unused() {
                    self.named.remove(name);
                    if self.named.len() < self.named.capacity() / 4 {
                        self.named.shrink_to(self.named.len() * 2);
                    }
                }
                removed
            }
        }
    }

    /// As deep as the name has levels. `runs`: how many lists of keys were appended.
    fn matching(&self, levels: Option<&str>, keys: &mut Vec<K>, runs: &mut usize) {
        let mut append = |found: &[K]| {
            if !found.is_empty() {
                keys.extend_from_slice(found);
                *runs += 1;
            }
        };
        let Some(levels) = levels else {
            append(&self.here);
            return;
        };
        append(&self.rest);
        let (level, after) = split(levels);
        if let Some(node) = self.named.get(level) {
            node.matching(after, keys, runs);
        }
        if let Some(node) = &self.any {
            node.matching(after, keys, runs);
        }
    }
}

fn add<K: Ord>(keys: &mut Vec<K>, key: K) -> bool {
    match keys.binary_search(&key) {
        Ok(_) => false,
        Err(at) => {
            keys.insert(at, key);
            true
        }
    }
}

fn take<K: Ord>(keys: &mut Vec<K>, key: K) -> bool {
    let Ok(at) = keys.binary_search(&key) else {
        return false;
    };
    keys.remove(at);
    if keys.len() < keys.capacity() / 4 {
        keys.shrink_to(keys.len() * 2);
    }
    true
}

#[cfg(test)]
mod tests;
