//! The house's rules that no compiler keeps: who may touch whom, where clocks and `unsafe` live, how
//! long things may get. Each rule is a function from a text to its offences, so that each is shown
//! to bite as well as to hold.

#[cfg(test)]
#[path = "tidy/each_rule_bites.rs"]
mod each_rule_bites;
#[path = "tidy/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, is_test_file, is_word, naming};
use twinmq::exit::ExitCode;

/// Which top-level modules a module may name besides itself. `cli`, `admin` and the binary show
/// what the others hold, and may name all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("time", &[]),
    ("exit", &[]),
    ("storage", &["proto"]),
    // `storage::api` is a vocabulary, checked below.
    ("machines", &["proto", "time", "storage"]),
    ("io", &["proto", "time"]),
    ("config", &["proto", "time"]),
    ("telemetry", &["config", "time"]),
    (
        "actors",
        &[
            "proto", "time", "storage", "machines", "io", "config", "exit",
        ],
    ),
    ("client", &["proto", "time", "io"]),
];

/// What code of a module may not name.
const MUST_NOT_NAME: &[(&str, &[&str])] = &[
    (
        "proto",
        &[
            "actix",
            "tokio",
            "heed",
            "nix",
            "std::net",
            "std::fs",
            "std::thread",
        ],
    ),
    ("storage", &["actix", "actix_rt", "tokio"]),
    (
        "machines",
        &[
            "actix",
            "actix_rt",
            "tokio",
            "heed",
            "nix",
            "std::net",
            "std::fs",
            "std::thread",
            "storage::core",
            "storage::env",
            "storage::writer",
        ],
    ),
    ("io", &["actix", "actix_rt", "actix_web", "heed"]),
    (
        "config",
        &["actix", "actix_rt", "actix_web", "tokio", "heed"],
    ),
    ("cli", &["actix", "actix_rt", "actix_web", "heed"]),
    ("admin", &["heed"]),
    ("actors", &["heed", "actix_web"]),
];

/// Longest file, in lines.
const FILE_LINES_MAX: usize = 600;
/// Tables of data, which have a row for each thing and are read by looking up.
const TABLES: &[&str] = &["src/config/keys/table.rs"];
/// Longest file of tests, in lines.
const TEST_FILE_LINES_MAX: usize = 1000;
/// Longest actor before its tests, in lines.
const ACTOR_LINES_MAX: usize = 300;
/// Most fields of an actor.
const ACTOR_FIELDS_MAX: usize = 8;

/// Structs of the configuration that are used as a whole, by their `Display`.
const SHOWN_WHOLE: &[&str] = &["HostPort"];

fn wrong_directions(source: &Source) -> Vec<String> {
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == source.module()) else {
        return Vec::new();
    };
    let mut offences = Vec::new();
    for (number, line) in source.code.lines().enumerate() {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let used: String = rest.chars().take_while(|c| is_word(*c)).collect();
            if !used.is_empty() && used != source.module() && !allowed.contains(&used.as_str()) {
                let what = format!("{} must not use {used}", source.module());
                offences.push(source.offence(number, &what));
            }
        }
    }
    offences
}

fn foreign_names(source: &Source) -> Vec<String> {
    let banned = MUST_NOT_NAME
        .iter()
        .filter(|(name, _)| *name == source.module())
        .flat_map(|(_, banned)| *banned);
    banned
        .flat_map(|path| naming(&source.code, path).map(move |line| (line, path)))
        .map(|(line, path)| {
            source.offence(line, &format!("{} must not name {path}", source.module()))
        })
        .collect()
}

fn unsafe_code(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/storage/env") {
        return Vec::new();
    }
    naming(&source.code, "unsafe")
        .map(|line| source.offence(line, "unsafe belongs where the environment is opened"))
        .collect()
}

fn clocks(source: &Source) -> Vec<String> {
    if source.path == "src/time.rs" {
        return Vec::new();
    }
    ["Instant::now", "SystemTime::now", "clock_gettime"]
        .into_iter()
        .flat_map(|clock| naming(&source.code, clock))
        .map(|line| source.offence(line, "clocks are read in src/time.rs alone"))
        .collect()
}

/// In machines an arm names what it takes. Over numbers and bytes that is impossible: such an arm
/// says so in a comment with the word "wildcard" on it or above it.
fn wildcards(source: &Source) -> Vec<String> {
    if source.module() != "machines" {
        return Vec::new();
    }
    let raw: Vec<&str> = source.text.lines().collect();
    let excused = |number: usize| {
        [number.checked_sub(1), Some(number)]
            .into_iter()
            .flatten()
            .any(|line| raw.get(line).is_some_and(|text| text.contains("wildcard")))
    };
    source
        .code
        .lines()
        .enumerate()
        .filter(|(number, line)| is_wildcard_arm(line) && !excused(*number))
        .map(|(number, _)| source.offence(number, "an arm that takes everything"))
        .collect()
}

