//! `docs/configuration.md` says what the table of keys says.

use crate::config::keys;
use crate::config::render::facts;

const BEGIN: &str = "<!-- written from the table of keys: begin -->\n";
const END: &str = "<!-- end -->\n";

fn reference() -> String {
    let mut out = String::new();
    for section in keys::sections() {
        let title = match section.path {
            "" => "Top level".to_owned(),
            path => format!("`[{path}]`"),
        };
        out += &format!("\n### {title}\n\n{}\n\n", section.meaning);
        for key in section.keys {
            out += &format!("* **`{}`**: {} {}\n", key.leaf(), key.meaning, facts(key));
        }
    }
    let tables = keys::destination();
    out += &format!("\n### `[[{}]]`\n\n{}\n\n", tables.path, tables.meaning);
    for key in tables.keys {
        out += &format!("* **`{}`**: {} {}\n", key.leaf(), key.meaning, facts(key));
    }
    out += "\n### Names in the reference\n\n| reference | here |\n|---|---|\n";
    for key in keys::all() {
        for name in key.reference {
            out += &format!("| `{name}` | `{}` |\n", key.path);
        }
    }
    out
}

#[test]
fn the_document_lists_every_key_as_the_table_has_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let written = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("TWINMQ_BLESS").is_some() {
        std::fs::write(path, &written).unwrap();
    } else {
        assert!(
            text == written,
            "{path} is old; write it anew with TWINMQ_BLESS=1"
        );
    }
}
