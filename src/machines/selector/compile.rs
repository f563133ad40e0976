//! From words to steps, by descent, in one pass:
//!
//! ```text
//! or        = and {OR and}
//! and       = not {AND not}
//! not       = NOT not | predicate
//! predicate = sum [compared sum | IS [NOT] NULL | [NOT] BETWEEN sum AND sum
//!                 | [NOT] IN (text {, text}) | [NOT] LIKE text [ESCAPE text]]
//! sum       = product {+|- product}
//! product   = signed {*|/ signed}
//! signed    = +|- signed | operand
//! operand   = literal | name | (or)
//! ```
//!
//! Types that are known before any message is are judged here.

use super::code::{Arithmetic, Comparison, Step};
use super::error::{SelectorError, SelectorFault};
use super::lexer::{INTEGER_TOO_LARGE, Keyword, Lexer, Sign, Token};
use super::like::Pattern;
use super::names::{Header, Name};
use super::{LIST_ITEMS_MAX, NAMES_MAX, NESTING_MAX};

/// What a text compiles to.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) steps: Vec<Step>,
    pub(super) names: Vec<Name>,
    /// Most values on the stack at a time.
    pub(super) height: usize,
}

/// What is known of a value's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A property: anything.
    Any,
    Boolean,
    Number,
    Text,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "a property",
            Self::Boolean => "a condition",
            Self::Number => "a number",
            Self::Text => "a text",
        }
    }
}

/// A part that has been compiled.
#[derive(Clone, Copy, Debug)]
struct Part {
    kind: Kind,
    /// Where it begins.
    at: usize,
    /// It is a name and nothing else.
    is_name: bool,
}

/// Compiles a text that is not blank.
pub(super) fn compile(text: &str) -> Result<Compiled, SelectorError> {
    let mut lexer = Lexer::new(text);
    let (token, at) = lexer.next()?;
    let mut compiler = Compiler {
        lexer,
        token,
        at,
        depth: 0,
        height: 0,
        compiled: Compiled {
            steps: Vec::new(),
            names: Vec::new(),
            height: 0,
        },
    };
    let whole = compiler.or()?;
    if compiler.token != Token::End {
        return Err(compiler.expected("an operator or the end"));
    }
    compiler.require(whole, Kind::Boolean)?;
    Ok(compiler.compiled)
}

struct Compiler<'t> {
    lexer: Lexer<'t>,
    /// The word that is looked at, and where it begins.
    token: Token,
    at: usize,
    depth: usize,
    height: usize,
    compiled: Compiled,
}

