//! `dyn man`

use std::fs;
use std::path::PathBuf;

use clap::Args;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Write the man pages: dyn(1) and one for each command
///
/// For example `dyn man ~/.local/share/man/man1`, then `man dyn-put`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder to write them to; made if it is not there
    dir: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        fs::create_dir_all(&self.dir).map_err(CliError::file("make the folder", &self.dir))?;
        clap_mangen::generate_to(crate::command(), &self.dir)
            .map_err(CliError::file("write man pages to", &self.dir))?;
        output::confirm(format_args!("man pages are in {}: try `man {0}/dyn.1`", self.dir.display()));
        Ok(Exit::Ok)
    }
}
