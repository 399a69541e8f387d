//! What operators ask: status, metrics, hints, and changes of the history.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    Blob, Digest, DrainHintsReply, FailureCode, Frame, HintsReply, Message, MetricsReply, NodeInfo,
    ProposeReply, StatusReply,
};
use dynkv_ring::{Change, Entry, History, NodeId, Plan};
use tokio::time::{Instant, timeout_at};

use crate::Error;
use crate::attempts::{Attempts, Repeat, Setback};
use crate::client::deadline;
use crate::inner::Inner;
use crate::request::{Answer, Call, Target, call_setback, read_reply};

/// Whom to ask.
#[derive(Clone, Debug)]
pub(crate) enum Whom {
    Anyone,
    Node(NodeId),
    Address(String),
}

/// Makes a request that is not about a key.
pub(crate) async fn ask<M: Message, T>(
    inner: &Arc<Inner>,
    whom: &Whom,
    repeat: Repeat,
    deadline: Instant,
    request: &M,
    read: impl Fn(&Frame) -> Result<Answer<T>, Setback>,
) -> Result<T, Error> {
    let frame = Frame::new(request, Bytes::new());
    let target = match whom {
        Whom::Anyone => Target::Any,
        Whom::Node(node) => {
            let view = inner.view();
            if view.node(node).is_none() && !inner.pool.nodes().contains(node) {
                let known: Vec<_> = view.nodes().map(|info| info.id.to_string()).collect();
                let message =
                    format!("there is no node {node} in the cluster: use one of {}", known.join(", "));
                return Err(Error::refused(FailureCode::Invalid, message));
            }
            Target::Node(*node)
        }
        Whom::Address(address) => {
            let late = || Error::Connect {
                message: format!("{address}: no connection in time: check that the node runs"),
            };
            let (node, connection) = timeout_at(deadline, inner.pool.at(address))
                .await
                .map_err(|_| late())?
                .map_err(|message| Error::Connect { message })?;
            let left = deadline.saturating_duration_since(Instant::now());
            let answered = connection.call(Class::Foreground, frame, left).await.map_err(call_setback);
            return answered.and_then(|frame| read(&frame)).map(|answer| answer.value).map_err(|setback| {
                let mut attempts = Attempts::new(repeat);
                attempts.after(node, setback);
                attempts.into_error()
            });
        }
    };
    let call = Call { target, preferred: None, repeat, class: Class::Foreground, deadline };
    inner.run(call, |_, _| frame.clone(), read).await
}

/// Makes a builder a future, which may be given a time limit.
macro_rules! into_future {
    ($type:ident -> $output:ty) => {
        impl IntoFuture for $type {
            type Output = Result<$output, Error>;
            type IntoFuture = Pin<Box<dyn Future<Output = Result<$output, Error>> + Send>>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }

        impl $type {
            /// How long it may take; [`Options::timeout`](crate::Options::timeout) unless set.
            pub fn timeout(mut self, timeout: Duration) -> $type {
                self.timeout = Some(timeout);
                self
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).field("whom", &self.whom).finish_non_exhaustive()
            }
        }
    };
}

