//! Messages of the anti-entropy: what two replicas hold, compared, and the states in which they differ.

use crate::{
    Blob, Digest, Marks, Stamp, TreePosition,
    array::{array, message},
};

message! {
    /// Compares the roots of all trees that two nodes share. Body: `dynkv_merkle::RootsRequest`.
    TREE_ROOTS, TreeRoots => TreeRootsReply {
        /// Digest of the asker's membership history. Nodes of different views do not compare: they may not agree what they
        /// share, or how a bucket resolves conflicts.
        view: Digest,
        /// Compares one partition only, whatever the views, and even while it settles: the answer is about what is on disk when it is given.
        exact: Option<u32> = None,
    }
}

message! {
    /// Body: `dynkv_merkle::RootsReply`.
    TREE_ROOTS_REPLY, TreeRootsReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// A step of the comparison of one partition's trees. Body: `dynkv_merkle::Request`.
    TREE_COMPARE, TreeCompare => TreeCompareReply {
        /// Even while the partition settles.
        exact: bool,
    }
}

message! {
    /// Body: `dynkv_merkle::Reply`.
    TREE_COMPARE_REPLY, TreeCompareReply {
        /// Nothing yet.
        reserved: u8,
    }
}

array! {
    /// A place at which two replicas differ.
    pub StateAsked {
        /// Where.
        position: TreePosition,
        /// Digest of the state that the asker has there; `None`: of none.
        have: Option<Digest>,
        /// The asker's marks of the place's partition: whoever has promised less promises the same first, and whoever has not agreed to
        /// what is decided finds out that its disk is an old one.
        marks: Marks = Marks::default(),
    }
}

message! {
    /// Asks for the states at some places, in one partition or several. The reply's body is the states, one after the other.
    STATES, States => StatesReply {
        /// The places.
        asked: Vec<StateAsked>,
        /// Whether to send the states, or only to name their keys.
        bodies: bool,
        /// Whether clients wait for the answer.
        urgent: bool = false,
    }
}

array! {
    /// A state in the reply's body.
    pub StateFound {
        /// Which of the places asked for.
        at: u32,
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// Length of the state in the body, in bytes; 0 when only names were asked for.
        len: u64,
        /// Configuration and settled state when the state was read from storage.
        stamp: Stamp = Stamp::default(),
    }
}

message! {
    /// States that are not what the asker has. A place that is named in neither list holds the asker's state, or a record that
    /// is damaged.
    STATES_REPLY, StatesReply {
        /// How many of the places were looked at, in their order; at least one. The others are to be asked for again.
        through: u32,
        /// Those of them at which there is nothing.
        absent: Vec<u32>,
        /// Those at which there is another state than the asker's; with two keys at one place, both.
        found: Vec<StateFound>,
    }
}
