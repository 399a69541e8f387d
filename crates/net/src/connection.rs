//! The calling side of a connection.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dynkv_proto::Frame;
use quinn::SendStream;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::calls::{Calls, GivenUp, Refused, Reply};
use crate::name::PeerName;
use crate::options::Options;
use crate::wire::{Batch, Class, FrameReader, StreamError, close_code, too_large};

/// A connection to a node, over which requests are made. Cloning shares it; it closes with the last clone.
///
/// See [`Endpoint`](crate::Endpoint) for an example.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    quinn: quinn::Connection,
    remote: SocketAddr,
    peer: Arc<PeerName>,
    foreground: Arc<Lane>,
    background: Arc<Lane>,
    frame_bytes_max: usize,
}

/// How many times within the idle timeout a connection is looked at, and then once more.
const LOOKS: u32 = 3;

/// Closes a connection from whose peer nothing has come for the idle timeout, although it was asked for a sign of life.
///
/// QUIC by itself is not enough: there the timeout is three probe timeouts at least (RFC 9000, section 10.1), and those
/// follow the round trip times that were measured. After this process or its peer has stood still for half a minute, a
/// connection to a process that is gone would stay open for minutes. Several looks, so that a process that has just
/// stood still does not take its own silence for the peer's.
async fn watch(connection: Weak<Inner>, idle_timeout: Duration) {
    let (mut seen, mut silent) = (None, 0);
    loop {
        sleep(idle_timeout / LOOKS).await;
        let Some(connection) = connection.upgrade() else { return };
        if connection.quinn.close_reason().is_some() {
            return;
        }
        let received = Some(connection.quinn.stats().udp_rx.datagrams);
        silent = if received == seen { silent + 1 } else { 0 };
        seen = received;
        if silent > LOOKS {
            connection.quinn.close(close_code::DONE, b"no sign of life");
            return;
        }
    }
}

impl Connection {
    /// Starts the tasks of an established connection, whose streams are open and accepted.
    pub(crate) fn start(
        quinn: quinn::Connection,
        peer: PeerName,
        options: &Options,
        [foreground, background]: [(SendStream, FrameReader); 2],
    ) -> Connection {
        let remote = canonical(quinn.remote_address());
        // When the peer has ended both streams it will not serve this connection any more.
        let open = Arc::new(AtomicUsize::new(2));
        let start = |(send, reader): (SendStream, FrameReader)| {
            let calls = Mutex::new(Calls::new(options.in_flight_max, options.queue_bytes_max));
            let lane = Arc::new(Lane { calls, wake: Notify::new(), remote });
            tokio::spawn(lane.clone().write(send));
            tokio::spawn(lane.clone().read(reader, quinn.clone(), open.clone()));
            lane
        };
        let (foreground, background) = (start(foreground), start(background));
        let frame_bytes_max = options.frame_bytes_max;
        let inner =
            Arc::new(Inner { quinn, remote, peer: Arc::new(peer), foreground, background, frame_bytes_max });
        tokio::spawn(watch(Arc::downgrade(&inner), options.idle_timeout()));
        Connection(inner)
    }

    /// Sends a request and waits for its answer, at most for `timeout`.
    ///
    /// Dropping the future gives the call up: a request that has not left yet is not sent, a late answer is discarded.
    ///
    /// # Errors
    /// [`CallError`] tells apart what was [certainly not sent](CallError::is_not_sent) and what the node may have
    /// acted on. That the node *answers* with a failure is no error here: the frame returned says it.
    pub async fn call(&self, class: Class, frame: Frame, timeout: Duration) -> Result<Frame, CallError> {
        if let Some((length, length_max)) = too_large(&frame, self.0.frame_bytes_max) {
            return Err(CallError::TooLarge { length, length_max });
        }
        let lane = match class {
            Class::Foreground => &*self.0.foreground,
            Class::Background => &*self.0.background,
        };
        let (id, reply) = lane.begin(frame)?;
        let mut pending = Pending { lane, id: Some(id) };
        match tokio::time::timeout(timeout, reply).await {
            Ok(answer) => {
                pending.id = None;
                // The sender goes with an answer or a reason; without either, the tasks died with their runtime.
                answer.unwrap_or_else(|_| Err(lane.lost("its runtime has shut down")))
            }
            Err(_) => Err(pending.timed_out(timeout)),
        }
    }

