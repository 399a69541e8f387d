//! Mutually authenticated QUIC request/response transport of the dynkv key-value store.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{sync::Arc, time::Duration};
//!
//! use dynkv_net::certs::{CertificateAuthority, Validity};
//! use dynkv_net::{Class, Endpoint, Expect, Identity, Options, PeerName, Responder, Role};
//! use dynkv_proto::{Frame, Metrics, MetricsReply};
//!
//! // The cluster's CA says who is who; nobody without one of its certificates is served a byte.
//! let ca = CertificateAuthority::create("shop")?;
//! let issued = ca.issue(&PeerName::node("shop", "n1".parse()?)?, Validity::default())?;
//! let n1 = Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)?;
//! let issued = ca.issue(&PeerName::client("shop", "alice", Role::Reader)?, Validity::default())?;
//! let alice = Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)?;
//!
//! let node = Endpoint::bind("127.0.0.1:0".parse()?, n1, Options::default())?;
//! let addr = node.local_addr();
//! let handler = |peer: &Arc<PeerName>, _request: Frame, responder: Responder| {
//!     responder.send(Frame::new(&MetricsReply { text: format!("hello {peer}") }, bytes::Bytes::new()));
//! };
//! tokio::spawn(async move { node.serve(Arc::new(handler)).await });
//!
//! let client = Endpoint::client(alice, Options::default())?;
//! let connection = client.connect(addr, Expect::Node("n1".parse()?)).await?;
//! let request = Frame::new(&Metrics { reserved: 0 }, bytes::Bytes::new());
//! let answer = connection.call(Class::Foreground, request, Duration::from_secs(1)).await?;
//! assert_eq!(answer.message::<MetricsReply>()?.text, "hello dynkv://shop/client/alice?role=reader");
//! # Ok(())
//! # }
//! ```
//!
//! - [`certs`] makes the cluster's CA and issues certificates; [`PeerName`] and [`Role`] are what stands in them, and an
//!   [`Identity`] is one of them with its key.
//! - An [`Endpoint`] is a UDP socket with an identity: it [connects](Endpoint::connect) and [serves](Endpoint::serve).
//! - A [`Connection`] makes [calls](Connection::call); a [`Handler`] gets them and answers through [`Responder`]s.
//!
//! # How it works
//!
//! A connection has one long-lived bidirectional stream for each [`Class`]. Frames of many requests, told apart by their
//! id, share it: what is queued goes out in one write, because a datagram costs and a byte hardly does. A stream for
//! each request would cost up to twice the CPU.
//!
//! Both sides show a certificate of the cluster's CA, over TLS 1.3 and ALPN `dynkv/1`. Its one `dynkv://` URI says who
//! the holder is: host names and addresses are never compared, since nodes move. The connecting side checks that it has
//! reached a node of its cluster, and which; the serving side hands the verified [`PeerName`] to the handler, which
//! decides what the role allows. There is no 0-RTT data, which could be replayed, and no session is resumed: a resumed
//! handshake skips the certificate, so an expired one would go on being accepted. Once accepted, a connection is not
//! looked at again: it may outlive its certificate, and ends with the process at the latest.
//!
//! # What is certain
//!
//! A [`CallError`] says whether the request was [certainly not sent](CallError::is_not_sent) or may have been acted on.
//! A request counts as sent from the moment it is handed to QUIC. A dead peer is noticed within
//! [`idle_timeout_ms`](Options::idle_timeout_ms); connecting takes at most
//! [`connect_timeout_ms`](Options::connect_timeout_ms).
//!
//! # What is bounded
//!
//! Frames, requests in flight, queued bytes, connections: see [`Options`]. A declared length is checked before anything
//! is allocated, and a buffer grows with the bytes that arrive. A serving side that has too much to write stops reading
//! requests. Whoever breaks the framing loses the connection, with a reason.
//!
//! A frame that was received shares its memory with its neighbours of the same read: copy what you keep for long.
//!
//! # What this crate does not do
//!
//! It does not know what requests mean, does not retry, does not choose between nodes, keeps no pool of connections,
//! and does not revoke certificates: replace the CA ([`Identity::from_pem`] takes the old and the new one together).

mod calls;
pub mod certs;
mod connect;
mod connection;
mod endpoint;
mod failure;
mod gate;
mod identity;
mod name;
mod nowhere;
mod options;
mod serve;
mod tls;
mod verify;
mod wire;

pub use connect::{ConnectError, Refusal};
pub use connection::{CallError, Connection};
pub use endpoint::{BindError, Endpoint};
pub use identity::{Identity, IdentityError};
pub use name::{LABEL_BYTES_MAX, NameError, PeerName, Role};
pub use options::Options;
pub use serve::{Handler, Responder};
pub use verify::{CertificateError, Expect};
pub use wire::Class;

/// What a simulated network implements for [`Endpoint::with_socket`], from quinn.
pub mod socket {
    pub use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
    pub use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
