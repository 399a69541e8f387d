//! What a node knows of its cluster: the membership history, what follows from it, and where the nodes are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use dynkv_proto::{Buckets, Digest, NodeInfo};
use dynkv_ring::{Change, Entry, History, HistoryFull, Membership, NodeId};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};

use crate::storage::{Space, Storage, StorageError, write_durably};

/// The history and everything folded from it. Immutable: a request works with one view from beginning to end.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) history: History,
    pub(crate) membership: Membership,
    pub(crate) buckets: Buckets,
    pub(crate) digest: Digest,
}

impl View {
    fn new(history: History) -> View {
        let membership = Membership::fold(&history);
        let buckets = Buckets::fold(&membership);
        let digest = Digest(u128::from_be_bytes(history.digest()));
        View { history, membership, buckets, digest }
    }
}

/// Why a change of the history did not take effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum HistoryError {
    #[error(transparent)]
    Full(#[from] HistoryFull),
    #[error("the history could not be stored: {0}")]
    Storage(#[from] StorageError),
}

/// Why a store's own notes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes are not what this version wrote.
    #[error(
        "the stored membership history cannot be read: {reason}: restore the data directory, or join again as a new node"
    )]
    History {
        /// What the decoder said.
        reason: String,
    },
}

const HISTORY: Bytes = Bytes::from_static(b"history");
const NODES: Bytes = Bytes::from_static(b"nodes");

/// The cluster in the eyes of one node.
pub(crate) struct Cluster {
    /// This node as of its start. What others are told of it may bear a higher boot: see [`Cluster::unite_nodes`].
    pub(crate) me: NodeInfo,
    /// The cluster's name, from the node's certificate.
    pub(crate) name: String,
    storage: Arc<dyn Storage>,
    view: RwLock<Arc<View>>,
    nodes: Mutex<Nodes>,
    changed: watch::Sender<()>,
    /// Held while a history is united, stored and published, so that two unions cannot lose each other's entries.
    uniting: tokio::sync::Mutex<()>,
}

/// Where the nodes are.
struct Nodes {
    /// This one included.
    infos: BTreeMap<NodeId, NodeInfo>,
    /// When this node last contradicted what is said of it.
    contradicted: Option<Instant>,
}

impl Cluster {
    /// Loads what was known when the node last ran.
    pub(crate) fn load(
        storage: Arc<dyn Storage>,
        name: String,
        mut me: NodeInfo,
    ) -> Result<Cluster, LoadError> {
        let history = match storage.get(Space::Meta, &HISTORY)? {
            Some(bytes) => History::from_bytes(&bytes)
                .map_err(|error| LoadError::History { reason: error.to_string() })?,
            None => History::new(),
        };
        // Addresses are only a hint: unreadable ones are learned again.
        let known: Vec<NodeInfo> = match storage.get(Space::Meta, &NODES)? {
            Some(bytes) => decode_nodes(&bytes),
            None => Vec::new(),
        };
        // After a contradiction the others know a higher boot than the directory has counted.
        if let Some(told) = known.iter().find(|info| info.id == me.id) {
            me.boot = me.boot.max(told.boot.saturating_add(1));
        }
        let infos = BTreeMap::from([(me.id, me.clone())]);
        let cluster = Cluster {
            name,
            storage,
            view: RwLock::new(Arc::new(View::new(history))),
            nodes: Mutex::new(Nodes { infos, contradicted: None }),
            changed: watch::Sender::new(()),
            uniting: tokio::sync::Mutex::new(()),
            me,
        };
        cluster.unite_nodes(known);
        Ok(cluster)
    }

