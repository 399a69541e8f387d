//! TLS 1.3 for both sides, from an identity.

use std::sync::{Arc, OnceLock};

use dynkv_proto::ALPN;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;

use crate::identity::Identity;
use crate::verify::{CertificateError, Expect, NodeVerifier, PeerVerifier};

/// The configuration that accepts connections.
///
/// Sessions are not resumed, on either side: a resumed handshake skips the certificate, so an expired one would go
/// on being accepted. Connections live long; what resumption would save is nothing.
pub(crate) fn serving(identity: &Identity) -> Result<QuicServerConfig, rustls::Error> {
    let provider = identity.provider().clone();
    let chain = WebPkiClientVerifier::builder_with_provider(identity.roots().clone(), provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let verifier = PeerVerifier { cluster: identity.name().cluster().to_owned(), chain };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key().clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    QuicServerConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
}

/// The configuration of one attempt to connect; `verdict` will hold why the node was refused, if it was.
pub(crate) fn connecting(
    identity: &Identity,
    expect: Expect,
    verdict: Arc<OnceLock<CertificateError>>,
) -> Result<QuicClientConfig, rustls::Error> {
    let provider = identity.provider().clone();
    let verifier = NodeVerifier {
        cluster: identity.name().cluster().to_owned(),
        expect,
        roots: identity.roots().clone(),
        provider: provider.clone(),
        verdict,
    };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key().clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
}
