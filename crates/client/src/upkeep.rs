//! What operators ask about replicas, and what they have nodes do for them: trees, differences, repairs, verifications, and what
//! each node holds of a key.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_proto::{
    DiffReply, Digest, Frame, HeldReply, RepairReply, RepairStatusReply, Request, StopRepairReply,
    StopVerifyReply, TreesReply, VerifyReply, VerifyStatusReply,
};
use dynkv_ring::NodeId;
use tokio::time::Instant;

use crate::Error;
use crate::admin::{Whom, ask, into_future};
use crate::attempts::Repeat;
use crate::client::deadline;
use crate::inner::Inner;
use crate::request::{Answer, read_reply};

/// Asks one node. What is asked here may be asked twice: to begin or to end something twice is to do so once.
pub(crate) async fn ask_one<R: Request>(
    inner: &Arc<Inner>,
    whom: &Whom,
    deadline: Instant,
    repeat: Repeat,
    request: &R,
) -> Result<R::Reply, Error> {
    let read = |frame: &Frame| Ok(Answer::new(read_reply::<R::Reply>(frame)?, Digest::default()));
    ask(inner, whom, repeat, deadline, request, read).await
}

/// A question for a node's Merkle trees to be awaited; made by [`Client::trees`](crate::Client::trees).
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let reply = client.trees("n1".parse()?).await?;
/// for tree in &reply.trees {
///     println!("partition {}: {:?}, {} entries", tree.partition, tree.root, tree.entries);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Trees {
    inner: Arc<Inner>,
    whom: Whom,
    partition: Option<u32>,
    after: Option<u32>,
    limit: u32,
    timeout: Option<Duration>,
}

into_future!(Trees -> TreesReply);

impl Trees {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Trees {
        Trees { inner, whom: Whom::Node(node), partition: None, after: None, limit: 1000, timeout: None }
    }

    /// Only the tree of this partition.
    pub fn partition(mut self, partition: u32) -> Trees {
        self.partition = Some(partition);
        self
    }

    /// Only those of partitions behind this one: the next page.
    pub fn after(mut self, partition: u32) -> Trees {
        self.after = Some(partition);
        self
    }

    /// How many trees at most; 1000 unless set. A node sends no more than 4096 at once.
    pub fn limit(mut self, limit: u32) -> Trees {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<TreesReply, Error> {
        let Trees { inner, whom, partition, after, limit, timeout } = self;
        let request = dynkv_proto::Trees { partition, after, limit };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// A comparison of two nodes to be awaited; made by [`Client::diff`](crate::Client::diff).
///
/// Writes that are on their way are differences, too, for some milliseconds. Nothing is changed.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let found = client.diff("n1".parse()?, "n2".parse()?).keys(100).await?;
/// for key in &found.keys {
///     println!("{}/{:?}: {:?}", key.bucket, key.key, key.relation);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Diff {
    inner: Arc<Inner>,
    whom: Whom,
    peer: NodeId,
    partition: Option<u32>,
    keys: Option<u32>,
    timeout: Option<Duration>,
}

into_future!(Diff -> DiffReply);

impl Diff {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId, peer: NodeId) -> Diff {
        Diff { inner, whom: Whom::Node(node), peer, partition: None, keys: None, timeout: None }
    }

    /// Only this partition.
    pub fn partition(mut self, partition: u32) -> Diff {
        self.partition = Some(partition);
        self
    }

    /// Names keys, at most so many; a node names no more than 1000 at once. Unless set only partitions are named. The states
    /// of these keys are read and compared.
    pub fn keys(mut self, limit: u32) -> Diff {
        self.keys = Some(limit);
        self
    }

    async fn run(self) -> Result<DiffReply, Error> {
        let Diff { inner, whom, peer, partition, keys, timeout } = self;
        let deadline = deadline(&inner, timeout);
        // The answer needs some of it for its way.
        let left = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
        let request = dynkv_proto::Diff {
            peer,
            partition,
            keys: keys.is_some(),
            limit: keys.unwrap_or_default(),
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        };
        // It takes long, and costs two nodes something: once.
        ask_one(&inner, &whom, deadline, Repeat::Once, &request).await
    }
}

/// A question what one node itself holds of a key, to be awaited; made by [`Client::held`](crate::Client::held).
///
/// Other than a read, it shows the replica as it is, hints among it, and repairs nothing.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let reply = client.held("n1".parse()?, "carts", "alice").await?;
/// for state in &reply.states {
///     println!("{} versions, hint for {:?}", state.versions.len(), state.hint_for);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct Held {
    inner: Arc<Inner>,
    whom: Whom,
    bucket: String,
    key: Bytes,
    timeout: Option<Duration>,
}

into_future!(Held -> HeldReply);

