//! The command line.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::commands;
use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::{logging, output};

/// An always writable, masterless key-value store
///
/// Start with `dyn dev`: a cluster on this machine. Then, in another shell, `dyn put carts/alice '2 apples'` and `dyn get
/// carts/alice`.
#[derive(Debug, Parser)]
#[command(name = "dyn", version, after_help = exit::HELP, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(commands::dev::Dev),
    Put(commands::put::Put),
    Get(commands::get::Get),
    Delete(commands::delete::Delete),
    Ls(commands::ls::Ls),
    Import(commands::import::Import),
    Bucket(commands::bucket::Bucket),
    Status(commands::status::Status),
    Ring(commands::ring::Ring),
    Hints(commands::hints::Hints),
    Merkle(commands::merkle::Merkle),
    Repair(commands::repair::Repair),
    Verify(commands::verify::Verify),
    Transfers(commands::transfers::Transfers),
    Metrics(commands::metrics::Metrics),
    Bench(commands::bench::Bench),
    Cluster(commands::cluster::Cluster),
    Node(commands::node::Node),
    Cert(commands::cert::Cert),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
}

impl Command {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        logging::start(match self {
            Command::Node(_) => "info",
            // Clients that come and go break off handshakes; nobody at this terminal needs to know.
            Command::Dev(_) => "warn,dynkv_net=error",
            _ => "off",
        })?;
        match self {
            Command::Dev(command) => command.run(),
            Command::Put(command) => command.run(),
            Command::Get(command) => command.run(),
            Command::Delete(command) => command.run(),
            Command::Ls(command) => command.run(),
            Command::Import(command) => command.run(),
            Command::Bucket(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Ring(command) => command.run(),
            Command::Hints(command) => command.run(),
            Command::Merkle(command) => command.run(),
            Command::Repair(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Transfers(command) => command.run(),
            Command::Metrics(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Cluster(command) => command.run(),
            Command::Node(command) => command.run(),
            Command::Cert(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}

/// Tells what clap has to say: help and versions on stdout, errors as one line on stderr like all others.
pub(crate) fn report(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody there to read the help is no error.
            let _ = error.print();
            Exit::Ok.into()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage.into()
        }
        _ => {
            output::error(&CliError::Usage(usage_message(error)));
            Exit::Usage.into()
        }
    }
}

fn usage_message(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::InvalidUtf8 {
        return "an argument is not UTF-8: give such a key with --key-hex, such a value as @FILE or - (stdin)".into();
    }
    let text = error.to_string();
    let mut message = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(usage) = line.strip_prefix("Usage:") {
            message.push(format!("(usage: {})", usage.trim()));
        } else if let Some(tip) = line.strip_prefix("tip:") {
            message.push(format!("({})", tip.trim()));
        } else if !line.starts_with("For more information") {
            message.push(line.trim_start_matches("error: ").to_owned());
        }
    }
    message.join(" ") + ": see --help"
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line_and_say_what_to_do() {
        for (line, expected) in [
            ("dyn put k", "<VALUE>"),
            ("dyn get", "usage: dyn get"),
            ("dyn delet k", "'delete'"),
            ("dyn get k --jsn", "'--json'"),
            ("dyn get k --timeout never", "500ms"),
            ("dyn dev --nodes 0", "1..=16"),
            ("dyn cluster create", "--member"),
            ("dyn hints show", "<TARGET>"),
            ("dyn hints show n1 --limit 0", "1..=100000"),
            ("dyn hints drain N1", "TARGET"),
            ("dyn merkle diff n1", "NODE"),
            ("dyn merkle diff n1 n2 --limit 5", "--keys"),
            ("dyn merkle roots", "<NODE>"),
            ("dyn repair start --partition x", "invalid"),
            ("dyn verify --rate 5", "1KiB"),
            ("dyn transfers limit 5", "or none"),
            ("dyn node start --zone a", "--join"),
            ("dyn cert client x --role root --ca d --out f --seed h:1", "reader"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            let message = usage_message(&error);
            assert!(message.contains(expected) && !message.contains('\n'), "{line}: {message}");
            assert!(!message.starts_with("error"), "{message}");
        }
    }
}