fn is_wildcard_arm(line: &str) -> bool {
    let Some((pattern, _)) = line.split_once("=>") else {
        return false;
    };
    let pattern = pattern.split(" if ").next().unwrap_or(pattern).trim();
    pattern.contains('_') && pattern.chars().all(|c| "_(), |".contains(c))
}

fn unwraps(source: &Source) -> Vec<String> {
    source
        .code
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains(".unwrap()"))
        .map(|(number, _)| source.offence(number, "unwrap outside tests"))
        .collect()
}

fn long_files(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let max = if is_test_file(&source.path) || source.path.starts_with("tests/") {
        TEST_FILE_LINES_MAX
    } else {
        FILE_LINES_MAX
    };
    (lines > max && !TABLES.contains(&source.path.as_str()))
        .then(|| source.offence(lines, &format!("{lines} lines, {max} are the limit")))
        .into_iter()
        .collect()
}

fn big_actors(source: &Source) -> Vec<String> {
    if source.module() != "actors" {
        return Vec::new();
    }
    let mut offences = Vec::new();
    for actor in names_after(&source.code, "impl Actor for ") {
        let lines = source.code.lines().count();
        if lines > ACTOR_LINES_MAX {
            let what = format!("{actor} takes {lines} lines, {ACTOR_LINES_MAX} are the limit");
            offences.push(source.offence(lines, &what));
        }
        let fields = fields_of(&source.code, &actor);
        if fields > ACTOR_FIELDS_MAX {
            let what = format!("{actor} has {fields} fields, {ACTOR_FIELDS_MAX} are the limit");
            offences.push(source.offence(0, &what));
        }
    }
    offences
}

fn names_after(code: &str, start: &str) -> Vec<String> {
    code.match_indices(start)
        .map(|(at, _)| {
            let rest = &code[at + start.len()..];
            rest.chars().take_while(|c| is_word(*c)).collect()
        })
        .collect()
}

/// How many named fields a struct has: colons at the depth of its braces, `::` apart.
fn fields_of(code: &str, name: &str) -> usize {
    let Some(body) = code
        .match_indices(&format!("struct {name}"))
        .filter_map(|(at, found)| {
            let rest = &code[at + found.len()..];
            let open = rest.find(['{', ';'])?;
            let own = !rest.starts_with(is_word) && rest[open..].starts_with('{');
            own.then(|| &rest[open + 1..])
        })
        .next()
    else {
        return 0;
    };
    let (mut depth, mut fields) = (0_i32, 0);
    let chars: Vec<char> = body.replace("::", "  ").chars().collect();
    for c in chars {
        match c {
            '}' if depth == 0 => break,
            '{' | '(' | '<' | '[' => depth += 1,
            '}' | ')' | '>' | ']' => depth -= 1,
            ':' if depth == 0 => fields += 1,
            _ => {}
        }
    }
    fields
}

/// The public fields of a text's structs, those of [`SHOWN_WHOLE`] apart.
fn public_fields(code: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut of = "";
    for line in code.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            of = rest.split(' ').next().unwrap_or(rest);
        }
        if let Some((field, _)) = line
            .strip_prefix("    pub ")
            .and_then(|rest| rest.split_once(": "))
            && field.chars().all(is_word)
            && !SHOWN_WHOLE.contains(&of)
        {
            fields.push(field.to_owned());
        }
    }
    fields
}

/// Fields that no code reads: a key behind such a field does nothing.
fn never_read(fields: &[String], readers: &[Source]) -> Vec<String> {
    let read = |field: &str| {
        let access = format!(".{field}");
        readers.iter().any(|source| {
            source.code.match_indices(&access).any(|(at, _)| {
                let after = source.code[at + access.len()..].chars().next();
                !after.is_some_and(|c| is_word(c) || c == '(')
            })
        })
    };
    let unread = fields.iter().filter(|field| !read(field));
    unread.cloned().collect()
}

/// Paths of somebody's machine and hosts of registries, in pieces so that this file is clean.
fn local_names(path: &str, text: &str) -> Vec<String> {
    const BANNED: &[&str] = &[
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/opt/", "wheels"),
        concat!(".cargo/", "registry"),
        concat!("pypi", ".org"),
        concat!("python", "hosted"),
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("registry.npmjs", ".org"),
    ];
    text.lines()
        .enumerate()
        .flat_map(|(number, line)| {
            BANNED
                .iter()
                .filter(move |banned| line.contains(*banned))
                .map(move |banned| format!("{path}:{}: names {banned}", number + 1))
        })
        .collect()
}

/// The table that docs/operations.md must hold.
fn exit_code_table() -> Vec<String> {
    ExitCode::ALL
        .iter()
        .map(|code| format!("| {} | {} | {} |", code.code(), code.name(), code.meaning()))
        .collect()
}

