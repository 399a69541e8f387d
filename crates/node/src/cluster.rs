//! What a node knows of its cluster: the membership history, what follows from it, and where the nodes are.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use dynkv_proto::{Buckets, Digest, Failure, FailureCode, FeatureSet, Features, NodeInfo};
use dynkv_ring::{Departure, Entry, History, HistoryFull, Membership, NodeId};
use thiserror::Error;

use crate::chain::Chain;
use crate::news::{Listener, News};
use crate::settle::admission;
use crate::storage::{Space, Storage, StorageError, write_durably};

/// The history and everything folded from it. Immutable: a request works with one view from beginning to end.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) history: History,
    pub(crate) membership: Membership,
    pub(crate) buckets: Buckets,
    pub(crate) features: Features,
    pub(crate) digest: Digest,
}

impl View {
    fn new(history: History) -> View {
        let membership = Membership::fold(&history);
        View::of(history, membership)
    }

    /// With a history that has more entries.
    fn follow(&self, history: History) -> View {
        let membership = self.membership.follow(&history);
        View::of(history, membership)
    }

    fn of(history: History, membership: Membership) -> View {
        let buckets = Buckets::fold(&membership);
        let features = Features::fold(&membership);
        let digest = Digest(u128::from_be_bytes(history.digest()));
        View { history, membership, buckets, features, digest }
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
    /// An earlier run has found out that the disk is an old copy: it lacks what the other nodes have settled since, and would bring back what was
    /// deleted.
    #[error(
        "the disk {disk:016x} is an old copy: set it aside, and start the node on an empty disk with another id, which the others will fill"
    )]
    OldDisk {
        /// The disk's id.
        disk: u64,
    },
}

/// What a node that begins with an empty disk may take along from one that is set aside: who its cluster is, and where.
pub(crate) fn carried_over(
    storage: &dyn Storage,
) -> Result<Vec<(Space, Bytes, Option<Bytes>)>, StorageError> {
    let mut carried = Vec::new();
    for key in [HISTORY, NODES] {
        if let Some(value) = storage.get(Space::Meta, &key)? {
            carried.push((Space::Meta, key, Some(value)));
        }
    }
    Ok(carried)
}

const HISTORY: Bytes = Bytes::from_static(b"history");
const NODES: Bytes = Bytes::from_static(b"nodes");

/// The cluster in the eyes of one node.
pub(crate) struct Cluster {
    /// This node as of its start. It may have taken a higher boot since: see [`Cluster::set_own_boot`].
    pub(crate) me: NodeInfo,
    /// The cluster's name, from the node's certificate.
    pub(crate) name: String,
    /// Features of the protocol that this node knows.
    pub(crate) knows: FeatureSet,
    storage: Arc<dyn Storage>,
    view: RwLock<Arc<View>>,
    nodes: Mutex<Nodes>,
    changed: News,
    pub(crate) chain: Arc<Chain>,
    refused: OnceLock<NotServing>,
    /// Whether this node's disk may hold state.
    admitted: AtomicBool,
    /// Held while a history is united, stored and published, so that two unions cannot lose each other's entries.
    uniting: tokio::sync::Mutex<()>,
}

/// Where the nodes are, this one included.
type Nodes = BTreeMap<NodeId, NodeInfo>;

impl Cluster {
    /// Loads what was known when the node last ran.
    pub(crate) fn load(
        storage: Arc<dyn Storage>,
        name: String,
        mut me: NodeInfo,
        knows: FeatureSet,
    ) -> Result<Cluster, LoadError> {
        if admission::is_old(&*storage)? {
            return Err(LoadError::OldDisk { disk: me.disk });
        }
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
        // The last run may have taken a higher boot than the directory has counted.
        if let Some(told) = known.iter().find(|info| info.id == me.id) {
            me.boot = me.boot.max(told.boot.saturating_add(1));
        }
        let admitted = AtomicBool::new(admission::is_admitted(&*storage, me.disk)?);
        let chain = Arc::new(Chain::load(storage.clone(), me.id, me.disk)?);
        let view = View::new(history);
        chain.follow(&view);
        let cluster = Cluster {
            name,
            knows,
            storage,
            view: RwLock::new(Arc::new(view)),
            chain,
            nodes: Mutex::new(BTreeMap::from([(me.id, me.clone())])),
            changed: News::default(),
            refused: OnceLock::new(),
            admitted,
            uniting: tokio::sync::Mutex::new(()),
            me,
        };
        cluster.unite_nodes(known);
        cluster.check_features();
        Ok(cluster)
    }

