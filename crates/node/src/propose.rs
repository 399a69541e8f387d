//! Operators' changes of the membership history.

use std::sync::Arc;

use dynkv_proto::{
    BUCKET_CHANGE_KIND, Blob, BucketChange, Digest, FEATURE_CHANGE_KIND, Failure, FailureCode, NodeInfo,
    Propose, ProposeReply,
};
use dynkv_ring::{Change, Entry, Founding, Plan};

use crate::{
    cluster::{Cluster, HistoryError, View},
    features, gossip,
    shared::Shared,
};

/// Checks changes against the history, stamps them and makes them part of the history.
pub(crate) async fn answer(node: &Arc<Shared>, request: Propose) -> Result<ProposeReply, Failure> {
    if request.more.len() >= Propose::CHANGES_MAX {
        return Err(invalid(format!(
            "{} changes at once are too many: propose at most {}",
            request.more.len() + 1,
            Propose::CHANGES_MAX
        )));
    }
    let change = |blob: &Blob| match Entry::from_bytes(blob) {
        Ok(proposed) => Ok(proposed.change().clone()),
        Err(error) => Err(invalid(error.to_string())),
    };
    let changes = std::iter::once(&request.entry).chain(&request.more).map(change);
    let changes = changes.collect::<Result<Vec<Change>, Failure>>()?;
    let (entries, view) = propose(node, changes, request.nodes, request.expect).await?;
    let mut entries = entries.iter().map(|entry| Blob::from(entry.to_bytes()));
    // There are as many as changes, of which there is one at least.
    let entry = entries.next().unwrap_or_default();
    Ok(ProposeReply { entry, view, more: entries.collect() })
}

/// The same from within the process.
///
/// `expect` holds for the history of this node at the moment at which the changes become part of it. Another node may take other
/// changes at the same time: the histories unite, and both take effect.
pub(crate) async fn propose(
    node: &Arc<Shared>,
    changes: Vec<Change>,
    nodes: Vec<NodeInfo>,
    expect: Option<Digest>,
) -> Result<(Vec<Entry>, Digest), Failure> {
    let changed = commit(node, &changes, |view| {
        check_expected(view, expect)?;
        check(node, view, &changes)?;
        node.cluster.unite_nodes(nodes.clone());
        node.gossip.introduce(nodes);
        Ok(())
    });
    Ok((changed.await?, node.cluster.view().digest))
}

/// Stamps changes, makes them part of the history if `check` has nothing against it in the view of that moment, and tells the others.
pub(crate) async fn commit(
    node: &Arc<Shared>,
    changes: &[Change],
    check: impl FnOnce(&View) -> Result<(), Failure>,
) -> Result<Vec<Entry>, Failure> {
    let added = node.cluster.add_entries(|view| {
        check(view)?;
        Ok(stamp(node, view, changes)?)
    });
    let entries = added.await.map_err(|error| match error {
        Refusal::Failure(failure) => failure,
        Refusal::History(error @ HistoryError::Full(_)) => invalid(error.to_string()),
        Refusal::History(error) => {
            Failure::unknown(FailureCode::Storage, format!("node {}: {error}", node.cluster.me.id))
        }
    })?;
    for entry in &entries {
        node.gossip.carry(entry.clone());
    }
    gossip::tell_all(node);
    Ok(entries)
}

/// Why changes did not become part of the history.
enum Refusal {
    Failure(Failure),
    History(HistoryError),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failure(failure)
    }
}

impl From<HistoryError> for Refusal {
    fn from(error: HistoryError) -> Refusal {
        Refusal::History(error)
    }
}

fn stamp(node: &Shared, view: &View, changes: &[Change]) -> Result<Vec<Entry>, Failure> {
    let mut latest = view.history.latest_time().unwrap_or(0);
    let stamped = changes.iter().map(|change| {
        let time = node.replica.history_time(latest);
        let time = time.map_err(|error| Failure::not_done(FailureCode::Clock, error.to_string()))?;
        latest = time.as_u64();
        Entry::new(latest, node.cluster.me.id, change.clone()).map_err(|error| invalid(error.to_string()))
    });
    stamped.collect()
}

fn check_expected(view: &View, expect: Option<Digest>) -> Result<(), Failure> {
    match expect {
        Some(expected) if expected != view.digest => Err(Failure {
            view: view.digest,
            ..Failure::not_done(
                FailureCode::HistoryMoved,
                format!(
                    "the change was planned for the history {expected}, and here it is {}: see what has changed with `dyn cluster history`, then plan again",
                    view.digest
                ),
            )
        }),
        _ => Ok(()),
    }
}

fn check(node: &Shared, view: &View, changes: &[Change]) -> Result<(), Failure> {
    let cluster = &node.cluster;
    match changes {
        [Change::Found(founding), switched_on @ ..] => {
            check_founding(cluster, view, founding)?;
            switched_on.iter().try_for_each(|change| features::known(cluster, change).map(drop))
        }
        _ if !view.membership.founded() => Err(Failure::not_done(
            FailureCode::NotServing,
            format!("cluster {} has not been founded: run `dyn cluster create` first", cluster.name),
        )),
        [Change::Other { kind: BUCKET_CHANGE_KIND, payload }] => {
            let change = BucketChange::from_payload(payload).map_err(|error| invalid(error.to_string()))?;
            let n = view.membership.replicas();
            view.buckets.preview(&change, n).map(drop).map_err(|error| invalid(error.to_string()))
        }
        [change @ Change::Other { kind: FEATURE_CHANGE_KIND, .. }] => {
            features::check_switching_on(node, view, change)
        }
        changes => check_members(node, view, changes),
    }
}

fn check_founding(cluster: &Cluster, view: &View, founding: &Founding) -> Result<(), Failure> {
    if view.membership.founded() {
        return Err(invalid(format!(
            "cluster {} has been founded already, with {} members: see `dyn ring show`",
            cluster.name,
            view.membership.members().len()
        )));
    }
    if founding.cluster != cluster.name {
        return Err(invalid(format!(
            "the founding is of cluster {}, this node's certificate is of cluster {}: use one name",
            founding.cluster, cluster.name
        )));
    }
    if founding.members.iter().all(|member| member.id != cluster.me.id) {
        return Err(invalid(format!(
            "node {} is not among the founding members: send the founding to one of them",
            cluster.me.id
        )));
    }
    Ok(())
}

fn check_members(node: &Shared, view: &View, changes: &[Change]) -> Result<(), Failure> {
    for change in changes {
        match change {
            Change::Join(_)
            | Change::Leave(_)
            | Change::Remove(_)
            | Change::Replace { .. }
            | Change::Weight { .. }
            | Change::Place { .. } => {}
            Change::Left(_) | Change::Disk { .. } => {
                return Err(invalid("what a node alone can know it says itself: do not propose it".into()));
            }
            Change::Found(_) | Change::Other { kind: BUCKET_CHANGE_KIND | FEATURE_CHANGE_KIND, .. } => {
                return Err(invalid(
                    "a founding, a bucket's properties and a feature do not come with changes of members: propose them by themselves".into(),
                ));
            }
            Change::Other { .. } => {
                return Err(invalid(
                    "this version does not know this kind of change: upgrade the node".into(),
                ));
            }
        }
    }
    let plan = Plan::following(&view.membership, &view.history, changes.to_vec())
        .map_err(|error| invalid(error.to_string()))?;
    view.features.check(&plan).map_err(|error| invalid(error.to_string()))?;
    features::check_newcomers(node, view, changes)
}

pub(crate) fn invalid(message: String) -> Failure {
    Failure::not_done(FailureCode::Invalid, message)
}
