//! Listing the keys of a bucket.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{FailureCode, Frame, Hops, ListReply};
use dynkv_ring::PartitionId;
use tokio::task::JoinSet;

use crate::Error;
use crate::attempts::{Attempts, Repeat};
use crate::client::deadline;
use crate::inner::Inner;
use crate::key::check_bucket;
use crate::request::{Answer, Call, Target, read_reply};

const CONCURRENCY: usize = 8;
const PAGE_KEYS: u32 = 1000;

/// The keys of a bucket, page by page; made by [`Client::list`](crate::Client::list).
///
/// Every partition is asked, several at a time, so pages come in no particular order; within a partition keys are in byte
/// order. Memory is bounded by the pages under way. A key that is written or deleted meanwhile may or may not appear; no
/// other is missing if the list was [complete](List::is_complete) and no home waits for hints.
///
/// ```no_run
/// # async fn example(client: &dynkv_client::Client) -> Result<(), dynkv_client::Error> {
/// let mut list = client.list("carts").prefix("2026-");
/// while let Some(page) = list.next().await {
///     for key in page?.keys {
///         println!("{}", String::from_utf8_lossy(&key));
///     }
/// }
/// if !list.is_complete() {
///     println!("too few replicas answered: some keys may be missing");
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a list does nothing until its pages are asked for"]
pub struct List {
    inner: Arc<Inner>,
    bucket: String,
    prefix: Bytes,
    page_keys: u32,
    concurrency: usize,
    timeout: Option<Duration>,
    /// Set when the first page is asked for: what is still to be asked.
    waiting: Option<VecDeque<Part>>,
    under_way: JoinSet<(Part, Result<ListReply, Error>)>,
    complete: bool,
}

/// A partition, from after some key.
#[derive(Clone, Debug)]
struct Part {
    partition: PartitionId,
    after: Option<Bytes>,
}

/// Some keys of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The partition.
    pub partition: PartitionId,
    /// Its next keys, in byte order; there may be none.
    pub keys: Vec<Bytes>,
    /// Whether enough homes answered that no write can be missing that `w` homes had acknowledged; one that other nodes still
    /// keep as a hint may be.
    pub complete: bool,
}

impl List {
    pub(crate) fn new(inner: Arc<Inner>, bucket: String) -> List {
        List {
            inner,
            bucket,
            prefix: Bytes::new(),
            page_keys: PAGE_KEYS,
            concurrency: CONCURRENCY,
            timeout: None,
            waiting: None,
            under_way: JoinSet::new(),
            complete: true,
        }
    }

    /// Only keys that begin with this. Counts if set before the first page is asked for, as do all settings.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> List {
        self.prefix = prefix.into();
        self
    }

    /// About how many keys a page has at most; 1000 unless set.
    pub fn page_keys(mut self, page_keys: u32) -> List {
        self.page_keys = page_keys.max(1);
        self
    }

    /// How many partitions are asked at a time; 8 unless set.
    pub fn concurrency(mut self, concurrency: usize) -> List {
        self.concurrency = concurrency.max(1);
        self
    }

    /// How long each page may take; [`Options::timeout`](crate::Options::timeout) unless set.
    pub fn timeout(mut self, timeout: Duration) -> List {
        self.timeout = Some(timeout);
        self
    }

    /// The next page; `None` when there are no more.
    ///
    /// After an error the rest of that partition is left out and the list is not complete; the other partitions' pages still
    /// follow. Dropping the future loses no page.
    ///
    /// # Errors
    /// Within the page: [`Error`].
    pub async fn next(&mut self) -> Option<Result<Page, Error>> {
        if self.waiting.is_none()
            && let Err(error) = self.begin().await
        {
            self.complete = false;
            return Some(Err(error));
        }
        self.ask_more();
        let page = match self.under_way.join_next().await? {
            Ok((part, reply)) => reply.map(|reply| self.take(part, reply)),
            Err(error) => {
                let message = format!("a page was lost ({error}): keep the client's runtime running");
                Err(Error::refused(FailureCode::NoAnswer, message))
            }
        };
        self.complete &= page.is_ok();
        Some(page)
    }

    /// Whether all partitions were listed to their end and enough replicas answered everywhere that no acknowledged write
    /// is missing. Says so only after [`next`](List::next) has returned `None`.
    pub fn is_complete(&self) -> bool {
        let ended = self.waiting.as_ref().is_some_and(VecDeque::is_empty) && self.under_way.is_empty();
        self.complete && ended
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let ready = match check_bucket(&self.bucket) {
            Ok(()) => self.inner.founded(deadline(&self.inner, self.timeout)).await,
            refused => refused,
        };
        // Whatever is wrong is said once.
        self.waiting = Some(VecDeque::new());
        ready?;
        let view = self.inner.view();
        let parts = view.ring().partitions().ids().map(|partition| Part { partition, after: None });
        self.waiting = Some(parts.collect());
        Ok(())
    }

    fn ask_more(&mut self) {
        while self.under_way.len() < self.concurrency
            && let Some(part) = self.waiting.as_mut().and_then(VecDeque::pop_front)
        {
            let (inner, deadline) = (self.inner.clone(), deadline(&self.inner, self.timeout));
            let mut message = dynkv_proto::List {
                bucket: self.bucket.clone(),
                partition: part.partition.0,
                prefix: self.prefix.clone().into(),
                after: part.after.clone().map(Into::into),
                limit: self.page_keys,
                timeout_ms: 0,
                hops: Hops::default(),
            };
            let call = Call {
                target: Target::Partition(part.partition),
                preferred: None,
                repeat: Repeat::Read,
                class: Class::Background,
                deadline,
            };
            let runtime = self.inner.pool.runtime().clone();
            let page = async move {
                let request = |timeout_ms, _: &Attempts| {
                    message.timeout_ms = timeout_ms;
                    Frame::new(&message, Bytes::new())
                };
                let read = |frame: &Frame| {
                    let reply: ListReply = read_reply(frame)?;
                    let view = reply.view;
                    Ok(Answer::new(reply, view))
                };
                let page = inner.run(call, request, read).await;
                (part, page)
            };
            self.under_way.spawn_on(page, &runtime);
        }
    }

    fn take(&mut self, part: Part, reply: ListReply) -> Page {
        self.complete &= reply.complete;
        if let Some(next) = reply.next {
            // First in line: finishing a partition before beginning another keeps the list of what is waiting short.
            let rest = Part { after: Some(next.0), ..part };
            self.waiting.get_or_insert_default().push_front(rest);
        }
        let keys = reply.keys.into_iter().map(|key| key.0).collect();
        Page { partition: part.partition, keys, complete: reply.complete }
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("waiting", &self.waiting.as_ref().map(VecDeque::len))
            .finish_non_exhaustive()
    }
}
