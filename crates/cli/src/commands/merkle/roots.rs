//! `dyn merkle roots`

use clap::Args;
use dynkv_client::proto::{TreeStatus, TreesReply};
use dynkv_client::ring::NodeId;
use serde_json::{Value, json};

use crate::connection::{Connection, known};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Show the root of each of a node's trees
///
/// Two nodes that hold the same of a partition have the same root. A tree that is being built is not compared until it is ready.
#[derive(Debug, Args)]
pub(crate) struct Roots {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    /// Only this partition
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Roots {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let node = known(&client.view(), self.node)?;
        let mut trees = Vec::new();
        let reply = loop {
            let mut page = client.trees(node);
            if let Some(partition) = self.partition {
                page = page.partition(partition);
            }
            if let Some(last) = trees.last().map(|tree: &TreeStatus| tree.partition) {
                page = page.after(last);
            }
            let mut reply = page.await.map_err(CliError::of(format!("trees of {node}")))?;
            let ended = !reply.more || reply.trees.is_empty();
            trees.append(&mut reply.trees);
            if ended {
                break reply;
            }
        };
        if self.json {
            output::json(&as_json(&reply, &trees))?;
        } else {
            if !trees.is_empty() {
                output::line(as_table(&trees))?;
            }
            output::line(summary(&reply))?;
        }
        Ok(Exit::Ok)
    }
}

fn state(tree: &TreeStatus) -> &'static str {
    if tree.root.is_some() { "ready" } else { "building" }
}

fn as_table(trees: &[TreeStatus]) -> String {
    let rows = trees.iter().map(|tree| {
        let dash = || "-".to_owned();
        let built = |number: String| if tree.root.is_some() { number } else { dash() };
        [
            tree.partition.to_string(),
            tree.root.map_or_else(dash, |root| root.to_string()),
            built(tree.entries.to_string()),
            built(tree.depth.to_string()),
            state(tree).into(),
        ]
    });
    output::table(["partition", "root", "entries", "depth", "state"], &[0, 2, 3], rows.collect())
}

fn summary(reply: &TreesReply) -> String {
    let partitions = output::count(reply.partitions.into(), "partition");
    match reply.building {
        0 => format!("{}: {partitions}, all trees ready", reply.node),
        building => {
            format!("{}: {partitions}, {building} trees being built, which are not compared yet", reply.node)
        }
    }
}

fn as_json(reply: &TreesReply, trees: &[TreeStatus]) -> Value {
    let list = trees.iter().map(|tree| {
        json!({
            "partition": tree.partition,
            "root": tree.root.map(|root| root.to_string()),
            "entries": tree.entries,
            "depth": tree.depth,
            "state": state(tree),
        })
    });
    json!({
        "node": reply.node.to_string(),
        "view": reply.view.to_string(),
        "partitions": reply.partitions,
        "building": reply.building,
        "trees": list.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::Digest;

    use super::*;

    #[test]
    fn a_tree_that_is_being_built_has_no_numbers() {
        let trees = vec![
            TreeStatus { partition: 3, root: Some(Digest(0xab)), entries: 12, depth: 4 },
            TreeStatus { partition: 10, root: None, entries: 0, depth: 0 },
        ];
        let table = as_table(&trees);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["3", "000000000000000000000000000000ab", "12", "4", "ready"]);
        assert_eq!(lines[2], ["10", "-", "-", "-", "building"]);
        let mut reply = TreesReply {
            node: "n1".parse().unwrap(),
            view: Digest(1),
            trees: vec![],
            more: false,
            partitions: 2,
            building: 1,
        };
        assert_eq!(summary(&reply), "n1: 2 partitions, 1 trees being built, which are not compared yet");
        let json = as_json(&reply, &trees);
        assert_eq!((&json["trees"][1]["state"], &json["building"]), (&"building".into(), &1.into()));
        reply.building = 0;
        assert_eq!(summary(&reply), "n1: 2 partitions, all trees ready");
    }
}
