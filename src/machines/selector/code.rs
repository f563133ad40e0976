//! The compiled form: steps on a stack, one after the other. Nothing here recurses, so that neither
//! a judgement nor the end of a selector depends on how deep it is.

use std::cmp::Ordering;

use crate::proto::message::PropertyValue;

use super::Dialect;
use super::like::Pattern;

/// What a step leaves on the stack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Value<'a> {
    /// SQL's NULL, and the truth that is neither.
    #[default]
    Unknown,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(&'a str),
}

impl<'a> From<Option<PropertyValue<'a>>> for Value<'a> {
    fn from(value: Option<PropertyValue<'a>>) -> Self {
        match value {
            Some(PropertyValue::Boolean(value)) => Self::Boolean(value),
            Some(PropertyValue::Integer(number)) => Self::Integer(number),
            Some(PropertyValue::Unsigned(number)) => Self::Float(number as f64),
            Some(PropertyValue::Float(number)) => Self::Float(number),
            Some(PropertyValue::Text(text)) => Self::Text(text),
            None => Self::Unknown,
        }
    }
}

/// One step.
#[derive(Debug)]
pub(super) enum Step {
    /// The property or header of this number.
    Load(usize),
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(Box<str>),
    /// A sign before a number: `true` turns it round.
    Sign(bool),
    Arithmetic(Arithmetic),
    Compare(Comparison),
    Between {
        negated: bool,
    },
    In {
        /// Sorted.
        texts: Box<[Box<str>]>,
        negated: bool,
    },
    Like {
        pattern: Pattern,
        negated: bool,
    },
    IsNull {
        negated: bool,
    },
    Not,
    /// To this step if the truth on the stack is `when`, which is then the result.
    Decided {
        when: bool,
        to: usize,
    },
    And,
    Or,
}

impl Step {
    /// How many values it takes from the stack. All but `Decided` leave one.
    pub(super) fn operands(&self) -> usize {
        match self {
            Self::Load(_)
            | Self::Boolean(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Text(_)
            | Self::Decided { .. } => 0,
            Self::Sign(_)
            | Self::Not
            | Self::In { .. }
            | Self::Like { .. }
            | Self::IsNull { .. } => 1,
            Self::Arithmetic(_) | Self::Compare(_) | Self::And | Self::Or => 2,
            Self::Between { .. } => 3,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Two that have no order (a NaN is one of them) are only not equal.
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }

    pub(super) fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }
}

/// Runs the steps; `stack` has as many places as they need at most.
pub(super) fn run<'a>(
    steps: &'a [Step],
    dialect: Dialect,
    stack: &mut [Value<'a>],
    mut load: impl FnMut(usize) -> Value<'a>,
) -> Option<bool> {
    let (mut next, mut height) = (0, 0);
    while let Some(step) = steps.get(next) {
        next += 1;
        let operands = step.operands();
        height -= operands;
        let (first, second, third) = match operands {
            3 => (stack[height], stack[height + 1], stack[height + 2]),
            2 => (stack[height], stack[height + 1], Value::Unknown),
            1 => (stack[height], Value::Unknown, Value::Unknown),
            // wildcard: no step has more than three
            _ => Default::default(),
        };
        stack[height] = match step {
            Step::Load(name) => load(*name),
            Step::Boolean(value) => Value::Boolean(*value),
            Step::Integer(number) => Value::Integer(*number),
            Step::Float(number) => Value::Float(*number),
            Step::Text(text) => Value::Text(text),
            Step::Sign(negative) => sign(dialect.number(first), *negative),
            Step::Arithmetic(operator) => {
                calculate(*operator, dialect.number(first), dialect.number(second))
            }
            Step::Compare(comparison) => from_truth(compare(*comparison, first, second, dialect)),
            Step::Between { negated } => {
                from_truth(between(first, second, third, *negated, dialect))
            }
            Step::In { texts, negated } => of_text(first, *negated, |text| {
                texts.binary_search_by(|item| (**item).cmp(text)).is_ok()
            }),
            Step::Like { pattern, negated } => {
                of_text(first, *negated, |text| pattern.matches(text))
            }
            Step::IsNull { negated } => Value::Boolean(matches!(first, Value::Unknown) != *negated),
            Step::Not => from_truth(dialect.truth(first).map(|truth| !truth)),
            Step::Decided { when, to } => {
                // The value below stays: it is the result, or the left side of AND and OR.
                if dialect.truth(stack[height - 1]) == Some(*when) {
                    stack[height - 1] = Value::Boolean(*when);
                    next = *to;
                }
                continue;
            }
            Step::And => from_truth(and(dialect.truth(first), dialect.truth(second))),
            Step::Or => from_truth(or(dialect.truth(first), dialect.truth(second))),
        };
        height += 1;
    }
    dialect.truth(stack[0])
}

impl Dialect {
    fn truth(self, value: Value<'_>) -> Option<bool> {
        match value {
            Value::Boolean(truth) => Some(truth),
            Value::Text(text) if self == Self::TextIsNumeric => read_boolean(text),
            Value::Unknown | Value::Integer(_) | Value::Float(_) | Value::Text(_) => None,
        }
    }

