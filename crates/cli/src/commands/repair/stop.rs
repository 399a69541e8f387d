//! `dyn repair stop`

use clap::Args;
use dynkv_client::proto::StopRepairReply;
use dynkv_client::ring::NodeId;

use super::{ANSWER_WITHIN, as_json, asked, refusal};
use crate::connection::Connection;
use crate::each::{Row, ask_each, names, silent};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Stop repairs that were begun with `dyn repair start`
///
/// What is mended stays so. The comparisons that nodes make by themselves go on: they cannot be stopped. Takes an administrator's
/// certificate.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Only this node's [default: all nodes']
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Print how they stand as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Stop {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let nodes = asked(&client.view(), self.node)?;
        let limit = client.options().timeout.min(ANSWER_WITHIN);
        let rows = ask_each(&nodes, |node| client.stop_repair(node).timeout(limit)).await;
        let rows = refusal("repair stop", rows)?;
        let (summary, missing) = (summary(&rows), names(&silent(&rows)));
        if self.json {
            let run =
                |row: Row<StopRepairReply>| Row { node: row.node, answer: row.answer.map(|reply| reply.run) };
            output::json(&as_json(&rows.into_iter().map(run).collect::<Vec<_>>()))?;
        } else {
            output::line(summary)?;
        }
        if missing.is_empty() {
            return Ok(Exit::Ok);
        }
        Err(CliError::Unknown(format!(
            "no answer from {missing}, where a repair may go on: see `dyn status`, then repeat"
        )))
    }
}

fn summary(rows: &[Row<StopRepairReply>]) -> String {
    let stopped = rows.iter().filter_map(Row::answered).filter(|(_, reply)| reply.stopped);
    let stopped: Vec<String> = stopped.map(|(node, _)| node.to_string()).collect();
    match stopped.len() {
        0 => "no repair was under way, nothing was stopped".into(),
        _ => format!("stopped the repair at {}; nodes go on to compare themselves", stopped.join(", ")),
    }
}
