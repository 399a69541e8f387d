//! How many copies an acknowledged version has, read off the disks: when its put is acknowledged, and at moments after that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dynkv_node::storage::Space;
use dynkv_proto::{Actor, Holder};
use dynkv_ring::{NodeId, PartitionId, Position, Ring};
use dynkv_vclock::Dot;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::de::IgnoredAny;

use crate::{
    disk::Disk,
    history::{Ending, History, Key},
    replicas,
    world::World,
};

/// How often to count.
const PERIOD: Duration = Duration::from_millis(250);

/// Of so many puts each time.
const AT_ONCE: usize = 6;

/// A partition as it is stored, in CBOR (`docs/storage.md`): epoch, members, and what was promised.
type StoredCell = (u64, Vec<Holder>, IgnoredAny, IgnoredAny, IgnoredAny, IgnoredAny);

/// The disks of a cluster's nodes.
#[derive(Clone)]
pub struct Copies {
    disks: Vec<(NodeId, Disk)>,
    founding: Arc<Ring>,
}

impl Copies {
    /// Of the first `nodes` hosts of `world`, which was founded with this ring.
    pub fn new(world: &World, nodes: usize, founding: Ring) -> Copies {
        let disks = world.hosts.iter().take(nodes).map(|host| (host.id, host.disk.clone()));
        Copies { disks: disks.collect(), founding: Arc::new(founding) }
    }

    /// How many homes of `key` fewer than was promised have a copy that has `dot`, nobody counted twice: each home for itself, or another node in a hint for it. The
    /// homes are the members of the latest configuration that anybody knows; hints may be for those of an earlier one, where hints count.
    pub fn missing(&self, key: &Key, dot: &Dot<Actor>) -> usize {
        let partition =
            Position::of(key.bucket.name(), key.name.as_bytes()).partition(self.founding.partitions());
        let mut copies = Vec::new();
        for (node, disk) in &self.disks {
            let (record, hints) = replicas::held(*node, disk, partition, key);
            let own = record.map(|record| (*node, record));
            let with_dot =
                own.into_iter().chain(hints).filter(|(_, replica)| replica.state.context().contains(dot));
            copies.extend(with_dot.map(|(home, _)| (*node, home)));
        }
        let missing = |homes: &Vec<NodeId>| {
            let of_homes: Vec<_> = copies.iter().copied().filter(|(_, home)| homes.contains(home)).collect();
            let wanted = key.bucket.copies().min(homes.len());
            wanted.saturating_sub(greatest_matching(homes, &of_homes, &mut Vec::new()))
        };
        let configurations = self.configurations(partition);
        let latest = if key.bucket.quorums_meet() { 1 } else { configurations.len() };
        configurations.values().rev().take(latest).map(missing).min().unwrap_or_default()
    }

    /// The members of a partition that anybody knows of, by epoch.
    fn configurations(&self, partition: PartitionId) -> BTreeMap<u64, Vec<NodeId>> {
        let mut known = BTreeMap::from([(0, self.founding.homes(partition).to_vec())]);
        let mut cell_key = b"chain/".to_vec();
        cell_key.extend((partition.0 as u16).to_be_bytes());
        for (_, disk) in &self.disks {
            for (_, cell) in disk.content(Space::Meta, &cell_key) {
                let cell = ciborium::from_reader::<StoredCell, _>(&cell[..]);
                let (epoch, members, ..) = cell.expect("nothing spoils what is stored of partitions");
                known.insert(epoch, members.into_iter().map(|holder| holder.node).collect());
            }
        }
        known
    }

    /// Counts the copies of some of the acknowledged puts of `history` again and again.
    pub async fn watch(self, history: Arc<Mutex<History>>, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        loop {
            tokio::time::sleep(PERIOD).await;
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            for _ in 0..AT_ONCE.min(history.puts.len()) {
                let at = random.random_range(0..history.puts.len());
                let put = &mut history.puts[at];
                if let (Ending::Done { dot, .. }, Some(before)) = (&put.ending, put.missing) {
                    put.missing = Some(before.max(self.missing(&put.key, dot)));
                }
            }
        }
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
