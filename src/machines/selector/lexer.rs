//! Words of a selector, one at a time.

use super::error::{SelectorError, SelectorFault};

/// A reserved word, in whatever case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    And,
    Between,
    Escape,
    False,
    In,
    Is,
    Like,
    Not,
    Null,
    Or,
    True,
}

const KEYWORDS: &[(&str, Keyword)] = &[
    ("and", Keyword::And),
    ("between", Keyword::Between),
    ("escape", Keyword::Escape),
    ("false", Keyword::False),
    ("in", Keyword::In),
    ("is", Keyword::Is),
    ("like", Keyword::Like),
    ("not", Keyword::Not),
    ("null", Keyword::Null),
    ("or", Keyword::Or),
    ("true", Keyword::True),
];

/// Signs, the longer ones before those that begin them.
const SIGNS: &[(&str, Sign)] = &[
    ("<>", Sign::NotEqual),
    ("<=", Sign::LessOrEqual),
    (">=", Sign::GreaterOrEqual),
    ("=", Sign::Equal),
    ("<", Sign::Less),
    (">", Sign::Greater),
    ("+", Sign::Plus),
    ("-", Sign::Minus),
    ("*", Sign::Times),
    ("/", Sign::Slash),
    ("(", Sign::Open),
    (")", Sign::Close),
    (",", Sign::Comma),
];

/// A sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Times,
    Slash,
    Open,
    Close,
    Comma,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Keyword(Keyword),
    Sign(Sign),
    Name(Box<str>),
    /// At most 2^63: the sign before it is a word of its own.
    Integer(u64),
    Float(f64),
    Text(Box<str>),
    End,
}

/// The text and how far it has been read.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// The next word, and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token, usize), SelectorError> {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start();
        let start = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            self.at = start;
            return Ok((Token::End, start));
        };
        let mut second = rest.chars().skip(1);
        let (token, length) = if is_name_start(first) {
            word(rest)
        } else if first == '\'' {
            quoted(rest).ok_or_else(|| self.error(start, SelectorFault::OpenText))?
        } else if first.is_ascii_digit()
            || first == '.' && second.next().is_some_and(|c| c.is_ascii_digit())
        {
            let length = number_length(rest);
            let token = number(&rest[..length])
                .map_err(|what| self.error(start, SelectorFault::Number(what)))?;
            (token, length)
        } else if let Some((sign, token)) = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            (Token::Sign(*token), sign.len())
        } else {
            let fault = match first {
                '"' => SelectorFault::DoubleQuote,
                // wildcard: every other character
                _ => SelectorFault::Character(first),
            };
            return Err(self.error(start, fault));
        };
        self.at = start + length;
        Ok((token, start))
    }

    /// What stands between these places, for an error.
    pub(super) fn shown(&self, from: usize) -> String {
        const SHOWN: usize = 24;
        let word = &self.text[from..self.at.max(from)];
        match word.chars().count() {
            0 => "the end".to_owned(),
            1..=SHOWN => format!("`{word}`"),
            // wildcard: longer words are cut
            _ => format!("`{}...`", word.chars().take(SHOWN).collect::<String>()),
        }
    }

    pub(super) fn error(&self, offset: usize, fault: SelectorFault) -> SelectorError {
        SelectorError::new(self.text, offset, fault)
    }
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '$')
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

fn word(rest: &str) -> (Token, usize) {
    let length = rest.find(|c| !is_name_part(c)).unwrap_or(rest.len());
    let name = &rest[..length];
    let keyword = KEYWORDS
        .iter()
        .find(|(word, _)| name.eq_ignore_ascii_case(word));
    let token = match keyword {
        Some((_, keyword)) => Token::Keyword(*keyword),
        None => Token::Name(name.into()),
    };
    (token, length)
}

/// A text up to its closing quote; two quotes stand for one.
fn quoted(rest: &str) -> Option<(Token, usize)> {
    let mut at = 1;
    loop {
        at += rest.get(at..)?.find('\'')? + 1;
        if !rest[at..].starts_with('\'') {
            break;
        }
        at += 1;
    }
    let text = rest[1..at - 1].replace("''", "'");
    Some((Token::Text(text.into()), at))
}

/// Everything that looks as if it were of the number: what does not belong there is found when it is
/// read.
fn number_length(rest: &str) -> usize {
    let hex = rest.starts_with("0x") || rest.starts_with("0X");
    let mut before = '0';
    rest.find(|c| {
        let sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E') && !hex;
        before = c;
        !(is_name_part(c) || c == '.' || sign)
    })
    .unwrap_or(rest.len())
}

/// A number as Java writes it.
fn number(word: &str) -> Result<Token, &'static str> {
    let lower = word.to_ascii_lowercase();
    let digits = lower.strip_suffix('l').unwrap_or(&lower);
    if let Some(hex) = digits.strip_prefix("0x") {
        return integer(hex, 16, "a hexadecimal number is 0x and digits 0-9, a-f");
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return match digits.strip_prefix('0') {
            Some(octal) if !octal.is_empty() => {
                integer(octal, 8, "a number that begins with 0 is octal: digits 0-7")
            }
            Some(_) | None => integer(digits, 10, "not a number"),
        };
    }
    float(&lower)
}

fn integer(digits: &str, radix: u32, malformed: &'static str) -> Result<Token, &'static str> {
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(malformed);
    }
    // Only digits are left: what fails now is too large.
    match u64::from_str_radix(digits, radix) {
        Ok(number) if number <= i64::MIN.unsigned_abs() => Ok(Token::Integer(number)),
        Ok(_) | Err(_) => Err(INTEGER_TOO_LARGE),
    }
}

/// For a number beyond 64 bits with a sign.
pub(super) const INTEGER_TOO_LARGE: &str = "a whole number beyond 64 bits";

fn float(lower: &str) -> Result<Token, &'static str> {
    const MALFORMED: &str = "not a number, nor a name, which cannot begin with a digit";
    let single = lower.ends_with('f');
    let digits = lower.strip_suffix(['f', 'd']).unwrap_or(lower);
    // Rust also reads names such as "inf", which have no digit or dot at their start.
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(MALFORMED);
    }
    let number = if single {
        digits.parse::<f32>().map(f64::from)
    } else {
        digits.parse::<f64>()
    };
    match number {
        Ok(number) if number.is_finite() => Ok(Token::Float(number)),
        Ok(_) => Err("a number too large for a double"),
        Err(_) => Err(MALFORMED),
    }
}