    /// The current view.
    pub(crate) fn view(&self) -> Arc<View> {
        // Publishing is one assignment: a poisoned lock still guards a whole view.
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this node serves requests, and if not, why.
    pub(crate) fn serving(&self, view: &View) -> Result<(), NotServing> {
        if let Some(reason) = self.refused() {
            return Err(reason.clone());
        }
        let membership = &view.membership;
        if !membership.founded() {
            return Err(NotServing::NotFounded { cluster: self.name.clone() });
        }
        if let Some(departure) = membership.departure(&self.me.id) {
            let how = match departure {
                Departure::Left => "has left".into(),
                Departure::Removed => "was removed from".into(),
                Departure::Replaced(by) => format!("was replaced by {by} in"),
            };
            return Err(NotServing::Gone { node: self.me.id, cluster: self.name.clone(), how });
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
        if !self.is_admitted() {
            return Err(NotServing::Admitting { node: self.me.id });
        }
        Ok(())
    }

    /// Whether this node's disk may hold state.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::SeqCst)
    }

    /// This node's disk may hold state from here on.
    pub(crate) fn set_admitted(&self) {
        self.admitted.store(true, Ordering::SeqCst);
        self.changed.tell();
    }

    /// Wakes whenever the view or the known nodes have changed.
    pub(crate) fn subscribe(&self) -> Listener {
        self.changed.listen()
    }

    /// Unites `other` into the history: stored first, then in force. Says whether anything was new.
    pub(crate) async fn unite_history(&self, other: &History) -> Result<bool, HistoryError> {
        self.change_history(|_, history| history.merge(other).map_err(HistoryError::from)).await
    }

    /// Adds the entries that `make` makes for the view of this moment: all of them or none, and nothing comes in between.
    pub(crate) async fn add_entries<E: From<HistoryError>>(
        &self,
        make: impl FnOnce(&View) -> Result<Vec<Entry>, E>,
    ) -> Result<Vec<Entry>, E> {
        let mut entries = Vec::new();
        self.change_history(|view, history| {
            entries = make(view)?;
            let added: Result<usize, HistoryFull> =
                entries.iter().map(|entry| history.insert(entry.clone()).map(usize::from)).sum();
            added.map_err(|full| E::from(full.into()))
        })
        .await?;
        Ok(entries)
    }

    async fn change_history<E: From<HistoryError>>(
        &self,
        change: impl FnOnce(&View, &mut History) -> Result<usize, E>,
    ) -> Result<bool, E> {
        let _uniting = self.uniting.lock().await;
        let view = self.view();
        let mut history = view.history.clone();
        if change(&view, &mut history)? == 0 {
            return Ok(false);
        }
        let stored = vec![(Space::Meta, HISTORY, Some(history.to_bytes().into()))];
        write_durably(&*self.storage, stored).await.map_err(HistoryError::from)?;
        let view = view.follow(history);
        tracing::info!(view = %view.digest, entries = view.history.len(), "the membership history has grown");
        // Nobody is to find a founded cluster of which nobody serves anything.
        self.chain.follow(&view);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.check_features();
        self.changed.tell();
        Ok(true)
    }

    /// Refuses from here on if a feature is switched on that this version does not know: it could not know either what it does wrong. Entries are for
    /// ever, so only another version can serve again.
    fn check_features(&self) {
        let view = self.view();
        let beyond: Vec<String> = view.features.beyond(&self.knows).map(ToString::to_string).collect();
        if !beyond.is_empty() && self.refused().is_none() {
            let reason = NotServing::Feature {
                node: self.me.id,
                cluster: self.name.clone(),
                version: self.me.version.clone(),
                features: beyond.join(", "),
            };
            tracing::error!(%reason, "this node serves nothing any more");
            self.refuse(reason);
        }
    }

    /// Where the nodes are, this one included.
    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        self.lock_nodes().values().cloned().collect()
    }

