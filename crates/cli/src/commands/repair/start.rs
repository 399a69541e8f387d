//! `dyn repair start`

use std::time::Duration;

use clap::Args;
use dynkv_client::Client;
use dynkv_client::proto::{RepairReply, RepairRun, RunState};
use dynkv_client::ring::{NodeId, PartitionId};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::sleep;

use super::{ANSWER_WITHIN, as_json, as_table, ask_status, asked, refusal};
use crate::connection::Connection;
use crate::each::{Row, ask_each, names, silent};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// How often nodes are asked how it goes.
const PERIOD: Duration = Duration::from_millis(200);

/// Answers in a row that a node may owe before it is waited for no more.
const SILENT_MAX: u32 = 5;

/// Begin a repair: compare with all other homes, and mend what differs
///
/// It goes on by itself when this command has ended; `dyn repair status` shows how. Each node makes one at a time. Takes an
/// administrator's certificate. With --wait, exit code 5 if something could not be compared or mended.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Only this node compares itself with the others [default: all nodes]
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Only this partition
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Wait until it is done. Ctrl-C ends the waiting, not the repair
    #[arg(long)]
    wait: bool,
    /// Print how it stands as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Start {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let nodes = self.nodes(&client)?;
        let limit = client.options().timeout.min(ANSWER_WITHIN);
        let orders = ask_each(&nodes, |node| {
            let repair = client.repair(node).timeout(limit);
            match self.partition {
                Some(partition) => repair.partition(partition),
                None => repair,
            }
        });
        let orders = refusal("repair", orders.await)?;
        // What is under way is as good, if it is the same.
        let busy: Vec<String> = orders
            .iter()
            .filter_map(Row::answered)
            .filter(|(_, reply)| !reply.started && reply.run.partition != self.partition)
            .map(|(node, _)| node.to_string())
            .collect();
        let begun: Vec<NodeId> = orders.iter().filter_map(Row::answered).map(|(node, _)| node).collect();
        let missing = names(&silent(&orders));
        let mut rows: Vec<_> = orders.into_iter().map(run_of).collect();
        if !busy.is_empty() {
            output::line(as_table(&rows))?;
            return Err(CliError::Refused(format!(
                "another repair is under way at {}: wait for its end, or stop it with `dyn repair stop`",
                busy.join(", ")
            )));
        }
        if self.wait && !begun.is_empty() {
            let ended = follow(&client, &begun).await;
            rows.retain(|row| row.answer.is_err());
            rows.extend(ended);
            rows.sort_by_key(|row| row.node);
        }
        if self.json {
            output::json(&as_json(&rows))?;
        } else if self.wait {
            output::line(as_table(&rows))?;
        } else {
            let names: Vec<String> = begun.iter().map(NodeId::to_string).collect();
            if !names.is_empty() {
                output::line(format_args!(
                    "repair begun at {}: see how it goes with `dyn repair status`",
                    names.join(", ")
                ))?;
            }
        }
        if !missing.is_empty() {
            return Err(CliError::Unknown(format!(
                "no answer from {missing}, where nothing may have begun: see `dyn status`, then repeat"
            )));
        }
        if self.wait { problem(&rows).map_or(Ok(Exit::Ok), Err) } else { Ok(Exit::Ok) }
    }

    /// The nodes that are to compare: of one partition, its homes.
    fn nodes(&self, client: &Client) -> Result<Vec<NodeId>, CliError> {
        let view = client.view();
        let mut nodes = asked(&view, self.node)?;
        if let Some(partition) = self.partition {
            let partitions = view.membership().partitions().get();
            if partition >= partitions {
                return Err(CliError::Usage(format!(
                    "there is no partition {partition}: the cluster has {partitions}, counted from 0"
                )));
            }
            if self.node.is_none() {
                let homes = view.ring().homes(PartitionId(partition)).to_vec();
                nodes.retain(|node| homes.contains(node));
            }
        }
        Ok(nodes)
    }
}

fn run_of(row: Row<RepairReply>) -> Row<Option<RepairRun>> {
    Row { node: row.node, answer: row.answer.map(|reply| Some(reply.run)) }
}

/// Waits until no repair is under way any more, with a bar.
async fn follow(client: &Client, nodes: &[NodeId]) -> Vec<Row<Option<RepairRun>>> {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // The template is one of ours; with the default style nothing but its looks would be lost.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} comparisons, {eta} left {msg}") {
        bar.set_style(style);
    }
    let mut owed = 0;
    loop {
        let rows = ask_status(client, nodes).await;
        let runs = || rows.iter().filter_map(Row::answered).filter_map(|(_, run)| run.as_ref());
        bar.set_length(runs().map(|run| run.comparisons).sum());
        bar.set_position(runs().map(|run| run.compared).sum());
        let differing = runs().map(|run| run.differences).sum();
        bar.set_message(format!("({})", output::count(differing, "difference")));
        owed = if silent(&rows).is_empty() { 0 } else { owed + 1 };
        let running = runs().any(|run| run.state == RunState::Running);
        if !running && (owed == 0 || owed >= SILENT_MAX) {
            bar.finish_and_clear();
            return rows;
        }
        sleep(PERIOD).await;
    }
}

/// What there is to say short of success.
fn problem(rows: &[Row<Option<RepairRun>>]) -> Option<CliError> {
    let mut problems = Vec::new();
    for Row { node, answer } in rows {
        match answer {
            Err(_) => problems.push(format!("{node} does not answer any more")),
            Ok(None) => problems.push(format!("{node} was restarted, and its repair ended with that")),
            Ok(Some(run)) => match run.state {
                RunState::Stopped => problems.push(format!("the repair at {node} was stopped")),
                _ if run.errors > 0 => problems.push(format!("{node}: {}", super::note(run))),
                _ => {}
            },
        }
    }
    (!problems.is_empty()).then(|| {
        CliError::Unknown(format!(
            "the repair is incomplete: {}; nodes go on to compare themselves, see `dyn status` for who is down",
            problems.join("; ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, run, silent_row};
    use super::*;

    #[test]
    fn what_is_not_complete_is_said_with_the_reason() {
        assert!(problem(&[row("n1", Some(run(RunState::Done, 32)))]).is_none());
        let mut part = run(RunState::Done, 16);
        (part.errors, part.last_errors) = (1, vec!["n3 is out of reach".into()]);
        let rows = [row("n1", Some(part)), row("n2", None), silent_row("n4")];
        let error = problem(&rows).unwrap();
        assert_eq!(error.exit(), Exit::Unknown);
        let text = error.to_string();
        for expected in ["n1: n3 is out of reach", "n2 was restarted", "n4 does not answer"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
