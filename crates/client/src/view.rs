//! The cluster as the client knows it.

use std::collections::BTreeMap;
use std::fmt;

use dynkv_proto::{Buckets, Digest, Features, NodeInfo, ViewReply};
use dynkv_ring::{DecodeError, History, HistoryFull, Membership, NodeId, Ring};
use thiserror::Error;

/// The cluster as the client knows it: the membership history, what follows from it, and where the nodes are.
///
/// It does not change; [`Client::view`](crate::Client::view) gives the latest one.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) {
/// use dynkv_client::ring::Position;
///
/// let view = client.view();
/// let partition = Position::of("carts", b"alice").partition(view.ring().partitions());
/// println!("partition {partition}, kept by {:?}", view.ring().homes(partition));
/// # }
/// ```
#[derive(Clone)]
pub struct ClusterView {
    history: History,
    membership: Membership,
    buckets: Buckets,
    features: Features,
    nodes: BTreeMap<NodeId, NodeInfo>,
}

/// Why a node's view cannot be united with ours.
#[derive(Clone, Debug, Error)]
pub(crate) enum ViewError {
    #[error("it sent a membership history that cannot be read ({0})")]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Full(#[from] HistoryFull),
}

impl ClusterView {
    /// A view of nothing yet.
    pub(crate) fn new() -> ClusterView {
        let history = History::new();
        ClusterView::of(Membership::fold(&history), history, BTreeMap::new())
    }

    fn of(membership: Membership, history: History, nodes: BTreeMap<NodeId, NodeInfo>) -> ClusterView {
        let buckets = Buckets::fold(&membership);
        let features = Features::fold(&membership);
        ClusterView { history, membership, buckets, features, nodes }
    }

    /// This view united with what a node answered, or `None` if that is nothing new.
    pub(crate) fn united(&self, reply: ViewReply) -> Result<Option<ClusterView>, ViewError> {
        let theirs = reply.history.map(|bytes| History::from_bytes(&bytes)).transpose()?.unwrap_or_default();
        self.with(&theirs, reply.nodes)
    }

    /// This view with more entries and news of nodes, or `None` if there is nothing new among them.
    pub(crate) fn with(&self, more: &History, news: Vec<NodeInfo>) -> Result<Option<ClusterView>, ViewError> {
        let mut history = self.history.clone();
        let added = history.merge(more)?;
        let mut nodes = self.nodes.clone();
        for info in news {
            // Of two, the one with the higher boot counter is newer.
            if nodes.get(&info.id).is_none_or(|known| known.boot < info.boot) {
                nodes.insert(info.id, info);
            }
        }
        Ok(match (added, nodes == self.nodes) {
            (0, true) => None,
            (0, false) => Some(ClusterView { nodes, ..self.clone() }),
            _ => Some(ClusterView::of(self.membership.follow(&history), history, nodes)),
        })
    }

    /// The membership history.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Its digest, as nodes send it with every answer.
    pub fn digest(&self) -> Digest {
        Digest(u128::from_be_bytes(self.history.digest()))
    }

    /// The members, folded from the history.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Who keeps which partition.
    pub fn ring(&self) -> &Ring {
        self.membership.ring()
    }

    /// The buckets' properties.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The features of the protocol that are switched on.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Where the nodes are, by id; before the cluster is founded, those that answered.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// Where one node is.
    pub fn node(&self, id: &NodeId) -> Option<&NodeInfo> {
        self.nodes.get(id)
    }
}

impl fmt::Debug for ClusterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterView")
            .field("cluster", &self.membership.cluster())
            .field("digest", &self.digest())
            .field("entries", &self.history.len())
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}
