//! From whom each new home gets its copy.

use std::collections::BTreeMap;

use super::{PlanError, PlannedMove};
use crate::{Departure, Membership, NodeId, RingDiff};

/// Chooses a source for every home added.
///
/// Which one it is changes neither how much moves nor who receives it. A home that stops being one has the copy, and no
/// reads to serve for it; among equals the one that gives least so far.
pub(super) fn choose(diff: &RingDiff, after: &Membership) -> Result<Vec<PlannedMove>, PlanError> {
    let mut given: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut moves = Vec::new();
    let (mut lost, mut first) = (0, None);
    for change in diff.changes() {
        let mut orphaned = false;
        for to in change.added() {
            let rank = |node: &NodeId| match after.departure(node) {
                // It may be alive, but nobody counts on it any more.
                Some(Departure::Replaced(_)) => 2,
                _ => u32::from(change.after.contains(node)),
            };
            let there =
                |node: &&NodeId| !matches!(after.departure(node), Some(Departure::Removed | Departure::Left));
            let given_by = |node: &NodeId| given.get(node).copied().unwrap_or(0);
            let source =
                change.before.iter().filter(there).min_by_key(|node| (rank(node), given_by(node), **node));
            match source {
                Some(&from) => {
                    *given.entry(from).or_insert(0) += 1;
                    moves.push(PlannedMove { partition: change.partition, from, to });
                }
                None => orphaned = true,
            }
        }
        if orphaned {
            lost += 1;
            first = first.or(Some(change.partition));
        }
    }
    match first {
        Some(first) => Err(PlanError::NoSource { partitions: lost, first }),
        None => Ok(moves),
    }
}
