//! How a request finds a node that answers it.

use std::time::Duration;

use dynkv_net::{CallError, Class};
use dynkv_proto::{Digest, Failure, FailureCode, Frame, Message, kinds};
use dynkv_ring::{NodeId, PartitionId};
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::attempts::{Attempts, Next, Repeat, Setback};
use crate::detours::Ways;
use crate::inner::{Inner, lock};
use crate::view::ClusterView;

/// The pause after every node was tried in vain; it doubles up to the maximum.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A coordinator is told this part less than its caller waits, so that its answer arrives in time.
const ANSWER_SHARE: u32 = 10;

/// Who may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A home of the partition, or else any node, which forwards to one.
    Partition(PartitionId),
    /// Any node.
    Any,
    /// This one.
    Node(NodeId),
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Circle {
    /// The homes of a partition, or whoever else the request is for.
    Near,
    /// The others, which forward; looked at only when no home could answer.
    Far,
}

/// How a request is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) target: Target,
    /// The home that had best be asked first.
    pub(crate) preferred: Option<NodeId>,
    pub(crate) repeat: Repeat,
    pub(crate) class: Class,
    pub(crate) deadline: Instant,
}

/// A successful answer, read.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// The digest of the responder's history, where the answer has one.
    pub(crate) view: Digest,
    /// Who gave it, if not the one that was asked.
    pub(crate) coordinator: Option<NodeId>,
}

impl<T> Answer<T> {
    /// One by the node that was asked, or of which it does not matter who gave it.
    pub(crate) fn new(value: T, view: Digest) -> Answer<T> {
        Answer { value, view, coordinator: None }
    }
}

impl Inner {
    /// Makes a request until it is answered, cannot be, or its time is up.
    ///
    /// `request` makes the frame from what is left of the deadline, in milliseconds, and the attempts so far. `read` reads a frame that is not a failure.
    pub(crate) async fn run<T>(
        &self,
        call: Call,
        mut request: impl FnMut(u32, &Attempts) -> Frame,
        read: impl Fn(&Frame) -> Result<Answer<T>, Setback>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::new(call.repeat);
        let mut pause = PAUSE_FIRST;
        'round: loop {
            let view = self.view();
            for circle in [Circle::Near, Circle::Far] {
                for node in self.candidates(&view, &call, circle) {
                    loop {
                        let left = call.deadline.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            break 'round;
                        }
                        let limit = attempts.limit(left);
                        let timeout_ms = millis(limit - limit / ANSWER_SHARE);
                        let frame = || request(timeout_ms, &attempts);
                        let answered = self.ask(&view, node, call.class, limit, frame).await;
                        let setback = match answered.and_then(|frame| read(&frame)) {
                            Ok(answer) => {
                                self.observe(node, answer.view);
                                if let Target::Partition(partition) = call.target {
                                    let (coordinator, now) = (answer.coordinator, Instant::now());
                                    lock(&self.detours).answered(partition, node, coordinator, now);
                                }
                                return Ok(answer.value);
                            }
                            Err(setback) => setback,
                        };
                        tracing::debug!(%node, ?setback, "attempt failed");
                        self.blame(node, &setback);
                        match attempts.after(node, setback) {
                            Next::Same => {}
                            Next::Other => break,
                            Next::Refresh => {
                                // Without a newer view the next node may still know better.
                                let _ = self.refresh(Some(node), call.deadline).await;
                                if self.view().digest() != view.digest() {
                                    continue 'round;
                                }
                                break;
                            }
                            Next::GiveUp => return Err(attempts.into_error()),
                        }
                    }
                }
            }
            let left = call.deadline.saturating_duration_since(Instant::now());
            if left <= pause || !attempts.goes_round() {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(attempts.into_error())
    }

    /// The nodes to ask, best first. Connections to homes that have none are begun on the way, so that later requests find
    /// them.
    pub(crate) fn candidates(&self, view: &ClusterView, call: &Call, circle: Circle) -> Vec<NodeId> {
        match (call.target, circle) {
            (Target::Node(node), Circle::Near) => vec![node],
            (Target::Any, Circle::Near) => {
                let mut nodes: Vec<NodeId> =
                    view.membership().members().map(|state| state.member.id).collect();
                if nodes.is_empty() {
                    nodes = self.pool.nodes();
                    nodes.extend(view.nodes().map(|info| info.id));
                    nodes.sort_unstable();
                    nodes.dedup();
                }
                self.rank(nodes, call.preferred)
            }
            (Target::Node(_) | Target::Any, Circle::Far) => Vec::new(),
            (Target::Partition(partition), Circle::Near) => {
                let homes = view.ring().homes(partition);
                for home in homes {
                    if let Some(info) = view.node(home) {
                        self.pool.prepare(*home, &info.address);
                    }
                }
                let Ways { direct, detours } = lock(&self.detours).ways(partition, homes, Instant::now());
                let preferred = call.preferred.filter(|node| direct.contains(node));
                let mut nodes = self.rank(direct, preferred);
                nodes.extend(self.rank(detours, None));
                nodes
            }
            (Target::Partition(partition), Circle::Far) => {
                let homes = view.ring().homes(partition);
                let others = view.ring().preference(partition).map(|member| member.id);
                self.rank(others.filter(|node| !homes.contains(node)).collect(), None)
            }
        }
    }

