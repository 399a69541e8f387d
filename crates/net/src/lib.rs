//! Mutually authenticated QUIC request/response transport of the dynkv key-value store.

mod calls;
pub mod certs;
mod connect;
mod connection;
mod endpoint;
mod failure;
mod identity;
mod name;
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
