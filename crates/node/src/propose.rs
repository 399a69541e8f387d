//! Operators' changes of the membership history.

use std::sync::Arc;

use dynkv_proto::{
    BUCKET_CHANGE_KIND, BucketChange, Digest, Failure, FailureCode, NodeInfo, Propose, ProposeReply,
};
use dynkv_ring::{Change, Entry};

use crate::{
    cluster::{Cluster, View, is_supported},
    gossip,
    shared::Shared,
};

/// Checks a change against the history, stamps it and makes it part of the history.
pub(crate) async fn answer(node: &Arc<Shared>, request: Propose) -> Result<ProposeReply, Failure> {
    let proposed = Entry::from_bytes(&request.entry).map_err(|error| invalid(error.to_string()))?;
    let (entry, view) = propose(node, proposed.change().clone(), request.nodes).await?;
    Ok(ProposeReply { entry: entry.to_bytes().into(), view })
}

/// The same from within the process.
pub(crate) async fn propose(
    node: &Arc<Shared>,
    change: Change,
    nodes: Vec<NodeInfo>,
) -> Result<(Entry, Digest), Failure> {
    let view = node.cluster.view();
    check(&node.cluster, &view, &change)?;
    let time = node
        .replica
        .history_time(view.history.latest_time().unwrap_or(0))
        .map_err(|error| Failure::not_done(FailureCode::Clock, error.to_string()))?;
    let entry =
        Entry::new(time.as_u64(), node.cluster.me.id, change).map_err(|error| invalid(error.to_string()))?;
    node.cluster.unite_nodes(nodes.clone());
    node.gossip.introduce(nodes);
    node.cluster.add_entry(entry.clone()).await.map_err(|error| {
        Failure::unknown(FailureCode::Storage, format!("node {}: {error}", node.cluster.me.id))
    })?;
    node.gossip.carry(entry.clone());
    gossip::tell_all(node);
    Ok((entry, node.cluster.view().digest))
}

fn check(cluster: &Cluster, view: &View, change: &Change) -> Result<(), Failure> {
    let founded = view.membership.founded();
    match change {
        Change::Found(_) if founded => Err(invalid(format!(
            "cluster {} has been founded already, with {} members: see `dyn ring show`",
            cluster.name,
            view.membership.members().len()
        ))),
        Change::Found(founding) if founding.cluster != cluster.name => Err(invalid(format!(
            "the founding is of cluster {}, this node's certificate is of cluster {}: use one name",
            founding.cluster, cluster.name
        ))),
        Change::Found(founding) if founding.members.iter().all(|member| member.id != cluster.me.id) => {
            Err(invalid(format!("node {} is not among the founding members: send the founding to one of them", cluster.me.id)))
        }
        Change::Found(_) => Ok(()),
        _ if !founded => Err(Failure::not_done(
            FailureCode::NotServing,
            format!("cluster {} has not been founded: run `dyn cluster create` first", cluster.name),
        )),
        Change::Other { kind: BUCKET_CHANGE_KIND, payload } => {
            let change = BucketChange::from_payload(payload).map_err(|error| invalid(error.to_string()))?;
            let n = view.membership.replicas();
            view.buckets.preview(&change, n).map(drop).map_err(|error| invalid(error.to_string()))
        }
        other if !is_supported(other) => Err(invalid(
            "this version cannot change the membership of a founded cluster: it would have to move data, which it cannot do yet".into(),
        )),
        _ => Err(invalid("this version does not know this kind of change: upgrade the node".into())),
    }
}

fn invalid(message: String) -> Failure {
    Failure::not_done(FailureCode::Invalid, message)
}
