//! The cluster's certificate authority and the certificates it issues.
//!
//! Every cluster has a CA of its own. The name and role of a node or client stand in the one `dynkv://` URI of its
//! certificate's subject alternative names; no host name or address does, because nodes move between them. A node's
//! certificate may be used on both ends of a connection, a client's on the connecting end only.
//!
//! ```
//! use dynkv_net::certs::{CertificateAuthority, Validity};
//! use dynkv_net::{PeerName, Role};
//!
//! let ca = CertificateAuthority::create("shop")?;
//! let name = PeerName::client("shop", "alice", Role::Reader)?;
//! let issued = ca.issue(&name, Validity::days(30))?;
//! assert!(issued.cert_pem.starts_with("-----BEGIN CERTIFICATE-----"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;

use crate::name::{NameError, PeerName, SCHEME, label};
use crate::verify::dynkv_uri;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How far back a certificate begins, so that a machine whose clock is a little behind accepts a fresh one.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// From when to when a certificate is in force; whole seconds, as X.509 has them.
///
/// The default is two years (730 days) from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    /// From an hour ago (for clocks that are behind) until `days` days from now.
    ///
    /// # Panics
    /// When `days` reaches beyond what the system's clock can express.
    pub fn days(days: u32) -> Validity {
        let now = SystemTime::now();
        Validity { not_before: now - BACKDATED, not_after: now + DAY * days }
    }

    /// From `not_before` to `not_after`, which may both be past or both be still to come.
    pub fn between(not_before: SystemTime, not_after: SystemTime) -> Validity {
        Validity { not_before, not_after }
    }

    /// The first moment at which the certificate is in force.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment at which the certificate is in force.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl Default for Validity {
    fn default() -> Validity {
        Validity::days(2 * 365)
    }
}

/// A certificate and its private key, both as PEM. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (PKCS #8). Whoever has it is this peer: keep it readable for its owner only.
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The authority that issues the certificates of one cluster. `Debug` does not show its key.
pub struct CertificateAuthority {
    cluster: String,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// A new authority for `cluster`, in force for ten years (3650 days).
    ///
    /// # Errors
    /// [`CertsError::Name`] when `cluster` is not 1 to 32 bytes of `[a-z0-9._-]` that begin with a letter or digit,
    /// [`CertsError::Create`] when the system gives no randomness.
    pub fn create(cluster: &str) -> Result<CertificateAuthority, CertsError> {
        CertificateAuthority::create_with(cluster, Validity::days(10 * 365))
    }

    /// A new authority for `cluster`, in force for `validity`.
    ///
    /// # Errors
    /// As [`create`](CertificateAuthority::create), and [`CertsError::Validity`] for a validity X.509 cannot express.
    pub fn create_with(cluster: &str, validity: Validity) -> Result<CertificateAuthority, CertsError> {
        let cluster = label("cluster", cluster)?;
        let key = new_key()?;
        let mut params = parameters(&key, &format!("dynkv {cluster} CA"), &ca_uri(&cluster), validity)?;
        // No authority below this one: who can sign for the cluster is decided here alone.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key).map_err(create_error)?.pem();
        Ok(CertificateAuthority { cluster, cert_pem, issuer: Issuer::new(params, key) })
    }

