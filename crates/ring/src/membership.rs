//! Folding a history: who is a member, who is gone, and what the ring is.

use std::collections::BTreeMap;

use crate::change::Founding;
use crate::strategy::{EqualTokens, PlacementError};
use crate::{Change, Entry, History, Member, NodeId, PartitionCount, Ring};

/// What a [`History`] amounts to: a pure function of it.
///
/// The entries are applied in order. One that makes no sense where it stands - two operators may have acted at
/// once - has no effect and is listed in [`ignored`](Self::ignored) with the reason, so folding never fails and
/// every node agrees on the result.
///
/// An id that left, was removed or was replaced never comes back: its data and its promises are those of a node
/// that is gone.
///
/// # Examples
///
/// ```
/// use dynkv_ring::{Change, Entry, Founding, History, IgnoredReason, Member, Membership, PartitionCount};
///
/// let [a, b, c] = ["a", "b", "c"].map(|id| Member::new(id.parse().unwrap()));
/// let founding = Founding {
///     cluster: "shop".to_owned(),
///     partitions: PartitionCount::new(64)?,
///     replicas: 3,
///     members: vec![a.clone(), b.clone()],
/// };
/// let mut history = History::new();
/// for (time, change) in [
///     (1, Change::Found(founding)),
///     (2, Change::Join(c.clone())),
///     (3, Change::Remove(b.id)),
///     (4, Change::Join(b)),
/// ] {
///     history.insert(Entry::new(time, a.id, change)?)?;
/// }
/// let membership = Membership::fold(&history);
/// assert_eq!(membership.cluster(), "shop");
/// assert_eq!(membership.ring().token_count(&c.id), 32);
/// assert_eq!(membership.ignored()[0].reason, IgnoredReason::Gone);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Membership {
    fold: Fold,
    ring: Ring,
    source: Option<Source>,
}

/// Of which history a membership is the fold.
#[derive(Debug, Clone, Copy)]
struct Source {
    entries: usize,
    digest: [u8; 16],
}

/// A member with what the history says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MemberState {
    /// Name, weight and failure domains.
    pub member: Member,
    /// Whether it is on the ring.
    pub status: Status,
    /// Its current disk, if one was announced.
    pub disk: Option<u64>,
    /// The first disk that was announced for it.
    pub first_disk: Option<u64>,
}

/// What a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Status {
    /// It is on the ring.
    Active,
    /// It owns no tokens any more and is being drained.
    Leaving,
}

/// How a node went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Departure {
    /// It left, drained.
    Left,
    /// It was removed.
    Removed,
    /// This node took its place.
    Replaced(NodeId),
}

/// An entry without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ignored {
    /// The entry.
    pub entry: Entry,
    /// Why it has no effect.
    pub reason: IgnoredReason,
}

/// Why an entry of a history has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum IgnoredReason {
    /// It comes before the founding.
    #[error("the cluster was not founded yet")]
    NotFounded,
    /// The cluster was founded by an earlier entry.
    #[error("the cluster was founded already")]
    AlreadyFounded,
    /// It is about a node that is not a member and never was.
    #[error("there is no such member")]
    UnknownNode,
    /// It is about a node that left, was removed or was replaced.
    #[error("the node is gone, and a node that is gone never comes back; use a new id")]
    Gone,
    /// The node to join, or to replace another one, is a member.
    #[error("the node is a member already")]
    AlreadyMember,
    /// The node to leave is leaving.
    #[error("the node is leaving already")]
    AlreadyLeaving,
    /// A node says it has left without having been told to leave.
    #[error("the node was not leaving")]
    NotLeaving,
    /// The last active node cannot go: somebody must own the partitions.
    #[error("the node is the last one on the ring; let another one join first")]
    LastNode,
}

impl Membership {
    /// Applies the entries of a history in order.
    #[must_use]
    pub fn fold(history: &History) -> Self {
        Self::go_on(Fold::default(), 0, history)
    }

