//! A UDP socket with an identity: connects to nodes and accepts connections.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use quinn::{AsyncUdpSocket, Incoming, Runtime, TokioRuntime};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connect::{ConnectError, Refused};
use crate::connection::{Connection, canonical};
use crate::gate::Gate;
use crate::identity::Identity;
use crate::name::PeerName;
use crate::nowhere::Nowhere;
use crate::options::Options;
use crate::serve::{Handler, serve_connection};
use crate::tls;
use crate::verify::{CertificateError, Expect, read_name};
use crate::wire::{Class, FrameReader, close_code};

/// The kernel's buffers of a socket, in bytes: a burst from many peers should wait there rather than be lost. The
/// system may grant less.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How often a closing endpoint looks whether its socket is gone.
const RELEASE_TICK: Duration = Duration::from_millis(1);

/// One UDP socket, one identity. Cloning shares both.
///
/// Needs a tokio runtime with I/O and time; on a current-thread runtime a call costs half of what it does on a
/// multi-thread one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{sync::Arc, time::Duration};
///
/// use dynkv_net::certs::{CertificateAuthority, Validity};
/// use dynkv_net::{Class, Endpoint, Expect, Identity, Options, PeerName, Responder, Role};
/// use dynkv_proto::{Frame, Metrics};
///
/// let ca = CertificateAuthority::create("shop")?;
/// let identity = |name: &PeerName| -> Result<Identity, Box<dyn std::error::Error>> {
///     let issued = ca.issue(name, Validity::default())?;
///     Ok(Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)?)
/// };
///
/// let node = Endpoint::bind(
///     "127.0.0.1:0".parse()?,
///     identity(&PeerName::node("shop", "n1".parse()?)?)?,
///     Options::default(),
/// )?;
/// let echo = |_peer: &Arc<PeerName>, frame: Frame, responder: Responder| responder.send(frame);
/// let serving = tokio::spawn({
///     let node = node.clone();
///     async move { node.serve(Arc::new(echo)).await }
/// });
///
/// let client = Endpoint::client(identity(&PeerName::client("shop", "alice", Role::Reader)?)?, Options::default())?;
/// let connection = client.connect(node.local_addr(), Expect::Node("n1".parse()?)).await?;
/// let request = Frame::new(&Metrics { reserved: 0 }, bytes::Bytes::from_static(b"ping"));
/// let answer = connection.call(Class::Foreground, request, Duration::from_secs(1)).await?;
/// assert_eq!(&answer.body[..], b"ping");
///
/// client.close().await;
/// node.close().await;
/// serving.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    quinn: quinn::Endpoint,
    identity: Identity,
    options: Arc<Options>,
    local_addr: SocketAddr,
    /// quinn's, to see when it is gone.
    socket: Weak<dyn AsyncUdpSocket>,
    /// Inside are the `serve` futures.
    gate: Arc<Gate>,
}

impl Endpoint {
    /// An endpoint at `addr` that can connect and serve. Port 0 takes any free port.
    ///
    /// # Errors
    /// [`BindError`]; a port that another process uses has its own variant.
    pub fn bind(addr: SocketAddr, identity: Identity, options: Options) -> Result<Endpoint, BindError> {
        if !identity.name().is_node() {
            return Err(BindError::NotANode { name: identity.name().clone() });
        }
        let socket = udp_socket(addr).map_err(|source| BindError::from_io(addr, source))?;
        Endpoint::over(socket, addr, identity, options, true)
    }

    /// An endpoint at any free port that can connect but not serve.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn client(identity: Identity, options: Options) -> Result<Endpoint, BindError> {
        // One socket for both families where the system has IPv6.
        let (v6, v4) =
            (SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let (socket, addr) = match udp_socket(v6) {
            Ok(socket) => (socket, v6),
            Err(_) => (udp_socket(v4).map_err(|source| BindError::from_io(v4, source))?, v4),
        };
        Endpoint::over(socket, addr, identity, options, false)
    }

