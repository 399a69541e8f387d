//! How much a plan moves, and how long that takes: about, from what the nodes say they hold.

use std::collections::BTreeMap;

use dynkv_client::proto::{StatusReply, TreeStatus};
use dynkv_client::ring::{NodeId, Plan};
use dynkv_client::{Client, Error};

use crate::commands::status::Row;
use crate::each::ask_each;

/// What the partitions hold, as far as nodes have said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Estimate {
    /// By partition: the most records that a home counts.
    records: BTreeMap<u32, u64>,
    /// Of a partition of which nobody says it.
    mean_records: f64,
    /// On disk, everything around a record included.
    record_bytes: f64,
}

/// What a plan moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) replicas: u32,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Estimate {
    /// Asks the nodes that have told how they are for what each partition holds.
    pub(super) async fn ask(client: &Client, rows: &[Row]) -> Estimate {
        let statuses: Vec<&StatusReply> = rows.iter().filter_map(|row| row.answer.as_ref().ok()).collect();
        let nodes: Vec<NodeId> = statuses.iter().map(|status| status.node.id).collect();
        let trees = ask_each(&nodes, |node| trees_of(client.clone(), node)).await;
        let trees: Vec<TreeStatus> = trees.into_iter().filter_map(|row| row.answer.ok()).flatten().collect();
        let ring = client.view();
        let homes = nodes.iter().map(|node| u64::from(ring.ring().load(node).replicas)).sum();
        Estimate::of(&statuses, homes, &trees)
    }

    pub(super) fn of(statuses: &[&StatusReply], homes: u64, trees: &[TreeStatus]) -> Estimate {
        let records: u64 = statuses.iter().map(|status| status.records).sum();
        let bytes: u64 = statuses.iter().map(|status| status.disk_bytes).sum();
        let mut by_partition = BTreeMap::new();
        for tree in trees.iter().filter(|tree| tree.root.is_some()) {
            let most: &mut u64 = by_partition.entry(tree.partition).or_default();
            *most = tree.entries.max(*most);
        }
        Estimate {
            records: by_partition,
            mean_records: records as f64 / homes.max(1) as f64,
            record_bytes: if records == 0 { 0.0 } else { bytes as f64 / records as f64 },
        }
    }

    /// A replica of one partition.
    pub(super) fn of_replica(&self, partition: u32) -> Load {
        let known = self.records.get(&partition).copied();
        let records = known.unwrap_or_else(|| self.mean_records.round() as u64);
        Load { replicas: 1, records, bytes: (records as f64 * self.record_bytes) as u64 }
    }

    /// What moves from each node to each other one.
    pub(super) fn by_pair(&self, plan: &Plan) -> BTreeMap<(NodeId, NodeId), Load> {
        let mut pairs: BTreeMap<_, Load> = BTreeMap::new();
        for planned in plan.moves() {
            pairs.entry((planned.from, planned.to)).or_default().add(self.of_replica(planned.partition.0));
        }
        pairs
    }
}

impl Load {
    pub(super) fn add(&mut self, more: Load) {
        self.replicas += more.replicas;
        self.records += more.records;
        self.bytes += more.bytes;
    }

    pub(super) fn sum(loads: impl IntoIterator<Item = Load>) -> Load {
        let mut sum = Load::default();
        loads.into_iter().for_each(|load| sum.add(load));
        sum
    }
}

/// How long it takes if each node sends and receives so many bytes in a second: as long as for the one with most to do.
pub(super) fn time_ms(pairs: &BTreeMap<(NodeId, NodeId), Load>, rate: u64) -> u64 {
    let (mut sent, mut received): (BTreeMap<NodeId, u64>, BTreeMap<NodeId, u64>) = Default::default();
    for ((from, to), load) in pairs {
        *sent.entry(*from).or_default() += load.bytes;
        *received.entry(*to).or_default() += load.bytes;
    }
    let most = sent.values().chain(received.values()).max().copied().unwrap_or(0);
    (most as f64 / rate.max(1) as f64 * 1000.0) as u64
}

/// All trees of a node, page by page.
pub(in crate::commands) async fn trees_of(client: Client, node: NodeId) -> Result<Vec<TreeStatus>, Error> {
    let mut trees: Vec<TreeStatus> = Vec::new();
    loop {
        let mut page = client.trees(node).limit(4096);
        if let Some(last) = trees.last() {
            page = page.after(last.partition);
        }
        let mut reply = page.await?;
        let ended = !reply.more || reply.trees.is_empty();
        trees.append(&mut reply.trees);
        if ended {
            return Ok(trees);
        }
    }
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::Digest;

    use super::*;
    use crate::commands::cluster::show::tests::{id, status};

    #[test]
    fn what_nobody_says_is_the_mean() {
        let one = StatusReply { records: 300, disk_bytes: 30_000, ..status("n1") };
        let other = StatusReply { records: 100, disk_bytes: 10_000, ..status("n2") };
        let tree =
            |partition, entries, root: Option<Digest>| TreeStatus { partition, root, entries, depth: 1 };
        let trees = [tree(0, 7, Some(Digest(1))), tree(0, 9, Some(Digest(2))), tree(1, 0, None)];
        let estimate = Estimate::of(&[&one, &other], 40, &trees);
        assert_eq!(estimate.of_replica(0), Load { replicas: 1, records: 9, bytes: 900 });
        assert_eq!(estimate.of_replica(1), Load { replicas: 1, records: 10, bytes: 1000 });
        assert_eq!(Estimate::of(&[], 0, &[]).of_replica(1), Load { replicas: 1, records: 0, bytes: 0 });
    }

    #[test]
    fn it_takes_as_long_as_for_the_one_with_most_to_do() {
        let load = |bytes| Load { replicas: 1, records: 1, bytes };
        let pairs = [(("n1", "n3"), 400), (("n2", "n3"), 700), (("n1", "n2"), 200)];
        let pairs = pairs.map(|((from, to), bytes)| ((id(from), id(to)), load(bytes)));
        assert_eq!(time_ms(&BTreeMap::from(pairs), 100), 11_000);
        assert_eq!(time_ms(&BTreeMap::new(), 100), 0);
    }
}
