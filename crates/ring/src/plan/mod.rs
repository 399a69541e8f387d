//! Changes before they are made: the fold of a history as it would be.

mod error;
mod id;
mod moves;
mod warning;

use std::collections::BTreeMap;

use crate::{
    Change, Departure, Entry, History, Load, Membership, NodeId, PartitionChange, PartitionId, RingDiff,
    Spread, Status,
};

pub use error::PlanError;
pub use id::{ParsePlanIdError, PlanId};
pub use warning::Warning;

/// What changes would do to a cluster: the same fold that every node makes, of a history that has them.
///
/// A plan changes nothing. It is a pure function of the history and the changes: whoever makes it of the same
/// gets the same, and its [id](Plan::id) says of which it was made.
///
/// # Examples
///
/// ```
/// use dynkv_ring::{Change, Entry, Founding, History, Member, PartitionCount, Plan};
///
/// let member = |id: &str| Member::new(id.parse().unwrap());
/// let founding = Founding {
///     cluster: "shop".to_owned(),
///     partitions: PartitionCount::new(64)?,
///     replicas: 3,
///     members: ["a", "b", "c", "d"].map(member).to_vec(),
/// };
/// let mut history = History::new();
/// history.insert(Entry::new(1, "a".parse()?, Change::Found(founding))?)?;
///
/// let plan = Plan::new(&history, [Change::Join(member("e")), Change::Leave("b".parse()?)])?;
/// // As many nodes as before: `e` takes as many tokens as `b` had.
/// assert_eq!(plan.after().ring().token_count(&"e".parse()?), 16);
/// assert!(plan.moves().iter().any(|replica| replica.from.as_str() == "b" && replica.to.as_str() == "e"));
/// for ((from, to), partitions) in plan.moves_by_pair() {
///     println!("{from:?} -> {to}: {partitions} partitions");
/// }
/// println!("plan {} moves {} replicas", plan.id(), plan.moves().len());
///
/// // What cannot be meant is refused.
/// assert!(Plan::new(&history, [Change::Leave("z".parse()?)]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    id: PlanId,
    history: [u8; 16],
    changes: Vec<Change>,
    before: Membership,
    after: Membership,
    diff: RingDiff,
    moves: Vec<PlannedMove>,
    warnings: Vec<Warning>,
}

/// A replica that is to be made: a partition that a node becomes a home of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PlannedMove {
    /// The partition.
    pub partition: PartitionId,
    /// The home before that it is best copied from: one that stops being a home while it is still there, else one that
    /// stays, else one that is replaced.
    pub from: NodeId,
    /// The node that becomes a home.
    pub to: NodeId,
}

/// What a node carries before and after.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PlannedShare {
    /// The node.
    pub node: NodeId,
    /// What it carries before; `None`: it is no member.
    pub before: Option<Load>,
    /// What it carries after; `None`: it is gone. A leaving node carries nothing.
    pub after: Option<Load>,
    /// The tokens it is due afterwards by its weight, a fraction.
    pub due: f64,
    /// What it does afterwards; `None`: it is gone.
    pub status: Option<Status>,
}

impl Plan {
    /// Applies `changes`, in this order, to what `history` amounts to.
    ///
    /// # Errors
    ///
    /// If a change would have no effect, or would leave data with nobody or with too few: see [`PlanError`].
    pub fn new(history: &History, changes: impl IntoIterator<Item = Change>) -> Result<Self, PlanError> {
        Self::following(&Membership::fold(history), history, changes)
    }

