//! Reaching the cluster: options that all commands share, and the runtime they run on.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, ClusterFile, ClusterFileError, ClusterView, Options};
use tokio::runtime;

use crate::error::CliError;

/// Which cluster, and how long to wait for it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    /// The cluster's file, as written by `dyn dev` and `dyn cert client` [default: that of `dyn dev`]
    #[arg(
        long,
        env = "DYN_CLUSTER",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Connection"
    )]
    cluster: Option<PathBuf>,
    /// How long each request may take, for example 500ms [default: 5s; for merkle diff, and for import,
    /// whose requests queue, 30s; for hints drain, in all, 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Connection")]
    timeout: Option<Duration>,
}

impl Connection {
    /// The cluster file, read and its certificate checked.
    pub(crate) fn file(&self) -> Result<ClusterFile, CliError> {
        let named = self.cluster.as_ref().filter(|path| !path.as_os_str().is_empty());
        let path = named.cloned().unwrap_or_else(ClusterFile::default_path);
        load(&path)
    }

    /// A client of the cluster that the file describes.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        self.client_of(&self.file()?).await
    }

    /// A client of the cluster that `file` describes.
    pub(crate) async fn client_of(&self, file: &ClusterFile) -> Result<Client, CliError> {
        let mut options = Options::default();
        if let Some(timeout) = self.timeout {
            options.timeout = timeout;
        }
        Ok(Client::with_options(file, options).await?)
    }

    /// The time that --timeout gives each request.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

/// Reads the cluster file at `path` and checks its certificate, so that an error can name the file.
pub(crate) fn load(path: &Path) -> Result<ClusterFile, CliError> {
    let file = ClusterFile::load(path).map_err(CliError::ClusterFile)?;
    match file.identity() {
        Ok(_) => Ok(file),
        Err(source @ ClusterFileError::Certificate(_)) => {
            Err(CliError::ClusterCertificate { path: path.to_owned(), source })
        }
        Err(other) => Err(CliError::ClusterFile(other)),
    }
}

/// `node`, if the cluster has such a one.
pub(crate) fn known(view: &ClusterView, node: NodeId) -> Result<NodeId, CliError> {
    if view.node(&node).is_some() {
        return Ok(node);
    }
    let known: Vec<String> = view.nodes().map(|info| info.id.to_string()).collect();
    let known = known.join(", ");
    Err(CliError::NotFound(format!("there is no node {node} in the cluster: use one of {known}")))
}

/// Runs `future` on a current-thread runtime: the cheapest one for a command that talks to one node at a time.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        CliError::Refused(format!("cannot start ({error}): raise the limits on processes and open files"))
    })?;
    runtime.block_on(future)
}

/// Reads `5s`, `500ms`, `2m`, or plain seconds; never zero.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        _ => 0,
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match ms {
        Some(ms @ 1..=DAY_MS) => Ok(Duration::from_millis(ms)),
        _ => Err("write a time from 1ms to a day, for example 500ms, 5s or 2m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("5", 5000), ("5s", 5000), ("500ms", 500), ("2m", 120_000), ("1440m", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "s", "0", "0ms", "-1", "1.5s", "1h", "1 s", "5S", "1441m", "99999999999999999999", "é"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
