//! LIKE: `%` is any run of characters, `_` any one.
//!
//! A pattern is cut at its `%` into pieces, each of a fixed number of characters. The first piece
//! stands at the start, the last at the end, and those between are each taken at the first place
//! where they fit: no other choice could leave more room for the rest, so nothing is tried twice.

use memchr::memmem;

/// A pattern, compiled.
#[derive(Debug)]
pub(super) struct Pattern {
    /// Without `%` there is this alone.
    first: Piece,
    /// Each after a `%`.
    further: Vec<Piece>,
}

/// What stands between two `%`.
#[derive(Debug, Default)]
struct Piece(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    /// So many characters, whatever they are.
    Any(usize),
}

/// The escape character stands before none of `%`, `_` and itself.
#[derive(Debug)]
pub(super) struct BadEscape;

impl Pattern {
    pub(super) fn new(text: &str, escape: Option<char>) -> Result<Self, BadEscape> {
        let mut pieces = Vec::new();
        let mut piece = Piece::default();
        let mut plain = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if Some(c) == escape {
                match chars.next() {
                    Some(next) if matches!(next, '%' | '_') || Some(next) == escape => {
                        plain.push(next);
                    }
                    Some(_) | None => return Err(BadEscape),
                }
            } else if c == '%' {
                piece.text(&mut plain);
                pieces.push(std::mem::take(&mut piece));
            } else if c == '_' {
                piece.text(&mut plain);
                piece.any();
            } else {
                plain.push(c);
            }
        }
        piece.text(&mut plain);
        pieces.push(piece);
        let first = pieces.remove(0);
        Ok(Self {
            first,
            further: pieces,
        })
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(rest) = self.first.strip(text) else {
            return false;
        };
        let Some((last, between)) = self.further.split_last() else {
            return rest.is_empty();
        };
        let mut rest = rest;
        for piece in between {
            match piece.find(rest) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        last.ends(rest)
    }
}

impl Piece {
    fn text(&mut self, plain: &mut String) {
        if !plain.is_empty() {
            self.0.push(Part::Text(plain.as_str().into()));
            plain.clear();
        }
    }

    fn any(&mut self) {
        if let Some(Part::Any(count)) = self.0.last_mut() {
            *count += 1;
        } else {
            self.0.push(Part::Any(1));
        }
    }

    /// What follows this piece at the text's start.
    fn strip<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.iter().try_fold(text, |rest, part| match part {
            Part::Text(plain) => rest.strip_prefix(&**plain),
            Part::Any(count) => skip(rest, *count),
        })
    }

    /// What follows this piece at the first place where it fits.
    fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        if let [Part::Text(plain)] = &self.0[..] {
            let at = memmem::find(text.as_bytes(), plain.as_bytes())?;
            return text.get(at + plain.len()..);
        }
        let mut rest = text;
        loop {
            if let Some(after) = self.strip(rest) {
                return Some(after);
            }
            rest = skip(rest, 1)?;
        }
    }

    /// Whether it fits at the text's end.
    fn ends(&self, text: &str) -> bool {
        self.0
            .iter()
            .rev()
            .try_fold(text, |rest, part| match part {
                Part::Text(plain) => rest.strip_suffix(&**plain),
                Part::Any(count) => skip_back(rest, *count),
            })
            .is_some()
    }
}

/// Without its first characters.
fn skip(text: &str, count: usize) -> Option<&str> {
    let mut chars = text.chars();
    chars.nth(count.checked_sub(1)?)?;
    Some(chars.as_str())
}

/// Without its last characters.
fn skip_back(text: &str, count: usize) -> Option<&str> {
    let mut chars = text.chars();
    chars.nth_back(count.checked_sub(1)?)?;
    Some(chars.as_str())
}