    fn over(
        socket: std::net::UdpSocket,
        addr: SocketAddr,
        identity: Identity,
        options: Options,
        serves: bool,
    ) -> Result<Endpoint, BindError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BindError::NoRuntime);
        }
        let socket =
            TokioRuntime.wrap_udp_socket(socket).map_err(|source| BindError::from_io(addr, source))?;
        Endpoint::new(socket, Arc::new(TokioRuntime), identity, options, serves)
    }

    /// An endpoint over a socket of the caller's, such as one of a simulated network. It serves if its identity is a
    /// node's.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn with_socket(
        socket: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        identity: Identity,
        options: Options,
    ) -> Result<Endpoint, BindError> {
        let serves = identity.name().is_node();
        Endpoint::new(socket, runtime, identity, options, serves)
    }

    fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        identity: Identity,
        options: Options,
        serves: bool,
    ) -> Result<Endpoint, BindError> {
        if let Some(problem) = options.problem() {
            return Err(BindError::Options { problem });
        }
        let server = serves
            .then(|| -> Result<quinn::ServerConfig, BindError> {
                let crypto =
                    tls::serving(&identity).map_err(|error| BindError::Tls { reason: error.to_string() })?;
                let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
                server.transport_config(options.serving());
                Ok(server)
            })
            .transpose()?;
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let ours = Arc::downgrade(&socket);
        let quinn = quinn::Endpoint::new_with_abstract_socket(options.endpoint(), server, socket, runtime)
            .map_err(|source| BindError::from_io(unknown, source))?;
        let local_addr = quinn.local_addr().map_err(|source| BindError::from_io(unknown, source))?;
        let (options, gate) = (Arc::new(options), Arc::default());
        Ok(Endpoint(Arc::new(Inner { quinn, identity, options, local_addr, socket: ours, gate })))
    }

    /// The address of the socket, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Connections that are open now, in both directions.
    pub fn open_connections(&self) -> usize {
        self.0.quinn.open_connections()
    }

    /// Connects to the node at `addr`, and returns once the node has accepted our certificate as well.
    ///
    /// # Errors
    /// [`ConnectError`], within [`connect_timeout_ms`](Options::connect_timeout_ms).
    pub async fn connect(&self, addr: SocketAddr, expect: Expect) -> Result<Connection, ConnectError> {
        let Inner { quinn, identity, options, .. } = &*self.0;
        let verdict = Arc::new(OnceLock::new());
        let crypto = tls::connecting(identity, expect, verdict.clone())
            .map_err(|error| ConnectError::Tls { reason: error.to_string() })?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(options.connecting());
        let attempt = async {
            // The name is a placeholder that nobody compares or sends.
            let connection = quinn.connect_with(config, addr, "dynkv")?.await?;
            let (peer, _) = peer_name(&connection).map_err(Refused::Certificate)?;
            let foreground = open_stream(&connection, Class::Foreground, options).await?;
            let background = open_stream(&connection, Class::Background, options).await?;
            let mut streams = [foreground, background];
            // The node repeats the class once it accepts a stream. Only that shows that it has accepted us: in
            // TLS 1.3 a client's own handshake is complete before its certificate has been looked at.
            for ((_, reader), class) in streams.iter_mut().zip(Class::ALL) {
                let repeated = reader.class().await?;
                if repeated != class {
                    return Err(Refused::Protocol(format!("it took a {class:?} stream for {repeated:?}")));
                }
            }
            Ok(Connection::start(connection, peer, options, streams))
        };
        match timeout(options.connect_timeout(), attempt).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(refused)) => Err(ConnectError::new(addr, refused, verdict.get(), options)),
            Err(_) => Err(ConnectError::Unreachable { addr, timeout_ms: options.connect_timeout_ms }),
        }
    }

    /// Accepts connections and hands their requests to `handler`, until [`close`](Endpoint::close). Dropping the
    /// future closes the connections it accepted. Nobody can connect to a client's endpoint.
    pub async fn serve(&self, handler: Arc<dyn Handler>) {
        let _serving = self.0.gate.enter();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // In this order, because a simulation must repeat itself.
                biased;
                () = self.0.gate.closed() => break,
                Some(_) = connections.join_next() => {}
                incoming = self.0.quinn.accept() => {
                    let Some(incoming) = incoming else { break };
                    if connections.len() >= self.0.options.connections_max {
                        tracing::warn!(remote = %incoming.remote_address(), "connection refused: connections_max reached");
                        incoming.refuse();
                        continue;
                    }
                    // Half full: whoever comes now must show that its address is real, so that forged ones cannot
                    // take the other half.
                    let crowded = connections.len() >= self.0.options.connections_max / 2;
                    if crowded && incoming.may_retry() {
                        // Fails only for those that may not be asked again.
                        let _ = incoming.retry();
                        continue;
                    }
                    let (options, gate) = (self.0.options.clone(), self.0.gate.clone());
                    connections.spawn(accept(incoming, handler.clone(), options, gate));
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    /// Stops serving, waits for the answers under way (at most for
    /// [`drain_timeout_ms`](Options::drain_timeout_ms)), then closes all connections, tells the peers, and gives up the
    /// socket: when this returns a node's port is free, unless somebody still holds a [`Connection`].
    pub async fn close(&self) {
        let Inner { quinn, identity, options, local_addr, socket, gate } = &*self.0;
        gate.close();
        // Whether time ran out or all is answered: what follows is the same.
        let _ = timeout(options.drain_timeout(), gate.empty()).await;
        quinn.close(close_code::DONE, b"going down");
        let _ = timeout(options.drain_timeout(), quinn.wait_idle()).await;
        // Twice, because quinn keeps the latest one for stragglers. It refuses only sockets without an address.
        let nowhere = Arc::new(Nowhere(*local_addr));
        for _ in 0..2 {
            let _ = quinn.rebind_abstract(nowhere.clone());
        }
        if !identity.name().is_node() {
            // Nobody wants to have a client's port again.
            return;
        }
        // Connections let go of it when their tasks run next.
        let released = async {
            while socket.strong_count() > 0 {
                sleep(RELEASE_TICK).await;
            }
        };
        let _ = timeout(options.drain_timeout(), released).await;
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { identity, local_addr, .. } = &*self.0;
        f.debug_struct("Endpoint")
            .field("identity", identity)
            .field("local_addr", local_addr)
            .finish_non_exhaustive()
    }
}

/// Why an endpoint could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process has the port.
    #[error("UDP port {} at {} is in use by another process: stop it or choose another port", .addr.port(), .addr.ip())]
    PortInUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address is not one of this machine's.
    #[error("{} is not an address of this machine: use one of its own, or 0.0.0.0 for all", .addr.ip())]
    NotOurAddress {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// Ports below 1024 need a privilege.
    #[error("no permission to use UDP port {}: choose a port above 1023 or give the process the right", .addr.port())]
    Permission {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// Any other failure of the system's.
    #[error("cannot open a UDP socket at {addr} ({source}): check the machine's network")]
    Io {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A client's certificate cannot act as a node.
    #[error("{name} cannot serve: use a certificate issued for a node")]
    NotANode {
        /// Whose certificate it is.
        name: PeerName,
    },
    /// An option is out of range.
    #[error("{problem}: correct the options")]
    Options {
        /// Which, and its range.
        problem: &'static str,
    },
    /// The identity cannot be used for TLS.
    #[error("cannot set up TLS ({reason}): issue a new certificate")]
    Tls {
        /// What the library said.
        reason: String,
    },
    /// There is no runtime to run on.
    #[error("an endpoint needs a tokio runtime: create it inside one")]
    NoRuntime,
}

impl BindError {
    fn from_io(addr: SocketAddr, source: io::Error) -> BindError {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::PortInUse { addr },
            io::ErrorKind::AddrNotAvailable => BindError::NotOurAddress { addr },
            io::ErrorKind::PermissionDenied => BindError::Permission { addr },
            _ => BindError::Io { addr, source },
        }
    }
}

fn udp_socket(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // As much as the system grants; less only costs retransmissions.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn peer_name(connection: &quinn::Connection) -> Result<(PeerName, std::time::SystemTime), CertificateError> {
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    read_name(chain.as_deref().and_then(|chain| chain.first()).ok_or(CertificateError::NoName)?)
}

async fn open_stream(
    connection: &quinn::Connection,
    class: Class,
    options: &Options,
) -> Result<(quinn::SendStream, FrameReader), Refused> {
    let (mut send, recv) = connection.open_bi().await?;
    send.set_priority(class.priority())?;
    send.write_all(&[class.byte()]).await?;
    Ok((send, FrameReader::new(recv, options.frame_bytes_max)))
}

async fn accept(incoming: Incoming, handler: Arc<dyn Handler>, options: Arc<Options>, gate: Arc<Gate>) {
    let remote = canonical(incoming.remote_address());
    let accepted = timeout(options.connect_timeout(), async { incoming.accept()?.await }).await;
    let connection = match accepted {
        Ok(Ok(connection)) => connection,
        // What we refuse is worth a look; a peer that thinks better of it is not.
        Ok(Err(error @ quinn::ConnectionError::TransportError(_))) => {
            return tracing::warn!(%remote, %error, "connection refused");
        }
        Ok(Err(error)) => return tracing::debug!(%remote, %error, "a peer gave up its handshake"),
        Err(_) => return tracing::debug!(%remote, "a handshake was not finished in time"),
    };
    match peer_name(&connection) {
        Ok((peer, _)) => serve_connection(connection, Arc::new(peer), handler, options, gate).await,
        // Not reached: the handshake has verified that there is a name.
        Err(error) => connection.close(close_code::INTERNAL, error.to_string().as_bytes()),
    }
}
