//! One cluster's certificates, nodes that run until dropped, and peers that do not play by the rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::certs::{CertificateAuthority, Issued, Validity};
use dynkv_net::{Connection, Endpoint, Expect, Handler, Identity, Options, PeerName, Responder, Role};
use dynkv_proto::{Failure, Frame, Metrics};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

pub(crate) const CLUSTER: &str = "c1";
/// Long enough that only a bug waits for it.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn node_name(id: &str) -> PeerName {
    PeerName::node(CLUSTER, id.parse().unwrap()).unwrap()
}

pub(crate) fn client_name(role: Role) -> PeerName {
    PeerName::client(CLUSTER, "tester", role).unwrap()
}

pub(crate) struct Cluster {
    pub(crate) ca: CertificateAuthority,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster { ca: CertificateAuthority::create(CLUSTER).unwrap() }
    }

    pub(crate) fn issue(&self, name: &PeerName) -> Issued {
        self.ca.issue(name, Validity::default()).unwrap()
    }

    pub(crate) fn identity(&self, name: &PeerName) -> Identity {
        self.identity_of(&self.issue(name))
    }

    pub(crate) fn identity_of(&self, issued: &Issued) -> Identity {
        Identity::from_pem(self.ca.cert_pem(), &issued.cert_pem, &issued.key_pem).unwrap()
    }

    /// A certificate that the authority would not issue by itself.
    pub(crate) fn forge(&self, uris: &[&str], purposes: &[ExtendedKeyUsagePurpose]) -> Issued {
        let issuer =
            Issuer::from_ca_cert_pem(self.ca.cert_pem(), KeyPair::from_pem(&self.ca.key_pem()).unwrap())
                .unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = purposes.to_vec();
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    pub(crate) fn node(&self, id: &str, options: Options, handler: impl Handler) -> Node {
        let endpoint =
            Endpoint::bind(SocketAddr::from(([127, 0, 0, 1], 0)), self.identity(&node_name(id)), options)
                .unwrap();
        Node::serving(endpoint, handler)
    }

    pub(crate) fn client(&self, options: Options) -> Endpoint {
        Endpoint::client(self.identity(&client_name(Role::Writer)), options).unwrap()
    }

    /// A node with this handler and a connection to it, both with default options.
    pub(crate) async fn pair(&self, handler: impl Handler) -> (Node, Endpoint, Connection) {
        let node = self.node("n1", Options::default(), handler);
        let client = self.client(Options::default());
        let connection = client.connect(node.addr(), Expect::Node("n1".parse().unwrap())).await.unwrap();
        (node, client, connection)
    }
}

/// A serving endpoint.
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) serving: tokio::task::JoinHandle<()>,
}

impl Node {
    pub(crate) fn serving(endpoint: Endpoint, handler: impl Handler) -> Node {
        let serving = tokio::spawn({
            let endpoint = endpoint.clone();
            async move { endpoint.serve(Arc::new(handler)).await }
        });
        Node { endpoint, serving }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(crate) fn echo(_peer: &Arc<PeerName>, frame: Frame, responder: Responder) {
    responder.send(frame);
}

pub(crate) fn request(body: impl Into<Bytes>) -> Frame {
    Frame::new(&Metrics { reserved: 0 }, body.into())
}

pub(crate) fn failure(frame: &Frame) -> Failure {
    frame.message().unwrap()
}

/// A handler that hands every request to the test.
pub(crate) fn to_test() -> (impl Handler, tokio::sync::mpsc::UnboundedReceiver<(Frame, Responder)>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |_: &Arc<PeerName>, frame: Frame, responder: Responder| {
        // The test may have seen enough.
        let _ = sender.send((frame, responder));
    };
    (handler, receiver)
}

/// Accepts any node: for peers that do not play by the rules.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn pem(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
    (chain, PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap())
}

/// Connects with plain quinn, with this certificate or none, checking nothing.
pub(crate) async fn raw_connect(
    addr: SocketAddr,
    issued: Option<&Issued>,
    alpn: &[u8],
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match issued {
        Some(issued) => {
            let (chain, key) = pem(issued);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let connection = endpoint.connect_with(config, addr, "any").unwrap().await?;
    Ok((endpoint, connection))
}

/// A plain quinn server with this certificate that asks for none.
pub(crate) fn raw_server(issued: &Issued, alpn: &[u8]) -> quinn::Endpoint {
    let (chain, key) = pem(issued);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    quinn::Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}
