//! A bare connection to one node: what a test says to exactly this node, without a client's routing and retries.

use bytes::Bytes;
use dynkv_net::{Class, Connection, Endpoint};
use dynkv_proto::{Failure, Frame, Get, Hops, Message, Put, PutId, Request, kinds, value_hash};

use crate::wait::LONG;

/// A connection to one node.
#[derive(Debug)]
pub struct Peer {
    connection: Connection,
    // The socket under it.
    _endpoint: Endpoint,
}

impl Peer {
    pub(crate) fn new(endpoint: Endpoint, connection: Connection) -> Peer {
        Peer { connection, _endpoint: endpoint }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sends one frame and returns whatever comes back.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn call(&self, frame: Frame) -> Frame {
        let kind = frame.kind;
        let answer = self.connection.call(Class::Foreground, frame, LONG).await;
        answer.unwrap_or_else(|error| panic!("no answer to a message of kind {kind}: {error}"))
    }

    /// Makes one request; the reply's body comes beside it.
    ///
    /// # Errors
    /// The node's [`Failure`].
    ///
    /// # Panics
    /// When no answer comes, or one that is neither the reply nor a failure.
    pub async fn ask<R: Request>(&self, request: &R, body: Bytes) -> Result<(R::Reply, Bytes), Failure> {
        let frame = self.call(Frame::new(request, body)).await;
        if frame.kind == kinds::FAILURE {
            return Err(read(&frame));
        }
        Ok((read(&frame), frame.body))
    }
}

fn read<M: Message>(frame: &Frame) -> M {
    frame.message().expect("a node's answers can be read")
}

/// A get with the bucket's quorums and a generous deadline.
pub fn get(bucket: &str, key: impl Into<Bytes>) -> Get {
    Get { bucket: bucket.into(), key: key.into().into(), r: None, pr: None, timeout_ms: 5000, hops: Hops(0) }
}

/// A blind put of `value`, which must be sent as the body, with the bucket's quorums and a generous deadline.
pub fn put(bucket: &str, key: impl Into<Bytes>, put_id: u128, value: &[u8]) -> Put {
    Put {
        bucket: bucket.into(),
        key: key.into().into(),
        context: Bytes::new().into(),
        put_id: PutId(put_id),
        retry: false,
        tombstone: false,
        content_type: String::new(),
        meta: Default::default(),
        hash: value_hash(value),
        w: None,
        dw: None,
        pw: None,
        timeout_ms: 5000,
        hops: Hops(0),
        tried: None,
        attempt: 0,
    }
}
