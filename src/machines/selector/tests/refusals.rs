//! Texts that are no selectors, and those beyond a bound.

use super::*;

const ERRORS: &[(&str, usize, &str)] = &[
    (
        "a =",
        3,
        "expected a property, a literal or '(', found the end",
    ),
    (
        "a = ",
        4,
        "expected a property, a literal or '(', found the end",
    ),
    ("= 1", 0, "expected a property, a literal or '(', found `=`"),
    ("a = 1 b", 6, "expected an operator or the end, found `b`"),
    ("a = b = c", 6, "expected an operator or the end, found `=`"),
    ("(a = 1", 6, "expected an operator or ')', found the end"),
    ("a = 1)", 5, "expected an operator or the end, found `)`"),
    ("()", 1, "expected a property, a literal or '(', found `)`"),
    (
        "a AND",
        5,
        "expected a property, a literal or '(', found the end",
    ),
    (
        "a AND OR b",
        6,
        "expected a property, a literal or '(', found `OR`",
    ),
    (
        "and = 1",
        0,
        "expected a property, a literal or '(', found `and`",
    ),
    (
        "a = NULL",
        4,
        "expected a property, a literal or '(', found `NULL`",
    ),
    (
        "null IS NULL",
        0,
        "expected a property, a literal or '(', found `null`",
    ),
    ("a NOT 5", 6, "expected BETWEEN, IN or LIKE, found `5`"),
    ("a IS 5", 5, "expected NULL or NOT NULL, found `5`"),
    ("a IS NOT TRUE", 9, "expected NULL, found `TRUE`"),
    (
        "a BETWEEN 1",
        11,
        "expected AND and the upper bound, found the end",
    ),
    (
        "a BETWEEN 1, 2",
        11,
        "expected AND and the upper bound, found `,`",
    ),
    (
        "a IN 'x'",
        5,
        "expected '(' and a list of texts, found `'x'`",
    ),
    ("a IN ()", 6, "expected a text in single quotes, found `)`"),
    (
        "a IN ('x', 5)",
        11,
        "expected a text in single quotes, found `5`",
    ),
    ("a IN ('x' 'y')", 10, "expected ',' or ')', found `'y'`"),
    ("a LIKE b", 7, "expected a text in single quotes, found `b`"),
    (
        "a LIKE 'b' ESCAPE",
        17,
        "expected a text in single quotes, found the end",
    ),
    (
        "a LIKE 'b' ESCAPE ''",
        18,
        "ESCAPE takes a text of one character",
    ),
    (
        "a LIKE 'b' ESCAPE 'xy'",
        18,
        "ESCAPE takes a text of one character",
    ),
    (
        "a LIKE 'b\\c' ESCAPE '\\'",
        7,
        "the escape character stands before none of '%', '_' and itself in the pattern",
    ),
    (
        "a LIKE 'b\\' ESCAPE '\\'",
        7,
        "the escape character stands before none of '%', '_' and itself in the pattern",
    ),
    (
        "'x' LIKE 'x'",
        0,
        "IS NULL, IN and LIKE take a property's name",
    ),
    (
        "a+1 IS NULL",
        0,
        "IS NULL, IN and LIKE take a property's name",
    ),
    (
        "5 IN ('5')",
        0,
        "IS NULL, IN and LIKE take a property's name",
    ),
    ("a = 'x", 4, "no closing quote for the text that begins"),
    ("a = 'x''", 4, "no closing quote for the text that begins"),
    ("a = \"x\"", 4, "a text stands in single quotes, found '\"'"),
    ("a ! b", 2, "'!' has no meaning in a selector"),
    ("größe = #", 8, "'#' has no meaning in a selector"),
    (
        "a == 1",
        3,
        "expected a property, a literal or '(', found `=`",
    ),
    ("a = .", 4, "'.' has no meaning in a selector"),
    (
        "a = 08",
        4,
        "a number that begins with 0 is octal: digits 0-7",
    ),
    (
        "a = 0xg",
        4,
        "a hexadecimal number is 0x and digits 0-9, a-f",
    ),
    (
        "a = 0x",
        4,
        "a hexadecimal number is 0x and digits 0-9, a-f",
    ),
    (
        "a = 5x",
        4,
        "not a number, nor a name, which cannot begin with a digit",
    ),
    (
        "a = 1.2.3",
        4,
        "not a number, nor a name, which cannot begin with a digit",
    ),
    (
        "a = 1e",
        4,
        "not a number, nor a name, which cannot begin with a digit",
    ),
    (
        "a = 9223372036854775808",
        4,
        "a whole number beyond 64 bits",
    ),
    (
        "a = -9223372036854775809",
        5,
        "a whole number beyond 64 bits",
    ),
    ("a = 1e999", 4, "a number too large for a double"),
    ("5", 0, "expected a condition, found a number"),
    ("a OR 'x'", 5, "expected a condition, found a text"),
    ("a + 1 AND b", 0, "expected a condition, found a number"),
    ("NOT 5", 4, "expected a condition, found a number"),
    ("a = 1 + 'x'", 8, "expected a number, found a text"),
    ("-TRUE = 1", 1, "expected a number, found a condition"),
    ("1 = 'x'", 4, "expected a number, found a text"),
    ("JMSPriority = 'x'", 14, "expected a number, found a text"),
    (
        "a BETWEEN 'a' AND 'b'",
        10,
        "expected a number, found a text",
    ),
    (
        "a < 'x'",
        4,
        "expected a number (others are compared with = and <> only), found a text",
    ),
    (
        "JMSReplyTo = 'x'",
        0,
        "JMSReplyTo cannot be selected by; of the JMS headers JMSDeliveryMode, JMSPriority, \
             JMSMessageID, JMSTimestamp, JMSCorrelationID and JMSType can,",
    ),
];