    /// What is known of one node.
    pub(crate) fn node(&self, id: &NodeId) -> Option<NodeInfo> {
        self.lock_nodes().get(id).cloned()
    }

    /// The boot under which this node speaks of itself.
    pub(crate) fn own_boot(&self) -> u64 {
        self.node(&self.me.id).map_or(self.me.boot, |own| own.boot)
    }

    /// Takes over where an operator, or the node's own notes, say that others are: of two statements, the one of the
    /// higher boot. Nobody knows this node better than itself.
    pub(crate) fn unite_nodes(&self, others: Vec<NodeInfo>) {
        self.change_nodes(others, |known, other| known.boot < other.boot);
    }

    /// Takes over what nodes say of themselves, which came by gossip: that knows which word is a node's latest, also of two
    /// runs that count alike.
    pub(crate) fn learn(&self, others: Vec<NodeInfo>) {
        self.change_nodes(others, |known, other| known.boot <= other.boot && known != other);
    }

    /// Takes a greater boot counter for this run. It goes on from there at its next start.
    pub(crate) fn set_own_boot(&self, boot: u64) {
        let own = NodeInfo { boot, ..self.me.clone() };
        let mut nodes = self.lock_nodes();
        nodes.insert(own.id, own);
        self.nodes_changed(nodes);
    }

    fn change_nodes(&self, others: Vec<NodeInfo>, is_newer: impl Fn(&NodeInfo, &NodeInfo) -> bool) {
        let mut nodes = self.lock_nodes();
        let mut changed = false;
        for other in others {
            // Members and a few that wait to become one: bounded.
            let room = nodes.len() < NODES_MAX || nodes.contains_key(&other.id);
            if other.id == self.me.id || !room {
                continue;
            }
            if nodes.get(&other.id).is_none_or(|known| is_newer(known, &other)) {
                nodes.insert(other.id, other);
                changed = true;
            }
        }
        if changed {
            self.nodes_changed(nodes);
        }
    }

    /// Stores where the nodes are, and tells those who wait for it.
    fn nodes_changed(&self, nodes: MutexGuard<'_, Nodes>) {
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
        self.changed.tell();
    }

    /// Serves nothing from here on, until the node is started again. The first reason stays.
    pub(crate) fn refuse(&self, reason: NotServing) {
        self.refused.get_or_init(|| reason);
        self.changed.tell();
    }

    /// Why this run serves nothing and nobody, whatever the membership says.
    pub(crate) fn refused(&self) -> Option<&NotServing> {
        self.refused.get()
    }

    fn lock_nodes(&self) -> MutexGuard<'_, Nodes> {
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
    /// Another process runs under the id of this node, and was there first.
    #[error(
        "another process runs as node {node} at {address} and was there first, so this one serves nothing: stop one of the two (a copied disk, or one certificate used twice); this one serves again only after a restart"
    )]
    Duplicate {
        /// The node that runs twice.
        node: NodeId,
        /// Where the other process is.
        address: String,
    },
    /// Its disk is new, and the others do not all know of that yet.
    #[error(
        "node {node} has a new disk and waits until a majority of the other members have taken note of it: see `dyn status` if that takes longer than seconds"
    )]
    Admitting {
        /// This node.
        node: NodeId,
    },
    /// Its disk is an old copy.
    #[error(
        "the disk of node {node} is an old copy, which lacks what the others have settled since: it is set aside at the next start, and the node is filled from the others"
    )]
    OldDisk {
        /// This node.
        node: NodeId,
    },
    /// The cluster has switched on a feature that this version does not know.
    #[error(
        "version {version} of node {node} does not know what cluster {cluster} has switched on, {features}: start it with a version that does (`dyn status` shows which the others have)"
    )]
    Feature {
        /// This node.
        node: NodeId,
        /// The cluster.
        cluster: String,
        /// This node's version.
        version: String,
        /// What it does not know, and which versions do.
        features: String,
    },
    /// It is a member no more.
    #[error(
        "node {node} {how} cluster {cluster}, and an id that is gone never comes back: stop it; to have this machine in the cluster, start a node with another id on an empty disk"
    )]
    Gone {
        /// This node.
        node: NodeId,
        /// The cluster.
        cluster: String,
        /// What has happened to it.
        how: String,
    },
    /// The cluster was founded without this node, and it has not joined yet.
    #[error(
        "node {node} is not a member of cluster {cluster} (members: {members}): let it join with `dyn cluster plan --join {node}` and `dyn cluster apply`, or start it with --join"
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

