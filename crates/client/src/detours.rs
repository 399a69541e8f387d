//! Homes that do not serve a partition yet, by what their answers say: they forward, which takes longer than to ask who serves it.
//!
//! While nodes join, a client knows who is to have a key, but not who has it already.

use std::collections::BTreeMap;
use std::time::Duration;

use dynkv_ring::{NodeId, PartitionId};
use tokio::time::Instant;

/// A home that has forwarded is asked again after this: it may serve by then.
const LASTS: Duration = Duration::from_secs(10);

/// Who has forwarded requests for a partition, to whom last, and until when that counts.
#[derive(Debug)]
struct Detour {
    by: Vec<NodeId>,
    to: NodeId,
    until: Instant,
}

/// All of them: one for each partition at most.
#[derive(Debug, Default)]
pub(crate) struct Detours(BTreeMap<PartitionId, Detour>);

/// The homes of a partition, those that are to be asked first apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ways {
    /// Homes, and whoever else was seen to serve the partition.
    pub(crate) direct: Vec<NodeId>,
    /// Homes that would forward.
    pub(crate) detours: Vec<NodeId>,
}

impl Detours {
    /// `node` was asked, and it, or the `coordinator` to which it forwarded, has answered.
    pub(crate) fn answered(
        &mut self,
        partition: PartitionId,
        node: NodeId,
        coordinator: Option<NodeId>,
        now: Instant,
    ) {
        let Some(to) = coordinator.filter(|to| *to != node) else { return };
        let fresh = || Detour { by: Vec::new(), to, until: now + LASTS };
        let detour = self.0.entry(partition).or_insert_with(fresh);
        if detour.until <= now {
            *detour = fresh();
        }
        detour.to = to;
        // It has served when it was forwarded to; now it forwards.
        detour.by.retain(|by| *by != to && *by != node);
        detour.by.push(node);
    }

    /// `node` is in trouble: nobody is sent to it on behalf of what was seen before.
    pub(crate) fn failed(&mut self, node: NodeId) {
        self.0.retain(|_, detour| detour.to != node);
    }

    /// How `homes` are asked.
    pub(crate) fn ways(&mut self, partition: PartitionId, homes: &[NodeId], now: Instant) -> Ways {
        if self.0.get(&partition).is_some_and(|detour| detour.until <= now) {
            self.0.remove(&partition);
        }
        let Some(detour) = self.0.get(&partition) else {
            return Ways { direct: homes.to_vec(), detours: Vec::new() };
        };
        let (detours, mut direct): (Vec<_>, Vec<_>) = homes.iter().partition(|home| detour.by.contains(home));
        if !detours.is_empty() && !direct.contains(&detour.to) {
            direct.push(detour.to);
        }
        Ways { direct, detours }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(7);

    fn node(n: usize) -> NodeId {
        format!("n{n}").parse().unwrap()
    }

    /// How n1, n2 and n3 are asked, by their numbers.
    fn ways(detours: &mut Detours, now: Instant) -> (Vec<usize>, Vec<usize>) {
        let Ways { direct, detours } = detours.ways(PARTITION, &[1, 2, 3].map(node), now);
        let numbers = |nodes: Vec<NodeId>| nodes.iter().map(|id| id.as_str()[1..].parse().unwrap()).collect();
        (numbers(direct), numbers(detours))
    }

    #[test]
    fn homes_that_have_forwarded_come_last_for_a_while() {
        let (mut detours, now) = (Detours::default(), Instant::now());
        detours.answered(PARTITION, node(1), None, now);
        detours.answered(PARTITION, node(1), Some(node(1)), now);
        assert_eq!(ways(&mut detours, now), (vec![1, 2, 3], vec![]));
        detours.answered(PARTITION, node(1), Some(node(4)), now);
        assert_eq!(ways(&mut detours, now), (vec![2, 3, 4], vec![1]));
        detours.answered(PARTITION, node(3), Some(node(2)), now + LASTS / 2);
        assert_eq!(ways(&mut detours, now), (vec![2], vec![1, 3]));
        let later = now + LASTS;
        assert_eq!(ways(&mut detours, later), (vec![1, 2, 3], vec![]));
        assert!(detours.0.is_empty());
        let other = detours.ways(PartitionId(8), &[node(1)], now);
        assert_eq!(other, Ways { direct: vec![node(1)], detours: vec![] });
    }

    #[test]
    fn an_old_one_does_not_last_because_of_a_new_one() {
        let (mut detours, now) = (Detours::default(), Instant::now());
        detours.answered(PARTITION, node(1), Some(node(4)), now);
        detours.answered(PARTITION, node(2), Some(node(4)), now + LASTS);
        assert_eq!(ways(&mut detours, now + LASTS), (vec![1, 3, 4], vec![2]));
    }

    #[test]
    fn who_serves_by_now_is_no_detour_and_who_does_not_any_more_is() {
        let (mut detours, now) = (Detours::default(), Instant::now());
        detours.answered(PARTITION, node(1), Some(node(4)), now);
        detours.answered(PARTITION, node(2), Some(node(1)), now);
        assert_eq!(ways(&mut detours, now), (vec![1, 3], vec![2]));
        detours.answered(PARTITION, node(1), Some(node(2)), now);
        assert_eq!(ways(&mut detours, now), (vec![2, 3], vec![1]));
    }

    #[test]
    fn nobody_is_sent_to_one_that_has_failed() {
        let (mut detours, now) = (Detours::default(), Instant::now());
        detours.answered(PARTITION, node(1), Some(node(4)), now);
        detours.failed(node(5));
        detours.failed(node(1));
        assert_eq!(ways(&mut detours, now), (vec![2, 3, 4], vec![1]));
        detours.failed(node(4));
        assert_eq!(ways(&mut detours, now), (vec![1, 2, 3], vec![]));
    }

    /// Somebody who is no home served it before the view changed.
    #[test]
    fn what_is_known_of_others_than_homes_changes_nothing() {
        let (mut detours, now) = (Detours::default(), Instant::now());
        detours.answered(PARTITION, node(8), Some(node(9)), now);
        assert_eq!(ways(&mut detours, now), (vec![1, 2, 3], vec![]));
    }
}