    /// Who answers.
    pub fn peer(&self) -> &Arc<PeerName> {
        &self.0.peer
    }

    /// Where the node is reached now.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote
    }

    /// The current estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.0.quinn.rtt()
    }

    /// Whether new calls are bound to fail: the connection is lost or closed, or the node is going down.
    pub fn is_closed(&self) -> bool {
        self.0.quinn.close_reason().is_some()
            || self.0.foreground.calls().is_closed()
            || self.0.background.calls().is_closed()
    }

    /// Waits until the connection is lost or closed, and says why.
    pub async fn closed(&self) -> String {
        describe(&self.0.quinn.closed().await)
    }

    /// Closes the connection now. Calls under way fail, those already sent as unknown.
    pub fn close(&self) {
        self.0.quinn.close(close_code::DONE, b"closed by the caller");
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { remote, peer, .. } = &*self.0;
        f.debug_struct("Connection").field("peer", peer).field("remote", remote).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quinn.close(close_code::DONE, b"no longer needed");
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request is longer than a frame may be. Not sent.
    #[error(
        "not sent: the request, or its header, has {length} bytes, the limit is {length_max}: send less at once"
    )]
    TooLarge {
        /// Bytes of the request on the wire, or of its header.
        length: usize,
        /// The limit in force: [`frame_bytes_max`](Options::frame_bytes_max), or that of headers.
        length_max: usize,
    },
    /// Too many requests are in flight or queued on this connection. Not sent.
    #[error("not sent: too many requests to {remote} are under way: wait for some, or use another node")]
    Busy {
        /// The node's address.
        remote: SocketAddr,
    },
    /// The connection is closed. Not sent.
    #[error("not sent: the connection to {remote} is closed ({reason}): connect again")]
    Closed {
        /// The node's address.
        remote: SocketAddr,
        /// Why it is closed.
        reason: String,
    },
    /// The request was still waiting to be sent when its time was up. Not sent.
    #[error(
        "not sent: {remote} took nothing for {timeout_ms} ms: it is overloaded or unreachable, use another node"
    )]
    NotSentInTime {
        /// The node's address.
        remote: SocketAddr,
        /// The time that was allowed, in milliseconds.
        timeout_ms: u64,
    },
    /// The request was sent and no answer came in time. The node may have acted on it, or still may.
    #[error(
        "unknown: {remote} did not answer within {timeout_ms} ms: the request may still take effect, retry it with the same id"
    )]
    TimedOut {
        /// The node's address.
        remote: SocketAddr,
        /// The time that was allowed, in milliseconds.
        timeout_ms: u64,
    },
    /// The request was sent and the connection was lost. The node may have acted on it.
    #[error(
        "unknown: the connection to {remote} was lost ({reason}): the request may have taken effect, retry it with the same id"
    )]
    Lost {
        /// The node's address.
        remote: SocketAddr,
        /// Why it was lost.
        reason: String,
    },
}

impl CallError {
    /// Whether the node certainly did not get the request, so that it can be made elsewhere without a second thought.
    pub fn is_not_sent(&self) -> bool {
        match self {
            CallError::TooLarge { .. }
            | CallError::Busy { .. }
            | CallError::Closed { .. }
            | CallError::NotSentInTime { .. } => true,
            CallError::TimedOut { .. } | CallError::Lost { .. } => false,
        }
    }
}

/// One stream of calls, shared by its callers, its writer and its reader.
struct Lane {
    calls: Mutex<Calls>,
    wake: Notify,
    remote: SocketAddr,
}

