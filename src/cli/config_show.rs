//! `twinmq config show`: every key's value in effect and where it came from.

use serde_json::{Value as Json, json};

use super::args::ConfigShowArgs;
use super::{CliError, print, print_json};
use crate::config::{Effective, Loaded, Value, keys};
use crate::exit::ExitCode;

/// Prints the configuration.
///
/// # Errors
/// When it is wrong, or standard output cannot be written.
pub fn run(args: &ConfigShowArgs) -> Result<ExitCode, CliError> {
    let loaded = args.profile.load(args.db_path.clone())?;
    if args.json {
        print_json(&as_json(&loaded))?;
    } else {
        print(&as_text(&loaded))?;
    }
    Ok(ExitCode::Done)
}

fn as_text(loaded: &Loaded) -> String {
    let place = |effective: &Effective| format!("{} = {}", effective.key.leaf(), effective.value);
    let width = loaded
        .values
        .iter()
        .map(|effective| place(effective).chars().count())
        .filter(|width| *width <= 60)
        .max()
        .unwrap_or(0);
    let mut lines = vec![format!("# profile {}", source(loaded))];
    lines.extend(
        loaded
            .warnings
            .iter()
            .map(|warning| format!("# warning: {warning}")),
    );
    for section in keys::sections() {
        if !section.path.is_empty() {
            lines.push(String::new());
            lines.push(format!("[{}]", section.path));
        }
        let here = loaded
            .values
            .iter()
            .filter(|effective| section.keys.contains(effective.key));
        lines.extend(
            here.map(|effective| format!("{:width$}  # {}", place(effective), effective.origin)),
        );
    }
    for table in &loaded.tables {
        lines.push(String::new());
        lines.push(format!("[[{}]]", keys::destination().path));
        let values = table.values.iter();
        lines.extend(
            values.map(|effective| format!("{:width$}  # {}", place(effective), effective.origin)),
        );
    }
    lines.join("\n")
}

fn as_json(loaded: &Loaded) -> Json {
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let values = |values: &[Effective]| -> Vec<Json> { values.iter().map(value_as_json).collect() };
    let tables: Vec<Json> = loaded
        .tables
        .iter()
        .map(|table| json!({"match": table.pattern.to_string(), "values": values(&table.values)}))
        .collect();
    json!({
        "profile": loaded.config.profile,
        "file": loaded.config.file,
        "warnings": warnings,
        "values": values(&loaded.values),
        "destinations": tables,
    })
}

fn value_as_json(effective: &Effective) -> Json {
    json!({
        "key": effective.key.path,
        "value": match &effective.value {
            Value::Bool(value) => json!(value),
            Value::Integer(value) => json!(value),
            Value::Text(value) => json!(value),
            Value::List(items) => json!(items),
        },
        "layer": effective.origin.layer(),
        "origin": effective.origin.to_string(),
    })
}

fn source(loaded: &Loaded) -> String {
    match &loaded.config.file {
        Some(file) => file.display().to_string(),
        None => format!("{}, built in", loaded.config.profile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSource, load, load_text};

    fn shown() -> Loaded {
        let mut source = ConfigSource::profile("standalone");
        source.search.clear();
        source.set = vec![
            "limits.prefetch=7".to_owned(),
            "destination.orders.>.max_messages=5".to_owned(),
        ];
        source.environment = vec![("TWINMQ__LOG__FORMAT".to_owned(), "json".to_owned())];
        load(&source).unwrap()
    }

    #[test]
    fn the_text_is_a_profile_that_gives_the_same_configuration() {
        let loaded = shown();
        let again = load_text("again", &as_text(&loaded)).unwrap();
        let values = |loaded: &Loaded| -> Vec<Value> {
            let tables = loaded.tables.iter().flat_map(|table| &table.values);
            let all = loaded.values.iter().chain(tables);
            all.map(|one| one.value.clone()).collect()
        };
        assert_eq!(values(&again), values(&loaded));
    }

    #[test]
    fn each_value_says_where_it_came_from() {
        let loaded = shown();
        let text = as_text(&loaded);
        let line = |leaf: &str| {
            let start = format!("{leaf} = ");
            let found = text.lines().find(|line| line.starts_with(&start)).unwrap();
            found.split_once("# ").unwrap().1.to_owned()
        };
        assert_eq!(line("prefetch"), "--set limits.prefetch=7");
        assert_eq!(line("format"), "environment variable TWINMQ__LOG__FORMAT");
        assert_eq!(line("max_connections"), "built-in default");
        assert!(line("mode").starts_with("built-in profile standalone:"));
        let json = as_json(&loaded);
        let values = json["values"].as_array().unwrap();
        let prefetch = values
            .iter()
            .find(|value| value["key"] == "limits.prefetch")
            .unwrap();
        assert_eq!(prefetch["value"], 7);
        assert_eq!(prefetch["layer"], "command line");
        assert_eq!(
            line("max_messages"),
            "--set destination.orders.>.max_messages=5"
        );
        assert_eq!(line("max_mib"), "built-in default");
        let table = &json["destinations"][0];
        assert_eq!(table["match"], "orders.>");
        assert_eq!(table["values"][0]["key"], "destination.match");
    }
}
