//! Who we are: a certificate, its key and the authority we trust.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use crate::name::PeerName;
use crate::verify::{CertificateError, certificate_error, read_name};

/// A certificate with its key and the cluster's CA: what an endpoint needs to prove who it is and to recognise
/// others. Cloning shares it. `Debug` does not show the key.
///
/// ```
/// use dynkv_net::certs::{CertificateAuthority, Validity};
/// use dynkv_net::{Identity, PeerName, Role};
///
/// let ca = CertificateAuthority::create("shop")?;
/// let issued = ca.issue(&PeerName::client("shop", "alice", Role::Writer)?, Validity::default())?;
/// let identity = Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)?;
/// assert_eq!(identity.name().to_string(), "dynkv://shop/client/alice?role=writer");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    name: PeerName,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Checks that `cert_pem` (a certificate, with its chain if it has one) was issued by the authority `ca_pem` (or
    /// one of them, while a CA is being replaced), says whose it is and is in force now, and that `key_pem` is its key.
    ///
    /// # Errors
    /// [`IdentityError`] says which of the three texts is at fault and what to do.
    pub fn from_pem(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Identity, IdentityError> {
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        for authority in certificates("CA certificate", ca_pem)? {
            roots
                .add(authority)
                .map_err(|error| IdentityError::Read { what: "CA certificate", reason: error.to_string() })?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("certificate", cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| IdentityError::Read { what: "private key", reason: error.to_string() })?;

        let (name, not_after) = check(&chain, &roots, &provider)?;
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch { name: name.clone() },
            other => IdentityError::Read { what: "private key", reason: other.to_string() },
        })?;
        Ok(Identity(Arc::new(Inner { name, not_after, key: Arc::new(key), roots, provider })))
    }

    /// Who this is.
    pub fn name(&self) -> &PeerName {
        &self.0.name
    }

    /// When the certificate expires: afterwards no new connection is accepted from or by its holder.
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.0.key
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.0.roots
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.0.provider
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, not_after, .. } = &*self.0;
        f.debug_struct("Identity").field("name", name).field("not_after", not_after).finish_non_exhaustive()
    }
}

/// Why certificate, key and CA do not make an identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A text is not the PEM it should be.
    #[error("the {what} cannot be read ({reason}): give the PEM file that was written when it was issued")]
    Read {
        /// `CA certificate`, `certificate` or `private key`.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The certificate would be refused by every peer.
    #[error("our own certificate is of no use: {0}")]
    Certificate(#[source] CertificateError),
    /// Certificate and key do not belong together.
    #[error(
        "the private key is not that of the certificate of {name}: give the certificate and the key that were issued together"
    )]
    KeyMismatch {
        /// Whose certificate it is.
        name: PeerName,
    },
}

impl From<CertificateError> for IdentityError {
    fn from(error: CertificateError) -> IdentityError {
        IdentityError::Certificate(error)
    }
}

/// ring's cryptography, cheapest cipher first (AES with 128-bit keys, which the QUIC handshake needs in any case).
fn provider() -> CryptoProvider {
    use rustls::crypto::ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read = |reason: String| IdentityError::Read { what, reason };
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| read(error.to_string()))?;
    if found.is_empty() { Err(read("there is no certificate in it".to_owned())) } else { Ok(found) }
}

/// The checks our peers will make, made early: here the error can name the file.
fn check(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(PeerName, SystemTime), CertificateError> {
    let unreadable = |reason: String| CertificateError::Unreadable { reason };
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| unreadable("it is empty".to_owned()))?;
    let now = UnixTime::now();
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| unreadable(error.to_string()))?
        .verify_client_cert(leaf, intermediates, now)
        .map_err(|error| certificate_error(&error))?;
    let (name, not_after) = read_name(leaf)?;
    if name.is_node() {
        let algorithms = provider.signature_verification_algorithms.all;
        ParsedCertificate::try_from(leaf)
            .and_then(|leaf| {
                verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
            })
            .map_err(|error| certificate_error(&error))?;
    }
    Ok((name, not_after))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::certs::{CertificateAuthority, Issued, Validity};

    fn issue(ca: &CertificateAuthority, validity: Validity) -> Issued {
        ca.issue(&PeerName::node(ca.cluster(), "n1".parse().unwrap()).unwrap(), validity).unwrap()
    }

    #[test]
    fn tells_what_is_wrong() {
        let ca = CertificateAuthority::create("c1").unwrap();
        let good = issue(&ca, Validity::default());
        let error = |ca: &str, cert: &str, key: &str| Identity::from_pem(ca, cert, key).unwrap_err();
        let certificate = |result| match result {
            IdentityError::Certificate(error) => error,
            other => panic!("not about the certificate: {other}"),
        };

        // The same subject, another key; and another subject.
        for cluster in ["c1", "c2"] {
            let other = CertificateAuthority::create(cluster).unwrap();
            let refused = error(other.cert_pem(), &good.cert_pem, &good.key_pem);
            assert_eq!(certificate(refused), CertificateError::Foreign);
        }
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let expired = issue(&ca, Validity::between(now - 2 * hour, now - hour));
        let refused = certificate(error(ca.cert_pem(), &expired.cert_pem, &expired.key_pem));
        assert!(matches!(refused, CertificateError::Expired { .. }));
        assert!(refused.to_string().contains("20"), "the message has no date: {refused}");
        let early = issue(&ca, Validity::between(now + hour, now + 2 * hour));
        let refused = certificate(error(ca.cert_pem(), &early.cert_pem, &early.key_pem));
        assert!(matches!(refused, CertificateError::NotYetValid { .. }));

        let second = issue(&ca, Validity::default());
        assert!(matches!(
            error(ca.cert_pem(), &good.cert_pem, &second.key_pem),
            IdentityError::KeyMismatch { .. }
        ));
        for (ca, cert, key, at_fault) in [
            ("", good.cert_pem.as_str(), good.key_pem.as_str(), "CA certificate"),
            (ca.cert_pem(), "nothing", &good.key_pem, "certificate"),
            (ca.cert_pem(), &good.cert_pem, &good.cert_pem, "private key"),
        ] {
            assert!(matches!(error(ca, cert, key), IdentityError::Read { what, .. } if what == at_fault));
        }
    }

    #[test]
    fn a_second_authority_serves_while_the_first_is_replaced() {
        let (old, new) =
            (CertificateAuthority::create("c1").unwrap(), CertificateAuthority::create("c1").unwrap());
        let both = format!("{}{}", old.cert_pem(), new.cert_pem());
        for ca in [&old, &new] {
            let issued = issue(ca, Validity::default());
            assert!(Identity::from_pem(&both, &issued.cert_pem, &issued.key_pem).is_ok());
        }
    }
}
