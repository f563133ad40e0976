//! Each rule finds what it forbids.

use super::*;
use crate::source::strip;

fn offences(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&Source::new(path, text)).len()
}

#[test]
fn on_wrong_directions_but_not_on_comments_texts_and_tests() {
    let rule = wrong_directions;
    assert_eq!(
        offences(rule, "src/proto/a.rs", "use crate::storage::x;"),
        1
    );
    assert_eq!(offences(rule, "src/proto/a.rs", "use crate::proto::x;"), 0);
    assert_eq!(
        offences(rule, "src/storage/a.rs", "let x: crate::machines::Y;"),
        1
    );
    assert_eq!(offences(rule, "src/cli/a.rs", "use crate::storage::x;"), 0);
    let quoted = "// crate::io\nlet x = \"crate::io\";\nlet y = r#\"crate::io\"#;\n";
    assert_eq!(offences(rule, "src/proto/a.rs", quoted), 0);
    let tested = "fn f() {}\n#[cfg(test)]\nmod tests {\n use crate::io::x;\n}\n";
    assert_eq!(offences(rule, "src/proto/a.rs", tested), 0);
    assert_eq!(
        offences(rule, "src/proto/a/tests.rs", "use crate::io::x;"),
        0
    );
}

#[test]
fn on_frameworks_in_the_wrong_place() {
    let rule = foreign_names;
    assert_eq!(offences(rule, "src/machines/ha.rs", "use std::fs;"), 1);
    assert_eq!(offences(rule, "src/storage/a.rs", "tokio::spawn(x);"), 1);
    assert_eq!(offences(rule, "src/storage/a.rs", "heed::Env"), 0);
    assert_eq!(offences(rule, "src/io/a.rs", "use heed::Env;"), 1);
    assert_eq!(offences(rule, "src/io/a.rs", "fn heeded() {}"), 0);
}

#[test]
fn on_unsafe_and_clocks_elsewhere() {
    assert_eq!(offences(unsafe_code, "src/io/a.rs", "unsafe { x() }"), 1);
    assert_eq!(
        offences(unsafe_code, "src/storage/env.rs", "unsafe { x() }"),
        0
    );
    assert_eq!(
        offences(clocks, "src/io/a.rs", "let x = Instant::now();"),
        1
    );
    assert_eq!(offences(clocks, "src/time.rs", "clock_gettime(x)"), 0);
}

#[test]
fn on_arms_that_take_everything() {
    let rule = wildcards;
    for arm in ["_ => {}", "(_, _) => x,", "_ if late => x,"] {
        assert_eq!(offences(rule, "src/machines/a.rs", arm), 1, "{arm}");
    }
    for arm in [
        "(_, Input::Lost) => x,",
        "State::A { .. } => x,",
        "Some(_) => x,",
    ] {
        assert_eq!(offences(rule, "src/machines/a.rs", arm), 0, "{arm}");
    }
    let excused = "// A byte: only a wildcard can end this.\n_ => x,";
    assert_eq!(offences(rule, "src/machines/a.rs", excused), 0);
    assert_eq!(offences(rule, "src/io/a.rs", "_ => x,"), 0);
}

#[test]
fn on_unwraps_long_files_and_big_actors() {
    assert_eq!(offences(unwraps, "src/io/a.rs", "x.unwrap();"), 1);
    assert_eq!(offences(unwraps, "src/io/a.rs", "x.unwrap_or(1);"), 0);
    let long = "x\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(offences(long_files, "src/io/a.rs", &long), 1);
    assert_eq!(offences(long_files, "src/io/a/tests.rs", &long), 0);
    let fields: String = (0..9).map(|n| format!(" f{n}: Map<a::B, C>,\n")).collect();
    let actor = format!("pub struct Big {{\n{fields}}}\nimpl Actor for Big {{}}\n");
    assert_eq!(offences(big_actors, "src/actors/big.rs", &actor), 1);
    let fits = actor.replace(" f8: Map<a::B, C>,\n", "");
    assert_eq!(offences(big_actors, "src/actors/big.rs", &fits), 0);
}

#[test]
fn on_fields_that_nobody_reads() {
    let model = "pub struct A {\n    /// x\n    pub one: u32,\n    pub two: B,\n}\n\
                 pub struct HostPort {\n    pub host: u32,\n}\n";
    let fields = public_fields(model);
    assert_eq!(fields, ["one", "two"]);
    let unread = |code: &str| never_read(&fields, &[Source::new("src/io/a.rs", code)]);
    assert!(unread("f(a.one, a.two.x)").is_empty());
    assert_eq!(unread("f(a.one_more, a.two)"), ["one"]);
    assert_eq!(unread("f(a.one(), a.two)"), ["one"]);
    assert_eq!(unread("// a.one\nf(a.two)"), ["one"]);
}

#[test]
fn on_texts_of_errors() {
    let source = "enum Other {\n    #[error(\"x\")]\n    X,\n}\npub enum Why {\n    \
                  #[error(\"it is {0}: so\")]\n    A(u8),\n    #[error(\n        \"a \
                  long \\\n         text\"\n    )]\n    B,\n}\n#[error(\"y\")]\n";
    assert_eq!(fixed_texts(source, "Why"), ["it is", "a long text"]);
    assert!(fixed_texts(source, "Wh").is_empty());
}

#[test]
fn on_names_of_machines() {
    let path = format!("see {}x", concat!("/wo", "rk/"));
    assert_eq!(local_names("a.md", &path).len(), 1);
    assert!(local_names("a.md", "see /var/lib/twinmq").is_empty());
}

#[test]
fn and_literals_of_all_kinds_are_blanked() {
    let code = strip("a('\"', '\\'', \"x\\\"unsafe\", b'u') /* unsafe */ + r\"unsafe\" // unsafe");
    assert!(!code.contains("unsafe"), "{code}");
    assert!(code.starts_with("a(") && code.contains('+'));
    assert!(strip("fn f<'a>(x: &'a str) {}").contains("'a str"));
}
