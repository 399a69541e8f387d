//! Switching on features of the protocol: only what all members know. See docs/architecture.md, "Features".

use dynkv_proto::{FEATURE_CHANGE_KIND, Failure, FailureCode, Feature, FeatureChange, FeatureSet};
use dynkv_ring::{Change, NodeId};

use crate::{
    cluster::{Cluster, View},
    propose::invalid,
    shared::Shared,
};

/// Whether messages of this kind are taken: those of a feature only by who knows it, and once it is switched on here. So nobody has done anything of a feature
/// without the entry on its disk, by which a version that does not know it learns that it must not go on from there.
pub(crate) fn check_kind(node: &Shared, kind: u16) -> Result<(), Failure> {
    let Some(feature) = Feature::of_kind(kind) else { return Ok(()) };
    let cluster = &node.cluster;
    if !cluster.knows.contains(feature) {
        return Err(unknown_kind(cluster, kind));
    }
    match cluster.view().features.is_on(feature) {
        true => Ok(()),
        false => Err(Failure::not_done(
            FailureCode::Stale,
            format!(
                "node {} has not heard yet that the feature {feature} is switched on: ask again",
                cluster.me.id
            ),
        )),
    }
}

/// The answer to a message of a kind that this version does not know.
pub(crate) fn unknown_kind(cluster: &Cluster, kind: u16) -> Failure {
    let message = format!(
        "node {} (dynkv {}) does not know messages of kind {kind}: upgrade it",
        cluster.me.id, cluster.me.version
    );
    Failure::not_done(FailureCode::UnknownKind, message)
}

/// The feature that `change` switches on, if this node knows it.
pub(crate) fn known(cluster: &Cluster, change: &Change) -> Result<Feature, Failure> {
    let Change::Other { kind: FEATURE_CHANGE_KIND, payload } = change else {
        return Err(invalid("a founding comes with nothing but features: propose the rest by itself".into()));
    };
    let change = FeatureChange::from_payload(payload).map_err(|error| invalid(error.to_string()))?;
    match change.feature() {
        // What the entry says to other versions is as this one would say it.
        Some(feature) if cluster.knows.contains(feature) && change == FeatureChange::from(feature) => {
            Ok(feature)
        }
        _ => Err(invalid(format!(
            "node {} (dynkv {}) does not know the feature {change}: upgrade it",
            cluster.me.id, cluster.me.version
        ))),
    }
}

/// Whether the feature may be switched on: it is not yet, and every member has announced it, also those that are down. What has not been heard of may be of any version.
pub(crate) fn check_switching_on(node: &Shared, view: &View, change: &Change) -> Result<(), Failure> {
    let feature = known(&node.cluster, change)?;
    if view.features.is_on(feature) {
        return Err(invalid(format!("the feature {feature} is switched on already: there is nothing to do")));
    }
    let members = view.membership.members().map(|state| state.member.id);
    let lacking: Vec<String> = members.filter_map(|member| lacks(node, member, feature)).collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(invalid(format!(
            "the feature {feature} stays off, because not all members know it: {}; start them with dynkv {} or later, then try again",
            lacking.join("; "),
            feature.since()
        ))),
    }
}

fn lacks(node: &Shared, member: NodeId, feature: Feature) -> Option<String> {
    if member == node.cluster.me.id {
        return None;
    }
    match node.gossip.said_by(&member) {
        None => Some(format!("{member} has not been heard of since node {} was started", node.cluster.me.id)),
        Some(said) if said.features.contains(feature) => None,
        Some(said) => Some(format!("{member} (dynkv {}) does not know it", said.version)),
    }
}

/// Whether nodes that are to become members know what is switched on, as far as they have been heard of: a member that does not would serve nobody.
pub(crate) fn check_newcomers(node: &Shared, view: &View, changes: &[Change]) -> Result<(), Failure> {
    for change in changes {
        let (Change::Join(member) | Change::Replace { new: member, .. }) = change else { continue };
        let Some(said) = node.gossip.said_by(&member.id) else { continue };
        let beyond = names(view, &said.features);
        if !beyond.is_empty() {
            return Err(invalid(format!(
                "{} (dynkv {}) does not know what this cluster has switched on: {beyond}: start it with such a version",
                member.id, said.version
            )));
        }
    }
    Ok(())
}

fn names(view: &View, known: &FeatureSet) -> String {
    view.features.beyond(known).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
