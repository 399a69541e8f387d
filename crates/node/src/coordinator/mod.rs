//! Coordinating clients' requests: one task per request, one small pure value that counts answers and decides.
//!
//! A home of the key coordinates; any other node forwards ([`forward`]), and stands in when no home can be reached.

mod forward;
mod get;
mod list;
mod put;
mod quorum;
mod replicate;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dynkv_net::Responder;
use dynkv_proto::{
    BucketProperties, Failure, FailureCode, Frame, Get, Hops, List, Message, Outcome, Put, Request,
    check_bucket_name,
};
use dynkv_ring::{NodeId, PartitionId, Position};
use futures_util::future::join_all;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    chain::{self, Members},
    cluster::View,
    key::Key,
    metrics::{Ending, Metrics, Operation},
    put_ids::RETRY_WINDOW,
    shared::Shared,
};

/// The way back to the client: answered exactly once, counted, and the request's permit freed with it.
pub(crate) struct Answer {
    responder: Responder,
    operation: Operation,
    arrived: Instant,
    node: Arc<Shared>,
    _in_flight: InFlight,
}

/// Counts a request as under way for as long as it lives.
struct InFlight {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Answer {
    fn done<M: Message>(self, message: &M, body: Bytes) {
        self.end(Ending::Done, Frame::new(message, body));
    }

    fn failed(self, failure: &Failure) {
        let ending = match failure.outcome {
            Outcome::NotDone => Ending::NotDone,
            Outcome::Unknown => Ending::Unknown,
        };
        self.end(ending, Frame::new(failure, Bytes::new()));
    }

    fn end(self, ending: Ending, frame: Frame) {
        let took = self.arrived.elapsed();
        self.node.metrics.request_ended(self.operation, ending);
        self.node.metrics.request_seconds.observe(took.as_secs_f64());
        self.node.background.observe_foreground(self.operation.into(), took);
        self.responder.send(frame);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
    }
}

/// A client request that a node can coordinate or forward.
pub(crate) trait Coordinated: Request {
    fn operation(&self) -> Operation;
    fn bucket(&self) -> &str;

    /// Where it belongs; `None` when there is no such partition.
    fn partition(&self, view: &View) -> Option<PartitionId>;

    /// What is left of its deadline, in milliseconds, and how often it was forwarded.
    fn way(&mut self) -> (&mut u32, &mut Hops);

    /// Whether a node that is no home coordinates it when no home can be reached.
    const FALLS_BACK: bool;

