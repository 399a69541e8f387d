//! Handing a request to a node that can coordinate it (paper, section 4.3), or standing in for it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{FailureCode, Frame, Hops};
use dynkv_ring::NodeId;

use super::{Answer, Context, Coordinated, failure, follow, unknown};
use crate::{metrics::Ending, peers::PeerError, shared::Shared};

/// Times that homes may say that others are homes now.
const MOVES_MAX: usize = 4;

/// Tries the homes in the order of their latency, the next one only when the one before certainly did nothing: a second
/// coordinator for a put that may have been carried out is the client's decision, which knows to say that it is a retry.
pub(super) async fn forward<R: Coordinated>(
    node: Arc<Shared>,
    mut context: Context,
    mut request: R,
    body: Bytes,
    answer: Answer,
) {
    let Some(partition) = request.partition(&context.view) else {
        let message = "there is no such partition: refresh the view of the cluster".to_owned();
        return answer.failed(&failure(&context.view, FailureCode::Invalid, message));
    };
    *request.way().1 = Hops(1);
    let mut errors = Vec::new();
    let mut moves = 0;
    let mut homes = in_order::<R>(&node, &context);
    while let Some(home) = homes.pop_front() {
        let left = context.time_left();
        *request.way().0 = left.as_millis() as u32;
        let frame = Frame::new(&request, body.clone());
        match node.peers.call(home, Class::Foreground, frame, left).await {
            Ok(frame) => return answer.end(Ending::Forwarded, frame),
            Err(PeerError::Refused(refusal)) if refusal.code == FailureCode::NotHome && moves < MOVES_MAX => {
                moves += 1;
                let before = context.members.epoch;
                follow(&node, &mut context, partition, vec![home]).await;
                if context.members.epoch != before {
                    homes = in_order::<R>(&node, &context);
                }
                errors.push(format!("{home}: {refusal}"));
            }
            Err(PeerError::Refused(refusal)) if refusal.code != FailureCode::NotServing => {
                return answer.failed(&refusal);
            }
            Err(error) if error.is_not_done() => errors.push(format!("{home}: {error}")),
            Err(error) => {
                let message = format!("node {home}, to which this was forwarded, gave no answer: {error}");
                return answer.failed(&unknown(&context.view, FailureCode::NoAnswer, message));
            }
        }
    }
    if R::FALLS_BACK {
        // Certainly none of them has begun: writes must stay possible, and the paper's preference list goes on.
        return request.run(node, context, body, answer).await;
    }
    let message = format!("no replica of this key can be reached ({}): see `dyn status`", errors.join("; "));
    answer.failed(&failure(&context.view, FailureCode::Quorum, message));
}

/// The homes to try, the fastest first. Those that are known to be out of reach would cost the time that standing in for them takes.
fn in_order<R: Coordinated>(node: &Shared, context: &Context) -> VecDeque<NodeId> {
    let mut homes: Vec<NodeId> = (context.members.homes.iter().copied())
        .filter(|home| *home != node.cluster.me.id && (!R::FALLS_BACK || node.peers.is_reachable(*home)))
        .collect();
    node.peers.sort_by_latency(&mut homes);
    homes.into()
}
