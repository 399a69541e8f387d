#![doc = include_str!("../README.md")]

mod address;
mod args;
mod bench;
mod commands;
mod config;
mod connection;
mod dev;
mod each;
mod error;
mod exit;
mod files;
mod import;
mod json;
mod logging;
mod member;
mod output;
mod signals;
mod value;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::Cli;
use crate::error::CliError;
use crate::exit::Exit;

/// Runs the command line `args`, the program's name first, and returns its exit code.
///
/// Data goes to stdout; everything else, errors included, to stderr. Does not panic when either is closed.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return args::report(&error),
    };
    match cli.command.run() {
        Ok(exit) => exit.into(),
        // Whoever reads our output has seen enough, as `head` does.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => {
            output::error(&error);
            error.exit().into()
        }
    }
}

/// The definition of the command line, from which help, man pages and completions are made.
///
/// ```
/// let dyn_command = dynkv_cli::command();
/// assert!(dyn_command.find_subcommand("put").is_some());
/// ```
pub fn command() -> clap::Command {
    Cli::command()
}
