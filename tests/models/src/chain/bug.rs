//! Mistakes that can be planted in the protocol, to see that the model tells them from the protocol.

use std::fmt;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident $text:literal $schedules:literal,)+) => {
        /// A mistake. Each leaves out or bends one clause.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($(#[doc = $doc])+ $name,)+ }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)+];

            /// Within how many schedules it has to be caught.
            pub fn schedules_max(self) -> u64 {
                match self { $(Bug::$name => $schedules,)+ }
            }
        }

        impl Bug {
            /// Whether it shows only where disks are lost until the members are too few: only such worlds are drawn for it.
            pub fn is_of_few(self) -> bool {
                use Bug::*;
                matches!(
                    self,
                    DecisionDespitePromise
                        | ProposerNotPromised
                        | ToldBeforeAdopted
                        | EverybodyButOthers
                        | EverybodyMajority
                        | LostDiskTells
                )
            }
        }

        impl fmt::Display for Bug {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.pad(match self { $(Bug::$name => $text,)+ })
            }
        }
    };
}

bugs! {
    /// A sealed member counts strict puts.
    NoSealOnPuts "no seal on puts" 200_000,
    /// A sealed member answers strict reads.
    NoSealOnReads "no seal on reads" 200_000,
    /// Prepare is answered while writes that were let in are not finished.
    SealBeforeAdmitted "sealed before admitted writes finish" 200_000,
    /// A learner's acknowledgement counts.
    JoinerCountedEarly "joiner counted early" 200_000,
    /// One seal too few.
    QMinusOne "q - 1" 200_000,
    /// Enough seals to see every write, but not to stop every read.
    QFromW "q from w only" 200_000,
    /// Enough seals to stop every read, but not every write.
    QFromR "q from r only" 200_000,
    /// Removed nodes stand in for seals wherever q is asked for, also where the seals' data is.
    DeadStandInForData "a dead member stands in for data" 5_000_000,
    /// Removed nodes count for the majority.
    DeadVote "a dead member votes" 1_000_000,
    /// A member that has accepted a configuration without itself hands over and drops before the decision.
    DropBeforeDecision "drop before the decision" 200_000,
    /// A node that is no member drops at once.
    DropWithoutPush "drop without the push" 200_000,
    /// A node that hands over drops whatever came meanwhile, too.
    DropWhatCameLater "drop what came after the push began" 1_000_000,
    /// A node drops although it may become a member.
    DropDespiteJoining "drop despite the joining flag" 200_000,
    /// A restart forgets the joining flag.
    JoiningNotPersisted "joining flag not persisted" 1_000_000,
    /// What a member-to-be has read counts on after it has dropped it.
    ReadingOutlivesDrop "what was read counts after a drop" 200_000,
    /// Reads are answered at whatever epoch.
    EpochUncheckedOnReads "epoch unchecked on reads" 200_000,
    /// A member that is ahead takes and counts a put of an earlier epoch.
    OldEpochAccepted "old epoch accepted" 200_000,
    /// A restart forgets the promise.
    SealNotPersisted "seal not persisted" 200_000,
    /// A restart forgets what was accepted.
    AcceptedNotPersisted "accepted value not persisted" 5_000_000,
    /// A sealed member serves again after a while.
    SealTimesOut "seal that times out" 200_000,
    /// A proposer puts its own wish to the vote whatever the promises say.
    AcceptedValueIgnored "accepted value ignored" 200_000,
    /// Accept is taken in spite of a higher promise.
    PromiseIgnored "accepted despite a higher promise" 200_000,
    /// What an unsealed member was read for counts.
    SyncFromUnsealed "sync from an unsealed member" 5_000_000,
    /// A smaller set of members starts with what it has.
    ShrinkWithoutSync "shrink without sync" 200_000,
    /// New members start with what they have.
    JoinWithoutSync "join without sync" 200_000,
    /// One acceptance decides.
    DecidedAfterOneAccept "decided after one accept" 200_000,
    /// The hint of a target that is no member is dropped.
    DepartedHintDropped "a departed target's hint dropped" 200_000,
    /// It is given to one member and then dropped.
    DepartedHintToOne "a departed target's hint given to one successor only" 200_000,
    /// A node counts as one that keeps a hint, and as one for which a hint is kept.
    HolderIsTarget "a node counts as holder and as target" 200_000,
    /// Who leaves is gone at once, whatever it serves and holds.
    OneStepLeave "one-step leave" 200_000,
    /// A strict put that meets a new epoch keeps the acknowledgements of the old one.
    StrictAcksKept "strict acknowledgements kept across epochs" 200_000,
    /// The last chunk marks a transfer as done.
    LostChunk "transfer marked done after a lost chunk" 200_000,
    /// A proposer takes its decision into effect although its node has promised more since.
    DecisionDespitePromise "a decision despite a higher promise" 200_000,
    /// A proposer's own node has not promised its ballot when it chooses.
    ProposerNotPromised "a proposer has not promised itself" 5_000_000,
    /// A decision is told before the proposer has adopted it.
    ToldBeforeAdopted "told before adopted" 200_000,
    /// Everybody decides without those who are no members and shall not be.
    EverybodyButOthers "everybody: only members old and new are asked" 200_000,
    /// Where everybody decides, most of their acceptances are enough.
    EverybodyMajority "everybody: most acceptances are enough" 1_000_000,
    /// What a disk has told that is lost by now counts after everybody has decided without it.
    LostDiskTells "everybody: lost disks may tell" 200_000,
}
