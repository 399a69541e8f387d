//! The serving side of a connection.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynkv_proto::Frame;
use quinn::SendStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::failure;
use crate::gate::Gate;
use crate::name::PeerName;
use crate::options::Options;
use crate::wire::{Batch, Class, FrameReader, StreamError, close_code, too_large};

/// What a node does with requests.
///
/// Functions of the right shape are handlers. See [`Endpoint`](crate::Endpoint) for an example.
pub trait Handler: Send + Sync + 'static {
    /// Takes a request of `peer`, whose certificate has been verified; what its role allows is the handler's to
    /// decide. Called inside the connection's reader, so it must not block: it answers at once, or moves
    /// `responder` to wherever the answer will be known.
    fn handle(&self, peer: &Arc<PeerName>, frame: Frame, responder: Responder);
}

impl<F: Fn(&Arc<PeerName>, Frame, Responder) + Send + Sync + 'static> Handler for F {
    fn handle(&self, peer: &Arc<PeerName>, frame: Frame, responder: Responder) {
        self(peer, frame, responder);
    }
}

/// The way back to whoever made a request. Dropping it unused answers with a failure.
pub struct Responder {
    /// Taken by the answer.
    lane: Option<Arc<Lane>>,
    id: u64,
    class: Class,
}

impl Responder {
    /// Answers. An answer longer than a frame may be is replaced by a failure that says so; one to a caller that
    /// has gone away is dropped.
    pub fn send(mut self, frame: Frame) {
        if let Some(lane) = self.lane.take() {
            lane.answer(self.id, frame, 1);
        }
    }

    /// The class in which the request was made.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Whether the connection is gone, so that an answer would reach nobody.
    pub fn is_closed(&self) -> bool {
        self.lane.as_ref().is_none_or(|lane| lane.is_closed())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.answer(self.id, failure::unanswered(), 1);
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("id", &self.id).field("class", &self.class).finish_non_exhaustive()
    }
}

/// Serves one accepted connection until it ends, or until `gate` closes: then it finishes the answers under way.
pub(crate) async fn serve_connection(
    quinn: quinn::Connection,
    peer: Arc<PeerName>,
    handler: Arc<dyn Handler>,
    options: Arc<Options>,
    gate: Arc<Gate>,
) {
    let mut tasks = JoinSet::new();
    let mut lanes = Vec::new();
    let drain = loop {
        tokio::select! {
            // In this order, because a simulation must repeat itself.
            biased;
            () = gate.closed() => break true,
            Some(done) = tasks.join_next() => {
                if done.is_err_and(|error| error.is_panic()) {
                    tracing::error!(%peer, "a handler panicked, its connection is closed");
                    quinn.close(close_code::INTERNAL, b"a request made the node fail");
                }
                lanes.retain(|(_, lane): &(AbortHandle, Arc<Lane>)| !lane.is_closed());
            }
            stream = quinn.accept_bi() => {
                let Ok((send, recv)) = stream else { break false };
                let lane = Arc::new(Lane::new(&options));
                let reader = FrameReader::new(recv, options.frame_bytes_max);
                let (class, accepted) = oneshot::channel();
                let work = (quinn.clone(), peer.clone(), handler.clone(), lane.clone());
                let read = tasks.spawn(async move {
                    let (quinn, peer, handler, lane) = work;
                    let error = lane.read(reader, &peer, &*handler, class).await;
                    if !matches!(error, StreamError::Read(_) | StreamError::Ended) {
                        quinn.close(close_code::PROTOCOL, error.to_string().as_bytes());
                    }
                    // A caller that has ended its stream still gets its answers.
                    lane.drain();
                });
                tasks.spawn(lane.clone().write(send, accepted));
                lanes.push((read, lane));
            }
        }
    };
    if drain {
        for (read, lane) in &lanes {
            read.abort();
            lane.drain();
        }
        tokio::select! {
            biased;
            () = async { while tasks.join_next().await.is_some() {} } => {}
            // The time to drain is over, or the peer has gone.
            _ = quinn.closed() => {}
        }
        quinn.close(close_code::DONE, b"the node is going down");
    }
    // The tasks end with this one; answers that come later have nowhere to go.
    for (_, lane) in &lanes {
        lane.close();
    }
}

/// One stream of requests and their answers.
struct Lane {
    answers: Mutex<Answers>,
    /// The writer waits here for answers.
    wake: Notify,
    /// The reader waits here until enough answers have been written.
    written: Notify,
    in_flight_max: usize,
    queue_bytes_max: usize,
    frame_bytes_max: usize,
}

