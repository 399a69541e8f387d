//! `dyn cluster apply`

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use dynkv_client::proto::FailureCode;
use dynkv_client::ring::{Change, Entry, NodeId, Plan, PlanId};
use dynkv_client::{Client, Error};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::ANSWER_WITHIN;
use super::changes::Changes;
use super::describe;
use super::plan::make;
use super::risk::Risk;
use crate::commands::bucket::wait_everywhere;
use crate::commands::ring::check_founded;
use crate::commands::status::ask_all;
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// How often a node is asked again that has not heard yet what the plan was made of.
const AGAIN_EVERY: Duration = Duration::from_millis(100);

/// Make the changes of a plan
///
/// Takes the plan's id and the same changes, as `dyn cluster plan` printed them. All of them are made, or none: if the membership
/// history has moved on since the plan was made, it fails and says so. Data then moves by itself, while requests go on: each partition is
/// served by the nodes that have it until those that are to have it do. `dyn transfers` shows how far that is. Takes an administrator's
/// certificate.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The plan, as it was printed
    #[arg(long, value_name = "ID")]
    plan: PlanId,
    #[command(flatten)]
    changes: Changes,
    /// A node that is gone at once, typed out again: for each --remove, and the old node of each --replace
    #[arg(long, value_name = "NODE")]
    yes_remove: Vec<NodeId>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Apply {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        check_founded(&client)?;
        if !self.plan.is_of(client.view().history().digest()) {
            return Err(self.moved());
        }
        let plan = make(&client, &self.changes)?;
        if plan.id() != self.plan {
            return Err(CliError::Usage(format!(
                "these are not the changes of plan {}: give them as `dyn cluster plan` printed them",
                self.plan
            )));
        }
        self.check_typed_out(&client, &plan).await?;
        let before = client.view().history().clone();
        let entries = self.commit(&client, &plan).await?;
        wait_everywhere(&client).await;
        // Another node may have taken something at the same moment.
        let view = client.view();
        let others = view.history().entries().filter(|entry| {
            // That a node stores on a new disk is what comes of its joining.
            let expected = matches!(entry.change(), Change::Disk { .. });
            !expected && !before.contains(entry) && !entries.contains(entry)
        });
        self.report(&client, &plan, &entries, others.count() as u64)
    }

    fn moved(&self) -> CliError {
        CliError::Refused(format!(
            "nothing was done: the membership history is not the one that plan {} was made of; see `dyn cluster history`, then plan again",
            self.plan
        ))
    }

    /// Whoever goes at once was typed out, and nobody else.
    async fn check_typed_out(&self, client: &Client, plan: &Plan) -> Result<(), CliError> {
        let dropped: BTreeSet<NodeId> = plan.dropped().collect();
        let typed: BTreeSet<NodeId> = self.yes_remove.iter().copied().collect();
        if let Some(other) = typed.difference(&dropped).next() {
            return Err(CliError::Usage(format!(
                "--yes-remove {other}: this plan does not remove node {other}"
            )));
        }
        let Some(missing) = dropped.difference(&typed).next() else { return Ok(()) };
        let rows = ask_all(client, ANSWER_WITHIN).await;
        let risks = Risk::all(plan, &rows);
        let risk = risks.iter().find(|risk| risk.node == *missing).map(Risk::lines).unwrap_or_default();
        Err(CliError::Usage(format!(
            "nothing was done: {missing} would be gone at once and for ever ({}); if that is meant, add --yes-remove {missing}",
            risk.join("; ")
        )))
    }

    /// Proposes the changes until a node has taken or refused them.
    async fn commit(&self, client: &Client, plan: &Plan) -> Result<Vec<Entry>, CliError> {
        let deadline = Instant::now() + client.options().timeout;
        let mut apply = client.apply(plan, self.changes.addresses());
        loop {
            match apply.clone().await {
                Err(Error::NotDone { code: FailureCode::HistoryMoved, node, .. }) => {
                    // Whoever says so may have heard more than this client, or less.
                    let view = client.refresh().await.unwrap_or_else(|_| client.view());
                    if !self.plan.is_of(view.history().digest()) || Instant::now() >= deadline {
                        return Err(self.moved());
                    }
                    // Never another node: one that is behind would take what this one has rightly refused.
                    if let Some(node) = node {
                        apply = apply.to(node);
                    }
                    sleep(AGAIN_EVERY).await;
                }
                other => return other.map_err(CliError::of("cluster apply")),
            }
        }
    }

    fn report(&self, client: &Client, plan: &Plan, entries: &[Entry], others: u64) -> Result<Exit, CliError> {
        if self.json {
            output::json(&json!({
                "cluster": client.cluster(),
                "plan": self.plan.to_string(),
                "view": client.view().digest().to_string(),
                "issuer": entries.first().map(|entry| entry.issuer().to_string()),
                "changes": entries.iter().map(|entry| describe::as_json(entry.change())).collect::<Vec<_>>(),
                "replicas_to_move": plan.moves().len(),
                "other_changes": others,
            }))?;
        } else {
            for entry in entries {
                output::line(output::one_line(&describe::text(entry.change())))?;
            }
            output::line(format_args!(
                "plan {} is applied: {}",
                self.plan,
                output::count(entries.len() as u64, "change")
            ))?;
            for line in what_comes(plan) {
                output::line(line)?;
            }
        }
        if others > 0 {
            output::note(format_args!(
                "another node took {} at the same time, in effect as well: see `dyn cluster history`",
                output::count(others, "change")
            ));
        }
        Ok(Exit::Ok)
    }
}

