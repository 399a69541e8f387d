//! `dyn delete`

use clap::Args;
use dynkv_client::Context;

use crate::address::Address;
use crate::commands::put::{WriteQuorum, note_duplicate, read_current, with_quorum};
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::{json, output};

/// Delete a key
///
/// What the key holds is read first, and deleted: siblings too, which is told. With --context exactly what that context
/// covers is deleted; what others have written since stays.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// BUCKET/KEY, divided at the first slash; without one the bucket is `default`
    key: String,
    /// The context that `get --json` or `put --json` printed: exactly what it covers is deleted
    #[arg(long, value_name = "TOKEN")]
    context: Option<String>,
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

impl Delete {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        let address = Address::parse(&self.key, self.key_hex)?;
        let given: Option<Context> = self.context.as_deref().map(str::parse).transpose()?;
        block_on(async {
            let client = self.connection.client().await?;
            let (context, deleted) = match given {
                Some(context) => (context, None),
                None => {
                    let current = read_current(&client, &address).await?;
                    if current.is_absent() {
                        return Err(CliError::NotFound(format!(
                            "{address} is not there: nothing was deleted"
                        )));
                    }
                    (current.context, Some(current.siblings.len()))
                }
            };
            let delete = client.delete(&address.bucket, address.key.clone()).context(&context);
            let stored =
                with_quorum!(delete, self.quorum).await.map_err(CliError::of(format!("delete {address}")))?;

            if deleted.is_some_and(|deleted| deleted > 1) {
                output::note(format_args!("{address}: deleted {} siblings", deleted.unwrap_or(0)));
            }
            if stored.possible_duplicate {
                note_duplicate(&address);
            }
            if self.json {
                output::json(&json::stored(&address, &stored, deleted))?;
            } else {
                let (nodes, disks) = (output::count(stored.replicas.into(), "node"), stored.durable);
                output::confirm(format_args!(
                    "deleted {address}: acknowledged by {nodes}, {disks} from disk"
                ));
            }
            Ok(Exit::Ok)
        })
    }
}
