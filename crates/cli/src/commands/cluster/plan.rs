//! `dyn cluster plan`

use clap::Args;
use dynkv_client::Client;
use dynkv_client::ring::{Change, Plan, PlanError};

use super::ANSWER_WITHIN;
use super::changes::Changes;
use super::estimate::Estimate;
use super::risk::Risk;
use super::show::Shown;
use crate::commands::ring::check_founded;
use crate::commands::status::{Row, ask_all};
use crate::commands::verify::parse_rate;
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Show what changes of the members would do, and do nothing
///
/// Shows which replicas would move from where to where, what every node would keep before and after, how many different nodes, zones and
/// hosts would keep each partition, and what deserves a second look. Bytes and times are estimates, from what the nodes hold now. What
/// would leave a partition with too few nodes or zones is refused. The last line is the command that makes these very changes.
#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    changes: Changes,
    /// Show each partition that changes
    #[arg(long)]
    partitions: bool,
    /// Bytes that each node sends, and receives, in a second, to estimate the time; two rates if it is left out, without requests and beside many
    #[arg(long, value_name = "BYTES/s", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl PlanCommand {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let plan = make(&client, &self.changes)?;
        let rows = ask_all(&client, ANSWER_WITHIN).await;
        let shown = Shown {
            estimate: Estimate::ask(&client, &rows).await,
            risks: Risk::all(&plan, &rows),
            rate: self.rate,
            command: format!("dyn cluster apply --plan {} {}", plan.id(), self.changes.arguments()),
            unknown: unknown(&client, &plan, &self.changes),
            silent: rows.iter().filter(|row| row.answer.is_err()).map(|row: &Row| row.info.id).collect(),
            plan,
        };
        if self.json {
            output::json(&shown.as_json(client.cluster(), self.partitions))?;
        } else {
            output::data(shown.text(self.partitions).as_bytes())?;
        }
        Ok(Exit::Ok)
    }
}

/// The plan of `changes` for the cluster as this client knows it.
pub(super) fn make(client: &Client, changes: &Changes) -> Result<Plan, CliError> {
    check_founded(client)?;
    let view = client.view();
    let changes = changes.resolve(view.membership())?;
    let plan = Plan::new(view.history(), changes).map_err(refusal)?;
    let possible = view.features().check(&plan);
    possible.map_err(|off| CliError::Refused(format!("this cannot be done: {off}")))?;
    Ok(plan)
}

fn refusal(error: PlanError) -> CliError {
    let text = format!("this cannot be done: {error}");
    match error {
        // What was typed is wrong; otherwise the cluster is not as it would have to be.
        PlanError::Nothing | PlanError::Invalid(_) | PlanError::Node { .. } => CliError::Usage(text),
        _ => CliError::Refused(text),
    }
}

/// New nodes of which nobody knows where they are.
fn unknown(client: &Client, plan: &Plan, changes: &Changes) -> Vec<dynkv_client::ring::NodeId> {
    let (view, told) = (client.view(), changes.addresses());
    let new = plan.changes().iter().filter_map(|change| match change {
        Change::Join(member) | Change::Replace { new: member, .. } => Some(member.id),
        _ => None,
    });
    new.filter(|node| view.node(node).is_none() && told.iter().all(|info| info.id != *node)).collect()
}
