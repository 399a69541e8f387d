//! `dyn metrics`

use clap::Args;
use dynkv_client::ring::NodeId;
use serde_json::{Map, Value};

use crate::commands::status::nodes;
use crate::connection::{Connection, block_on, known};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Print a node's metrics, or those of all nodes one after the other, as OpenMetrics text
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// The node [default: all nodes]
    node: Option<NodeId>,
    /// Print an object with the text of each node
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Metrics {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        block_on(async {
            let client = self.connection.client().await?;
            let view = client.view();
            let asked = match self.node {
                Some(node) => vec![known(&view, node)?],
                None => nodes(&view).iter().map(|info| info.id).collect(),
            };
            let mut texts = Map::new();
            let mut first_error = None;
            for node in asked {
                match client.metrics(node).await {
                    Ok(text) if self.json => {
                        texts.insert(node.to_string(), text.into());
                    }
                    Ok(text) => output::data(text.as_bytes())?,
                    Err(source) => {
                        let error = CliError::Request { what: format!("metrics of {node}"), source };
                        // Each is told; the first is the command's own.
                        match &first_error {
                            None => first_error = Some(error),
                            Some(_) => output::error(&error),
                        }
                    }
                }
            }
            if self.json {
                output::json(&Value::from(texts))?;
            }
            first_error.map_or(Ok(Exit::Ok), Err)
        })
    }
}
