//! Logs, on stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::error::CliError;

/// The environment variable with the filter.
const VARIABLE: &str = "DYN_LOG";

/// Sends logs to stderr, filtered by `DYN_LOG`, or by `default` where that is unset.
pub(crate) fn start(default: &str) -> Result<(), CliError> {
    let wanted = std::env::var(VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::builder().parse(wanted.as_deref().unwrap_or(default)).map_err(|error| {
        CliError::Usage(format!(
            "{VARIABLE} is no filter ({error}): use error, warn, info, debug or trace, or for example dynkv_node=debug"
        ))
    })?;
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).finish();
    // Fails only if there is one already, which then stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