impl From<NotServing> for Failure {
    fn from(reason: NotServing) -> Failure {
        Failure::not_done(FailureCode::NotServing, reason.to_string())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use dynkv_proto::FeatureChange;

    use super::*;
    use crate::storage::MemoryStorage;

    pub(crate) fn info(id: &str, boot: u64, disk: u64, address: &str) -> NodeInfo {
        let id = id.parse().expect("a good id");
        NodeInfo { id, address: address.into(), boot, disk, version: "test".into() }
    }

    pub(crate) fn load(storage: &Arc<MemoryStorage>, me: NodeInfo) -> Cluster {
        let knows = FeatureSet::known();
        Cluster::load(storage.clone(), "test".into(), me, knows).expect("nothing unreadable is stored")
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
    fn what_a_node_says_itself_holds_also_among_runs_that_count_alike() {
        let cluster = load(&Arc::default(), info("n1", 1, 1, "a:1"));
        cluster.learn(vec![info("n2", 4, 2, "b:1")]);
        cluster.learn(vec![info("n2", 4, 3, "b:2")]);
        assert_eq!(cluster.nodes()[1], info("n2", 4, 3, "b:2"));
        // By the operator, or an old word that came late.
        cluster.unite_nodes(vec![info("n2", 0, 0, "b:3")]);
        cluster.learn(vec![info("n2", 0, 0, "b:4"), info("n1", 9, 9, "c:1")]);
        assert_eq!(cluster.nodes(), [info("n1", 1, 1, "a:1"), info("n2", 4, 3, "b:2")]);
    }

    #[test]
    fn a_boot_that_was_taken_is_gone_on_from() {
        let storage = Arc::default();
        let cluster = load(&storage, info("n1", 1, 77, "new:1"));
        cluster.set_own_boot(8);
        assert_eq!(cluster.nodes(), [info("n1", 8, 77, "new:1")]);
        drop(cluster);
        assert_eq!(load(&storage, info("n1", 2, 77, "new:2")).me.boot, 9);
    }

    #[tokio::test]
    async fn who_does_not_know_what_is_switched_on_refuses_also_when_it_is_started_again() {
        let storage: Arc<MemoryStorage> = Arc::default();
        let me = info("n1", 1, 1, "a:1");
        let with = |number, name: &str| {
            let change = FeatureChange { number, name: name.into(), since: "9.0.0".into() }.to_change();
            let mut history = History::new();
            history.insert(Entry::new(number.into(), me.id, change).expect("short")).expect("room");
            history
        };
        let cluster = load(&storage, me.clone());
        cluster.unite_history(&with(1, "moving")).await.expect("it is stored");
        assert_eq!(cluster.refused(), None);
        cluster.unite_history(&with(900, "flying")).await.expect("it is stored");
        let reason = cluster.refused().cloned().expect("it refuses");
        assert!(matches!(&reason, NotServing::Feature { features, .. } if features.starts_with("flying")));
        assert!(reason.to_string().contains("flying (from dynkv 9.0.0 on)"), "{reason}");
        assert_eq!(cluster.serving(&cluster.view()), Err(reason.clone()));
        drop(cluster);
        assert_eq!(load(&storage, me).refused(), Some(&reason));
    }

    #[test]
    fn who_refuses_says_why_and_goes_on_refusing() {
        let cluster = load(&Arc::default(), info("n1", 1, 1, "a:1"));
        let reason = |address: &str| NotServing::Duplicate { node: cluster.me.id, address: address.into() };
        cluster.refuse(reason("b:1"));
        cluster.refuse(reason("c:1"));
        assert_eq!(cluster.serving(&cluster.view()), Err(reason("b:1")));
        assert!(reason("b:1").to_string().contains("another process runs as node n1 at b:1"));
    }
}