    /// The authority of these PEM texts, as [`cert_pem`](CertificateAuthority::cert_pem) and
    /// [`key_pem`](CertificateAuthority::key_pem) gave them.
    ///
    /// # Errors
    /// [`CertsError::Read`] when a text is no certificate or key, [`CertsError::NotAnAuthority`] when the certificate
    /// was not made by [`create`](CertificateAuthority::create), [`CertsError::KeyMismatch`] when the key is another's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<CertificateAuthority, CertsError> {
        let read = |what| move |error: String| CertsError::Read { what, reason: error };
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|e| e.to_string())
            .map_err(read("certificate"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| e.to_string())
            .map_err(read("certificate"))?;
        let cluster = dynkv_uri(&parsed)
            .ok()
            .filter(|_| parsed.is_ca())
            .and_then(|uri| cluster_of_ca(&uri))
            .ok_or(CertsError::NotAnAuthority)?;
        let key = KeyPair::from_pem(key_pem).map_err(|e| e.to_string()).map_err(read("private key"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CertsError::KeyMismatch { cluster });
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| e.to_string()).map_err(read("certificate"))?;
        Ok(CertificateAuthority { cluster, cert_pem: cert_pem.to_owned(), issuer })
    }

    /// The authority's own certificate, which every node and client of the cluster holds to recognise the others.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key (PKCS #8 PEM). Whoever has it owns the cluster: keep it off the nodes.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// A new key and a certificate for `name`.
    ///
    /// # Errors
    /// [`CertsError::OtherCluster`] when `name` is of another cluster, [`CertsError::Name`] when it was built with
    /// parts that are no valid names, [`CertsError::Validity`] for a validity X.509 cannot express,
    /// [`CertsError::Create`] when the system gives no randomness.
    pub fn issue(&self, name: &PeerName, validity: Validity) -> Result<Issued, CertsError> {
        let uri = name.to_string();
        // The fields of a name are public: only one that survives its own text may go into a certificate.
        uri.parse::<PeerName>()?;
        if name.cluster() != self.cluster {
            return Err(CertsError::OtherCluster { name: uri, cluster: self.cluster.clone() });
        }
        let (common_name, purposes) = match name {
            PeerName::Node { id, .. } => (
                format!("node {id}"),
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            ),
            PeerName::Client { name, .. } => {
                (format!("client {name}"), vec![ExtendedKeyUsagePurpose::ClientAuth])
            }
        };
        let key = new_key()?;
        let mut params = parameters(&key, &common_name, &uri, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes;
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).map_err(create_error)?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Why a certificate authority could not be made, read or used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertsError {
    /// A name has the wrong form.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name to certify belongs to another cluster.
    #[error("{name} is not of cluster {cluster:?}: issue it with the authority of its own cluster")]
    OtherCluster {
        /// The name.
        name: String,
        /// The authority's cluster.
        cluster: String,
    },
    /// A PEM text could not be read.
    #[error(
        "the authority's {what} cannot be read ({reason}): give the PEM file that was written when the cluster's CA was created"
    )]
    Read {
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The certificate is not that of a cluster's authority.
    #[error(
        "the certificate is not that of a cluster's authority: give the CA's certificate, not that of a node or client"
    )]
    NotAnAuthority,
    /// Certificate and key do not belong together.
    #[error(
        "the private key is not that of the authority of cluster {cluster:?}: give the certificate and the key that were created together"
    )]
    KeyMismatch {
        /// The cluster that the certificate names.
        cluster: String,
    },
    /// A certificate cannot express the validity.
    #[error(
        "a certificate cannot be valid for that time: choose a begin before the end, both between the years 1970 and 9999"
    )]
    Validity,
    /// Making a key or signature failed.
    #[error("cannot create a certificate ({reason}): check that the system's random source works")]
    Create {
        /// What the library said.
        reason: String,
    },
}

/// Ed25519: fast on both sides, and its signatures all have one length, so that a simulated handshake has the same
/// datagrams in each run, as it would not with ECDSA.
fn new_key() -> Result<KeyPair, CertsError> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(create_error)
}

/// A serial number from the key, which is random: no counter to keep. 16 bytes of which the first is neither zero nor
/// negative, so that it has one length in DER, too.
fn serial(key: &KeyPair) -> SerialNumber {
    let mut serial: Vec<u8> = key.public_key_raw().iter().take(16).copied().collect();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    SerialNumber::from(serial)
}

fn create_error(error: rcgen::Error) -> CertsError {
    CertsError::Create { reason: error.to_string() }
}

fn ca_uri(cluster: &str) -> String {
    format!("{SCHEME}{cluster}/ca")
}

fn cluster_of_ca(uri: &str) -> Option<String> {
    let cluster = uri.strip_prefix(SCHEME)?.strip_suffix("/ca")?;
    label("cluster", cluster).ok()
}

