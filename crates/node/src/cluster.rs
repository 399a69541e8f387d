//! What a node knows of its cluster: the membership history, what follows from it, and where the nodes are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;
use dynkv_proto::{Buckets, Digest, NodeInfo};
use dynkv_ring::{Change, Entry, History, HistoryFull, Membership, NodeId};
use thiserror::Error;
use tokio::sync::watch;

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
    pub(crate) me: NodeInfo,
    /// The cluster's name, from the node's certificate.
    pub(crate) name: String,
    storage: Arc<dyn Storage>,
    view: RwLock<Arc<View>>,
    nodes: Mutex<BTreeMap<NodeId, NodeInfo>>,
    changed: watch::Sender<()>,
    /// Held while a history is united, stored and published, so that two unions cannot lose each other's entries.
    uniting: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// Loads what was known when the node last ran.
    pub(crate) fn load(storage: Arc<dyn Storage>, name: String, me: NodeInfo) -> Result<Cluster, LoadError> {
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
        let cluster = Cluster {
            name,
            storage,
            view: RwLock::new(Arc::new(View::new(history))),
            nodes: Mutex::new(BTreeMap::from([(me.id, me.clone())])),
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
        self.lock_nodes().values().cloned().collect()
    }

    /// What is known of one node.
    pub(crate) fn node(&self, id: &NodeId) -> Option<NodeInfo> {
        self.lock_nodes().get(id).cloned()
    }

    /// Takes over what is newer about other nodes: of two, the one of the later boot.
    pub(crate) fn unite_nodes(&self, others: Vec<NodeInfo>) {
        let mut nodes = self.lock_nodes();
        let mut changed = false;
        for other in others {
            // Nobody knows this node better than itself. Members and a few that wait to become one: bounded.
            if other.id == self.me.id || nodes.len() >= NODES_MAX && !nodes.contains_key(&other.id) {
                continue;
            }
            if nodes.get(&other.id).is_none_or(|known| known.boot < other.boot) {
                nodes.insert(other.id, other);
                changed = true;
            }
        }
        if !changed {
            return;
        }
        let stored = encode_nodes(nodes.values());
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

    fn lock_nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, NodeInfo>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
