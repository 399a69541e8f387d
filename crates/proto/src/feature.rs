//! Features of the protocol: what a version knows, and what a cluster has switched on.
//!
//! Nodes announce what they know by gossip. What is switched on stands in the membership history, for ever: a node that was away, or comes back with an
//! older version, finds it there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use dynkv_ring::{Change, Membership, NodeId, Plan};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    DecodeError,
    array::array,
    frame::{from_cbor, to_cbor},
    kinds,
};

/// The kind under which it is kept in the history that a feature is switched on.
pub const FEATURE_CHANGE_KIND: u16 = Change::FIRST_OTHER_KIND + 1;

/// Something that nodes do together, and that all members have to know before any of them does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Chains of configurations: members may change in a way that moves data.
    Moving,
}

impl Feature {
    /// Those that this version knows, by number.
    pub const ALL: [Feature; 1] = [Feature::Moving];

    /// Its number on the wire, which is never used again for something else.
    pub const fn number(self) -> u16 {
        match self {
            Feature::Moving => 1,
        }
    }

    /// Its name in commands and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::Moving => "moving",
        }
    }

    /// What it is good for, in a line.
    pub const fn description(self) -> &'static str {
        match self {
            Feature::Moving => "members may join, leave and change in a way that moves data",
        }
    }

    /// The first version of dynkv that knows it.
    pub const fn since(self) -> &'static str {
        match self {
            Feature::Moving => "0.1.0",
        }
    }

    /// The feature with this number; `None`: of a later version.
    pub fn from_number(number: u16) -> Option<Feature> {
        Feature::ALL.into_iter().find(|feature| feature.number() == number)
    }

    /// The feature that requests of a kind belong to, if they belong to one. Nobody sends them to a node that has not announced it.
    pub const fn of_kind(kind: u16) -> Option<Feature> {
        match kind {
            kinds::CHAIN_PREPARE..=kinds::CHAIN_READY => Some(Feature::Moving),
            _ => None,
        }
    }

    /// The entry of the history that switches it on.
    pub fn to_change(self) -> Change {
        FeatureChange::from(self).to_change()
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No feature has this name, as far as this version knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("this version knows no feature '{name}': use one of {}", Feature::ALL.map(Feature::name).join(", "))]
pub struct UnknownFeature {
    /// The name given.
    pub name: String,
}

impl FromStr for Feature {
    type Err = UnknownFeature;
    fn from_str(name: &str) -> Result<Feature, UnknownFeature> {
        let found = Feature::ALL.into_iter().find(|feature| feature.name() == name);
        found.ok_or_else(|| UnknownFeature { name: name.into() })
    }
}

/// Features by their numbers, also such as only a later version knows: what a node announces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureSet(BTreeSet<u16>);

impl FeatureSet {
    /// What this version knows.
    pub fn known() -> FeatureSet {
        Feature::ALL.into_iter().collect()
    }

    /// Whether there is none in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `feature` is in it.
    pub fn contains(&self, feature: Feature) -> bool {
        self.0.contains(&feature.number())
    }

    /// The numbers, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }
}

impl FromIterator<Feature> for FeatureSet {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> FeatureSet {
        FeatureSet(features.into_iter().map(Feature::number).collect())
    }
}

array! {
    /// A feature is switched on. It says by itself what a version that does not know the number has to tell its operator.
    pub FeatureChange {
        /// See [`Feature::number`].
        number: u16,
        /// See [`Feature::name`].
        name: String,
        /// See [`Feature::since`].
        since: String,
    }
}

impl From<Feature> for FeatureChange {
    fn from(feature: Feature) -> FeatureChange {
        FeatureChange { number: feature.number(), name: feature.name().into(), since: feature.since().into() }
    }
}

impl FeatureChange {
    /// The entry of the history that says this.
    pub fn to_change(&self) -> Change {
        Change::Other { kind: FEATURE_CHANGE_KIND, payload: to_cbor(self) }
    }

    /// Reads the payload of an entry of kind [`FEATURE_CHANGE_KIND`].
    ///
    /// # Errors
    /// [`DecodeError::Header`].
    pub fn from_payload(payload: &[u8]) -> Result<FeatureChange, DecodeError> {
        from_cbor(payload)
    }

    /// The feature, if this version knows it.
    pub fn feature(&self) -> Option<Feature> {
        Feature::from_number(self.number)
    }
}

/// `moving (from dynkv 0.1.0 on)`
impl fmt::Display for FeatureChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from dynkv {} on)", self.name, self.since)
    }
}

/// The features that a cluster has switched on, folded from its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    on: BTreeMap<u16, FeatureChange>,
}

impl Features {
    /// Folds the feature changes of `membership`. Payloads that cannot be read are passed over: no node writes any.
    pub fn fold(membership: &Membership) -> Features {
        let mut features = Features::default();
        for entry in membership.others() {
            if let Change::Other { kind: FEATURE_CHANGE_KIND, payload } = entry.change()
                && let Ok(change) = FeatureChange::from_payload(payload)
            {
                features.on.entry(change.number).or_insert(change);
            }
        }
        features
    }

    /// Whether `feature` is switched on.
    pub fn is_on(&self, feature: Feature) -> bool {
        self.on.contains_key(&feature.number())
    }

    /// Those that are switched on, by number, also such as only a later version knows.
    pub fn iter(&self) -> impl Iterator<Item = &FeatureChange> {
        self.on.values()
    }