    fn rank(&self, nodes: Vec<NodeId>, preferred: Option<NodeId>) -> Vec<NodeId> {
        let mut nodes: Vec<_> = nodes.into_iter().map(|node| (node, self.pool.reach(node))).collect();
        lock(&self.health).rank(&mut nodes, preferred, Instant::now());
        nodes.into_iter().map(|(node, _)| node).collect()
    }

    /// Makes sure that the view is of a founded cluster: one that is not, such as that of a client that connected before
    /// the founding, is refreshed before anything is said about it.
    pub(crate) async fn founded(&self, deadline: Instant) -> Result<(), Error> {
        if self.view().membership().founded() {
            return Ok(());
        }
        self.refresh(None, deadline).await?;
        if self.view().membership().founded() {
            return Ok(());
        }
        let message = format!(
            "cluster '{}' has not been founded yet: run `dyn cluster create`, or wait until it is",
            self.cluster
        );
        Err(Error::refused(FailureCode::NotServing, message))
    }

    /// One attempt at one node, connecting included.
    pub(crate) async fn ask(
        &self,
        view: &ClusterView,
        node: NodeId,
        class: Class,
        limit: Duration,
        frame: impl FnOnce() -> Frame,
    ) -> Result<Frame, Setback> {
        let started = Instant::now();
        let address = view.node(&node).map(|info| info.address.as_str());
        let connection = self.pool.connection(node, address, limit).await.map_err(Setback::NotSent)?;
        let connected = Instant::now();
        let left = limit.saturating_sub(connected - started);
        let frame = connection.call(class, frame(), left).await.map_err(call_setback)?;
        if frame.kind == kinds::FAILURE {
            let failure: Failure = read_reply(&frame)?;
            self.observe(node, failure.view);
            return Err(Setback::Failed(failure));
        }
        // Without the time to connect: that is paid once.
        let now = Instant::now();
        lock(&self.health).answered(node, now - connected, now);
        Ok(frame)
    }

    /// Lets `node` rest for a while if `setback` says that it is in trouble.
    pub(crate) fn blame(&self, node: NodeId, setback: &Setback) {
        let in_trouble = match setback {
            Setback::NotSent(_) | Setback::NoAnswer(_) | Setback::Damaged(_) => true,
            Setback::Failed(failure) => matches!(
                failure.code,
                FailureCode::NotServing
                    | FailureCode::Quorum
                    | FailureCode::Timeout
                    | FailureCode::Overloaded
                    | FailureCode::Storage
                    | FailureCode::NoAnswer
            ),
        };
        if in_trouble {
            lock(&self.health).failed(node, Instant::now());
            lock(&self.detours).failed(node);
        }
    }
}

/// Milliseconds for the wire: at least one, for zero would ask for nothing.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

pub(crate) fn call_setback(error: CallError) -> Setback {
    match error {
        // No other node takes it either.
        CallError::TooLarge { .. } => {
            Setback::Failed(Failure::not_done(FailureCode::TooLarge, error.to_string()))
        }
        CallError::TimedOut { timeout_ms, .. } => {
            Setback::NoAnswer(format!("no answer within {timeout_ms} ms"))
        }
        CallError::Lost { reason, .. } => Setback::NoAnswer(format!("the connection was lost ({reason})")),
        error if error.is_not_sent() => Setback::NotSent(error.to_string()),
        error => Setback::NoAnswer(error.to_string()),
    }
}

/// The message in an answer, which may be a failure.
pub(crate) fn read_reply<M: Message>(frame: &Frame) -> Result<M, Setback> {
    let read =
        |error: dynkv_proto::DecodeError| Setback::NoAnswer(format!("its answer cannot be read ({error})"));
    if frame.kind == kinds::FAILURE {
        return Err(Setback::Failed(frame.message().map_err(read)?));
    }
    frame.message().map_err(read)
}
