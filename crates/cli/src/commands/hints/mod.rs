//! `dyn hints`

mod drain;
mod list;
mod show;

use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::proto::{HintTotals, HintsReply};
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, ClusterView};
use serde_json::{Value, json};

use crate::commands::status::nodes;
use crate::connection::{block_on, known};
use crate::each::{ask_each, names, silence, silent, silent_json};
use crate::error::CliError;
use crate::exit::Exit;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Show or deliver hints: the writes that nodes keep for others that were out of reach
///
/// A write whose home is down goes to another node, which keeps it as a hint and hands it over by itself once the home is back.
#[derive(Debug, Args)]
pub(crate) struct Hints {
    #[command(subcommand)]
    command: HintsCommand,
}

#[derive(Debug, Subcommand)]
enum HintsCommand {
    List(list::List),
    Show(show::Show),
    Drain(drain::Drain),
}

impl Hints {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            HintsCommand::List(list) => block_on(list.run()),
            HintsCommand::Show(show) => block_on(show.run()),
            HintsCommand::Drain(drain) => block_on(drain.run()),
        }
    }
}

/// A node and what it keeps, by its own account.
type Row = crate::each::Row<HintsReply>;

/// Hints of one holder for one target.
struct Owed<'a> {
    holder: NodeId,
    totals: &'a HintTotals,
}

/// Whom to ask for hints: `holder`, or every node but `target`, which keeps none for itself.
fn holders(
    view: &ClusterView,
    holder: Option<NodeId>,
    target: Option<NodeId>,
) -> Result<Vec<NodeId>, CliError> {
    if let Some(target) = target {
        known(view, target)?;
    }
    match holder {
        Some(holder) => Ok(vec![known(view, holder)?]),
        None => Ok(nodes(view).iter().map(|info| info.id).filter(|id| Some(*id) != target).collect()),
    }
}

/// Asks all of `holders` at once, and none for longer than `limit`.
async fn ask_all(client: &Client, holders: &[NodeId], limit: Duration) -> Vec<Row> {
    let limit = client.options().timeout.min(limit);
    ask_each(holders, |node| client.hints(node).timeout(limit)).await
}

/// What those that answered owe, to `target` or to all.
fn owed(rows: &[Row], target: Option<NodeId>) -> Vec<Owed<'_>> {
    let answered = rows.iter().filter_map(Row::answered);
    let all = answered.flat_map(|(holder, reply)| reply.totals.iter().map(move |totals| (holder, totals)));
    all.filter(|(_, totals)| target.is_none_or(|only| only == totals.target))
        .map(|(holder, totals)| Owed { holder, totals })
        .collect()
}

fn totals_json(totals: &HintTotals) -> Value {
    json!({
        "target": totals.target.to_string(),
        "hints": totals.hints,
        "bytes": totals.bytes,
        "oldest_ms": totals.oldest_ms,
        "reachable": totals.reachable,
        "last_error": totals.last_error,
    })
}

#[cfg(test)]
mod tests {
    use dynkv_client::Error;

    use super::*;

    pub(super) fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    pub(super) fn totals(target: &str, hints: u64, reachable: bool, last_error: &str) -> HintTotals {
        let (target, last_error) = (id(target), last_error.to_owned());
        HintTotals { target, hints, bytes: hints * 1024, oldest_ms: hints * 1000, reachable, last_error }
    }

    pub(super) fn row(node: &str, totals: Vec<HintTotals>) -> Row {
        let node = id(node);
        let reply =
            HintsReply { node, totals, hints: vec![], more: false, limit_bytes: 1 << 20, refused_full: 0 };
        Row { node, answer: Ok(reply) }
    }

    pub(super) fn silent_row(node: &str) -> Row {
        Row { node: id(node), answer: Err(Error::Connect { message: "long".into() }) }
    }

    #[test]
    fn what_is_owed_to_one_target() {
        let rows = [
            row("n1", vec![totals("n2", 1, true, ""), totals("n3", 2, true, "")]),
            silent_row("n2"),
            row("n3", vec![totals("n2", 4, true, "")]),
        ];
        let sum = |target| owed(&rows, target).iter().map(|owed| owed.totals.hints).sum::<u64>();
        assert_eq!((sum(None), sum(Some(id("n2"))), sum(Some(id("n1")))), (7, 5, 0));
        assert_eq!(names(&silent(&rows)), "n2");
    }
}