    /// A number, or unknown.
    fn number(self, value: Value<'_>) -> Value<'_> {
        match value {
            Value::Integer(_) | Value::Float(_) => value,
            Value::Text(text) if self == Self::TextIsNumeric => read_number(text),
            Value::Unknown | Value::Boolean(_) | Value::Text(_) => Value::Unknown,
        }
    }
}

fn read_boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// A decimal number with nothing around it.
fn read_number<'a>(text: &str) -> Value<'a> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Rust also reads names such as "inf".
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::Unknown;
    }
    if let Ok(number) = text.parse() {
        return Value::Integer(number);
    }
    text.parse().map_or(Value::Unknown, Value::Float)
}

fn from_truth<'a>(truth: Option<bool>) -> Value<'a> {
    truth.map_or(Value::Unknown, Value::Boolean)
}

fn and(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        (None, Some(true) | None) | (Some(true), None) => None,
    }
}

fn or(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        (None, Some(false) | None) | (Some(false), None) => None,
    }
}

fn sign(number: Value<'_>, negative: bool) -> Value<'_> {
    match number {
        Value::Integer(number) if negative => {
            number.checked_neg().map_or(Value::Unknown, Value::Integer)
        }
        Value::Float(number) if negative => Value::Float(-number),
        Value::Integer(_)
        | Value::Float(_)
        | Value::Unknown
        | Value::Boolean(_)
        | Value::Text(_) => number,
    }
}

/// What a whole number becomes beside a double, as Java promotes it.
fn promoted(number: i64) -> f64 {
    number as f64
}

fn calculate<'a>(operator: Arithmetic, left: Value<'_>, right: Value<'_>) -> Value<'a> {
    let (left, right) = match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => {
            let result = match operator {
                Arithmetic::Add => left.checked_add(right),
                Arithmetic::Subtract => left.checked_sub(right),
                Arithmetic::Multiply => left.checked_mul(right),
                Arithmetic::Divide => left.checked_div(right),
            };
            return result.map_or(Value::Unknown, Value::Integer);
        }
        (Value::Integer(left), Value::Float(right)) => (promoted(left), right),
        (Value::Float(left), Value::Integer(right)) => (left, promoted(right)),
        (Value::Float(left), Value::Float(right)) => (left, right),
        (Value::Unknown | Value::Boolean(_) | Value::Text(_), _)
        | (_, Value::Unknown | Value::Boolean(_) | Value::Text(_)) => return Value::Unknown,
    };
    Value::Float(match operator {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
    })
}

/// Unknown where one side is; false where the types have nothing to do with each other (JMS 3.8.1.2).
fn compare(
    comparison: Comparison,
    left: Value<'_>,
    right: Value<'_>,
    dialect: Dialect,
) -> Option<bool> {
    match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => None,
        (Value::Boolean(left), Value::Boolean(right)) => {
            Some(comparison.is_equality() && comparison.holds(Some(left.cmp(&right))))
        }
        (Value::Text(left), Value::Text(right)) => {
            if comparison.is_equality() {
                return Some(comparison.holds(Some(left.cmp(right))));
            }
            // Texts have no order of their own.
            let left = dialect.number(Value::Text(left));
            let right = dialect.number(Value::Text(right));
            Some(number_order(left, right).is_some_and(|order| comparison.holds(order)))
        }
        (Value::Boolean(boolean), Value::Text(text))
        | (Value::Text(text), Value::Boolean(boolean)) => {
            let read = dialect.truth(Value::Text(text));
            Some(
                comparison.is_equality()
                    && read.is_some_and(|read| comparison.holds(Some(read.cmp(&boolean)))),
            )
        }
        (
            Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::Boolean(_),
            Value::Integer(_) | Value::Float(_),
        )
        | (Value::Integer(_) | Value::Float(_), Value::Text(_) | Value::Boolean(_)) => {
            let (left, right) = (dialect.number(left), dialect.number(right));
            Some(number_order(left, right).is_some_and(|order| comparison.holds(order)))
        }
    }
}

/// The order of two numbers; nothing if one is none.
#[expect(
    clippy::option_option,
    reason = "no numbers, and numbers without an order, are judged differently"
)]
fn number_order(left: Value<'_>, right: Value<'_>) -> Option<Option<Ordering>> {
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(Some(left.cmp(&right))),
        (Value::Integer(left), Value::Float(right)) => Some(promoted(left).partial_cmp(&right)),
        (Value::Float(left), Value::Integer(right)) => Some(left.partial_cmp(&promoted(right))),
        (Value::Float(left), Value::Float(right)) => Some(left.partial_cmp(&right)),
        (Value::Unknown | Value::Boolean(_) | Value::Text(_), _)
        | (_, Value::Unknown | Value::Boolean(_) | Value::Text(_)) => None,
    }
}

/// As the two comparisons that it stands for.
fn between(
    value: Value<'_>,
    low: Value<'_>,
    high: Value<'_>,
    negated: bool,
    dialect: Dialect,
) -> Option<bool> {
    if negated {
        or(
            compare(Comparison::Less, value, low, dialect),
            compare(Comparison::Greater, value, high, dialect),
        )
    } else {
        and(
            compare(Comparison::GreaterOrEqual, value, low, dialect),
            compare(Comparison::LessOrEqual, value, high, dialect),
        )
    }
}

/// What asks about a text is false of anything else.
fn of_text<'a>(value: Value<'_>, negated: bool, holds: impl Fn(&str) -> bool) -> Value<'a> {
    match value {
        Value::Unknown => Value::Unknown,
        Value::Text(text) => Value::Boolean(holds(text) != negated),
        Value::Boolean(_) | Value::Integer(_) | Value::Float(_) => Value::Boolean(negated),
    }
}
