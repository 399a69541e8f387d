//! `dyn merkle`

mod diff;
mod roots;

use clap::{Args, Subcommand};

use crate::connection::block_on;
use crate::error::CliError;
use crate::exit::Exit;

/// Show the Merkle trees by which replicas are compared, and where two nodes differ
///
/// Nodes compare themselves every few seconds and mend what differs, all by themselves: what is shown here is for those who want
/// to see it.
#[derive(Debug, Args)]
pub(crate) struct Merkle {
    #[command(subcommand)]
    command: MerkleCommand,
}

#[derive(Debug, Subcommand)]
enum MerkleCommand {
    Roots(roots::Roots),
    Diff(diff::Diff),
}

impl Merkle {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            MerkleCommand::Roots(roots) => block_on(roots.run()),
            MerkleCommand::Diff(diff) => block_on(diff.run()),
        }
    }
}
