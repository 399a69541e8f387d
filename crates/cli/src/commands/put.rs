//! `dyn put`

use clap::Args;
use dynkv_client::{Client, Context, Fetched};

use crate::address::Address;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::value::ValueSource;
use crate::{json, output};

/// Write a value
///
/// What the key holds is read first, and replaced: siblings too, which is told. Somebody who writes at the same moment makes
/// a sibling; nothing is lost. With --context exactly what that context covers is replaced, with --blind nothing is.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// BUCKET/KEY, divided at the first slash; without one the bucket is `default`
    key: String,
    /// The value: itself, @FILE, or - for stdin (@@x for a value that begins with @, -- before one that begins with -)
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// The context that `get --json` or `put --json` printed: exactly what it covers is replaced
    #[arg(long, value_name = "TOKEN", conflicts_with = "blind")]
    context: Option<String>,
    /// Write beside whatever is there, without reading it first
    #[arg(long)]
    blind: bool,
    /// A MIME type to keep with the value
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Metadata to keep with the value; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_meta)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    quorum: WriteQuorum,
    /// The key is given in hexadecimal
    #[arg(long)]
    key_hex: bool,
    /// Print what was stored as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// How many must acknowledge a write.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WriteQuorum {
    /// How many nodes must acknowledge [default: the bucket's]
    #[arg(short, value_name = "N", help_heading = "Quorum")]
    pub(crate) w: Option<u8>,
    /// How many of the acknowledgements must be from disk [default: the bucket's]
    #[arg(long, value_name = "N", help_heading = "Quorum")]
    pub(crate) dw: Option<u8>,
    /// How many of the acknowledgements must be from home replicas [default: the bucket's]
    #[arg(long, value_name = "N", help_heading = "Quorum")]
    pub(crate) pw: Option<u8>,
}

/// Sets what the command line says of a write's quorum.
macro_rules! with_quorum {
    ($write:expr, $quorum:expr) => {{
        let (mut write, quorum) = ($write, $quorum);
        if let Some(w) = quorum.w {
            write = write.w(w);
        }
        if let Some(dw) = quorum.dw {
            write = write.dw(dw);
        }
        if let Some(pw) = quorum.pw {
            write = write.pw(pw);
        }
        write
    }};
}
pub(crate) use with_quorum;

impl Put {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        let address = Address::parse(&self.key, self.key_hex)?;
        let given: Option<Context> = self.context.as_deref().map(str::parse).transpose()?;
        let source = ValueSource::parse(&self.value)?.open()?;
        block_on(async {
            let client = self.connection.client().await?;
            let limit = client.view().buckets().get(&address.bucket).value_bytes_max;
            let value = source.read(&address.bucket, u64::from(limit))?;
            let (context, replaced) = match given {
                None if !self.blind => {
                    let current = read_current(&client, &address).await?;
                    (Some(current.context), Some(current.siblings.len()))
                }
                given => (given, None),
            };

            let mut put =
                client.put(&address.bucket, address.key.clone(), value).content_type(&self.content_type);
            if let Some(context) = &context {
                put = put.context(context);
            }
            for (name, value) in self.meta {
                put = put.meta(name, value);
            }
            let stored =
                with_quorum!(put, self.quorum).await.map_err(CliError::of(format!("put {address}")))?;

            if replaced.is_some_and(|replaced| replaced > 1) {
                output::note(format_args!(
                    "{address}: replaced {} siblings by this value",
                    replaced.unwrap_or(0)
                ));
            }
            if stored.possible_duplicate {
                note_duplicate(&address);
            }
            if self.json {
                output::json(&json::stored(&address, &stored, replaced))?;
            } else {
                let (nodes, disks) = (output::count(stored.replicas.into(), "node"), stored.durable);
                output::confirm(format_args!("stored {address}: acknowledged by {nodes}, {disks} from disk"));
            }
            Ok(Exit::Ok)
        })
    }
}

/// What the key holds now, for a write that replaces it.
pub(crate) async fn read_current(client: &Client, address: &Address) -> Result<Fetched, CliError> {
    let what = format!("{address}: nothing was written, because reading what it holds failed");
    client.get(&address.bucket, address.key.clone()).await.map_err(CliError::of(what))
}

pub(crate) fn note_duplicate(address: &Address) {
    output::note(format_args!(
        "{address}: an earlier attempt may have been carried out, too: this write may show twice, as a sibling"
    ));
}

fn parse_meta(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_divided_at_the_first_equals_sign() {
        assert_eq!(parse_meta("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_meta("a="), Ok(("a".into(), String::new())));
        assert!(parse_meta("a").is_err() && parse_meta("=b").is_err());
    }
}