    /// The current view.
    pub(crate) fn view(&self) -> Arc<View> {
        // Publishing is one assignment: a poisoned lock still guards a whole view.
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this node serves requests, and if not, why.
    pub(crate) fn serving(&self, view: &View) -> Result<(), NotServing> {
        let membership = &view.membership;
        if !membership.founded() {
            return Err(NotServing::NotFounded { cluster: self.name.clone() });
        }
        if membership.member(&self.me.id).is_none() {
            return Err(NotServing::NotMember {
                node: self.me.id,
                cluster: self.name.clone(),
                members: membership
                    .members()
                    .map(|state| state.member.id.to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
        Ok(())
    }

    /// Wakes whenever the view or the known nodes have changed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Unites `other` into the history: stored first, then in force. Says whether anything was new.
    pub(crate) async fn unite_history(&self, other: &History) -> Result<bool, HistoryError> {
        self.change_history(|history| history.merge(other)).await
    }

    /// Adds one entry.
    pub(crate) async fn add_entry(&self, entry: Entry) -> Result<bool, HistoryError> {
        self.change_history(|history| history.insert(entry).map(usize::from)).await
    }

    async fn change_history(
        &self,
        change: impl FnOnce(&mut History) -> Result<usize, HistoryFull>,
    ) -> Result<bool, HistoryError> {
        let _uniting = self.uniting.lock().await;
        let mut history = self.view().history.clone();
        if change(&mut history)? == 0 {
            return Ok(false);
        }
        let stored = vec![(Space::Meta, HISTORY, Some(history.to_bytes().into()))];
        write_durably(&*self.storage, stored).await?;
        let view = View::new(history);
        tracing::info!(view = %view.digest, entries = view.history.len(), "the membership history has grown");
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.changed.send_replace(());
        Ok(true)
    }

    /// Where the nodes are, this one included.
    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        self.lock_nodes().infos.values().cloned().collect()
    }

    /// What is known of one node.
    pub(crate) fn node(&self, id: &NodeId) -> Option<NodeInfo> {
        self.lock_nodes().infos.get(id).cloned()
    }

    /// The boot under which this node speaks of itself.
    pub(crate) fn own_boot(&self) -> u64 {
        self.node(&self.me.id).map_or(self.me.boot, |own| own.boot)
    }

    /// Takes over what is newer about other nodes: of two, the one of the higher boot.
    ///
    /// Nobody knows this node better than itself. A new disk counts its starts from 1 again, and what was said of the old
    /// one would win for ever: so a node that hears something else of itself under a boot not below its own raises its own
    /// above that, as SWIM's members refute a suspicion with a higher incarnation.
    pub(crate) fn unite_nodes(&self, others: Vec<NodeInfo>) {
        let mut nodes = self.lock_nodes();
        let mut changed = false;
        for other in others {
            if other.id == self.me.id {
                changed |= nodes.contradict(&other);
                continue;
            }
            // Members and a few that wait to become one: bounded.
            if nodes.infos.len() >= NODES_MAX && !nodes.infos.contains_key(&other.id) {
                continue;
            }
            if nodes.infos.get(&other.id).is_none_or(|known| known.boot < other.boot) {
                nodes.infos.insert(other.id, other);
                changed = true;
            }
        }
        if !changed {
            return;
        }
        let stored = encode_nodes(nodes.infos.values());
        drop(nodes);
        // Not awaited: losing it costs a question to a seed.
        let stored = self.storage.submit(
            crate::storage::Durability::Memory,
            Box::new(move |tx| {
                tx.put(Space::Meta, NODES, stored);
                Box::new(|_| {})
            }),
        );
        if let Err(error) = stored {
            tracing::warn!(%error, "the addresses of the nodes were not stored");
        }
        self.changed.send_replace(());
    }

    fn lock_nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    /// Raises this node's boot above that of `said`, which somebody says of it, unless that is older or true.
    fn contradict(&mut self, said: &NodeInfo) -> bool {
        let Some(own) = self.infos.get_mut(&said.id) else { return false };
        if said.boot < own.boot || said == own {
            return false;
        }
        // Two processes with one certificate contradict each other for ever; that must not become a storm.
        if self.contradicted.is_some_and(|at| at.elapsed() < CONTRADICT_EVERY) {
            return false;
        }
        own.boot = said.boot.saturating_add(1);
        self.contradicted = Some(Instant::now());
        tracing::warn!(
            node = %said.id, boot = own.boot, elsewhere = %said.address,
            "others know this node under another start; they are told of this one. If this recurs, another process runs with the same certificate: stop it"
        );
        true
    }
}

/// How often a node contradicts what is said of it.
const CONTRADICT_EVERY: Duration = Duration::from_secs(1);

/// Nodes whose addresses are kept.
const NODES_MAX: usize = 20_000;

fn encode_nodes<'a>(nodes: impl Iterator<Item = &'a NodeInfo>) -> Bytes {
    let nodes: Vec<&NodeInfo> = nodes.collect();
    // Text and numbers only: this cannot fail.
    serde_json::to_vec(&nodes).unwrap_or_default().into()
}

fn decode_nodes(bytes: &[u8]) -> Vec<NodeInfo> {
    serde_json::from_slice(bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "the stored addresses of the nodes cannot be read; seeds will tell them");
        Vec::new()
    })
}

/// Why a node serves no requests.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotServing {
    /// The cluster has no founding yet.
    #[error("cluster {cluster} has not been founded: run `dyn cluster create` with its first members")]
    NotFounded {
        /// The cluster.
        cluster: String,
    },
    /// The cluster was founded without this node.
    #[error(
        "node {node} is not a member of cluster {cluster} (members: {members}): this version cannot join a running cluster, start one of its members"
    )]
    NotMember {
        /// This node.
        node: NodeId,
        /// The cluster.
        cluster: String,
        /// Its members.
        members: String,
    },
}