#[derive(Default)]
struct Answers {
    queue: VecDeque<(u64, Frame)>,
    /// Bytes in the queue and in the write under way.
    queued_bytes: usize,
    /// Requests that the handler has not answered yet.
    in_flight: usize,
    /// No further request will come: end the stream after the last answer.
    draining: bool,
    /// Nothing can be written any more.
    closed: bool,
}

enum Admission {
    Handle,
    Overloaded,
    Wait,
    Closed,
}

impl Lane {
    fn new(options: &Options) -> Lane {
        Lane {
            answers: Mutex::default(),
            wake: Notify::new(),
            written: Notify::new(),
            in_flight_max: options.in_flight_max,
            queue_bytes_max: options.queue_bytes_max,
            frame_bytes_max: options.frame_bytes_max,
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an answer, which ends `handled` requests of the handler's (0 when it never saw the request).
    fn answer(&self, id: u64, frame: Frame, handled: usize) {
        let frame = match too_large(&frame, self.frame_bytes_max) {
            Some((length, length_max)) => failure::answer_too_large(length, length_max),
            None => frame,
        };
        let mut answers = self.answers();
        answers.in_flight -= handled;
        if !answers.closed {
            answers.queued_bytes += frame.wire_len();
            answers.queue.push_back((id, frame));
        }
        drop(answers);
        self.wake.notify_one();
    }

    fn admit(&self) -> Admission {
        let mut answers = self.answers();
        if answers.closed {
            Admission::Closed
        } else if answers.queued_bytes > self.queue_bytes_max {
            Admission::Wait
        } else if answers.in_flight >= self.in_flight_max {
            Admission::Overloaded
        } else {
            answers.in_flight += 1;
            Admission::Handle
        }
    }

    fn drain(&self) {
        self.answers().draining = true;
        self.wake.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.answers().closed
    }

    /// Nothing can be answered any more.
    fn close(&self) {
        let mut answers = self.answers();
        answers.closed = true;
        answers.queue.clear();
        answers.queued_bytes = 0;
        drop(answers);
        self.written.notify_one();
    }

    /// The reader: hands requests to the handler until the stream ends, and says why it did.
    async fn read(
        self: &Arc<Self>,
        mut reader: FrameReader,
        peer: &Arc<PeerName>,
        handler: &dyn Handler,
        accepted: oneshot::Sender<Class>,
    ) -> StreamError {
        let class = match reader.class().await {
            Ok(class) => class,
            Err(error) => return error,
        };
        // The writer may have seen the connection end already; then the next read will.
        let _ = accepted.send(class);
        loop {
            let (id, frame) = match reader.next() {
                Ok(Some(request)) => request,
                Ok(None) => {
                    if let Err(error) = reader.fill().await {
                        return error;
                    }
                    tokio::task::coop::consume_budget().await;
                    continue;
                }
                Err(error) => return error,
            };
            loop {
                match self.admit() {
                    Admission::Handle => {
                        let lane = Some(self.clone());
                        handler.handle(peer, frame, Responder { lane, id, class });
                    }
                    Admission::Overloaded => self.answer(id, failure::overloaded(self.in_flight_max), 0),
                    Admission::Wait => {
                        self.written.notified().await;
                        continue;
                    }
                    Admission::Closed => return StreamError::Ended,
                }
                break;
            }
        }
    }

    /// The writer: takes all answers that are queued and writes them at once.
    async fn write(self: Arc<Self>, mut send: SendStream, accepted: oneshot::Receiver<Class>) {
        if let Ok(class) = accepted.await
            && send.set_priority(class.priority()).is_ok()
            && send.write_all(&[class.byte()]).await.is_ok()
            && self.write_answers(&mut send).await.is_ok()
            && send.finish().is_ok()
        {
            // Until the peer has everything, or is gone.
            let _ = send.stopped().await;
        }
        self.close();
    }

    async fn write_answers(&self, send: &mut SendStream) -> Result<(), quinn::WriteError> {
        let mut batch = Batch::default();
        loop {
            {
                let mut answers = self.answers();
                while !batch.is_full()
                    && let Some((id, frame)) = answers.queue.pop_front()
                {
                    batch.push(id, frame);
                }
                if batch.is_empty() && answers.draining && answers.in_flight == 0 {
                    return Ok(());
                }
            }
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            send.write_all_chunks(batch.chunks()).await?;
            let mut answers = self.answers();
            // Zero already if the connection was given up meanwhile.
            answers.queued_bytes = answers.queued_bytes.saturating_sub(batch.bytes());
            let room = answers.queued_bytes <= self.queue_bytes_max;
            drop(answers);
            if room {
                self.written.notify_one();
            }
            batch.clear();
        }
    }
}
