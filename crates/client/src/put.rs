//! Writing and deleting a key.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    ContextError, ContextToken, FailureCode, Frame, Hops, PutId, PutReply, display_dot, value_hash,
};
use dynkv_ring::{NodeId, Position};
use dynkv_vclock::Dot;

use crate::attempts::{Attempts, Repeat, Setback};
use crate::client::deadline;
use crate::inner::Inner;
use crate::key::check_key;
use crate::request::{Answer, Call, Target, read_reply};
use crate::{Context, Error};

/// What puts and deletes have in common.
#[derive(Clone)]
struct Write {
    inner: Arc<Inner>,
    bucket: String,
    key: Bytes,
    value: Bytes,
    tombstone: bool,
    context: Option<Context>,
    content_type: String,
    meta: BTreeMap<String, String>,
    w: Option<u8>,
    dw: Option<u8>,
    pw: Option<u8>,
    timeout: Option<Duration>,
    put_id: Option<PutId>,
    retry: bool,
}

impl Write {
    fn new(inner: Arc<Inner>, bucket: String, key: Bytes, value: Bytes, tombstone: bool) -> Write {
        Write {
            inner,
            bucket,
            key,
            value,
            tombstone,
            context: None,
            content_type: String::new(),
            meta: BTreeMap::new(),
            w: None,
            dw: None,
            pw: None,
            timeout: None,
            put_id: None,
            retry: false,
        }
    }

    async fn run(self) -> Result<Stored, Error> {
        let Write { inner, bucket, key, value, tombstone, context, content_type, meta, w, dw, pw, .. } = self;
        check_key(&bucket, &key)?;
        let position = Position::of(&bucket, &key);
        let (context, preferred) = match &context {
            None => (Bytes::new(), None),
            Some(context) => (context.to_wire(), fastest(context, position)?),
        };
        let put_id = self.put_id.unwrap_or_else(|| inner.put_id());
        let failed = |error: Error| match self.retry {
            // What this attempt certainly did not do, the one it repeats may have.
            true => error.after_unknown().of_put(put_id),
            false => error.of_put(put_id),
        };
        let deadline = deadline(&inner, self.timeout);
        inner.founded(deadline).await.map_err(failed)?;
        let call = Call {
            target: Target::Partition(position.partition(inner.view().ring().partitions())),
            preferred,
            repeat: Repeat::Put,
            class: Class::Foreground,
            deadline,
        };
        let mut message = dynkv_proto::Put {
            bucket,
            key: key.into(),
            context: context.into(),
            put_id,
            retry: false,
            tombstone,
            content_type,
            meta,
            hash: value_hash(&value),
            w,
            dw,
            pw,
            timeout_ms: 0,
            hops: Hops::default(),
            tried: None,
            attempt: 0,
        };
        let request = |timeout_ms, attempts: &Attempts| {
            message.timeout_ms = timeout_ms;
            message.retry = attempts.is_retry() || self.retry;
            // Whom an earlier process of the application asked is not known.
            message.attempt = attempts.count().saturating_add(if self.retry { LATER_PROCESS } else { 0 });
            message.tried = (attempts.is_retry() && !self.retry).then(|| attempts.tried().to_vec());
            Frame::new(&message, value.clone())
        };
        let stored = inner.run(call, request, read).await;
        stored.map(|stored| Stored { put_id, ..stored }).map_err(failed)
    }
}

/// Where attempts are counted from when a put is taken up again: above all those of the process that began it.
const LATER_PROCESS: u32 = 1 << 20;

/// The home that answered fastest when `context` was read. Refuses a token that every node would refuse.
fn fastest(context: &Context, position: Position) -> Result<Option<NodeId>, Error> {
    match ContextToken::decode_for(context.as_bytes(), position) {
        Ok(token) => Ok(token.fastest),
        // A newer node's token is for that node to judge.
        Err(ContextError::Version { .. }) => Ok(None),
        Err(error) => Err(Error::refused(FailureCode::Context, error)),
    }
}

fn read(frame: &Frame) -> Result<Answer<Stored>, Setback> {
    let reply: PutReply = read_reply(frame)?;
    let stored = Stored {
        context: Context::received(reply.context.0),
        dot: display_dot(&Dot::new(reply.actor, reply.counter)),
        put_id: PutId::default(),
        replicas: reply.replicas,
        homes: reply.homes,
        durable: reply.durable,
        possible_duplicate: reply.possible_duplicate,
    };
    Ok(Answer { value: stored, view: reply.view, coordinator: reply.coordinator })
}

