//! Bugs that can be planted, to see that the simulator catches them (`dynkv-sim --planted`).
//!
//! Only a build with `RUSTFLAGS="--cfg dynkv_planted"` has them; in every other [`is`] is `false` at compile time. No Cargo
//! feature: a feature that one package of the workspace asks for is in the binary, too.

/// A bug, named after what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A node goes on under a record's actor although another start of it had chosen that.
    ActorReusedAfterRestart,
    /// The incarnation is not renewed after a failed write.
    DotReusedAfterFailedWrite,
    /// A put returns the coordinator's context in place of the writer's.
    ContextOfCoordinator,
    /// A timestamp exceeds that of the local record, but not that of the writer's context.
    TimeIgnoresContext,
    /// A retry whose version is there already is answered without a quorum.
    RetryWithoutQuorum,
    /// A retry does not ask the other homes.
    RetryAsksNobody,
    /// No answer says that it may be a duplicate.
    DuplicatesUnsaid,
    /// A read is answered with one replica fewer than asked for.
    ReadOneFewer,
    /// The coordinator's own durable acknowledgement comes from memory.
    OwnAckFromMemory,
    /// All records of a node, and its hints, are minted for under one actor.
    HintSharesActor,
    /// A hint is removed when it is sent.
    HintRemovedBeforeAck,
    /// A hint is removed although it has changed since it was sent.
    HintRemovedThoughChanged,
    /// A hint is removed when its target has it in memory.
    HintRemovedOnMemoryAck,
    /// A hint and its target's own copy are two acknowledgements.
    SlotCountsTwice,
    /// Two hints that one node keeps are two acknowledgements.
    NodeCountsTwice,
    /// A member that has promised goes on with writes.
    NoSealOnWrites,
    /// A member that has promised goes on with reads.
    NoSealOnReads,
    /// One seal fewer than necessary is enough.
    SealsOneFewer,
    /// Seals enough to stop writes are enough.
    SealsForWritesOnly,
    /// Seals enough to stop reads are enough.
    SealsForReadsOnly,
    /// A proposer does not take over what was accepted.
    AcceptedIgnored,
    /// One member's acceptance decides.
    DecidedAfterOne,
    /// A member-to-be joins without reading the sealed members.
    JoinedWithoutReading,
    /// With fewer members than before nobody reads.
    ShrinkWithoutSync,
    /// A partition is dropped before it is handed over.
    DroppedWithoutPush,
    /// A partition is dropped by a node that may become a member of it.
    DroppedThoughJoining,
    /// A coordinator counts replies of members at other epochs.
    EpochUnchecked,
    /// A hint whose target is no home any more is dropped.
    HintOfDepartedDropped,
    /// Such a hint is given to one of the members only.
    HintToOneSuccessor,
    /// A proposer goes on under the next members before they are decided.
    AdoptedBeforeDecided,
    /// What was promised and accepted is not on disk.
    SealForgotten,
    /// A member that has promised serves again when nothing has followed for a while.
    SealTimesOut,
    /// A put that starts over under other members goes on with what those before have acknowledged.
    AcknowledgementsKept,
    /// A member-to-be reads a member that has not promised, if there is one, in place of those that have.
    ReadFromUnsealed,
    /// A transfer that broke off, or could not take over everything, is taken for done.
    TransferTakenForDone,
    /// A node that is told to leave says at once that it has left.
    LeftAtOnce,
    /// A disk takes another's place before its process would have heard of another one under the same name.
    DiskNamedUnheard,
    /// A comparison leaves out the last of the sixteen subtrees below each root.
    ComparisonSkipsSubtree,
    /// A record that fails its checksum is answered as one that is not there.
    DamagedReadsAsAbsent,
    // From here on those of the settlement: see `Bug::is_of_settlement`.
    /// A tombstone goes when its grace has passed, whatever others hold.
    TombstoneByTime,
    /// Only the homes are asked whether they have agreed.
    SettleHomesOnly,
    /// Only the issuer and one more home are asked.
    SettleSomeHomes,
    /// Members that are out of reach are not asked.
    SettleReachableOnly,
    /// What goes is not compared with what was agreed on.
    SettleUnchecked,
    /// A yes is said before it is on disk.
    SettleBeforeDurable,
    /// A state that was refused as read too early is sent again under later marks, and not read again.
    SettleRestamps,
    /// A member is not asked about its hints.
    SettleIgnoresHints,
    /// A member answers whatever the issuer's history is.
    SettleAnyView,
    /// What was agreed on is dropped at once: no decision is noted.
    SettleTwoPhases,
    /// One member is enough to admit a new disk.
    AdmittedByOne,
    /// A node goes on under a record's actor whose context entry has gone.
    CompactionKeepsActor,
    /// A tree does not hear of a record that goes.
    TreeNotTold,
}

#[cfg(dynkv_planted)]
mod live {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    impl Bug {
        /// All of them.
        pub const ALL: [Bug; 52] = [
            Bug::ActorReusedAfterRestart,
            Bug::DotReusedAfterFailedWrite,
            Bug::ContextOfCoordinator,
            Bug::TimeIgnoresContext,
            Bug::RetryWithoutQuorum,
            Bug::RetryAsksNobody,
            Bug::DuplicatesUnsaid,
            Bug::ReadOneFewer,
            Bug::OwnAckFromMemory,
            Bug::HintSharesActor,
            Bug::HintRemovedBeforeAck,
            Bug::HintRemovedThoughChanged,
            Bug::HintRemovedOnMemoryAck,
            Bug::SlotCountsTwice,
            Bug::NodeCountsTwice,
            Bug::NoSealOnWrites,
            Bug::NoSealOnReads,
            Bug::SealsOneFewer,
            Bug::SealsForWritesOnly,
            Bug::SealsForReadsOnly,
            Bug::AcceptedIgnored,
            Bug::DecidedAfterOne,
            Bug::JoinedWithoutReading,
            Bug::ShrinkWithoutSync,
            Bug::DroppedWithoutPush,
            Bug::DroppedThoughJoining,
            Bug::EpochUnchecked,
            Bug::HintOfDepartedDropped,
            Bug::HintToOneSuccessor,
            Bug::AdoptedBeforeDecided,
            Bug::SealForgotten,
            Bug::SealTimesOut,
            Bug::AcknowledgementsKept,
            Bug::ReadFromUnsealed,
            Bug::TransferTakenForDone,
            Bug::LeftAtOnce,
            Bug::DiskNamedUnheard,
            Bug::ComparisonSkipsSubtree,
            Bug::DamagedReadsAsAbsent,
            Bug::TombstoneByTime,
            Bug::SettleHomesOnly,
            Bug::SettleSomeHomes,
            Bug::SettleReachableOnly,
            Bug::SettleUnchecked,
            Bug::SettleBeforeDurable,
            Bug::SettleRestamps,
            Bug::SettleIgnoresHints,
            Bug::SettleAnyView,
            Bug::SettleTwoPhases,
            Bug::AdmittedByOne,
            Bug::CompactionKeepsActor,
            Bug::TreeNotTold,
        ];
    }

    impl Bug {
        /// Whether it shows only where tombstones may go sooner than faults end.
        pub fn is_of_settlement(self) -> bool {
            self >= Bug::TombstoneByTime
        }
    }

    /// Lets all nodes that run on this thread have `bug` from now on, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(dynkv_planted)]
pub(crate) use live::is;
#[cfg(dynkv_planted)]
pub use live::plant;

/// Whether `bug` is planted.
#[cfg(not(dynkv_planted))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
