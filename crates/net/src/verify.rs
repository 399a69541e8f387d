//! Whose certificate is accepted: the chain by rustls' own verifiers, then the name inside it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dynkv_ring::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, RootCertStore, SignatureScheme};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::name::{NameError, PeerName, SCHEME};

/// Whom a connection must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Any node of the cluster: for the first contact, when only an address is known.
    AnyNode,
    /// This node, wherever it lives now.
    Node(NodeId),
}

/// Why a certificate is not accepted, ours or a peer's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// It was not issued by the cluster's authority.
    #[error("it was not issued by this cluster's CA: use a certificate that the CA in use has issued")]
    Foreign,
    /// It is no longer in force.
    #[error("it expired on {}: issue a new one", date(.not_after))]
    Expired {
        /// When it expired.
        not_after: SystemTime,
    },
    /// It is not in force yet.
    #[error("it is not in force before {}: check both machines' clocks", date(.not_before))]
    NotYetValid {
        /// When it will be.
        not_before: SystemTime,
    },
    /// It was issued for another use: a client's where a node's is needed.
    #[error(
        "it was not issued for this use: a node needs a node's certificate, a client's cannot act as a node"
    )]
    Purpose,
    /// It does not say who its holder is.
    #[error("it carries no name: issue it with the cluster's CA, which puts one dynkv:// URI into it")]
    NoName,
    /// It says in more than one way who its holder is.
    #[error("it carries more than one dynkv:// URI: issue one certificate for each name")]
    SeveralNames,
    /// The name in it has the wrong form.
    #[error("the name in it is not valid: {0}")]
    Name(#[from] NameError),
    /// Its holder belongs to another cluster.
    #[error(
        "it belongs to cluster {found:?}, not to {expected:?}: use the certificate and the address of one cluster"
    )]
    OtherCluster {
        /// Our cluster.
        expected: String,
        /// The cluster it names.
        found: String,
    },
    /// A node was expected, and it is a client's.
    #[error("it is that of {name}, where a node was expected")]
    NotANode {
        /// Whose it is.
        name: PeerName,
    },
    /// Another node was expected.
    #[error(
        "it is that of node {found}, where node {expected} was expected: the address has changed hands, refresh the membership"
    )]
    WrongNode {
        /// The node that was expected.
        expected: NodeId,
        /// The node that answered.
        found: NodeId,
    },
    /// It is damaged or uses something unknown.
    #[error("it cannot be read ({reason}): issue a new one")]
    Unreadable {
        /// What the verifier said.
        reason: String,
    },
}

fn date(time: &SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).map_or_else(|_| "an unknown date".to_owned(), |time| time.to_string())
}

/// What a rustls error about a certificate means here.
pub(crate) fn certificate_error(error: &rustls::Error) -> CertificateError {
    use rustls::CertificateError as Tls;
    let time = |time: &UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        rustls::Error::InvalidCertificate(Tls::ExpiredContext { not_after, .. }) => {
            CertificateError::Expired { not_after: time(not_after) }
        }
        rustls::Error::InvalidCertificate(Tls::NotValidYetContext { not_before, .. }) => {
            CertificateError::NotYetValid { not_before: time(not_before) }
        }
        // A foreign CA of the same subject shows only in the signature.
        rustls::Error::InvalidCertificate(Tls::UnknownIssuer | Tls::BadSignature) => {
            CertificateError::Foreign
        }
        rustls::Error::InvalidCertificate(Tls::InvalidPurpose | Tls::InvalidPurposeContext { .. }) => {
            CertificateError::Purpose
        }
        other => CertificateError::Unreadable { reason: other.to_string() },
    }
}

/// The one `dynkv://` URI of a certificate.
pub(crate) fn dynkv_uri(certificate: &X509Certificate<'_>) -> Result<String, CertificateError> {
    let unreadable =
        |e: x509_parser::error::X509Error| CertificateError::Unreadable { reason: e.to_string() };
    let names =
        certificate.subject_alternative_name().map_err(unreadable)?.ok_or(CertificateError::NoName)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(CertificateError::NoName)?;
    if uris.next().is_some() {
        return Err(CertificateError::SeveralNames);
    }
    Ok(uri.to_owned())
}

