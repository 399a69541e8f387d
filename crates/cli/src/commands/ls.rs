//! `dyn ls`

use std::io::{self, IsTerminal};

use clap::Args;
use dynkv_client::proto::{DEFAULT_BUCKET, check_bucket_name};
use serde_json::{Map, Value};

use crate::address::to_hex;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::{json, output};

/// List the keys of a bucket
///
/// Keys stream to stdout, in no particular order. The last line, on stderr, says whether the list is complete: whether enough
/// replicas answered everywhere that no acknowledged write can be missing. Exit code 5 if not.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// The bucket
    #[arg(default_value = DEFAULT_BUCKET)]
    bucket: String,
    /// Only keys that begin with this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Print keys in hexadecimal, as `get --key-hex` takes them
    #[arg(long)]
    key_hex: bool,
    /// Print each key as JSON: {"key": ...}, or {"key_hex": ...} for one that is not UTF-8
    #[arg(long, conflicts_with = "key_hex")]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Ls {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        check_bucket_name(&self.bucket)?;
        block_on(async {
            let client = self.connection.client().await?;
            let mut list = client.list(&self.bucket).prefix(self.prefix.clone());
            let (mut pages, mut keys, mut failed) = (0u64, 0u64, 0u64);
            let mut first_error = None;
            while let Some(page) = list.next().await {
                match page {
                    Ok(page) => {
                        pages += 1;
                        keys += page.keys.len() as u64;
                        // A page at a time: a write for each key would cost more than the key.
                        let lines: Vec<u8> = page.keys.iter().flat_map(|key| self.line(key)).collect();
                        output::data(&lines)?;
                    }
                    Err(error) => {
                        failed += 1;
                        first_error.get_or_insert(error);
                    }
                }
            }
            let what = format!("ls {}", self.bucket);
            match first_error {
                None if list.is_complete() => {
                    output::note(format_args!("complete: {}", output::count(keys, "key")));
                    Ok(Exit::Ok)
                }
                None => Err(CliError::Unknown(format!(
                    "{what}: incomplete, with {}: in some partitions too few replicas answered; see `dyn status`, then repeat",
                    output::count(keys, "key")
                ))),
                Some(source) if pages == 0 => Err(CliError::Request { what, source }),
                Some(source) => Err(CliError::Unknown(format!(
                    "{what}: incomplete, with {}: {} failed, the first with: {source}",
                    output::count(keys, "key"),
                    output::count(failed, "partition")
                ))),
            }
        })
    }

    fn line(&self, key: &[u8]) -> Vec<u8> {
        let mut line = if self.json {
            let mut object = Map::new();
            json::add_key(&mut object, key);
            Value::from(object).to_string().into_bytes()
        } else if self.key_hex {
            to_hex(key).into_bytes()
        } else if io::stdout().is_terminal() {
            // A key may hold what commands a terminal; a pipe gets it as it is.
            output::printable(&String::from_utf8_lossy(key)).into_bytes()
        } else {
            key.to_vec()
        };
        line.push(b'\n');
        line
    }
}
