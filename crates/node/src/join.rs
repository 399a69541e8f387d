//! A node that joins by itself: it proposes to a member what its operator would have applied.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{FailureCode, Frame, Propose, ProposeReply};
use dynkv_ring::{Change, Entry, InvalidMember, Member, NodeId};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::{
    cluster::{NotServing, View},
    peers::PeerError,
    shared::Shared,
};

/// Time that a member has to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Between attempts, unless something new is heard first.
const PAUSE: Duration = Duration::from_millis(500);

/// What a member has taken, or has refused because it is so already, is heard of by then.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// Why a node does not join.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It never will: its id is gone, another process has its place, or its disk is an old one.
    #[error(transparent)]
    NotServing(NotServing),
    /// It cannot be a member like that.
    #[error(transparent)]
    Invalid(#[from] InvalidMember),
    /// The members do not take it.
    #[error("member {by} does not let node {node} join: {reason}; see `dyn cluster plan --join {node}`")]
    Refused {
        /// The node.
        node: NodeId,
        /// Who says so.
        by: NodeId,
        /// Why.
        reason: String,
    },
}

/// Proposes to members that can be reached, until this node is one. Returns whether it was none before.
pub(crate) async fn join(node: &Arc<Shared>, member: Member) -> Result<bool, JoinError> {
    let me = node.cluster.me.id;
    let member = Member { id: me, ..member };
    member.validate()?;
    let mut news = node.cluster.subscribe();
    // Since when a member has said that it has taken it, or that it will not.
    let mut proposed = None;
    let mut refused: Option<(Instant, JoinError)> = None;
    loop {
        let view = node.cluster.view();
        match node.cluster.serving(&view) {
            Ok(()) | Err(NotServing::Admitting { .. }) => return Ok(proposed.is_some()),
            Err(NotServing::NotFounded { .. }) => {}
            Err(NotServing::NotMember { .. }) => {
                let waits = proposed.is_some_and(|at: Instant| at.elapsed() < HEARD_WITHIN);
                match &refused {
                    // A member may have taken an earlier run's proposal, of which this run has not heard yet.
                    Some((since, error)) if since.elapsed() >= HEARD_WITHIN => return Err(error.clone()),
                    _ if waits => {}
                    _ => match propose(node, &view, &member).await {
                        Some(Ok(())) => (proposed, refused) = (Some(Instant::now()), None),
                        Some(Err(error)) => drop(refused.get_or_insert((Instant::now(), error))),
                        None => {}
                    },
                }
            }
            Err(never) => return Err(JoinError::NotServing(never)),
        }
        drop(timeout(PAUSE, news.changed()).await);
    }
}

/// Proposes to one member after the other. `None`: none has said anything for certain.
async fn propose(node: &Arc<Shared>, view: &View, member: &Member) -> Option<Result<(), JoinError>> {
    let me = node.cluster.me.id;
    for state in view.membership.members().filter(|state| node.peers.is_reachable(state.member.id)) {
        let by = state.member.id;
        let entry = match Entry::new(0, me, Change::Join(member.clone())) {
            Ok(entry) => entry,
            Err(error) => return Some(Err(JoinError::Refused { node: me, by, reason: error.to_string() })),
        };
        let own = node.cluster.node(&me).unwrap_or_else(|| node.cluster.me.clone());
        let request =
            Propose { entry: entry.to_bytes().into(), nodes: vec![own], more: Vec::new(), expect: None };
        let frame = Frame::new(&request, Bytes::new());
        match node.peers.request::<ProposeReply>(by, Class::Foreground, frame, CALL_TIMEOUT).await {
            Ok(_) => return Some(Ok(())),
            Err(PeerError::Refused(failure)) if failure.code == FailureCode::Invalid => {
                return Some(Err(JoinError::Refused { node: me, by, reason: failure.message }));
            }
            // Should it have been taken all the same, another member says that it was.
            Err(error) => tracing::warn!(%by, %error, "a member has not taken the proposal to join"),
        }
    }
    None
}
