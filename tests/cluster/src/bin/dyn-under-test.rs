//! The `dyn` command, for the tests of whole processes.

use std::process::ExitCode;

fn main() -> ExitCode {
    dynkv_cli::run(std::env::args_os())
}
