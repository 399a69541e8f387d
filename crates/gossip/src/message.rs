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
    /// Two processes run, or ran, under one id at the same time: a cloned disk, or one that was restored to an
    /// earlier day. Every node that learns of it has this effect, the two included.
    ///
    /// This is proof, not a guess from timing: a run told so when it met a state of its own id by a run that was
    /// started from the same boot counter or a later one. A restarted node does not cause it, as long as the old
    /// process has ended and the boot counter was stored.
    ///
    /// The younger run is the one to stop serving. A lesser run whose greater one is dead has an old disk, which this
    /// crate cannot tell from a clone: compare with the failure detector, or stop both.
    Conflict {
        /// The id that both use.
        id: N,
        /// The run with the smaller boot counter: of two clones, the older one.
        lesser: Incarnation,
        /// The run with the greater boot counter.
        greater: Incarnation,
    },
}