macro_rules! write_settings {
    ($type:ident) => {
        impl $type {
            /// What has been read of the key: exactly what it covers is replaced. Without one nothing is.
            pub fn context(mut self, context: &Context) -> $type {
                self.0.context = Some(context.clone());
                self
            }

            /// How many nodes must acknowledge; the bucket's `w` unless set.
            pub fn w(mut self, w: u8) -> $type {
                self.0.w = Some(w);
                self
            }

            /// How many of the acknowledgements must be from disk; the bucket's `dw` unless set.
            pub fn dw(mut self, dw: u8) -> $type {
                self.0.dw = Some(dw);
                self
            }

            /// How many of the acknowledgements must be from home replicas; the bucket's `pw` unless set.
            pub fn pw(mut self, pw: u8) -> $type {
                self.0.pw = Some(pw);
                self
            }

            /// How long it may take, retries included; [`Options::timeout`](crate::Options::timeout) unless set.
            pub fn timeout(mut self, timeout: Duration) -> $type {
                self.0.timeout = Some(timeout);
                self
            }

            /// The id of this write, random unless set. Two writes with one id are taken for one: give each its own, and
            /// keep it with the data to be able to [retry](Self::retry_of) after a crash of the program.
            pub fn put_id(mut self, id: PutId) -> $type {
                self.0.put_id = Some(id);
                self
            }

            /// Goes on with an earlier write of the same key, value and context whose outcome is
            /// [unknown](crate::Error::Unknown): if that was carried out after all, it is not carried out again.
            pub fn retry_of(mut self, id: PutId) -> $type {
                self.0.put_id = Some(id);
                self.0.retry = true;
                self
            }
        }

        impl IntoFuture for $type {
            type Output = Result<Stored, Error>;
            type IntoFuture = Pin<Box<dyn Future<Output = Result<Stored, Error>> + Send>>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.0.run())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("bucket", &self.0.bucket)
                    .field("key", &self.0.key)
                    .field("context", &self.0.context)
                    .finish_non_exhaustive()
            }
        }
    };
}

/// A write to be awaited; made by [`Client::put`](crate::Client::put).
///
/// It is retried while that is safe and time is left, always under the same put id, so that it is carried out once.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), dynkv_client::Error> {
/// let cart = client.get("carts", "alice").await?;
/// let stored = client
///     .put("carts", "alice", "2 apples")
///     .context(&cart.context)
///     .content_type("text/plain")
///     .meta("app", "shop/1.4")
///     .await?;
/// // To write again there is no need to read again.
/// client.put("carts", "alice", "3 apples").context(&stored.context).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a put does nothing until it is awaited"]
pub struct Put(Write);

write_settings!(Put);

impl Put {
    pub(crate) fn new(inner: Arc<Inner>, bucket: String, key: Bytes, value: Bytes) -> Put {
        Put(Write::new(inner, bucket, key, value, false))
    }

    /// A MIME type to keep with the value.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Put {
        self.0.content_type = content_type.into();
        self
    }

    /// Adds one entry of metadata to keep with the value.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Put {
        self.0.meta.insert(name.into(), value.into());
        self
    }
}

/// A delete to be awaited; made by [`Client::delete`](crate::Client::delete).
///
/// A delete writes a tombstone, under the same rules as a [`Put`] writes a value.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), dynkv_client::Error> {
/// let cart = client.get("carts", "alice").await?;
/// client.delete("carts", "alice").context(&cart.context).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a delete does nothing until it is awaited"]
pub struct Delete(Write);

write_settings!(Delete);

impl Delete {
    pub(crate) fn new(inner: Arc<Inner>, bucket: String, key: Bytes) -> Delete {
        Delete(Write::new(inner, bucket, key, Bytes::new(), true))
    }
}

/// A write that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// What was given as context, and this version: for the next put of the same session. It does not cover siblings that
    /// others have written meanwhile, for nobody here has read them.
    pub context: Context,
    /// The version's name, for people: `actor:counter`.
    pub dot: String,
    /// The write's id.
    pub put_id: PutId,
    /// How many nodes have acknowledged.
    pub replicas: u8,
    /// How many of them are home replicas.
    pub homes: u8,
    /// How many of the acknowledgements are from disk.
    pub durable: u8,
    /// Whether an earlier attempt may have been carried out besides this one, because some home could not say: the value
    /// may then show once more, as a sibling, even after it was overwritten.
    pub possible_duplicate: bool,
}