#[test]
fn each_error_says_what_and_where() {
    for (selector, character, what) in ERRORS.iter().copied() {
        let error = Selector::parse(selector, Dialect::Strict).expect_err(selector);
        assert_eq!(error.fault().to_string(), what, "{selector}");
        assert_eq!(error.character(), character, "{selector}");
        assert_eq!(
            error.to_string(),
            format!("{what} at character {}", character + 1)
        );
        let offset: usize = selector.chars().take(character).map(char::len_utf8).sum();
        assert_eq!(error.offset(), offset, "{selector}");
    }
}

#[test]
fn the_place_is_marked_for_people() {
    let marked = |text: &str| {
        let error = Selector::parse(text, Dialect::Strict).expect_err(text);
        error.marked()
    };
    assert_eq!(marked("größe\n= #"), "größe = #\n        ^");
    assert_eq!(marked("a ="), "a =\n   ^");
    let long = format!("{} # {}", "a AND ".repeat(100), "b".repeat(100));
    let marked = marked(&long);
    let lines: Vec<&str> = marked.lines().collect();
    assert_eq!(lines[0].chars().count(), 80);
    assert_eq!(lines[0].chars().nth(lines[1].len() - 1), Some('#'));
}

#[test]
fn every_bound_is_reached_and_not_passed() {
    let fault = |text: &str| {
        let error = Selector::parse(text, Dialect::Strict).err()?;
        Some((error.fault().clone(), error.offset()))
    };
    let padded = |bytes: usize| format!("{}TRUE", " ".repeat(bytes - 4));
    assert_eq!(fault(&padded(TEXT_BYTES_MAX)), None);
    let bytes = TEXT_BYTES_MAX + 1;
    assert_eq!(
        fault(&padded(bytes)),
        Some((SelectorFault::TooLong { bytes }, TEXT_BYTES_MAX))
    );

    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    for (open, inner, close) in [("(", "a", ")"), ("NOT ", "a", ""), ("- ", "a = 1", "")] {
        assert_eq!(fault(&nested(open, inner, close, NESTING_MAX)), None);
        assert_eq!(
            fault(&nested(open, inner, close, NESTING_MAX + 1)),
            Some((SelectorFault::Nesting, NESTING_MAX * open.len()))
        );
        let most = (TEXT_BYTES_MAX - 10) / (open.len() + close.len());
        let deep = fault(&nested(open, inner, close, most));
        assert!(matches!(deep, Some((SelectorFault::Nesting, _))));
    }

    let names = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("n{number}")).collect();
        names.join(" OR ")
    };
    assert_eq!(fault(&names(NAMES_MAX)), None);
    assert!(matches!(
        fault(&names(NAMES_MAX + 1)),
        Some((SelectorFault::Names, _))
    ));
    assert_eq!(fault(&vec!["a"; 1000].join(" OR ")), None);

    let list = |count: usize| format!("a IN ({})", vec!["'x'"; count].join(","));
    assert_eq!(fault(&list(LIST_ITEMS_MAX)), None);
    assert!(matches!(
        fault(&list(LIST_ITEMS_MAX + 1)),
        Some((SelectorFault::ListItems, _))
    ));
}
