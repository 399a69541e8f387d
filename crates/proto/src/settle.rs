//! Messages of the settlement: rounds in which all members agree that old tombstones and context entries may go, and the
//! admission of new disks. What they are for is in docs/architecture.md, "Settlement".

use dynkv_ring::NodeId;

use crate::{
    Blob, Digest, Marks, Round,
    array::{array, message},
};

array! {
    /// A key and the state that a round is about.
    pub SettleKey {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// Digest of the state.
        digest: Digest,
    }
}

message! {
    /// Before a round: what does a member know to be decided?
    SETTLE_MARKS, SettleMarks => SettleMarksReply {
        /// The partition.
        partition: u32,
    }
}

message! {
    /// The member's marks.
    SETTLE_MARKS_REPLY, SettleMarksReply {
        /// The marks.
        marks: Marks,
    }
}

message! {
    /// Phase 1: promise the round, and say for which keys you have nothing but these states.
    SETTLE_PREPARE, SettlePrepare => SettlePrepareReply {
        /// The partition.
        partition: u32,
        /// The round.
        round: Round,
        /// Digest of the issuer's membership history. A member of another view refuses.
        view: Digest,
        /// The greatest round that any member knows to be decided. One that has not agreed to it has an old disk, which must not agree to
        /// anything: nobody could see then how old it is.
        decided: Round,
        /// The keys, all of the partition.
        keys: Vec<SettleKey>,
    }
}

message! {
    /// The round is promised, durably.
    SETTLE_PREPARE_REPLY, SettlePrepareReply {
        /// Positions in the request of keys of which the member has something else. To all others it says yes.
        no: Vec<u32>,
    }
}

message! {
    /// Phase 2: all have said yes to some keys. Note that the round is decided.
    SETTLE_DECIDE, SettleDecide => SettleDecideReply {
        /// The partition.
        partition: u32,
        /// The round.
        round: Round,
        /// Digest of the issuer's membership history.
        view: Digest,
    }
}

message! {
    /// It is noted, durably.
    SETTLE_DECIDE_REPLY, SettleDecideReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// Phase 3: all have noted it. Drop what may go.
    SETTLE_DROP, SettleDrop => SettleDropReply {
        /// The partition.
        partition: u32,
        /// The round.
        round: Round,
        /// Those of the keys to which all have said yes.
        keys: Vec<SettleKey>,
    }
}

message! {
    /// What was dropped here.
    SETTLE_DROP_REPLY, SettleDropReply {
        /// Keys of which something was.
        dropped: u32,
    }
}

message! {
    /// A new disk asks a member to admit it.
    ADMIT, Admit => AdmitReply {
        /// Whose disk it is: the asker's.
        node: NodeId,
        /// The disk. A member refuses while its history does not name it as the node's.
        disk: u64,
    }
}

array! {
    /// A partition's marks.
    pub PartitionMarks {
        /// The partition.
        partition: u32,
        /// The marks.
        marks: Marks,
    }
}

message! {
    /// The member has the disk in its history, on its own disk; or holds nothing, since its own disk is not admitted either.
    ADMIT_REPLY, AdmitReply {
        /// The marks of all partitions that have any.
        marks: Vec<PartitionMarks>,
        /// The membership history (`dynkv_ring::History::to_bytes`).
        history: Blob,
        /// Whether the member is not admitted itself: it has never promised anything, and its answer says nothing about the disk.
        is_newcomer: bool = false,
    }
}