    /// The same as [`fold`](Self::fold), faster where `history` begins with all the entries that this was folded from, as it nearly always
    /// does: an entry that is new is later than those which its issuer knew of. Only what comes after them is applied then.
    ///
    /// # Examples
    ///
    /// ```
    /// use dynkv_ring::{Change, Entry, Founding, History, Member, Membership, PartitionCount};
    ///
    /// let [a, b] = ["a", "b"].map(|id| Member::new(id.parse().unwrap()));
    /// let founding = Founding {
    ///     cluster: "shop".to_owned(),
    ///     partitions: PartitionCount::new(64)?,
    ///     replicas: 3,
    ///     members: vec![a.clone()],
    /// };
    /// let mut history = History::new();
    /// history.insert(Entry::new(1, a.id, Change::Found(founding))?)?;
    /// let before = Membership::fold(&history);
    /// history.insert(Entry::new(2, a.id, Change::Join(b.clone()))?)?;
    /// assert_eq!(before.follow(&history).ring().token_count(&b.id), 32);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn follow(&self, history: &History) -> Self {
        match self.source {
            Some(Source { entries, digest }) if history.digest_of_first(entries) == Some(digest) => {
                Self::go_on(self.fold.clone(), entries, history)
            }
            _ => Self::fold(history),
        }
    }

    /// Applies to `fold` all but the first `applied` entries.
    fn go_on(mut fold: Fold, applied: usize, history: &History) -> Self {
        for entry in history.entries().skip(applied) {
            if let Err(reason) = fold.apply(entry) {
                fold.ignored.push(Ignored { entry: entry.clone(), reason });
            }
        }
        let source = Source { entries: history.len(), digest: history.digest() };
        Self { source: Some(source), ..fold.into_membership() }
    }

    /// The fold, to go on from.
    pub(crate) fn to_fold(&self) -> Fold {
        self.fold.clone()
    }

    /// What [`replicas`](Self::replicas) says before the founding.
    pub const DEFAULT_REPLICAS: u8 = 3;

    /// Whether the history has a founding. Before it the ring is empty.
    #[must_use]
    pub fn founded(&self) -> bool {
        self.fold.founded.is_some()
    }

    /// The founding that counts.
    #[must_use]
    pub fn founding(&self) -> Option<&Founding> {
        self.fold.founded.as_ref().map(|(founding, _)| founding)
    }

    /// The cluster's name; empty before the founding.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.founding().map_or("", |founding| &founding.cluster)
    }

    /// The number of partitions; the default, 256, before the founding.
    #[must_use]
    pub fn partitions(&self) -> PartitionCount {
        self.ring.partitions()
    }

    /// The number of replicas of each partition; 3 before the founding.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        self.ring.replicas()
    }

    /// The members, active and leaving, ordered by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &MemberState> {
        self.fold.members.values()
    }

    /// The member with this id, active or leaving.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&MemberState> {
        self.fold.members.get(node)
    }

    /// The nodes that are gone for ever, ordered by id, and how they went.
    pub fn gone(&self) -> impl ExactSizeIterator<Item = (NodeId, Departure)> {
        self.fold.gone.iter().map(|(node, departure)| (*node, *departure))
    }

    /// How a node went, if it is gone.
    #[must_use]
    pub fn departure(&self, node: &NodeId) -> Option<Departure> {
        self.fold.gone.get(node).copied()
    }

    /// The entries with a [`Change::Other`], in order; also those before the founding.
    #[must_use]
    pub fn others(&self) -> &[Entry] {
        &self.fold.others
    }

    /// The entries without effect, in order.
    #[must_use]
    pub fn ignored(&self) -> &[Ignored] {
        &self.fold.ignored
    }

    /// The ring of the active members.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// A fold that can go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fold {
    founded: Option<(Founding, EqualTokens)>,
    members: BTreeMap<NodeId, MemberState>,
    gone: BTreeMap<NodeId, Departure>,
    others: Vec<Entry>,
    ignored: Vec<Ignored>,
}

impl Fold {
    /// What has been applied, as a membership that is no history's.
    pub(crate) fn into_membership(self) -> Membership {
        let ring = match &self.founded {
            Some((_, tokens)) => tokens.ring(),
            None => Ring::empty(PartitionCount::default(), Membership::DEFAULT_REPLICAS),
        };
        Membership { fold: self, ring, source: None }
    }

    /// Applies one entry, whatever its time; or says why it has no effect.
    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<(), IgnoredReason> {
        match entry.change() {
            Change::Other { .. } => {
                self.others.push(entry.clone());
                Ok(())
            }
            Change::Found(founding) => self.found(founding),
            _ if self.founded.is_none() => Err(IgnoredReason::NotFounded),
            Change::Join(member) => self.join(member),
            Change::Leave(node) => self.leave(*node),
            Change::Left(node) => self.left(*node),
            Change::Remove(node) => self.remove(*node),
            Change::Replace { old, new } => self.replace(*old, new),
            Change::Weight { node, weight } => self.reweigh(*node, *weight),
            Change::Place { node, zone, host } => self.relocate(*node, zone, host),
            Change::Disk { node, disk } => {
                let state = self.known(*node)?;
                state.disk = Some(*disk);
                state.first_disk.get_or_insert(*disk);
                Ok(())
            }
        }
    }

