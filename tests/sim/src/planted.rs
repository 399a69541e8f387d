//! Bugs planted in the node, which the checker must catch: what a simulator is worth that never fails is not known.

#[cfg(dynkv_planted)]
pub use live::{Caught, hunt, hunt_all};

/// How to build a simulator that can plant bugs.
pub const HOW_TO_BUILD: &str = "bugs are planted only in a build of its own: RUSTFLAGS=\"--cfg dynkv_planted\" cargo run --release --target-dir target/planted -p dynkv-sim -- --planted";

#[cfg(dynkv_planted)]
mod live {
    use std::sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    };

    use dynkv_node::planted::{Bug, plant};

    use crate::{
        buckets::Bucket,
        history::Key,
        plan::{Kind, Plan},
        plans::{self, moving},
        report::Report,
        rounds,
        run::run_plan,
        workload::Habit,
    };

    /// Where the hunt for each bug begins: always the same seeds, so that a limit means something.
    const START: u64 = 1;

    /// Within how many seeds `bug` must be caught: a few times what it took when this was written.
    fn seeds_max(bug: Bug) -> u64 {
        match bug {
            Bug::ContextOfCoordinator | Bug::ReadOneFewer | Bug::SettleAnyView => 20,
            Bug::ActorReusedAfterRestart
            | Bug::DotReusedAfterFailedWrite
            | Bug::RetryWithoutQuorum
            | Bug::DuplicatesUnsaid
            | Bug::ComparisonSkipsSubtree
            | Bug::DamagedReadsAsAbsent
            | Bug::AdmittedByOne
            | Bug::DiskNamedUnheard => 200,
            _ => 1_000,
        }
    }

    /// The faults that make the interleavings for which `bug` matters: a hunt under all of them would be long.
    fn kinds(bug: Bug) -> &'static [Kind] {
        match bug {
            Bug::OwnAckFromMemory => &[Kind::Blackout, Kind::SlowDisk],
            Bug::HintRemovedBeforeAck | Bug::HintRemovedThoughChanged => {
                &[Kind::Cut, Kind::SlowNode, Kind::Pause]
            }
            Bug::SlotCountsTwice => &[Kind::SlowNode, Kind::Split, Kind::Pause],
            Bug::NodeCountsTwice => &[Kind::Wipe, Kind::SlowNode, Kind::Split, Kind::Pause],
            Bug::TombstoneByTime
            | Bug::SettleHomesOnly
            | Bug::SettleSomeHomes
            | Bug::SettleReachableOnly
            | Bug::SettleIgnoresHints => &[Kind::Cut, Kind::Kill, Kind::Pause, Kind::Split],
            Bug::SettleUnchecked | Bug::SettleRestamps => {
                &[Kind::SlowNode, Kind::Storm, Kind::Cut, Kind::SlowDisk]
            }
            Bug::SettleBeforeDurable => &[Kind::Blackout, Kind::PowerLoss, Kind::SlowDisk, Kind::Pause],
            Bug::SettleTwoPhases => &[Kind::Restore, Kind::Pause, Kind::Cut],
            Bug::CompactionKeepsActor | Bug::TreeNotTold => &[Kind::Cut],
            _ => &Kind::ALL,
        }
    }

    /// The plan of `seed` in the hunt for `bug`. Replicas are not compared where comparisons would mend what the bug has broken.
    fn plan(bug: Bug, seed: u64) -> Plan {
        match bug {
            Bug::HintSharesActor => plans::fallback_mints_twice(2 * seed + 1),
            Bug::HintRemovedOnMemoryAck => plans::hint_target_loses_power(2 * seed + 1),
            Bug::ComparisonSkipsSubtree => plans::empty_disk_is_filled(seed),
            Bug::DamagedReadsAsAbsent => plans::records_rot_beside_a_home_that_is_behind(seed),
            Bug::DiskNamedUnheard => plans::twin_on_an_empty_disk(seed),
            Bug::AdmittedByOne => plans::old_disk_meets_a_new_one(seed),
            Bug::SealsOneFewer | Bug::SealsForWritesOnly => {
                moving::leaves_and_is_cut_off(seed, 3_900, Bucket::All, Habit::Read, Habit::GoOn)
            }
            Bug::SealsForReadsOnly => {
                moving::leaves_and_is_cut_off(seed, 3_900, Bucket::Each, Habit::GoOn, Habit::Read)
            }
            Bug::NoSealOnWrites | Bug::JoinedWithoutReading => moving::joins_while_written(seed),
            Bug::AcceptedIgnored | Bug::DecidedAfterOne | Bug::AdoptedBeforeDecided | Bug::SealTimesOut => {
                moving::joins_and_is_cut_off_with_one(seed)
            }
            Bug::SealForgotten => moving::others_are_killed_when_it_joins(seed),
            Bug::TransferTakenForDone => moving::joins_with_failing_disk(seed),
            Bug::ShrinkWithoutSync => moving::shrinks_to_one(seed),
            Bug::DroppedWithoutPush | Bug::LeftAtOnce => moving::comes_back_with_the_only_copy(seed),
            Bug::DroppedThoughJoining => moving::leaves_while_joining(seed),
            Bug::NoSealOnReads | Bug::EpochUnchecked | Bug::ReadFromUnsealed | Bug::AcknowledgementsKept => {
                moving::goes_on_at_an_old_epoch(seed)
            }
            Bug::HintOfDepartedDropped | Bug::HintToOneSuccessor => moving::homes_move_away_from_hints(seed),
            _ => {
                let mut plan = Plan::draw_with(seed, kinds(bug));
                if bug == Bug::SlotCountsTwice {
                    // Where all homes are wanted, one that counts twice is soon one too many.
                    plan.keys = ["k0", "k1", "k2"].map(|name| Key::shared(Bucket::Wide, name)).into();
                }
                if bug.is_of_settlement() {
                    plan.grace_ms = Some([0, 100, 500][seed as usize % 3]);
                }
                plan
            }
        }
    }

    /// What is wrong at `seed` in the hunt for `bug`: in one line, and in many.
    fn fault_at(bug: Bug, seed: u64) -> Option<(&'static str, String)> {
        if bug == Bug::SettleAnyView {
            let violation = rounds::of_another_history(seed).err()?;
            return Some((violation.promise, violation.to_string()));
        }
        let report = run_plan(&plan(bug, seed));
        Some((fault_of(bug, &report)?, report.failure()))
    }

    /// What is wrong with a run, in one line.
    fn fault_of(bug: Bug, report: &Report) -> Option<&'static str> {
        if let Err(violation) = &report.verdict {
            return Some(violation.promise);
        }
        // Two of three copies are left, or one, and a read mends the others: a plan knows better what must not be needed.
        let repairs = report.seen.get("repairs after healing").copied().unwrap_or_default();
        match bug {
            Bug::HintRemovedOnMemoryAck if repairs > 0 => Some("what a hint brought stays there"),
            Bug::HintOfDepartedDropped | Bug::HintToOneSuccessor if repairs > 0 => {
                Some("the hint of a home that is none any more goes to all that are")
            }
            _ => None,
        }
    }

    /// How a hunt ended.
    #[derive(Debug)]
    pub struct Caught {
        /// For what.
        pub bug: Bug,
        /// How many seeds it may take.
        pub seeds_max: u64,
        /// How many it took, and what was seen.
        pub caught: Option<(u64, &'static str)>,
    }

    /// Looks for `bug` until it is caught or the limit is reached.
    pub fn hunt(bug: Bug) -> Caught {
        let seeds_max = seeds_max(bug);
        plant(Some(bug));
        let caught = (0..seeds_max).find_map(|at| {
            let seed = START + at;
            let promise = fault_at(bug, seed)?.0;
            // What fails without the bug, too, has not caught it: it has found another one.
            plant(None);
            if let Some((promise, failure)) = fault_at(bug, seed) {
                panic!("without {bug:?}, \"{promise}\" is broken: {failure}");
            }
            Some((at + 1, promise))
        });
        plant(None);
        Caught { bug, seeds_max, caught }
    }

    /// [`hunt`]s for all bugs with `name` in theirs, `jobs` at once, and tells `ended` of each.
    pub fn hunt_all(jobs: usize, name: &str, ended: impl Fn(&Caught) + Sync) -> Vec<Caught> {
        let wanted: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| format!("{bug:?}").contains(name)).collect();
        let next = AtomicUsize::new(0);
        let hunted = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    while let Some(&bug) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let caught = hunt(bug);
                        ended(&caught);
                        hunted.lock().unwrap_or_else(PoisonError::into_inner).push(caught);
                    }
                });
            }
        });
        let mut hunted = hunted.into_inner().unwrap_or_else(PoisonError::into_inner);
        hunted.sort_by_key(|caught| Bug::ALL.iter().position(|bug| *bug == caught.bug));
        hunted
    }
}
