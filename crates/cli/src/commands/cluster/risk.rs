//! What could be lost with nodes that are gone at once.

use std::collections::BTreeSet;

use dynkv_client::proto::StatusReply;
use dynkv_client::ring::{NodeId, Plan};
use serde_json::{Value, json};

use crate::commands::status::Row;
use crate::output;

/// What goes with one node, as far as anybody says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Risk {
    pub(super) node: NodeId,
    /// Whether it answers: then it could hand over what it has.
    answers: bool,
    /// Hints that it keeps for others, by its own word or as it last told the others.
    hints: Option<u64>,
    /// Partitions it is a home of.
    partitions: u32,
    /// Those of them none of whose other homes answers.
    alone: u32,
    /// Those most of whose other homes do not answer.
    few: u32,
}

impl Risk {
    /// Of each node that the plan drops.
    pub(super) fn all(plan: &Plan, rows: &[Row]) -> Vec<Risk> {
        let answered: Vec<&StatusReply> = rows.iter().filter_map(|row| row.answer.as_ref().ok()).collect();
        let up: BTreeSet<NodeId> = answered.iter().map(|status| status.node.id).collect();
        let dropped: Vec<NodeId> = plan.dropped().collect();
        let ring = plan.before().ring();
        let risk = |&node: &NodeId| {
            let own = answered.iter().find(|status| status.node.id == node).map(|status| status.hints);
            // Each of the others has heard it at another time; none of them more than there were.
            let told = answered.iter().flat_map(|status| &status.peers).filter(|peer| peer.id == node);
            let told = told.filter_map(|peer| peer.load.as_ref()).map(|load| load.hints).max();
            let mut risk = Risk {
                node,
                answers: up.contains(&node),
                hints: own.or(told),
                partitions: 0,
                alone: 0,
                few: 0,
            };
            for partition in ring.partitions().ids() {
                let homes = ring.homes(partition);
                if !homes.contains(&node) {
                    continue;
                }
                let others = homes.iter().filter(|home| **home != node);
                let left = others.filter(|home| up.contains(home) && !dropped.contains(home)).count();
                risk.partitions += 1;
                risk.alone += u32::from(left == 0);
                risk.few += u32::from(left * 2 <= homes.len());
            }
            risk
        };
        dropped.iter().map(risk).collect()
    }

    /// What to think about, one text for each.
    pub(super) fn lines(&self) -> Vec<String> {
        let Risk { node, answers, hints, partitions, alone, few } = self;
        let mut lines = Vec::new();
        if *answers {
            lines.push(format!("{node} answers: with --leave it would hand over what it has before it goes"));
        }
        lines.push(match hints {
            Some(0) => format!("{node} keeps no hints, as far as is known"),
            Some(hints) => format!("{} that {node} keeps for others are lost", output::count(*hints, "hint")),
            None => format!("nobody knows how many hints {node} keeps for others: they are lost"),
        });
        if *few > 0 {
            lines.push(format!(
                "of {partitions} partitions that {node} keeps, {few} have no majority of homes left that answers, {alone} none at all: what only {node} has of them is lost"
            ));
        } else {
            lines.push(format!(
                "of all {partitions} partitions that {node} keeps, most homes answer: what only {node} has is lost all the same"
            ));
        }
        lines
    }

    pub(super) fn as_json(&self) -> Value {
        let Risk { node, answers, hints, partitions, alone, few } = self;
        json!({
            "node": node.to_string(),
            "answers": answers,
            "hints": hints,
            "partitions": partitions,
            "partitions_without_other_home": alone,
            "partitions_without_majority": few,
        })
    }
}