/// What all our certificates have in common.
fn parameters(
    key: &KeyPair,
    common_name: &str,
    uri: &str,
    validity: Validity,
) -> Result<CertificateParams, CertsError> {
    // 9999-12-31: the last day X.509 can express, and far below what the date type can.
    const UNIX_SECONDS_MAX: u64 = 253_402_214_400;
    let since_1970 = |time: SystemTime| {
        let seconds =
            time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| CertsError::Validity)?.as_secs();
        if seconds > UNIX_SECONDS_MAX {
            return Err(CertsError::Validity);
        }
        Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds))
    };
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial(key));
    params.not_before = since_1970(validity.not_before)?;
    params.not_after = since_1970(validity.not_after)?;
    if params.not_after <= params.not_before {
        return Err(CertsError::Validity);
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let uri = uri.try_into().map_err(create_error)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Role;

    #[test]
    fn an_authority_survives_its_pem() {
        let ca = CertificateAuthority::create("c1").unwrap();
        let again = CertificateAuthority::from_pem(ca.cert_pem(), &ca.key_pem()).unwrap();
        assert_eq!((again.cluster(), again.cert_pem()), ("c1", ca.cert_pem()));
        let name = PeerName::client("c1", "x", Role::Reader).unwrap();
        let issued = again.issue(&name, Validity::default()).unwrap();
        let identity = crate::Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem).unwrap();
        assert_eq!(identity.name(), &name);
    }

    #[test]
    fn only_an_authority_of_its_own_key_is_read() {
        let ca = CertificateAuthority::create("c1").unwrap();
        let other = CertificateAuthority::create("c1").unwrap();
        let issued =
            ca.issue(&PeerName::node("c1", "n1".parse().unwrap()).unwrap(), Validity::default()).unwrap();
        let error = |cert: &str, key: &str| CertificateAuthority::from_pem(cert, key).unwrap_err();
        assert_eq!(error(ca.cert_pem(), &other.key_pem()), CertsError::KeyMismatch { cluster: "c1".into() });
        assert_eq!(error(&issued.cert_pem, &issued.key_pem), CertsError::NotAnAuthority);
        assert!(matches!(error("", &ca.key_pem()), CertsError::Read { what: "certificate", .. }));
        assert!(matches!(error(ca.cert_pem(), "x"), CertsError::Read { what: "private key", .. }));
    }

    #[test]
    fn issues_only_for_its_cluster_and_valid_names() {
        let ca = CertificateAuthority::create("c1").unwrap();
        let issue = |name: &PeerName, validity| ca.issue(name, validity).unwrap_err();
        let foreign = PeerName::client("c2", "x", Role::Admin).unwrap();
        assert!(matches!(issue(&foreign, Validity::default()), CertsError::OtherCluster { .. }));
        let smuggled =
            PeerName::Client { cluster: "c1".into(), name: "x?role=admin&".into(), role: Role::Reader };
        assert!(matches!(issue(&smuggled, Validity::default()), CertsError::Name(_)));
        let now = SystemTime::now();
        let mine = PeerName::client("c1", "x", Role::Admin).unwrap();
        assert_eq!(issue(&mine, Validity::between(now, now)), CertsError::Validity);
        assert_eq!(issue(&mine, Validity::between(now, now + DAY * 365 * 9000)), CertsError::Validity);
        assert!(CertificateAuthority::create("No Such").is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        let ca = CertificateAuthority::create("c1").unwrap();
        let name = PeerName::client("c1", "x", Role::Reader).unwrap();
        let issued = ca.issue(&name, Validity::default()).unwrap();
        let identity = crate::Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem).unwrap();
        let ca_key = ca.key_pem();
        let shown = format!("{ca:?}{issued:?}{identity:?}");
        for secret in [&ca_key, &issued.key_pem] {
            let line = secret.lines().nth(1).unwrap();
            assert!(!shown.contains(line) && !shown.contains("PRIVATE"));
        }
    }
}
