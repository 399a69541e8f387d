//! Asking several nodes the same at once.

use std::future::IntoFuture;

use dynkv_client::Error;
use dynkv_client::proto::RunState;
use dynkv_client::ring::NodeId;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A node and what it answered.
pub(crate) struct Row<T> {
    pub(crate) node: NodeId,
    pub(crate) answer: Result<T, Error>,
}

impl<T> Row<T> {
    /// The node and its answer, if it gave one.
    pub(crate) fn answered(&self) -> Option<(NodeId, &T)> {
        Some((self.node, self.answer.as_ref().ok()?))
    }
}

/// Asks all of `nodes` at once: one that is down must not hold up the others. In the order of the nodes' names.
pub(crate) async fn ask_each<T, Q>(nodes: &[NodeId], question: impl Fn(NodeId) -> Q) -> Vec<Row<T>>
where
    T: Send + 'static,
    Q: IntoFuture<Output = Result<T, Error>>,
    Q::IntoFuture: Send + 'static,
{
    let mut asked = JoinSet::new();
    for &node in nodes {
        let question = question(node).into_future();
        asked.spawn(async move { Row { node, answer: question.await } });
    }
    let mut rows = asked.join_all().await;
    rows.sort_by_key(|row| row.node);
    rows
}

/// The nodes that did not answer, and why.
pub(crate) fn silent<T>(rows: &[Row<T>]) -> Vec<(NodeId, &Error)> {
    rows.iter().filter_map(|row| Some((row.node, row.answer.as_ref().err()?))).collect()
}

/// Silent nodes as text: `n1, n2`.
pub(crate) fn names(silent: &[(NodeId, &Error)]) -> String {
    silent.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>().join(", ")
}

/// Why a node is silent, for people. What was tried in vain, and why, is for --json.
pub(crate) fn silence(error: &Error) -> String {
    match error {
        Error::Connect { .. } => "is down, or cannot be reached from here".into(),
        other => other.to_string(),
    }
}

pub(crate) fn silent_json<T>(rows: &[Row<T>]) -> Value {
    let nodes = silent(rows).into_iter();
    nodes.map(|(node, error)| json!({"node": node.to_string(), "error": error.to_string()})).collect()
}

/// How a repair or a verification stands, with so many errors.
pub(crate) fn run_state(state: RunState, errors: u64) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Done if errors > 0 => "done in part",
        RunState::Done => "done",
        RunState::Stopped => "stopped",
        RunState::Failed => "failed",
    }
}
