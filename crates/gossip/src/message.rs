//! What nodes send each other, and what a caller has to do.

use crate::reconcile::MapMessage;
use crate::{Incarnation, NodeState, Stamp};

/// A message between two nodes: `N` node ids, `M` the payload's messages.
///
/// To be carried by whatever carries messages: it may get lost, doubled or late. The receiver must learn from the
/// transport whom it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message<N, M> {
    /// Its place in the exchange: 0 for the opening, 1 for the answer to that.
    pub step: u16,
    /// Of some nodes, the sender's own first; none after step 1. At most
    /// [`HEARTBEATS_MAX`](Self::HEARTBEATS_MAX).
    pub heartbeats: Vec<Heartbeat<N>>,
    /// On the nodes' states: a digest at first.
    pub states: Option<MapMessage<N, NodeState, Stamp>>,
    /// On the payload: a digest at first.
    pub payload: Option<M>,
}

impl<N, M> Message<N, M> {
    /// The greatest number of heartbeats.
    pub const HEARTBEATS_MAX: usize = 32;
}

/// "The node had done so many rounds when last heard of."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heartbeat<N> {
    /// Whose heart.
    pub id: N,
    /// Its boot counter.
    pub boot: u64,
    /// Rounds since that boot.
    pub count: u64,
}

/// Something for the caller to do, or to know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect<N, M> {
    /// Send this message. Nothing depends on its arrival.
    Send {
        /// The receiver.
        to: N,
        /// The message.
        message: Message<N, M>,
    },
    /// The payload is another now.
    PayloadChanged,
    /// A node's state is another now, or known for the first time.
    StateChanged {
        /// The node.
        id: N,
    },
    /// Another run of this node's own id is known, under a greater incarnation. While that is so, nobody hears what
    /// this run says: the caller has to [outbid](crate::Gossip::outbid) the other, or to stop.
    ///
    /// The other run may have ended before this one began - a disk that was lost or restored has lost count - or it may
    /// run now. From here that cannot be told. But if this run has been in the cluster for a while without hearing of
    /// it, then it came later.
    Superseded {
        /// The state of the other run.
        by: Stamp,
    },
    /// A run of an id [rejects](Stamp::rejects) another. Every node that learns of it has this effect, but for the one
    /// that rejects.
    ///
    /// If the rejected run lives to hear of it, then two processes have run under one id at the same time, and that
    /// is proof, not a guess from timing: nonces are random, so whoever names one has heard of it, and that was after
    /// the rejected run had begun. The rejected run is to stop. A run that had ended before will not hear it.
    Conflict {
        /// The id that both used.
        id: N,
        /// The run that was rejected.
        rejected: Incarnation,
        /// The run that rejected it.
        by: Incarnation,
    },
}