impl Held {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId, bucket: String, key: Bytes) -> Held {
        Held { inner, whom: Whom::Node(node), bucket, key, timeout: None }
    }

    async fn run(self) -> Result<HeldReply, Error> {
        let Held { inner, whom, bucket, key, timeout } = self;
        let request = dynkv_proto::Held { bucket, key: key.into() };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// An order to repair, to be awaited; made by [`Client::repair`](crate::Client::repair).
///
/// The answer comes when the repair has begun; [`Client::repair_status`](crate::Client::repair_status) shows how it goes. A node makes one at
/// a time: if another is under way the answer says so, and nothing was begun.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use dynkv_client::proto::RunState;
///
/// let node = "n1".parse()?;
/// client.repair(node).await?;
/// while client.repair_status(node).await?.run.is_some_and(|run| run.state == RunState::Running) {
///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "an order does nothing until it is awaited"]
pub struct Repair {
    inner: Arc<Inner>,
    whom: Whom,
    partition: Option<u32>,
    timeout: Option<Duration>,
}

into_future!(Repair -> RepairReply);

impl Repair {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Repair {
        Repair { inner, whom: Whom::Node(node), partition: None, timeout: None }
    }

    /// Only this partition.
    pub fn partition(mut self, partition: u32) -> Repair {
        self.partition = Some(partition);
        self
    }

    async fn run(self) -> Result<RepairReply, Error> {
        let Repair { inner, whom, partition, timeout } = self;
        let request = dynkv_proto::Repair { partition };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// An order to verify what a node has on disk, to be awaited; made by [`Client::verify`](crate::Client::verify).
///
/// The answer comes when the verification has begun, or if one is under way already;
/// [`Client::verify_status`](crate::Client::verify_status) shows how it goes.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let begun = client.verify("n1".parse()?).rate(8 * 1024 * 1024).await?;
/// println!("verification {} reads {} bytes a second", begun.run.number, begun.run.rate_bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "an order does nothing until it is awaited"]
pub struct Verify {
    inner: Arc<Inner>,
    whom: Whom,
    rate_bytes: Option<u64>,
    timeout: Option<Duration>,
}

into_future!(Verify -> VerifyReply);

impl Verify {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> Verify {
        Verify { inner, whom: Whom::Node(node), rate_bytes: None, timeout: None }
    }

    /// How many bytes to read in a second at most; the node's default unless set. One that is under way takes it over.
    pub fn rate(mut self, bytes: u64) -> Verify {
        self.rate_bytes = Some(bytes);
        self
    }

    async fn run(self) -> Result<VerifyReply, Error> {
        let Verify { inner, whom, rate_bytes, timeout } = self;
        let request = dynkv_proto::Verify { rate_bytes };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// A question how a node's repair stands, to be awaited; made by [`Client::repair_status`](crate::Client::repair_status). Asking
/// changes nothing.
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct RepairStatus {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

into_future!(RepairStatus -> RepairStatusReply);

impl RepairStatus {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> RepairStatus {
        RepairStatus { inner, whom: Whom::Node(node), timeout: None }
    }

    async fn run(self) -> Result<RepairStatusReply, Error> {
        let RepairStatus { inner, whom, timeout } = self;
        let request = dynkv_proto::RepairStatus { reserved: 0 };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// An order to end a node's repair, to be awaited; made by [`Client::stop_repair`](crate::Client::stop_repair). The comparisons that
/// nodes make by themselves go on.
#[derive(Clone)]
#[must_use = "an order does nothing until it is awaited"]
pub struct StopRepair {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

into_future!(StopRepair -> StopRepairReply);

impl StopRepair {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> StopRepair {
        StopRepair { inner, whom: Whom::Node(node), timeout: None }
    }

    async fn run(self) -> Result<StopRepairReply, Error> {
        let StopRepair { inner, whom, timeout } = self;
        let request = dynkv_proto::StopRepair { reserved: 0 };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// A question how a node's verification stands, to be awaited; made by
/// [`Client::verify_status`](crate::Client::verify_status). Asking changes nothing.
#[derive(Clone)]
#[must_use = "a question does nothing until it is awaited"]
pub struct VerifyStatus {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

into_future!(VerifyStatus -> VerifyStatusReply);

impl VerifyStatus {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> VerifyStatus {
        VerifyStatus { inner, whom: Whom::Node(node), timeout: None }
    }

    async fn run(self) -> Result<VerifyStatusReply, Error> {
        let VerifyStatus { inner, whom, timeout } = self;
        let request = dynkv_proto::VerifyStatus { reserved: 0 };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}

/// An order to end a node's verification, to be awaited; made by [`Client::stop_verify`](crate::Client::stop_verify).
#[derive(Clone)]
#[must_use = "an order does nothing until it is awaited"]
pub struct StopVerify {
    inner: Arc<Inner>,
    whom: Whom,
    timeout: Option<Duration>,
}

into_future!(StopVerify -> StopVerifyReply);

impl StopVerify {
    pub(crate) fn of(inner: Arc<Inner>, node: NodeId) -> StopVerify {
        StopVerify { inner, whom: Whom::Node(node), timeout: None }
    }

    async fn run(self) -> Result<StopVerifyReply, Error> {
        let StopVerify { inner, whom, timeout } = self;
        let request = dynkv_proto::StopVerify { reserved: 0 };
        ask_one(&inner, &whom, deadline(&inner, timeout), Repeat::Read, &request).await
    }
}
