//! `dyn get`

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use dynkv_client::{Fetched, Sibling};

use crate::address::Address;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::files::{self, Access};
use crate::{json, output};

/// Read a value
///
/// One value: its bytes, nothing else, on stdout. Several (siblings, written by clients that had not read each other's): exit
/// code 4, nothing on stdout, and stderr lists them. None: exit code 1.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// BUCKET/KEY, divided at the first slash; without one the bucket is `default`
    key: String,
    /// Write the value to this file instead of stdout
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
    /// How many replicas must answer [default: the bucket's]
    #[arg(short, value_name = "N", help_heading = "Quorum")]
    r: Option<u8>,
    /// How many of those must be home replicas [default: the bucket's]
    #[arg(long, value_name = "N", help_heading = "Quorum")]
    pr: Option<u8>,
    /// The key is given in hexadecimal
    #[arg(long)]
    key_hex: bool,
    /// Print values, siblings and context as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Get {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        let address = Address::parse(&self.key, self.key_hex)?;
        let fetched = block_on(async {
            let client = self.connection.client().await?;
            let mut get = client.get(&address.bucket, address.key.clone());
            if let Some(r) = self.r {
                get = get.r(r);
            }
            if let Some(pr) = self.pr {
                get = get.pr(pr);
            }
            get.await.map_err(CliError::of(format!("get {address}")))
        })?;

        if self.json {
            output::json(&json::fetched(&address, &fetched))?;
        }
        match (&fetched.siblings[..], &self.output) {
            ([], _) => {
                if !self.json {
                    let answers = output::count(fetched.replicas.into(), "replica");
                    output::note(format_args!("dyn: {address} is not there, say {answers}"));
                }
                Ok(Exit::NotFound)
            }
            ([_], _) if self.json => Ok(Exit::Ok),
            ([only], Some(path)) => files::write(path, &only.value, Access::Public).map(|()| Exit::Ok),
            ([only], None) => output::data(&only.value).map(|()| Exit::Ok),
            (_, _) => {
                if !self.json {
                    output::note(explain_siblings(&address, &fetched).trim_end());
                }
                Ok(Exit::Siblings)
            }
        }
    }
}

fn explain_siblings(address: &Address, fetched: &Fetched) -> String {
    let count = fetched.siblings.len();
    let mut text =
        format!("dyn: {address} has {count} siblings, written by clients that had not read each other's:\n");
    for sibling in &fetched.siblings {
        let Sibling { value, dot, time, .. } = sibling;
        let size = output::bytes(value.len() as u64);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}  {}  {size}  {dot}", preview(value), output::utc(time.wall_ms()));
    }
    text + "to resolve: `get --json` prints all values and a context; merge them, then `put` the result with --context TOKEN"
}

/// The beginning of a value, on one line.
fn preview(value: &[u8]) -> String {
    const CHARS_MAX: usize = 40;
    match str::from_utf8(value) {
        Ok(text) => {
            let shown: String = text.chars().take(CHARS_MAX).collect();
            let more = if shown.len() < text.len() { "..." } else { "" };
            format!("\"{}{more}\"", output::printable(&shown))
        }
        Err(_) => "(not text)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_short_and_on_one_line() {
        assert_eq!(preview(b"2 apples\n"), "\"2 apples\\n\"");
        assert_eq!(preview(&[0xff]), "(not text)");
        assert_eq!(preview("é".repeat(41).as_bytes()), format!("\"{}...\"", "é".repeat(40)));
    }
}
