//! How much moves, and how much of it is there: about, from what nodes say that their trees hold.

use std::collections::{BTreeMap, BTreeSet};

use dynkv_client::Client;
use dynkv_client::proto::{Transfer, TransferState, TransfersReply};
use dynkv_client::ring::NodeId;

use crate::commands::cluster::estimate::trees_of;
use crate::commands::status::ask_all;
use crate::each::ask_each;

use super::ANSWER_WITHIN;

/// What nodes hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Records, by partition and node.
    records: BTreeMap<u32, BTreeMap<NodeId, u64>>,
    /// Bytes that a record takes on disk, everything around it included; 0: not known.
    record_bytes: f64,
}

/// Records and bytes of something that moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// That are there.
    pub(super) records_here: u64,
    /// In all, about.
    pub(super) records: u64,
    pub(super) bytes_here: u64,
    pub(super) bytes: u64,
}

impl Amount {
    fn of(records_here: u64, records: u64, record_bytes: f64) -> Amount {
        let bytes = |records: u64| (records as f64 * record_bytes) as u64;
        Amount { records_here, records, bytes_here: bytes(records_here), bytes: bytes(records) }
    }

    pub(super) fn bytes_left(&self) -> u64 {
        self.bytes.saturating_sub(self.bytes_here)
    }

    /// The time that is left at so many bytes in a second; `None` while nothing moves, and when everything is there.
    pub(super) fn eta_ms(&self, rate_bytes: u64) -> Option<u64> {
        let ms = u128::from(self.bytes_left()) * 1000 / u128::from(rate_bytes.max(1));
        (rate_bytes > 0 && self.bytes_left() > 0).then(|| u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

impl Held {
    /// Asks all nodes.
    pub(super) async fn ask(client: &Client) -> Held {
        let statuses = ask_all(client, ANSWER_WITHIN).await;
        let statuses: Vec<_> = statuses.iter().filter_map(|row| row.answer.as_ref().ok()).collect();
        let nodes: Vec<NodeId> = statuses.iter().map(|status| status.node.id).collect();
        let records: u64 = statuses.iter().map(|status| status.records).sum();
        let bytes: u64 = statuses.iter().map(|status| status.disk_bytes).sum();
        let record_bytes = if records == 0 { 0.0 } else { bytes as f64 / records as f64 };
        let mut held = Held { records: BTreeMap::new(), record_bytes };
        for row in ask_each(&nodes, |node| Box::pin(trees_of(client.clone(), node))).await {
            for tree in row.answer.unwrap_or_default().into_iter().filter(|tree| tree.root.is_some()) {
                held.records.entry(tree.partition).or_default().insert(row.node, tree.entries);
            }
        }
        held
    }

    fn of(&self, partition: u32, node: &NodeId) -> Option<u64> {
        self.records.get(&partition)?.get(node).copied()
    }

    /// Of a node that does not say it, what the one with most has.
    fn at(&self, partition: u32, node: &NodeId) -> u64 {
        let most = || self.records.get(&partition).and_then(|by| by.values().max().copied());
        self.of(partition, node).or_else(most).unwrap_or(0)
    }

    /// What one transfer moves to the node that told of it.
    pub(super) fn received(&self, reply: &TransfersReply, transfer: &Transfer) -> Amount {
        let read: BTreeSet<u32> = transfer.read.iter().copied().collect();
        let (mut here, mut all) = (0, 0);
        for partition in &transfer.partitions {
            let theirs = self.at(*partition, &transfer.peer);
            let is_read = read.contains(partition) || transfer.state != TransferState::Receiving;
            here += if is_read { theirs } else { self.of(*partition, &reply.node).unwrap_or(0).min(theirs) };
            all += theirs;
        }
        Amount::of(here, all, self.record_bytes_of(reply))
    }

    /// What a node receives in all: what several others have of a partition is the same.
    pub(super) fn received_in_all(&self, reply: &TransfersReply) -> Amount {
        let (mut sums, mut read) = (BTreeMap::<u32, u64>::new(), BTreeSet::<u32>::new());
        for transfer in reply.transfers.iter().filter(|transfer| is_received(transfer.state)) {
            for partition in &transfer.partitions {
                let most = sums.entry(*partition).or_default();
                *most = self.at(*partition, &transfer.peer).max(*most);
            }
            if transfer.state == TransferState::Received {
                read.extend(&transfer.partitions);
            }
        }
        let here = |(partition, all): (&u32, &u64)| match read.contains(partition) {
            true => *all,
            false => self.of(*partition, &reply.node).unwrap_or(0).min(*all),
        };
        Amount::of(sums.iter().map(here).sum(), sums.values().sum(), self.record_bytes_of(reply))
    }

    /// What was moved says more than what is on disk.
    fn record_bytes_of(&self, reply: &TransfersReply) -> f64 {
        let received = || reply.transfers.iter().filter(|transfer| is_received(transfer.state));
        let records: u64 = received().map(|transfer| transfer.records).sum();
        let bytes: u64 = received().map(|transfer| transfer.bytes).sum();
        if records == 0 { self.record_bytes } else { bytes as f64 / records as f64 }
    }

    #[cfg(test)]
    pub(super) fn with(records: &[(u32, &str, u64)], record_bytes: f64) -> Held {
        let mut held = Held { records: BTreeMap::new(), record_bytes };
        for (partition, node, records) in records {
            held.records.entry(*partition).or_default().insert(node.parse().unwrap(), *records);
        }
        held
    }
}

/// Whether something comes to the node that tells.
pub(super) fn is_received(state: TransferState) -> bool {
    matches!(state, TransferState::Receiving | TransferState::Received)
}