/// A question about a node to be awaited; made by [`Client::status`](crate::Client::status) and
/// [`Client::status_at`](crate::Client::status_at).
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Status {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

pub(crate) use into_future;

into_future!(Status -> StatusReply);

impl Status {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Status {
        Status { inner, whom: Whom::Node(node), timeout: None }
    }

    pub(crate) fn at(inner: Arc<Inner>, address: String) -> Status {
        Status { inner, whom: Whom::Address(address), timeout: None }
    }

    async fn run(self) -> Result<StatusReply, Error> {
        let request = dynkv_proto::Status { reserved: 0 };
        let read = |frame: &Frame| {
            let reply: StatusReply = read_reply(frame)?;
            let view = reply.view;
            Ok(Answer::new(reply, view))
        };
        let deadline = deadline(&self.inner, self.timeout);
        ask(&self.inner, &self.whom, Repeat::Read, deadline, &request, read).await
    }
}

/// A question for a node's metrics to be awaited; made by [`Client::metrics`](crate::Client::metrics).
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Metrics {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

into_future!(Metrics -> String);

impl Metrics {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Metrics {
        Metrics { inner, whom: Whom::Node(node), timeout: None }
    }

    async fn run(self) -> Result<String, Error> {
        let request = dynkv_proto::Metrics { reserved: 0 };
        let read = |frame: &Frame| {
            let reply: MetricsReply = read_reply(frame)?;
            Ok(Answer::new(reply.text, Digest::default()))
        };
        let deadline = deadline(&self.inner, self.timeout);
        ask(&self.inner, &self.whom, Repeat::Read, deadline, &request, read).await
    }
}

/// A question for the hints that a node keeps to be awaited; made by [`Client::hints`](crate::Client::hints).
///
/// Totals for all targets always come with the answer; single hints only for the [target](Hints::target) that is named.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let kept = client.hints("n1".parse()?).await?;
/// for totals in &kept.totals {
///     println!("{} keeps {} hints for {}", kept.node, totals.hints, totals.target);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Hints {
    inner: Arc<Inner>,
    whom: Whom,
    target: Option<NodeId>,
    after: Option<u64>,
    limit: u32,
    timeout: Option<Duration>,
}

into_future!(Hints -> HintsReply);

impl Hints {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Hints {
        Hints { inner, whom: Whom::Node(node), target: None, after: None, limit: 100, timeout: None }
    }

    /// Also lists single hints for this node, oldest first.
    pub fn target(mut self, target: NodeId) -> Hints {
        self.target = Some(target);
        self
    }

    /// Lists only hints behind this one, by its [`sequence`](dynkv_proto::HintEntry::sequence): the next page.
    pub fn after(mut self, sequence: u64) -> Hints {
        self.after = Some(sequence);
        self
    }

    /// How many single hints to list at most; 100 unless set. A node lists no more than 1000 at once.
    pub fn limit(mut self, limit: u32) -> Hints {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<HintsReply, Error> {
        let Hints { inner, whom, target, after, limit, timeout } = self;
        let request = dynkv_proto::Hints { target, after, limit };
        let read = |frame: &Frame| Ok(Answer::new(read_reply::<HintsReply>(frame)?, Digest::default()));
        ask(&inner, &whom, Repeat::Read, deadline(&inner, timeout), &request, read).await
    }
}

/// An order to deliver hints at once, to be awaited; made by [`Client::drain_hints`](crate::Client::drain_hints).
///
/// The answer says how many there are to deliver. [`Client::hints`](crate::Client::hints) then shows how it goes.
#[derive(Clone)]
#[must_use = "an order does nothing until it is awaited"]
pub struct DrainHints {
    inner: Arc<Inner>,
    whom: Whom,
    target: Option<NodeId>,
    timeout: Option<Duration>,
}

into_future!(DrainHints -> DrainHintsReply);

impl DrainHints {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> DrainHints {
        DrainHints { inner, whom: Whom::Node(node), target: None, timeout: None }
    }

    /// Only those for this node.
    pub fn target(mut self, target: NodeId) -> DrainHints {
        self.target = Some(target);
        self
    }

    async fn run(self) -> Result<DrainHintsReply, Error> {
        let DrainHints { inner, whom, target, timeout } = self;
        let request = dynkv_proto::DrainHints { target };
        let read = |frame: &Frame| Ok(Answer::new(read_reply::<DrainHintsReply>(frame)?, Digest::default()));
        // To begin twice is to begin once.
        ask(&inner, &whom, Repeat::Read, deadline(&inner, timeout), &request, read).await
    }
}

/// A change of the history to be awaited; made by [`Client::propose`](crate::Client::propose).
///
/// It goes to one node, from which the others learn it. It is not repeated once it may have been carried out: an
/// [unknown](Error::Unknown) answer is for the operator to look into, with [`Client::refresh`](crate::Client::refresh).
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use dynkv_client::proto::BucketChange;
///
/// let mut change = BucketChange::new("sessions");
/// change.set("conflict", "lww")?;
/// client.propose(change.to_change(), vec![]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a change does nothing until it is awaited"]
pub struct Propose {
    inner: Arc<Inner>,
    whom: Whom,
    change: Change,
    /// Those that come with it.
    more: Vec<Change>,
    nodes: Vec<NodeInfo>,
    expect: Option<Digest>,
    timeout: Option<Duration>,
}

into_future!(Propose -> Entry);

impl Propose {
    pub(crate) fn new(inner: Arc<Inner>, change: Change, nodes: Vec<NodeInfo>) -> Propose {
        Propose { inner, whom: Whom::Anyone, change, more: Vec::new(), nodes, expect: None, timeout: None }
    }

    pub(crate) fn with(self, more: Vec<Change>) -> Propose {
        Propose { more, ..self }
    }

    /// Proposes it to this node.
    pub fn to(mut self, node: NodeId) -> Propose {
        self.whom = Whom::Node(node);
        self
    }

    /// Proposes it to whichever node is at `address` (`host:port`): for nodes that no view knows yet.
    pub fn at(mut self, address: impl Into<String>) -> Propose {
        self.whom = Whom::Address(address.into());
        self
    }

    /// Only if the node's history has this digest at the moment at which the change becomes part of it; otherwise it is refused
    /// with [`FailureCode::HistoryMoved`]. Unless set, whatever the history is.
    pub fn expect(mut self, history: Digest) -> Propose {
        self.expect = Some(history);
        self
    }

    async fn run(self) -> Result<Entry, Error> {
        let Propose { inner, whom, change, more, nodes, expect, timeout } = self;
        let changes = std::iter::once(change).chain(more).collect();
        let entries = commit(&inner, &whom, changes, nodes, expect, timeout).await?;
        entries.into_iter().next().ok_or_else(|| Error::Unknown {
            code: None,
            node: None,
            put_id: None,
            message: "a node said that it made the change, but not when: look at the history".into(),
        })
    }
}

/// The changes of a plan to be awaited; made by [`Client::apply`](crate::Client::apply).
///
/// All of them become part of the history, at once, or none does: that of the node which takes them must be the one that the plan
/// was made of, or they are refused with [`FailureCode::HistoryMoved`]. Another node may take other changes at the same moment;
/// then both take effect.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use dynkv_client::ring::{Change, Plan};
///
/// let view = client.view();
/// let place = Change::Place { node: "n1".parse()?, zone: "eu-a".into(), host: String::new() };
/// let plan = Plan::new(view.history(), [place])?;
/// if plan.moves().is_empty() && plan.warnings().is_empty() {
///     client.apply(&plan, vec![]).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "changes do nothing until they are awaited"]
pub struct Apply {
    inner: Arc<Inner>,
    whom: Whom,
    changes: Vec<Change>,
    nodes: Vec<NodeInfo>,
    expect: Digest,
    timeout: Option<Duration>,
}

into_future!(Apply -> Vec<Entry>);

impl Apply {
    pub(crate) fn new(inner: Arc<Inner>, plan: &Plan, nodes: Vec<NodeInfo>) -> Apply {
        let expect = Digest(u128::from_be_bytes(plan.history_digest()));
        Apply { inner, whom: Whom::Anyone, changes: plan.changes().to_vec(), nodes, expect, timeout: None }
    }

    /// Proposes them to this node.
    pub fn to(mut self, node: NodeId) -> Apply {
        self.whom = Whom::Node(node);
        self
    }

    async fn run(self) -> Result<Vec<Entry>, Error> {
        let Apply { inner, whom, changes, nodes, expect, timeout } = self;
        commit(&inner, &whom, changes, nodes, Some(expect), timeout).await
    }
}

/// Has a node make changes part of the history, and takes the entries into this client's view.
async fn commit(
    inner: &Arc<Inner>,
    whom: &Whom,
    changes: Vec<Change>,
    nodes: Vec<NodeInfo>,
    expect: Option<Digest>,
    timeout: Option<Duration>,
) -> Result<Vec<Entry>, Error> {
    // Time and issuer are the node's to say; something must stand in their place.
    let issuer = NodeId::try_from("client").expect("a valid node id");
    let blob = |change| Entry::new(0, issuer, change).map(|entry| entry.to_bytes().into());
    let blobs = changes.into_iter().map(blob).collect::<Result<Vec<Blob>, _>>();
    let mut blobs = blobs.map_err(|error| Error::refused(FailureCode::Invalid, error))?.into_iter();
    let Some(entry) = blobs.next() else {
        return Err(Error::refused(FailureCode::Invalid, "there is nothing to change: name a change"));
    };
    let request = dynkv_proto::Propose { entry, nodes: nodes.clone(), more: blobs.collect(), expect };
    let read = |frame: &Frame| {
        let reply: ProposeReply = read_reply(frame)?;
        let entries = std::iter::once(&reply.entry).chain(&reply.more).map(|blob| Entry::from_bytes(blob));
        let entries = entries
            .collect::<Result<Vec<Entry>, _>>()
            .map_err(|error| Setback::NoAnswer(format!("its answer cannot be read ({error})")))?;
        Ok(Answer::new(entries, reply.view))
    };
    let entries = ask(inner, whom, Repeat::Once, deadline(inner, timeout), &request, read).await?;
    let mut history = History::new();
    let fits = entries.iter().all(|entry| history.insert(entry.clone()).is_ok());
    let known = fits.then(|| inner.update(|view| view.with(&history, nodes)));
    if !matches!(known, Some(Ok(_))) {
        tracing::warn!("the changes do not fit into this client's history");
    }
    Ok(entries)
}
