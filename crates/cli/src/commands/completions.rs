//! `dyn completions`

use clap::Args;
use clap_complete::Shell;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Print a completion script for a shell
///
/// For bash: `dyn completions bash > ~/.local/share/bash-completion/completions/dyn`. For zsh: into a file `_dyn` in a folder of
/// $fpath. For fish: `dyn completions fish > ~/.config/fish/completions/dyn.fish`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        // The generator panics on a closed pipe; memory does not close.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::command(), "dyn", &mut script);
        output::data(&script).map(|()| Exit::Ok)
    }
}