impl Lane {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, frame: Frame) -> Result<(u64, Reply), CallError> {
        let begun = self.calls().begin(frame).map_err(|refused| match refused {
            Refused::Closed(reason) => CallError::Closed { remote: self.remote, reason },
            Refused::Busy => CallError::Busy { remote: self.remote },
        })?;
        self.wake.notify_one();
        Ok(begun)
    }

    fn lost(&self, reason: &str) -> CallError {
        CallError::Lost { remote: self.remote, reason: reason.to_owned() }
    }

    fn not_sent(&self, reason: &str) -> CallError {
        CallError::Closed { remote: self.remote, reason: reason.to_owned() }
    }

    /// The writer: takes all that is queued and writes it at once.
    async fn write(self: Arc<Self>, mut send: SendStream) {
        let mut batch = Batch::default();
        loop {
            {
                let mut calls = self.calls();
                calls.take(&mut batch);
                if batch.is_empty() && calls.is_closed() {
                    return;
                }
            }
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            if let Err(error) = send.write_all_chunks(batch.chunks()).await {
                // The reader learns of it, too, and fails what was sent: only answers can tell what became of it.
                let reason = write_error(&error);
                self.calls().refuse(&reason, || self.not_sent(&reason));
                return;
            }
            batch.clear();
        }
    }

    /// The reader: hands out answers until the stream ends.
    async fn read(
        self: Arc<Self>,
        mut reader: FrameReader,
        quinn: quinn::Connection,
        open: Arc<AtomicUsize>,
    ) {
        let error = loop {
            match reader.next() {
                Ok(Some((id, frame))) => self.calls().complete(id, frame),
                Ok(None) => {
                    if let Err(error) = reader.fill().await {
                        break error;
                    }
                    tokio::task::coop::consume_budget().await;
                }
                Err(error) => break error,
            }
        };
        let reason = match &error {
            StreamError::Read(quinn::ReadError::ConnectionLost(error)) => describe(error),
            StreamError::Ended => "the node is going down".to_owned(),
            other => other.to_string(),
        };
        match error {
            StreamError::Framing(_) | StreamError::Torn | StreamError::Class(_) => {
                quinn.close(close_code::PROTOCOL, reason.as_bytes());
            }
            StreamError::Ended | StreamError::Read(_) => {}
        }
        self.calls().fail(&reason, || self.not_sent(&reason), || self.lost(&reason));
        // The writer has nothing left to do.
        self.wake.notify_one();
        if open.fetch_sub(1, Ordering::AcqRel) == 1 {
            quinn.close(close_code::DONE, b"both streams ended");
        }
    }
}

/// A call whose caller still waits; dropping it frees its slot.
struct Pending<'a> {
    lane: &'a Lane,
    id: Option<u64>,
}

impl Pending<'_> {
    fn give_up(&mut self) -> GivenUp {
        self.id.take().map_or(GivenUp::Done, |id| self.lane.calls().give_up(id))
    }

    fn timed_out(mut self, timeout: Duration) -> CallError {
        let (remote, timeout_ms) = (self.lane.remote, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        match self.give_up() {
            GivenUp::Unsent => CallError::NotSentInTime { remote, timeout_ms },
            GivenUp::Sent | GivenUp::Done => CallError::TimedOut { remote, timeout_ms },
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// An IPv4 address as such, also when a dual-stack socket reports it in IPv6 form.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Why a connection ended, in our words.
pub(crate) fn describe(error: &quinn::ConnectionError) -> String {
    use quinn::ConnectionError as Quic;
    match error {
        Quic::TimedOut => "no sign of life within the idle timeout".to_owned(),
        Quic::Reset => "the peer has restarted".to_owned(),
        Quic::LocallyClosed => "closed on this side".to_owned(),
        Quic::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("the peer closed it: {}", crate::name::excerpt(&String::from_utf8_lossy(&close.reason)))
        }
        other => other.to_string(),
    }
}

fn write_error(error: &quinn::WriteError) -> String {
    match error {
        quinn::WriteError::ConnectionLost(error) => describe(error),
        quinn::WriteError::Stopped(_) => "the node is going down".to_owned(),
        other => other.to_string(),
    }
}
