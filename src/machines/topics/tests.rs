use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::parse(text).unwrap()
}

fn matching(router: &TopicRouter<u32>, name: &str) -> Vec<u32> {
    let mut keys = vec![99];
    router.matching(TopicName::parse(name).unwrap(), &mut keys);
    keys
}

impl<K> Node<K> {
    fn nodes(&self) -> usize {
        let below = self.named.values().chain(self.any.as_deref());
        1 + below.map(Self::nodes).sum::<usize>()
    }
}

#[test]
fn wildcards_match_as_documented() {
    for (text, name, expected) in [
        ("a", "a", true),
        ("a", "b", false),
        ("a", "a.b", false),
        ("a.b", "a", false),
        ("*", "a", true),
        ("*", "a.b", false),
        ("a.*", "a", false),
        ("a.*", "a.b", true),
        ("a.*", "a.b.c", false),
        ("*.b", "a.b", true),
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.c", false),
        ("a.*.c", "a.b.b.c", false),
        (">", "a", true),
        (">", "a.b.c", true),
        ("a.>", "a", false),
        ("a.>", "a.b", true),
        ("a.>", "a.b.c", true),
        ("a.>", "b.a", false),
        ("*.>", "a", false),
        ("*.>", "a.b", true),
        ("a/b", "a/b", true),
        ("*", "a/b", true),
        ("A", "a", false),
    ] {
        let parsed = pattern(text);
        let parsed_name = TopicName::parse(name).unwrap();
        assert_eq!(parsed.matches(parsed_name), expected, "{text} {name}");
        let mut router = TopicRouter::new();
        assert!(router.insert(&parsed, 1));
        assert_eq!(matching(&router, name) == [1], expected, "{text} {name}");
    }
}

#[test]
fn each_mistake_is_named_with_its_place() {
    for (text, error) in [
        ("", TopicError::EmptyLevel(0)),
        (".", TopicError::EmptyLevel(0)),
        (".a", TopicError::EmptyLevel(0)),
        ("a.", TopicError::EmptyLevel(2)),
        ("a..b", TopicError::EmptyLevel(2)),
        ("a.b*", TopicError::WildcardInLevel(3)),
        ("*a", TopicError::WildcardInLevel(0)),
        ("**", TopicError::WildcardInLevel(0)),
        ("a.>b", TopicError::WildcardInLevel(2)),
        ("é.b>", TopicError::WildcardInLevel(4)),
        ("a/*", TopicError::WildcardInLevel(2)),
        (">.a", TopicError::RestNotLast(0)),
        ("a.>.>", TopicError::RestNotLast(2)),
    ] {
        assert_eq!(TopicPattern::parse(text), Err(error), "{text}");
    }
    for (text, error) in [
        ("", TopicError::EmptyLevel(0)),
        ("a..b", TopicError::EmptyLevel(2)),
        ("a.*", TopicError::WildcardInName(2)),
        ("a.b>", TopicError::WildcardInName(3)),
        (">", TopicError::WildcardInName(0)),
    ] {
        assert_eq!(TopicName::parse(text), Err(error), "{text}");
    }
    assert_eq!(
        TopicPattern::parse("a.>.b").unwrap_err().to_string(),
        "the '>' at byte 2 is not the last level: it stands for all the rest"
    );
}

#[test]
fn length_and_levels_are_bounded() {
    let long = "x".repeat(TOPIC_BYTES_MAX + 1);
    let deep = vec!["x"; TOPIC_LEVELS_MAX + 1].join(".");
    for (text, error) in [
        (&long, TopicError::TooLong(TOPIC_BYTES_MAX + 1)),
        (&deep, TopicError::TooManyLevels(TOPIC_LEVELS_MAX + 1)),
    ] {
        assert_eq!(TopicPattern::parse(text), Err(error));
        assert_eq!(TopicName::parse(text), Err(error));
    }
    assert!(TopicPattern::parse(&long[1..]).is_ok());
    assert!(TopicName::parse(&deep[2..]).is_ok());
}

