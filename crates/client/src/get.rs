//! Reading a key.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{Frame, GetReply, Hops, PutId, display_dot};
use dynkv_ring::Position;
use dynkv_vclock::HybridTime;

use crate::attempts::{Attempts, Repeat, Setback};
use crate::client::deadline;
use crate::inner::Inner;
use crate::key::check_key;
use crate::request::{Answer, Call, Target, read_reply};
use crate::{Context, Error};

/// A read to be awaited; made by [`Client::get`](crate::Client::get).
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), dynkv_client::Error> {
/// // As fresh as the newest write with `pw = 2`, or an error.
/// let cart = client.get("carts", "alice").r(2).pr(2).await?;
/// println!("{} versions, read from {} homes", cart.siblings.len(), cart.homes);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a get does nothing until it is awaited"]
pub struct Get {
    inner: Arc<Inner>,
    bucket: String,
    key: Bytes,
    r: Option<u8>,
    pr: Option<u8>,
    timeout: Option<Duration>,
}

impl Get {
    pub(crate) fn new(inner: Arc<Inner>, bucket: String, key: Bytes) -> Get {
        Get { inner, bucket, key, r: None, pr: None, timeout: None }
    }

    /// How many replicas must answer; the bucket's `r` unless set.
    pub fn r(mut self, r: u8) -> Get {
        self.r = Some(r);
        self
    }

    /// How many of those must be home replicas; the bucket's `pr` unless set.
    pub fn pr(mut self, pr: u8) -> Get {
        self.pr = Some(pr);
        self
    }

    /// How long it may take, attempts at several nodes included; [`Options::timeout`](crate::Options::timeout) unless set.
    pub fn timeout(mut self, timeout: Duration) -> Get {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<Fetched, Error> {
        let Get { inner, bucket, key, r, pr, timeout } = self;
        check_key(&bucket, &key)?;
        let deadline = deadline(&inner, timeout);
        inner.founded(deadline).await?;
        let partition = Position::of(&bucket, &key).partition(inner.view().ring().partitions());
        let call = Call {
            target: Target::Partition(partition),
            preferred: None,
            repeat: Repeat::Read,
            class: Class::Foreground,
            deadline,
        };
        let mut message =
            dynkv_proto::Get { bucket, key: key.into(), r, pr, timeout_ms: 0, hops: Hops::default() };
        let request = |timeout_ms, _: &Attempts| {
            message.timeout_ms = timeout_ms;
            Frame::new(&message, Bytes::new())
        };
        inner.run(call, request, read).await
    }
}

impl fmt::Debug for Get {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Get").field("bucket", &self.bucket).field("key", &self.key).finish_non_exhaustive()
    }
}

impl IntoFuture for Get {
    type Output = Result<Fetched, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Fetched, Error>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

fn read(frame: &Frame) -> Result<Answer<Fetched>, Setback> {
    let reply: GetReply = read_reply(frame)?;
    let mut body = frame.body.clone();
    let mut siblings = Vec::with_capacity(reply.versions.len());
    for header in reply.versions {
        let (dot, version) =
            header.into_version(&mut body).map_err(|error| Setback::Damaged(error.to_string()))?;
        if !version.is_intact() {
            return Err(Setback::Damaged("a value does not have its checksum".to_owned()));
        }
        // Nodes do not send tombstones to readers; one that does must not turn it into an empty value.
        if version.tombstone {
            continue;
        }
        siblings.push(Sibling {
            value: version.value,
            dot: display_dot(&dot),
            time: version.time,
            content_type: version.content_type,
            meta: version.meta,
            put_id: version.put_id,
        });
    }
    if !body.is_empty() {
        return Err(Setback::Damaged(format!("{} bytes behind the last value", body.len())));
    }
    let context = Context::received(reply.context.0);
    let fetched = Fetched { siblings, context, replicas: reply.replicas, homes: reply.homes };
    Ok(Answer { value: fetched, view: reply.view, coordinator: reply.coordinator })
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// The concurrent versions: one usually, none when the key is absent, several when clients wrote without having read
    /// each other's.
    pub siblings: Vec<Sibling>,
    /// Covers all of it, deletes included: to be given to the next put or delete of this key.
    pub context: Context,
    /// How many replicas answered.
    pub replicas: u8,
    /// How many of them are home replicas.
    pub homes: u8,
}

impl Fetched {
    /// The value, if there is exactly one.
    pub fn value(&self) -> Option<&Bytes> {
        match &self.siblings[..] {
            [only] => Some(&only.value),
            _ => None,
        }
    }

    /// Whether nothing was ever written, or all of it is deleted.
    pub fn is_absent(&self) -> bool {
        self.siblings.is_empty()
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sibling {
    /// The value; its checksum has been verified.
    pub value: Bytes,
    /// The version's name, for people: `actor:counter`.
    pub dot: String,
    /// When it was written, by the clock of the node that took it.
    pub time: HybridTime,
    /// MIME type as the writer gave it, or empty.
    pub content_type: String,
    /// The writer's metadata.
    pub meta: BTreeMap<String, String>,
    /// The put that wrote it.
    pub put_id: PutId,
}
