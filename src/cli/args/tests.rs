use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_and_argument_has_a_help_text() {
    fn check(command: &clap::Command) {
        for argument in command.get_arguments() {
            let name = format!("{} {}", command.get_name(), argument.get_id());
            assert!(argument.get_help().is_some(), "{name} has no help");
        }
        for inner in command.get_subcommands() {
            assert!(
                inner.get_about().is_some(),
                "{} has no about",
                inner.get_name()
            );
            check(inner);
        }
    }
    let mut command = Cli::command();
    command.build();
    check(&command);
}

#[test]
fn the_command_lines_of_the_interface_are_taken() {
    for line in [
        "twinmq demo",
        "twinmq demo --messages 100 --keep --json",
        "twinmq drill",
        "twinmq drill -p replicated/primary --faults kill-active,lock-deleted --rounds 3 --seed 7",
        "twinmq drill --share /mnt/share --rate 100 --set ha.ping_misses=3 --json --keep",
        "twinmq run",
        "twinmq run -p replicated/primary --db-path /tmp/x --set a=b --set c=d --background",
        "twinmq status -p standalone --watch",
        "twinmq status --url http://127.0.0.1:1858 --json",
        "twinmq wait -p standalone --serving --timeout 5",
        "twinmq wait --url http://127.0.0.1:1858 --in-sync",
        "twinmq wait --state passive",
        "twinmq stop -p replicated/primary",
        "twinmq clear-db -p replicated/primary --force",
        "twinmq send -p standalone -q orders --body hello",
        "twinmq send --connect a:1 --connect b:2 --queue orders --count 5 --size 10",
        "twinmq receive --connect a:1 --queue orders --count 5 --timeout 3 --ack auto",
        "twinmq bench --producers 4 --consumers 4 --queues 4 --size 1024 --window 1000 --json",
        "twinmq store check -p standalone --json",
        "twinmq store check /var/lib/twinmq",
        "twinmq pair init d --primary a --secondary b --lock-file /l --gateway g --on vm",
        "twinmq config show -p standalone --json",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn contradictions_are_refused() {
    for line in [
        "twinmq",
        "twinmq wait -p standalone",
        "twinmq wait --serving --in-sync",
        "twinmq wait --state SLEEPING",
        "twinmq status -p standalone --url http://127.0.0.1:1858",
        "twinmq bench --seconds 5 --count 5",
        "twinmq store check -p standalone dir",
        "twinmq pair init d --primary a --secondary b",
        "twinmq send --connect a:1 -p standalone -q x",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

fn connect(url: Option<&str>, list: &[&str], profile: Option<&str>) -> ConnectArgs {
    ConnectArgs {
        profile: ProfileArgs {
            profile: profile.map(ToOwned::to_owned),
            set: Vec::new(),
        },
        url: url.map(ToOwned::to_owned),
        connect: list.iter().map(|one| (*one).to_owned()).collect(),
    }
}

fn servers(args: &ConnectArgs) -> Result<Vec<String>, String> {
    args.servers()
        .map(|servers| servers.iter().map(ToString::to_string).collect())
        .map_err(|error| error.to_string())
}

#[test]
fn clients_are_given_both_servers_of_a_pair() {
    assert_eq!(
        servers(&connect(None, &[], Some("replicated/secondary"))).unwrap(),
        ["127.0.0.1:1956", "127.0.0.1:1856"]
    );
    assert_eq!(
        servers(&connect(Some("stomp://a:1,[::1]:2"), &[], None)).unwrap(),
        ["a:1", "[::1]:2"]
    );
    assert_eq!(
        servers(&connect(None, &["a:1", "b:2"], None)).unwrap(),
        ["a:1", "b:2"]
    );
    assert_eq!(
        servers(&connect(None, &["a"], None)).unwrap_err(),
        "\"a\": expected HOST:PORT of a client port"
    );
}

#[test]
fn a_server_is_found_by_profile_or_by_url() {
    let mut args = ServerArgs {
        profile: ProfileArgs {
            profile: Some("replicated/secondary".to_owned()),
            set: vec!["demo=true".to_owned()],
        },
        url: None,
    };
    let found = args.admin().unwrap();
    assert_eq!(found.url, "http://127.0.0.1:1859");
    assert_eq!(
        found.token_file,
        Some(PathBuf::from("data/replicated/secondary/admin.token"))
    );
    args.url = Some("http://[::1]:1858/".to_owned());
    assert_eq!(args.admin().unwrap().url, "http://[::1]:1858");
    args.url = Some("https://x:1".to_owned());
    assert_eq!(
        args.admin().unwrap_err().to_string(),
        "--url https://x:1: expected http://HOST:PORT, the admin address of a server"
    );
}

#[test]
fn a_demo_of_nothing_is_a_mistake() {
    for words in ["twinmq demo --messages 0", "twinmq demo --seconds 0"] {
        assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{words}");
    }
    assert!(Cli::try_parse_from(["twinmq", "demo", "--messages", "1"]).is_ok());
}