#[test]
fn a_key_with_several_patterns_is_found_once() {
    let mut router = TopicRouter::new();
    for (text, key) in [("a.b", 7), ("a.*", 7), (">", 7), ("a.>", 3), ("*.b", 5)] {
        assert!(router.insert(&pattern(text), key));
    }
    assert!(!router.insert(&pattern("a.*"), 7));
    assert_eq!(router.len(), 5);
    assert_eq!(matching(&router, "a.b"), [3, 5, 7]);
    assert!(router.remove(&pattern("a.*"), 7));
    assert!(!router.remove(&pattern("a.*"), 7));
    assert!(!router.remove(&pattern("x.y"), 7));
    assert_eq!(matching(&router, "a.b"), [3, 5, 7]);
    assert_eq!(matching(&router, "x"), [7]);
}

#[test]
fn memory_goes_with_the_subscriptions() {
    let mut router = TopicRouter::new();
    let patterns: Vec<_> = (0..2000_u32)
        .map(|number| {
            let text = match number % 4 {
                0 => format!("a.n{number}.x"),
                1 => format!("n{number}.*.y"),
                2 => format!("a.n{number}.>"),
                _ => "a.shared".to_owned(),
            };
            (pattern(&text), number)
        })
        .collect();
    for (pattern, number) in &patterns {
        assert!(router.insert(pattern, *number));
    }
    assert!(router.root.nodes() > 2000);
    for (pattern, number) in &patterns {
        assert!(router.remove(pattern, *number));
    }
    assert!(router.is_empty());
    assert!(router.root.is_unused());
    assert_eq!(router.root.nodes(), 1);
    assert!(router.root.named.capacity() < 16);
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("c/d")].prop_map(str::to_owned)
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(level(), 1..5).prop_map(|levels| levels.join("."))
}

fn any_pattern() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 1 => Just("*".to_owned())];
    (proptest::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, rest)| {
        if rest || levels.is_empty() {
            levels.push(">".to_owned());
        }
        levels.join(".")
    })
}

/// By what the documentation says, level by level.
fn naive(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, name @ ..]) => naive(pattern, name),
        ([level, pattern @ ..], [same, name @ ..]) => level == same && naive(pattern, name),
        _ => false,
    }
}

proptest! {
    #[test]
    fn router_and_pattern_agree_with_a_naive_matcher(
        steps in proptest::collection::vec((any_pattern(), 0u32..6, any::<bool>()), 0..60),
        names in proptest::collection::vec(name(), 1..10),
    ) {
        let mut router = TopicRouter::new();
        let mut pairs = BTreeSet::new();
        for (text, key, insert) in steps {
            let parsed = pattern(&text);
            if insert {
                prop_assert_eq!(router.insert(&parsed, key), pairs.insert((text, key)));
            } else {
                prop_assert_eq!(router.remove(&parsed, key), pairs.remove(&(text, key)));
            }
            prop_assert_eq!(router.len(), pairs.len());
        }
        for name in &names {
            let levels: Vec<&str> = name.split('.').collect();
            let mut expected = BTreeSet::new();
            for (text, key) in &pairs {
                let matches = naive(&text.split('.').collect::<Vec<_>>(), &levels);
                prop_assert_eq!(pattern(text).matches(TopicName::parse(name).unwrap()), matches);
                if matches {
                    expected.insert(*key);
                }
            }
            prop_assert_eq!(matching(&router, name), expected.into_iter().collect::<Vec<_>>());
        }
        for (text, key) in &pairs {
            prop_assert!(router.remove(&pattern(text), *key));
        }
        prop_assert!(router.root.is_unused());
    }

    #[test]
    fn any_text_is_taken_or_refused(text in "[ab.*>é/]{0,12}") {
        if let Ok(parsed) = TopicPattern::parse(&text) {
            prop_assert_eq!(parsed.as_str(), &text);
            let named = TopicName::parse(&text);
            prop_assert_eq!(named.is_ok(), !parsed.has_wildcard());
            if let Ok(named) = named {
                prop_assert!(parsed.matches(named));
            }
        }
    }
}
