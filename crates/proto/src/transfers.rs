//! What moves: partitions that a node is about to serve, and those that it gives up.

use dynkv_ring::NodeId;
use serde::{Deserialize, Serialize};

use crate::array::{array, message};

/// How it stands with partitions between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TransferState {
    /// The node that answers reads them from the other one.
    #[serde(rename = "r")]
    Receiving,
    /// It has read them, and waits until their members have agreed that it is one of them.
    #[serde(rename = "a")]
    Received,
    /// It serves them until the other one does.
    #[serde(rename = "s")]
    Serving,
    /// It serves them no more, and gives the other one what that one lacks before it drops them.
    #[serde(rename = "h")]
    HandingOver,
}

array! {
    /// Partitions that stand alike between the node that answers and another one.
    pub Transfer {
        /// How they stand.
        state: TransferState,
        /// The other node.
        peer: NodeId,
        /// The partitions, in order.
        partitions: Vec<u32>,
        /// Of those, the ones of which everything that the other node had is here; only while receiving.
        read: Vec<u32>,
        /// Records moved between the two since the first of these partitions was to move.
        records: u64,
        /// Bytes of their states.
        bytes: u64,
        /// Bytes moved in a second, over the last ten seconds.
        rate_bytes: u64,
        /// Time since anything has moved or changed, in milliseconds.
        idle_ms: u64,
        /// Whether that is so long that somebody should look.
        stalled: bool,
        /// Why it waits, or what failed last, or empty.
        reason: String,
    }
}

message! {
    /// Asks what a node receives and gives up. Asking changes nothing.
    TRANSFERS, Transfers => TransfersReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// What a node receives and gives up. A partition that is read from several nodes is in several transfers.
    TRANSFERS_REPLY, TransfersReply {
        /// Who answers.
        node: NodeId,
        /// Bytes that it receives in a second at most; `None`: it gives way to its clients' requests, and that is all.
        limit_bytes: Option<u64>,
        /// Partitions that it is to serve, and does not yet.
        to_receive: u32,
        /// Partitions that it holds, and is not to.
        to_give_up: u32,
        /// By state and node.
        transfers: Vec<Transfer>,
        /// Whether it knows of partitions that are not where they should be, if others have to move them.
        misplaced: bool = false,
    }
}

message! {
    /// Limits what a node receives, until it is restarted.
    LIMIT_TRANSFERS, LimitTransfers => LimitTransfersReply {
        /// Bytes in a second; `None`: no limit.
        limit_bytes: Option<u64>,
    }
}

message! {
    /// The limit is in force.
    LIMIT_TRANSFERS_REPLY, LimitTransfersReply {
        /// The limit before.
        before_bytes: Option<u64>,
    }
}
