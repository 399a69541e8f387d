//! `dyn repair status`

use clap::Args;
use dynkv_client::ring::NodeId;

use super::{as_json, as_table, ask_status, asked};
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Show how repairs stand: the one under way, or the latest since a node's start
///
/// COMPARED counts a comparison for each partition and each other home of it; an entry that differs from two other nodes counts
/// twice. Asking does not affect a repair.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only this node's [default: all nodes']
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let nodes = asked(&client.view(), self.node)?;
        let rows = ask_status(&client, &nodes).await;
        if self.json {
            output::json(&as_json(&rows))?;
        } else {
            output::line(as_table(&rows))?;
        }
        Ok(Exit::Ok)
    }
}