/// Whether this version can carry out `change`.
pub(crate) fn is_supported(change: &Change) -> bool {
    matches!(change, Change::Found(_) | Change::Other { .. })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    pub(crate) fn info(id: &str, boot: u64, disk: u64, address: &str) -> NodeInfo {
        let id = id.parse().expect("a good id");
        NodeInfo { id, address: address.into(), boot, disk, version: "test".into() }
    }

    pub(crate) fn load(storage: &Arc<MemoryStorage>, me: NodeInfo) -> Cluster {
        Cluster::load(storage.clone(), "test".into(), me).expect("nothing unreadable is stored")
    }

    #[test]
    fn of_two_statements_about_another_node_the_later_boot_wins() {
        let cluster = load(&Arc::default(), info("n1", 1, 1, "a:1"));
        cluster.unite_nodes(vec![info("n2", 4, 2, "b:1")]);
        cluster.unite_nodes(vec![info("n2", 4, 3, "b:2"), info("n2", 3, 2, "b:3")]);
        assert_eq!(cluster.nodes(), [info("n1", 1, 1, "a:1"), info("n2", 4, 2, "b:1")]);
        cluster.unite_nodes(vec![info("n2", 5, 3, "b:2")]);
        assert_eq!(cluster.nodes()[1], info("n2", 5, 3, "b:2"));
    }

    #[test]
    fn a_node_with_a_new_disk_contradicts_what_is_known_of_the_old_one() {
        let storage = Arc::default();
        let cluster = load(&storage, info("n1", 1, 77, "new:1"));
        // Older, or what it says itself: nothing to contradict.
        cluster.unite_nodes(vec![info("n1", 0, 0, "new:1"), info("n1", 1, 77, "new:1")]);
        assert_eq!(cluster.own_boot(), 1);
        cluster.unite_nodes(vec![info("n1", 7, 66, "old:1")]);
        assert_eq!(cluster.nodes(), [info("n1", 8, 77, "new:1")]);
        // Once is enough for the moment: the other one may be alive and contradict, too.
        cluster.unite_nodes(vec![info("n1", 9, 66, "old:1")]);
        assert_eq!(cluster.own_boot(), 8);
        // The next start counts on from what the others were told.
        drop(cluster);
        assert_eq!(load(&storage, info("n1", 2, 77, "new:2")).me.boot, 9);
    }
}