/// The texts of an enum's errors, each as far as it is fixed: up to its first value.
fn fixed_texts(source: &str, of: &str) -> Vec<String> {
    let body = source
        .split_once(&format!("enum {of} {{"))
        .and_then(|(_, rest)| rest.split_once("\n}"))
        .map_or("", |(body, _)| body);
    body.split("#[error(")
        .skip(1)
        .map(|after| {
            let literal = after.split('"').nth(1).unwrap_or_default();
            // A line that ends with a backslash goes on where the next one's text begins.
            let parts: Vec<&str> = literal.split("\\\n").collect();
            let (first, more) = parts.split_first().unwrap_or((&"", &[]));
            let more: String = more.iter().map(|part| part.trim_start()).collect();
            let text = format!("{first}{more}");
            let fixed = text.split('{').next().unwrap_or_default();
            fixed.trim().to_owned()
        })
        .collect()
}

// Every file of the repository.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder that are the repository's own.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let skipped = ["target", ".git", "data", "__pycache__"];
            if skipped.contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("files are below the root");
    path.display().to_string()
}

fn sources(folder: &str) -> Vec<Source> {
    files(&root().join(folder))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            Source::new(&relative(&path), &text)
        })
        .collect()
}

#[track_caller]
fn hold(folders: &[&str], rule: fn(&Source) -> Vec<String>) {
    let offences: Vec<String> = folders
        .iter()
        .flat_map(|folder| sources(folder))
        .flat_map(|source| rule(&source))
        .collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn modules_use_only_what_the_house_lets_them_use() {
    hold(&["src"], wrong_directions);
}

#[test]
fn frameworks_stay_where_they_belong() {
    hold(&["src"], foreign_names);
}

#[test]
fn unsafe_stays_where_the_store_is_opened() {
    hold(&["src"], unsafe_code);
}

#[test]
fn clocks_are_read_in_one_file() {
    hold(&["src"], clocks);
}

#[test]
fn machines_name_every_state_and_input() {
    hold(&["src"], wildcards);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    hold(&["src"], unwraps);
}

#[test]
fn actors_are_small() {
    hold(&["src"], big_actors);
}

#[test]
fn files_are_of_a_length_that_can_be_read() {
    hold(&["src", "tests"], long_files);
}

#[test]
fn every_part_of_the_configuration_is_read_by_somebody() {
    let model = fs::read_to_string(root().join("src/config/model.rs")).expect("it is there");
    let fields = public_fields(&model);
    assert!(fields.len() > 40, "the model has fields: {fields:?}");
    let readers: Vec<Source> = sources("src")
        .into_iter()
        .filter(|source| source.module() != "config")
        .collect();
    let unread = never_read(&fields, &readers);
    assert!(unread.is_empty(), "nothing reads {unread:?}");
}

#[test]
fn nothing_names_a_machine_of_its_makers() {
    let offences: Vec<String> = files(root())
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.lock"))
        .filter_map(|path| Some((relative(&path), fs::read_to_string(&path).ok()?)))
        .flat_map(|(path, text)| local_names(&path, &text))
        .collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn the_exit_codes_are_documented_as_they_are() {
    let path = root().join("docs/operations.md");
    let document = fs::read_to_string(&path).unwrap_or_default();
    let expected = exit_code_table();
    let found: Vec<&str> = document
        .lines()
        .filter(|line| {
            let cell = line.trim_start_matches("| ").split(' ').next();
            line.starts_with("| ") && cell.is_some_and(|cell| cell.parse::<u8>().is_ok())
        })
        .collect();
    assert_eq!(
        found,
        expected,
        "docs/operations.md must hold these rows and no other numbered ones:\n{}",
        expected.join("\n")
    );
}

#[test]
fn every_guarantee_names_the_tests_that_show_it() {
    let document = fs::read_to_string(root().join("docs/guarantees.md")).expect("it is there");
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| |");
    let rows: Vec<&str> = document.lines().filter(is_row).collect();
    assert!(rows.len() > 30, "{}", rows.len());
    for row in rows {
        let shown = row.trim_end_matches(" |").rsplit(" | ").next();
        let tests: Vec<&str> = shown
            .into_iter()
            .flat_map(|cell| cell.split(", "))
            .collect();
        for test in tests {
            let path = test.trim_matches('`').replace("::", "/");
            let file = root().join("tests").join(&path);
            let exists = file.with_extension("rs").is_file() || file.join("mod.rs").is_file();
            assert!(exists, "no test {test:?}: {row}");
        }
    }
}

#[test]
fn whoever_searches_for_a_refusal_finds_the_advice() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("it is there");
    let texts = fixed_texts(&read("src/machines/ha/eligibility.rs"), "Refusal");
    assert!(
        texts.len() > 10,
        "claims are refused for reasons: {texts:?}"
    );
    let document = read("docs/operations.md");
    let missing: Vec<&str> = texts
        .iter()
        .map(String::as_str)
        .filter(|text| text.is_empty() || !document.contains(text))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/operations.md must hold, each in one line:\n{}",
        missing.join("\n")
    );
}