    /// Carries it out on a node that can, and answers.
    fn run(
        self,
        node: Arc<Shared>,
        context: Context,
        body: Bytes,
        answer: Answer,
    ) -> impl Future<Output = ()> + Send;
}

/// What every coordinated request works under.
pub(crate) struct Context {
    pub(crate) view: Arc<View>,
    /// Who serves its partition: nobody if there is no such partition. A request that waits for the next ones goes on under those.
    pub(crate) members: Arc<Members>,
    pub(crate) properties: BucketProperties,
    pub(crate) deadline: Instant,
    /// Whether another node has sent it here.
    pub(crate) forwarded: bool,
}

impl Context {
    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// How long a request waits for the members that follow before it tries those that it knows once more: a few round trips.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Takes a client's request: checks it, then coordinates or forwards it in a task of its own.
pub(crate) fn accept<R: Coordinated + Send + 'static>(
    node: &Arc<Shared>,
    mut request: R,
    body: Bytes,
    responder: Responder,
) {
    let Ok(permit) = node.requests.clone().try_acquire_owned() else {
        node.metrics.requests_refused_overload.inc();
        let failure = Failure::not_done(
            FailureCode::Overloaded,
            format!(
                "{} requests are under way on node {}: try again after a pause",
                crate::shared::REQUESTS_MAX,
                node.cluster.me.id
            ),
        );
        responder.send(Frame::new(&failure, Bytes::new()));
        return;
    };
    node.metrics.requests_in_flight.inc();
    let in_flight = InFlight { metrics: node.metrics.clone(), _permit: permit };
    let answer = Answer {
        responder,
        operation: request.operation(),
        arrived: Instant::now(),
        node: node.clone(),
        _in_flight: in_flight,
    };
    let view = node.cluster.view();
    if let Err(reason) = node.cluster.serving(&view) {
        return answer.failed(&failure(&view, FailureCode::NotServing, reason.to_string()));
    }
    if let Err(error) = check_bucket_name(request.bucket()) {
        return answer.failed(&failure(&view, FailureCode::Invalid, error.to_string()));
    }
    let (timeout_ms, hops) = request.way();
    let (timeout, forwarded) = (Duration::from_millis(u64::from(*timeout_ms)).min(RETRY_WINDOW), hops.0 > 0);
    let properties = view.buckets.get(request.bucket()).clone();
    let members = match request.partition(&view) {
        Some(partition) => node.chain.members(partition),
        None => Arc::default(),
    };
    let context = Context { deadline: answer.arrived + timeout, properties, view, members, forwarded };
    let node = node.clone();
    let is_home = context.members.homes.contains(&node.cluster.me.id);
    if is_home {
        tokio::spawn(request.run(node, context, body, answer));
    } else if !forwarded {
        tokio::spawn(forward::forward(node, context, request, body, answer));
    } else {
        let message = format!("node {} is no home of this key, as far as it knows", node.cluster.me.id);
        answer.failed(&failure(&context.view, FailureCode::NotHome, message));
    }
}

/// Waits for the members that follow those of `context`, because some of these, `elsewhere`, have said that they serve nobody at its epoch. They are asked for what they know, and a
/// decision that is under way is waited for a little: the caller tries again. Says whether there is time for that.
async fn follow(
    node: &Arc<Shared>,
    context: &mut Context,
    partition: PartitionId,
    elsewhere: Vec<NodeId>,
) -> bool {
    node.metrics.requests_started_over.inc();
    let mut news = node.chain.subscribe();
    let told = elsewhere.into_iter().map(|other| chain::spread::agree(node, other, partition));
    let until = context.deadline.min(Instant::now() + FOLLOW_PAUSE);
    drop(tokio::time::timeout_at(until, join_all(told)).await);
    while node.chain.members(partition).epoch == context.members.epoch {
        if tokio::time::timeout_at(until, news.changed()).await.is_err() {
            break;
        }
    }
    context.members = node.chain.members(partition);
    Instant::now() < context.deadline
}

/// A refusal that says under which view it was made.
fn failure(view: &View, code: FailureCode, message: String) -> Failure {
    Failure { view: view.digest, ..Failure::not_done(code, message) }
}

/// An unknown outcome that says under which view it came about.
fn unknown(view: &View, code: FailureCode, message: String) -> Failure {
    Failure { view: view.digest, ..Failure::unknown(code, message) }
}

/// The key of a request, if it can be one.
fn checked_key(view: &View, bucket: &str, key: &Bytes) -> Result<Key, Failure> {
    if key.is_empty() {
        return Err(failure(
            view,
            FailureCode::Invalid,
            "the key is empty: give it at least one byte".into(),
        ));
    }
    Ok(Key::new(bucket.to_owned(), key.clone(), view.membership.partitions()))
}

/// The bucket's properties with what a request says otherwise, checked against the cluster's n and capped to the
/// number of homes that there are.
fn effective(
    context: &Context,
    homes: usize,
    set: impl FnOnce(&mut BucketProperties),
) -> Result<BucketProperties, Failure> {
    let n = context.view.membership.replicas();
    let homes = homes.min(usize::from(n)) as u8;
    let cap = |properties: &mut BucketProperties, n: u8| {
        for quorum in
            [&mut properties.r, &mut properties.w, &mut properties.dw, &mut properties.pr, &mut properties.pw]
        {
            *quorum = (*quorum).min(n);
        }
    };
    let mut properties = context.properties.clone();
    cap(&mut properties, n);
    set(&mut properties);
    properties.check(n).map_err(|error| failure(&context.view, FailureCode::Invalid, error.to_string()))?;
    cap(&mut properties, homes);
    Ok(properties)
}

fn partition_of(view: &View, bucket: &str, key: &[u8]) -> PartitionId {
    Position::of(bucket, key).partition(view.membership.partitions())
}

impl Coordinated for Get {
    const FALLS_BACK: bool = true;

    fn operation(&self) -> Operation {
        Operation::Get
    }
    fn bucket(&self) -> &str {
        &self.bucket
    }
    fn partition(&self, view: &View) -> Option<PartitionId> {
        Some(partition_of(view, &self.bucket, &self.key))
    }
    fn way(&mut self) -> (&mut u32, &mut Hops) {
        (&mut self.timeout_ms, &mut self.hops)
    }
    async fn run(self, node: Arc<Shared>, context: Context, _: Bytes, answer: Answer) {
        get::get(node, context, self, answer).await;
    }
}

impl Coordinated for Put {
    const FALLS_BACK: bool = true;

    fn operation(&self) -> Operation {
        if self.tombstone { Operation::Delete } else { Operation::Put }
    }
    fn bucket(&self) -> &str {
        &self.bucket
    }
    fn partition(&self, view: &View) -> Option<PartitionId> {
        Some(partition_of(view, &self.bucket, &self.key))
    }
    fn way(&mut self) -> (&mut u32, &mut Hops) {
        (&mut self.timeout_ms, &mut self.hops)
    }
    async fn run(self, node: Arc<Shared>, context: Context, body: Bytes, answer: Answer) {
        put::put(node, context, self, body, answer).await;
    }
}

impl Coordinated for List {
    // What is kept for others is not sorted by key.
    const FALLS_BACK: bool = false;

    fn operation(&self) -> Operation {
        Operation::List
    }
    fn bucket(&self) -> &str {
        &self.bucket
    }
    fn partition(&self, view: &View) -> Option<PartitionId> {
        (self.partition < view.membership.partitions().get()).then_some(PartitionId(self.partition))
    }
    fn way(&mut self) -> (&mut u32, &mut Hops) {
        (&mut self.timeout_ms, &mut self.hops)
    }
    async fn run(self, node: Arc<Shared>, context: Context, _: Bytes, answer: Answer) {
        list::list(node, context, self, answer).await;
    }
}