    /// The same as [`new`](Self::new), faster for whoever has folded `history`, or what it begins with, already: see [`Membership::follow`].
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn following(
        membership: &Membership,
        history: &History,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Self, PlanError> {
        let changes: Vec<Change> = changes.into_iter().collect();
        if changes.is_empty() {
            return Err(PlanError::Nothing);
        }
        crate::history::room_for(history.len() + changes.len())?;
        let before = membership.follow(history);
        let mut planned = before.to_fold();
        let issuer = NodeId::try_from("plan").expect("a valid node id");
        let latest = history.latest_time().unwrap_or(0);
        for (change, step) in changes.iter().zip(1..) {
            // The fold goes by the order of its calls. Whoever makes the changes stamps them.
            let entry = Entry::new(latest.saturating_add(step), issuer, change.clone())?;
            planned.apply(&entry).map_err(|reason| PlanError::without_effect(change, reason))?;
        }
        let after = planned.into_membership();
        let diff = before.ring().diff(after.ring()).map_err(PlanError::Incomparable)?;
        error::check(&before, &after)?;
        let moves = moves::choose(&diff, &after)?;
        let warnings = warning::all(&before, &after, &diff);
        let id = PlanId::of(history, &changes);
        Ok(Self { id, history: history.digest(), changes, before, after, diff, moves, warnings })
    }

    /// Of which history and which changes it was made.
    #[must_use]
    pub fn id(&self) -> PlanId {
        self.id
    }

    /// Digest of the history it was made of.
    #[must_use]
    pub fn history_digest(&self) -> [u8; 16] {
        self.history
    }

    /// The changes, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The cluster as it is.
    #[must_use]
    pub fn before(&self) -> &Membership {
        &self.before
    }

    /// The cluster as it would be. Stamps of what was planned are not those it would get.
    #[must_use]
    pub fn after(&self) -> &Membership {
        &self.after
    }

    /// Partitions whose homes differ.
    #[must_use]
    pub fn diff(&self) -> &RingDiff {
        &self.diff
    }

    /// Homes before and after of each partition that differs, in order.
    #[must_use]
    pub fn partitions(&self) -> &[PartitionChange] {
        self.diff.changes()
    }

    /// Whether every partition keeps its homes, in their order.
    #[must_use]
    pub fn keeps_placement(&self) -> bool {
        self.diff.is_empty()
    }

    /// The replicas to be made, by partition. It takes no fewer to reach this placement: each of them is a node that keeps a
    /// partition it did not keep before.
    #[must_use]
    pub fn moves(&self) -> &[PlannedMove] {
        &self.moves
    }

    /// How many replicas each node is to receive from each other one.
    #[must_use]
    pub fn moves_by_pair(&self) -> BTreeMap<(NodeId, NodeId), u32> {
        let mut pairs = BTreeMap::new();
        for PlannedMove { from, to, .. } in &self.moves {
            *pairs.entry((*from, *to)).or_insert(0) += 1;
        }
        pairs
    }

    /// Replicas that must be made, whatever the placement, for every node to keep as many partitions as it will: the sum of what
    /// each has more than before. [`moves`](Self::moves) beyond it are the price of where they lie.
    #[must_use]
    pub fn least_moves(&self) -> u32 {
        let before = self.before.ring();
        let gain = |(member, load): (&crate::Member, Load)| {
            load.replicas.saturating_sub(before.load(&member.id).replicas)
        };
        self.after.ring().shares().map(gain).sum()
    }

    /// What every node carries before and after, by id.
    #[must_use]
    pub fn shares(&self) -> Vec<PlannedShare> {
        let ids = |membership: &Membership| -> Vec<NodeId> {
            membership.members().map(|state| state.member.id).collect()
        };
        let mut nodes = [ids(&self.before), ids(&self.after)].concat();
        nodes.sort_unstable();
        nodes.dedup();
        let weights = total_weight(&self.after);
        let share = |node: NodeId| {
            let load =
                |membership: &Membership| membership.member(&node).map(|_| membership.ring().load(&node));
            PlannedShare {
                node,
                before: load(&self.before),
                after: load(&self.after),
                due: due(&self.after, &node, weights),
                status: self.after.member(&node).map(|state| state.status),
            }
        };
        nodes.into_iter().map(share).collect()
    }

    /// The least number of distinct nodes, zones and hosts that keep a partition, before and after.
    #[must_use]
    pub fn spread(&self) -> (Spread, Spread) {
        (self.before.ring().spread(), self.after.ring().spread())
    }

    /// What deserves a second look.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The nodes that are gone at once by these changes, without handing anything over.
    pub fn dropped(&self) -> impl Iterator<Item = NodeId> {
        self.after.gone().filter_map(|(node, departure)| {
            let at_once = matches!(departure, Departure::Removed | Departure::Replaced(_));
            (at_once && self.before.departure(&node).is_none()).then_some(node)
        })
    }
}

/// The weights of all members on the ring.
fn total_weight(membership: &Membership) -> u64 {
    membership.ring().members().iter().map(|member| u64::from(member.weight)).sum()
}

/// The tokens a node is due.
fn due(membership: &Membership, node: &NodeId, total_weight: u64) -> f64 {
    let Some(member) = membership.ring().member(node) else { return 0.0 };
    f64::from(membership.partitions().get()) * f64::from(member.weight) / total_weight as f64
}