impl Compiler<'_> {
    fn or(&mut self) -> Result<Part, SelectorError> {
        let mut left = self.and()?;
        while self.accept_keyword(Keyword::Or)? {
            self.require(left, Kind::Boolean)?;
            let decided = self.decided(true);
            let right = self.and()?;
            self.require(right, Kind::Boolean)?;
            self.step(Step::Or);
            self.decided_ends(decided);
            left = left.becomes(Kind::Boolean);
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Part, SelectorError> {
        let mut left = self.not()?;
        while self.accept_keyword(Keyword::And)? {
            self.require(left, Kind::Boolean)?;
            let decided = self.decided(false);
            let right = self.not()?;
            self.require(right, Kind::Boolean)?;
            self.step(Step::And);
            self.decided_ends(decided);
            left = left.becomes(Kind::Boolean);
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Part, SelectorError> {
        let at = self.at;
        if !self.accept_keyword(Keyword::Not)? {
            return self.predicate();
        }
        let operand = self.nested(at, Self::not)?;
        self.require(operand, Kind::Boolean)?;
        self.step(Step::Not);
        Ok(Part { at, ..operand }.becomes(Kind::Boolean))
    }

    fn predicate(&mut self) -> Result<Part, SelectorError> {
        let left = self.sum()?;
        if let Token::Sign(sign) = self.token
            && let Some(comparison) = comparison(sign)
        {
            self.advance()?;
            let right = self.sum()?;
            self.comparable(comparison, left, right)?;
            self.step(Step::Compare(comparison));
            return Ok(left.becomes(Kind::Boolean));
        }
        if self.accept_keyword(Keyword::Is)? {
            let negated = self.accept_keyword(Keyword::Not)?;
            self.expect_keyword(
                Keyword::Null,
                if negated { "NULL" } else { "NULL or NOT NULL" },
            )?;
            self.require_name(left)?;
            self.step(Step::IsNull { negated });
            return Ok(left.becomes(Kind::Boolean));
        }
        let negated = self.accept_keyword(Keyword::Not)?;
        if self.accept_keyword(Keyword::Between)? {
            self.between(left, negated)?;
        } else if self.accept_keyword(Keyword::In)? {
            self.require_name(left)?;
            let texts = self.list()?;
            self.step(Step::In { texts, negated });
        } else if self.accept_keyword(Keyword::Like)? {
            self.require_name(left)?;
            let pattern = self.pattern()?;
            self.step(Step::Like { pattern, negated });
        } else if negated {
            return Err(self.expected("BETWEEN, IN or LIKE"));
        } else {
            return Ok(left);
        }
        Ok(left.becomes(Kind::Boolean))
    }

    fn between(&mut self, value: Part, negated: bool) -> Result<(), SelectorError> {
        self.require(value, Kind::Number)?;
        let low = self.sum()?;
        self.require(low, Kind::Number)?;
        self.expect_keyword(Keyword::And, "AND and the upper bound")?;
        let high = self.sum()?;
        self.require(high, Kind::Number)?;
        self.step(Step::Between { negated });
        Ok(())
    }

    fn list(&mut self) -> Result<Box<[Box<str>]>, SelectorError> {
        let mut texts = Vec::new();
        self.expect_sign(Sign::Open, "'(' and a list of texts")?;
        loop {
            if texts.len() == LIST_ITEMS_MAX {
                return Err(self.lexer.error(self.at, SelectorFault::ListItems));
            }
            texts.push(self.expect_text()?);
            if !self.accept_sign(Sign::Comma)? {
                break;
            }
        }
        self.expect_sign(Sign::Close, "',' or ')'")?;
        texts.sort_unstable();
        texts.dedup();
        Ok(texts.into())
    }

    fn pattern(&mut self) -> Result<Pattern, SelectorError> {
        let pattern_at = self.at;
        let pattern = self.expect_text()?;
        let mut escape = None;
        if self.accept_keyword(Keyword::Escape)? {
            let at = self.at;
            let text = self.expect_text()?;
            let mut chars = text.chars();
            escape = chars.next();
            if escape.is_none() || chars.next().is_some() {
                return Err(self.lexer.error(at, SelectorFault::EscapeLength));
            }
        }
        Pattern::new(&pattern, escape)
            .map_err(|_| self.lexer.error(pattern_at, SelectorFault::EscapeUse))
    }

    fn sum(&mut self) -> Result<Part, SelectorError> {
        let mut left = self.product()?;
        loop {
            let operator = match self.token {
                Token::Sign(Sign::Plus) => Arithmetic::Add,
                Token::Sign(Sign::Minus) => Arithmetic::Subtract,
                // wildcard: whatever else ends a sum
                _ => return Ok(left),
            };
            left = self.arithmetic(left, operator, Self::product)?;
        }
    }

    fn product(&mut self) -> Result<Part, SelectorError> {
        let mut left = self.signed()?;
        loop {
            let operator = match self.token {
                Token::Sign(Sign::Times) => Arithmetic::Multiply,
                Token::Sign(Sign::Slash) => Arithmetic::Divide,
                // wildcard: whatever else ends a product
                _ => return Ok(left),
            };
            left = self.arithmetic(left, operator, Self::signed)?;
        }
    }

    fn arithmetic(
        &mut self,
        left: Part,
        operator: Arithmetic,
        operand: fn(&mut Self) -> Result<Part, SelectorError>,
    ) -> Result<Part, SelectorError> {
        self.require(left, Kind::Number)?;
        self.advance()?;
        let right = operand(self)?;
        self.require(right, Kind::Number)?;
        self.step(Step::Arithmetic(operator));
        Ok(left.becomes(Kind::Number))
    }

    fn signed(&mut self) -> Result<Part, SelectorError> {
        let at = self.at;
        let negative = match self.token {
            Token::Sign(Sign::Plus) => false,
            Token::Sign(Sign::Minus) => true,
            // wildcard: no sign
            _ => return self.operand(),
        };
        self.advance()?;
        if negative && let Token::Integer(number) = self.token {
            // 2^63 is a number only with its sign.
            self.advance()?;
            self.step(Step::Integer(0_i64.wrapping_sub_unsigned(number)));
            return Ok(Part::new(Kind::Number, at));
        }
        let operand = self.nested(at, Self::signed)?;
        self.require(operand, Kind::Number)?;
        self.step(Step::Sign(negative));
        Ok(Part::new(Kind::Number, at))
    }

    fn operand(&mut self) -> Result<Part, SelectorError> {
        let at = self.at;
        let (step, kind) = match std::mem::replace(&mut self.token, Token::End) {
            Token::Name(name) => return self.name(name),
            Token::Sign(Sign::Open) => {
                self.advance()?;
                let inner = self.nested(at, Self::or)?;
                self.expect_sign(Sign::Close, "an operator or ')'")?;
                return Ok(Part { at, ..inner });
            }
            Token::Keyword(Keyword::True) => (Step::Boolean(true), Kind::Boolean),
            Token::Keyword(Keyword::False) => (Step::Boolean(false), Kind::Boolean),
            Token::Integer(number) => {
                let number = i64::try_from(number).map_err(|_| {
                    self.lexer
                        .error(at, SelectorFault::Number(INTEGER_TOO_LARGE))
                })?;
                (Step::Integer(number), Kind::Number)
            }
            Token::Float(number) => (Step::Float(number), Kind::Number),
            Token::Text(text) => (Step::Text(text), Kind::Text),
            Token::Keyword(_) | Token::Sign(_) | Token::End => {
                return Err(self.expected("a property, a literal or '('"));
            }
        };
        self.advance()?;
        self.step(step);
        Ok(Part::new(kind, at))
    }

    fn name(&mut self, name: Box<str>) -> Result<Part, SelectorError> {
        let at = self.at;
        let name = Name::new(name).map_err(|_| {
            let name = self.lexer.text()[at..].chars();
            let name = name.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
            self.lexer.error(at, SelectorFault::Header(name.collect()))
        })?;
        let kind = match &name {
            Name::Header(Header::Priority) => Kind::Number,
            Name::Header(Header::DeliveryMode) => Kind::Text,
            Name::Header(
                Header::MessageId
                | Header::Timestamp
                | Header::CorrelationId
                | Header::Type
                | Header::GroupId,
            )
            | Name::Property(_) => Kind::Any,
        };
        let names = &mut self.compiled.names;
        let number = match names.iter().position(|known| *known == name) {
            Some(number) => number,
            None if names.len() == NAMES_MAX => {
                return Err(self.lexer.error(at, SelectorFault::Names));
            }
            None => {
                names.push(name);
                names.len() - 1
            }
        };
        self.advance()?;
        self.step(Step::Load(number));
        Ok(Part {
            kind,
            at,
            is_name: true,
        })
    }

    /// One level deeper.
    fn nested(
        &mut self,
        at: usize,
        inner: fn(&mut Self) -> Result<Part, SelectorError>,
    ) -> Result<Part, SelectorError> {
        if self.depth == NESTING_MAX {
            return Err(self.lexer.error(at, SelectorFault::Nesting));
        }
        self.depth += 1;
        let part = inner(self)?;
        self.depth -= 1;
        Ok(part)
    }

    fn step(&mut self, step: Step) {
        self.height = self.height - step.operands() + 1;
        self.compiled.height = self.compiled.height.max(self.height);
        self.compiled.steps.push(step);
    }

    /// Room for the jump over a right side that does not matter.
    fn decided(&mut self, when: bool) -> usize {
        self.compiled.steps.push(Step::Decided { when, to: 0 });
        self.compiled.steps.len() - 1
    }

    fn decided_ends(&mut self, at: usize) {
        let end = self.compiled.steps.len();
        if let Some(Step::Decided { to, .. }) = self.compiled.steps.get_mut(at) {
            *to = end;
        }
    }

    fn advance(&mut self) -> Result<(), SelectorError> {
        (self.token, self.at) = self.lexer.next()?;
        Ok(())
    }

    fn accept_keyword(&mut self, keyword: Keyword) -> Result<bool, SelectorError> {
        let accepted = self.token == Token::Keyword(keyword);
        if accepted {
            self.advance()?;
        }
        Ok(accepted)
    }

    fn accept_sign(&mut self, sign: Sign) -> Result<bool, SelectorError> {
        let accepted = self.token == Token::Sign(sign);
        if accepted {
            self.advance()?;
        }
        Ok(accepted)
    }

    fn expect_keyword(
        &mut self,
        keyword: Keyword,
        expected: &'static str,
    ) -> Result<(), SelectorError> {
        if self.accept_keyword(keyword)? {
            Ok(())
        } else {
            Err(self.expected(expected))
        }
    }

    fn expect_sign(&mut self, sign: Sign, expected: &'static str) -> Result<(), SelectorError> {
        if self.accept_sign(sign)? {
            Ok(())
        } else {
            Err(self.expected(expected))
        }
    }

    fn expect_text(&mut self) -> Result<Box<str>, SelectorError> {
        if let Token::Text(text) = &mut self.token {
            let text = std::mem::take(text);
            self.advance()?;
            Ok(text)
        } else {
            Err(self.expected("a text in single quotes"))
        }
    }

    /// The word that is looked at is the wrong one.
    fn expected(&self, expected: &'static str) -> SelectorError {
        let found = self.lexer.shown(self.at);
        self.lexer
            .error(self.at, SelectorFault::Expected { expected, found })
    }

    fn require(&self, part: Part, kind: Kind) -> Result<(), SelectorError> {
        if part.kind == kind || part.kind == Kind::Any {
            return Ok(());
        }
        Err(self.wrong_type(part, kind.name()))
    }

    fn require_name(&self, part: Part) -> Result<(), SelectorError> {
        if part.is_name {
            return Ok(());
        }
        Err(self.lexer.error(part.at, SelectorFault::NotAProperty))
    }

    fn comparable(
        &self,
        comparison: Comparison,
        left: Part,
        right: Part,
    ) -> Result<(), SelectorError> {
        const ORDERED: &str = "a number (others are compared with = and <> only)";
        if !comparison.is_equality() {
            for part in [left, right] {
                if !matches!(part.kind, Kind::Number | Kind::Any) {
                    return Err(self.wrong_type(part, ORDERED));
                }
            }
        }
        if left.kind == Kind::Any {
            return Ok(());
        }
        self.require(right, left.kind)
    }

    fn wrong_type(&self, part: Part, expected: &'static str) -> SelectorError {
        let found = part.kind.name();
        self.lexer
            .error(part.at, SelectorFault::Type { expected, found })
    }
}

impl Part {
    fn new(kind: Kind, at: usize) -> Self {
        Self {
            kind,
            at,
            is_name: false,
        }
    }

    /// The part that begins where this one does.
    fn becomes(self, kind: Kind) -> Self {
        Self::new(kind, self.at)
    }
}

fn comparison(sign: Sign) -> Option<Comparison> {
    match sign {
        Sign::Equal => Some(Comparison::Equal),
        Sign::NotEqual => Some(Comparison::NotEqual),
        Sign::Less => Some(Comparison::Less),
        Sign::LessOrEqual => Some(Comparison::LessOrEqual),
        Sign::Greater => Some(Comparison::Greater),
        Sign::GreaterOrEqual => Some(Comparison::GreaterOrEqual),
        Sign::Plus
        | Sign::Minus
        | Sign::Times
        | Sign::Slash
        | Sign::Open
        | Sign::Close
        | Sign::Comma => None,
    }
}
