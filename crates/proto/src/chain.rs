//! Messages of the chain of configurations: who serves a partition, and how its members agree on the next ones. What they are for is
//! in docs/architecture.md, "Moving data".

use dynkv_ring::NodeId;

use crate::{
    Digest, Round,
    array::{array, message},
};

array! {
    /// A node with a disk. With another disk it is another holder.
    pub Holder {
        /// The node.
        node: NodeId,
        /// Its disk; [`FIRST_DISK`](Holder::FIRST_DISK) for the first one it ever had.
        disk: u64,
    }
}

impl Holder {
    /// Stands for the disk that a node was founded with, which the founding does not know.
    pub const FIRST_DISK: u64 = 0;
}

array! {
    /// Who serves a partition.
    pub Configuration {
        /// The partition.
        partition: u32,
        /// Its number: each configuration is followed by one other.
        epoch: u64,
        /// Its members, in the order in which they are preferred.
        members: Vec<Holder>,
    }
}

array! {
    /// What an acceptor has accepted.
    pub Accepted {
        /// The proposal's ballot.
        ballot: Round,
        /// The members proposed for the next epoch.
        members: Vec<Holder>,
    }
}

message! {
    /// Promise to take part in no proposal below this one, and serve nobody at this epoch from then on.
    CHAIN_PREPARE, ChainPrepare => ChainPrepareReply {
        /// The partition.
        partition: u32,
        /// The epoch that is to be followed.
        epoch: u64,
        /// The proposal.
        ballot: Round,
        /// Disks that members' nodes have by now in place of those with which they are members, and on whose word the proposer relies that these serve nobody any more. Whoever does
        /// not know of one says no: the old disk, should it come back, asks enough members whether it still is the one to find out.
        replaced: Vec<Holder>,
        /// No majority of the members' disks is left: every member of the cluster of this view is asked in their place, and promises. One of another view says no.
        everybody: Option<Digest>,
    }
}

message! {
    /// Accept that these members follow, unless more was promised.
    CHAIN_ACCEPT, ChainAccept => ChainAcceptReply {
        /// The partition.
        partition: u32,
        /// The epoch that is to be followed.
        epoch: u64,
        /// The proposal.
        ballot: Round,
        /// The members proposed.
        members: Vec<Holder>,
        /// Every member of the cluster has promised, and is to accept, not those of the partition only.
        everybody: bool,
    }
}

array! {
    /// What a member says to a proposal. It is on its disk.
    pub Vote {
        /// Its configuration. Of another epoch than the question's: it says no.
        configuration: Configuration,
        /// The highest ballot it has promised. Another one than the question's: it says no.
        promised: Round,
        /// What it has accepted at this epoch, if anything: one element at most.
        accepted: Vec<Accepted>,
    }
}

message! {
    /// The answer.
    CHAIN_PREPARE_REPLY, ChainPrepareReply {
        /// The vote.
        vote: Vote,
    }
}

message! {
    /// The answer.
    CHAIN_ACCEPT_REPLY, ChainAcceptReply {
        /// The vote.
        vote: Vote,
    }
}

message! {
    /// Read everything that these members hold of the partition, who are sealed, and do not drop it before the epoch that follows this one is known.
    CHAIN_JOIN, ChainJoin => ChainJoinReply {
        /// The partition.
        partition: u32,
        /// The epoch that is to be followed.
        epoch: u64,
        /// Whom to read.
        sources: Vec<NodeId>,
    }
}

message! {
    /// It has everything, on disk.
    CHAIN_JOIN_REPLY, ChainJoinReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// Here are configurations: tell me where you know later ones.
    CHAIN_TELL, ChainTell => ChainTellReply {
        /// Of some partitions.
        configurations: Vec<Configuration>,
    }
}

message! {
    /// Of the partitions told about, those that are at a later epoch.
    CHAIN_TELL_REPLY, ChainTellReply {
        /// The configurations.
        configurations: Vec<Configuration>,
    }
}

message! {
    /// Of which of these partitions do you hold about everything?
    CHAIN_READY, ChainReady => ChainReadyReply {
        /// The partitions.
        partitions: Vec<u32>,
    }
}

message! {
    /// Of these.
    CHAIN_READY_REPLY, ChainReadyReply {
        /// The partitions.
        partitions: Vec<u32>,
        /// The node's disk, if it is admitted.
        disk: Option<u64>,
    }
}
