//! How many copies a version has when its put is acknowledged, read off the disks at that moment.

use dynkv_proto::Actor;
use dynkv_ring::{NodeId, Position, Ring};
use dynkv_vclock::Dot;

use crate::{disk::Disk, history::Key, replicas, world::World};

/// The disks of a cluster's nodes.
#[derive(Clone)]
pub struct Copies(Vec<(NodeId, Disk)>);

impl Copies {
    /// Of the first `nodes` hosts of `world`.
    pub fn new(world: &World, nodes: usize) -> Copies {
        Copies(world.hosts.iter().take(nodes).map(|host| (host.id, host.disk.clone())).collect())
    }

    /// Of how many homes of `key` somebody holds a copy that has `dot`, nobody counted twice: each home for itself, or
    /// another node in a hint for it.
    pub fn count(&self, ring: &Ring, key: &Key, dot: &Dot<Actor>) -> usize {
        let partition = Position::of(key.bucket.name(), key.name.as_bytes()).partition(ring.partitions());
        let homes = ring.homes(partition);
        let mut pairs = Vec::new();
        for (node, disk) in &self.0 {
            let (record, hints) = replicas::held(*node, disk, partition, key);
            let own = record.map(|record| (*node, record));
            for (home, replica) in own.into_iter().chain(hints) {
                if homes.contains(&home) && replica.state.context().contains(dot) {
                    pairs.push((*node, home));
                }
            }
        }
        greatest_matching(homes, &pairs, &mut Vec::new())
    }
}

/// The most homes that can have a node each, among those that hold a copy for them. By trying all: there are three.
fn greatest_matching(homes: &[NodeId], pairs: &[(NodeId, NodeId)], taken: &mut Vec<NodeId>) -> usize {
    let Some((home, rest)) = homes.split_first() else { return 0 };
    let mut most = greatest_matching(rest, pairs, taken);
    for (node, _) in pairs.iter().filter(|(_, of)| of == home) {
        if !taken.contains(node) {
            taken.push(*node);
            most = most.max(1 + greatest_matching(rest, pairs, taken));
            taken.pop();
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_counted_twice() {
        let ids: Vec<NodeId> = (1..=5).map(|n| format!("n{n}").parse().expect("a good id")).collect();
        let count = |pairs: &[(usize, usize)]| {
            let pairs: Vec<_> = pairs.iter().map(|(node, home)| (ids[*node], ids[*home])).collect();
            greatest_matching(&ids[..3], &pairs, &mut Vec::new())
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[(0, 0), (1, 1), (2, 2)]), 3);
        // A hint beside its target's own copy, and two hints of one node.
        assert_eq!(count(&[(0, 0), (3, 0)]), 1);
        assert_eq!(count(&[(3, 0), (3, 1)]), 1);
        // Of two that could stand for one home, one stands for another.
        assert_eq!(count(&[(3, 0), (3, 1), (4, 0)]), 2);
    }
}