    /// Those that are switched on and not in `known`: whoever knows no more than that may not take part.
    pub fn beyond(&self, known: &FeatureSet) -> impl Iterator<Item = &FeatureChange> {
        self.iter().filter(|change| !known.0.contains(&change.number))
    }

    /// Whether everything that `plan` takes is switched on.
    ///
    /// # Errors
    /// [`FeatureOff`] if [`Feature::Moving`] is off, and not every member keeps every partition, before and after. Not only if this plan moves data: two
    /// that move nothing by themselves, made at two nodes at once, may do so together.
    pub fn check(&self, plan: &Plan) -> Result<(), FeatureOff> {
        let on_the_ring = |membership: &Membership| -> BTreeSet<NodeId> {
            membership.ring().members().iter().map(|member| member.id).collect()
        };
        let before = on_the_ring(plan.before());
        let keeps_all =
            before.len() <= usize::from(plan.before().replicas()) && before == on_the_ring(plan.after());
        match keeps_all || self.is_on(Feature::Moving) {
            true => Ok(()),
            false => Err(FeatureOff { feature: Feature::Moving }),
        }
    }
}

/// Something takes a feature that is not switched on. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "it takes the feature {feature}, which is not switched on: look at `dyn cluster features`, and switch it on with `dyn cluster enable {feature}` once every node knows it"
)]
pub struct FeatureOff {
    /// The feature.
    pub feature: Feature,
}

#[cfg(test)]
mod tests {
    use dynkv_ring::{Entry, Founding, History, Member, PartitionCount};

    use super::*;

    fn history(changes: impl IntoIterator<Item = Change>) -> History {
        history_of(&["n1", "n2", "n3", "n4"], changes)
    }

    fn history_of(members: &[&str], changes: impl IntoIterator<Item = Change>) -> History {
        let id = |text: &str| text.parse().expect("a good id");
        let founding = Founding {
            cluster: "c".into(),
            partitions: PartitionCount::new(16).expect("a power of two"),
            replicas: 3,
            members: members.iter().map(|node| Member::new(id(node))).collect(),
        };
        let mut history = History::new();
        for (time, change) in (1..).zip([Change::Found(founding)].into_iter().chain(changes)) {
            let entry = Entry::new(time, id("n1"), change).expect("a good change");
            history.insert(entry).expect("room");
        }
        history
    }

    fn features(changes: impl IntoIterator<Item = Change>) -> Features {
        Features::fold(&Membership::fold(&history(changes)))
    }

    #[test]
    fn numbers_and_names_name_one_feature_each() {
        for feature in Feature::ALL {
            assert_eq!(Feature::from_number(feature.number()), Some(feature));
            assert_eq!(feature.name().parse(), Ok(feature));
            assert!(FeatureSet::known().contains(feature));
        }
        assert_eq!(FeatureSet::known().numbers().count(), Feature::ALL.len());
        let error = "mooving".parse::<Feature>().unwrap_err();
        assert!(error.to_string().contains("'mooving': use one of moving"), "{error}");
    }

    #[test]
    fn what_is_switched_on_stays_on_and_what_only_later_versions_know_is_told_apart() {
        let later = FeatureChange { number: 900, name: "flying".into(), since: "9.0.0".into() };
        let garbage = Change::Other { kind: FEATURE_CHANGE_KIND, payload: vec![0xff] };
        let other = Change::Other { kind: 300, payload: to_cbor(&later) };
        let none = features([garbage.clone(), other]);
        assert_eq!((none.iter().count(), none.is_on(Feature::Moving)), (0, false));

        let moving = Feature::Moving.to_change();
        let on = features([moving.clone(), later.to_change(), garbage, moving]);
        assert!(on.is_on(Feature::Moving));
        assert_eq!(on.iter().map(|change| change.number).collect::<Vec<_>>(), [1, 900]);
        assert_eq!(on.beyond(&FeatureSet::known()).collect::<Vec<_>>(), [&later]);
        assert_eq!(on.beyond(&FeatureSet::default()).count(), 2);
        assert_eq!((later.feature(), later.to_string().as_str()), (None, "flying (from dynkv 9.0.0 on)"));
    }

    #[test]
    fn what_moves_data_takes_moving() {
        let (four, three) = (history([]), history_of(&["n1", "n2", "n3"], []));
        let plan = |history: &History, change: Change| Plan::new(history, [change]).expect("it can be meant");
        let node = |text: &str| text.parse().expect("a good id");
        let (off, on) = (features([]), features([Feature::Moving.to_change()]));
        let refused = Err(FeatureOff { feature: Feature::Moving });
        let place = Change::Place { node: node("n1"), zone: String::new(), host: "rack".into() };
        let weight = Change::Weight { node: node("n1"), weight: 100 };
        for change in [
            Change::Join(Member::new(node("n5"))),
            Change::Leave(node("n1")),
            Change::Remove(node("n1")),
            Change::Replace { old: node("n1"), new: Member::new(node("n5")) },
            weight.clone(),
            // It moves nothing, but together with another node's might.
            place.clone(),
        ] {
            let plan = plan(&four, change);
            assert_eq!((off.check(&plan), on.check(&plan)), (refused, Ok(())));
        }
        assert_eq!(off.check(&plan(&three, Change::Join(Member::new(node("n5"))))), refused);
        // Where everybody keeps everything, nothing can move.
        assert_eq!(off.check(&plan(&three, weight)), Ok(()));
        assert_eq!(off.check(&plan(&three, place)), Ok(()));
    }
}