/// What happens after these changes, and what the operator does then.
fn what_comes(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    let names = |nodes: &mut dyn Iterator<Item = NodeId>| -> Vec<String> {
        nodes.map(|node| node.to_string()).collect()
    };
    let leaving = names(&mut plan.changes().iter().filter_map(|change| match change {
        Change::Leave(node) => Some(*node),
        _ => None,
    }));
    let dropped = names(&mut plan.dropped());
    match plan.moves().len() {
        0 => lines.push("no data has to move".into()),
        moves => lines.push(format!(
            "{} of partitions move now, by themselves: watch with `dyn transfers` until it says that nothing moves",
            output::count(moves as u64, "replica")
        )),
    }
    if !leaving.is_empty() {
        lines.push(format!(
            "{} hands over what it has and then ends by itself: do not stop it before that",
            leaving.join(", ")
        ));
    }
    if !dropped.is_empty() {
        lines.push(format!(
            "{} is gone for ever: do not start it again, and use another id for what comes in its place",
            dropped.join(", ")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use dynkv_client::ring::{Founding, History, Member, PartitionCount};

    use super::*;
    use crate::commands::cluster::show::tests::id;

    #[test]
    fn what_comes_next_is_said() {
        let founding = Founding {
            cluster: "c".into(),
            partitions: PartitionCount::new(16).unwrap(),
            replicas: 3,
            members: ["n1", "n2", "n3", "n4"].map(|node| Member::new(id(node))).to_vec(),
        };
        let mut history = History::new();
        history.insert(Entry::new(1, id("n1"), Change::Found(founding)).unwrap()).unwrap();
        let lines = |change: Change| what_comes(&Plan::new(&history, [change]).unwrap());
        let place = Change::Place { node: id("n1"), zone: String::new(), host: "rack".into() };
        assert_eq!(lines(place), ["no data has to move"]);
        let leave = lines(Change::Leave(id("n4")));
        assert!(leave[0].contains("`dyn transfers`") && leave[1].starts_with("n4 hands over"), "{leave:?}");
        let replace = lines(Change::Replace { old: id("n4"), new: Member::new(id("n5")) });
        assert!(replace[1].starts_with("n4 is gone for ever"), "{replace:?}");
    }
}