/// The name in a certificate, and when it expires.
pub(crate) fn read_name(
    certificate: &CertificateDer<'_>,
) -> Result<(PeerName, SystemTime), CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| CertificateError::Unreadable { reason: e.to_string() })?;
    let name = dynkv_uri(&parsed)?.parse()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok((name, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn read_name_in(cluster: &str, certificate: &CertificateDer<'_>) -> Result<PeerName, CertificateError> {
    let (name, _) = read_name(certificate)?;
    if name.cluster() != cluster {
        let (expected, found) = (cluster.to_owned(), name.cluster().to_owned());
        return Err(CertificateError::OtherCluster { expected, found });
    }
    Ok(name)
}

/// The connecting side's verifier. One per connection, because it remembers the verdict: quinn hands on only the text.
#[derive(Debug)]
pub(crate) struct NodeVerifier {
    pub(crate) cluster: String,
    pub(crate) expect: Expect,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) verdict: Arc<OnceLock<CertificateError>>,
}

impl NodeVerifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        ParsedCertificate::try_from(certificate)
            .and_then(|parsed| {
                verify_server_cert_signed_by_trust_anchor(
                    &parsed,
                    &self.roots,
                    intermediates,
                    now,
                    algorithms,
                )
            })
            .map_err(|error| certificate_error(&error))?;
        let name = read_name_in(&self.cluster, certificate)?;
        match (self.expect, name.node_id()) {
            (Expect::AnyNode, Some(_)) => Ok(()),
            (Expect::Node(expected), Some(found)) if expected == *found => Ok(()),
            (Expect::Node(expected), Some(found)) => {
                Err(CertificateError::WrongNode { expected, found: *found })
            }
            (_, None) => Err(CertificateError::NotANode { name }),
        }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // A placeholder: no host name is compared, the node's id is.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion()).map_err(
            |error| {
                let tls = tls_error(&error);
                // The first verdict stands; TLS 1.3 asks once per handshake anyway.
                let _ = self.verdict.set(error);
                tls
            },
        )
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The accepting side's verifier: rustls' own, then the name.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) cluster: String,
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        read_name_in(&self.cluster, end_entity).map_err(|error| tls_error(&error))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What the other side is told: as much as TLS alerts tell, so that its error can say what is wrong.
fn tls_error(error: &CertificateError) -> rustls::Error {
    use rustls::CertificateError as Tls;
    rustls::Error::InvalidCertificate(match error {
        CertificateError::Foreign => Tls::UnknownIssuer,
        CertificateError::Expired { .. } => Tls::Expired,
        CertificateError::NotYetValid { .. } => Tls::NotValidYet,
        CertificateError::Purpose => Tls::InvalidPurpose,
        CertificateError::Unreadable { .. } => Tls::BadEncoding,
        CertificateError::NoName
        | CertificateError::SeveralNames
        | CertificateError::Name(_)
        | CertificateError::OtherCluster { .. }
        | CertificateError::NotANode { .. }
        | CertificateError::WrongNode { .. } => Tls::ApplicationVerificationFailure,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::certs::{CertificateAuthority, Validity};

    fn certificate() -> Vec<u8> {
        let ca = CertificateAuthority::create("c1").unwrap();
        let issued = ca.issue(&"dynkv://c1/node/n1".parse().unwrap(), Validity::default()).unwrap();
        CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn dates_are_written_out() {
        let error = CertificateError::Expired {
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_400),
        };
        assert!(error.to_string().contains("Feb 29 00:00:00 2000"), "{error}");
        // Before 1970, or beyond what a date can be: still a message.
        for not_after in [
            SystemTime::UNIX_EPOCH - Duration::from_secs(1),
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2),
        ] {
            assert!(!CertificateError::Expired { not_after }.to_string().is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_name_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read_name(&CertificateDer::from(bytes));
        }

        #[test]
        fn a_damaged_certificate_is_a_name_or_an_error(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
            let mut bytes = certificate();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_name(&CertificateDer::from(bytes.clone()));
            bytes.truncate(cut.index(bytes.len()));
            let _ = read_name(&CertificateDer::from(bytes));
        }
    }
}