    fn found(&mut self, founding: &Founding) -> Result<(), IgnoredReason> {
        if self.founded.is_some() {
            return Err(IgnoredReason::AlreadyFounded);
        }
        let tokens = EqualTokens::found(founding.partitions, founding.replicas, founding.members.clone())
            .expect("an entry's founding is valid and lists no node twice");
        for member in &founding.members {
            self.enter(member);
        }
        self.founded = Some((founding.clone(), tokens));
        Ok(())
    }

    fn join(&mut self, member: &Member) -> Result<(), IgnoredReason> {
        self.unused(member.id)?;
        moved(self.tokens().join(member.clone()))?;
        self.enter(member);
        Ok(())
    }

    fn leave(&mut self, node: NodeId) -> Result<(), IgnoredReason> {
        if self.known(node)?.status == Status::Leaving {
            return Err(IgnoredReason::AlreadyLeaving);
        }
        moved(self.tokens().leave(&node))?;
        self.known(node)?.status = Status::Leaving;
        Ok(())
    }

    fn left(&mut self, node: NodeId) -> Result<(), IgnoredReason> {
        if self.known(node)?.status != Status::Leaving {
            return Err(IgnoredReason::NotLeaving);
        }
        self.depart(node, Departure::Left);
        Ok(())
    }

    fn remove(&mut self, node: NodeId) -> Result<(), IgnoredReason> {
        if self.known(node)?.status == Status::Active {
            moved(self.tokens().leave(&node))?;
        }
        self.depart(node, Departure::Removed);
        Ok(())
    }

    fn replace(&mut self, old: NodeId, new: &Member) -> Result<(), IgnoredReason> {
        let status = self.known(old)?.status;
        self.unused(new.id)?;
        match status {
            Status::Active => moved(self.tokens().replace(&old, new.clone()))?,
            // The tokens are with others by now: the new node takes its share as any other one does.
            Status::Leaving => moved(self.tokens().join(new.clone()))?,
        }
        self.depart(old, Departure::Replaced(new.id));
        self.enter(new);
        Ok(())
    }

    fn reweigh(&mut self, node: NodeId, weight: u32) -> Result<(), IgnoredReason> {
        let state = self.known(node)?;
        state.member.weight = weight;
        if state.status == Status::Active {
            moved(self.tokens().reweigh(&node, weight))?;
        }
        Ok(())
    }

    fn relocate(&mut self, node: NodeId, zone: &str, host: &str) -> Result<(), IgnoredReason> {
        let state = self.known(node)?;
        zone.clone_into(&mut state.member.zone);
        host.clone_into(&mut state.member.host);
        if state.status == Status::Active {
            let relocated = self.tokens().relocate(&node, zone, host);
            moved(relocated.map(|()| 0))?;
        }
        Ok(())
    }

    fn tokens(&mut self) -> &mut EqualTokens {
        let (_, tokens) = self.founded.as_mut().expect("entries before the founding are ignored");
        tokens
    }

    fn enter(&mut self, member: &Member) {
        let state =
            MemberState { member: member.clone(), status: Status::Active, disk: None, first_disk: None };
        self.members.insert(member.id, state);
    }

    fn depart(&mut self, node: NodeId, departure: Departure) {
        self.members.remove(&node);
        self.gone.insert(node, departure);
    }

    fn known(&mut self, node: NodeId) -> Result<&mut MemberState, IgnoredReason> {
        if self.gone.contains_key(&node) {
            return Err(IgnoredReason::Gone);
        }
        self.members.get_mut(&node).ok_or(IgnoredReason::UnknownNode)
    }

    fn unused(&self, node: NodeId) -> Result<(), IgnoredReason> {
        if self.gone.contains_key(&node) {
            return Err(IgnoredReason::Gone);
        }
        if self.members.contains_key(&node) { Err(IgnoredReason::AlreadyMember) } else { Ok(()) }
    }
}

/// The placement's refusals as reasons. The fold's own checks come first, so all but the last node's are
/// there for completeness.
fn moved(result: Result<u32, PlacementError>) -> Result<(), IgnoredReason> {
    match result {
        Ok(_) => Ok(()),
        Err(PlacementError::LastNode { .. }) => Err(IgnoredReason::LastNode),
        Err(PlacementError::DuplicateNode { .. }) => Err(IgnoredReason::AlreadyMember),
        Err(PlacementError::UnknownNode { .. } | PlacementError::Member(_)) => {
            Err(IgnoredReason::UnknownNode)
        }
    }
}
