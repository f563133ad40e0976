//! A file of the house as the rules read it: without comments, texts and tests.

pub(crate) struct Source {
    /// From the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Without comments, texts and tests, line for line.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let stripped = strip(text);
        let code = if is_test_file(path) {
            String::new()
        } else {
            without_tests(&stripped)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// The module under `src`; `main` and `lib` for these two.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = below.split('/').next().unwrap_or(below);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    pub(crate) fn offence(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

pub(crate) fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs")
        || path.contains("/tests/")
        || path.ends_with("/toy_server.rs")
        || path.ends_with("/testkit.rs")
}

/// Blanks comments, string and character literals, keeping every line where it is.
pub(crate) fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let bytes: Vec<char> = text.chars().collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or('\0');
    let mut index = 0;
    while index < bytes.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => find(&bytes, index, |i| at(i) == '\n'),
            ('/', '*') => find(&bytes, index + 2, |i| at(i - 1) == '*' && at(i) == '/') + 1,
            ('r', '"' | '#') if !is_word(at(index.wrapping_sub(1))) => raw_end(&bytes, index),
            ('"', _) => text_end(&bytes, index),
            ('\'', '\\') => find(&bytes, index + 3, |i| at(i) == '\'') + 1,
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index,
        };
        if end == index {
            out.push(at(index));
            index += 1;
            continue;
        }
        for skipped in &bytes[index..end.min(bytes.len())] {
            out.push(if *skipped == '\n' { '\n' } else { ' ' });
        }
        index = end;
    }
    out
}

fn find(bytes: &[char], from: usize, found: impl Fn(usize) -> bool) -> usize {
    (from..bytes.len())
        .find(|index| found(*index))
        .unwrap_or(bytes.len())
}

fn text_end(bytes: &[char], start: usize) -> usize {
    let mut index = start + 1;
    while index < bytes.len() && bytes[index] != '"' {
        index += if bytes[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// The end of a raw string that begins at `start`; `start` if none does.
fn raw_end(bytes: &[char], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|c| **c == '#').count();
    if bytes.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let closes = |index: usize| {
        bytes[index] == '"'
            && bytes[index + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    find(bytes, start + 2 + hashes, closes) + 1 + hashes
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Blanks from the test module to the end.
pub(crate) fn without_tests(code: &str) -> String {
    let mut lines: Vec<&str> = code.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        let module = pair[1].trim_start().trim_start_matches("pub(crate) ");
        pair[0].trim() == "#[cfg(test)]" && module.starts_with("mod tests")
    });
    lines.truncate(tests.unwrap_or(lines.len()));
    lines.join("\n")
}

/// Lines that name a path such as `tokio` or `std::fs`, as a word of its own.
pub(crate) fn naming<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.lines().enumerate().filter_map(move |(number, line)| {
        let named = line.match_indices(path).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + path.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        });
        named.then_some(number)
    })
}

// The rules.
